//! Prices at hours of the week, and the clock that they follow.

use domain::{
    money::ONE,
    period,
    pricing::{Local, Usage},
    rate_card::{RateRow, Window},
    time,
};
use proptest::prelude::*;

use super::{local, row, terms, usage};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WEEK: usize = 7 * 1440;

/// The price of each minute of a week: windows are painted over each other, the first one last.
fn painted(windows: &[(u8, u16, u16, u32)]) -> Vec<u32> {
    let mut week = vec![0; WEEK];
    for (days, from, to, price) in windows.iter().rev() {
        let length = if to > from { to - from } else { 1440 - from + to };
        for day in (0..7).filter(|day| days >> day & 1 == 1) {
            for minute in 0..length {
                week[(day * 1440 + usize::from(from + minute)) % WEEK] = *price;
            }
        }
    }
    week
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

proptest! {
    #[test]
    fn every_minute_of_the_week_has_the_price_of_the_first_window(
        windows in prop::collection::vec((1..128_u8, 0..1440_u16, 0..=1440_u16, 1..1000_u32), 1..6)
    ) {
        let windows: Vec<_> = windows.into_iter().filter(|(_, from, to, _)| from != to).collect();
        prop_assume!(!windows.is_empty());
        let window = |(days, from, to, price): &(u8, u16, u16, u32)| {
            let names = DAYS.iter().enumerate().filter(|(day, _)| days >> day & 1 == 1);
            let names = names.map(|(_, name)| (*name).to_owned()).collect();
            let days = (*days != 127).then_some(names);
            Window { days, from: clock(*from), to: clock(*to), price: price.to_string() }
        };
        let row = RateRow {
            price: Some("0".into()),
            windows: windows.iter().map(window).collect(),
            ..row("{}")
        };
        let terms = terms(&row);
        prop_assert!(terms.needs_local_time() && terms.counting().is_none());
        for (minute, price) in painted(&windows).into_iter().enumerate() {
            let local = Some(Local {
                weekday: u8::try_from(minute / 1440).unwrap(),
                minute_of_day: u16::try_from(minute % 1440).unwrap(),
            });
            let charge = terms.charge(&Usage { local, ..usage(ONE, 0) }).unwrap();
            prop_assert_eq!(charge.raw(), i128::from(price) * ONE);
        }
    }
}

#[test]
fn beyond_an_allowance_the_hour_decides() {
    let row = row(
        r#"{"price": "2", "included": "10", "windows": [{"from": "20:00", "to": "06:00", "price": "1"}]}"#,
    );
    let terms = terms(&row);
    let charge = |quantity: i128, before: i128, time: &str| {
        let usage = usage(quantity * ONE, before * ONE);
        terms.charge(&Usage { local: Some(local(time)), ..usage }).unwrap().to_string()
    };
    assert!(terms.needs_local_time() && terms.counting().is_some());
    assert_eq!(charge(10, 0, "mon 12:00"), "0");
    assert_eq!(charge(10, 5, "mon 12:00"), "10");
    assert_eq!(charge(10, 5, "tue 05:59"), "5");
    assert_eq!(charge(10, 5, "tue 06:00"), "10");
}

#[test]
fn the_clock_is_that_of_the_zone() {
    let check = |zone: &str, time: &str, wanted: &str| {
        let shown = Local::of(&period::zone(zone).unwrap(), time::parse(time).unwrap());
        assert_eq!(shown, local(wanted), "{time} in {zone}");
    };
    check("UTC", "1970-01-01T00:00:00Z", "thu 00:00");
    check("UTC", "2024-05-12T23:59:59.999999Z", "sun 23:59");
    check("Asia/Kathmandu", "2024-05-12T18:15:00Z", "mon 00:00");
    // The hour that is left out in spring and the one that comes twice in autumn.
    check("Europe/Berlin", "2024-03-31T00:59:00Z", "sun 01:59");
    check("Europe/Berlin", "2024-03-31T01:00:00Z", "sun 03:00");
    check("Europe/Berlin", "2024-10-27T00:30:00Z", "sun 02:30");
    check("Europe/Berlin", "2024-10-27T01:30:00Z", "sun 02:30");
}
