//! Conversion of a meter's unit into the one that is priced.

use ethnum::I256;

use crate::{
    money::{ONE, SCALE, round},
    quantity::{QUANTITY_RAW_LIMIT, Quantity},
    rate_card::UnitRound,
};

/// Divides, and keeps so many decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The divisor at scale 12, above 0.
    pub divide_by: i128,
    /// Decimals that are kept, at most 12.
    pub decimals: u8,
    /// What becomes of the others. Up is away from zero and down is towards it, so that a correction
    /// takes back just what the usage gave.
    pub round: UnitRound,
}

impl Unit {
    /// A quantity converted; `None` where that is not below 10¹⁵.
    pub fn of_quantity(&self, quantity: Quantity) -> Option<i128> {
        let converted = self.convert(quantity.raw())?;
        (converted.unsigned_abs() < QUANTITY_RAW_LIMIT.unsigned_abs()).then_some(converted)
    }

    /// A raw value at scale 12 converted to one at scale 12; `None` where 128 bits do not hold it.
    pub fn convert(&self, raw: i128) -> Option<i128> {
        let (numerator, divisor) = (self.numerator(raw)?, I256::from(self.divide_by));
        let quotient = numerator.checked_div(divisor)?;
        let rest = numerator.checked_rem(divisor)? != I256::ZERO;
        let kept = match self.round {
            UnitRound::HalfEven => round(numerator, divisor),
            UnitRound::Up if rest => quotient.checked_add(numerator.signum())?,
            UnitRound::Up | UnitRound::Down => quotient,
        };
        let zeros = SCALE.checked_sub(u32::from(self.decimals))?;
        i128::try_from(kept).ok()?.checked_mul(10_i128.checked_pow(zeros)?)
    }

    /// What is divided by the divisor, in units of the last decimal that is kept.
    fn numerator(&self, raw: i128) -> Option<I256> {
        // Raw value and divisor have the same scale, so only the decimals are left.
        let decimals = 10_i128.checked_pow(u32::from(self.decimals))?;
        debug_assert!(decimals <= ONE, "at most twelve decimals");
        I256::from(raw).checked_mul(I256::from(decimals))
    }
}
