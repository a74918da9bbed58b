//! Catalog versions.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError};

/// A row of `catalog_versions`.
#[derive(sqlx::FromRow)]
pub(crate) struct CatalogRow {
    pub catalog_version: i64,
    pub document: String,
    pub created_at_us: i64,
}

/// Lets publishing of all tenants go one by one from here to the commit, so that versions become
/// visible in the order of their numbers.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<(), ApiError> {
    sqlx::query("SELECT catalog_version FROM installation FOR UPDATE").execute(connection).await?;
    Ok(())
}

/// Takes the next number.
pub(crate) async fn next_version(connection: &mut PgConnection) -> Result<i64, ApiError> {
    let number = sqlx::query_scalar(
        "UPDATE installation SET catalog_version = catalog_version + 1 RETURNING catalog_version",
    )
    .fetch_one(connection)
    .await?;
    Ok(number)
}

/// The number of the newest version of the tenant; 0 before anything was published.
pub(crate) async fn newest_version(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<u64, ApiError> {
    let number: Option<i64> = sqlx::query_scalar(
        "SELECT catalog_version FROM catalog_versions WHERE tenant_id = $1 ORDER BY catalog_version DESC LIMIT 1",
    )
    .bind(tenant.id())
    .fetch_optional(connection)
    .await?;
    Ok(number.unwrap_or(0).unsigned_abs())
}

/// The newest version of the tenant.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<Option<CatalogRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT catalog_version, document, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us
         FROM catalog_versions WHERE tenant_id = $1 ORDER BY catalog_version DESC LIMIT 1",
    )
    .bind(tenant.id())
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The document of a version of the tenant.
pub(crate) async fn of_version(
    connection: &mut PgConnection,
    tenant: TenantScope,
    number: u64,
) -> Result<Option<String>, ApiError> {
    let document = sqlx::query_scalar(
        "SELECT document FROM catalog_versions WHERE tenant_id = $1 AND catalog_version = $2",
    )
    .bind(tenant.id())
    .bind(i64::try_from(number).unwrap_or(i64::MAX))
    .fetch_optional(connection)
    .await?;
    Ok(document)
}

/// Inserts a version.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    number: i64,
    document: &str,
    hash: &[u8],
) -> Result<(), ApiError> {
    sqlx::query("INSERT INTO catalog_versions (tenant_id, catalog_version, document, document_hash) VALUES ($1, $2, $3, $4)")
        .bind(tenant.id())
        .bind(number)
        .bind(document)
        .bind(hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// Remembers that the version's markers have to be appended.
pub(crate) async fn insert_outbox(
    connection: &mut PgConnection,
    tenant: TenantScope,
    number: i64,
    hash: &[u8],
) -> Result<(), ApiError> {
    sqlx::query("INSERT INTO catalog_outbox (tenant_id, catalog_version, document_hash) VALUES ($1, $2, $3)")
        .bind(tenant.id())
        .bind(number)
        .bind(hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether the markers of a version are in the log.
pub(crate) async fn is_appended(
    connection: &mut PgConnection,
    tenant: TenantScope,
    number: i64,
) -> Result<bool, ApiError> {
    let appended: Option<bool> = sqlx::query_scalar("SELECT appended_at IS NOT NULL FROM catalog_outbox WHERE tenant_id = $1 AND catalog_version = $2")
        .bind(tenant.id())
        .bind(number)
        .fetch_optional(connection)
        .await?;
    Ok(appended.unwrap_or(false))
}
