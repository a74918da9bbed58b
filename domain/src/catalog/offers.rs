//! Offers and their holders: their checks, and the form that rating reads.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;

use super::{CatalogDocument, Compiler, KEY_RULE, is_key};
use crate::{
    event::FIELD_BYTES_MAX,
    money::{Amount, ONE},
    offer::{HELD_MAX, HOLDERS_MAX, Holder, MULTIPLIER_MAX, OFFERS_MAX, Offer, OfferSource},
    rate_card::{Card, CardKind},
    time,
};

/// The offers of a catalog and who holds them.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// In the order in which groups compete: by source, then the highest weight, then the key.
    pub list: Vec<CompiledOffer>,
    held: HashMap<String, Vec<Holding>>,
}

#[derive(Debug)]
pub(crate) struct CompiledOffer {
    pub key: Arc<str>,
    pub source: OfferSource,
    pub weight: i32,
    pub card: Option<OfferCard>,
    pub card_key: Option<Arc<str>>,
    pub multiplier: Option<Amount>,
    pub overriding_key: Option<Arc<str>>,
    /// The number of its overriding key; offers of one number override each other.
    pub group: Option<usize>,
    /// Numbers of its meters, ascending; all where there are none.
    meters: Vec<usize>,
    /// Numbers of the offers that its holders have: itself and all below it, ascending.
    gives: Vec<usize>,
}

/// Where a meter has the rates of an offer's card.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OfferCard {
    /// It is the default card.
    Default,
    /// Among those that offers name.
    Offered(usize),
}

/// A team holds an offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub offer: usize,
    /// The first event time.
    pub from_us: i64,
    /// The first one after it.
    pub until_us: i64,
}

impl Offers {
    /// Numbers of the offers that a team has at a time, ascending, in place of what is in `numbers`.
    pub fn of(&self, team: &str, time_us: i64, numbers: &mut Vec<usize>) {
        numbers.clear();
        let at = |holding: &&Holding| (holding.from_us..holding.until_us).contains(&time_us);
        for holding in self.holdings(team).iter().filter(at) {
            numbers.extend(self.given(holding.offer));
        }
        numbers.sort_unstable();
        numbers.dedup();
    }

    /// What a team holds at any time.
    pub fn holdings(&self, team: &str) -> &[Holding] {
        if self.held.is_empty() {
            return &[];
        }
        self.held.get(team).map(Vec::as_slice).unwrap_or_default()
    }

    /// The number of an offer.
    pub fn number(&self, key: &str) -> Option<usize> {
        self.list.iter().position(|offer| *offer.key == *key)
    }

    /// Numbers of the offers that holders of an offer have.
    pub fn given(&self, offer: usize) -> &[usize] {
        self.list.get(offer).map(|offer| offer.gives.as_slice()).unwrap_or_default()
    }
}

impl CompiledOffer {
    /// Whether it is for a meter.
    pub fn is_for(&self, meter: usize) -> bool {
        self.meters.is_empty() || self.meters.binary_search(&meter).is_ok()
    }
}

impl Compiler {
    /// Numbers the cards that offers name, so that tables are made of them.
    pub(super) fn number_offered_cards(&mut self, document: &CatalogDocument) {
        for card in document.offers.iter().filter_map(|offer| offer.card.as_ref()) {
            let number = self.offered_cards.len();
            self.offered_cards.entry_ref(card.as_str()).or_insert(number);
        }
    }

    /// Checks offers and holders and makes them ready.
    pub(super) fn offers(&mut self, document: &CatalogDocument) {
        self.limit("offers", document.offers.len(), OFFERS_MAX);
        self.limit("holders", document.holders.len(), HOLDERS_MAX);
        let mut offers: Vec<&Offer> = document.offers.iter().collect();
        let rank = |offer: &Offer| (offer.source, std::cmp::Reverse(offer.weight));
        offers.sort_by(|one, two| rank(one).cmp(&rank(two)).then_with(|| one.key.cmp(&two.key)));
        let mut numbers = HashMap::new();
        for (number, offer) in offers.iter().enumerate() {
            if numbers.insert(offer.key.as_str(), number).is_some() {
                self.fault(place(offer), "there are two offers of this key");
            }
        }
        let cards: HashMap<&str, &Card> =
            document.cards.iter().map(|card| (card.key.as_str(), card)).collect();
        let mut groups = HashMap::new();
        for offer in &offers {
            let mut compiled = self.offer(document, &cards, offer);
            compiled.group = offer.overriding_key.as_deref().map(|key| {
                let number = groups.len();
                *groups.entry(key).or_insert(number)
            });
            self.catalog.offers.list.push(compiled);
        }
        self.parents(&offers, &numbers);
        self.holders(&document.holders, &numbers);
    }

    pub(super) fn limit(&mut self, place: &str, count: usize, most: usize) {
        if count > most {
            self.fault(place.to_owned(), format!("there are {count}; at most {most}"));
        }
    }

