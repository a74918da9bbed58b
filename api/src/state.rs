//! What all handlers and tasks of the api share.

use std::sync::Arc;

use runtime::{
    clickhouse::ClickHouse,
    http::{Attempts, Readiness},
    keys::MasterKeys,
    log::SharedLog,
    postgres::Pool,
    shutdown::Shutdown,
};
use uuid::Uuid;

use crate::{
    Config,
    auth::{FoundKey, FoundSecret, LookUps},
    compiled::CompiledCatalogs,
    door::Door,
    hold_queue::HoldQueue,
    jobs::append_markers::Markers,
    jobs::count_pending::PendingCounts,
    live::Live,
    metrics::ApiMetrics,
};

/// The state of the routes.
pub(crate) type Api = Arc<Shared>;

/// Connections, memory and settings.
pub(crate) struct Shared {
    /// Postgres as `weir_api`: one tenant at a time.
    pub pool: Pool,
    /// Postgres as `weir_reader`: for the tasks, never for a request.
    pub reader: Pool,
    pub log: SharedLog,
    pub clickhouse: ClickHouse,
    /// API keys by their public id.
    pub keys: LookUps<Option<Arc<FoundKey>>>,
    /// Secrets by the id or the app that a token names.
    pub secrets: LookUps<Arc<Vec<FoundSecret>>>,
    /// Without one, secrets are neither made nor read.
    pub master_keys: Option<MasterKeys>,
    /// Refused credentials per address.
    pub attempts: Attempts,
    pub live: Live,
    pub pending: PendingCounts,
    pub markers: Markers,
    pub door: Door,
    /// Holds that are asked for.
    pub holds: HoldQueue,
    /// Wallets by tenant, team and currency.
    pub wallets: LookUps<Uuid>,
    /// Catalogs as rating reads them.
    pub catalogs: CompiledCatalogs,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    pub metrics: ApiMetrics,
    pub config: Config,
}
