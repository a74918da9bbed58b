#![doc = include_str!("../README.md")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use runtime::{
    context::{Context, DRAIN},
    http::{Attempts, State as Ready},
    keys::{MasterKeyError, MasterKeys},
    log::{SharedLog, kafka::KafkaOptions},
    postgres::{self, Pool, PostgresError},
    shutdown::{Failure, Shutdown},
    task::{self, TaskError, Tasks},
    telemetry::TelemetryError,
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    admit::Door, block::Blocks, budget::Budget, metrics::Metrics, overload::Overload,
    quotas::Quotas, store::StoreError,
};

pub mod accept;
pub mod admit;
pub mod answer;
pub mod batch;
pub mod binary;
pub mod block;
pub mod body;
pub mod budget;
pub mod collect;
pub mod config;
pub mod document;
pub mod doors;
pub mod forms;
pub mod lago;
pub mod limits;
pub mod metrics;
pub mod overload;
pub mod quotas;
mod routes;
pub mod scan;
pub mod shape;
pub mod store;
pub mod usage;
mod whole;

pub use config::Config;

/// Name of the check that `/ready` shows.
const READINESS: &str = "ingest";
/// Longest pause between attempts to reach Postgres at the start.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A load that takes longer is given up and tried again.
const LOAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How often open requests are counted while stopping.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// What is left of the drain for the tasks after the last request has been answered.
const TASKS_DRAIN: Duration = Duration::from_secs(1);

/// Why ingest cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A metric is declared twice.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// What Postgres holds cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The setting is no key.
    #[error("WEIR_MASTER_KEY {0}")]
    MasterKey(#[from] MasterKeyError),
    /// The log and the installation do not belong together.
    #[error(
        "the log has {log} partitions and the installation {installation}; connect the log that belongs to this database"
    )]
    Partitions {
        /// Of the log.
        log: u32,
        /// Of the installation.
        installation: u32,
    },
    /// A stop was asked for before Postgres could be reached.
    #[error("stopped before Postgres could be reached")]
    Stopped,
}

/// Why ingest ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A thread could not be started.
    #[error("starting a thread failed: {0}")]
    Thread(#[from] std::io::Error),
}

/// What handlers share.
#[derive(Debug)]
pub(crate) struct Ingest {
    door: Door,
    budget: Budget,
    overload: Arc<Overload>,
    blocks: Arc<Blocks>,
    answer_timeout: Duration,
    metrics: Metrics,
    requests: AtomicUsize,
}

/// Counts as an open request until dropped.
pub(crate) struct OpenRequest<'a>(&'a Ingest);

impl Ingest {
    pub(crate) fn open_request(&self) -> OpenRequest<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self)
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ingest, ready to answer. [`Service::run`] must run beside the server of [`Service::router`].
pub struct Service {
    ingest: Arc<Ingest>,
    config: Config,
    context: Context,
    pool: Pool,
    master_keys: Option<MasterKeys>,
    doors: Option<KafkaOptions>,
}

impl Service {
    /// Loads what it needs, waiting for Postgres as long as it takes.
    pub async fn open(config: Config, context: &Context) -> Result<Service, OpenError> {
        let metrics = Metrics::new(&context.metrics)?;
        context.readiness.set(READINESS, Ready::NotReady("API keys are not loaded yet".into()));
        let master_keys = MasterKeys::parse(&config.master_key)?;
        let quotas = Quotas::default();
        let (pool, known) = first_load(context, master_keys.as_ref(), &quotas).await?;
        let partitions = context.log.partitions();
        if known.partitions != partitions {
            return Err(OpenError::Partitions { log: partitions, installation: known.partitions });
        }
        let attempts = Attempts::new(
            config.failed_attempts_max,
            Duration::from_millis(config.failed_attempt_regain_ms),
        );
        let ingest = Ingest {
            door: Door::new(known, config.lease(), attempts, quotas, &metrics),
            budget: Budget::new(config.memory_bytes, &metrics),
            overload: Overload::new(
                config.memory_bytes,
                metrics.waiting_limit.clone(),
                std::time::Instant::now(),
            ),
            blocks: Arc::new(Blocks::new(
                partitions,
                config.block_bytes,
                config.in_flight,
                &metrics,
            )),
            answer_timeout: config.answer_timeout(),
            metrics,
            requests: AtomicUsize::new(0),
        };
        ingest.blocks.watch(&context.readiness, READINESS);
        context.readiness.set(READINESS, Ready::Ready);
        let (ingest, context) = (Arc::new(ingest), context.clone());
        Ok(Service { ingest, config, context, pool, master_keys, doors: None })
    }

