#![doc = include_str!("../README.md")]

mod borders;
pub mod config;
mod error;
mod group;
mod insert;
pub mod metrics;
mod pace;
mod partition;

use std::{collections::HashMap, time::Duration};

use runtime::{
    context::{Context, DRAIN},
    http::State,
    log::{LogError, Membership},
    postgres::{Pool, connect},
    shutdown::{Failure, Shutdown},
    task::{Task, spawn_thread},
    telemetry::TelemetryError,
};

pub use crate::{config::Config, error::ArchiveError, group::RATED};
use crate::{
    metrics::ArchiverMetrics,
    pace::Pace,
    partition::{Shared, check_name, own},
};

/// The group whose members share the partitions.
const GROUP: &str = "archiver";
/// The wait before the next attempt to connect.
const RETRY: Duration = Duration::from_secs(1);

/// Why the archiver could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log refuses us.
    #[error("the archiver cannot use the log: {0}")]
    Log(#[from] LogError),
    /// A metric could not be registered.
    #[error("the archiver cannot register its metrics: {0}")]
    Metrics(#[from] TelemetryError),
    /// A thread could not be started.
    #[error("the archiver cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A partition's thread failed.
    #[error("{0}")]
    Failed(Failure),
}

/// Runs the archiver until shutdown: owns its share of the partitions, one thread each.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let metrics = ArchiverMetrics::new(&context.metrics)?;
    let Some(pool) = connected(&context).await else { return Ok(()) };
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
    let Some(membership) = joined(&context).await? else { return Ok(()) };
    context.readiness.set("archiver", State::Ready);
    let mut owned = membership.owned();
    let mut running = HashMap::new();
    loop {
        let wanted = owned.borrow_and_update().clone();
        follow(&shared, &context.shutdown, &mut running, &wanted).await?;
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            changed = owned.changed() => if changed.is_err() { break },
        }
    }
    follow(&shared, &context.shutdown, &mut running, &[]).await?;
    context.shutdown.failure().map_or(Ok(()), |failure| Err(RunError::Failed(failure)))
}

/// The thread of an owned partition.
struct Running {
    stop: Shutdown,
    task: Task,
}

/// Ends the threads of partitions that are not wanted and starts those that are missing.
async fn follow(
    shared: &Shared,
    shutdown: &Shutdown,
    running: &mut HashMap<u32, Running>,
    wanted: &[u32],
) -> Result<(), RunError> {
    let leaving: Vec<(u32, Running)> =
        running.extract_if(|partition, _| !wanted.contains(partition)).collect();
    for (_, one) in &leaving {
        one.stop.trigger();
    }
    for (partition, one) in leaving {
        if tokio::time::timeout(DRAIN, one.task.ended()).await.is_err() {
            tracing::warn!(partition, "a thread of the archiver did not end in time");
        }
        if shutdown.failure().is_none() {
            shared.readiness.remove(&check_name(partition));
        }
    }
    for partition in wanted {
        if !running.contains_key(partition) {
            running.insert(*partition, start(shared, shutdown, *partition)?);
        }
    }
    Ok(())
}

fn start(shared: &Shared, shutdown: &Shutdown, partition: u32) -> Result<Running, RunError> {
    let stop = shutdown.child();
    let (shared, watched) = (shared.clone(), stop.clone());
    shared.readiness.set(check_name(partition), State::NotReady("starting".to_owned()));
    let task = spawn_thread(format!("archive-{partition}"), shutdown, move || {
        own(&shared, partition, &watched)
    })?;
    Ok(Running { stop, task })
}

/// A pool, however long Postgres takes; `None` after a stop was asked for.
async fn connected(context: &Context) -> Option<Pool> {
    loop {
        match connect(&context.postgres, Some("weir_archiver"), "weir-archiver").await {
            Ok(pool) => return Some(pool),
            Err(error) => context.readiness.set("archiver", State::NotReady(error.to_string())),
        }
        if stopped_within(&context.shutdown, RETRY).await {
            return None;
        }
    }
}

/// The membership, however long the log takes; `None` after a stop was asked for.
async fn joined(context: &Context) -> Result<Option<Box<dyn Membership>>, RunError> {
    loop {
        match context.log.join(RATED, GROUP) {
            Ok(membership) => return Ok(Some(membership)),
            Err(LogError::Unavailable(reason)) => {
                context.readiness.set("archiver", State::NotReady(reason))
            }
            Err(error) => return Err(error.into()),
        }
        if stopped_within(&context.shutdown, RETRY).await {
            return Ok(None);
        }
    }
}

/// Waits a moment; true if a stop was asked for.
async fn stopped_within(shutdown: &Shutdown, time: Duration) -> bool {
    tokio::time::timeout(time, shutdown.cancelled()).await.is_ok()
}
