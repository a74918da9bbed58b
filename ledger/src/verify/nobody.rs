//! Rows of the archive that stand for no event. The other checks look at rows of the partitions that there
//! are, up to `A`; whoever reads usage reads all rows. So there must be no others. What corrects events has
//! a check of its own, [`super::corrections`].

use std::collections::BTreeMap;

use runtime::{clickhouse::ClickHouse, postgres::PostgresError};
use sqlx::PgConnection;

use super::{
    Check, VerifyError,
    archive::{self, Ends},
    compare::{number, text},
};
use crate::convert::partition as read_partition;

/// A table, the place of a row with its rating run and sign, and what is wrong with a row.
const TABLES: [(&str, &str, &str); 3] = [
    (
        "usage_events",
        "(partition, position, `index`, rating_run, sign)",
        "sign NOT IN (1, -1) OR rating_run = 0 AND sign != 1",
    ),
    ("rejected_events", "(partition, position, `index`, toUInt32(0), toInt8(1))", "false"),
    ("archived", "(partition, to_x, toUInt32(0), toUInt32(0), toInt8(1))", "false"),
];
/// The tables whose rows must not lie beyond what the archiver has begun to insert.
const TABLES_OF_EVENTS: [&str; 2] = ["usage_events", "rejected_events"];

/// How far the rows of the archive reach, to be read before the snapshot of Postgres that they are
/// compared with: the borders of whatever was inserted by now were committed before.
#[derive(Clone, Debug)]
pub struct Reach {
    partitions: u32,
    /// The highest position of a table's rows in a partition.
    rows: BTreeMap<(&'static str, u32), i64>,
    /// `A`, read after the rows.
    archived: Ends,
}

impl Reach {
    /// Reads it, of the partitions that there are.
    pub async fn read(clickhouse: &ClickHouse, partitions: u32) -> Result<Reach, VerifyError> {
        let mut rows = BTreeMap::new();
        for table in TABLES_OF_EVENTS {
            let sql = format!(
                "SELECT partition, toString(max(position)) AS highest FROM {table} WHERE partition < {partitions} GROUP BY partition"
            );
            for row in clickhouse.query_json_rows(&sql, &[]).await? {
                rows.insert((table, number(&row, "partition")?), number(&row, "highest")?);
            }
        }
        let archived = archive::archived(clickhouse, partitions).await?;
        Ok(Reach { partitions, rows, archived })
    }

    /// `A` of each partition that has any.
    #[must_use]
    pub fn archived(&self) -> &Ends {
        &self.archived
    }
}

/// Looks for rows of another rating run, sign or partition, and for rows beyond what the archiver has
/// begun to insert.
pub async fn check(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    reach: &Reach,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("rows of nobody");
    for table in TABLES {
        strays(&mut check, clickhouse, table, reach.partitions).await?;
    }
    let begun = begun(connection).await?;
    for ((table, partition), highest) in &reach.rows {
        let end = |ends: &Ends| ends.get(partition).copied().unwrap_or(-1);
        let end = end(&reach.archived).max(end(&begun));
        if *highest > end {
            beyond(&mut check, clickhouse, (table, *partition), (end, *highest)).await?;
        }
    }
    Ok(check)
}

async fn strays(
    check: &mut Check,
    clickhouse: &ClickHouse,
    (table, place, wrong): (&str, &str, &str),
    partitions: u32,
) -> Result<(), VerifyError> {
    let sql = format!(
        "WITH partition >= {partitions} OR {wrong} AS stray, minIf({place}, stray) AS first
         SELECT toString(count()) AS all_rows, toString(countIf(stray)) AS strays,
             toString(first.1) AS of_partition, concat(toString(first.1), ':', toString(first.2), ':', toString(first.3)) AS place,
             toString(first.4) AS run, toString(first.5) AS of_sign
         FROM {table}"
    );
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        check.rows = check.rows.saturating_add(number(&row, "all_rows")?);
        let partition: u32 = number(&row, "of_partition")?;
        let (place, run, sign) = (text(&row, "place")?, text(&row, "run")?, text(&row, "of_sign")?);
        let what = if partition >= partitions {
            format!("there are {partitions} partitions")
        } else {
            format!("rating run {run} and sign {sign}")
        };
        check.blame_all(number(&row, "strays")?, || format!("{place} in {table}: {what}"));
    }
    Ok(())
}

/// How far the archiver has fixed what it inserts.
async fn begun(connection: &mut PgConnection) -> Result<Ends, PostgresError> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT partition, max(to_x) FROM archive_groups GROUP BY partition")
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|(partition, x)| Ok((read_partition(partition)?, x))).collect()
}

async fn beyond(
    check: &mut Check,
    clickhouse: &ClickHouse,
    (table, partition): (&str, u32),
    (end, highest): (i64, i64),
) -> Result<(), VerifyError> {
    let sql = format!(
        "WITH min((position, `index`)) AS first
         SELECT toString(count()) AS rows_beyond, concat(toString(first.1), ':', toString(first.2)) AS place
         FROM {table} WHERE partition = {partition} AND position > {end} AND position <= {highest}"
    );
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        let place = text(&row, "place")?;
        check.blame_all(number(&row, "rows_beyond")?, || {
            format!("{partition}:{place} in {table}: nothing was archived after position {end}")
        });
    }
    Ok(())
}
