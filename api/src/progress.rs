//! How far the books of a tenant are: what is posted of each partition, and what is accepted and not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::wire::rated::Counts;
use runtime::{log::LogError, postgres::scoped, task};
use uuid::Uuid;

use crate::{
    USAGE,
    auth::TenantScope,
    error::ApiError,
    jobs::count_pending::{self, Pending},
    state::Api,
    store::{
        conservation::{self, PartitionRow},
        statement,
    },
};

/// How long the log's ends are waited for.
const BOUNDS_WAIT: Duration = Duration::from_secs(2);

/// What is posted of a partition.
pub(crate) struct Posted {
    /// How far the ledger is.
    pub row: PartitionRow,
    /// Outcomes of the tenant's events up to there.
    pub counts: Counts,
    /// Late events that the slow lane has answered, some of them perhaps not yet posted.
    pub answered: u64,
}

/// `A` of the archive, by partition; none for one that it has nothing of.
pub(crate) async fn archived(api: &Api) -> Result<BTreeMap<u32, i64>, ApiError> {
    Ok(conservation::archived(&api.clickhouse).await?.into_iter().collect())
}

/// The last position of each partition of the log, as it is now; -1 for an empty one.
pub(crate) async fn accepted(api: &Api) -> Result<BTreeMap<u32, i64>, ApiError> {
    let own = Api::clone(api);
    let last = move |partition| {
        let (_, end) = own.log.bounds(USAGE, partition, BOUNDS_WAIT)?;
        Ok::<_, ApiError>((partition, end.saturating_sub(1)))
    };
    let partitions = api.log.partitions();
    task::blocking(move || (0..partitions).map(last).collect()).await?
}

/// Whether `reached` is at `wanted` or past it, in each partition.
pub(crate) fn has_reached(reached: &BTreeMap<u32, i64>, wanted: &BTreeMap<u32, i64>) -> bool {
    let has = |(partition, to): (&u32, &i64)| reached.get(partition).copied().unwrap_or(-1) >= *to;
    wanted.iter().all(has)
}

/// By partition.
pub(crate) type Partitions = BTreeMap<u32, Posted>;

/// Counts with the place that they are up to; partitions without anything posted are there too.
pub(crate) async fn posted(api: &Api, tenant: TenantScope) -> Result<Partitions, ApiError> {
    let (answered, rows, counts) = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        // First: what is answered later than the counts are read would hide what waits.
        let answered = conservation::answered(&mut transaction, tenant).await?;
        let rows = conservation::partitions(&mut transaction).await?;
        let counts = statement::conservation(&mut transaction, tenant).await?;
        Ok::<_, ApiError>((answered, rows, counts))
    })
    .await?;
    let nothing = |partition| PartitionRow {
        partition,
        x: -1,
        r: -1,
        catalog_version: 0,
        ignored_batches: 0,
    };
    let empty = |partition: u32| {
        let row = nothing(i32::try_from(partition).unwrap_or(i32::MAX));
        (partition, Posted { row, counts: Counts::default(), answered: 0 })
    };
    let mut posted: Partitions = (0..api.log.partitions()).map(empty).collect();
    for row in rows {
        if let Some(place) =
            u32::try_from(row.partition).ok().and_then(|partition| posted.get_mut(&partition))
        {
            place.row = row;
        }
    }
    for (partition, place, counts) in counts {
        if let Some(own) = posted.get_mut(&partition) {
            (own.row.x, own.row.r, own.counts) = (place.x, place.r, counts);
        }
    }
    for (partition, answered) in answered {
        if let Some(own) =
            u32::try_from(partition).ok().and_then(|partition| posted.get_mut(&partition))
        {
            own.answered = answered.unsigned_abs();
        }
    }
    Ok(posted)
}

/// What is accepted and not posted, per partition; nothing while the log is unavailable.
pub(crate) async fn pending(
    api: &Api,
    tenant: Uuid,
    posted: &Partitions,
) -> Result<BTreeMap<u32, Pending>, ApiError> {
    let places: Vec<(u32, i64)> =
        posted.iter().map(|(partition, posted)| (*partition, posted.row.x)).collect();
    let api = Api::clone(api);
    let counted = task::blocking(move || {
        let deadline = Instant::now() + Duration::from_millis(api.config.pending_scan_ms);
        let count = |(partition, posted)| {
            Ok((partition, count_pending::count(&api, tenant, partition, posted, deadline)?))
        };
        places.into_iter().map(count).collect::<Result<BTreeMap<u32, Pending>, LogError>>()
    })
    .await?;
    match counted {
        Ok(pending) => Ok(pending),
        Err(LogError::Unavailable(reason)) => {
            tracing::warn!(reason, "the log is unavailable; what is pending is not known");
            Ok(BTreeMap::new())
        }
        Err(error) => Err(error.into()),
    }
}
