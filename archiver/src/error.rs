//! What keeps a partition from being archived, by whether trying again can help.

use domain::wire::{codec::DecodeError, rated::OuterError};
use runtime::{clickhouse::ClickHouseError, log::LogError, postgres::PostgresError};

/// Why a partition is not archived now.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// ClickHouse is down or refuses. Analytics wait; nobody else does.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// Postgres is down or refuses.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A message of `[rated]` is damaged or needs a newer weir.
    #[error("position {position} of [rated]: {source}")]
    Message {
        /// Where the message stands in `[rated]`.
        position: i64,
        /// What is wrong with it.
        source: OuterError,
    },
    /// An accepted batch holds what a batch cannot hold.
    #[error("the accepted batch at position {position} of [rated] cannot be read: {source}")]
    Batch {
        /// Where the batch stands in `[rated]`.
        position: i64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The rows of accepted batches are not what rows of the archive are.
    #[error("rows of accepted batches cannot be read: {0}")]
    Rows(DecodeError),
    /// The borders fixed in Postgres belong to another log than the one read.
    #[error(
        "archive_groups has a group from {from_x} to {to_x} that ends at position {to_r} of [rated], \
         but the log reads otherwise: this log and this database do not belong together"
    )]
    Borders {
        /// First position of the group.
        from_x: i64,
        /// Last position of the group.
        to_x: i64,
        /// Where its last batch is said to stand.
        to_r: i64,
    },
    /// What `archived` holds cannot be read.
    #[error("the table archived holds {0}")]
    Archived(String),
    /// Another archiver has moved the partition's position on; begin again there.
    #[error("another archiver was faster")]
    Overtaken,
    /// The flush that the group was part of did not happen: the reason, as a label and as text.
    #[error("{1}")]
    Flush(&'static str, String),
    /// The flush that the group was part of was cut in the middle.
    #[error("a flush was cut in the middle")]
    Interrupted,
    /// A stop was asked for while something was waited for.
    #[error("stopped")]
    Stopped,
}

impl ArchiveError {
    /// Whether the same may succeed later, without a change to log or program. What a store
    /// refuses counts too: a person may mend it (a migration, a grant, a full disk), and until
    /// then only the archive waits.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::ClickHouse(_)
            | Self::Postgres(_)
            | Self::Flush(..)
            | Self::Overtaken
            | Self::Interrupted
            | Self::Stopped => true,
            Self::Log(error) => matches!(error, LogError::Unavailable(_)),
            Self::Message { .. }
            | Self::Batch { .. }
            | Self::Rows(_)
            | Self::Borders { .. }
            | Self::Archived(_) => false,
        }
    }

    /// What was in the way, as a label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::ClickHouse(_) => "clickhouse",
            Self::Postgres(_) => "postgres",
            Self::Flush(reason, _) => reason,
            Self::Overtaken => "overtaken",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
            _ => "log",
        }
    }

    /// The same for each group of a flush.
    pub(crate) fn shared(&self) -> ArchiveError {
        ArchiveError::Flush(self.reason(), self.to_string())
    }
}
