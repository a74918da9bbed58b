#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

type Fields = &'static [(&'static str, &'static str)];

/// What a formula comes to for fields of an event, as text; the reason where it fails.
fn of(text: &str, event: &[(&str, &str)]) -> String {
    let mut fields: Vec<Field> = Vec::new();
    let formula = Formula::parse(text, &mut |field| {
        fields.push(field);
        fields.len() - 1
    });
    let formula = match formula {
        Ok(formula) => formula,
        Err(fault) => return format!("{}: {}", fault.at, fault.reason),
    };
    let text = |slot: usize| {
        let wanted = fields.get(slot)?;
        let is = |(name, _): &&(&str, &str)| parse::field(name).unwrap() == *wanted;
        event.iter().find(is).map(|(_, text)| Cow::Borrowed(*text))
    };
    match formula.evaluate(&text) {
        Ok(Some((quantity, rounded))) => {
            format!("{quantity}{}", if rounded { " rounded" } else { "" })
        }
        Ok(None) => "nothing".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn numbers_are_exact() {
    let cases: &[(&str, Fields, &str)] = &[
        ("1 + 2 * 3 - 4", &[], "3"),
        ("(1 + 2) * -3", &[], "-9"),
        ("0.1 + 0.2", &[], "0.3"),
        ("1.000000000001 * 1.000000000001", &[], "1.000000000002 rounded"),
        ("999999999999.5 * 2 - 1000000000000 + 0.25", &[], "999999999999.25"),
        ("data.a-data.b", &[("data.a", "5"), ("data.b", "7.5")], "-2.5"),
        ("data.gb * 30", &[("data.gb", "0.1234567890123")], "3.70370367036 rounded"),
        ("divide(1, 3, 4, 'half_even')", &[], "0.3333"),
        ("divide(2, 3, 4, 'down')", &[], "0.6666"),
        ("divide(-1, 3, 2, 'up')", &[], "-0.34"),
        ("divide(1, -8, 2, 'half_even')", &[], "-0.12"),
        ("divide(0.5, 0.25, 0, 'up')", &[], "2"),
        ("round(2.5, 0, 'half_even')", &[], "2"),
        ("round(3.5, 0, 'half_even') + round(1.25, 3, 'up')", &[], "5.25"),
        ("ceil(1.2) + ceil(-1.2) + ceil(2)", &[], "3"),
        ("floor(1.8) + floor(-1.2) + floor(2)", &[], "1"),
        ("abs(-3) + abs(2.5)", &[], "5.5"),
        ("min(3, data.n, 2) + max(data.n, 4)", &[("data.n", "1")], "5"),
        ("-1.5 - -0.25 + - 2.5", &[], "-3.75"),
        ("-0.5 * -data.n - -.5", &[("data.n", "1")], "1"),
        ("1e3 + 2.5E-3", &[], "1000.0025"),
    ];
    for (text, event, wanted) in cases {
        assert_eq!(of(text, event), *wanted, "{text}");
    }
}

#[test]
fn fields_are_those_of_paths() {
    let cases: &[(&str, Fields, &str)] = &[
        ("data.a.b", &[("data.a.b", "4")], "4"),
        ("data['a.b']", &[("data['a.b']", "4")], "4"),
        ("data.list[0].n + 1", &[("data['list']['0'].n", "4")], "5"),
        ("usage.output * 4 + usage.input", &[("usage.output", "10"), ("usage.input", "1")], "41"),
        ("user == 'ann' ? 1 : 2", &[("user", "ann")], "1"),
        // What is missing is needed, unless it is asked for first.
        ("data.a + 1", &[], "nothing"),
        ("has(data.a) ? data.a : 7", &[], "7"),
        ("has(data.a) ? data.a : 7", &[("data.a", "3")], "3"),
        ("has(data.a) && data.a > 2 ? 1 : 0", &[], "0"),
        ("!has(data.a) || data.a > 2 ? 1 : 0", &[], "1"),
        ("data.tier == 'gold' ? 1 : 2", &[], "nothing"),
        ("data.tier in ['gold', \"silver\"] ? 1 : 2", &[("data.tier", "silver")], "1"),
        ("data.tier != 'gold' ? 1 : 2", &[("data.tier", "gold")], "2"),
        ("data.cached == true ? 0 : 1", &[("data.cached", "true")], "0"),
        ("data.n >= 10 && data.n < 20 ? 1 : 2", &[("data.n", "19.999")], "1"),
        ("data.n == 10 ? 1 : 2", &[("data.n", "10.0")], "1"),
        ("data.n * 2", &[("data.n", "ten")], "reads `ten`, which is not a decimal number"),
        ("divide(1, data.n, 2, 'up')", &[("data.n", "0.0")], "divides by zero"),
        ("data.n * data.n", &[("data.n", "100000000")], "has a number that is not below its limit"),
        ("data.n", &[("data.n", "1e15")], "has a number that is not below its limit"),
    ];
    for (text, event, wanted) in cases {
        assert_eq!(of(text, event), *wanted, "{text}");
    }
}

#[test]
fn what_is_not_clear_is_refused_with_its_place() {
    for (text, wanted) in [
        ("data.a / 2", "8: a division says how it is rounded"),
        ("1 + data.a % 2", "12: there is no `%`"),
        ("data.a == data.b ? 1 : 2", "whether numbers or texts"),
        ("1 + amount", "5: it is no field"),
        ("data", "1: it is no field"),
        ("usage.cached", "6: there is no class of usage"),
        ("data[data.n]", "5: it is no field"),
        ("1 + 'two'", "5: a number is wanted"),
        ("1 > 2", "`_>_` with 2 parts is no number"),
        ("data.a ? 1 : 2", "a condition is wanted"),
        ("size(data.a)", "`size` with 1 parts is no number"),
        ("data.list.map(x, x * 2)", "a number is wanted"),
        ("divide(1, 2, 13, 'up')", "14: the decimals that are kept"),
        ("divide(1, 2, 2, 'nearest')", "17: the rounding is"),
        ("0.1234567890123", "1: a number has at most 12 decimals"),
        ("99999999999999999999", "1: "),
        ("data.tier in data.tiers ? 1 : 2", "a list of texts is wanted"),
        ("data.tier in [] ? 1 : 2", "a list of texts is wanted"),
        ("1 +", "Syntax error"),
        ("", "Syntax error"),
        ("a b", "Syntax error"),
    ] {
        let found = of(text, &[]);
        assert!(found.contains(wanted), "{text}: {found}");
    }
    for (text, wanted) in [
        (format!("{}1{}", "(".repeat(100), ")".repeat(100)), ""),
        (vec!["1"; 150].join("+"), "200 parts"),
        (" ".repeat(1_001), "1000 bytes"),
    ] {
        let found = of(&text, &[]);
        assert!(found.contains(wanted) && found.contains(": "), "{text}: {found}");
    }
}

#[test]
fn samples_are_tried() {
    let formula = "has(data.gb) ? data.gb * 2 : usage.input";
    let fails = |given: serde_json::Value, comes_to: Option<&str>| {
        let given = serde_json::from_value(given).unwrap();
        fails(formula, &Sample { given, comes_to: comes_to.map(str::to_owned) })
    };
    assert_eq!(fails(json!({"data.gb": 2.5}), Some("5")), None);
    assert_eq!(fails(json!({"data.gb": "2.5"}), Some("5.0")), None);
    assert_eq!(fails(json!({"usage.input": 7}), Some("7")), None);
    assert_eq!(fails(json!({}), None), None);
    let wrong = fails(json!({"data.gb": 2}), Some("5")).unwrap();
    assert_eq!(wrong, "the formula comes to 4, not to 5");
    let wrong = fails(json!({}), Some("5")).unwrap();
    assert!(wrong.contains("for want of a field"), "{wrong}");
    let wrong = fails(json!({"data.tb": 2}), Some("5")).unwrap();
    assert_eq!(wrong, "the formula has no field `data.tb`");
    assert!(fails(json!({"data.gb": [1]}), Some("5")).is_some());
    assert!(fails(json!({"data.gb": "x"}), Some("5")).unwrap().contains("not a decimal number"));
    assert!(fails(json!({"data.gb": 1}), Some("two")).unwrap().contains("comes_to"));
}

proptest! {
    /// Sums, differences and products of numbers with few decimals are those of whole numbers.
    #[test]
    fn arithmetic_is_that_of_whole_numbers(a in -9_999_999_i64..9_999_999, b in -9_999_999_i64..9_999_999, c in 1_i64..9_999) {
        let text = |number: i64| format!("{}{}.{:03}", if number < 0 { "-" } else { "" }, number.abs() / 1_000, number.abs() % 1_000);
        let event = [("data.a", text(a)), ("data.b", text(b)), ("data.c", text(c))];
        let event: Vec<(&str, &str)> = event.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let wanted = Quantity::from_raw(i128::from(a * b - c * a) * 1_000_000 + i128::from(b) * 1_000_000_000).unwrap();
        prop_assert_eq!(of("data.a * data.b - data.c * data.a + data.b", &event), wanted.to_string());
        // A quotient, multiplied again, is at most a unit of its last decimal times the divisor away.
        let quotient = of("divide(data.a, data.c, 6, 'down') * data.c - data.a", &event);
        let (away, _) = Quantity::parse(quotient.trim_end_matches(" rounded")).unwrap();
        prop_assert!(away.raw().abs() <= i128::from(c) * 1_000, "{away}");
        let whole = |name: &str| Quantity::parse(&of(&format!("{name}(data.a)"), &event)).unwrap().0.raw();
        let own = i128::from(a) * 1_000_000_000;
        prop_assert!(whole("floor") <= own && own <= whole("ceil") && whole("ceil") - whole("floor") <= 1_000_000_000_000);
    }

    /// Whatever text stands there, it is read or refused.
    #[test]
    fn no_text_breaks_the_parser(text in "[a-z0-9 .,'()\\[\\]{}+*/<>=!?:&|-]{0,60}") {
        let _ = of(&text, &[("data.a", "1")]);
    }
}
