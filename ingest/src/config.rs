//! Settings of ingest: the section `[ingest]`.

use std::time::Duration;

use runtime::{
    config::{Faults, Secret},
    keys::MasterKeys,
};
use serde::Deserialize;

/// The section with its defaults, commented: a part of the compiled-in configuration.
pub const DEFAULT_TOML: &str = include_str!("../config.toml");

/// The settings. Defaults are in `config.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Blocks of one partition that may be on their way to the log at a time.
    pub in_flight: usize,
    /// A block is closed when its events have this many bytes; one event may exceed it.
    pub block_bytes: usize,
    /// Bytes of bodies and events that may wait in this process.
    pub memory_bytes: usize,
    /// Time that the log has to acknowledge before a request is answered with 503.
    pub answer_timeout_ms: u64,
    /// How often keys, tenants and aliases are loaded from Postgres.
    pub refresh_ms: u64,
    /// Age of what was loaded at which requests are answered with 503.
    pub lease_ms: u64,
    /// Refused credentials that one address may send in a row before it is answered with 429.
    pub failed_attempts_max: u32,
    /// Time after which an address gets one of its attempts back.
    pub failed_attempt_regain_ms: u64,
    /// Whether the doors are read, where the log is on Kafka.
    pub doors: bool,
    /// The master key under which apps' secrets are stored; empty: tokens cannot be checked.
    pub master_key: Secret,
}

/// The api looks at an alias 60 s after it was written. By then no process may let its subject in, and
/// what one has let in must be in the log.
const LEASE_MS_MAX: u64 = 45_000;

impl Config {
    /// Records what cannot work.
    pub fn check(&self, faults: &mut Faults) {
        let bytes = |value: usize, least: usize, most: usize| (least..=most).contains(&value);
        faults.check((1..=64).contains(&self.in_flight), "ingest.in_flight", "give 1 to 64");
        faults.check(
            bytes(self.block_bytes, 1 << 10, 1 << 20),
            "ingest.block_bytes",
            "give 1 KiB to 1 MiB",
        );
        faults.check(
            bytes(self.memory_bytes, 16 << 20, 64 << 30),
            "ingest.memory_bytes",
            "give at least 16 MiB: one body needs 4 MiB and its events more",
        );
        faults.check(
            (100..=4_500).contains(&self.answer_timeout_ms),
            "ingest.answer_timeout_ms",
            "give 100 to 4500: the answer is promised within 5 s",
        );
        faults.check(
            (50..=10_000).contains(&self.refresh_ms),
            "ingest.refresh_ms",
            "give 50 to 10000",
        );
        faults.check(
            self.lease_ms >= self.refresh_ms.saturating_mul(2) && self.lease_ms <= LEASE_MS_MAX,
            "ingest.lease_ms",
            "give at least twice refresh_ms and at most 45000: aliases and backfills are decided about after 60000",
        );
        faults.check(self.failed_attempts_max > 0, "ingest.failed_attempts_max", "give at least 1");
        faults.check(
            self.failed_attempt_regain_ms > 0,
            "ingest.failed_attempt_regain_ms",
            "give at least 1",
        );
        if let Err(error) = MasterKeys::parse(&self.master_key) {
            faults.add("ingest.master_key", error.to_string());
        }
    }

    pub(crate) fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.answer_timeout_ms)
    }

    pub(crate) fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}
