//! How fast usage may be reported.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `ingest_limits`.
#[derive(sqlx::FromRow)]
pub(crate) struct LimitRow {
    pub credential: String,
    pub events_per_second: Option<i64>,
    pub burst: Option<i64>,
    pub changed_at_us: i64,
}

/// Whether the tenant has an API key or an app secret of this public id.
pub(crate) async fn has_credential(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: &str,
) -> Result<bool, ApiError> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM api_keys WHERE tenant_id = $1 AND key_id = $2)
             OR EXISTS (SELECT FROM app_secrets WHERE tenant_id = $1 AND secret_id = $2)",
    )
    .bind(tenant.id())
    .bind(id)
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// The limit of a credential, or of the tenant where it is empty.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    credential: &str,
) -> Result<Option<LimitRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT credential, events_per_second, burst, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at_us
         FROM ingest_limits WHERE tenant_id = $1 AND credential = $2",
    )
    .bind(tenant.id())
    .bind(credential)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Sets a limit, or lifts it with nothing.
pub(crate) async fn set(
    connection: &mut PgConnection,
    tenant: TenantScope,
    credential: &str,
    limit: Option<(i64, i64)>,
) -> Result<LimitRow, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO ingest_limits (tenant_id, credential, events_per_second, burst) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, credential) DO UPDATE
             SET events_per_second = excluded.events_per_second, burst = excluded.burst, changed_at = clock_timestamp()
         RETURNING credential, events_per_second, burst, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at_us",
    )
    .bind(tenant.id())
    .bind(credential)
    .bind(limit.map(|limit| limit.0))
    .bind(limit.map(|limit| limit.1))
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// A page of limits by credential, the tenant's own first.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<LimitRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT credential, events_per_second, burst, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at_us
         FROM ingest_limits WHERE tenant_id = $1 AND events_per_second IS NOT NULL AND ($2::text IS NULL OR credential > $2)
         ORDER BY credential LIMIT $3",
    )
    .bind(tenant.id())
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
