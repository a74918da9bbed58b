//! What a correction of one event does: what is taken back, what it comes to instead, and the command that
//! says so. Pure: the archive and the catalogs are handed over.
//!
//! Where prices depend on a period's usage so far, an event is charged where it stands in its period, in
//! the order of the log: with the running total that was before it when it was rated first, moved by what
//! the corrections of the events before it changed. So usage that came later keeps its price.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use domain::{
    catalog::Catalog,
    money::Amount,
    preview::{Data, EventText, Hypothetical, PreviewError, PreviewLine, preview},
    rating::{Outcome, TotalName, Totals},
    wire::{
        block::BlockWriter,
        correction::{Again, Correction, OBSERVED, StoredLine, StoredMoney, fingerprint},
        record::{Command, CommandKind, Entry},
    },
};
use uuid::Uuid;

use crate::{
    compiled::Compiled,
    error::ApiError,
    store::{
        corrected::{Corrected, StoredEvent},
        events::LineRow,
    },
};

/// What is wanted of an event.
pub(crate) enum Wanted<'a> {
    /// It shall count for nothing.
    Void,
    /// It shall be rated by this catalog.
    Rate(&'a Catalog),
    /// It shall be this event instead, rated by this catalog.
    Amend(&'a Catalog, &'a Amended<'a>),
}

/// What an event says from now on.
pub(crate) struct Amended<'a> {
    pub event_type: &'a str,
    pub user: Option<&'a str>,
    pub feature: Option<&'a str>,
    /// The client's time.
    pub time_us: Option<i64>,
    pub text: &'a str,
}

/// What comes of a correction.
pub(crate) enum Plan {
    /// Nothing: it is so already.
    Unchanged,
    /// Nothing: it was voided.
    IsVoid,
    /// Nothing: it would be rejected.
    Rejected(&'static str, String),
    /// This.
    Change(Box<Change>),
}

/// A correction that changes something.
pub(crate) struct Change {
    /// Its number.
    pub run: u32,
    /// What it changes.
    pub delta: Deltas,
    /// [`fingerprint`] of the lines that it makes; `None` for a void event.
    pub expected: Option<u64>,
    /// Whether a price of it depends on a running total.
    pub counts: bool,
    /// When the first total began that the event moves on now and did not when it was rated first.
    pub counts_from_us: Option<i64>,
    /// Body of the command.
    pub body: Vec<u8>,
}

/// Differences by team, meter, currency and currency of the cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deltas(pub BTreeMap<DeltaKey, Delta>);

/// What a difference is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeltaKey {
    pub team: String,
    pub meter: String,
    pub currency: String,
    pub cost_currency: String,
}

/// A difference, raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub quantity: i128,
    pub charge: i128,
    pub cost: i128,
}

impl Deltas {
    /// Adds lines of a team, or takes them out where the sign is −1.
    pub fn add(&mut self, team: &str, lines: &[StoredLine<'_>], sign: i128) {
        for line in lines.iter().filter(|line| line.status != OBSERVED) {
            let key = DeltaKey {
                team: team.to_owned(),
                meter: line.meter.clone().into_owned(),
                currency: line.charge.currency.clone().into_owned(),
                cost_currency: line.cost.currency.clone().into_owned(),
            };
            let delta = self.0.entry(key).or_default();
            let add =
                |sum: &mut i128, more: i128| *sum = sum.saturating_add(more.saturating_mul(sign));
            add(&mut delta.quantity, line.quantity);
            add(&mut delta.charge, line.charge.amount.unwrap_or(0));
            add(&mut delta.cost, line.cost.amount.unwrap_or(0));
        }
    }

    /// Adds others.
    pub fn merge(&mut self, others: &Deltas) {
        for (key, other) in &others.0 {
            let delta = self.0.entry(key.clone()).or_default();
            delta.quantity = delta.quantity.saturating_add(other.quantity);
            delta.charge = delta.charge.saturating_add(other.charge);
            delta.cost = delta.cost.saturating_add(other.cost);
        }
    }

    /// Leaves out what is no difference.
    pub fn prune(&mut self) {
        self.0.retain(|_, delta| *delta != Delta::default());
    }
}

/// By how much the corrections of earlier events have moved the totals of later ones.
#[derive(Debug, Default)]
pub(crate) struct Shifts(HashMap<(String, TotalName), i128>);

impl Shifts {
    fn of(&self, team: &str, name: &TotalName) -> i128 {
        self.0.get(&(team.to_owned(), name.clone())).copied().unwrap_or(0)
    }

