//! Which price applies: one rule, for rating and for whoever asks.
//!
//! The candidates of a line are what its team has at the event's time: offers that it holds and those
//! below them, where they can price the line, and the default card. [`crate::offer::Offer`] says in
//! which order they stand. The first one survives; what a multiplier without a card multiplies is
//! the charge by the next one that has a card. [`resolve`] tells of all of them.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use crate::{
    catalog::{CardVersionName, Catalog, CompiledOffer, EffectiveRates, Meter, OfferCard},
    money::Amount,
    offer::OfferSource,
    rate_card::Rate,
};

mod told;

/// A price that was found, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What prices the line; none where nobody knows a price.
    pub chosen: Option<Chosen>,
    /// All that was looked at: first what could price the line, in the order of the rule, then what
    /// could not.
    pub candidates: Vec<Candidate>,
}

/// What prices a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The offer that survived; none for the default card.
    pub offer: Option<Arc<str>>,
    /// The version whose row says the price.
    pub card: CardVersionName,
    /// What the row says.
    pub rate: Rate,
    /// What the charge is multiplied with.
    pub multiplier: Option<Amount>,
}

/// Something that could price a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the offer came with; none for the default card.
    pub source: Option<OfferSource>,
    /// The key of the offer; none for the default card.
    pub offer: Option<Arc<str>>,
    /// Its rate card; none where it has only a multiplier.
    pub card: Option<Arc<str>>,
    /// The version of that card that is effective at the time and has a row for the usage.
    pub version: Option<u32>,
    /// What it multiplies a charge with.
    pub multiplier: Option<Amount>,
    /// The weight of the offer; 0 for the default card.
    pub weight: i32,
    /// Names the offers that it overrides and that override it.
    pub overriding_key: Option<Arc<str>>,
    /// Whether it is the one that survived.
    pub chosen: bool,
    /// In words, why it was chosen or why not.
    pub reason: String,
}

/// A row that can price a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'c> {
    pub rate: &'c Rate,
    /// Number of the card version in the catalog.
    pub card_version: u32,
    pub effective_from_us: i64,
}

/// An offer that can price a line.
#[derive(Clone, Copy, Debug)]
struct Able<'c> {
    /// The number of the offer, by which groups compete.
    number: usize,
    offer: &'c CompiledOffer,
    /// By its card; none where it has only a multiplier.
    row: Option<Row<'c>>,
}

/// Few in place, without memory of their own.
type Ables<'c> = SmallVec<[Able<'c>; 8]>;

/// What prices a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'c> {
    pub row: Row<'c>,
    pub multiplier: Option<Amount>,
    /// The number of the offer that survived; none for the default card.
    offer: Option<usize>,
    /// The number of the offer whose card it is; none for the default card.
    base: Option<usize>,
}

/// What prices usage of a meter (its number and itself) with these values of its dimensions, for a
/// team that has these offers at that time, ascending.
pub(crate) fn choose<'c>(
    catalog: &'c Catalog,
    offers: &[usize],
    meter: (usize, &'c Meter),
    values: &[Option<impl AsRef<str>>],
    time_us: i64,
    key: &mut Vec<u8>,
) -> Option<Choice<'c>> {
    let default = find(&meter.1.rates, values, time_us, key);
    let default = default.map(|row| Choice { row, multiplier: None, offer: None, base: None });
    if offers.is_empty() {
        return default;
    }
    let able = able(catalog, offers, meter, values, time_us, key);
    survivor(&able, default)
}

/// The row of a card's rates for values of the meter's dimensions at a time.
pub(crate) fn find<'c>(
    rates: &'c [EffectiveRates],
    values: &[Option<impl AsRef<str>>],
    time_us: i64,
    key: &mut Vec<u8>,
) -> Option<Row<'c>> {
    let rates = effective(rates, time_us)?;
    let rate = rates.table.find(values, key)?;
    let EffectiveRates { card_version, effective_from_us, .. } = *rates;
    Some(Row { rate, card_version, effective_from_us })
}

