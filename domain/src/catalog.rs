//! A tenant's catalog: meters and cards, as numbered immutable versions.
//!
//! [`CatalogDocument`] is what is published and stored; [`CatalogDocument::compile`] checks it and
//! makes the dense form that rating reads. A document with faults is never published.

use std::{collections::BTreeSet, sync::Arc};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::{
    formula::{self, Formula, SAMPLES_MAX},
    meter::{
        Aggregation, CLOSING_TYPE, EnvelopeField, Field, Filter, MeterDefinition, Paths,
        UNIQUE_DIMENSION,
    },
    money::{Amount, is_currency_code},
    offer::{Holder, Offer},
    period::PeriodKind,
    rate_card::{Card, CardKind, RateTable},
    rating::{Charge, Line},
};

mod cards;
mod offers;
mod zones;

pub use self::zones::{TEAM_ZONES_MAX, TeamZone, Zone, Zones};

pub(crate) use self::offers::{CompiledOffer, Holding, OfferCard, Offers};

/// Most meters of a catalog.
pub const METERS_MAX: usize = 1_000;
/// Most rows of all card versions of a catalog.
pub const ROWS_MAX: usize = 200_000;
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 64;
/// Meters that look at one event type: a bound on the lines of an event.
pub const METERS_PER_TYPE_MAX: usize = 32;
/// Dimensions of a meter.
pub const DIMENSIONS_MAX: usize = 16;

/// A unit of account that is no currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditUnit {
    /// Its name: lower case letters, digits, `_` and `-`.
    pub key: String,
    /// What one of it is worth, for margins; it has no money value where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<CreditValue>,
}

/// What one of a credit unit is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditValue {
    /// How much, as decimal text; above zero.
    pub amount: String,
    /// ISO 4217 code.
    pub currency: String,
}

/// A whole catalog as published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogDocument {
    /// Meters.
    #[serde(default)]
    pub meters: Vec<MeterDefinition>,
    /// Credit units that cards may be in.
    #[serde(default)]
    pub credit_units: Vec<CreditUnit>,
    /// Rate cards and cost cards.
    #[serde(default)]
    pub cards: Vec<Card>,
    /// The rate card that prices what no offer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_rate_card: Option<String>,
    /// The cost card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_cost_card: Option<String>,
    /// The zone whose calendar and clock periods and windows of prices follow, by its IANA name; UTC
    /// where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Zones of teams that have one of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub team_zones: Vec<TeamZone>,
    /// Prices that some teams have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<Offer>,
    /// Who holds which offer, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
}

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Path of the faulty part, such as `cards[standard].versions[2].rates[7]`.
    pub place: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// A catalog ready for rating.
#[derive(Debug)]
pub struct Catalog {
    /// Meters in the document's order, and behind them, for those that do not add up, what observes events:
    /// the meter itself then looks at what closes its periods.
    pub meters: Vec<Meter>,
    /// Card versions that lines refer to by number.
    pub card_versions: Vec<CardVersionName>,
    /// The zones whose calendars and clocks periods and windows of prices follow.
    pub zones: Zones,
    /// Whether a charge of any meter depends on a running total, by any card that a team may have.
    pub counts: bool,
    /// Offers and who holds them.
    pub(crate) offers: Offers,
    /// Meters by event type.
    pub(crate) by_type: HashMap<Box<str>, Vec<usize>>,
    /// Fields by slot.
    pub(crate) fields: Vec<Field>,
    /// Where an attribute goes, by its name.
    pub(crate) slots: HashMap<Box<str>, Target>,
}

/// A catalog of nothing, in UTC.
impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            meters: Vec::new(),
            card_versions: Vec::new(),
            zones: Zones::default(),
            counts: false,
            offers: Offers::default(),
            by_type: HashMap::new(),
            fields: Vec::new(),
            slots: HashMap::new(),
        }
    }
}

/// What an attribute does to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// It is the value.
    Value(usize),
    /// It is a number that the value grows by.
    More(usize),
    /// It is a number that the value shrinks by.
    Less(usize),
}

