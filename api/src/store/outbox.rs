//! Markers that wait for the log, of all tenants: for the task that appends them.

use runtime::postgres::{Pool, PostgresError, scoped};
use sqlx::PgConnection;
use uuid::Uuid;

/// Number of the advisory lock that lets one process at a time append markers ("weir" + 1).
const LOCK: i64 = 0x7765_6972_0001;

/// A waiting marker.
#[derive(sqlx::FromRow)]
pub(crate) struct Waiting {
    pub tenant_id: Uuid,
    pub catalog_version: i64,
    pub document_hash: Vec<u8>,
}

/// A connection of its own that holds the right to append markers, or `None` while another process
/// has it. Closing the connection gives it back.
pub(crate) async fn lock(reader: &Pool) -> Result<Option<PgConnection>, PostgresError> {
    let mut connection = reader.acquire().await?.detach();
    let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await?;
    Ok(locked.then_some(connection))
}

/// Waiting markers in the order of their numbers.
pub(crate) async fn waiting(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<Waiting>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, catalog_version, document_hash FROM catalog_outbox WHERE appended_at IS NULL ORDER BY catalog_version LIMIT $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Notes that all partitions have a marker.
pub(crate) async fn mark_appended(
    pool: &Pool,
    tenant: Uuid,
    number: i64,
) -> Result<(), PostgresError> {
    scoped(pool, tenant, |mut transaction| async move {
        sqlx::query(
            "UPDATE catalog_outbox SET appended_at = clock_timestamp()
             WHERE tenant_id = $1 AND catalog_version = $2 AND appended_at IS NULL",
        )
        .bind(tenant)
        .bind(number)
        .execute(&mut *transaction)
        .await?;
        Ok(())
    })
    .await
}

/// Whether a marker waits at all.
pub(crate) async fn is_waiting(reader: &Pool) -> Result<bool, PostgresError> {
    let waiting =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM catalog_outbox WHERE appended_at IS NULL)")
            .fetch_one(reader)
            .await?;
    Ok(waiting)
}

/// Fails if the connection that holds the right to append is gone.
pub(crate) async fn check_lock(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query("SELECT 1").execute(connection).await?;
    Ok(())
}
