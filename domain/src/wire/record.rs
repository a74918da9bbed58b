//! One entry of a block: a client's event, a copy with a verdict, a catalog marker, a command, or
//! a message that a door could not accept.
//!
//! Strings that repeat (tenant, team, type, names of attributes) are numbers of the block's
//! dictionary. The raw JSON is kept; [`Attribute`]s say where in it each scalar of `data` stands,
//! so that no reader parses JSON again.

use uuid::Uuid;

use super::codec::{DecodeError, Dictionary, Input, Output};
use crate::money::Amount;

/// What kind of JSON value an attribute is. A string's place excludes its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttributeKind {
    /// `null`
    Null = 0,
    /// `false`
    False = 1,
    /// `true`
    True = 2,
    /// A number, as written.
    Number = 3,
    /// A string without escapes.
    Text = 4,
    /// A string with escapes.
    EscapedText = 5,
    /// `{}`
    EmptyObject = 6,
    /// `[]`
    EmptyArray = 7,
}

impl AttributeKind {
    fn from_byte(byte: u8) -> Result<AttributeKind, DecodeError> {
        Ok(match byte {
            0 => AttributeKind::Null,
            1 => AttributeKind::False,
            2 => AttributeKind::True,
            3 => AttributeKind::Number,
            4 => AttributeKind::Text,
            5 => AttributeKind::EscapedText,
            6 => AttributeKind::EmptyObject,
            7 => AttributeKind::EmptyArray,
            _ => return Err(DecodeError::Field("attribute kind")),
        })
    }
}

/// A scalar of the event's `data`: its JSON pointer (a dictionary number) and its place in `raw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Dictionary number of the JSON pointer (RFC 6901) below `data`.
    pub pointer: u32,
    /// What it is.
    pub kind: AttributeKind,
    /// First byte in `raw`.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

/// A price promised when the usage was charged on the spot; `wallets.md`, "Charge now".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The charge promised.
    pub charge: Amount,
    /// Dictionary number of its currency.
    pub currency: u32,
    /// Catalog version that priced it.
    pub catalog_version: u64,
    /// The event is rejected (`hold_expired`) if its block was appended later, microseconds.
    pub not_after_us: i64,
}

/// One event as ingest understood it. Numbers named `…: u32` are dictionary numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord<'a> {
    /// Number of the tenant in the block's tenant table.
    pub tenant: u32,
    /// The billing account, aliases resolved.
    pub team: u32,
    /// The subject as the client sent it.
    pub subject: u32,
    /// The source as the client sent it.
    pub source: u32,
    /// The event type.
    pub event_type: u32,
    /// The person named on the event.
    pub user: Option<u32>,
    /// The app whose credential reported it.
    pub app: Option<u32>,
    /// The id of the API key that reported it.
    pub key: Option<u32>,
    /// The feature named on the event.
    pub feature: Option<u32>,
    /// The client's id.
    pub id: &'a str,
    /// Keyed hash of (tenant, subject, source without version, id); design section 5.
    pub identity: u128,
    /// Hash of (type, subject, canonical data).
    pub content: u64,
    /// The client's time, microseconds; `None` where it gave none.
    pub time_us: Option<i64>,
    /// The hold this usage belongs to.
    pub hold: Option<Uuid>,
    /// The client says that this is the last usage of its hold; it ends nothing by itself.
    pub hold_end: bool,
    /// A price promised before.
    pub quote: Option<Quote>,
    /// The scalars of `data`.
    pub attributes: Vec<Attribute>,
    /// The event as it was sent.
    pub raw: &'a [u8],
}

/// What the slow lane found out about a late event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No twin below or at this position.
    New {
        /// The archive's position up to which the search was complete.
        checked_to: i64,
    },
    /// The same event took effect there.
    DuplicateOf {
        /// Position of the first.
        position: i64,
        /// Index of the first.
        index: u32,
    },
    /// The same id with other content took effect there.
    ConflictWith {
        /// Position of the first.
        position: i64,
        /// Index of the first.
        index: u32,
    },
}

