//! `weir replay`: the rows of a CSV file as usage events.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, ensure};
use benches::spread::Spread;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    client::Target,
    output::sayln,
    process,
    replay::{
        mapping::Mapping,
        rows::Rows,
        send::{Form, Sender},
    },
};

/// Source of events whose source is not given.
const SOURCE: &str = "weir-replay";

/// What `weir replay` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file, with a line of column names first; .gz and .zst are decompressed
    #[arg(long, value_name = "FILE", required = true)]
    csv: Vec<PathBuf>,
    /// What ends a column: one character, `\t` for a tab
    #[arg(long, default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// Which column becomes which field, such as TIMESTAMP=time or Tokens=data.inputTokens
    #[arg(long, value_name = "COLUMN=FIELD")]
    map: Vec<String>,
    /// A field that is the same in all events, such as type=llm.tokens.v1
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Teams to spread the rows over, unless `subject` is mapped or set
    #[arg(long, default_value_t = 20)]
    teams: u32,
    /// Seed of the spread
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Skew of the spread: 0 is even, 1 has a few large teams and many small ones
    #[arg(long, default_value_t = 1.0)]
    skew: f64,
    /// Events per request
    #[arg(long, default_value_t = 500)]
    batch: usize,
    /// How the events of a request travel
    #[arg(long, value_enum, default_value_t = Form::Ndjson)]
    form: Form,
    /// Seconds without any answer after which to give up
    #[arg(long, default_value_t = 600)]
    patience: u64,
    #[command(flatten)]
    target: Target,
}

/// Sends all rows; exits with 1 if any was rejected.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    ensure!((1..=10_000).contains(&arguments.batch), "--batch: a request has 1 to 10,000 events");
    ensure!(arguments.teams > 0, "--teams: give at least 1");
    process::block_on("replay", replay(arguments))
}

async fn replay(arguments: Arguments) -> Result<ExitCode> {
    let spread = Spread::new(arguments.teams, arguments.seed, arguments.skew);
    let mut sender = Sender::new(
        arguments.target.clone(),
        arguments.form,
        Duration::from_secs(arguments.patience),
    );
    let mut total = 0;
    for path in &arguments.csv {
        total += Rows::count(path, arguments.delimiter)?;
    }
    let progress = ProgressBar::new(total).with_style(ProgressStyle::with_template(
        "{wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left",
    )?);
    for path in &arguments.csv {
        replay_file(path, &arguments, &spread, &mut sender, &progress).await?;
    }
    progress.finish_and_clear();
    let outcome = sender.outcome;
    sayln!(
        "{} events: {} accepted, {} rejected, {} requests repeated; duplicates among the accepted are found while rating, see `weir status`",
        outcome.accepted + outcome.rejected,
        outcome.accepted,
        outcome.rejected,
        outcome.repeated
    );
    for reason in &outcome.reasons {
        sayln!("  rejected {reason}");
    }
    Ok(if outcome.rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends the rows of one file. At a row that is no event it stops, when those before it are sent.
async fn replay_file(
    path: &Path,
    arguments: &Arguments,
    spread: &Spread,
    sender: &mut Sender,
    progress: &ProgressBar,
) -> Result<()> {
    let mut rows = Rows::open(path, arguments.delimiter)?;
    let mapping = Mapping::new(&rows.columns, &arguments.map, &arguments.set)?;
    let (mut row, mut number) = (csv::StringRecord::new(), 0_u64);
    let mut batch = Vec::with_capacity(arguments.batch);
    loop {
        let next = next_event(&mut rows, &mapping, spread, &mut row, number + 1);
        let more = matches!(next, Ok(Some(_)));
        let ended = match next {
            Ok(event) => {
                number += u64::from(more);
                batch.extend(event);
                Ok(())
            }
            Err(error) => Err(error.context(format!(
                "{}, row {}: the {number} rows before it are sent; correct it and replay the file again, rows that are sent twice count once",
                path.display(),
                number + 1
            ))),
        };
        if batch.len() == arguments.batch || (!more && !batch.is_empty()) {
            sender.send(&batch).await?;
            progress.inc(u64::try_from(batch.len()).unwrap_or_default());
            batch.clear();
        }
        ended?;
        if !more {
            return Ok(());
        }
    }
}

/// The event of the next row, which has this number; `None` at the end.
fn next_event(
    rows: &mut Rows,
    mapping: &Mapping,
    spread: &Spread,
    row: &mut csv::StringRecord,
    number: u64,
) -> Result<Option<String>> {
    if !rows.read(row)? {
        return Ok(None);
    }
    let (id, team) = (format!("{}:{number}", rows.name), spread.team(number));
    let mut event = String::new();
    mapping.event(row, &[("id", &id), ("source", SOURCE), ("subject", &team)], &mut event)?;
    Ok(Some(event))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("give one ASCII character, or \\t".to_owned()),
    }
}
