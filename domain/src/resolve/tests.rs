//! Which price applies: the rule in other words than those of the code, and worked examples.

use std::{cell::RefCell, collections::BTreeMap};

use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    catalog::CatalogDocument,
    offer::Offer,
    preview::{Data, Hypothetical, PreviewLine, preview},
    rating::{TotalName, Totals},
};

mod documents;
mod examples;

/// What a team used so far.
#[derive(Default)]
struct Used(RefCell<BTreeMap<TotalName, i128>>);

impl Totals for Used {
    fn before(&self, name: &TotalName) -> i128 {
        self.0.borrow().get(name).copied().unwrap_or(0)
    }
}

/// The one line of usage of a meter, whose event type has its name.
fn line(
    catalog: &Catalog,
    used: &Used,
    (team, meter): (&str, &str),
    data: &Value,
    time_us: i64,
) -> PreviewLine {
    let data: Box<RawValue> = serde_json::value::to_raw_value(data).unwrap();
    let asked = Hypothetical {
        event_type: meter,
        source: "test",
        team,
        user: None,
        app: None,
        feature: None,
        time_us,
        data: &Data::read(&data).unwrap(),
    };
    let (_, mut lines) = preview(catalog, used, &asked).unwrap();
    let line = lines.pop().unwrap();
    if let Some((name, _, after)) = &line.total {
        used.0.borrow_mut().insert(name.clone(), *after);
    }
    line
}

/// A price for three units of a meter, told apart by its number.
fn row(meter: &str, d: Option<&str>, number: u32) -> Value {
    let mut row = json!({"meter": meter, "price": format!("0.{:06}", number + 1), "per": 3});
    if let Some(d) = d {
        row["dimensions"] = json!({"d": d});
    }
    row
}

/// Which of the rows `m`, `m` with `d` of `a` or `b`, and `n` a version has.
fn rows(mask: u32, number: u32) -> Value {
    let all = [("m", None), ("m", Some("a")), ("m", Some("b")), ("n", None)];
    (0..4_u32)
        .zip(all)
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(bit, (meter, d))| row(meter, d, number * 4 + bit))
        .collect()
}

fn card() -> impl Strategy<Value = Vec<(i64, u32)>> {
    prop::collection::vec((0..12_i64, 0..16_u32), 0..4)
}

fn offer(place: usize) -> impl Strategy<Value = Value> {
    let price = (prop::option::of(0..4_usize), prop::option::of(1..40_u32))
        .prop_filter("a price", |(card, multiplier)| card.is_some() || multiplier.is_some());
    let source = prop::sample::select(vec!["contract", "subscription", "team"]);
    let meters = prop::sample::select(vec![
        json!([]),
        json!([]),
        json!(["m"]),
        json!(["n"]),
        json!(["n", "m"]),
    ]);
    let group = prop::option::of(prop::sample::select(vec!["x", "y"]));
    let parent = prop::option::weighted(0.3, 0..place.max(1));
    (price, source, meters, group, parent, 0..2_i32).prop_map(
        move |((card, multiplier), source, meters, group, parent, weight)| {
            // Keys are not in the order of the places.
            let mut offer =
                json!({"key": key(place), "source": source, "meters": meters, "weight": weight});
            let mut set = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    offer[name] = value.into();
                }
            };
            set("card", card.map(|card| format!("c{card}")));
            set("multiplier", multiplier.map(|tenths| format!("{}.{}", tenths / 10, tenths % 10)));
            set("overriding_key", group.map(str::to_owned));
            set("parent", parent.filter(|parent| *parent < place).map(key));
            if offer["multiplier"] == "0.0" {
                offer["multiplier"] = "1".into();
            }
            offer
        },
    )
}

fn key(place: usize) -> String {
    format!("o{}", place * 5 % 8)
}

fn holder() -> impl Strategy<Value = Value> {
    let time = (0..12_i64, prop::option::of(1..12_i64));
    (0..2_u32, 0..8_usize, time).prop_map(|(team, offer, (from_us, length))| {
        let until_us = length.map(|length| from_us + length);
        json!({"team": format!("t{team}"), "offer": key(offer), "from_us": from_us, "until_us": until_us})
    })
}

