//! Flushes: the groups of many partitions go into ClickHouse together.
//!
//! An insert costs ClickHouse some 100 ms of processor time whatever is in it, so what must not grow
//! with the number of partitions is the number of inserts. Groups end at the same ticks of a
//! clock; whoever finds no flush under way takes all groups that wait, fixes their borders and
//! inserts them for everybody.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use domain::{
    planted::{self, Bug},
    time::month_of,
};
use runtime::{clickhouse::ClickHouse, postgres::Pool};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    borders::{fix, prune},
    error::ArchiveError,
    group::Group,
    insert::{Token, insert},
    metrics::ArchiverMetrics,
};

/// Rows of one flush, at most; far below what the client keeps in one block.
const FLUSH_ROWS_MAX: usize = 1_000_000;
/// Bytes of rows of one flush, at most, unless one group has more. As blocks they are at most twice
/// as many ([`crate::native`]), and the engine takes 512 MiB.
const FLUSH_BYTES_MAX: usize = 64 << 20;
/// How long a flush waits for groups that end at the same tick.
const GATHER: Duration = Duration::from_millis(20);
/// Borders that took longer than this to fix are not inserted: who was paused may have been
/// overtaken by more inserts than ClickHouse remembers the tokens of.
const FIX_TIME_MAX: Duration = Duration::from_secs(10);
/// Flushes between two clearings of old borders.
const PRUNE_EVERY: u64 = 1_000;

/// A flush takes a fourth of the time at most: where ClickHouse is slow or much is archived, flushes are
/// fewer and larger.
const FLUSH_TIMES: u32 = 4;
/// But ticks are at most so many times as far apart as they are set to be.
const LENGTH_TIMES_MAX: u32 = 5;

/// Instants that all partitions of the process share.
#[derive(Clone, Debug)]
pub(crate) struct Ticks {
    origin: Instant,
    length: Duration,
    /// How many times as far apart they are.
    times: Arc<AtomicU32>,
}

impl Ticks {
    /// Ticks this far apart.
    pub fn new(length: Duration) -> Ticks {
        let length = length.max(Duration::from_millis(1));
        Ticks { origin: Instant::now(), length, times: Arc::new(AtomicU32::new(1)) }
    }

    /// The time between two, now.
    pub fn apart(&self) -> Duration {
        self.length * self.times.load(Ordering::Relaxed)
    }

    /// Adapts them to how long a flush took.
    fn flush_took(&self, took: Duration) {
        let times = (took * FLUSH_TIMES).as_nanos().div_ceil(self.length.as_nanos());
        let times = u32::try_from(times).unwrap_or(u32::MAX).clamp(1, LENGTH_TIMES_MAX);
        self.times.store(times, Ordering::Relaxed);
    }

    /// The first tick after `now`.
    pub fn next(&self, now: Instant) -> Instant {
        let length = self.apart().as_nanos();
        let passed = now.saturating_duration_since(self.origin).as_nanos();
        let after = passed.div_euclid(length).saturating_add(1).saturating_mul(length);
        self.origin + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))
    }
}

/// What became of a group.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// It is in the archive.
    Inserted,
    /// Somebody has fixed other borders for it, or for another group of the flush.
    Conflict(Box<Group>),
}

type Answer = Result<Flushed, ArchiveError>;

/// A group that waits for a flush.
struct Waiting {
    group: Group,
    answer: oneshot::Sender<Answer>,
}

/// Puts the groups of a process together.
pub(crate) struct Flusher {
    pool: Pool,
    clickhouse: ClickHouse,
    metrics: ArchiverMetrics,
    ticks: Ticks,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by who flushes; counts flushes.
    turn: tokio::sync::Mutex<u64>,
}

impl Flusher {
    pub fn new(
        pool: Pool,
        clickhouse: ClickHouse,
        metrics: ArchiverMetrics,
        ticks: Ticks,
    ) -> Flusher {
        Flusher {
            pool,
            clickhouse,
            metrics,
            ticks,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Brings a group into the archive, together with those that wait beside it. Whoever drops
    /// this future in the middle leaves borders that are fixed, and whoever comes next repeats them.
    pub async fn flush(&self, group: Group) -> Answer {
        let (answer, mut outcome) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { group, answer });
        loop {
            tokio::select! {
                biased;
                answered = &mut outcome => return answered.unwrap_or(Err(ArchiveError::Interrupted)),
                mut flushes = self.turn.lock() => {
                    tokio::time::sleep(GATHER).await;
                    let together = self.next();
                    if !together.is_empty() {
                        *flushes = flushes.wrapping_add(1);
                        self.lead(together, flushes.is_multiple_of(PRUNE_EVERY)).await;
                    }
                }
            }
        }
    }

    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        together(&mut waiting, |one| &one.group)
    }

