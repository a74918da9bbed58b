//! `weir`: every role of Weir, all of them in one process, and the tools around them.
//!
//! Reading order: the commands below, [`commands::up`], [`process`] (what a role stands on),
//! [`roles`].

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, setrlimit},
};

mod bench;
mod catalog_diff;
mod catalog_file;
mod catalog_lines;
mod client;
mod commands;
mod config;
mod demo;
mod doctor;
mod endpoints;
mod folder;
mod lag;
mod local_log;
mod measures;
mod output;
mod process;
mod replay;
mod roles;
mod startup;
mod store;
mod verify;
mod web;

/// Many small short-lived buffers on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Usage metering, rating and a double-entry ledger.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, with a database and an archive of its own where none is named
    Up(commands::up::Arguments),
    /// Run the role that accepts events
    Ingest(commands::role::Arguments),
    /// Run the role that prices events
    Rater(commands::role::Arguments),
    /// Run the role that posts to the ledger
    LedgerWriter(commands::role::Arguments),
    /// Run the role that fills the archive
    Archiver(commands::role::Arguments),
    /// Run the role that answers questions
    Api(commands::role::Arguments),
    /// Create or update roles, tables, topics and the archive's schema
    Migrate(commands::migrate::Arguments),
    /// Turn the rows of a CSV file into events and send them
    Replay(commands::replay::Arguments),
    /// Measure a fresh system under load, and check its books
    Bench(commands::bench::Arguments),
    /// Show what was accepted and what became of it, per partition
    Status(commands::status::Arguments),
    /// Check settings, servers, log, keys and lag, and say what is wrong and what to do
    Doctor(commands::doctor::Arguments),
    /// Prove the books from their audit chain and the archive from the books; changes nothing
    Verify(commands::verify::Arguments),
    /// Print what to try with the `weir up` that runs
    Hints(commands::hints::Arguments),
    /// Make, list and revoke API keys, directly in the database
    Keys(commands::keys::Arguments),
    /// Make, list, disable and enable tenants, directly in the database
    Tenants(commands::tenants::Arguments),
    /// Show events that could not be rated, and send them again
    Rejected(commands::rejected::Arguments),
    /// Bring catalogs and providers' prices in and out
    Catalog(commands::catalog::Arguments),
    /// Print the commented default configuration
    Config,
    /// Run the ClickHouse engine (started by `weir up`)
    #[command(hide = true)]
    ClickhouseEngine(commands::clickhouse_engine::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = forbid_core_dumps() {
        output::fault(&error);
        return ExitCode::FAILURE;
    }
    // Buffers come and go by the thousand: with huge pages the kernel clears 2 MiB where kilobytes are
    // written, which was a tenth of all processor time. Where it cannot be said, they stay.
    // The engine, which inherits it, is better off with them.
    let engine = matches!(arguments.command, Command::ClickhouseEngine(_));
    let _ = nix::sys::prctl::set_thp_disable(!engine);
    // Fails only where it was done before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match arguments.command {
        Command::Up(arguments) => commands::up::run(arguments),
        Command::Ingest(arguments) => commands::role::run(roles::Role::Ingest, arguments),
        Command::Rater(arguments) => commands::role::run(roles::Role::Rater, arguments),
        Command::LedgerWriter(arguments) => {
            commands::role::run(roles::Role::LedgerWriter, arguments)
        }
        Command::Archiver(arguments) => commands::role::run(roles::Role::Archiver, arguments),
        Command::Api(arguments) => commands::role::run(roles::Role::Api, arguments),
        Command::Migrate(arguments) => commands::migrate::run(arguments),
        Command::Replay(arguments) => commands::replay::run(arguments),
        Command::Bench(arguments) => commands::bench::run(arguments),
        Command::Status(arguments) => commands::status::run(arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments),
        Command::Verify(arguments) => commands::verify::run(arguments),
        Command::Hints(arguments) => commands::hints::run(arguments),
        Command::Keys(arguments) => commands::keys::run(arguments),
        Command::Tenants(arguments) => commands::tenants::run(arguments),
        Command::Rejected(arguments) => commands::rejected::run(arguments),
        Command::Catalog(arguments) => commands::catalog::run(arguments),
        Command::Config => commands::config::run(),
        Command::ClickhouseEngine(arguments) => commands::clickhouse_engine::run(arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::fault(&error);
            ExitCode::FAILURE
        }
    }
}

/// INV-23: a core dump would hold every secret that is in memory. The limit goes on to whatever is
/// started from here; a program that takes dumps from the kernel may not keep to it, so the process is
/// not to be dumped at all.
fn forbid_core_dumps() -> anyhow::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core dumps")?;
    set_dumpable(false).context("cannot forbid core dumps")
}
