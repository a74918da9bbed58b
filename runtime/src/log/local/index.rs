//! The index of a sealed segment: where each of its frames begins, track by track.
//!
//! Positions of a track have no gap, so the place of a position in the list is its number minus
//! the track's first. The file can be lost: it is rebuilt from the segment. In memory only the
//! table of tracks is kept; readers fetch offsets from the file.
//!
//! ```text
//! magic u64 · segment number u64 · segment length u64 · append time i64
//! · per track: first position i64, count u64 · per frame: offset u32 · checksum u64
//! ```

use std::{fs, io};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    frame::{Fields, POSITION_END},
    layout::{Layout, replace},
    segment::Scan,
};

const INDEX_MAGIC: [u8; 8] = *b"WEIRIDX1";
const FIXED_BYTES: usize = 8 + 8 + 8 + 8;
const TRACK_BYTES: usize = 8 + 8;

/// One track's part of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Position of its first frame here, or of its next one if it has none here.
    pub first: i64,
    /// Number of its frames here.
    pub count: i64,
    /// Where its offsets begin in the index file.
    pub at: u64,
}

impl Run {
    /// The position after the last one here.
    pub(crate) fn end(&self) -> i64 {
        self.first.saturating_add(self.count)
    }
}

/// A sealed segment, as kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Number of the segment.
    pub number: u64,
    /// Length of the segment's file.
    pub segment_bytes: u64,
    /// Highest append time up to its end.
    pub append_time_us: i64,
    /// Per track.
    pub runs: Vec<Run>,
}

/// What an index is written from.
pub(crate) struct Contents<'a> {
    /// Number of the segment.
    pub number: u64,
    /// Length of the segment's file.
    pub segment_bytes: u64,
    /// Highest append time up to its end.
    pub append_time_us: i64,
    /// Per track, its first position and its offsets.
    pub tracks: Vec<(i64, &'a [u32])>,
}

impl<'a> Contents<'a> {
    /// The contents that a scan of a whole segment found.
    pub(crate) fn of(scan: &'a Scan, number: u64) -> Self {
        let first = scan.opening.as_ref().map(|opening| opening.next.as_slice());
        Self {
            number,
            segment_bytes: scan.end,
            append_time_us: scan.append_time_us,
            tracks: first
                .unwrap_or_default()
                .iter()
                .zip(&scan.offsets)
                .map(|(first, offsets)| (*first, offsets.as_slice()))
                .collect(),
        }
    }
}

/// Writes the index of a segment.
pub(crate) fn write(layout: &Layout, contents: &Contents<'_>) -> io::Result<Sealed> {
    let mut bytes = INDEX_MAGIC.to_vec();
    bytes.extend_from_slice(&contents.number.to_le_bytes());
    bytes.extend_from_slice(&contents.segment_bytes.to_le_bytes());
    bytes.extend_from_slice(&contents.append_time_us.to_le_bytes());
    for (first, offsets) in &contents.tracks {
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&(offsets.len() as u64).to_le_bytes());
    }
    for (_, offsets) in &contents.tracks {
        bytes.extend(offsets.iter().flat_map(|offset| offset.to_le_bytes()));
    }
    let checksum = xxh3_64_with_seed(&bytes, layout.seed);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    replace(&layout.index(contents.number), &bytes)?;
    decode(&bytes, layout, contents.number)
        .ok_or_else(|| io::Error::other("the index just written cannot be read"))
}

/// Reads the index of a segment; `None` if it is missing or damaged.
pub(crate) fn read(layout: &Layout, number: u64) -> Option<Sealed> {
    decode(&fs::read(layout.index(number)).ok()?, layout, number)
}

fn decode(bytes: &[u8], layout: &Layout, number: u64) -> Option<Sealed> {
    let (checked, checksum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64_with_seed(checked, layout.seed) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let mut fields = Fields(checked);
    if fields.take::<8>()? != INDEX_MAGIC || u64::from_le_bytes(fields.take()?) != number {
        return None;
    }
    let segment_bytes = u64::from_le_bytes(fields.take()?);
    let append_time_us = i64::from_le_bytes(fields.take()?);
    let mut at = (FIXED_BYTES + TRACK_BYTES * layout.tracks()) as u64;
    let mut runs = Vec::with_capacity(layout.tracks());
    for _ in 0..layout.tracks() {
        let first = i64::from_le_bytes(fields.take()?);
        if !(0..POSITION_END).contains(&first) {
            return None;
        }
        let count = u64::from_le_bytes(fields.take()?);
        runs.push(Run { first, count: i64::try_from(count).ok()?, at });
        at = at.checked_add(count.checked_mul(4)?)?;
    }
    (at == checked.len() as u64).then_some(Sealed { number, segment_bytes, append_time_us, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Topic, local::test_dir};

    #[test]
    fn an_index_is_read_back_and_refused_when_damaged() {
        let dir = test_dir("index");
        let topics = &[Topic("a"), Topic("b")];
        let layout = Layout::open(dir.path(), 2, topics).unwrap();
        let contents = Contents {
            number: 4,
            segment_bytes: 999,
            append_time_us: 17,
            tracks: vec![(5, &[10, 20]), (0, &[]), (7, &[30]), (9, &[40, 50, 60])],
        };
        let sealed = write(&layout, &contents).unwrap();
        assert_eq!(sealed.runs.iter().map(Run::end).collect::<Vec<_>>(), [7, 0, 8, 12]);
        assert_eq!(read(&layout, 4), Some(sealed));
        let mut bytes = fs::read(layout.index(4)).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes, &layout, 4), None, "byte {at}");
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes[..at], &layout, 4), None, "cut at {at}");
        }
    }
}
