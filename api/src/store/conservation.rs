//! How far the partitions are. They are the installation's, so there is no tenant in them but in what
//! the slow lane has answered.

use runtime::{
    clickhouse::{ClickHouse, ClickHouseError},
    postgres::PostgresError,
};
use sqlx::PgConnection;

use crate::auth::TenantScope;

/// How far the ledger is with a partition.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct PartitionRow {
    pub partition: i32,
    pub x: i64,
    pub r: i64,
    pub catalog_version: i64,
    pub ignored_batches: i64,
}

/// How far the ledger is with all partitions that have something posted.
pub(crate) async fn partitions(
    connection: &mut PgConnection,
) -> Result<Vec<PartitionRow>, PostgresError> {
    let rows = sqlx::query_as("SELECT partition, x, r, catalog_version, ignored_batches FROM partitions ORDER BY partition")
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// The tenant's late events that the slow lane has answered, per partition.
pub(crate) async fn answered(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<Vec<(i32, i64)>, PostgresError> {
    let rows = sqlx::query_as("SELECT partition, answered FROM late_answers WHERE tenant_id = $1")
        .bind(tenant.id())
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Whether the archive has an event of a team, whatever became of it.
pub(crate) async fn has_events(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    team: &str,
) -> Result<bool, ClickHouseError> {
    let sql = "SELECT 1 AS one FROM usage_events WHERE tenant_id = {tenant:UUID} AND team = {team:String} LIMIT 1
        SETTINGS max_execution_time = 10";
    let tenant = tenant.id().to_string();
    let rows = clickhouse.query_json_rows(sql, &[("tenant", &tenant), ("team", team)]).await?;
    Ok(!rows.is_empty())
}

/// How far the archive is: the last position archived, per partition.
pub(crate) async fn archived(clickhouse: &ClickHouse) -> Result<Vec<(u32, i64)>, ClickHouseError> {
    let sql = "SELECT partition, max(to_x) AS position FROM archived GROUP BY partition SETTINGS max_execution_time = 2";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = |row: serde_json::Value| {
        let partition = u32::try_from(row.get("partition")?.as_u64()?).ok()?;
        Some((partition, row.get("position")?.as_str()?.parse().ok()?))
    };
    Ok(rows.into_iter().filter_map(row).collect())
}
