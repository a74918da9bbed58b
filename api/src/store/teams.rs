//! Teams.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `teams`.
#[derive(sqlx::FromRow)]
pub(crate) struct TeamRow {
    pub team: String,
    pub name: String,
    pub origin: String,
    pub created_at_us: i64,
}

/// Lets one change of the tenant's names of teams happen at a time, until the transaction ends:
/// a name is a team or an alias, never both.
pub(crate) async fn lock_names(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' team names', 2))")
        .bind(tenant.id())
        .execute(connection)
        .await?;
    Ok(())
}

/// Registers a team; `None` if there is one of this key.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    name: &str,
) -> Result<Option<TeamRow>, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO teams (tenant_id, team, name, origin) VALUES ($1, $2, $3, 'registered') ON CONFLICT DO NOTHING
         RETURNING team, name, origin, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us",
    )
    .bind(tenant.id())
    .bind(team)
    .bind(name)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// One team.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
) -> Result<Option<TeamRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT team, name, origin, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us
         FROM teams WHERE tenant_id = $1 AND team = $2",
    )
    .bind(tenant.id())
    .bind(team)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// A page of teams by key.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<TeamRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT team, name, origin, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us FROM teams
         WHERE tenant_id = $1 AND ($2::text IS NULL OR team COLLATE \"C\" > $2) ORDER BY team COLLATE \"C\" LIMIT $3",
    )
    .bind(tenant.id())
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
