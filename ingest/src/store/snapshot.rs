//! One load of everything, and its age by the database's clock.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use domain::event::IdentityKey;
use runtime::{
    keys::MasterKeys,
    postgres::{Pool, PostgresError},
};
use uuid::Uuid;

use super::{
    limits,
    secrets::{self, AppSecret},
};
use crate::limits::Limit;

/// What was known at one moment.
pub struct Snapshot {
    /// When it was asked for.
    pub loaded_at: Instant,
    /// The database's time then.
    pub database_us: i64,
    /// The installation's key of identities.
    pub identity_key: IdentityKey,
    /// Partitions of every topic.
    pub partitions: u32,
    /// Tenants by their keys.
    pub tenants: HashMap<Box<str>, Arc<Tenant>>,
    /// API keys by public id, which two tenants could share.
    pub keys: HashMap<Box<str>, Vec<Key>>,
    /// Secrets of apps by public id.
    pub secrets: HashMap<Box<str>, Vec<Arc<AppSecret>>>,
    /// Secrets of apps that have not ended, by the app's name, which tenants may share.
    pub secrets_of_app: HashMap<Box<str>, Vec<Arc<AppSecret>>>,
    /// Whether this process has a master key.
    pub reads_secrets: bool,
    /// Limits by tenant and public id of a credential; of the tenant itself with an empty one.
    pub limits: HashMap<(Uuid, Box<str>), Limit>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Snapshot").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// An API key.
#[derive(Clone)]
pub struct Key {
    /// Its public id.
    pub id: Arc<str>,
    /// SHA-256 of its secret.
    pub secret_hash: Vec<u8>,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// The app that it belongs to.
    pub app: Option<Arc<str>>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// From when on it is none.
    pub expires_us: Option<i64>,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
    /// How fast it may report usage.
    pub limit: Option<Limit>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who sells.
#[derive(Debug, Default)]
pub struct Tenant {
    /// Its id.
    pub id: Uuid,
    /// Its key.
    pub key: String,
    /// What its own systems call it.
    pub external_key: Option<String>,
    /// Subjects that stand for a team of another name.
    pub aliases: HashMap<Box<str>, Alias>,
    /// Its apps.
    pub apps: HashSet<Arc<str>>,
    /// Its backfills that are open.
    pub backfills: HashSet<Box<str>>,
    /// Whether nothing is taken from it for now.
    pub disabled: bool,
}

impl Tenant {
    /// Whether a name is the tenant's own.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        name == self.key
            || self.external_key.as_deref() == Some(name)
            || Uuid::try_parse(name).is_ok_and(|id| id == self.id)
    }
}

/// Another name of a team.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The team.
    pub team: Arc<str>,
    /// Whether it is not known yet if the subject has usage of its own. Until then it can get none.
    pub waiting: bool,
}

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres did not answer, or refused.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The database holds no installation.
    #[error("the database has no installation; run `weir migrate`")]
    NoInstallation,
    /// The installation's row holds what it cannot hold.
    #[error("the installation's {0} is not one; restore the database")]
    Installation(&'static str),
}

impl Snapshot {
    /// What a process knows that has asked nobody: no tenant, no key, no limit.
    #[must_use]
    pub fn empty(identity_key: IdentityKey, partitions: u32, database_us: i64) -> Snapshot {
        Snapshot {
            loaded_at: Instant::now(),
            database_us,
            identity_key,
            partitions,
            tenants: HashMap::new(),
            keys: HashMap::new(),
            secrets: HashMap::new(),
            secrets_of_app: HashMap::new(),
            reads_secrets: false,
            limits: HashMap::new(),
        }
    }