    fn add(&mut self, team: &str, name: &TotalName, by: i128) {
        if by != 0 {
            let shift = self.0.entry((team.to_owned(), name.clone())).or_default();
            *shift = shift.saturating_add(by);
        }
    }
}

/// What else a plan is made from.
pub(crate) struct Basis<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// The archive's position up to which the event was read.
    pub archived: i64,
    /// Catalogs by version: those that rated the event first and last.
    pub catalogs: &'a HashMap<i64, Arc<Compiled>>,
    /// Running totals that begin with something where the event had none of that name.
    pub posted: &'a BTreeMap<TotalName, i128>,
    /// Only events with a line of this meter, as they are or are to be.
    pub meter: Option<&'a str>,
    /// Only events with this outcome.
    pub outcome: Option<&'a str>,
}

impl Basis<'_> {
    /// The catalog that rated an event.
    fn catalog_of(&self, event: &StoredEvent) -> Option<&Catalog> {
        self.catalogs.get(&event.catalog_version).map(|compiled| &compiled.catalog)
    }
}

/// Totals before an event: of its meters as they were, or as they are to be.
struct Before<'a> {
    known: Vec<(TotalName, i128)>,
    posted: &'a BTreeMap<TotalName, i128>,
    team: &'a str,
    shifts: &'a Shifts,
    asked: RefCell<Vec<(TotalName, i128)>>,
}

impl Totals for Before<'_> {
    fn before(&self, name: &TotalName) -> i128 {
        let mut asked = self.asked.borrow_mut();
        if let Some((_, before)) = asked.iter().find(|(known, _)| known == name) {
            return *before;
        }
        let known = self.known.iter().find(|(known, _)| known == name).map(|(_, before)| *before);
        let known = known.or_else(|| self.posted.get(name).copied()).unwrap_or(0);
        let before = known.saturating_add(self.shifts.of(self.team, name));
        asked.push((name.clone(), before));
        before
    }
}

/// Totals as they are recorded beside an event's lines; a meter has one line.
struct Recorded<'a>(&'a [LineRow]);

impl Totals for Recorded<'_> {
    fn before(&self, name: &TotalName) -> i128 {
        let line = self.0.iter().find(|line| *line.meter == *name.meter);
        line.and_then(|line| raw(&line.total_before).ok()).unwrap_or(0)
    }
}

fn raw(text: &str) -> Result<i128, ApiError> {
    let amount = Amount::parse_sum(text);
    amount
        .map(Amount::raw)
        .map_err(|_| ApiError::Internal(format!("the archive's number `{text}` cannot be read")))
}

fn damaged(event: &StoredEvent, error: &PreviewError) -> ApiError {
    let place = event.place();
    ApiError::Internal(format!(
        "the event {}:{}:{} cannot be rated as it was: {error}",
        place.partition, place.position, place.index
    ))
}

/// A text that may be absent, which the archive has as an empty one.
pub(crate) fn optional(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn asked<'a>(event: &'a StoredEvent, data: &'a Data<'a>) -> Hypothetical<'a> {
    Hypothetical {
        event_type: &event.event_type,
        source: &event.source,
        team: &event.team,
        user: optional(&event.user),
        app: optional(&event.app),
        feature: optional(&event.feature),
        time_us: event.order_us,
        data,
    }
}

/// The totals that an event's lines moved on, by meter: rated as this catalog rated it.
fn moved(
    event: &StoredEvent,
    data: &Data<'_>,
    catalog: Option<&Catalog>,
) -> Result<Vec<PreviewLine>, ApiError> {
    let Some(catalog) = catalog.filter(|catalog| catalog.counts) else { return Ok(Vec::new()) };
    let rated = preview(catalog, &Recorded(&event.lines), &asked(event, data));
    rated.map(|(_, lines)| lines).map_err(|error| damaged(event, &error))
}

fn total_of<'l>(lines: &'l [PreviewLine], meter: &str) -> Option<(&'l TotalName, i128, i128)> {
    let line = lines.iter().find(|line| *line.meter == *meter)?;
    line.total.as_ref().map(|(name, before, after)| (name, *before, after.saturating_sub(*before)))
}

