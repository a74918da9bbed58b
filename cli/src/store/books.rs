//! What a bench reads back: how far the books are, and their sums by team and meter.

use anyhow::{Context as _, Result};
use benches::account::{Books, Sums, parse};
use runtime::clickhouse::ClickHouse;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use uuid::Uuid;

/// Events that are posted, of all tenants.
pub async fn posted(connection: &mut PgConnection) -> Result<i64> {
    let count =
        sqlx::query_scalar("SELECT coalesce(sum(accepted), 0)::bigint FROM partition_counts");
    Ok(count.fetch_one(connection).await?)
}

/// Events that are in the archive.
pub async fn archived(clickhouse: &ClickHouse) -> Result<i64> {
    let sql = "SELECT toInt64(sum(rows) + sum(others)) AS events
        FROM (SELECT DISTINCT partition, from_x, to_x, rows, others FROM archived)";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let events =
        rows.first().and_then(|row| row.get("events")).context("no answer about the archive")?;
    integer(events).with_context(|| format!("{events} is no count"))
}

/// Holds that are open, in how many batches they were decided, and whether the wallets have held what
/// they are of.
pub async fn held(connection: &mut PgConnection) -> Result<(i64, i64, bool)> {
    let row = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (wallet_id, created_at)), coalesce(sum(amount), 0) = (SELECT coalesce(sum(held), 0) FROM wallets)
         FROM holds WHERE state = 'open'",
    );
    Ok(row.fetch_one(connection).await?)
}

/// Team, meter, events, quantity, charge, cost.
type TotalsRow = (String, String, i64, String, String, String);

/// Sums of the running totals in Postgres.
pub async fn totals(connection: &mut PgConnection) -> Result<Books> {
    let rows: Vec<TotalsRow> = sqlx::query_as(
        "SELECT team, meter, sum(events)::bigint, sum(quantity)::text, sum(charge)::text, sum(cost)::text
         FROM usage_totals GROUP BY team, meter",
    )
    .fetch_all(connection)
    .await?;
    let row = |(team, meter, events, quantity, charge, cost): TotalsRow| {
        Some(((team, meter), sums(events, [&quantity, &charge, &cost])?))
    };
    rows.into_iter()
        .map(row)
        .collect::<Option<Books>>()
        .context("usage_totals holds a sum that is no decimal")
}

/// Sums of the lines in ClickHouse.
pub async fn lines(clickhouse: &ClickHouse) -> Result<Books> {
    let sql = "SELECT team, meter, toInt64(sum(sign)) AS events, toString(sum(quantity * sign)) AS quantity,
        toString(sum(charge * sign)) AS charge, toString(sum(cost * sign)) AS cost
        FROM usage_lines GROUP BY team, meter";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = |row: &Value| {
        let text = |name: &str| row.get(name)?.as_str();
        let sums = sums(
            integer(row.get("events")?)?,
            [text("quantity")?, text("charge")?, text("cost")?],
        )?;
        Some(((text("team")?.to_owned(), text("meter")?.to_owned()), sums))
    };
    rows.iter()
        .map(row)
        .collect::<Option<Books>>()
        .context("usage_lines holds a sum that is no decimal")
}

fn sums(events: i64, [quantity, charge, cost]: [&str; 3]) -> Option<Sums> {
    Some(Sums { events, quantity: parse(quantity)?, charge: parse(charge)?, cost: parse(cost)? })
}

/// An integer, which ClickHouse writes in quotes.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Makes a database for a run. The name is of letters, digits and `_`.
pub async fn create_database(connection: &mut PgConnection, name: &str) -> Result<()> {
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    Ok(())
}

/// A tenant whose id is given, in a database of a run.
pub async fn insert_tenant(connection: &mut PgConnection, id: Uuid) -> Result<()> {
    let insert = sqlx::query("INSERT INTO tenants (tenant_id, key) VALUES ($1, 'bench')");
    insert.bind(id).execute(connection).await?;
    Ok(())
}

/// Drops the database of a run.
pub async fn drop_database(connection: &mut PgConnection, name: &str) -> Result<()> {
    connection
        .execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
        .await?;
    Ok(())
}

/// Merges that go on in the archive's engine.
pub async fn merges(clickhouse: &ClickHouse) -> Result<i64> {
    let rows =
        clickhouse.query_json_rows("SELECT count() AS merges FROM system.merges", &[]).await?;
    let merges = rows.first().and_then(|row| integer(row.get("merges")?));
    merges.context("no answer about merges")
}

/// Drops the archive of a run.
pub async fn drop_archive(clickhouse: &ClickHouse, name: &str) -> Result<()> {
    Ok(clickhouse.execute(&format!("DROP DATABASE IF EXISTS {name}")).await?)
}
