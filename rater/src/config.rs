//! Options of the rater: the section `[rater]`.

use runtime::config::Faults;
use serde::Deserialize;

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
    }
}
