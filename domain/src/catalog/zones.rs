//! Zones: that of the catalog, and those of teams that have one of their own.

use std::sync::Arc;

use hashbrown::HashMap;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{CatalogDocument, Compiler};
use crate::{event::FIELD_BYTES_MAX, period, time};

/// Zones of teams in a catalog.
pub const TEAM_ZONES_MAX: usize = 100_000;

/// The zone of a team from some event time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamZone {
    /// The team.
    pub team: String,
    /// Its IANA name.
    pub zone: String,
    /// The first event time, microseconds since 1970 UTC; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its IANA name.
    pub name: Arc<str>,
    /// Its clock and calendar.
    pub time_zone: TimeZone,
}

impl Zone {
    fn named(name: &str) -> Option<Zone> {
        let time_zone = period::zone(name)?;
        Some(Zone { name: Arc::from(time_zone.iana_name().unwrap_or(name)), time_zone })
    }
}

/// The zones of a catalog.
#[derive(Clone, Debug)]
pub struct Zones {
    own: Zone,
    /// Of a team, with the first event time, ascending.
    of_teams: HashMap<String, Vec<(i64, Zone)>>,
}

/// UTC for all.
impl Default for Zones {
    fn default() -> Zones {
        let own = Zone { name: Arc::from("UTC"), time_zone: TimeZone::UTC };
        Zones { own, of_teams: HashMap::new() }
    }
}

impl Zones {
    /// The zone of a team that has none of its own.
    #[must_use]
    pub fn own(&self) -> &Zone {
        &self.own
    }

    /// The zone of a team at a time.
    #[must_use]
    pub fn of(&self, team: &str, time_us: i64) -> &Zone {
        if self.of_teams.is_empty() {
            return &self.own;
        }
        let zones = self.of_teams.get(team).map(Vec::as_slice).unwrap_or_default();
        let found = zones.iter().rev().find(|(from_us, _)| *from_us <= time_us);
        found.map_or(&self.own, |(_, zone)| zone)
    }

    /// When a team has a zone of its own by this name, or with an empty one none of its own: from the first time up to
    /// the second. `None` where it never does. A team has each zone once.
    #[must_use]
    pub fn span(&self, team: &str, name: &str) -> Option<(i64, i64)> {
        let zones = self.of_teams.get(team).map(Vec::as_slice).unwrap_or_default();
        let from_us = |number: usize| zones.get(number).map_or(i64::MAX, |(from_us, _)| *from_us);
        if name.is_empty() {
            return Some((i64::MIN, from_us(0))).filter(|(from_us, until_us)| from_us < until_us);
        }
        let number = zones.iter().position(|(_, zone)| &*zone.name == name)?;
        Some((from_us(number), from_us(number.saturating_add(1))))
    }

    /// The zones that teams have, each once.
    #[must_use]
    pub fn of_any_team(&self) -> Vec<&Zone> {
        let mut zones: Vec<&Zone> =
            self.of_teams.values().flatten().map(|(_, zone)| zone).collect();
        zones.sort_unstable_by(|one, two| one.name.cmp(&two.name));
        zones.dedup_by(|one, two| one.name == two.name);
        zones
    }
}

