//! Looks, whenever a catalog was published, whether usage that had no price has one now: a correction shows what it
//! comes to. One that would change nothing is cancelled, and so is one that a newer catalog has made old.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use runtime::{http::Heartbeat, postgres::scoped, task::TaskError};
use serde::Deserialize;
use uuid::Uuid;

use super::rest;
use crate::{
    auth::{Actor, TenantScope},
    error::ApiError,
    progress::{accepted, archived, has_reached},
    routes::corrections::{add, begin, filter::Filter},
    state::Api,
    store::{catalog, corrected, corrections},
};

/// Between looks for a catalog that was published.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Who its corrections are by.
const TASK: &str = "price-unpriced";

/// What is done where a catalog has a price for usage that had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unpriced {
    /// A correction is previewed, and waits for somebody to post it.
    Preview,
    /// A correction is previewed and posted.
    Post,
    /// Nothing.
    Leave,
}

/// The newest catalogs of tenants that have, or have had, unpriced usage.
#[derive(Default)]
struct Known {
    /// Done with.
    looked_at: HashMap<Uuid, i64>,
    /// Waits until the archive has what was accepted before it was seen.
    waiting: HashMap<Uuid, (i64, BTreeMap<u32, i64>)>,
}

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    if api.config.unpriced == Unpriced::Leave {
        api.shutdown.cancelled().await;
        return Ok(());
    }
    let heartbeat = Heartbeat::new(&api.readiness, "api.unpriced", Duration::ZERO);
    let mut known = Known::default();
    while !api.shutdown.is_cancelled() {
        let looked = look(&api, &mut known).await;
        rest(&api, &heartbeat, looked, ("unpriced usage waits to be looked at", LOOK_EVERY)).await;
    }
    Ok(())
}

async fn look(api: &Api, known: &mut Known) -> Result<(), ApiError> {
    decide(api).await?;
    for (tenant, version) in corrections::published_over_unpriced(&api.reader, TASK).await? {
        if known.looked_at.get(&tenant).is_some_and(|done| *done >= version) {
            continue;
        }
        let ends = match known.waiting.remove(&tenant) {
            Some((seen, ends)) if seen == version => ends,
            _ => accepted(api).await?,
        };
        if !has_reached(&archived(api).await?, &ends) {
            known.waiting.insert(tenant, (version, ends));
            continue;
        }
        preview(api, TenantScope::of_task(tenant), version).await?;
        known.looked_at.insert(tenant, version);
    }
    Ok(())
}

/// Begins a preview, if there is usage that earlier catalogs had no price for.
async fn preview(api: &Api, tenant: TenantScope, version: i64) -> Result<(), ApiError> {
    if !corrected::any_unpriced(&api.clickhouse, tenant, version).await? {
        return Ok(());
    }
    let actor = Actor { kind: "task", id: TASK.to_owned(), app: None };
    let filter = Filter::of_outcome("unpriced");
    let reason = format!("the catalog is version {version}: what had no price may have one");
    let new = &begin(api, tenant, "rate", (&filter, &reason), (None, &actor)).await?;
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        // Of several processes one begins it.
        catalog::lock(&mut transaction).await?;
        if corrections::newest_of(&mut transaction, tenant, TASK).await? >= version {
            return Ok(());
        }
        add(&mut transaction, tenant, new).await
    })
    .await
}

/// Ends previews that show nothing or are old, and posts the others if they are to be.
async fn decide(api: &Api) -> Result<(), ApiError> {
    let posts = api.config.unpriced == Unpriced::Post;
    for (tenant, id, is_over) in corrections::to_decide(&api.reader, TASK, posts).await? {
        let next = if is_over { "cancelled" } else { "posting" };
        let tenant = TenantScope::of_task(tenant);
        let moved = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            corrections::advance(&mut transaction, tenant, id, ("previewed", next)).await
        });
        moved.await?;
    }
    Ok(())
}
