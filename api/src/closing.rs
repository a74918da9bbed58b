//! What closes a period of a meter that does not add up: an event for each team and each of its combinations of
//! dimensions, which says what the period came to and is priced as any other. Pure.
//!
//! Its id is made of meter, period and dimensions, so that it takes effect once however often it is sent; what
//! changes later amends it.

use std::collections::BTreeMap;

use domain::{
    event::{IdentityKey, IdentityParts},
    meter::{Aggregation, CLOSING_SOURCE, CLOSING_TYPE, HeldFor, MeterDefinition},
    period::Period,
    preview::{Data, EventText},
    quantity::Quantity,
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
    /// What was held, times how long, in parts of so many microseconds.
    TimeWeighted {
        divisor_us: i64,
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
            },
        })
    }

    /// Whether what holds at the end of a period holds at the beginning of the next one.
    pub fn carries_over(self) -> bool {
        matches!(self, Measure::TimeWeighted { .. })
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
        format!("{}/{start}/{}", self.meter.key, blake3::hash(dimensions.as_bytes()).to_hex())
    }

    /// Its text.
    pub fn text(&self) -> String {
        json!({
            "id": self.id(),
            "source": CLOSING_SOURCE,
            "type": closing_type(&self.meter.key),
            "subject": self.team,
            "time": time::format(self.time_us()),
            "data": {
                "meter": self.meter.key,
                "aggregation": self.meter.aggregation.name(),
                "from": time::format(self.period.start_us),
                "to": time::format(self.period.end_us),
                "quantity": self.quantity.to_string(),
                "dimensions": self.dimensions,
            },
        })
        .to_string()
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

/// Dimensions and quantity of an event that closed a period.
pub(crate) fn read(event: &StoredEvent) -> Result<(BTreeMap<String, String>, Quantity), ApiError> {
    #[derive(Deserialize)]
    struct Event {
        data: Closed,
    }
    #[derive(Deserialize)]
    struct Closed {
        quantity: String,
        dimensions: BTreeMap<String, String>,
    }
    let unread = |error: &dyn std::fmt::Display| {
        ApiError::Internal(format!("what closed a period cannot be read: {error}"))
    };
    let Event { data } = serde_json::from_str(&event.raw).map_err(|error| unread(&error))?;
    let (quantity, _) = Quantity::parse(&data.quantity).map_err(|error| unread(&error))?;
    Ok((data.dimensions, quantity))
}
