//! What is kept of a run: one line of JSON per scenario and seed.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    oracle::{Verdict, Wrong},
    story::Story,
};
use crate::seed::Moments;

/// So much of what a run failed with is kept.
const FAILED_CHARACTERS_MAX: usize = 300;

/// What is kept of a run.
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
    /// How many of them were answered a second; 0 where nobody counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rate: u64,
    /// Acknowledged events without effect.
    pub lost: u64,
    /// Events with more than one effect.
    pub doubled: u64,
    /// Other differences from what must be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: u64,
    /// What it failed with, unless it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
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
        self.write_to(env::var_os("WEIR_FAULTS_OUT").map(PathBuf::from).as_deref())
    }

    fn write_to(&self, file: Option<&Path>) -> Result<()> {
        let text = serde_json::to_string(self)?;
        println!("{text}");
        if let Some(path) = file {
            let mut file = File::options().create(true).append(true).open(path)?;
            writeln!(file, "{text}").with_context(|| format!("write to {}", path.display()))?;
        }
        Ok(())
    }
}

/// A run of a scenario: its random moments, and what was done.
#[derive(Clone, Debug)]
pub struct Run {
    scenario: String,
    /// Random moments.
    pub moments: Moments,
    /// What was done.
    pub story: Story,
}

impl Run {
    /// Begins one; its seed is printed.
    pub fn new(scenario: &str) -> Run {
        let (scenario, moments) = (scenario.to_owned(), Moments::new(scenario));
        Run { scenario, moments, story: Story::default() }
    }

    /// Keeps its line, however it ended, and passes on how that was.
    pub fn keep(&self, outcome: Result<Verdict>) -> Result<()> {
        self.keep_by(outcome, Line::write)
    }

    fn keep_by(&self, outcome: Result<Verdict>, write: impl Fn(&Line) -> Result<()>) -> Result<()> {
        let written = write(&self.line(&outcome));
        outcome.and(written)
    }

    fn line(&self, outcome: &Result<Verdict>) -> Line {
        let verdict = match outcome {
            Ok(verdict) => Some(verdict),
            Err(error) => error.downcast_ref::<Wrong>().map(|Wrong(verdict)| verdict),
        };
        let verdict = verdict.cloned().unwrap_or_default();
        let Verdict { events, rate, lost, doubled, others, .. } = verdict;
        Line {
            scenario: self.scenario.clone(),
            seed: self.moments.seed(),
            commit: commit(),
            faults: self.story.counts(),
            events,
            rate,
            lost,
            doubled,
            others,
            failed: outcome.as_ref().err().map(short),
            seconds: self.story.seconds(),
            seeds: 0,
        }
    }
}

fn short(error: &Error) -> String {
    format!("{error:#}").chars().take(FAILED_CHARACTERS_MAX).collect()
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::postgres::TestFolder;

    #[test]
    fn a_run_has_a_line_however_it_ends() {
        let run = Run::new("s");
        run.story.count("F01", 2);
        let verdict = Verdict { events: 10, lost: 1, others: 3, ..Verdict::default() };
        let passed = run.line(&Ok(Verdict { events: 10, ..Verdict::default() }));
        assert_eq!((passed.events, passed.failed), (10, None));
        let wrong = run.line(&Err(Error::new(Wrong(verdict)).context("at rest")));
        assert_eq!((wrong.events, wrong.lost, wrong.doubled, wrong.others), (10, 1, 0, 3));
        assert!(wrong.failed.is_some_and(|failed| failed.starts_with("at rest")));
        let late = run.line(&Err(anyhow!("not in time: {}", "x".repeat(1_000))));
        assert_eq!((late.events, late.faults["F01"]), (0, 2));
        let failed = late.failed.unwrap();
        assert!(failed.starts_with("not in time: x") && failed.len() == FAILED_CHARACTERS_MAX);
    }

    #[test]
    fn the_line_of_a_run_that_fails_is_kept() {
        let folder = TestFolder::new("lines").unwrap();
        let file = folder.path().join("lines");
        let write = |line: &Line| line.write_to(Some(&file));
        let run = Run::new("s");
        assert!(run.keep_by(Ok(Verdict::default()), write).is_ok());
        assert!(run.keep_by(Err(anyhow!("lost")), write).is_err());
        let lines = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert!(lines.len() == 2 && lines[1].contains(r#""failed":"lost""#), "{lines:?}");
    }
}
