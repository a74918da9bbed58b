//! Options of the archiver: the section `[archiver]`.

use std::time::Duration;

use runtime::config::Faults;
use serde::Deserialize;

/// Rows of one group, at most; far below what the client keeps in one block.
const GROUP_ROWS_MAX: usize = 1_000_000;
/// Bytes of one group, at most: one is held in memory for every partition.
const GROUP_BYTES_MAX: usize = 64 << 20;
/// Longest wait for a group, in milliseconds: one minute.
const GROUP_WAIT_MS_MAX: u64 = 60_000;
/// Longest time between two copies of the heads, in milliseconds: one hour.
const HEADS_EVERY_MS_MAX: u64 = 3_600_000;

/// The section `[archiver]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rows after which a group is inserted.
    pub group_rows: usize,
    /// Bytes of rows after which a group is inserted; a group has at least one batch.
    pub group_bytes: usize,
    /// Milliseconds between the ticks at which groups that are not full end.
    pub group_wait_ms: u64,
    /// Milliseconds between two copies of the heads of the audit chains.
    pub heads_every_ms: u64,
}

impl Config {
    /// Adds what is wrong with the section.
    pub fn check(&self, faults: &mut Faults) {
        faults.check(
            (1..=GROUP_ROWS_MAX).contains(&self.group_rows),
            "archiver.group_rows",
            "it must be between 1 and 1000000",
        );
        faults.check(
            (1..=GROUP_BYTES_MAX).contains(&self.group_bytes),
            "archiver.group_bytes",
            "it must be between 1 and 67108864",
        );
        faults.check(
            (1..=GROUP_WAIT_MS_MAX).contains(&self.group_wait_ms),
            "archiver.group_wait_ms",
            "it must be between 1 and 60000",
        );
        faults.check(
            (100..=HEADS_EVERY_MS_MAX).contains(&self.heads_every_ms),
            "archiver.heads_every_ms",
            "it must be between 100 and 3600000",
        );
    }

    /// How far apart the ticks are at which groups end.
    #[must_use]
    pub fn group_wait(&self) -> Duration {
        Duration::from_millis(self.group_wait_ms)
    }

    /// How often the heads of the audit chains are copied.
    #[must_use]
    pub fn heads_every(&self) -> Duration {
        Duration::from_millis(self.heads_every_ms)
    }
}
