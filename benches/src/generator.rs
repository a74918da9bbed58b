//! The load of the bench: LLM calls, each a function of the seed and its number alone.
//!
//! So a request can be built again, by any thread, with the same bytes, and what the books must say
//! afterwards is plain arithmetic over the numbers (see [`crate::account`]). An event is written
//! into a buffer without allocating, because the generator shares the machine with what it loads.

use std::{ops::Range, time::Duration};

use crate::{
    account::MODELS,
    teams::{Teams, scaled},
};

/// The event type that the bench's meters look at.
pub const EVENT_TYPE: &str = "llm.tokens.v1";
/// A duplicate repeats one of so many events before it.
const DUPLICATE_REACH: u64 = 100_000;
/// Event times advance by this much per event, and begin again after [`TIME_SPAN_US`].
const TIME_STEP_US: u64 = 2;
const TIME_SPAN_US: u64 = 60_000_000;
/// How much earlier the time of a late event is: two hours, twice what a rater's table covers.
const LATE_US: i64 = 7_200_000_000;
const INPUT_TOKENS_MAX: u64 = 4_096;
const OUTPUT_TOKENS_MAX: u64 = 1_024;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Another seed, other events.
    pub seed: u64,
    /// How many teams.
    pub teams: u32,
    /// How many tenants share the teams, at most as many.
    pub tenants: u32,
    /// Events that follow one another are of one tenant, as many as this: those of a request.
    pub batch: u64,
    /// How unevenly they are used: the weight of team `n` is `1 / n^skew`.
    pub skew: f64,
    /// Share of events that repeat an earlier one.
    pub duplicates: f64,
    /// Share of events that ingest accepts and the rater rejects: a negative quantity.
    pub rejected: f64,
    /// Share of events that are late: their time is two hours before that of others.
    pub late: f64,
    /// The time of the first event, in microseconds since 1970.
    pub start_us: i64,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Priced.
    Rated,
    /// Repeats the event of this number, which is rated.
    Duplicate(u64),
    /// Refused by the rater.
    Rejected,
}

/// An LLM call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The team, from 0.
    pub team: u32,
    /// Its place in [`MODELS`].
    pub model: usize,
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens generated.
    pub output: u64,
    /// Other random bits, for members that nobody prices.
    rest: u64,
}

/// Makes the events of a load.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    teams: Teams,
    tenants: u32,
    batch: u64,
    duplicates: u32,
    /// Rolls below this and not below `duplicates` are rejected.
    rejected: u32,
    late: u32,
    start_us: i64,
}

