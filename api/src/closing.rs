//! What closes a period of a meter that does not add up: an event for each team and each of its combinations of
//! dimensions, which says what the period came to and is priced as any other. Pure.
//!
//! Its id is made of meter, period and dimensions, so that it takes effect once however often it is sent; what
//! changes later amends it.

use std::collections::BTreeMap;

use domain::{
    catalog::Catalog,
    event::{IdentityKey, IdentityParts},
    meter::{Aggregation, CLOSING_SOURCE, CLOSING_TYPE, HeldFor, MeterDefinition},
    period::Period,
    preview::{Data, EventText, Hypothetical, PreviewError, PreviewLine, preview},
    quantity::Quantity,
    rating::Totals,
    time,
    wire::block::BlockWriter,
};
use serde::{Deserialize, de::Error as _};
use serde_json::json;
use uuid::Uuid;

use crate::{error::ApiError, store::corrected::StoredEvent};

/// How what was observed in a period becomes its quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Max,
    Min,
    Average,
    Latest,
    Unique,
    /// What was held, times how long, in parts of so many microseconds; of numbers that say what is held, or by how much
    /// that changes.
    TimeWeighted {
        divisor_us: i64,
        changes: bool,
    },
}

impl Measure {
    /// That of a meter in a period; `None` of one that adds up.
    pub fn of(meter: &MeterDefinition, period: &Period) -> Option<Measure> {
        Some(match meter.aggregation {
            Aggregation::Count | Aggregation::Sum => return None,
            Aggregation::Max => Measure::Max,
            Aggregation::Min => Measure::Min,
            Aggregation::Average => Measure::Average,
            Aggregation::Latest => Measure::Latest,
            Aggregation::Unique => Measure::Unique,
            Aggregation::TimeWeighted => Measure::TimeWeighted {
                divisor_us: match meter.held_for? {
                    HeldFor::Hour => 3_600_000_000,
                    HeldFor::Day => 86_400_000_000,
                    HeldFor::Period => period.end_us.saturating_sub(period.start_us).max(1),
                },
                changes: meter.changes,
            },
        })
    }
}

/// What a team's period came to, as the archive counts it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Counted {
    pub team: String,
    /// An object of texts.
    #[serde(deserialize_with = "object")]
    pub dimensions: BTreeMap<String, String>,
    whole: String,
    rest: String,
    parts: String,
    /// How much of it was observed in the period itself.
    #[serde(deserialize_with = "crate::store::events::number")]
    pub observations: i64,
}

fn object<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl Counted {
    /// Of a team of which nothing is left.
    pub fn nothing(team: String, dimensions: BTreeMap<String, String>) -> Counted {
        let [whole, rest, parts] = ["0", "0", "1"].map(str::to_owned);
        Counted { team, dimensions, whole, rest, parts, observations: 0 }
    }

    /// The quantity, rounded half to even at twelve decimals; `None` where it is not below 10¹⁵.
    pub fn quantity(&self) -> Option<Quantity> {
        let [whole, rest, parts]: [i128; 3] =
            [self.whole.parse().ok()?, self.rest.parse().ok()?, self.parts.parse().ok()?];
        let twice = rest.unsigned_abs().checked_mul(2)?;
        let away = match twice.cmp(&parts.unsigned_abs()) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => whole % 2 != 0,
            std::cmp::Ordering::Greater => true,
        };
        Quantity::from_raw(if away { whole.checked_add(rest.signum())? } else { whole })
    }
}

/// What an event that closes a period says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closing<'a> {
    pub meter: &'a MeterDefinition,
    pub period: Period,
    /// The zone that the team has of its own; empty where it has none.
    pub zone: &'a str,
    pub team: &'a str,
    pub dimensions: &'a BTreeMap<String, String>,
    pub quantity: Quantity,
}

/// The event type that closes periods of a meter.
pub(crate) fn closing_type(meter: &str) -> String {
    format!("{CLOSING_TYPE}{meter}")
}

