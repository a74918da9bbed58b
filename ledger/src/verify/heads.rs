//! Heads of the audit chains that the archiver has copied to ClickHouse. Whoever cuts the end of a
//! chain off, or writes it anew, would have to find all copies of it.

use std::collections::BTreeMap;

use domain::chain::Hash;
use runtime::{clickhouse::ClickHouse, postgres::PostgresError};
use sqlx::PgConnection;

use super::{
    Check, VerifyError,
    compare::{number, text},
};
use crate::convert::integer;

/// Copies that are compared at a time.
const PAGE_ROWS: usize = 5_000;

/// A copied head: partition, last position, and the hash in hexadecimal digits.
type Head = (u32, i64, String);

/// Copied heads, to be read before the snapshot that they are compared with: whatever was copied
/// was committed before.
#[derive(Clone, Debug)]
pub struct Copies {
    /// The number of the newest copy by partition.
    newest: BTreeMap<u32, i64>,
}

/// Reads how far the copies go.
pub async fn copies(clickhouse: &ClickHouse) -> Result<Copies, VerifyError> {
    let sql = "SELECT partition, toString(max(position_to)) AS position FROM audit_heads GROUP BY partition";
    let mut newest = BTreeMap::new();
    for row in clickhouse.query_json_rows(sql, &[]).await? {
        newest.insert(number(&row, "partition")?, number(&row, "position")?);
    }
    Ok(Copies { newest })
}

/// Compares all copies with the rows of the chain that they are of.
pub async fn check(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    copies: &Copies,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("copied heads");
    for (partition, newest) in &copies.newest {
        let mut after = i64::MIN;
        loop {
            let page = page(clickhouse, *partition, (after, *newest)).await?;
            let Some((_, last, _)) = page.last() else { break };
            after = *last;
            let stored = stored(connection, *partition, &page).await?;
            for (_, position, copied) in &page {
                check.rows += 1;
                let place = || {
                    format!(
                        "the audit chain of partition {partition}: the row that ends at position {position}"
                    )
                };
                match stored.get(position) {
                    None => check.blame(|| format!("{} was copied and is gone", place())),
                    Some(hash) if hex(hash) != *copied => {
                        check.blame(|| format!("{} is not the one that was copied", place()));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    Ok(check)
}

async fn page(
    clickhouse: &ClickHouse,
    partition: u32,
    (after, to): (i64, i64),
) -> Result<Vec<Head>, VerifyError> {
    let sql = format!(
        "SELECT DISTINCT h.partition AS partition, h.position_to AS position, lower(hex(h.hash)) AS hash FROM audit_heads AS h
         WHERE h.partition = {partition} AND h.position_to > {after} AND h.position_to <= {to}
         ORDER BY position, hash LIMIT {PAGE_ROWS} WITH TIES"
    );
    let rows = clickhouse.query_json_rows(&sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let (partition, position) = (number(row, "partition")?, number(row, "position")?);
            Ok((partition, position, text(row, "hash")?.to_owned()))
        })
        .collect()
}

async fn stored(
    connection: &mut PgConnection,
    partition: u32,
    heads: &[Head],
) -> Result<BTreeMap<i64, Vec<u8>>, PostgresError> {
    let positions: Vec<i64> = heads.iter().map(|(_, position, _)| *position).collect();
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT position_to, hash FROM audit WHERE partition = $1 AND position_to = ANY($2)",
    )
    .bind(integer(partition))
    .bind(positions)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

fn hex(hash: &[u8]) -> String {
    match Hash::try_from(hash) {
        Ok(hash) => blake3::Hash::from_bytes(hash).to_hex().to_string(),
        Err(_) => String::new(),
    }
}
