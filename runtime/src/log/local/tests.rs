//! What a crash may leave on disk, and what the log makes of it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{LocalLog, LocalOptions, TestDir, test_dir};
use crate::log::{AppendError, Appended, Log, LogError, Topic};

const TOPICS: &[Topic] = &[Topic("one"), Topic("two")];
const ONE: Topic = TOPICS[0];
const TWO: Topic = TOPICS[1];
const NO_WAIT: Duration = Duration::ZERO;

fn options() -> LocalOptions {
    LocalOptions { segment_bytes: 4096, tail_bytes: 2048, ..LocalOptions::new(2, TOPICS) }
}

fn open(dir: &TestDir) -> Arc<LocalLog> {
    LocalLog::open(dir.path(), options()).unwrap()
}

fn open_error(dir: &TestDir, options: LocalOptions) -> LogError {
    LocalLog::open(dir.path(), options).err().unwrap()
}

fn append(log: &LocalLog, topic: Topic, partition: u32, payload: &[u8]) -> Appended {
    let pending = log.append(topic, partition, Bytes::copy_from_slice(payload));
    pending.0.blocking_recv().unwrap().unwrap()
}

/// A payload that names its place, of a length that varies.
fn payload(partition: u32, number: i64) -> Vec<u8> {
    let mut bytes = format!("{partition}/{number}/").into_bytes();
    bytes.resize(bytes.len() + (number as usize * 37) % 300, b'.');
    bytes
}

fn fill(log: &LocalLog, from: i64, to: i64) {
    for number in from..to {
        for partition in 0..2 {
            let appended = append(log, ONE, partition, &payload(partition, number));
            assert_eq!(appended.position, number);
        }
    }
}

fn read(log: &LocalLog, partition: u32, from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut reader = log.reader(ONE, partition, from).unwrap();
    let mut all = Vec::new();
    while let Some(message) = reader.next(NO_WAIT).unwrap() {
        all.push((message.position, message.payload.to_vec()));
    }
    all
}

fn assert_holds(log: &LocalLog, from: i64, to: i64) {
    for partition in 0..2 {
        let expected: Vec<_> = (from..to).map(|at| (at, payload(partition, at))).collect();
        assert_eq!(read(log, partition, from), expected);
        assert_eq!(log.bounds(ONE, partition, NO_WAIT).unwrap().1, to);
    }
}

