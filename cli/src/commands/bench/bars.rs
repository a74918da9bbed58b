//! `weir bench bars`: the runs one after the other, and for each bar what was measured. A run whose sums
//! are wrong ends it.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde_json::{Value, json};

use crate::output::{note, sayln};

/// What `weir bench bars` is started with.
#[derive(Debug, clap::Args)]
pub struct BarsArguments {
    /// Seconds that each run of the whole pipeline is sent events for
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Ingest,
    /// In requests of one event.
    IngestOnes,
    Rate,
    Post,
    Archive,
    /// As fast as it goes, in requests of 100.
    Full,
    /// At half the speed of the full run.
    Half,
    /// In requests of one event.
    Ones,
    /// Those at half the speed.
    HalfOnes,
}

/// What must be reached.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Something that is measured, and what must be reached.
struct Bar {
    what: &'static str,
    run: Run,
    /// Where the run's report has it.
    at: &'static str,
    /// Where it has what is divided by that, for a ratio.
    over: Option<&'static str>,
    bound: Bound,
    unit: &'static str,
}

const fn bar(
    what: &'static str,
    run: Run,
    at: &'static str,
    bound: Bound,
    unit: &'static str,
) -> Bar {
    Bar { what, run, at, over: None, bound, unit }
}

const fn ratio(
    what: &'static str,
    run: Run,
    (over, at): (&'static str, &'static str),
    least: f64,
) -> Bar {
    Bar { what, run, at, over: Some(over), bound: Bound::AtLeast(least), unit: "times" }
}

const BARS: [Bar; 16] = [
    bar(
        "gateway, batches of 100, per event",
        Run::Ingest,
        "/us_per_event",
        Bound::AtMost(1.1),
        "µs",
    ),
    bar(
        "gateway, batches of 1, per event",
        Run::IngestOnes,
        "/us_per_event",
        Bound::AtMost(11.0),
        "µs",
    ),
    ratio(
        "gateway, batches of 1, to a message per request",
        Run::IngestOnes,
        ("/events_per_s", "/events_per_s.single"),
        4.0,
    ),
    bar("rater, per event", Run::Rate, "/us_per_event/rater", Bound::AtMost(0.67), "µs"),
    ratio(
        "rater, to a plain loop",
        Run::Rate,
        ("/us_per_event/one_by_one", "/us_per_event/rater"),
        2.0,
    ),
    bar(
        "posting, per team, meter and window",
        Run::Post,
        "/us_per_total",
        Bound::AtMost(12.0),
        "µs",
    ),
    ratio(
        "posting, to a row per line",
        Run::Post,
        ("/us_per_event.one_by_one", "/us_per_event"),
        20.0,
    ),
    bar("archive, per row", Run::Archive, "/us_per_row", Bound::AtMost(1.7), "µs"),
    bar("pipeline, floor", Run::Full, "/events_per_s", Bound::AtLeast(150_000.0), "events/s"),
    bar("pipeline, goal", Run::Full, "/events_per_s", Bound::AtLeast(300_000.0), "events/s"),
    bar(
        "pipeline, floor",
        Run::Full,
        "/cpu_s_per_million/total",
        Bound::AtMost(13.0),
        "CPU s per million",
    ),
    bar(
        "pipeline, goal",
        Run::Full,
        "/cpu_s_per_million/total",
        Bound::AtMost(6.6),
        "CPU s per million",
    ),
    bar("one-event requests", Run::Ones, "/accepted_per_s", Bound::AtLeast(40_000.0), "requests/s"),
    bar(
        "one-event requests, p99 at half load",
        Run::HalfOnes,
        "/http_ms/p99",
        Bound::AtMost(25.0),
        "ms",
    ),
    bar(
        "live balance, p99 at half load",
        Run::Half,
        "/freshness_ms/live/p99",
        Bound::AtMost(250.0),
        "ms",
    ),
    bar(
        "posted balance, p99 at half load",
        Run::Half,
        "/freshness_ms/posted/p99",
        Bound::AtMost(1_500.0),
        "ms",
    ),
];

