//! One thread per partition: reads `[rated]` by the acceptance rule and adds sums.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use domain::{
    chain::{Offer, Place},
    wire::rated::{Outer, Sections},
};
use runtime::{
    attempts::until_stopped,
    http::State,
    log::{LogError, Message},
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
/// So many of the newest posted batches say what a block is worth.
const REMEMBERED: i64 = 20;
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
pub(crate) fn run(api: &Shared, partition: u32) {
    let check = format!("api.{partition}");
    until_stopped(&api.readiness, &check, &api.shutdown, |doubted| {
        follow_all(api, (partition, &check), doubted)
    });
}

/// Follows the log until a stop is asked for, from each place at which the partition is loaded.
fn follow_all(
    api: &Shared,
    (partition, check): (u32, &str),
    doubted: bool,
) -> Result<(), TaskError> {
    if doubted {
        // What a panic left behind is not trusted.
        api.live.unload(partition);
    }
    let place = (RATED, partition);
    let progress = Progress::new(&api.readiness, check, Duration::ZERO, &api.log, place);
    let mut follower = Follower { api, partition, check, doubted, progress };
    let mut trimmed_at = None;
    while !api.shutdown.is_cancelled() {
        let Some(start) = api.live.start(partition) else {
            sleep(PAUSE);
            continue;
        };
        match follower.follow(&start)? {
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

struct Follower<'a> {
    api: &'a Shared,
    partition: u32,
    check: &'a str,
    /// Whether the attempt before has failed, and nothing has gone on since.
    doubted: bool,
    progress: Progress,
}

impl Follower<'_> {
    /// Follows the log from a place on, until something makes it begin again.
    fn follow(&mut self, start: &Start) -> Result<Again, TaskError> {
        let (api, partition) = (self.api, self.partition);
        let mut reader = match api.log.reader(RATED, partition, start.place.r + 1) {
            Ok(reader) => reader,
            Err(error) => return again(error),
        };
        let mut place = start.place;
        if !api.live.knows_worth(partition)
            && let Err(error) = look_back(api, partition, place.r)
        {
            tracing::debug!(partition, error, "nothing is known of what a block is worth");
        }
        self.progress.next_is(place.r + 1);
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
            let message = match reader.next(WAIT) {
                Ok(Some(message)) => message,
                Ok(None) => {
                    if self.progress.idle() {
                        self.goes_on();
                    }
                    continue;
                }
                Err(error) => return again(error),
            };
            let Some(after) = self.take(start, place, &message)? else { return Ok(Again::Loaded) };
            place = after;
            self.progress.next_is(message.position + 1);
            self.progress.advanced();
        }
        Ok(Again::Loaded)
    }

    /// Adds the sums of a batch that is accepted. Answers where the partition stands then; `None` where
    /// it was loaded anew meanwhile.
    fn take(
        &mut self,
        start: &Start,
        mut place: Place,
        message: &Message,
    ) -> Result<Option<Place>, TaskError> {
        let (api, partition) = (self.api, self.partition);
        let label = partition.to_string();
        match place.offer(partition, message.position, &message.payload)? {
            Offer::Ignored(_) => api.metrics.batches_ignored.with_label_values(&[&label]).inc(),
            Offer::Accepted(_, after) => {
                let sections = Sections::split(&message.payload)?;
                let header = sections.header()?;
                let sums = sections.sums(&header)?;
                if !api.live.accept(partition, start.generation, after, &header, &sums) {
                    return Ok(None);
                }
                place = after;
                self.goes_on();
                api.metrics.batches_accepted.with_label_values(&[&label]).inc();
                let entries = i64::try_from(api.live.entries(partition)).unwrap_or(i64::MAX);
                api.metrics.live_entries.with_label_values(&[&label]).set(entries);
            }
        }
        Ok(Some(place))
    }

    fn goes_on(&mut self) {
        if self.doubted {
            self.doubted = false;
            self.api.readiness.set(self.check, State::Ready);
        }
    }
}

fn again(error: LogError) -> Result<Again, TaskError> {
    match error {
        LogError::Unavailable(reason) => Ok(Again::Later(reason)),
        error @ LogError::Trimmed { .. } => Ok(Again::Trimmed(error)),
        error => Err(error.into()),
    }
}

/// Remembers what the newest posted batches were worth, as far as the log still has them.
fn look_back(api: &Shared, partition: u32, last: i64) -> Result<(), TaskError> {
    let (first, _) = api.log.bounds(RATED, partition, BOUNDS_WAIT)?;
    let from = first.max(last.saturating_sub(REMEMBERED));
    let mut reader = api.log.reader(RATED, partition, from)?;
    while let Some(message) = reader.next(WAIT)? {
        if message.position > last {
            break;
        }
        // One that no chain has counts too: an estimate does not mind.
        let outer = Outer::decode(&message.payload)?;
        let sections = Sections::split(&message.payload)?;
        let header = sections.header()?;
        api.live.remember(partition, &outer, &header, &sections.sums(&header)?);
    }
    Ok(())
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
