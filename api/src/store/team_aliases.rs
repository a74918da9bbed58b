//! Aliases of teams.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `team_aliases`.
#[derive(sqlx::FromRow)]
pub(crate) struct AliasRow {
    pub alias: String,
    pub team: String,
    pub effective_at_us: i64,
}

/// Inserts an alias that takes effect after `delay_s`; `None` if there is one of this name.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    team: &str,
    delay_s: i32,
) -> Result<Option<AliasRow>, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO team_aliases (tenant_id, alias, team, effective_at)
         VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) ON CONFLICT DO NOTHING
         RETURNING alias, team, (extract(epoch FROM effective_at) * 1000000)::bigint AS effective_at_us",
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
        "SELECT alias, team, (extract(epoch FROM effective_at) * 1000000)::bigint AS effective_at_us
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
        "SELECT alias, team, (extract(epoch FROM effective_at) * 1000000)::bigint AS effective_at_us FROM team_aliases
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
