//! `weir migrate`: prepares Postgres, ClickHouse and Kafka for the roles. Safe to run again.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use ingest::doors::DOORS;
use runtime::{config::LogConfig, log::kafka::create_inbox, task};

use crate::{
    config::Config,
    output::sayln,
    process::{self, ArchiveArguments},
    roles::Role,
};

/// What `weir migrate` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration; what it does not say is as in `weir config`
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Copies of every partition, for topics that do not exist yet
    #[arg(long, default_value_t = 3)]
    replication: u32,
    /// Make the door of this tenant, a topic that its tools may write themselves; may be repeated
    #[arg(long = "door", value_name = "TENANT")]
    doors: Vec<String>,
    #[command(flatten)]
    archive: ArchiveArguments,
}

/// Prepares everything that is configured.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = Config::read(arguments.config.as_deref())?;
    config.check(&[Role::LedgerWriter])?;
    config.check_servers()?;
    process::telemetry(&config.telemetry, "weir-migrate")?;
    process::block_on("migrate", migrate(config, arguments))
}

async fn migrate(config: Config, arguments: Arguments) -> Result<ExitCode> {
    process::make_topics(&config.log, arguments.replication).await.context("Kafka")?;
    let partitions = process::kafka_partitions(&config.log);
    sayln!("Kafka: topics are there ({partitions} partitions)");
    let log_name = process::kafka_name(&config.log).await.context("Kafka")?;
    process::prepare_postgres(&config, &log_name, partitions).await.context("Postgres")?;
    sayln!("Postgres: tables are up to date");
    process::prepare_clickhouse(&config, &arguments.archive).await.context("ClickHouse")?;
    sayln!("ClickHouse: tables are up to date");
    for tenant in &arguments.doors {
        let door = make_door(&config.log, tenant, arguments.replication).await.context("Kafka")?;
        sayln!("Kafka: the door {door} is there");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the door of a tenant if it is missing; answers its topic.
async fn make_door(config: &LogConfig, tenant: &str, replication: u32) -> Result<String> {
    let (options, partitions) = (process::kafka_options(config), process::kafka_partitions(config));
    let tenant = tenant.to_owned();
    let make = move || create_inbox(&options, (DOORS, &tenant), partitions, replication);
    Ok(task::blocking(make).await??)
}
