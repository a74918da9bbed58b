//! All tenants' catalogs at one version, compiled.

use std::{collections::HashMap, sync::Arc};

use domain::catalog::Catalog;
use uuid::Uuid;

/// What every tenant's catalog is at a version. A tenant without any has an empty catalog: its
/// events are unmetered.
#[derive(Clone, Debug, Default)]
pub struct Catalogs {
    /// The newest version of any tenant in it.
    pub version: u64,
    /// Compiled catalogs by tenant.
    pub by_tenant: HashMap<Uuid, Arc<Catalog>>,
}

impl Catalogs {
    /// The tenant's catalog.
    #[must_use]
    pub fn of(&self, tenant: Uuid) -> Option<&Arc<Catalog>> {
        self.by_tenant.get(&tenant)
    }
}
