//! Rows and documents that are refused, and why.

use domain::{
    catalog::{Catalog, CatalogDocument, Fault},
    period::PeriodKind,
    rate_card::{Rate, RateRow},
};
use serde_json::{Value, json};

use super::{rate, row, terms};

/// Checks that the reason of a row says this.
fn check(json: &str, says: &str) {
    let reason = row(json).rate().unwrap_err();
    assert!(reason.contains(says), "{json}: `{reason}` and not `{says}`");
}

#[test]
fn fields_that_a_model_does_not_use() {
    let tiers = r#""tiers": [{"price": "1"}]"#;
    let percents = r#""tiers": [{"percent": "1"}]"#;
    // What a model needs, and what of the others it takes.
    let models = [
        ("per_unit", r#""price": "1""#, "price per included fee minimum maximum unit windows"),
        (
            "package",
            r#""price": "1""#,
            "price per blocks included minimum maximum unit period total",
        ),
        ("graduated", tiers, "tiers per included fee minimum maximum unit period total"),
        ("volume", tiers, "tiers per included minimum maximum unit period total"),
        ("flat", r#""price": "1""#, "price period total"),
        ("percentage", r#""percent": "1""#, "percent included fee minimum maximum unit"),
        ("graduated_percentage", percents, "tiers included fee minimum maximum unit period total"),
        ("cost_plus", r#""factor": "1""#, "factor fee"),
    ];
    let fields = [
        ("price", r#""1""#),
        ("per", "2"),
        ("included", r#""1""#),
        ("blocks", r#""up""#),
        ("tiers", r#"[{"price": "1"}]"#),
        ("percent", r#""1""#),
        ("factor", r#""1""#),
        ("fee", r#""1""#),
        ("minimum", r#""1""#),
        ("maximum", r#""1""#),
        ("unit", r#"{"divide_by": "2"}"#),
        ("windows", r#"[{"from": "01:00", "to": "02:00", "price": "1"}]"#),
        ("period", r#""day""#),
        ("total", r#""row""#),
    ];
    for (model, needs, takes) in models {
        rate(&row(&format!(r#"{{"model": "{model}", {needs}}}"#)));
        for (name, value) in fields.iter().filter(|(name, _)| !needs.contains(name)) {
            let json = format!(r#"{{"model": "{model}", {needs}, "{name}": {value}}}"#);
            if takes.split(' ').any(|taken| taken == *name) {
                rate(&row(&json));
            } else {
                check(&json, &format!("`{name}`"));
            }
        }
    }
    for (name, value) in fields.iter().filter(|(name, _)| *name != "per") {
        check(&format!(r#"{{"unlimited": true, "{name}": {value}}}"#), "`unlimited`");
    }
    check(r#"{"unlimited": true, "model": "flat"}"#, "`model`");
    assert_eq!(rate(&row(r#"{"unlimited": true, "per": 1000}"#)), Rate::Unlimited);
}

#[test]
fn what_a_model_needs() {
    check("{}", "neither");
    check(r#"{"model": "package"}"#, "neither a price");
    check(r#"{"model": "flat"}"#, "neither a price");
    check(r#"{"model": "graduated"}"#, "it has 0 tiers");
    check(r#"{"model": "volume"}"#, "it has 0 tiers");
    check(r#"{"model": "percentage"}"#, "`percent` is missing");
    check(r#"{"model": "cost_plus"}"#, "`factor` is missing");
}

#[test]
fn tiers_that_do_not_ascend() {
    let tiers = |tiers: &str| format!(r#"{{"model": "graduated", "tiers": [{tiers}]}}"#);
    let bad = |list: &str, says: &str| check(&tiers(list), says);
    bad(
        r#"{"up_to": "5", "price": "1"}, {"up_to": "5", "price": "1"}, {"price": "1"}"#,
        "tier 2 of 3: its `up_to` is 5; it must be above 5",
    );
    bad(
        r#"{"up_to": "0", "price": "1"}, {"price": "1"}"#,
        "tier 1 of 2: its `up_to` is 0; it must be above 0",
    );
    bad(r#"{"up_to": "-5", "price": "1"}, {"price": "1"}"#, "negative");
    bad(r#"{"up_to": "5", "price": "1"}"#, "the last tier has no `up_to`");
    bad(r#"{"price": "1"}, {"price": "1"}"#, "tier 1 of 2: its `up_to` is missing");
    bad(r#"{"price": "-1"}"#, "the price `-1` is negative");
    bad(r#"{"flat": "1"}"#, "`price` is missing");
    bad(r#"{"percent": "1"}"#, "has `price` in place of `percent`");
    bad(r#"{"price": "1", "flat": "x"}"#, "the flat amount `x` is not a decimal number");
    check(
        r#"{"model": "graduated_percentage", "tiers": [{"price": "1"}]}"#,
        "has `percent` in place of `price`",
    );
    check(
        r#"{"model": "graduated_percentage", "tiers": [{"percent": "1000.1"}]}"#,
        "more than 1000",
    );
    let many = |count: usize| {
        let list: Vec<String> =
            (1..count).map(|end| format!(r#"{{"up_to": "{end}", "price": "1"}}"#)).collect();
        tiers(&[list, vec![r#"{"price": "1"}"#.to_owned()]].concat().join(","))
    };
    rate(&row(&many(100)));
    check(&many(101), "it has 101 tiers; it needs 1 to 100");
}

#[test]
fn numbers_beyond_their_limits() {
    for name in ["included", "fee", "minimum", "maximum"] {
        check(&format!(r#"{{"price": "1", "{name}": "-1"}}"#), "negative");
        check(&format!(r#"{{"price": "1", "{name}": "1e20"}}"#), "below 10^20");
        check(&format!(r#"{{"price": "1", "{name}": "0.0000000000001"}}"#), "12 decimals");
    }
    check(
        r#"{"price": "1", "minimum": "2", "maximum": "1.99"}"#,
        "the minimum 2 is more than the maximum 1.99",
    );
    rate(&row(r#"{"price": "1", "minimum": "2", "maximum": "2"}"#));
    check(r#"{"model": "percentage", "percent": "-1"}"#, "negative");
    check(r#"{"model": "percentage", "percent": "1000.000000000001"}"#, "more than 1000");
    rate(&row(r#"{"model": "percentage", "percent": "1000"}"#));
    for factor in ["0", "1000.5"] {
        let json = format!(r#"{{"model": "cost_plus", "factor": "{factor}"}}"#);
        check(&json, "must be above 0 and at most 1000");
    }
    check(r#"{"model": "cost_plus", "factor": "-1"}"#, "negative");
    check(r#"{"price": "1", "unit": {"divide_by": "0"}}"#, "it must be above 0");
    check(r#"{"price": "1", "unit": {"divide_by": "-2"}}"#, "negative");
    check(r#"{"price": "1", "unit": {"divide_by": "2", "decimals": 13}}"#, "at most 12");
}

#[test]
fn windows_that_cannot_be() {
    let window = |window: &str| format!(r#"{{"price": "1", "windows": [{{{window}}}]}}"#);
    let bad = |from: &str, to: &str, says: &str| {
        check(&window(&format!(r#""from": "{from}", "to": "{to}", "price": "1""#)), says);
    };
    bad("08:00", "08:00", "window 1 of 1: it begins and ends at 08:00");
    bad("00:00", "24:01", "its `to` is `24:01`; a time is 00:00 to 24:00");
    bad("24:00", "08:00", "write 00:00");
    for time in ["8:00", "08:60", "0800", "08:0", "+8:00", "", "99:99", "08:00:00"] {
        bad(time, "10:00", "its `from`");
    }
    let days = |days: &str| {
        window(&format!(r#""days": {days}, "from": "01:00", "to": "02:00", "price": "1""#))
    };
    check(&days("[]"), "its `days` are empty");
    check(&days(r#"["monday"]"#), "`monday` is no day; days are mon, tue");
    check(&window(r#""from": "01:00", "to": "02:00", "price": "-1""#), "negative");
    let many = |count: usize| {
        let one = r#"{"from": "01:00", "to": "02:00", "price": "1"}"#;
        format!(r#"{{"price": "1", "windows": [{}]}}"#, vec![one; count].join(","))
    };
    rate(&row(&many(20)));
    check(&many(21), "it has 21 windows; at most 20");
    let bounded = days("null").replacen('{', r#"{"maximum": "5", "#, 1);
    check(&bounded, "`windows` do not go with `minimum` or `maximum`");
}

#[test]
fn nothing_counts_and_still_a_period() {
    for name in [r#""period": "day""#, r#""total": "row""#, r#""total": "meter""#] {
        check(&format!(r#"{{"price": "1", {name}}}"#), "nothing in this row counts");
        check(&format!(r#"{{"price": "1", "fee": "1", {name}}}"#), "nothing in this row counts");
        rate(&row(&format!(r#"{{"price": "1", "included": "1", {name}}}"#)));
    }
}

#[test]
fn a_plain_row_is_a_plain_price_and_its_text_is_as_it_was() {
    assert!(matches!(rate(&row(r#"{"price": "1", "model": "per_unit"}"#)), Rate::Price(_)));
    let plain = r#"{"meter":"m","price":"1","per":1000}"#;
    let read: RateRow = serde_json::from_str(plain).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), plain);
    let full = json!({
        "meter": "m", "model": "graduated", "per": 2, "included": "1", "fee": "0.1", "minimum": "1", "maximum": "9",
        "tiers": [{"up_to": "5", "price": "1", "flat": "2"}, {"price": "0"}], "period": "quarter", "total": "row",
        "unit": {"divide_by": "2", "decimals": 0, "round": "half_even", "each": "period"}
    });
    let read: RateRow = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), full);
    rate(&read);
    assert!(
        serde_json::from_value::<RateRow>(json!({"meter": "m", "price": "1", "tires": []}))
            .is_err()
    );
}

#[test]
fn a_total_of_its_own_is_named_by_the_dimensions() {
    let counting = |dimensions: Value, total: &str| {
        let mut row = row(r#"{"model": "flat", "price": "1", "period": "week"}"#);
        row.dimensions = serde_json::from_value(dimensions).unwrap();
        row.total = serde_json::from_value(total.into()).unwrap();
        let counting = terms(&row).counting().unwrap().clone();
        assert_eq!(counting.period, PeriodKind::Week);
        assert_eq!(counting.own, total == "row");
        counting.scope.to_string()
    };
    assert_eq!(counting(json!({"region": "eu", "model": "gpt-4"}), "row"), "model=gpt-4,region=eu");
    assert_eq!(counting(json!({"model": r"a=b,c\d"}), "row"), r"model=a\=b\,c\\d");
    assert_eq!(counting(json!({}), "row"), "*");
    assert_eq!(counting(json!({"model": "gpt-4"}), "meter"), "");
}

/// A catalog with a meter `m` and cards of these rows; the cost card is in dollars.
fn document(rows: Value, costs: Value) -> CatalogDocument {
    let card = |key, kind, currency, rows: Value| {
        json!({"key": key, "kind": kind, "currency": currency,
               "versions": [{"version": 1, "effective_from_us": 0, "rates": rows}]})
    };
    serde_json::from_value(json!({
        "meters": [{"key": "m", "event_types": ["e"], "aggregation": "count", "dimensions": {"d": "$.d"}},
                   {"key": "n", "event_types": ["e"], "aggregation": "count"}],
        "cards": [card("plan", "rate", "USD", rows), card("cost", "cost", "USD", costs)],
        "default_rate_card": "plan", "default_cost_card": "cost"
    }))
    .unwrap()
}

/// Rows of the meter `m`, told apart by their dimension.
fn rows(rows: &[&str]) -> Value {
    let numbered = rows.iter().enumerate();
    numbered
        .map(|(number, json)| {
            let mut row = row(json);
            row.dimensions.insert("d".into(), number.to_string());
            serde_json::to_value(row).unwrap()
        })
        .collect()
}

fn compiled(list: &[&str]) -> Result<Catalog, Vec<Fault>> {
    document(rows(list), json!([])).compile()
}

/// Checks the one fault of rows: at which of them and what it says.
fn check_together(list: &[&str], index: usize, says: &str) {
    let faults = compiled(list).unwrap_err();
    let place = format!("cards[plan].versions[1].rates[{index}]");
    let found: Vec<&Fault> = faults.iter().filter(|fault| fault.place == place).collect();
    let [fault] = found.as_slice() else { panic!("{list:?}: {faults:?}") };
    assert!(fault.reason.contains(says), "{fault:?}");
}

const DAILY: &str = r#"{"price": "1", "included": "5", "period": "day"}"#;
const MONTHLY: &str = r#"{"price": "1", "included": "5"}"#;
const TIERS: &str = r#"{"model": "graduated", "tiers": [{"price": "1"}]}"#;
const FEE: &str = r#"{"price": "1", "fee": "1"}"#;

#[test]
fn rows_that_share_a_total_agree() {
    check_together(&[MONTHLY, FEE, DAILY], 2, "its period is `day` and that of rates[0] `month`");
    let converted = r#"{"price": "1", "included": "5", "unit": {"divide_by": "2"}}"#;
    check_together(&[MONTHLY, converted], 1, "its `unit` is not that of rates[0]");
    let own = r#"{"price": "1", "included": "5", "period": "day", "unit": {"divide_by": "2"}, "total": "row"}"#;
    let plain = r#"{"price": "1"}"#;
    let catalog = compiled(&[MONTHLY, TIERS, FEE, own, plain]).unwrap();
    assert!(catalog.counts);
    assert!(!compiled(&[FEE, plain]).unwrap().counts);
    // Rows of another meter are no concern of these.
    let mut other = rows(&[MONTHLY]);
    other
        .as_array_mut()
        .unwrap()
        .push(json!({"meter": "n", "price": "1", "included": "5", "period": "day"}));
    assert_eq!(document(other, json!([])).faults(), []);
}

#[test]
fn what_holds_for_a_whole_total_has_it_for_itself() {
    let whole = [
        (r#""model": "volume", "tiers": [{"price": "1"}]"#, "the model `volume`"),
        (r#""model": "flat", "price": "1""#, "the model `flat`"),
        (r#""model": "package", "price": "1""#, "the model `package`"),
        (r#""price": "1", "minimum": "1""#, "`minimum`"),
        (r#""price": "1", "maximum": "1""#, "`maximum`"),
    ];
    for (fields, says) in whole {
        let (shared, own) = (format!("{{{fields}}}"), format!(r#"{{{fields}, "total": "row"}}"#));
        check_together(&[TIERS, &shared], 1, says);
        check_together(&[&shared, TIERS], 0, says);
        assert!(compiled(&[&shared, FEE]).is_ok(), "the only one that counts");
        assert!(compiled(&[&own, TIERS, &own]).is_ok(), "it has its own");
    }
    let by_period = r#"{"price": "1", "unit": {"divide_by": "2", "each": "period"}}"#;
    check_together(&[by_period, by_period], 0, "a `unit` of each period");
    assert!(compiled(&[by_period, FEE]).is_ok());
}

#[test]
fn a_cost_card_has_plain_prices() {
    let plain = json!([{"meter": "m", "price": "1", "per": 10}, {"meter": "n", "unlimited": true}]);
    assert_eq!(document(json!([]), plain).faults(), []);
    let faults = document(json!([]), rows(&[TIERS, FEE])).faults();
    let said: Vec<(&str, &str)> =
        faults.iter().map(|fault| (fault.place.as_str(), fault.reason.as_str())).collect();
    let says = |names| format!("a cost card has plain prices only; leave out `{names}`");
    assert_eq!(
        said,
        [
            ("cards[cost].versions[1].rates[0]", says("model`, `tiers").as_str()),
            ("cards[cost].versions[1].rates[1]", says("fee").as_str()),
        ]
    );
}

#[test]
fn cost_plus_follows_a_cost_card_of_its_currency() {
    let cost_plus = rows(&[r#"{"model": "cost_plus", "factor": "1.2"}"#]);
    let good = document(cost_plus, json!([]));
    assert!(!good.compile().unwrap().counts);
    let check = |document: CatalogDocument, says: &str| {
        let faults = document.faults();
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!(fault.place, "cards[plan].versions[1].rates[0]");
        assert!(fault.reason.contains(says), "{fault:?}");
    };
    check(CatalogDocument { default_cost_card: None, ..good.clone() }, "there is none");
    let mut other = good;
    other.cards[1].currency = "EUR".into();
    check(other, "which is in EUR and this card in USD");
}

#[test]
fn a_catalog_is_in_a_zone() {
    let zoned = |zone: Option<&str>| CatalogDocument {
        zone: zone.map(Into::into),
        ..CatalogDocument::default()
    };
    assert_eq!(&*zoned(None).compile().unwrap().zones.own().name, "UTC");
    let berlin = zoned(Some("europe/berlin")).compile().unwrap();
    assert_eq!(&*berlin.zones.own().name, "Europe/Berlin");
    assert_eq!(berlin.zones.own().time_zone.iana_name(), Some("Europe/Berlin"));
    let faults = zoned(Some("Europe/Atlantis")).faults();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.place, "zone");
    assert!(fault.reason.contains("`Europe/Atlantis`"), "{fault:?}");
    assert!(!serde_json::to_string(&zoned(None)).unwrap().contains("zone"));
}
