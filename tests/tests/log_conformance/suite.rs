//! The cases that both logs must pass.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use runtime::log::{AppendError, Appended, LogError, MESSAGE_BYTES_MAX, Message, SharedLog, Topic};
use tokio::sync::watch;

use super::{
    child::{Acknowledged, Worker, author, payload},
    place::{Fixture, ONE, PARTITIONS, PATIENCE, TWO, read, read_all, until},
};

pub fn append(log: &SharedLog, topic: Topic, partition: u32, payload: Bytes) -> Appended {
    log.append(topic, partition, payload).0.blocking_recv().unwrap().unwrap()
}

/// Appends numbered messages of one thread and waits for all of them.
fn append_many(log: &SharedLog, partition: u32, thread: u64, numbers: Range<u64>) -> Vec<Appended> {
    let pending: Vec<_> =
        numbers.map(|number| log.append(ONE, partition, payload(thread, number))).collect();
    pending.into_iter().map(|pending| pending.0.blocking_recv().unwrap().unwrap()).collect()
}

fn authors(messages: &[Message]) -> Vec<(u64, u64)> {
    messages.iter().map(|message| author(&message.payload)).collect()
}

/// Per thread, its numbers in the order of the log.
fn by_thread(messages: &[Message]) -> BTreeMap<u64, Vec<u64>> {
    let mut threads: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (thread, number) in authors(messages) {
        threads.entry(thread).or_default().push(number);
    }
    threads
}

/// Everything acknowledged is where the acknowledgement said, nothing is there twice, and each
/// thread's messages are in their order.
pub fn assert_holds(log: &SharedLog, acknowledged: &[Acknowledged]) {
    let mut found = HashMap::new();
    for partition in 0..PARTITIONS {
        let messages = read_all(log, ONE, partition, 0);
        for (at, message) in messages.iter().enumerate() {
            assert_eq!(message.position, at as i64, "partition {partition} has no gap");
            found.insert((partition, message.position), author(&message.payload));
        }
        for (thread, numbers) in by_thread(&messages) {
            assert!(numbers.is_sorted_by(|a, b| a < b), "thread {thread}: {numbers:?}");
        }
    }
    for one in acknowledged {
        let there = found.get(&(one.partition, one.position));
        assert_eq!(there, Some(&(one.thread, one.number)), "{one:?}");
    }
}

pub fn positions_have_no_gap_and_the_report_says_what_is_read(fixture: &Fixture) {
    let log = fixture.open();
    assert_eq!(log.partitions(), PARTITIONS);
    assert_eq!(log.bounds(ONE, 1, PATIENCE).unwrap(), (0, 0));
    let appended = append_many(&log, 1, 7, 0..300);
    for (at, appended) in appended.iter().enumerate() {
        assert_eq!(appended.position, at as i64);
    }
    assert!(appended.is_sorted_by_key(|appended| appended.append_time_us));
    let now = runtime::task::now_us();
    let hour = 3_600_000_000;
    assert!(appended.iter().all(|appended| (now - appended.append_time_us).abs() < hour));
    assert_eq!(log.bounds(ONE, 1, PATIENCE).unwrap(), (0, 300));
    for log in [fixture.open_beside(&log), log] {
        let messages = read_all(&log, ONE, 1, 0);
        let places = messages.iter().map(|message| Appended {
            position: message.position,
            append_time_us: message.append_time_us,
        });
        assert_eq!(places.collect::<Vec<_>>(), appended);
        assert_eq!(authors(&messages), (0..300).map(|at| (7, at)).collect::<Vec<_>>());
    }
}

pub fn a_reader_begins_at_any_position(fixture: &Fixture) {
    let log = fixture.open();
    append_many(&log, 0, 1, 0..400);
    for from in [0, 1, 57, 200, 398, 399] {
        let messages = read_all(&log, ONE, 0, from);
        let expected: Vec<_> = (from as u64..400).map(|at| (1, at)).collect();
        assert_eq!(authors(&messages), expected);
        assert_eq!(messages[0].position, from);
    }
    let mut end = log.reader(ONE, 0, 400).unwrap();
    assert!(end.next(Duration::from_millis(100)).unwrap().is_none());
}

pub fn a_reader_waits_for_new_messages(fixture: &Fixture) {
    let log = fixture.open();
    let mut reader = log.reader(ONE, 2, 0).unwrap();
    let begun = Instant::now();
    assert!(reader.next(Duration::from_millis(300)).unwrap().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(290));
    for number in 0..20 {
        let (sent, writer) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                append(&log, ONE, 2, payload(3, number))
            });
            let message = reader.next(PATIENCE).unwrap().unwrap();
            (message, writer.join().unwrap())
        });
        assert_eq!(author(&sent.payload), (3, number));
        assert_eq!(sent.position, writer.position);
    }
}

