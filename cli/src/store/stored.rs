//! Stored events and the catalogs that rated them, for `weir verify`.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use domain::{catalog::CatalogDocument, wire::columns::USAGE_EVENTS};
use runtime::clickhouse::ClickHouse;
use sqlx::PgConnection;
use uuid::Uuid;

/// A tenant's id, key and external key.
pub type TenantRow = (Uuid, String, Option<String>);

/// All tenants.
pub async fn tenants(connection: &mut PgConnection) -> Result<Vec<TenantRow>> {
    let sql = "SELECT tenant_id, key, external_key FROM tenants";
    Ok(sqlx::query_as(sql).fetch_all(connection).await?)
}

/// The catalog of a tenant as of a version; `None` where it has none by then.
pub async fn catalog(
    connection: &mut PgConnection,
    tenant: Uuid,
    version: u64,
) -> Result<Option<CatalogDocument>> {
    let sql = "SELECT document FROM catalog_versions WHERE tenant_id = $1 AND catalog_version <= $2
        ORDER BY catalog_version DESC LIMIT 1";
    let document: Option<String> = sqlx::query_scalar(sql)
        .bind(tenant)
        .bind(i64::try_from(version)?)
        .fetch_optional(connection)
        .await?;
    let read = |document: String| serde_json::from_str(&document);
    document
        .map(read)
        .transpose()
        .with_context(|| format!("the catalog {version} of tenant {tenant}"))
}

/// Rows of events chosen by `seed`, as RowBinary in the order of [`USAGE_EVENTS`]. `ends` are
/// the last positions of the partitions, of which 0 is the first.
pub async fn sample(clickhouse: &ClickHouse, ends: &[i64], count: u32, seed: u64) -> Result<Bytes> {
    const KEY: &str = "tenant_id, team, time, partition, position, `index`";
    let ends: Vec<String> = ends.iter().map(i64::to_string).collect();
    let ends = ends.join(", ");
    let columns = USAGE_EVENTS.names();
    let sql = format!(
        "SELECT {columns} FROM usage_events WHERE rating_run = 0 AND sign = 1 AND ({KEY}) IN (
             SELECT {KEY} FROM usage_events WHERE rating_run = 0 AND sign = 1
                 AND position <= arrayElement([{ends}]::Array(Int64), partition + 1)
             ORDER BY sipHash64(toUInt64({seed}), partition, position, `index`) LIMIT {count})
         ORDER BY partition, position, `index` LIMIT 1 BY partition, position, `index`"
    );
    Ok(clickhouse.query_bytes(&sql, "RowBinary").await?)
}
