//! Money: integers at one fixed scale, and the only rounding function.
//!
//! An [`Amount`] counts 10⁻¹² of one unit of its currency. Amounts add and subtract, checked; a
//! price times a quantity is exact in 256 bits and is rounded once, half to even, by [`round`].
//! Numbers are parsed from their text and never pass through a float.

use std::fmt;

use ethnum::I256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::planted::{self, Bug};

/// Decimal places of every amount and quantity.
pub const SCALE: u32 = 12;
/// 10¹², the raw value of one.
pub const ONE: i128 = 1_000_000_000_000;
/// Amounts are smaller than 10²⁰, so their raw values are smaller than this.
pub const AMOUNT_RAW_LIMIT: i128 = 100_000_000_000_000_000_000 * ONE;
/// Sums are below 10²⁶: `numeric(38, 12)` and `Decimal(38, 12)` hold no more.
const SUM_RAW_LIMIT: i128 = 10_i128.pow(38);
/// Digits of a number's text, leading zeros apart; longer ones are refused. 10⁶⁴ < 2²⁵⁵.
const DIGITS_MAX: usize = 64;

/// Why a text is no number that Weir can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not of the form `-12.5e3`.
    #[error("not a decimal number")]
    NotANumber,
    /// Beyond the limit of its kind.
    #[error("beyond the limit")]
    OutOfRange,
}

/// A number at scale 12, as read from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The value times 10¹².
    pub raw: i128,
    /// Whether digits beyond the twelfth decimal were rounded away (half to even).
    pub rounded: bool,
}

/// Divides and rounds half to even: the only rule of rounding in Weir. `denominator` must be positive.
#[must_use]
pub fn round(numerator: I256, denominator: I256) -> I256 {
    assert!(denominator > I256::ZERO, "a denominator is positive");
    let quotient = numerator / denominator;
    let remainder = (numerator % denominator).abs();
    let twice = remainder.wrapping_add(remainder);
    let away = twice > denominator || (twice == denominator && quotient & I256::ONE == I256::ONE);
    match (away, numerator < I256::ZERO) {
        (false, _) => quotient,
        (true, false) => quotient.wrapping_add(I256::ONE),
        (true, true) => quotient.wrapping_sub(I256::ONE),
    }
}

/// The same rule within 128 bits, which is faster; a test compares the two.
#[must_use]
fn round_small(numerator: i128, denominator: i128) -> i128 {
    assert!(denominator > 0, "a denominator is positive");
    let quotient = numerator.wrapping_div(denominator);
    let remainder = numerator.wrapping_sub(quotient.wrapping_mul(denominator)).unsigned_abs();
    // Both are below 2¹²⁷.
    let (twice, denominator) = (remainder.wrapping_mul(2), denominator.unsigned_abs());
    let away = twice > denominator || (twice == denominator && quotient & 1 == 1);
    quotient.wrapping_add(if away { numerator.signum() } else { 0 })
}

/// Reads a decimal number (JSON's form, a leading `+` and leading zeros allowed too) at scale 12.
/// `raw_limit` bounds the absolute raw value from above, exclusively.
pub fn parse_scaled(text: &str, raw_limit: i128) -> Result<Parsed, NumberError> {
    // Below 10³⁰.
    match whole(text).map(|number| i128::from(number).wrapping_mul(ONE)) {
        Some(raw) if raw < raw_limit => Ok(Parsed { raw, rounded: false }),
        _ => parse_any(text, raw_limit),
    }
}

/// The value of up to 18 digits and nothing else, as most quantities are.
fn whole(text: &str) -> Option<u64> {
    let digits = text.as_bytes();
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |byte: &u8| u64::from(byte.wrapping_sub(b'0'));
    Some(
        digits
            .iter()
            .fold(0, |number: u64, byte| number.wrapping_mul(10).wrapping_add(digit(byte))),
    )
}

fn parse_any(text: &str, raw_limit: i128) -> Result<Parsed, NumberError> {
    let number = split_number(text)?;
    if number.digits().next().is_none() {
        return Ok(Parsed { raw: 0, rounded: false });
    }
    let shift = i64::from(SCALE).saturating_sub(number.decimals);
    let digits = number.digits().count();
    // A value of 10³⁹ or more is beyond every limit; say so before computing it.
    if i64::try_from(digits).unwrap_or(i64::MAX).saturating_add(shift) > 39 {
        return Err(NumberError::OutOfRange);
    }
    if digits > DIGITS_MAX {
        return Err(NumberError::OutOfRange);
    }
    let mut value = I256::ZERO;
    for digit in number.digits() {
        value = value.wrapping_mul(I256::from(10)).wrapping_add(I256::from(digit));
    }
    if number.negative {
        value = value.wrapping_neg();
    }
    let (raw, rounded) = if shift >= 0 {
        (value.wrapping_mul(power_of_ten(shift)), false)
    } else if shift < -70 {
        (I256::ZERO, true)
    } else {
        let divisor = power_of_ten(shift.wrapping_neg());
        (round(value, divisor), value % divisor != I256::ZERO)
    };
    if raw.abs() >= I256::from(raw_limit) {
        return Err(NumberError::OutOfRange);
    }
    Ok(Parsed { raw: raw.as_i128(), rounded })
}

