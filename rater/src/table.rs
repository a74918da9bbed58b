//! The duplicates table with its limits: what it covers, and what leaves it when.
//!
//! It covers every position from `S` on. What leaves is a whole range: the oldest accepted batches
//! together, at least [`Limits::range_identities`] where there are so many. A range gets a filter
//! before `S` moves past it, so that nothing lies between the newest filter and `S`.

use std::collections::VecDeque;

use domain::{chain::Hash, wire::rated::Outer};

use crate::{
    batch::Coverage,
    filter::{Filter, Name},
    ranges::{Range, Ranges},
    seen::Seen,
};

/// Identities that are taken out of the table for each block rated, so that the end of a range of
/// millions is no pause.
const SWEEP: usize = 20_000;
/// What is older than so many windows leaves, however few it is: a start reads the table again.
const WINDOWS_MAX: i64 = 24;
/// And so does what is older than this: half of what Kafka keeps of `[rated]`, 3.5 days.
pub const AGE_US_MAX: i64 = 7 * 86_400 * 1_000_000 / 2;

/// How much the table may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Identities of accepted batches; 40 bytes each, and 16 more for their order.
    pub identities_max: usize,
    /// Identities that leave together.
    pub range_identities: usize,
    /// Log time that the table covers, microseconds, where memory allows.
    pub window_us: i64,
}

/// An accepted batch that the table covers.
#[derive(Clone, Debug)]
pub struct AcceptedBatch {
    /// Its outer header.
    pub outer: Outer,
    /// The highest append time of its blocks, microseconds.
    pub append_time_us: i64,
    /// The identities that it added.
    pub added: Vec<u128>,
}

/// The oldest batches of the table, on their way out.
#[derive(Clone, Debug)]
pub struct Departure {
    /// The range that they become.
    pub name: Name,
    /// Their identities.
    pub identities: Vec<u128>,
    batches: usize,
}

/// The table of one partition.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which identities took effect, and where.
    pub(crate) seen: Seen,
    /// `S` and `H`.
    pub(crate) coverage: Coverage,
    /// What has left.
    pub(crate) ranges: Ranges,
    partition: u32,
    limits: Limits,
    /// Hash of the accepted batch that ends right before `S`.
    edge: Hash,
    /// Accepted batches from `S` on.
    batches: VecDeque<AcceptedBatch>,
    /// Identities of `batches`.
    held: usize,
    /// How many of the oldest batches are the next range, and their identities.
    next: (usize, usize),
    /// Highest append time of any accepted block.
    append_time_us: i64,
    /// What has left and is still in `seen`: a hit there is as true as ever.
    leaving: VecDeque<Vec<u128>>,
}

impl Table {
    /// An empty table that covers what follows; `c` is the hash of the batch before it.
    #[must_use]
    pub fn new(partition: u32, c: Hash, coverage: Coverage, limits: Limits) -> Table {
        Table {
            seen: Seen::default(),
            coverage,
            ranges: Ranges::default(),
            partition,
            limits,
            edge: c,
            batches: VecDeque::new(),
            held: 0,
            next: (0, 0),
            append_time_us: coverage.horizon_us,
            leaving: VecDeque::new(),
        }
    }

    /// `S` and `H`.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Hash of the accepted batch that ends right before `S`.
    #[must_use]
    pub fn edge(&self) -> Hash {
        self.edge
    }

    /// The ranges below the table.
    #[must_use]
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Identities in memory.
    #[must_use]
    pub fn identities(&self) -> usize {
        self.seen.len()
    }

    /// Highest append time of any accepted block; the smallest number for none.
    #[must_use]
    pub fn append_time_us(&self) -> i64 {
        self.append_time_us
    }

    /// Whether a batch lies below the table as a whole.
    pub(crate) fn skips(&self, outer: &Outer) -> bool {
        outer.to < self.coverage.table_from
    }

    /// Passes a batch below the table.
    pub(crate) fn skip(&mut self, outer: &Outer) {
        self.edge = outer.hash;
    }

    /// Takes an accepted batch, whose identities are in `seen` already.
    pub(crate) fn accept(&mut self, batch: AcceptedBatch) {
        if self.batches.is_empty() {
            // A batch that begins below `S` is covered as a whole.
            self.coverage.table_from = self.coverage.table_from.min(batch.outer.from);
        }
        self.append_time_us = self.append_time_us.max(batch.append_time_us);
        self.held += batch.added.len();
        self.batches.push_back(batch);
        self.grow_next();
    }

    /// Counts batches to the next range until it is full.
    fn grow_next(&mut self) {
        let (batches, identities) = &mut self.next;
        while *identities < self.limits.range_identities
            && let Some(batch) = self.batches.get(*batches)
        {
            *batches += 1;
            *identities += batch.added.len();
        }
    }

    /// See [`crate::state::State::departure`]. `corrections` are remembered beside the identities, from `S`
    /// on as well, and take the same room.
    pub(crate) fn departure(&self, held: Option<i64>, corrections: usize) -> Option<Departure> {
        let (full, identities) = self.next;
        if self.held.saturating_add(corrections) > self.limits.identities_max {
            return self.oldest(full);
        }
        let old = self.append_time_us.saturating_sub(self.limits.window_us);
        let held = held.unwrap_or(i64::MAX);
        let may_leave =
            |batch: &AcceptedBatch| batch.append_time_us < old && batch.outer.to <= held;
        if identities >= self.limits.range_identities
            && full.checked_sub(1).and_then(|last| self.batches.get(last)).is_some_and(may_leave)
        {
            return self.oldest(full);
        }
        let oldest =
            self.append_time_us.saturating_sub(self.limits.window_us.saturating_mul(WINDOWS_MAX));
        if self.batches.front().is_some_and(|batch| batch.append_time_us < oldest) {
            return self
                .oldest(self.batches.iter().take(full).take_while(|b| may_leave(b)).count());
        }
        None
    }

