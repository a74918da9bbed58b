//! A row of a card as the outside sees it: the row inside, with its documentation.

use std::collections::BTreeMap;

use domain::{money::Amount, rate_card::RateRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A row; [`RateSchema`] documents it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RateForm(RateRow);

/// A row of a card: a price for `per` units, another model, or unlimited. The row with the most dimensions that
/// fit wins; one without dimensions is the fallback; no row at all is unpriced, never free. Numbers are decimal
/// text. docs/PRICING.md explains each model.
#[derive(Serialize, ToSchema)]
#[schema(as = Rate)]
pub(crate) struct RateSchema {
    /// The meter.
    meter: String,
    /// Values of dimensions that the usage must have.
    dimensions: Option<BTreeMap<String, String>>,
    /// `per_unit` (if absent), `package`, `graduated`, `volume`, `flat`, `percentage`, `graduated_percentage` or
    /// `cost_plus`.
    #[schema(example = "per_unit")]
    model: Option<String>,
    /// The price for `per` units, for a block of them, or for the period, as text.
    #[schema(example = "0.03")]
    price: Option<String>,
    /// How many units the price is for; 1 if absent.
    per: Option<u64>,
    /// Metered and free.
    unlimited: Option<bool>,
    /// Units of each period that are free.
    included: Option<String>,
    /// `package`: `up` (if absent) charges a block that is begun, `down` only whole ones.
    blocks: Option<String>,
    /// Prices by the running total, ascending.
    tiers: Option<Vec<TierSchema>>,
    /// Percent of the quantity, which is an amount of money.
    percent: Option<String>,
    /// `cost_plus`: what the provider's cost is multiplied with.
    factor: Option<String>,
    /// An amount for each event, added to the rest of its charge.
    fee: Option<String>,
    /// The least that a period with usage comes to, fees apart.
    minimum: Option<String>,
    /// The most that a period comes to, fees apart.
    maximum: Option<String>,
    /// How the meter's unit becomes the one that is priced.
    unit: Option<UnitSchema>,
    /// Other prices at some hours of the week; the first that fits counts.
    windows: Option<Vec<WindowSchema>>,
    /// `day`, `week`, `month` (if absent), `quarter`, `year` or `ever`, in the zone of the catalog.
    period: Option<String>,
    /// Whose running total it is: the `meter`'s (if absent), or that of the `row` alone.
    total: Option<String>,
}

/// The price of a part of the running total.
#[derive(Serialize, ToSchema)]
#[schema(as = Tier)]
pub(crate) struct TierSchema {
    /// Where it ends, that unit included; absent for the last.
    up_to: Option<String>,
    /// The price for `per` units.
    price: Option<String>,
    /// Percent of the quantity, in place of a price.
    percent: Option<String>,
    /// An amount for the tier as such.
    flat: Option<String>,
}

/// How a meter's unit becomes the one that is priced.
#[derive(Serialize, ToSchema)]
#[schema(as = UnitConversion)]
pub(crate) struct UnitSchema {
    /// How many of the meter's units are one that is priced.
    #[schema(example = "1073741824")]
    divide_by: String,
    /// Decimals that are kept; 12 if absent.
    decimals: Option<u8>,
    /// `up`, `down` or `half_even` (if absent).
    round: Option<String>,
    /// What is converted: the quantity of each `event` (if absent), or the total of the `period`.
    each: Option<String>,
}

/// Hours of the week that have a price of their own.
#[derive(Serialize, ToSchema)]
#[schema(as = PriceWindow)]
pub(crate) struct WindowSchema {
    /// The days that it begins on, `mon` to `sun`; every day if absent.
    days: Option<Vec<String>>,
    /// Its first minute by the local clock.
    #[schema(example = "20:00")]
    from: String,
    /// The first minute after it; earlier than `from` on the next day.
    #[schema(example = "08:00")]
    to: String,
    /// The price for `per` units.
    price: String,
}

impl RateForm {
    /// The row inside. A number that can be read is stored in its shortest form, so that `0.10` and `0.1` are the
    /// same published price; one that cannot be read is kept for the fault about it.
    pub fn inside(self) -> RateRow {
        let mut row = self.0;
        let own = [
            &mut row.price,
            &mut row.included,
            &mut row.percent,
            &mut row.factor,
            &mut row.fee,
            &mut row.minimum,
            &mut row.maximum,
        ];
        own.into_iter().flatten().for_each(shorten);
        for tier in &mut row.tiers {
            let all = [&mut tier.up_to, &mut tier.price, &mut tier.percent, &mut tier.flat];
            all.into_iter().flatten().for_each(shorten);
        }
        row.windows.iter_mut().for_each(|window| shorten(&mut window.price));
        row.unit.iter_mut().for_each(|unit| shorten(&mut unit.divide_by));
        row
    }

    /// The row as the outside sees it.
    pub fn outside(row: &RateRow) -> Self {
        Self(row.clone())
    }
}

fn shorten(text: &mut String) {
    *text = shortest(text);
}

/// Decimal text without needless zeros; any other as it is.
pub(crate) fn shortest(text: &str) -> String {
    Amount::parse_exact(text).map_or_else(|_| text.to_owned(), |amount| amount.to_string())
}