pub fn several_readers_read_while_others_append(fixture: &Fixture) {
    let log = fixture.open();
    let log = &log;
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| authors(&read(log, ONE, 0, 0, 600)))).collect();
        for thread in 0..3 {
            scope.spawn(move || append_many(log, 0, thread, 0..200));
        }
        let read: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(read[0].len(), 600);
        assert_eq!(read[0], read[1]);
        assert_eq!(read[0], read[2]);
    });
}

/// Readers that come and go, each with messages fetched ahead of it that it never took, beside
/// readers of the other partitions that stay: each reads on from its own position.
pub fn readers_come_and_go_each_from_its_own_position(fixture: &Fixture) {
    let log = fixture.open();
    let log = &log;
    append_many(log, 0, 0, 0..300);
    std::thread::scope(|scope| {
        for partition in 1..PARTITIONS {
            scope.spawn(move || append_many(log, partition, u64::from(partition), 0..300));
        }
        for partition in 1..PARTITIONS {
            scope.spawn(move || assert_eq!(read(log, ONE, partition, 0, 300).len(), 300));
        }
        scope.spawn(|| {
            for from in [250, 0, 100, 0, 299, 7] {
                let positions: Vec<i64> = read(log, ONE, 0, from, 3.min(300 - from as usize))
                    .iter()
                    .map(|message| message.position)
                    .collect();
                let expected: Vec<i64> = (from..(from + 3).min(300)).collect();
                assert_eq!(positions, expected);
            }
        });
    });
}

pub fn threads_keep_their_order(fixture: &Fixture) {
    let log = fixture.open();
    let handle = &log;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let partition = (thread % u64::from(PARTITIONS)) as u32;
                append_many(handle, partition, thread, 0..250);
            });
        }
    });
    let mut threads = BTreeMap::new();
    for partition in 0..PARTITIONS {
        threads.extend(by_thread(&read_all(&log, ONE, partition, 0)));
    }
    let expected: BTreeMap<_, Vec<u64>> =
        (0..8).map(|thread| (thread, (0..250).collect())).collect();
    assert_eq!(threads, expected);
}

pub fn the_longest_message_passes_and_a_longer_one_is_refused(fixture: &Fixture) {
    let log = fixture.open();
    let bytes: Vec<u8> =
        (0..MESSAGE_BYTES_MAX).map(|at| ((at * 2_654_435_761) >> 7) as u8).collect();
    let long = Bytes::from(bytes);
    let pending = log.append(TWO, 0, Bytes::from([long.as_ref(), b"1"].concat()));
    let outcome = pending.0.blocking_recv().unwrap();
    assert!(matches!(outcome, Err(AppendError::Refused(_))), "{outcome:?}");
    for position in 0..3 {
        assert_eq!(append(&log, TWO, 0, long.clone()).position, position);
    }
    append(&log, TWO, 0, Bytes::new());
    let messages = read_all(&log, TWO, 0, 0);
    assert!(messages[..3].iter().all(|message| message.payload == long));
    assert!(messages[3].payload.is_empty());
}

pub fn topics_and_partitions_are_separate(fixture: &Fixture) {
    let log = fixture.open();
    let place = |topic: Topic, partition| Bytes::from(format!("{topic}/{partition}"));
    for _ in 0..50 {
        for topic in [ONE, TWO] {
            for partition in 0..PARTITIONS {
                append(&log, topic, partition, place(topic, partition));
            }
        }
    }
    for topic in [ONE, TWO] {
        for partition in 0..PARTITIONS {
            let messages = read_all(&log, topic, partition, 0);
            assert_eq!(messages.len(), 50);
            let here = place(topic, partition);
            assert!(messages.iter().all(|message| message.payload == here));
        }
    }
}

pub fn two_owners_append_in_one_order_that_every_reader_sees(fixture: &Fixture) {
    let first = fixture.open();
    let second = fixture.open_beside(&first);
    let positions = std::thread::scope(|scope| {
        let owners = [(&first, 1), (&second, 2)].map(|(log, thread)| {
            scope.spawn(move || {
                (0..100)
                    .map(|number| append(log, ONE, 0, payload(thread, number)).position)
                    .collect::<Vec<_>>()
            })
        });
        owners.map(|owner| owner.join().unwrap())
    });
    let seen = authors(&read_all(&first, ONE, 0, 0));
    assert_eq!(seen, authors(&read_all(&second, ONE, 0, 0)));
    assert_eq!(seen.len(), 200);
    for (owner, positions) in positions.iter().enumerate() {
        for (number, position) in positions.iter().enumerate() {
            assert_eq!(seen[*position as usize], (owner as u64 + 1, number as u64));
        }
    }
}

pub fn all_partitions() -> Vec<u32> {
    (0..PARTITIONS).collect()
}

