//! Periods of every zone that is compiled in, and some that are special.

use proptest::prelude::*;

use super::*;
use crate::time::{BUCKET_US, TIME_US_END, parse};

/// Every zone of the database.
fn zones() -> Vec<TimeZone> {
    let database = TimeZoneDatabase::bundled();
    let zones: Vec<TimeZone> =
        database.available().map(|name| zone(name.as_str()).unwrap()).collect();
    assert!(zones.len() > 400, "{}", zones.len());
    zones
}

/// What holds for the period of any instant.
fn check(kind: PeriodKind, zone: &TimeZone, time_us: i64) {
    let what = || format!("{kind:?} of {time_us} in {:?}", zone.iana_name());
    let period = Period::of(kind, zone, time_us);
    assert!(period.contains(time_us) && period.start_us < period.end_us, "{} {period:?}", what());
    assert_eq!(Period::of(kind, zone, period.start_us), period, "{}", what());
    if period.end_us != i64::MAX {
        assert_eq!(Period::of(kind, zone, period.end_us - 1), period, "{}", what());
        let after = Period::of(kind, zone, period.end_us);
        assert_eq!(after.start_us, period.end_us, "{}", what());
    }
    if period.start_us != i64::MIN {
        let before = Period::of(kind, zone, period.start_us - 1);
        assert_eq!(before.end_us, period.start_us, "{}", what());
    }
}

/// Start and end in UTC.
fn check_period(kind: PeriodKind, zone_name: &str, time: &str, (start, end): (&str, &str)) {
    let period = Period::of(kind, &zone(zone_name).unwrap(), parse(time).unwrap());
    let want = Period { kind, start_us: parse(start).unwrap(), end_us: parse(end).unwrap() };
    assert_eq!(period, want, "{kind:?} of {time} in {zone_name}");
}

#[test]
fn kinds_keep_their_numbers_and_names() {
    let codes = PeriodKind::ALL.map(|kind| (kind.code(), kind.name()));
    let want = [(1, "day"), (2, "week"), (3, "month"), (4, "quarter"), (5, "year"), (6, "ever")];
    assert_eq!(codes, want);
    for kind in PeriodKind::ALL {
        assert_eq!(PeriodKind::from_code(kind.code()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    assert_eq!((PeriodKind::from_code(0), PeriodKind::from_code(7)), (None, None));
}

#[test]
fn zones_are_those_of_the_database() {
    assert_eq!(zone("Europe/Berlin").unwrap().iana_name(), Some("Europe/Berlin"));
    assert_eq!(zone("europe/berlin").unwrap().iana_name(), Some("Europe/Berlin"));
    assert_eq!(zone("UTC"), Some(TimeZone::UTC));
    for name in ["", "Europe/Atlantis", "Etc/Unknown", "../etc/passwd", "CET-1CEST"] {
        assert_eq!(zone(name), None, "{name}");
    }
}

#[test]
fn periods_are_those_of_the_calendar() {
    use PeriodKind::{Day, Month, Quarter, Week, Year};
    let time = "2024-05-15T12:00:00Z"; // A Wednesday.
    let utc = |kind, start, end| check_period(kind, "UTC", time, (start, end));
    utc(Day, "2024-05-15T00:00:00Z", "2024-05-16T00:00:00Z");
    utc(Week, "2024-05-13T00:00:00Z", "2024-05-20T00:00:00Z");
    utc(Month, "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z");
    utc(Quarter, "2024-04-01T00:00:00Z", "2024-07-01T00:00:00Z");
    utc(Year, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    // A day of 23 hours, then one of 25.
    let berlin = |time, start, end| check_period(Day, "Europe/Berlin", time, (start, end));
    berlin("2024-03-31T12:00:00Z", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z");
    berlin("2024-10-27T12:00:00Z", "2024-10-26T22:00:00Z", "2024-10-27T23:00:00Z");
    let ever = Period::of(PeriodKind::Ever, &TimeZone::UTC, 0);
    assert_eq!((ever.start_us, ever.end_us), (i64::MIN, i64::MAX));
    assert!(ever.contains(i64::MIN) && ever.contains(i64::MAX));
}

#[test]
fn days_without_a_midnight_begin_at_their_first_instant() {
    let day = |zone, time, start, end| check_period(PeriodKind::Day, zone, time, (start, end));
    // São Paulo: 00:00 became 01:00. The Azores the same.
    day(
        "America/Sao_Paulo",
        "2018-11-04T12:00:00Z",
        "2018-11-04T03:00:00Z",
        "2018-11-05T02:00:00Z",
    );
    // Samoa left out the 30th of December 2011.
    day("Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z");
    day("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z");
}

#[test]
fn a_day_that_began_does_not_begin_again() {
    // St. John's: at 00:01 clocks went back to 23:01 of the day before.
    let day = |time| {
        let want = ("2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z");
        check_period(PeriodKind::Day, "America/St_Johns", time, want);
    };
    for time in ["2010-11-07T02:30:30Z", "2010-11-07T02:31:00Z", "2010-11-07T03:29:59Z"] {
        day(time);
    }
}

/// Checks that a day begins on the border of a bucket.
fn check_border(zone: &TimeZone, day: Period) {
    // Liberia was 44 minutes and 30 seconds from UTC until January 1972, Kiritimati 10 hours and 40
    // minutes until October 1979.
    let from = match zone.iana_name() {
        Some("Pacific/Kiritimati") => "1979-10-02T00:00:00Z",
        _ => "1972-02-01T00:00:00Z",
    };
    let on_border = day.start_us % BUCKET_US == 0 || day.start_us < parse(from).unwrap();
    assert!(on_border, "{:?} {day:?}", zone.iana_name());
}

#[test]
fn every_instant_near_a_change_of_clocks_has_one_period() {
    for zone in zones() {
        let changes = zone.following(Timestamp::UNIX_EPOCH);
        for change in changes.take_while(|change| change.timestamp().as_second() < 2_200_000_000) {
            for minutes in [-1501, -61, -60, -31, -1, 0, 1, 29, 59, 60, 1440] {
                let time_us = change.timestamp().as_microsecond() + minutes * 60_000_000;
                check(PeriodKind::Day, &zone, time_us);
                check_border(&zone, Period::of(PeriodKind::Day, &zone, time_us));
            }
        }
    }
}

#[test]
fn days_begin_on_the_borders_of_buckets() {
    // Those near changes of clocks are seen above; between them one in a week will do.
    for zone in zones() {
        for week in 0..TIME_US_END / (7 * 86_400_000_000) {
            let day = Period::of(PeriodKind::Day, &zone, week * 7 * 86_400_000_000);
            check_border(&zone, day);
        }
    }
}

proptest! {
    #[test]
    fn periods_touch_and_hold_their_instants(time_us in 0..TIME_US_END, number in 0usize..10_000) {
        let zones = zones();
        let zone = &zones[number % zones.len()];
        PeriodKind::ALL.into_iter().for_each(|kind| check(kind, zone, time_us));
    }

    #[test]
    fn any_instant_has_a_period(time_us: i64, far in 0..1000i64, number in 0usize..10_000) {
        let zones = zones();
        let zone = &zones[number % zones.len()];
        let edges = [Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond()];
        let edges = edges.map(|edge| edge.saturating_add((far - 500) * 3_600_000_000));
        for time_us in [time_us, i64::MIN, i64::MAX, edges[0], edges[1]] {
            for kind in PeriodKind::ALL {
                let period = Period::of(kind, zone, time_us);
                prop_assert!(period.contains(time_us), "{kind:?} {time_us} {period:?}");
            }
        }
    }
}