    /// Reads the doors of this cluster as well, if the configuration does not say otherwise.
    pub fn read_doors(&mut self, cluster: KafkaOptions) {
        self.doors = Some(cluster).filter(|_| self.config.doors);
    }

    /// The routes and their documentation.
    pub fn router(&self) -> OpenApiRouter {
        routes::router(&self.ingest)
    }

    /// The bound on memory, for those who want to watch it.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.ingest.budget.clone()
    }

    /// Refreshes what is known and sends blocks, until a stop is asked for and every open request
    /// has been answered.
    pub async fn run(self) -> Result<(), RunError> {
        let shutdown = self.context.shutdown.clone();
        let mut tasks = Tasks::new(&shutdown);
        tasks.spawn(
            "ingest-refresh",
            refresh(
                self.ingest.clone(),
                self.config,
                self.context.clone(),
                (self.pool, self.master_keys),
            ),
        );
        for partition in 0..self.context.log.partitions() {
            let (blocks, log) =
                (Arc::clone(&self.ingest.blocks), SharedLog::clone(&self.context.log));
            tasks.spawn(format!("ingest-{partition}"), block::run(blocks, partition, log));
        }
        if let Some(cluster) = self.doors {
            let (ingest, context) = (Arc::clone(&self.ingest), self.context.clone());
            let runtime = tokio::runtime::Handle::current();
            tasks.spawn_thread("ingest-doors", move || {
                doors::run(&ingest, &cluster, &context, &runtime)
            })?;
        }
        shutdown.cancelled().await;
        let answered = async {
            while self.ingest.requests.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN.saturating_sub(TASKS_DRAIN), answered).await;
        self.ingest.blocks.close();
        Ok(tasks.drain(TASKS_DRAIN).await?)
    }
}

/// Connects and loads, again and again while Postgres is away.
async fn first_load(
    context: &Context,
    master_keys: Option<&MasterKeys>,
    quotas: &Quotas,
) -> Result<(Pool, store::Snapshot), OpenError> {
    let mut pause = Duration::from_millis(100);
    loop {
        let attempt = async {
            let pool =
                postgres::connect(&context.postgres, Some("weir_reader"), "weir-ingest").await?;
            let known = store::load(&pool, master_keys).await?;
            quotas.exchange(&pool, 0).await?;
            Ok::<_, StoreError>((pool, known))
        };
        match attempt.await {
            Ok(loaded) => return Ok(loaded),
            Err(StoreError::Postgres(PostgresError::Unavailable(reason))) => {
                tracing::warn!(reason, "postgres is away; ingest waits for it");
                context
                    .readiness
                    .set(READINESS, Ready::NotReady("Postgres cannot be reached".into()));
            }
            Err(error) => return Err(error.into()),
        }
        if sleep_or_stop(pause, &context.shutdown).await {
            return Err(OpenError::Stopped);
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Replaces what is known, again and again. A failure leaves it as it was, until its lease ends.
async fn refresh(
    ingest: Arc<Ingest>,
    config: Config,
    context: Context,
    (pool, master_keys): (Pool, Option<MasterKeys>),
) -> Result<(), TaskError> {
    let (mut failing, mut loads) = (false, 0_u64);
    while !sleep_or_stop(config.refresh(), &context.shutdown).await {
        loads = loads.wrapping_add(1);
        let load = async {
            ingest.door.quotas.exchange(&pool, loads).await?;
            store::load(&pool, master_keys.as_ref()).await
        };
        let loaded = match tokio::time::timeout(LOAD_TIME_MAX, load).await {
            Ok(loaded) => loaded.map_err(|error| task::chain(&error)),
            Err(_) => Err(format!("no answer within {} s", LOAD_TIME_MAX.as_secs())),
        };
        let outcome = if loaded.is_ok() { "ok" } else { "failed" };
        match loaded {
            Ok(known) => {
                ingest.door.replace(known);
                context.readiness.set(READINESS, Ready::Ready);
                failing = false;
            }
            Err(reason) => {
                if !failing {
                    tracing::warn!(
                        reason,
                        "API keys and aliases could not be loaded; the last ones are used for now"
                    );
                }
                failing = true;
                if ingest.door.known.load().loaded_at.elapsed() > config.lease() {
                    context
                        .readiness
                        .set(READINESS, Ready::NotReady("API keys are too old".into()));
                }
            }
        }
        // When it counts: whoever sees this number has what was loaded.
        ingest.metrics.refreshes.with_label_values(&[outcome]).inc();
    }
    Ok(())
}

async fn sleep_or_stop(pause: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}
