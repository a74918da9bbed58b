//! Groups: consecutive accepted batches that become one insert.

use std::time::{Duration, Instant};

use domain::{
    chain::{Offer, Place},
    time::month_of,
    wire::{
        codec::DecodeError,
        rated::{Header, Outer, Sections},
        rows::Columns,
        trace::{self, TraceContext},
    },
};
use runtime::{
    log::{Message, Reader, SharedLog, Topic},
    telemetry::IntCounter,
};

use crate::{
    borders::Borders, config::Config, error::ArchiveError, flush::Ticks, metrics::ArchiverMetrics,
};

/// The topic of rated batches.
pub const RATED: Topic = Topic("rated");
/// The longest wait for a message before a stop is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Batches that are inserted together, with their rows as they came.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its partition.
    pub partition: u32,
    /// First position of `[usage]` accounted for.
    pub from_x: i64,
    /// Where the first batch stands in `[rated]`.
    pub from_r: i64,
    /// The place after the last batch.
    pub place: Place,
    /// Rows of `usage_events`, as many pieces as batches: putting them together would copy them.
    pub rows: Vec<Columns>,
    /// How many.
    pub row_count: usize,
    /// Rows of `rejected_events`, in pieces.
    pub others: Vec<Columns>,
    /// How many.
    pub other_count: usize,
    /// Append time of the last block, microseconds.
    pub append_time_us: i64,
    /// Sampled requests that have events in it.
    pub traces: Vec<TraceContext>,
}

impl Group {
    /// What is fixed before it is inserted.
    #[must_use]
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
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.iter().chain(&self.others).map(Columns::size).sum()
    }
}

/// Where a group ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// When it is full or at the next tick, or where the month ends.
    Full,
    /// Exactly at this position, because it was fixed before.
    At(i64),
}

/// Puts the accepted batches of one partition into groups. Pure: it reads no log and no clock.
#[derive(Clone, Debug)]
pub struct Gathering {
    partition: u32,
    place: Place,
    group: Option<Group>,
}

/// What a message was.
#[derive(Debug)]
pub enum Gathered {
    /// It does not continue the chain.
    Ignored,
    /// It is in the group now.
    Added,
    /// It is of another month: this group ended before it, and it is the first of the next one.
    Ended(Group),
}

impl Gathering {
    /// Begins right after `place`.
    #[must_use]
    pub fn new(partition: u32, place: Place) -> Gathering {
        Gathering { partition, place, group: None }
    }

    /// Whether there is no group yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.group.is_none()
    }

    /// Judges the message at `position` of `[rated]` and adds it if it continues. A group that was
    /// fixed before takes what it took then.
    pub fn offer(
        &mut self,
        position: i64,
        message: &[u8],
        end: End,
    ) -> Result<Gathered, ArchiveError> {
        let offer = self.place.offer(self.partition, position, message);
        let (outer, after) =
            match offer.map_err(|source| ArchiveError::Message { position, source })? {
                Offer::Ignored(_) => return Ok(Gathered::Ignored),
                Offer::Accepted(outer, after) => (outer, after),
            };
        let sections = Sections::split(message);
        let sections = sections.map_err(|source| ArchiveError::Batch { position, source })?;
        let batch = Batch { position, outer, after, sections };
        let ended = match &mut self.group {
            Some(group) if matches!(end, End::Full) && !batch.is_of_month(group)? => {
                self.group.replace(begin(self.partition, &batch)?)
            }
            Some(group) => {
                batch.add_to(group)?;
                None
            }
            None => {
                self.group = Some(begin(self.partition, &batch)?);
                None
            }
        };
        self.place = after;
        Ok(ended.map_or(Gathered::Added, Gathered::Ended))
    }

    /// Whether the group ends by itself.
    #[must_use]
    pub fn is_full(&self, end: End, config: &Config) -> bool {
        self.group.as_ref().is_some_and(|group| match end {
            End::At(to_x) => group.place.x >= to_x,
            End::Full => {
                group.row_count >= config.group_rows || group.bytes() >= config.group_bytes
            }
        })
    }

    /// Ends the group.
    pub fn take(&mut self) -> Option<Group> {
        self.group.take()
    }
}

/// Reads one partition of `[rated]` by the acceptance rule.
pub(crate) struct Collector {
    reader: Box<dyn Reader>,
    gathering: Gathering,
    ignored: IntCounter,
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
        ticks: &Ticks,
    ) -> Result<Collector, ArchiveError> {
        let reader = log.reader(RATED, partition, place.r.saturating_add(1))?;
        let (gathering, ignored) = (Gathering::new(partition, place), metrics.ignored.clone());
        let next = place.r.saturating_add(1);
        Ok(Collector { reader, gathering, ignored, ticks: ticks.clone(), next })
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
        let mut deadline = None;
        while !stopped() {
            let mut wait = LOOK;
            if !self.gathering.is_empty() && matches!(end, End::Full) {
                let now = Instant::now();
                let due = *deadline.get_or_insert_with(|| self.ticks.next(now));
                wait = wait.min(due.saturating_duration_since(now));
            }
            if self.gathering.is_full(end, config) || wait.is_zero() {
                return Ok(self.gathering.take());
            }
            match self.reader.next(wait)? {
                None if self.gathering.is_empty() => return Ok(None),
                None => {}
                Some(Message { position, payload, .. }) => {
                    self.next = position.saturating_add(1);
                    match self.gathering.offer(position, &payload, end)? {
                        Gathered::Ignored => self.ignored.inc(),
                        Gathered::Added => {}
                        Gathered::Ended(group) => return Ok(Some(group)),
                    }
                }
            }
        }
        Ok(None)
    }
}

/// An accepted batch.
struct Batch<'a> {
    position: i64,
    outer: Outer,
    after: Place,
    sections: Sections<'a>,
}

fn begin(partition: u32, batch: &Batch<'_>) -> Result<Group, ArchiveError> {
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
    batch.add_to(&mut group)?;
    Ok(group)
}

impl Batch<'_> {
    fn damaged(&self) -> impl Fn(DecodeError) -> ArchiveError {
        let position = self.position;
        move |source| ArchiveError::Batch { position, source }
    }

    fn header(&self) -> Result<Header, ArchiveError> {
        self.sections.header().map_err(self.damaged())
    }

    fn add_to(&self, group: &mut Group) -> Result<(), ArchiveError> {
        let header = self.header()?;
        let rows = self.sections.rows().map_err(self.damaged())?;
        let others = self.sections.others().map_err(self.damaged())?;
        group.row_count = group.row_count.saturating_add(rows.count());
        group.other_count = group.other_count.saturating_add(others.count());
        group.rows.push(rows);
        group.others.push(others);
        group.place = self.after;
        group.append_time_us = header.append_time_us.1;
        trace::add(&mut group.traces, &header.traces);
        Ok(())
    }

    /// The tables are partitioned by month of append time, and an insert goes into one of them.
    fn is_of_month(&self, group: &Group) -> Result<bool, ArchiveError> {
        Ok(month_of(group.append_time_us) == month_of(self.header()?.append_time_us.1))
    }
}
