//! What all handlers and tasks of the api share.

use std::sync::Arc;

use runtime::{
    clickhouse::ClickHouse, http::Readiness, log::SharedLog, postgres::Pool, shutdown::Shutdown,
};

use crate::{
    Config, auth::KeyCache, jobs::append_markers::Markers, jobs::count_pending::PendingCounts,
    live::Live, metrics::ApiMetrics,
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
    pub keys: KeyCache,
    pub live: Live,
    pub pending: PendingCounts,
    pub markers: Markers,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    pub metrics: ApiMetrics,
    pub config: Config,
}
