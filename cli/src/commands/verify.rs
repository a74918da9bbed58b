//! `weir verify`: proves the books from their audit chain, and the archive from the books.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};

use crate::{
    output::{self, sayln},
    process,
    verify::{self, Asked, Report, Verdict},
};

/// What `weir verify` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object: `verdict`, `seed` and `checks`
    #[arg(long)]
    json: bool,
    /// Configuration; what it does not say is as in `weir config`
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of a `weir up`, used for what is not configured
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
    /// How many stored events to rate again
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    sample: u32,
    /// Choose the same events as the run that printed this seed
    #[arg(long)]
    seed: Option<u64>,
    /// How long to wait for the archive to be where the ledger was at the start
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Exit code when something could not be looked at.
const COULD_NOT_LOOK: u8 = 2;

/// Looks and prints; exits with 1 if something is not as it must be, and with 2 if something could
/// not be looked at.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let asked = Asked {
        config: arguments.config,
        data: arguments.data,
        sample: arguments.sample,
        seed: arguments.seed,
        wait: Duration::from_secs(arguments.wait),
    };
    let report = match process::block_on("verify", verify::examine(asked)) {
        Ok(report) => report,
        Err(error) => {
            output::fault(&error);
            return Ok(ExitCode::from(COULD_NOT_LOOK));
        }
    };
    if arguments.json {
        sayln!("{}", serde_json::to_string_pretty(&report.document())?);
    } else {
        print(&report);
    }
    Ok(match report.verdict() {
        Verdict::Holds => ExitCode::SUCCESS,
        Verdict::Broken => ExitCode::FAILURE,
        Verdict::Unknown => ExitCode::from(COULD_NOT_LOOK),
    })
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["check", "looked at", "bad", "state"]);
    for check in &report.checks {
        let state = match (&check.left_out, check.holds()) {
            (_, false) => "WRONG",
            (Some(_), true) => "not all seen",
            (None, true) => "ok",
        };
        table.add_row([
            check.name.to_owned(),
            check.rows.to_string(),
            check.bad.to_string(),
            state.to_owned(),
        ]);
    }
    sayln!("{table}");
    for check in &report.checks {
        if let Some(first) = &check.first_bad {
            sayln!("WRONG  {}: {first}", check.name);
        }
        if let Some(left_out) = &check.left_out {
            sayln!("unseen {}: {left_out}", check.name);
        }
    }
    sayln!("the events that were rated again were chosen with --seed {}", report.seed);
    sayln!("{}", report.verdict().text());
}
