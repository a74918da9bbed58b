//! Rows of the archive, encoded once by the rater as ClickHouse's RowBinary, in the order of
//! [`super::columns`].
//!
//! Both tables begin with the same five columns ([`RowHead`]), at fixed places, so that a duplicates
//! table can be rebuilt from rows without reading the rest.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::codec::{DecodeError, Dictionary, Input, Output};
use super::record::{EventRecord, Origin, Refused, Verdict};
use crate::{
    catalog::Catalog,
    rating::{Charge, Line, Outcome, RULES_VERSION, Rejection},
};

/// The columns both tables begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHead {
    /// Position of the block in `[usage]`.
    pub position: i64,
    /// Index of the entry in the block.
    pub index: u32,
    /// Identity of the event.
    pub identity: u128,
    /// Content hash of the event.
    pub content: u64,
}

impl RowHead {
    /// Reads the head of a row.
    pub fn decode(row: &[u8]) -> Result<RowHead, DecodeError> {
        let mut input = Input::new(row);
        Ok(RowHead {
            position: input.i64()?,
            index: input.u32()?,
            identity: input.u128()?,
            content: input.u64()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.raw(&self.position.to_le_bytes());
        out.raw(&self.index.to_le_bytes());
        out.raw(&self.identity.to_le_bytes());
        out.raw(&self.content.to_le_bytes());
    }
}

/// Where a row's event stands and what it was.
#[derive(Clone, Copy)]
pub struct RowPlace<'a> {
    /// Position of the block.
    pub position: i64,
    /// Index of the entry.
    pub index: u32,
    /// Partition.
    pub partition: u32,
    /// The tenant.
    pub tenant: Uuid,
    /// Append time of the block, microseconds.
    pub append_time_us: i64,
    /// The catalog version in force.
    pub catalog_version: u64,
    /// The block's strings.
    pub dictionary: &'a Dictionary<'a>,
    /// Of a copy: its verdict and origin.
    pub copy: Option<(Verdict, Origin)>,
}

/// Why an event did not take its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherOutcome {
    /// The same event took effect there.
    Duplicate {
        /// Position of the first.
        position: i64,
        /// Index of the first.
        index: u32,
    },
    /// The same id with other content took effect there.
    Conflict {
        /// Position of the first.
        position: i64,
        /// Index of the first.
        index: u32,
    },
    /// It cannot be rated.
    Rejected(Rejection),
}

/// UUIDs are two little-endian halves in RowBinary, the high one first.
fn put_uuid(out: &mut Vec<u8>, uuid: Uuid) {
    let (high, low) = uuid.as_u64_pair();
    out.raw(&high.to_le_bytes());
    out.raw(&low.to_le_bytes());
}

fn put_optional_uuid(out: &mut Vec<u8>, uuid: Option<Uuid>) {
    out.push(u8::from(uuid.is_none()));
    if let Some(uuid) = uuid {
        put_uuid(out, uuid);
    }
}

fn put_number(out: &mut Vec<u8>, dictionary: &Dictionary<'_>, number: Option<u32>) {
    out.text(number.and_then(|number| dictionary.get(number).ok()).unwrap_or_default());
}

fn put_names(out: &mut Vec<u8>, place: &RowPlace<'_>, event: &EventRecord<'_>) {
    out.raw(&place.partition.to_le_bytes());
    put_uuid(out, place.tenant);
    out.text(event.id);
    for number in [event.source, event.event_type, event.subject, event.team] {
        put_number(out, place.dictionary, Some(number));
    }
    for number in [event.user, event.app, event.key, event.feature] {
        put_number(out, place.dictionary, number);
    }
}

fn put_copy(out: &mut Vec<u8>, copy: Option<&(Verdict, Origin)>) {
    let (verdict, checked_to) = match copy.map(|(verdict, _)| verdict) {
        None => (0, -1),
        Some(Verdict::New { checked_to }) => (1, *checked_to),
        Some(Verdict::DuplicateOf { position, .. }) => (2, *position),
        Some(Verdict::ConflictWith { position, .. }) => (3, *position),
    };
    out.push(verdict);
    out.raw(&i64::to_le_bytes(checked_to));
    let origin = copy
        .map(|(_, origin)| (origin.partition, origin.position, origin.index))
        .unwrap_or((0, -1, 0));
    out.raw(&origin.0.to_le_bytes());
    out.raw(&i64::to_le_bytes(origin.1));
    out.raw(&origin.2.to_le_bytes());
}

