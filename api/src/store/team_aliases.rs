//! Aliases of teams.

use runtime::postgres::{Pool, PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `team_aliases`.
#[derive(sqlx::FromRow)]
pub(crate) struct AliasRow {
    pub alias: String,
    pub team: String,
    /// Nothing while it waits.
    pub effective_at_us: Option<i64>,
}

/// An alias that waits, of some tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub(crate) struct WaitingAlias {
    pub tenant_id: Uuid,
    pub alias: String,
    /// Whether it has waited too long.
    pub overdue: bool,
}

/// Inserts an alias that waits, at least for `delay_s`; `None` if there is one of this name.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    team: &str,
    delay_s: i32,
) -> Result<Option<AliasRow>, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting)
         VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), true) ON CONFLICT DO NOTHING
         RETURNING alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us",
    )
    .bind(tenant.id())
    .bind(alias)
    .bind(team)
    .bind(f64::from(delay_s))
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// One alias.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
) -> Result<Option<AliasRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us
         FROM team_aliases WHERE tenant_id = $1 AND alias = $2",
    )
    .bind(tenant.id())
    .bind(alias)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// A page of a team's aliases by name.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    asked: &Asked,
) -> Result<Vec<AliasRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us FROM team_aliases
         WHERE tenant_id = $1 AND team = $2 AND ($3::text IS NULL OR alias COLLATE \"C\" > $3)
         ORDER BY alias COLLATE \"C\" LIMIT $4",
    )
    .bind(tenant.id())
    .bind(team)
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Aliases of all tenants that wait, and of which every ingest process knows: the oldest hundred of
/// each tenant.
pub(crate) async fn waiting(reader: &Pool) -> Result<Vec<WaitingAlias>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, alias, effective_at < clock_timestamp() - interval '15 minutes' AS overdue
         FROM (
             SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY effective_at, alias) AS nth
             FROM team_aliases WHERE waiting AND effective_at <= clock_timestamp()
         ) AS waiting
         WHERE nth <= 100 ORDER BY tenant_id, alias",
    )
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// Lets an alias that waits take effect.
pub(crate) async fn take_effect(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE team_aliases SET waiting = false, effective_at = clock_timestamp()
         WHERE tenant_id = $1 AND alias = $2 AND waiting",
    )
    .bind(tenant.id())
    .bind(alias)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes an alias that waits; `None` if none of this name does (any more).
pub(crate) async fn remove(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
) -> Result<Option<AliasRow>, ApiError> {
    let row = sqlx::query_as(
        "DELETE FROM team_aliases WHERE tenant_id = $1 AND alias = $2 AND waiting
         RETURNING alias, team, NULL::bigint AS effective_at_us",
    )
    .bind(tenant.id())
    .bind(alias)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}
