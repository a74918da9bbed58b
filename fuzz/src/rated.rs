//! Messages of `[rated]`: the outer header, the acceptance rule, and each section.

use domain::{
    chain::{GENESIS, Offer, Place},
    wire::{
        codec::{DictionaryWriter, Input},
        columns::{REJECTED_EVENTS, USAGE_EVENTS},
        rated::{BehindSums, MAGIC, OUTER_LENGTH, Outer, Parts, Sections, encode},
        row::RowHead,
        rows::{Columns, ColumnsWriter},
        sums::{self, Sums},
    },
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    blocks::{self, opening},
    memory,
};

/// A rated batch as it is, and with a version, a hash and a checksum that fit.
pub fn message(input: &[u8]) {
    read(input);
    if input.len() > OUTER_LENGTH {
        let mut sealed = input.to_vec();
        sealed[..8].copy_from_slice(&opening(MAGIC, input[4]));
        seal(&mut sealed);
        read(&sealed);
    }
}

fn seal(message: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&message[..60]);
    hasher.update(&message[OUTER_LENGTH..]);
    message[60..92].copy_from_slice(hasher.finalize().as_bytes());
    let checksum = xxh3_64(&message[..92]);
    message[92..100].copy_from_slice(&checksum.to_le_bytes());
}

/// Five sections in a message that is accepted.
pub fn sections(input: &[u8]) {
    if let Some(message) = accepted(input) {
        read(&message);
    }
}

/// The partition of accepted messages.
pub const PARTITION: u32 = 3;

/// Five sections, each behind its length in two bytes, in a message of [`PARTITION`] whose lengths,
/// hash and checksum fit, and which continues an empty place. The first bit says whether it has
/// traces; no length needs it.
pub fn accepted(input: &[u8]) -> Option<Vec<u8>> {
    let version = 3 + input.first().map_or(0, |byte| byte >> 7);
    let (mut rest, mut lengths, mut bytes) = (input, Vec::new(), Vec::new());
    for _ in 0..5 {
        let [high, low, behind @ ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([*high & 0x7f, *low])).min(behind.len());
        lengths.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    let mut message = opening(MAGIC, version).to_vec();
    message.extend_from_slice(&PARTITION.to_le_bytes());
    message.extend_from_slice(&0_i64.to_le_bytes());
    message.extend_from_slice(&9_i64.to_le_bytes());
    message.extend_from_slice(&GENESIS);
    message.extend_from_slice(&[0; 40]);
    message.extend_from_slice(&lengths);
    message.extend_from_slice(&bytes);
    seal(&mut message);
    let accepted = Place::EMPTY.offer(PARTITION, 0, &message);
    assert!(matches!(accepted, Ok(Offer::Accepted(..))), "{accepted:?}");
    Some(message)
}

fn read(message: &[u8]) {
    let Ok(outer) = Outer::decode(message) else { return };
    let place = Place { x: outer.from.wrapping_sub(1), r: 0, c: outer.prev };
    let _ = place.offer(outer.partition, 1, message);
    let _ = place.offer(outer.partition.wrapping_add(1), 1, message);
    let Ok(sections) = Sections::split(message) else { return };
    let (rows, others) = (sections.rows().ok(), sections.others().ok());
    for rows in [&rows, &others].into_iter().flatten() {
        memory::plain(rows.size());
        let heads = rows.rows().iter().map(RowHead::decode).collect::<Result<Vec<_>, _>>();
        assert_eq!(heads, Ok(rows.heads().collect()), "two readers of one format");
    }
    let forwards = sections.forwards().unwrap_or_default();
    for forward in &forwards {
        blocks::read(&forward.block);
    }
    let Ok(header) = sections.header() else { return };
    for (_, counts) in &header.counts {
        let _ = (counts.balanced(), counts.outcomes());
    }
    let sums = sections.sums(&header).ok();
    let copied = |table, rows: Option<&Columns>| {
        let mut writer = ColumnsWriter::new(table);
        let rows = rows.map(|rows| rows.rows().bytes).unwrap_or_default();
        writer.push_rows(&rows).expect("our rows are read");
        writer
    };
    let parts = Parts {
        header,
        sums: sums.as_ref().and_then(sums_again).unwrap_or_default(),
        behind: BehindSums::Corrected,
        rows: copied(&USAGE_EVENTS, rows.as_ref()),
        others: copied(&REJECTED_EVENTS, others.as_ref()),
        forwards,
    };
    let (_, again) = encode(3, 0, 9, GENESIS, &parts);
    let copy = Sections::split(&again).expect("our batch is read");
    assert_eq!(copy.header().as_ref(), Ok(&parts.header));
    let bytes = |rows: Option<Columns>| rows.map(|rows| rows.rows().bytes).unwrap_or_default();
    assert_eq!(bytes(copy.rows().ok()), bytes(rows));
    assert_eq!(bytes(copy.others().ok()), bytes(others));
    assert_eq!(copy.forwards().as_ref(), Ok(&parts.forwards));
    if let Some(sums) = sums.filter(|_| !parts.sums.is_empty()) {
        let read = copy.sums(&parts.header).expect("our sums are read");
        assert_eq!(
            (read.dictionary.texts(), &read.entries, &read.totals),
            (sums.dictionary.texts(), &sums.entries, &sums.totals)
        );
    }
}

/// The section of these sums; none where a text is there twice, which we never write.
fn sums_again(sums: &Sums<'_>) -> Option<Vec<u8>> {
    let mut texts = DictionaryWriter::default();
    for (number, text) in (0_u32..).zip(sums.dictionary.texts()) {
        (texts.intern(text) == number).then_some(())?;
    }
    let mut section = Vec::new();
    sums::encode(&texts, &sums.entries, Some(&sums.totals), &mut section);
    assert!(!Input::new(&section).is_empty());
    Some(section)
}
