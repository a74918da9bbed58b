//! What closes a period of a meter that does not add up: an event for each team and each of its combinations of
//! dimensions, which says what the period came to and is priced as any other. Pure.
//!
//! Its id is made of meter, period and dimensions, so that it takes effect once however often it is sent; what
//! changes later amends it. [`duties`] says what is to be done about a period, and [`recount`] counts one anew.

use std::collections::BTreeMap;

use domain::{
    catalog::Catalog,
    event::{IdentityKey, IdentityParts},
    meter::{Aggregation, CLOSING_SOURCE, CLOSING_TYPE, HeldFor, MeterDefinition},
    period::Period,
    planted::{self, Bug},
    preview::{Data, EventText, Hypothetical, PreviewError, PreviewLine, preview},
    quantity::Quantity,
    rating::Totals,
    time,
    wire::block::BlockWriter,
};
use serde::{Deserialize, de::Error as _};
use serde_json::json;
use uuid::Uuid;

pub mod recount;

/// How what was observed in a period becomes its quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Their sum, divided by how many there are.
    Average,
    /// That of the latest event.
    Latest,
    /// How many different texts.
    Unique,
    /// What was held, times how long, in parts of so many microseconds; of numbers that say what is held, or by how much
    /// that changes.
    TimeWeighted {
        /// Microseconds of a part.
        divisor_us: i64,
        /// Whether the numbers say by how much it changes.
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

/// What a team's period came to, as it was counted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Counted {
    /// The team.
    pub team: String,
    /// An object of texts, by name.
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

/// Whose a quantity of a period is: the team, and its dimensions.
pub type Whose = (String, BTreeMap<String, String>);

/// What closed a period so far: each with what it is known by.
pub type Closed<F> = BTreeMap<Whose, (F, Quantity)>;

/// What closed a period and says something else than was counted.
#[derive(Debug)]
pub struct Changed<F> {
    /// What it is known by.
    pub found: F,
    /// What it says.
    pub before: Quantity,
    /// What was counted, and its quantity.
    pub counted: Counted,
    /// What it has to say.
    pub quantity: Quantity,
}

/// What is to be done about a period until it is closed as it was counted: nothing, once nothing is left.
#[derive(Debug)]
pub struct Duties<F> {
    /// How many quantities the period has.
    pub quantities: i64,
    /// What nothing says yet.
    pub missing: Vec<(Counted, Quantity)>,
    /// What is to be amended.
    pub changed: Vec<Changed<F>>,
    /// A team whose quantity is not below 10¹⁵: nothing is done about that one.
    pub too_large: Option<String>,
}

/// Compares what was counted with what closed the period so far.
pub fn duties<F>(counted: Vec<Counted>, mut closed: Closed<F>) -> Duties<F> {
    let mut duties =
        Duties { quantities: 0, missing: Vec::new(), changed: Vec::new(), too_large: None };
    for one in counted {
        let before = closed.remove(&(one.team.clone(), one.dimensions.clone()));
        let Some(quantity) = one.quantity() else {
            duties.too_large.get_or_insert(one.team);
            continue;
        };
        // What has come to nothing long ago is not closed again for ever.
        let is_nothing = quantity == Quantity::ZERO && one.observations == 0;
        if is_nothing && before.is_none() {
            continue;
        }
        duties.quantities = duties.quantities.saturating_add(1);
        match before {
            None => duties.missing.push((one, quantity)),
            Some((_, before)) if before == quantity || planted::is(Bug::NotAmended) => {}
            Some((found, before)) => {
                duties.changed.push(Changed { found, before, counted: one, quantity });
            }
        }
    }
    for ((team, dimensions), (found, before)) in closed {
        if before != Quantity::ZERO {
            let counted = Counted::nothing(team, dimensions);
            duties.changed.push(Changed { found, before, counted, quantity: Quantity::ZERO });
        }
    }
    duties
}

/// What an event that closes a period says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing<'a> {
    /// The meter.
    pub meter: &'a MeterDefinition,
    /// The period.
    pub period: Period,
    /// The zone that the team has of its own; empty where it has none.
    pub zone: &'a str,
    /// The team.
    pub team: &'a str,
    /// Values of the meter's dimensions.
    pub dimensions: &'a BTreeMap<String, String>,
    /// What it came to.
    pub quantity: Quantity,
}

/// The event type that closes periods of a meter.
pub fn closing_type(meter: &str) -> String {
    format!("{CLOSING_TYPE}{meter}")
}

impl Closing<'_> {
    /// When it happens: at the last moment of its period, whose prices hold for it.
    pub fn time_us(&self) -> i64 {
        self.period.end_us.saturating_sub(1)
    }

    fn id(&self) -> String {
        let start = time::format(self.period.start_us);
        let mut dimensions = json!(self.dimensions).to_string();
        if planted::is(Bug::ClosedAnew) {
            dimensions.push_str(&Uuid::now_v7().to_string());
        }
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
    ) -> Result<(), PreviewError> {
        let (id, text) = (self.id(), self.text());
        let data = Data::of_event(&text)?;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Values of the meter's dimensions.
    pub dimensions: BTreeMap<String, String>,
    /// The zone that the team had of its own; empty where it had none.
    pub zone: String,
    /// What the period came to.
    pub quantity: Quantity,
}

/// What an event that closed a period says, from its text.
pub fn read(text: &str) -> Result<Said, String> {
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
    let unread =
        |error: &dyn std::fmt::Display| format!("what closed a period cannot be read: {error}");
    let Event { data } = serde_json::from_str(text).map_err(|error| unread(&error))?;
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

    /// Nothing is done twice, and what cannot be said is left as it is.
    #[test]
    fn what_is_to_be_done_is_what_differs() {
        let counted = |team: &str, whole: &str, observations| Counted {
            whole: whole.into(),
            observations,
            ..Counted::nothing(team.into(), BTreeMap::new())
        };
        let too_large = "1000000000000000000000000000";
        let all = vec![
            counted("new", "1", 1),
            counted("same", "2", 1),
            counted("other", "3", 0),
            counted("zero", "0", 1),
            counted("never", "0", 0),
            counted("large", too_large, 1),
        ];
        let quantity = |raw| Quantity::from_raw(raw).unwrap();
        let closed = [("same", 2), ("other", 2), ("gone", 5), ("gone long ago", 0), ("large", 7)];
        let closed = closed.map(|(team, raw)| {
            ((team.to_owned(), BTreeMap::new()), (team.to_uppercase(), quantity(raw)))
        });
        let duties = duties(all, closed.into());
        let missing: Vec<(&str, i128)> =
            duties.missing.iter().map(|(one, quantity)| (&*one.team, quantity.raw())).collect();
        assert_eq!(missing, [("new", 1), ("zero", 0)]);
        let changed = duties.changed.iter();
        let changed: Vec<(&str, &str, i128, i128)> = changed
            .map(|one| (&*one.counted.team, &*one.found, one.before.raw(), one.quantity.raw()))
            .collect();
        assert_eq!(changed, [("other", "OTHER", 2, 3), ("gone", "GONE", 5, 0)]);
        assert_eq!((duties.quantities, duties.too_large.as_deref()), (4, Some("large")));
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
