//! Holds. How they are decided, captured and released is the ledger's.

use ledger::{
    hold::{self, Decided, NewCapture, NewHold, Refused},
    wallet::Wallet,
};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError};

/// A row of `holds`.
#[derive(sqlx::FromRow)]
pub(crate) struct HoldRow {
    pub hold_id: Uuid,
    pub wallet_id: Uuid,
    pub amount: String,
    pub captured: String,
    pub remaining: String,
    pub meters: Vec<String>,
    pub settle_by: String,
    pub state: String,
    pub reason: String,
    pub created_at_us: i64,
    pub expires_at_us: i64,
    pub ended_at_us: Option<i64>,
}

/// One hold; only of `team`, where that is given. Nothing remains of one that has ended.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    hold: Uuid,
    team: Option<&str>,
) -> Result<Option<HoldRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT hold_id, wallet_id, h.amount::text, h.captured::text,
             CASE WHEN h.state IN ('open', 'closing') THEN h.amount - h.captured ELSE 0 END::text AS remaining,
             h.meters, h.settle_by, h.state, h.reason, (extract(epoch FROM h.created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM h.expires_at) * 1000000)::bigint AS expires_at_us,
             (extract(epoch FROM h.ended_at) * 1000000)::bigint AS ended_at_us
         FROM holds h JOIN wallets w USING (tenant_id, wallet_id)
         WHERE tenant_id = $1 AND hold_id = $2 AND ($3::text IS NULL OR w.team = $3)",
    )
    .bind(tenant.id())
    .bind(hold)
    .bind(team)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Whether holds of a team are open.
pub(crate) async fn any_open(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
) -> Result<bool, ApiError> {
    let found: Vec<Uuid> = sqlx::query_scalar(
        "SELECT h.hold_id FROM holds h JOIN wallets w USING (tenant_id, wallet_id)
         WHERE tenant_id = $1 AND w.team = $2 AND h.state IN ('open', 'closing') LIMIT 1",
    )
    .bind(tenant.id())
    .bind(team)
    .fetch_all(connection)
    .await?;
    Ok(!found.is_empty())
}

/// Decides holds on one wallet: one statement, a transaction of its own, on a connection without one.
/// It sets the scope of row-level security by itself.
pub(crate) async fn place(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    asked: &[NewHold],
) -> Result<Vec<Decided>, PostgresError> {
    hold::place(connection, tenant.id(), wallet, asked).await
}

/// Begins the end of a hold; false where it is not open.
pub(crate) async fn release(
    connection: &mut PgConnection,
    tenant: TenantScope,
    hold: Uuid,
) -> Result<bool, PostgresError> {
    hold::release(connection, tenant.id(), hold, "released").await
}

/// Captures a hold of a locked wallet by call.
pub(crate) async fn capture(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    new: &NewCapture<'_>,
) -> Result<Result<Uuid, Refused>, PostgresError> {
    hold::capture(connection, wallet, new).await
}