impl Closing<'_> {
    /// When it happens: at the last moment of its period, whose prices hold for it.
    pub fn time_us(&self) -> i64 {
        self.period.end_us.saturating_sub(1)
    }

    fn id(&self) -> String {
        let start = time::format(self.period.start_us);
        let dimensions = json!(self.dimensions).to_string();
        let hash = blake3::hash(dimensions.as_bytes()).to_hex();
        match self.zone {
            "" => format!("{}/{start}/{hash}", self.meter.key),
            zone => format!("{}/{start}/{hash}/{zone}", self.meter.key),
        }
    }

    /// Its text.
    pub fn text(&self) -> String {
        let mut data = json!({
            "meter": self.meter.key,
            "aggregation": self.meter.aggregation.name(),
            "from": time::format(self.period.start_us),
            "to": time::format(self.period.end_us),
            "quantity": self.quantity.to_string(),
            "dimensions": self.dimensions,
        });
        if let Some(data) = data.as_object_mut().filter(|_| !self.zone.is_empty()) {
            data.insert("zone".to_owned(), json!(self.zone));
        }
        json!({
            "id": self.id(),
            "source": CLOSING_SOURCE,
            "type": closing_type(&self.meter.key),
            "subject": self.team,
            "time": time::format(self.time_us()),
            "data": data,
        })
        .to_string()
    }

    /// What it would be charged, by a catalog and with these running totals of its team.
    pub fn priced(
        &self,
        catalog: &Catalog,
        totals: &dyn Totals,
    ) -> Result<Vec<PreviewLine>, PreviewError> {
        let (text, event_type) = (self.text(), closing_type(&self.meter.key));
        let asked = Hypothetical {
            event_type: &event_type,
            source: CLOSING_SOURCE,
            team: self.team,
            user: None,
            app: None,
            feature: None,
            time_us: self.time_us(),
            data: &Data::of_event(&text)?,
        };
        preview(catalog, totals, &asked).map(|(_, lines)| lines)
    }

    /// Appends it to a block, as ingest would.
    pub fn push(
        &self,
        tenant: Uuid,
        identity_key: &IdentityKey,
        writer: &mut BlockWriter,
    ) -> Result<(), ApiError> {
        let (id, text) = (self.id(), self.text());
        let data = Data::of_event(&text).map_err(|error| ApiError::Internal(error.to_string()))?;
        let event_type = closing_type(&self.meter.key);
        let parts = IdentityParts { tenant, subject: self.team, source: CLOSING_SOURCE, id: &id };
        let event = EventText {
            tenant,
            team: self.team,
            subject: self.team,
            source: CLOSING_SOURCE,
            event_type: &event_type,
            user: None,
            app: None,
            key: None,
            feature: None,
            id: &id,
            identity: identity_key.identity(&parts),
            content: data.content(&event_type, self.team),
            time_us: Some(self.time_us()),
            data: &data,
        };
        event.push(writer);
        Ok(())
    }
}

/// What an event said that closed a period.
pub(crate) struct Said {
    pub dimensions: BTreeMap<String, String>,
    /// The zone that the team had of its own; empty where it had none.
    pub zone: String,
    pub quantity: Quantity,
}

/// Reads an event that closed a period.
pub(crate) fn read(event: &StoredEvent) -> Result<Said, ApiError> {
    #[derive(Deserialize)]
    struct Event {
        data: Closed,
    }
    #[derive(Deserialize)]
    struct Closed {
        quantity: String,
        dimensions: BTreeMap<String, String>,
        #[serde(default)]
        zone: String,
    }
    let unread = |error: &dyn std::fmt::Display| {
        ApiError::Internal(format!("what closed a period cannot be read: {error}"))
    };
    let Event { data } = serde_json::from_str(&event.raw).map_err(|error| unread(&error))?;
    let (quantity, _) = Quantity::parse(&data.quantity).map_err(|error| unread(&error))?;
    Ok(Said { dimensions: data.dimensions, zone: data.zone, quantity })
}

#[cfg(test)]
mod tests {
    use domain::{catalog::CatalogDocument, period::PeriodKind};

    use super::*;

    fn counted(whole: &str, rest: &str, parts: &str) -> Option<String> {
        let one = Counted {
            whole: whole.into(),
            rest: rest.into(),
            parts: parts.into(),
            ..Counted::nothing("acme".into(), BTreeMap::new())
        };
        one.quantity().map(|quantity| quantity.to_string())
    }

