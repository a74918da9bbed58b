//! What a role stands on: made once by the process, shared by the roles that run in it.

use std::time::Duration;

use crate::{
    clickhouse::ClickHouse, config::PostgresConfig, http::Readiness, log::SharedLog,
    shutdown::Shutdown, telemetry::Metrics,
};

/// How long a role may take to end after a stop was asked for.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Connections and signals of the process. A role makes its own Postgres pool, with its own role.
#[derive(Clone)]
pub struct Context {
    /// The log.
    pub log: SharedLog,
    /// Where Postgres is.
    pub postgres: PostgresConfig,
    /// The archive.
    pub clickhouse: ClickHouse,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// Where a role says whether it is ready; names begin with the role's.
    pub readiness: Readiness,
    /// The process's stop signal.
    pub shutdown: Shutdown,
}