/// Appends a row of `usage_events`.
pub fn put_usage_event(
    out: &mut Vec<u8>,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    time_us: i64,
    outcome: Outcome,
    catalog: &Catalog,
    lines: &[Line<'_>],
) {
    head(place, event).encode(out);
    put_names(out, place, event);
    out.raw(&time_us.to_le_bytes());
    out.push(u8::from(event.time_us.is_some()));
    out.raw(&place.append_time_us.to_le_bytes());
    out.push(match outcome {
        Outcome::Rated => 1,
        Outcome::Unmetered => 2,
        Outcome::Unpriced => 3,
    });
    put_optional_uuid(out, event.hold);
    out.push(u8::from(event.hold_end));
    out.raw(&place.catalog_version.to_le_bytes());
    out.raw(&RULES_VERSION.to_le_bytes());
    put_copy(out, place.copy.as_ref());
    put_quote(out, place, event);
    put_lines(out, catalog, lines);
    out.bytes(event.raw);
    out.raw(&xxh3_128(event.raw).to_le_bytes());
    out.push(1);
    out.raw(&0u32.to_le_bytes());
}

fn head(place: &RowPlace<'_>, event: &EventRecord<'_>) -> RowHead {
    RowHead {
        position: place.position,
        index: place.index,
        identity: event.identity,
        content: event.content,
    }
}

fn put_quote(out: &mut Vec<u8>, place: &RowPlace<'_>, event: &EventRecord<'_>) {
    out.push(u8::from(event.quote.is_none()));
    if let Some(quote) = event.quote {
        out.raw(&quote.charge.raw().to_le_bytes());
    }
    put_number(out, place.dictionary, event.quote.map(|quote| quote.currency));
    out.raw(&event.quote.map_or(0, |quote| quote.catalog_version).to_le_bytes());
    out.raw(&event.quote.map_or(0, |quote| quote.not_after_us).to_le_bytes());
}

/// The nested arrays: each column is a length and its values.
fn put_lines(out: &mut Vec<u8>, catalog: &Catalog, lines: &[Line<'_>]) {
    let meter = |line: &Line<'_>| catalog.meters.get(line.meter);
    let card = |number: Option<u32>| {
        number
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| catalog.card_versions.get(number))
    };
    let rate_card = |line: &Line<'_>| match line.charge {
        Charge::Priced { card_version, .. } | Charge::Unlimited { card_version } => {
            card(Some(card_version))
        }
        Charge::Unpriced => None,
    };
    let cost_card = |line: &Line<'_>| card(line.cost.map(|(_, number)| number));
    let mut column = |put: &dyn Fn(&mut Vec<u8>, &Line<'_>)| {
        out.length(lines.len());
        for line in lines {
            put(out, line);
        }
    };
    column(&|out, line| out.text(meter(line).map_or("", |meter| &meter.key)));
    column(&|out, line| out.text(meter(line).map_or("", |meter| &meter.unit)));
    column(&|out, line| out.raw(&line.quantity.raw().to_le_bytes()));
    column(&|out, line| {
        out.push(match line.charge {
            Charge::Priced { .. } => 1,
            Charge::Unlimited { .. } => 2,
            Charge::Unpriced => 3,
        })
    });
    column(&|out, line| out.text(rate_card(line).map_or("", |name| &name.card)));
    column(&|out, line| out.raw(&rate_card(line).map_or(0, |name| name.version).to_le_bytes()));
    column(&|out, line| out.text(rate_card(line).map_or("", |name| &name.currency)));
    column(&|out, line| match line.charge {
        Charge::Priced { amount, .. } => put_decimal(out, Some(amount.raw())),
        Charge::Unlimited { .. } => put_decimal(out, Some(0)),
        Charge::Unpriced => put_decimal(out, None),
    });
    column(&|out, line| out.text(cost_card(line).map_or("", |name| &name.card)));
    column(&|out, line| out.raw(&cost_card(line).map_or(0, |name| name.version).to_le_bytes()));
    column(&|out, line| out.text(cost_card(line).map_or("", |name| &name.currency)));
    column(&|out, line| put_decimal(out, line.cost.map(|(amount, _)| amount.raw())));
    column(&|out, line| {
        put_dimensions(out, meter(line).map_or(&[], |meter| &meter.dimensions), line)
    });
    column(&|out, _| out.raw(&0i128.to_le_bytes()));
}

