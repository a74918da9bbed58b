//! Instants as microseconds since 1970 UTC, and the 15-minute buckets that sums are kept by.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Length of a bucket. Every zone's day begins on a 15-minute border of UTC.
pub const BUCKET_US: i64 = 15 * 60 * 1_000_000;
/// How far an event may lie in the future of its block's append time: the one such constant.
pub const FUTURE_US_MAX: i64 = 5 * 60 * 1_000_000;
/// Event times lie in [1970, 2200): what every store and zone table holds.
pub const TIME_US_END: i64 = 7_258_118_400 * 1_000_000;

/// Why a text is no event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("not an RFC 3339 time with an offset")]
    NotATime,
    /// Before 1970 or after 2199.
    #[error("before 1970 or after 2199")]
    OutOfRange,
}

/// Reads an RFC 3339 time with `Z` or an offset; sub-microsecond digits are cut.
pub fn parse(text: &str) -> Result<i64, TimeError> {
    let time: Timestamp = text.parse().map_err(|_| TimeError::NotATime)?;
    in_range(time.as_microsecond())
}

/// Reads a time without an offset (`2023-11-16 18:17:03.979`) as UTC.
pub fn parse_naive(text: &str) -> Result<i64, TimeError> {
    let time: DateTime = text.parse().map_err(|_| TimeError::NotATime)?;
    let time = TimeZone::UTC.to_timestamp(time).map_err(|_| TimeError::OutOfRange)?;
    in_range(time.as_microsecond())
}

fn in_range(time_us: i64) -> Result<i64, TimeError> {
    if (0..TIME_US_END).contains(&time_us) { Ok(time_us) } else { Err(TimeError::OutOfRange) }
}

/// The number of the 15-minute bucket that holds an instant.
#[must_use]
pub fn bucket_of(time_us: i64) -> i64 {
    time_us.div_euclid(BUCKET_US)
}

/// Year and month as `YYYYMM` in UTC: the archive's table partition of an append time.
#[must_use]
pub fn month_of(time_us: i64) -> u32 {
    let Ok(time) = Timestamp::from_microsecond(time_us) else { return 0 };
    let date = time.to_zoned(TimeZone::UTC).date();
    let (year, month) =
        (u32::from(date.year().unsigned_abs()), u32::from(date.month().unsigned_abs()));
    year.saturating_mul(100).saturating_add(month)
}

/// RFC 3339 with microseconds and `Z`.
#[must_use]
pub fn format(time_us: i64) -> String {
    match Timestamp::from_microsecond(time_us) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => format!("{time_us}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(parse("2023-11-16T20:17:03.9799600+02:00"), Ok(1_700_158_623_979_960));
        assert_eq!(parse_naive("2023-11-16 18:17:03.9799600"), Ok(1_700_158_623_979_960));
        assert_eq!(parse("1969-12-31T23:59:59Z"), Err(TimeError::OutOfRange));
        assert_eq!(parse("2200-01-01T00:00:00Z"), Err(TimeError::OutOfRange));
        assert_eq!(parse("2023-11-16 18:17:03"), Err(TimeError::NotATime));
        assert_eq!(parse("yesterday"), Err(TimeError::NotATime));
        assert_eq!(month_of(1_700_158_623_979_960), 202_311);
        assert_eq!(bucket_of(BUCKET_US - 1), 0);
        assert_eq!(bucket_of(BUCKET_US), 1);
        assert_eq!(format(1_700_158_623_979_960), "2023-11-16T18:17:03.979960Z");
    }
}
