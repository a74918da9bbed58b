//! The metrics of the ledger-writer.

use runtime::telemetry::{
    DURATION_BUCKETS_S, Histogram, IntCounter, IntCounterVec, IntGaugeVec, Metrics as Registry,
    TelemetryError,
};

/// Every metric of this role.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Windows posted, by partition.
    pub windows: IntCounterVec,
    /// Rated batches that continued the chain, by partition.
    pub accepted: IntCounterVec,
    /// Rated batches that did not, by partition: two raters wrote at once.
    pub ignored: IntCounterVec,
    /// Transfers written.
    pub transfers: IntCounter,
    /// Windows given up because another writer had posted.
    pub fenced: IntCounterVec,
    /// Attempts to post or to read that failed and are made again.
    pub retries: IntCounterVec,
    /// Last position posted, by partition.
    pub position: IntGaugeVec,
    /// Append time of the last block posted, milliseconds since 1970, by partition.
    pub posted_append_time: IntGaugeVec,
    /// Seconds that a posting took.
    pub post_seconds: Histogram,
    /// Wallets that settlements looked at.
    pub settled_wallets: IntCounter,
    /// Seconds that a settlement took.
    pub settle_seconds: Histogram,
}

impl Metrics {
    /// Declares them.
    pub fn new(registry: &Registry) -> Result<Metrics, TelemetryError> {
        let per_partition = |name: &str, help: &str| registry.counters(name, help, &["partition"]);
        Ok(Metrics {
            windows: per_partition(
                "weir_ledger_writer_windows_total",
                "Posting windows committed.",
            )?,
            accepted: per_partition(
                "weir_ledger_writer_batches_accepted_total",
                "Rated batches that continued the chain.",
            )?,
            ignored: per_partition(
                "weir_ledger_writer_batches_ignored_total",
                "Rated batches that did not continue the chain.",
            )?,
            transfers: registry
                .counter("weir_ledger_writer_transfers_total", "Transfers written.")?,
            fenced: per_partition(
                "weir_ledger_writer_fenced_total",
                "Windows given up because another writer had posted.",
            )?,
            retries: per_partition(
                "weir_ledger_writer_retries_total",
                "Attempts that failed and are made again.",
            )?,
            position: registry.gauges(
                "weir_ledger_writer_position",
                "Last position of [usage] posted.",
                &["partition"],
            )?,
            posted_append_time: registry.gauges(
                "weir_ledger_writer_posted_append_time_ms",
                "Append time of the last block posted, milliseconds since 1970.",
                &["partition"],
            )?,
            post_seconds: registry.histogram(
                "weir_ledger_writer_post_seconds",
                "Seconds that a posting took.",
                &DURATION_BUCKETS_S,
            )?,
            settled_wallets: registry.counter(
                "weir_ledger_writer_settled_wallets_total",
                "Wallets that settlements looked at.",
            )?,
            settle_seconds: registry.histogram(
                "weir_ledger_writer_settle_seconds",
                "Seconds that a settlement took.",
                &DURATION_BUCKETS_S,
            )?,
        })
    }
}