fn power_of_ten(exponent: i64) -> I256 {
    let exponent = u32::try_from(exponent.clamp(0, 76)).unwrap_or(0);
    I256::from(10).wrapping_pow(exponent)
}

/// A number's text taken apart: its value is the digits times 10^(−decimals).
pub(crate) struct NumberText<'a> {
    pub negative: bool,
    integer: &'a str,
    fraction: &'a str,
    /// Decimal places of the digit string, exponent included.
    pub decimals: i64,
}

impl NumberText<'_> {
    /// The digits without leading zeros.
    pub fn digits(&self) -> impl Iterator<Item = u8> + Clone {
        let all = self.integer.bytes().chain(self.fraction.bytes());
        all.skip_while(|byte| *byte == b'0').map(|byte| byte.wrapping_sub(b'0'))
    }
}

pub(crate) fn split_number(text: &str) -> Result<NumberText<'_>, NumberError> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !rest.is_empty() && all_digits(rest) {
        return Ok(NumberText { negative, integer: rest, fraction: "", decimals: 0 });
    }
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (rest.get(..at).unwrap_or(""), rest.get(at.wrapping_add(1)..)),
        None => (rest, None),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if (integer.is_empty() && fraction.is_empty()) || !all_digits(integer) || !all_digits(fraction)
    {
        return Err(NumberError::NotANumber);
    }
    let exponent: i64 = match exponent {
        None => 0,
        Some(text) => parse_exponent(text)?,
    };
    let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    Ok(NumberText { negative, integer, fraction, decimals: places.saturating_sub(exponent) })
}

fn parse_exponent(text: &str) -> Result<i64, NumberError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NumberError::NotANumber);
    }
    // More digits than an i64 holds: as good as infinite, either way.
    let size = digits.parse::<i64>().unwrap_or(1_000_000).min(1_000_000);
    Ok(if text.starts_with('-') { size.wrapping_neg() } else { size })
}

/// Writes a raw value at scale 12 as plain decimal text without needless zeros.
pub(crate) fn format_scaled(raw: i128, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let magnitude = raw.unsigned_abs();
    let one = ONE.unsigned_abs();
    let (whole, part) = (magnitude / one, magnitude % one);
    let sign = if raw < 0 { "-" } else { "" };
    if part == 0 {
        return write!(formatter, "{sign}{whole}");
    }
    let text = format!("{part:012}");
    write!(formatter, "{sign}{whole}.{}", text.trim_end_matches('0'))
}

/// Money in one currency, in units of 10⁻¹². The currency is carried beside it, where it is known. The
/// amount of one line is below 10²⁰, a sum of many below 10²⁶, which is what is stored of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Whether a text is a code of three capitals, as those of ISO 4217 are.
#[must_use]
pub fn is_currency_code(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// One.
    pub const ONE: Amount = Amount(ONE);

    /// An amount from its raw value; `None` where |amount| ≥ 10²⁰.
    #[must_use]
    pub fn from_raw(raw: i128) -> Option<Amount> {
        (raw.unsigned_abs() < AMOUNT_RAW_LIMIT.unsigned_abs()).then_some(Amount(raw))
    }

    /// The raw value: the amount times 10¹².
    #[must_use]
    pub fn raw(self) -> i128 {
        self.0
    }

    /// Reads an amount from its text; digits beyond the twelfth decimal are an error here.
    pub fn parse_exact(text: &str) -> Result<Amount, NumberError> {
        let parsed = parse_scaled(text, AMOUNT_RAW_LIMIT)?;
        if parsed.rounded { Err(NumberError::OutOfRange) } else { Ok(Amount(parsed.raw)) }
    }

    /// A sum of amounts from its raw value.
    #[must_use]
    pub fn of_sum(raw: i128) -> Amount {
        Amount(raw)
    }

    /// Reads a sum of amounts from its text; digits beyond the twelfth decimal are an error here.
    pub fn parse_sum(text: &str) -> Result<Amount, NumberError> {
        let parsed = parse_scaled(text, SUM_RAW_LIMIT)?;
        if parsed.rounded { Err(NumberError::OutOfRange) } else { Ok(Amount(parsed.raw)) }
    }

    /// Adds; `None` beyond the limit of sums.
    #[must_use]
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).filter(is_sum).map(Amount)
    }

    /// Subtracts; `None` beyond the limit of sums.
    #[must_use]
    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        self.0.checked_sub(other.0).filter(is_sum).map(Amount)
    }

    /// This times another number at the same scale, rounded once; `None` beyond the limit of amounts.
    #[must_use]
    pub fn checked_mul(self, factor: Amount) -> Option<Amount> {
        let product = I256::from(self.0).checked_mul(I256::from(factor.0))?;
        i128::try_from(round(product, I256::from(ONE))).ok().and_then(Amount::from_raw)
    }

    /// What this is of `whole` in percent, rounded to two decimals half to even; `None` where the whole
    /// is zero or the result beyond the limit.
    #[must_use]
    pub fn percent_of(self, whole: Amount) -> Option<Amount> {
        if whole.0 == 0 {
            return None;
        }
        let part = I256::from(self.0).checked_mul(I256::from(whole.0.signum()))?;
        let hundredths = round(part.checked_mul(I256::from(10_000))?, I256::from(whole.0).abs());
        let raw = hundredths.checked_mul(I256::from(10_000_000_000_i64))?;
        i128::try_from(raw).ok().and_then(Amount::from_raw)
    }

    /// The same amount with the other sign.
    #[must_use]
    pub fn negated(self) -> Amount {
        Amount(self.0.wrapping_neg())
    }
}

