//! Rating: an event becomes lines. A pure function of the event, its catalog and its time:
//! rated again, it gives the same (INV-08).
//!
//! [`Binding`] connects a block's strings to a catalog once; [`rate`] then reads an event's
//! attributes by number and never compares a name again.

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;

use crate::{
    catalog::{Catalog, CompiledFilter, Meter, Target, Zone},
    event::unescape,
    formula::{Failure, Formula},
    llm_usage,
    meter::{Aggregation, EnvelopeField, Field},
    money::{Amount, NumberError},
    period::{Period, PeriodKind},
    pricing::{Counting, Local, Uncharged, Usage},
    quantity::Quantity,
    rate_card::Rate,
    resolve::{self, Choice},
    time::FUTURE_US_MAX,
    wire::{
        codec::Dictionary,
        record::{Attribute, AttributeKind, EventRecord},
    },
};

/// Version of these rules. Stored with every batch: re-rating uses the rules of its time.
pub const RULES_VERSION: u32 = 1;
/// Bytes of the value of a dimension: together with the catalog's limits it bounds a batch's size.
pub const DIMENSION_BYTES_MAX: usize = 256;

/// Why an event in the log cannot be rated. The code is stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Stable code.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub detail: String,
}

/// What a line's charge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// A price was found (zero is a price).
    Priced {
        /// The charge.
        amount: Amount,
        /// Number of the card version in the catalog.
        card_version: u32,
    },
    /// Metered and free.
    Unlimited {
        /// Number of the card version in the catalog.
        card_version: u32,
    },
    /// Nobody knows the price: counted, alarmed on, rated later; never zero.
    Unpriced,
    /// Seen by a meter that does not add up: its period is priced at its close.
    Observed,
}

impl Charge {
    /// Number of the card version in the catalog.
    #[must_use]
    pub fn card_version(&self) -> Option<u32> {
        match self {
            Charge::Priced { card_version, .. } | Charge::Unlimited { card_version } => {
                Some(*card_version)
            }
            Charge::Unpriced | Charge::Observed => None,
        }
    }

    /// What is owed.
    #[must_use]
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Charge::Priced { amount, .. } => Some(*amount),
            Charge::Unlimited { .. } => Some(Amount::ZERO),
            Charge::Unpriced | Charge::Observed => None,
        }
    }
}

/// What one meter made of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Number of the meter in the catalog.
    pub meter: usize,
    /// How much.
    pub quantity: Quantity,
    /// Whether more decimals were sent than are kept; the event has them as they were.
    pub rounded: bool,
    /// What the customer owes for it.
    pub charge: Charge,
    /// What the provider charges for it and the number of the cost card's version; `None` unknown.
    pub cost: Option<(Amount, u32)>,
    /// Values of the meter's dimensions, in the meter's order; `None` where the event has none.
    pub dimensions: Dimensions<'a>,
    /// The running total that its charge depends on, and that it moves on.
    pub total: Option<Box<LineTotal>>,
}

/// A running total of a team: usage of a meter in a period.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TotalName {
    /// The meter's key.
    pub meter: Arc<str>,
    /// The dimensions of a row that has a total of its own; empty for the meter's.
    pub scope: Arc<str>,
    /// How long it goes on.
    pub period: PeriodKind,
    /// When its period began, microseconds since 1970 UTC; `i64::MIN` for ever.
    pub start_us: i64,
}

impl TotalName {
    /// The name of a total as it is stored: without a start it goes on for ever. `None` for a period of no kind.
    #[must_use]
    pub fn stored(
        meter: &str,
        scope: &str,
        period: &str,
        start_us: Option<i64>,
    ) -> Option<TotalName> {
        Some(TotalName {
            meter: meter.into(),
            scope: scope.into(),
            period: PeriodKind::from_name(period)?,
            start_us: start_us.unwrap_or(i64::MIN),
        })
    }
}

/// A running total before and after a line, in priced units (raw, 10⁻¹²).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineTotal {
    /// Which one.
    pub name: TotalName,
    /// Before the line.
    pub before: i128,
    /// After it.
    pub after: i128,
}

/// The running totals of an event's team: an input of rating like the event itself.
pub trait Totals {
    /// What was used so far, in priced units (raw, 10⁻¹²); 0 for a total that has not begun.
    fn before(&self, name: &TotalName) -> i128;
}

