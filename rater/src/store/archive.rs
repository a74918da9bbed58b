//! What the slow lane and the filters read from the archive.

use std::fmt::Write as _;

use domain::chain::{Hash, hash_of_hex};
use runtime::clickhouse::{ClickHouse, ClickHouseError};
use serde_json::Value;

use crate::verdict::Hit;

/// `A`: everything up to this position is in the archive; −1 for nothing.
pub async fn archived(clickhouse: &ClickHouse, partition: u32) -> Result<i64, ClickHouseError> {
    let sql = "SELECT toString(max(a.to_x)) AS to_x, count() AS groups FROM archived AS a
        WHERE a.partition = {partition:UInt32}";
    let rows = clickhouse.query_json_rows(sql, &[("partition", &partition.to_string())]).await?;
    let Some(row) = rows.first() else { return Err(unreadable("archived", &Value::Null)) };
    match number::<u64>(row, "groups") {
        Some(0) => Ok(-1),
        _ => number(row, "to_x").ok_or_else(|| unreadable("archived", row)),
    }
}

/// The events in these ranges of positions, both ends inclusive, that took one of these
/// identities.
///
/// It reads only columns of the projection `identities`, so not `sign`: a correction takes back
/// what an event was rated as, and the event keeps its id and its place.
pub async fn find(
    clickhouse: &ClickHouse,
    partition: u32,
    ranges: &[(i64, i64)],
    identities: &[u128],
) -> Result<Vec<Hit>, ClickHouseError> {
    if ranges.is_empty() || identities.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = format!(
        "SELECT DISTINCT toString(e.position) AS place, e.`index` AS number, toString(e.identity) AS id,
            toString(e.content_hash) AS content
        FROM usage_events AS e WHERE e.partition = {partition} AND ("
    );
    for (number, (from, to)) in ranges.iter().enumerate() {
        let or = if number == 0 { "" } else { " OR " };
        let _ = write!(sql, "{or}e.position BETWEEN {from} AND {to}");
    }
    sql.push_str(") AND e.identity IN (");
    for (number, identity) in identities.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let _ = write!(sql, "{comma}'{identity}'");
    }
    sql.push(')');
    let hit = |row: &Value| {
        Some(Hit {
            identity: number(row, "id")?,
            position: number(row, "place")?,
            index: number(row, "number")?,
            content: number(row, "content")?,
        })
    };
    let rows = clickhouse.query_json_rows(&sql, &[]).await?;
    rows.iter().map(|row| hit(row).ok_or_else(|| unreadable("usage_events", row))).collect()
}

/// A group of the archive: its last position, the hash of the batch that ends there, and how many
/// rows of `usage_events` it has.
#[derive(Clone, Copy, Debug)]
pub struct ArchivedGroup {
    /// Last position.
    pub to: i64,
    /// `C` there.
    pub c: Hash,
    /// Events that took their id.
    pub rows: u64,
}

/// The groups that end in a range of positions, in order.
pub async fn groups(
    clickhouse: &ClickHouse,
    partition: u32,
    (from, to): (i64, i64),
) -> Result<Vec<ArchivedGroup>, ClickHouseError> {
    let sql = "SELECT DISTINCT toString(a.to_x) AS to, hex(a.c) AS c, toString(a.rows) AS count FROM archived AS a
        WHERE a.partition = {partition:UInt32} AND a.to_x BETWEEN {from:Int64} AND {to:Int64} ORDER BY a.to_x";
    let parameters =
        [("partition", partition.to_string()), ("from", from.to_string()), ("to", to.to_string())];
    let parameters = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
    let group = |row: &Value| {
        Some(ArchivedGroup {
            to: number(row, "to")?,
            c: hash_of_hex(row.get("c")?.as_str()?)?,
            rows: number(row, "count")?,
        })
    };
    let rows = clickhouse.query_json_rows(sql, &parameters).await?;
    rows.iter().map(|row| group(row).ok_or_else(|| unreadable("archived", row))).collect()
}

/// The identities that took effect in a range of positions.
pub async fn identities(
    clickhouse: &ClickHouse,
    partition: u32,
    (from, to): (i64, i64),
) -> Result<Vec<u128>, ClickHouseError> {
    let sql = "SELECT toString(e.identity) AS id FROM usage_events AS e
        WHERE e.partition = {partition:UInt32} AND e.position BETWEEN {from:Int64} AND {to:Int64}
            AND e.rating_run = 0";
    let parameters =
        [("partition", partition.to_string()), ("from", from.to_string()), ("to", to.to_string())];
    let parameters = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
    let rows = clickhouse.query_json_rows(sql, &parameters).await?;
    rows.iter()
        .map(|row| number(row, "id").ok_or_else(|| unreadable("usage_events", row)))
        .collect()
}

fn number<T: std::str::FromStr>(row: &Value, column: &str) -> Option<T> {
    match row.get(column)? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn unreadable(table: &str, row: &Value) -> ClickHouseError {
    ClickHouseError::Refused { code: 0, message: format!("{table} holds {row}") }
}
