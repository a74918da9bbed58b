//! Groups: consecutive accepted batches that become one insert.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::{
    chain::{Offer, Place},
    time::month_of,
    wire::{
        rated::{Outer, Sections},
        trace::{self, TraceContext},
    },
};
use runtime::log::{Message, Reader, SharedLog, Topic};

use crate::{
    borders::Borders, config::Config, error::ArchiveError, flush::Ticks, metrics::ArchiverMetrics,
};

/// The topic of rated batches.
pub const RATED: Topic = Topic("rated");
/// The longest wait for a message before a stop is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Batches that are inserted together, with their rows as they came.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its partition.
    pub partition: u32,
    /// First position of `[usage]` accounted for.
    pub from_x: i64,
    /// Where the first batch stands in `[rated]`.
    pub from_r: i64,
    /// The place after the last batch.
    pub place: Place,
    /// Rows of `usage_events`.
    pub rows: Vec<u8>,
    /// How many.
    pub row_count: usize,
    /// Rows of `rejected_events`.
    pub others: Vec<u8>,
    /// How many.
    pub other_count: usize,
    /// Append time of the last block, microseconds.
    pub append_time_us: i64,
    /// Sampled requests that have events in it.
    pub traces: Vec<TraceContext>,
}

impl Group {
    /// What is fixed before it is inserted.
    pub fn borders(&self) -> Borders {
        Borders {
            from_x: self.from_x,
            to_x: self.place.x,
            from_r: self.from_r,
            to_r: self.place.r,
            c: self.place.c,
        }
    }

    /// Bytes of rows of both tables.
    pub fn bytes(&self) -> usize {
        self.rows.len().saturating_add(self.others.len())
    }
}

/// Where a group ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// When it is full or at the next tick, or where the month ends.
    Full,
    /// Exactly at this position, because it was fixed before.
    At(i64),
}

/// An accepted batch.
struct Batch {
    position: i64,
    outer: Outer,
    after: Place,
    append_time_us: (i64, i64),
    traces: Vec<TraceContext>,
    payload: Bytes,
}

/// Reads one partition of `[rated]` by the acceptance rule.
pub(crate) struct Collector {
    partition: u32,
    reader: Box<dyn Reader>,
    place: Place,
    /// The batch after the last group's, where that ended because of a month.
    carried: Option<Batch>,
    ignored: Arc<dyn Fn() + Send + Sync>,
    ticks: Ticks,
    /// The position of `[rated]` that is read next.
    next: i64,
}

impl Collector {
    /// Begins right after `place`.
    pub fn open(
        log: &SharedLog,
        partition: u32,
        place: Place,
        metrics: &ArchiverMetrics,
        ticks: Ticks,
    ) -> Result<Collector, ArchiveError> {
        let reader = log.reader(RATED, partition, place.r.saturating_add(1))?;
        let counter = metrics.ignored.clone();
        let ignored = Arc::new(move || counter.inc());
        let next = place.r.saturating_add(1);
        Ok(Collector { partition, reader, place, carried: None, ignored, ticks, next })
    }

    /// The position of `[rated]` that is read next.
    pub fn next_position(&self) -> i64 {
        self.next
    }

    /// The next group; `None` where nothing came for a moment, or when `stopped`.
    pub fn collect(
        &mut self,
        end: End,
        config: &Config,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Group>, ArchiveError> {
        let mut group: Option<Group> = None;
        let mut deadline = None;
        while !stopped() {
            let left = deadline.map_or(LOOK, |deadline: Instant| {
                deadline.saturating_duration_since(Instant::now())
            });
            let batch = self.next(left.min(LOOK))?;
            match (batch, &mut group) {
                (None, None) => return Ok(None),
                (None, Some(_)) => {}
                (Some(batch), None) => {
                    group = Some(begin(self.partition, &batch)?);
                    deadline = matches!(end, End::Full).then(|| self.ticks.next(Instant::now()));
                }
                (Some(batch), Some(group))
                    if matches!(end, End::At(_)) || same_month(group, &batch) =>
                {
                    add(group, &batch)?
                }
                (Some(batch), Some(_)) => {
                    self.carried = Some(batch);
                    return Ok(group);
                }
            }
            let waited = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let ended = group.as_ref().is_some_and(|group| match end {
                End::At(to_x) => group.place.x >= to_x,
                End::Full => {
                    waited
                        || group.row_count >= config.group_rows
                        || group.bytes() >= config.group_bytes
                }
            });
            if ended {
                return Ok(group);
            }
        }
        Ok(None)
    }

    /// The next accepted batch, if one comes in time.
    fn next(&mut self, wait: Duration) -> Result<Option<Batch>, ArchiveError> {
        if let Some(batch) = self.carried.take() {
            return Ok(Some(batch));
        }
        while let Some(message) = self.reader.next(wait)? {
            self.next = message.position.saturating_add(1);
            let offer = self.place.offer(self.partition, message.position, &message.payload);
            match offer
                .map_err(|source| ArchiveError::Message { position: message.position, source })?
            {
                Offer::Ignored(_) => (self.ignored)(),
                Offer::Accepted(outer, after) => {
                    self.place = after;
                    return batch(message, outer, after).map(Some);
                }
            }
        }
        Ok(None)
    }
}

fn batch(message: Message, outer: Outer, after: Place) -> Result<Batch, ArchiveError> {
    let position = message.position;
    let header = Sections::split(&message.payload)
        .and_then(|sections| sections.header())
        .map_err(|source| ArchiveError::Batch { position, source })?;
    Ok(Batch {
        position,
        outer,
        after,
        append_time_us: header.append_time_us,
        traces: header.traces,
        payload: message.payload,
    })
}

fn begin(partition: u32, batch: &Batch) -> Result<Group, ArchiveError> {
    let mut group = Group {
        partition,
        from_x: batch.outer.from,
        from_r: batch.position,
        place: batch.after,
        rows: Vec::new(),
        row_count: 0,
        others: Vec::new(),
        other_count: 0,
        append_time_us: 0,
        traces: Vec::new(),
    };
    add(&mut group, batch)?;
    Ok(group)
}

fn add(group: &mut Group, batch: &Batch) -> Result<(), ArchiveError> {
    let damaged = |source| ArchiveError::Batch { position: batch.position, source };
    let sections = Sections::split(&batch.payload).map_err(damaged)?;
    let (rows, others) = (sections.rows().map_err(damaged)?, sections.others().map_err(damaged)?);
    group.row_count = group.row_count.saturating_add(rows.lengths.len());
    group.other_count = group.other_count.saturating_add(others.lengths.len());
    group.rows.extend_from_slice(&rows.bytes);
    group.others.extend_from_slice(&others.bytes);
    group.place = batch.after;
    group.append_time_us = batch.append_time_us.1;
    trace::add(&mut group.traces, &batch.traces);
    Ok(())
}

/// The tables are partitioned by month of append time, and an insert goes into one of them.
fn same_month(group: &Group, batch: &Batch) -> bool {
    month_of(group.append_time_us) == month_of(batch.append_time_us.1)
}