/// Where a copied event stood first; all age checks and the event time come from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Partition of `[usage]`.
    pub partition: u32,
    /// Position of its block.
    pub position: i64,
    /// Index in the block.
    pub index: u32,
    /// Append time of that block, microseconds.
    pub append_time_us: i64,
    /// Whether the client had given a time.
    pub has_client_time: bool,
}

/// Why a door's message was not accepted; it is kept as a rejected row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Number of the tenant in the block's tenant table.
    pub tenant: u32,
    /// Stable code.
    pub reason: &'a str,
    /// What is wrong, for a person.
    pub detail: &'a str,
    /// Topic of the door.
    pub door: &'a str,
    /// Partition of the door.
    pub door_partition: u32,
    /// Offset in the door.
    pub door_offset: i64,
    /// Index within the door's message, where it held several events.
    pub door_index: u32,
    /// The bytes as they came.
    pub raw: &'a [u8],
}

/// An order to the rater that comes by the log, so that it has a place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Number of the tenant in the block's tenant table.
    pub tenant: u32,
    /// What to do.
    pub kind: CommandKind,
    /// Makes a repeat recognisable.
    pub key: &'a [u8],
    /// Parameters of the kind, as `docs/FORMATS.md` says.
    pub body: &'a [u8],
}

/// The kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandKind {
    /// Correct one event ([`super::correction`]); key: position, index, run.
    Correct = 1,
    /// Price the meters that do not add up for a period that has ended; key: team, meter, period.
    ClosePeriod = 2,
    /// Post to a receivable on behalf of the api; key: its idempotency key.
    Post = 3,
}

/// One entry of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A client's event.
    Event(EventRecord<'a>),
    /// A late event that the slow lane has judged.
    Copy(Verdict, Origin, EventRecord<'a>),
    /// From here on this tenant's catalog is that of a version.
    Marker {
        /// Whose catalog.
        tenant: Uuid,
        /// The version, counted over all tenants.
        catalog_version: u64,
        /// BLAKE3 of the catalog document.
        document_hash: [u8; 32],
    },
    /// A command.
    Command(Command<'a>),
    /// A door's message that could not be accepted.
    Refused(Refused<'a>),
}

const EVENT: u8 = 1;
const COPY: u8 = 2;
const MARKER: u8 = 3;
const COMMAND: u8 = 4;
const REFUSED: u8 = 5;

const HAS_TIME: u8 = 1;
const HAS_HOLD: u8 = 2;
const HOLD_END: u8 = 4;
const HAS_QUOTE: u8 = 8;

/// The catalog version of an entry that is a marker; `None` for any other.
pub(super) fn marked_version(entry: &[u8]) -> Result<Option<u64>, DecodeError> {
    let mut input = Input::new(entry);
    if input.u8()? != MARKER {
        return Ok(None);
    }
    input.uuid()?;
    input.varint().map(Some)
}

impl<'a> Entry<'a> {
    /// Appends the entry, without a length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Event(event) => {
                out.push(EVENT);
                encode_event(event, out);
            }
            Entry::Copy(verdict, origin, event) => {
                out.push(COPY);
                encode_verdict(verdict, out);
                encode_origin(origin, out);
                encode_event(event, out);
            }
            Entry::Marker { tenant, catalog_version, document_hash } => {
                out.push(MARKER);
                out.raw(tenant.as_bytes());
                out.varint(*catalog_version);
                out.raw(document_hash);
            }
            Entry::Command(command) => {
                out.push(COMMAND);
                out.varint(u64::from(command.tenant));
                out.push(command.kind as u8);
                out.bytes(command.key);
                out.bytes(command.body);
            }
            Entry::Refused(refused) => {
                out.push(REFUSED);
                out.varint(u64::from(refused.tenant));
                out.text(refused.reason);
                out.text(refused.detail);
                out.text(refused.door);
                out.varint(u64::from(refused.door_partition));
                out.raw(&refused.door_offset.to_le_bytes());
                out.varint(u64::from(refused.door_index));
                out.bytes(refused.raw);
            }
        }
    }

    /// Reads one entry; all of `bytes` must be used.
    pub fn decode(bytes: &'a [u8], dictionary: &Dictionary<'a>) -> Result<Entry<'a>, DecodeError> {
        let mut input = Input::new(bytes);
        let entry = match input.u8()? {
            EVENT => Entry::Event(decode_event(&mut input, dictionary)?),
            COPY => {
                let verdict = decode_verdict(&mut input)?;
                let origin = decode_origin(&mut input)?;
                Entry::Copy(verdict, origin, decode_event(&mut input, dictionary)?)
            }
            MARKER => Entry::Marker {
                tenant: input.uuid()?,
                catalog_version: input.varint()?,
                document_hash: input.hash()?,
            },
            COMMAND => Entry::Command(Command {
                tenant: input.varint_u32()?,
                kind: command_kind(input.u8()?)?,
                key: input.bytes()?,
                body: input.bytes()?,
            }),
            REFUSED => Entry::Refused(Refused {
                tenant: input.varint_u32()?,
                reason: input.text()?,
                detail: input.text()?,
                door: input.text()?,
                door_partition: input.varint_u32()?,
                door_offset: input.i64()?,
                door_index: input.varint_u32()?,
                raw: input.bytes()?,
            }),
            _ => return Err(DecodeError::Field("entry kind")),
        };
        if input.is_empty() { Ok(entry) } else { Err(DecodeError::Field("entry length")) }
    }
}

