//! Filters of ranges that have none: made again from the archive, which has the rows of accepted
//! batches and nothing else.

use crate::{
    filter::{Filter, Name},
    partition::{PartitionError, Shared},
    ranges::Range,
    store::archive,
};

/// The parts of a range, each with a filter, in order; they end where groups of the archive end.
pub(crate) async fn rebuild(shared: &Shared, missing: Name) -> Result<Vec<Range>, PartitionError> {
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
