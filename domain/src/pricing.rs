//! Price models, as functions of a running total.
//!
//! A model that looks at more than one usage is a function F of the running total of a period. Usage
//! that takes the total from b to b + q is charged F(b + q) − F(b), each exact in 256 bits and
//! rounded once by [`crate::money::round`]. So the charges of a period add up to F of its total, to
//! the last digit and whatever the order. F is 0 where the total is not above 0.
//!
//! [`Terms`] is what a row of a rate card says where it is more than one price for every unit; it is
//! made by [`crate::rate_card::RateRow::rate`]. `docs/PRICING.md` explains each model.

mod compile;
mod curve;
mod time;
mod unit;

use std::sync::Arc;

pub(crate) use self::compile::{compile, models};
pub use self::{
    compile::{FACTOR_MAX, PERCENT_MAX, TIERS_MAX, WINDOWS_MAX},
    time::Local,
};
use self::{curve::Running, time::Prices, unit::Unit};
use crate::{money::Amount, period::PeriodKind, quantity::Quantity};

/// What a row charges where it is more than one price for every unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    basis: Basis,
    /// Converts the quantity of each event.
    unit: Option<Unit>,
    /// Charged for each event.
    fee: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Basis {
    /// Each usage by itself.
    Usage(Prices),
    /// The running total.
    Total(Running),
    /// The provider's cost, times this factor.
    Cost { factor: Amount },
}

/// Which running total a charge depends on and adds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counting {
    /// How long it goes on.
    pub period: PeriodKind,
    /// Whether it is the row's own; otherwise all such rows of the meter share it.
    pub own: bool,
    /// The row's dimensions as canonical text, such as `model=gpt-4,region=eu`, where it is the row's
    /// own, `*` for a row without dimensions; empty for the meter's.
    pub scope: Arc<str>,
}

/// What a charge is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How much, as [`Terms::priced`] answers, in units of 10⁻¹².
    pub quantity: i128,
    /// The running total before it, in the same units; 0 where nothing counts.
    pub before: i128,
    /// Local time of the event; `None` where [`Terms::needs_local_time`] is false.
    pub local: Option<Local>,
    /// What the provider charges for it; `None` unknown.
    pub cost: Option<Amount>,
}

/// Why usage has no charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncharged {
    /// The charge is not below 10²⁰, or a total is beyond what can be computed.
    #[error("the charge is not below 10^20")]
    OutOfRange,
    /// The charge follows the provider's cost, which is not known.
    #[error("the provider's cost is not known")]
    CostUnknown,
}

impl Terms {
    /// The quantity that is priced, and that the running total grows by, in units of 10⁻¹²: the
    /// event's after its unit is converted. `None` where that is not below 10¹⁵.
    #[must_use]
    pub fn priced(&self, quantity: Quantity) -> Option<i128> {
        match &self.unit {
            None => Some(quantity.raw()),
            Some(unit) => unit.of_quantity(quantity),
        }
    }

    /// The running total that the charge depends on; `None` where it depends on none.
    #[must_use]
    pub fn counting(&self) -> Option<&Counting> {
        match &self.basis {
            Basis::Total(running) => Some(&running.counting),
            Basis::Usage(_) | Basis::Cost { .. } => None,
        }
    }

    /// Whether the charge depends on the local time of the event.
    #[must_use]
    pub fn needs_local_time(&self) -> bool {
        match &self.basis {
            Basis::Usage(prices) => prices.has_windows(),
            Basis::Total(running) => running.has_windows(),
            Basis::Cost { .. } => false,
        }
    }

    /// Whether the charge depends on the provider's cost.
    #[must_use]
    pub fn needs_cost(&self) -> bool {
        matches!(self.basis, Basis::Cost { .. })
    }

    /// Whether other terms put the same units into a running total.
    #[must_use]
    pub fn counts_like(&self, other: &Terms) -> bool {
        let of_total = |terms: &Terms| match &terms.basis {
            Basis::Total(running) => running.unit,
            Basis::Usage(_) | Basis::Cost { .. } => None,
        };
        (self.unit, of_total(self)) == (other.unit, of_total(other))
    }

    /// The charge: exact until it is rounded to twelve decimals, half to even.
    ///
    /// # Errors
    /// Where it is beyond the limit of an amount, or needs a cost that is not known.
    pub fn charge(&self, usage: &Usage) -> Result<Amount, Uncharged> {
        let amount = match &self.basis {
            Basis::Usage(prices) => prices.at(usage.local).charge(usage.quantity).map(Amount::raw),
            Basis::Total(running) => running.charge(usage),
            Basis::Cost { factor } => {
                usage.cost.ok_or(Uncharged::CostUnknown)?.checked_mul(*factor).map(Amount::raw)
            }
        };
        amount
            .and_then(|raw| raw.checked_add(self.fee.raw()))
            .and_then(Amount::from_raw)
            .ok_or(Uncharged::OutOfRange)
    }
}
