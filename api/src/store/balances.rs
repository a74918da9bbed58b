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

/// A wallet with its partition.
#[derive(sqlx::FromRow)]
pub(crate) struct WalletRow {
    pub partition: i32,
    pub tenant_id: Uuid,
    pub team: String,
    pub currency: String,
    pub balance: String,
    pub held: String,
}

/// Makes the transaction see one state of the database. Must be its first statement.
pub(crate) async fn begin_snapshot(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(connection)
        .await?;
    Ok(())
}

/// The number of the oldest transaction that the snapshot may not see: every change by one before is in
/// it.
pub(crate) async fn missing_from(connection: &mut PgConnection) -> Result<u64, PostgresError> {
    let text: String = sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        .fetch_one(connection)
        .await?;
    let number = text.parse();
    number.map_err(|_| PostgresError::Broken(format!("the number of a transaction is {text}")))
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

/// All wallets of some partitions.
pub(crate) async fn wallets_of_partitions(
    connection: &mut PgConnection,
    partitions: &[i32],
) -> Result<Vec<WalletRow>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT partition, tenant_id, team, currency, balance::text AS balance, held::text AS held
         FROM wallets WHERE partition = ANY($1)",
    )
    .bind(partitions)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The wallets of some partitions that transactions from a number on have changed, which each partition
/// has its own of.
pub(crate) async fn wallets_changed(
    connection: &mut PgConnection,
    since: &[(i32, u64)],
) -> Result<Vec<WalletRow>, PostgresError> {
    let (partitions, numbers): (Vec<i32>, Vec<String>) =
        since.iter().map(|(partition, number)| (*partition, number.to_string())).unzip();
    let first = since.iter().map(|(_, number)| *number).min().unwrap_or_default();
    let rows = sqlx::query_as(
        "SELECT w.partition, w.tenant_id, w.team, w.currency, w.balance::text AS balance, w.held::text AS held
         FROM wallets w JOIN UNNEST($1::integer[], $2::text[]) AS asked (partition, number) USING (partition)
         WHERE w.changed_in >= $3::text::xid8 AND w.changed_in >= asked.number::xid8",
    )
    .bind(partitions)
    .bind(numbers)
    .bind(first.to_string())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
