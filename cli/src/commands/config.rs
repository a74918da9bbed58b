//! `weir config`: the default configuration, which is its documentation.

use std::process::ExitCode;

use anyhow::Result;

use crate::{config::DEFAULT, output::sayln};

/// Prints it.
pub fn run() -> Result<ExitCode> {
    sayln!("{}", DEFAULT.trim_end());
    Ok(ExitCode::SUCCESS)
}
