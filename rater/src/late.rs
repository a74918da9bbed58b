//! The slow lane of one partition: late events get their verdict from the archive.
//!
//! A reader of `[rated]`, on a thread of its own beside the partition's owner. It takes the late
//! events of accepted batches, waits until the archive has passed them, searches there, and appends
//! copies with a verdict to `[usage]`. Its stored place moves only after that append is
//! acknowledged: repeats, and two lanes at once, are harmless.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use domain::wire::record::Verdict;
use runtime::{
    attempts::pause, http::State as Ready, log::Reader, progress::Progress, shutdown::Shutdown,
    task::TaskError,
};

use crate::{
    partition::{PartitionError, RATED, RETRY_MAX, RETRY_MIN, Shared, USAGE},
    queue::{Answers, Queue},
    store::{archive, lane},
};

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

/// Runs the lane until `stop`, through every outage of its neighbours. Only what needs a person is an
/// error.
pub fn run(
    shared: &Shared,
    partition: u32,
    link: &Link,
    stop: &Shutdown,
    doubted: bool,
) -> Result<(), TaskError> {
    let mut retry = RETRY_MIN;
    let check = check_name(partition);
    let place = (RATED, partition);
    let progress = Progress::new(&shared.readiness, check, PATIENCE, &shared.log, place);
    let mut standing = Standing { progress, doubted };
    while !stop.is_cancelled() {
        let began = Instant::now();
        let opened = Lane::open(shared, partition, link, stop, &mut standing);
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
                pause(retry, stop);
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(stopped) => return Err(stopped.into()),
        }
    }
    Ok(())
}

/// Whether the lane goes on, beyond the end of one [`Lane`].
struct Standing {
    progress: Progress,
    /// Whether the attempt before has failed, and nothing has gone on since.
    doubted: bool,
}

/// The readiness check of a lane.
pub(crate) fn check_name(partition: u32) -> String {
    format!("rater.{partition}.late")
}

struct Lane<'a> {
    shared: &'a Shared,
    partition: u32,
    link: &'a Link,
    stop: &'a Shutdown,
    reader: Box<dyn Reader>,
    queue: Queue,
    stored_at: Instant,
    /// Since when the archive is waited for although it has passed the late events.
    patient_since: Option<Instant>,
    standing: &'a mut Standing,
}

impl<'a> Lane<'a> {
    fn open(
        shared: &'a Shared,
        partition: u32,
        link: &'a Link,
        stop: &'a Shutdown,
        standing: &'a mut Standing,
    ) -> Result<Lane<'a>, PartitionError> {
        let stored = shared.handle.block_on(lane::read(&shared.lane_pool, partition))?;
        standing.progress.next_is(stored.place.r + 1);
        let reader = shared.log.reader(RATED, partition, stored.place.r + 1)?;
        Ok(Lane {
            shared,
            partition,
            link,
            stop,
            reader,
            queue: Queue::new(partition, stored),
            stored_at: Instant::now(),
            patient_since: None,
            standing,
        })
    }

    /// Until a stop, a failure, or another lane that was faster.
    fn work(&mut self) -> Result<(), PartitionError> {
        while !self.stop.is_cancelled() {
            self.read_ahead()?;
            let label = self.partition.to_string();
            let waiting = i64::try_from(self.queue.len()).unwrap_or(i64::MAX);
            self.shared.metrics.late_waiting.with_label_values(&[&label]).set(waiting);
            let goes_on = if self.queue.is_empty() {
                self.stored_at.elapsed() < STORE_EVERY || self.store()?
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
        while !self.queue.is_full() {
            let wait = if self.queue.is_empty() { LOOK } else { Duration::ZERO };
            let Some(message) = self.reader.next(wait)? else {
                if self.queue.is_empty() && self.standing.progress.idle() {
                    self.goes_on();
                }
                break;
            };
            self.standing.progress.next_is(message.position + 1);
            if self.queue.is_empty() {
                self.standing.progress.advanced();
            }
            self.queue
                .offer(message.position, &message.payload)
                .map_err(|error| PartitionError::Stopped(error.to_string()))?;
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// Moves the stored place as far as it may; false if another lane has moved it.
    fn store(&mut self) -> Result<bool, PartitionError> {
        let Some(due) = self.queue.due() else { return Ok(true) };
        let advanced = lane::advance(&self.shared.lane_pool, self.partition, &due);
        let moved = self.shared.handle.block_on(advanced)?;
        if moved {
            self.queue.stored(&due);
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
        let Some(answers) = self.judge(archived)? else {
            self.link.held.store(NOBODY, Ordering::Relaxed);
            pause(ARCHIVE_LOOK, self.stop);
            return Ok(true);
        };
        let appended = self.shared.log.append(USAGE, self.partition, answers.block.clone());
        let appended = self
            .shared
            .handle
            .block_on(appended.outcome())
            .map_err(|error| PartitionError::Unavailable(error.to_string()))?;
        self.queue.acknowledged(&answers);
        if !self.store()? {
            return Ok(false);
        }
        self.standing.progress.advanced();
        self.goes_on();
        self.hold(appended.position);
        Ok(true)
    }

    /// Late events were answered, or there are none.
    fn goes_on(&mut self) {
        if self.standing.doubted {
            self.standing.doubted = false;
            self.shared.readiness.set(check_name(self.partition), Ready::Ready);
        }
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

    /// Searches the archive for a group that it has passed, if there is one, and if the answers would
    /// be believed.
    fn judge(&mut self, archived: i64) -> Result<Option<Answers>, PartitionError> {
        let damaged = |error: domain::wire::codec::DecodeError| {
            PartitionError::Stopped(format!("a late event cannot be read: {error}"))
        };
        if !self.queue.has_passed(archived) || !self.would_be_believed(archived) {
            return Ok(None);
        }
        let search = self.queue.search(archived).map_err(damaged)?;
        let (clickhouse, partition) = (&self.shared.clickhouse, self.partition);
        let found = archive::find(clickhouse, partition, &search.ranges, &search.identities);
        let hits = self.shared.handle.block_on(found)?;
        let answers = search.answers(&hits).map_err(damaged)?;
        for (verdict, _) in &answers.verdicts {
            self.shared.metrics.late_answers.with_label_values(&[label(*verdict)]).inc();
        }
        Ok(Some(answers))
    }

    /// Lets the table hold on until the copies are rated, or for a moment.
    fn hold(&self, position: i64) {
        let until = Instant::now() + HOLD;
        while self.link.accepted.load(Ordering::Relaxed) < position
            && Instant::now() < until
            && !self.stop.is_cancelled()
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
