//! The acceptance rule over any log that owners, zombies and repeats can write (INV-14).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use domain::{
    chain::{Hash, Offer, Place, hash_of_hex},
    wire::{
        rated::{BehindSums, Header, Outer, Parts, encode},
        rows::ColumnsWriter,
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};

const PARTITION: u32 = 5;

/// One message more in the log. A place is one after any earlier message, accepted or not.
#[derive(Clone, Debug)]
enum Write {
    /// A batch that continues a place: the owner's if it is the newest, else a zombie's.
    Continue(Index, i64),
    /// A batch that continues the newest accepted place.
    Tip(i64),
    /// A message that was written before, again.
    Repeat(Index),
    /// The positions of one place with the hash of another.
    Mixed(Index, Index, i64),
    /// A batch of another partition that would continue otherwise.
    Foreign(i64),
    /// A batch that would continue, ending before it begins.
    Backwards,
}

fn write() -> impl Strategy<Value = Write> {
    let length = || 1..4_i64;
    prop_oneof![
        2 => (any::<Index>(), length()).prop_map(|(place, length)| Write::Continue(place, length)),
        3 => length().prop_map(Write::Tip),
        2 => any::<Index>().prop_map(Write::Repeat),
        1 => (any::<Index>(), any::<Index>(), length()).prop_map(|(first, second, length)| Write::Mixed(first, second, length)),
        1 => length().prop_map(Write::Foreign),
        1 => Just(Write::Backwards),
    ]
}

fn batch(partition: u32, from: i64, to: i64, prev: Hash, salt: usize) -> (Outer, Vec<u8>) {
    let header = Header {
        catalog_version: salt as u64,
        rules_version: 1,
        table_from: 0,
        horizon_us: i64::MIN,
        append_time_us: (0, 0),
        counts: Vec::new(),
        traces: Vec::new(),
    };
    let parts = Parts {
        header,
        sums: Vec::new(),
        behind: BehindSums::Nothing,
        rows: ColumnsWriter::usage_events(),
        others: ColumnsWriter::rejected_events(),
        forwards: Vec::new(),
    };
    encode(partition, from, to, prev, &parts)
}

/// Messages with their positions, which have gaps as Kafka's do.
fn log(writes: &[Write]) -> Vec<(i64, Vec<u8>)> {
    let mut places = vec![Place::EMPTY];
    let mut tip = Place::EMPTY;
    let mut messages: Vec<(i64, Vec<u8>)> = Vec::new();
    for (salt, write) in writes.iter().enumerate() {
        let position =
            messages.last().map_or(0, |(position, _)| position + 1 + i64::from(salt % 3 == 0));
        let (outer, message) = match write {
            Write::Continue(place, length) => {
                let place = place.get(&places);
                batch(PARTITION, place.x + 1, place.x + length, place.c, salt)
            }
            Write::Tip(length) => batch(PARTITION, tip.x + 1, tip.x + length, tip.c, salt),
            Write::Mixed(first, second, length) => {
                let (first, second) = (first.get(&places), second.get(&places));
                batch(PARTITION, first.x + 1, first.x + length, second.c, salt)
            }
            Write::Foreign(length) => batch(PARTITION + 1, tip.x + 1, tip.x + length, tip.c, salt),
            Write::Backwards => batch(PARTITION, tip.x + 1, tip.x, tip.c, salt),
            Write::Repeat(earlier) if !messages.is_empty() => {
                let message = earlier.get(&messages).1.clone();
                (Outer::decode(&message).unwrap(), message)
            }
            Write::Repeat(_) => continue,
        };
        places.push(Place { x: outer.to, r: position, c: outer.hash });
        if outer.partition == PARTITION
            && outer.from == tip.x + 1
            && outer.prev == tip.c
            && outer.to >= outer.from
        {
            tip = Place { x: outer.to, r: position, c: outer.hash };
        }
        messages.push((position, message));
    }
    messages
}