/// Of a team without usage so far, or where no price depends on any.
#[derive(Clone, Copy, Debug)]
pub struct NoTotals;

impl Totals for NoTotals {
    fn before(&self, _: &TotalName) -> i128 {
        0
    }
}

/// Values of a meter's dimensions; few in place, without memory of their own.
pub type Dimensions<'a> = SmallVec<[Option<Cow<'a, str>>; 4]>;
/// What the meters made of one event; few in place.
pub type Lines<'a> = SmallVec<[Line<'a>; 4]>;

/// The outcome of an event that took its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every line has a price.
    Rated,
    /// No meter matched.
    Unmetered,
    /// At least one line has no known price.
    Unpriced,
}

/// A block's dictionary seen from a catalog.
#[derive(Debug)]
pub struct Binding {
    /// Per dictionary number: where attributes of this name go.
    targets: Vec<Option<Target>>,
}

impl Binding {
    /// Looks up every string of the dictionary once.
    #[must_use]
    pub fn new(catalog: &Catalog, dictionary: &Dictionary<'_>) -> Binding {
        // Most strings are names of teams: what names an attribute begins like it.
        let names_one = |text: &str| {
            text.is_empty() || text.starts_with('/') || text.starts_with(llm_usage::PREFIX)
        };
        let target =
            |text: &&str| names_one(text).then(|| catalog.slots.get(*text).copied()).flatten();
        Binding { targets: dictionary.texts().iter().map(target).collect() }
    }
}

/// Reused memory of the rating loop.
#[derive(Debug, Default)]
pub struct Scratch {
    by_slot: Vec<Option<Found>>,
    key: Vec<u8>,
    /// Numbers of the offers that the event's team has at its time.
    offers: Vec<usize>,
    /// Numbers of offers that it is taken to have besides: none but where somebody asks for a price.
    assumed: Vec<usize>,
    /// The periods found last, with the name of their zone: most events lie in them.
    periods: Vec<(Arc<str>, Period)>,
}

/// Zones and kinds of periods whose last period is kept.
const PERIODS_KEPT: usize = 16;

impl Scratch {
    /// For a team that is taken to hold these offers besides. Answers the first of them that there is none of.
    pub fn holding<'k>(catalog: &Catalog, offers: &[&'k str]) -> Result<Scratch, &'k str> {
        let mut scratch = Scratch::default();
        for key in offers {
            let number = catalog.offers.number(key).ok_or(*key)?;
            scratch.assumed.extend(catalog.offers.given(number));
        }
        Ok(scratch)
    }

    fn period(&mut self, zone: &Zone, kind: PeriodKind, time_us: i64) -> Period {
        let of = |(name, period): &&(Arc<str>, Period)| {
            period.kind == kind && period.contains(time_us) && *name == zone.name
        };
        if let Some((_, period)) = self.periods.iter().find(of) {
            return *period;
        }
        let period = Period::of(kind, &zone.time_zone, time_us);
        if self.periods.len() == PERIODS_KEPT {
            self.periods.clear();
        }
        self.periods.push((Arc::clone(&zone.name), period));
        period
    }
}

/// What an event has for a slot.
#[derive(Clone, Copy, Debug)]
enum Found {
    Attribute(Attribute),
    /// Of derived usage.
    Sum(i64),
}

/// What rating one event needs.
#[derive(Clone, Copy)]
pub struct Rating<'a> {
    /// The tenant's catalog.
    pub catalog: &'a Catalog,
    /// The block's strings seen from it.
    pub binding: &'a Binding,
    /// The block's strings.
    pub dictionary: &'a Dictionary<'a>,
    /// When the event happened: the client's time or else its block's append time.
    pub time_us: i64,
    /// Append time of the block (of a copy: of its origin).
    pub append_time_us: i64,
}

