//! Sums of the archive's lines against the transfers and the running totals, page by page: as many
//! teams at a time as memory is meant for.

use runtime::{clickhouse::ClickHouse, postgres::PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Check, VerifyError,
    archive::{Ends, within},
    compare::{Key, Sums, compare, decimal, number, text},
};
use crate::convert::{integer, raw};

/// Running totals that are compared at a time.
const PAGE_ROWS: i64 = 50_000;

/// A tenant's teams from the first (exclusive) to the last (inclusive); `None` has no bound.
#[derive(Clone, Debug)]
struct Page {
    tenant: Uuid,
    after: Option<String>,
    to: Option<String>,
}

impl Page {
    /// The condition on the archive's columns. Names are given as their bytes.
    fn filter(&self) -> String {
        let literal = |text: &str| {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("unhex('{hex}')")
        };
        let mut filter = format!("tenant_id = '{}'", self.tenant);
        if let Some(after) = &self.after {
            filter.push_str(&format!(" AND team > {}", literal(after)));
        }
        if let Some(to) = &self.to {
            filter.push_str(&format!(" AND team <= {}", literal(to)));
        }
        filter
    }
}

/// Pages of about [`PAGE_ROWS`] running totals each; every team of a tenant is in one of them.
async fn pages(connection: &mut PgConnection) -> Result<Vec<Page>, PostgresError> {
    let tenants: Vec<Uuid> = sqlx::query_scalar("SELECT tenant_id FROM tenants ORDER BY tenant_id")
        .fetch_all(&mut *connection)
        .await?;
    let mut pages = Vec::new();
    for tenant in tenants {
        let teams: Vec<(String, i64)> = sqlx::query_as(
            "SELECT team, count(*) FROM usage_totals WHERE tenant_id = $1 GROUP BY team ORDER BY team",
        )
        .bind(tenant)
        .fetch_all(&mut *connection)
        .await?;
        let (mut after, mut rows) = (None, 0);
        for (team, count) in teams {
            rows += count;
            if rows >= PAGE_ROWS {
                pages.push(Page { tenant, after, to: Some(team.clone()) });
                (after, rows) = (Some(team), 0);
            }
        }
        pages.push(Page { tenant, after, to: None });
    }
    Ok(pages)
}

/// Sums of lines are the transfers': charges by team, meter, card version and currency, and costs by
/// meter and currency.
pub async fn amounts(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    ends: &Ends,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("amounts in the archive");
    let mut costs_of = None;
    for page in pages(connection).await? {
        let ledger = charges_posted(connection, &page, ends).await?;
        compare(&mut check, &ledger, &charges_archived(clickhouse, &page, ends).await?);
        if costs_of != Some(page.tenant) {
            costs_of = Some(page.tenant);
            let ledger = costs_posted(connection, page.tenant, ends).await?;
            compare(&mut check, &ledger, &costs_archived(clickhouse, page.tenant, ends).await?);
        }
    }
    Ok(check)
}

fn charge_key(tenant: Uuid, [team, meter, card, currency]: [&str; 4], version: i64) -> Key {
    format!(
        "charges of team {team} of tenant {tenant}, meter {meter}, card {card} version {version}, {currency}"
    )
}

fn cost_key(tenant: Uuid, meter: &str, currency: &str) -> Key {
    format!("costs of tenant {tenant}, meter {meter}, {currency}")
}

async fn charges_posted(
    connection: &mut PgConnection,
    page: &Page,
    ends: &Ends,
) -> Result<Sums, VerifyError> {
    let rows: Vec<(String, String, String, i32, String, String)> = sqlx::query_as(
        "SELECT t.team, t.meter, t.card, t.card_version, t.currency,
             (sum(CASE WHEN d.kind = 'receivable' THEN t.amount ELSE -t.amount END) * 1000000000000)::numeric(60, 0)::text
         FROM transfers t
         JOIN journals j USING (tenant_id, journal_id)
         JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         JOIN UNNEST($4::int[], $5::bigint[]) AS w (partition, upto) ON j.partition = w.partition AND j.position_to <= w.upto
         WHERE t.tenant_id = $1 AND t.reason = 'usage' AND ($2::text IS NULL OR t.team > $2) AND ($3::text IS NULL OR t.team <= $3)
         GROUP BY t.team, t.meter, t.card, t.card_version, t.currency",
    )
    .bind(page.tenant)
    .bind(&page.after)
    .bind(&page.to)
    .bind(ends.keys().map(|partition| integer(*partition)).collect::<Vec<_>>())
    .bind(ends.values().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut sums = Sums::new();
    for (team, meter, card, version, currency, amount) in rows {
        let key = charge_key(page.tenant, [&team, &meter, &card, &currency], i64::from(version));
        sums.insert(key, vec![raw(&amount)?]);
    }
    Ok(sums)
}

async fn charges_archived(
    clickhouse: &ClickHouse,
    page: &Page,
    ends: &Ends,
) -> Result<Sums, VerifyError> {
    let (page_filter, filter) = (page.filter(), within(ends, "position"));
    let sql = format!(
        "SELECT toString(u.team) AS of_team, toString(u.meter) AS of_meter, toString(u.card) AS of_card,
             toInt64(u.card_version) AS of_version, toString(u.currency) AS of_currency, toString(sum(u.charge * u.sign)) AS amount
         FROM usage_lines AS u WHERE {page_filter} AND {filter} AND u.currency != ''
         GROUP BY of_team, of_meter, of_card, of_version, of_currency"
    );
    let mut sums = Sums::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        let names = [
            text(&row, "of_team")?,
            text(&row, "of_meter")?,
            text(&row, "of_card")?,
            text(&row, "of_currency")?,
        ];
        let key = charge_key(page.tenant, names, number(&row, "of_version")?);
        sums.insert(key, vec![decimal(&row, "amount")?]);
    }
    Ok(sums)
}

