//! Civil periods: the day, week, month, quarter or year of a zone that an instant lies in.
//!
//! A period begins at the first instant of its first day, also where that day has no midnight, and
//! ends where the next one begins: periods of one kind and zone never overlap and leave no gap.

use jiff::{
    Timestamp, ToSpan,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

/// How long a running total goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeriodKind {
    /// From midnight to midnight.
    Day,
    /// From Monday on, as in ISO 8601.
    Week,
    /// From the first of the month on.
    Month,
    /// From the first of January, April, July or October on.
    Quarter,
    /// From the first of January on.
    Year,
    /// It never ends.
    Ever,
}

impl PeriodKind {
    /// All kinds in the order of their codes.
    pub const ALL: [PeriodKind; 6] = [
        PeriodKind::Day,
        PeriodKind::Week,
        PeriodKind::Month,
        PeriodKind::Quarter,
        PeriodKind::Year,
        PeriodKind::Ever,
    ];

    /// Its stable number in stored data, 1 to 6.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            PeriodKind::Day => 1,
            PeriodKind::Week => 2,
            PeriodKind::Month => 3,
            PeriodKind::Quarter => 4,
            PeriodKind::Year => 5,
            PeriodKind::Ever => 6,
        }
    }

    /// The kind of a stored number; `None` for any other.
    #[must_use]
    pub fn from_code(code: u8) -> Option<PeriodKind> {
        PeriodKind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind of a name; `None` for any other.
    #[must_use]
    pub fn from_name(name: &str) -> Option<PeriodKind> {
        PeriodKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PeriodKind::Day => "day",
            PeriodKind::Week => "week",
            PeriodKind::Month => "month",
            PeriodKind::Quarter => "quarter",
            PeriodKind::Year => "year",
            PeriodKind::Ever => "ever",
        }
    }
}

/// A stretch of time, from its start up to and without its end, in microseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    /// What it is.
    pub kind: PeriodKind,
    /// Its first microsecond.
    pub start_us: i64,
    /// The first microsecond after it.
    pub end_us: i64,
}

impl Period {
    /// The period of a zone that holds an instant. What lies before or after the years that a
    /// calendar has belongs to the first or the last period.
    #[must_use]
    pub fn of(kind: PeriodKind, zone: &TimeZone, time_us: i64) -> Period {
        let date = instant(time_us).to_zoned(zone.clone()).date();
        let first = first_day(kind, date);
        let between = |first: Option<Date>, after: Option<Date>| Period {
            kind,
            start_us: first.and_then(|day| start_of_day(zone, day)).unwrap_or(i64::MIN),
            end_us: after.and_then(|day| start_of_day(zone, day)).unwrap_or(i64::MAX),
        };
        let after = first.and_then(|first| next(kind, first));
        let period = between(first, after);
        // Where clocks go back over midnight, the end of a day is repeated after the next one began.
        if time_us >= period.end_us && period.end_us != i64::MAX {
            return between(after, after.and_then(|after| next(kind, after)));
        }
        period
    }

    /// Whether an instant lies in it. The end of time belongs to the period that has no end.
    #[must_use]
    pub fn contains(&self, time_us: i64) -> bool {
        self.start_us <= time_us && (time_us < self.end_us || self.end_us == i64::MAX)
    }
}

/// The zone of an IANA name such as `Europe/Berlin`, from the database that is compiled in: every
/// machine has the same. `None` where there is no such zone.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok().filter(|zone| !zone.is_unknown())
}

/// An instant in microseconds since 1970 UTC; one beyond the calendar counts as its first or last.
pub(crate) fn instant(time_us: i64) -> Timestamp {
    let beyond = if time_us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(time_us).unwrap_or(beyond)
}

/// The first day of the period that holds a day; `None` where it has none.
fn first_day(kind: PeriodKind, day: Date) -> Option<Date> {
    let month = |month| Date::new(day.year(), month, 1).ok();
    match kind {
        PeriodKind::Day => Some(day),
        PeriodKind::Week => {
            day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok()
        }
        PeriodKind::Month => month(day.month()),
        PeriodKind::Quarter => month(match day.month() {
            ..=3 => 1,
            4..=6 => 4,
            7..=9 => 7,
            _ => 10,
        }),
        PeriodKind::Year => month(1),
        PeriodKind::Ever => None,
    }
}

/// The first day of the next period.
fn next(kind: PeriodKind, first: Date) -> Option<Date> {
    let length = match kind {
        PeriodKind::Day => 1.day(),
        PeriodKind::Week => 1.week(),
        PeriodKind::Month => 1.month(),
        PeriodKind::Quarter => 3.months(),
        PeriodKind::Year => 1.year(),
        PeriodKind::Ever => return None,
    };
    first.checked_add(length).ok()
}

/// The first instant of a day, or of what comes after it where the zone has left it out.
fn start_of_day(zone: &TimeZone, day: Date) -> Option<i64> {
    let midnight = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0));
    let instant = match midnight.offset() {
        AmbiguousOffset::Gap { .. } => {
            let before = midnight.earlier().ok()?;
            zone.following(before).next()?.timestamp()
        }
        _ => midnight.earlier().ok()?,
    };
    Some(instant.as_microsecond())
}

#[cfg(test)]
mod tests;
