//! Which installation: the one that is configured, or the `weir up` in a folder.

use std::path::PathBuf;

use runtime::config::{ConfigError, Secret};

use super::{Looked, Report};
use crate::{config::Config, endpoints::Endpoints, folder::DataFolder, roles::Role};

const CHECK: &str = "configuration";
/// In place of an audit key that is not set here: only the ledger-writer and `weir migrate` need it.
const ANY_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is looked at.
pub struct Target {
    /// The settings, with what a `weir up` has brought along.
    pub config: Config,
    /// The folder of the local log, where the log is one.
    pub log_folder: Option<PathBuf>,
    /// The `weir up` that runs, where nothing else is configured.
    pub up: Option<Endpoints>,
    /// Addresses of further processes.
    pub processes: Vec<String>,
    /// Lag in seconds beyond which there is a warning.
    pub lag_s: i64,
}

impl Target {
    /// Reads the settings; `None` if nothing else can be checked.
    pub fn find(looked: &Looked, report: &mut Report) -> Option<Self> {
        let mut config = match Config::read(looked.config.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                faults(&error, report);
                return None;
            }
        };
        let named = [&config.log.kafka.brokers, &config.clickhouse.url];
        let brought = named.iter().any(|text| text.is_empty()) || config.postgres.url.is_empty();
        let mut up = None;
        if brought {
            up = bring_along(&mut config, looked, report);
        }
        check_values(&config, report);
        if brought && up.is_none() {
            return None;
        }
        let local = config.log.kafka.brokers.is_empty();
        let folder = || config.log.directory.clone().unwrap_or_else(|| looked.data.join("log"));
        let log_folder = local.then(folder);
        let processes = looked.processes.clone();
        Some(Self { config, log_folder, up, processes, lag_s: looked.lag_s })
    }
}

/// Fills in what a `weir up` has made.
fn bring_along(config: &mut Config, looked: &Looked, report: &mut Report) -> Option<Endpoints> {
    let endpoints = match Endpoints::read(&looked.data) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            report.wrong(
                "weir up",
                format!("{error:#}"),
                "start it, or name the servers: DATABASE_URL, CLICKHOUSE_URL, WEIR_KAFKA_BROKERS",
            );
            return None;
        }
    };
    if config.postgres.url.is_empty() {
        config.postgres.url = Secret::new(endpoints.postgres.as_str());
    }
    if config.clickhouse.url.is_empty() {
        config.clickhouse.url.clone_from(&endpoints.clickhouse);
    }
    if let Some(brokers) = &endpoints.kafka {
        config.log.kafka.brokers.clone_from(brokers);
    }
    let stored = |name| DataFolder::stored_secret(&looked.data, name);
    if config.ledger_writer.audit_key.is_empty()
        && let Ok(key) = stored("audit")
    {
        config.ledger_writer.audit_key = key;
    }
    if config.api.master_key.is_empty()
        && let Ok(key) = stored("master")
    {
        config.api.master_key = key;
    }
    Some(endpoints)
}

fn check_values(config: &Config, report: &mut Report) {
    let mut checked = config.clone();
    if checked.ledger_writer.audit_key.is_empty() {
        checked.ledger_writer.audit_key = Secret::new(ANY_KEY);
    }
    match checked.check(&Role::ALL) {
        Ok(()) => report.ok(CHECK, "every value can be used"),
        Err(error) => faults(&error, report),
    }
}

fn faults(error: &ConfigError, report: &mut Report) {
    for fault in &error.faults {
        let found = format!("{} {}", fault.key, fault.problem);
        report.wrong(CHECK, found.trim(), "`weir config` explains every option");
    }
}
