//! API keys, made without the api: the first one has to come from somewhere.

use anyhow::{Context as _, Result};
use runtime::keys::{NewKey, ParsedKey};
use sqlx::PgConnection;
use uuid::Uuid;

/// What a new key may do, and for whom.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// What people call the key.
    pub name: &'a str,
    /// The app that holds it.
    pub app: Option<&'a str>,
    /// What it may do.
    pub scopes: &'a [String],
    /// When it ends, RFC 3339.
    pub expires_at: Option<&'a str>,
}

/// Stores a new key's id and hash.
pub async fn insert(connection: &mut PgConnection, key: &NewKey, grant: &Grant<'_>) -> Result<()> {
    if let Some(app) = grant.app {
        sqlx::query("INSERT INTO apps (tenant_id, app) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(grant.tenant)
            .bind(app)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "INSERT INTO api_keys (tenant_id, key_id, secret_hash, app, name, scopes, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz)",
    )
    .bind(grant.tenant)
    .bind(&key.id)
    .bind(key.secret_hash.as_slice())
    .bind(grant.app)
    .bind(grant.name)
    .bind(grant.scopes)
    .bind(grant.expires_at)
    .execute(connection)
    .await
    .context("the key was not stored")?;
    Ok(())
}

/// Whether a key is stored, neither revoked nor expired, with all of `scopes`.
pub async fn is_valid(
    connection: &mut PgConnection,
    key: &ParsedKey,
    scopes: &[String],
) -> Result<bool> {
    let valid = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM api_keys WHERE key_id = $1 AND secret_hash = $2 AND scopes @> $3
         AND revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), true))",
    )
    .bind(&key.id)
    .bind(key.secret_hash.as_slice())
    .bind(scopes)
    .fetch_one(connection)
    .await?;
    Ok(valid)
}
