//! Backfills: which there are, and what the archive has of one.

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    events::number,
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `backfills`, with the state of the correction that takes it back.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct BackfillRow {
    pub backfill: String,
    pub reason: String,
    pub state: String,
    pub correction_id: Option<Uuid>,
    pub correction_state: Option<String>,
    pub created_by: String,
    pub opened_at_us: i64,
    pub closed_at_us: Option<i64>,
    /// Whether it was closed so long ago that no ingest process takes events of it any more.
    pub settled: bool,
}

/// Opens a backfill; false if there is one of this key.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (backfill, reason): (&str, &str),
    created_by: &str,
) -> Result<bool, ApiError> {
    let inserted = sqlx::query(
        "INSERT INTO backfills (tenant_id, backfill, reason, created_by) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id())
    .bind(backfill)
    .bind(reason)
    .bind(created_by)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// One backfill, or all by key; closed ones are settled after `settled_s`.
pub(crate) async fn rows(
    connection: &mut PgConnection,
    tenant: TenantScope,
    backfill: Option<&str>,
    asked: Option<&Asked>,
    settled_s: f64,
) -> Result<Vec<BackfillRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT b.backfill, b.reason, b.state, correction_id, c.state AS correction_state, b.created_by,
             (extract(epoch FROM b.opened_at) * 1000000)::bigint AS opened_at_us,
             (extract(epoch FROM b.closed_at) * 1000000)::bigint AS closed_at_us,
             coalesce(b.closed_at + make_interval(secs => $5) < clock_timestamp(), false) AS settled
         FROM backfills b LEFT JOIN corrections c USING (tenant_id, correction_id)
         WHERE tenant_id = $1 AND ($2::text IS NULL OR b.backfill = $2) AND ($3::text IS NULL OR b.backfill > $3)
         ORDER BY b.backfill LIMIT $4",
    )
    .bind(tenant.id())
    .bind(backfill)
    .bind(asked.and_then(|asked| asked.after(0)))
    .bind(asked.map_or(1, Asked::rows))
    .bind(settled_s)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Closes a backfill; false if it is not open.
pub(crate) async fn close(
    connection: &mut PgConnection,
    tenant: TenantScope,
    backfill: &str,
) -> Result<bool, ApiError> {
    let closed = sqlx::query(
        "UPDATE backfills SET state = 'closed', closed_at = clock_timestamp() WHERE tenant_id = $1 AND backfill = $2 AND state = 'open'",
    )
    .bind(tenant.id())
    .bind(backfill)
    .execute(connection)
    .await?;
    Ok(closed.rows_affected() == 1)
}

/// Notes the correction that takes it back, in place of the one before; false if another was noted meanwhile.
pub(crate) async fn revert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    backfill: &str,
    (before, correction): (Option<Uuid>, Uuid),
) -> Result<bool, ApiError> {
    let noted = sqlx::query(
        "UPDATE backfills SET correction_id = $3 WHERE tenant_id = $1 AND backfill = $2 AND correction_id IS NOT DISTINCT FROM $4",
    )
    .bind(tenant.id())
    .bind(backfill)
    .bind(correction)
    .bind(before)
    .execute(connection)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// What the archive has of a source.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Loaded {
    #[serde(deserialize_with = "number")]
    pub events: i64,
    #[serde(deserialize_with = "number")]
    pub others: i64,
}

/// Events of a source that took effect, and those that did not: duplicates, conflicts, rejected ones.
pub(crate) async fn loaded(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    source: &str,
) -> Result<Loaded, ApiError> {
    let mut statement = Statement::default();
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let source = statement.bind("String", source);
    statement.sql = format!(
        "SELECT
             (SELECT toInt64(uniqExact(partition, position, `index`)) FROM usage_events
              WHERE tenant_id = {tenant} AND source = {source} AND rating_run = 0) AS events,
             (SELECT toInt64(uniqExact(partition, position, `index`)) FROM rejected_events
              WHERE tenant_id = {tenant} AND source = {source} AND outcome != 'uncorrected') AS others
         SETTINGS max_execution_time = 20"
    );
    let rows: Vec<Loaded> = read_rows(statement.rows(clickhouse).await?)?;
    Ok(rows.into_iter().next().unwrap_or_default())
}
