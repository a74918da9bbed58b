//! The rater's metrics.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};
use runtime::telemetry::{Metrics, TelemetryError};

/// What the rater counts.
#[derive(Clone)]
pub struct RaterMetrics {
    /// Entries rated into batches, accepted or not.
    pub entries: IntCounter,
    /// Events in batches, accepted or not, that are not simply rated, by reason: the code of a
    /// rejection, `unmetered`, `unpriced`, or `uncosted`, which may be rated all the same.
    pub unrated: IntCounterVec,
    /// Quantities in batches, accepted or not, that were rounded to twelve decimals.
    pub rounded: IntCounter,
    /// Batches appended and accepted in their place.
    pub batches: IntCounter,
    /// Times that unaccepted state was discarded, by why.
    pub discards: IntCounterVec,
    /// Messages of `[rated]` that did not continue the chain.
    pub ignored: IntCounter,
    /// Identities in the duplicates table, by partition.
    pub identities: IntGaugeVec,
    /// Running totals in memory, by partition.
    pub running_totals: IntGaugeVec,
    /// The last accepted position, by partition.
    pub position: IntGaugeVec,
    /// First position that the duplicates table covers, by partition.
    pub table_from: IntGaugeVec,
    /// Ranges that have left the table, by partition.
    pub ranges: IntGaugeVec,
    /// Of those, how many have no filter.
    pub ranges_without_filter: IntGaugeVec,
    /// Late events handed to the slow lane in batches, accepted or not.
    pub forwarded: IntCounter,
    /// Late events that the slow lane holds and has not answered, by partition.
    pub late_waiting: IntGaugeVec,
    /// Copies appended by the slow lane, by verdict.
    pub late_answers: IntCounterVec,
    /// Times that the slow lane had to wait for a neighbour that is down.
    pub late_waits: IntCounter,
}

impl RaterMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<RaterMetrics, TelemetryError> {
        Ok(RaterMetrics {
            entries: metrics.counter(
                "weir_rater_entries_total",
                "Entries rated into batches, accepted or not",
            )?,
            unrated: metrics.counters(
                "weir_rater_unrated_events_total",
                "Events without a meter, price or cost, or rejected",
                &["reason"],
            )?,
            rounded: metrics.counter(
                "weir_rater_rounded_quantities_total",
                "Quantities that were rounded half even to twelve decimals",
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
            running_totals: metrics.gauges(
                "weir_rater_running_totals",
                "Running totals in memory that prices depend on",
                &["partition"],
            )?,
            position: metrics.gauges(
                "weir_rater_position",
                "The last accepted position",
                &["partition"],
            )?,
            table_from: metrics.gauges(
                "weir_rater_table_from",
                "First position that the duplicates table covers",
                &["partition"],
            )?,
            ranges: metrics.gauges(
                "weir_rater_ranges",
                "Ranges that have left the duplicates table",
                &["partition"],
            )?,
            ranges_without_filter: metrics.gauges(
                "weir_rater_ranges_without_filter",
                "Ranges whose filter is missing and will be made again",
                &["partition"],
            )?,
            forwarded: metrics.counter(
                "weir_rater_forwarded_total",
                "Late events handed to the slow lane, in batches accepted or not",
            )?,
            late_waiting: metrics.gauges(
                "weir_rater_late_waiting",
                "Late events that the slow lane holds and has not answered",
                &["partition"],
            )?,
            late_answers: metrics.counters(
                "weir_rater_late_answers_total",
                "Late events that the slow lane has answered",
                &["verdict"],
            )?,
            late_waits: metrics.counter(
                "weir_rater_late_waits_total",
                "Times that the slow lane had to wait for a neighbour that is down",
            )?,
        })
    }
}
