//! Running totals that prices depend on, as posted.

use std::collections::BTreeMap;

use domain::{money::Amount, rating::TotalName};
use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError};

type Row = (String, String, String, Option<i64>, String);

/// Those of a team.
pub(crate) async fn of_team(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
) -> Result<BTreeMap<TotalName, i128>, ApiError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT meter, scope, period, CASE WHEN isfinite(starts_at) THEN (extract(epoch FROM starts_at) * 1000000)::bigint END, quantity::text
         FROM running_totals WHERE tenant_id = $1 AND team = $2",
    )
    .bind(tenant.id())
    .bind(team)
    .fetch_all(connection)
    .await?;
    let total = |(meter, scope, period, start_us, quantity): Row| {
        let name = TotalName::stored(&meter, &scope, &period, start_us)?;
        Some((name, Amount::parse_sum(&quantity).ok()?.raw()))
    };
    let rows = rows.into_iter().map(|row| {
        total(row).ok_or_else(|| ApiError::Internal("a running total cannot be read".into()))
    });
    rows.collect()
}
