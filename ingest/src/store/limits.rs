//! Limits that are set.

use std::collections::HashMap;

use runtime::postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::limits::Limit;

/// All of them, by tenant and public id of a credential (empty: the tenant's own).
pub(super) async fn all(pool: &Pool) -> Result<HashMap<(Uuid, Box<str>), Limit>, PostgresError> {
    let sql = "SELECT tenant_id, credential, events_per_second, burst FROM ingest_limits WHERE events_per_second IS NOT NULL";
    let rows: Vec<(Uuid, String, i64, i64)> = sqlx::query_as(sql).fetch_all(pool).await?;
    let clamp = |number: i64| u32::try_from(number.max(1)).unwrap_or(u32::MAX);
    let limits = rows.into_iter().map(|(tenant, credential, rate, burst)| {
        let limit = Limit { events_per_second: clamp(rate), burst: clamp(burst) };
        ((tenant, credential.into()), limit)
    });
    Ok(limits.collect())
}