prop_compose! {
    fn document()(
        cards in prop::collection::vec(card(), 4),
        offers in (0..8_usize).map(offer).collect::<Vec<_>>(),
        holders in prop::collection::vec(holder(), 0..8),
        default in prop::option::weighted(0.8, 0..4_usize),
    ) -> CatalogDocument {
        let card = |(number, versions): (u32, &Vec<(i64, u32)>)| {
            let version = |(version, (from, mask)): (u32, &(i64, u32))| json!({
                "version": version, "effective_from_us": from, "rates": rows(*mask, number * 4 + version)});
            let versions: Vec<Value> = (1..).zip(versions).map(version).collect();
            json!({"key": format!("c{number}"), "kind": "rate", "currency": "USD", "versions": versions})
        };
        let meter = |key: &str| json!({"key": key, "event_types": [key], "aggregation": "sum",
            "value": "$.q", "dimensions": if key == "m" { json!({"d": "$.d"}) } else { json!({}) }});
        serde_json::from_value(json!({
            "meters": [meter("m"), meter("n")],
            "cards": (0..).zip(&cards).map(card).collect::<Vec<Value>>(),
            "default_rate_card": default.map(|card| format!("c{card}")),
            "offers": offers,
            "holders": holders,
        }))
        .unwrap()
    }
}

/// The rule, in the words of the document.
struct Rule<'a> {
    document: &'a CatalogDocument,
    team: &'a str,
    meter: &'a str,
    dimensions: &'a BTreeMap<String, String>,
    time_us: i64,
}

/// A card's version and its price for three units.
type Price = (String, u32, String);

impl<'a> Rule<'a> {
    fn holds(&self, offer: &Offer) -> bool {
        let own = self.document.holders.iter().any(|holder| {
            holder.team == self.team
                && holder.offer == offer.key
                && holder.from_us <= self.time_us
                && holder.until_us.is_none_or(|until_us| self.time_us < until_us)
        });
        let parent = |key: &String| self.document.offers.iter().find(|other| other.key == *key);
        own || offer.parent.as_ref().and_then(parent).is_some_and(|parent| self.holds(parent))
    }

    /// When the version of a card that is effective began, and its price.
    fn price(&self, card: &str) -> Option<(i64, Price)> {
        let card = self.document.cards.iter().find(|one| one.key == card)?;
        let effective = card.versions.iter().filter(|one| one.effective_from_us <= self.time_us);
        let version = effective.max_by_key(|one| (one.effective_from_us, one.version))?;
        let row = version.row(self.meter, self.dimensions)?;
        let price = (card.key.clone(), version.version, row.price.clone().unwrap());
        Some((version.effective_from_us, price))
    }

    /// Offers that can price the line, and since when their version is effective.
    fn candidates(&self) -> Vec<(&'a Offer, i64)> {
        let held = self.document.offers.iter().filter(|offer| self.holds(offer));
        let of_meter = held.filter(|offer| {
            offer.meters.is_empty() || offer.meters.iter().any(|one| one == self.meter)
        });
        let able = |offer: &'a Offer| match &offer.card {
            Some(card) => Some((offer, self.price(card)?.0)),
            None => Some((offer, i64::MIN)),
        };
        of_meter.filter_map(able).collect()
    }

    /// The key of what survives, its price and its multiplier.
    fn choose(&self) -> Option<(Option<String>, Price, Option<String>)> {
        let mut rest = self.candidates();
        let survivor = survivor_of(&rest);
        let mut by = survivor;
        while let Some((offer, _)) = by {
            if let Some(card) = &offer.card {
                let price = self.price(card)?.1;
                let first = survivor?.0;
                return Some((Some(first.key.clone()), price, first.multiplier.clone()));
            }
            // What would otherwise win.
            rest.retain(|(other, _)| other.key != offer.key);
            by = survivor_of(&rest);
        }
        let price = self.price(self.document.default_rate_card.as_deref()?)?.1;
        let (key, multiplier) =
            survivor.map(|(offer, _)| (offer.key.clone(), offer.multiplier.clone())).unzip();
        Some((key, price, multiplier.flatten()))
    }
}

