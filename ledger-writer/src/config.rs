//! The section `[ledger_writer]`.

use std::time::Duration;

use ledger::seal::AuditKey;
use runtime::config::{Faults, Secret};
use serde::Deserialize;

/// Longest window: beyond a minute nobody would call a balance fresh.
const WINDOW_MS_MAX: u64 = 60_000;
/// Most batches and sums: what one transaction may take and one process may hold per partition.
const BATCHES_MAX: usize = 100_000;
const SUMS_MAX: usize = 1_000_000;

/// The section `[ledger_writer]`; `config.toml` explains each option.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Length of a posting window in milliseconds.
    pub window_ms: u64,
    /// A window ends at this many batches.
    pub batches_max: usize,
    /// A window ends at this many sums; a threshold, one batch may exceed it.
    pub sums_max: usize,
    /// Key of the audit chain, 64 hexadecimal digits.
    pub audit_key: Secret,
}

impl Config {
    /// Records what is wrong with the values.
    pub fn check(&self, faults: &mut Faults) {
        faults.check(
            (1..=WINDOW_MS_MAX).contains(&self.window_ms),
            "ledger_writer.window_ms",
            "is not between 1 and 60000; the usual value is 1000",
        );
        faults.check(
            (1..=BATCHES_MAX).contains(&self.batches_max),
            "ledger_writer.batches_max",
            "is not between 1 and 100000; the usual value is 1000",
        );
        faults.check(
            (1..=SUMS_MAX).contains(&self.sums_max),
            "ledger_writer.sums_max",
            "is not between 1 and 1000000; the usual value is 50000",
        );
        faults.check(
            self.key().is_some(),
            "ledger_writer.audit_key",
            "is not a key; set 64 hexadecimal digits, such as from: openssl rand -hex 32",
        );
    }

    /// The length of a window.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    /// The audit key; `None` where the setting is not one.
    #[must_use]
    pub fn key(&self) -> Option<AuditKey> {
        AuditKey::parse(&self.audit_key)
    }
}
