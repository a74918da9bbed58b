//! What two changes of one catalog come to together.
//!
//! A draft was made from a version of the catalog (`base`), and the catalog may have moved on since. Each
//! object (a meter, a card, an offer, who holds it, a default) that only one side changed is as that side has
//! it. One that both changed, to different things, is for people to decide.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::{CatalogDocument, CreditUnit, TeamZone},
    meter::MeterDefinition,
    offer::{Holder, Offer},
    rate_card::Card,
};

/// A draft put on top of a catalog.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// With the draft's objects where both sides changed one.
    pub document: CatalogDocument,
    /// Places of the objects that the draft changes, such as `cards[standard]`.
    pub changed: Vec<String>,
    /// Those of them that the catalog changed too, to something else.
    pub outdated: Vec<String>,
}

/// What each side has of one thing.
#[derive(Clone, Copy)]
struct Sides<T> {
    base: T,
    draft: T,
    current: T,
}

/// Puts a draft that was made from `base` on top of the `current` catalog.
pub(crate) fn merge(
    base: &CatalogDocument,
    draft: &CatalogDocument,
    current: &CatalogDocument,
) -> Merged {
    let mut merged = Merged::default();
    let all = Sides { base, draft, current };
    merged.document = CatalogDocument {
        meters: merged.list(all.of(|it| it.meters.as_slice()), |meter: &MeterDefinition| {
            format!("meters[{}]", meter.key)
        }),
        credit_units: merged.list(all.of(|it| it.credit_units.as_slice()), |unit: &CreditUnit| {
            format!("credit_units[{}]", unit.key)
        }),
        cards: merged
            .list(all.of(|it| it.cards.as_slice()), |card: &Card| format!("cards[{}]", card.key)),
        default_rate_card: merged.one("default_rate_card", all.of(|it| &it.default_rate_card)),
        default_cost_card: merged.one("default_cost_card", all.of(|it| &it.default_cost_card)),
        zone: merged.one("zone", all.of(|it| &it.zone)),
        team_zones: merged.list(all.of(|it| it.team_zones.as_slice()), |of_team: &TeamZone| {
            format!("team_zones[{}]", of_team.team)
        }),
        offers: merged.list(all.of(|it| it.offers.as_slice()), |offer: &Offer| {
            format!("offers[{}]", offer.key)
        }),
        holders: merged.list(all.of(|it| it.holders.as_slice()), |holder: &Holder| {
            format!("holders[{} of {}]", holder.team, holder.offer)
        }),
    };
    if base == current {
        // The order of the draft is its author's.
        merged.document = draft.clone();
    }
    merged
}

impl<'d> Sides<&'d CatalogDocument> {
    fn of<T>(self, part: impl Fn(&'d CatalogDocument) -> T) -> Sides<T> {
        Sides { base: part(self.base), draft: part(self.draft), current: part(self.current) }
    }
}

impl Merged {
    /// The side that says what an object is.
    fn one<T: Clone + PartialEq>(&mut self, place: &str, sides: Sides<&T>) -> T {
        if sides.draft == sides.base {
            return sides.current.clone();
        }
        self.changed.push(place.to_owned());
        if sides.current != sides.base && sides.current != sides.draft {
            self.outdated.push(place.to_owned());
        }
        sides.draft.clone()
    }

    /// A list of objects: in the order of the current one, and behind them those that only the draft has.
    fn list<T: Clone + PartialEq>(
        &mut self,
        sides: Sides<&[T]>,
        place: impl Fn(&T) -> String,
    ) -> Vec<T> {
        let by_place = |items: &[T]| {
            let mut found: BTreeMap<String, Vec<T>> = BTreeMap::new();
            for item in items {
                found.entry(place(item)).or_default().push(item.clone());
            }
            found
        };
        let (base, draft, current) =
            (by_place(sides.base), by_place(sides.draft), by_place(sides.current));
        let mut told = BTreeSet::new();
        let mut items = Vec::new();
        for item in sides.current.iter().chain(sides.draft).chain(sides.base) {
            let place = place(item);
            let of =
                |side: &BTreeMap<String, Vec<T>>| side.get(&place).cloned().unwrap_or_default();
            let (base, draft, current) = (of(&base), of(&draft), of(&current));
            if told.insert(place.clone()) {
                let sides = Sides { base: &base, draft: &draft, current: &current };
                items.extend(self.one(&place, sides));
            }
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog(meters: &[(&str, &str)], default: Option<&str>) -> CatalogDocument {
        let meters: Vec<_> = meters
            .iter()
            .map(|(key, unit)| {
                json!({"key": key, "event_types": ["e"], "aggregation": "count", "unit": unit})
            })
            .collect();
        serde_json::from_value(json!({"meters": meters, "default_rate_card": default})).unwrap()
    }

    #[test]
    fn each_side_keeps_what_it_alone_changed() {
        let base = catalog(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], None);
        // The draft changes b, removes c, adds e; the catalog changes a, removes d, adds f.
        let draft = catalog(&[("a", "1"), ("b", "2"), ("d", "1"), ("e", "2")], Some("new"));
        let current = catalog(&[("f", "3"), ("a", "3"), ("b", "1"), ("c", "1")], None);
        let merged = merge(&base, &draft, &current);
        assert_eq!(merged.outdated, Vec::<String>::new());
        assert_eq!(
            merged.changed,
            ["meters[b]", "meters[c]", "meters[e]", "default_rate_card"],
            "the draft's own changes"
        );
        assert_eq!(
            merged.document,
            catalog(&[("f", "3"), ("a", "3"), ("b", "2"), ("e", "2")], Some("new"))
        );
        // Nobody else changed anything: the draft as it is, in its order.
        let turned = catalog(&[("b", "1"), ("a", "1")], None);
        let merged = merge(&base, &turned, &base);
        assert_eq!((&merged.document, &*merged.outdated), (&turned, &[] as &[String]));
    }

    #[test]
    fn what_both_changed_otherwise_is_outdated() {
        let base = catalog(&[("a", "1"), ("b", "1"), ("c", "1")], Some("old"));
        let draft = catalog(&[("a", "2"), ("b", "2"), ("new", "2")], Some("new"));
        // a: to another thing; b: to the same; c: changed here and removed there; new: another new one.
        let current = catalog(&[("a", "3"), ("b", "2"), ("c", "3"), ("new", "3")], Some("other"));
        let merged = merge(&base, &draft, &current);
        assert_eq!(merged.outdated, ["meters[a]", "meters[c]", "meters[new]", "default_rate_card"]);
        assert_eq!(merged.document, draft, "the draft's, for people to look at");
    }
}
