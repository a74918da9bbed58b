//! One thread per partition: reads `[rated]` by the acceptance rule and adds sums.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use domain::{chain::Offer, wire::rated::Sections};
use runtime::{
    log::{LogError, Reader},
    progress::Progress,
    task::{TaskError, now_us},
};

use super::Start;
use crate::{RATED, USAGE, state::Shared};

/// A wait for the next batch; also how late a stop is noticed.
const WAIT: Duration = Duration::from_millis(200);
/// Pause while there is nothing to do but to wait for others.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause after the log was unavailable.
const RETRY: Duration = Duration::from_millis(500);
/// How often the end of `[usage]` is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Wait for the bounds of a partition.
const BOUNDS_WAIT: Duration = Duration::from_secs(2);

/// Why a follower begins again.
enum Again {
    /// The partition was loaded anew, or a stop was asked for.
    Loaded,
    /// The log is away.
    Later(String),
    /// What comes next is not in the log any more.
    Trimmed(LogError),
}

/// The thread.
pub(crate) fn run(api: &Shared, partition: u32) -> Result<(), TaskError> {
    let mut trimmed_at = None;
    let mut progress = Progress::new(
        &api.readiness,
        format!("api.{partition}"),
        Duration::ZERO,
        &api.log,
        (RATED, partition),
    );
    while !api.shutdown.is_cancelled() {
        let Some(start) = api.live.start(partition) else {
            sleep(PAUSE);
            continue;
        };
        match follow(api, partition, &start, &mut progress)? {
            Again::Loaded => {}
            Again::Later(reason) => {
                tracing::warn!(
                    partition,
                    reason,
                    "the log is unavailable; live balances stand still"
                );
                sleep(RETRY);
            }
            // Posting has passed by, unless it stands at the same place itself.
            Again::Trimmed(error) if trimmed_at == Some(start.place.r) => return Err(error.into()),
            Again::Trimmed(_) => {
                trimmed_at = Some(start.place.r);
                api.metrics.reloads.inc();
                api.live.unload(partition);
            }
        }
    }
    Ok(())
}

/// Follows the log from a place on, until something makes it begin again.
fn follow(
    api: &Shared,
    partition: u32,
    start: &Start,
    progress: &mut Progress,
) -> Result<Again, TaskError> {
    let label = partition.to_string();
    let mut reader = match api.log.reader(RATED, partition, start.place.r + 1) {
        Ok(reader) => reader,
        Err(error) => return again(error),
    };
    let mut place = start.place;
    progress.next_is(place.r + 1);
    let mut looked: Option<Instant> = None;
    while !api.shutdown.is_cancelled() && api.live.is_current(partition, start.generation) {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            looked = Some(Instant::now());
            look(api, partition);
        }
        if api.live.is_full(partition) {
            sleep(PAUSE);
            continue;
        }
        let message = match next(&mut *reader) {
            Ok(Some(message)) => message,
            Ok(None) => {
                progress.idle();
                continue;
            }
            Err(error) => return again(error),
        };
        progress.next_is(message.position + 1);
        progress.advanced();
        match place.offer(partition, message.position, &message.payload)? {
            Offer::Ignored(_) => api.metrics.batches_ignored.with_label_values(&[&label]).inc(),
            Offer::Accepted(_, after) => {
                let sections = Sections::split(&message.payload)?;
                let header = sections.header()?;
                let sums = sections.sums(&header)?;
                if !api.live.accept(partition, start.generation, after, &header, &sums) {
                    return Ok(Again::Loaded);
                }
                place = after;
                api.metrics.batches_accepted.with_label_values(&[&label]).inc();
                let entries = i64::try_from(api.live.entries(partition)).unwrap_or(i64::MAX);
                api.metrics.live_entries.with_label_values(&[&label]).set(entries);
            }
        }
    }
    Ok(Again::Loaded)
}

fn next(reader: &mut dyn Reader) -> Result<Option<runtime::log::Message>, LogError> {
    reader.next(WAIT)
}

fn again(error: LogError) -> Result<Again, TaskError> {
    match error {
        LogError::Unavailable(reason) => Ok(Again::Later(reason)),
        error @ LogError::Trimmed { .. } => Ok(Again::Trimmed(error)),
        error => Err(error.into()),
    }
}

/// Looks how far `[usage]` goes. The time is taken before, so that it never claims too much.
fn look(api: &Shared, partition: u32) {
    let at = now_us();
    match api.log.bounds(USAGE, partition, BOUNDS_WAIT) {
        Ok((_, end)) => api.live.seen(partition, at, end),
        Err(error) => tracing::debug!(partition, %error, "the end of the log is not known"),
    }
}

impl super::Live {
    /// Where to begin, once the partition is loaded.
    fn start(&self, partition: u32) -> Option<Start> {
        let partition = self.lock(partition)?;
        let place = partition.places?.live;
        Some(Start { generation: partition.generation, place })
    }

    fn is_current(&self, partition: u32, generation: u64) -> bool {
        self.lock(partition).is_some_and(|partition| {
            partition.places.is_some() && partition.generation == generation
        })
    }

    fn is_full(&self, partition: u32) -> bool {
        self.entries(partition) >= self.entries_max
    }

    /// Sums of a partition that are not posted yet.
    pub(super) fn entries(&self, partition: u32) -> usize {
        self.lock(partition).map_or(0, |partition| partition.entries)
    }

    /// Forgets a partition, so that it is loaded again.
    fn unload(&self, partition: u32) {
        if let Some(mut partition) = self.lock(partition) {
            partition.places = None;
        }
    }

    fn accept(
        &self,
        partition: u32,
        generation: u64,
        place: domain::chain::Place,
        header: &domain::wire::rated::Header,
        sums: &domain::wire::sums::Sums<'_>,
    ) -> bool {
        self.lock(partition)
            .is_some_and(|mut partition| partition.accept(generation, place, header, sums))
    }

    /// Notes that `[usage]` ended at `end` at an instant.
    fn seen(&self, partition: u32, at_us: i64, end: i64) {
        let Some(mut partition) = self.lock(partition) else { return };
        partition.freshness.end = end;
        if partition.places.is_some_and(|places| places.live.x + 1 >= end) {
            partition.freshness.complete_us = at_us;
        }
    }
}
