//! Every decoder takes any bytes and answers: no panic, and no more memory than the input warrants.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![expect(unsafe_code, reason = "an allocator that counts can only be written so")]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use domain::{
    chain::{GENESIS, Place},
    wire::{
        block::{BODY_BYTES_MAX, Block, BlockHeader},
        codec::DecodeError,
        rated::{BehindSums, Counts, OUTER_LENGTH, Outer, Sections, encode},
        row::RowHead,
        sums::Sums,
        trace::TraceContext,
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};
use xxhash_rust::xxh3::xxh3_64;

/// Counts what the running thread has allocated.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(NOW.get()));
        // SAFETY: the caller keeps the contract, and we pass it on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `work` had allocated at once.
fn peak(work: impl FnOnce()) -> usize {
    NOW.set(0);
    PEAK.set(0);
    work();
    PEAK.get()
}

/// A decoded entry takes at most this much for each byte of its body.
const FACTOR: usize = 64;
/// Room for what does not depend on the input.
const ROOM: usize = 4_096;

/// Decodes all that can be decoded of a block.
fn read_block(message: &[u8]) {
    if let Ok(header) = BlockHeader::decode(message) {
        let _ = header.body(message).map(|body| read_body(&header, &body));
    }
}

fn read_body(header: &BlockHeader, body: &[u8]) {
    let Ok(block) = Block::decode(header, body) else { return };
    for entry in &block.entries {
        if let domain::wire::record::Entry::Command(command) = entry {
            let _ = domain::wire::correction::Correction::decode(command.body);
        }
        if let domain::wire::record::Entry::Event(event)
        | domain::wire::record::Entry::Copy(_, _, event) = entry
        {
            for attribute in &event.attributes {
                let _ = event.attribute_bytes(attribute);
            }
        }
    }
}

/// Decodes all that can be decoded of a rated batch.
fn read_rated(message: &[u8]) {
    let Ok(outer) = Outer::decode(message) else { return };
    let place = Place { x: outer.from.wrapping_sub(1), r: 0, c: outer.prev };
    let _ = place.offer(outer.partition, 1, message);
    let Ok(sections) = Sections::split(message) else { return };
    if let Ok(header) = sections.header() {
        let _ = sections.sums(&header);
    }
    for rows in [sections.rows(), sections.others()].into_iter().flatten() {
        assert_eq!(rows.heads().count(), rows.count());
        assert_eq!(rows.rows().lengths.len(), rows.count());
        assert!(rows.corrections().count() <= rows.count());
    }
    for forward in sections.forwards().into_iter().flatten() {
        read_block(&forward.block);
    }
}

/// What happens to a message.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Large(Index),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        place().prop_map(Change::Large),
        (place(), 1..9_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (place(), 1..99_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        place().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        if bytes.is_empty() {
            return;
        }
        let size = bytes.len();
        let end = |at: usize, length: usize| at.saturating_add(length).min(size);
        match change {
            Change::Set(at, byte) => bytes[at.index(size)] = *byte,
            Change::Flip(at, mask) => bytes[at.index(size)] ^= mask,
            Change::Large(at) => {
                let at = at.index(size);
                bytes[at..end(at, 5)].fill(0xff);
            }
            Change::Remove(at, length) => {
                let at = at.index(size);
                bytes.drain(at..end(at, *length));
            }
            Change::Repeat(at, length) => {
                let at = at.index(size);
                let part = bytes[at..end(at, *length)].to_vec();
                bytes.splice(at..at, part);
            }
            Change::Cut(at) => bytes.truncate(at.index(size)),
        }
    }
}

