//! The metrics of the api.

use runtime::telemetry::{
    GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Metrics, TelemetryError,
};

/// Buckets of the size of a batch of holds.
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0];

/// All metrics of the api.
pub(crate) struct ApiMetrics {
    /// Requests refused for want of an accepted key.
    pub unauthorized: IntCounter,
    /// Answers given again for an `Idempotency-Key` that had been used.
    pub repeated: IntCounter,
    /// Rejected events that were sent again.
    pub reinjected: IntCounter,
    /// Markers that the log has acknowledged, one per version and partition.
    pub markers_appended: IntCounter,
    /// Attempts to append a marker that failed or whose outcome is unknown.
    pub markers_failed: IntCounter,
    /// Rated batches by partition that live balances took up.
    pub batches_accepted: IntCounterVec,
    /// Rated batches by partition that the acceptance rule ignored.
    pub batches_ignored: IntCounterVec,
    /// Sums by partition that wait to be posted.
    pub live_entries: IntGaugeVec,
    /// Partitions whose log was trimmed below where it was followed, so that balances were loaded anew.
    pub reloads: IntCounter,
    /// Money that is not posted yet, by currency, and by whether it is rated.
    pub unposted: GaugeVec,
    /// Events that were taken back because an earlier one has their identity.
    pub twins: IntCounter,
    /// Aliases that are to be decided about.
    pub aliases_waiting: IntGauge,
    /// Batches of holds that were decided.
    pub hold_batches: IntCounter,
    /// Holds of a batch.
    pub hold_batch_size: Histogram,
    /// Holds that wait for the batch before theirs.
    pub holds_waiting: IntGauge,
}

impl ApiMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<Self, TelemetryError> {
        let partition = &["partition"];
        Ok(Self {
            unauthorized: metrics
                .counter("weir_api_unauthorized_total", "Requests without an accepted API key.")?,
            repeated: metrics.counter(
                "weir_api_repeated_answers_total",
                "Answers given again for a used Idempotency-Key.",
            )?,
            reinjected: metrics
                .counter("weir_api_reinjected_total", "Rejected events that were sent again.")?,
            markers_appended: metrics.counter(
                "weir_api_markers_appended_total",
                "Catalog markers acknowledged by the log.",
            )?,
            markers_failed: metrics.counter(
                "weir_api_markers_failed_total",
                "Appends of catalog markers that failed or are unknown; they are repeated.",
            )?,
            batches_accepted: metrics.counters(
                "weir_api_batches_accepted_total",
                "Rated batches in live balances.",
                partition,
            )?,
            batches_ignored: metrics.counters(
                "weir_api_batches_ignored_total",
                "Rated batches that do not continue the chain.",
                partition,
            )?,
            live_entries: metrics.gauges(
                "weir_api_live_entries",
                "Sums in live balances that are not posted yet.",
                partition,
            )?,
            reloads: metrics.counter(
                "weir_api_balance_reloads_total",
                "Partitions whose balances were loaded anew.",
            )?,
            unposted: metrics.amounts(
                "weir_unposted_amount",
                "About how much money is not posted yet: charges that are rated, and an estimate of those that are not.",
                &["currency", "stage"],
            )?,
            twins: metrics.counter(
                "weir_api_twins_total",
                "Events that were taken back because an earlier one with their identity counts.",
            )?,
            aliases_waiting: metrics.gauge(
                "weir_api_aliases_waiting",
                "Aliases of teams that wait until everything accepted before them is posted.",
            )?,
            hold_batches: metrics.counter(
                "weir_api_hold_batches_total",
                "Batches of holds on one wallet that were decided together.",
            )?,
            hold_batch_size: metrics.histogram(
                "weir_api_hold_batch_size",
                "Holds that were decided together.",
                &BATCH_BUCKETS,
            )?,
            holds_waiting: metrics.gauge(
                "weir_api_holds_waiting",
                "Holds that wait for the batch before theirs.",
            )?,
        })
    }
}
