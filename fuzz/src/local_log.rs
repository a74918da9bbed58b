//! The local log's folder: two segments and the index of the first, with whatever bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use runtime::log::{
    Log as _, Topic,
    local::{LocalLog, LocalOptions},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

const TOPICS: &[Topic] = &[Topic("usage"), Topic("rated")];
const PARTITIONS: u32 = 2;
const TRACKS: usize = 4;
const SEED: u64 = 42;
/// Opening of a segment: magic, number, append time, the next position of each track, checksum.
const OPENING_BYTES: usize = 8 + 8 + 8 + 8 * TRACKS + 8;
const HEADER_BYTES: usize = 48;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| memory_folder("log"));

/// A folder of this process, in memory where the system has such.
pub fn memory_folder(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("weir-fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

/// The first byte says what is sealed; then the first segment, its index and the second one, the
/// first two behind their lengths in two bytes.
pub fn folder(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let (mut first, rest) = piece(rest);
    let (mut index, rest) = piece(rest);
    let mut second = rest.to_vec();
    if choice & 1 != 0 {
        seal(&mut first, 1);
        seal(&mut second, 2);
    }
    if choice & 2 != 0 && index.len() > 8 {
        let end = index.len() - 8;
        let checksum = xxh3_64_with_seed(&index[..end], SEED);
        index[end..].copy_from_slice(&checksum.to_le_bytes());
    }
    let folder = &*FOLDER;
    write(
        folder,
        "log.json",
        br#"{"format":1,"partitions":2,"topics":["usage","rated"],"seed":42}"#,
    );
    write(folder, "0000000001.segment", &first);
    write(folder, "0000000001.index", &index);
    write(folder, "0000000002.segment", if choice & 4 != 0 { &second } else { &[] });
    if choice & 4 == 0 {
        fs::remove_file(folder.join("0000000002.segment")).expect("it was written");
    }
    read(folder);
    let _ = fs::remove_file(folder.join("0000000003.segment"));
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("a file can be written");
}

fn piece(input: &[u8]) -> (Vec<u8>, &[u8]) {
    let [high, low, rest @ ..] = input else { return (Vec::new(), &[]) };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    (rest[..length].to_vec(), &rest[length..])
}

/// Makes magic, number and checksums of a segment's opening and of its frames fit.
fn seal(segment: &mut [u8], number: u64) {
    if segment.len() < OPENING_BYTES {
        return;
    }
    segment[..8].copy_from_slice(b"WEIRSEG1");
    segment[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = xxh3_64_with_seed(&segment[..OPENING_BYTES - 8], SEED);
    segment[OPENING_BYTES - 8..OPENING_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let mut at = OPENING_BYTES;
    while let Some(header) = segment.get(at..at + HEADER_BYTES) {
        let length = u32::from_le_bytes(header[12..16].try_into().expect("four bytes"));
        let end = at + HEADER_BYTES + usize::try_from(length).expect("64 bits");
        if end > segment.len() {
            return;
        }
        let mut hash = Xxh3::with_seed(SEED ^ (number << 32) ^ at as u64);
        hash.update(&segment[at..at + 40]);
        hash.update(&segment[at + HEADER_BYTES..end]);
        let checksum = hash.digest().to_le_bytes();
        segment[at + 40..at + HEADER_BYTES].copy_from_slice(&checksum);
        at = end;
    }
}

/// Opens the log, if it can be, reads all of it and appends; opened again, it holds the same.
fn read(folder: &Path) {
    let options = LocalOptions {
        segment_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        tail_bytes: 1 << 16,
        ..LocalOptions::new(PARTITIONS, TOPICS)
    };
    let Ok(log) = LocalLog::open(folder, options.clone()) else { return };
    let Some(before) = contents(&log) else { return };
    let pending = log.append(TOPICS[0], 1, Bytes::from_static(b"appended"));
    drop(log);
    drop(pending);
    let log = LocalLog::open(folder, options).expect("what was opened once is opened again");
    let after = contents(&log).expect("what was read once is read again");
    assert!(after.len() >= before.len() && after.len() <= before.len() + 1);
    assert!(before.iter().all(|message| after.contains(message)), "a message is gone");
}

type Read = (usize, u32, i64, Bytes);

/// All messages; none where one of them cannot be read.
fn contents(log: &LocalLog) -> Option<Vec<Read>> {
    let mut found = Vec::new();
    for (number, topic) in TOPICS.iter().enumerate() {
        for partition in 0..PARTITIONS {
            let (first, next) = log.bounds(*topic, partition, Duration::ZERO).ok()?;
            let mut reader = log.reader(*topic, partition, first).ok()?;
            let mut position = first;
            while position < next {
                let message = reader.next(Duration::ZERO).ok()??;
                assert_eq!(message.position, position, "positions have no gap");
                position += 1;
                found.push((number, partition, message.position, message.payload));
                if found.len() > 10_000 {
                    return None;
                }
            }
        }
    }
    Some(found)
}