/// Rates one event into `lines`, which it empties first. `totals` are its team's before it.
pub fn rate<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    totals: &dyn Totals,
    scratch: &mut Scratch,
    lines: &mut Lines<'a>,
) -> Result<Outcome, Rejection> {
    lines.clear();
    if rating.time_us > rating.append_time_us.saturating_add(FUTURE_US_MAX) {
        let detail = format!(
            "the time {} is more than 5 minutes after the event was accepted at {}",
            crate::time::format(rating.time_us),
            crate::time::format(rating.append_time_us),
        );
        return Err(Rejection { reason: "time_in_future", detail });
    }
    if event.quote.is_some_and(|quote| rating.append_time_us > quote.not_after_us) {
        let detail = "its hold ended before it was appended".into();
        return Err(Rejection { reason: "hold_expired", detail });
    }
    let event_type = rating.dictionary.get(event.event_type).unwrap_or_default();
    let Some(meters) = rating.catalog.by_type.get(event_type) else {
        return Ok(Outcome::Unmetered);
    };
    place_attributes(rating, event, scratch);
    let team = rating.dictionary.get(event.team).unwrap_or_default();
    rating.catalog.offers.of(team, rating.time_us, &mut scratch.offers);
    if !scratch.assumed.is_empty() {
        scratch.offers.extend(&scratch.assumed);
        scratch.offers.sort_unstable();
        scratch.offers.dedup();
    }
    let zone = rating.catalog.zones.of(team, rating.time_us);
    for number in meters {
        let Some(meter) = rating.catalog.meters.get(*number) else { continue };
        if !meter.filters.iter().all(|filter| passes(rating, event, scratch, filter)) {
            continue;
        }
        let Some(quantity) = quantity_of(rating, event, scratch, meter)? else { continue };
        let standing = (totals, zone);
        lines.push(line(rating, event, standing, scratch, (*number, meter), quantity)?);
    }
    Ok(if lines.is_empty() {
        Outcome::Unmetered
    } else if lines.iter().any(|line| line.charge == Charge::Unpriced) {
        Outcome::Unpriced
    } else {
        Outcome::Rated
    })
}

fn place_attributes(rating: &Rating<'_>, event: &EventRecord<'_>, scratch: &mut Scratch) {
    scratch.by_slot.clear();
    scratch.by_slot.resize(rating.catalog.fields.len(), None);
    for attribute in &event.attributes {
        let number = usize::try_from(attribute.pointer).unwrap_or(usize::MAX);
        let Some(target) = rating.binding.targets.get(number).copied().flatten() else { continue };
        let (Target::Value(slot) | Target::More(slot) | Target::Less(slot)) = target;
        let Some(place) = scratch.by_slot.get_mut(slot) else { continue };
        *place = Some(match target {
            Target::Value(_) => Found::Attribute(*attribute),
            _ => Found::Sum(sum_with(*place, target, event.attribute_bytes(attribute))),
        });
    }
}

/// What a slot of derived usage comes to with one more number.
fn sum_with(found: Option<Found>, target: Target, number: &[u8]) -> i64 {
    let so_far = if let Some(Found::Sum(sum)) = found { sum } else { 0 };
    // Ingest writes only counts; their sums stay far below the limit of the type.
    let number = llm_usage::count(number).unwrap_or(0);
    match target {
        Target::Less(_) => so_far.saturating_sub(number),
        _ => so_far.saturating_add(number),
    }
}

/// The text of the first of these slots that is present.
fn text_of<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    scratch: &Scratch,
    slots: &[usize],
) -> Option<Cow<'a, str>> {
    slots.iter().find_map(|slot| {
        if let Some(field) = rating.catalog.envelope_field(*slot) {
            return envelope_text(rating, event, field).map(Cow::Borrowed);
        }
        let attribute = match scratch.by_slot.get(*slot).copied().flatten()? {
            Found::Attribute(attribute) => attribute,
            Found::Sum(sum) => match rating.catalog.fields.get(*slot)? {
                Field::Usage(field) => return field.text(sum).map(Cow::Owned),
                _ => return None,
            },
        };
        let bytes = event.attribute_bytes(&attribute);
        match attribute.kind {
            AttributeKind::Null | AttributeKind::EmptyObject | AttributeKind::EmptyArray => None,
            AttributeKind::EscapedText => Some(Cow::Owned(unescape(bytes))),
            _ => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        }
    })
}

fn envelope_text<'a>(
    rating: &Rating<'a>,
    event: &EventRecord<'_>,
    field: EnvelopeField,
) -> Option<&'a str> {
    let number = match field {
        EnvelopeField::Type => Some(event.event_type),
        EnvelopeField::Source => Some(event.source),
        EnvelopeField::User => event.user,
        EnvelopeField::App => event.app,
        EnvelopeField::Feature => event.feature,
    };
    number.and_then(|number| rating.dictionary.get(number).ok())
}

