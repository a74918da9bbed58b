//! Documents with offers: which are refused, and that those without stay as they are.

use serde_json::{Value, json};

use crate::{
    catalog::CatalogDocument,
    offer::{HELD_MAX, HOLDERS_MAX, OFFERS_MAX},
};

fn catalog(offers: Value, holders: Value) -> CatalogDocument {
    serde_json::from_value(json!({
        "meters": [{"key": "m", "event_types": ["m"], "aggregation": "count"}],
        "cards": [
            {"key": "standard", "kind": "rate", "currency": "USD", "versions": [
                {"version": 1, "effective_from_us": 0, "rates": [{"meter": "m", "price": "1"}]}]},
            {"key": "steps", "kind": "rate", "currency": "EUR", "versions": [
                {"version": 1, "effective_from_us": 0, "rates": [{"meter": "m", "price": "1", "included": "5"}]}]},
            {"key": "providers", "kind": "cost", "currency": "USD", "versions": []}],
        "default_rate_card": "standard", "offers": offers, "holders": holders
    }))
    .unwrap()
}

/// Checks the faults of offers and holders: their places and what they say.
fn check(offers: Value, holders: Value, wanted: &[(&str, &str)]) {
    let faults = catalog(offers, holders).faults();
    let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(places, wanted.iter().map(|(place, _)| *place).collect::<Vec<_>>(), "{faults:?}");
    for (fault, (_, says)) in faults.iter().zip(wanted) {
        assert!(fault.reason.contains(says), "{fault:?}");
    }
}

#[test]
fn offers_that_cannot_be_are_refused() {
    let one = |change: Value, place: &str, says: &str| {
        let mut offer = json!({"key": "o", "source": "team", "card": "standard"});
        offer.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        check(json!([offer]), json!([]), &[(place, says)]);
    };
    one(json!({"key": "Q"}), "offers[Q]", "a key is");
    one(json!({"card": "none"}), "offers[o].card", "there is no rate card `none`");
    one(json!({"card": "providers"}), "offers[o].card", "`providers` is a cost card");
    one(json!({"card": null}), "offers[o]", "it has no price");
    one(json!({"meters": ["m", "n"]}), "offers[o].meters", "there is no meter `n`");
    one(json!({"parent": "p"}), "offers[o].parent", "there is no offer `p`");
    one(json!({"parent": "o"}), "offers[o].parent", "lead back to itself");
    one(json!({"overriding_key": ""}), "offers[o].overriding_key", "a key is");
    for multiplier in ["0", "-0.5", "1000.000000000001", "half", "0.0000000000001", ""] {
        let says = format!("`{multiplier}` is no decimal number above 0, up to 1000");
        one(json!({"multiplier": multiplier}), "offers[o].multiplier", &says);
    }
    for good in
        [json!({"multiplier": "1000"}), json!({"multiplier": "0.000000000001", "card": null})]
    {
        let mut offer = json!({"key": "o", "source": "team", "card": "standard"});
        offer.as_object_mut().unwrap().extend(good.as_object().unwrap().clone());
        check(json!([offer]), json!([]), &[]);
    }
}

#[test]
fn parents_that_go_round_are_refused() {
    let offer = |key: &str, parent: &str| json!({"key": key, "source": "team", "multiplier": "2", "parent": parent});
    // `d` hangs on the round and is not in it.
    let round = json!([offer("a", "b"), offer("b", "c"), offer("c", "a"), offer("d", "a")]);
    let says = "lead back to itself";
    let all =
        ["offers[a].parent", "offers[b].parent", "offers[c].parent"].map(|place| (place, says));
    check(round, json!([]), &all);
    let twice = json!([offer("a", "b"), offer("b", "c"), {"key": "c", "source": "contract", "card": "steps"},
        {"key": "a", "source": "team", "multiplier": "3"}]);
    check(twice, json!([]), &[("offers[a]", "two offers of this key")]);
}

