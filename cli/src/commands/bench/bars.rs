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
    /// By a catalog of 1,000 meters.
    RateMeters,
    /// By a catalog of 100,000 prices.
    RatePrices,
    /// Each price by the heaviest model.
    RateTiers,
    /// Of events that are late, with 50 million identities behind them.
    RateLate,
    Post,
    Archive,
    /// As fast as it goes, in requests of 100, of one tenant and 10,000 teams.
    Full,
    /// At half the speed of the full run.
    Half,
    /// With ten times as many requests at once as the full run.
    Overload,
    /// Of 1,000 tenants.
    Tenants,
    /// Of 1,000 teams.
    FewTeams,
    /// Of 1,000,000 teams.
    ManyTeams,
    /// On two partitions.
    TwoPartitions,
    /// On eight partitions.
    EightPartitions,
    /// In requests of one event.
    Ones,
    /// Those at half the speed.
    HalfOnes,
}

const RUNS: [Run; 19] = [
    Run::Ingest,
    Run::IngestOnes,
    Run::Rate,
    Run::RateMeters,
    Run::RatePrices,
    Run::RateTiers,
    Run::RateLate,
    Run::Post,
    Run::Archive,
    Run::Full,
    Run::Half,
    Run::Overload,
    Run::Tenants,
    Run::FewTeams,
    Run::ManyTeams,
    Run::TwoPartitions,
    Run::EightPartitions,
    Run::Ones,
    Run::HalfOnes,
];

/// What must be reached.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A number of a run's report: at a place, less what is at others.
struct Figure {
    run: Run,
    at: &'static str,
    less: &'static [&'static str],
}

/// Something that is measured, and what must be reached.
struct Bar {
    what: &'static str,
    figure: Figure,
    /// What it is divided by.
    over: Option<Figure>,
    bound: Bound,
    unit: &'static str,
}

const fn figure(run: Run, at: &'static str) -> Figure {
    Figure { run, at, less: &[] }
}

const fn bar(what: &'static str, figure: Figure, bound: Bound, unit: &'static str) -> Bar {
    Bar { what, figure, over: None, bound, unit }
}

/// `figure` is at least so many times `of`, such as the time of the plain way of that of ours.
const fn times(what: &'static str, figure: Figure, of: Figure, least: f64) -> Bar {
    Bar { what, figure, over: Some(of), bound: Bound::AtLeast(least), unit: "times" }
}

/// `figure` is at most so many times `of`.
const fn growth(what: &'static str, figure: Figure, of: Figure, most: f64) -> Bar {
    Bar { what, figure, over: Some(of), bound: Bound::AtMost(most), unit: "times" }
}

/// Flat: 20 % more at most.
const GROWTH: f64 = 1.2;
const CPU: &str = "/cpu_s_per_million/total";
/// Posting is per account: where there are more accounts, it is not compared per event.
const POSTING: &[&str] = &["/cpu_s_per_million/postgres", "/cpu_s_per_million/ledger"];

const fn cpu_without_posting(run: Run) -> Figure {
    Figure { run, at: CPU, less: POSTING }
}

const fn cpu(run: Run) -> Figure {
    figure(run, CPU)
}

const fn rater(run: Run) -> Figure {
    figure(run, "/us_per_event/rater")
}

