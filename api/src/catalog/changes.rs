//! What a new catalog changes of prices, row by row.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::CatalogDocument,
    offer::Offer,
    rate_card::{Card, CardKind, CardVersion, Model, RateRow},
};

/// A row that is another one than in the version before it.
#[derive(Debug)]
pub(crate) struct RowChange<'c> {
    pub kind: CardKind,
    pub meter: &'c str,
    pub dimensions: &'c BTreeMap<String, String>,
    pub before: Option<CardRow<'c>>,
    pub after: Option<CardRow<'c>>,
    /// Whether it prices usage: it is of a default card, or of one that an offer names.
    pub in_use: bool,
    /// From which event time the version with the new row holds.
    pub effective_from_us: i64,
}

/// A row with its card.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CardRow<'c> {
    pub card: &'c Card,
    pub version: u32,
    pub row: &'c RateRow,
}

type Rows<'c> = BTreeMap<(&'c str, &'c BTreeMap<String, String>), CardRow<'c>>;

/// Rows that change, by meter. Each new version of a card is compared with the one before it; where
/// another card becomes the default one, its newest version with that of the card before.
pub(crate) fn row_changes<'c>(
    old: &'c CatalogDocument,
    new: &'c CatalogDocument,
) -> Vec<RowChange<'c>> {
    let mut changes = Vec::new();
    for kind in [CardKind::Rate, CardKind::Cost] {
        let (before, after) = (default_card(old, kind), default_card(new, kind));
        let key = |card: Option<&Card>| card.map(|card| card.key.clone());
        if key(before) == key(after) {
            continue;
        }
        let last = |card: Option<&'c Card>| Some((card?, card?.versions.last()?));
        compare(kind, last(before), last(after), true, &mut changes);
    }
    for card in &new.cards {
        let is_default =
            |document| default_card(document, card.kind).is_some_and(|it| it.key == card.key);
        if is_default(new) && !is_default(old) {
            continue;
        }
        let in_use = is_default(new) || is_offered(new, card);
        let published = old.cards.iter().find(|other| other.key == card.key);
        let mut before = published.and_then(|card| Some((card, card.versions.last()?)));
        let known = published.map_or(0, |card| card.versions.len());
        for version in card.versions.iter().skip(known) {
            compare(card.kind, before, Some((card, version)), in_use, &mut changes);
            before = Some((card, version));
        }
    }
    changes.sort_by(|left, right| {
        (left.meter, left.dimensions, left.effective_from_us).cmp(&(
            right.meter,
            right.dimensions,
            right.effective_from_us,
        ))
    });
    changes
}