/// Reads from R + 1 of `place` on, at most `count` messages; answers the accepted ranges too.
fn read(messages: &[(i64, Vec<u8>)], mut place: Place, count: usize) -> (Place, Vec<(i64, i64)>) {
    let mut ranges = Vec::new();
    for (position, message) in
        messages.iter().filter(|(position, _)| *position > place.r).take(count).collect::<Vec<_>>()
    {
        match place.offer(PARTITION, *position, message).unwrap() {
            Offer::Accepted(outer, after) => {
                assert_eq!((after.x, after.r, after.c), (outer.to, *position, outer.hash));
                ranges.push((outer.from, outer.to));
                place = after;
            }
            Offer::Ignored(outer) => {
                assert!(!place.continues(&outer) || outer.partition != PARTITION)
            }
        }
    }
    (place, ranges)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn all_readers_of_a_log_agree(writes in vec(write(), 0..60), stops in vec(1..12_usize, 0..40)) {
        let messages = log(&writes);
        let (place, ranges) = read(&messages, Place::EMPTY, usize::MAX);
        // Contiguous: every position up to X is in exactly one accepted range.
        let mut next = 0;
        for (from, to) in &ranges {
            prop_assert_eq!(*from, next);
            prop_assert!(to >= from);
            next = to + 1;
        }
        prop_assert_eq!(place.x, next - 1);

        // A reader that dies again and again and goes on at what it stored, after its effects.
        let (mut restarted, mut seen) = (Place::EMPTY, Vec::new());
        for count in stops {
            let (reached, more) = read(&messages, restarted, count);
            seen.extend(more);
            restarted = reached;
        }
        let (restarted, more) = read(&messages, restarted, usize::MAX);
        seen.extend(more);
        prop_assert_eq!(restarted, place);
        prop_assert_eq!(&seen, &ranges);

        // What is appended later changes nothing of what was decided.
        let half = messages.len() / 2;
        let (early, first) = read(&messages[..half], Place::EMPTY, usize::MAX);
        let (late, second) = read(&messages, early, usize::MAX);
        prop_assert_eq!(late, place);
        prop_assert_eq!([first, second].concat(), ranges);
    }
}

#[test]
fn an_owner_and_a_zombie_interleave() {
    let (first, one) = batch(PARTITION, 0, 4, Place::EMPTY.c, 1);
    let (_, zombie) = batch(PARTITION, 0, 2, Place::EMPTY.c, 2);
    let (second, two) = batch(PARTITION, 5, 5, first.hash, 3);
    let (_, wrong) = batch(PARTITION, 5, 5, [0; 32], 4);
    let messages: Vec<(i64, Vec<u8>)> = (0..).zip([one.clone(), zombie, one, wrong, two]).collect();
    let (place, ranges) = read(&messages, Place::EMPTY, usize::MAX);
    assert_eq!(place, Place { x: 5, r: 4, c: second.hash });
    assert_eq!(ranges, [(0, 4), (5, 5)]);
}

#[test]
fn a_newer_version_stops_only_where_it_might_continue() {
    let (outer, mut message) = batch(PARTITION, 0, 4, Place::EMPTY.c, 1);
    message[4..6].copy_from_slice(&99_u16.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64(&message[..92]);
    message[92..100].copy_from_slice(&checksum.to_le_bytes());
    let error = Place::EMPTY.offer(PARTITION, 0, &message).unwrap_err();
    assert!(error.to_string().contains("a newer weir is needed"), "{error}");
    let elsewhere = Place { x: outer.to, r: 0, c: outer.hash };
    assert!(matches!(elsewhere.offer(PARTITION, 1, &message), Ok(Offer::Ignored(_))));
}

#[test]
fn a_hash_is_read_from_its_digits_alone() {
    let digits = "00fF".repeat(16);
    let hash = hash_of_hex(&digits).unwrap();
    assert_eq!((hash[0], hash[1], hash[31]), (0, 255, 255));
    for wrong in ["", &digits[1..], &"0g".repeat(32), &"é".repeat(32)] {
        assert_eq!(hash_of_hex(wrong), None, "{wrong}");
    }
}

#[test]
fn a_batch_ends_where_a_position_follows() {
    for (to, continues) in [(i64::MAX - 1, true), (i64::MAX, false)] {
        let (outer, _) = batch(PARTITION, 0, to, Place::EMPTY.c, 0);
        assert_eq!(Place::EMPTY.continues(&outer), continues, "{to}");
    }
}