/// Bits that look random: the finalizer of SplitMix64, a bijection.
#[must_use]
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Generator {
    /// A generator of `load`.
    #[must_use]
    pub fn new(load: &Load) -> Generator {
        Generator {
            seed: mix(load.seed.wrapping_add(1)),
            teams: Teams::new(load.teams, load.skew),
            tenants: load.tenants.clamp(1, load.teams.max(1)),
            batch: load.batch.max(1),
            duplicates: scaled(load.duplicates),
            rejected: scaled(load.duplicates + load.rejected),
            late: scaled(load.late),
            start_us: load.start_us,
        }
    }

    /// How many teams there are.
    #[must_use]
    pub fn teams(&self) -> usize {
        self.teams.count()
    }

    /// The tenant of an event, from 0: requests go to tenants in turn.
    #[must_use]
    pub fn tenant(&self, number: u64) -> u32 {
        u32::try_from(number / self.batch % u64::from(self.tenants)).unwrap_or_default()
    }

    /// The team of an event that the bits choose: those of tenant `n` of `m` are `n`, `n + m`, …
    fn team(&self, number: u64, bits: u64) -> u32 {
        let (drawn, tenants) = (self.teams.draw(bits), self.tenants);
        let team = drawn - drawn % tenants + self.tenant(number);
        let is_one = usize::try_from(team).is_ok_and(|team| team < self.teams.count());
        if is_one { team } else { team - tenants }
    }

    /// What becomes of an event.
    #[must_use]
    pub fn fate(&self, number: u64) -> Fate {
        match self.roll(number, 0) {
            roll if roll >= self.rejected => Fate::Rated,
            roll if roll >= self.duplicates => Fate::Rejected,
            _ => self.original(number).map_or(Fate::Rated, Fate::Duplicate),
        }
    }

    /// What a duplicate repeats: the nearest event of its tenant that is neither a duplicate nor
    /// rejected, from a random one before it. The first events may have none.
    fn original(&self, number: u64) -> Option<u64> {
        let reach = number.min(DUPLICATE_REACH);
        let back = self.bits(number, 1).checked_rem(reach)?;
        let from = number.checked_sub(back + 1)?;
        let tenants = u64::from(self.tenants);
        let own = u64::from(self.tenant(number));
        // The nearest request of the tenant, and the same place in it.
        let others = (from / self.batch + tenants - own) % tenants;
        let mut from = from.checked_sub(others * self.batch)?;
        loop {
            let first = from - from % self.batch;
            let is_rated = |earlier: &u64| self.roll(*earlier, 0) >= self.rejected;
            if let Some(earlier) = (first..=from).rev().find(is_rated) {
                return Some(earlier);
            }
            from = (first + self.batch - 1).checked_sub(tenants * self.batch)?;
        }
    }

    fn roll(&self, number: u64, stream: u64) -> u32 {
        u32::try_from(self.bits(number, stream) >> 32).unwrap_or(u32::MAX)
    }

    /// The time of an event that is no duplicate, in microseconds since 1970.
    fn time_us(&self, number: u64) -> i64 {
        let after_us = number.wrapping_mul(TIME_STEP_US) % TIME_SPAN_US;
        let time_us = self.start_us.saturating_add_unsigned(after_us);
        if self.roll(number, 5) < self.late { time_us - LATE_US } else { time_us }
    }

    fn bits(&self, number: u64, stream: u64) -> u64 {
        mix(mix(self.seed ^ number).wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The call of an event that is no duplicate.
    #[must_use]
    pub fn call(&self, number: u64) -> Call {
        let (tokens, rest) = (self.bits(number, 3), self.bits(number, 4));
        Call {
            team: self.team(number, self.bits(number, 2)),
            model: usize::try_from((rest >> 48) % MODELS.len() as u64).unwrap_or_default(),
            input: 1 + (tokens & 0xffff_ffff) % INPUT_TOKENS_MAX,
            output: 1 + (tokens >> 32) % OUTPUT_TOKENS_MAX,
            rest,
        }
    }

    /// Appends the events of a request, a JSON array.
    pub fn write_array(&self, numbers: Range<u64>, clock: &mut TimeText, body: &mut Vec<u8>) {
        body.push(b'[');
        for number in numbers.clone() {
            if number != numbers.start {
                body.push(b',');
            }
            self.write_event(number, clock, body);
        }
        body.push(b']');
    }

    /// Appends one event.
    pub fn write_event(&self, number: u64, clock: &mut TimeText, body: &mut Vec<u8>) {
        let fate = self.fate(number);
        let number = if let Fate::Duplicate(original) = fate { original } else { number };
        let call = self.call(number);
        let (provider, model) =
            MODELS.get(call.model).map_or(("", ""), |model| (model.provider, model.name));
        body.extend_from_slice(b"{\"id\":\"call-");
        write_hexadecimal(mix(self.seed ^ number), body);
        body.extend_from_slice(
            b"\",\"source\":\"bench/1.0.0\",\"type\":\"llm.tokens.v1\",\"subject\":\"",
        );
        write_team(call.team, body);
        body.extend_from_slice(b"\",\"user\":\"user-");
        write_decimal(call.rest & 0xf, body);
        body.extend_from_slice(b"\",\"time\":\"");
        clock.write(self.time_us(number), body);
        body.extend_from_slice(b"\",\"data\":{\"provider\":\"");
        body.extend_from_slice(provider.as_bytes());
        body.extend_from_slice(b"\",\"model\":\"");
        body.extend_from_slice(model.as_bytes());
        body.extend_from_slice(b"\",\"inputTokens\":");
        write_decimal(call.input, body);
        body.extend_from_slice(b",\"outputTokens\":");
        if fate == Fate::Rejected {
            body.push(b'-');
        }
        write_decimal(call.output, body);
        body.extend_from_slice(b",\"latencyMs\":");
        write_decimal((call.rest >> 8) & 0xfff, body);
        body.extend_from_slice(
            b",\"stream\":true,\"region\":\"eu-west-1\",\"finishReason\":\"stop\"}}",
        );
    }
}

/// The name of a team, from 0.
#[must_use]
pub fn team_name(team: u32) -> String {
    let mut name = Vec::new();
    write_team(team, &mut name);
    String::from_utf8(name).unwrap_or_default()
}

fn write_team(team: u32, text: &mut Vec<u8>) {
    text.extend_from_slice(b"team-");
    write_decimal(u64::from(team), text);
}

fn write_hexadecimal(bits: u64, text: &mut Vec<u8>) {
    text.extend((0..16).rev().map(|place| digit(bits >> (4 * place) & 0xf)));
}

fn write_decimal(number: u64, text: &mut Vec<u8>) {
    let from = text.len();
    let mut rest = number;
    loop {
        text.push(digit(rest % 10));
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = text.get_mut(from..) {
        digits.reverse();
    }
}

fn digit(value: u64) -> u8 {
    b"0123456789abcdef".get(usize::try_from(value).unwrap_or_default()).copied().unwrap_or(b'0')
}

/// Writes times as RFC 3339; remembers the last second's text.
#[derive(Clone, Debug, Default)]
pub struct TimeText {
    second: Option<i64>,
    text: String,
}

impl TimeText {
    /// Appends `2026-05-04T03:02:01.500000Z`.
    pub fn write(&mut self, time_us: i64, text: &mut Vec<u8>) {
        let (second, part) = (time_us.div_euclid(1_000_000), time_us.rem_euclid(1_000_000));
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = second_text(second);
        }
        text.extend_from_slice(self.text.as_bytes());
        text.push(b'.');
        let part = u64::try_from(part).unwrap_or_default();
        text.extend([100_000, 10_000, 1_000, 100, 10, 1].map(|place| digit(part / place % 10)));
        text.push(b'Z');
    }
}

/// `2026-05-04T03:02:01` of a second since 1970 (Howard Hinnant's civil calendar).
fn second_text(second: i64) -> String {
    let (day, clock) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}",
        clock / 3_600,
        clock / 60 % 60,
        clock % 60
    )
}

/// A load's pace: when its event of some number is due.
#[must_use]
pub fn due_after(number: u64, per_second: u64) -> Duration {
    let nanoseconds = u128::from(number) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