    /// Nobody flushes while the answer is held.
    pub async fn alone(&self) -> tokio::sync::MutexGuard<'_, u64> {
        self.turn.lock().await
    }

    /// Inserts groups whose borders were fixed before, under the token of then.
    pub async fn repeat(&self, token: Token, groups: Vec<Group>) -> Result<(), ArchiveError> {
        self.metrics.repeats.inc();
        insert(&self.clickhouse, &token, groups, &self.metrics).await
    }

    async fn lead(&self, mut together: Vec<Waiting>, clear: bool) {
        together.sort_by_key(|waiting| waiting.group.partition);
        let (groups, answers): (Vec<Group>, Vec<_>) =
            together.into_iter().map(|waiting| (waiting.group, waiting.answer)).unzip();
        let outcomes: Vec<Answer> = match self.insert(groups).await {
            Ok(None) => answers.iter().map(|_| Ok(Flushed::Inserted)).collect(),
            Ok(Some(groups)) => {
                groups.into_iter().map(|group| Ok(Flushed::Conflict(Box::new(group)))).collect()
            }
            Err(error) => answers.iter().map(|_| Err(error.shared())).collect(),
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            let _ = answer.send(outcome);
        }
        if clear && let Err(error) = prune(&self.pool).await {
            tracing::warn!(%error, "old borders of groups stay for now");
        }
    }

    /// Answers the groups where their borders could not be fixed.
    async fn insert(&self, groups: Vec<Group>) -> Result<Option<Vec<Group>>, ArchiveError> {
        let began = Instant::now();
        let flush = Uuid::now_v7();
        let wanted: Vec<_> =
            groups.iter().map(|group| (group.partition, group.borders())).collect();
        let forgets = planted::is(Bug::BordersForgotten);
        if !forgets && !fix(&self.pool, flush, &wanted).await? {
            return Ok(Some(groups));
        }
        if began.elapsed() > FIX_TIME_MAX {
            return Err(ArchiveError::Overtaken);
        }
        let count = groups.len();
        insert(&self.clickhouse, &Token::Flush(flush), groups, &self.metrics).await?;
        self.ticks.flush_took(began.elapsed());
        self.metrics.insert_s.observe(began.elapsed().as_secs_f64());
        self.metrics.flushes.inc();
        self.metrics.groups.inc_by(count as u64);
        Ok(None)
    }
}

/// Takes the groups of the next flush out of those that wait: of one month, as many as one insert
/// may hold; the first one whatever its size.
pub fn together<T>(waiting: &mut Vec<T>, group: impl Fn(&T) -> &Group) -> Vec<T> {
    let Some(first) = waiting.first() else { return Vec::new() };
    let month = month_of(group(first).append_time_us);
    let (mut rows, mut bytes) = (0_usize, 0_usize);
    let (mut together, mut later) = (Vec::new(), Vec::new());
    for one in mem::take(waiting) {
        let group = group(&one);
        rows = rows.saturating_add(group.row_count);
        bytes = bytes.saturating_add(group.bytes());
        let fits = together.is_empty() || (rows <= FLUSH_ROWS_MAX && bytes <= FLUSH_BYTES_MAX);
        if fits && month_of(group.append_time_us) == month {
            together.push(one);
        } else {
            later.push(one);
        }
    }
    *waiting = later;
    together
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_common_and_never_now() {
        let ticks = Ticks::new(Duration::from_millis(250));
        let start = ticks.origin;
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(ticks.next(start), at(250));
        assert_eq!(ticks.next(at(249)), at(250));
        assert_eq!(ticks.next(at(250)), at(500));
        assert_eq!(ticks.next(at(10_001)), at(10_250));
        ticks.flush_took(Duration::from_millis(120));
        assert_eq!(ticks.next(at(10_001)), at(10_500), "a flush that takes long: half as many");
        ticks.flush_took(Duration::from_secs(60));
        assert_eq!(ticks.next(at(10_001)), at(11_250), "five times as far apart, and no more");
        ticks.flush_took(Duration::from_millis(50));
        assert_eq!(ticks.next(at(10_001)), at(10_250));
    }
}
