//! Tenants, as far as the command line needs them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use runtime::postgres::Pool;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::keys::operator;

/// The tenant of an installation with one.
pub const DEFAULT: &str = "default";

/// Makes the tenant `default` if there is no tenant at all.
pub async fn ensure_default(connection: &mut PgConnection) -> Result<()> {
    sqlx::query(
        "INSERT INTO tenants (tenant_id, key, name)
         SELECT $1, $2, 'Default' WHERE NOT EXISTS (SELECT FROM tenants) ON CONFLICT DO NOTHING",
    )
    .bind(Uuid::now_v7())
    .bind(DEFAULT)
    .execute(connection)
    .await?;
    Ok(())
}

/// The id of the tenant `key`.
pub async fn find(connection: &mut PgConnection, key: &str) -> Result<Uuid> {
    let found: Option<Uuid> = sqlx::query_scalar("SELECT tenant_id FROM tenants WHERE key = $1")
        .bind(key)
        .fetch_optional(&mut *connection)
        .await?;
    let known: Vec<String> = sqlx::query_scalar("SELECT key FROM tenants ORDER BY key LIMIT 20")
        .fetch_all(connection)
        .await?;
    found.with_context(|| format!("there is no tenant {key:?}; there are: {}", known.join(", ")))
}

/// Keys of the tenants that are not disabled.
pub async fn open(pool: &Pool) -> Result<BTreeSet<String>> {
    let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM tenants WHERE disabled_at IS NULL")
        .fetch_all(pool)
        .await?;
    Ok(keys.into_iter().collect())
}

/// A tenant.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct TenantRow {
    /// Its id.
    pub tenant_id: Uuid,
    /// Its key.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// What it is called in other systems, by which events may name the seller.
    pub external_key: Option<String>,
    /// Since when nothing is taken from it, RFC 3339.
    pub disabled_at: Option<String>,
}

/// All tenants by their keys.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<TenantRow>> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, key, name, external_key, to_json(disabled_at) #>> '{}' AS disabled_at FROM tenants ORDER BY key",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Makes a tenant, and records who did; false if there is one of that key or external key.
pub async fn create(
    connection: &mut PgConnection,
    key: &str,
    name: &str,
    external_key: Option<&str>,
) -> Result<bool> {
    // The recorded change refers to the tenant, whose row the same statement makes: the check of
    // the reference comes at its end.
    let done = sqlx::query(
        "WITH made AS (
             INSERT INTO tenants (tenant_id, key, name, external_key) VALUES ($1, $2, $3, $6)
             ON CONFLICT DO NOTHING RETURNING tenant_id, key, name, external_key)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, after)
         SELECT tenant_id, $4, 'operator', $5, 'tenants create', key, json_build_object('key', key, 'name', name, 'external_key', external_key)::text FROM made",
    )
    .bind(Uuid::now_v7())
    .bind(key)
    .bind(name)
    .bind(Uuid::now_v7())
    .bind(operator())
    .bind(external_key)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets or removes what a tenant is called in other systems, and records who did; false if it is so
/// already. Fails where another tenant is called so.
pub async fn set_external_key(
    connection: &mut PgConnection,
    tenant: Uuid,
    external_key: Option<&str>,
) -> Result<bool> {
    let done = sqlx::query(
        "WITH before AS (SELECT external_key FROM tenants WHERE tenant_id = $1 FOR UPDATE),
         changed AS (
             UPDATE tenants SET external_key = $2
             WHERE tenant_id = $1 AND external_key IS DISTINCT FROM $2 RETURNING tenant_id, key)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, before, after)
         SELECT tenant_id, $3, 'operator', $4, 'tenants set', key,
             json_build_object('external_key', (SELECT external_key FROM before))::text,
             json_build_object('external_key', $2)::text FROM changed",
    )
    .bind(tenant)
    .bind(external_key)
    .bind(Uuid::now_v7())
    .bind(operator())
    .execute(connection)
    .await;
    match done {
        Err(error)
            if error.as_database_error().is_some_and(|error| error.is_unique_violation()) =>
        {
            bail!("another tenant is called {:?} already", external_key.unwrap_or_default())
        }
        done => Ok(done?.rows_affected() == 1),
    }
}

/// Disables or enables a tenant, and records who did; false if it is so already.
pub async fn set_disabled(
    connection: &mut PgConnection,
    tenant: Uuid,
    disabled: bool,
) -> Result<bool> {
    let done = sqlx::query(
        "WITH changed AS (
             UPDATE tenants SET disabled_at = CASE WHEN $2 THEN clock_timestamp() END
             WHERE tenant_id = $1 AND (disabled_at IS NOT NULL) <> $2 RETURNING tenant_id, key)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, before, after)
         SELECT tenant_id, $3, 'operator', $4, CASE WHEN $2 THEN 'tenants disable' ELSE 'tenants enable' END, key,
             json_build_object('disabled', NOT $2)::text, json_build_object('disabled', $2)::text FROM changed",
    )
    .bind(tenant)
    .bind(disabled)
    .bind(Uuid::now_v7())
    .bind(operator())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
