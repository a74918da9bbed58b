//! Decides about aliases that wait: whether the other subject has usage of its own.
//!
//! Ingest lets no event of the subject in while its alias waits. A process that did not know of the
//! alias has loaded it by the time that this task looks at it, or has let nobody in since. So the
//! subject's usage is what was in the log by then, and what late events among that are still to
//! become. When all of it is posted, its team is there or will never be.

use std::{collections::BTreeMap, time::Duration};

use runtime::{postgres::scoped, task::TaskError};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    auth::{Actor, TenantScope},
    error::ApiError,
    jobs::count_pending::Pending,
    progress::{Partitions, pending, posted},
    state::Api,
    store::{
        audit::{self, NewChange},
        team_aliases::{self, WaitingAlias},
        teams,
    },
};

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often everything must have been posted: the events that were in the log, and then the copies
/// of the late ones among them.
const ROUNDS: u32 = 2;

/// How far an alias has come.
struct Stage {
    /// Per partition the position before which everything must be posted.
    ends: BTreeMap<u32, i64>,
    /// Rounds that are over.
    rounds: u32,
}

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let mut stages: BTreeMap<WaitingAlias, Stage> = BTreeMap::new();
    while !api.shutdown.is_cancelled() {
        match look(&api, &mut stages).await {
            Ok(()) => {}
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
async fn look(api: &Api, stages: &mut BTreeMap<WaitingAlias, Stage>) -> Result<(), ApiError> {
    let waiting = team_aliases::waiting(&api.reader).await?;
    stages.retain(|alias, _| waiting.contains(alias));
    api.metrics.aliases_waiting.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    for aliases in waiting.chunk_by(|one, next| one.tenant_id == next.tenant_id) {
        let Some(first) = aliases.first() else { continue };
        let tenant = TenantScope::of_task(first.tenant_id);
        let books = posted(api, tenant).await?;
        // After the books: what the slow lane has answered by then lies before these ends.
        let ahead = pending(api, first.tenant_id, &books).await?;
        if ahead.len() != books.len() {
            continue;
        }
        for alias in aliases {
            if stages
                .entry(alias.clone())
                .or_insert_with(|| Stage::new(&ahead))
                .is_over(&books, &ahead)
            {
                decide(api, tenant, &alias.alias).await?;
            }
        }
    }
    Ok(())
}

impl Stage {
    fn new(ahead: &BTreeMap<u32, Pending>) -> Self {
        Self { ends: ends(ahead), rounds: 0 }
    }

    /// Whether everything that the subject's events can become is posted.
    fn is_over(&mut self, books: &Partitions, ahead: &BTreeMap<u32, Pending>) -> bool {
        let is_posted = |(partition, end): (&u32, &i64)| {
            let (Some(posted), Some(ahead)) = (books.get(partition), ahead.get(partition)) else {
                return false;
            };
            // Blocks without anything of the tenant may never be passed.
            let nothing_left = ahead.complete && ahead.events == 0 && ahead.end >= *end;
            posted.row.x + 1 >= *end || nothing_left
        };
        let late = books.values().any(|posted| posted.counts.forwarded > posted.answered);
        if self.ends.iter().all(is_posted) && !late {
            self.rounds += 1;
            self.ends = ends(ahead);
        }
        self.rounds >= ROUNDS
    }
}

fn ends(ahead: &BTreeMap<u32, Pending>) -> BTreeMap<u32, i64> {
    ahead.iter().map(|(partition, pending)| (*partition, pending.end)).collect()
}

/// Lets the alias take effect, or removes it where its subject has become a team.
async fn decide(api: &Api, tenant: TenantScope, alias: &str) -> Result<(), ApiError> {
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::lock_names(&mut transaction, tenant).await?;
        match teams::find(&mut transaction, tenant, alias).await? {
            None => team_aliases::take_effect(&mut transaction, tenant, alias).await,
            Some(_) => refuse(&mut transaction, tenant, alias).await,
        }
    })
    .await
}

async fn refuse(
    connection: &mut PgConnection,
    tenant: TenantScope,
    alias: &str,
) -> Result<(), ApiError> {
    let Some(removed) = team_aliases::remove(connection, tenant, alias).await? else {
        return Ok(());
    };
    tracing::warn!(
        alias,
        team = removed.team,
        "an alias is removed: its subject has usage of its own"
    );
    let actor = Actor { kind: "task", id: "decide-aliases".to_owned(), app: None };
    let before = json!({ "alias": alias, "team": removed.team, "waiting": true }).to_string();
    let change = NewChange {
        actor: &actor,
        action: "alias removed: its subject has usage of its own",
        target: &removed.team,
        before: Some(&before),
        after: "{}",
    };
    audit::insert(connection, tenant, &change).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{progress::Posted, store::conservation::PartitionRow};

    fn books(x: i64, forwarded: u64, answered: u64) -> Partitions {
        let row = PartitionRow { partition: 0, x, r: x, catalog_version: 1, ignored_batches: 0 };
        let counts = domain::wire::rated::Counts { forwarded, ..Default::default() };
        BTreeMap::from([(0, Posted { row, counts, answered })])
    }

    fn ahead(events: u64, end: i64) -> BTreeMap<u32, Pending> {
        BTreeMap::from([(0, Pending { events, end, complete: true })])
    }

    #[test]
    fn it_is_over_when_events_and_then_the_copies_of_late_ones_are_posted() {
        let mut stage = Stage::new(&ahead(5, 10));
        assert!(!stage.is_over(&books(8, 0, 0), &ahead(1, 10)), "a block is not posted");
        assert!(!stage.is_over(&books(9, 2, 1), &ahead(0, 10)), "a late event waits");
        assert!(!stage.is_over(&books(9, 2, 2), &ahead(3, 20)), "its copy may be in the log");
        assert!(!stage.is_over(&books(18, 2, 2), &ahead(1, 20)));
        assert!(stage.is_over(&books(19, 2, 2), &ahead(7, 30)));
    }

    #[test]
    fn blocks_of_others_need_not_be_passed() {
        let mut stage = Stage::new(&ahead(0, 3));
        assert!(!stage.is_over(&books(-1, 0, 0), &ahead(0, 2)), "it is not as far");
        assert!(!stage.is_over(&books(-1, 0, 0), &ahead(0, 3)), "one round");
        assert!(stage.is_over(&books(-1, 0, 0), &ahead(0, 3)));
    }
}
