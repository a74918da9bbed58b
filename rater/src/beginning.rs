//! How an owner begins: where in `[rated]` it reads from, and how that refills the table. Pure, as
//! [`crate::state`]; `start.rs` reads log and database for it.

use domain::chain::{Hash, Place};

use crate::{
    batch::Coverage,
    filter::{Filter, Name},
    ranges::Range,
    state::State,
};

/// What a table covers that has everything.
pub const EVERYTHING: Coverage = Coverage { table_from: 0, horizon_us: i64::MIN };

/// Where `[rated]`, which begins at `first`, is read from, and what the table then covers: what the
/// newest posted batch says that its writer's did (`written`), as far as `[rated]` still reaches.
///
/// `audited_before` answers the newest audited place below a position whose next batch is still in
/// `[rated]`, and `audited_from` the oldest one; no block up to any of them was appended after
/// `posted_us`. `None`: batches were lost before they were posted.
pub fn beginning<E>(
    first: i64,
    written: Option<Coverage>,
    posted_us: i64,
    audited_before: impl FnOnce(i64) -> Result<Option<Place>, E>,
    audited_from: impl FnOnce() -> Result<Option<Place>, E>,
) -> Result<Option<(Place, Coverage)>, E> {
    if let Some(coverage) = written {
        match audited_before(coverage.table_from)? {
            Some(begin) => return Ok(Some((begin, coverage))),
            None if first == 0 => return Ok(Some((Place::EMPTY, coverage))),
            None => {}
        }
    }
    if first == 0 {
        return Ok(Some((Place::EMPTY, EVERYTHING)));
    }
    let Some(begin) = audited_from()? else { return Ok(None) };
    // Each append time of what `[rated]` no longer has is not known.
    Ok(Some((begin, Coverage { table_from: begin.x + 1, horizon_us: posted_us })))
}

/// The refilling of a table while `[rated]` is read.
#[derive(Debug, Default)]
pub struct Refill {
    ranges_read: bool,
}

impl Refill {
    /// To be called before the first message and after each: once the table begins, `ranges` answers
    /// what lies below it; and what is too much for memory leaves at once, with the filter of `seal`.
    pub fn turn(
        &mut self,
        state: &mut State,
        ranges: impl FnOnce(i64, Hash) -> Vec<Range>,
        mut seal: impl FnMut(&Name, Vec<u128>) -> Option<Filter>,
    ) {
        let table_from = state.table().coverage().table_from;
        if !self.ranges_read && state.place().x + 1 >= table_from {
            state.put_ranges(ranges(table_from, state.table().edge()));
            self.ranges_read = true;
        }
        while let Some(departure) = state.departure(None) {
            let filter = seal(&departure.name, departure.identities.clone());
            state.depart(departure, filter);
        }
    }
}