/// Makes the checksums fit, so that what is behind them is reached.
fn seal_block(message: &mut [u8]) {
    if message.len() >= 16 {
        let checksum = xxh3_64(&message[16..]);
        message[8..16].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn seal_rated(message: &mut [u8]) {
    if message.len() >= OUTER_LENGTH {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&message[..60]);
        hasher.update(&message[OUTER_LENGTH..]);
        message[60..92].copy_from_slice(hasher.finalize().as_bytes());
        let checksum = xxh3_64(&message[..92]);
        message[92..100].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Traces of even versions, or none.
fn traces(version: u8) -> Vec<TraceContext> {
    if version.is_multiple_of(2) { support::traces() } else { Vec::new() }
}

/// Running totals from version 3 of this file's numbers on (5 and 6 of the format), corrections from 5 on
/// (7 and 8).
fn behind(version: u8) -> BehindSums {
    match version {
        0..=2 => BehindSums::Nothing,
        3 | 4 => BehindSums::Totals,
        _ => BehindSums::Corrected,
    }
}

fn rated(version: u8) -> Vec<u8> {
    encode(3, 40, 42, GENESIS, &support::full_parts(&traces(version), behind(version))).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..400)) {
        let used = peak(|| {
            read_block(&bytes);
            read_rated(&bytes);
            let _ = RowHead::decode(&bytes);
            let _ = Sums::decode(&bytes, 3, bytes.len() % 2 == 0);
        });
        prop_assert!(used <= bytes.len() * FACTOR + ROOM, "{used} for {}", bytes.len());
    }

    #[test]
    fn any_bytes_behind_true_checksums(version in 1..3_u8, batch_version in 1..7_u8, bytes in vec(any::<u8>(), 0..400)) {
        let mut block = [b"WRUB".as_slice(), &[version, 0, 0, 0], &bytes].concat();
        seal_block(&mut block);
        let mut batch = [b"WRRB".as_slice(), &[batch_version, 0, 0, 0], &bytes].concat();
        seal_rated(&mut batch);
        let used = peak(|| {
            read_block(&block);
            read_rated(&batch);
        });
        // A compressed section grows by at most 256.
        prop_assert!(used <= bytes.len() * (256 + FACTOR) + ROOM, "{used} for {}", bytes.len());
    }

    #[test]
    fn changed_blocks(version in 1..3_u8, changes in vec(change(), 1..6), sealed: bool) {
        let mut message = support::full_block(&traces(version));
        apply(&mut message, &changes);
        if sealed {
            seal_block(&mut message);
        }
        let used = peak(|| read_block(&message));
        prop_assert!(used <= message.len() * (256 + FACTOR) + ROOM, "{used} for {}", message.len());
    }

    #[test]
    fn changed_bodies(changes in vec(change(), 1..6)) {
        let message = support::full_block(&[]);
        let mut header = BlockHeader::decode(&message).unwrap();
        let mut body = header.body(&message).unwrap();
        apply(&mut body, &changes);
        let used = peak(|| read_body(&header, &body));
        prop_assert!(used <= body.len() * FACTOR + ROOM, "{used} for {}", body.len());
        header.entries = u32::MAX;
        prop_assert!(peak(|| read_body(&header, &body)) <= body.len() * FACTOR + ROOM);
    }

    #[test]
    fn changed_batches(version in 1..7_u8, changes in vec(change(), 1..6), sealed: bool) {
        let mut message = rated(version);
        apply(&mut message, &changes);
        if sealed {
            seal_rated(&mut message);
        }
        let used = peak(|| read_rated(&message));
        prop_assert!(used <= message.len() * (2 * 256 + FACTOR) + ROOM, "{used} for {}", message.len());
    }

    #[test]
    fn changed_sums(changes in vec(change(), 1..6), tenants in 0..4_usize) {
        let mut section = support::sums_section(BehindSums::Totals);
        apply(&mut section, &changes);
        let used = peak(|| { let _ = Sums::decode(&section, tenants, true); });
        prop_assert!(used <= section.len() * FACTOR + ROOM, "{used} for {}", section.len());
    }
}

#[test]
fn a_changed_byte_of_a_sealed_message_is_noticed() {
    for version in [1, 2] {
        let whole = support::full_block(&traces(version));
        for at in 8..whole.len() {
            let mut message = whole.clone();
            message[at] ^= 1;
            assert!(BlockHeader::decode(&message).is_err(), "byte {at} of version {version}");
        }
        let whole = rated(version + 2);
        let place = Place { x: 39, r: 0, c: GENESIS };
        assert!(place.offer(3, 0, &whole).is_ok());
        for at in 0..whole.len() {
            let mut message = whole.clone();
            message[at] ^= 1;
            assert!(place.offer(3, 0, &message).is_err(), "byte {at} of version {version}");
        }
    }
}

#[test]
fn a_body_that_claims_to_be_large_is_refused_before_memory_is_taken() {
    let mut message = support::full_block(&[]);
    message[24..28].copy_from_slice(&u32::try_from(BODY_BYTES_MAX).unwrap().to_le_bytes());
    seal_block(&mut message);
    assert!(peak(|| assert!(BlockHeader::decode(&message).is_err())) < ROOM);
}

#[test]
fn counts_that_do_not_fit_together_are_not_balanced_and_end_nothing() {
    let most = Counts::from_fields([u64::MAX; 10]);
    assert!(!most.balanced());
    assert_eq!(most.outcomes(), u64::MAX);
    let most = u64::MAX;
    let fields = [most, most, most, most, 0, 0, 0, 0, 0, most];
    assert!(Counts::from_fields(fields).balanced(), "both sides are twice the most");
}

#[test]
fn a_block_that_counts_other_entries_than_it_has_is_noticed() {
    let message = include_bytes!("golden/block_v1.bin");
    let header = BlockHeader::decode(message).unwrap();
    let body = header.body(message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    assert_eq!(block.check_counts(&header), Ok(()));
    for place in 0..header.tenants.len() {
        let mut other = header.clone();
        other.tenants[place].events += 1;
        assert_eq!(block.check_counts(&other), Err(DecodeError::Field("counts")));
        let mut other = header.clone();
        other.tenants[place].copies = u64::MAX;
        assert_eq!(block.check_counts(&other), Err(DecodeError::Field("counts")));
    }
    let mut fewer = header;
    fewer.tenants.clear();
    assert!(block.check_counts(&fewer).is_err());
}
