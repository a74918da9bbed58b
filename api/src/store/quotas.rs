//! How much usage may be reported in a day or month, and how much was.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError};

/// Quotas by period; one that was lifted has no events.
pub(crate) async fn quotas(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<Vec<(String, Option<i64>)>, ApiError> {
    let rows = sqlx::query_as("SELECT period, events FROM ingest_quotas WHERE tenant_id = $1")
        .bind(tenant.id())
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// What is counted in the current periods.
pub(crate) async fn counts(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<Vec<(String, i64)>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT period, events FROM ingest_counts
         WHERE tenant_id = $1 AND period_start = date_trunc(period, clock_timestamp() AT TIME ZONE 'UTC')::date",
    )
    .bind(tenant.id())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Sets the quota of a period, or lifts it with nothing.
pub(crate) async fn set(
    connection: &mut PgConnection,
    tenant: TenantScope,
    period: &str,
    events: Option<i64>,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO ingest_quotas (tenant_id, period, events) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, period) DO UPDATE SET events = excluded.events, changed_at = clock_timestamp()",
    )
    .bind(tenant.id())
    .bind(period)
    .bind(events)
    .execute(connection)
    .await?;
    Ok(())
}
