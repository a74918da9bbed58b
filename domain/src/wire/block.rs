//! A block: one message of `[usage]`. See `docs/FORMATS.md`, "Block".
//!
//! Header in the clear (tenants with their counts, so that what is pending can be told without
//! decompressing, and the traces of sampled requests), then the dictionary and the entries,
//! compressed together with LZ4.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{DecodeError, Dictionary, DictionaryWriter, Input, Output, compress};
use super::record::{self, Entry, EventRecord, Refused};
use super::trace::{self, TraceContext};

/// First bytes of every block.
pub const MAGIC: [u8; 4] = *b"WRUB";
/// The format version of a block without traces.
pub const VERSION: u16 = 1;
/// The format version of one with traces.
pub const VERSION_WITH_TRACES: u16 = 2;
/// A body is at most this long when decompressed: one threshold and one largest event, with room.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
const FIXED_LENGTH: usize = 28;
/// The shortest entry, a command without key and body, behind its length.
const ENTRY_BYTES_MIN: usize = 6;

/// A tenant in a block and how many of its events and copies the block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantCount {
    /// The tenant.
    pub tenant: Uuid,
    /// Entries that came from clients (events and refused messages).
    pub events: u64,
    /// Copies with a verdict.
    pub copies: u64,
}

/// Fills a block entry by entry.
#[derive(Clone, Debug, Default)]
pub struct BlockWriter {
    tenants: Vec<TenantCount>,
    traces: Vec<TraceContext>,
    /// Strings shared by the entries; intern them before encoding an entry.
    pub dictionary: DictionaryWriter,
    entries: Vec<u8>,
    scratch: Vec<u8>,
    count: u32,
}

impl BlockWriter {
    /// The number of a tenant in this block.
    pub fn tenant(&mut self, tenant: Uuid) -> u32 {
        let place =
            self.tenants.iter().position(|known| known.tenant == tenant).unwrap_or_else(|| {
                self.tenants.push(TenantCount { tenant, events: 0, copies: 0 });
                self.tenants.len() - 1
            });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// Appends an entry and answers its index. Its numbers must come from this writer.
    pub fn push(&mut self, entry: &Entry<'_>) -> u32 {
        self.scratch.clear();
        entry.encode(&mut self.scratch);
        let scratch = std::mem::take(&mut self.scratch);
        self.entries.bytes(&scratch);
        self.scratch = scratch;
        match entry {
            Entry::Event(event) => self.count_for(event.tenant, 1, 0),
            Entry::Refused(refused) => self.count_for(refused.tenant, 1, 0),
            Entry::Copy(_, _, event) => self.count_for(event.tenant, 0, 1),
            Entry::Marker { .. } | Entry::Command(_) => {}
        }
        let index = self.count;
        self.count = self.count.saturating_add(1);
        index
    }

    fn count_for(&mut self, tenant: u32, events: u64, copies: u64) {
        let place = usize::try_from(tenant).unwrap_or(usize::MAX);
        if let Some(count) = self.tenants.get_mut(place) {
            count.events = count.events.saturating_add(events);
            count.copies = count.copies.saturating_add(copies);
        }
    }

    /// Says that a sampled request has events in this block.
    pub fn trace(&mut self, context: TraceContext) {
        trace::add(&mut self.traces, &[context]);
    }

    /// Entries so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        self.dictionary.size().saturating_add(self.entries.len())
    }

    /// The finished message; the writer is empty afterwards and keeps its memory.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.size() + 16);
        self.dictionary.write(&mut body);
        body.raw(&self.entries);
        let mut header = Vec::with_capacity(32);
        header.length(self.tenants.len());
        for count in &self.tenants {
            header.raw(count.tenant.as_bytes());
            header.varint(count.events);
            header.varint(count.copies);
        }
        let version = if self.traces.is_empty() { VERSION } else { VERSION_WITH_TRACES };
        if version == VERSION_WITH_TRACES {
            trace::encode(&self.traces, &mut header);
        }
        let mut message = Vec::with_capacity(FIXED_LENGTH + header.len() + body.len() / 2);
        message.raw(&MAGIC);
        message.raw(&version.to_le_bytes());
        message.raw(&0u16.to_le_bytes());
        message.raw(&[0; 8]);
        message.raw(&length_u32(header.len()).to_le_bytes());
        message.raw(&self.count.to_le_bytes());
        message.raw(&length_u32(body.len()).to_le_bytes());
        message.raw(&header);
        compress(&body, &mut message);
        let checksum = xxh3_64(message.get(16..).unwrap_or_default());
        if let Some(place) = message.get_mut(8..16) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        self.tenants.clear();
        self.traces.clear();
        self.dictionary.clear();
        self.entries.clear();
        self.count = 0;
        message
    }
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A block's header: enough to count what is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Tenants, by number, with their counts.
    pub tenants: Vec<TenantCount>,
    /// Sampled requests that have events in it.
    pub traces: Vec<TraceContext>,
    /// Number of entries.
    pub entries: u32,
    body_length: usize,
    body_at: usize,
}

