//! What `weir doctor` looks at. Each check is by itself: one that fails leaves the others standing.
//!
//! Reading order: [`examine`], [`target`] (which installation), then the checks.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use self::target::Target;

mod archive;
mod certificates;
mod database;
mod lags;
mod log;
mod processes;
mod secrets;
pub mod target;
mod waiting;

/// How long a server may take to answer a check.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Clocks may differ by this much, in microseconds: an event may lie 5 minutes in the future.
const SKEW_WARNING_US: i64 = 2_000_000;
const SKEW_WRONG_US: i64 = 60_000_000;
/// A disk with less free space than this, in percent, is named.
const DISK_WARNING_PERCENT: i64 = 10;
const DISK_WRONG_PERCENT: i64 = 2;

/// What is asked for.
pub struct Looked {
    /// A file of settings.
    pub config: Option<PathBuf>,
    /// Folder of a `weir up`.
    pub data: PathBuf,
    /// Addresses of processes.
    pub processes: Vec<String>,
    /// Lag in seconds beyond which there is a warning.
    pub lag_s: i64,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it must be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work, or will lose something.
    Wrong,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, such as `postgres.migrations`.
    pub check: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is to be done.
    pub action: String,
}

/// What was found, in the order of the checks.
#[derive(Debug, Default)]
pub struct Report {
    /// All of it.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, state: State, check: &str, found: impl Into<String>, action: &str) {
        let (check, action) = (check.to_owned(), action.to_owned());
        self.findings.push(Finding { check, state, found: found.into(), action });
    }

    fn ok(&mut self, check: &str, found: impl Into<String>) {
        self.add(State::Ok, check, found, "");
    }

    fn warning(&mut self, check: &str, found: impl Into<String>, action: &str) {
        self.add(State::Warning, check, found, action);
    }

    fn wrong(&mut self, check: &str, found: impl Into<String>, action: &str) {
        self.add(State::Wrong, check, found, action);
    }

    /// Whether nothing is wrong; warnings do not count.
    pub fn is_healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.state != State::Wrong)
    }

    /// What is wrong, in words.
    pub fn wrongs(&self) -> Vec<String> {
        let wrong = self.findings.iter().filter(|finding| finding.state == State::Wrong);
        wrong
            .map(|finding| format!("{}: {}; {}", finding.check, finding.found, finding.action))
            .collect()
    }

    /// The report for programs.
    pub fn document(&self) -> Value {
        json!({ "healthy": self.is_healthy(), "findings": self.findings })
    }

    /// Judges a clock that showed `their_us` between `before_us` and `after_us` of ours.
    fn clock(&mut self, whose: &str, their_us: i64, (before_us, after_us): (i64, i64)) {
        let skew = if their_us < before_us {
            their_us.saturating_sub(before_us)
        } else {
            their_us.saturating_sub(after_us).max(0)
        };
        let found = format!("its clock is {} ms {} ours", skew.abs() / 1000, side(skew));
        let check = format!("{whose}.clock");
        let action = "set all clocks by NTP (chrony, systemd-timesyncd)";
        match skew.abs() {
            0..SKEW_WARNING_US => self.ok(&check, "its clock agrees with ours"),
            SKEW_WARNING_US..SKEW_WRONG_US => self.warning(&check, found, action),
            _ => self.wrong(&check, found, action),
        }
    }

    /// Judges the free space of a disk.
    fn disk(&mut self, check: &str, (free, size): (i64, i64)) {
        let percent = free.saturating_mul(100).checked_div(size).unwrap_or(100);
        let found = format!("{} MiB are free, {percent} %", free >> 20);
        let action =
            "make room or give it a larger disk; docs/OPERATIONS.md says what may be removed";
        match percent {
            ..DISK_WRONG_PERCENT => self.wrong(check, found, action),
            DISK_WRONG_PERCENT..DISK_WARNING_PERCENT => self.warning(check, found, action),
            _ => self.ok(check, found),
        }
    }
}

fn side(skew: i64) -> &'static str {
    if skew < 0 { "behind" } else { "before" }
}

/// Looks at everything.
pub async fn examine(looked: Looked) -> Report {
    let mut report = Report::default();
    let Some(target) = Target::find(&looked, &mut report) else { return report };
    let database = database::check(&target, &mut report).await;
    let log = log::check(&target, database.as_ref(), &mut report).await;
    archive::check(&target, &mut report).await;
    certificates::check(&target, &mut report).await;
    if let Some(database) = &database {
        secrets::check(&target, database, &mut report).await;
        waiting::check(&target, log.is_some(), database, &mut report).await;
        lags::check(&target, log, database, &mut report).await;
    }
    processes::check(&target, &mut report).await;
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_disks_are_judged_by_their_limits() {
        let mut report = Report::default();
        let ours = (100_000_000, 101_000_000);
        for theirs in [100_500_000, 98_500_000, 97_900_000, 103_100_000, 40_000_000, 161_000_000] {
            report.clock("postgres", theirs, ours);
        }
        for free in [1, 2, 9, 10] {
            report.disk("log.disk", (free << 20, 100 << 20));
        }
        let states: Vec<State> = report.findings.iter().map(|finding| finding.state).collect();
        let (ok, warning, wrong) = (State::Ok, State::Warning, State::Wrong);
        assert_eq!(states, [ok, ok, warning, warning, wrong, wrong, wrong, warning, warning, ok]);
        assert!(!report.is_healthy());
    }
}
