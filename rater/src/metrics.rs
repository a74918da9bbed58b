//! The rater's metrics.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};
use runtime::telemetry::{Metrics, TelemetryError};

/// What the rater counts.
#[derive(Clone)]
pub struct RaterMetrics {
    /// Entries rated into batches, accepted or not.
    pub entries: IntCounter,
    /// Batches appended and accepted in their place.
    pub batches: IntCounter,
    /// Times that unaccepted state was discarded, by why.
    pub discards: IntCounterVec,
    /// Messages of `[rated]` that did not continue the chain.
    pub ignored: IntCounter,
    /// Identities in the duplicates table, by partition.
    pub identities: IntGaugeVec,
    /// The last accepted position, by partition.
    pub position: IntGaugeVec,
}

impl RaterMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<RaterMetrics, TelemetryError> {
        Ok(RaterMetrics {
            entries: metrics.counter(
                "weir_rater_entries_total",
                "Entries rated into batches, accepted or not",
            )?,
            batches: metrics
                .counter("weir_rater_batches_total", "Batches accepted in their place")?,
            discards: metrics.counters(
                "weir_rater_discards_total",
                "Times that unaccepted state was discarded",
                &["reason"],
            )?,
            ignored: metrics.counter(
                "weir_rater_ignored_total",
                "Messages of [rated] that did not continue the chain",
            )?,
            identities: metrics.gauges(
                "weir_rater_identities",
                "Identities in the duplicates table",
                &["partition"],
            )?,
            position: metrics.gauges(
                "weir_rater_position",
                "The last accepted position",
                &["partition"],
            )?,
        })
    }
}
