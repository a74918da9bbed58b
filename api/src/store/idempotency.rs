//! Answers to mutating calls.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError};

/// A kept answer.
#[derive(sqlx::FromRow)]
pub(crate) struct Entry {
    pub request_hash: Vec<u8>,
    pub status: i32,
    pub answer: String,
}

/// Waits until no twin of this call is at work, until the transaction ends.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
    route: &str,
    key: &str,
) -> Result<(), ApiError> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' ' || $2 || ' ' || $3, 1))",
    )
    .bind(tenant.id())
    .bind(route)
    .bind(key)
    .execute(connection)
    .await?;
    Ok(())
}

/// The answer kept for a key.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    route: &str,
    key: &str,
) -> Result<Option<Entry>, ApiError> {
    let found = sqlx::query_as("SELECT request_hash, status, answer FROM idempotency WHERE tenant_id = $1 AND route = $2 AND key = $3")
        .bind(tenant.id())
        .bind(route)
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(found)
}

/// Keeps an answer.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    route: &str,
    key: &str,
    entry: &Entry,
) -> Result<(), ApiError> {
    sqlx::query("INSERT INTO idempotency (tenant_id, route, key, request_hash, status, answer) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(tenant.id())
        .bind(route)
        .bind(key)
        .bind(&entry.request_hash)
        .bind(entry.status)
        .bind(&entry.answer)
        .execute(connection)
        .await?;
    Ok(())
}
