//! Worked examples of rating, small enough to check by hand.

use super::*;
use crate::{
    catalog::CatalogDocument,
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        record::{Entry, Quote},
    },
};

const DAY_US: i64 = 86_400_000_000;

fn catalog() -> CatalogDocument {
    serde_json::from_str(
        r#"{
        "meters": [
            {"key": "tokens", "event_types": ["llm"], "aggregation": "sum", "value": ["$.tokens", "$.usage.total"],
             "unit": "token", "dimensions": {"model": "$.model"}},
            {"key": "calls", "event_types": ["llm"], "aggregation": "count",
             "filters": [{"field": "$.status", "not_in": ["error"]}]},
            {"key": "refunds", "event_types": ["refund"], "aggregation": "sum", "value": "$.amount", "allow_negative": true},
            {"key": "input", "event_types": ["usage"], "aggregation": "sum", "value": ["usage.input", "$.inputTokens"],
             "dimensions": {"context": "usage.context"}},
            {"key": "cached", "event_types": ["usage"], "aggregation": "sum", "value": "usage.cache_read"}
        ],
        "cards": [
            {"key": "standard", "kind": "rate", "currency": "USD", "versions": [
                {"version": 1, "effective_from_us": 0, "rates": [
                    {"meter": "tokens", "dimensions": {"model": "big"}, "price": "0.01", "per": 3},
                    {"meter": "tokens", "dimensions": {"model": "free"}, "price": "0"},
                    {"meter": "calls", "unlimited": true}]},
                {"version": 2, "effective_from_us": 86400000000, "rates": [
                    {"meter": "tokens", "price": "5", "per": 1000000}]}]},
            {"key": "provider", "kind": "cost", "currency": "USD", "versions": [
                {"version": 1, "effective_from_us": 0, "rates": [
                    {"meter": "tokens", "dimensions": {"model": "big"}, "price": "0.002"},
                    {"meter": "input", "price": "1", "per": 1000000},
                    {"meter": "input", "dimensions": {"context": "200000"}, "price": "2", "per": 1000000}]}]}
        ],
        "default_rate_card": "standard", "default_cost_card": "provider"
    }"#,
    )
    .unwrap()
}