impl Compiler {
    pub(super) fn zones(&mut self, document: &CatalogDocument) {
        let unknown = |name: &str| {
            format!("there is no time zone `{name}`; give an IANA name such as `Europe/Berlin`")
        };
        if let Some(name) = &document.zone {
            match Zone::named(name) {
                Some(zone) => self.catalog.zones.own = zone,
                None => self.fault("zone".into(), unknown(name)),
            }
        }
        self.limit("team_zones", document.team_zones.len(), TEAM_ZONES_MAX);
        let mut known: HashMap<&str, Zone> = HashMap::new();
        for (index, of_team) in document.team_zones.iter().enumerate() {
            let place = |field: &str| format!("team_zones[{index}].{field}");
            if of_team.team.is_empty() || of_team.team.len() > FIELD_BYTES_MAX {
                let reason = format!("the key of a team has 1 to {FIELD_BYTES_MAX} bytes");
                self.fault(place("team"), reason);
            }
            let name = of_team.zone.as_str();
            let zone = match known.get(name) {
                Some(zone) => Some(zone.clone()),
                None => Zone::named(name),
            };
            let Some(zone) = zone else {
                self.fault(place("zone"), unknown(name));
                continue;
            };
            known.insert(name, zone.clone());
            let from_us = of_team.from_us.unwrap_or(i64::MIN);
            let zones = self.catalog.zones.of_teams.entry_ref(of_team.team.as_str()).or_default();
            let twice = if zones.iter().any(|(_, other)| other.name == zone.name) {
                Some(format!(
                    "`{}` has the zone `{}` already: a team has each once",
                    of_team.team, zone.name
                ))
            } else if zones.last().is_some_and(|(last_us, _)| *last_us >= from_us) {
                Some(match of_team.from_us {
                    None => {
                        "another zone of the team stands before it: say from when this one holds"
                            .to_owned()
                    }
                    Some(from_us) => format!(
                        "another zone of the team holds from then or later; list them in their order, the last from before {}",
                        time::format(from_us)
                    ),
                })
            } else {
                zones.push((from_us, zone));
                None
            };
            if let Some(reason) = twice {
                self.fault(place("from"), reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(zones: &str) -> CatalogDocument {
        serde_json::from_str(&format!(r#"{{"zone": "Europe/Berlin", "team_zones": {zones}}}"#))
            .unwrap()
    }

    #[test]
    fn a_team_has_its_zone_from_a_time_on() {
        let document = document(
            r#"[{"team": "a", "zone": "Asia/Tokyo", "from_us": 10}, {"team": "b", "zone": "America/New_York"},
                {"team": "a", "zone": "UTC", "from_us": 20}]"#,
        );
        let zones = document.compile().unwrap().zones;
        let of = |team, time_us| zones.of(team, time_us).name.to_string();
        let found =
            [of("a", 9), of("a", 10), of("a", 19), of("a", 20), of("b", i64::MIN), of("c", 0)];
        let want = [
            "Europe/Berlin",
            "Asia/Tokyo",
            "Asia/Tokyo",
            "UTC",
            "America/New_York",
            "Europe/Berlin",
        ];
        assert_eq!(found, want);
        assert_eq!(zones.span("a", ""), Some((i64::MIN, 10)));
        assert_eq!(zones.span("a", "Asia/Tokyo"), Some((10, 20)));
        assert_eq!(zones.span("a", "UTC"), Some((20, i64::MAX)));
        assert_eq!(zones.span("b", ""), None);
        assert_eq!(zones.span("b", "Asia/Tokyo"), None);
        assert_eq!(zones.span("c", ""), Some((i64::MIN, i64::MAX)));
        let names: Vec<&str> = zones.of_any_team().iter().map(|zone| &*zone.name).collect();
        assert_eq!(names, ["America/New_York", "Asia/Tokyo", "UTC"]);
    }

    #[test]
    fn what_cannot_be_a_zone_of_a_team_is_a_fault() {
        for (zones, place) in [
            (r#"[{"team": "a", "zone": "Mars/Olympus"}]"#, "team_zones[0].zone"),
            (r#"[{"team": "", "zone": "UTC"}]"#, "team_zones[0].team"),
            (
                r#"[{"team": "a", "zone": "UTC"}, {"team": "a", "zone": "Asia/Tokyo"}]"#,
                "team_zones[1].from",
            ),
            (
                r#"[{"team": "a", "zone": "UTC", "from_us": 5}, {"team": "a", "zone": "Asia/Tokyo", "from_us": 5}]"#,
                "team_zones[1].from",
            ),
            (
                r#"[{"team": "a", "zone": "UTC", "from_us": 5}, {"team": "a", "zone": "UTC", "from_us": 6}]"#,
                "team_zones[1].from",
            ),
        ] {
            let faults = document(zones).faults();
            let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
            assert_eq!(places, [place], "{faults:?}");
        }
    }
}