fn command_kind(byte: u8) -> Result<CommandKind, DecodeError> {
    Ok(match byte {
        1 => CommandKind::Correct,
        2 => CommandKind::ClosePeriod,
        3 => CommandKind::Post,
        _ => return Err(DecodeError::Field("command kind")),
    })
}

fn encode_verdict(verdict: &Verdict, out: &mut Vec<u8>) {
    let (kind, position, index) = match verdict {
        Verdict::New { checked_to } => (1, *checked_to, 0),
        Verdict::DuplicateOf { position, index } => (2, *position, *index),
        Verdict::ConflictWith { position, index } => (3, *position, *index),
    };
    out.push(kind);
    out.raw(&position.to_le_bytes());
    out.varint(u64::from(index));
}

fn decode_verdict(input: &mut Input<'_>) -> Result<Verdict, DecodeError> {
    let kind = input.u8()?;
    let (position, index) = (input.i64()?, input.varint_u32()?);
    Ok(match kind {
        1 => Verdict::New { checked_to: position },
        2 => Verdict::DuplicateOf { position, index },
        3 => Verdict::ConflictWith { position, index },
        _ => return Err(DecodeError::Field("verdict")),
    })
}

fn encode_origin(origin: &Origin, out: &mut Vec<u8>) {
    out.varint(u64::from(origin.partition));
    out.raw(&origin.position.to_le_bytes());
    out.varint(u64::from(origin.index));
    out.raw(&origin.append_time_us.to_le_bytes());
    out.push(u8::from(origin.has_client_time));
}

fn decode_origin(input: &mut Input<'_>) -> Result<Origin, DecodeError> {
    Ok(Origin {
        partition: input.varint_u32()?,
        position: input.i64()?,
        index: input.varint_u32()?,
        append_time_us: input.i64()?,
        has_client_time: input.u8()? != 0,
    })
}

fn encode_event(event: &EventRecord<'_>, out: &mut Vec<u8>) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(
        flag(event.time_us.is_some(), HAS_TIME)
            | flag(event.hold.is_some(), HAS_HOLD)
            | flag(event.hold_end, HOLD_END)
            | flag(event.quote.is_some(), HAS_QUOTE),
    );
    out.raw(&event.identity.to_le_bytes());
    out.raw(&event.content.to_le_bytes());
    for place in [event.tenant, event.team, event.subject, event.source, event.event_type] {
        out.varint(u64::from(place));
    }
    for place in [event.user, event.app, event.key, event.feature] {
        out.varint(place.map_or(0, |place| u64::from(place) + 1));
    }
    if let Some(time_us) = event.time_us {
        out.raw(&time_us.to_le_bytes());
    }
    if let Some(hold) = event.hold {
        out.raw(hold.as_bytes());
    }
    if let Some(quote) = event.quote {
        out.signed(quote.charge.raw());
        out.varint(u64::from(quote.currency));
        out.varint(quote.catalog_version);
        out.raw(&quote.not_after_us.to_le_bytes());
    }
    out.text(event.id);
    out.length(event.attributes.len());
    for attribute in &event.attributes {
        out.varint(u64::from(attribute.pointer));
        out.push(attribute.kind as u8);
        out.varint(u64::from(attribute.offset));
        out.varint(u64::from(attribute.length));
    }
    out.bytes(event.raw);
}

