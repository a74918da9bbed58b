//! What the books must say of a plan: arithmetic over its numbers, with nothing of what is tested.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use benches::{
    account::{INPUT_METER, MODELS, Model, OUTPUT_METER, Price, Sums, lines},
    generator::{Call, Fate, team_name},
};

use super::plan::{LATE_WINDOWS_MAX, Plan};

/// An event that takes effect.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// Its tenant, from 0.
    pub tenant: usize,
    /// Its content.
    pub call: Call,
}

impl Event {
    /// Its two lines, by a version of the prices.
    pub fn lines(&self, version: u32) -> [Sums; 2] {
        let model = &MODELS[self.call.model];
        let model = Model { charge: charges(model, version), ..*model };
        lines(&model, self.call.input, self.call.output)
    }
}

/// What is charged for a model's prompt and generated tokens, in a version from 1 on: each costs more.
pub fn charges(model: &Model, version: u32) -> [Price; 2] {
    let more = i128::from(version - 1);
    model.charge.map(|price| Price { micros: price.micros * (1 + more) + more, ..price })
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
        self.rated.insert(plan.id(number), Event { number, tenant, call });
    }

    /// Sums, where each event has the version of the prices that was recorded for it, or else the first.
    pub fn books(&self, versions: &HashMap<String, u32>) -> Books {
        let mut sums = BTreeMap::<_, [Sums; 2]>::new();
        for (id, event) in &self.rated {
            let lines = event.lines(versions.get(id).copied().unwrap_or(1));
            let sums = sums.entry((event.tenant, event.call.team)).or_default();
            sums.iter_mut().zip(lines).for_each(|(sum, line)| add(sum, line));
        }
        let named = |((tenant, team), [input, output]): (_, [Sums; 2])| {
            let key = |meter: &str| (tenant, team_name(team), meter.to_owned());
            [(key(INPUT_METER), input), (key(OUTPUT_METER), output)]
        };
        sums.into_iter().flat_map(named).collect()
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
        let books = expected.books(&HashMap::new());
        let events: i64 = books.values().map(|sums| sums.events).sum();
        assert_eq!(events as usize, 2 * expected.rated.len());
    }

    #[test]
    fn versions_have_prices_of_their_own() {
        let plan = Plan::new(3, 10, 100, 0);
        let expected = Expected::of(&plan, 100);
        let (id, event) = expected.rated.iter().next().unwrap();
        let [first, second] = [1, 2].map(|version| event.lines(version));
        assert!(second[0].charge > 2 * first[0].charge && second[0].cost == first[0].cost);
        let charge = |books: Books| books.values().map(|sums| sums.charge).sum::<i128>();
        let more = charge(expected.books(&HashMap::from([(id.clone(), 2)])))
            - charge(expected.books(&HashMap::new()));
        let lines = |lines: [Sums; 2]| lines[0].charge + lines[1].charge;
        assert_eq!(more, lines(second) - lines(first));
    }
}
