use serde_json::json;

use super::*;

fn order(name: &str, rules: &[(&str, &[(UsageClass, &str)])]) -> Order {
    let rule = |credits: &[(UsageClass, &str)]| Rule {
        per: 1000,
        credits: credits.iter().map(|(class, credits)| (*class, (*credits).to_owned())).collect(),
    };
    Order {
        name: name.into(),
        unit: "credits".into(),
        now_us: 1_000,
        rules: rules.iter().map(|(model, credits)| ((*model).to_owned(), rule(credits))).collect(),
        ..Order::default()
    }
}

/// Publishes a table in a document, which must have no faults then.
fn published(document: &mut CatalogDocument, order: &Order) -> BurnTableMade {
    let made = make(document, order).unwrap();
    assert_eq!(document.faults(), []);
    made
}

/// Rows of the newest version of a card.
fn told(document: &CatalogDocument, card: &str) -> Vec<String> {
    let card = document.cards.iter().find(|other| other.key == card).unwrap();
    let row = |row: &RateRow| {
        let values: Vec<&str> = row.dimensions.values().map(String::as_str).collect();
        format!("{} {} {}", row.meter, values.join(","), row.price.as_deref().unwrap_or("-"))
    };
    card.versions.last().unwrap().rates.iter().map(row).collect()
}

const INPUT: UsageClass = UsageClass::Input;
const OUTPUT: UsageClass = UsageClass::Output;

#[test]
fn a_first_table_becomes_the_default_card_and_brings_its_meters() {
    let mut document = CatalogDocument::default();
    let first = order(
        "burn",
        &[("gpt", &[(INPUT, "1.5"), (OUTPUT, "10")]), ("img", &[(UsageClass::Images, "4")])],
    );
    let made = published(&mut document, &first);
    assert_eq!((made.version, made.default_version, made.rows, made.models), (1, 1, 3, 2));
    assert_eq!(made.meters_made, ["burn_image_count", "burn_input_tokens", "burn_output_tokens"]);
    assert_eq!(document.default_rate_card.as_deref(), Some("burn"));
    let rows = ["burn_input_tokens gpt 1.5", "burn_output_tokens gpt 10", "burn_image_count img 4"];
    assert_eq!(told(&document, "burn"), rows);
    assert_eq!(document.meters[2].event_types, ["IMAGE_GENERATION"]);
    assert_eq!(document.meters[0].event_types, ["TOKEN_USAGE"]);
    let paths =
        ["usage.input", "$.input_tokens", "$.inputTokens", "$.prompt_tokens", "$.promptTokens"];
    assert_eq!(document.meters[0].value.as_ref().unwrap().all(), paths);

    // Twice is once, whatever the time.
    let before = document.clone();
    let again = Order { now_us: 2_000, ..first };
    assert_eq!(published(&mut document, &again).version, 1);
    assert_eq!(document, before);

    // A table is whole, and another one of it holds from now on.
    let other = order("burn", &[("gpt", &[(INPUT, "2")])]);
    assert_eq!(published(&mut document, &other).version, 2);
    assert_eq!(told(&document, "burn"), ["burn_input_tokens gpt 2"]);
    assert_eq!(document.cards[0].versions[1].effective_from_us, 1_000);
}

#[test]
fn meters_that_are_there_are_used_once_for_each_event_type() {
    let meters = json!([
        {"key": "filtered", "event_types": ["llm"], "aggregation": "sum", "value": "usage.input",
         "filters": [{"field": "$.x", "exists": true}], "dimensions": {"m": "$.model"}},
        {"key": "flat", "event_types": ["llm"], "aggregation": "sum", "value": "$.inputTokens", "dimensions": {"m": "$.model"}},
        {"key": "twin", "event_types": ["llm", "more"], "aggregation": "sum", "value": "usage.input", "dimensions": {"m": "$.model"}},
        {"key": "blind", "event_types": ["blind"], "aggregation": "sum", "value": "usage.input"},
        {"key": "written", "event_types": ["llm", "TOKEN_USAGE"], "aggregation": "sum", "value": "$.completion_tokens",
         "dimensions": {"model": ["$.request.model", "$.model"]}}]);
    let meters = serde_json::from_value(meters).unwrap();
    let mut document = CatalogDocument { meters, ..CatalogDocument::default() };
    let made = published(&mut document, &order("burn", &[("gpt", &[(INPUT, "1"), (OUTPUT, "2")])]));
    let of = |name: &str| made.meters[name].clone();
    assert_eq!(of("input_tokens"), ["flat", "burn_input_tokens"]);
    assert_eq!(of("output_tokens"), ["written", "burn_output_tokens"]);
    let types = |key: &str| {
        document.meters.iter().find(|meter| meter.key == key).unwrap().event_types.clone()
    };
    assert_eq!(types("burn_input_tokens"), ["TOKEN_USAGE", "blind", "more"]);
    assert_eq!(types("burn_output_tokens"), ["blind", "more"]);

    // What a meter of the tenant looks at now, the one that was made leaves alone.
    document.meters[3]
        .dimensions
        .insert("model".into(), domain::meter::Paths::One("$.model".into()));
    published(&mut document, &order("burn", &[("gpt", &[(INPUT, "1")])]));
    let own = document.meters.iter().find(|meter| meter.key == "burn_input_tokens").unwrap();
    assert_eq!(own.event_types, ["TOKEN_USAGE", "more"]);
}

