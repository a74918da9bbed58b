//! Every limit of a catalog, one below it, at it and one above it; and which currencies a card may
//! be in.

use std::collections::BTreeMap;

use super::*;
use crate::{
    formula::Sample,
    meter::Paths,
    rate_card::{CardVersion, RateRow},
};

/// A meter that counts one event type of its own.
fn meter(key: impl Into<String>) -> MeterDefinition {
    let key = key.into();
    MeterDefinition {
        event_types: vec![format!("type-{key}")],
        key,
        aggregation: Aggregation::Count,
        value: None,
        unit: String::new(),
        filters: Vec::new(),
        dimensions: BTreeMap::new(),
        allow_negative: false,
        period: None,
        held_for: None,
        changes: false,
        formula: None,
        samples: Vec::new(),
    }
}

fn meters(count: usize) -> Vec<MeterDefinition> {
    (0..count).map(|number| meter(number.to_string())).collect()
}

fn row(meter: &str) -> RateRow {
    RateRow { meter: meter.into(), price: Some("1".into()), ..RateRow::default() }
}

fn card(key: &str, currency: &str, versions: Vec<Vec<RateRow>>) -> Card {
    let versions = (1..).zip(versions);
    let versions = versions
        .map(|(version, rates)| CardVersion { version, effective_from_us: 0, rates })
        .collect();
    Card {
        key: key.into(),
        kind: CardKind::Rate,
        currency: currency.into(),
        versions,
        archived: false,
    }
}

fn with_meters(meters: Vec<MeterDefinition>) -> CatalogDocument {
    CatalogDocument { meters, ..CatalogDocument::default() }
}

/// Checks documents around a limit: one more than it has one fault, which names place and limit.
fn check(limit: usize, place: &str, document: impl Fn(usize) -> CatalogDocument) {
    for size in [limit - 1, limit] {
        assert_eq!(document(size).faults(), [], "{place} at {size} of {limit}");
    }
    let faults = document(limit + 1).faults();
    let [fault] = faults.as_slice() else { panic!("one fault of {place}: {faults:?}") };
    assert_eq!(fault.place, place);
    assert!(fault.reason.contains(&limit.to_string()), "{fault:?}");
}

#[test]
fn meters_of_a_catalog() {
    check(METERS_MAX, "meters", |count| with_meters(meters(count)));
}

#[test]
fn meters_that_look_at_one_event_type() {
    check(METERS_PER_TYPE_MAX, "meters", |count| {
        let mut meters = meters(count);
        meters.iter_mut().for_each(|meter| meter.event_types.push("all".into()));
        with_meters(meters)
    });
}

#[test]
fn dimensions_of_a_meter() {
    check(DIMENSIONS_MAX, "meters[m].dimensions", |count| {
        let mut meter = meter("m");
        let dimension = |number| (format!("d{number}"), Paths::One(format!("$.d{number}")));
        meter.dimensions = (0..count).map(dimension).collect();
        with_meters(vec![meter])
    });
}

#[test]
fn rows_of_all_card_versions_together() {
    // Two cards share them, one in two versions.
    check(ROWS_MAX, "cards", |count| {
        let mut own = meter("m");
        own.dimensions.insert("model".into(), Paths::One("$.model".into()));
        let rows: Vec<RateRow> = (0..count)
            .map(|number| RateRow {
                dimensions: [("model".into(), number.to_string())].into(),
                ..row("m")
            })
            .collect();
        let (first, rest) = rows.split_at(count / 2);
        let (second, third) = rest.split_at(count / 4);
        CatalogDocument {
            meters: vec![own],
            cards: vec![
                card("one", "USD", vec![first.to_vec(), second.to_vec()]),
                card("two", "EUR", vec![third.to_vec()]),
            ],
            ..CatalogDocument::default()
        }
    });
}

#[test]
fn bytes_of_a_key() {
    let key = |length| "k".repeat(length);
    let long = key(KEY_BYTES_MAX + 1);
    check(KEY_BYTES_MAX, &format!("meters[{long}]"), |length| {
        with_meters(vec![meter(key(length))])
    });
    check(KEY_BYTES_MAX, &format!("meters[m].dimensions[{long}]"), |length| {
        let mut meter = meter("m");
        meter.dimensions.insert(key(length), Paths::One("$.d".into()));
        with_meters(vec![meter])
    });
    check(KEY_BYTES_MAX, &format!("cards[{long}]"), |length| CatalogDocument {
        cards: vec![card(&key(length), "USD", Vec::new())],
        ..CatalogDocument::default()
    });
    check(KEY_BYTES_MAX, &format!("credit_units[{long}]"), |length| CatalogDocument {
        credit_units: vec![CreditUnit { key: key(length), value: None }],
        ..CatalogDocument::default()
    });
    assert!(is_key("k") && !is_key(""));
}

#[test]
fn a_card_is_in_a_currency_or_in_a_credit_unit_of_the_catalog() {
    let document = |currency: &str| CatalogDocument {
        meters: vec![meter("m")],
        credit_units: vec![CreditUnit { key: "ai-credits".into(), value: None }],
        cards: vec![card("plan", currency, vec![vec![row("m")]])],
        default_rate_card: Some("plan".into()),
        ..CatalogDocument::default()
    };
    for currency in ["USD", "EUR", "ai-credits"] {
        let catalog = document(currency).compile().unwrap();
        assert_eq!(&*catalog.card_versions[0].currency, currency);
    }
    for currency in ["usd", "US", "USDT", "", "credits", "AI-CREDITS"] {
        let faults = document(currency).faults();
        let [fault] = faults.as_slice() else { panic!("one fault of {currency:?}: {faults:?}") };
        assert_eq!(fault.place, "cards[plan].currency");
    }
}

