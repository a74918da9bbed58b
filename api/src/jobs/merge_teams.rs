//! Moves the usage of a subject to the team that it is an alias of: what each event came to is taken back by a
//! correction, and a copy of it is appended for the team, by whose prices it is rated.
//!
//! While that goes on, ingest lets no event of the subject in. A copy takes the id of its event with the team, so that
//! one that is sent again afterwards is a duplicate of it, and a copy that is appended twice is one of itself. So this
//! may be killed anywhere, and done twice.

use std::time::Duration;

use bytes::Bytes;
use domain::{
    event::{IdentityKey, IdentityParts},
    meter::CLOSING_TYPE,
    partition::partition_of,
    preview::{Data, EventText},
    wire::{block::BlockWriter, record::Origin},
};
use runtime::{
    http::{Heartbeat, Problem},
    postgres::scoped,
    task::{self, TaskError},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    correct::{PAGE_EVENTS, Stretches},
    rest,
};
use crate::{
    USAGE,
    auth::{Actor, TenantScope},
    correcting::optional,
    error::ApiError,
    progress::archived,
    routes::corrections::{add, begin, filter::Filter},
    state::Api,
    store::{
        audit::{self, NewChange},
        corrected::{self, Corrected, Selection, StoredEvent},
        corrections,
        meter_periods::identity_key,
        team_aliases::{self, Merging},
        teams,
    },
};

/// Between looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Seconds that a process has a merge to itself without saying that it goes on.
const LEASE_S: f64 = 30.0;
/// Until a merge is looked at again that waits for its correction.
const AGAIN_AFTER_S: f64 = 1.0;
/// Until a correction that has failed is followed by another.
const FAILED_FOR_US: i64 = 60_000_000;

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let heartbeat = Heartbeat::new(&api.readiness, "api.merges", Duration::ZERO);
    while !api.shutdown.is_cancelled() {
        let looked = look(&api, &heartbeat).await;
        rest(&api, &heartbeat, looked, ("merges of teams wait", LOOK_EVERY)).await;
    }
    Ok(())
}

async fn look(api: &Api, heartbeat: &Heartbeat) -> Result<(), ApiError> {
    for merging in team_aliases::merging(&api.reader).await? {
        let tenant = TenantScope::of_task(merging.tenant_id);
        let work = Work { api, tenant, merging: &merging, heartbeat };
        if !work.lease(LEASE_S, false).await? {
            continue;
        }
        let outcome = match merging.merge.as_str() {
            "taking_back" => work.take_back().await,
            _ => work.move_events().await,
        };
        if let Err(error) = outcome {
            tracing::warn!(?error, alias = merging.alias, "a merge waits, and is gone on with");
        }
        work.lease(AGAIN_AFTER_S, true).await?;
    }
    Ok(())
}

/// A merge that this process is at work on.
struct Work<'a> {
    api: &'a Api,
    tenant: TenantScope,
    merging: &'a Merging,
    heartbeat: &'a Heartbeat,
}