/// What a line says of the card that priced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardVersionName {
    /// The card's key.
    pub card: Arc<str>,
    /// The version's number.
    pub version: u32,
    /// The currency.
    pub currency: Arc<str>,
}

/// A compiled meter.
#[derive(Debug)]
pub struct Meter {
    /// Its key.
    pub key: Arc<str>,
    /// Its unit.
    pub unit: Arc<str>,
    /// Names of its dimensions, in order.
    pub dimensions: Vec<Arc<str>>,
    /// Whether its lines only say what was seen: a period is priced at its close.
    pub observes: bool,
    pub(crate) aggregation: Aggregation,
    pub(crate) allow_negative: bool,
    pub(crate) value: Vec<usize>,
    /// What the number is worked out from, where it does not stand at `value`.
    pub(crate) formula: Option<Formula>,
    pub(crate) dimension_slots: Vec<Vec<usize>>,
    pub(crate) filters: Vec<CompiledFilter>,
    /// Of the default rate card.
    pub(crate) rates: Vec<EffectiveRates>,
    /// Of other cards that offers name, by their number, where they have rows for the meter.
    pub(crate) offered: HashMap<usize, Vec<EffectiveRates>>,
    /// Of the default cost card.
    pub(crate) costs: Vec<EffectiveRates>,
}

/// One version's rows for a meter, from an event time on. Lists of these are newest first.
#[derive(Debug)]
pub(crate) struct EffectiveRates {
    pub effective_from_us: i64,
    pub card_version: u32,
    pub table: RateTable,
}

#[derive(Debug)]
pub(crate) struct CompiledFilter {
    pub slots: Vec<usize>,
    pub one_of: Option<Vec<String>>,
    pub none_of: Option<Vec<String>>,
    pub exists: Option<bool>,
}

/// Whether a text may name a meter, card, offer, dimension or credit unit.
#[must_use]
pub fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= KEY_BYTES_MAX
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte)
        })
}

const KEY_RULE: &str = "a key is 1 to 64 of a-z, 0-9, `_`, `-`, `.`";

impl CatalogDocument {
    /// The faults of the document, all of them.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.compile().err().unwrap_or_default()
    }

    /// Checks the document and makes it ready for rating.
    pub fn compile(&self) -> Result<Catalog, Vec<Fault>> {
        let mut compiler = Compiler::default();
        compiler.zones(self);
        compiler.meters(self);
        compiler.number_offered_cards(self);
        compiler.cards(self);
        compiler.default_card(
            self,
            self.default_rate_card.as_deref(),
            CardKind::Rate,
            "default_rate_card",
        );
        compiler.default_card(
            self,
            self.default_cost_card.as_deref(),
            CardKind::Cost,
            "default_cost_card",
        );
        compiler.offers(self);
        if compiler.faults.is_empty() { Ok(compiler.catalog) } else { Err(compiler.faults) }
    }

    /// The meter of a key.
    #[must_use]
    pub fn meter(&self, key: &str) -> Option<&MeterDefinition> {
        self.meters.iter().find(|meter| meter.key == key)
    }

    /// Whether a currency is an ISO-like code or one of the document's credit units.
    fn knows_currency(&self, currency: &str) -> bool {
        is_currency_code(currency) || self.credit_units.iter().any(|unit| unit.key == currency)
    }
}

#[derive(Default)]
struct Compiler {
    catalog: Catalog,
    faults: Vec<Fault>,
    meter_numbers: HashMap<String, usize>,
    /// Numbers of the cards that offers name.
    offered_cards: HashMap<String, usize>,
}

impl Compiler {
    fn fault(&mut self, place: String, reason: impl Into<String>) {
        self.faults.push(Fault { place, reason: reason.into() });
    }

    fn slot(&mut self, place: &str, path: &str) -> usize {
        match Field::parse(path) {
            Ok(field) => self.slot_of(field),
            Err(reason) => {
                self.fault(place.to_owned(), reason);
                0
            }
        }
    }