const BARS: [Bar; 25] = [
    bar(
        "gateway, batches of 100, per event",
        figure(Run::Ingest, "/us_per_event"),
        Bound::AtMost(1.1),
        "µs",
    ),
    bar(
        "gateway, batches of 1, per event",
        figure(Run::IngestOnes, "/us_per_event"),
        Bound::AtMost(11.0),
        "µs",
    ),
    times(
        "gateway, batches of 1, to a message per request",
        figure(Run::IngestOnes, "/events_per_s"),
        figure(Run::IngestOnes, "/events_per_s.single"),
        4.0,
    ),
    bar("rater, per event", rater(Run::Rate), Bound::AtMost(0.67), "µs"),
    times(
        "rater, to a plain loop",
        figure(Run::Rate, "/us_per_event/one_by_one"),
        rater(Run::Rate),
        2.0,
    ),
    growth("rater, 1,000 meters to 2", rater(Run::RateMeters), rater(Run::Rate), GROWTH),
    growth("rater, 100,000 prices to 8", rater(Run::RatePrices), rater(Run::Rate), GROWTH),
    growth(
        "rater, the heaviest price model to the plain one",
        rater(Run::RateTiers),
        rater(Run::Rate),
        3.0,
    ),
    bar(
        "preview by the heaviest price model, in process, p99",
        figure(Run::RateTiers, "/us_per_event/preview_p99"),
        Bound::AtMost(1_000.0),
        "µs",
    ),
    times(
        "rater, timely to late events, 50 million identities behind them",
        rater(Run::Rate),
        rater(Run::RateLate),
        0.7,
    ),
    bar(
        "posting, per team, meter and window",
        figure(Run::Post, "/us_per_total"),
        Bound::AtMost(12.0),
        "µs",
    ),
    times(
        "posting, to a row per line",
        figure(Run::Post, "/us_per_event.one_by_one"),
        figure(Run::Post, "/us_per_event"),
        20.0,
    ),
    bar("archive, per row", figure(Run::Archive, "/us_per_row"), Bound::AtMost(1.7), "µs"),
    bar(
        "pipeline, floor",
        figure(Run::Full, "/events_per_s"),
        Bound::AtLeast(150_000.0),
        "events/s",
    ),
    bar(
        "pipeline, goal",
        figure(Run::Full, "/events_per_s"),
        Bound::AtLeast(300_000.0),
        "events/s",
    ),
    bar("pipeline, floor", cpu(Run::Full), Bound::AtMost(13.0), "CPU s per million"),
    bar("pipeline, goal", cpu(Run::Full), Bound::AtMost(6.6), "CPU s per million"),
    growth("pipeline, 1,000 tenants to 1", cpu(Run::Tenants), cpu(Run::Full), GROWTH),
    growth(
        "pipeline without posting, 1,000,000 teams to 1,000",
        cpu_without_posting(Run::ManyTeams),
        cpu_without_posting(Run::FewTeams),
        GROWTH,
    ),
    growth(
        "pipeline, 8 partitions to 2",
        cpu(Run::EightPartitions),
        cpu(Run::TwoPartitions),
        GROWTH,
    ),
    growth(
        "accepted requests, p99, ten times as many at once",
        figure(Run::Overload, "/attempt_ms/p99"),
        figure(Run::Full, "/attempt_ms/p99"),
        2.0,
    ),
    bar(
        "one-event requests",
        figure(Run::Ones, "/accepted_per_s"),
        Bound::AtLeast(40_000.0),
        "requests/s",
    ),
    bar(
        "one-event requests, p99 at half load",
        figure(Run::HalfOnes, "/http_ms/p99"),
        Bound::AtMost(25.0),
        "ms",
    ),
    bar(
        "live balance, p99 at half load",
        figure(Run::Half, "/freshness_ms/live/p99"),
        Bound::AtMost(250.0),
        "ms",
    ),
    bar(
        "posted balance, p99 at half load",
        figure(Run::Half, "/freshness_ms/posted/p99"),
        Bound::AtMost(1_500.0),
        "ms",
    ),
];

/// Runs all of it.
pub fn bars(arguments: &BarsArguments) -> Result<ExitCode> {
    let mut reports: Vec<(Run, Value)> = Vec::new();
    for run in RUNS {
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
        let at_once =
            |connections: u32| format!("pipeline --seconds {seconds} --connections {connections}");
        let pipeline = at_once(32);
        let text = match self {
            Run::Ingest => "ingest".to_owned(),
            Run::IngestOnes => "ingest --batch 1 --events 200000 --connections 256".to_owned(),
            Run::Rate => "rate".to_owned(),
            Run::RateMeters => "rate --more-meters 998".to_owned(),
            Run::RatePrices => "rate --more-rates 99992".to_owned(),
            Run::RateTiers => "rate --tiers".to_owned(),
            Run::RateLate => "rate --behind 50000000".to_owned(),
            Run::Post => "post".to_owned(),
            Run::Archive => "archive".to_owned(),
            Run::Full => pipeline,
            Run::Half => pipeline + &half_of(Run::Full)?,
            Run::Overload => at_once(320),
            Run::Tenants => pipeline + " --tenants 1000",
            Run::FewTeams => pipeline + " --teams 1000",
            Run::ManyTeams => pipeline + " --teams 1000000",
            Run::TwoPartitions => pipeline + " --partitions 2",
            Run::EightPartitions => pipeline + " --partitions 8",
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
        let figure = self.figure.measured(reports)?;
        Ok(match &self.over {
            None => figure,
            Some(over) => figure / over.measured(reports)?,
        })
    }
}

impl Figure {
    fn measured(&self, reports: &[(Run, Value)]) -> Result<f64> {
        let report = of(reports, self.run)?;
        let mut figure = number(report, self.at)?;
        for less in self.less {
            figure -= number(report, less)?;
        }
        Ok(figure)
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
