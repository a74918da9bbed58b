//! `weir ingest`, `weir rater`, `weir ledger-writer`, `weir archiver`, `weir api`: one role on Kafka.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use runtime::{
    context::DRAIN,
    http::{ServeOptions, bind, serve},
    shutdown::Shutdown,
    task::Tasks,
};

use crate::{config::Config, output::sayln, process, roles::Role, web};

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
    process::telemetry(&config.telemetry)?;
    process::block_on(role.name(), serve_role(role, config))
}

async fn serve_role(role: Role, config: Config) -> Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let listener = bind(config.http.listen).await?;
    let Some(named) = process::kafka_log(&config.log, &shutdown).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    if !process::check_installation(&config, role, &named.name, &shutdown).await? {
        return Ok(ExitCode::SUCCESS);
    }
    let context = process::context(&config, named.log, shutdown.clone());
    let mut tasks = Tasks::new(&shutdown);
    let router = role.start(&config, &context, &mut tasks).await?;
    let router = web::router(router, &context);
    sayln!("{} listens on http://{}", role.name(), listener.local_addr()?);
    let options = ServeOptions { drain: DRAIN, ..ServeOptions::default() };
    let serving = shutdown.clone();
    tasks.spawn("http", async move { Ok(serve(listener, router, serving, options).await?) });
    let outcome = tasks.wait(DRAIN).await;
    outcome?;
    Ok(ExitCode::SUCCESS)
}