/// Rates one event; `pairs` are pointers and JSON scalars of its data.
fn rated(
    event_type: &str,
    pairs: &[(&str, &str)],
    time_us: i64,
    change: impl Fn(&mut EventRecord<'_>),
) -> String {
    let mut writer = BlockWriter::default();
    let mut raw = String::new();
    let mut attributes = Vec::new();
    for (pointer, scalar) in pairs {
        let (kind, text) = match scalar.strip_prefix('"') {
            Some(rest) => (
                if rest.contains('\\') { AttributeKind::EscapedText } else { AttributeKind::Text },
                rest.trim_end_matches('"'),
            ),
            None if *scalar == "null" => (AttributeKind::Null, *scalar),
            None => (AttributeKind::Number, *scalar),
        };
        let (offset, length) = (raw.len() as u32, text.len() as u32);
        attributes.push(Attribute {
            pointer: writer.dictionary.intern(pointer),
            kind,
            offset,
            length,
        });
        raw.push_str(text);
    }
    let mut event = EventRecord {
        tenant: writer.tenant(uuid::Uuid::from_u128(1)),
        team: writer.dictionary.intern("team"),
        subject: writer.dictionary.intern("team"),
        source: writer.dictionary.intern("source"),
        event_type: writer.dictionary.intern(event_type),
        user: None,
        app: None,
        key: None,
        feature: None,
        id: "1",
        identity: 1,
        content: 1,
        time_us: Some(time_us),
        hold: None,
        hold_end: false,
        quote: None,
        attributes,
        raw: raw.as_bytes(),
    };
    change(&mut event);
    writer.push(&Entry::Event(event));
    let message = writer.finish();
    let header = BlockHeader::decode(&message).unwrap();
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let [Entry::Event(event)] = block.entries.as_slice() else { panic!("one event") };
    let catalog = catalog().compile().unwrap();
    let binding = Binding::new(&catalog, &block.dictionary);
    let rating = Rating {
        catalog: &catalog,
        binding: &binding,
        dictionary: &block.dictionary,
        time_us,
        append_time_us: 2 * DAY_US,
    };
    let mut lines = Vec::new();
    match rate(&rating, event, &mut Scratch::default(), &mut lines) {
        Err(rejection) => format!("rejected {}", rejection.reason),
        Ok(outcome) => {
            let lines: Vec<String> = lines
                .iter()
                .map(|line| {
                    let charge = match line.charge {
                        Charge::Priced { amount, card_version } => format!(
                            "{amount} by v{}",
                            catalog.card_versions[card_version as usize].version
                        ),
                        Charge::Unlimited { .. } => "unlimited".into(),
                        Charge::Unpriced => "unpriced".into(),
                    };
                    let cost = line.cost.map_or("?".into(), |(cost, _)| cost.to_string());
                    format!(
                        "{} {} {charge} cost {cost}",
                        catalog.meters[line.meter].key, line.quantity
                    )
                })
                .collect();
            format!("{outcome:?}: {}", lines.join(", "))
        }
    }
}

fn check(event_type: &str, pairs: &[(&str, &str)], time_us: i64, want: &str) {
    assert_eq!(rated(event_type, pairs, time_us, |_| {}), want, "{pairs:?}");
}

#[test]
fn an_event_becomes_lines() {
    let ok = ("/status", "\"ok\"");
    check(
        "llm",
        &[("/tokens", "100"), ("/model", "\"big\""), ok],
        1,
        "Rated: tokens 100 0.333333333333 by v1 cost 0.2, calls 1 unlimited cost ?",
    );
    check(
        "llm",
        &[("/usage/total", "\"100\""), ("/model", "\"b\\u0069g\""), ok],
        1,
        "Rated: tokens 100 0.333333333333 by v1 cost 0.2, calls 1 unlimited cost ?",
    );
    check(
        "llm",
        &[("/tokens", "7"), ("/model", "\"free\""), ("/status", "\"error\"")],
        1,
        "Rated: tokens 7 0 by v1 cost ?",
    );
    check(
        "llm",
        &[("/tokens", "7"), ("/model", "\"other\"")],
        1,
        "Unpriced: tokens 7 unpriced cost ?",
    );
    check("llm", &[("/tokens", "null"), ("/status", "null")], 1, "Unmetered: ");
    check("unknown", &[("/tokens", "7")], 1, "Unmetered: ");
}

#[test]
fn derived_usage_is_the_sum_of_its_numbers() {
    let check = |pairs: &[(&str, &str)], want| check("usage", pairs, 1, want);
    check(
        &[("usage.input", "100"), ("usage.input-", "30"), ("usage.input", "5")],
        "Unpriced: input 75 unpriced cost 0.000075",
    );
    // The flat form of the same; derived usage goes first.
    check(&[("/inputTokens", "7")], "Unpriced: input 7 unpriced cost 0.000007");
    check(
        &[("/inputTokens", "7"), ("usage.input", "8")],
        "Unpriced: input 8 unpriced cost 0.000008",
    );
    // What a client sends itself has a pointer with a slash and is another attribute.
    check(&[("/usage.input", "7"), ("/usage/input", "7"), ("", "7")], "Unmetered: ");
    check(&[("usage.input", "0")], "Unpriced: input 0 unpriced cost 0");
    // Long prompts by their length, cached tokens counted.
    check(
        &[
            ("usage.input", "1000"),
            ("usage.cache_read", "199001"),
            ("usage.context", "1000"),
            ("usage.context", "199001"),
        ],
        "Unpriced: input 1000 unpriced cost 0.002, cached 199001 unpriced cost ?",
    );
    check(
        &[("usage.input", "1000"), ("usage.context", "200000")],
        "Unpriced: input 1000 unpriced cost 0.001",
    );
}

#[test]
fn the_version_follows_the_event_time() {
    check(
        "llm",
        &[("/tokens", "3"), ("/model", "\"big\"")],
        DAY_US - 1,
        "Rated: tokens 3 0.01 by v1 cost 0.006",
    );
    check(
        "llm",
        &[("/tokens", "3"), ("/model", "\"big\"")],
        DAY_US,
        "Rated: tokens 3 0.000015 by v2 cost 0.006",
    );
}

#[test]
fn what_cannot_be_rated_says_why() {
    check("llm", &[("/tokens", "-1")], 1, "rejected quantity_negative");
    check("llm", &[("/tokens", "1e30")], 1, "rejected quantity_out_of_range");
    check("llm", &[("/tokens", "\"NaN\"")], 1, "rejected quantity_not_a_number");
    check("refund", &[("/amount", "-1.5")], 1, "Unpriced: refunds -1.5 unpriced cost ?");
    check(
        "llm",
        &[("/tokens", "1")],
        2 * DAY_US + FUTURE_US_MAX,
        "Rated: tokens 1 0.000005 by v2 cost ?",
    );
    check("llm", &[("/tokens", "1")], 2 * DAY_US + FUTURE_US_MAX + 1, "rejected time_in_future");
    let long = format!("\"{}\"", "m".repeat(257));
    check("llm", &[("/tokens", "1"), ("/model", &long)], 1, "rejected dimension_too_long");
    let quoted = |not_after_us| {
        move |event: &mut EventRecord<'_>| {
            event.quote = Some(Quote {
                charge: Amount::ZERO,
                currency: event.team,
                catalog_version: 1,
                not_after_us,
            });
        }
    };
    assert_eq!(rated("llm", &[], 1, quoted(2 * DAY_US - 1)), "rejected hold_expired");
    assert_eq!(rated("llm", &[], 1, quoted(2 * DAY_US)), "Unmetered: ");
}

#[test]
fn a_faulty_document_names_every_row() {
    let mut document = catalog();
    document.cards[0].versions[0].rates[0].per = 0;
    document.cards[0].versions[0].rates[1].meter = "nothing".into();
    document.cards[0].versions[1].rates[0].dimensions.insert("colour".into(), "red".into());
    document.cards[1].currency = "dollars".into();
    document.default_cost_card = Some("standard".into());
    document.meters[1].value = Some(crate::meter::Paths::One("$.x".into()));
    let places: Vec<String> = document.faults().into_iter().map(|fault| fault.place).collect();
    assert_eq!(
        places,
        [
            "meters[calls].value",
            "cards[standard].versions[1].rates[0]",
            "cards[standard].versions[1].rates[1]",
            "cards[standard].versions[2].rates[0]",
            "cards[provider].currency",
            "default_cost_card",
        ]
    );
}
