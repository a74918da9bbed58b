//! Lists, what importing them changes, and cards of them.

use domain::{
    catalog::CatalogDocument,
    rate_card::{CardVersion, RateRow},
};
use serde_json::{Value, json};

use super::{
    cost_card::{NewCostCard, Order, make},
    *,
};

fn list(models: Value, effective_from: Option<&str>) -> CheckedList {
    let list = json!({"source": "test", "date": "2026-07-02", "currency": "USD", "per": 1_000_000,
        "effective_from": effective_from, "models": models});
    serde_json::from_value::<PriceList>(list).unwrap().check().unwrap()
}

/// What is known after an import, and what it said.
fn import(known: &Known, list: &CheckedList, partial: bool) -> (Known, String) {
    let changes = list.compare(known, partial);
    let name = |key: &PriceKey| format!("{}/{}/{}", key.model, key.class, key.above);
    let said = format!(
        "added {:?} changed {:?} removed {:?} unchanged {}",
        changes.added.iter().map(|(key, _)| name(key)).collect::<Vec<_>>(),
        changes.changed.iter().map(|(key, ..)| name(key)).collect::<Vec<_>>(),
        changes.removed.iter().map(|(key, _)| name(key)).collect::<Vec<_>>(),
        changes.unchanged
    );
    let mut after = known.clone();
    for version in changes.versions(known) {
        let key = PriceKey {
            provider: version.provider,
            model: version.model,
            class: version.class,
            above: version.above,
        };
        let versions = after.entry(key).or_default();
        versions.push(Price {
            price: version.price.map(|price| Amount::parse_exact(&price).unwrap()),
            per: version.per,
            currency: version.currency,
            effective_from_us: version.effective_from_us,
        });
        assert_eq!(usize::try_from(version.version).unwrap(), versions.len());
    }
    (after, said)
}

fn price(known: &Known, class: &str, time: &str) -> Option<String> {
    let key = PriceKey { provider: "p".into(), model: "m".into(), class: class.into(), above: 0 };
    let price = at(known.get(&key)?, time::parse(time).unwrap())?;
    Some(price.price?.to_string())
}

