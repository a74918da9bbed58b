//! The whole configuration of the binary: what the process needs, and a section per role.

use std::{net::SocketAddr, path::Path};

use runtime::config::{
    ClickHouseConfig, ConfigError, Faults, LogConfig, PostgresConfig, TracesConfig, load,
};
use serde::Deserialize;

use crate::roles::Role;

/// The commented default: what the process needs, then each role's own section.
pub const DEFAULT: &str = concat!(
    include_str!("../config.toml"),
    include_str!("../../ingest/config.toml"),
    "\n",
    include_str!("../../rater/config.toml"),
    "\n",
    include_str!("../../ledger-writer/config.toml"),
    "\n",
    include_str!("../../archiver/config.toml"),
    "\n",
    include_str!("../../api/config.toml"),
);

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the process listens.
    pub http: HttpConfig,
    /// What it logs.
    pub telemetry: TelemetryConfig,
    /// The log.
    pub log: LogConfig,
    /// Postgres.
    pub postgres: PostgresConfig,
    /// ClickHouse.
    pub clickhouse: ClickHouseConfig,
    /// The role that accepts events.
    pub ingest: ingest::config::Config,
    /// The role that prices them.
    pub rater: rater::config::Config,
    /// The role that posts them.
    pub ledger_writer: ledger_writer::config::Config,
    /// The role that keeps them.
    pub archiver: archiver::config::Config,
    /// The role that answers.
    pub api: api::config::Config,
}

/// The section `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// Whether a proxy with TLS stands in front.
    pub behind_proxy: bool,
    /// Origins whose pages may ask.
    pub allowed_origins: Vec<String>,
    /// Seconds without progress after which a part of the process is not ready.
    pub stalled_after_s: u64,
}

/// The section `[telemetry]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// JSON, or lines for people.
    pub json: bool,
    /// What to log.
    pub filter: String,
    /// Where traces go.
    pub traces: TracesConfig,
}

impl Config {
    /// Reads the default, then `file`, then the environment. [`Config::check`] comes after.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        load(DEFAULT, file)
    }

    /// Lists all that is wrong with the values that a process with `roles` uses.
    pub fn check(&self, roles: &[Role]) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        faults.check(
            self.http.listen.ip().is_loopback() || self.http.behind_proxy,
            "http.listen",
            "others can reach this address and Weir speaks plain HTTP; listen on 127.0.0.1, or put \
             a proxy with TLS in front and set http.behind_proxy = true",
        );
        faults.check(
            self.http.allowed_origins.iter().all(|origin| runtime::http::is_origin(origin)),
            "http.allowed_origins",
            "give origins like https://app.example.com: scheme, host and port, without a path",
        );
        let collector = &self.telemetry.traces.endpoint;
        faults.check(
            collector.is_empty()
                || ["http://", "https://"].iter().any(|scheme| collector.starts_with(scheme)),
            "telemetry.traces.endpoint",
            "give the address of a collector, such as http://127.0.0.1:4318",
        );
        faults.check(
            (5..=3600).contains(&self.http.stalled_after_s),
            "http.stalled_after_s",
            "it must be between 5 and 3600",
        );
        faults.check(
            (0..=4096).contains(&self.log.partitions),
            "log.partitions",
            "it must be between 1 and 4096, or 0 for as many as suit the log",
        );
        faults.check(
            (4096..=2 << 30).contains(&self.log.local.segment_bytes),
            "log.local.segment_bytes",
            "it must be between 4096 and 2147483648",
        );
        faults.check(
            (1..=1_000_000).contains(&self.log.local.retention_hours),
            "log.local.retention_hours",
            "it must be between 1 and 1000000",
        );
        faults.check(
            self.postgres.connections >= 2,
            "postgres.connections",
            "a role needs at least 2",
        );
        let name = &self.clickhouse.database;
        let plain = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        faults.check(plain, "clickhouse.database", "it must be a name of a-z, 0-9 and _");
        for role in roles {
            match role {
                Role::Ingest => self.ingest.check(&mut faults),
                Role::Rater => self.rater.check(&mut faults),
                Role::LedgerWriter => self.ledger_writer.check(&mut faults),
                Role::Archiver => self.archiver.check(&mut faults),
                Role::Api => self.api.check(&mut faults),
            }
        }
        faults.finish()
    }

    /// Lists which of the servers that `weir up` would bring along nobody has named.
    pub fn check_servers(&self) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        faults.check(
            !self.log.kafka.brokers.is_empty(),
            "log.kafka.brokers",
            "is not set; set WEIR_KAFKA_BROKERS, or use `weir up`",
        );
        faults.check(
            !self.postgres.url.is_empty(),
            "postgres.url",
            "is not set; set DATABASE_URL, or use `weir up`",
        );
        faults.check(
            !self.clickhouse.url.is_empty(),
            "clickhouse.url",
            "is not set; set CLICKHOUSE_URL, or use `weir up`",
        );
        faults.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_complete_and_lacks_nothing_but_the_audit_key() {
        let config = Config::read(None).unwrap();
        let faults = config.check(&Role::ALL).unwrap_err().faults;
        let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["ledger_writer.audit_key"]);
        assert!(config.check(&[Role::Rater]).is_ok(), "only the ledger-writer needs the key");
    }

    #[test]
    fn an_address_that_others_reach_needs_a_proxy() {
        let mut config = Config::read(None).unwrap();
        config.http.listen = ([0, 0, 0, 0], 80).into();
        assert!(config.check(&[]).unwrap_err().to_string().contains("behind_proxy"));
        config.http.behind_proxy = true;
        assert!(config.check(&[]).is_ok());
    }
}