impl Work<'_> {
    async fn lease(&self, for_s: f64, own: bool) -> Result<bool, ApiError> {
        let (tenant, alias) = (self.tenant, self.merging.alias.as_str());
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            team_aliases::lease(&mut transaction, tenant, alias, (for_s, own)).await
        })
        .await
    }

    /// Lets a correction take back what the subject's events came to.
    async fn take_back(&self) -> Result<(), ApiError> {
        let (tenant, alias) = (self.tenant, self.merging.alias.as_str());
        let Some(&id) = self.merging.corrections.last() else {
            return self.correct("taking_back").await;
        };
        let row = scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            let row = corrections::find(&mut transaction, tenant, id).await?;
            match row.as_ref().map(|row| row.state.as_str()) {
                Some("previewed") => {
                    corrections::advance(&mut transaction, tenant, id, ("previewed", "posting"))
                        .await?;
                }
                Some("posted") => {
                    let next = ("taking_back", "moving", None);
                    team_aliases::advance_merge(&mut transaction, tenant, alias, next).await?;
                }
                _ => {}
            }
            Ok::<_, ApiError>(row)
        })
        .await?;
        let ended_us = row.and_then(|row| match row.state.as_str() {
            "failed" | "cancelled" => row.ended_at_us,
            _ => None,
        });
        match ended_us {
            Some(ended_us) if ended_us.saturating_add(FAILED_FOR_US) < task::now_us() => {
                self.correct("taking_back").await
            }
            _ => Ok(()),
        }
    }

    /// Begins a correction of all that the subject has.
    async fn correct(&self, from: &'static str) -> Result<(), ApiError> {
        let Merging { alias, team, .. } = self.merging;
        let (tenant, actor) = (self.tenant, actor());
        let reason = format!("the usage of `{alias}` becomes that of `{team}`");
        let filter = Filter::of_team(alias.clone());
        let new = &begin(self.api, tenant, "void", (&filter, &reason), (None, &actor)).await?;
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            let next = (from, "taking_back", Some(new.id));
            add(&mut transaction, tenant, new).await?;
            if team_aliases::advance_merge(&mut transaction, tenant, alias, next).await? {
                return Ok(());
            }
            Err(ApiError::Internal("a merge was gone on with by another process".into()))
        })
        .await
    }

    /// Appends a copy for the team of each event that was taken back.
    async fn move_events(&self) -> Result<(), ApiError> {
        let (api, tenant) = (self.api, self.tenant);
        let key = identity_key(&api.reader).await?;
        let of = |team| partition_of(tenant.id(), team, api.log.partitions());
        let (from, to) = (of(&self.merging.alias), of(&self.merging.team));
        let taken_back = self.positions().await?;
        let archived = archived(api).await?.get(&from).copied().unwrap_or(-1);
        let selection =
            Selection { team: Some(self.merging.alias.clone()), ..Selection::default() };
        let mut stretches = Stretches::of(api, tenant, &selection, from, archived).await?;
        let (mut moved, mut left) = (0, 0);
        while let Some(stretch) = stretches.next {
            let limit = (archived, PAGE_EVENTS);
            let events =
                corrected::events(&api.clickhouse, tenant, &selection, stretch, limit).await?;
            stretches.advance(&events);
            let mut writer = BlockWriter::default();
            let mut copies: i64 = 0;
            for found in &events {
                if found.first.event_type.starts_with(CLOSING_TYPE) {
                    continue;
                }
                if found.effective().is_some() {
                    left += 1;
                } else if let Some(event) = before_merge(found, &taken_back) {
                    let moved = Moved { tenant, team: &self.merging.team, event, found };
                    moved.push(&key, from == to, &mut writer)?;
                    copies += 1;
                }
            }
            if copies > 0 {
                let message = Bytes::from(writer.finish());
                let appended = api.log.append(USAGE, to, message).outcome().await;
                appended.map_err(|error| {
                    let action = "they are sent again";
                    Problem::unavailable(1, "log_unavailable", error.to_string(), action)
                })?;
                moved += copies;
            }
            self.heartbeat.beat();
            if api.shutdown.is_cancelled() || !self.lease(LEASE_S, true).await? {
                return Ok(());
            }
        }
        // Somebody has corrected it meanwhile, or it was not yet in the archive.
        if left > 0 {
            return self.correct("moving").await;
        }
        self.end(moved).await
    }

    /// Where the commands of its corrections are.
    async fn positions(&self) -> Result<Vec<i64>, ApiError> {
        let (tenant, ids) = (self.tenant, &self.merging.corrections);
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            let mut positions = Vec::new();
            for id in ids {
                let blocks = corrections::blocks(&mut transaction, tenant, *id, None).await?;
                positions.extend(blocks.iter().map(|block| block.position));
            }
            positions.sort_unstable();
            Ok::<_, ApiError>(positions)
        })
        .await
    }

    async fn end(&self, moved: i64) -> Result<(), ApiError> {
        let (tenant, Merging { alias, team, .. }) = (self.tenant, self.merging);
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            teams::lock_names(&mut transaction, tenant).await?;
            let next = ("moving", "merged", None);
            if !team_aliases::advance_merge(&mut transaction, tenant, alias, next).await? {
                return Ok(());
            }
            team_aliases::note_moved(&mut transaction, tenant, alias, moved).await?;
            team_aliases::take_effect(&mut transaction, tenant, alias).await?;
            let actor = actor();
            let after = json!({ "alias": alias, "team": team, "moved": moved }).to_string();
            let change = NewChange {
                actor: &actor,
                action: "team merged: the usage of an alias is its team's",
                target: team,
                before: None,
                after: &after,
            };
            audit::insert(&mut transaction, tenant, &change).await
        })
        .await
    }
}

fn actor() -> Actor {
    Actor { kind: "task", id: "merge-teams".to_owned(), app: None }
}

/// The event as it was before the merge took it back; none where something else had voided it.
fn before_merge<'f>(found: &'f Corrected, taken_back: &[i64]) -> Option<&'f StoredEvent> {
    let [earlier @ .., newest] = found.corrections.as_slice() else { return None };
    taken_back.binary_search(&newest.position).ok()?;
    match earlier.last() {
        None => Some(&found.first),
        Some(before) => before.event.as_ref(),
    }
}

/// An event that becomes another team's.
struct Moved<'a> {
    tenant: TenantScope,
    team: &'a str,
    event: &'a StoredEvent,
    found: &'a Corrected,
}

impl Moved<'_> {
    /// Writes its copy. In its own partition its id stays taken, and the copy has another.
    fn push(
        &self,
        key: &IdentityKey,
        same_partition: bool,
        writer: &mut BlockWriter,
    ) -> Result<(), ApiError> {
        let (event, first) = (self.event, &self.found.first);
        let unread = |error: &dyn std::fmt::Display| {
            ApiError::Internal(format!("an event of the archive cannot be read: {error}"))
        };
        let data = Data::of_event(&event.raw).map_err(|error| unread(&error))?;
        let tenant: Uuid = self.tenant.id();
        let id = first.event_id.as_str();
        let parts = IdentityParts { tenant, subject: &first.subject, source: &first.source, id };
        let text = EventText {
            tenant,
            team: self.team,
            subject: &first.subject,
            source: &first.source,
            event_type: &event.event_type,
            user: optional(&event.user),
            app: optional(&event.app),
            key: optional(&event.key),
            feature: optional(&event.feature),
            id,
            identity: if same_partition { key.moved(&parts) } else { key.identity(&parts) },
            content: first.content.parse().map_err(|error| unread(&error))?,
            time_us: event.has_client_time.then_some(event.order_us),
            data: &data,
        };
        let origin = Origin {
            partition: first.partition,
            position: first.position,
            index: first.index,
            append_time_us: event.order_us,
            has_client_time: event.has_client_time,
        };
        text.push_copy(origin, writer);
        Ok(())
    }
}
