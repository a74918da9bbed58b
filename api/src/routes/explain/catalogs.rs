//! What the catalogs that rated events say of them: what a charge was multiplied with, and the local time.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use domain::{money::Amount, pricing::Local, resolve::resolve};

use super::steps::Rated;
use crate::{
    auth::TenantScope,
    compiled::{self, Compiled},
    error::ApiError,
    state::Api,
    store::events::{EventRow, LineRow},
};

/// Catalogs by their numbers.
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
        Ok(Self(catalogs))
    }

    /// What the charge of a line was multiplied with; none for nothing.
    pub fn multiplier(&self, of: Rated<'_>, line: &LineRow) -> Option<Amount> {
        let compiled = self.get(of).filter(|compiled| !compiled.document.holders.is_empty())?;
        let (catalog, team) = (&compiled.catalog, Some(of.team));
        let chosen = resolve(catalog, team, &line.meter, &line.dimensions, of.time_us)?.chosen?;
        let same = *chosen.card.card == *line.card && chosen.card.version == line.card_version;
        chosen.multiplier.filter(|_| same)
    }

    /// What clocks showed in the zone of the team.
    pub fn local(&self, of: Rated<'_>) -> Option<Local> {
        let zone = self.get(of)?.catalog.zones.of(of.team, of.time_us);
        Some(Local::of(&zone.time_zone, of.time_us))
    }

    fn get(&self, of: Rated<'_>) -> Option<&Compiled> {
        self.0.get(&of.catalog_version.unsigned_abs()).map(|compiled| &**compiled)
    }
}
