//! Zones: that of the catalog, and those of teams that have one of their own.

use std::sync::Arc;

use hashbrown::HashMap;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{CatalogDocument, Compiler};
use crate::{
    event::FIELD_BYTES_MAX,
    period::{self, Period},
    time,
};

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
    /// Those that teams have, each once.
    named: Vec<Zone>,
}

/// UTC for all.
impl Default for Zones {
    fn default() -> Zones {
        let own = Zone { name: Arc::from("UTC"), time_zone: TimeZone::UTC };
        Zones { own, of_teams: HashMap::new(), named: Vec::new() }
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
        self.of_team(team, time_us).unwrap_or(&self.own)
    }

    /// The name of the zone that a team has of its own at a time; empty where it has none.
    #[must_use]
    pub fn name_of(&self, team: &str, time_us: i64) -> &str {
        self.of_team(team, time_us).map_or("", |zone| &zone.name)
    }

    fn of_team(&self, team: &str, time_us: i64) -> Option<&Zone> {
        if self.of_teams.is_empty() {
            return None;
        }
        let zones = self.of_teams.get(team)?;
        zones.iter().rev().find(|(from_us, _)| *from_us <= time_us).map(|(_, zone)| zone)
    }

    /// The part of a period in which a team has a zone of its own by this name, or with an empty one none of its own;
    /// `None` where it never does. A team has each zone once.
    #[must_use]
    pub fn part(&self, team: &str, name: &str, period: Period) -> Option<Period> {
        let zones = self.of_teams.get(team).map(Vec::as_slice).unwrap_or_default();
        let from_us = |number: usize| zones.get(number).map_or(i64::MAX, |(from_us, _)| *from_us);
        let (from_us, until_us) = if name.is_empty() {
            (i64::MIN, from_us(0))
        } else {
            let number = zones.iter().position(|(_, zone)| &*zone.name == name)?;
            (from_us(number), from_us(number.saturating_add(1)))
        };
        let (start_us, end_us) = (period.start_us.max(from_us), period.end_us.min(until_us));
        (start_us < end_us).then_some(Period { start_us, end_us, ..period })
    }

    /// The zones that teams may have, each with the name that it has of its own: first that of the catalog, without.
    pub fn each(&self) -> impl Iterator<Item = (&str, &Zone)> {
        let named = self.named.iter().map(|zone| (&*zone.name, zone));
        std::iter::once(("", &self.own)).chain(named)
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
        for (index, of_team) in document.team_zones.iter().enumerate() {
            let place = |field: &str| format!("team_zones[{index}].{field}");
            if of_team.team.is_empty() || of_team.team.len() > FIELD_BYTES_MAX {
                let reason = format!("the key of a team has 1 to {FIELD_BYTES_MAX} bytes");
                self.fault(place("team"), reason);
            }
            let name = of_team.zone.as_str();
            let Some(zone) = self.named_zone(name) else {
                self.fault(place("zone"), unknown(name));
                continue;
            };
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

impl Compiler {
    /// A zone that teams have, read once.
    fn named_zone(&mut self, name: &str) -> Option<Zone> {
        let named = &mut self.catalog.zones.named;
        if let Some(known) = named.iter().find(|zone| &*zone.name == name) {
            return Some(known.clone());
        }
        let zone = Zone::named(name)?;
        // A second name of a zone is none of its own.
        if !named.contains(&zone) {
            named.push(zone.clone());
        }
        Some(zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::period::PeriodKind;

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
        let part = |team, name| {
            let whole = Period { kind: PeriodKind::Ever, start_us: 5, end_us: 25 };
            zones.part(team, name, whole).map(|part| (part.start_us, part.end_us))
        };
        assert_eq!(part("a", ""), Some((5, 10)));
        assert_eq!(part("a", "Asia/Tokyo"), Some((10, 20)));
        assert_eq!(part("a", "UTC"), Some((20, 25)));
        assert_eq!((part("b", ""), part("b", "Asia/Tokyo")), (None, None));
        assert_eq!(part("c", ""), Some((5, 25)));
        assert_eq!(
            ["a", "b", "c"].map(|team| zones.name_of(team, 10)),
            ["Asia/Tokyo", "America/New_York", ""]
        );
        let each: Vec<(&str, &str)> =
            zones.each().map(|(name, zone)| (name, &*zone.name)).collect();
        let want = ["Asia/Tokyo", "America/New_York", "UTC"].map(|name| (name, name));
        assert_eq!(each, [&[("", "Europe/Berlin")], want.as_slice()].concat());
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