/// Meters whose usage may be charged otherwise: their prices in use change, who has which, or what they
/// count; all of them where zones change, and periods with them.
pub(crate) fn meters_affected(
    old: &CatalogDocument,
    new: &CatalogDocument,
    changes: &[RowChange<'_>],
) -> BTreeSet<String> {
    let follows_cost: BTreeSet<&str> = default_card(new, CardKind::Rate)
        .and_then(|card| card.versions.last())
        .map(|version| version.rates.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|row| row.model == Some(Model::CostPlus))
        .map(|row| row.meter.as_str())
        .collect();
    let prices = changes.iter().filter(|change| {
        change.in_use && (change.kind == CardKind::Rate || follows_cost.contains(change.meter))
    });
    let meters = old.meters.iter().filter(|meter| !new.meters.contains(meter));
    let zones = (&old.zone, &old.team_zones) != (&new.zone, &new.team_zones);
    let of_zones = old.meters.iter().filter(|_| zones);
    prices
        .map(|change| change.meter.to_owned())
        .chain(of_zones.map(|meter| meter.key.clone()))
        .chain(meters.map(|meter| meter.key.clone()))
        .chain(meters_of_offers(old, new))
        .collect()
}

fn is_offered(document: &CatalogDocument, card: &Card) -> bool {
    let mut cards = document.offers.iter().filter_map(|offer| offer.card.as_ref());
    card.kind == CardKind::Rate && cards.any(|key| *key == card.key)
}

/// Meters of offers that change, or whose holders do, and of the offers below them.
fn meters_of_offers(old: &CatalogDocument, new: &CatalogDocument) -> BTreeSet<String> {
    let both = [old, new];
    let only_in = |one: &CatalogDocument, other: &CatalogDocument| -> Vec<String> {
        let offers = one.offers.iter().filter(|offer| !other.offers.contains(offer));
        let held = holdings(one);
        let holders = held
            .difference(&holdings(other))
            .map(|(offer, ..)| (*offer).to_owned())
            .collect::<Vec<_>>();
        offers.map(|offer| offer.key.clone()).chain(holders).collect()
    };
    let mut changed: BTreeSet<String> = only_in(old, new).into_iter().collect();
    changed.extend(only_in(new, old));
    // As often as an offer may be below another one.
    let mut known = 0;
    while known < changed.len() {
        known = changed.len();
        let offers = both.into_iter().flat_map(|document| &document.offers);
        let below = offers
            .filter(|offer| offer.parent.as_ref().is_some_and(|parent| changed.contains(parent)));
        let below: Vec<String> = below.map(|offer| offer.key.clone()).collect();
        changed.extend(below);
    }
    let meters = both.into_iter().flat_map(|document| {
        let offers = document.offers.iter().filter(|offer| changed.contains(&offer.key));
        offers.flat_map(|offer| meters_of_offer(document, offer))
    });
    meters.collect()
}

/// Who holds which offer, and when: the offer first.
fn holdings(document: &CatalogDocument) -> BTreeSet<(&str, &str, i64, Option<i64>)> {
    let holders = document.holders.iter();
    holders
        .map(|held| (held.offer.as_str(), held.team.as_str(), held.from_us, held.until_us))
        .collect()
}

/// The meters that an offer is for, those that its card has rows for, or all.
fn meters_of_offer(document: &CatalogDocument, offer: &Offer) -> Vec<String> {
    if !offer.meters.is_empty() {
        return offer.meters.clone();
    }
    match &offer.card {
        Some(key) => {
            let card = document.cards.iter().find(|card| card.key == *key);
            let newest = card.and_then(|card| card.versions.last());
            let rows = newest.map(|version| version.rates.as_slice()).unwrap_or_default();
            rows.iter().map(|row| row.meter.clone()).collect()
        }
        None => document.meters.iter().map(|meter| meter.key.clone()).collect(),
    }
}

/// The default card of a kind.
pub(crate) fn default_card(document: &CatalogDocument, kind: CardKind) -> Option<&Card> {
    let key = match kind {
        CardKind::Rate => document.default_rate_card.as_deref(),
        CardKind::Cost => document.default_cost_card.as_deref(),
    }?;
    document.cards.iter().find(|card| card.kind == kind && card.key == key)
}

type Held<'c> = Option<(&'c Card, &'c CardVersion)>;

fn compare<'c>(
    kind: CardKind,
    before: Held<'c>,
    after: Held<'c>,
    in_use: bool,
    changes: &mut Vec<RowChange<'c>>,
) {
    let (old, new) = (rows(before), rows(after));
    let currency = |row: Option<&CardRow<'c>>| row.map(|row| row.card.currency.as_str());
    let effective_from_us = after.map_or(0, |(_, version)| version.effective_from_us);
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (before, after) = (old.get(name), new.get(name));
        let same = before.map(|row| row.row) == after.map(|row| row.row)
            && currency(before) == currency(after);
        if !same {
            changes.push(RowChange {
                kind,
                meter: name.0,
                dimensions: name.1,
                before: before.copied(),
                after: after.copied(),
                in_use,
                effective_from_us,
            });
        }
    }
}

