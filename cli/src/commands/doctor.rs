//! `weir doctor`: checks settings, servers, log, keys and lag, and says what to do.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    doctor::{self, Looked, Report, State},
    output::sayln,
    process,
};

/// What `weir doctor` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object: `healthy` and `findings`
    #[arg(long)]
    json: bool,
    /// Configuration; what it does not say is as in `weir config`
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of a `weir up`, used for what is not configured
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
    /// Address of a process, such as http://rater-1:8080, whose /ready is asked; may be repeated
    #[arg(long, value_name = "URL")]
    process: Vec<String>,
    /// Warn when something has waited longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    lag: i64,
}

/// Checks and prints; exits with 1 if anything is wrong.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let looked = Looked {
        config: arguments.config,
        data: arguments.data,
        processes: arguments.process,
        lag_s: arguments.lag,
    };
    let report = process::block_on("doctor", async { Ok(doctor::examine(looked).await) })?;
    if arguments.json {
        sayln!("{}", serde_json::to_string_pretty(&report.document())?);
    } else {
        print(&report);
    }
    Ok(if report.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    for finding in &report.findings {
        let state = match finding.state {
            State::Ok => "ok     ",
            State::Warning => "warning",
            State::Wrong => "WRONG  ",
        };
        let action = if finding.action.is_empty() { "" } else { "; " };
        sayln!("{state}  {}: {}{action}{}", finding.check, finding.found, finding.action);
    }
}
