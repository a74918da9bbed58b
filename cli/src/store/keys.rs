//! API keys, made without the api: the first one has to come from somewhere.

use anyhow::{Context as _, Result};
use runtime::keys::{NewKey, ParsedKey};
use serde::Serialize;
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

/// Stores a new key's id and hash, and who made it.
pub async fn insert(connection: &mut PgConnection, key: &NewKey, grant: &Grant<'_>) -> Result<()> {
    sqlx::query(
        "WITH new_app AS (
             INSERT INTO apps (tenant_id, app) SELECT $1, $4 WHERE $4::text IS NOT NULL ON CONFLICT DO NOTHING RETURNING app),
         made AS (
             INSERT INTO api_keys (tenant_id, key_id, secret_hash, app, name, scopes, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz)
             RETURNING tenant_id, key_id, app, name, scopes, expires_at)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, after)
         SELECT tenant_id, $8, 'operator', $9, 'keys create', key_id, json_build_object('key_id', key_id, 'app', app, 'name', name,
             'scopes', scopes, 'expires_at', expires_at, 'app_made', EXISTS (SELECT FROM new_app))::text
         FROM made",
    )
    .bind(grant.tenant)
    .bind(&key.id)
    .bind(key.secret_hash.as_slice())
    .bind(grant.app)
    .bind(grant.name)
    .bind(grant.scopes)
    .bind(grant.expires_at)
    .bind(Uuid::now_v7())
    .bind(operator())
    .execute(connection)
    .await
    .context("the key was not stored")?;
    Ok(())
}

/// A key without its secret.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct KeyRow {
    /// Its public id.
    pub key_id: String,
    /// What people call it.
    pub name: String,
    /// The app that holds it.
    pub app: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339.
    pub expires_at: Option<String>,
    /// When it was revoked, RFC 3339.
    pub revoked_at: Option<String>,
    /// `live`, `expired` or `revoked`.
    pub state: String,
}

/// All keys of a tenant, the oldest first.
pub async fn list(connection: &mut PgConnection, tenant: Uuid) -> Result<Vec<KeyRow>> {
    let rows = sqlx::query_as(
        "SELECT key_id, name, app, scopes, to_json(created_at) #>> '{}' AS created_at, to_json(expires_at) #>> '{}' AS expires_at,
             to_json(revoked_at) #>> '{}' AS revoked_at,
             CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'live' END AS state
         FROM api_keys WHERE tenant_id = $1 ORDER BY api_keys.created_at, key_id",
    )
    .bind(tenant)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Revokes a key, and records who did; false if there is none that lives.
pub async fn revoke(connection: &mut PgConnection, tenant: Uuid, key_id: &str) -> Result<bool> {
    let done = sqlx::query(
        "WITH revoked AS (
             UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL
             RETURNING tenant_id, key_id, app, name, scopes, expires_at, revoked_at)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, before, after)
         SELECT tenant_id, $3, 'operator', $4, 'keys revoke', key_id,
             json_build_object('key_id', key_id, 'app', app, 'name', name, 'scopes', scopes, 'expires_at', expires_at, 'revoked_at', NULL)::text,
             json_build_object('key_id', key_id, 'app', app, 'name', name, 'scopes', scopes, 'expires_at', expires_at, 'revoked_at', revoked_at)::text
         FROM revoked",
    )
    .bind(tenant)
    .bind(key_id)
    .bind(Uuid::now_v7())
    .bind(operator())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The login name of whoever runs this, or the number where there is no name.
pub fn operator() -> String {
    let id = nix::unistd::getuid();
    match nix::unistd::User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
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
