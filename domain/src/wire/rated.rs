//! A rated batch: one message of `[rated]`. See `docs/FORMATS.md`, "Rated batch".
//!
//! An outer header of fixed layout for ever ([`Outer`]: what the acceptance rule needs), then five
//! sections behind their lengths: header, sums, rows, others, forwards. A reader that wants only
//! the sums pays for nothing else.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{DecodeError, Input, Output};
use super::columns::{REJECTED_EVENTS, Table, USAGE_EVENTS};
use super::rows::{Columns, ColumnsWriter, Rows};
use super::sums::Sums;
use super::trace::{self, TraceContext};
use crate::chain::{HASH_LENGTH, Hash};

/// First bytes of every rated batch.
pub const MAGIC: [u8; 4] = *b"WRRB";
/// The format version of a batch without traces.
pub const VERSION: u16 = 3;
/// The format version of one with traces.
pub const VERSION_WITH_TRACES: u16 = 4;
/// The same two for a batch that changes running totals: they stand behind the sums.
const VERSIONS_WITH_TOTALS: [u16; 2] = [5, 6];
/// The same two for a batch that carries out corrections: running totals stand behind the sums, be
/// there none, and sums may have fewer than no events.
const VERSIONS_WITH_CORRECTIONS: [u16; 2] = [7, 8];
/// The first two as they were before: rows are RowBinary, one after the other.
const VERSIONS_OF_ROWS: [u16; 2] = [1, 2];
const VERSION_AT: usize = 4;
/// Length of the outer header.
pub const OUTER_LENGTH: usize = 100;
/// A rated batch is at most this long: `max.message.bytes` of `[rated]`.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const HASH_AT: usize = 60;
const CHECKSUM_AT: usize = 92;

/// Why the outer header of a message, or a message that would continue, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OuterError {
    /// Not a rated batch, or damaged: the reader stops.
    #[error("a message of [rated] cannot be read: {0}")]
    Damaged(#[from] DecodeError),
    /// The hash of a batch that continues does not fit its bytes: the reader stops.
    #[error("the hash of the rated batch from {from} does not fit its bytes")]
    Hash {
        /// First position of the batch.
        from: i64,
    },
    /// The format is newer than this program: the reader stops.
    #[error("the rated batch from {from} has format version {version}: a newer weir is needed")]
    Version {
        /// First position of the batch.
        from: i64,
        /// Its format version.
        version: u16,
    },
}

/// The outer header: fixed layout for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Format version of what follows.
    pub version: u16,
    /// Partition of `[usage]` and `[rated]`.
    pub partition: u32,
    /// First position of `[usage]` accounted for.
    pub from: i64,
    /// Last position, inclusive.
    pub to: i64,
    /// Hash of the batch that this one continues.
    pub prev: Hash,
    /// BLAKE3 of all bytes of the message but these.
    pub hash: Hash,
}

impl Outer {
    /// Reads the outer header of a message; its checksum must fit.
    pub fn decode(message: &[u8]) -> Result<Outer, OuterError> {
        let mut input = Input::new(message);
        let fixed = input.take(OUTER_LENGTH)?;
        let checked = fixed.get(..CHECKSUM_AT).ok_or(DecodeError::Truncated)?;
        let mut input = Input::new(fixed);
        if input.take(4)? != MAGIC {
            return Err(DecodeError::NotOurs.into());
        }
        let version = input.u16()?;
        let _reserved = input.u16()?;
        let partition = input.u32()?;
        let (from, to) = (input.i64()?, input.i64()?);
        let (prev, hash) = (input.hash()?, input.hash()?);
        if input.u64()? != xxh3_64(checked) {
            return Err(DecodeError::Checksum.into());
        }
        Ok(Outer { version, partition, from, to, prev, hash })
    }

    /// Whether running totals stand behind the sums.
    #[must_use]
    pub fn has_totals(&self) -> bool {
        has_totals(self.version)
    }

    /// Whether rows correct others.
    #[must_use]
    pub fn has_corrections(&self) -> bool {
        VERSIONS_WITH_CORRECTIONS.contains(&self.version)
    }

