//! Compiled catalogs, each made once: a published version never changes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use domain::catalog::{Catalog, CatalogDocument};
use runtime::postgres::scoped;
use uuid::Uuid;

use crate::{
    auth::TenantScope,
    error::ApiError,
    routes::catalog,
    state::Api,
    store::{
        catalog::{newest_version, of_version as stored},
        corrected::Corrected,
    },
};

/// A published catalog.
pub(crate) struct Compiled {
    /// Its number, counted over all tenants; 0 before anything was published.
    pub version: u64,
    /// As it was published.
    pub document: CatalogDocument,
    /// As rating reads it.
    pub catalog: Catalog,
}

/// The newest one of each tenant that was asked for.
#[derive(Default)]
pub(crate) struct CompiledCatalogs(Mutex<HashMap<Uuid, Arc<Compiled>>>);

impl CompiledCatalogs {
    fn known(&self, tenant: TenantScope) -> Option<Arc<Compiled>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&tenant.id()).cloned()
    }

    fn keep(&self, tenant: TenantScope, compiled: Arc<Compiled>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.id(), compiled);
    }
}

/// The newest published catalog of a tenant.
pub(crate) async fn newest(api: &Api, tenant: TenantScope) -> Result<Arc<Compiled>, ApiError> {
    let version = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        newest_version(&mut transaction, tenant).await
    })
    .await?;
    if let Some(known) = api.catalogs.known(tenant).filter(|known| known.version >= version) {
        return Ok(known);
    }
    let (document, version, _) = catalog::load(api, tenant).await?;
    let compiled = compile(document, version).await?;
    api.catalogs.keep(tenant, Arc::clone(&compiled));
    Ok(compiled)
}

/// A published catalog of a tenant by its number, which is not kept; the empty one for 0.
pub(crate) async fn of_version(
    api: &Api,
    tenant: TenantScope,
    version: u64,
) -> Result<Arc<Compiled>, ApiError> {
    let text = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        stored(&mut transaction, tenant, version).await
    })
    .await?;
    let document = text.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| {
        ApiError::Internal(format!("catalog version {version} cannot be read: {error}"))
    })?;
    compile(document.unwrap_or_default(), version).await
}

/// Adds the catalogs that rated events first and last to those that are `known`.
pub(crate) async fn of_events(
    api: &Api,
    tenant: TenantScope,
    events: &[Corrected],
    known: &mut HashMap<i64, Arc<Compiled>>,
) -> Result<(), ApiError> {
    for event in events {
        let effective = event.effective().map(|event| event.catalog_version);
        for number in [Some(event.first.catalog_version), effective].into_iter().flatten() {
            if let Entry::Vacant(place) = known.entry(number) {
                let version = u64::try_from(number).unwrap_or(0);
                place.insert(of_version(api, tenant, version).await?);
            }
        }
    }
    Ok(())
}

/// Compiles a document; 0 is the version of one that is not published.
pub(crate) async fn compile(
    document: CatalogDocument,
    version: u64,
) -> Result<Arc<Compiled>, ApiError> {
    let faults = |faults| ApiError::Internal(format!("catalog version {version}: {faults:?}"));
    let compiled = runtime::task::blocking(move || {
        document.compile().map(|catalog| Compiled { version, document, catalog })
    })
    .await
    .map_err(|error| ApiError::Internal(error.to_string()))?
    .map_err(faults)?;
    Ok(Arc::new(compiled))
}
