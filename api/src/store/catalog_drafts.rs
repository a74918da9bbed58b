//! Drafts of the catalog.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `catalog_drafts`, without its document.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct DraftRow {
    pub draft: String,
    pub revision: i64,
    pub base_version: i64,
    pub note: String,
    pub created_by: String,
    pub created_at_us: i64,
    pub updated_by: String,
    pub updated_at_us: i64,
}

/// A draft to save.
pub(crate) struct NewDraft<'a> {
    pub draft: &'a str,
    pub base_version: u64,
    pub note: &'a str,
    pub document: &'a str,
    pub saved_by: &'a str,
}

/// Lets changes of a tenant's drafts go one by one from here to the commit.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' catalog_drafts', 2))")
        .bind(tenant.id())
        .execute(connection)
        .await?;
    Ok(())
}

/// How many drafts there are.
pub(crate) async fn count(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<i64, ApiError> {
    let count = sqlx::query_scalar("SELECT count(*) FROM catalog_drafts WHERE tenant_id = $1")
        .bind(tenant.id())
        .fetch_one(connection)
        .await?;
    Ok(count)
}

/// One draft, or a page of them by name.
pub(crate) async fn rows(
    connection: &mut PgConnection,
    tenant: TenantScope,
    draft: Option<&str>,
    asked: Option<&Asked>,
) -> Result<Vec<DraftRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT draft, revision, base_version, note, created_by, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             updated_by, (extract(epoch FROM updated_at) * 1000000)::bigint AS updated_at_us
         FROM catalog_drafts
         WHERE tenant_id = $1 AND ($2::text IS NULL OR draft = $2) AND ($3::text IS NULL OR draft > $3)
         ORDER BY draft LIMIT $4",
    )
    .bind(tenant.id())
    .bind(draft)
    .bind(asked.and_then(|asked| asked.after(0)))
    .bind(asked.map_or(1, Asked::rows))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// What is written in a draft.
pub(crate) async fn document(
    connection: &mut PgConnection,
    tenant: TenantScope,
    draft: &str,
) -> Result<Option<String>, ApiError> {
    let document = sqlx::query_scalar(
        "SELECT document FROM catalog_drafts WHERE tenant_id = $1 AND draft = $2",
    )
    .bind(tenant.id())
    .bind(draft)
    .fetch_optional(connection)
    .await?;
    Ok(document)
}

/// Saves a draft, as its next revision.
pub(crate) async fn save(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewDraft<'_>,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO catalog_drafts (tenant_id, draft, base_version, note, document, created_by, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         ON CONFLICT (tenant_id, draft) DO UPDATE SET revision = catalog_drafts.revision + 1, base_version = excluded.base_version,
             note = excluded.note, document = excluded.document, updated_by = excluded.updated_by, updated_at = clock_timestamp()",
    )
    .bind(tenant.id())
    .bind(new.draft)
    .bind(i64::try_from(new.base_version).unwrap_or(i64::MAX))
    .bind(new.note)
    .bind(new.document)
    .bind(new.saved_by)
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a draft.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    tenant: TenantScope,
    draft: &str,
) -> Result<(), ApiError> {
    sqlx::query("DELETE FROM catalog_drafts WHERE tenant_id = $1 AND draft = $2")
        .bind(tenant.id())
        .bind(draft)
        .execute(connection)
        .await?;
    Ok(())
}
