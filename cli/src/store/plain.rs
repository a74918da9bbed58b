//! Usage as one would keep it first: a row per line of an event, and a total that each adds to.

use std::fmt::Write as _;

use anyhow::Result;
use runtime::{
    clickhouse::{ClickHouse, ClickHouseError},
    postgres::{Pool, PostgresError, transaction},
};
use sqlx::PgConnection;

const INSERT: &str = "INSERT INTO plain_lines (team, meter, quantity, charge, cost, number)
    VALUES ($1, $2, $3::numeric, $4::numeric, $5::numeric, $6)";
const ADD: &str = "INSERT INTO plain_totals AS total (team, meter, quantity, charge, cost, events)
    VALUES ($1, $2, $3::numeric, $4::numeric, $5::numeric, $6)
    ON CONFLICT (team, meter) DO UPDATE SET events = total.events + 1, quantity = total.quantity + excluded.quantity,
        charge = total.charge + excluded.charge, cost = total.cost + excluded.cost";

/// Makes the tables.
pub async fn make(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(
        "CREATE TABLE plain_lines (
             number bigint, team text, meter text, quantity numeric(38), charge numeric(38), cost numeric(38),
             PRIMARY KEY (number, meter));
         CREATE TABLE plain_totals (
             team text, meter text, events bigint, quantity numeric(38), charge numeric(38), cost numeric(38),
             PRIMARY KEY (team, meter))",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One line of an event.
#[derive(Clone, Debug)]
pub struct Line {
    /// The event's number.
    pub number: u64,
    /// Its team.
    pub team: String,
    /// Its meter.
    pub meter: &'static str,
    /// Quantity, charge and cost in units of the last of twelve decimals.
    pub amounts: [String; 3],
}

/// Adds lines in one transaction, each by itself.
pub async fn add(pool: &Pool, lines: &[Line]) -> Result<(), PostgresError> {
    transaction(pool, |mut connection| async move {
        for Line { number, team, meter, amounts: [quantity, charge, cost] } in lines {
            for (sql, last) in [(INSERT, i64::try_from(*number).unwrap_or(i64::MAX)), (ADD, 1)] {
                let query = sqlx::query(sql).bind(team).bind(*meter);
                let query = query.bind(quantity).bind(charge).bind(cost).bind(last);
                query.execute(&mut *connection).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Makes the table in the archive's engine.
pub async fn make_archive(clickhouse: &ClickHouse) -> Result<(), ClickHouseError> {
    clickhouse
        .execute(
            "CREATE TABLE plain_lines (number UInt64, team String, meter String, quantity Decimal(38, 12),
                 charge Decimal(38, 12), cost Decimal(38, 12)) ENGINE = MergeTree ORDER BY (team, meter, number)",
        )
        .await
}

/// Inserts lines as text.
pub async fn archive(clickhouse: &ClickHouse, lines: &[Line]) -> Result<(), ClickHouseError> {
    let mut sql = "INSERT INTO plain_lines VALUES ".to_owned();
    for Line { number, team, meter, amounts: [quantity, charge, cost] } in lines {
        // Amounts here are whole units: a bench's text is none that needs quoting.
        let _ =
            write!(sql, "({number},'{team}','{meter}',{quantity}e-12,{charge}e-12,{cost}e-12),");
    }
    clickhouse.execute(sql.trim_end_matches(',')).await
}
