//! Catalogs by version, compiled once per process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use domain::catalog::{Catalog, CatalogDocument};
use runtime::postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::catalogs::Catalogs;

type Compiled = HashMap<(Uuid, u64), Arc<Catalog>>;

/// Compiled catalogs of a process: published versions never change, so each is read once.
#[derive(Clone)]
pub struct CatalogStore {
    pool: Pool,
    compiled: Arc<Mutex<Compiled>>,
}

impl CatalogStore {
    /// A store that reads from `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> CatalogStore {
        CatalogStore { pool, compiled: Arc::default() }
    }

    /// All tenants' catalogs as of a version.
    pub async fn at(&self, version: u64) -> Result<Catalogs, PostgresError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT tenant_id, max(catalog_version) FROM catalog_versions WHERE catalog_version <= $1 GROUP BY tenant_id",
        )
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let mut by_tenant = HashMap::with_capacity(rows.len());
        for (tenant, newest) in rows {
            by_tenant.insert(tenant, self.one(tenant, u64::try_from(newest).unwrap_or(0)).await?);
        }
        Ok(Catalogs { version, by_tenant })
    }

    async fn one(&self, tenant: Uuid, version: u64) -> Result<Arc<Catalog>, PostgresError> {
        let known = self
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(tenant, version))
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let catalog = Arc::new(self.read(tenant, version).await?);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(compiled.entry((tenant, version)).or_insert(catalog)))
    }

    async fn read(&self, tenant: Uuid, version: u64) -> Result<Catalog, PostgresError> {
        let document: String = sqlx::query_scalar(
            "SELECT document FROM catalog_versions WHERE tenant_id = $1 AND catalog_version = $2",
        )
        .bind(tenant)
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .fetch_one(&self.pool)
        .await?;
        let broken = |what: String| {
            PostgresError::Broken(format!("catalog version {version} of tenant {tenant}: {what}"))
        };
        let document: CatalogDocument =
            serde_json::from_str(&document).map_err(|error| broken(error.to_string()))?;
        document.compile().map_err(|faults| broken(format!("{faults:?}")))
    }
}
