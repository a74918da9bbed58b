//! The log: numbered messages in topics and partitions, appended durably and read from a position.
//!
//! [`Log`] is the one trait of this project. It has two implementations, [`local`] (segment files
//! on disk, one process) and [`kafka`]; both pass the same conformance suite
//! (`tests/tests/log_conformance.rs`). Everything above it is written once.
//!
//! What an implementation promises:
//! * An append answered with [`Appended`] survives `kill -9` of the process and is read by every
//!   later reader at that position.
//! * Positions of a partition only grow. The local log leaves no gap; Kafka may (its control records),
//!   so callers never assume that the next message is at the last position plus one.
//! * An append whose outcome cannot be known is [`AppendError::Unknown`]: it may be in the log now,
//!   later, or never. Only [`AppendError::Refused`] says that it is not and never will be.
//! * Append times never go back within a partition of the local log. Kafka's are the broker's clock,
//!   which may be stepped: there, who needs them to rise keeps the highest it has seen.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub mod kafka;
pub mod local;

/// The longest payload that an append takes: the size of the largest rated batch, 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A topic, by its short name: `usage` or `rated`; an implementation adds its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(pub &'static str);

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Where an append landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position (offset) of the message in its partition.
    pub position: i64,
    /// Append time, microseconds since 1970 UTC, by the log's clock.
    pub append_time_us: i64,
}

/// Why an append has no [`Appended`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The message is not in the log and never will be (queue full, too large, disk full).
    #[error("the log refused the message: {0}")]
    Refused(String),
    /// The message may or may not be in the log, now or later.
    #[error("the outcome of the append is unknown: {0}")]
    Unknown(String),
}

/// Why a read or an inspection failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The log cannot be reached; try again.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The position asked for is below the first one that the log still holds.
    #[error("{topic}/{partition} begins at {begin}, after the position {asked} asked for")]
    Trimmed {
        /// Topic asked for.
        topic: Topic,
        /// Partition asked for.
        partition: u32,
        /// The first position the log still holds.
        begin: i64,
        /// The position asked for.
        asked: i64,
    },
    /// The log or its settings are wrong in a way that only a person can mend.
    #[error("{0}")]
    Broken(String),
}

/// One message read from the log.
#[derive(Clone, Debug)]
pub struct Message {
    /// Position in the partition.
    pub position: i64,
    /// Append time, microseconds since 1970 UTC.
    pub append_time_us: i64,
    /// The bytes appended.
    pub payload: Bytes,
}

/// The answer to an append: await it, or block on it from a plain thread.
#[derive(Debug)]
pub struct Pending(pub oneshot::Receiver<Result<Appended, AppendError>>);

impl Pending {
    /// Waits for the outcome without blocking the thread.
    pub async fn outcome(self) -> Result<Appended, AppendError> {
        self.0.await.unwrap_or_else(|_| Err(AppendError::Unknown("the log was closed".into())))
    }

    /// Takes the outcome if it is there.
    pub fn try_outcome(&mut self) -> Option<Result<Appended, AppendError>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => {
                Some(Err(AppendError::Unknown("the log was closed".into())))
            }
        }
    }
}

/// Reads one partition forwards. Not shared between threads; open several for several readers.
pub trait Reader: Send {
    /// The next message, or `None` when none came within `wait`.
    /// Blocks the calling thread at most about that long.
    fn next(&mut self, wait: Duration) -> Result<Option<Message>, LogError>;
}

/// Membership of a group that shares the partitions of a topic. Dropping it leaves the group.
pub trait Membership: Send {
    /// The partitions this member owns now; changes are signalled. Two members may for a while
    /// both believe that they own a partition: the acceptance rule is what makes that harmless.
    fn owned(&self) -> watch::Receiver<Vec<u32>>;
}

/// A log with topics of numbered partitions. See the module's documentation for its promises.
pub trait Log: Send + Sync {
    /// Number of partitions; the same for every topic, fixed when the topics were created.
    fn partitions(&self) -> u32;

    /// Queues one message. Appends from one thread to one partition keep their order.
    /// Never blocks: a full queue is [`AppendError::Refused`].
    fn append(&self, topic: Topic, partition: u32, payload: Bytes) -> Pending;

    /// Opens a reader whose first message is the first one at or after `from`.
    fn reader(&self, topic: Topic, partition: u32, from: i64) -> Result<Box<dyn Reader>, LogError>;

    /// `(first, next)`: the first position still held and the one the next append will get.
    fn bounds(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError>;

    /// Joins `group` to share the partitions of `topic`.
    fn join(&self, topic: Topic, group: &str) -> Result<Box<dyn Membership>, LogError>;
}

/// When a wait that begins now ends; one that is too long to count ends in a day.
fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now + Duration::from_secs(86_400))
}

/// A log shared by the tasks of a process.
pub type SharedLog = Arc<dyn Log>;
