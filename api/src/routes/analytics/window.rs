//! Windows of time in a zone: a day has 23, 24 or 25 hours.

use jiff::{Timestamp, ToSpan, Zoned, civil::Date, tz::TimeZone};

use crate::store::analytics::Window;

/// The window of a name.
pub(super) fn named(name: &str) -> Option<Window> {
    Some(match name {
        "hour" => Window::Hour,
        "day" => Window::Day,
        "week" => Window::Week,
        "month" => Window::Month,
        _ => return None,
    })
}

/// Both ends of a window that begins at `start_s`, with the offsets that its zone has there.
pub(super) fn bounds(start_s: i64, window: Window, zone: &TimeZone) -> Option<(String, String)> {
    let start = Timestamp::from_second(start_s).ok()?.to_zoned(zone.clone());
    let begin = |date: Option<Date>| date?.to_zoned(zone.clone()).ok();
    let end = match window {
        Window::Hour => start.checked_add(1.hour()).ok(),
        Window::Day => begin(start.date().tomorrow().ok()),
        Window::Week => begin(start.date().checked_add(7.days()).ok()),
        Window::Month => begin(start.date().first_of_month().checked_add(1.month()).ok()),
    };
    let text = |time: &Zoned| time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    Some((text(&start), text(&end?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_where_the_next_begins_in_their_zone() {
        let check = |zone: &str, start: &str, window: Window, end: &str| {
            let zone = TimeZone::get(zone).unwrap();
            let start_s = start.parse::<Timestamp>().unwrap().as_second();
            let wanted = Some((start.to_owned(), end.to_owned()));
            assert_eq!(bounds(start_s, window, &zone), wanted, "{window:?}");
        };
        let berlin = "Europe/Berlin";
        check(berlin, "2026-03-29T00:00:00+01:00", Window::Day, "2026-03-30T00:00:00+02:00");
        check(berlin, "2026-03-29T01:00:00+01:00", Window::Hour, "2026-03-29T03:00:00+02:00");
        check(berlin, "2026-10-25T02:00:00+02:00", Window::Hour, "2026-10-25T02:00:00+01:00");
        check(berlin, "2026-03-23T00:00:00+01:00", Window::Week, "2026-03-30T00:00:00+02:00");
        check(berlin, "2026-10-01T00:00:00+02:00", Window::Month, "2026-11-01T00:00:00+01:00");
        // The clocks go forward at midnight: that day begins at one.
        let cairo = "Africa/Cairo";
        check(cairo, "2026-04-24T01:00:00+03:00", Window::Day, "2026-04-25T00:00:00+03:00");
        check(cairo, "2026-04-23T00:00:00+02:00", Window::Day, "2026-04-24T01:00:00+03:00");
    }
}
