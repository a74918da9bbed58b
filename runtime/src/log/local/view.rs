//! Looking at a folder that another process has open: nothing is locked, mended or written.
//!
//! A segment's index is there before the next segment is, so only the newest segment has to be
//! scanned. What its end holds may be half written; the view ends before that.

use super::{
    index::{self, Sealed},
    layout::Layout,
    recover::{following, held},
    segment,
    track::{SealedList, Track},
};
use crate::log::LogError;

/// What the folder holds now. Segments may be removed meanwhile; then it is looked again.
pub(crate) fn look(layout: &Layout) -> Result<(Vec<Track>, SealedList), LogError> {
    loop {
        let numbers = layout.segments()?;
        let seen = look_at(layout, &numbers);
        if seen.is_ok() || layout.segments()?.first() == numbers.first() {
            return seen;
        }
    }
}

fn look_at(layout: &Layout, numbers: &[u64]) -> Result<(Vec<Track>, SealedList), LogError> {
    let (newest, sealed) = match numbers.split_last() {
        Some((newest, sealed)) => (Some(*newest), sealed),
        None => (None, numbers),
    };
    let sealed = sealed.iter().map(|number| load(layout, *number));
    let sealed = sealed.collect::<Result<Vec<Sealed>, LogError>>()?;
    let scan = newest.map(|number| segment::scan(layout, number)).transpose()?;
    let begun = scan.and_then(|scan| scan.opening.map(|opening| (opening, scan.offsets)));
    let (opening, offsets) = begun.unwrap_or_else(|| {
        // There is none, or it is just being made.
        let opening = following(layout, newest.unwrap_or(1), sealed.last());
        (opening, vec![Vec::new(); layout.tracks()])
    });
    Ok(held(&opening, offsets, sealed, 0))
}

fn load(layout: &Layout, number: u64) -> Result<Sealed, LogError> {
    index::read(layout, number).ok_or_else(|| {
        let path = layout.index(number);
        LogError::Broken(format!(
            "{} is missing or damaged: start weir, which mends it",
            path.display()
        ))
    })
}
