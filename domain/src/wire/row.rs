//! Rows of the archive, written once by the rater, in the order of [`super::columns`].
//!
//! Both tables begin with the same five columns ([`RowHead`]), at fixed places, so that a duplicates
//! table can be rebuilt from rows without reading the rest.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::codec::{DecodeError, Dictionary, Input};
use super::correction::{StoredLine, StoredMoney, outcome_code, status};
use super::record::{EventRecord, Origin, Refused, Verdict};
use super::rows::RowOutput;
use crate::{
    catalog::{CardVersionName, Catalog},
    money::Amount,
    rating::{Line, Outcome, RULES_VERSION, Rejection},
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
    /// Whether the event took its id here: a correction leaves it where it is.
    #[must_use]
    pub fn took_id(&self) -> bool {
        self.identity != 0
    }

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

    fn put(&self, out: &mut impl RowOutput) {
        out.fixed(&self.position.to_le_bytes());
        out.fixed(&self.index.to_le_bytes());
        out.fixed(&self.identity.to_le_bytes());
        out.fixed(&self.content.to_le_bytes());
    }
}

/// The event that a row corrects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// Position at which it took its id.
    pub position: i64,
    /// Index there.
    pub index: u32,
    /// Which correction of it this is, from 1.
    pub run: u32,
    /// The archive's position up to which the state before was the newest.
    pub checked_to: i64,
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
    /// Of a correction: what it corrects.
    pub corrects: Option<Corrected>,
    /// What tells the block and its tenant's catalog apart from all others whose rows stand beside this
    /// one, so that their words need not be compared; 0 where nobody knows.
    pub serial: u32,
}

impl RowPlace<'_> {
    /// The name of the word with this number in the block's dictionary or in the catalog.
    fn name(&self, number: Option<u32>) -> u64 {
        match self.serial {
            0 => 0,
            serial => u64::from(serial) << 32 | number.map_or(0, |number| u64::from(number) + 1),
        }
    }
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
    /// A command that corrects it was not carried out.
    Uncorrected(Rejection),
}

/// UUIDs are two little-endian halves in RowBinary, the high one first.
fn put_uuid(out: &mut impl RowOutput, uuid: Uuid) {
    out.fixed(&uuid_bytes(uuid));
}

fn uuid_bytes(uuid: Uuid) -> [u8; 16] {
    let (high, low) = uuid.as_u64_pair();
    (u128::from(low) << 64 | u128::from(high)).to_le_bytes()
}

fn put_optional_uuid(out: &mut impl RowOutput, uuid: Option<Uuid>) {
    let bytes = uuid.map(uuid_bytes);
    out.nullable(bytes.as_ref().map(<[u8; 16]>::as_slice));
}

fn put_number(out: &mut impl RowOutput, place: &RowPlace<'_>, number: Option<u32>) {
    let text = number.and_then(|number| place.dictionary.get(number).ok()).unwrap_or_default();
    out.word(place.name(number), text);
}

fn put_names(out: &mut impl RowOutput, place: &RowPlace<'_>, event: &EventRecord<'_>) {
    out.fixed(&place.partition.to_le_bytes());
    put_uuid(out, place.tenant);
    out.text(event.id);
    for number in [event.source, event.event_type, event.subject, event.team] {
        put_number(out, place, Some(number));
    }
    for number in [event.user, event.app, event.key, event.feature] {
        put_number(out, place, number);
    }
}

/// The copy's verdict and where it came from; of a correction, which event it corrects.
fn put_origin(out: &mut impl RowOutput, place: &RowPlace<'_>) {
    let copy = place.copy.as_ref();
    let (verdict, checked_to) = match copy.map(|(verdict, _)| verdict) {
        None => (0, place.corrects.map_or(-1, |corrects| corrects.checked_to)),
        Some(Verdict::New { checked_to }) => (1, *checked_to),
        Some(Verdict::DuplicateOf { position, .. }) => (2, *position),
        Some(Verdict::ConflictWith { position, .. }) => (3, *position),
    };
    out.fixed(&[verdict]);
    out.fixed(&i64::to_le_bytes(checked_to));
    let corrects = place.corrects.map(|one| (place.partition, one.position, one.index));
    let origin = copy.map(|(_, origin)| (origin.partition, origin.position, origin.index));
    let origin = origin.or(corrects).unwrap_or((0, -1, 0));
    out.fixed(&origin.0.to_le_bytes());
    out.fixed(&i64::to_le_bytes(origin.1));
    out.fixed(&origin.2.to_le_bytes());
}