async fn costs_posted(
    connection: &mut PgConnection,
    tenant: Uuid,
    ends: &Ends,
) -> Result<Sums, VerifyError> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT t.meter, t.currency,
             (sum(CASE WHEN d.kind = 'cost_of_sales' THEN t.amount ELSE -t.amount END) * 1000000000000)::numeric(60, 0)::text
         FROM transfers t
         JOIN journals j USING (tenant_id, journal_id)
         JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         JOIN UNNEST($2::int[], $3::bigint[]) AS w (partition, upto) ON j.partition = w.partition AND j.position_to <= w.upto
         WHERE t.tenant_id = $1 AND t.reason = 'cost' GROUP BY t.meter, t.currency",
    )
    .bind(tenant)
    .bind(ends.keys().map(|partition| integer(*partition)).collect::<Vec<_>>())
    .bind(ends.values().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut sums = Sums::new();
    for (meter, currency, amount) in rows {
        sums.insert(cost_key(tenant, &meter, &currency), vec![raw(&amount)?]);
    }
    Ok(sums)
}

async fn costs_archived(
    clickhouse: &ClickHouse,
    tenant: Uuid,
    ends: &Ends,
) -> Result<Sums, VerifyError> {
    let filter = within(ends, "position");
    let sql = format!(
        "SELECT toString(u.meter) AS of_meter, toString(u.cost_currency) AS of_currency, toString(sum(u.cost * u.sign)) AS amount
         FROM usage_lines AS u WHERE tenant_id = '{tenant}' AND {filter} AND u.cost_currency != ''
         GROUP BY of_meter, of_currency"
    );
    let mut sums = Sums::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        let key = cost_key(tenant, text(&row, "of_meter")?, text(&row, "of_currency")?);
        sums.insert(key, vec![decimal(&row, "amount")?]);
    }
    Ok(sums)
}

/// Running totals are the sums of the lines up to `X`, bucket by bucket: quantity, charge, cost and
/// lines. Only where the archive has passed `X` everywhere: a total does not say which part of it is
/// of which position.
pub async fn totals(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    posted: &Ends,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("running totals in the archive");
    for page in pages(connection).await? {
        let ledger = totals_posted(connection, &page).await?;
        compare(&mut check, &ledger, &totals_archived(clickhouse, &page, posted).await?);
    }
    Ok(check)
}

fn total_key(tenant: Uuid, [team, meter, currency, cost_currency]: [&str; 4], bucket: i64) -> Key {
    format!(
        "quantity, charge, cost and lines of team {team} of tenant {tenant}, meter {meter}, {currency:?} and {cost_currency:?}, \
         bucket {bucket}"
    )
}

async fn totals_posted(connection: &mut PgConnection, page: &Page) -> Result<Sums, VerifyError> {
    type Row = (String, String, String, String, i64, String, String, String, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT team, meter, currency, cost_currency, floor(extract(epoch FROM bucket) / 900)::bigint,
             (quantity * 1000000000000)::numeric(60, 0)::text, (charge * 1000000000000)::numeric(60, 0)::text,
             (cost * 1000000000000)::numeric(60, 0)::text, events
         FROM usage_totals WHERE tenant_id = $1 AND ($2::text IS NULL OR team > $2) AND ($3::text IS NULL OR team <= $3)",
    )
    .bind(page.tenant)
    .bind(&page.after)
    .bind(&page.to)
    .fetch_all(connection)
    .await?;
    let mut sums = Sums::new();
    for (team, meter, currency, cost_currency, bucket, quantity, charge, cost, events) in rows {
        let key = total_key(page.tenant, [&team, &meter, &currency, &cost_currency], bucket);
        sums.insert(key, vec![raw(&quantity)?, raw(&charge)?, raw(&cost)?, i128::from(events)]);
    }
    Ok(sums)
}

async fn totals_archived(
    clickhouse: &ClickHouse,
    page: &Page,
    posted: &Ends,
) -> Result<Sums, VerifyError> {
    let (page_filter, filter) = (page.filter(), within(posted, "position"));
    let sql = format!(
        "SELECT toString(u.team) AS of_team, toString(u.meter) AS of_meter, toString(u.currency) AS of_currency,
             toString(u.cost_currency) AS of_cost_currency,
             intDiv(toUnixTimestamp64Micro(u.time) - positiveModulo(toUnixTimestamp64Micro(u.time), 900000000), 900000000) AS bucket,
             toString(sum(u.quantity * u.sign)) AS of_quantity, toString(ifNull(sum(u.charge * u.sign), 0)) AS of_charge,
             toString(ifNull(sum(u.cost * u.sign), 0)) AS of_cost, sum(toInt64(u.sign)) AS of_lines
         FROM usage_lines AS u WHERE {page_filter} AND {filter}
         GROUP BY of_team, of_meter, of_currency, of_cost_currency, bucket"
    );
    let mut sums = Sums::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        let names = [
            text(&row, "of_team")?,
            text(&row, "of_meter")?,
            text(&row, "of_currency")?,
            text(&row, "of_cost_currency")?,
        ];
        let key = total_key(page.tenant, names, number(&row, "bucket")?);
        let values = vec![
            decimal(&row, "of_quantity")?,
            decimal(&row, "of_charge")?,
            decimal(&row, "of_cost")?,
            number(&row, "of_lines")?,
        ];
        sums.insert(key, values);
    }
    Ok(sums)
}