    fn slot_of(&mut self, field: Field) -> usize {
        let known = self.catalog.fields.iter().position(|known| *known == field);
        known.unwrap_or_else(|| {
            let slot = self.catalog.fields.len();
            let slots = &mut self.catalog.slots;
            match &field {
                Field::Data(pointer) => {
                    slots.insert(pointer.as_str().into(), Target::Value(slot));
                }
                Field::Usage(field) => {
                    slots.insert(field.pointer(false).into(), Target::More(slot));
                    slots.insert(field.pointer(true).into(), Target::Less(slot));
                }
                Field::Envelope(_) => {}
            }
            self.catalog.fields.push(field);
            slot
        })
    }

    fn slots(&mut self, place: &str, paths: &[String]) -> Vec<usize> {
        if paths.is_empty() {
            self.fault(place.to_owned(), "it names no path");
        }
        paths.iter().map(|path| self.slot(place, path)).collect()
    }

    fn meters(&mut self, document: &CatalogDocument) {
        if document.meters.len() > METERS_MAX {
            self.fault(
                "meters".into(),
                format!("there are {}; at most {METERS_MAX}", document.meters.len()),
            );
        }
        // What observes stands behind all meters: rows of cards are by a meter's number in the document.
        let mut observing = Vec::new();
        let mut units = BTreeSet::new();
        for unit in &document.credit_units {
            let place = || format!("credit_units[{}]", unit.key);
            if !is_key(&unit.key) {
                self.fault(place(), KEY_RULE);
            }
            if !units.insert(&unit.key) {
                self.fault(place(), "there are two credit units of this key");
            }
            if let Some(value) = &unit.value {
                let amount = Amount::parse_exact(&value.amount);
                if !amount.is_ok_and(|amount| amount > Amount::ZERO)
                    || !is_currency_code(&value.currency)
                {
                    let reason =
                        "its value is an amount above zero and a currency code of three capitals";
                    self.fault(format!("{}.value", place()), reason);
                }
            }
        }
        for definition in &document.meters {
            let place = format!("meters[{}]", definition.key);
            let number = self.catalog.meters.len();
            if !is_key(&definition.key) {
                self.fault(place.clone(), KEY_RULE);
            }
            if self.meter_numbers.insert(definition.key.clone(), number).is_some() {
                self.fault(place.clone(), "there are two meters of this key");
            }
            self.closing(&place, definition);
            let meter = if definition.aggregation.adds_up() {
                self.meter(&place, definition)
            } else {
                self.observing(&place, definition, &mut observing)
            };
            self.catalog.meters.push(meter);
            let mut types = BTreeSet::new();
            for event_type in &definition.event_types {
                if !types.insert(event_type) {
                    let reason =
                        format!("the event type `{event_type}` is there twice: name it once");
                    self.fault(format!("{place}.event_types"), reason);
                    continue;
                }
                if event_type.starts_with(CLOSING_TYPE) {
                    let reason = format!(
                        "no meter looks at `{event_type}`: types that begin with `{CLOSING_TYPE}` are Weir's own"
                    );
                    self.fault(format!("{place}.event_types"), reason);
                }
                let number = match definition.aggregation.adds_up() {
                    true => number,
                    false => document.meters.len() + observing.len() - 1,
                };
                self.catalog.by_type.entry(event_type.as_str().into()).or_default().push(number);
            }
        }
        self.catalog.meters.extend(observing);
        let crowded: Vec<Box<str>> = self
            .catalog
            .by_type
            .iter()
            .filter(|(_, meters)| meters.len() > METERS_PER_TYPE_MAX)
            .map(|(event_type, _)| event_type.clone())
            .collect();
        for event_type in crowded {
            self.fault(
                "meters".into(),
                format!(
                    "more than {METERS_PER_TYPE_MAX} meters look at the event type `{event_type}`"
                ),
            );
        }
    }

