//! What is to be settled in a partition, apart from what was just posted: reads and small steps that
//! are true by themselves, outside of any settlement.

use std::sync::Arc;

use domain::planted::{self, Bug};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Itemised, WalletId};
use crate::convert::integer;

/// Wallets and grants that are looked at in one go.
const ROWS_MAX: i64 = 1000;
/// Holds whose end begins in one go: they come and go as often as usage does.
const HOLDS_MAX: i64 = 20_000;

/// All wallets of a partition whose teams' receivables consist of items: team, currency and wallet.
pub async fn wallets(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Vec<Itemised>, PostgresError> {
    let rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(
        "SELECT w.tenant_id, w.wallet_id, w.team, w.currency FROM wallets w
         WHERE w.partition = $1 AND NOT EXISTS (SELECT FROM new_wallets n WHERE (n.partition, n.tenant_id, n.wallet_id)
             = (w.partition, w.tenant_id, w.wallet_id))",
    )
    .bind(integer(partition))
    .fetch_all(connection)
    .await?;
    let named = |(tenant, wallet, team, currency): (Uuid, Uuid, String, String)| {
        ((tenant, wallet), Arc::from(team), Arc::from(currency))
    };
    Ok(rows.into_iter().map(named).collect())
}

/// Wallets of a partition with items that no settlement has looked at: what a writer left that posted
/// and did not come to settle.
pub async fn indebted(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Vec<WalletId>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT w.tenant_id, w.wallet_id FROM wallets w WHERE w.partition = $1 AND (
             EXISTS (SELECT FROM open_items i WHERE (i.tenant_id, i.team, i.currency) = (w.tenant_id, w.team, w.currency)
                 AND i.paid < i.amount AND i.batch_to > w.settled_to)
             OR EXISTS (SELECT FROM reversals r WHERE (r.tenant_id, r.team, r.currency) = (w.tenant_id, w.team, w.currency)
                 AND r.applied < r.amount AND r.batch_to > w.settled_to))",
    )
    .bind(integer(partition))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Whether there is anything to do in a partition: one look, which finds nothing most of the time.
pub async fn is_anything_due(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<bool, PostgresError> {
    let due = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM new_wallets WHERE partition = $1)
             OR EXISTS (SELECT FROM settle_due WHERE partition = $1)
             OR EXISTS (SELECT FROM unsealed_journals WHERE partition = $1)
             OR EXISTS (SELECT FROM holds WHERE partition = $1 AND state = 'closing')
             OR EXISTS (SELECT FROM holds WHERE partition = $1 AND state = 'open' AND expires_at <= clock_timestamp())
             OR EXISTS (SELECT FROM grants WHERE partition = $1 AND state = 'ending')
             OR EXISTS (SELECT FROM grants WHERE partition = $1 AND state = 'scheduled' AND starts_at <= clock_timestamp())
             OR EXISTS (SELECT FROM grants WHERE partition = $1 AND state = 'running'
                 AND expires_at <= clock_timestamp() - interval '15 minutes')",
    )
    .bind(integer(partition))
    .fetch_one(connection)
    .await?;
    Ok(due)
}

/// Holds and grants, by tenant and id, whose end has begun and for which the end of `[usage]` is to be
/// read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpositioned {
    /// Holds that are closing.
    pub holds: Vec<(Uuid, Uuid)>,
    /// Grants that are ending.
    pub grants: Vec<(Uuid, Uuid)>,
}

impl Unpositioned {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.grants.is_empty()
    }
}