/// The lines of an event as the archive has them.
fn stored_lines<'a>(
    lines: &'a [LineRow],
    moved: &[PreviewLine],
) -> Result<Vec<StoredLine<'a>>, ApiError> {
    let money = |card: &'a str, version, currency: &'a str, amount: Option<&'a String>| {
        let amount = amount.map(|text| raw(text)).transpose()?;
        Ok::<_, ApiError>(StoredMoney {
            card: card.into(),
            version,
            currency: currency.into(),
            amount,
        })
    };
    let line = |line: &'a LineRow| {
        let dimensions = line.dimensions.iter();
        Ok(StoredLine {
            meter: line.meter.as_str().into(),
            unit: line.unit.as_str().into(),
            quantity: raw(&line.quantity)?,
            status: match line.status.as_str() {
                "priced" => 1,
                "unlimited" => 2,
                "observed" => OBSERVED,
                _ => 3,
            },
            charge: money(&line.card, line.card_version, &line.currency, line.charge.as_ref())?,
            cost: money(
                &line.cost_card,
                line.cost_card_version,
                &line.cost_currency,
                line.cost.as_ref(),
            )?,
            dimensions: dimensions
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
            total_before: raw(&line.total_before)?,
            moved: total_of(moved, &line.meter).map(|(name, _, moved)| (name.clone(), moved)),
        })
    };
    lines.iter().map(line).collect()
}

/// The lines of an event as this catalog rated it.
pub(crate) fn stored_lines_of<'a>(
    event: &'a StoredEvent,
    catalog: &Catalog,
) -> Result<Vec<StoredLine<'a>>, ApiError> {
    if !catalog.counts {
        return stored_lines(&event.lines, &[]);
    }
    let data = Data::of_event(&event.raw).map_err(|error| damaged(event, &error))?;
    stored_lines(&event.lines, &moved(event, &data, Some(catalog))?)
}

fn outcome(text: &str) -> Outcome {
    match text {
        "rated" => Outcome::Rated,
        "unmetered" => Outcome::Unmetered,
        _ => Outcome::Unpriced,
    }
}

/// Whether two lines book the same, wherever in its period the event stands.
fn same(before: &StoredLine<'_>, after: &StoredLine<'_>) -> bool {
    before.meter == after.meter
        && before.unit == after.unit
        && (before.quantity, before.status) == (after.quantity, after.status)
        && before.charge == after.charge
        && before.cost == after.cost
        && before.dimensions == after.dimensions
        && before.moved == after.moved
}

/// Plans the correction of an event. `shifts` are what the events before it in the log have left, and
/// are left for the events after it.
pub(crate) fn plan(
    found: &Corrected,
    wanted: &Wanted<'_>,
    shifts: &mut Shifts,
    basis: &Basis<'_>,
) -> Result<Plan, ApiError> {
    let first = &found.first;
    let team = first.team.as_str();
    let unread = |error: PreviewError| damaged(first, &error);
    let first_data = Data::of_event(&first.raw).map_err(unread)?;
    let first_moved = moved(first, &first_data, basis.catalog_of(first))?;
    let moved_first = || first_moved.iter().filter_map(|line| line.total.as_ref());
    // Whatever it was worth when it was rated first stands in the totals of later events.
    let leave = |shifts: &mut Shifts, now: &[StoredLine<'_>]| {
        for (name, before, after) in moved_first() {
            shifts.add(team, name, before.saturating_sub(*after));
        }
        for (name, moved) in now.iter().filter_map(|line| line.moved.as_ref()) {
            shifts.add(team, name, *moved);
        }
    };
    let Some(effective) = found.effective() else {
        leave(shifts, &[]);
        return Ok(Plan::IsVoid);
    };
    let own_data;
    let (data, was_moved) = if found.newest().is_some() {
        own_data = Data::of_event(&effective.raw).map_err(unread)?;
        (&own_data, moved(effective, &own_data, basis.catalog_of(effective))?)
    } else {
        (&first_data, first_moved.clone())
    };
    let before = stored_lines(&effective.lines, &was_moved)?;
    let of_meter = |lines: &[StoredLine<'_>]| {
        basis.meter.is_none_or(|meter| lines.iter().any(|line| line.meter == meter))
    };
    if basis.outcome.is_some_and(|outcome| outcome != effective.outcome) {
        leave(shifts, &before);
        return Ok(Plan::Unchanged);
    }
    let amended_data;
    let (catalog, asked) = match wanted {
        Wanted::Void if !of_meter(&before) => {
            leave(shifts, &before);
            return Ok(Plan::Unchanged);
        }
        Wanted::Void => {
            leave(shifts, &[]);
            let change = change(basis, (found, effective), (&before, data), None, None)?;
            return Ok(Plan::Change(Box::new(change)));
        }
        Wanted::Rate(catalog) => (*catalog, asked(effective, data)),
        Wanted::Amend(catalog, amended) => {
            let invalid = |error: PreviewError| Plan::Rejected("data_invalid", error.to_string());
            amended_data = match Data::of_event(amended.text) {
                Ok(data) => data,
                Err(error) => return Ok(invalid(error)),
            };
            let asked = Hypothetical {
                event_type: amended.event_type,
                user: amended.user,
                feature: amended.feature,
                time_us: amended.time_us.unwrap_or(effective.order_us),
                data: &amended_data,
                ..asked(effective, data)
            };
            (*catalog, asked)
        }
    };
    let (rated, given) = {
        let totals = Before {
            known: moved_first().map(|(name, before, _)| (name.clone(), *before)).collect(),
            posted: basis.posted,
            team,
            shifts,
            asked: RefCell::default(),
        };
        (preview(catalog, &totals, &asked), totals.asked.into_inner())
    };
    let (_, lines) = match rated {
        Ok(rated) => rated,
        Err(PreviewError::Rejected(rejection)) => {
            leave(shifts, &before);
            return Ok(Plan::Rejected(rejection.reason, rejection.detail));
        }
        Err(PreviewError::Data(detail)) => {
            leave(shifts, &before);
            return Ok(Plan::Rejected("data_invalid", detail));
        }
    };
    let after: Vec<StoredLine<'_>> = lines.iter().map(StoredLine::of_preview).collect();
    if !of_meter(&before) && !of_meter(&after) {
        leave(shifts, &before);
        return Ok(Plan::Unchanged);
    }
    leave(shifts, &after);
    let unchanged = before.len() == after.len()
        && before.iter().zip(&after).all(|(before, after)| same(before, after));
    let amended = match wanted {
        Wanted::Amend(_, amended) => Some((*amended, asked.data)),
        _ => None,
    };
    let changes_text = amended.is_some_and(|(amended, _)| {
        amended.text != effective.raw || amended.time_us.is_some_and(|us| us != effective.order_us)
    });
    if unchanged && !changes_text {
        return Ok(Plan::Unchanged);
    }
    let is_new = |name: &&TotalName| !moved_first().any(|(known, ..)| known == *name);
    let names = after.iter().filter_map(|line| line.moved.as_ref()).map(|(name, _)| name);
    let counts_from_us = names.filter(is_new).map(|name| name.start_us).min();
    let again = Again { time_us: asked.time_us, expected: fingerprint(&after), totals: given };
    let change =
        change(basis, (found, effective), (&before, data), amended, Some((again, &after)))?;
    Ok(Plan::Change(Box::new(Change { counts_from_us, ..change })))
}

