//! The conservation statement: every accepted event has one outcome, or is on its way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use domain::{money::Amount, time, wire::rated::Counts};
use runtime::task;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    jobs::count_pending::Pending,
    live::Unposted,
    openapi::Refusals,
    progress::{Partitions, Posted, pending, posted},
    state::Api,
    store::conservation::{self, PartitionRow},
};

/// How long the archive may take to say how far it is.
const ARCHIVE_WAIT: Duration = Duration::from_secs(1);

/// The conservation statement of the caller's tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Conservation {
    /// When it was made.
    as_of: String,
    /// All partitions together.
    total: PartitionConservation,
    /// Each partition.
    partitions: Vec<PartitionConservation>,
    /// Whether the archive answered; its positions are null if not.
    archive_available: bool,
    /// Money on its way to the ledger, by currency.
    unposted: Vec<UnpostedAmount>,
}

/// Money in one currency that is not posted yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct UnpostedAmount {
    /// The currency.
    currency: String,
    /// Charges that are rated.
    rated: String,
    /// About what the events will be charged that are not rated yet.
    unrated_estimate: String,
}

/// What became of a tenant's events in a partition.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(crate) struct PartitionConservation {
    /// The partition; null for the total.
    partition: Option<u32>,
    /// `X`: everything up to this position of `[usage]` is posted; null for the total.
    posted_position: Option<i64>,
    /// Position after the last block of `[usage]`; null for the total.
    end_position: Option<i64>,
    /// `A`: everything up to this position is in the archive; null if it does not answer.
    archived_position: Option<i64>,
    /// Outcomes up to `X`.
    counts: Outcomes,
    /// Whether accepted + copies is the sum of all outcomes.
    balanced: bool,
    /// Events accepted and not yet posted, and late ones that have no final outcome yet.
    pending: u64,
    /// Of `pending`: late events that are posted as forwarded and that the slow lane has not answered.
    pending_forwards: u64,
    /// False if counting was cut short: `pending` is at least what it says.
    pending_complete: bool,
    /// Rated batches that were written and did not count, all tenants together.
    ignored_batches: u64,
    /// The catalog version in force at `X`; null for the total.
    catalog_version: Option<u64>,
    /// The same in words.
    summary: String,
}

/// Events by outcome.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(crate) struct Outcomes {
    /// Events accepted from clients.
    accepted: u64,
    /// Copies with a verdict of the slow lane.
    copies: u64,
    /// Priced completely.
    rated: u64,
    /// No meter matched.
    unmetered: u64,
    /// A price was unknown.
    unpriced: u64,
    /// The same event took effect before.
    duplicates: u64,
    /// The same id with other content took effect before.
    conflicts: u64,
    /// Cannot be rated.
    rejected: u64,
    /// Handed to the slow lane.
    forwarded: u64,
    /// Given up by an operator.
    lost: u64,
}

impl From<&Counts> for Outcomes {
    fn from(counts: &Counts) -> Self {
        Self {
            accepted: counts.accepted,
            copies: counts.copies,
            rated: counts.rated,
            unmetered: counts.unmetered,
            unpriced: counts.unpriced,
            duplicates: counts.duplicates,
            conflicts: counts.conflicts,
            rejected: counts.rejected,
            forwarded: counts.forwarded,
            lost: counts.lost,
        }
    }
}

/// Read the conservation statement
///
/// Per partition, everything up to the posted position is accounted exactly once:
/// accepted + copies = rated + unmetered + unpriced + duplicates + conflicts + rejected + forwarded.
#[utoipa::path(get, path = "/v1/conservation", tag = "status", responses((status = 200, body = Conservation), Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<Conservation>, ApiError> {
    let tenant = caller.may(Scope::StatusRead)?;
    let posted = posted(&api, tenant).await?;
    // Before what is pending is counted, so that no money is told of whose event is not.
    let unposted = unposted(&api, tenant.id(), &posted);
    let pending = pending(&api, tenant.id(), &posted).await?;
    let archived = archived(&api).await;
    let mut total =
        PartitionConservation { balanced: true, pending_complete: true, ..Default::default() };
    let mut sum = Counts::default();
    let mut partitions = Vec::new();
    for (partition, Posted { row, counts, answered }) in posted {
        let pending = pending.get(&partition).copied();
        let mut one = statement(partition, &row, &counts, (pending, answered));
        one.archived_position =
            archived.as_ref().map(|archived| archived.get(&partition).copied().unwrap_or(-1));
        sum.add(&counts);
        total.pending += one.pending;
        total.pending_forwards += one.pending_forwards;
        total.pending_complete &= one.pending_complete;
        total.balanced &= one.balanced;
        total.ignored_batches += one.ignored_batches;
        partitions.push(one);
    }
    total.counts = Outcomes::from(&sum);
    total.summary = summary(&total);
    Ok(Json(Conservation {
        as_of: time::format(task::now_us()),
        total,
        partitions,
        archive_available: archived.is_some(),
        unposted,
    }))
}

/// Money beside counts that are posted up to these positions.
fn unposted(api: &Api, tenant: Uuid, posted: &Partitions) -> Vec<UnpostedAmount> {
    let text = |raw| Amount::of_sum(raw).to_string();
    let one = |(currency, unposted): (Arc<str>, Unposted)| UnpostedAmount {
        currency: currency.to_string(),
        rated: text(unposted.rated),
        unrated_estimate: text(unposted.unrated),
    };
    let position = |partition| posted.get(&partition).map(|posted| posted.row.x);
    api.live.unposted(Some(tenant), position).into_iter().map(one).collect()
}

/// How far the archive is; `None` if it does not answer.
async fn archived(api: &Api) -> Option<BTreeMap<u32, i64>> {
    match tokio::time::timeout(ARCHIVE_WAIT, conservation::archived(&api.clickhouse)).await {
        Ok(Ok(rows)) => Some(rows.into_iter().collect()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the archive does not say how far it is");
            None
        }
        Err(_) => None,
    }
}

fn statement(
    partition: u32,
    row: &PartitionRow,
    counts: &Counts,
    (pending, answered): (Option<Pending>, u64),
) -> PartitionConservation {
    let pending_forwards = counts.forwarded.saturating_sub(answered);
    let mut one = PartitionConservation {
        partition: Some(partition),
        posted_position: Some(row.x),
        end_position: pending.map(|pending| pending.end),
        archived_position: None,
        counts: Outcomes::from(counts),
        balanced: counts.balanced(),
        pending: pending.map_or(0, |pending| pending.events).saturating_add(pending_forwards),
        pending_forwards,
        pending_complete: pending.is_some_and(|pending| pending.complete),
        ignored_batches: row.ignored_batches.unsigned_abs(),
        catalog_version: Some(row.catalog_version.unsigned_abs()),
        summary: String::new(),
    };
    one.summary = summary(&one);
    one
}

fn summary(one: &PartitionConservation) -> String {
    let least = if one.pending_complete { "" } else { "at least " };
    match (one.balanced, one.pending) {
        (false, _) => "the counts do not balance; tell the operator".to_owned(),
        (true, 0) if one.pending_complete => "every accepted event is posted".to_owned(),
        (true, 1) => format!("{least}1 event not yet posted"),
        (true, count) => format!("{least}{count} events not yet posted"),
    }
}
