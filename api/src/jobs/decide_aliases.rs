//! Decides about aliases that wait: whether the other subject has usage of its own.
//!
//! Ingest lets no event of the subject in while its alias waits. A process that did not know of the
//! alias has loaded it by the time that this task looks at it, or has let nobody in since. So what
//! there is of the subject was in its partition by then, or is a copy of a late event among that. When
//! all of it is posted and archived, the subject has events or will never have any. Where that is not
//! seen in time, because late events do not end or a neighbour is away, the alias is removed: without
//! it nothing can go wrong. Where the subject's usage is to become the team's, [`super::merge_teams`] goes on
//! instead of removing the alias.

use std::{collections::BTreeMap, time::Duration};

use domain::partition::partition_of;
use runtime::{http::Heartbeat, postgres::scoped, task::TaskError};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    auth::{Actor, TenantScope},
    error::ApiError,
    jobs::count_pending::Pending,
    progress::{Posted, archived, pending, posted},
    state::Api,
    store::{
        audit::{self, NewChange},
        conservation,
        team_aliases::{self, WaitingAlias},
        teams,
    },
};

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const HAS_USAGE: &str = "alias removed: its subject has usage of its own";
const NOT_SEEN: &str =
    "alias removed: it could not be seen in time whether its subject has usage of its own";

/// What a merge that was asked for begins with.
const MERGES: (&str, &str, Option<uuid::Uuid>) = ("asked", "taking_back", None);

/// How far an alias has come.
#[derive(Debug)]
struct Stage {
    /// Position of the subject's partition before which everything must be posted.
    end: i64,
    /// Late events of the tenant in it by the end of the round before; none before the first.
    forwarded: Option<u64>,
}

type Stages = BTreeMap<(uuid::Uuid, String), Stage>;

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let mut stages = Stages::new();
    let heartbeat = Heartbeat::new(&api.readiness, "api.aliases", Duration::ZERO);
    while !api.shutdown.is_cancelled() {
        match look(&api, &mut stages).await {
            Ok(()) => heartbeat.beat(),
            Err(error) => {
                tracing::warn!(?error, "aliases of teams wait until it can be decided about them");
            }
        }
        tokio::select! {
            () = api.shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

/// Looks at all aliases that wait, tenant by tenant.
async fn look(api: &Api, stages: &mut Stages) -> Result<(), ApiError> {
    let waiting = team_aliases::waiting(&api.reader).await?;
    let waits = |(tenant, alias): &(uuid::Uuid, String)| {
        waiting.iter().any(|one| one.tenant_id == *tenant && one.alias == *alias)
    };
    stages.retain(|alias, _| waits(alias));
    api.metrics.aliases_waiting.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    for aliases in waiting.chunk_by(|one, next| one.tenant_id == next.tenant_id) {
        if let Err(error) = look_at(api, aliases, stages).await {
            let tenant = aliases.first().map(|alias| alias.tenant_id.to_string());
            tracing::warn!(?error, tenant, "it cannot be decided about a tenant's aliases yet");
        }
    }
    Ok(())
}

/// Looks at the aliases of one tenant.
async fn look_at(api: &Api, aliases: &[WaitingAlias], stages: &mut Stages) -> Result<(), ApiError> {
    let Some(tenant) = aliases.first().map(|alias| TenantScope::of_task(alias.tenant_id)) else {
        return Ok(());
    };
    for alias in aliases.iter().filter(|alias| alias.overdue) {
        decide(api, tenant, &alias.alias, Some(NOT_SEEN)).await?;
    }
    let books = posted(api, tenant).await?;
    // After the books: what the slow lane has answered by then lies before these ends.
    let ahead = pending(api, tenant.id(), &books).await?;
    for alias in aliases.iter().filter(|alias| !alias.overdue) {
        let partition = partition_of(tenant.id(), &alias.alias, api.log.partitions());
        let (Some(posted), Some(ahead)) = (books.get(&partition), ahead.get(&partition)) else {
            continue;
        };
        let stage = stages
            .entry((alias.tenant_id, alias.alias.clone()))
            .or_insert_with(|| Stage { end: ahead.end, forwarded: None });
        if stage.is_over(posted, ahead) && is_archived(api, partition, posted.row.x).await? {
            let has = conservation::has_events(&api.clickhouse, tenant, &alias.alias).await?;
            decide(api, tenant, &alias.alias, has.then_some(HAS_USAGE)).await?;
        }
    }
    Ok(())
}

impl Stage {
    /// Whether everything that the subject's events can become is posted. A round is over when what was
    /// in the log is posted and its late events are answered: their copies are in the log then. It was
    /// the last if none of the copies before it was late again.
    fn is_over(&mut self, posted: &Posted, ahead: &Pending) -> bool {
        // Blocks without anything of the tenant may never be passed.
        let nothing_left = ahead.complete && ahead.events == 0 && ahead.end >= self.end;
        let is_posted = posted.row.x + 1 >= self.end || nothing_left;
        let forwarded = posted.counts.forwarded;
        if !is_posted || posted.answered < forwarded {
            return false;
        }
        let was_last = self.forwarded == Some(forwarded);
        if !was_last {
            *self = Self { end: ahead.end, forwarded: Some(forwarded) };
        }
        was_last
    }
}

async fn is_archived(api: &Api, partition: u32, x: i64) -> Result<bool, ApiError> {
    let position = archived(api).await?.get(&partition).copied();
    Ok(position.unwrap_or(-1) >= x)
}

/// Lets the alias take effect, or removes it: for this reason, or because its subject is a team. One that merges
/// begins to.
async fn decide(
    api: &Api,
    tenant: TenantScope,
    alias: &str,
    against: Option<&str>,
) -> Result<(), ApiError> {
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::lock_names(&mut transaction, tenant).await?;
        let team = teams::find(&mut transaction, tenant, alias).await?;
        match against.or(team.map(|_| HAS_USAGE)) {
            None => team_aliases::take_effect(&mut transaction, tenant, alias).await,
            Some(HAS_USAGE)
                if team_aliases::advance_merge(&mut transaction, tenant, alias, MERGES).await? =>
            {
                Ok(())
            }
            Some(reason) => remove(&mut transaction, tenant, alias, reason).await,
        }
    })
    .await
}

