#![doc = include_str!("../README.md")]

pub mod borders;
pub mod config;
mod error;
pub mod flush;
pub mod group;
mod heads;
pub mod insert;
pub mod metrics;
pub mod native;
mod partition;

use std::sync::Arc;

use runtime::{
    context::Context,
    ownership::{Ownership, OwnershipError},
    postgres::{PostgresError, connect},
    telemetry::TelemetryError,
};

pub use crate::{config::Config, error::ArchiveError, group::RATED};
use crate::{
    flush::{Flusher, Ticks},
    metrics::ArchiverMetrics,
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
    /// The log refuses us, or another task failed.
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
    let (heads_pool, heads_metrics, every) = (pool.clone(), metrics.clone(), config.heads_every());
    let ticks = Ticks::new(config.group_wait());
    let (own_pool, own_metrics) = (pool.clone(), metrics.clone());
    let flusher = Flusher::new(own_pool, context.clickhouse.clone(), own_metrics, ticks.clone());
    let shared = Shared {
        ticks,
        flusher: Arc::new(flusher),
        config,
        log: context.log.clone(),
        pool,
        clickhouse: context.clickhouse.clone(),
        metrics,
        readiness: context.readiness.clone(),
        handle: tokio::runtime::Handle::current(),
    };
    let heads = heads::copy(&heads_pool, &context.clickhouse, every, &heads_metrics);
    tokio::select! {
        owned = OWNERSHIP.run(&context, move |share| own(&shared, share)) => Ok(owned?),
        never = heads => match never {},
    }
}
