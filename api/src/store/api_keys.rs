//! API keys.

use runtime::postgres::Pool;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auth::{FoundKey, TenantScope},
    error::ApiError,
    page::Asked,
};

/// Looks a key up by its public id, before a tenant is known.
pub(crate) async fn find(pool: &Pool, id: &str) -> Result<Option<FoundKey>, ApiError> {
    type Row = (Uuid, Vec<u8>, Option<String>, Vec<String>, Option<i64>, bool, bool);
    let row: Option<Row> = sqlx::query_as(
        "SELECT tenant_id, secret_hash, app, scopes, (extract(epoch FROM expires_at) * 1000000)::bigint, revoked_at IS NOT NULL,
             tenant_is_disabled(tenant_id)
         FROM find_api_key($1)",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(tenant, secret_hash, app, scopes, expires_at_us, revoked, disabled)| FoundKey {
        tenant,
        secret_hash,
        app,
        scopes,
        expires_at_us,
        revoked,
        disabled,
    }))
}

/// A row of `api_keys` without its hash.
#[derive(sqlx::FromRow)]
pub(crate) struct KeyRow {
    pub key_id: String,
    pub app: Option<String>,
    pub name: String,
    pub scopes: Vec<String>,
    pub created_at_us: i64,
    pub expires_at_us: Option<i64>,
    pub revoked_at_us: Option<i64>,
}

/// What a new key is made of.
pub(crate) struct NewKeyRow<'a> {
    pub key_id: &'a str,
    pub secret_hash: &'a [u8],
    pub app: Option<&'a str>,
    pub name: &'a str,
    pub scopes: &'a [String],
    pub expires_at: Option<&'a str>,
}

/// Inserts a key.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewKeyRow<'_>,
) -> Result<KeyRow, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO api_keys (tenant_id, key_id, secret_hash, app, name, scopes, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz)
         RETURNING key_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(new.key_id)
    .bind(new.secret_hash)
    .bind(new.app)
    .bind(new.name)
    .bind(new.scopes)
    .bind(new.expires_at)
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// A page of keys by id, revoked ones included.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<KeyRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT key_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us
         FROM api_keys WHERE tenant_id = $1 AND ($2::text IS NULL OR key_id COLLATE \"C\" > $2)
         ORDER BY key_id COLLATE \"C\" LIMIT $3",
    )
    .bind(tenant.id())
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// One key, locked until the transaction ends.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
    key_id: &str,
) -> Result<Option<KeyRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT key_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us
         FROM api_keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE",
    )
    .bind(tenant.id())
    .bind(key_id)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Revokes a key; the first time stands.
pub(crate) async fn revoke(
    connection: &mut PgConnection,
    tenant: TenantScope,
    key_id: &str,
) -> Result<Option<KeyRow>, ApiError> {
    let row = sqlx::query_as(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE tenant_id = $1 AND key_id = $2
         RETURNING key_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(key_id)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Sets or lifts the end of a key.
pub(crate) async fn set_expiry(
    connection: &mut PgConnection,
    tenant: TenantScope,
    key_id: &str,
    expires_at: Option<&str>,
) -> Result<Option<KeyRow>, ApiError> {
    let row = sqlx::query_as(
        "UPDATE api_keys SET expires_at = $3::text::timestamptz WHERE tenant_id = $1 AND key_id = $2
         RETURNING key_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(key_id)
    .bind(expires_at)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}