fn change(
    basis: &Basis<'_>,
    (found, effective): (&Corrected, &StoredEvent),
    (before, data): (&[StoredLine<'_>], &Data<'_>),
    amended: Option<(&Amended<'_>, &Data<'_>)>,
    again: Option<(Again, &[StoredLine<'_>])>,
) -> Result<Change, ApiError> {
    let content = effective.content.parse();
    let text = EventText {
        tenant: basis.tenant,
        team: &effective.team,
        subject: &effective.subject,
        source: &effective.source,
        event_type: &effective.event_type,
        user: optional(&effective.user),
        app: optional(&effective.app),
        key: optional(&effective.key),
        feature: optional(&effective.feature),
        id: &effective.event_id,
        identity: 0,
        content: content.map_err(|_| ApiError::Internal("a content hash cannot be read".into()))?,
        time_us: effective.has_client_time.then_some(effective.order_us),
        data,
    };
    let mut writer = BlockWriter::default();
    text.push(&mut writer);
    if let Some((amended, data)) = amended {
        let text = EventText {
            event_type: amended.event_type,
            user: amended.user,
            feature: amended.feature,
            time_us: amended.time_us,
            data,
            ..text
        };
        text.push(&mut writer);
    }
    let block = writer.finish();
    let mut delta = Deltas::default();
    delta.add(&effective.team, before, -1);
    let expected = again.as_ref().map(|(again, _)| again.expected);
    let after = again.as_ref().map_or(&[][..], |(_, after)| *after);
    delta.add(&effective.team, after, 1);
    delta.prune();
    let run = found.run().saturating_add(1);
    let counts = before.iter().chain(after).any(|line| line.moved.is_some());
    let correction = Correction {
        position: found.first.position,
        index: found.first.index,
        run,
        checked_to: basis.archived,
        time_us: effective.order_us,
        outcome: outcome(&effective.outcome),
        lines: before.to_vec(),
        again: again.map(|(again, _)| again),
        block: &block,
    };
    let body = correction.encode();
    Ok(Change { run, delta, expected, counts, counts_from_us: None, body })
}

/// A block of commands, as many of them as there are bodies.
pub(crate) fn block(tenant: Uuid, bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    let tenant = writer.tenant(tenant);
    for body in bodies {
        let key = blake3::hash(body);
        let kind = CommandKind::Correct;
        writer.push(&Entry::Command(Command { tenant, kind, key: key.as_bytes(), body }));
    }
    writer.finish()
}
