//! Rate cards and cost cards: versioned, effective-dated prices per meter and dimensions.
//!
//! A version holds rows. A row names a meter, the values of the dimensions it is for, and a price
//! for every `per` units, or that the usage is unlimited. The row with the most dimensions that fit
//! wins; a row without dimensions is the fallback. No row at all means *unpriced*, never zero; a
//! price of zero is a price.

use std::collections::BTreeMap;

use hashbrown::{HashMap, hash_map::Entry};
use serde::{Deserialize, Serialize};

use crate::money::{Amount, Price};

/// Whether a card says what customers pay or what providers charge us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardKind {
    /// What customers pay.
    Rate,
    /// What providers charge us.
    Cost,
}

/// A row of a card's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRow {
    /// The meter.
    pub meter: String,
    /// Values of dimensions that the usage must have; none for the fallback row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
    /// The price for `per` units, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// How many units the price is for.
    #[serde(default = "one")]
    pub per: u64,
    /// Metered and free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlimited: bool,
}

fn one() -> u64 {
    1
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
}

/// What a row says about usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// It costs this.
    Price(Price),
    /// It is metered and free.
    Unlimited,
}

impl RateRow {
    /// The row's rate, or what is wrong with it.
    pub fn rate(&self) -> Result<Rate, String> {
        if self.per == 0 || self.per > PER_MAX {
            return Err(format!("`per` is {}; it must be between 1 and {PER_MAX}", self.per));
        }
        match (&self.price, self.unlimited) {
            (Some(_), true) => Err("it has both a price and `unlimited`; keep one".into()),
            (None, false) => {
                Err("it has neither a price nor `unlimited`; a free row says so with price \"0\""
                    .into())
            }
            (None, true) => Ok(Rate::Unlimited),
            (Some(text), false) => {
                let amount = Amount::parse_exact(text)
                    .map_err(|_| format!("the price `{text}` is not a decimal number of at most 12 decimals below 10^20"))?;
                if amount < Amount::ZERO {
                    return Err(format!("the price `{text}` is negative"));
                }
                Ok(Rate::Price(Price { amount, per: self.per }))
            }
        }
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

    /// The rate for usage with these values of the meter's dimensions. Among rows with equally many
    /// dimensions the one whose combination of dimensions came first in the card wins.
    pub fn find(&self, values: &[Option<impl AsRef<str>>], scratch: &mut Vec<u8>) -> Option<Rate> {
        self.shapes.iter().find_map(|shape| {
            scratch.clear();
            for number in &shape.dimensions {
                push_value(scratch, values.get(*number)?.as_ref()?.as_ref());
            }
            shape.rows.get(scratch.as_slice()).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(text: &str) -> Rate {
        Rate::Price(Price { amount: Amount::parse_exact(text).unwrap(), per: 1 })
    }

    #[test]
    fn the_most_specific_row_wins_and_absence_is_no_price() {
        let mut table = RateTable::default();
        assert!(table.insert(&[(0, "gpt-4")], price("2")));
        assert!(table.insert(&[(0, "gpt-4"), (1, "eu")], price("3")));
        assert!(!table.insert(&[(0, "gpt-4")], price("9")));
        let mut scratch = Vec::new();
        assert_eq!(table.find(&[Some("gpt-4"), Some("eu")], &mut scratch), Some(price("3")));
        assert_eq!(table.find(&[Some("gpt-4"), Some("us")], &mut scratch), Some(price("2")));
        assert_eq!(table.find(&[Some("gpt-4"), None], &mut scratch), Some(price("2")));
        assert_eq!(table.find(&[Some("gpt-5"), Some("eu")], &mut scratch), None);
        assert!(table.insert(&[], Rate::Unlimited));
        assert_eq!(table.find(&[None::<&str>, None], &mut scratch), Some(Rate::Unlimited));
    }

    #[test]
    fn the_row_of_an_explanation_is_the_one_that_priced() {
        let names = ["model", "region", "tier"];
        let version = |shapes: &[&[(&str, &str)]]| CardVersion {
            version: 1,
            effective_from_us: 0,
            rates: shapes
                .iter()
                .zip(1..)
                .map(|(shape, number)| RateRow {
                    meter: "m".into(),
                    dimensions: shape
                        .iter()
                        .map(|(name, value)| ((*name).into(), (*value).into()))
                        .collect(),
                    price: Some(number.to_string()),
                    per: 1,
                    unlimited: false,
                })
                .collect(),
        };
        let versions = [
            version(&[
                &[("region", "a")],
                &[("model", "a")],
                &[("model", "b"), ("tier", "a")],
                &[],
            ]),
            version(&[
                &[],
                &[("tier", "b")],
                &[("model", "a")],
                &[("tier", "a")],
                &[("region", "a")],
            ]),
            version(&[&[("model", "b"), ("region", "b")], &[("region", "a"), ("tier", "b")]]),
        ];
        let values = [None, Some("a"), Some("b")];
        let mut scratch = Vec::new();
        for version in &versions {
            let mut table = RateTable::default();
            for row in &version.rates {
                let numbered = names.iter().enumerate();
                let numbered = numbered.filter_map(|(number, name)| {
                    row.dimensions.get(*name).map(|value| (number, value.as_str()))
                });
                assert!(table.insert(&numbered.collect::<Vec<_>>(), row.rate().unwrap()));
            }
            for number in 0..27 {
                let given = [number % 3, number / 3 % 3, number / 9].map(|place| values[place]);
                let dimensions: BTreeMap<String, String> = names
                    .iter()
                    .zip(given)
                    .filter_map(|(name, value)| Some(((*name).to_owned(), value?.to_owned())))
                    .collect();
                let row = version.row("m", &dimensions).map(|row| row.rate().unwrap());
                assert_eq!(row, table.find(&given, &mut scratch), "{given:?}");
                assert_eq!(version.row("other", &dimensions), None);
            }
        }
    }

    #[test]
    fn rows_are_refused_with_their_reason() {
        let row = |price: Option<&str>, per, unlimited| RateRow {
            meter: "m".into(),
            dimensions: BTreeMap::new(),
            price: price.map(Into::into),
            per,
            unlimited,
        };
        assert!(row(Some("1"), 0, false).rate().unwrap_err().contains("per"));
        assert!(row(Some("1"), 1, true).rate().unwrap_err().contains("both"));
        assert!(row(None, 1, false).rate().unwrap_err().contains("neither"));
        assert!(row(Some("-1"), 1, false).rate().unwrap_err().contains("negative"));
        assert!(row(Some("1e-13"), 1, false).rate().unwrap_err().contains("12 decimals"));
        assert_eq!(row(Some("0"), 1, false).rate(), Ok(price("0")));
    }

    #[test]
    fn a_price_is_for_one_unit_up_to_a_trillion() {
        let row = |per| RateRow {
            meter: "m".into(),
            dimensions: BTreeMap::new(),
            price: Some("1".into()),
            per,
            unlimited: false,
        };
        for per in [1, 2, PER_MAX - 1, PER_MAX] {
            let price = Price { amount: Amount::parse_exact("1").unwrap(), per };
            assert_eq!(row(per).rate(), Ok(Rate::Price(price)));
        }
        for per in [0, PER_MAX + 1, u64::MAX] {
            assert!(row(per).rate().unwrap_err().contains("between 1 and 1000000000000"), "{per}");
            // A row without a price says `per` as well.
            let free = RateRow { price: None, unlimited: true, ..row(per) };
            assert!(free.rate().is_err(), "{per}");
        }
        // The least that such a price comes to: one unit is charged a trillionth.
        let least = Price { amount: Amount::parse_exact("1").unwrap(), per: PER_MAX };
        assert_eq!(least.charge(crate::money::ONE).unwrap().raw(), 1);
    }
}
