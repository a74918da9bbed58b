//! The ledger-writer: accepted batches of `[rated]` become postings in Postgres, one transaction
//! per partition and window. See `README.md`.

pub mod config;
mod metrics;
mod partition;
pub mod window;

use ledger::install::{self, InstallError};
use runtime::{
    context::Context,
    log::Topic,
    ownership::{Ownership, OwnershipError, Share},
    postgres::{self, Pool, PostgresError},
    task::TaskError,
    telemetry::TelemetryError,
};
use tokio::runtime::Handle;

pub use config::Config;
pub use metrics::Metrics;

/// The topic of rated batches.
pub const RATED: Topic = Topic("rated");
/// The topic whose end says up to where usage may name a hold or a grant that ends.
const USAGE: Topic = Topic("usage");
/// The Postgres role that posts.
const ROLE: &str = "weir_writer";
/// Threads are called `ledger-<partition>`.
const OWNERSHIP: Ownership = Ownership { role: "ledger-writer", threads: "ledger", topic: RATED };

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
    /// Postgres, in a way that waiting does not mend.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The log refuses us, or another task failed.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
}

/// Runs until `context.shutdown`: posts what it has read and ends.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let key = config.key().ok_or(RunError::Config("audit_key is not a key"))?;
    let metrics = Metrics::new(&context.metrics)?;

    let key_id = key.id();
    let connect = || connect(&context, &key_id);
    let pool = OWNERSHIP.until_available(&context, is_passing, connect).await?;
    let Some(pool) = pool else { return Ok(()) };
    let shared = partition::Shared {
        log: context.log.clone(),
        pool,
        key,
        config,
        metrics,
        readiness: context.readiness.clone(),
        handle: Handle::current(),
    };
    let body = move |share: &Share<'_>| partition::run(&shared, share).map_err(TaskError::from);
    Ok(OWNERSHIP.run(&context, body).await?)
}

/// Opens the pool and checks that the database is ours.
async fn connect(context: &Context, audit_key_id: &str) -> Result<Pool, RunError> {
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

/// Whether waiting can mend it.
fn is_passing(error: &RunError) -> bool {
    match error {
        RunError::Postgres(error) | RunError::Install(InstallError::Postgres(error)) => {
            error.is_passing()
        }
        _ => false,
    }
}
