//! What is posted, of all tenants in one snapshot: for the balances in memory, as `weir_reader`.
//! A request reads one team's from memory, with its own tenant.

use std::sync::Arc;

use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

/// `(X, R, C)` of a partition.
#[derive(sqlx::FromRow)]
pub(crate) struct PlaceRow {
    pub partition: i32,
    pub x: i64,
    pub r: i64,
    pub c: Vec<u8>,
}

/// A receivable with its partition.
#[derive(sqlx::FromRow)]
pub(crate) struct ReceivableRow {
    pub partition: i32,
    pub tenant_id: Uuid,
    pub team: String,
    pub currency: String,
    pub balance: String,
}

/// Makes the transaction see one state of the database. Must be its first statement.
pub(crate) async fn begin_snapshot(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(connection)
        .await?;
    Ok(())
}

/// How far posting is.
pub(crate) async fn places(connection: &mut PgConnection) -> Result<Vec<PlaceRow>, PostgresError> {
    let rows =
        sqlx::query_as("SELECT partition, x, r, c FROM partitions").fetch_all(connection).await?;
    Ok(rows)
}

/// All receivables of some partitions.
pub(crate) async fn receivables_of_partitions(
    connection: &mut PgConnection,
    partitions: &[i32],
) -> Result<Vec<ReceivableRow>, PostgresError> {
    let rows = sqlx::query_as("SELECT partition, tenant_id, team, currency, balance::text AS balance FROM receivables WHERE partition = ANY($1)")
        .bind(partitions)
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// The receivables of some teams.
pub(crate) async fn receivables_of_teams(
    connection: &mut PgConnection,
    teams: &[(Uuid, Arc<str>)],
) -> Result<Vec<ReceivableRow>, PostgresError> {
    let tenants: Vec<Uuid> = teams.iter().map(|(tenant, _)| *tenant).collect();
    let names: Vec<&str> = teams.iter().map(|(_, team)| &**team).collect();
    let rows = sqlx::query_as(
        "SELECT r.partition, r.tenant_id, r.team, r.currency, r.balance::text AS balance
         FROM unnest($1::uuid[], $2::text[]) AS asked (tenant_id, team) JOIN receivables r USING (tenant_id, team)",
    )
    .bind(tenants)
    .bind(names)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
