//! The public interface: catalog, teams and keys, and what became of usage and money.
//!
//! Reading order: [`router`] is the table of contents; `routes/<resource>.rs` holds the handlers
//! of a resource and `store/<resource>.rs` all of its SQL; [`auth`] makes the one value that
//! opens a tenant's data; [`live`] keeps balances in memory; [`jobs`] is what runs by itself.

use std::{sync::Arc, time::Duration};

use runtime::{
    config::PostgresConfig,
    context::{Context, DRAIN},
    http::{Attempts, State},
    keys::{MasterKeyError, MasterKeys},
    postgres::{Pool, PostgresError, connect},
    shutdown::{Failure, Shutdown},
    task::Tasks,
    telemetry::TelemetryError,
};
use utoipa_axum::router::OpenApiRouter;

pub mod auth;
mod burn_tables;
mod catalog;
pub mod catalog_file;
pub mod closing;
mod compiled;
pub mod config;
mod correcting;
mod display;
mod door;
mod error;
mod extract;
mod hold_queue;
mod idempotency;
mod jobs;
mod live;
mod metrics;
mod openapi;
pub mod outside;
mod page;
mod parameters;
mod progress;
mod provider_invoices;
mod provider_prices;
mod router;
mod routes;
mod state;
mod store;

pub use config::Config;
pub use jobs::price_unpriced::Unpriced;
pub use openapi::{documentation, openapi};

use crate::{door::Door, hold_queue::HoldQueue, live::Live, metrics::ApiMetrics, state::Shared};

/// Events as they were accepted.
pub const USAGE: runtime::log::Topic = runtime::log::Topic("usage");
/// Rated batches.
pub const RATED: runtime::log::Topic = runtime::log::Topic("rated");

/// Connections for what is read across tenants: live balances and waiting markers.
const READER_CONNECTIONS: u32 = 4;
/// Back-off while Postgres is away at the start.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The api could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Postgres refuses us; waiting does not help.
    #[error("the api cannot use postgres: {0}")]
    Postgres(#[from] PostgresError),
    /// A metric is declared wrongly.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The client that hands events to ingest could not be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// The setting is no key.
    #[error("WEIR_MASTER_KEY {0}")]
    MasterKey(#[from] MasterKeyError),
    /// A stop was asked for before everything was there.
    #[error("stopped before the api was open")]
    Stopped,
}

/// The api ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task failed.
    #[error(transparent)]
    Task(#[from] Failure),
    /// A thread could not be started.
    #[error("a thread of the api could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The api, open but not yet running.
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    /// Connects; waits for Postgres as long as it is away.
    pub async fn open(config: Config, context: &Context) -> Result<Service, OpenError> {
        context.readiness.set("api", State::NotReady("waiting for postgres".to_owned()));
        let few = PostgresConfig { connections: READER_CONNECTIONS, ..context.postgres.clone() };
        let pool = patiently(&context.shutdown, &context.postgres, "weir_api").await?;
        let reader = patiently(&context.shutdown, &few, "weir_reader").await?;
        let metrics = ApiMetrics::new(&context.metrics)?;
        let shared = Shared {
            pool,
            reader,
            log: Arc::clone(&context.log),
            clickhouse: context.clickhouse.clone(),
            keys: auth::LookUps::default(),
            secrets: auth::LookUps::default(),
            master_keys: MasterKeys::parse(&config.master_key)?,
            attempts: Attempts::new(
                config.failed_attempts_max,
                Duration::from_millis(config.failed_attempt_regain_ms),
            ),
            live: Live::new(context.log.partitions(), config.live_entries_max),
            pending: jobs::count_pending::PendingCounts::new(context.log.partitions()),
            markers: jobs::append_markers::Markers::default(),
            door: Door::new(&config.ingest_url)?,
            holds: HoldQueue::default(),
            wallets: auth::LookUps::default(),
            catalogs: compiled::CompiledCatalogs::default(),
            readiness: context.readiness.clone(),
            shutdown: context.shutdown.clone(),
            metrics,
            config,
        };
        context.readiness.set("api", State::NotReady("loading balances".to_owned()));
        Ok(Service { shared: Arc::new(shared) })
    }

    /// Hands events that are sent again to the ingest of this process, unless `api.ingest_url` names
    /// another.
    pub fn use_ingest(&self, ingest: axum::Router) {
        self.shared.door.open(ingest);
    }

    /// The routes with their documentation.
    pub fn router(&self) -> OpenApiRouter {
        router::router(Arc::clone(&self.shared))
    }

    /// Runs what runs by itself, until a stop is asked for.
    pub async fn run(self) -> Result<(), RunError> {
        let shared = self.shared;
        let mut tasks = Tasks::new(&shared.shutdown);
        tasks.spawn("api-markers", jobs::append_markers::run(Arc::clone(&shared)));
        tasks.spawn("api-aliases", jobs::decide_aliases::run(Arc::clone(&shared)));
        tasks.spawn("api-merges", jobs::merge_teams::run(Arc::clone(&shared)));
        tasks.spawn("api-corrections", jobs::correct::run(Arc::clone(&shared)));
        tasks.spawn("api-periods", jobs::close_periods::run(Arc::clone(&shared)));
        tasks.spawn("api-unpriced", jobs::price_unpriced::run(Arc::clone(&shared)));
        tasks.spawn("api-twins", jobs::sweep_twins::run(Arc::clone(&shared)));
        tasks.spawn("api-balances", live::refresh::run(Arc::clone(&shared)));
        for partition in 0..shared.log.partitions() {
            let shared = Arc::clone(&shared);
            tasks.spawn_thread(format!("api-live-{partition}"), move || {
                live::tail::run(&shared, partition);
                Ok(())
            })?;
        }
        tasks.wait(DRAIN).await?;
        Ok(())
    }
}

/// Connects as `role`, again and again while Postgres is away.
async fn patiently(
    shutdown: &Shutdown,
    config: &PostgresConfig,
    role: &str,
) -> Result<Pool, OpenError> {
    let mut pause = RETRY_MIN;
    loop {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return Err(OpenError::Stopped),
            tried = connect(config, Some(role), "weir-api") => tried,
        };
        match tried {
            Ok(pool) => return Ok(pool),
            Err(PostgresError::Unavailable(reason)) => {
                tracing::warn!(role, reason, "postgres is away; the api waits for it");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(OpenError::Stopped),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
    }
}
