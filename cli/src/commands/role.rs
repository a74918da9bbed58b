//! `weir ingest`, `weir rater`, `weir ledger-writer`, `weir archiver`, `weir api`: one role on Kafka.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use runtime::{context::DRAIN, http::bind, shutdown::Shutdown, task::Tasks};

use crate::{config::Config, measures, output::sayln, process, roles::Role, startup::Startup, web};

/// What a role is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration; what it does not say is as in `weir config`
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
}

/// Runs the role until it is told to stop.
pub fn run(role: Role, arguments: Arguments) -> Result<ExitCode> {
    let config = Config::read(arguments.config.as_deref())?;
    config.check(&[role])?;
    config.check_servers()?;
    process::telemetry(&config.telemetry, role.service())?;
    process::block_on(role.name(), serve_role(role, config))
}

async fn serve_role(role: Role, config: Config) -> Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let listener = bind(config.http.listen).await?;
    sayln!("{} listens on http://{}", role.name(), listener.local_addr()?);
    let mut tasks = Tasks::new(&shutdown);
    let startup = Startup::begin(listener, &config.http, &shutdown, &mut tasks);
    let started = start(role, &config, &startup, &shutdown, &mut tasks).await;
    if started.is_err() {
        shutdown.trigger();
    }
    let ended = tasks.wait(DRAIN).await;
    started?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the servers, then starts the role; returns early when a stop was asked for.
async fn start(
    role: Role,
    config: &Config,
    startup: &Startup,
    shutdown: &Shutdown,
    tasks: &mut Tasks,
) -> Result<()> {
    let log = startup.wait_for("kafka", async || process::kafka_log(&config.log).await);
    let database = startup
        .wait_for("postgres", async || process::sign_in(&config.postgres.url).await.map(drop));
    let (Some(named), Some(())) = tokio::try_join!(log, database)? else { return Ok(()) };
    let check = async || process::check_installation(config, role, &named).await;
    let Some(()) = startup.wait_for("postgres", check).await? else { return Ok(()) };
    let readiness = startup.readiness.clone();
    let context = process::context(config, named.log, readiness, shutdown.clone());
    let router = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        router = role.start(config, &context, tasks) => router?,
    };
    if role == Role::Api {
        measures::keep(None, &context, tasks)?;
    }
    startup.finish(web::router(router, &context, &config.http));
    Ok(())
}