async fn remove(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
    reason: &str,
) -> Result<(), ApiError> {
    let Some(removed) = team_aliases::remove(connection, tenant, alias).await? else {
        return Ok(());
    };
    tracing::warn!(alias, team = removed.team, "{reason}");
    let actor = Actor { kind: "task", id: "decide-aliases".to_owned(), app: None };
    let before = json!({ "alias": alias, "team": removed.team, "waiting": true }).to_string();
    let change = NewChange {
        actor: &actor,
        action: reason,
        target: &removed.team,
        before: Some(&before),
        after: "{}",
    };
    audit::insert(connection, tenant, &change).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conservation::PartitionRow;

    fn posted(x: i64, forwarded: u64, answered: u64) -> Posted {
        let row = PartitionRow { partition: 0, x, r: x, catalog_version: 1, ignored_batches: 0 };
        let counts = domain::wire::rated::Counts { forwarded, ..Default::default() };
        Posted { row, counts, answered }
    }

    fn ahead(events: u64, end: i64) -> Pending {
        Pending { events, end, complete: true }
    }

    #[test]
    fn it_is_over_when_no_copy_of_a_late_event_is_under_way() {
        let mut stage = Stage { end: 10, forwarded: None };
        assert!(!stage.is_over(&posted(8, 0, 0), &ahead(1, 10)), "a block is not posted");
        assert!(!stage.is_over(&posted(9, 2, 1), &ahead(0, 10)), "a late event waits");
        assert!(!stage.is_over(&posted(9, 2, 2), &ahead(3, 20)), "its copy is in the log");
        assert!(!stage.is_over(&posted(18, 2, 2), &ahead(1, 20)), "it is not posted");
        assert!(!stage.is_over(&posted(19, 3, 2), &ahead(1, 30)), "it is late again");
        assert!(!stage.is_over(&posted(25, 3, 3), &ahead(1, 30)), "its second copy is in the log");
        assert!(!stage.is_over(&posted(28, 3, 3), &ahead(1, 30)), "it is not posted");
        assert!(stage.is_over(&posted(29, 3, 3), &ahead(7, 40)));
    }

    #[test]
    fn blocks_of_others_need_not_be_passed() {
        let mut stage = Stage { end: 3, forwarded: None };
        assert!(!stage.is_over(&posted(-1, 0, 0), &ahead(0, 2)), "it is not as far");
        assert!(!stage.is_over(&posted(-1, 0, 0), &ahead(0, 3)), "one round");
        assert!(stage.is_over(&posted(-1, 0, 0), &ahead(0, 3)));
    }
}