fn rows(held: Held<'_>) -> Rows<'_> {
    let rows = held.map(|(card, version)| {
        version.rates.iter().map(move |row| {
            let name = (row.meter.as_str(), &row.dimensions);
            (name, CardRow { card, version: version.version, row })
        })
    });
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use domain::meter::MeterDefinition;

    use super::*;

    fn row(meter: &str, price: &str) -> RateRow {
        RateRow { meter: meter.into(), price: Some(price.into()), ..RateRow::default() }
    }

    fn card(key: &str, kind: CardKind, versions: &[&[RateRow]]) -> Card {
        let version = |(number, rates): (usize, &&[RateRow])| CardVersion {
            version: u32::try_from(number).unwrap() + 1,
            effective_from_us: i64::try_from(number).unwrap(),
            rates: rates.to_vec(),
        };
        let versions = versions.iter().enumerate().map(version).collect();
        Card { key: key.into(), kind, currency: "USD".into(), versions, archived: false }
    }

    fn catalog(cards: Vec<Card>, default: &str) -> CatalogDocument {
        let meter = |key: &str| -> MeterDefinition {
            let text =
                format!(r#"{{"key": "{key}", "event_types": ["e"], "aggregation": "count"}}"#);
            serde_json::from_str(&text).unwrap()
        };
        CatalogDocument {
            meters: ["a", "b", "c"].map(meter).to_vec(),
            cards,
            default_rate_card: Some(default.into()),
            default_cost_card: Some("costs".into()),
            ..CatalogDocument::default()
        }
    }

    fn told(old: &CatalogDocument, new: &CatalogDocument) -> (Vec<String>, Vec<String>) {
        let changes = row_changes(old, new);
        let price = |row: &Option<CardRow<'_>>| {
            row.map_or("none".into(), |row| {
                format!(
                    "{}:{}:{}",
                    row.card.key,
                    row.version,
                    row.row.price.as_deref().unwrap_or("-")
                )
            })
        };
        let line = |change: &RowChange<'_>| {
            let used = if change.in_use { "" } else { " unused" };
            format!("{} {} -> {}{used}", change.meter, price(&change.before), price(&change.after))
        };
        let meters = meters_affected(old, new, &changes).into_iter().collect();
        (changes.iter().map(line).collect(), meters)
    }

    #[test]
    fn each_new_version_is_compared_with_the_one_before() {
        let first = [row("a", "1"), row("b", "1")];
        let second = [row("a", "2"), row("b", "1"), row("c", "3")];
        let third = [row("b", "1"), row("c", "3")];
        let rate = CardKind::Rate;
        let old = catalog(vec![card("one", rate, &[&first])], "one");
        let new = catalog(vec![card("one", rate, &[&first, &second, &third])], "one");
        let lines = ["a one:1:1 -> one:2:2", "a one:2:2 -> none", "c none -> one:2:3"];
        assert_eq!(
            told(&old, &new),
            (lines.map(str::to_owned).to_vec(), vec!["a".into(), "c".into()])
        );
        assert_eq!(told(&new, &new), (vec![], vec![]));

        // Another default card: what is charged changes though no card does.
        let both = vec![card("one", rate, &[&first]), card("two", rate, &[&third])];
        let (old, new) = (catalog(both.clone(), "one"), catalog(both.clone(), "two"));
        let lines = ["a one:1:1 -> none", "c none -> two:1:3"];
        assert_eq!(
            told(&old, &new),
            (lines.map(str::to_owned).to_vec(), vec!["a".into(), "c".into()])
        );

        // A card that prices nothing affects nobody.
        let mut grown = both;
        grown[1] = card("two", rate, &[&third, &second]);
        let (lines, meters) = told(&old, &catalog(grown, "one"));
        assert_eq!((lines, meters), (vec!["a none -> two:2:2 unused".to_owned()], vec![]));
    }

    #[test]
    fn costs_affect_prices_that_follow_them_and_meters_what_they_count() {
        let plus =
            RateRow { meter: "a".into(), model: Some(Model::CostPlus), ..RateRow::default() };
        let rates = [plus, row("b", "1")];
        let (cheap, dear) = ([row("a", "1"), row("b", "1")], [row("a", "2"), row("b", "2")]);
        let of = |costs: &[&[RateRow]]| {
            let cards =
                vec![card("one", CardKind::Rate, &[&rates]), card("costs", CardKind::Cost, costs)];
            catalog(cards, "one")
        };
        let (old, mut new) = (of(&[&cheap]), of(&[&cheap, &dear]));
        let (lines, meters) = told(&old, &new);
        assert_eq!((lines.len(), meters), (2, vec!["a".to_owned()]), "{lines:?}");
        new.meters[2].event_types.push("f".into());
        assert_eq!(told(&old, &new).1, ["a", "c"]);
    }

    #[test]
    fn zones_affect_all_meters() {
        let old = catalog(vec![card("one", CardKind::Rate, &[&[row("a", "1")]])], "one");
        let mut new = old.clone();
        assert_eq!(told(&old, &new).1, Vec::<String>::new());
        let (team, zone) = ("acme".to_owned(), "Asia/Tokyo".to_owned());
        new.team_zones.push(domain::catalog::TeamZone { team, zone, from_us: None });
        assert_eq!(told(&old, &new).1, ["a", "b", "c"]);
        let zoned = CatalogDocument { zone: Some("Europe/Berlin".into()), ..old.clone() };
        assert_eq!(told(&old, &zoned).1, ["a", "b", "c"]);
    }

    #[test]
    fn offers_and_their_holders_affect_the_meters_that_they_are_for() {
        let rates = [row("a", "1")];
        let cards = vec![
            card("one", CardKind::Rate, &[&rates]),
            card("two", CardKind::Rate, &[&[row("b", "1")]]),
        ];
        let offer = |key: &str, fields: &str| -> Offer {
            let text = format!(r#"{{"key": "{key}", "source": "team", {fields}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let old = catalog(cards, "one");
        let meters = |old: &CatalogDocument, new: &CatalogDocument| told(old, new).1;
        let mut new = old.clone();
        new.offers.push(offer("card", r#""card": "two""#));
        assert_eq!(meters(&old, &new), ["b"]);
        assert_eq!(meters(&new, &old), ["b"]);
        new.cards[1].versions.push(CardVersion {
            version: 2,
            effective_from_us: 0,
            rates: vec![row("b", "2")],
        });
        let mut before = new.clone();
        before.cards[1].versions.pop();
        assert_eq!(told(&before, &new).0, ["b two:1:1 -> two:2:2"], "an offered card is in use");
        new.offers.push(offer("few", r#""multiplier": "0.5", "meters": ["c"], "parent": "card""#));
        let mut held = new.clone();
        held.holders.push(domain::offer::Holder {
            team: "acme".into(),
            offer: "card".into(),
            from_us: 0,
            until_us: None,
        });
        assert_eq!(meters(&new, &held), ["b", "c"], "and what is below it");
        assert_eq!(meters(&held, &held), Vec::<String>::new());
        new.offers.push(offer("all", r#""multiplier": "0.5""#));
        assert_eq!(meters(&old, &new), ["a", "b", "c"]);
    }
}