    #[test]
    fn a_quantity_is_rounded_half_to_even() {
        for (whole, rest, parts, want) in [
            ("0", "0", "1", "0"),
            ("5000000000000", "0", "1", "5"),
            ("6849259757738", "666", "743", "6.849259757739"),
            ("2", "1", "2", "0.000000000002"),
            ("3", "1", "2", "0.000000000004"),
            ("-2", "-1", "2", "-0.000000000002"),
            ("-3", "-1", "2", "-0.000000000004"),
            ("-3", "-2", "3", "-0.000000000004"),
            ("0", "-1", "3", "0"),
            ("999999999999999999999999999", "0", "1", "999999999999999.999999999999"),
        ] {
            assert_eq!(
                counted(whole, rest, parts).as_deref(),
                Some(want),
                "{whole} {rest}/{parts}"
            );
        }
        for (whole, rest, parts) in [
            ("1000000000000000000000000000", "0", "1"),
            ("999999999999999999999999999", "1", "2"),
            ("170141183460469231731687303715884105728", "0", "1"),
        ] {
            assert_eq!(counted(whole, rest, parts), None, "{whole} {rest}/{parts}");
        }
    }

    fn meter() -> MeterDefinition {
        let text = r#"{"key": "peak", "event_types": ["gauge"], "aggregation": "max", "value": "$.n", "period": "month",
            "dimensions": {"region": "$.region"}}"#;
        serde_json::from_str(text).unwrap()
    }

    /// Its id is what makes it take effect once, also where an older version sent it first.
    #[test]
    fn what_closes_a_period_never_changes() {
        let meter = meter();
        let dimensions = BTreeMap::from([("region".to_owned(), "eu \"1\"".to_owned())]);
        let closing = Closing {
            meter: &meter,
            period: Period {
                kind: PeriodKind::Month,
                start_us: 1_767_222_000_000_000,
                end_us: 1_769_900_400_000_000,
            },
            zone: "",
            team: "acme",
            dimensions: &dimensions,
            quantity: Quantity::parse("12.5").unwrap().0,
        };
        let want = r#"{"data":{"aggregation":"max","dimensions":{"region":"eu \"1\""},"from":"2025-12-31T23:00:00.000000Z","meter":"peak","quantity":"12.5","to":"2026-01-31T23:00:00.000000Z"},"id":"ID","source":"weir.closings","subject":"acme","time":"2026-01-31T22:59:59.999999Z","type":"weir.closed.peak"}"#;
        let id = "peak/2025-12-31T23:00:00.000000Z/c4fcc5e821e3b416273528757a027f64bed85239f061c0b2e7299dfd29f7fc2c";
        assert_eq!(closing.text().replace(&closing.id(), "ID"), want);
        assert_eq!(closing.id(), id);
        // That of a team with a zone of its own is another one, also where the zones have the same days.
        let other = Closing { zone: "Europe/Paris", ..closing };
        assert_eq!(other.id(), format!("{id}/Europe/Paris"));
        assert!(other.text().contains(r#""zone":"Europe/Paris""#), "{}", other.text());
    }

    /// It is rated by the rows of its meter, with its dimensions.
    #[test]
    fn what_closes_a_period_is_priced_as_any_event() {
        let text = r#"{"meters": [METER], "default_rate_card": "own", "cards": [{"key": "own", "kind": "rate", "currency": "EUR",
            "versions": [{"version": 1, "effective_from_us": 0, "rates": [{"meter": "peak", "price": "1"},
                {"meter": "peak", "price": "2", "dimensions": {"region": "eu"}}]}]}]}"#;
        let meter = meter();
        let text = text.replace("METER", &serde_json::to_string(&meter).unwrap());
        let document: CatalogDocument = serde_json::from_str(&text).unwrap();
        let catalog = document.compile().unwrap();
        for (region, want) in [("eu", "25"), ("us", "12.5")] {
            let dimensions = BTreeMap::from([("region".to_owned(), region.to_owned())]);
            let closing = Closing {
                meter: &meter,
                period: Period { kind: PeriodKind::Month, start_us: 0, end_us: 2_678_400_000_000 },
                zone: "",
                team: "acme",
                dimensions: &dimensions,
                quantity: Quantity::parse("12.5").unwrap().0,
            };
            let lines = closing.priced(&catalog, &domain::rating::NoTotals).unwrap();
            let [line] = lines.as_slice() else { panic!("{lines:?}") };
            assert_eq!(
                line.charge.amount().map(|amount| amount.to_string()).as_deref(),
                Some(want)
            );
        }
    }
}
