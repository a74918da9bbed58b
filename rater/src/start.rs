//! How an owner starts: where in `[rated]` it begins to read, and how that refills the table.

use std::time::Instant;

use domain::{chain::Place, wire::rated::Sections};
use runtime::{shutdown::Shutdown, task::now_us};

use crate::{
    batch::Coverage,
    partition::{BOUNDS_WAIT, IDLE_WAIT, PartitionError, RATED, Shared},
    rebuild::sealed,
    state::State,
    store::state::{audited_before, audited_from},
};

/// Where `[rated]` is read from, and what the table then covers: what the newest posted batch says
/// that its writer's did, as far as `[rated]` still reaches.
pub(crate) fn beginning(
    shared: &Shared,
    partition: u32,
    posted: Place,
    first: i64,
) -> Result<(Place, Coverage), PartitionError> {
    let coverage = written_coverage(shared, partition, posted, first)?;
    if let Some(coverage) = coverage {
        let before = audited_before(&shared.pool, partition, coverage.table_from, first);
        match shared.handle.block_on(before)? {
            Some(begin) => return Ok((begin, coverage)),
            None if first == 0 => return Ok((Place::EMPTY, coverage)),
            None => {}
        }
    }
    if first == 0 {
        let coverage = Coverage { table_from: 0, horizon_us: i64::MIN };
        return Ok((Place::EMPTY, coverage));
    }
    let audited = shared.handle.block_on(audited_from(&shared.pool, partition, first))?;
    let begin = audited.ok_or_else(|| PartitionError::Stopped(format!(
        "[rated] begins at {first} and no audited place stands before it: batches were lost before they were posted"
    )))?;
    let horizon_us = latest_below(shared, partition, begin.r.max(first))?;
    Ok((begin, Coverage { table_from: begin.x + 1, horizon_us }))
}

/// A time that no block below the table was appended after, where [rated] no longer has the batches
/// that say it. By our clock that is now; but a clock that was behind when we started would make
/// old events provably new. By the log's own clock, no such block is later than the batch at `from`,
/// which was written after all of them.
fn latest_below(shared: &Shared, partition: u32, from: i64) -> Result<i64, PartitionError> {
    let message = shared.log.reader(RATED, partition, from)?.next(BOUNDS_WAIT)?;
    let appended_us = message.map_or(i64::MIN, |message| message.append_time_us);
    Ok(appended_us.max(now_us()))
}

/// `S` and `H` in the header of the newest posted batch; `None` where `[rated]` has lost it.
fn written_coverage(
    shared: &Shared,
    partition: u32,
    posted: Place,
    first: i64,
) -> Result<Option<Coverage>, PartitionError> {
    if posted.r < 0 {
        return Ok(Some(Coverage { table_from: 0, horizon_us: i64::MIN }));
    }
    if posted.r < first {
        return Ok(None);
    }
    let message = shared.log.reader(RATED, partition, posted.r)?.next(BOUNDS_WAIT)?;
    let Some(message) = message.filter(|message| message.position == posted.r) else {
        return Err(PartitionError::Unavailable(format!(
            "[rated] gave no message at {}",
            posted.r
        )));
    };
    let header = Sections::split(&message.payload).and_then(|sections| sections.header());
    let header = header.map_err(|error| {
        PartitionError::Stopped(format!(
            "the batch at {} of [rated] cannot be read: {error}",
            posted.r
        ))
    })?;
    Ok(Some(Coverage { table_from: header.table_from, horizon_us: header.horizon_us }))
}

/// While the table is rebuilt: ranges below it from their files, once it begins; and what is too
/// much for memory leaves at once.
fn keep_limits_at_start(
    shared: &Shared,
    partition: u32,
    state: &mut State,
    ranges_read: &mut bool,
) {
    let table_from = state.table().coverage().table_from;
    if !*ranges_read && state.place().x + 1 >= table_from {
        state.put_ranges(shared.folder.ranges(partition, table_from, state.table().edge()));
        *ranges_read = true;
    }
    while let Some(departure) = state.departure(None) {
        let filter = sealed(&shared.folder, &departure.name, departure.identities.clone());
        state.depart(departure, filter);
    }
}

/// Applies `[rated]` from `R + 1` up to `end`. Answers the catalog version after the last accepted
/// batch, or `version` where there is none. With `posted`, checks that the ledger's place lies on
/// the chain: otherwise database and log do not belong together.
pub(crate) fn read_rated(
    shared: &Shared,
    partition: u32,
    state: &mut State,
    end: i64,
    version: u64,
    posted: Option<(Place, &Shutdown)>,
) -> Result<u64, PartitionError> {
    let mut version = version;
    let mut met = posted.is_none_or(|(posted, _)| posted == state.place());
    let mut next = state.place().r + 1;
    let mut ranges_read = false;
    if posted.is_some() {
        keep_limits_at_start(shared, partition, state, &mut ranges_read);
    }
    if next < end {
        let mut reader = shared.log.reader(RATED, partition, next)?;
        let mut silent_since = Instant::now();
        while next < end {
            if posted.is_some_and(|(_, stop)| stop.is_cancelled()) {
                return Err(PartitionError::Unavailable("asked to stop while starting".into()));
            }
            let Some(message) = reader.next(IDLE_WAIT)? else {
                if silent_since.elapsed() > BOUNDS_WAIT {
                    return Err(PartitionError::Unavailable(format!(
                        "[rated] gave no message at {next}"
                    )));
                }
                continue;
            };
            silent_since = Instant::now();
            match state.offer(message.position, &message.payload)? {
                Some(accepted) => version = accepted,
                None => shared.metrics.ignored.inc(),
            }
            met |= posted.is_some_and(|(posted, _)| posted == state.place());
            if posted.is_some() {
                keep_limits_at_start(shared, partition, state, &mut ranges_read);
            }
            next = message.position + 1;
        }
    }
    if met {
        return Ok(version);
    }
    Err(PartitionError::Stopped(
        "the ledger's place is not on the chain in [rated]: this database and this log do not belong together".into(),
    ))
}