/// Groups first, then what is left of them.
fn survivor_of<'a>(candidates: &[(&'a Offer, i64)]) -> Option<(&'a Offer, i64)> {
    let mut groups: BTreeMap<String, (&Offer, i64)> = BTreeMap::new();
    for (offer, since_us) in candidates {
        let alone = || format!("alone {}", offer.key);
        let group = offer.overriding_key.as_ref().map_or_else(alone, |key| format!("group {key}"));
        let rank = |(offer, since_us): &(&Offer, i64)| {
            (offer.source, -offer.weight, std::cmp::Reverse(*since_us), offer.key.clone())
        };
        let best = groups.entry(group).or_insert((offer, *since_us));
        if rank(&(offer, *since_us)) < rank(best) {
            *best = (offer, *since_us);
        }
    }
    groups.into_values().min_by_key(|(offer, _)| (offer.source, -offer.weight, offer.key.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn one_offer_survives_and_rating_takes_what_resolve_says(
        document in document(), team in "t[0-2]", meter in "[mn]", d in "[abc]", time_us in 0..24_i64, quantity in 1..1000_u32,
    ) {
        let catalog = document.compile().unwrap();
        let dimensions = BTreeMap::from([("d".to_owned(), d.clone())]);
        let found = resolve(&catalog, Some(&team), &meter, &dimensions, time_us).unwrap();
        let rule = Rule { document: &document, team: &team, meter: &meter, dimensions: &dimensions, time_us };

        // One survives, and it is the one of the rule.
        let chosen = found.chosen.as_ref().map(|chosen| {
            let Rate::Price(_) = chosen.rate else { panic!("{chosen:?}") };
            (chosen.offer.as_deref().map(str::to_owned), chosen.card.card.to_string(), chosen.card.version,
             chosen.multiplier.map(|number| number.to_string()))
        });
        let wanted = rule.choose();
        let short = |text: &str| Amount::parse_exact(text).unwrap().to_string();
        prop_assert_eq!(&chosen, &wanted.as_ref().map(|(offer, (card, version, _), multiplier)| {
            (offer.clone(), card.clone(), *version, multiplier.as_deref().map(short))
        }));
        let survivors: Vec<usize> = found.candidates.iter().enumerate()
            .filter(|(_, candidate)| candidate.chosen).map(|(place, _)| place).collect();
        prop_assert_eq!(survivors, Vec::from_iter(found.chosen.as_ref().map(|_| 0)));
        prop_assert!(found.candidates.iter().all(|candidate| !candidate.reason.is_empty()));

        // Rating charges by it.
        let line = line(&catalog, &Used::default(), (&team, &meter), &json!({"q": quantity, "d": d}), time_us);
        prop_assert_eq!(&line.card, &found.chosen.as_ref().map(|chosen| chosen.card.clone()));
        let charge = wanted.map(|(_, (.., price), multiplier)| {
            let price = crate::money::Price { amount: Amount::parse_exact(&price).unwrap(), per: 3 };
            let charge = price.charge(i128::from(quantity) * crate::money::ONE).unwrap();
            let multiplier = multiplier.map(|text| Amount::parse_exact(&text).unwrap());
            multiplier.map_or(charge, |multiplier| charge.checked_mul(multiplier).unwrap())
        });
        prop_assert_eq!(line.charge.amount(), charge);
    }

    #[test]
    fn candidates_stand_in_the_order_of_the_rule(document in document(), team in "t[01]", meter in "[mn]", d in "[abc]", time_us in 0..24_i64) {
        let catalog = document.compile().unwrap();
        let dimensions = BTreeMap::from([("d".to_owned(), d)]);
        let found = resolve(&catalog, Some(&team), &meter, &dimensions, time_us).unwrap();
        let rule = Rule { document: &document, team: &team, meter: &meter, dimensions: &dimensions, time_us };
        let mut rest = rule.candidates();
        let mut told = found.candidates.iter();
        while let Some((offer, _)) = survivor_of(&rest) {
            prop_assert_eq!(told.next().unwrap().offer.as_deref(), Some(offer.key.as_str()));
            rest.retain(|(other, _)| other.key != offer.key);
        }
        // Then the default card, and what cannot price the line, each once.
        let others: Vec<&Candidate> = told.collect();
        prop_assert!(others.iter().skip(1).all(|candidate| candidate.offer.is_some() && !candidate.chosen));
        let mut keys: Vec<_> = found.candidates.iter().map(|candidate| candidate.offer.clone()).collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        prop_assert_eq!(keys.len(), count);
    }
}
