//! Takes back what was charged twice: events with the identity of an earlier one that took effect all the same, because a
//! client sent an event again with another time after it had left the table of duplicates (INV-02). The archive is
//! searched for them; each but the first that counts is voided by a correction of its own.
//!
//! What is done twice is refused once: a correction names the one before it. So it may be killed anywhere.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use runtime::{
    http::{Heartbeat, Problem},
    postgres::{scoped, transaction},
    task::TaskError,
};

use super::rest;
use crate::{
    USAGE,
    auth::TenantScope,
    compiled,
    correcting::{Basis, Plan, Shifts, Wanted, block, plan},
    error::ApiError,
    progress::archived,
    state::Api,
    store::{
        corrected,
        events::EventPlace,
        running_totals,
        twins::{self, Place, Twins},
    },
};

/// Between looks whether a partition is to be searched.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Blocks of a partition whose identities are looked for at a time: each look reads all identities of the partition.
const STRETCH_BLOCKS: i64 = 20_000;

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let heartbeat = Heartbeat::new(&api.readiness, "api.twins", Duration::ZERO);
    while !api.shutdown.is_cancelled() {
        let looked = look(&api, &heartbeat).await;
        rest(&api, &heartbeat, looked, ("twins wait to be looked for", LOOK_EVERY)).await;
    }
    Ok(())
}

async fn look(api: &Api, heartbeat: &Heartbeat) -> Result<(), ApiError> {
    let archived = archived(api).await?;
    for (partition, to) in archived {
        let place = i32::try_from(partition).unwrap_or(i32::MAX);
        let every_s = f64::from(api.config.sweep_every_s);
        let claimed = transaction(&api.pool, |mut transaction| async move {
            twins::claim(&mut transaction, place, every_s).await
        });
        let Some(mut after) = claimed.await? else { continue };
        while after < to && !api.shutdown.is_cancelled() {
            let end = after.saturating_add(STRETCH_BLOCKS).min(to);
            for found in twins::found(&api.clickhouse, partition, (after, end)).await? {
                take_back(api, partition, to, &found).await?;
                heartbeat.beat();
            }
            transaction(&api.pool, |mut transaction| async move {
                twins::note_swept(&mut transaction, place, end).await
            })
            .await?;
            after = end;
            heartbeat.beat();
        }
    }
    Ok(())
}

/// Voids each but the first of those that count, as they stand up to the archive's position `to`.
async fn take_back(api: &Api, partition: u32, to: i64, found: &Twins) -> Result<(), ApiError> {
    let tenant = TenantScope::of_task(found.tenant_id);
    let mut first: Option<Place> = None;
    let (mut noted, mut commands) = (Vec::new(), Vec::new());
    let mut catalogs = HashMap::new();
    for place in &found.places {
        let own = EventPlace { partition, position: place.0, index: place.1 };
        let event = corrected::event_at(&api.clickhouse, tenant, own, to).await?;
        let Some(event) = event.filter(|event| event.effective().is_some()) else { continue };
        let Some(first) = first else {
            first = Some(*place);
            continue;
        };
        compiled::of_events(api, tenant, std::slice::from_ref(&event), &mut catalogs).await?;
        let team = event.first.team.as_str();
        let posted = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            running_totals::of_team(&mut transaction, tenant, team).await
        })
        .await?;
        let basis = Basis {
            tenant: tenant.id(),
            archived: to,
            catalogs: &catalogs,
            posted: &posted,
            meter: None,
            outcome: None,
        };
        if let Plan::Change(change) = plan(&event, &Wanted::Void, &mut Shifts::default(), &basis)? {
            noted.push((*place, first));
            commands.push(change.body);
        }
    }
    if commands.is_empty() {
        return Ok(());
    }
    let (number, noted) = (i32::try_from(partition).unwrap_or(i32::MAX), &noted);
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        for twin in noted {
            twins::insert(&mut transaction, tenant, number, *twin).await?;
        }
        Ok::<_, ApiError>(())
    })
    .await?;
    tracing::warn!(tenant = %tenant.id(), partition, twins = ?noted, "events that were charged twice are taken back");
    api.metrics.twins.inc_by(u64::try_from(commands.len()).unwrap_or(0));
    let message = Bytes::from(block(tenant.id(), &commands));
    let appended = api.log.append(USAGE, partition, message).outcome().await;
    appended.map(drop).map_err(|error| {
        Problem::unavailable(1, "log_unavailable", error.to_string(), "they are taken back later")
            .into()
    })
}
