//! The examples of `docs/PRICING.md` with offers, as they stand there, and what is said of candidates.

use serde::Deserialize;

use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/PRICING.md");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: String,
    catalog: CatalogDocument,
    /// Team, meter, quantity and charge, in the order of the log.
    usage: Vec<[String; 4]>,
}

fn examples() -> Vec<Example> {
    let blocks = DOCUMENT.split("```json offers\n").skip(1);
    blocks
        .map(|block| {
            let json = block.split("```").next().unwrap();
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
        })
        .collect()
}

#[test]
fn every_example_with_offers_is_right() {
    let examples = examples();
    assert_eq!(examples.len(), 2);
    for Example { name, catalog, usage } in examples {
        let catalog = catalog.compile().unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        let mut teams: BTreeMap<String, Used> = BTreeMap::new();
        for [team, meter, quantity, charge] in usage {
            let used = teams.entry(team.clone()).or_default();
            let line = line(&catalog, used, (&team, &meter), &json!({"quantity": quantity}), 1);
            let charged = line.charge.amount().map(|amount| amount.to_string());
            assert_eq!(
                charged.as_deref(),
                Some(charge.as_str()),
                "{name}: {quantity} {meter} of {team}"
            );
        }
    }
}

/// A catalog with the cards `standard` (v1 from 0, v2 from 50), `late` (from 20) and `other` (`n` only), and what
/// `t` holds of it.
fn catalog() -> Catalog {
    let version = |version, from: i64, rates: Value| json!({"version": version, "effective_from_us": from, "rates": rates});
    let card = |key: &str, versions: Value| json!({"key": key, "kind": "rate", "currency": "USD", "versions": versions});
    let offer = |key: &str, source: &str, more: Value| {
        let mut offer = json!({"key": key, "source": source});
        offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        offer
    };
    let holder = |offer: &str, from_us: i64, until_us: Option<i64>| json!({"team": "t", "offer": offer, "from_us": from_us, "until_us": until_us});
    let price = json!([{"meter": "m", "price": "10"}]);
    let document: CatalogDocument = serde_json::from_value(json!({
        "meters": [{"key": "m", "event_types": ["m"], "aggregation": "count"}, {"key": "n", "event_types": ["n"], "aggregation": "count"}],
        "cards": [card("standard", json!([version(1, 0, price.clone()), version(2, 50, price.clone())])),
                  card("late", json!([version(1, 20, price)])),
                  card("other", json!([version(1, 0, json!([{"meter": "n", "price": "1"}]))]))],
        "default_rate_card": "standard",
        "offers": [
            offer("deal", "contract", json!({"card": "late"})),
            offer("more", "contract", json!({"card": "other"})),
            offer("plan", "subscription", json!({"card": "standard", "weight": 1, "overriding_key": "plan"})),
            offer("old-plan", "subscription", json!({"card": "standard", "overriding_key": "plan", "multiplier": "2"})),
            offer("child", "subscription", json!({"parent": "plan", "multiplier": "0.5", "weight": 2})),
            offer("twin", "subscription", json!({"parent": "plan", "multiplier": "0.4", "weight": 2})),
            offer("override", "team", json!({"multiplier": "0.9", "meters": ["n"]})),
            offer("past", "team", json!({"multiplier": "0.9"}))],
        "holders": [holder("deal", 0, None), holder("more", 0, None), holder("plan", 0, None), holder("old-plan", 0, Some(60)),
            holder("override", 0, None), holder("past", 0, Some(5)), holder("past", 6, Some(9))]
    }))
    .unwrap();
    document.compile().unwrap()
}

fn told(team: Option<&str>, meter: &str, time_us: i64) -> Vec<String> {
    let found = resolve(&catalog(), team, meter, &BTreeMap::new(), time_us).unwrap();
    let line = |candidate: &Candidate| {
        let mark = if candidate.chosen { "* " } else { "" };
        format!("{mark}{}: {}", candidate.offer.as_deref().unwrap_or("default"), candidate.reason)
    };
    found.candidates.iter().map(line).collect()
}