/// Closes holds whose time is over and begins the end of grants that expired 15 minutes ago. Answers
/// the holds and grants whose end has begun, in a transaction that is committed, and for which the end
/// of `[usage]` is to be read *now*. A hold with usage that the slow lane has not answered is not among
/// them; a grant that expires is among them twice, again when the lane has answered what was there. Each statement is a transaction of its own.
pub async fn unpositioned(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Unpositioned, PostgresError> {
    sqlx::query(
        "UPDATE holds h SET state = 'closing', reason = 'expired'
         FROM (SELECT tenant_id, hold_id FROM holds WHERE partition = $1 AND state = 'open' AND expires_at <= clock_timestamp()
               LIMIT $2 FOR UPDATE SKIP LOCKED) due
         WHERE (h.tenant_id, h.hold_id) = (due.tenant_id, due.hold_id) AND h.state = 'open'",
    )
    .bind(integer(partition))
    .bind(HOLDS_MAX)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE grants g SET state = 'ending', ending = 'expiry'
         FROM (SELECT tenant_id, grant_id FROM grants WHERE partition = $1 AND state = 'running'
                   AND expires_at <= clock_timestamp() - interval '15 minutes' LIMIT $2 FOR UPDATE SKIP LOCKED) due
         WHERE (g.tenant_id, g.grant_id) = (due.tenant_id, due.grant_id) AND g.state = 'running'",
    )
    .bind(integer(partition))
    .bind(ROWS_MAX)
    .execute(&mut *connection)
    .await?;
    let holds = sqlx::query_as(
        "SELECT tenant_id, hold_id FROM holds h WHERE partition = $1 AND state = 'closing' AND ending_position IS NULL
             AND (forwarded_to IS NULL OR forwarded_to <= (SELECT x FROM late_places l WHERE l.partition = h.partition))
         LIMIT $2",
    )
    .bind(integer(partition))
    .bind(HOLDS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let grants = sqlx::query_as(
        "SELECT tenant_id, grant_id FROM grants g WHERE partition = $1 AND state = 'ending' AND (ending_position IS NULL
             OR final_position IS NULL AND ending_position <= (SELECT x + 1 FROM partitions WHERE partition = $1)
                 AND (ending_position <= (SELECT x + 1 FROM late_places WHERE partition = $1)
                     OR NOT EXISTS (SELECT FROM partition_counts WHERE partition = $1 AND forwarded > 0)))
         LIMIT $2",
    )
    .bind(integer(partition))
    .bind(ROWS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    Ok(Unpositioned { holds, grants })
}

/// Notes the end of `[usage]` for what [`unpositioned`] answered before that end was read; not of a hold
/// that has usage in the slow lane by now.
pub async fn note_position(
    connection: &mut PgConnection,
    found: &Unpositioned,
    log_end: i64,
) -> Result<(), PostgresError> {
    let unzip = |list: &[(Uuid, Uuid)]| -> (Vec<Uuid>, Vec<Uuid>) { list.iter().copied().unzip() };
    let log_end = if planted::is(Bug::EndNotAwaited) { 0 } else { log_end };
    let (tenants, ids) = unzip(&found.holds);
    sqlx::query(
        "UPDATE holds h SET ending_position = $3 FROM UNNEST($1::uuid[], $2::uuid[]) AS found (tenant_id, hold_id)
         WHERE (h.tenant_id, h.hold_id) = (found.tenant_id, found.hold_id) AND h.state = 'closing' AND h.ending_position IS NULL
             AND (forwarded_to IS NULL OR forwarded_to <= (SELECT x FROM late_places l WHERE l.partition = h.partition))",
    )
    .bind(tenants)
    .bind(ids)
    .bind(log_end)
    .execute(&mut *connection)
    .await?;
    let (tenants, ids) = unzip(&found.grants);
    sqlx::query(
        "UPDATE grants g SET ending_position = coalesce(g.ending_position, $3),
             final_position = CASE WHEN g.ending_position IS NOT NULL OR g.ending <> 'expiry' THEN $3 END
         FROM UNNEST($1::uuid[], $2::uuid[]) AS found (tenant_id, grant_id)
         WHERE (g.tenant_id, g.grant_id) = (found.tenant_id, found.grant_id) AND g.state = 'ending' AND g.final_position IS NULL",
    )
    .bind(tenants)
    .bind(ids)
    .bind(log_end)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// What is to be settled although nothing was posted for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// New or raised wallets, those with grants that begin or may end, or with holds that may end.
    pub wallets: Vec<WalletId>,
    /// Whether journals wait for their seals.
    pub unsealed: bool,
}

/// What is to be settled although nothing was posted for it.
pub async fn duties(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Duties, PostgresError> {
    let wallets = sqlx::query_as(
        "SELECT tenant_id, wallet_id FROM new_wallets WHERE partition = $1
         UNION SELECT tenant_id, wallet_id FROM settle_due WHERE partition = $1
         UNION SELECT tenant_id, wallet_id FROM grants WHERE partition = $1 AND state = 'scheduled' AND starts_at <= clock_timestamp()
         UNION SELECT tenant_id, wallet_id FROM grants WHERE partition = $1 AND state = 'ending' AND (held = 0 OR remaining > held)
             AND final_position <= (SELECT x + 1 FROM partitions WHERE partition = $1)
         UNION SELECT tenant_id, wallet_id FROM holds WHERE partition = $1 AND state = 'closing'
             AND ending_position <= (SELECT x + 1 FROM partitions WHERE partition = $1)
         ORDER BY 1, 2 LIMIT $2",
    )
    .bind(integer(partition))
    .bind(ROWS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let unsealed =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM unsealed_journals WHERE partition = $1)")
            .bind(integer(partition))
            .fetch_one(&mut *connection)
            .await?;
    Ok(Duties { wallets, unsealed })
}
