//! A segment: a header with the state before it, then frames.
//!
//! A new segment is begun only after every byte of the one before is durable, so damage anywhere
//! but in the newest is loss. In the newest, a tail that no acknowledgement covers may be torn.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    frame::{Fields, HEADER_BYTES, Header, MAGIC, POSITION_END, Place, decode},
    layout::{Layout, broken},
};
use crate::log::LogError;

const SEGMENT_MAGIC: [u8; 8] = *b"WEIRSEG1";
/// Bytes read at once while scanning.
const SCAN_BYTES: usize = 1 << 20;

/// The state of the log before a segment's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Number of the segment.
    pub number: u64,
    /// Highest append time so far.
    pub append_time_us: i64,
    /// Per track, the position that its next message gets.
    pub next: Vec<i64>,
}

impl Opening {
    /// Length of the encoded opening for this many tracks.
    pub(crate) fn bytes(tracks: usize) -> u64 {
        8 + 8 + 8 + 8 * tracks as u64 + 8
    }

    fn encode(&self, seed: u64) -> Vec<u8> {
        let mut bytes = SEGMENT_MAGIC.to_vec();
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.append_time_us.to_le_bytes());
        bytes.extend(self.next.iter().flat_map(|position| position.to_le_bytes()));
        let checksum = xxh3_64_with_seed(&bytes, seed);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], layout: &Layout) -> Option<Self> {
        let (checked, checksum) = bytes.split_last_chunk::<8>()?;
        let mut fields = Fields(checked);
        if fields.take::<8>()? != SEGMENT_MAGIC
            || xxh3_64_with_seed(checked, layout.seed) != u64::from_le_bytes(*checksum)
        {
            return None;
        }
        let number = u64::from_le_bytes(fields.take()?);
        let append_time_us = i64::from_le_bytes(fields.take()?);
        let next = (0..layout.tracks()).map(|_| {
            let position = i64::from_le_bytes(fields.take()?);
            (0..POSITION_END).contains(&position).then_some(position)
        });
        Some(Self { number, append_time_us, next: next.collect::<Option<_>>()? })
    }
}

/// Creates a segment; when it returns, the empty segment is durable.
pub(crate) fn create(layout: &Layout, opening: &Opening) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(layout.segment(opening.number))?;
    file.write_all_at(&opening.encode(layout.seed), 0)?;
    file.sync_all()?;
    layout.sync_dir()?;
    Ok(file)
}

/// What a scan of a segment found: the intact frames from its beginning.
#[derive(Debug)]
pub(crate) struct Scan {
    /// State before the first frame; `None` if not even that is intact.
    pub opening: Option<Opening>,
    /// Per track, the offsets of its frames, in the order of their positions.
    pub offsets: Vec<Vec<u32>>,
    /// Where the intact part ends.
    pub end: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// The highest `durable_up_to` among the intact frames.
    pub durable_up_to: u64,
    /// Highest append time.
    pub append_time_us: i64,
}

impl Scan {
    /// Whether the file is intact to its last byte.
    pub(crate) fn is_whole(&self) -> bool {
        self.opening.is_some() && self.end == self.file_bytes
    }
}

/// Reads a segment from its beginning to its end or its first fault.
pub(crate) fn scan(layout: &Layout, number: u64) -> Result<Scan, LogError> {
    let path = layout.segment(number);
    let failed = |error: io::Error| broken("reading", &path, &error);
    let file = File::open(&path).map_err(failed)?;
    let mut scan = Scan {
        opening: None,
        offsets: vec![Vec::new(); layout.tracks()],
        end: 0,
        file_bytes: file.metadata().map_err(failed)?.len(),
        durable_up_to: 0,
        append_time_us: 0,
    };
    let mut source = BufReader::with_capacity(SCAN_BYTES, file);
    let mut buffer = Vec::new();
    let opening_bytes = Opening::bytes(layout.tracks());
    if !fill(&mut source, &mut buffer, 0, opening_bytes, &scan).map_err(failed)? {
        return Ok(scan);
    }
    let opening = Opening::decode(&buffer, layout).filter(|opening| opening.number == number);
    let Some(opening) = opening else {
        return Ok(scan);
    };
    scan.end = opening_bytes;
    scan.durable_up_to = opening_bytes;
    scan.append_time_us = opening.append_time_us;
    let mut next = opening.next.clone();
    scan.opening = Some(opening);
    while read_frame(&mut source, &mut buffer, &scan).map_err(failed)? {
        let place = Place { seed: layout.seed, segment: number, offset: scan.end };
        let Some((header, _)) = decode(&buffer, place) else {
            break;
        };
        if !scan.take(layout, &header, &mut next) {
            break;
        }
    }
    Ok(scan)
}