fn passes<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    scratch: &Scratch,
    filter: &CompiledFilter,
) -> bool {
    let value = text_of(rating, event, scratch, &filter.slots);
    let within = |list: &Vec<String>, value: &str| list.iter().any(|item| item == value);
    if filter.exists.is_some_and(|wanted| wanted != value.is_some()) {
        return false;
    }
    let value = value.as_deref();
    filter.one_of.as_ref().is_none_or(|list| value.is_some_and(|value| within(list, value)))
        && filter
            .none_of
            .as_ref()
            .is_none_or(|list| value.is_some_and(|value| !within(list, value)))
}

/// The meter's number in this event, and whether it was rounded; `None` where the event has none, and
/// then it has no line.
fn quantity_of<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    scratch: &Scratch,
    meter: &Meter,
) -> Result<Option<(Quantity, bool)>, Rejection> {
    if meter.aggregation == Aggregation::Count {
        return Ok(Some((Quantity::ONE, false)));
    }
    if let Some(formula) = &meter.formula {
        return worked_out(rating, event, scratch, (meter, formula));
    }
    let Some(text) = text_of(rating, event, scratch, &meter.value) else { return Ok(None) };
    if meter.aggregation == Aggregation::Unique {
        return Ok(Some((Quantity::ONE, false)));
    }
    let reject = |reason, what: &str| {
        let shown: String = text.chars().take(64).collect();
        Err(Rejection {
            reason,
            detail: format!("the quantity `{shown}` of the meter `{}` {what}", meter.key),
        })
    };
    match Quantity::parse(&text) {
        Err(NumberError::NotANumber) => reject("quantity_not_a_number", "is not a decimal number"),
        Err(NumberError::OutOfRange) => reject("quantity_out_of_range", "is not below 10^15"),
        Ok((quantity, _)) if quantity < Quantity::ZERO && !meter.allow_negative => {
            reject("quantity_negative", "is negative, which the meter does not allow")
        }
        Ok(read) => Ok(Some(read)),
    }
}

fn worked_out<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    scratch: &Scratch,
    (meter, formula): (&Meter, &Formula),
) -> Result<Option<(Quantity, bool)>, Rejection> {
    let reject = |reason, what: String| {
        Err(Rejection {
            reason,
            detail: format!("the formula of the meter `{}` {what}", meter.key),
        })
    };
    match formula.evaluate(&|slot| text_of(rating, event, scratch, &[slot])) {
        Ok(Some((quantity, _))) if quantity < Quantity::ZERO && !meter.allow_negative => {
            let what = format!("comes to {quantity}: the meter does not allow negative ones");
            reject("quantity_negative", what)
        }
        Ok(result) => Ok(result),
        Err(failure) => match failure {
            Failure::NotANumber(_) => reject("quantity_not_a_number", failure.to_string()),
            Failure::OutOfRange => reject("quantity_out_of_range", failure.to_string()),
            Failure::DivisionByZero => reject("quantity_divided_by_zero", failure.to_string()),
        },
    }
}

/// Where an event stands: its team's totals before it, and the zone of their periods.
type Standing<'t> = (&'t dyn Totals, &'t Zone);

fn line<'a>(
    rating: &Rating<'a>,
    event: &'a EventRecord<'a>,
    standing: Standing<'_>,
    scratch: &mut Scratch,
    (number, meter): (usize, &Meter),
    (quantity, rounded): (Quantity, bool),
) -> Result<Line<'a>, Rejection> {
    let dimensions: Dimensions<'a> =
        meter.dimension_slots.iter().map(|slots| text_of(rating, event, scratch, slots)).collect();
    if let Some(name) = too_long(meter, &dimensions) {
        let detail = format!("the dimension `{name}` has more than {DIMENSION_BYTES_MAX} bytes");
        return Err(Rejection { reason: "dimension_too_long", detail });
    }
    if meter.observes {
        let charge = Charge::Observed;
        return Ok(Line {
            meter: number,
            quantity,
            rounded,
            charge,
            cost: None,
            dimensions,
            total: None,
        });
    }
    let too_large = || Rejection {
        reason: "amount_out_of_range",
        detail: format!(
            "the charge, cost or running total of {quantity} of the meter `{}` is not below its limit",
            meter.key
        ),
    };
    let cost = cost_of(rating, scratch, meter, &dimensions, quantity).ok_or_else(too_large)?;
    let Scratch { key, offers, .. } = scratch;
    let choice =
        resolve::choose(rating.catalog, offers, (number, meter), &dimensions, rating.time_us, key);
    let (charge, total) = match choice {
        None => (Charge::Unpriced, None),
        Some(choice) => {
            let used = (quantity, cost.map(|(amount, _)| amount));
            charge_of(rating, standing, scratch, meter, &choice, used).ok_or_else(too_large)?
        }
    };
    Ok(Line { meter: number, quantity, rounded, charge, cost, dimensions, total })
}

