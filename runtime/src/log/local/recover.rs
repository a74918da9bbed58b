//! Opening: what the folder holds, and the repair of a tail that a crash tore.
//!
//! Every frame says how much of its segment was durable when it was written. So if the newest
//! segment has a fault, and an intact frame behind it says that the place of the fault was
//! durable, something acknowledged is lost and the log is not opened. Otherwise the fault is the
//! end of what the last, unacknowledged write managed, and is cut off.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{
    index::{self, Contents, Sealed},
    layout::{Layout, broken},
    segment::{self, Opening, Scan},
    track::{SealedList, Track},
    writer::Writer,
};
use crate::log::LogError;

/// The state of a log as it was found.
pub(crate) struct Recovered {
    pub tracks: Vec<Track>,
    pub sealed: SealedList,
    pub writer: Writer,
}

/// Reads the folder, creates the first segment if there is none, repairs the newest.
pub(crate) fn recover(layout: &Layout, tail_bytes: usize) -> Result<Recovered, LogError> {
    let mut numbers = layout.segments()?;
    let newest = numbers.pop();
    let sealed = numbers
        .iter()
        .map(|number| load_sealed(layout, *number))
        .collect::<Result<Vec<Sealed>, LogError>>()?;
    let (opening, offsets, writer) = open_newest(layout, newest, sealed.last())?;
    let (tracks, sealed) = held(&opening, offsets, sealed, tail_bytes);
    Ok(Recovered { tracks, sealed, writer })
}

/// What readers see of these segments.
pub(crate) fn held(
    newest: &Opening,
    offsets: Vec<Vec<u32>>,
    sealed: Vec<Sealed>,
    tail_bytes: usize,
) -> (Vec<Track>, SealedList) {
    let oldest = sealed.first();
    let tracks = newest.next.iter().zip(offsets).enumerate().map(|(track, (first, offsets))| {
        let oldest = oldest.and_then(|sealed| sealed.runs.get(track)).map(|run| run.first);
        Track::new(oldest.unwrap_or(*first), newest.number, *first, offsets, tail_bytes)
    });
    let tracks = tracks.collect();
    let list = SealedList::default();
    for sealed in sealed {
        list.push(sealed);
    }
    (tracks, list)
}

/// The index of a sealed segment, from its file or by reading the segment.
fn load_sealed(layout: &Layout, number: u64) -> Result<Sealed, LogError> {
    let path = layout.segment(number);
    let known = index::read(layout, number);
    let file_bytes = path.metadata().map_err(|error| broken("reading", &path, &error))?.len();
    if let Some(sealed) = known.filter(|sealed| sealed.segment_bytes == file_bytes) {
        return Ok(sealed);
    }
    let scan = segment::scan(layout, number)?;
    if !scan.is_whole() {
        return Err(LogError::Broken(format!(
            "{} is damaged at {} of {} bytes, all of which were acknowledged: restore it",
            path.display(),
            scan.end,
            scan.file_bytes
        )));
    }
    index::write(layout, &Contents::of(&scan, number))
        .map_err(|error| broken("writing", &layout.index(number), &error))
}

/// Opens, repairs or creates the segment that appends go to.
fn open_newest(
    layout: &Layout,
    number: Option<u64>,
    before: Option<&Sealed>,
) -> Result<(Opening, Vec<Vec<u32>>, Writer), LogError> {
    let Some(number) = number else {
        return begin(layout, 1, before);
    };
    let mut scan = segment::scan(layout, number)?;
    if !scan.is_whole() {
        refuse_loss(layout, number, &scan)?;
    }
    let Some(opening) = scan.opening.take() else {
        // The crash came while the segment was being created.
        return begin(layout, number, before);
    };
    refuse_other_history(layout, &opening, before)?;
    let file = repair(layout, number, &scan)
        .map_err(|error| broken("repairing", &layout.segment(number), &error))?;
    let next = opening.next.iter().zip(&scan.offsets);
    let writer = Writer {
        file,
        segment: number,
        end: scan.end,
        reserved: scan.end,
        full: false,
        append_time_us: scan.append_time_us,
        next: next.map(|(first, offsets)| first.saturating_add(offsets.len() as i64)).collect(),
        buffer: Vec::new(),
    };
    Ok((opening, scan.offsets, writer))
}

fn begin(
    layout: &Layout,
    number: u64,
    before: Option<&Sealed>,
) -> Result<(Opening, Vec<Vec<u32>>, Writer), LogError> {
    let opening = following(layout, number, before);
    let file = segment::create(layout, &opening)
        .map_err(|error| broken("creating", &layout.segment(number), &error))?;
    let writer = Writer {
        file,
        segment: number,
        end: Opening::bytes(layout.tracks()),
        reserved: Opening::bytes(layout.tracks()),
        full: false,
        append_time_us: opening.append_time_us,
        next: opening.next.clone(),
        buffer: Vec::new(),
    };
    Ok((opening, vec![Vec::new(); layout.tracks()], writer))
}

/// The state of the log where a segment begins after `before`.
pub(crate) fn following(layout: &Layout, number: u64, before: Option<&Sealed>) -> Opening {
    Opening {
        number,
        append_time_us: before.map_or(0, |sealed| sealed.append_time_us),
        next: match before {
            Some(sealed) => sealed.runs.iter().map(index::Run::end).collect(),
            None => vec![0; layout.tracks()],
        },
    }
}

fn refuse_loss(layout: &Layout, number: u64, scan: &Scan) -> Result<(), LogError> {
    let path = layout.segment(number);
    if let Some((offset, durable)) = segment::proof_of_loss(layout, number, scan.end)? {
        return Err(LogError::Broken(format!(
            "{} is damaged at {}, and the intact message at {offset} says that everything up to \
             {durable} was acknowledged: restore the file",
            path.display(),
            scan.end
        )));
    }
    tracing::warn!(
        log.segment = %path.display(),
        log.kept_bytes = scan.end,
        log.cut_bytes = scan.file_bytes.saturating_sub(scan.end),
        "cut off the torn end of the log, which no acknowledgement covers"
    );
    Ok(())
}

fn refuse_other_history(
    layout: &Layout,
    opening: &Opening,
    before: Option<&Sealed>,
) -> Result<(), LogError> {
    let Some(before) = before else { return Ok(()) };
    if before.runs.iter().map(index::Run::end).eq(opening.next.iter().copied()) {
        return Ok(());
    }
    Err(LogError::Broken(format!(
        "{} does not continue {}: they are of different copies of the log",
        layout.segment(opening.number).display(),
        layout.segment(before.number).display()
    )))
}

/// Cuts off a torn tail and makes everything kept durable. The last sync of the process before may
/// have failed and left pages that only memory holds, which a sync now would pass over: so what no
/// frame knows to be durable is written once more.
fn repair(layout: &Layout, number: u64, scan: &Scan) -> std::io::Result<File> {
    const COPY_BYTES: u64 = 1 << 20;
    let file = File::options().read(true).write(true).open(layout.segment(number))?;
    file.set_len(scan.end)?;
    let mut at = scan.durable_up_to;
    while at < scan.end {
        let mut bytes = vec![0; (scan.end - at).min(COPY_BYTES) as usize];
        file.read_exact_at(&mut bytes, at)?;
        file.write_all_at(&bytes, at)?;
        at += bytes.len() as u64;
    }
    file.sync_all()?;
    Ok(file)
}
