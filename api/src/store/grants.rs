//! Grants, and which usage they paid. How they are given and ended is the ledger's.

use ledger::wallet::{self, Ending, NewGrant, Wallet};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError};

/// A row of `grants`.
#[derive(sqlx::FromRow)]
pub(crate) struct GrantRow {
    pub grant_id: Uuid,
    pub wallet_id: Uuid,
    pub kind: String,
    pub priority: i16,
    pub name: String,
    pub amount: String,
    pub remaining: String,
    pub held: String,
    pub meters: Vec<String>,
    pub starts_at_us: i64,
    pub expires_at_us: Option<i64>,
    pub state: String,
    pub ending: Option<String>,
    pub source: String,
    pub source_id: String,
    pub created_at_us: i64,
    pub ended_at_us: Option<i64>,
}

/// A row of `allocations` with its item.
#[derive(sqlx::FromRow)]
pub(crate) struct AllocationRow {
    pub team: String,
    pub meter: String,
    pub bucket_us: i64,
    pub amount: String,
    pub partition: i32,
    pub batch_to: i64,
    pub ordinal: i32,
    pub settle_seq: i64,
}

/// One grant; only of `team`, where that is given.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    grant: Uuid,
    team: Option<&str>,
) -> Result<Option<GrantRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT grant_id, wallet_id, g.kind, g.priority, g.name, g.amount::text, g.remaining::text, g.held::text, g.meters,
             (extract(epoch FROM g.starts_at) * 1000000)::bigint AS starts_at_us,
             (extract(epoch FROM g.expires_at) * 1000000)::bigint AS expires_at_us, g.state, g.ending, g.source, g.source_id,
             (extract(epoch FROM g.created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM g.ended_at) * 1000000)::bigint AS ended_at_us
         FROM grants g JOIN wallets w USING (tenant_id, wallet_id)
         WHERE tenant_id = $1 AND grant_id = $2 AND ($3::text IS NULL OR w.team = $3)",
    )
    .bind(tenant.id())
    .bind(grant)
    .bind(team)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Grants of a wallet, newest first, before the one at the cursor.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<GrantRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT grant_id, wallet_id, kind, priority, name, amount::text, remaining::text, held::text, meters,
             (extract(epoch FROM starts_at) * 1000000)::bigint AS starts_at_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us, state, ending, source, source_id,
             (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM ended_at) * 1000000)::bigint AS ended_at_us
         FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND ($3::uuid IS NULL OR grant_id < $3)
         ORDER BY grant_id DESC LIMIT $4",
    )
    .bind(tenant.id())
    .bind(wallet)
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// What a grant paid, newest first, before the one at the cursor: settlement, batch and ordinal.
pub(crate) async fn allocations(
    connection: &mut PgConnection,
    tenant: TenantScope,
    grant: Uuid,
    before: Option<(i64, i64, i32)>,
    limit: i64,
) -> Result<Vec<AllocationRow>, ApiError> {
    let (settle_seq, batch_to, ordinal) = before.unwrap_or((i64::MAX, i64::MAX, i32::MAX));
    let rows = sqlx::query_as(
        "SELECT i.team, i.meter, (extract(epoch FROM i.bucket) * 1000000)::bigint AS bucket_us, a.amount::text, partition,
             batch_to, ordinal, settle_seq
         FROM allocations a JOIN open_items i USING (tenant_id, partition, batch_to, ordinal)
         WHERE tenant_id = $1 AND grant_id = $2 AND (settle_seq, batch_to, ordinal) < ($3::bigint, $4::bigint, $5::integer)
         ORDER BY settle_seq DESC, batch_to DESC, ordinal DESC LIMIT $6",
    )
    .bind(tenant.id())
    .bind(grant)
    .bind(settle_seq)
    .bind(batch_to)
    .bind(ordinal)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The database's clock, asked for under the lock of a wallet. Microseconds since 1970.
pub(crate) async fn now_us(connection: &mut PgConnection) -> Result<i64, PostgresError> {
    wallet::now_us(connection).await
}

/// Gives a grant to a locked wallet.
pub(crate) async fn give(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    new: &NewGrant<'_>,
    now_us: i64,
) -> Result<Uuid, PostgresError> {
    wallet::grant(connection, wallet, new, now_us).await
}

/// Begins the end of a grant of a locked wallet; false where it is not running.
pub(crate) async fn end(
    connection: &mut PgConnection,
    wallet: &Wallet,
    grant: Uuid,
    ending: Ending,
) -> Result<bool, PostgresError> {
    wallet::end_grant(connection, wallet, grant, ending).await
}
