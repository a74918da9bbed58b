//! Amounts in another currency, for display. Rating, the ledger and what is stored know nothing of it.
//!
//! A rate says what one of a currency is in another one. An amount is multiplied with it, or divided by it where
//! the rate is of the other direction, and is rounded once: half to even, to the minor digits of the currency that
//! is shown.

use std::fmt;

use ethnum::I256;

use crate::money::{Amount, ONE, SCALE, round};

/// Currencies of ISO 4217 whose smallest unit is no hundredth, and how many decimals they have.
const MINOR_DIGITS: [(&str, u32); 26] = [
    ("BHD", 3),
    ("BIF", 0),
    ("CLF", 4),
    ("CLP", 0),
    ("DJF", 0),
    ("GNF", 0),
    ("IQD", 3),
    ("ISK", 0),
    ("JOD", 3),
    ("JPY", 0),
    ("KMF", 0),
    ("KRW", 0),
    ("KWD", 3),
    ("LYD", 3),
    ("OMR", 3),
    ("PYG", 0),
    ("RWF", 0),
    ("TND", 3),
    ("UGX", 0),
    ("UYI", 0),
    ("UYW", 4),
    ("VND", 0),
    ("VUV", 0),
    ("XAF", 0),
    ("XOF", 0),
    ("XPF", 0),
];

/// Decimals of a currency's smallest unit, by ISO 4217: two unless that says otherwise.
#[must_use]
pub fn minor_digits(currency: &str) -> u32 {
    let other = MINOR_DIGITS.iter().find(|(known, _)| *known == currency);
    other.map_or(2, |(_, digits)| *digits)
}

/// A rate between two currencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeRate {
    /// What one of the currency that is converted is in the other one; above zero.
    pub rate: Amount,
    /// The rate is of the other direction: what one of the currency that is shown is in the converted one.
    pub inverse: bool,
}

impl ExchangeRate {
    /// Between a currency and itself.
    pub const ONE: ExchangeRate = ExchangeRate { rate: Amount::ONE, inverse: false };
}

/// An amount of whole minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    units: i128,
    digits: u32,
}

/// With all its minor digits: `9.20`.
impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.units < 0 { "-" } else { "" };
        let digits = usize::try_from(self.digits).unwrap_or_default();
        let text =
            format!("{:0>width$}", self.units.unsigned_abs(), width = digits.saturating_add(1));
        let (whole, part) = text.split_at(text.len().saturating_sub(digits));
        let point = if part.is_empty() { "" } else { "." };
        write!(formatter, "{sign}{whole}{point}{part}")
    }
}

/// An amount by a rate, rounded once to so many decimals (at most 12); `None` where the rate is not above zero or
/// the result is beyond the limit of sums.
#[must_use]
pub fn shown(amount: Amount, by: ExchangeRate, digits: u32) -> Option<Shown> {
    let unit = I256::from(10).checked_pow(SCALE.checked_sub(digits)?)?;
    let (amount, rate, one) =
        (I256::from(amount.raw()), I256::from(by.rate.raw()), I256::from(ONE));
    let (numerator, denominator) = match by.inverse {
        false => (amount.checked_mul(rate)?, one.checked_mul(unit)?),
        true => (amount.checked_mul(one)?, rate.checked_mul(unit)?),
    };
    if rate <= I256::ZERO {
        return None;
    }
    let units = round(numerator, denominator);
    let total = i128::try_from(units.checked_mul(unit)?).ok()?;
    Amount::ZERO.checked_add(Amount::of_sum(total))?;
    Some(Shown { units: units.as_i128(), digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(amount: &str, rate: &str, inverse: bool, currency: &str) -> Option<String> {
        let rate = ExchangeRate { rate: Amount::parse_exact(rate).unwrap(), inverse };
        let amount = Amount::parse_sum(amount).unwrap();
        shown(amount, rate, minor_digits(currency)).map(|shown| shown.to_string())
    }

    #[test]
    fn an_amount_is_converted_exactly_and_rounded_once() {
        let check = |amount: &str, rate: &str, inverse: bool, currency: &str, want: &str| {
            let found = by(amount, rate, inverse, currency);
            assert_eq!(found.as_deref(), Some(want), "{amount} {rate} {inverse} {currency}");
        };
        check("10", "0.92", false, "EUR", "9.20");
        check("-10", "0.92", false, "EUR", "-9.20");
        // 123.456789 × 0.92 = 113.58024588.
        check("123.456789", "0.92", false, "EUR", "113.58");
        // 10 / 1.25 = 8; 10 / 3 = 3.333…; 100 / 8 = 12.5.
        check("10", "1.25", true, "EUR", "8.00");
        check("10", "3", true, "EUR", "3.33");
        check("-100", "8", true, "JPY", "-12");
        check("108", "8", true, "JPY", "14");
        // Halves go to the even digit: 0.125, 0.135, -0.125.
        check("0.25", "0.5", false, "EUR", "0.12");
        check("0.27", "0.5", false, "EUR", "0.14");
        check("-0.25", "0.5", false, "EUR", "-0.12");
        // Not rounded before: 0.000000000001 × 4999999999.9 = 0.0049999999999 is less than half a cent.
        check("0.000000000001", "4999999999.9", false, "EUR", "0.00");
        check("0.000000000001", "5000000000.1", false, "EUR", "0.01");
        check("-0.000000000001", "1", false, "EUR", "0.00");
        check("1234.5", "150", false, "JPY", "185175");
        check("1.23456", "1", false, "KWD", "1.235");
        check("99999999999999999999999999", "1", false, "EUR", "99999999999999999999999999.00");
    }

    #[test]
    fn what_is_beyond_the_limit_is_nothing() {
        assert_eq!(by("99999999999999999999999999", "2", false, "EUR"), None);
        assert_eq!(by("99999999999999999999999999", "0.000000000001", true, "EUR"), None);
        assert_eq!(by("1", "0", false, "EUR"), None);
        assert_eq!(by("1", "0", true, "EUR"), None);
        assert_eq!(by("1", "-1", false, "EUR"), None);
        assert_eq!(shown(Amount::ONE, ExchangeRate::ONE, 13), None);
    }
}
