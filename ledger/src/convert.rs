//! Our numbers and hashes as Postgres sends and takes them. Numbers travel as text, never as floats.

use domain::{
    chain::{Hash, Place},
    money::Amount,
};
use runtime::postgres::PostgresError;

/// A raw value (10⁻¹²) as a numeral that Postgres reads exactly.
pub(crate) fn numeral(raw: i128) -> String {
    format!("{raw}e-12")
}

/// A count as Postgres' only wide integer. Counts stay far below 2⁶³.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count out of Postgres, where checks keep it from being negative.
pub(crate) fn uncount(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A small number as Postgres' `integer`.
pub(crate) fn integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// A partition's number out of Postgres.
pub(crate) fn partition(value: i32) -> Result<u32, PostgresError> {
    u32::try_from(value).map_err(|_| broken("a partition", value))
}

/// Thirty-two bytes out of a `bytea`.
pub(crate) fn hash(bytes: &[u8]) -> Result<Hash, PostgresError> {
    bytes.try_into().map_err(|_| broken("a hash of length", bytes.len()))
}

/// `(X, R, C)` out of its columns.
pub(crate) fn place(x: i64, r: i64, c: &[u8]) -> Result<Place, PostgresError> {
    Ok(Place { x, r, c: hash(c)? })
}

/// A sum of amounts out of its text.
pub(crate) fn amount(text: &str) -> Result<Amount, PostgresError> {
    Amount::parse_sum(text).map_err(|_| broken("an amount", text))
}

/// A raw value out of the text of a whole number.
pub(crate) fn raw(text: &str) -> Result<i128, PostgresError> {
    text.parse().map_err(|_| broken("a raw value", text))
}

fn broken(what: &str, found: impl std::fmt::Display) -> PostgresError {
    PostgresError::Broken(format!("{what} cannot be read: {found}"))
}