#[test]
fn an_import_adds_versions_and_history_stays() {
    let first = list(
        json!([{"provider": "p", "model": "m", "prices": {"input": "3", "output": "15"}},
               {"provider": "q", "model": "m", "prices": {"input": "1"}}]),
        None,
    );
    let (known, said) = import(&Known::new(), &first, false);
    assert_eq!(
        said,
        r#"added ["m/input/0", "m/output/0", "m/input/0"] changed [] removed [] unchanged 0"#
    );
    let (known, said) = import(&known, &first, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 3");

    let second = list(
        json!([{"provider": "p", "model": "m", "prices": {"input": "2", "cache_read": "0.20"}}]),
        Some("2026-07-01T00:00:00Z"),
    );
    let (kept, said) = import(&known, &second, true);
    assert_eq!(said, r#"added ["m/cache_read/0"] changed ["m/input/0"] removed [] unchanged 0"#);
    assert_eq!(price(&kept, "output", "2026-08-01T00:00:00Z").as_deref(), Some("15"));
    // The list of a provider is all that it charges; other providers are not touched.
    let (known, said) = import(&known, &second, false);
    assert_eq!(
        said,
        r#"added ["m/cache_read/0"] changed ["m/input/0"] removed ["m/output/0"] unchanged 0"#
    );
    for (class, time, want) in [
        ("input", "2026-06-30T23:59:59Z", Some("3")),
        ("input", "2026-07-01T00:00:00Z", Some("2")),
        ("output", "2026-06-30T23:59:59Z", Some("15")),
        ("output", "2026-07-01T00:00:00Z", None),
        ("cache_read", "2026-06-30T23:59:59Z", None),
        ("cache_read", "2026-07-01T00:00:00Z", Some("0.2")),
    ] {
        assert_eq!(price(&known, class, time).as_deref(), want, "{class} {time}");
    }
    let (known, said) = import(&known, &second, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 2");
    // Withdrawn and listed again.
    let (known, said) = import(&known, &first, false);
    assert_eq!(
        said,
        r#"added ["m/output/0"] changed ["m/input/0"] removed ["m/cache_read/0"] unchanged 1"#
    );
    // Its day is 2 July: what was before stays.
    for (class, time, want) in [
        ("input", "2026-06-30T23:59:59Z", Some("3")),
        ("input", "2026-07-01T23:59:59Z", Some("2")),
        ("input", "2026-07-02T00:00:00Z", Some("3")),
        ("output", "2026-06-30T23:59:59Z", Some("15")),
        ("output", "2026-07-01T23:59:59Z", None),
        ("output", "2026-07-02T00:00:00Z", Some("15")),
        ("cache_read", "2026-07-01T23:59:59Z", Some("0.2")),
        ("cache_read", "2026-07-02T00:00:00Z", None),
    ] {
        assert_eq!(price(&known, class, time).as_deref(), want, "{class} {time}");
    }
    let (_, said) = import(&known, &first, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 3");
}

#[test]
fn a_list_with_a_history_of_its_own_is_the_same_again() {
    let history = json!([{"provider": "p", "model": "m", "prices": {"input": "3"}},
        {"provider": "p", "model": "m", "prices": {"input": "2"}, "effective_from": "2026-05-01T00:00:00Z"}]);
    let history = list(history, None);
    let (known, said) = import(&Known::new(), &history, false);
    assert_eq!(said, r#"added ["m/input/0", "m/input/0"] changed [] removed [] unchanged 0"#);
    assert_eq!(price(&known, "input", "2026-04-30T23:59:59Z").as_deref(), Some("3"));
    assert_eq!(price(&known, "input", "2026-05-01T00:00:00Z").as_deref(), Some("2"));
    let (_, said) = import(&known, &history, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 2");
    // What is known by then is not changed before the day of the list, 2 July.
    let known = |models: Value| import(&Known::new(), &list(models, None), false).0;
    let models = |input: &str, from: Option<&str>| json!({"provider": "p", "model": "m", "prices": {"input": input}, "effective_from": from});
    let september = Some("2026-09-01T00:00:00Z");
    let before = known(json!([models("5", None), models("4", Some("2026-03-01T00:00:00Z"))]));
    let announced = list(json!([models("3", None), models("2", september)]), None);
    let (after, said) = import(&before, &announced, false);
    assert_eq!(said, r#"added [] changed ["m/input/0", "m/input/0"] removed [] unchanged 0"#);
    for (time, want) in
        [("2026-02-28", "5"), ("2026-07-01", "4"), ("2026-07-02", "3"), ("2026-09-01", "2")]
    {
        let time = format!("{time}T00:00:00Z");
        assert_eq!(price(&after, "input", &time).as_deref(), Some(want), "{time}");
    }
    let (_, said) = import(&after, &announced, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 2");
    // A class or tier that a known model did not have.
    let more = json!([{"provider": "p", "model": "m", "prices": {"input": "5", "output": "9"}}]);
    let (after, _) = import(&known(json!([models("5", None)])), &list(more, None), false);
    assert_eq!(price(&after, "output", "2026-07-01T00:00:00Z"), None);
    assert_eq!(price(&after, "output", "2026-07-02T00:00:00Z").as_deref(), Some("9"));
    // Withdrawn is withdrawn, whatever was to follow.
    let before = known(json!([models("3", None), models("2", september)]));
    let other = list(json!([{"provider": "p", "model": "n", "prices": {"input": "1"}}]), None);
    let (after, said) = import(&before, &other, false);
    assert_eq!(said, r#"added ["n/input/0"] changed [] removed ["m/input/0"] unchanged 0"#);
    for (time, want) in [("2026-07-01", Some("3")), ("2026-07-02", None), ("2026-10-01", None)] {
        let time = format!("{time}T00:00:00Z");
        assert_eq!(price(&after, "input", &time).as_deref(), want, "{time}");
    }
    let (_, said) = import(&after, &other, false);
    assert_eq!(said, "added [] changed [] removed [] unchanged 1");
    // For ever is from 1970 on.
    let twice = json!({"source": "test", "date": "2026-07-02", "currency": "USD", "per": 1, "models": [
        {"provider": "p", "model": "m", "prices": {"input": "3"}},
        {"provider": "p", "model": "m", "prices": {"input": "2"}, "effective_from": "1970-01-01T00:00:00Z"}]});
    let twice = serde_json::from_value::<PriceList>(twice).unwrap();
    assert_eq!(twice.check().unwrap_err()[0].place, "models[p/m].input");
}

#[test]
fn the_list_that_comes_with_weir_is_whole() {
    let list: PriceList = serde_json::from_str(BUILTIN).unwrap();
    let checked = list.check().unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(
        (list.models.len(), checked.prices.len()),
        (149, BUILTIN.matches("\": \"").count() - 5 - 2 * 149)
    );
    let sonnet = PriceKey {
        provider: "anthropic".into(),
        model: "claude-sonnet-4-5".into(),
        class: "cache_write".into(),
        above: 0,
    };
    let price = checked.prices.get(&(sonnet, None)).unwrap();
    assert_eq!(price.price.unwrap().to_string(), "3.75");
    let tiers = list.models.iter().flat_map(|model| &model.tiers);
    for tier in tiers {
        assert!(domain::llm_usage::CONTEXT_BOUNDARIES.contains(&tier.above), "{}", tier.above);
    }
}

#[test]
fn a_faulty_list_names_every_fault() {
    let list = json!({"source": "", "date": "yesterday", "currency": "usd", "per": 0, "effective_from": "soon",
        "models": [{"provider": "", "model": "m", "prices": {"input": "-1", "inputs": "1"}},
                   {"provider": "p", "model": "m", "per": 1, "prices": {"output": "1"}},
                   {"provider": "p", "model": "m", "per": 1, "prices": {"output": "1"}}]});
    let faults = serde_json::from_value::<PriceList>(list).unwrap().check().unwrap_err();
    let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "effective_from",
            "source",
            "date",
            "currency",
            "models[/m].provider",
            "models[/m].per",
            "models[/m].input",
            "models[/m].inputs",
            "models[p/m].output"
        ]
    );
}

fn catalog() -> CatalogDocument {
    let dimensions =
        json!({"provider": "$.provider", "model": ["$.model"], "long": "usage.context"});
    serde_json::from_value(json!({"meters": [
        {"key": "input", "event_types": ["llm"], "aggregation": "sum", "value": ["usage.input", "$.in"], "dimensions": dimensions},
        {"key": "thought", "event_types": ["llm"], "aggregation": "sum", "value": "usage.reasoning",
         "dimensions": {"provider": "$.provider", "model": "$.model"}},
        {"key": "plain", "event_types": ["llm"], "aggregation": "sum", "value": "$.out", "dimensions": dimensions},
        {"key": "blind", "event_types": ["llm"], "aggregation": "sum", "value": "usage.output"},
        {"key": "calls", "event_types": ["call"], "aggregation": "count"}
    ], "cards": [{"key": "costs", "kind": "cost", "currency": "USD", "versions": [{"version": 1, "effective_from_us": 0, "rates": [
        {"meter": "calls", "price": "0"}, {"meter": "input", "price": "9"},
        {"meter": "input", "dimensions": {"provider": "gone", "model": "gone"}, "price": "1"}]}]}]}))
    .unwrap()
}

fn order(prices: &CheckedList, meters: Value) -> Order {
    let (prices, _) = import(&Known::new(), prices, false);
    let wanted: NewCostCard =
        serde_json::from_value(json!({"card": "costs", "meters": meters, "default": true}))
            .unwrap();
    Order { wanted, prices, at_us: 1, effective_from_us: 0 }
}

fn shown(version: &CardVersion) -> Vec<String> {
    let shown = |row: &RateRow| {
        let dimensions: Vec<&str> = row.dimensions.values().map(String::as_str).collect();
        let price = row.price.as_deref().unwrap_or("none");
        format!("{} {} {price}/{}", row.meter, dimensions.join("+"), row.per)
    };
    version.rates.iter().map(shown).collect()
}

#[test]
fn a_cost_card_has_rows_for_models_and_long_prompts() {
    let prices = list(
        json!([{"provider": "p", "model": "m", "prices": {"input": "1.25", "output": "10"},
                "tiers": [{"above": 200_000, "prices": {"input": "2.5", "output": "15"}}]},
               {"provider": "p", "model": "n", "prices": {"input": "1", "reasoning": "3"}}]),
        None,
    );
    let mut document = catalog();
    let made = make(&mut document, &order(&prices, json!({"plain": "output"}))).unwrap();
    assert_eq!(
        shown(document.cards[0].versions.last().unwrap()),
        [
            "calls  0/1",
            "input  9/1",
            "input m+p 1.25/1000000",
            "input 200000+m+p 2.5/1000000",
            "input 256000+m+p 2.5/1000000",
            "input 272000+m+p 2.5/1000000",
            "input n+p 1/1000000",
            "thought n+p 3/1000000",
            "plain m+p 10/1000000",
            "plain 200000+m+p 15/1000000",
            "plain 256000+m+p 15/1000000",
            "plain 272000+m+p 15/1000000",
        ]
    );
    assert_eq!(document.faults(), []);
    assert_eq!(document.default_cost_card.as_deref(), Some("costs"));
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(
        (&made["version"], &made["added"], &made["changed"], &made["removed"]),
        (&json!(2), &json!(10), &json!(0), &json!(1))
    );
    assert_eq!(
        made["meters"],
        json!({"input": "input", "plain": "output", "thought": "reasoning"})
    );
    let left_out = made["left_out"].to_string();
    assert!(
        left_out.contains("meter blind") && left_out.contains("meter thought has no"),
        "{left_out}"
    );

    // What one price of cannot be told is not told by half: it would cost what short prompts do.
    for (tier, why) in [
        (json!({"above": 100_000, "prices": {"input": "2.5"}}), "no boundary"),
        (json!({"above": 200_000, "prices": {"input": "2.5"}}), "its price is in EUR"),
    ] {
        let model =
            json!([{"provider": "p", "model": "m", "prices": {"input": "1.25"}, "tiers": [tier]}]);
        let mut order = order(&list(model, None), json!({}));
        if why.ends_with("EUR") {
            let (_, tiers) = order.prices.iter_mut().find(|(key, _)| key.above > 0).unwrap();
            tiers[0].currency = "EUR".to_owned();
        }
        let mut document = catalog();
        let made = serde_json::to_value(make(&mut document, &order).unwrap()).unwrap();
        assert!(made["left_out"].to_string().contains(why), "{made}");
        let rows = shown(document.cards[0].versions.last().unwrap());
        assert_eq!(rows, ["calls  0/1", "input  9/1"], "{why}");
    }

    // The same again is no new version.
    let again = make(&mut document, &order(&prices, json!({"plain": "output"}))).unwrap();
    assert_eq!(serde_json::to_value(again).unwrap()["version"], json!(2));
    assert_eq!(document.cards[0].versions.len(), 2);
}

#[test]
fn a_card_that_cannot_be_made_says_why() {
    let prices = list(json!([{"provider": "p", "model": "m", "prices": {"input": "1"}}]), None);
    let refused = |document: &mut CatalogDocument, meters: Value| {
        let faults = make(document, &order(&prices, meters)).unwrap_err();
        faults.into_iter().map(|fault| fault.place).collect::<Vec<_>>()
    };
    let meters = json!({"nothing": "input", "calls": "input", "plain": "words"});
    assert_eq!(
        refused(&mut catalog(), meters),
        ["meters[nothing]", "meters[plain]", "meters[calls]"]
    );
    let mut other = catalog();
    other.cards[0].currency = "EUR".into();
    assert_eq!(refused(&mut other, json!({})), ["cards[costs]"]);
    other.meters.retain(|meter| meter.key == "calls");
    assert_eq!(refused(&mut other, json!({})), ["meters[]"]);
}
