//! Messages of `[usage]`: blocks, their bodies, single records.

use domain::wire::{
    block::{Block, BlockHeader, BlockWriter, MAGIC, marked_versions},
    carry::carry,
    codec::{Dictionary, DictionaryWriter, Input, Output as _},
    record::{Command, Entry, EventRecord, Refused},
};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{memory, world::rate_block};

/// A block as it is, and with a version and a checksum that fit.
pub fn message(input: &[u8]) {
    read(input);
    if let Some(sealed) = sealed(input) {
        read(&sealed);
    }
}

/// A block with a version and a checksum that fit.
pub fn sealed(input: &[u8]) -> Option<Vec<u8>> {
    let rest = input.get(16..)?;
    let opening = opening(MAGIC, input[4]);
    Some([&opening, xxh3_64(rest).to_le_bytes().as_slice(), rest].concat())
}

/// What a message begins with: its magic, the version with traces or the one without, as a bit of
/// what stands in its place says, and nothing reserved.
pub fn opening(magic: [u8; 4], version: u8) -> [u8; 8] {
    let [first, second, third, fourth] = magic;
    [first, second, third, fourth, if version & 2 == 0 { 1 } else { 2 }, 0, 0, 0]
}

/// Reads a block; what can be read is written and read back.
pub fn read(message: &[u8]) {
    let Ok(header) = BlockHeader::decode(message) else { return };
    let Ok(body) = header.body(message) else { return };
    memory::plain(body.len());
    if let Ok(block) = Block::decode(&header, &body) {
        check(&header, &body, &block);
        rate_block(message);
    } else {
        let _ = marked_versions(&header, &body);
    }
}

fn check(header: &BlockHeader, body: &[u8], block: &Block<'_>) {
    let markers = block.entries.iter().filter_map(|entry| match entry {
        Entry::Marker { catalog_version, .. } => Some(*catalog_version),
        _ => None,
    });
    let markers: Vec<u64> = markers.collect();
    assert_eq!(marked_versions(header, body).ok(), Some(markers), "markers without the rest");
    let message = rewritten(header, block);
    let again = BlockHeader::decode(&message).expect("our block is read");
    let body = again.body(&message).expect("our block is read");
    let copy = Block::decode(&again, &body).expect("our block is read");
    assert_eq!(again.traces, header.traces);
    assert_eq!(copy.entries.len(), block.entries.len());
    for (before, after) in block.entries.iter().zip(&copy.entries) {
        assert_eq!(told(header, block, before), told(&again, &copy, after));
    }
}

/// The message that we would write of what a block says.
pub fn rewritten(header: &BlockHeader, block: &Block<'_>) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    for entry in &block.entries {
        let entry = carried(header, block, entry, &mut writer);
        writer.push(&entry);
    }
    for context in &header.traces {
        writer.trace(*context);
    }
    writer.finish()
}

/// The entry with the numbers of another block.
fn carried<'a>(
    header: &BlockHeader,
    block: &Block<'a>,
    entry: &Entry<'a>,
    writer: &mut BlockWriter,
) -> Entry<'a> {
    let tenant = |number| header.tenant(number).expect("a block names its tenants");
    let mut event = |event: &EventRecord<'a>| {
        carry(event, &block.dictionary, tenant(event.tenant), writer)
            .expect("its numbers are known")
    };
    match entry {
        Entry::Event(record) => Entry::Event(event(record)),
        Entry::Copy(verdict, origin, record) => Entry::Copy(*verdict, *origin, event(record)),
        Entry::Command(command) => Entry::Command(Command {
            tenant: writer.tenant(tenant(command.tenant)),
            ..command.clone()
        }),
        Entry::Refused(refused) => Entry::Refused(Refused {
            tenant: writer.tenant(tenant(refused.tenant)),
            ..refused.clone()
        }),
        Entry::Marker { .. } => entry.clone(),
    }
}

/// What an entry says, without numbers of its block.
fn told(header: &BlockHeader, block: &Block<'_>, entry: &Entry<'_>) -> String {
    let text = |number| block.dictionary.get(number).expect("a number of this block");
    let tenant = |number| header.tenant(number).expect("a tenant of this block");
    let (Entry::Event(event) | Entry::Copy(_, _, event)) = entry else {
        return match entry {
            Entry::Command(command) => {
                format!(
                    "{:?} {:?}",
                    tenant(command.tenant),
                    Command { tenant: 0, ..command.clone() }
                )
            }
            Entry::Refused(refused) => {
                format!(
                    "{:?} {:?}",
                    tenant(refused.tenant),
                    Refused { tenant: 0, ..refused.clone() }
                )
            }
            _ => format!("{entry:?}"),
        };
    };
    let names = [event.team, event.subject, event.source, event.event_type].map(text);
    let more = [event.user, event.app, event.key, event.feature].map(|number| number.map(text));
    let attributes: Vec<_> = event
        .attributes
        .iter()
        .map(|at| (text(at.pointer), at.kind, event.attribute_bytes(at)))
        .collect();
    let quote = event.quote.map(|quote| (text(quote.currency), quote.charge, quote.not_after_us));
    let judged =
        if let Entry::Copy(verdict, origin, _) = entry { Some((verdict, origin)) } else { None };
    let fixed =
        (event.id, event.identity, event.content, event.time_us, event.hold, event.hold_end);
    format!(
        "{:?} {names:?} {more:?} {attributes:?} {quote:?} {judged:?} {fixed:?} {:?}",
        tenant(event.tenant),
        event.raw
    )
}

/// A body with as many entries and tenants as its first two bytes say, without compression.
pub fn body(input: &[u8]) {
    let [entries, tenants, body @ ..] = input else { return };
    let mut writer = BlockWriter::default();
    for number in 0..u128::from(*tenants) {
        writer.tenant(Uuid::from_u128(number));
    }
    let mut header = BlockHeader::decode(&writer.finish()).expect("our block is read");
    header.entries = u32::from(*entries);
    if let Ok(block) = Block::decode(&header, body) {
        check(&header, body, &block);
    } else {
        let _ = marked_versions(&header, body);
    }
}

/// One entry beside a dictionary of a few texts: what is read is written and read back.
pub fn record(input: &[u8]) {
    let mut texts = DictionaryWriter::default();
    for text in ["team", "type", "/model", "/n", "usage.input", "EUR", "", "user"] {
        texts.intern(text);
    }
    let mut encoded = Vec::new();
    texts.write(&mut encoded);
    let dictionary = Dictionary::read(&mut Input::new(&encoded)).expect("our dictionary is read");
    let Ok(entry) = Entry::decode(input, &dictionary) else { return };
    let mut again = Vec::new();
    entry.encode(&mut again);
    assert_eq!(Entry::decode(&again, &dictionary).as_ref(), Ok(&entry));
    let mut small = Vec::new();
    small.bytes(&again);
    assert_eq!(Input::new(&small).bytes().ok(), Some(again.as_slice()));
}
