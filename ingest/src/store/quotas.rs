//! Quotas, and what is counted against them.

use runtime::postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::quotas::Quota;

/// Adds what was accepted per tenant; answers all quotas with what all processes have counted.
pub(crate) async fn count(
    pool: &Pool,
    told: &[(Uuid, u64)],
) -> Result<Vec<(Uuid, Quota)>, PostgresError> {
    let tenants: Vec<Uuid> = told.iter().map(|(tenant, _)| *tenant).collect();
    let events: Vec<i64> =
        told.iter().map(|(_, events)| i64::try_from(*events).unwrap_or(i64::MAX)).collect();
    let sql =
        "SELECT tenant_id, period, quota, used, (extract(epoch FROM ends_at) * 1000000)::bigint
        FROM count_ingested($1, $2)";
    let rows: Vec<(Uuid, String, i64, i64, i64)> =
        sqlx::query_as(sql).bind(tenants).bind(events).fetch_all(pool).await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let quotas = rows.into_iter().map(|(tenant, period, events, used, ends_us)| {
        (tenant, Quota { period, events: count(events), used: count(used), ends_us })
    });
    Ok(quotas.collect())
}