fn is_sum(raw: &i128) -> bool {
    raw.unsigned_abs() < SUM_RAW_LIMIT.unsigned_abs()
}

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_scaled(self.0, formatter)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Amount::parse_exact(&text).map_err(serde::de::Error::custom)
    }
}

/// A price: an amount for every `per` units of quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The amount for `per` units.
    pub amount: Amount,
    /// How many units the amount is for; at least 1.
    pub per: u64,
}

impl Price {
    /// Price times quantity, exact, rounded once; `None` where the result is beyond the limit.
    /// `quantity_raw` is the quantity times 10¹².
    #[must_use]
    pub fn charge(self, quantity_raw: i128) -> Option<Amount> {
        let divisor = i128::from(self.per.max(1)).checked_mul(ONE)?;
        if let Some(product) = self.amount.raw().checked_mul(quantity_raw)
            && !planted::is(Bug::RoundedTwice)
        {
            return Amount::from_raw(round_small(product, divisor));
        }
        let product = I256::from(self.amount.raw()).checked_mul(I256::from(quantity_raw))?;
        let rounded = round(product, I256::from(divisor));
        let rounded = if planted::is(Bug::RoundedTwice) {
            round(rounded, I256::from(10)) * I256::from(10)
        } else {
            rounded
        };
        i128::try_from(rounded).ok().and_then(Amount::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, bool), NumberError> {
        parse_scaled(text, AMOUNT_RAW_LIMIT)
            .map(|parsed| (Amount(parsed.raw).to_string(), parsed.rounded))
    }

    #[test]
    fn a_sum_may_be_larger_than_an_amount() {
        let (amount, sum) =
            ("99999999999999999999.999999999999", "99999999999999999999999999.999999999999");
        assert!(Amount::parse_exact(amount).is_ok() && Amount::parse_exact("1e20").is_err());
        assert_eq!(Amount::parse_sum(sum).unwrap().to_string(), sum);
        assert!(Amount::parse_sum("1e26").is_err() && Amount::parse_sum("-1e26").is_err());
        let one = Amount::parse_exact(amount).unwrap();
        assert_eq!(one.checked_add(one).unwrap().to_string(), "199999999999999999999.999999999998");
        let least = Amount::of_sum(1);
        assert_eq!(Amount::parse_sum(sum).unwrap().checked_add(least), None);
        assert_eq!(Amount::parse_sum(&format!("-{sum}")).unwrap().checked_sub(least), None);
    }

    #[test]
    fn percent_is_of_a_whole_and_rounded_to_two_decimals() {
        let amount = |text: &str| Amount::parse_exact(text).unwrap();
        let percent = |part: &str, whole: &str| {
            amount(part).percent_of(amount(whole)).map(|percent| percent.to_string())
        };
        assert_eq!(percent("1", "3").as_deref(), Some("33.33"));
        assert_eq!(percent("-1", "3").as_deref(), Some("-33.33"));
        assert_eq!(percent("1", "-8").as_deref(), Some("-12.5"));
        assert_eq!(percent("0.00005", "1").as_deref(), Some("0"));
        assert_eq!(percent("0.00015", "1").as_deref(), Some("0.02"));
        assert_eq!(percent("1", "0"), None);
        assert_eq!(amount("0.5").checked_mul(amount("0.000000000003")).unwrap().raw(), 2);
        assert_eq!(amount("1e19").checked_mul(amount("10")), None);
    }

    #[test]
    fn numbers_are_read_from_their_text() {
        let check = |text: &str, want: &str, rounded: bool| {
            assert_eq!(parsed(text), Ok((want.to_owned(), rounded)), "{text}");
        };
        check("0", "0", false);
        check("-0.0", "0", false);
        check("12.50", "12.5", false);
        check("1e3", "1000", false);
        check("1.5E-3", "0.0015", false);
        check("0.00022500000000000002", "0.000225", true);
        check("0.0000000000005", "0", true);
        check("0.0000000000015", "0.000000000002", true);
        check("-0.0000000000025", "-0.000000000002", true);
        check("0.00000000000050000000000000000001", "0.000000000001", true);
        check("1e-400", "0", true);
        check("99999999999999999999", "99999999999999999999", false);
        check(
            "0000000000000000000000000000000000000000000000000000000000000000000000007",
            "7",
            false,
        );
        for text in ["", "-", ".", "NaN", "1,5", "0x10", "1e", "1e+", "Infinity", "1 ", "١"] {
            assert_eq!(parsed(text), Err(NumberError::NotANumber), "{text}");
        }
        for text in ["1e30", "100000000000000000000", "1e999999999999999999999"] {
            assert_eq!(parsed(text), Err(NumberError::OutOfRange), "{text}");
        }
    }

    #[test]
    fn rounding_is_half_to_even() {
        let check = |numerator: i128, denominator: i128, want: i128| {
            assert_eq!(round(I256::from(numerator), I256::from(denominator)), I256::from(want));
        };
        check(5, 2, 2);
        check(7, 2, 4);
        check(-5, 2, -2);
        check(-7, 2, -4);
        check(10, 3, 3);
        check(11, 3, 4);
        check(-11, 3, -4);
    }

    #[test]
    fn a_price_is_exact_until_its_one_rounding() {
        let price = Price { amount: Amount::parse_exact("0.01").unwrap(), per: 3 };
        assert_eq!(price.charge(ONE).unwrap().to_string(), "0.003333333333");
        assert_eq!(price.charge(2 * ONE).unwrap().to_string(), "0.006666666667");
        assert_eq!(price.charge(3 * ONE).unwrap().to_string(), "0.01");
        let large = Price { amount: Amount::parse_exact("99999").unwrap(), per: 1 };
        assert_eq!(
            large.charge(999_999_999_999_999 * ONE).unwrap().raw(),
            99_999 * 999_999_999_999_999 * ONE
        );
        let larger = Price { amount: Amount::parse_exact("99999999").unwrap(), per: 1 };
        assert_eq!(larger.charge(999_999_999_999_999 * ONE), None);
    }

    proptest! {
        #[test]
        fn amounts_survive_their_text(raw in -AMOUNT_RAW_LIMIT + 1..AMOUNT_RAW_LIMIT) {
            let amount = Amount::from_raw(raw).unwrap();
            prop_assert_eq!(Amount::parse_exact(&amount.to_string()).unwrap(), amount);
        }

        #[test]
        fn a_charge_is_within_half_a_unit(amount in -1_000_000i128 * ONE..1_000_000 * ONE, quantity in 0..1_000_000_000i128 * ONE, per in 1u64..2_000_000) {
            let price = Price { amount: Amount(amount), per };
            let charge = I256::from(price.charge(quantity).unwrap().raw());
            let divisor = I256::from(i128::from(per) * ONE);
            let difference = (charge * divisor - I256::from(amount) * I256::from(quantity)).abs();
            prop_assert!(difference * I256::from(2) <= divisor);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = parse_scaled(&text, AMOUNT_RAW_LIMIT);
        }

        #[test]
        fn short_ways_are_the_long_ones(numerator: i128, part in 1..i128::MAX, small in 1..2_000i128, text in "[0-9]{0,20}") {
            for denominator in [part, small, numerator.wrapping_abs().max(1), part / small + 1] {
                let long = round(I256::from(numerator), I256::from(denominator));
                prop_assert_eq!(I256::from(round_small(numerator, denominator)), long);
                let ties = numerator / 4 * 2 + 1;
                let long = round(I256::from(ties), I256::from(2));
                prop_assert_eq!(I256::from(round_small(ties, 2)), long);
            }
            for limit in [AMOUNT_RAW_LIMIT, 1_000_000 * ONE] {
                prop_assert_eq!(parse_scaled(&text, limit), parse_any(&text, limit));
            }
        }
    }
}