    fn oldest(&self, batches: usize) -> Option<Departure> {
        let last = self.batches.get(batches.checked_sub(1)?)?;
        let name = Name {
            partition: self.partition,
            from: self.coverage.table_from,
            to: last.outer.to,
            prev: self.edge,
            c: last.outer.hash,
        };
        let leaving = self.batches.iter().take(batches);
        let identities = leaving.flat_map(|batch| batch.added.iter().copied()).collect();
        Some(Departure { name, identities, batches })
    }

    /// See [`crate::state::State::depart`].
    pub(crate) fn depart(&mut self, departure: Departure, filter: Option<Filter>) {
        let Departure { name, identities, batches } = departure;
        assert!(
            name.from == self.coverage.table_from && name.prev == self.edge,
            "only the oldest batches leave"
        );
        for batch in self.batches.drain(..batches) {
            self.coverage.horizon_us = self.coverage.horizon_us.max(batch.append_time_us);
        }
        self.held -= identities.len();
        self.next = (0, 0);
        self.grow_next();
        self.coverage.table_from = name.to + 1;
        self.edge = name.c;
        self.ranges.push(Range { name, filter });
        self.leaving.push_back(identities);
    }

    /// Takes some of what has left out of memory.
    pub(crate) fn sweep(&mut self) {
        let Some(oldest) = self.leaving.front_mut() else { return };
        let rest = oldest.len().saturating_sub(SWEEP);
        self.seen.remove(&oldest.split_off(rest));
        if oldest.is_empty() {
            self.leaving.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::chain::GENESIS;

    use super::*;
    use crate::seen::Taken;

    const SECOND_US: i64 = 1_000_000;

    fn table(identities_max: usize, range_identities: usize) -> Table {
        let limits = Limits { identities_max, range_identities, window_us: 10 * SECOND_US };
        Table::new(0, GENESIS, Coverage { table_from: 0, horizon_us: i64::MIN }, limits)
    }

    /// Accepts the batch of one position, a second after the one before, with so many identities.
    fn accept(table: &mut Table, position: i64, identities: u8) {
        let added: Vec<u128> = (0..identities)
            .map(|n| u128::from(position.unsigned_abs()) * 100 + u128::from(n))
            .collect();
        for (index, identity) in (0u32..).zip(&added) {
            assert!(table.seen.take(*identity, Taken { position, index, content: 0 }));
        }
        let hash = |position: i64| [u8::try_from(position + 1).unwrap(); 32];
        let outer = Outer {
            version: 1,
            partition: 0,
            from: position,
            to: position,
            prev: if position == 0 { GENESIS } else { hash(position - 1) },
            hash: hash(position),
        };
        table.accept(AcceptedBatch { outer, append_time_us: position * SECOND_US, added });
    }

    fn leaves(table: &Table, held: Option<i64>) -> Option<(i64, i64, usize)> {
        let departure = table.departure(held, 0)?;
        Some((departure.name.from, departure.name.to, departure.identities.len()))
    }

    #[test]
    fn memory_comes_first_and_whole_batches_leave() {
        let mut table = table(10, 4);
        for position in 0..3 {
            accept(&mut table, position, 3);
        }
        assert_eq!(leaves(&table, None), None);
        accept(&mut table, 3, 3);
        // Whatever a look-up under way relies on.
        assert_eq!(leaves(&table, Some(-1)), Some((0, 1, 6)));
        table.depart(table.departure(None, 0).unwrap(), None);
        assert_eq!(table.coverage, Coverage { table_from: 2, horizon_us: SECOND_US });
        assert_eq!((table.edge(), table.ranges.count()), ([2; 32], (1, 1)));
        assert_eq!(leaves(&table, None), None);
        // What has left stays a hit until it is swept.
        assert!(table.seen.look_up(0).is_ok());
        table.sweep();
        assert!(table.seen.look_up(0).is_err() && table.identities() == 6);
    }

    #[test]
    fn a_full_range_leaves_after_the_window_unless_it_is_held() {
        let mut table = table(1_000, 4);
        for position in 0..12 {
            accept(&mut table, position, 2);
        }
        // The second batch is exactly ten seconds older than the newest.
        assert_eq!(leaves(&table, None), None);
        accept(&mut table, 12, 2);
        assert_eq!(leaves(&table, Some(0)), None);
        assert_eq!(leaves(&table, Some(1)), Some((0, 1, 4)));
    }

    #[test]
    fn what_is_much_older_leaves_however_few_it_is() {
        let mut table = table(1_000, 500);
        for position in 0..241 {
            accept(&mut table, position, u8::from(position == 0));
        }
        assert_eq!(leaves(&table, None), None);
        accept(&mut table, 241, 0);
        assert_eq!(leaves(&table, None), Some((0, 230, 1)));
        assert_eq!(leaves(&table, Some(7)), Some((0, 7, 1)));
    }
}
