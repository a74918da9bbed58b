//! Filters of ranges that have none: made again from accepted batches, or, where `[rated]` has lost
//! those, from the archive, which has their rows and nothing else.

use std::time::Instant;

use domain::chain::Place;

use crate::{
    filter::{Filter, Name},
    partition::{BOUNDS_WAIT, IDLE_WAIT, PartitionError, RATED, Shared},
    ranges::{Parts, Range},
    store::{archive, state::audited_before},
};

/// The parts of a range, each with a filter, in order. Blocks its thread.
pub(crate) fn rebuild(shared: &Shared, missing: Name) -> Result<Vec<Range>, PartitionError> {
    let parts = match from_log(shared, missing)? {
        Some(parts) => parts,
        None => shared.handle.block_on(from_archive(shared, missing))?,
    };
    tracing::info!(
        partition = missing.partition,
        from = missing.from,
        to = missing.to,
        parts = parts.len(),
        "the filters of a range were made again"
    );
    Ok(parts)
}

/// From accepted batches; `None` if `[rated]` no longer has all of them.
fn from_log(shared: &Shared, missing: Name) -> Result<Option<Vec<Range>>, PartitionError> {
    let partition = missing.partition;
    let (first, end) = shared.log.bounds(RATED, partition, BOUNDS_WAIT)?;
    let before = audited_before(&shared.pool, partition, missing.from, first);
    let place = match shared.handle.block_on(before)? {
        Some(place) => place,
        None if first == 0 => Place::EMPTY,
        None => return Ok(None),
    };
    let damaged =
        |error: String| PartitionError::Stopped(format!("[rated] cannot be read: {error}"));
    let mut reader = shared.log.reader(RATED, partition, place.r + 1)?;
    let mut silent_since = Instant::now();
    let mut parts = Parts::new(missing, place, shared.config.range_identities);
    let seal = |name: &Name, identities| sealed(&shared.folder, name, identities);
    while !parts.is_complete() {
        if shared.shutdown.is_cancelled() || silent_since.elapsed() > BOUNDS_WAIT {
            return Err(PartitionError::Unavailable(format!("[rated] ends at {end} for now")));
        }
        let Some(message) = reader.next(IDLE_WAIT)? else { continue };
        silent_since = Instant::now();
        parts
            .offer(message.position, &message.payload, seal)
            .map_err(|error| damaged(error.to_string()))?;
    }
    if let Some(parts) = parts.finish() {
        return Ok(Some(parts));
    }
    Err(PartitionError::Stopped(format!(
        "no accepted batch in [rated] ends at {} as the range does",
        missing.to
    )))
}

/// From the archive, in parts that end where its groups end.
async fn from_archive(shared: &Shared, missing: Name) -> Result<Vec<Range>, PartitionError> {
    let (clickhouse, partition) = (&shared.clickhouse, missing.partition);
    let archived = archive::archived(clickhouse, partition).await?;
    if archived < missing.to {
        return Err(PartitionError::Unavailable(format!(
            "the archive is at {archived} and has not all of the range up to {}",
            missing.to
        )));
    }
    let mut parts: Vec<Name> = Vec::new();
    let (mut next, mut rows) = (Name { to: missing.from - 1, c: missing.prev, ..missing }, 0);
    for group in archive::groups(clickhouse, partition, (missing.from, missing.to)).await? {
        rows += group.rows;
        // A range's filter is built in memory, from an answer that is limited.
        if rows >= shared.config.range_identities.div_ceil(2) as u64 {
            next = Name { from: next.to + 1, to: group.to, prev: next.c, c: group.c, ..missing };
            parts.push(next);
            rows = 0;
        }
    }
    if next.to < missing.to {
        parts.push(Name { from: next.to + 1, prev: next.c, ..missing });
    }
    let mut ranges = Vec::with_capacity(parts.len());
    for name in parts {
        let identities = archive::identities(clickhouse, partition, (name.from, name.to)).await?;
        let folder = shared.folder.clone();
        let filter = runtime::task::blocking(move || sealed(&folder, &name, identities))
            .await
            .map_err(|error| PartitionError::Unavailable(error.to_string()))?;
        ranges.push(Range { name, filter });
    }
    Ok(ranges)
}

/// Builds a filter and keeps its file. Without a file it is made again at the next start; without a
/// filter, events that meet the range are forwarded until there is one.
pub(crate) fn sealed(
    folder: &crate::ranges::Folder,
    name: &Name,
    identities: Vec<u128>,
) -> Option<Filter> {
    let (from, to) = (name.from, name.to);
    let filter = match Filter::build(identities) {
        Ok(filter) => filter,
        Err(error) => {
            tracing::error!(partition = name.partition, from, to, %error, "a range has no filter");
            return None;
        }
    };
    if let Err(error) = folder.write(name, &filter) {
        tracing::warn!(partition = name.partition, from, to, %error, "a filter was not stored");
    }
    Some(filter)
}
