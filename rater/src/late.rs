//! The slow lane of one partition: late events get their verdict from the archive.
//!
//! A reader of `[rated]`, on a thread of its own beside the partition's owner. It takes the late
//! events of accepted batches, waits until the archive has passed them, searches there, and appends
//! copies with a verdict to `[usage]`. Its stored place moves only after that append is
//! acknowledged: repeats, and two lanes at once, are harmless.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::wire::{block::BlockWriter, record::Verdict};
use runtime::{http::State as Ready, log::Reader, progress::Progress};
use uuid::Uuid;

use crate::{
    partition::{PartitionError, RATED, RETRY_MAX, RETRY_MIN, Shared, USAGE, pause},
    store::{archive, lane},
    verdict::{Cursor, Late, Waiting, Wanted, read},
};

/// Late events that are answered together, at most.
const GROUP_MAX: usize = 1_000;
/// Bytes of late events after which no more join a group: as blocks of ingest.
const GROUP_BYTES: usize = 256 * 1024;
/// Between looks at the log while nothing waits.
const LOOK: Duration = Duration::from_millis(200);
/// Between looks at how far the archive is while something waits.
const ARCHIVE_LOOK: Duration = Duration::from_millis(100);
/// How long the archive may take to pass `S`, so that *new* will be believed, before the lane
/// answers all the same: a duplicate needs no such wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the table holds on to what lies after `A` for copies that are not rated yet.
const HOLD: Duration = Duration::from_secs(2);
/// How often a place that moved without any late event is stored.
const STORE_EVERY: Duration = Duration::from_secs(5);

const NOBODY: i64 = i64::MAX;

/// What an owner and its lane tell each other.
#[derive(Debug)]
pub struct Link {
    /// `S` of the owner's table.
    table_from: AtomicI64,
    /// `X` of the owner.
    accepted: AtomicI64,
    /// `A` of a look-up under way.
    held: AtomicI64,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            table_from: AtomicI64::new(0),
            accepted: AtomicI64::new(-1),
            held: AtomicI64::new(NOBODY),
        }
    }
}

impl Link {
    /// The owner says where it is.
    pub fn tell(&self, table_from: i64, accepted: i64) {
        self.table_from.store(table_from, Ordering::Relaxed);
        self.accepted.store(accepted, Ordering::Relaxed);
    }

    /// The `A` of a look-up under way.
    #[must_use]
    pub fn held(&self) -> Option<i64> {
        Some(self.held.load(Ordering::Relaxed)).filter(|held| *held != NOBODY)
    }
}

/// Runs the lane until `stopped`, through every outage of its neighbours.
pub fn run(shared: &Shared, partition: u32, link: &Link, stopped: &dyn Fn() -> bool) {
    let mut retry = RETRY_MIN;
    let check = check_name(partition);
    let place = (RATED, partition);
    let mut progress = Progress::new(&shared.readiness, check, PATIENCE, &shared.log, place);
    while !stopped() {
        let began = Instant::now();
        let opened = Lane::open(shared, partition, link, stopped, &mut progress);
        let ended = opened.and_then(|mut lane| lane.work());
        link.held.store(NOBODY, Ordering::Relaxed);
        match ended {
            Ok(()) => {}
            Err(PartitionError::Unavailable(reason)) => {
                shared.metrics.late_waits.inc();
                tracing::warn!(partition, reason, "late events wait for a neighbour");
                if began.elapsed() > RETRY_MAX {
                    retry = RETRY_MIN;
                }
                pause(retry, stopped);
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(PartitionError::Stopped(reason)) => {
                tracing::error!(
                    partition,
                    reason,
                    "the slow lane has stopped; a person has to act"
                );
                shared.readiness.set(check_name(partition), Ready::NotReady(reason));
                return;
            }
        }
    }
}

/// The readiness check of a lane that has stopped for good.
pub(crate) fn check_name(partition: u32) -> String {
    format!("rater.{partition}.late")
}

/// Copies with their verdicts.
struct Answers {
    /// How many.
    count: usize,
    /// The block that they are.
    block: Vec<u8>,
    /// How many of each tenant.
    tenants: Vec<(Uuid, i64)>,
}

struct Lane<'a> {
    shared: &'a Shared,
    partition: u32,
    link: &'a Link,
    stopped: &'a dyn Fn() -> bool,
    reader: Box<dyn Reader>,
    /// What Postgres has.
    stored: Cursor,
    stored_at: Instant,
    /// How far `[rated]` was read.
    read: Cursor,
    waiting: VecDeque<Waiting>,
    /// Since when the archive is waited for although it has passed the late events.
    patient_since: Option<Instant>,
    progress: &'a mut Progress,
}