    /// Whether this program can read the message and its hash fits.
    pub fn verify(&self, message: &[u8]) -> Result<(), OuterError> {
        let known = [
            VERSIONS_OF_ROWS,
            [VERSION, VERSION_WITH_TRACES],
            VERSIONS_WITH_TOTALS,
            VERSIONS_WITH_CORRECTIONS,
        ];
        if !known.as_flattened().contains(&self.version) {
            return Err(OuterError::Version { from: self.from, version: self.version });
        }
        if hash_of(message) == self.hash {
            Ok(())
        } else {
            Err(OuterError::Hash { from: self.from })
        }
    }
}

fn has_totals(version: u16) -> bool {
    VERSIONS_WITH_TOTALS.contains(&version) || VERSIONS_WITH_CORRECTIONS.contains(&version)
}

/// The hash covers every byte but itself and the outer checksum (which covers it).
fn hash_of(message: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.get(..HASH_AT).unwrap_or_default());
    hasher.update(message.get(OUTER_LENGTH..).unwrap_or_default());
    hasher.finalize().into()
}

/// Outcomes per tenant. Up to `to`: accepted + copies = the sum of all outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries from clients, as the block headers count them.
    pub accepted: u64,
    /// Copies with a verdict, as the block headers count them.
    pub copies: u64,
    /// Every line has a price.
    pub rated: u64,
    /// No meter matched.
    pub unmetered: u64,
    /// A line has no known price.
    pub unpriced: u64,
    /// The same event took effect before.
    pub duplicates: u64,
    /// The same id with other content took effect before.
    pub conflicts: u64,
    /// Cannot be rated.
    pub rejected: u64,
    /// Handed to the slow lane.
    pub forwarded: u64,
    /// Given up by an operator because the log lost them.
    pub lost: u64,
}

impl Counts {
    /// The fields in their order on the wire.
    #[must_use]
    pub fn fields(&self) -> [u64; 10] {
        [
            self.accepted,
            self.copies,
            self.rated,
            self.unmetered,
            self.unpriced,
            self.duplicates,
            self.conflicts,
            self.rejected,
            self.forwarded,
            self.lost,
        ]
    }

    /// From the fields in their order on the wire.
    #[must_use]
    pub fn from_fields(fields: [u64; 10]) -> Counts {
        let [
            accepted,
            copies,
            rated,
            unmetered,
            unpriced,
            duplicates,
            conflicts,
            rejected,
            forwarded,
            lost,
        ] = fields;
        Counts {
            accepted,
            copies,
            rated,
            unmetered,
            unpriced,
            duplicates,
            conflicts,
            rejected,
            forwarded,
            lost,
        }
    }

    /// Adds another, field by field.
    pub fn add(&mut self, other: &Counts) {
        let mut fields = self.fields();
        for (field, more) in fields.iter_mut().zip(other.fields()) {
            *field = field.saturating_add(more);
        }
        *self = Counts::from_fields(fields);
    }

    /// How many entries have an outcome; as many as a `u64` holds where they are more.
    #[must_use]
    pub fn outcomes(&self) -> u64 {
        self.fields().iter().skip(2).fold(0, |sum, field| sum.saturating_add(*field))
    }

    /// Everything that came in has exactly one outcome. A loss is a range without events.
    #[must_use]
    pub fn balanced(&self) -> bool {
        // Fields that were read may be anything: their sum is taken where it cannot overflow.
        let came = u128::from(self.accepted) + u128::from(self.copies);
        let outcomes: u128 = self.fields().iter().skip(2).map(|field| u128::from(*field)).sum();
        came + u128::from(self.lost) == outcomes
    }
}

/// The header section: what holds for the whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The catalog version after the batch's last position.
    pub catalog_version: u64,
    /// Version of the rating rules.
    pub rules_version: u32,
    /// `S`: first position that the writer's table covered.
    pub table_from: i64,
    /// `H`: highest append time of any block below `S`, microseconds; `i64::MIN` for none.
    pub horizon_us: i64,
    /// Append time of the first block, and the highest of any; both in the same month (UTC).
    pub append_time_us: (i64, i64),
    /// Counts per tenant; sums name tenants by their place here.
    pub counts: Vec<(Uuid, Counts)>,
    /// Sampled requests that have events in it, as in the blocks.
    pub traces: Vec<TraceContext>,
}