fn decode_event<'a>(
    input: &mut Input<'a>,
    dictionary: &Dictionary<'a>,
) -> Result<EventRecord<'a>, DecodeError> {
    let flags = input.u8()?;
    if flags > (HAS_TIME | HAS_HOLD | HOLD_END | HAS_QUOTE) {
        return Err(DecodeError::Field("event flags"));
    }
    let (identity, content) = (input.u128()?, input.u64()?);
    let tenant = input.varint_u32()?;
    let mut known = || {
        let place = input.varint_u32()?;
        dictionary.get(place).map(|_| place)
    };
    let (team, subject, source, event_type) = (known()?, known()?, known()?, known()?);
    let mut optional = || {
        let place = input.varint_u32()?;
        dictionary.get_optional(place).map(|_| place.checked_sub(1))
    };
    let (user, app, key, feature) = (optional()?, optional()?, optional()?, optional()?);
    let time_us = (flags & HAS_TIME != 0).then(|| input.i64()).transpose()?;
    let hold = (flags & HAS_HOLD != 0).then(|| input.uuid()).transpose()?;
    let quote = (flags & HAS_QUOTE != 0).then(|| decode_quote(input, dictionary)).transpose()?;
    let id = input.text()?;
    let attributes = decode_attributes(input, dictionary)?;
    let raw = input.bytes()?;
    let in_raw = |attribute: &Attribute| {
        u64::from(attribute.offset) + u64::from(attribute.length) <= raw.len() as u64
    };
    if !attributes.iter().all(in_raw) {
        return Err(DecodeError::Field("attribute place"));
    }
    let hold_end = flags & HOLD_END != 0;
    Ok(EventRecord {
        tenant,
        team,
        subject,
        source,
        event_type,
        user,
        app,
        key,
        feature,
        id,
        identity,
        content,
        time_us,
        hold,
        hold_end,
        quote,
        attributes,
        raw,
    })
}

fn decode_quote<'a>(
    input: &mut Input<'a>,
    dictionary: &Dictionary<'a>,
) -> Result<Quote, DecodeError> {
    let charge = Amount::from_raw(input.signed()?).ok_or(DecodeError::Field("quote"))?;
    let currency = input.varint_u32()?;
    dictionary.get(currency)?;
    Ok(Quote { charge, currency, catalog_version: input.varint()?, not_after_us: input.i64()? })
}

fn decode_attributes<'a>(
    input: &mut Input<'a>,
    dictionary: &Dictionary<'a>,
) -> Result<Vec<Attribute>, DecodeError> {
    let count = input.count(4)?;
    let mut attributes = Vec::with_capacity(count);
    for _ in 0..count {
        let attribute = Attribute {
            pointer: input.varint_u32()?,
            kind: AttributeKind::from_byte(input.u8()?)?,
            offset: input.varint_u32()?,
            length: input.varint_u32()?,
        };
        dictionary.get(attribute.pointer)?;
        attributes.push(attribute);
    }
    Ok(attributes)
}

impl EventRecord<'_> {
    /// The bytes of an attribute's value in `raw`.
    #[must_use]
    pub fn attribute_bytes(&self, attribute: &Attribute) -> &[u8] {
        let begin = usize::try_from(attribute.offset).unwrap_or(usize::MAX);
        let length = usize::try_from(attribute.length).unwrap_or(usize::MAX);
        self.raw.get(begin..begin.saturating_add(length)).unwrap_or_default()
    }
}