/// Waits until a member owns what is expected.
pub fn until_owned(owned: &watch::Receiver<Vec<u32>>, expected: impl Fn(&[u32]) -> bool) {
    until(|| expected(&owned.borrow()).then_some(()));
}

pub fn members_share_and_what_one_leaves_moves_to_the_other(fixture: &Fixture) {
    let log = fixture.open();
    let first = log.join(ONE, "owners").unwrap();
    let owned = first.owned();
    until_owned(&owned, |list| list == all_partitions());
    let second = log.join(ONE, "owners").unwrap();
    let other = second.owned();
    until(|| {
        let (mine, theirs) = (owned.borrow().clone(), other.borrow().clone());
        let mut both = [mine.clone(), theirs.clone()].concat();
        both.sort_unstable();
        (both == all_partitions() && !mine.is_empty() && !theirs.is_empty()).then_some(())
    });
    drop(first);
    assert!(owned.borrow().is_empty(), "who left owns nothing");
    until_owned(&other, |list| list == all_partitions());
}

pub fn acknowledged_messages_survive_the_kill_of_their_writer(fixture: &Fixture) {
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        // Every round appends under numbers of its own.
        let fixture_log = {
            let mut writer = Worker::start(fixture, "append 6 1000000");
            until(|| (writer.acknowledged().len() > 20).then_some(()));
            std::thread::sleep(Duration::from_micros(random_below(400_000)));
            writer.kill();
            acknowledged.push(writer.acknowledged());
            fixture.open()
        };
        for acknowledged in &acknowledged {
            assert!(acknowledged.len() > 20, "round {round}");
            assert_places(&fixture_log, acknowledged);
        }
    }
}

/// As [`assert_holds`], for several writers one after the other.
fn assert_places(log: &SharedLog, acknowledged: &[Acknowledged]) {
    let mut found = HashMap::new();
    for partition in 0..PARTITIONS {
        for (at, message) in read_all(log, ONE, partition, 0).iter().enumerate() {
            assert_eq!(message.position, at as i64, "partition {partition} has no gap");
            found.insert((partition, message.position), author(&message.payload));
        }
    }
    for one in acknowledged {
        let there = found.get(&(one.partition, one.position));
        assert_eq!(there, Some(&(one.thread, one.number)), "{one:?}");
    }
}

fn random_below(limit: u64) -> u64 {
    uuid::Uuid::now_v7().as_u128() as u64 % limit
}

pub fn a_trimmed_position_is_reported_with_the_first_one_left(fixture: &Fixture) {
    let log = fixture.open();
    // A few at a time: what waits for the writer together goes into one segment.
    for first in (0..1000).step_by(50) {
        append_many(&log, 0, 1, first..first + 50);
    }
    let log = fixture.trim(log, 500);
    let (begin, next) = log.bounds(ONE, 0, PATIENCE).unwrap();
    assert!(begin > 0 && begin <= 500, "{begin}");
    assert_eq!(next, 1000);
    let asked = begin - 1;
    let outcome = log
        .reader(ONE, 0, asked)
        .and_then(|mut reader| until(|| reader.next(Duration::from_secs(1)).transpose()));
    match outcome {
        Err(LogError::Trimmed { topic, partition, begin: reported, asked: position }) => {
            assert_eq!((topic, partition, reported, position), (ONE, 0, begin, asked));
        }
        other => panic!("{other:?}"),
    }
    let left = read_all(&log, ONE, 0, begin);
    assert_eq!(authors(&left), (begin as u64..1000).map(|at| (1, at)).collect::<Vec<_>>());
    assert_eq!(append(&log, ONE, 0, payload(1, 1000)).position, 1000);
}

pub fn a_position_after_the_end_is_an_error(fixture: &Fixture) {
    let log = fixture.open();
    append_many(&log, 0, 1, 0..10);
    let outcome = log
        .reader(ONE, 0, 20)
        .and_then(|mut reader| until(|| reader.next(Duration::from_secs(1)).transpose()));
    let error = outcome.unwrap_err();
    assert!(matches!(error, LogError::Broken(_)), "{error}");
    assert!(error.to_string().contains("ends at 10"), "{error}");
}

pub fn an_unknown_place_is_refused(fixture: &Fixture) {
    let log = fixture.open();
    for (topic, partition) in [(Topic("three"), 0), (ONE, PARTITIONS)] {
        let outcome = log.append(topic, partition, Bytes::new()).0.blocking_recv().unwrap();
        assert!(matches!(outcome, Err(AppendError::Refused(_))), "{outcome:?}");
        assert!(matches!(log.reader(topic, partition, 0), Err(LogError::Broken(_))));
        assert!(matches!(log.bounds(topic, partition, PATIENCE), Err(LogError::Broken(_))));
    }
    assert!(matches!(log.join(Topic("three"), "owners"), Err(LogError::Broken(_))));
}
