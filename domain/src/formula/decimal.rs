//! Numbers of a formula: exact decimals of up to 256 bits. What does not fit is refused, never rounded.

use std::cmp::Ordering;

use ethnum::I256;

use crate::{
    money::{self, SCALE},
    rate_card::UnitRound,
};

/// Most decimals of an intermediate result. What the mantissa holds ends below 77 digits.
const DECIMALS_MAX: u32 = 60;

/// The mantissa times 10^(−decimals).
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    mantissa: I256,
    decimals: u32,
}

impl Decimal {
    pub fn whole(number: i64) -> Decimal {
        Decimal { mantissa: I256::from(number), decimals: 0 }
    }

    /// Of a raw value at scale 12, in as few decimals as it has.
    pub fn from_raw(raw: i128) -> Decimal {
        let (mut raw, mut decimals) = (raw, SCALE);
        while decimals > 0 && raw.checked_rem(10) == Some(0) {
            raw = raw.wrapping_div(10);
            decimals = decimals.wrapping_sub(1);
        }
        Decimal { mantissa: I256::from(raw), decimals }
    }

    pub fn is_negative(self) -> bool {
        self.mantissa.is_negative()
    }

    pub fn is_zero(self) -> bool {
        self.mantissa == I256::ZERO
    }

    pub fn negated(self) -> Option<Decimal> {
        Some(Decimal { mantissa: self.mantissa.checked_neg()?, ..self })
    }

    pub fn add(self, other: Decimal) -> Option<Decimal> {
        let (own, others, decimals) = self.aligned(other)?;
        Some(Decimal { mantissa: own.checked_add(others)?, decimals })
    }

    pub fn multiply(self, other: Decimal) -> Option<Decimal> {
        let decimals = self.decimals.checked_add(other.decimals)?;
        let mantissa = self.mantissa.checked_mul(other.mantissa)?;
        (decimals <= DECIMALS_MAX).then_some(Decimal { mantissa, decimals })
    }

    /// The quotient with so many decimals; the divisor is not zero.
    pub fn divide(self, divisor: Decimal, places: u32, round: UnitRound) -> Option<Decimal> {
        // mantissa × 10^−a ÷ (divisor × 10^−b), in units of 10^−places.
        let (mut above, mut below) = (self.mantissa, divisor.mantissa);
        let (up, down) = (divisor.decimals.checked_add(places)?, self.decimals);
        above = above.checked_mul(power_of_ten(up.saturating_sub(down))?)?;
        below = below.checked_mul(power_of_ten(down.saturating_sub(up))?)?;
        if below.is_negative() {
            (above, below) = (above.checked_neg()?, below.checked_neg()?);
        }
        let quotient = above.checked_div(below)?;
        let rest = above.checked_rem(below)? != I256::ZERO;
        let mantissa = match round {
            UnitRound::HalfEven => money::round(above, below),
            UnitRound::Up if rest => quotient.checked_add(above.signum())?,
            UnitRound::Up | UnitRound::Down => quotient,
        };
        Some(Decimal { mantissa, decimals: places })
    }

    /// Rounded to so many decimals, where it has more.
    pub fn round(self, places: u32, round: UnitRound) -> Option<Decimal> {
        if self.decimals <= places {
            return Some(self);
        }
        self.divide(Decimal::whole(1), places, round)
    }

    /// The whole number at it, or else the next one to a side.
    pub fn whole_beside(self, side: Ordering) -> Option<Decimal> {
        let towards_zero = self.round(0, UnitRound::Down)?;
        let is_beside = matches!(
            (self.compare(towards_zero)?, side),
            (Ordering::Less, Ordering::Less) | (Ordering::Greater, Ordering::Greater)
        );
        let step = if side.is_gt() { 1 } else { -1 };
        if is_beside { towards_zero.add(Decimal::whole(step)) } else { Some(towards_zero) }
    }

    /// The raw value at scale 12, to the nearest and the even one of two, and whether it was rounded.
    pub fn raw(self) -> Option<(i128, bool)> {
        let rounded = self.round(SCALE, UnitRound::HalfEven)?;
        let up = power_of_ten(SCALE.checked_sub(rounded.decimals)?)?;
        let raw = i128::try_from(rounded.mantissa.checked_mul(up)?).ok()?;
        Some((raw, rounded.compare(self)? != Ordering::Equal))
    }

    /// `None` where no common number of decimals fits.
    pub fn compare(self, other: Decimal) -> Option<Ordering> {
        let (own, others, _) = self.aligned(other)?;
        Some(own.cmp(&others))
    }

    /// Both mantissas with the decimals of the one that has more.
    fn aligned(self, other: Decimal) -> Option<(I256, I256, u32)> {
        let decimals = self.decimals.max(other.decimals);
        let with = |one: Decimal| {
            one.mantissa.checked_mul(power_of_ten(decimals.checked_sub(one.decimals)?)?)
        };
        Some((with(self)?, with(other)?, decimals))
    }
}

fn power_of_ten(exponent: u32) -> Option<I256> {
    I256::from(10).checked_pow(exponent)
}
