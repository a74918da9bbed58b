#![doc = include_str!("../README.md")]

mod borders;
pub mod config;
mod error;
mod group;
mod insert;
pub mod metrics;
mod pace;
mod partition;

use runtime::{
    context::Context,
    ownership::{Ownership, OwnershipError},
    postgres::{PostgresError, connect},
    telemetry::TelemetryError,
};

pub use crate::{config::Config, error::ArchiveError, group::RATED};
use crate::{
    metrics::ArchiverMetrics,
    pace::Pace,
    partition::{Shared, own},
};

/// Threads are called `archive-N`.
const OWNERSHIP: Ownership = Ownership { role: "archiver", threads: "archive", topic: RATED };

/// Why the archiver could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Postgres refuses us.
    #[error("the archiver cannot use Postgres: {0}")]
    Postgres(#[from] PostgresError),
    /// A metric could not be registered.
    #[error("the archiver cannot register its metrics: {0}")]
    Metrics(#[from] TelemetryError),
    /// The log refuses us, or a partition's thread failed.
    #[error("the archiver: {0}")]
    Ownership(#[from] OwnershipError),
}

/// Runs the archiver until shutdown: owns its share of the partitions, one thread each.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let metrics = ArchiverMetrics::new(&context.metrics)?;
    // What Postgres refuses counts too: a person may mend it, and only the archive waits.
    let connect = || connect(&context.postgres, Some("weir_archiver"), "weir-archiver");
    let pool = OWNERSHIP.until_available(&context, |_| true, connect).await?;
    let Some(pool) = pool else { return Ok(()) };
    let shared = Shared {
        pace: Pace::new(config.groups_per_second),
        config,
        log: context.log.clone(),
        pool,
        clickhouse: context.clickhouse.clone(),
        metrics,
        readiness: context.readiness.clone(),
        handle: tokio::runtime::Handle::current(),
    };
    Ok(OWNERSHIP.run(&context, move |partition, stop| own(&shared, partition, stop)).await?)
}
