//! Compares everything that a system kept with what the seed says, invariant by invariant, and tells
//! the first differences with their history.

mod archive;
mod books;
mod bounds;

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use anyhow::Result;

use super::{
    expected::{Event, Expected},
    plan::Plan,
    story::Story,
    tenants::Tenant,
    traffic::{Record, Sent},
};
use crate::system::System;

pub use self::{
    books::{Snapshot, ledger_hash},
    bounds::Usage,
};

/// Differences that are told.
const TOLD_MAX: usize = 10;
/// What may have to do with an event: faults so long before it was sent and after it was answered.
const HISTORY_MS: u64 = 5_000;

/// What the oracle looks at.
pub struct Oracle<'a> {
    /// The system, at rest.
    pub system: &'a System,
    /// What was sent.
    pub plan: &'a Plan,
    /// What clients know of it.
    pub sent: &'a Sent,
    /// Whose it is.
    pub tenants: &'a [Tenant],
    /// How many versions of the prices were published.
    pub prices: u32,
    /// What was done meanwhile.
    pub story: &'a Story,
    /// The key of the audit chain, 64 hexadecimal digits.
    pub audit_key: String,
}

/// What it found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Events sent, each with one outcome.
    pub events: u64,
    /// How many of them were answered a second, over all the time that it took.
    pub rate: u64,
    /// Acknowledged events without effect (INV-01), and sums of effects that are too small.
    pub lost: u64,
    /// Events with more than one effect, and sums of effects that are too large (INV-02).
    pub doubled: u64,
    /// Other differences.
    pub others: u64,
    /// The first differences.
    pub told: Vec<String>,
}

impl Verdict {
    /// Fails where there are differences.
    pub fn check(self) -> Result<Verdict> {
        if self.lost + self.doubled + self.others > 0 {
            return Err(Wrong(self).into());
        }
        Ok(self)
    }
}

/// A verdict with differences, as an error.
#[derive(Clone, Debug)]
pub struct Wrong(pub Verdict);

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { lost, doubled, others, told, .. } = &self.0;
        writeln!(formatter, "{lost} lost, {doubled} doubled, {others} others, the first:")?;
        formatter.write_str(&told.join("\n"))
    }
}

impl std::error::Error for Wrong {}

/// Differences between what is and what must be.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    lost: u64,
    doubled: u64,
    others: u64,
    told: Vec<String>,
}

impl Differences {
    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what());
        }
    }

    /// Something that is wrong under an invariant.
    fn other(&mut self, invariant: &str, what: impl FnOnce() -> String) {
        self.others += 1;
        self.tell(|| format!("{invariant}: {}", what()));
    }

    /// INV-02: compares sums of effects, where absent ones are nothing. What is too much was charged
    /// twice, what is too little was lost; `size` says what is compared first.
    fn compare_effects<K: Ord + std::fmt::Debug, V: Copy + Default + std::fmt::Debug, S: Ord>(
        &mut self,
        what: &str,
        found: &BTreeMap<K, V>,
        expected: &BTreeMap<K, V>,
        size: fn(V) -> S,
    ) {
        let more = found.keys().filter(|key| !expected.contains_key(*key));
        for key in expected.keys().chain(more) {
            let of = |sums: &BTreeMap<K, V>| sums.get(key).copied().unwrap_or_default();
            let (found, expected) = (of(found), of(expected));
            match size(found).cmp(&size(expected)) {
                Ordering::Equal => continue,
                Ordering::Greater => self.doubled += 1,
                Ordering::Less => self.lost += 1,
            }
            self.tell(|| format!("INV-02: {what} of {key:?}: {found:?}, expected {expected:?}"));
        }
    }

    /// Compares maps under an invariant.
    fn compare<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
        &mut self,
        invariant: &str,
        what: &str,
        found: &BTreeMap<K, V>,
        expected: &BTreeMap<K, V>,
    ) {
        let more = found.keys().filter(|key| !expected.contains_key(*key));
        for key in expected.keys().chain(more) {
            let (found, expected) = (found.get(key), expected.get(key));
            if found != expected {
                self.other(invariant, || {
                    format!("{what} of {key:?}: {found:?}, expected {expected:?}")
                });
            }
        }
    }
}

impl Oracle<'_> {
    /// Checks everything. `before` is what the ledger had at an earlier moment of the run.
    pub async fn check(&self, before: Option<&Snapshot>) -> Result<Verdict> {
        let expected = Expected::of(self.plan, self.sent.numbers);
        let mut differences = Differences::default();
        self.answers(&expected, &mut differences);
        let versions = self.archived_events(&expected, &mut differences).await?;
        let books = expected.books(&versions);
        let mut connection = self.system.postgres().await?;
        self.totals(&books, &mut connection, &mut differences).await?;
        self.sides(&books, &mut connection, &mut differences).await?;
        self.ledger(&mut connection, &mut differences).await?;
        self.positions(&mut connection, &mut differences).await?;
        self.accepted(&expected, &mut connection, &mut differences).await?;
        self.conservation(&mut connection, &mut differences).await?;
        self.answered_usage(&books, &mut differences).await?;
        if let Some(before) = before {
            before.still_there(&mut connection, &mut differences).await?;
        }
        let Differences { lost, doubled, others, told } = differences;
        let (events, rate) = (self.sent.numbers, self.sent.rate());
        Ok(Verdict { events, rate, lost, doubled, others, told })
    }

    /// INV-01, the client's side: everything that must be accepted was, and was answered.
    fn answers(&self, expected: &Expected, differences: &mut Differences) {
        for (number, record) in self.sent.records.iter().enumerate() {
            if record.outcome != super::answers::Outcome::Accepted {
                differences.other("INV-01", || {
                    format!(
                        "event {number} was not accepted: {}",
                        self.history(number as u64, record)
                    )
                });
            }
        }
        if expected.rated.is_empty() {
            differences.other("INV-01", || "nothing was sent".to_owned());
        }
    }

    /// What is known of an event: when it was sent and answered, and the faults around.
    fn history(&self, number: u64, record: &Record) -> String {
        let around = self.story.between(
            record.first_ms.saturating_sub(HISTORY_MS),
            record.done_ms.max(record.first_ms) + HISTORY_MS,
        );
        format!(
            "{} of tenant {} was sent at {} ms, {:?} at {} ms after {} attempts; meanwhile: {}",
            self.plan.id(number),
            self.plan.tenant(number),
            record.first_ms,
            record.outcome,
            record.done_ms,
            record.attempts,
            around.join("; ")
        )
    }

    fn history_of(&self, event: &Event) -> String {
        let record = self.sent.records.get(event.number as usize).copied().unwrap_or_default();
        self.history(event.number, &record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_was_doubled_and_what_is_too_little_was_lost() {
        let expected = BTreeMap::from([("a", 1), ("b", 2), ("c", 3), ("d", 0)]);
        let found = BTreeMap::from([("a", 1), ("b", 1), ("e", 5), ("f", 0)]);
        let mut differences = Differences::default();
        differences.compare_effects("sums", &found, &expected, |sum| sum);
        let Differences { lost, doubled, others, told } = differences;
        assert_eq!((lost, doubled, others), (2, 1, 0));
        let first = "INV-02: sums of \"b\": 1, expected 2";
        assert!(told.len() == 3 && told[0] == first, "{told:?}");
    }
}
