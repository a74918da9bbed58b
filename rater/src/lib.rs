#![doc = include_str!("../README.md")]

pub mod batch;
pub mod beginning;
pub mod catalogs;
pub mod config;
pub mod corrections;
pub mod filter;
pub mod late;
pub mod metrics;
mod names;
pub mod partition;
pub mod queue;
pub mod ranges;
mod rebuild;
pub mod seen;
mod start;
pub mod state;
mod store;
mod sums;
pub mod table;
pub mod totals;
mod upkeep;
pub mod verdict;

use std::sync::Arc;

use runtime::{
    context::Context,
    ownership::{Ownership, OwnershipError},
    postgres::{PostgresError, connect},
    telemetry::TelemetryError,
};

use crate::{
    config::Config,
    metrics::RaterMetrics,
    partition::{Shared, USAGE},
    ranges::Folder,
    store::catalog::CatalogStore,
};

/// Threads are called `rater-<partition>`.
const OWNERSHIP: Ownership = Ownership { role: "rater", threads: "rater", topic: USAGE };

/// Why the rater could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Postgres refuses us.
    #[error("the rater cannot use Postgres: {0}")]
    Postgres(#[from] PostgresError),
    /// A metric could not be registered.
    #[error("the rater cannot register its metrics: {0}")]
    Metrics(#[from] TelemetryError),
    /// The log refuses us, or another task failed.
    #[error("the rater: {0}")]
    Ownership(#[from] OwnershipError),
}

/// Runs the rater until shutdown: owns its share of the partitions, one thread each.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let connect = |role| connect(&context.postgres, Some(role), "weir-rater");
    let passing = PostgresError::is_passing;
    let reader = OWNERSHIP.until_available(&context, passing, || connect("weir_reader")).await?;
    let Some(pool) = reader else { return Ok(()) };
    let lane = OWNERSHIP.until_available(&context, passing, || connect("weir_lane")).await?;
    let Some(lane_pool) = lane else { return Ok(()) };
    let shared = Shared {
        folder: Folder::new(&config.directory),
        config,
        log: Arc::clone(&context.log),
        catalogs: CatalogStore::new(pool.clone()),
        pool,
        lane_pool,
        clickhouse: context.clickhouse.clone(),
        metrics: RaterMetrics::new(&context.metrics)?,
        readiness: context.readiness.clone(),
        handle: tokio::runtime::Handle::current(),
        shutdown: context.shutdown.clone(),
    };
    Ok(OWNERSHIP.run(&context, move |share| partition::own(&shared, share)).await?)
}
