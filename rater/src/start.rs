//! How an owner starts: where in `[rated]` it begins to read, and how that refills the table.

use std::time::Instant;

use domain::{chain::Place, wire::rated::Sections};
use runtime::shutdown::Shutdown;

use crate::{
    batch::Coverage,
    beginning::{self, EVERYTHING, Refill},
    partition::{BOUNDS_WAIT, IDLE_WAIT, PartitionError, RATED, Shared},
    ranges::Folder,
    rebuild::sealed,
    state::State,
    store::state::{Posted, audited_before, audited_from},
};

/// See [`beginning::beginning`]: with what log and database say.
pub(crate) fn begin(
    shared: &Shared,
    partition: u32,
    posted: &Posted,
    first: i64,
) -> Result<(Place, Coverage), PartitionError> {
    let written = written_coverage(shared, partition, posted.place, first)?;
    let (pool, handle) = (&shared.pool, &shared.handle);
    let begin = beginning::beginning::<PartitionError>(
        first,
        written,
        posted.append_time_us,
        |position| Ok(handle.block_on(audited_before(pool, partition, position, first))?),
        || Ok(handle.block_on(audited_from(pool, partition, first))?),
    )?;
    begin.ok_or_else(|| PartitionError::Stopped(format!(
        "[rated] begins at {first} and no audited place stands before it: batches were lost before they were posted"
    )))
}

/// `S` and `H` in the header of the newest posted batch; `None` where `[rated]` has lost it.
fn written_coverage(
    shared: &Shared,
    partition: u32,
    posted: Place,
    first: i64,
) -> Result<Option<Coverage>, PartitionError> {
    if posted.r < 0 {
        return Ok(Some(EVERYTHING));
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

fn refill(refill: &mut Refill, folder: &Folder, partition: u32, state: &mut State) {
    let ranges = |table_from, edge| folder.ranges(partition, table_from, edge);
    refill.turn(state, ranges, |name, identities| sealed(folder, name, identities));
}

/// Applies `[rated]` from `R + 1` up to `end`. Answers the catalog version after the last batch that
/// was ever accepted here, or `version` where there is none. With `posted`, checks that the ledger's place lies on
/// the chain: otherwise database and log do not belong together.
pub(crate) fn read_rated(
    shared: &Shared,
    partition: u32,
    state: &mut State,
    end: i64,
    version: u64,
    posted: Option<(Place, &Shutdown)>,
) -> Result<u64, PartitionError> {
    let mut met = posted.is_none_or(|(posted, _)| posted == state.place());
    let mut next = state.place().r + 1;
    let mut refilled = Refill::default();
    if posted.is_some() {
        refill(&mut refilled, &shared.folder, partition, state);
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
            if !state.offer(message.position, &message.payload)? {
                shared.metrics.ignored.inc();
            }
            met |= posted.is_some_and(|(posted, _)| posted == state.place());
            if posted.is_some() {
                refill(&mut refilled, &shared.folder, partition, state);
            }
            next = message.position + 1;
        }
    }
    if met {
        state.read_to(end);
        return Ok(state.accepted_catalog_version().unwrap_or(version));
    }
    Err(PartitionError::Stopped(
        "the ledger's place is not on the chain in [rated]: this database and this log do not belong together".into(),
    ))
}
