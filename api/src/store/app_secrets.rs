//! Secrets with which apps sign tokens. They are stored encrypted.

use runtime::postgres::Pool;
use sqlx::PgConnection;

use crate::{
    auth::{FoundSecret, TenantScope},
    error::ApiError,
    page::Asked,
};

/// The secret of an id, else all that have not ended of an app's name, before a tenant is known.
pub(crate) async fn find(
    pool: &Pool,
    secret_id: Option<&str>,
    app: &str,
) -> Result<Vec<FoundSecret>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id AS tenant, secret_id AS id, app, scopes, sealed, master_key_id,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us, revoked_at IS NOT NULL AS revoked,
             tenant_is_disabled(tenant_id) AS disabled
         FROM find_app_secrets($1, $2)",
    )
    .bind(secret_id)
    .bind(app)
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// A row of `app_secrets` without the secret.
#[derive(sqlx::FromRow)]
pub(crate) struct SecretRow {
    pub secret_id: String,
    pub app: String,
    pub name: String,
    pub scopes: Vec<String>,
    pub created_at_us: i64,
    pub expires_at_us: Option<i64>,
    pub revoked_at_us: Option<i64>,
}

/// What a new secret is made of.
pub(crate) struct NewSecretRow<'a> {
    pub secret_id: &'a str,
    pub app: &'a str,
    pub name: &'a str,
    pub scopes: &'a [String],
    pub sealed: &'a [u8],
    pub master_key_id: &'a str,
    pub expires_at: Option<&'a str>,
}

/// Keeps others from making secrets of an app until the transaction ends; false if there is none.
pub(crate) async fn lock_app(
    connection: &mut PgConnection,
    tenant: TenantScope,
    app: &str,
) -> Result<bool, ApiError> {
    let found: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM apps WHERE tenant_id = $1 AND app = $2 FOR UPDATE")
            .bind(tenant.id())
            .bind(app)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// Secrets of an app that are neither revoked nor expired.
pub(crate) async fn live(
    connection: &mut PgConnection,
    tenant: TenantScope,
    app: &str,
) -> Result<i64, ApiError> {
    let live = sqlx::query_scalar(
        "SELECT count(*) FROM app_secrets WHERE tenant_id = $1 AND app = $2 AND revoked_at IS NULL
             AND coalesce(expires_at > clock_timestamp(), true)",
    )
    .bind(tenant.id())
    .bind(app)
    .fetch_one(connection)
    .await?;
    Ok(live)
}

/// Inserts a secret.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewSecretRow<'_>,
) -> Result<SecretRow, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO app_secrets (tenant_id, secret_id, app, name, scopes, sealed, master_key_id, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::timestamptz)
         RETURNING secret_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(new.secret_id)
    .bind(new.app)
    .bind(new.name)
    .bind(new.scopes)
    .bind(new.sealed)
    .bind(new.master_key_id)
    .bind(new.expires_at)
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// A page of an app's secrets by id, revoked ones included.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    app: &str,
    asked: &Asked,
) -> Result<Vec<SecretRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT secret_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us
         FROM app_secrets WHERE tenant_id = $1 AND app = $2 AND ($3::text IS NULL OR secret_id > $3)
         ORDER BY secret_id LIMIT $4",
    )
    .bind(tenant.id())
    .bind(app)
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// One secret of an app, locked until the transaction ends.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
    app: &str,
    secret_id: &str,
) -> Result<Option<SecretRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT secret_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us
         FROM app_secrets WHERE tenant_id = $1 AND app = $2 AND secret_id = $3 FOR UPDATE",
    )
    .bind(tenant.id())
    .bind(app)
    .bind(secret_id)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Revokes a secret; the first time stands.
pub(crate) async fn revoke(
    connection: &mut PgConnection,
    tenant: TenantScope,
    secret_id: &str,
) -> Result<SecretRow, ApiError> {
    let row = sqlx::query_as(
        "UPDATE app_secrets SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE tenant_id = $1 AND secret_id = $2
         RETURNING secret_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(secret_id)
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// Sets or lifts the end of a secret.
pub(crate) async fn set_expiry(
    connection: &mut PgConnection,
    tenant: TenantScope,
    secret_id: &str,
    expires_at: Option<&str>,
) -> Result<SecretRow, ApiError> {
    let row = sqlx::query_as(
        "UPDATE app_secrets SET expires_at = $3::text::timestamptz WHERE tenant_id = $1 AND secret_id = $2
         RETURNING secret_id, app, name, scopes, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM revoked_at) * 1000000)::bigint AS revoked_at_us",
    )
    .bind(tenant.id())
    .bind(secret_id)
    .bind(expires_at)
    .fetch_one(connection)
    .await?;
    Ok(row)
}