/// Runs all of it.
pub fn bars(arguments: &BarsArguments) -> Result<ExitCode> {
    let mut reports: Vec<(Run, Value)> = Vec::new();
    let stages = [Run::Ingest, Run::IngestOnes, Run::Rate, Run::Post, Run::Archive];
    let pipelines = [Run::Full, Run::Half, Run::Ones, Run::HalfOnes];
    for run in stages.into_iter().chain(pipelines) {
        let command = run.command(arguments.seconds, &reports)?;
        note(&format!("weir bench {}", command.join(" ")));
        reports.push((run, report(&command)?));
    }
    let measured: Vec<(&Bar, f64)> =
        BARS.iter().map(|bar| Ok((bar, bar.measured(&reports)?))).collect::<Result<_>>()?;
    if arguments.json {
        let rows: Vec<Value> = measured
            .iter()
            .map(|(bar, measured)| {
                json!({ "bar": bar.what, "bound": bar.bound.text(), "unit": bar.unit, "measured": measured, "pass": bar.bound.holds(*measured) })
            })
            .collect();
        sayln!("{:#}", json!({ "bars": rows, "oracle": "ok" }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["bar", "bound", "measured", "unit", ""]);
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (bar, measured) in measured {
        let verdict = if bar.bound.holds(measured) { "pass" } else { "short" };
        let measured = format!("{measured:.2}");
        table.add_row([bar.what, &bar.bound.text(), &measured, bar.unit, verdict]);
    }
    sayln!("{table}");
    Ok(ExitCode::SUCCESS)
}

impl Run {
    /// Its arguments; a run at half load needs the report of the one at full load.
    fn command(self, seconds: u64, reports: &[(Run, Value)]) -> Result<Vec<String>> {
        let half_of = |full: Run| {
            let speed = number(of(reports, full)?, "/events_per_s")?;
            Ok::<_, anyhow::Error>(format!(" --rate {:.0}", (speed / 2.0).max(1.0)))
        };
        let pipeline = format!("pipeline --seconds {seconds} --connections 32");
        let text = match self {
            Run::Ingest => "ingest".to_owned(),
            Run::IngestOnes => "ingest --batch 1 --events 200000 --connections 256".to_owned(),
            Run::Rate => "rate".to_owned(),
            Run::Post => "post".to_owned(),
            Run::Archive => "archive".to_owned(),
            Run::Full => pipeline,
            Run::Half => pipeline + &half_of(Run::Full)?,
            Run::Ones => pipeline + " --batch 1",
            Run::HalfOnes => pipeline + " --batch 1" + &half_of(Run::Ones)?,
        };
        Ok(text.split(' ').map(str::to_owned).collect())
    }
}

impl Bound {
    fn holds(&self, measured: f64) -> bool {
        match self {
            Bound::AtMost(most) => measured <= *most,
            Bound::AtLeast(least) => measured >= *least,
        }
    }

    fn text(&self) -> String {
        match self {
            Bound::AtMost(most) => format!("≤ {most}"),
            Bound::AtLeast(least) => format!("≥ {least}"),
        }
    }
}

impl Bar {
    fn measured(&self, reports: &[(Run, Value)]) -> Result<f64> {
        let report = of(reports, self.run)?;
        let figure = number(report, self.at)?;
        Ok(match self.over {
            None => figure,
            Some(over) => number(report, over)? / figure,
        })
    }
}

fn of(reports: &[(Run, Value)], run: Run) -> Result<&Value> {
    let found = reports.iter().find(|(known, _)| *known == run);
    found.map(|(_, report)| report).with_context(|| format!("there is no report of {run:?}"))
}

fn number(report: &Value, at: &str) -> Result<f64> {
    let number = report.pointer(at).and_then(Value::as_f64);
    number.with_context(|| format!("a report has no number at {at}: {report}"))
}

/// The report of a run of this program.
fn report(arguments: &[String]) -> Result<Value> {
    let program = std::env::current_exe().context("cannot find our own program")?;
    let mut command = Command::new(program);
    command.arg("bench").args(arguments).arg("--json").stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output().context("cannot start a run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the run ended with {}: {text}", output.status);
    serde_json::from_str(&text).with_context(|| format!("a run's report is not JSON: {text}"))
}