impl BlockHeader {
    /// Reads and verifies the header and the checksum of the whole message.
    pub fn decode(message: &[u8]) -> Result<BlockHeader, DecodeError> {
        let mut input = Input::new(message);
        if input.take(4)? != MAGIC {
            return Err(DecodeError::NotOurs);
        }
        let version = input.u16()?;
        if ![VERSION, VERSION_WITH_TRACES].contains(&version) {
            return Err(DecodeError::Version(version));
        }
        if input.u16()? != 0 {
            return Err(DecodeError::Field("reserved"));
        }
        let checksum = input.u64()?;
        if xxh3_64(input.rest()) != checksum {
            return Err(DecodeError::Checksum);
        }
        let header_length = usize::try_from(input.u32()?).map_err(|_| DecodeError::Truncated)?;
        let entries = input.u32()?;
        let body_length = usize::try_from(input.u32()?).map_err(|_| DecodeError::Truncated)?;
        if body_length > BODY_BYTES_MAX {
            return Err(DecodeError::Field("body length"));
        }
        let mut header = Input::new(input.take(header_length)?);
        // LZ4 gains at most a factor of about 255.
        if body_length > input.rest().len().saturating_mul(256) {
            return Err(DecodeError::Field("body length"));
        }
        let count = header.count(18)?;
        let mut tenants = Vec::with_capacity(count);
        for _ in 0..count {
            tenants.push(TenantCount {
                tenant: header.uuid()?,
                events: header.varint()?,
                copies: header.varint()?,
            });
        }
        let traces = if version == VERSION { Vec::new() } else { trace::decode(&mut header)? };
        let body_at = FIXED_LENGTH + header_length;
        Ok(BlockHeader { tenants, traces, entries, body_length, body_at })
    }

    /// Decompresses the body of the same message; [`Block::decode`] reads it.
    pub fn body(&self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let compressed = message.get(self.body_at..).ok_or(DecodeError::Truncated)?;
        let body = lz4_flex::block::decompress(compressed, self.body_length)
            .map_err(|_| DecodeError::Field("body"))?;
        if body.len() == self.body_length {
            Ok(body)
        } else {
            Err(DecodeError::Field("body length"))
        }
    }
}

/// A decoded block: its strings and its entries in order.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// The strings that entries name by number.
    pub dictionary: Dictionary<'a>,
    /// The entries; the index of an event is its place here.
    pub entries: Vec<Entry<'a>>,
}

/// The catalog versions that the markers of a body name, in order, without reading the rest.
pub fn marked_versions(header: &BlockHeader, body: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut input = Input::new(body);
    for _ in 0..input.count(1)? {
        input.bytes()?;
    }
    let mut versions = Vec::new();
    for _ in 0..header.entries {
        versions.extend(record::marked_version(input.bytes()?)?);
    }
    Ok(versions)
}

impl<'a> Block<'a> {
    /// Reads the body that [`BlockHeader::body`] decompressed.
    pub fn decode(header: &BlockHeader, body: &'a [u8]) -> Result<Block<'a>, DecodeError> {
        let mut input = Input::new(body);
        let dictionary = Dictionary::read(&mut input)?;
        let count = usize::try_from(header.entries).map_err(|_| DecodeError::Truncated)?;
        if count > input.rest().len() / ENTRY_BYTES_MIN {
            return Err(DecodeError::Truncated);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = Entry::decode(input.bytes()?, &dictionary)?;
            let tenant = match &entry {
                Entry::Event(event) | Entry::Copy(_, _, event) => Some(event.tenant),
                Entry::Command(command) => Some(command.tenant),
                Entry::Refused(refused) => Some(refused.tenant),
                Entry::Marker { .. } => None,
            };
            if tenant.is_some_and(|tenant| header.tenant(tenant).is_none()) {
                return Err(DecodeError::Field("tenant"));
            }
            entries.push(entry);
        }
        if input.is_empty() {
            Ok(Block { dictionary, entries })
        } else {
            Err(DecodeError::Field("body"))
        }
    }

    /// Fails unless the header counts the entries that there are: who rates them owes each of those
    /// an outcome.
    pub fn check_counts(&self, header: &BlockHeader) -> Result<(), DecodeError> {
        let mut counted = vec![(0_u64, 0_u64); header.tenants.len()];
        for entry in &self.entries {
            let (tenant, event, copy) = match entry {
                Entry::Event(EventRecord { tenant, .. })
                | Entry::Refused(Refused { tenant, .. }) => (*tenant, 1, 0),
                Entry::Copy(_, _, event) => (event.tenant, 0, 1),
                Entry::Marker { .. } | Entry::Command(_) => continue,
            };
            let place = usize::try_from(tenant).ok().and_then(|tenant| counted.get_mut(tenant));
            let (events, copies) = place.ok_or(DecodeError::Field("tenant"))?;
            (*events, *copies) = (events.saturating_add(event), copies.saturating_add(copy));
        }
        let said = header.tenants.iter().map(|count| (count.events, count.copies));
        if said.eq(counted) { Ok(()) } else { Err(DecodeError::Field("counts")) }
    }
}

impl BlockHeader {
    /// The tenant of a number.
    #[must_use]
    pub fn tenant(&self, number: u32) -> Option<Uuid> {
        self.tenants.get(usize::try_from(number).ok()?).map(|count| count.tenant)
    }
}