impl<'a> Lane<'a> {
    fn open(
        shared: &'a Shared,
        partition: u32,
        link: &'a Link,
        stopped: &'a dyn Fn() -> bool,
        progress: &'a mut Progress,
    ) -> Result<Lane<'a>, PartitionError> {
        let stored = shared.handle.block_on(lane::read(&shared.lane_pool, partition))?;
        progress.next_is(stored.place.r + 1);
        let reader = shared.log.reader(RATED, partition, stored.place.r + 1)?;
        Ok(Lane {
            shared,
            partition,
            link,
            stopped,
            reader,
            stored,
            stored_at: Instant::now(),
            read: stored,
            waiting: VecDeque::new(),
            patient_since: None,
            progress,
        })
    }

    /// Until a stop, a failure, or another lane that was faster.
    fn work(&mut self) -> Result<(), PartitionError> {
        while !(self.stopped)() {
            self.read_ahead()?;
            let label = self.partition.to_string();
            let waiting = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
            self.shared.metrics.late_waiting.with_label_values(&[&label]).set(waiting);
            let goes_on = if self.waiting.is_empty() {
                self.store_now_and_then()?
            } else {
                self.answer_what_is_archived()?
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Reads `[rated]` until a group waits, or nothing more is there.
    fn read_ahead(&mut self) -> Result<(), PartitionError> {
        while self.waiting.len() < GROUP_MAX {
            let wait = if self.waiting.is_empty() { LOOK } else { Duration::ZERO };
            let Some(message) = self.reader.next(wait)? else {
                if self.waiting.is_empty() {
                    self.progress.idle();
                }
                break;
            };
            self.progress.next_is(message.position + 1);
            if self.waiting.is_empty() {
                self.progress.advanced();
            }
            let found = read(self.partition, self.read, message.position, &message.payload)
                .map_err(|error| PartitionError::Stopped(error.to_string()))?;
            let Some((after, waiting)) = found else { continue };
            self.read = after;
            match (waiting.is_empty(), self.waiting.back_mut()) {
                (true, Some(last)) => last.after = after,
                _ => self.waiting.extend(waiting),
            }
            if (self.stopped)() {
                break;
            }
        }
        Ok(())
    }

    fn store_now_and_then(&mut self) -> Result<bool, PartitionError> {
        if self.read == self.stored || self.stored_at.elapsed() < STORE_EVERY {
            return Ok(true);
        }
        self.store(self.read, &[])
    }

    /// Moves the stored place; false if another lane has moved it.
    fn store(&mut self, after: Cursor, answers: &[(Uuid, i64)]) -> Result<bool, PartitionError> {
        let advanced =
            lane::advance(&self.shared.lane_pool, self.partition, (self.stored, after), answers);
        let moved = self.shared.handle.block_on(advanced)?;
        if moved {
            self.stored = after;
            self.stored_at = Instant::now();
        } else {
            tracing::info!(partition = self.partition, "another slow lane was faster");
        }
        Ok(moved)
    }

    /// Answers a group if the archive has passed it. False: another lane was faster.
    fn answer_what_is_archived(&mut self) -> Result<bool, PartitionError> {
        let archived = self
            .shared
            .handle
            .block_on(archive::archived(&self.shared.clickhouse, self.partition))?;
        self.link.held.store(archived, Ordering::Relaxed);
        let passed = self
            .waiting
            .iter()
            .take(GROUP_MAX)
            .take_while(|waiting| waiting.forward.position <= archived)
            .count();
        if passed == 0 || !self.would_be_believed(archived) {
            self.link.held.store(NOBODY, Ordering::Relaxed);
            pause(ARCHIVE_LOOK, self.stopped);
            return Ok(true);
        }
        let group: Vec<Waiting> = self.waiting.iter().take(passed).cloned().collect();
        let Answers { count, block, tenants } = self.judge(&group, archived)?;
        let appended = self.shared.log.append(USAGE, self.partition, Bytes::from(block));
        let appended = self
            .shared
            .handle
            .block_on(appended.outcome())
            .map_err(|error| PartitionError::Unavailable(error.to_string()))?;
        let after = group.get(count - 1).map_or(self.stored, |last| last.after);
        self.waiting.drain(..count);
        if !self.store(after, &tenants)? {
            return Ok(false);
        }
        self.progress.advanced();
        self.hold(appended.position);
        Ok(true)
    }

    /// Whether the rater would take *new, checked up to* `archived` at its word.
    fn would_be_believed(&mut self, archived: i64) -> bool {
        let table_from = self.link.table_from.load(Ordering::Relaxed);
        let since = *self.patient_since.get_or_insert_with(Instant::now);
        let go = table_from <= archived + 1 || since.elapsed() > PATIENCE;
        if go {
            self.patient_since = None;
        }
        go
    }

    /// Searches the archive and makes the block of copies of as many as go into one.
    fn judge(&self, group: &[Waiting], archived: i64) -> Result<Answers, PartitionError> {
        let damaged = |error: domain::wire::codec::DecodeError| {
            PartitionError::Stopped(format!("a late event cannot be read: {error}"))
        };
        let mut late: Vec<(Late<'_>, Wanted)> = Vec::with_capacity(group.len());
        let mut size = 0;
        for waiting in group {
            let one = Late::open(&waiting.forward).map_err(damaged)?;
            size += one.size();
            if size > GROUP_BYTES && !late.is_empty() {
                break;
            }
            let wanted = one.wanted().map_err(damaged)?;
            late.push((one, wanted));
        }
        let ranges = merged(late.iter().flat_map(|(one, _)| one.ranges(archived)).collect());
        let mut identities: Vec<u128> = late.iter().map(|(_, wanted)| wanted.identity).collect();
        identities.sort_unstable();
        identities.dedup();
        let found = archive::find(&self.shared.clickhouse, self.partition, &ranges, &identities);
        let hits = self.shared.handle.block_on(found)?;
        let mut writer = BlockWriter::default();
        let mut answers: BTreeMap<Uuid, i64> = BTreeMap::new();
        for (one, wanted) in &late {
            let verdict = one.judge(wanted, &hits, archived);
            one.answer(self.partition, verdict, &mut writer).map_err(damaged)?;
            *answers.entry(wanted.tenant).or_default() += 1;
            self.shared.metrics.late_answers.with_label_values(&[label(verdict)]).inc();
        }
        let tenants = answers.into_iter().collect();
        Ok(Answers { count: late.len(), block: writer.finish(), tenants })
    }

    /// Lets the table hold on until the copies are rated, or for a moment.
    fn hold(&self, position: i64) {
        let until = Instant::now() + HOLD;
        while self.link.accepted.load(Ordering::Relaxed) < position
            && Instant::now() < until
            && !(self.stopped)()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.link.held.store(NOBODY, Ordering::Relaxed);
    }
}

fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::New { .. } => "new",
        Verdict::DuplicateOf { .. } => "duplicate",
        Verdict::ConflictWith { .. } => "conflict",
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
