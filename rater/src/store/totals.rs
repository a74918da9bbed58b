//! Running totals as they were posted.

use std::{collections::HashMap, sync::Arc};

use domain::{money::Amount, rating::TotalName};
use runtime::postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::totals::TeamName;

type Row = (Uuid, String, String, String, String, Option<i64>, String);
/// A team and all that is stored of it.
type Stored = (TeamName, Vec<(TotalName, i128)>);

/// Everything that is stored of these teams; each is in the answer, also where there is nothing.
pub async fn running_totals(
    pool: &Pool,
    teams: Vec<TeamName>,
) -> Result<Vec<Stored>, PostgresError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT tenant_id, team, meter, scope, period,
             CASE WHEN isfinite(starts_at) THEN (extract(epoch FROM starts_at) * 1000000)::bigint END, quantity::text
         FROM running_totals JOIN UNNEST($1::uuid[], $2::text[]) AS asked (tenant_id, team) USING (tenant_id, team)",
    )
    .bind(teams.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(teams.iter().map(|(_, team)| &**team).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let mut all: HashMap<TeamName, Vec<(TotalName, i128)>> =
        teams.into_iter().map(|team| (team, Vec::new())).collect();
    for row in rows {
        let ((tenant, team), total) = read(row)?;
        all.entry((tenant, team)).or_default().push(total);
    }
    Ok(all.into_iter().collect())
}

fn read(row: Row) -> Result<(TeamName, (TotalName, i128)), PostgresError> {
    let (tenant, team, meter, scope, period, start_us, quantity) = row;
    let broken = |what: &str| PostgresError::Broken(format!("a running total has the {what}"));
    let name = TotalName::stored(&meter, &scope, &period, start_us)
        .ok_or_else(|| broken(&format!("period {period}")))?;
    let read = Amount::parse_sum(&quantity).map_err(|_| broken(&format!("quantity {quantity}")))?;
    Ok(((tenant, Arc::from(team)), (name, read.raw())))
}