/// What the provider charges, and the number of the cost card's version; `None` beyond the limit.
#[expect(clippy::option_option, reason = "no cost and one beyond the limit are different")]
fn cost_of(
    rating: &Rating<'_>,
    scratch: &mut Scratch,
    meter: &Meter,
    dimensions: &[Option<Cow<'_, str>>],
    quantity: Quantity,
) -> Option<Option<(Amount, u32)>> {
    let row = resolve::find(&meter.costs, dimensions, rating.time_us, &mut scratch.key);
    Some(match row.map(|row| (row.rate, row.card_version)) {
        Some((Rate::Unlimited, card_version)) => Some((Amount::ZERO, card_version)),
        Some((Rate::Price(price), card_version)) => {
            Some((price.charge(quantity.raw())?, card_version))
        }
        // A cost card has no terms.
        Some((Rate::Terms(_), _)) | None => None,
    })
}

/// The charge for a quantity and its provider's cost by what was chosen, and the running total that
/// it depends on; `None` beyond the limit.
fn charge_of(
    rating: &Rating<'_>,
    standing: Standing<'_>,
    scratch: &mut Scratch,
    meter: &Meter,
    choice: &Choice<'_>,
    (quantity, cost): (Quantity, Option<Amount>),
) -> Option<(Charge, Option<Box<LineTotal>>)> {
    let card_version = choice.row.card_version;
    let priced = |amount: Amount| {
        let amount = match choice.multiplier {
            None => amount,
            Some(multiplier) => amount.checked_mul(multiplier)?,
        };
        Some(Charge::Priced { amount, card_version })
    };
    let terms = match choice.row.rate {
        Rate::Unlimited => return Some((Charge::Unlimited { card_version }, None)),
        Rate::Price(price) => return Some((priced(price.charge(quantity.raw())?)?, None)),
        Rate::Terms(terms) => terms,
    };
    let quantity = terms.priced(quantity)?;
    let total = match terms.counting() {
        None => None,
        Some(counting) => {
            Some(Box::new(counted(rating, standing, scratch, (meter, counting), quantity)?))
        }
    };
    let usage = Usage {
        quantity,
        before: total.as_deref().map_or(0, |total| total.before),
        local: terms.needs_local_time().then(|| Local::of(&standing.1.time_zone, rating.time_us)),
        cost,
    };
    match terms.charge(&usage) {
        Ok(amount) => Some((priced(amount)?, total)),
        Err(Uncharged::CostUnknown) => Some((Charge::Unpriced, total)),
        Err(Uncharged::OutOfRange) => None,
    }
}

/// The running total that a line depends on; `None` where it would not fit its column.
fn counted(
    rating: &Rating<'_>,
    (totals, zone): Standing<'_>,
    scratch: &mut Scratch,
    (meter, counting): (&Meter, &Counting),
    priced: i128,
) -> Option<LineTotal> {
    let period = scratch.period(zone, counting.period, rating.time_us);
    let name = TotalName {
        meter: Arc::clone(&meter.key),
        scope: Arc::clone(&counting.scope),
        period: counting.period,
        start_us: period.start_us,
    };
    let before = totals.before(&name);
    let after = Amount::of_sum(before).checked_add(Amount::of_sum(priced))?.raw();
    Some(LineTotal { name, before, after })
}

fn too_long<'m>(meter: &'m Meter, dimensions: &[Option<Cow<'_, str>>]) -> Option<&'m str> {
    let long = |value: &Option<Cow<'_, str>>| {
        value.as_ref().is_some_and(|value| value.len() > DIMENSION_BYTES_MAX)
    };
    meter.dimensions.iter().zip(dimensions).find(|(_, value)| long(value)).map(|(name, _)| &**name)
}

#[cfg(test)]
mod tests;