fn files(dir: &TestDir, ending: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

#[test]
fn many_segments_are_read_back_from_every_position_and_after_reopening() {
    let dir = test_dir("segments");
    let log = open(&dir);
    fill(&log, 0, 60);
    assert!(files(&dir, "segment").len() > 3);
    for from in 0..60 {
        assert_holds(&log, from, 60);
    }
    drop(log);
    let log = open(&dir);
    assert_holds(&log, 0, 60);
    fill(&log, 60, 100);
    assert_holds(&log, 0, 100);
    assert_eq!(log.bounds(TWO, 0, NO_WAIT).unwrap(), (0, 0));
}

#[test]
fn a_view_beside_the_open_log_sees_all_that_was_acknowledged_and_changes_nothing() {
    let dir = test_dir("view");
    assert!(LocalLog::view(dir.path(), options()).is_err());
    assert!(files(&dir, "json").is_empty() && files(&dir, "segment").is_empty());
    let log = open(&dir);
    assert_holds(&LocalLog::view(dir.path(), options()).unwrap(), 0, 0);
    for number in 0..60 {
        fill(&log, number, number + 1);
        assert_holds(&LocalLog::view(dir.path(), options()).unwrap(), 0, number + 1);
    }
    let view = LocalLog::view(dir.path(), options()).unwrap();
    fill(&log, 60, 61);
    assert_holds(&view, 0, 60);
    let pending = view.append(ONE, 0, Bytes::from_static(b"x"));
    assert!(matches!(pending.0.blocking_recv().unwrap(), Err(AppendError::Refused(_))));
    assert!(view.trim(&[], i64::MAX).is_err());
    drop(log);
    // A torn end is after the end of the view, and stays for the process that mends it.
    let newest = files(&dir, "segment").pop().unwrap();
    cut(&newest, 3);
    let before = fs::read(&newest).unwrap();
    let view = LocalLog::view(dir.path(), options()).unwrap();
    assert_eq!(view.bounds(ONE, 1, NO_WAIT).unwrap(), (0, 60));
    assert_eq!(fs::read(&newest).unwrap(), before);
    fs::remove_file(files(&dir, "index").first().unwrap()).unwrap();
    assert!(LocalLog::view(dir.path(), options()).is_err());
}

#[test]
fn append_time_never_goes_back_not_even_over_reopening() {
    let dir = test_dir("time");
    let mut last = 0;
    for _ in 0..5 {
        let log = open(&dir);
        for _ in 0..20 {
            let time = append(&log, TWO, 1, &[7; 200]).append_time_us;
            assert!(time >= last);
            last = time;
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_written_over() {
    let dir = test_dir("torn");
    let log = open(&dir);
    fill(&log, 0, 10);
    drop(log);
    let newest = files(&dir, "segment").pop().unwrap();
    // The last frame is that of partition 1; what follows it has no later frame to vouch for it.
    cut(&newest, 1);
    let log = open(&dir);
    assert_eq!(log.bounds(ONE, 0, NO_WAIT).unwrap(), (0, 10));
    assert_eq!(log.bounds(ONE, 1, NO_WAIT).unwrap(), (0, 9));
    append(&log, ONE, 1, &payload(1, 9));
    fill(&log, 10, 20);
    assert_holds(&log, 0, 20);
    drop(log);
    assert_holds(&open(&dir), 0, 20);
}

#[test]
fn zeros_and_noise_after_the_end_are_cut_off() {
    for noise in [vec![0; 5000], vec![0xff; 5000], super::frame::MAGIC.repeat(1000)] {
        let dir = test_dir("noise");
        let log = open(&dir);
        fill(&log, 0, 3);
        drop(log);
        let newest = files(&dir, "segment").pop().unwrap();
        let mut bytes = fs::read(&newest).unwrap();
        let end = bytes.len();
        bytes.extend_from_slice(&noise);
        fs::write(&newest, bytes).unwrap();
        let log = open(&dir);
        assert_eq!(fs::metadata(&newest).unwrap().len() as usize, end);
        assert_holds(&log, 0, 3);
    }
}

#[test]
fn a_fault_before_an_acknowledged_frame_is_refused_wherever_it_is() {
    let dir = test_dir("loss");
    let log = open(&dir);
    fill(&log, 0, 4);
    drop(log);
    let newest = files(&dir, "segment").pop().unwrap();
    let intact = fs::read(&newest).unwrap();
    let last_frame = intact.len() - super::frame::HEADER_BYTES - payload(1, 3).len();
    for at in 0..last_frame {
        flip(&newest, at);
        let error = open_error(&dir, options());
        let LogError::Broken(reason) = error else { panic!("byte {at}: {error}") };
        assert!(reason.contains("was acknowledged"), "{reason}");
        fs::write(&newest, &intact).unwrap();
    }
    assert_holds(&open(&dir), 0, 4);
}

#[test]
fn a_fault_in_a_sealed_segment_is_refused_without_its_index_and_on_reading() {
    let dir = test_dir("sealed");
    let log = open(&dir);
    fill(&log, 0, 60);
    drop(log);
    let oldest = files(&dir, "segment").remove(0);
    flip(&oldest, 1000);
    let log = open(&dir);
    let mut reader = log.reader(ONE, 0, 0).unwrap();
    let mut other = log.reader(ONE, 1, 0).unwrap();
    let failed = (0..60).find_map(|_| reader.next(NO_WAIT).err().or(other.next(NO_WAIT).err()));
    assert!(failed.unwrap().to_string().contains("damaged on disk"));
    drop(log);
    fs::remove_file(&files(&dir, "index")[0]).unwrap();
    assert!(open_error(&dir, options()).to_string().contains("damaged at"));
}

#[test]
fn a_lost_or_damaged_index_is_rebuilt() {
    let dir = test_dir("rebuild");
    let log = open(&dir);
    fill(&log, 0, 60);
    drop(log);
    let indexes = files(&dir, "index");
    let before = fs::read(&indexes[1]).unwrap();
    fs::remove_file(&indexes[0]).unwrap();
    flip(&indexes[1], 40);
    let log = open(&dir);
    assert_holds(&log, 0, 60);
    assert_eq!(fs::read(&indexes[1]).unwrap(), before);
    assert!(indexes[0].exists());
}

#[test]
fn a_missing_segment_is_refused() {
    let dir = test_dir("missing");
    let log = open(&dir);
    fill(&log, 0, 60);
    drop(log);
    fs::remove_file(&files(&dir, "segment")[1]).unwrap();
    assert!(open_error(&dir, options()).to_string().contains("is missing"));
}

#[test]
fn a_crash_while_a_segment_is_begun_loses_nothing() {
    for length in [0, 10, 50] {
        let dir = test_dir("begun");
        let log = open(&dir);
        fill(&log, 0, 60);
        drop(log);
        let segments = files(&dir, "segment");
        let number: u64 =
            segments.last().unwrap().file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let begun = dir.path().join(format!("{:010}.segment", number + 1));
        fs::write(&begun, vec![1; length]).unwrap();
        let log = open(&dir);
        fill(&log, 60, 70);
        assert_holds(&log, 0, 70);
    }
}

#[test]
fn trimming_removes_whole_segments_and_readers_are_told() {
    let dir = test_dir("trim");
    let log = open(&dir);
    let mut early = log.reader(ONE, 0, 0).unwrap();
    fill(&log, 0, 60);
    log.trim(&[(ONE, 0, 30)], i64::MAX).unwrap();
    assert_eq!(log.bounds(ONE, 0, NO_WAIT).unwrap().0, 0, "partition 1 still needs all of it");
    log.trim(&[(ONE, 0, 30), (ONE, 1, 40)], i64::MAX).unwrap();
    let (first, next) = log.bounds(ONE, 0, NO_WAIT).unwrap();
    assert!(first > 0 && first <= 30, "{first}");
    assert_eq!(next, 60);
    assert!(matches!(
        early.next(NO_WAIT),
        Err(LogError::Trimmed { topic: ONE, partition: 0, asked: 0, begin }) if begin == first
    ));
    assert!(matches!(log.reader(ONE, 0, first - 1), Err(LogError::Trimmed { .. })));
    assert_eq!(read(&log, 0, first).len() as i64, 60 - first);
    drop(log);
    let log = open(&dir);
    assert_eq!(log.bounds(ONE, 0, NO_WAIT).unwrap(), (first, 60));
    log.trim(&[(ONE, 0, 60), (ONE, 1, 60)], i64::MAX).unwrap();
    drop(log);
    let log = open(&dir);
    fill(&log, 60, 61);
}

#[test]
fn trimming_keeps_what_is_young_and_the_newest_segment() {
    let dir = test_dir("young");
    let log = open(&dir);
    fill(&log, 0, 60);
    let all = [(ONE, 0, 60), (ONE, 1, 60)];
    let hour_ago = crate::task::now_us() - 3_600_000_000;
    assert_eq!(log.trim(&all, hour_ago).unwrap(), 0);
    assert_holds(&log, 0, 60);
    let segments = files(&dir, "segment").len();
    assert_eq!(log.trim(&all, i64::MAX).unwrap(), segments - 1);
    assert_eq!(files(&dir, "segment").len(), 1);
}

#[test]
fn what_was_fixed_at_creation_cannot_be_changed() {
    let dir = test_dir("fixed");
    drop(open(&dir));
    let more = LocalOptions { partitions: 3, ..options() };
    let message = open_error(&dir, more).to_string();
    assert!(message.contains("2 partitions") && message.contains("set it back"), "{message}");
    let other = LocalOptions { topics: &[Topic("one"), Topic("three")], ..options() };
    assert!(open_error(&dir, other).to_string().contains("topics"));
}

#[test]
fn a_folder_is_open_once() {
    let dir = test_dir("lock");
    let log = open(&dir);
    assert!(matches!(open_error(&dir, options()), LogError::Unavailable(_)));
    drop(log);
    drop(open(&dir));
}

#[test]
fn a_full_queue_refuses_and_order_is_kept() {
    let dir = test_dir("full");
    let small = LocalOptions { queue_bytes: 1000, ..options() };
    let log = LocalLog::open(dir.path(), small).unwrap();
    let pending: Vec<_> =
        (0..500).map(|at| log.append(ONE, 0, Bytes::from(format!("{at}")))).collect();
    let outcomes: Vec<_> =
        pending.into_iter().map(|pending| pending.0.blocking_recv().unwrap()).collect();
    let mut expected = Vec::new();
    for (at, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(appended) => {
                assert_eq!(appended.position, expected.len() as i64);
                expected.push((appended.position, format!("{at}").into_bytes()));
            }
            Err(AppendError::Refused(reason)) => assert!(reason.contains("full"), "{reason}"),
            Err(unknown) => panic!("{unknown}"),
        }
    }
    assert!(outcomes.iter().any(Result::is_err));
    assert_eq!(read(&log, 0, 0), expected);
}

#[test]
fn too_long_and_unknown_places_are_refused() {
    let dir = test_dir("refused");
    let log = open(&dir);
    let long = Bytes::from(vec![0; crate::log::MESSAGE_BYTES_MAX + 1]);
    for (topic, partition, payload) in
        [(ONE, 0, long), (ONE, 2, Bytes::new()), (Topic("three"), 0, Bytes::new())]
    {
        let outcome = log.append(topic, partition, payload).0.blocking_recv().unwrap();
        assert!(matches!(outcome, Err(AppendError::Refused(_))), "{outcome:?}");
    }
    assert!(log.reader(ONE, 2, 0).is_err());
    assert!(matches!(log.reader(ONE, 0, 1), Err(LogError::Broken(_))));
}

#[test]
fn dropping_the_log_writes_what_is_queued() {
    let dir = test_dir("drain");
    let log = open(&dir);
    let pending: Vec<_> =
        (0..100).map(|at| log.append(ONE, 1, Bytes::from(payload(1, at)))).collect();
    drop(log);
    for (at, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.0.blocking_recv().unwrap().unwrap().position, at as i64);
    }
    assert_eq!(read(&open(&dir), 1, 0).len(), 100);
}

#[test]
fn members_share_the_partitions_and_the_rest_moves_at_once() {
    let dir = test_dir("group");
    let log = LocalLog::open(dir.path(), LocalOptions::new(5, TOPICS)).unwrap();
    let first = log.join(ONE, "raters").unwrap();
    assert_eq!(*first.owned().borrow(), [0, 1, 2, 3, 4]);
    let second = log.join(ONE, "raters").unwrap();
    let other = log.join(ONE, "others").unwrap();
    assert_eq!(*first.owned().borrow(), [0, 2, 4]);
    assert_eq!(*second.owned().borrow(), [1, 3]);
    assert_eq!(*other.owned().borrow(), [0, 1, 2, 3, 4]);
    let watch = first.owned();
    drop(first);
    assert!(watch.borrow().is_empty());
    assert_eq!(*second.owned().borrow(), [0, 1, 2, 3, 4]);
}
