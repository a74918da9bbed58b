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
    /// Whether usage that its subject has becomes the team's, and how far that is.
    pub merge: Option<String>,
    /// Events that were moved.
    pub moved: i64,
    /// The corrections that take back what the subject's usage came to.
    pub corrections: Vec<Uuid>,
}

/// An alias that waits, of some tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub(crate) struct WaitingAlias {
    pub tenant_id: Uuid,
    pub alias: String,
    /// Whether it has waited too long.
    pub overdue: bool,
}

/// A merge under way, of some tenant.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Merging {
    pub tenant_id: Uuid,
    pub alias: String,
    pub team: String,
    /// `taking_back` or `moving`.
    pub merge: String,
    pub corrections: Vec<Uuid>,
}

/// Inserts an alias that waits, at least for `delay_s`; `None` if there is one of this name.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    team: &str,
    (delay_s, merge): (i32, bool),
) -> Result<Option<AliasRow>, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting, merge)
         VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), true, CASE WHEN $5 THEN 'asked' END) ON CONFLICT DO NOTHING
         RETURNING alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us,
             merge, moved, corrections",
    )
    .bind(tenant.id())
    .bind(alias)
    .bind(team)
    .bind(f64::from(delay_s))
    .bind(merge)
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
        "SELECT alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us,
             merge, moved, corrections
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
        "SELECT alias, team, CASE WHEN NOT waiting THEN (extract(epoch FROM effective_at) * 1000000)::bigint END AS effective_at_us,
             merge, moved, corrections FROM team_aliases
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
             FROM team_aliases
             WHERE waiting AND effective_at <= clock_timestamp() AND (merge IS NULL OR merge = 'asked')
         ) AS waiting
         WHERE nth <= 100 ORDER BY tenant_id, alias",
    )
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// Whether a team has aliases.
pub(crate) async fn any_of(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
) -> Result<bool, ApiError> {
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT alias FROM team_aliases WHERE tenant_id = $1 AND team = $2 LIMIT 1",
    )
    .bind(tenant.id())
    .bind(team)
    .fetch_all(connection)
    .await?;
    Ok(!found.is_empty())
}

/// Merges of all tenants that a process should go on with, oldest first.
pub(crate) async fn merging(reader: &Pool) -> Result<Vec<Merging>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, alias, team, merge, corrections FROM team_aliases
         WHERE merge IN ('taking_back', 'moving') AND coalesce(leased_until < clock_timestamp(), true)
         ORDER BY created_at LIMIT 10",
    )
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// Takes a merge for this process for so many seconds, if it is nobody's; or goes on having it.
pub(crate) async fn lease(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    (for_s, own): (f64, bool),
) -> Result<bool, ApiError> {
    let leased = sqlx::query(
        "UPDATE team_aliases SET leased_until = clock_timestamp() + make_interval(secs => $3)
         WHERE tenant_id = $1 AND alias = $2 AND ($4 OR coalesce(leased_until < clock_timestamp(), true))",
    )
    .bind(tenant.id())
    .bind(alias)
    .bind(for_s)
    .bind(own)
    .execute(connection)
    .await?;
    Ok(leased.rows_affected() == 1)
}

/// Moves a merge on from one state to the next, perhaps with another correction; false where it is not in the first.
pub(crate) async fn advance_merge(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    (from, to, correction): (&str, &str, Option<Uuid>),
) -> Result<bool, ApiError> {
    let changed = sqlx::query(
        "UPDATE team_aliases SET merge = $4, leased_until = NULL,
             corrections = CASE WHEN $5::uuid IS NULL THEN corrections ELSE array_append(corrections, $5) END
         WHERE tenant_id = $1 AND alias = $2 AND merge = $3",
    )
    .bind(tenant.id())
    .bind(alias)
    .bind(from)
    .bind(to)
    .bind(correction)
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Notes how many events were moved.
pub(crate) async fn note_moved(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    moved: i64,
) -> Result<(), ApiError> {
    sqlx::query("UPDATE team_aliases SET moved = $3 WHERE tenant_id = $1 AND alias = $2")
        .bind(tenant.id())
        .bind(alias)
        .bind(moved)
        .execute(connection)
        .await?;
    Ok(())
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
         RETURNING alias, team, NULL::bigint AS effective_at_us, merge, moved, corrections",
    )
    .bind(tenant.id())
    .bind(alias)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}
