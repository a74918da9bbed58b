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

/// A row of `running_totals`.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredTotal {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The team.
    pub team: String,
    /// The meter.
    pub meter: String,
    /// Dimensions of a row that has a total of its own.
    pub scope: String,
    /// Name of its kind.
    pub period: String,
    /// When it began, microseconds since 1970; none for ever.
    pub start_us: Option<i64>,
    /// Priced units.
    pub quantity: String,
}

/// Running totals chosen by `seed`.
pub async fn running_totals(
    connection: &mut PgConnection,
    count: u32,
    seed: u64,
) -> Result<Vec<StoredTotal>> {
    let sql = "SELECT tenant_id, team, meter, scope, period, quantity::text AS quantity,
            CASE WHEN isfinite(starts_at) THEN (extract(epoch FROM starts_at) * 1000000)::bigint END AS start_us
        FROM running_totals
        ORDER BY hashtextextended(concat_ws(chr(10), tenant_id, team, meter, scope, period, starts_at), $1) LIMIT $2";
    let seed = i64::from_le_bytes(seed.to_le_bytes());
    Ok(sqlx::query_as(sql).bind(seed).bind(i64::from(count)).fetch_all(connection).await?)
}

/// Rows of events that may have moved a running total, as [`sample`] answers them; `ends` as there.
pub async fn of_total(
    clickhouse: &ClickHouse,
    total: &StoredTotal,
    ends: &[i64],
    count: u32,
) -> Result<Bytes> {
    // No period is longer, whatever its zone.
    const LONGEST: &str = "INTERVAL 368 DAY";
    let ends: Vec<String> = ends.iter().map(i64::to_string).collect();
    let (ends, columns) = (ends.join(", "), USAGE_EVENTS.names());
    let hex = |text: &str| {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("unhex('{digits}')")
    };
    let within = total.start_us.map_or("1".to_owned(), |start_us| {
        format!(
            "time >= fromUnixTimestamp64Micro({start_us}::Int64, 'UTC')
                AND time < fromUnixTimestamp64Micro({start_us}::Int64, 'UTC') + {LONGEST}"
        )
    });
    let sql = format!(
        "SELECT {columns} FROM usage_events
         WHERE tenant_id = '{}' AND team = {} AND has(lines.meter, {}) AND {within}
             AND position <= arrayElement([{ends}]::Array(Int64), partition + 1)
         ORDER BY partition, position, `index`, sign LIMIT 1 BY partition, position, `index`, sign LIMIT {count}",
        total.tenant_id,
        hex(&total.team),
        hex(&total.meter),
    );
    Ok(clickhouse.query_bytes(&sql, "RowBinary").await?)
}

/// Rows of events chosen by `seed`, as RowBinary in the order of [`USAGE_EVENTS`]. `ends` are
/// the last positions of the partitions, of which 0 is the first.
pub async fn sample(clickhouse: &ClickHouse, ends: &[i64], count: u32, seed: u64) -> Result<Bytes> {
    const KEY: &str = "tenant_id, team, time, partition, position, `index`";
    let ends: Vec<String> = ends.iter().map(i64::to_string).collect();
    let ends = ends.join(", ");
    let columns = USAGE_EVENTS.names();
    let sql = format!(
        "SELECT {columns} FROM usage_events WHERE sign = 1 AND ({KEY}) IN (
             SELECT {KEY} FROM usage_events WHERE sign = 1
                 AND position <= arrayElement([{ends}]::Array(Int64), partition + 1)
             ORDER BY sipHash64(toUInt64({seed}), partition, position, `index`) LIMIT {count})
         ORDER BY partition, position, `index` LIMIT 1 BY partition, position, `index`"
    );
    Ok(clickhouse.query_bytes(&sql, "RowBinary").await?)
}