impl Scan {
    /// Counts an intact frame; `false` if it does not continue its track.
    fn take(&mut self, layout: &Layout, header: &Header, next: &mut [i64]) -> bool {
        let Some(track) = layout.track_of(header.topic, header.partition) else {
            return false;
        };
        let (Some(next), Some(offsets)) = (next.get_mut(track), self.offsets.get_mut(track)) else {
            return false;
        };
        let Ok(offset) = u32::try_from(self.end) else {
            return false;
        };
        if *next != header.position {
            return false;
        }
        *next += 1;
        offsets.push(offset);
        self.end += header.frame_bytes();
        self.durable_up_to = self.durable_up_to.max(header.durable_up_to);
        self.append_time_us = self.append_time_us.max(header.append_time_us);
        true
    }
}

/// Reads the bytes of one frame into `buffer`; `false` if none can be there.
fn read_frame(source: &mut BufReader<File>, buffer: &mut Vec<u8>, scan: &Scan) -> io::Result<bool> {
    if !fill(source, buffer, 0, HEADER_BYTES as u64, scan)? {
        return Ok(false);
    }
    let Some(header) = Header::parse(buffer) else {
        return Ok(false);
    };
    fill(source, buffer, HEADER_BYTES, u64::from(header.payload_bytes), scan)
}

/// Appends `bytes` more bytes to the first `keep` of the buffer, if the file is that long.
fn fill(
    source: &mut BufReader<File>,
    buffer: &mut Vec<u8>,
    keep: usize,
    bytes: u64,
    scan: &Scan,
) -> io::Result<bool> {
    if scan.end + keep as u64 + bytes > scan.file_bytes {
        return Ok(false);
    }
    buffer.resize(keep + bytes as usize, 0);
    if let Some(rest) = buffer.get_mut(keep..) {
        source.read_exact(rest)?;
    }
    Ok(true)
}

/// The first intact frame after a fault that proves the place of the fault to have been durable,
/// and so acknowledged: `(offset, durable_up_to)`.
pub(crate) fn proof_of_loss(
    layout: &Layout,
    number: u64,
    fault: u64,
) -> Result<Option<(u64, u64)>, LogError> {
    let path = layout.segment(number);
    let failed = |error: io::Error| broken("reading", &path, &error);
    let mut file = File::open(&path).map_err(failed)?;
    let mut window = Vec::new();
    let mut base = fault;
    loop {
        file.seek(SeekFrom::Start(base)).map_err(failed)?;
        window.clear();
        file.by_ref().take(SCAN_BYTES as u64).read_to_end(&mut window).map_err(failed)?;
        for (at, bytes) in window.windows(MAGIC.len()).enumerate() {
            let place = Place { seed: layout.seed, segment: number, offset: base + at as u64 };
            if bytes != MAGIC {
                continue;
            }
            let frame = read_at(&file, place.offset).map_err(failed)?;
            if let Some((header, _)) = decode(&frame, place)
                && header.durable_up_to > fault
            {
                return Ok(Some((place.offset, header.durable_up_to)));
            }
        }
        if window.len() < SCAN_BYTES {
            return Ok(None);
        }
        base += (SCAN_BYTES - MAGIC.len() + 1) as u64;
    }
}

/// The bytes of the frame that may begin at `offset`; shorter if the file ends before it does.
pub(crate) fn read_at(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    /// Most frames are fetched by the first read; long ones need a second.
    const GUESS_BYTES: usize = 8 << 10;
    let mut frame = vec![0; GUESS_BYTES];
    let got = read_up_to(file, &mut frame, offset)?;
    frame.truncate(got);
    let wanted = Header::parse(&frame).map_or(0, |header| header.frame_bytes() as usize);
    if wanted <= got {
        frame.truncate(wanted.max(HEADER_BYTES.min(got)));
        return Ok(frame);
    }
    // A header that a crash tore may claim any length: no more room than the file has bytes.
    let left = usize::try_from(file.metadata()?.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    frame.resize(wanted.min(left).max(got), 0);
    let rest = frame.get_mut(got..).unwrap_or_default();
    let more = read_up_to(file, rest, offset + got as u64)?;
    frame.truncate(got + more);
    Ok(frame)
}

fn read_up_to(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut total = 0;
    while !into.is_empty() {
        match file.read_at(into, offset) {
            Ok(0) => break,
            Ok(got) => {
                total += got;
                offset += got as u64;
                into = into.get_mut(got..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