#[test]
fn tables_share_the_default_card_and_take_back_only_their_own() {
    let mut document = CatalogDocument::default();
    published(&mut document, &order("one", &[("a", &[(INPUT, "1")]), ("b", &[(INPUT, "1")])]));
    // Rows that are no table's stay.
    document.cards[0].versions[0].rates.push(RateRow {
        meter: "burn_input_tokens".into(),
        price: Some("9".into()),
        ..RateRow::default()
    });
    let made =
        published(&mut document, &order("two", &[("b", &[(INPUT, "2")]), ("c", &[(INPUT, "2")])]));
    assert_eq!(
        (made.version, made.default_version, made.default_rate_card.as_str()),
        (1, 2, "one")
    );
    let shared = [
        "burn_input_tokens a 1",
        "burn_input_tokens b 2",
        "burn_input_tokens  9",
        "burn_input_tokens c 2",
    ];
    assert_eq!(told(&document, "one"), shared);
    assert_eq!(told(&document, "two"), ["burn_input_tokens b 2", "burn_input_tokens c 2"]);

    published(&mut document, &order("two", &[("c", &[(INPUT, "3")])]));
    let shared = ["burn_input_tokens a 1", "burn_input_tokens  9", "burn_input_tokens c 3"];
    assert_eq!(told(&document, "one"), shared);
    // The first table again: it takes back `a`, and leaves `c` to the other.
    let made = published(&mut document, &order("one", &[("b", &[(INPUT, "5")])]));
    let shared = ["burn_input_tokens  9", "burn_input_tokens c 3", "burn_input_tokens b 5"];
    assert_eq!((told(&document, "one"), made.version), (shared.map(str::to_owned).to_vec(), 4));

    let names: Vec<_> = listed(&document).into_iter().map(|table| table.name).collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut document = CatalogDocument::default();
    published(&mut document, &order("burn", &[("a", &[(INPUT, "1")])]));
    document.cards[0].versions[0].effective_from_us = 5_000;
    let refused = |document: &CatalogDocument, order: Order| {
        make(&mut document.clone(), &order).unwrap_err()[0].place.clone()
    };
    let other = order("burn", &[("a", &[(INPUT, "2")])]);
    assert_eq!(refused(&document, other.clone()), "cards[burn].versions[1]");
    let dated = Order { effective_from_us: Some(5_000), ..other.clone() };
    assert_eq!(published(&mut document.clone(), &dated).version, 2);
    assert_eq!(refused(&document, Order { unit: "USD".into(), ..other.clone() }), "currency");
    document.default_rate_card = None;
    let elsewhere = Order { unit: "points".into(), ..other.clone() };
    assert_eq!(refused(&document, elsewhere), "cards[burn]");
    document.meters[0].dimensions.clear();
    assert_eq!(refused(&document, other), "meters[burn_input_tokens]");
}

#[test]
fn a_table_is_listed_as_it_was_made() {
    let mut document = CatalogDocument::default();
    published(&mut document, &order("burn", &[("a", &[(INPUT, "1.5"), (OUTPUT, "10")])]));
    let rates = &mut document.cards[0].versions[0].rates;
    rates[1].per = 500;
    rates.push(RateRow {
        unlimited: true,
        price: None,
        dimensions: BTreeMap::from([("model".into(), "free".into())]),
        ..rates[0].clone()
    });
    let table = json!(listed(&document));
    let rules = json!({"a": {"input_tokens": "1.5", "output_tokens": "20", "per_unit": 1000}});
    assert_eq!(table[0]["rules"], rules);
    assert_eq!((&table[0]["other_rates"], &table[0]["default"]), (&json!(1), &json!(true)));
}
