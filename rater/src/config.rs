//! Options of the rater: the section `[rater]`.

use runtime::config::Faults;
use serde::Deserialize;

use crate::table::{AGE_US_MAX, Limits};

/// Identities of one range, at most: the archive's answer that a filter is made from again stays
/// within what the client takes.
const RANGE_IDENTITIES_MAX: usize = 4_000_000;

/// The section `[rater]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Events after which a batch is written.
    pub batch_events: u32,
    /// Bytes of rows, before compression, after which a batch is written.
    pub batch_bytes: usize,
    /// Milliseconds after which a batch is written.
    pub batch_ms: u64,
    /// Batches of one partition on their way at once.
    pub batches_in_flight: usize,
    /// Seconds of log that a partition's duplicates table covers, where memory allows.
    pub table_window_s: i64,
    /// Identities in a partition's duplicates table, at most.
    pub table_identities_max: usize,
    /// Identities that leave the table together and get a filter.
    pub range_identities: usize,
    /// Folder of the filters; empty keeps them in memory only.
    pub directory: String,
}

impl Config {
    /// Adds what is wrong with the section.
    pub fn check(&self, faults: &mut Faults) {
        faults.check(self.batch_events > 0, "rater.batch_events", "it must be at least 1");
        faults.check(
            (64 * 1024..=8 * 1024 * 1024).contains(&self.batch_bytes),
            "rater.batch_bytes",
            "it must be between 65536 and 8388608, so that a batch fits one message of 16 MiB",
        );
        faults.check(
            (1..=10_000).contains(&self.batch_ms),
            "rater.batch_ms",
            "it must be between 1 and 10000",
        );
        faults.check(
            (1..=64).contains(&self.batches_in_flight),
            "rater.batches_in_flight",
            "it must be between 1 and 64",
        );
        faults.check(
            (1..=AGE_US_MAX / 1_000_000).contains(&self.table_window_s),
            "rater.table_window_s",
            "it must be between 1 and 302400, half of what Kafka keeps",
        );
        faults.check(
            (1..=self.table_identities_max).contains(&self.range_identities),
            "rater.range_identities",
            "it must be between 1 and rater.table_identities_max",
        );
        faults.check(
            self.range_identities <= RANGE_IDENTITIES_MAX,
            "rater.range_identities",
            "it must be at most 4000000: a filter is built in memory",
        );
    }

    /// What the duplicates table of a partition may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            identities_max: self.table_identities_max,
            range_identities: self.range_identities,
            window_us: self.table_window_s.saturating_mul(1_000_000),
        }
    }
}
