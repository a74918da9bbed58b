//! The archiver's metrics.

use runtime::telemetry::{
    DURATION_BUCKETS_S, Histogram, IntCounter, IntCounterVec, IntGaugeVec, Metrics, TelemetryError,
};

/// What the archiver counts. All of it is registered once for the process.
#[derive(Clone)]
pub struct ArchiverMetrics {
    /// Groups inserted completely.
    pub groups: IntCounter,
    /// Flushes: groups of several partitions inserted together.
    pub flushes: IntCounter,
    /// Rows inserted, by table.
    pub rows: IntCounterVec,
    /// Messages of `[rated]` that did not continue the chain.
    pub ignored: IntCounter,
    /// Attempts that failed and were begun anew, by what was in the way.
    pub retries: IntCounterVec,
    /// Flushes that were fixed before and inserted again.
    pub repeats: IntCounter,
    /// `A`: the last archived position of `[usage]`, by partition.
    pub position: IntGaugeVec,
    /// Append time of the newest archived block in seconds since 1970, by partition.
    pub append_time_s: IntGaugeVec,
    /// Seconds of a flush.
    pub insert_s: Histogram,
}

impl ArchiverMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<ArchiverMetrics, TelemetryError> {
        Ok(ArchiverMetrics {
            groups: metrics.counter("weir_archiver_groups_total", "Groups inserted completely")?,
            flushes: metrics.counter(
                "weir_archiver_flushes_total",
                "Flushes: groups of several partitions inserted together",
            )?,
            rows: metrics.counters(
                "weir_archiver_rows_total",
                "Rows inserted, by table",
                &["table"],
            )?,
            ignored: metrics.counter(
                "weir_archiver_ignored_total",
                "Messages of [rated] that did not continue the chain",
            )?,
            retries: metrics.counters(
                "weir_archiver_retries_total",
                "Attempts that failed and were begun anew, by what was in the way",
                &["reason"],
            )?,
            repeats: metrics.counter(
                "weir_archiver_repeats_total",
                "Flushes that were fixed before and inserted again",
            )?,
            position: metrics.gauges(
                "weir_archiver_position",
                "The last archived position of [usage]",
                &["partition"],
            )?,
            append_time_s: metrics.gauges(
                "weir_archiver_append_time_s",
                "Append time of the newest archived block, seconds since 1970",
                &["partition"],
            )?,
            insert_s: metrics.histogram(
                "weir_archiver_insert_s",
                "Seconds of a flush, from its groups to their rows in archived",
                &DURATION_BUCKETS_S,
            )?,
        })
    }
}
