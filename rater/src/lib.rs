#![doc = include_str!("../README.md")]

pub mod batch;
pub mod catalogs;
pub mod config;
pub mod filter;
pub mod late;
pub mod metrics;
pub mod partition;
pub mod ranges;
mod rebuild;
pub mod seen;
pub mod state;
mod store;
pub mod table;
pub mod verdict;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use runtime::{
    context::{Context, DRAIN},
    http::State as Ready,
    log::{LogError, Membership},
    postgres::{Pool, PostgresError, connect},
    shutdown::{Failure, Shutdown},
    task::{Task, spawn_thread},
    telemetry::TelemetryError,
};

use crate::{
    config::Config,
    metrics::RaterMetrics,
    partition::{Shared, USAGE},
    ranges::Folder,
    store::catalog::CatalogStore,
};

const GROUP: &str = "rater";
const RETRY: Duration = Duration::from_secs(1);

/// Why the rater could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Postgres refuses us.
    #[error("the rater cannot use Postgres: {0}")]
    Postgres(#[from] PostgresError),
    /// The log refuses us.
    #[error("the rater cannot use the log: {0}")]
    Log(#[from] LogError),
    /// A metric could not be registered.
    #[error("the rater cannot register its metrics: {0}")]
    Metrics(#[from] TelemetryError),
    /// A thread could not be started.
    #[error("the rater cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A thread failed.
    #[error("{0}")]
    Failed(Failure),
}

/// Runs the rater until shutdown: owns its share of the partitions, one thread each.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let Some(pool) = connected(&context, "weir_reader").await? else { return Ok(()) };
    let Some(lane_pool) = connected(&context, "weir_lane").await? else { return Ok(()) };
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
    let Some(membership) = joined(&context).await? else { return Ok(()) };
    let mut owned = membership.owned();
    let mut running: HashMap<u32, Running> = HashMap::new();
    loop {
        let wanted = owned.borrow_and_update().clone();
        running = follow(&shared, &context.shutdown, running, &wanted).await?;
        context.readiness.set("rater", Ready::Ready);
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            changed = owned.changed() => if changed.is_err() { break },
        }
    }
    follow(&shared, &context.shutdown, running, &[]).await?;
    drop(membership);
    context.shutdown.failure().map_or(Ok(()), |failure| Err(RunError::Failed(failure)))
}

struct Running {
    stop: Arc<AtomicBool>,
    task: Task,
}

/// Ends the threads of partitions that are not wanted and starts those that are missing.
async fn follow(
    shared: &Shared,
    shutdown: &Shutdown,
    mut running: HashMap<u32, Running>,
    wanted: &[u32],
) -> Result<HashMap<u32, Running>, RunError> {
    let (stay, leave): (HashMap<_, _>, HashMap<_, _>) =
        running.drain().partition(|(partition, _)| wanted.contains(partition));
    running = stay;
    for one in leave.values() {
        one.stop.store(true, Ordering::Relaxed);
    }
    for (partition, one) in leave {
        if tokio::time::timeout(DRAIN, one.task.ended()).await.is_err() {
            tracing::warn!(partition, "a rater thread did not end in time");
        }
    }
    for partition in wanted {
        if running.contains_key(partition) {
            continue;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (body_shared, body_stop, number) = (shared.clone(), Arc::clone(&stop), *partition);
        let task = spawn_thread(format!("rater-{number}"), shutdown, move || {
            Ok(partition::own(&body_shared, number, &body_stop)?)
        })?;
        running.insert(number, Running { stop, task });
    }
    Ok(running)
}

/// A pool, however long Postgres takes; `None` after a stop was asked for.
async fn connected(context: &Context, role: &str) -> Result<Option<Pool>, RunError> {
    loop {
        match connect(&context.postgres, Some(role), "weir-rater").await {
            Ok(pool) => return Ok(Some(pool)),
            Err(PostgresError::Unavailable(reason)) => {
                context.readiness.set("rater", Ready::NotReady(reason));
                if wait(&context.shutdown).await {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The membership, however long the log takes; `None` after a stop was asked for.
async fn joined(context: &Context) -> Result<Option<Box<dyn Membership>>, RunError> {
    loop {
        match context.log.join(USAGE, GROUP) {
            Ok(membership) => return Ok(Some(membership)),
            Err(LogError::Unavailable(reason)) => {
                context.readiness.set("rater", Ready::NotReady(reason));
                if wait(&context.shutdown).await {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits a moment; true if a stop was asked for.
async fn wait(shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => true,
        () = tokio::time::sleep(RETRY) => false,
    }
}
