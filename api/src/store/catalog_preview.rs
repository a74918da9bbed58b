//! Who uses meters whose prices may change.

use sqlx::{FromRow, PgConnection};

use crate::{auth::TenantScope, error::ApiError};

/// What a team used of a meter. Numbers are exact decimal text.
#[derive(Debug, FromRow)]
pub(crate) struct UsedRow {
    /// How many teams there are, those that are not listed too.
    pub teams: i64,
    pub team: String,
    pub meter: String,
    /// Empty for usage without a known price.
    pub currency: String,
    pub quantity: String,
    pub charge: String,
    pub events: i64,
}

/// Usage of these meters from a time on, as posted: of the `limit` teams with the most events, these first.
pub(crate) async fn used(
    connection: &mut PgConnection,
    tenant: TenantScope,
    meters: &[String],
    from_us: i64,
    limit: i64,
) -> Result<Vec<UsedRow>, ApiError> {
    let rows = sqlx::query_as(
        "WITH used AS (
             SELECT team, meter, currency, sum(quantity) AS quantity, sum(charge) AS charge, sum(events)::bigint AS events
             FROM usage_totals
             WHERE tenant_id = $1 AND meter = ANY ($2::text[]) AND bucket >= 'epoch'::timestamptz + $3::bigint * interval '1 microsecond'
             GROUP BY team, meter, currency),
         ranked AS (
             SELECT team, row_number() OVER (ORDER BY sum(events) DESC, team) AS place, count(*) OVER () AS teams
             FROM used GROUP BY team)
         SELECT teams, team, meter, currency, trim_scale(quantity)::text AS quantity, trim_scale(charge)::text AS charge, events
         FROM ranked JOIN used USING (team) WHERE place <= $4::bigint ORDER BY place, meter, currency",
    )
    .bind(tenant.id())
    .bind(meters)
    .bind(from_us)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