/// Appends a row of `usage_events`.
pub fn put_usage_event(
    out: &mut impl RowOutput,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    time_us: i64,
    outcome: Outcome,
    catalog: &Catalog,
    lines: &[Line<'_>],
) {
    put_begin(out, place, event, time_us, outcome);
    put_lines(out, place, catalog, lines);
    put_end(out, place, event.raw, 1);
}

/// Appends a row of `usage_events` that takes back what an event came to: lines as the archive has them.
/// The text is with the row that it takes back.
pub fn put_reversal(
    out: &mut impl RowOutput,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    time_us: i64,
    outcome: Outcome,
    lines: &[StoredLine<'_>],
) {
    put_begin(out, place, event, time_us, outcome);
    put_stored(out, lines);
    put_end(out, place, &[], -1);
}

/// Everything before the lines.
fn put_begin(
    out: &mut impl RowOutput,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    time_us: i64,
    outcome: Outcome,
) {
    head(place, event).put(out);
    put_names(out, place, event);
    out.fixed(&time_us.to_le_bytes());
    out.fixed(&[u8::from(event.time_us.is_some())]);
    out.fixed(&place.append_time_us.to_le_bytes());
    out.fixed(&[outcome_code(outcome)]);
    put_optional_uuid(out, event.hold);
    out.fixed(&[u8::from(event.hold_end)]);
    out.fixed(&place.catalog_version.to_le_bytes());
    out.fixed(&RULES_VERSION.to_le_bytes());
    put_origin(out, place);
    put_quote(out, place, event);
}

/// Everything behind the lines.
fn put_end(out: &mut impl RowOutput, place: &RowPlace<'_>, raw: &[u8], sign: i8) {
    out.text(raw);
    out.fixed(&xxh3_128(raw).to_le_bytes());
    out.fixed(&sign.to_le_bytes());
    out.fixed(&place.corrects.map_or(0, |corrects| corrects.run).to_le_bytes());
}

fn head(place: &RowPlace<'_>, event: &EventRecord<'_>) -> RowHead {
    RowHead {
        position: place.position,
        index: place.index,
        identity: event.identity,
        content: event.content,
    }
}

fn put_quote(out: &mut impl RowOutput, place: &RowPlace<'_>, event: &EventRecord<'_>) {
    put_decimal(out, event.quote.map(|quote| quote.charge.raw()));
    put_number(out, place, event.quote.map(|quote| quote.currency));
    out.fixed(&event.quote.map_or(0, |quote| quote.catalog_version).to_le_bytes());
    out.fixed(&event.quote.map_or(0, |quote| quote.not_after_us).to_le_bytes());
}

/// The nested arrays: each column is a length and its values.
fn put_lines(
    out: &mut impl RowOutput,
    place: &RowPlace<'_>,
    catalog: &Catalog,
    lines: &[Line<'_>],
) {
    let meter = |line: &Line<'_>| catalog.meters.get(line.meter);
    let card = |number: Option<u32>| {
        number
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| catalog.card_versions.get(number))
    };
    let of_meter = |line: &Line<'_>| place.name(u32::try_from(line.meter).ok());
    column(out, lines, |out, line| {
        out.word(of_meter(line), meter(line).map_or("", |meter| &meter.key));
    });
    column(out, lines, |out, line| {
        out.word(of_meter(line), meter(line).map_or("", |meter| &meter.unit));
    });
    column(out, lines, |out, line| out.fixed(&line.quantity.raw().to_le_bytes()));
    column(out, lines, |out, line| {
        out.fixed(&[status(&line.charge)]);
    });
    put_money(out, (place, lines), |line| {
        let number = line.charge.card_version();
        (number, card(number), line.charge.amount())
    });
    put_money(out, (place, lines), |line| {
        let number = line.cost.map(|(_, number)| number);
        (number, card(number), line.cost.map(|(amount, _)| amount))
    });
    column(out, lines, |out, line| {
        put_dimensions(out, meter(line).map_or(&[], |meter| &meter.dimensions), line)
    });
    column(out, lines, |out, line| {
        out.fixed(&line.total.as_deref().map_or(0, |total| total.before).to_le_bytes());
    });
}

/// Card, its version, currency and amount of each line.
fn put_money<'l, 'c>(
    out: &mut impl RowOutput,
    (place, lines): (&RowPlace<'_>, &[Line<'l>]),
    of: impl Fn(&Line<'l>) -> (Option<u32>, Option<&'c CardVersionName>, Option<Amount>),
) {
    column(out, lines, |out, line| {
        let (number, name, _) = of(line);
        out.word(place.name(number), name.map_or("", |name| &name.card));
    });
    column(out, lines, |out, line| {
        out.fixed(&of(line).1.map_or(0, |name| name.version).to_le_bytes());
    });
    column(out, lines, |out, line| {
        let (number, name, _) = of(line);
        out.word(place.name(number), name.map_or("", |name| &name.currency));
    });
    column(out, lines, |out, line| put_decimal(out, of(line).2.map(Amount::raw)));
}

/// The nested arrays of lines that the archive has already.
fn put_stored(out: &mut impl RowOutput, lines: &[StoredLine<'_>]) {
    column(out, lines, |out, line| out.text(&*line.meter));
    column(out, lines, |out, line| out.text(&*line.unit));
    column(out, lines, |out, line| out.fixed(&line.quantity.to_le_bytes()));
    column(out, lines, |out, line| out.fixed(&[line.status]));
    put_stored_money(out, lines, |line| &line.charge);
    put_stored_money(out, lines, |line| &line.cost);
    column(out, lines, |out, line| {
        out.map(line.dimensions.len());
        for (name, value) in &line.dimensions {
            out.pair(&**name, &**value);
        }
    });
    column(out, lines, |out, line| out.fixed(&line.total_before.to_le_bytes()));
}

fn put_stored_money<'l>(
    out: &mut impl RowOutput,
    lines: &[StoredLine<'l>],
    of: impl for<'a> Fn(&'a StoredLine<'l>) -> &'a StoredMoney<'l>,
) {
    column(out, lines, |out, line| out.text(&*of(line).card));
    column(out, lines, |out, line| out.fixed(&of(line).version.to_le_bytes()));
    column(out, lines, |out, line| out.text(&*of(line).currency));
    column(out, lines, |out, line| put_decimal(out, of(line).amount));
}

fn column<O: RowOutput, L>(out: &mut O, lines: &[L], put: impl Fn(&mut O, &L)) {
    out.list(lines.len());
    for line in lines {
        put(out, line);
    }
}

/// A `Nullable(Decimal(38, 12))`.
fn put_decimal(out: &mut impl RowOutput, raw: Option<i128>) {
    let bytes = raw.map(i128::to_le_bytes);
    out.nullable(bytes.as_ref().map(<[u8; 16]>::as_slice));
}

fn put_dimensions(out: &mut impl RowOutput, names: &[std::sync::Arc<str>], line: &Line<'_>) {
    let present = || {
        names
            .iter()
            .zip(&line.dimensions)
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    };
    out.map(present().count());
    for (name, value) in present() {
        out.pair(&**name, value);
    }
}

/// Appends a row of `rejected_events` for an event that did not take its id.
pub fn put_other(
    out: &mut impl RowOutput,
    place: &RowPlace<'_>,
    event: &EventRecord<'_>,
    outcome: &OtherOutcome,
) {
    head(place, event).put(out);
    put_names(out, place, event);
    let time = event.time_us.map(i64::to_le_bytes);
    out.nullable(time.as_ref().map(<[u8; 8]>::as_slice));
    out.fixed(&place.append_time_us.to_le_bytes());
    let (kind, reason, detail, twin) = match outcome {
        OtherOutcome::Uncorrected(why) => (4, why.reason, why.detail.as_str(), (-1, 0)),
        OtherOutcome::Duplicate { position, index } => (1, "duplicate", "", (*position, *index)),
        OtherOutcome::Conflict { position, index } => (2, "conflict", "", (*position, *index)),
        OtherOutcome::Rejected(rejection) => {
            (3, rejection.reason, rejection.detail.as_str(), (-1, 0))
        }
    };
    out.fixed(&[kind]);
    out.text(reason);
    out.text(detail);
    out.fixed(&i64::to_le_bytes(twin.0));
    out.fixed(&u32::to_le_bytes(twin.1));
    put_door(out, "", 0, -1, 0);
    put_optional_uuid(out, event.hold);
    out.fixed(&place.catalog_version.to_le_bytes());
    put_origin(out, place);
    // A duplicate's payload is its twin's; only what may be mended or disputed is kept.
    let raw: &[u8] = if let OtherOutcome::Duplicate { .. } | OtherOutcome::Uncorrected(_) = outcome
    {
        &[]
    } else {
        event.raw
    };
    out.text(raw);
}

fn put_door(out: &mut impl RowOutput, door: &str, partition: u32, offset: i64, index: u32) {
    out.text(door);
    out.fixed(&partition.to_le_bytes());
    out.fixed(&offset.to_le_bytes());
    out.fixed(&index.to_le_bytes());
}

/// Appends a row of `rejected_events` for a door's message that was not accepted.
pub fn put_refused(out: &mut impl RowOutput, place: &RowPlace<'_>, refused: &Refused<'_>) {
    RowHead { position: place.position, index: place.index, identity: 0, content: 0 }.put(out);
    out.fixed(&place.partition.to_le_bytes());
    put_uuid(out, place.tenant);
    for _ in 0..9 {
        out.text("");
    }
    out.nullable(None);
    out.fixed(&place.append_time_us.to_le_bytes());
    out.fixed(&[3]);
    out.text(refused.reason);
    out.text(refused.detail);
    out.fixed(&i64::to_le_bytes(-1));
    out.fixed(&0u32.to_le_bytes());
    put_door(out, refused.door, refused.door_partition, refused.door_offset, refused.door_index);
    put_optional_uuid(out, None);
    out.fixed(&place.catalog_version.to_le_bytes());
    put_origin(out, place);
    out.text(refused.raw);
}
