//! What the books must say of a plan: arithmetic over its numbers, with nothing of what is tested.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use benches::{
    account::{INPUT_METER, MODELS, OUTPUT_METER, Sums, lines},
    generator::{Fate, team_name},
};

use super::plan::{LATE_WINDOWS_MAX, Plan};

/// An event that takes effect.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// Its tenant, from 0.
    pub tenant: usize,
    /// Its team, from 0.
    pub team: u32,
    /// Its two lines.
    pub lines: [Sums; 2],
}

/// Sums per tenant, team and meter.
pub type Books = BTreeMap<(usize, String, String), Sums>;

/// What clients of a tenant send, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Events, with those that are sent again with other content.
    pub events: u64,
    /// Events that repeat another one.
    pub duplicates: u64,
}

/// What the books must say.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Events that take effect, by id.
    pub rated: HashMap<String, Event>,
    /// Ids of events that the rater rejects.
    pub rejected: BTreeSet<String>,
    /// Ids that are sent again with other content.
    pub conflicts: BTreeSet<String>,
    /// What clients send, by tenant.
    pub sent: BTreeMap<usize, Sent>,
    /// Sums.
    pub books: Books,
}

impl Expected {
    /// After the first `numbers` events of a plan.
    pub fn of(plan: &Plan, numbers: u64) -> Expected {
        let mut expected = Expected::default();
        for number in 0..numbers {
            let sent = expected.sent.entry(plan.tenant(number)).or_default();
            sent.events += 1;
            match plan.generator().fate(number) {
                Fate::Duplicate(_) => sent.duplicates += 1,
                Fate::Rejected => {
                    expected.rejected.insert(plan.id(number));
                }
                Fate::Rated => expected.rate(plan, number),
            }
        }
        let end = numbers / plan.window;
        for window in 0..end + LATE_WINDOWS_MAX {
            for number in plan.conflicts(&plan.numbers(window, end)) {
                expected.sent.entry(plan.tenant(number)).or_default().events += 1;
                expected.conflicts.insert(plan.id(number));
            }
        }
        expected
    }

    fn rate(&mut self, plan: &Plan, number: u64) {
        let call = plan.generator().call(number);
        let tenant = plan.tenant_of_team(call.team);
        let lines = lines(&MODELS[call.model], call.input, call.output);
        for (meter, line) in [INPUT_METER, OUTPUT_METER].into_iter().zip(lines) {
            let key = (tenant, team_name(call.team), meter.to_owned());
            add(self.books.entry(key).or_default(), line);
        }
        self.rated.insert(plan.id(number), Event { number, tenant, team: call.team, lines });
    }
}

/// Adds one to the other.
pub fn add(sums: &mut Sums, other: Sums) {
    sums.events += other.events;
    sums.quantity += other.quantity;
    sums.charge += other.charge;
    sums.cost += other.cost;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_one_fate() {
        let plan = Plan::new(3, 10, 100, 0);
        let expected = Expected::of(&plan, 20_000);
        let sum = |of: fn(&Sent) -> u64| expected.sent.values().map(of).sum::<u64>();
        let (sent, duplicates) = (sum(|sent| sent.events), sum(|sent| sent.duplicates));
        let all = expected.rated.len() as u64 + expected.rejected.len() as u64 + duplicates;
        assert_eq!((all, sent), (20_000, 20_000 + expected.conflicts.len() as u64));
        let share = |part: u64| part as f64 / 20_000.0;
        assert!((0.015..0.025).contains(&share(duplicates)), "{duplicates}");
        assert!((5..50).contains(&expected.rejected.len()), "{}", expected.rejected.len());
        assert!((5..50).contains(&expected.conflicts.len()), "{}", expected.conflicts.len());
        assert!(expected.conflicts.iter().all(|id| expected.rated.contains_key(id)));
        let events: i64 = expected.books.values().map(|sums| sums.events).sum();
        assert_eq!(events as usize, 2 * expected.rated.len());
    }
}