    /// The database's time now. It counts from before the question, so it is never behind.
    #[must_use]
    pub fn database_now_us(&self) -> i64 {
        let since_us = i64::try_from(self.loaded_at.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.database_us.saturating_add(since_us)
    }
}

/// Loads everything. Keys and secrets come before tenants, so that none is without its tenant.
pub async fn load(pool: &Pool, master_keys: Option<&MasterKeys>) -> Result<Snapshot, StoreError> {
    let loaded_at = Instant::now();
    let (identity_key, partitions, database_us) =
        installation(pool).await?.ok_or(StoreError::NoInstallation)?;
    let keys = api_keys(pool).await?;
    let secrets = secrets::rows(pool).await?;
    let limits = limits::all(pool).await?;
    let tenants = load_tenants(pool).await?;
    let (secrets, secrets_of_app) =
        secrets::by_id_and_app(secrets, &tenants, &limits, master_keys, database_us);
    Ok(Snapshot {
        loaded_at,
        database_us,
        identity_key: IdentityKey(
            identity_key.try_into().map_err(|_| StoreError::Installation("identity key"))?,
        ),
        partitions: u32::try_from(partitions)
            .map_err(|_| StoreError::Installation("number of partitions"))?,
        tenants: tenants
            .values()
            .map(|tenant| (tenant.key.as_str().into(), Arc::clone(tenant)))
            .collect(),
        keys: keys_by_id(keys, &tenants, &limits),
        secrets,
        secrets_of_app,
        reads_secrets: master_keys.is_some(),
        limits,
    })
}

fn keys_by_id(
    rows: Vec<KeyRow>,
    tenants: &HashMap<Uuid, Arc<Tenant>>,
    limits: &HashMap<(Uuid, Box<str>), Limit>,
) -> HashMap<Box<str>, Vec<Key>> {
    let mut by_id: HashMap<Box<str>, Vec<Key>> = HashMap::with_capacity(rows.len());
    for (tenant, id, secret_hash, app, scopes, expires_us, revoked_us) in rows {
        let limit = limits.get(&(tenant, id.as_str().into())).copied();
        let Some(tenant) = tenants.get(&tenant) else { continue };
        let (id, tenant, app): (Arc<str>, _, _) =
            (id.into(), Arc::clone(tenant), app.map(Arc::from));
        let key = Key {
            id: Arc::clone(&id),
            secret_hash,
            tenant,
            app,
            scopes,
            expires_us,
            revoked_us,
            limit,
        };
        by_id.entry(Box::from(&*id)).or_default().push(key);
    }
    by_id
}

async fn load_tenants(pool: &Pool) -> Result<HashMap<Uuid, Arc<Tenant>>, PostgresError> {
    let mut aliases = aliases_by_tenant(pool).await?;
    let mut apps = apps_by_tenant(pool).await?;
    let mut backfills = backfills_by_tenant(pool).await?;
    let tenants = tenants(pool).await?.into_iter().map(|(id, key, external_key, disabled)| {
        let aliases = aliases.remove(&id).unwrap_or_default();
        let apps = apps.remove(&id).unwrap_or_default();
        let backfills = backfills.remove(&id).unwrap_or_default();
        (id, Arc::new(Tenant { id, key, external_key, aliases, apps, backfills, disabled }))
    });
    Ok(tenants.collect())
}

async fn installation(pool: &Pool) -> Result<Option<(Vec<u8>, i32, i64)>, PostgresError> {
    let sql = "SELECT identity_key, partitions, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM installation";
    Ok(sqlx::query_as(sql).fetch_optional(pool).await?)
}

type KeyRow = (Uuid, String, Vec<u8>, Option<String>, Vec<String>, Option<i64>, Option<i64>);

/// Infinite times become the ends of what we count with.
async fn api_keys(pool: &Pool) -> Result<Vec<KeyRow>, PostgresError> {
    let sql = "SELECT tenant_id, key_id, secret_hash, app, scopes,
            (extract(epoch FROM greatest('1970-01-01', least('2999-01-01', expires_at))) * 1000000)::bigint
                + CASE WHEN expires_at IS NULL THEN NULL ELSE 0 END,
            (extract(epoch FROM greatest('1970-01-01', least('2999-01-01', revoked_at))) * 1000000)::bigint
                + CASE WHEN revoked_at IS NULL THEN NULL ELSE 0 END
        FROM api_keys";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

async fn tenants(pool: &Pool) -> Result<Vec<(Uuid, String, Option<String>, bool)>, PostgresError> {
    let sql = "SELECT tenant_id, key, external_key, disabled_at IS NOT NULL FROM tenants";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

async fn apps_by_tenant(pool: &Pool) -> Result<HashMap<Uuid, HashSet<Arc<str>>>, PostgresError> {
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("SELECT tenant_id, app FROM apps").fetch_all(pool).await?;
    let mut apps: HashMap<Uuid, HashSet<Arc<str>>> = HashMap::new();
    for (tenant, app) in rows {
        apps.entry(tenant).or_default().insert(app.into());
    }
    Ok(apps)
}

async fn backfills_by_tenant(
    pool: &Pool,
) -> Result<HashMap<Uuid, HashSet<Box<str>>>, PostgresError> {
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("SELECT tenant_id, backfill FROM backfills WHERE state = 'open'")
            .fetch_all(pool)
            .await?;
    let mut backfills: HashMap<Uuid, HashSet<Box<str>>> = HashMap::new();
    for (tenant, backfill) in rows {
        backfills.entry(tenant).or_default().insert(backfill.into());
    }
    Ok(backfills)
}

async fn aliases_by_tenant(
    pool: &Pool,
) -> Result<HashMap<Uuid, HashMap<Box<str>, Alias>>, PostgresError> {
    let sql = "SELECT tenant_id, alias, team, waiting FROM team_aliases";
    let rows: Vec<(Uuid, String, String, bool)> = sqlx::query_as(sql).fetch_all(pool).await?;
    let mut aliases: HashMap<Uuid, HashMap<Box<str>, Alias>> = HashMap::new();
    for (tenant, alias, team, waiting) in rows {
        let alias_of = Alias { team: team.into(), waiting };
        aliases.entry(tenant).or_default().insert(alias.into(), alias_of);
    }
    Ok(aliases)
}