    /// An offer by itself, without its group and what it gives.
    fn offer(
        &mut self,
        document: &CatalogDocument,
        cards: &HashMap<&str, &Card>,
        offer: &Offer,
    ) -> CompiledOffer {
        if !is_key(&offer.key) {
            self.fault(place(offer), KEY_RULE);
        }
        if offer.overriding_key.as_deref().is_some_and(|key| !is_key(key)) {
            self.fault(format!("{}.overriding_key", place(offer)), KEY_RULE);
        }
        if offer.card.is_none() && offer.multiplier.is_none() {
            self.fault(place(offer), "it has no price; give it a card, a multiplier or both");
        }
        let card = offer.card.as_deref().and_then(|key| self.card_of(document, cards, offer, key));
        let multiplier = offer.multiplier.as_deref().and_then(|text| {
            let multiplier = multiplier(text);
            if multiplier.is_none() {
                let reason = format!(
                    "`{text}` is no decimal number above 0, up to {MULTIPLIER_MAX}, with at most 12 decimals"
                );
                self.fault(format!("{}.multiplier", place(offer)), reason);
            }
            multiplier
        });
        let mut meters = Vec::with_capacity(offer.meters.len());
        for meter in &offer.meters {
            match self.meter_numbers.get(meter) {
                Some(number) => meters.push(*number),
                None => {
                    let reason = format!("there is no meter `{meter}`");
                    self.fault(format!("{}.meters", place(offer)), reason);
                }
            }
        }
        meters.sort_unstable();
        CompiledOffer {
            key: Arc::from(offer.key.as_str()),
            source: offer.source,
            weight: offer.weight,
            card,
            card_key: offer.card.as_deref().map(Arc::from),
            multiplier,
            overriding_key: offer.overriding_key.as_deref().map(Arc::from),
            group: None,
            meters,
            gives: Vec::new(),
        }
    }

    fn card_of(
        &mut self,
        document: &CatalogDocument,
        cards: &HashMap<&str, &Card>,
        offer: &Offer,
        key: &str,
    ) -> Option<OfferCard> {
        let card = cards.get(key);
        let reason = match card.map(|card| card.kind) {
            Some(CardKind::Rate) if card.is_some_and(|card| card.archived) => {
                format!("the card `{key}` is archived; name another one, or unarchive it")
            }
            Some(CardKind::Rate) if document.default_rate_card.as_deref() == Some(key) => {
                return Some(OfferCard::Default);
            }
            Some(CardKind::Rate) => {
                return self.offered_cards.get(key).copied().map(OfferCard::Offered);
            }
            Some(CardKind::Cost) => {
                format!(
                    "`{key}` is a cost card, which says what providers charge; name a rate card"
                )
            }
            None => format!("there is no rate card `{key}`"),
        };
        self.fault(format!("{}.card", place(offer)), reason);
        None
    }

    /// Checks the parents and gives what is below an offer to whoever has it.
    fn parents(&mut self, offers: &[&Offer], numbers: &HashMap<&str, usize>) {
        let parent = |number: usize| -> Option<usize> {
            numbers.get(offers.get(number)?.parent.as_deref()?).copied()
        };
        for (number, offer) in offers.iter().enumerate() {
            if let Some(name) = &offer.parent
                && !numbers.contains_key(name.as_str())
            {
                let reason = format!("there is no offer `{name}`");
                self.fault(format!("{}.parent", place(offer)), reason);
            }
            // No way up is longer than there are offers, so one that goes round ends as well.
            let up = std::iter::successors(Some(number), |number| parent(*number));
            for (steps, above) in up.take(offers.len().saturating_add(1)).enumerate() {
                if steps > 0 && above == number {
                    let reason = "its parents lead back to itself; leave one of them out";
                    self.fault(format!("{}.parent", place(offer)), reason);
                    break;
                }
                if let Some(above) = self.catalog.offers.list.get_mut(above) {
                    above.gives.push(number);
                }
            }
        }
    }

    fn holders(&mut self, holders: &[Holder], numbers: &HashMap<&str, usize>) {
        for (index, holder) in holders.iter().enumerate() {
            let place = |field: &str| format!("holders[{index}].{field}");
            if holder.team.is_empty() || holder.team.len() > FIELD_BYTES_MAX {
                let reason = format!("the key of a team has 1 to {FIELD_BYTES_MAX} bytes");
                self.fault(place("team"), reason);
            }
            if holder.until_us.is_some_and(|until_us| until_us <= holder.from_us) {
                let reason = format!(
                    "it ends no later than it begins, which is at {}",
                    time::format(holder.from_us)
                );
                self.fault(place("until"), reason);
            }
            let Some(offer) = numbers.get(holder.offer.as_str()).copied() else {
                let reason = format!("there is no offer `{}`", holder.offer);
                self.fault(place("offer"), reason);
                continue;
            };
            let until_us = holder.until_us.unwrap_or(i64::MAX);
            let holding = Holding { offer, from_us: holder.from_us, until_us };
            self.catalog.offers.held.entry_ref(holder.team.as_str()).or_default().push(holding);
        }
        let held = self.catalog.offers.held.iter();
        let crowded = held.filter_map(|(team, held)| Some((team.clone(), too_many(held)?)));
        // In the order of their names, which that of the table is not.
        for (team, from_us) in crowded.collect::<BTreeMap<_, _>>() {
            let reason = format!(
                "the team `{team}` holds more than {HELD_MAX} offers at once from {} on",
                time::format(from_us)
            );
            self.fault("holders".into(), reason);
        }
    }
}

fn place(offer: &Offer) -> String {
    format!("offers[{}]", offer.key)
}

fn multiplier(text: &str) -> Option<Amount> {
    let most = i128::from(MULTIPLIER_MAX).saturating_mul(ONE);
    let multiplier = Amount::parse_exact(text).ok()?;
    (1..=most).contains(&multiplier.raw()).then_some(multiplier)
}

/// From when on a team holds more at once than it may.
fn too_many(held: &[Holding]) -> Option<i64> {
    if held.len() <= HELD_MAX {
        return None;
    }
    let mut changes: Vec<(i64, bool)> = held
        .iter()
        .flat_map(|holding| [(holding.from_us, true), (holding.until_us, false)])
        .collect();
    // Of one time, what ends comes before what begins.
    changes.sort_unstable();
    let mut at_once = 0_usize;
    for (time_us, begins) in changes {
        at_once = if begins { at_once.saturating_add(1) } else { at_once.saturating_sub(1) };
        if at_once > HELD_MAX {
            return Some(time_us);
        }
    }
    None
}
