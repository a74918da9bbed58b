//! Stored events and the catalogs that rated them, for `weir verify`.

use std::collections::BTreeMap;

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

/// A row of `meter_periods` that is closed.
#[derive(Debug, sqlx::FromRow)]
pub struct ClosedPeriod {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The meter.
    pub meter: String,
    /// Of teams that have this zone of their own; empty for the others.
    pub zone: String,
    /// When it begins, microseconds since 1970.
    pub from_us: i64,
    /// When it is over.
    pub to_us: i64,
    /// When it was closed.
    pub closed_at_us: i64,
}

/// Closed periods chosen by `seed`.
pub async fn closed_periods(
    connection: &mut PgConnection,
    count: u32,
    seed: u64,
) -> Result<Vec<ClosedPeriod>> {
    let sql =
        "SELECT tenant_id, meter, zone, (extract(epoch FROM period_from) * 1000000)::bigint AS from_us,
            (extract(epoch FROM period_to) * 1000000)::bigint AS to_us,
            (extract(epoch FROM closed_at) * 1000000)::bigint AS closed_at_us
        FROM meter_periods WHERE state = 'closed'
        ORDER BY hashtextextended(concat_ws(chr(10), tenant_id, meter, zone, period_from), $1) LIMIT $2";
    let seed = i64::from_le_bytes(seed.to_le_bytes());
    Ok(sqlx::query_as(sql).bind(seed).bind(i64::from(count)).fetch_all(connection).await?)
}

/// Up to where the archive was searched for what reopens periods, by partition.
pub async fn searched(connection: &mut PgConnection) -> Result<BTreeMap<u32, i64>> {
    let sql = "SELECT partition, position FROM observed_positions";
    let rows: Vec<(i32, i64)> = sqlx::query_as(sql).fetch_all(connection).await?;
    rows.into_iter()
        .map(|(partition, position)| Ok((u32::try_from(partition)?, position)))
        .collect()
}

/// Catalogs that were the newest when a period was closed, or within `before_us` before.
pub async fn catalogs_of(
    connection: &mut PgConnection,
    period: &ClosedPeriod,
    before_us: i64,
) -> Result<Vec<CatalogDocument>> {
    let sql = "WITH until AS (SELECT to_timestamp(0) + $2::bigint * interval '1 microsecond' AS at),
            since AS (SELECT at - $3::bigint * interval '1 microsecond' AS at FROM until)
        SELECT document FROM catalog_versions, until, since
        WHERE tenant_id = $1 AND created_at <= until.at AND catalog_version >= coalesce((
            SELECT max(catalog_version) FROM catalog_versions v WHERE v.tenant_id = $1 AND v.created_at <= since.at), 0)";
    let documents: Vec<String> = sqlx::query_scalar(sql)
        .bind(period.tenant_id)
        .bind(period.closed_at_us)
        .bind(before_us)
        .fetch_all(connection)
        .await?;
    let read = |document: &String| serde_json::from_str(document);
    let read = documents.iter().map(read).collect::<Result<_, _>>();
    read.with_context(|| format!("the catalogs of tenant {}", period.tenant_id))
}

/// What picks the rows of a closed period: those of its meter up to its end, and what closed it.
fn of_closed(period: &ClosedPeriod, closing_type: &str, carries_over: bool) -> String {
    let ClosedPeriod { tenant_id, from_us, to_us, .. } = period;
    let (meter, closing) = (hex(&period.meter), hex(closing_type));
    let at = |us: i64| format!("fromUnixTimestamp64Micro({us}::Int64, 'UTC')");
    let from = if carries_over { String::new() } else { format!(" AND time >= {}", at(*from_us)) };
    let closed_at = at(to_us.saturating_sub(1));
    format!(
        "tenant_id = '{tenant_id}' AND time < {}{from}
             AND ((type = {closing} AND time = {closed_at}) OR (type != {closing} AND has(lines.meter, {meter})))",
        at(*to_us)
    )
}

/// Teams of a closed period chosen by `seed`, in RowBinary.
pub async fn teams_of_closed(
    clickhouse: &ClickHouse,
    period: &ClosedPeriod,
    (closing_type, carries_over): (&str, bool),
    (count, seed): (u32, u64),
) -> Result<Bytes> {
    let sql = format!(
        "SELECT team FROM usage_events WHERE {} GROUP BY team ORDER BY sipHash64(toUInt64({seed}), team) LIMIT {count}",
        of_closed(period, closing_type, carries_over)
    );
    Ok(clickhouse.query_bytes(&sql, "RowBinary").await?)
}

/// Rows of a closed period and a team, in RowBinary: partition, position, place of the event (position, index),
/// sign, time in microseconds, whether it closes the period, and of the meter's line the quantity and the dimensions
/// as JSON, and the text of what closes the period. Rows of an event follow each other, the newest is the last.
pub async fn of_closed_team(
    clickhouse: &ClickHouse,
    period: &ClosedPeriod,
    team: &str,
    (closing_type, carries_over): (&str, bool),
    count: u32,
) -> Result<Bytes> {
    let (meter, team, closing) = (hex(&period.meter), hex(team), hex(closing_type));
    let sql = format!(
        "SELECT e.partition, e.position, if(e.rating_run = 0, e.position, e.origin_position) AS of_position,
             if(e.rating_run = 0, e.`index`, e.origin_index) AS of_index, e.sign, toUnixTimestamp64Micro(e.time),
             toUInt8(e.type = {closing}) AS closes,
             arrayFirstIndex((m, s) -> m = {meter} AND (s = 'observed' OR closes = 1), e.lines.meter, e.lines.status) AS line,
             e.lines.quantity[line], toJSONString(e.lines.dimensions[line]), if(closes = 1, e.raw, '')
         FROM usage_events AS e WHERE team = {team} AND {} AND (line > 0 OR closes = 1)
         ORDER BY of_position, of_index, e.rating_run, e.sign
         LIMIT 1 BY e.partition, e.position, e.`index`, e.sign LIMIT {count}",
        of_closed(period, closing_type, carries_over)
    );
    Ok(clickhouse.query_bytes(&sql, "RowBinary").await?)
}

/// A text in SQL, whatever is in it.
fn hex(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("unhex('{digits}')")
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
