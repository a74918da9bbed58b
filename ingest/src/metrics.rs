//! What ingest counts. Declared here once.

use runtime::telemetry::{
    self, DURATION_BUCKETS_S, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    TelemetryError,
};

/// All metrics of this role. What waits is the difference of two counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Answers, by status.
    pub requests: IntCounterVec,
    /// Events that are in the log.
    pub accepted: IntCounter,
    /// Events that were refused, by code.
    pub rejected: IntCounterVec,
    /// Blocks handed to the log.
    pub blocks_sent: IntCounter,
    /// Blocks whose fate the log has told, by outcome (`acknowledged`, `refused`, `unknown`).
    pub blocks_answered: IntCounterVec,
    /// Bytes of blocks handed to the log.
    pub block_bytes: IntCounter,
    /// Time from handing a block to the log to its answer.
    pub acknowledgement: Histogram,
    /// Bytes of bodies and events taken into memory.
    pub held_bytes: IntCounter,
    /// Bytes of bodies and events let go.
    pub released_bytes: IntCounter,
    /// Bytes of requests that may wait for the log.
    pub waiting_limit: IntGauge,
    /// API keys looked up among those known; malformed ones never are.
    pub key_lookups: IntCounter,
    /// Credentials refused, by code.
    pub keys_refused: IntCounterVec,
    /// Loads of keys, tenants and aliases, by outcome (`ok`, `failed`).
    pub refreshes: IntCounterVec,
    /// Events of doors that are in the log, by door and outcome (`accepted`, `refused`).
    pub door_events: IntCounterVec,
    /// Messages of a door that this process reads and has not committed.
    pub door_lag: IntGaugeVec,
    /// Attempts to bring messages of doors into the log that must be made again, by why.
    pub door_retries: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &telemetry::Metrics) -> Result<Metrics, TelemetryError> {
        let counter = |name, help| registry.counter(name, help);
        let counters = |name, help, label| registry.counters(name, help, &[label]);
        Ok(Metrics {
            requests: counters("weir_ingest_requests_total", "Answers by status.", "status")?,
            accepted: counter("weir_ingest_events_accepted_total", "Events that are in the log.")?,
            rejected: counters(
                "weir_ingest_events_rejected_total",
                "Events refused, by code.",
                "code",
            )?,
            blocks_sent: counter("weir_ingest_blocks_sent_total", "Blocks handed to the log.")?,
            blocks_answered: counters(
                "weir_ingest_blocks_answered_total",
                "Blocks whose fate is known, by outcome.",
                "outcome",
            )?,
            block_bytes: counter(
                "weir_ingest_block_bytes_total",
                "Bytes of blocks handed to the log.",
            )?,
            acknowledgement: registry.histogram(
                "weir_ingest_acknowledgement_seconds",
                "Time from handing a block to the log to its answer.",
                &DURATION_BUCKETS_S,
            )?,
            held_bytes: counter(
                "weir_ingest_held_bytes_total",
                "Bytes of requests taken into memory.",
            )?,
            released_bytes: counter(
                "weir_ingest_released_bytes_total",
                "Bytes of requests let go.",
            )?,
            waiting_limit: registry.gauge(
                "weir_ingest_waiting_limit_bytes",
                "Bytes of requests that may wait for the log.",
            )?,
            key_lookups: counter("weir_ingest_key_lookups_total", "API keys looked up.")?,
            keys_refused: counters(
                "weir_ingest_keys_refused_total",
                "Credentials refused, by code.",
                "code",
            )?,
            refreshes: counters(
                "weir_ingest_refreshes_total",
                "Loads of keys and aliases, by outcome.",
                "outcome",
            )?,
            door_events: registry.counters(
                "weir_ingest_door_events_total",
                "Events of doors that are in the log, by door and outcome.",
                &["door", "outcome"],
            )?,
            door_lag: registry.gauges(
                "weir_ingest_door_lag_messages",
                "Messages of a door that this process reads and has not committed.",
                &["door"],
            )?,
            door_retries: counters(
                "weir_ingest_door_retries_total",
                "Attempts to bring messages of doors into the log that are made again, by why.",
                "reason",
            )?,
        })
    }
}
