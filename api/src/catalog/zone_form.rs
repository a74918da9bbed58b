//! Zones of teams as the outside sees them.

use domain::{
    catalog::{Fault, TeamZone},
    time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The zone of a team.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeamZone)]
pub(crate) struct TeamZoneForm {
    /// The team.
    team: String,
    /// Its IANA name.
    #[schema(example = "Asia/Tokyo")]
    zone: String,
    /// From which event time it holds, RFC 3339; absent for ever. Before it, the team has the zone that stands before
    /// this one, or that of the catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

impl TeamZoneForm {
    /// The zone inside, which is number `index`.
    pub fn inside(self, index: usize, faults: &mut Vec<Fault>) -> TeamZone {
        let from_us = self.from.as_deref().map(|text| {
            time::parse(text).unwrap_or_else(|error| {
                let place = format!("team_zones[{index}].from");
                let reason = format!("{error}; write it like 2026-01-31T00:00:00Z");
                faults.push(Fault { place, reason });
                0
            })
        });
        TeamZone { team: self.team, zone: self.zone, from_us }
    }

    /// The zone as the outside sees it.
    pub fn outside(of_team: &TeamZone) -> Self {
        Self {
            team: of_team.team.clone(),
            zone: of_team.zone.clone(),
            from: of_team.from_us.map(time::format),
        }
    }
}