#[test]
fn holders_that_cannot_be_are_refused() {
    let offers = json!([{"key": "o", "source": "contract", "multiplier": "0.5"}]);
    let one = |change: Value, place: &str, says: &str| {
        let mut holder = json!({"team": "t", "offer": "o", "from_us": 7});
        holder.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        check(offers.clone(), json!([holder]), &[(place, says)]);
    };
    one(json!({"team": ""}), "holders[0].team", "1 to 256 bytes");
    one(json!({"team": "t".repeat(257)}), "holders[0].team", "1 to 256 bytes");
    one(json!({"offer": "p"}), "holders[0].offer", "there is no offer `p`");
    one(json!({"until_us": 7}), "holders[0].until", "ends no later than it begins");
    one(json!({"until_us": 6}), "holders[0].until", "1970-01-01T00:00:00.000007Z");
    check(offers, json!([{"team": "t", "offer": "o", "from_us": 7, "until_us": 8}]), &[]);
}

#[test]
fn each_limit_holds() {
    let offer =
        |number: usize| json!({"key": format!("o{number}"), "source": "team", "multiplier": "2"});
    let offers = |count: usize| (0..count).map(offer).collect::<Value>();
    check(offers(OFFERS_MAX), json!([]), &[]);
    check(offers(OFFERS_MAX + 1), json!([]), &[("offers", "at most 1000")]);
    let holders = |count: usize| -> Value {
        (0..count)
            .map(|team| json!({"team": team.to_string(), "offer": "o0", "from_us": 0}))
            .collect()
    };
    check(offers(1), holders(HOLDERS_MAX), &[]);
    check(offers(1), holders(HOLDERS_MAX + 1), &[("holders", "at most 100000")]);
    // One after the other there may be more.
    let held = |count: usize, length: i64| -> Value {
        let of = |number: i64| json!({"team": "t", "offer": "o0", "from_us": number, "until_us": number + length});
        (0..i64::try_from(count).unwrap()).map(of).collect()
    };
    check(offers(1), held(500, 32), &[]);
    check(offers(1), held(HELD_MAX, 1_000), &[]);
    let says = "the team `t` holds more than 32 offers at once from 1970-01-01T00:00:00.000032Z on";
    check(offers(1), held(500, 33), &[("holders", says)]);
}

#[test]
fn a_document_without_offers_stays_as_it_is() {
    let text = r#"{"meters":[],"credit_units":[],"cards":[]}"#;
    let document: CatalogDocument = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&document).unwrap(), text);
    let offers = json!([{"key": "o", "source": "subscription", "multiplier": "0.5"}]);
    let holders = json!([{"team": "t", "offer": "o", "from_us": 0}]);
    let document = serde_json::to_value(catalog(offers.clone(), holders.clone())).unwrap();
    assert_eq!((&document["offers"], &document["holders"]), (&offers, &holders));
    for (list, unknown) in [
        ("offers", json!([{"key": "o", "source": "team", "multiplyer": "1"}])),
        ("holders", json!([{"team": "t", "offer": "o", "from": 0}])),
    ] {
        let mut document = document.clone();
        document[list] = unknown;
        assert!(serde_json::from_value::<CatalogDocument>(document).is_err());
    }
}

#[test]
fn a_catalog_counts_where_an_offered_card_does() {
    let offered = |card: &str| {
        let offers = json!([{"key": "o", "source": "team", "card": card}]);
        catalog(offers, json!([])).compile().unwrap()
    };
    assert!(offered("steps").counts);
    assert!(!offered("standard").counts);
    // A card that nobody can have prices nothing.
    let none = catalog(json!([]), json!([])).compile().unwrap();
    assert!(!none.counts && none.card_versions.len() == 1);
    let currencies: Vec<String> =
        offered("steps").card_versions.iter().map(|name| name.currency.to_string()).collect();
    assert_eq!(currencies, ["USD", "EUR"]);
}
