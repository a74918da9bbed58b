//! Prices that depend on the local time of the event.

use jiff::tz::TimeZone;

use crate::{
    money::{Amount, Price},
    period::instant,
};

/// Minutes of a day on a clock.
pub(super) const DAY_MINUTES: u16 = 24 * 60;
/// Days as windows name them, Monday first.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What calendar and clock of a zone show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Day of the week, 0 for Monday to 6.
    pub weekday: u8,
    /// Minutes since midnight on the clock, 0 to 1439.
    pub minute_of_day: u16,
}

impl Local {
    /// What they show at an instant, in microseconds since 1970 UTC. An instant beyond the calendar
    /// counts as its first or last.
    #[must_use]
    pub fn of(zone: &TimeZone, time_us: i64) -> Local {
        let zoned = instant(time_us).to_zoned(zone.clone());
        let hour = u16::from(zoned.hour().unsigned_abs());
        let minute = u16::from(zoned.minute().unsigned_abs());
        Local {
            weekday: zoned.weekday().to_monday_zero_offset().unsigned_abs(),
            minute_of_day: hour.saturating_mul(60).saturating_add(minute),
        }
    }
}

/// A price for every unit, and others in windows of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prices {
    /// Outside all windows.
    pub price: Price,
    /// The first that holds wins.
    pub windows: Vec<Window>,
}

/// Hours of some days of the week, with their price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Whether it begins on a day of the week, Monday first.
    pub days: [bool; 7],
    /// Its first minute of the day.
    pub from: u16,
    /// The first minute after it; where that is not later than `from`, on the next day.
    pub to: u16,
    /// The price for as many units as the row says.
    pub amount: Amount,
}

impl Prices {
    /// Whether the time matters.
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// The price at a local time; without one, outside all windows.
    pub fn at(&self, local: Option<Local>) -> Price {
        let window = local.and_then(|local| self.windows.iter().find(|window| window.holds(local)));
        Price { amount: window.map_or(self.price.amount, |window| window.amount), ..self.price }
    }
}

impl Window {
    fn holds(&self, local: Local) -> bool {
        let begins_on = |weekday: u8| self.days.get(usize::from(weekday)).copied().unwrap_or(false);
        let Local { weekday, minute_of_day } = local;
        if self.from < self.to {
            return begins_on(weekday) && (self.from..self.to).contains(&minute_of_day);
        }
        let day_before = weekday.checked_sub(1).unwrap_or(6);
        (minute_of_day >= self.from && begins_on(weekday))
            || (minute_of_day < self.to && begins_on(day_before))
    }
}
