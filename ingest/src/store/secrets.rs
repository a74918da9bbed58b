//! Secrets of apps, decrypted.

use std::{collections::HashMap, sync::Arc};

use runtime::{
    keys::MasterKeys,
    postgres::{Pool, PostgresError},
};
use uuid::Uuid;

use super::Tenant;
use crate::limits::Limit;

/// A secret with which an app signs tokens.
pub struct AppSecret {
    /// Its public id, which a token may name as `kid`.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// The app that signs with it.
    pub app: Arc<str>,
    /// What its tokens may do at most.
    pub scopes: Vec<String>,
    /// From when on it is none.
    pub expires_us: Option<i64>,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
    /// How fast its tokens may report usage, all together.
    pub limit: Option<Limit>,
    /// The secret; `None` where this process has not its master key.
    pub secret: Option<Vec<u8>>,
}

impl std::fmt::Debug for AppSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AppSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct SecretRow {
    tenant_id: Uuid,
    secret_id: String,
    app: String,
    scopes: Vec<String>,
    sealed: Vec<u8>,
    master_key_id: String,
    expires_us: Option<i64>,
    revoked_us: Option<i64>,
}

/// All that have not been revoked for a day: a revoked one is told like one that never was.
pub(super) async fn rows(pool: &Pool) -> Result<Vec<SecretRow>, PostgresError> {
    let sql = "SELECT tenant_id, secret_id, app, scopes, sealed, master_key_id,
            (extract(epoch FROM greatest('1970-01-01', least('2999-01-01', expires_at))) * 1000000)::bigint
                + CASE WHEN expires_at IS NULL THEN NULL ELSE 0 END AS expires_us,
            (extract(epoch FROM greatest('1970-01-01', least('2999-01-01', revoked_at))) * 1000000)::bigint
                + CASE WHEN revoked_at IS NULL THEN NULL ELSE 0 END AS revoked_us
        FROM app_secrets WHERE revoked_at IS NULL OR revoked_at > clock_timestamp() - interval '1 day'
        ORDER BY tenant_id, created_at";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

type Named = HashMap<Box<str>, Vec<Arc<AppSecret>>>;

/// By public id, and those that have not ended by the app's name.
pub(super) fn by_id_and_app(
    rows: Vec<SecretRow>,
    tenants: &HashMap<Uuid, Arc<Tenant>>,
    limits: &HashMap<(Uuid, Box<str>), Limit>,
    master_keys: Option<&MasterKeys>,
    database_us: i64,
) -> (Named, Named) {
    let (mut by_id, mut by_app) = (Named::new(), Named::new());
    for row in rows {
        let Some(tenant) = tenants.get(&row.tenant_id) else { continue };
        let context = domain::token::secret_context(row.tenant_id, &row.secret_id);
        let secret =
            master_keys.and_then(|keys| keys.open(&row.master_key_id, &context, &row.sealed).ok());
        let ended = |end: Option<i64>| end.is_some_and(|end| end <= database_us);
        let live = !ended(row.expires_us) && !ended(row.revoked_us);
        let secret = Arc::new(AppSecret {
            tenant: Arc::clone(tenant),
            app: row.app.into(),
            scopes: row.scopes,
            expires_us: row.expires_us,
            revoked_us: row.revoked_us,
            limit: limits.get(&(row.tenant_id, row.secret_id.as_str().into())).copied(),
            id: row.secret_id.into(),
            secret,
        });
        by_id.entry(Box::from(&*secret.id)).or_default().push(Arc::clone(&secret));
        if live {
            by_app.entry(Box::from(&*secret.app)).or_default().push(secret);
        }
    }
    (by_id, by_app)
}
