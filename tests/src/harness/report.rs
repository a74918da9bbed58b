//! What is kept of a run: one line of JSON per scenario and seed.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// What was done.
    pub scenario: String,
    /// Its random moments.
    pub seed: u64,
    /// What was tested.
    pub commit: String,
    /// Faults of each kind that have bitten.
    pub faults: BTreeMap<String, u64>,
    /// Events sent, each of which has one outcome.
    pub events: u64,
    /// Acknowledged events without effect.
    pub lost: u64,
    /// Events with more than one effect.
    pub doubled: u64,
    /// How long it took.
    pub seconds: u64,
    /// Seeds of a run of the simulation, whose faults and events are not real ones; 0 for a system.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seeds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Line {
    /// Appends it to the file that WEIR_FAULTS_OUT names; prints it in any case.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string(self)?;
        println!("{text}");
        if let Some(path) = env::var_os("WEIR_FAULTS_OUT") {
            let mut file = File::options().create(true).append(true).open(&path)?;
            writeln!(file, "{text}").with_context(|| format!("write to {}", path.display()))?;
        }
        Ok(())
    }
}

/// The commit that is checked out; empty where there is none.
pub fn commit() -> String {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=10", "HEAD"])
        .stderr(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}