fn effective(rates: &[EffectiveRates], time_us: i64) -> Option<&EffectiveRates> {
    rates.iter().find(|rates| rates.effective_from_us <= time_us)
}

/// The rates of an offer's card for a meter.
fn rates_of(meter: &Meter, card: OfferCard) -> &[EffectiveRates] {
    match card {
        OfferCard::Default => &meter.rates,
        OfferCard::Offered(number) => {
            meter.offered.get(&number).map(Vec::as_slice).unwrap_or_default()
        }
    }
}

/// Those of the offers that can price a line, or multiply what does, in the order of their numbers.
fn able<'c>(
    catalog: &'c Catalog,
    offers: &[usize],
    (number, meter): (usize, &'c Meter),
    values: &[Option<impl AsRef<str>>],
    time_us: i64,
    key: &mut Vec<u8>,
) -> Ables<'c> {
    let mut able = Ables::new();
    for offer_number in offers {
        let Some(offer) = catalog.offers.list.get(*offer_number) else { continue };
        if !offer.is_for(number) {
            continue;
        }
        let row = match offer.card.map(|card| find(rates_of(meter, card), values, time_us, key)) {
            Some(None) => continue,
            Some(row) => row,
            None => None,
        };
        able.push(Able { number: *offer_number, offer, row });
    }
    able
}

/// The offer that survives, and the row that it charges by.
fn survivor<'c>(able: &Ables<'c>, default: Option<Choice<'c>>) -> Option<Choice<'c>> {
    let Some(first) = winner(able) else { return default };
    let with_card: Ables<'c> = match first.row {
        Some(_) => SmallVec::from_elem(first, 1),
        // An offer without a card is never the newer one: between the others nothing changes without it.
        None => able.iter().filter(|able| able.row.is_some()).copied().collect(),
    };
    let base = winner(&with_card);
    let row = match base {
        Some(base) => base.row,
        None => default.map(|default| default.row),
    };
    Some(Choice {
        row: row?,
        multiplier: first.offer.multiplier,
        offer: Some(first.number),
        base: base.map(|base| base.number),
    })
}

/// The one that survives of all: in the order of their numbers the first that no newer version
/// of its group, of the same source and weight, overrides.
fn winner<'c>(able: &[Able<'c>]) -> Option<Able<'c>> {
    able.iter().find(|one| !able.iter().any(|other| other.is_newer_than(one))).copied()
}

impl Able<'_> {
    /// Whether only the newer version of its card decides between this one and another, for this one.
    fn is_newer_than(&self, other: &Able<'_>) -> bool {
        let since_us = |able: &Able<'_>| able.row.map_or(i64::MIN, |row| row.effective_from_us);
        self.offer.group.is_some()
            && self.offer.group == other.offer.group
            && self.offer.source == other.offer.source
            && self.offer.weight == other.offer.weight
            && since_us(self) > since_us(other)
    }
}

/// Which price applies to usage of a meter with these dimensions at a time, for a team or, without
/// one, for whoever has no offer; none where the catalog has no such meter. Names of dimensions that
/// the meter has not are ignored. The price is the one that rating takes.
#[must_use]
pub fn resolve(
    catalog: &Catalog,
    team: Option<&str>,
    meter: &str,
    dimensions: &BTreeMap<String, String>,
    time_us: i64,
) -> Option<Resolution> {
    let number = catalog.meters.iter().position(|known| &*known.key == meter)?;
    let meter = catalog.meters.get(number)?;
    let values: Vec<Option<&str>> =
        meter.dimensions.iter().map(|name| dimensions.get(&**name).map(String::as_str)).collect();
    let asked = told::Asked { catalog, team, number, meter, values: &values, time_us };
    Some(asked.resolution())
}

#[cfg(test)]
mod tests;
