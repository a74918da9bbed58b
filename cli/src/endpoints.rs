//! `endpoints.json`: where a running `weir up` answers. Scripts and other commands read it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::folder::write_private;

const FILE: &str = "endpoints.json";

/// Addresses and the key of a running `weir up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// The one HTTP address, `http://127.0.0.1:8080`.
    pub http: String,
    /// URL for `psql`.
    pub postgres: String,
    /// URL of ClickHouse's HTTP interface.
    pub clickhouse: String,
    /// Kafka's brokers, where the log is Kafka.
    pub kafka: Option<String>,
    /// An API key with all scopes on the tenant `default`.
    pub admin_key: String,
    /// The process.
    pub pid: u32,
}

impl Endpoints {
    /// Reads those of the process that runs, or ran, in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!(
                "there is no {}; start `weir up` and wait until it is ready, or give --url and --key",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Whether the process is still there, and no other that got its number.
    pub fn process_runs(&self) -> bool {
        // More of a process that is not dumped, only root may see.
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end() == "weir"
    }

    /// Writes them, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_private(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes what an earlier process left behind.
    pub fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(FILE));
    }
}
