//! Secrets of apps, when their master key is replaced.

use anyhow::Result;
use sqlx::PgConnection;
use uuid::Uuid;

use super::keys::operator;

/// A stored secret.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredSecret {
    /// Whose it is.
    pub tenant_id: Uuid,
    /// Its public id.
    pub secret_id: String,
    /// Nonce and ciphertext.
    pub sealed: Vec<u8>,
    /// The master key that it is encrypted under.
    pub master_key_id: String,
}

/// All secrets that are not under the master key `newest`, revoked ones included.
pub async fn under_others(
    connection: &mut PgConnection,
    newest: &str,
) -> Result<Vec<StoredSecret>> {
    let sql = "SELECT tenant_id, secret_id, sealed, master_key_id FROM app_secrets WHERE master_key_id <> $1";
    Ok(sqlx::query_as(sql).bind(newest).fetch_all(connection).await?)
}

/// At most `limit` secrets that have not ended, the newest first.
pub async fn live(connection: &mut PgConnection, limit: i64) -> Result<Vec<StoredSecret>> {
    let sql = "SELECT tenant_id, secret_id, sealed, master_key_id FROM app_secrets
        WHERE revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), true) ORDER BY created_at DESC LIMIT $1";
    Ok(sqlx::query_as(sql).bind(limit).fetch_all(connection).await?)
}

/// Stores a secret anew, and records who did; false if somebody else did so meanwhile.
pub async fn replace(
    connection: &mut PgConnection,
    old: &StoredSecret,
    sealed: &[u8],
    master_key_id: &str,
) -> Result<bool> {
    let done = sqlx::query(
        "WITH changed AS (
             UPDATE app_secrets SET sealed = $4, master_key_id = $5
             WHERE tenant_id = $1 AND secret_id = $2 AND sealed = $3 RETURNING tenant_id, secret_id)
         INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, action, target, before, after)
         SELECT tenant_id, $6, 'operator', $7, 'keys seal', secret_id,
             json_build_object('master_key_id', $8)::text, json_build_object('master_key_id', $5)::text FROM changed",
    )
    .bind(old.tenant_id)
    .bind(&old.secret_id)
    .bind(&old.sealed)
    .bind(sealed)
    .bind(master_key_id)
    .bind(Uuid::now_v7())
    .bind(operator())
    .bind(&old.master_key_id)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