impl Header {
    fn version(&self, behind: BehindSums) -> u16 {
        let [plain, with_traces] = match behind {
            BehindSums::Nothing => [VERSION, VERSION_WITH_TRACES],
            BehindSums::Totals => VERSIONS_WITH_TOTALS,
            BehindSums::Corrected => VERSIONS_WITH_CORRECTIONS,
        };
        if self.traces.is_empty() { plain } else { with_traces }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.varint(self.catalog_version);
        out.varint(u64::from(self.rules_version));
        for time in [self.table_from, self.horizon_us, self.append_time_us.0, self.append_time_us.1]
        {
            out.raw(&time.to_le_bytes());
        }
        out.length(self.counts.len());
        for (tenant, counts) in &self.counts {
            out.raw(tenant.as_bytes());
            for field in counts.fields() {
                out.varint(field);
            }
        }
        if !self.traces.is_empty() {
            trace::encode(&self.traces, out);
        }
    }

    fn decode(section: &[u8], version: u16) -> Result<Header, DecodeError> {
        let mut input = Input::new(section);
        let catalog_version = input.varint()?;
        let rules_version = input.varint_u32()?;
        let (table_from, horizon_us) = (input.i64()?, input.i64()?);
        let append_time_us = (input.i64()?, input.i64()?);
        let count = input.count(26)?;
        let mut counts = Vec::with_capacity(count);
        for _ in 0..count {
            let tenant = input.uuid()?;
            let mut fields = [0; 10];
            for field in &mut fields {
                *field = input.varint()?;
            }
            counts.push((tenant, Counts::from_fields(fields)));
        }
        let has_traces = version.is_multiple_of(2);
        let traces = if has_traces { trace::decode(&mut input)? } else { Vec::new() };
        if !input.is_empty() {
            return Err(DecodeError::Field("header"));
        }
        Ok(Header {
            catalog_version,
            rules_version,
            table_from,
            horizon_us,
            append_time_us,
            counts,
            traces,
        })
    }
}

/// A late event on its way to the slow lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its position in `[usage]`.
    pub position: i64,
    /// Its index in the block.
    pub index: u32,
    /// Append time of its block, microseconds.
    pub append_time_us: i64,
    /// Its hold, which is not freed before the verdict.
    pub hold: Option<Uuid>,
    /// The ranges of positions, both ends inclusive, whose filter reported it or is missing.
    pub ranges: Vec<(i64, i64)>,
    /// The whole record, as a block with this one entry.
    pub block: Vec<u8>,
}

fn encode_forwards(forwards: &[Forward], out: &mut Vec<u8>) {
    out.length(forwards.len());
    for forward in forwards {
        out.raw(&forward.position.to_le_bytes());
        out.varint(u64::from(forward.index));
        out.raw(&forward.append_time_us.to_le_bytes());
        out.push(u8::from(forward.hold.is_some()));
        if let Some(hold) = forward.hold {
            out.raw(hold.as_bytes());
        }
        out.length(forward.ranges.len());
        for (from, to) in &forward.ranges {
            out.raw(&from.to_le_bytes());
            out.raw(&to.to_le_bytes());
        }
        out.bytes(&forward.block);
    }
}

fn decode_forwards(section: &[u8]) -> Result<Vec<Forward>, DecodeError> {
    let mut input = Input::new(section);
    let count = input.count(20)?;
    let mut forwards = Vec::with_capacity(count);
    for _ in 0..count {
        let (position, index, append_time_us) = (input.i64()?, input.varint_u32()?, input.i64()?);
        let hold = match input.u8()? {
            0 => None,
            1 => Some(input.uuid()?),
            _ => return Err(DecodeError::Field("hold")),
        };
        let ranges = (0..input.count(16)?)
            .map(|_| Ok((input.i64()?, input.i64()?)))
            .collect::<Result<_, DecodeError>>()?;
        let block = input.bytes()?.to_vec();
        forwards.push(Forward { position, index, append_time_us, hold, ranges, block });
    }
    if input.is_empty() { Ok(forwards) } else { Err(DecodeError::Field("forwards")) }
}

/// What stands behind the sums of a batch, which its version says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BehindSums {
    /// Nothing.
    #[default]
    Nothing,
    /// Running totals that it changed.
    Totals,
    /// The same, of a batch that carries out corrections.
    Corrected,
}

