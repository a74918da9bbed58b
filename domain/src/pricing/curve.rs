//! Models as functions of a running total.

use ethnum::I256;

use super::{
    Counting, Usage,
    time::{Local, Prices},
    unit::Unit,
};
use crate::money::{Amount, ONE, round};

/// A function of a running total, with what is done to the total before and to its value after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub counting: Counting,
    /// Converts the total.
    pub unit: Option<Unit>,
    /// What of a total is free, at scale 12.
    pub included: i128,
    pub curve: Curve,
    /// The least that a total above 0 comes to.
    pub minimum: Option<Amount>,
    /// The most that a total comes to.
    pub maximum: Option<Amount>,
}

/// What the part of a total that is not included comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    /// One price for every unit.
    PerUnit(Prices),
    /// A price for every block of `units`; those begun count if `begun`.
    Blocks { amount: Amount, units: u64, begun: bool },
    /// Straight pieces, each from the end of the one before; prices are for `per` units.
    Pieces { pieces: Vec<Piece>, per: u64 },
}

/// A straight piece of a curve: `fixed + slope × total`, over the curve's divisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// It holds for totals above this, at scale 12.
    pub above: i128,
    /// An amount at scale 12, times the divisor.
    pub fixed: I256,
    /// An amount at scale 12 for each unit of `per`.
    pub slope: i128,
}

/// What amount times total is divided by where the amount is for `per` units.
pub(super) fn divisor(per: u64) -> I256 {
    I256::from(per.max(1)).wrapping_mul(I256::from(ONE))
}

impl Running {
    /// Whether the local time matters.
    pub fn has_windows(&self) -> bool {
        matches!(&self.curve, Curve::PerUnit(prices) if prices.has_windows())
    }

    /// What the usage adds, as a raw amount; `None` beyond the limits.
    pub fn charge(&self, usage: &Usage) -> Option<i128> {
        let after = usage.before.checked_add(usage.quantity)?;
        let (before, after) = (self.at(usage.before, usage.local)?, self.at(after, usage.local)?);
        i128::try_from(after.checked_sub(before)?).ok()
    }

    /// What a total comes to, rounded.
    fn at(&self, total: i128, local: Option<Local>) -> Option<I256> {
        let total = match &self.unit {
            Some(unit) if total > 0 => unit.convert(total)?,
            _ => total,
        };
        if total <= 0 {
            return Some(I256::ZERO);
        }
        let value = self.curve.at(total.checked_sub(self.included)?, local)?;
        // Bounds are whole in the last decimal, so it is the same whether they hold before rounding.
        let bound = |amount: Amount| I256::from(amount.raw());
        let value = self.minimum.map_or(value, |minimum| value.max(bound(minimum)));
        Some(self.maximum.map_or(value, |maximum| value.min(bound(maximum))))
    }
}

impl Curve {
    fn at(&self, total: i128, local: Option<Local>) -> Option<I256> {
        if total <= 0 {
            return Some(I256::ZERO);
        }
        let total_wide = I256::from(total);
        match self {
            Curve::PerUnit(prices) => {
                let price = prices.at(local);
                let product = I256::from(price.amount.raw()).checked_mul(total_wide)?;
                Some(round(product, divisor(price.per)))
            }
            Curve::Blocks { amount, units, begun } => {
                let (size, blocks) = (divisor(*units), total_wide.checked_div(divisor(*units))?);
                let rest = total_wide.checked_rem(size)? != I256::ZERO;
                let blocks = if rest && *begun { blocks.checked_add(I256::ONE)? } else { blocks };
                blocks.checked_mul(I256::from(amount.raw()))
            }
            Curve::Pieces { pieces, per } => {
                let number = pieces.partition_point(|piece| piece.above < total);
                let piece = pieces.get(number.checked_sub(1)?)?;
                let product = I256::from(piece.slope).checked_mul(total_wide)?;
                Some(round(product.checked_add(piece.fixed)?, divisor(*per)))
            }
        }
    }
}
