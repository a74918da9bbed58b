//! How far the readers of the log are behind: in blocks, and in seconds since the oldest block that
//! they have not done.

use std::{collections::BTreeMap, time::Duration};

use domain::wire::rated::Outer;
use runtime::log::{Log, LogError, Topic};

use crate::process::TOPICS;

/// How long the log may take for one answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// The position of a partition of which nothing is done.
pub const NOTHING: i64 = -1;

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A rated batch accounts for it.
    Rated,
    /// Its amounts are in the ledger.
    Posted,
    /// Its events are in the archive.
    Archived,
}

impl Stage {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rated => "rated",
            Self::Posted => "posted",
            Self::Archived => "archived",
        }
    }

    /// The role that does it.
    pub fn role(self) -> &'static str {
        match self {
            Self::Rated => "rater",
            Self::Posted => "ledger-writer",
            Self::Archived => "archiver",
        }
    }
}

/// Last positions of `[usage]` that are done, per partition; a partition without any is missing.
pub type Places = BTreeMap<u32, i64>;

/// How far a stage of a partition is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Which one.
    pub stage: Stage,
    /// Of which partition.
    pub partition: u32,
    /// Blocks that are not done.
    pub blocks: i64,
    /// Age of the oldest of them, by the log's clock; 0 if there is none.
    pub seconds: i64,
    /// Blocks that are not done and that the log does not hold any more.
    pub lost: i64,
}

/// How far a stage is behind, at the time `now_us`. Blocks.
pub fn of_stage(
    log: &dyn Log,
    stage: Stage,
    places: &Places,
    now_us: i64,
) -> Result<Vec<Lag>, LogError> {
    (0..log.partitions())
        .map(|partition| {
            let done = places.get(&partition).copied().unwrap_or(NOTHING);
            of_partition(log, stage, partition, done, now_us)
        })
        .collect()
}

fn of_partition(
    log: &dyn Log,
    stage: Stage,
    partition: u32,
    done: i64,
    now_us: i64,
) -> Result<Lag, LogError> {
    let usage = topic(0)?;
    let (first, next) = log.bounds(usage, partition, ANSWER_TIME_MAX)?;
    let wanted = done.saturating_add(1);
    let blocks = next.saturating_sub(wanted).max(0);
    let lost = first.min(next).saturating_sub(wanted).max(0);
    let mut lag = Lag { stage, partition, blocks, seconds: 0, lost };
    if blocks > 0 && first < next {
        let mut reader = log.reader(usage, partition, wanted.max(first))?;
        if let Some(oldest) = reader.next(ANSWER_TIME_MAX)? {
            lag.seconds = now_us.saturating_sub(oldest.append_time_us).max(0) / 1_000_000;
        }
    }
    Ok(lag)
}

/// The last positions that rated batches account for, whether or not a reader accepts the batch.
/// A partition whose batches have all left the log is missing. `known` holds what an earlier call
/// found, by the end that `[rated]` had then: only what has changed is read. Blocks.
pub fn rated(log: &dyn Log, known: &mut BTreeMap<u32, (i64, i64)>) -> Result<Places, LogError> {
    let rated = topic(1)?;
    for partition in 0..log.partitions() {
        let (first, next) = log.bounds(rated, partition, ANSWER_TIME_MAX)?;
        if first >= next || known.get(&partition).is_some_and(|(end, _)| *end == next) {
            continue;
        }
        let mut reader = log.reader(rated, partition, next.saturating_sub(1))?;
        if let Some(last) = reader.next(ANSWER_TIME_MAX)? {
            let outer = Outer::decode(&last.payload);
            let outer = outer.map_err(|error| LogError::Broken(error.to_string()))?;
            known.insert(partition, (next, outer.to));
        }
    }
    Ok(known.iter().map(|(partition, (_, to))| (*partition, *to)).collect())
}

/// A topic of Weir by its number in the local log.
fn topic(number: usize) -> Result<Topic, LogError> {
    TOPICS.get(number).copied().ok_or_else(|| LogError::Broken("a topic is missing".to_owned()))
}

/// When the newest block of any partition was appended, by the log's clock, in microseconds since
/// 1970; `None` for an empty log. Blocks.
pub fn newest_append_time(log: &dyn Log) -> Result<Option<i64>, LogError> {
    let usage = topic(0)?;
    let mut newest = None;
    for partition in 0..log.partitions() {
        let (first, next) = log.bounds(usage, partition, ANSWER_TIME_MAX)?;
        if first < next {
            let mut reader = log.reader(usage, partition, next.saturating_sub(1))?;
            let last = reader.next(ANSWER_TIME_MAX)?;
            newest = newest.max(last.map(|message| message.append_time_us));
        }
    }
    Ok(newest)
}
