//! Reads of the books, for one tenant.

use domain::{chain::Place, wire::rated::Counts};
use ledger::statement;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError};

pub(crate) use ledger::statement::{JournalRow, TransferRow};

/// Transfers of a team, newest first, after the one at the cursor.
pub(crate) async fn transfers_of_team(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    cursor: Option<(Uuid, i32)>,
    limit: u32,
) -> Result<Vec<TransferRow>, ApiError> {
    Ok(statement::transfers_of_team(connection, tenant.id(), team, cursor, limit).await?)
}

/// Transfers of a journal in their order.
pub(crate) async fn transfers_of_journal(
    connection: &mut PgConnection,
    tenant: TenantScope,
    journal: Uuid,
    after: i32,
    limit: u32,
) -> Result<Vec<TransferRow>, ApiError> {
    Ok(statement::transfers_of_journal(connection, tenant.id(), journal, after, limit).await?)
}

/// One journal.
pub(crate) async fn journal(
    connection: &mut PgConnection,
    tenant: TenantScope,
    journal: Uuid,
) -> Result<Option<JournalRow>, ApiError> {
    Ok(statement::journal(connection, tenant.id(), journal).await?)
}

/// Journals with a transfer of a team, newest first, after the one at the cursor.
pub(crate) async fn journals_of_team(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    cursor: Option<Uuid>,
    limit: i64,
) -> Result<Vec<JournalRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT journal_id, j.reason, j.reference, j.partition, j.position_from, j.position_to,
             (extract(epoch FROM j.posted_at) * 1000000)::bigint AS posted_at_us
         FROM (SELECT DISTINCT tenant_id, journal_id FROM transfers
               WHERE tenant_id = $1 AND team = $2 AND team <> '' AND journal_id < $3
               ORDER BY journal_id DESC LIMIT $4) t
         JOIN journals j USING (tenant_id, journal_id) ORDER BY journal_id DESC",
    )
    .bind(tenant.id())
    .bind(team)
    .bind(cursor.unwrap_or(Uuid::max()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The tenant's outcomes per partition, each up to the `X` beside it.
pub(crate) async fn conservation(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<Vec<(u32, Place, Counts)>, ApiError> {
    let rows = statement::conservation(connection, Some(tenant.id())).await?;
    Ok(rows.into_iter().map(|row| (row.partition, row.place, row.counts)).collect())
}