#[test]
fn every_candidate_says_why() {
    assert_eq!(
        told(Some("t"), "m", 10),
        [
            "* child: it comes first, and multiplies what `plan` charges",
            "twin: overridden by `child`: its key comes first",
            "plan: its charge is what `child` multiplies",
            "old-plan: overridden by `child`: it has more weight",
            "default: overridden by `child`: the default card comes last",
            "deal: not yet effective: its card begins at 1970-01-01T00:00:00.000020Z",
            "more: its card has no row for this meter",
            "override: it is not for this meter",
            "past: the team has it at another time: from 1970-01-01T00:00:00.000006Z until 1970-01-01T00:00:00.000009Z",
        ]
    );
    let later = told(Some("t"), "m", 60);
    assert_eq!(
        later[..2],
        [
            "* deal: it comes first",
            "child: overridden by `deal`: a contract comes before a subscription"
        ]
    );
    assert_eq!(told(None, "m", 60), ["* default: no offer of the team prices this usage"]);
    assert_eq!(told(Some("u"), "m", 60), told(None, "m", 60));
    assert_eq!(
        told(Some("t"), "n", 60)[..3],
        [
            "* more: it comes first",
            "child: overridden by `more`: a contract comes before a subscription",
            "twin: overridden by `more`: a contract comes before a subscription"
        ]
    );
    let none = resolve(&catalog(), None, "n", &BTreeMap::new(), 0).unwrap();
    assert_eq!(none.chosen, None);
    assert_eq!(none.candidates[0].reason, "version 1 of its card has no row for this usage");
    assert_eq!(resolve(&catalog(), None, "o", &BTreeMap::new(), 0), None);
}

#[test]
fn a_multiplier_without_a_charge_prices_nothing() {
    let document: CatalogDocument = serde_json::from_value(json!({
        "meters": [{"key": "m", "event_types": ["m"], "aggregation": "count"}],
        "offers": [{"key": "half", "source": "team", "multiplier": "0.5"}],
        "holders": [{"team": "t", "offer": "half", "from_us": 0}]
    }))
    .unwrap();
    let found = resolve(&document.compile().unwrap(), Some("t"), "m", &BTreeMap::new(), 5).unwrap();
    assert_eq!((found.chosen, found.candidates.len()), (None, 1));
    assert_eq!(found.candidates[0].reason, "there is no price that it could multiply");
}

/// Of one group, source and weight, the newer version wins, also where another group's key is first.
#[test]
fn the_newer_version_of_a_group_wins() {
    let version = |from: i64| json!([{"version": 1, "effective_from_us": from, "rates": [{"meter": "m", "price": "1"}]}]);
    let card = |key: &str, from| json!({"key": key, "kind": "rate", "currency": "USD", "versions": version(from)});
    let offer = |key: &str, card: &str, group: &str| json!({"key": key, "source": "team", "card": card, "overriding_key": group});
    let holder = |offer: &str| json!({"team": "t", "offer": offer, "from_us": 0});
    let document: CatalogDocument = serde_json::from_value(json!({
        "meters": [{"key": "m", "event_types": ["m"], "aggregation": "count"}],
        "cards": [card("old", 0), card("new", 10)],
        "offers": [offer("a", "old", "x"), offer("c", "new", "x"), offer("b", "old", "y")],
        "holders": [holder("a"), holder("b"), holder("c")]
    }))
    .unwrap();
    let catalog = document.compile().unwrap();
    let at = |time_us| {
        let found = resolve(&catalog, Some("t"), "m", &BTreeMap::new(), time_us).unwrap();
        let line = |one: &Candidate| format!("{}: {}", one.offer.as_deref().unwrap(), one.reason);
        found.candidates.iter().map(line).collect::<Vec<_>>()
    };
    // Before the new card, `a` is all of its group.
    assert_eq!(at(9)[..2], ["a: it comes first", "b: overridden by `a`: its key comes first"]);
    assert_eq!(
        at(10),
        [
            "b: it comes first",
            "c: overridden by `b`: its key comes first",
            "a: overridden by `c` of the same overriding key: the version of its card is newer",
        ]
    );
}
