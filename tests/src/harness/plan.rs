//! What is sent: each event is a function of the seed and its number alone.
//!
//! Events are numbered. So many follow each other in a *window*, which is sent as one request per
//! tenant; one in a hundred is held back and sent up to three windows later. 2 % repeat an earlier
//! event, 0.1 % are such as the rater rejects, and 0.1 % are sent again with other content.

use std::collections::BTreeMap;

use benches::generator::{Fate, Generator, Load, TimeText, mix};

/// How many windows later an event that is out of order may be sent.
pub const LATE_WINDOWS_MAX: u64 = 3;
/// Teams, of which each belongs to one tenant.
const TEAMS: u32 = 400;
/// Length of an event's text at most, for the buffer.
const EVENT_BYTES: usize = 400;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Tenants, from 0.
    pub tenants: usize,
    /// Events of a window.
    pub window: u64,
    generator: Generator,
}

/// What an event becomes, besides what [`Fate`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// Under the same id, with other content.
    Changed,
}

impl Plan {
    /// A plan for so many tenants, in windows of so many events, whose events happened from `start_us` on.
    pub fn new(seed: u64, tenants: usize, window: u64, start_us: i64) -> Plan {
        let load = Load {
            seed,
            teams: TEAMS,
            tenants: 1,
            batch: window,
            skew: 1.0,
            duplicates: 0.02,
            rejected: 0.001,
            late: 0.0,
            start_us,
        };
        Plan { seed, tenants, window, generator: Generator::new(&load) }
    }

    /// What makes the events.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    fn roll(&self, number: u64, stream: u64) -> u64 {
        mix(mix(self.seed ^ number) ^ mix(stream))
    }

    /// How many windows later than its own an event is sent.
    fn held_back(&self, number: u64) -> u64 {
        let roll = self.roll(number, 101);
        if roll.is_multiple_of(100) { 1 + (roll >> 32) % LATE_WINDOWS_MAX } else { 0 }
    }

    /// The events that a window sends, where windows from `end` on have none of their own.
    pub fn numbers(&self, window: u64, end: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        for earlier in (0..=LATE_WINDOWS_MAX.min(window)).rev() {
            let own = window - earlier;
            if own < end {
                let all = own * self.window..(own + 1) * self.window;
                numbers.extend(all.filter(|number| self.held_back(*number) == earlier));
            }
        }
        numbers
    }

    /// The number that an event's content comes from.
    fn source(&self, number: u64) -> u64 {
        match self.generator.fate(number) {
            Fate::Duplicate(original) => original,
            Fate::Rated | Fate::Rejected => number,
        }
    }

    /// The tenant of an event, from 0.
    pub fn tenant(&self, number: u64) -> usize {
        self.tenant_of_team(self.generator.call(self.source(number)).team)
    }

    /// The tenant of a team, from 0. Neighbours in weight go to different ones.
    pub fn tenant_of_team(&self, team: u32) -> usize {
        team as usize % self.tenants
    }

    /// Numbers by tenant.
    pub fn by_tenant(&self, numbers: &[u64]) -> BTreeMap<usize, Vec<u64>> {
        let mut tenants = BTreeMap::<usize, Vec<u64>>::new();
        for number in numbers {
            tenants.entry(self.tenant(*number)).or_default().push(*number);
        }
        tenants
    }

    /// Those of a window's events that are sent again, changed, after the window is answered.
    pub fn conflicts(&self, numbers: &[u64]) -> Vec<u64> {
        let plain = |number: &&u64| {
            self.generator.fate(**number) == Fate::Rated
                && self.held_back(**number) == 0
                && self.roll(**number, 103).is_multiple_of(1_000)
        };
        numbers.iter().filter(plain).copied().collect()
    }

    /// The body of a request, a JSON array.
    pub fn body(&self, numbers: &[u64], form: Form) -> Vec<u8> {
        let (mut body, mut clock) =
            (Vec::with_capacity(numbers.len() * EVENT_BYTES), TimeText::default());
        body.push(b'[');
        for (place, number) in numbers.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            self.write(*number, form, &mut clock, &mut body);
        }
        body.push(b']');
        body
    }

    fn write(&self, number: u64, form: Form, clock: &mut TimeText, body: &mut Vec<u8>) {
        self.generator.write_event(number, clock, body);
        if form == Form::Changed {
            // In `data`, so that the content is another one.
            body.truncate(body.len() - 2);
            body.extend_from_slice(b",\"changed\":true}}");
        }
    }

    /// The id of an event.
    pub fn id(&self, number: u64) -> String {
        format!("call-{:016x}", mix(mix(self.seed.wrapping_add(1)) ^ self.source(number)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_is_sent_once() {
        let plan = Plan::new(7, 10, 50, 0);
        let sent: Vec<u64> =
            (0..20 + LATE_WINDOWS_MAX).flat_map(|at| plan.numbers(at, 20)).collect();
        assert_eq!(sent.len(), 1_000);
        assert_eq!(sent.iter().copied().collect::<BTreeSet<u64>>(), (0..1_000).collect());
        assert!(!sent.is_sorted(), "some are out of order");
        let tenants: BTreeSet<usize> = sent.iter().map(|number| plan.tenant(*number)).collect();
        assert_eq!(tenants.len(), 10);
    }

    #[test]
    fn an_event_has_the_id_that_it_says() {
        let plan = Plan::new(7, 10, 50, 0);
        for number in 0..500 {
            let body: serde_json::Value =
                serde_json::from_slice(&plan.body(&[number], Form::Plain)).unwrap();
            assert_eq!(body[0]["id"], plan.id(number));
        }
        let changed = plan.body(&[1], Form::Changed);
        let changed: serde_json::Value = serde_json::from_slice(&changed).unwrap();
        assert_eq!(
            (&changed[0]["id"], &changed[0]["data"]["changed"]),
            (&plan.id(1).into(), &true.into())
        );
    }
}
