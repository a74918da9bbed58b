//! The section `[api]`.

use runtime::{
    config::{Faults, Secret},
    keys::MasterKeys,
};
use serde::Deserialize;

use crate::Unpriced;

/// Options of the api. `api/config.toml` has the defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long publishing waits for the markers before it answers 503, in milliseconds.
    pub publish_wait_ms: u64,
    /// Pause between two looks at what has been posted, in milliseconds.
    pub balance_refresh_ms: u64,
    /// Sums of one partition that are kept because they are not posted yet. Beyond, the partition's
    /// live balances stand still until the ledger-writer catches up.
    pub live_entries_max: usize,
    /// Blocks of one partition whose counts are kept for the conservation statement.
    pub pending_blocks_max: usize,
    /// Seconds after the end of a period until it is closed: what is reported later is counted, and amends it.
    pub close_after_s: u64,
    /// Seconds between two searches of a partition for events that were charged twice.
    pub sweep_every_s: u32,
    /// What is done where a catalog has a price for usage that had none.
    pub unpriced: Unpriced,
    /// How long one conservation statement may read the log, in milliseconds.
    pub pending_scan_ms: u64,
    /// Address of ingest, for events that are sent again; empty for the ingest of this process.
    pub ingest_url: String,
    /// Refused credentials that one address may send in a row before it is answered with 429.
    pub failed_attempts_max: u32,
    /// Time after which an address gets one of its attempts back.
    pub failed_attempt_regain_ms: u64,
    /// The master key under which apps' secrets are stored; empty: no secrets, no tokens.
    pub master_key: Secret,
}

impl Config {
    /// Adds what is wrong with the values to `faults`.
    pub fn check(&self, faults: &mut Faults) {
        let at_least_one = "is 0; give at least 1";
        faults.check(self.publish_wait_ms > 0, "api.publish_wait_ms", at_least_one);
        faults.check(
            self.publish_wait_ms <= 20_000,
            "api.publish_wait_ms",
            "is longer than a request may take; give at most 20000",
        );
        faults.check(
            self.balance_refresh_ms >= 50,
            "api.balance_refresh_ms",
            "is below 50; Postgres is asked this often",
        );
        faults.check(self.live_entries_max > 0, "api.live_entries_max", at_least_one);
        faults.check(self.pending_blocks_max > 0, "api.pending_blocks_max", at_least_one);
        faults.check(self.pending_scan_ms > 0, "api.pending_scan_ms", at_least_one);
        faults.check(
            (1..=86_400).contains(&self.sweep_every_s),
            "api.sweep_every_s",
            "give 1 to 86400: what was charged twice is taken back within a day",
        );
        let url = self.ingest_url.as_str();
        let is_address = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        let fault = "is no http:// or https:// address";
        faults.check(is_address || url.is_empty(), "api.ingest_url", fault);
        faults.check(self.failed_attempts_max > 0, "api.failed_attempts_max", at_least_one);
        let regain = self.failed_attempt_regain_ms;
        faults.check(regain > 0, "api.failed_attempt_regain_ms", at_least_one);
        if let Err(error) = MasterKeys::parse(&self.master_key) {
            faults.add("api.master_key", error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Whole {
        api: Config,
    }

    #[test]
    fn the_defaults_are_whole_and_without_fault() {
        let whole: Whole = runtime::config::load(include_str!("../config.toml"), None).unwrap();
        let mut faults = Faults::default();
        whole.api.check(&mut faults);
        faults.finish().unwrap();
        let wrong = Config {
            publish_wait_ms: 0,
            balance_refresh_ms: 1,
            live_entries_max: 0,
            pending_blocks_max: 0,
            close_after_s: 0,
            sweep_every_s: 0,
            unpriced: Unpriced::Leave,
            pending_scan_ms: 0,
            ingest_url: "ingest:8080".to_owned(),
            failed_attempts_max: 0,
            failed_attempt_regain_ms: 0,
            master_key: Secret::new("short"),
        };
        let mut faults = Faults::default();
        wrong.check(&mut faults);
        assert_eq!(faults.finish().unwrap_err().faults.len(), 10);
    }
}
