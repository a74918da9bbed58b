//! Price models: what holds for any row and any usage, the reasons of rows that are refused, and every
//! example of `docs/PRICING.md`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use domain::{
    money::Amount,
    pricing::{Local, Terms, Usage},
    rate_card::{Rate, RateRow},
};

#[path = "pricing/document.rs"]
mod document;
#[path = "pricing/laws.rs"]
mod laws;
#[path = "pricing/reference.rs"]
mod reference;
#[path = "pricing/refused.rs"]
mod refused;
#[path = "pricing/windows.rs"]
mod windows;

/// The rate of a row, which must be a good one.
fn rate(row: &RateRow) -> Rate {
    row.rate().unwrap_or_else(|reason| panic!("{reason}: {row:?}"))
}

/// The terms of a row that has some.
fn terms(row: &RateRow) -> Terms {
    rate(row).terms().unwrap_or_else(|| panic!("no terms: {row:?}")).clone()
}

/// A row from its JSON without a meter.
fn row(json: &str) -> RateRow {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["meter"] = "m".into();
    serde_json::from_value(value).unwrap()
}

/// A number at scale 12 as text.
fn text(raw: i128) -> String {
    Amount::of_sum(raw).to_string()
}

/// Usage of a quantity, knowing nothing else.
fn usage(quantity: i128, before: i128) -> Usage {
    Usage { quantity, before, local: None, cost: None }
}

/// Reads `sat 21:30`.
fn local(text: &str) -> Local {
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let (day, time) = text.split_once(' ').unwrap();
    let (hour, minute) = time.split_once(':').unwrap();
    let weekday = days.iter().position(|name| *name == day).unwrap();
    let minute_of_day = hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap();
    Local { weekday: u8::try_from(weekday).unwrap(), minute_of_day }
}
