//! Rate cards and cost cards: versioned, effective-dated prices per meter and dimensions.
//!
//! A version holds rows. A row names a meter, the values of the dimensions it is for, and a price
//! for every `per` units, another price model ([`crate::pricing`]), or that the usage is unlimited.
//! The row with the most dimensions that fit wins; a row without dimensions is the fallback. No row
//! at all means *unpriced*, never zero; a price of zero is a price.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::{HashMap, hash_map::Entry};
use serde::{Deserialize, Serialize};

use crate::{
    money::Price,
    period::PeriodKind,
    pricing::{self, Terms},
};

mod model;
mod together;

pub use self::{
    model::{Blocks, Model, Tier, Total, Unit, UnitEach, UnitRound, Window},
    together::{MeterRow, faults_together},
};

/// Whether a card says what customers pay or what providers charge us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardKind {
    /// What customers pay.
    Rate,
    /// What providers charge us.
    Cost,
}

/// A row of a card's version. Amounts, quantities and percentages are decimal text. A row that has
/// only a `price` and `per` is a plain price; `docs/PRICING.md` explains the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRow {
    /// The meter.
    pub meter: String,
    /// Values of dimensions that the usage must have; none for the fallback row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
    /// How it charges; per unit where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// The price for `per` units, for a block of them, or for the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// How many units the price is for.
    #[serde(default = "one")]
    pub per: u64,
    /// Metered and free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlimited: bool,
    /// Units of each period that are free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub included: Option<String>,
    /// What is done with a block that is begun; up where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Prices by the running total, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
    /// Percent of the quantity, which is an amount of money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<String>,
    /// What the provider's cost is multiplied with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<String>,
    /// An amount for each event, added to the rest of its charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<String>,
    /// The least that a period with usage comes to, fees apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<String>,
    /// The most that a period comes to, fees apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<String>,
    /// How the meter's unit becomes the one that is priced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Other prices at some hours of the week.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// How long the running total goes on; a month where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodKind>,
    /// Whose running total it is; the meter's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Total>,
}

fn one() -> u64 {
    1
}

/// A row without a price, for one unit.
impl Default for RateRow {
    fn default() -> RateRow {
        RateRow {
            meter: String::new(),
            dimensions: BTreeMap::new(),
            model: None,
            price: None,
            per: one(),
            unlimited: false,
            included: None,
            blocks: None,
            tiers: Vec::new(),
            percent: None,
            factor: None,
            fee: None,
            minimum: None,
            maximum: None,
            unit: None,
            windows: Vec::new(),
            period: None,
            total: None,
        }
    }
}

/// Largest `per`: a price for a trillion units.
pub const PER_MAX: u64 = 1_000_000_000_000;

/// One version of a card; it never changes once published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardVersion {
    /// Number, from 1.
    pub version: u32,
    /// From which event time it holds, microseconds since 1970 UTC.
    pub effective_from_us: i64,
    /// Its rows.
    pub rates: Vec<RateRow>,
}

/// A card with all its published versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name, unique among the cards of the catalog.
    pub key: String,
    /// Rate or cost.
    pub kind: CardKind,
    /// ISO 4217 code or the key of a credit unit.
    pub currency: String,
    /// Versions in the order of their numbers.
    pub versions: Vec<CardVersion>,
    /// No longer to be used: it is no default card, and no offer names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
}

/// What a row says about usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rate {
    /// It costs this.
    Price(Price),
    /// It is metered and free.
    Unlimited,
    /// It is charged by one of the other price models.
    Terms(Arc<Terms>),
}

impl Rate {
    /// Its terms, where it is neither a plain price nor unlimited.
    #[must_use]
    pub fn terms(&self) -> Option<&Terms> {
        match self {
            Rate::Terms(terms) => Some(terms),
            Rate::Price(_) | Rate::Unlimited => None,
        }
    }
}

impl RateRow {
    /// The row's rate, or what is wrong with it.
    pub fn rate(&self) -> Result<Rate, String> {
        if self.per == 0 || self.per > PER_MAX {
            return Err(format!("`per` is {}; it must be between 1 and {PER_MAX}", self.per));
        }
        pricing::compile(self)
    }
}

impl CardVersion {
    /// The row that prices usage of `meter` with these dimensions: the one that
    /// [`RateTable::find`] takes its rate from, for explanations.
    #[must_use]
    pub fn row(&self, meter: &str, dimensions: &BTreeMap<String, String>) -> Option<&RateRow> {
        let rows = || self.rates.iter().filter(|row| row.meter == meter);
        let fits = |row: &&RateRow| {
            row.dimensions.iter().all(|(name, value)| dimensions.get(name) == Some(value))
        };
        // Among as many dimensions, the combination that came first in the card wins.
        let combination = |row: &RateRow| {
            rows().position(|first| first.dimensions.keys().eq(row.dimensions.keys()))
        };
        rows().filter(fits).min_by_key(|row| {
            (std::cmp::Reverse(row.dimensions.len()), combination(row).unwrap_or(usize::MAX))
        })
    }
}

/// The rows of one meter in one card version, ready for look-up.
#[derive(Clone, Debug, Default)]
pub struct RateTable {
    /// Rows that name the same dimensions, the most dimensions first.
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug)]
struct Shape {
    /// Numbers of the meter's dimensions that the rows name.
    dimensions: Vec<usize>,
    rows: HashMap<Box<[u8]>, Rate>,
}

/// Appends a dimension's value to a look-up key.
fn push_value(key: &mut Vec<u8>, value: &str) {
    key.extend_from_slice(&(value.len() as u64).to_le_bytes());
    key.extend_from_slice(value.as_bytes());
}

impl RateTable {
    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// Adds a row for values of the meter's dimensions, given by number in ascending order.
    /// Answers false where there is one already.
    pub fn insert(&mut self, dimensions: &[(usize, &str)], rate: Rate) -> bool {
        let numbers: Vec<usize> = dimensions.iter().map(|(number, _)| *number).collect();
        let mut key = Vec::new();
        for (_, value) in dimensions {
            push_value(&mut key, value);
        }
        let place =
            self.shapes.iter().position(|shape| shape.dimensions == numbers).unwrap_or_else(|| {
                let place = self
                    .shapes
                    .iter()
                    .position(|shape| shape.dimensions.len() < numbers.len())
                    .unwrap_or(self.shapes.len());
                self.shapes.insert(place, Shape { dimensions: numbers, rows: HashMap::new() });
                place
            });
        let Some(shape) = self.shapes.get_mut(place) else { return false };
        match shape.rows.entry(key.into_boxed_slice()) {
            Entry::Vacant(free) => {
                free.insert(rate);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Whether the charge of any row depends on a running total.
    #[must_use]
    pub fn counts(&self) -> bool {
        let mut rates = self.shapes.iter().flat_map(|shape| shape.rows.values());
        rates.any(|rate| rate.terms().is_some_and(|terms| terms.counting().is_some()))
    }

    /// The rate for usage with these values of the meter's dimensions. Among rows with equally many
    /// dimensions the one whose combination of dimensions came first in the card wins.
    pub fn find(&self, values: &[Option<impl AsRef<str>>], scratch: &mut Vec<u8>) -> Option<&Rate> {
        self.shapes.iter().find_map(|shape| {
            scratch.clear();
            for number in &shape.dimensions {
                push_value(scratch, values.get(*number)?.as_ref()?.as_ref());
            }
            shape.rows.get(scratch.as_slice())
        })
    }
}

#[cfg(test)]
mod tests;
