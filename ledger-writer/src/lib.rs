//! The ledger-writer: accepted batches of `[rated]` become postings in Postgres, one transaction
//! per partition and window. See `README.md`.

pub mod config;
mod metrics;
mod partition;
pub mod window;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use ledger::install::{self, InstallError};
use runtime::{
    context::{Context, DRAIN},
    http::State,
    log::{LogError, Membership, Topic},
    postgres::{self, Pool, PostgresError},
    shutdown::{Failure, Shutdown},
    task::{self, Task, TaskError, Tasks},
    telemetry::TelemetryError,
};
use tokio::{runtime::Handle, sync::watch};

pub use config::Config;
pub use metrics::Metrics;

/// The topic of rated batches.
pub const RATED: Topic = Topic("rated");
/// The group that shares its partitions.
pub const GROUP: &str = "ledger-writer";
/// The Postgres role that posts.
const ROLE: &str = "weir_writer";
/// The check of the role as a whole; those of partitions are `ledger-writer.<partition>`.
const CHECK: &str = "ledger-writer";
/// Pause before what was unavailable is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Why the ledger-writer ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("ledger_writer: {0}")]
    Config(&'static str),
    /// The database does not fit the configuration.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The log and the database disagree about the number of partitions.
    #[error("the log has {log} partitions and the database was set up for {database}")]
    Partitions {
        /// What the log has.
        log: u32,
        /// What the database has.
        database: u32,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Postgres, in a way that waiting does not mend.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// A partition failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Runs until `context.shutdown`: posts what it has read and ends.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let key = config.key().ok_or(RunError::Config("audit_key is not a key"))?;
    let metrics = Metrics::new(&context.metrics)?;
    context.readiness.set(CHECK, State::NotReady("starting".to_owned()));

    let Some(pool) = connect(&context, &key.id()).await? else { return Ok(()) };
    let Some(membership) = join(&context).await? else { return Ok(()) };
    let shared = Arc::new(partition::Shared {
        log: Arc::clone(&context.log),
        pool,
        key,
        config,
        metrics,
        readiness: context.readiness.clone(),
        handle: Handle::current(),
    });
    context.readiness.set(CHECK, State::Ready);
    own(&context.shutdown, &shared, membership.owned()).await?;
    drop(membership);
    context.readiness.remove(CHECK);
    Ok(())
}

/// Opens the pool and checks that the database is ours; waits while Postgres is away.
async fn connect(context: &Context, audit_key_id: &str) -> Result<Option<Pool>, RunError> {
    while !context.shutdown.is_cancelled() {
        match check(context, audit_key_id).await {
            Ok(pool) => return Ok(Some(pool)),
            Err(RunError::Postgres(error) | RunError::Install(InstallError::Postgres(error)))
                if is_passing(&error) =>
            {
                tracing::warn!(%error, "postgres cannot be used yet; trying again");
                context.readiness.set(CHECK, State::NotReady(error.to_string()));
                pause(&context.shutdown).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn check(context: &Context, audit_key_id: &str) -> Result<Pool, RunError> {
    let pool = postgres::connect(&context.postgres, Some(ROLE), "weir-ledger-writer").await?;
    let mut connection = pool.acquire().await.map_err(PostgresError::from)?;
    let installation = install::read(&mut connection).await?;
    installation.check_audit_key(audit_key_id)?;
    let (log, database) = (context.log.partitions(), installation.partitions);
    if log != database {
        return Err(RunError::Partitions { log, database });
    }
    Ok(pool)
}

async fn join(context: &Context) -> Result<Option<Box<dyn Membership>>, RunError> {
    while !context.shutdown.is_cancelled() {
        match context.log.join(RATED, GROUP) {
            Ok(membership) => return Ok(Some(membership)),
            Err(LogError::Unavailable(reason)) => {
                tracing::warn!(reason, "the log cannot be joined yet; trying again");
                context.readiness.set(CHECK, State::NotReady(reason));
                pause(&context.shutdown).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// One thread per owned partition, started and stopped as ownership changes.
async fn own(
    shutdown: &Shutdown,
    shared: &Arc<partition::Shared>,
    mut owned: watch::Receiver<Vec<u32>>,
) -> Result<(), RunError> {
    let mut running: BTreeMap<u32, (Shutdown, Task)> = BTreeMap::new();
    let mut ending = Vec::new();
    while !shutdown.is_cancelled() {
        let wanted = owned.borrow_and_update().clone();
        let lost: Vec<u32> =
            running.keys().copied().filter(|partition| !wanted.contains(partition)).collect();
        for partition in lost {
            if let Some((stop, task)) = running.remove(&partition) {
                stop.trigger();
                ending.push(task);
            }
        }
        for partition in wanted {
            if let Entry::Vacant(free) = running.entry(partition) {
                free.insert(start(shutdown, shared, partition)?);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = owned.changed() => if changed.is_err() {
                return Err(LogError::Broken("the membership of the log ended".to_owned()).into());
            }
        }
    }
    let mut tasks = Tasks::new(shutdown);
    let stopped = running.into_values().map(|(stop, task)| {
        stop.trigger();
        task
    });
    stopped.chain(ending).for_each(|task| tasks.add(task));
    Ok(tasks.drain(DRAIN).await?)
}

fn start(
    shutdown: &Shutdown,
    shared: &Arc<partition::Shared>,
    partition: u32,
) -> Result<(Shutdown, Task), RunError> {
    let stop = shutdown.child();
    let (shared, stopped) = (Arc::clone(shared), stop.clone());
    let task = task::spawn_thread(format!("ledger-{partition}"), shutdown, move || {
        partition::run(&shared, partition, &stopped).map_err(TaskError::from)
    })?;
    Ok((stop, task))
}

async fn pause(shutdown: &Shutdown) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(RETRY) => {}
    }
}

/// Whether waiting can mend it.
fn is_passing(error: &PostgresError) -> bool {
    matches!(
        error,
        PostgresError::Unavailable(_)
            | PostgresError::OutcomeUnknown(_)
            | PostgresError::Contended(_)
    )
}