/// What a batch is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The header section.
    pub header: Header,
    /// The sums' section, encoded by [`super::sums::encode`].
    pub sums: Vec<u8>,
    /// What stands behind the sums.
    pub behind: BehindSums,
    /// Rows of `usage_events`: events that took their id.
    pub rows: ColumnsWriter,
    /// Rows of `rejected_events`: events that did not.
    pub others: ColumnsWriter,
    /// Late events for the slow lane.
    pub forwards: Vec<Forward>,
}

/// Builds the message of a batch. Answers it with its outer header.
#[must_use]
pub fn encode(partition: u32, from: i64, to: i64, prev: Hash, parts: &Parts) -> (Outer, Vec<u8>) {
    let mut sections: [Vec<u8>; 5] = Default::default();
    let [header, sums, rows, others, forwards] = &mut sections;
    parts.header.encode(header);
    sums.extend_from_slice(&parts.sums);
    parts.rows.encode(rows);
    parts.others.encode(others);
    encode_forwards(&parts.forwards, forwards);
    let size: usize = sections.iter().map(Vec::len).sum();
    let mut message = Vec::with_capacity(OUTER_LENGTH + 20 + size);
    let version = parts.header.version(parts.behind);
    message.raw(&MAGIC);
    message.raw(&version.to_le_bytes());
    message.raw(&0u16.to_le_bytes());
    message.raw(&partition.to_le_bytes());
    message.raw(&from.to_le_bytes());
    message.raw(&to.to_le_bytes());
    message.raw(&prev);
    message.raw(&[0; HASH_LENGTH]);
    message.raw(&[0; 8]);
    for section in &sections {
        message.raw(&u32::try_from(section.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    for section in &sections {
        message.raw(section);
    }
    let hash = hash_of(&message);
    if let Some(place) = message.get_mut(HASH_AT..CHECKSUM_AT) {
        place.copy_from_slice(&hash);
    }
    let checksum = xxh3_64(message.get(..CHECKSUM_AT).unwrap_or_default());
    if let Some(place) = message.get_mut(CHECKSUM_AT..OUTER_LENGTH) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    (Outer { version, partition, from, to, prev, hash }, message)
}

/// The sections of an accepted batch, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    version: u16,
    header: &'a [u8],
    sums: &'a [u8],
    rows: &'a [u8],
    others: &'a [u8],
    forwards: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Splits a message whose outer header has been accepted.
    pub fn split(message: &'a [u8]) -> Result<Sections<'a>, DecodeError> {
        let mut input = Input::new(message);
        let outer = input.take(OUTER_LENGTH)?;
        let version = Input::new(outer.get(VERSION_AT..).unwrap_or_default()).u16()?;
        let mut lengths = [0usize; 5];
        for length in &mut lengths {
            *length = usize::try_from(input.u32()?).map_err(|_| DecodeError::Truncated)?;
        }
        let [header, sums, rows, others, forwards] = lengths;
        let sections = Sections {
            version,
            header: input.take(header)?,
            sums: input.take(sums)?,
            rows: input.take(rows)?,
            others: input.take(others)?,
            forwards: input.take(forwards)?,
        };
        if input.is_empty() { Ok(sections) } else { Err(DecodeError::Field("sections")) }
    }

    /// The header.
    pub fn header(&self) -> Result<Header, DecodeError> {
        Header::decode(self.header, self.version)
    }

    /// The sums; `header` is this batch's.
    pub fn sums(&self, header: &Header) -> Result<Sums<'a>, DecodeError> {
        Sums::decode(self.sums, header.counts.len(), has_totals(self.version))
    }

    /// The rows of `usage_events`, decompressed.
    pub fn rows(&self) -> Result<Columns, DecodeError> {
        self.columns(&USAGE_EVENTS, self.rows)
    }

    /// The rows of `rejected_events`, decompressed.
    pub fn others(&self) -> Result<Columns, DecodeError> {
        self.columns(&REJECTED_EVENTS, self.others)
    }

    fn columns(&self, table: &'static Table, section: &[u8]) -> Result<Columns, DecodeError> {
        if VERSIONS_OF_ROWS.contains(&self.version) {
            return Columns::of_rows(table, &Rows::decode(section)?.bytes);
        }
        Columns::decode(table, section)
    }

    /// The late events.
    pub fn forwards(&self) -> Result<Vec<Forward>, DecodeError> {
        decode_forwards(self.forwards)
    }
}
