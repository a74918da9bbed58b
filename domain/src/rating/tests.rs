//! Worked examples of rating, small enough to check by hand.

use super::*;
use crate::{
    catalog::{CardVersionName, CatalogDocument, CreditUnit},
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
            {"key": "cached", "event_types": ["usage"], "aggregation": "sum", "value": "usage.cache_read"},
            {"key": "jobs", "event_types": ["job"], "aggregation": "count"},
            {"key": "batch-jobs", "event_types": ["job"], "aggregation": "count",
             "filters": [{"field": ["$.kind", "$.class"], "in": ["batch", "bulk", "7", "true"]}]},
            {"key": "named-jobs", "event_types": ["job"], "aggregation": "count",
             "filters": [{"field": "$.name", "exists": true}]},
            {"key": "free-jobs", "event_types": ["job"], "aggregation": "count",
             "filters": [{"field": "$.paid_by", "exists": false}]},
            {"key": "big-jobs", "event_types": ["job"], "aggregation": "count",
             "filters": [{"field": "$.kind", "in": ["batch"]}, {"field": "$.name", "exists": true},
                         {"field": "$.name", "not_in": ["none"]}]}
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
    rated_by(&catalog(), event_type, pairs, time_us, change)
}

fn rated_by(
    document: &CatalogDocument,
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
    let catalog = document.compile().unwrap();
    let binding = Binding::new(&catalog, &block.dictionary);
    let rating = Rating {
        catalog: &catalog,
        binding: &binding,
        dictionary: &block.dictionary,
        time_us,
        append_time_us: 2 * DAY_US,
    };
    let mut lines = Lines::new();
    match rate(&rating, event, &NoTotals, &mut Scratch::default(), &mut lines) {
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
                        Charge::Observed => "observed".into(),
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

/// The catalog whose rate card has a version for each date, numbered from 1 in this order, with the
/// price of its number for a token.
fn dated(dates: &[i64]) -> CatalogDocument {
    let mut document = catalog();
    let card = &mut document.cards[0];
    let mut version = card.versions.remove(1);
    card.versions.clear();
    for (number, date) in (1..).zip(dates) {
        version.version = number;
        version.effective_from_us = *date;
        version.rates[0].price = Some(number.to_string());
        version.rates[0].per = 1;
        card.versions.push(version.clone());
    }
    document
}

/// The version that prices an event of a time; 0 if it has no price.
fn version_at(document: &CatalogDocument, time_us: i64) -> u32 {
    let pairs = [("/tokens", "1"), ("/status", "\"error\"")];
    let rated = rated_by(document, "llm", &pairs, time_us, |_| {});
    if rated == "Unpriced: tokens 1 unpriced cost ?" {
        return 0;
    }
    let line = rated.strip_prefix("Rated: tokens 1 ").unwrap();
    let (charge, version) = line.strip_suffix(" cost ?").unwrap().split_once(" by v").unwrap();
    assert_eq!(charge, version, "the price of another version than the one that is named");
    version.parse().unwrap()
}

#[test]
fn versions_follow_their_dates_and_not_their_numbers() {
    let (first, middle, last) = (DAY_US, DAY_US + 500, DAY_US + 1_000);
    // The third begins between the first and the second, and the second still begins at its date.
    let document = dated(&[first, last, middle]);
    for (time_us, want) in [
        (first - 1, 0),
        (first, 1),
        (middle - 1, 1),
        (middle, 3),
        (middle + 1, 3),
        (last - 1, 3),
        (last, 2),
        (last + 1, 2),
    ] {
        assert_eq!(version_at(&document, time_us), want, "{time_us}");
    }
    // The second begins before the first, and ends where that begins.
    let document = dated(&[last, first]);
    for (time_us, want) in [(first - 1, 0), (first, 2), (last - 1, 2), (last, 1)] {
        assert_eq!(version_at(&document, time_us), want, "{time_us}");
    }
}

#[test]
fn of_versions_with_one_date_the_newest_holds() {
    let document = dated(&[0, DAY_US, DAY_US]);
    for (time_us, want) in [(DAY_US - 1, 1), (DAY_US, 3), (DAY_US + 1, 3)] {
        assert_eq!(version_at(&document, time_us), want, "{time_us}");
    }
    // Whatever is dated between them or around them.
    let document = dated(&[DAY_US, 0, DAY_US, DAY_US + 1_000, DAY_US]);
    for (time_us, want) in [(DAY_US - 1, 2), (DAY_US, 5), (DAY_US + 999, 5), (DAY_US + 1_000, 4)] {
        assert_eq!(version_at(&document, time_us), want, "{time_us}");
    }
}

#[test]
fn a_version_of_the_future_holds_for_no_event_before_it() {
    // Events are appended two days after 1970.
    let future = 2 * DAY_US + FUTURE_US_MAX;
    let (without, with) = (dated(&[0]), dated(&[0, future]));
    for time_us in [0, 1, DAY_US, 2 * DAY_US, future - 1] {
        assert_eq!(version_at(&with, time_us), 1, "{time_us}");
    }
    // The latest time that an event may have.
    assert_eq!((version_at(&without, future), version_at(&with, future)), (1, 2));
    // Dated one microsecond later it prices nothing yet.
    assert_eq!(version_at(&dated(&[0, future + 1]), future), 1);
}

#[test]
fn rates_may_be_in_a_credit_unit() {
    let mut document = catalog();
    document.credit_units = vec![CreditUnit { key: "credits".into(), value: None }];
    document.cards[0].currency = "credits".into();
    let pairs = [("/tokens", "100"), ("/model", "\"big\""), ("/status", "\"ok\"")];
    // The numbers are those of the prices, whatever they are in; the cost stays in its currency.
    assert_eq!(
        rated_by(&document, "llm", &pairs, 1, |_| {}),
        "Rated: tokens 100 0.333333333333 by v1 cost 0.2, calls 1 unlimited cost ?"
    );
    let catalog = document.compile().unwrap();
    let named = |version: &CardVersionName| {
        format!("{} {} {}", version.card, version.version, version.currency)
    };
    let versions: Vec<String> = catalog.card_versions.iter().map(named).collect();
    assert_eq!(versions, ["standard 1 credits", "standard 2 credits", "provider 1 USD"]);
    document.credit_units.clear();
    assert_eq!(document.faults()[0].place, "cards[standard].currency");
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
fn the_value_of_a_dimension_has_so_many_bytes() {
    let check = |value: &str, want| {
        let value = format!("\"{value}\"");
        check("llm", &[("/tokens", "1"), ("/model", &value)], 1, want);
    };
    let fits = "Unpriced: tokens 1 unpriced cost ?";
    check(&"m".repeat(DIMENSION_BYTES_MAX - 1), fits);
    check(&"m".repeat(DIMENSION_BYTES_MAX), fits);
    check(&"m".repeat(DIMENSION_BYTES_MAX + 1), "rejected dimension_too_long");
    // Bytes of the value, not characters and not what was written for them.
    check(&"é".repeat(DIMENSION_BYTES_MAX / 2), fits);
    check(&"é".repeat(DIMENSION_BYTES_MAX / 2 + 1), "rejected dimension_too_long");
    check(&"\\u006d".repeat(DIMENSION_BYTES_MAX), fits);
    check(&"\\u006d".repeat(DIMENSION_BYTES_MAX + 1), "rejected dimension_too_long");
}

/// The meters besides `jobs`, which looks at every job, that count a job with this data.
fn jobs(pairs: &[(&str, &str)]) -> Vec<String> {
    let rated = rated("job", pairs, 1, |_| {});
    let lines = rated.strip_prefix("Unpriced: jobs 1 unpriced cost ?").unwrap();
    let keys = lines.split(", ").filter(|line| !line.is_empty());
    keys.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_filter_wants_one_of_some_values() {
    let batch = ["batch-jobs", "free-jobs"];
    let other = ["free-jobs"];
    assert_eq!(jobs(&[("/kind", "\"batch\"")]), batch);
    assert_eq!(jobs(&[("/kind", "\"bulk\"")]), batch);
    // As it was written, and escapes are read.
    assert_eq!(jobs(&[("/kind", "\"b\\u0061tch\"")]), batch);
    assert_eq!(jobs(&[("/kind", "7")]), batch);
    assert_eq!(jobs(&[("/kind", "7.0")]), other);
    for value in ["\"Batch\"", "\"batch \"", "\"\"", "\"other\"", "null"] {
        assert_eq!(jobs(&[("/kind", value)]), other, "{value}");
    }
    // What is absent is none of them; the first path that is present decides.
    assert_eq!(jobs(&[]), other);
    assert_eq!(jobs(&[("/class", "\"bulk\"")]), batch);
    assert_eq!(jobs(&[("/kind", "null"), ("/class", "\"bulk\"")]), batch);
    assert_eq!(jobs(&[("/kind", "\"other\""), ("/class", "\"bulk\"")]), other);
}

#[test]
fn a_filter_wants_a_value_to_be_there_or_not() {
    assert_eq!(jobs(&[("/name", "\"a\"")]), ["named-jobs", "free-jobs"]);
    // An empty text and a number are values; null is none.
    assert_eq!(jobs(&[("/name", "\"\"")]), ["named-jobs", "free-jobs"]);
    assert_eq!(jobs(&[("/name", "0")]), ["named-jobs", "free-jobs"]);
    assert_eq!(jobs(&[("/name", "null")]), ["free-jobs"]);
    assert_eq!(jobs(&[("/paid_by", "\"a\"")]), Vec::<String>::new());
    assert_eq!(jobs(&[("/paid_by", "\"\"")]), Vec::<String>::new());
    assert_eq!(jobs(&[("/paid_by", "null")]), ["free-jobs"]);
}

#[test]
fn all_filters_of_a_meter_must_hold() {
    let all = ["batch-jobs", "named-jobs", "free-jobs", "big-jobs"];
    let (batch, name) = (("/kind", "\"batch\""), ("/name", "\"a\""));
    assert_eq!(jobs(&[batch, name]), all);
    assert_eq!(jobs(&[batch, ("/name", "\"none\"")]), all[..3]);
    assert_eq!(jobs(&[batch]), ["batch-jobs", "free-jobs"]);
    assert_eq!(jobs(&[name]), ["named-jobs", "free-jobs"]);
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

#[test]
fn a_meter_that_does_not_add_up_observes() {
    let document: CatalogDocument = serde_json::from_str(
        r#"{"meters": [
            {"key": "peak", "event_types": ["gauge"], "aggregation": "max", "value": "$.n", "period": "month"},
            {"key": "users", "event_types": ["gauge"], "aggregation": "unique_count", "value": "$.who", "period": "day"},
            {"key": "calls", "event_types": ["gauge"], "aggregation": "count"}],
        "cards": [{"key": "own", "kind": "rate", "currency": "EUR", "versions": [{"version": 1, "effective_from_us": 0,
            "rates": [{"meter": "peak", "price": "2"}, {"meter": "users", "price": "5"}, {"meter": "calls", "price": "1"}]}]}],
        "default_rate_card": "own"}"#,
    )
    .unwrap();
    let rated = |event_type: &str, pairs: &[(&str, &str)]| {
        rated_by(&document, event_type, pairs, 1_000_000, |_| {})
    };
    assert_eq!(
        rated("gauge", &[("/n", "7"), ("/who", "\"ada\"")]),
        "Rated: peak 7 observed cost ?, users 1 observed cost ?, calls 1 1 by v1 cost ?"
    );
    assert_eq!(rated("gauge", &[("/who", "null")]), "Rated: calls 1 1 by v1 cost ?");
    assert_eq!(rated("gauge", &[("/n", "-1")]), "rejected quantity_negative");
    let long = format!("\"{}\"", "u".repeat(DIMENSION_BYTES_MAX + 1));
    assert_eq!(rated("gauge", &[("/who", &long)]), "rejected dimension_too_long");
    // Its periods are closed by events of a type of their own.
    assert_eq!(rated("weir.closed.peak", &[("/quantity", "7")]), "Rated: peak 7 14 by v1 cost ?");
    assert_eq!(
        rated("weir.closed.users", &[("/quantity", "\"3\"")]),
        "Rated: users 3 15 by v1 cost ?"
    );
    assert_eq!(rated("weir.closed.calls", &[("/quantity", "7")]), "Unmetered: ");
}