#[test]
fn an_archived_card_is_no_default_card_and_no_offer_names_it() {
    let offer: Offer =
        serde_json::from_str(r#"{"key": "vip", "source": "team", "card": "old"}"#).unwrap();
    let document = |archived: bool| CatalogDocument {
        meters: vec![meter("m")],
        cards: vec![Card { archived, ..card("old", "USD", vec![vec![row("m")]]) }],
        ..CatalogDocument::default()
    };
    assert_eq!(document(true).faults(), [], "it may be there");
    for (archived, count) in [(false, 0), (true, 1)] {
        let default =
            CatalogDocument { default_rate_card: Some("old".into()), ..document(archived) };
        let offered = CatalogDocument { offers: vec![offer.clone()], ..document(archived) };
        for (document, place) in [(default, "default_rate_card"), (offered, "offers[vip].card")] {
            let faults = document.faults();
            assert_eq!(faults.len(), count, "{faults:?}");
            for fault in faults {
                assert_eq!(fault.place, place);
                assert!(fault.reason.contains("is archived"), "{fault:?}");
            }
        }
    }
}

#[test]
fn a_card_that_is_in_use_is_written_as_before() {
    let mut document = CatalogDocument {
        cards: vec![card("plan", "USD", Vec::new())],
        ..CatalogDocument::default()
    };
    let text = serde_json::to_string(&document).unwrap();
    let before = r#"{"meters":[],"credit_units":[],"cards":[{"key":"plan","kind":"rate","currency":"USD","versions":[]}]}"#;
    assert_eq!(text, before);
    document.cards[0].archived = true;
    let text = serde_json::to_string(&document).unwrap();
    assert!(text.contains(r#""archived":true"#), "{text}");
    assert_eq!(serde_json::from_str::<CatalogDocument>(&text).unwrap(), document);
}

#[test]
fn an_event_type_is_named_once_by_a_meter() {
    let types = |names: &[&str]| {
        let event_types = names.iter().map(|name| (*name).to_owned()).collect();
        with_meters(vec![MeterDefinition { event_types, ..meter("words") }]).faults()
    };
    assert_eq!(types(&["one", "two"]), []);
    let faults = types(&["one", "two", "one"]);
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.place, "meters[words].event_types");
    assert!(fault.reason.contains("`one` is there twice"), "{fault:?}");
}

#[test]
fn a_formula_stands_in_place_of_a_value_and_is_tried() {
    let formula = |text: &str| MeterDefinition {
        aggregation: Aggregation::Sum,
        formula: Some(text.into()),
        ..meter("m")
    };
    let sample = |given: &str, comes_to: &str| Sample {
        given: serde_json::from_str(given).unwrap(),
        comes_to: Some(comes_to.into()),
    };
    let faults = |meter: MeterDefinition| -> Vec<(String, String)> {
        let faults = with_meters(vec![meter]).faults();
        faults.into_iter().map(|fault| (fault.place, fault.reason)).collect()
    };
    let one = |meter: MeterDefinition, place: &str, reason: &str| {
        let found = faults(meter);
        let [(found_place, found_reason)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(found_place, place);
        assert!(found_reason.contains(reason), "{found_reason}");
    };
    let samples = vec![sample(r#"{"data.n": "0.5"}"#, "1")];
    assert_eq!(faults(MeterDefinition { samples: samples.clone(), ..formula("data.n * 2") }), []);
    let period = Some(PeriodKind::Month);
    for aggregation in [Aggregation::Max, Aggregation::Average, Aggregation::Latest] {
        assert_eq!(faults(MeterDefinition { aggregation, period, ..formula("data.n * 2") }), []);
    }
    for aggregation in [Aggregation::Count, Aggregation::Unique] {
        let period = period.filter(|_| !aggregation.adds_up());
        let meter = MeterDefinition { aggregation, period, ..formula("data.n") };
        one(meter, "meters[m].formula", "has no number");
    }
    one(formula("data.n / 2"), "meters[m].formula", "at character 8: a division says");
    let value = Some(Paths::One("$.n".into()));
    one(MeterDefinition { value, ..formula("data.n") }, "meters[m].formula", "leave one out");
    let samples = |samples: Vec<Sample>, text: &str| MeterDefinition { samples, ..formula(text) };
    one(
        samples(
            vec![sample(r#"{"data.n": 1}"#, "2"), sample(r#"{"data.n": 2}"#, "3")],
            "data.n * 2",
        ),
        "meters[m].samples[1]",
        "comes to 4, not to 3",
    );
    let many = vec![sample(r#"{"data.n": 1}"#, "1"); SAMPLES_MAX + 1];
    one(samples(many, "data.n"), "meters[m].samples", "at most 20");
    let without = MeterDefinition { samples: vec![sample("{}", "1")], ..meter("m") };
    one(without, "meters[m].samples", "no formula");
}
