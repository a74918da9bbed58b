//! `weir clickhouse-engine`: the child process in which `weir up` runs the ClickHouse engine.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use runtime::clickhouse::{EngineOptions, engine};

/// What the supervisor gives.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Path of libchdb.so
    #[arg(long)]
    library: PathBuf,
    /// The engine's data folder
    #[arg(long)]
    data: PathBuf,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// How many statements run at once
    #[arg(long)]
    connections: usize,
}

/// Runs the engine until it is told to stop.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { library, data, listen, connections } = arguments;
    engine::serve(EngineOptions { library, data, listen, connections })?;
    Ok(ExitCode::SUCCESS)
}
