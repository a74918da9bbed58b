//! What waits in a slow lane, and which place of it may be stored when. Pure, as [`crate::state`];
//! `late.rs` moves messages between it, the archive, the log and Postgres.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use domain::{
    planted::{self, Bug},
    wire::{block::BlockWriter, codec::DecodeError, rated::OuterError, record::Verdict},
};
use uuid::Uuid;

use crate::verdict::{Cursor, Hit, Late, Waiting, Wanted, read};

/// Late events that are answered together, at most.
const GROUP_MAX: usize = 1_000;
/// Bytes of late events after which no more join a group: as blocks of ingest.
const GROUP_BYTES: usize = 256 * 1024;

/// The late events that wait in a partition's lane.
#[derive(Clone, Debug)]
pub struct Queue {
    partition: u32,
    /// What Postgres has.
    stored: Cursor,
    /// After the late event whose copy was acknowledged last.
    answered: Cursor,
    /// Acknowledged and not stored yet, per tenant.
    answers: BTreeMap<Uuid, i64>,
    /// How far `[rated]` was read.
    read: Cursor,
    waiting: VecDeque<Waiting>,
}

/// A move of the lane's stored place, with the answers per tenant that it gave on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it must still be.
    pub before: Cursor,
    /// Where it will be.
    pub after: Cursor,
    /// Answers per tenant.
    pub answers: Vec<(Uuid, i64)>,
}

/// A search of the archive for a group of late events.
#[derive(Debug)]
pub struct Search<'a> {
    partition: u32,
    archived: i64,
    late: Vec<(Late<'a>, Wanted)>,
    /// The ranges of positions to look in, both ends inclusive.
    pub ranges: Vec<(i64, i64)>,
    /// The identities to look for.
    pub identities: Vec<u128>,
}

/// Copies with their verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The block that they are.
    pub block: Bytes,
    /// Their verdicts, in the order of the late events, and whose each is.
    pub verdicts: Vec<(Verdict, Uuid)>,
}

impl Queue {
    /// A lane that Postgres says is at `stored`.
    #[must_use]
    pub fn new(partition: u32, stored: Cursor) -> Queue {
        Queue {
            partition,
            stored,
            answered: stored,
            answers: BTreeMap::new(),
            read: stored,
            waiting: VecDeque::new(),
        }
    }

    /// Late events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a whole group waits: no more need be read.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= GROUP_MAX
    }

    /// Reads the message at `position` of `[rated]`.
    pub fn offer(&mut self, position: i64, message: &[u8]) -> Result<(), OuterError> {
        let found = read(self.partition, self.read, position, message)?;
        let Some((after, waiting)) = found else { return Ok(()) };
        self.read = after;
        match (waiting.is_empty(), self.waiting.back_mut()) {
            (true, Some(last)) => last.after = after,
            _ => self.waiting.extend(waiting),
        }
        Ok(())
    }

    /// Whether an archive at `archived` has passed a late event that waits.
    #[must_use]
    pub fn has_passed(&self, archived: i64) -> bool {
        self.waiting.front().is_some_and(|first| first.forward.position <= archived)
    }

    /// The search for those of the next group that an archive at `archived` has passed.
    pub fn search(&self, archived: i64) -> Result<Search<'_>, DecodeError> {
        let mut late: Vec<(Late<'_>, Wanted)> = Vec::new();
        let mut size = 0;
        let passed = |waiting: &&Waiting| waiting.forward.position <= archived;
        for waiting in self.waiting.iter().take(GROUP_MAX).take_while(passed) {
            let one = Late::open(&waiting.forward)?;
            size += one.size();
            if size > GROUP_BYTES && !late.is_empty() {
                break;
            }
            let wanted = one.wanted()?;
            late.push((one, wanted));
        }
        let ranges = merged(late.iter().flat_map(|(one, _)| one.ranges(archived)).collect());
        let mut identities: Vec<u128> = late.iter().map(|(_, wanted)| wanted.identity).collect();
        identities.sort_unstable();
        identities.dedup();
        Ok(Search { partition: self.partition, archived, late, ranges, identities })
    }

    /// The append of these answers was acknowledged: the copies are in the log.
    pub fn acknowledged(&mut self, answers: &Answers) {
        for (_, tenant) in &answers.verdicts {
            *self.answers.entry(*tenant).or_default() += 1;
            if let Some(waiting) = self.waiting.pop_front() {
                self.answered = waiting.after;
            }
        }
    }

    /// The move that may be stored now: past what was acknowledged, and never past what waits.
    #[must_use]
    pub fn due(&self) -> Option<Move> {
        let all = self.waiting.is_empty() || planted::is(Bug::LanePlaceFirst);
        let after = if all { self.read } else { self.answered };
        let answers = self.answers.iter().map(|(tenant, count)| (*tenant, *count)).collect();
        (after != self.stored).then_some(Move { before: self.stored, after, answers })
    }

    /// A move was stored.
    pub fn stored(&mut self, moved: &Move) {
        self.stored = moved.after;
        self.answered = moved.after;
        self.answers.clear();
    }
}

impl Search<'_> {
    /// The answers, from what was found.
    pub fn answers(&self, hits: &[Hit]) -> Result<Answers, DecodeError> {
        let mut writer = BlockWriter::default();
        let mut verdicts = Vec::with_capacity(self.late.len());
        for (one, wanted) in &self.late {
            let verdict = one.judge(wanted, hits, self.archived);
            one.answer(self.partition, verdict, &mut writer)?;
            verdicts.push((verdict, wanted.tenant));
        }
        Ok(Answers { block: writer.finish().into(), verdicts })
    }
}

/// The same positions in as few ranges as possible.
fn merged(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if from <= end.saturating_add(1) => *end = (*end).max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(
            merged(vec![(5, 9), (0, 2), (3, 3), (8, 12), (14, 15)]),
            [(0, 3), (5, 12), (14, 15)]
        );
        assert_eq!(merged(Vec::new()), []);
    }
}
