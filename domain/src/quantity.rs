//! Quantities of usage: exact decimals at scale 12, smaller than 10¹⁵. The unit is the meter's.

use std::fmt;

use crate::money::{NumberError, ONE, Parsed, format_scaled, parse_scaled};

/// Quantities are smaller than 10¹⁵, so their raw values are smaller than this.
pub const QUANTITY_RAW_LIMIT: i128 = 1_000_000_000_000_000 * ONE;

/// How much was used, in units of 10⁻¹² of the meter's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);
    /// One unit.
    pub const ONE: Quantity = Quantity(ONE);

    /// Reads a quantity from its text; also says whether it was rounded to twelve decimals.
    pub fn parse(text: &str) -> Result<(Quantity, bool), NumberError> {
        let Parsed { raw, rounded } = parse_scaled(text, QUANTITY_RAW_LIMIT)?;
        Ok((Quantity(raw), rounded))
    }

    /// A quantity from its raw value; `None` where it is not below 10¹⁵.
    #[must_use]
    pub fn from_raw(raw: i128) -> Option<Quantity> {
        (raw.unsigned_abs() < QUANTITY_RAW_LIMIT.unsigned_abs()).then_some(Quantity(raw))
    }

    /// The raw value: the quantity times 10¹².
    #[must_use]
    pub fn raw(self) -> i128 {
        self.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_scaled(self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact() {
        assert_eq!(
            Quantity::parse("999999999999999.5").unwrap().0.to_string(),
            "999999999999999.5"
        );
        assert_eq!(Quantity::parse("1000000000000000"), Err(NumberError::OutOfRange));
        assert_eq!(Quantity::parse("-1000000000000000"), Err(NumberError::OutOfRange));
    }
}