/// A `Nullable(Decimal(38, 12))`.
fn put_decimal(out: &mut Vec<u8>, raw: Option<i128>) {
    out.push(u8::from(raw.is_none()));
    if let Some(raw) = raw {
        out.raw(&raw.to_le_bytes());
    }
}

fn put_dimensions(out: &mut Vec<u8>, names: &[std::sync::Arc<str>], line: &Line<'_>) {
    let present = || {
        names
            .iter()
            .zip(&line.dimensions)
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    };
    out.length(present().count());
    for (name, value) in present() {
        out.text(name);
        out.text(value);
    }
}

/// Appends a row of `rejected_events` for an event that did not take its id.
pub fn put_other(
    out: &mut Vec<u8>,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    outcome: &OtherOutcome,
) {
    head(place, event).encode(out);
    put_names(out, place, event);
    out.push(u8::from(event.time_us.is_none()));
    if let Some(time_us) = event.time_us {
        out.raw(&time_us.to_le_bytes());
    }
    out.raw(&place.append_time_us.to_le_bytes());
    let (kind, reason, detail, twin) = match outcome {
        OtherOutcome::Duplicate { position, index } => (1, "duplicate", "", (*position, *index)),
        OtherOutcome::Conflict { position, index } => (2, "conflict", "", (*position, *index)),
        OtherOutcome::Rejected(rejection) => {
            (3, rejection.reason, rejection.detail.as_str(), (-1, 0))
        }
    };
    out.push(kind);
    out.text(reason);
    out.text(detail);
    out.raw(&i64::to_le_bytes(twin.0));
    out.raw(&u32::to_le_bytes(twin.1));
    put_door(out, "", 0, -1, 0);
    put_optional_uuid(out, event.hold);
    out.raw(&place.catalog_version.to_le_bytes());
    put_copy(out, place.copy.as_ref());
    // A duplicate's payload is its twin's; only what may be mended or disputed is kept.
    let raw: &[u8] =
        if matches!(outcome, OtherOutcome::Duplicate { .. }) { &[] } else { event.raw };
    out.bytes(raw);
}

fn put_door(out: &mut Vec<u8>, door: &str, partition: u32, offset: i64, index: u32) {
    out.text(door);
    out.raw(&partition.to_le_bytes());
    out.raw(&offset.to_le_bytes());
    out.raw(&index.to_le_bytes());
}

/// Appends a row of `rejected_events` for a door's message that was not accepted.
pub fn put_refused(out: &mut Vec<u8>, place: &RowPlace<'_>, refused: &Refused<'_>) {
    RowHead { position: place.position, index: place.index, identity: 0, content: 0 }.encode(out);
    out.raw(&place.partition.to_le_bytes());
    put_uuid(out, place.tenant);
    for _ in 0..9 {
        out.text("");
    }
    out.push(1);
    out.raw(&place.append_time_us.to_le_bytes());
    out.push(3);
    out.text(refused.reason);
    out.text(refused.detail);
    out.raw(&i64::to_le_bytes(-1));
    out.raw(&0u32.to_le_bytes());
    put_door(out, refused.door, refused.door_partition, refused.door_offset, refused.door_index);
    put_optional_uuid(out, None);
    out.raw(&place.catalog_version.to_le_bytes());
    put_copy(out, None);
    out.bytes(refused.raw);
}
