//! What a run is summed up to: for people a table, for machines JSON.

use std::{collections::BTreeMap, process::Command, time::Duration};

use benches::measure;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{instructions::Counts, load::Sent, probe::Freshness, watch::Used};

/// Two percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// Measurements.
    pub count: u64,
}

impl Percentiles {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are far below 2⁵³")]
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_quantile(percentile) as f64 / 1_000.0;
        Self { p50: at(0.5), p99: at(0.99), count: histogram.len() }
    }
}

/// How long an accepted event takes to show.
#[derive(Clone, Debug, Serialize)]
pub struct FreshnessReport {
    live: Percentiles,
    posted: Percentiles,
}

/// What the run was.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// `release`, or `debug`, which says nothing about speed.
    pub build: &'static str,
    /// The commit of the sources around the working folder, with `-dirty` where files differ from it; a
    /// program that was built from others does not know.
    pub commit: String,
    /// Processor and cores.
    pub machine: String,
    /// Log, database and archive.
    pub engines: String,
    /// Kind of file system below the data.
    pub file_system: String,
    /// The command line.
    pub command: String,
}

impl Setting {
    /// Of this process; the data are in `folder`.
    pub fn new(engines: &str, folder: &std::path::Path) -> Self {
        let (model, cores) = measure::machine();
        Self {
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            commit: commit(),
            machine: format!("{model}, {cores} cores"),
            engines: engines.to_owned(),
            file_system: measure::file_system(&folder.to_string_lossy()),
            command: std::env::args()
                .skip(1)
                .fold("weir".to_owned(), |command, argument| format!("{command} {argument}")),
        }
    }
}

/// The commit of the sources around the working folder, if there are any.
fn commit() -> String {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or_else(
        || "unknown".to_owned(),
        |text| String::from_utf8_lossy(&text).trim().to_owned(),
    )
}

/// A run whose books are right.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Events of the load.
    pub events: u64,
    /// Seconds from the first request until all of them were posted and archived.
    pub seconds: f64,
    /// Events per second of that time.
    pub events_per_s: f64,
    /// Events per second until the last answer.
    pub accepted_per_s: f64,
    /// Processor seconds per million events, by role.
    pub cpu_s_per_million: BTreeMap<String, f64>,
    /// Instructions per event, by role, or why none were counted.
    pub instructions_per_event: Counts,
    /// Most memory, by process.
    pub peak_rss_mb: BTreeMap<String, f64>,
    /// From 2xx to the balance.
    pub freshness_ms: FreshnessReport,
    /// From a request to its answer.
    pub http_ms: Percentiles,
    /// The same without earlier attempts, which were refused.
    pub attempt_ms: Percentiles,
    /// Requests that were sent again.
    pub repeated_requests: u64,
    /// The part of the machine's time in which it had nothing to do.
    pub idle_share: f64,
    /// `ok`: a report is not made of other runs.
    pub oracle: &'static str,
    /// What the run was.
    #[serde(flatten)]
    pub setting: Setting,
}

impl Report {
    /// Sums up a run that took `time` and whose books are right.
    #[expect(clippy::cast_precision_loss, reason = "events of a run are far below 2⁵³")]
    pub fn new(
        sent: &Sent,
        freshness: &Freshness,
        used: &Used,
        time: Duration,
        setting: Setting,
    ) -> Self {
        let events = sent.events as f64;
        let mut cpu: BTreeMap<String, f64> = used
            .time
            .iter()
            .map(|(role, time)| (role.clone(), time.as_secs_f64() / events * 1e6))
            .collect();
        cpu.insert("total".to_owned(), cpu.values().sum());
        Self {
            events: sent.events,
            seconds: time.as_secs_f64(),
            events_per_s: events / time.as_secs_f64(),
            accepted_per_s: events / sent.time.as_secs_f64(),
            cpu_s_per_million: cpu,
            instructions_per_event: per_event(&used.instructions, sent.events),
            peak_rss_mb: used
                .peak_kib
                .iter()
                .map(|(name, kib)| (name.clone(), *kib as f64 / 1024.0))
                .collect(),
            freshness_ms: FreshnessReport {
                live: Percentiles::of(&freshness.live_us),
                posted: Percentiles::of(&freshness.posted_us),
            },
            http_ms: Percentiles::of(&sent.http_us),
            attempt_ms: Percentiles::of(&sent.attempt_us),
            repeated_requests: sent.repeated,
            idle_share: used.idle_share,
            oracle: "ok",
            setting,
        }
    }

    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["what", "value", "unit"]);
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |what: &str, value: String, unit: &str| {
            table.add_row([what.to_owned(), value, unit.to_owned()]);
        };
        row("posted and archived", format!("{:.0}", self.events_per_s), "events/s");
        row("accepted", format!("{:.0}", self.accepted_per_s), "events/s");
        row("events", self.events.to_string(), "");
        row("time", format!("{:.2}", self.seconds), "s");
        for (role, seconds) in self.cpu_s_per_million.iter().filter(|(role, _)| *role != "total") {
            row(&format!("cpu {role}"), format!("{seconds:.2}"), "s per million events");
        }
        let total = self.cpu_s_per_million.get("total").copied().unwrap_or_default();
        row("cpu total", format!("{total:.2}"), "s per million events");
        match &self.instructions_per_event {
            Counts::Not(reason) => row("instructions", "none".to_owned(), reason),
            Counts::Counted(by_role) => {
                for (role, count) in by_role {
                    row(&format!("instructions {role}"), count.to_string(), "per event");
                }
            }
        }
        for (name, mb) in &self.peak_rss_mb {
            row(&format!("peak memory {name}"), format!("{mb:.0}"), "MiB");
        }
        let percentiles = [
            ("http", self.http_ms),
            ("http, last attempt", self.attempt_ms),
            ("fresh live", self.freshness_ms.live),
            ("fresh posted", self.freshness_ms.posted),
        ];
        for (what, of) in percentiles {
            row(
                &format!("{what} p50 / p99"),
                format!("{:.1} / {:.1}", of.p50, of.p99),
                &format!("ms, {} measured", of.count),
            );
        }
        row("repeated requests", self.repeated_requests.to_string(), "");
        row("idle", format!("{:.1}", self.idle_share * 100.0), "% of the machine");
        row("oracle", self.oracle.to_owned(), "");
        table
    }
}

/// Of each role, and their sum.
fn per_event(counts: &Counts, events: u64) -> Counts {
    let Counts::Counted(by_role) = counts else { return counts.clone() };
    let total = ("total".to_owned(), by_role.values().sum::<u64>());
    let all = by_role.iter().map(|(role, count)| (role.clone(), *count)).chain([total]);
    Counts::Counted(all.map(|(role, count)| (role, count / events.max(1))).collect())
}