    /// A meter that does not add up: one that observes goes to `observing`, and the answer is what looks at
    /// the events that close its periods.
    fn observing(
        &mut self,
        place: &str,
        definition: &MeterDefinition,
        observing: &mut Vec<Meter>,
    ) -> Meter {
        let mut observed = definition.clone();
        if let (Aggregation::Unique, Some(value)) = (definition.aggregation, &definition.value) {
            let before = observed.dimensions.insert(UNIQUE_DIMENSION.to_owned(), value.clone());
            if before.is_some() {
                let reason = format!(
                    "a unique count keeps what it counts as the dimension `{UNIQUE_DIMENSION}`: call yours something else"
                );
                self.fault(format!("{place}.dimensions[{UNIQUE_DIMENSION}]"), reason);
            }
        }
        let meter = self.meter(place, &observed);
        observing.push(Meter { observes: true, ..meter });
        let dimensions = definition
            .dimensions
            .keys()
            .map(|name| (name.clone(), Paths::One(format!("$.dimensions['{name}']"))));
        let closing = MeterDefinition {
            key: definition.key.clone(),
            event_types: vec![format!("{CLOSING_TYPE}{}", definition.key)],
            aggregation: Aggregation::Sum,
            value: Some(Paths::One("$.quantity".into())),
            formula: None,
            samples: Vec::new(),
            unit: definition.unit.clone(),
            filters: Vec::new(),
            dimensions: dimensions.collect(),
            allow_negative: true,
            period: None,
            held_for: None,
            changes: false,
        };
        let number = self.catalog.meters.len();
        let event_type = closing.event_types.concat();
        self.catalog.by_type.entry(event_type.into()).or_default().push(number);
        self.meter(place, &closing)
    }

    /// Whether the period is there where one is closed, and only there.
    fn closing(&mut self, place: &str, definition: &MeterDefinition) {
        let aggregation = definition.aggregation;
        let name = aggregation.name();
        let period = match (aggregation.adds_up(), definition.period) {
            (true, Some(_)) => Some(format!(
                "a {name} adds up, and each event is priced by itself; leave `period` out"
            )),
            (false, None) => Some(format!(
                "`{name}` is priced once for each period: give `period`: day, week, month, quarter or year"
            )),
            (false, Some(PeriodKind::Ever)) => Some(
                "a period that never ends is never priced: give day, week, month, quarter or year"
                    .into(),
            ),
            _ => None,
        };
        if let Some(reason) = period {
            self.fault(format!("{place}.period"), reason);
        }
        let held_for = match (aggregation, definition.held_for) {
            (Aggregation::TimeWeighted, None) => Some(
                "say for how long one is held to count one: `held_for`: hour, day or period"
                    .to_owned(),
            ),
            (Aggregation::TimeWeighted, Some(_)) | (_, None) => None,
            (_, Some(_)) => {
                Some(format!("only `time_weighted` has it, and this is `{name}`; leave it out"))
            }
        };
        if let Some(reason) = held_for {
            self.fault(format!("{place}.held_for"), reason);
        }
        if definition.changes && aggregation != Aggregation::TimeWeighted {
            let reason = format!("only `time_weighted` has it, and this is `{name}`; leave it out");
            self.fault(format!("{place}.changes"), reason);
        }
    }

    fn meter(&mut self, place: &str, definition: &MeterDefinition) -> Meter {
        if definition.event_types.is_empty() || definition.event_types.iter().any(String::is_empty)
        {
            self.fault(
                format!("{place}.event_types"),
                "name at least one event type, and no empty one",
            );
        }
        let formula = self.formula(place, definition);
        let value = match (definition.aggregation, &definition.value) {
            (Aggregation::Count, None) => Vec::new(),
            // It has that instead, or a fault of its own.
            (_, None) if definition.formula.is_some() => Vec::new(),
            (Aggregation::Count, Some(_)) => {
                self.fault(
                    format!("{place}.value"),
                    "a count has no value; leave it out or make it a sum",
                );
                Vec::new()
            }
            (_, Some(paths)) => self.slots(&format!("{place}.value"), paths.all()),
            (aggregation, None) => {
                let reason = match aggregation {
                    Aggregation::Unique => "a unique count needs the path of what it counts".into(),
                    other => {
                        format!("the aggregation `{}` needs the path of its number", other.name())
                    }
                };
                self.fault(format!("{place}.value"), reason);
                Vec::new()
            }
        };
        if definition.dimensions.len() > DIMENSIONS_MAX {
            self.fault(format!("{place}.dimensions"), format!("at most {DIMENSIONS_MAX}"));
        }
        let mut dimensions = Vec::new();
        let mut dimension_slots = Vec::new();
        for (name, paths) in &definition.dimensions {
            let place = format!("{place}.dimensions[{name}]");
            if !is_key(name) {
                self.fault(place.clone(), KEY_RULE);
            }
            dimensions.push(Arc::from(name.as_str()));
            dimension_slots.push(self.slots(&place, paths.all()));
        }
        let filters = definition
            .filters
            .iter()
            .enumerate()
            .map(|(number, filter)| self.filter(&format!("{place}.filters[{number}]"), filter));
        let filters = filters.collect();
        Meter {
            key: Arc::from(definition.key.as_str()),
            unit: Arc::from(definition.unit.as_str()),
            dimensions,
            observes: false,
            aggregation: definition.aggregation,
            // One fewer is no mistake.
            allow_negative: definition.allow_negative || definition.changes,
            value,
            formula,
            dimension_slots,
            filters,
            rates: Vec::new(),
            offered: HashMap::new(),
            costs: Vec::new(),
        }
    }

