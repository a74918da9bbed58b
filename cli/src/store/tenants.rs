//! Tenants, as far as the command line needs them.

use anyhow::{Context as _, Result};
use sqlx::PgConnection;
use uuid::Uuid;

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
