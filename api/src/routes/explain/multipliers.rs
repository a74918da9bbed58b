//! What charges were multiplied with, by the catalogs that rated their events.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use domain::{money::Amount, resolve::resolve};

use crate::{
    auth::TenantScope,
    compiled::{self, Compiled},
    error::ApiError,
    state::Api,
    store::events::{EventRow, LineRow},
};

/// Catalogs by their numbers, as far as teams hold offers in them.
pub(super) struct Catalogs(BTreeMap<u64, Arc<Compiled>>);

impl Catalogs {
    /// Those that rated these events. A page of a journal has few: it was posted within a moment.
    pub async fn of(
        api: &Api,
        tenant: TenantScope,
        newest: &Arc<Compiled>,
        events: &[EventRow],
    ) -> Result<Self, ApiError> {
        let mut catalogs = BTreeMap::from([(newest.version, Arc::clone(newest))]);
        for event in events {
            let version = event.catalog_version.unsigned_abs();
            if let Entry::Vacant(place) = catalogs.entry(version) {
                place.insert(compiled::of_version(api, tenant, version).await?);
            }
        }
        catalogs.retain(|_, compiled| !compiled.document.holders.is_empty());
        Ok(Self(catalogs))
    }

    /// What the charge of a line was multiplied with; none for nothing.
    pub fn multiplier(&self, version: i64, team: &str, line: &LineRow, us: i64) -> Option<Amount> {
        let catalog = &self.0.get(&version.unsigned_abs())?.catalog;
        let chosen = resolve(catalog, Some(team), &line.meter, &line.dimensions, us)?.chosen?;
        let same = *chosen.card.card == *line.card && chosen.card.version == line.card_version;
        chosen.multiplier.filter(|_| same)
    }
}