    fn formula(&mut self, place: &str, definition: &MeterDefinition) -> Option<Formula> {
        let Some(text) = &definition.formula else {
            if !definition.samples.is_empty() {
                self.fault(
                    format!("{place}.samples"),
                    "there is no formula to be tried; leave them out",
                );
            }
            return None;
        };
        let samples = format!("{place}.samples");
        let place = format!("{place}.formula");
        let aggregation = definition.aggregation;
        if matches!(aggregation, Aggregation::Count | Aggregation::Unique) {
            let reason = format!("a {} counts and has no number; leave it out", aggregation.name());
            self.fault(place, reason);
            return None;
        }
        if definition.value.is_some() {
            self.fault(place, "the number comes from `value` or from `formula`; leave one out");
            return None;
        }
        let formula = match Formula::parse(text, &mut |field| self.slot_of(field)) {
            Ok(formula) => formula,
            Err(fault) => {
                self.fault(place, format!("at character {}: {}", fault.at, fault.reason));
                return None;
            }
        };
        if definition.samples.len() > SAMPLES_MAX {
            self.fault(samples.clone(), format!("at most {SAMPLES_MAX}"));
        }
        for (number, sample) in definition.samples.iter().enumerate().take(SAMPLES_MAX) {
            if let Some(reason) = formula::fails(text, sample) {
                self.fault(format!("{samples}[{number}]"), reason);
            }
        }
        Some(formula)
    }

    fn filter(&mut self, place: &str, filter: &Filter) -> CompiledFilter {
        if filter.one_of.is_none() && filter.none_of.is_none() && filter.exists.is_none() {
            self.fault(place.to_owned(), "it has no condition; give `in`, `not_in` or `exists`");
        }
        let slots = self.slots(&format!("{place}.field"), filter.field.all());
        CompiledFilter {
            slots,
            one_of: filter.one_of.clone(),
            none_of: filter.none_of.clone(),
            exists: filter.exists,
        }
    }
}

impl Catalog {
    /// The event types that meters look at and clients may send.
    pub fn event_types(&self) -> impl Iterator<Item = &str> {
        self.by_type.keys().map(|name| &**name).filter(|name| !name.starts_with(CLOSING_TYPE))
    }

    /// Whether a slot is an envelope field.
    #[must_use]
    pub fn envelope_field(&self, slot: usize) -> Option<EnvelopeField> {
        match self.fields.get(slot) {
            Some(Field::Envelope(field)) => Some(*field),
            _ => None,
        }
    }

    /// Whether the cost of a line is unknown although the cost card has rows for its meter: a provider's
    /// price that is missing, of a new model perhaps.
    #[must_use]
    pub fn misses_cost(&self, line: &Line<'_>) -> bool {
        line.cost.is_none()
            && line.charge != Charge::Observed
            && self
                .meters
                .get(line.meter)
                .is_some_and(|meter| meter.costs.iter().any(|rates| !rates.table.is_empty()))
    }
}

#[cfg(test)]
mod tests;
