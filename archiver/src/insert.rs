//! What the archiver does in ClickHouse: read its position, insert groups, say how far it is.

use std::{fmt, mem};

use bytes::Bytes;
use domain::{
    chain::{Place, hash_of_hex},
    planted::{self, Bug},
    wire::columns::{ARCHIVED, REJECTED_EVENTS, Table, USAGE_EVENTS},
};
use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use uuid::Uuid;

use crate::{error::ArchiveError, group::Group, metrics::ArchiverMetrics, native};

#[derive(Deserialize)]
struct Archived {
    to_x: String,
    r: String,
    c: String,
}

/// `A` with its `R` and `C`: the newest row of `archived`. No other store says how far the archive is.
pub(crate) async fn position(
    clickhouse: &ClickHouse,
    partition: u32,
) -> Result<Place, ArchiveError> {
    let sql = "SELECT toString(to_x) AS to_x, toString(r) AS r, hex(c) AS c FROM archived AS a
        WHERE a.partition = {partition:UInt32} ORDER BY a.to_x DESC LIMIT 1";
    let rows = clickhouse.query_json_rows(sql, &[("partition", &partition.to_string())]).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(Place::EMPTY) };
    let text = row.to_string();
    place(row).ok_or(ArchiveError::Archived(text))
}

fn place(row: serde_json::Value) -> Option<Place> {
    let row: Archived = serde_json::from_value(row).ok()?;
    Some(Place { x: row.to_x.parse().ok()?, r: row.r.parse().ok()?, c: hash_of_hex(&row.c)? })
}

/// What ClickHouse knows an insert by: the same token is taken once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Groups that were fixed together.
    Flush(Uuid),
    /// One group, fixed before groups were flushed together.
    Group {
        /// Its partition.
        partition: u32,
        /// Its first position.
        from_x: i64,
        /// Its last position.
        to_x: i64,
    },
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Flush(flush) => write!(formatter, "{flush}"),
            Token::Group { partition, from_x, to_x } => {
                write!(formatter, "{partition}:{from_x}:{to_x}")
            }
        }
    }
}

/// One insert.
#[derive(Clone, Debug)]
pub struct Insert {
    /// The table.
    pub table: &'static Table,
    /// What it is known by: it has no second effect.
    pub token: String,
    /// The rows, RowBinary, in pieces of whole rows; none is empty.
    pub rows: Vec<Bytes>,
}

/// The inserts of groups whose borders are fixed, in their order: each may be repeated, by anyone. The
/// positions move last.
#[must_use]
pub fn inserts(token: &Token, mut groups: Vec<Group>) -> Vec<Insert> {
    let positions: Vec<u8> = groups.iter().flat_map(archived).collect();
    let others = groups.iter_mut().flat_map(|group| mem::take(&mut group.others)).collect();
    let rows = groups.iter_mut().flat_map(|group| mem::take(&mut group.rows)).collect();
    let insert = |table, name: &str, mut rows: Vec<Bytes>| {
        rows.retain(|piece| !piece.is_empty());
        Insert { table, token: format!("{name}:{token}"), rows }
    };
    let mut inserts = vec![
        insert(&REJECTED_EVENTS, "rejected", others),
        insert(&USAGE_EVENTS, "usage", rows),
        insert(&ARCHIVED, "archived", vec![positions.into()]),
    ];
    inserts.retain(|insert| !insert.rows.is_empty());
    if planted::is(Bug::RejectsDropped)
        && !inserts.iter().any(|one| one.table.name == USAGE_EVENTS.name)
    {
        inserts.retain(|one| one.table.name != REJECTED_EVENTS.name);
    }
    inserts
}

/// Carries out [`inserts`].
pub(crate) async fn insert(
    clickhouse: &ClickHouse,
    token: &Token,
    groups: Vec<Group>,
    metrics: &ArchiverMetrics,
) -> Result<(), ArchiveError> {
    let count = |rows: fn(&Group) -> usize| groups.iter().map(rows).sum::<usize>() as u64;
    let (rows, others) = (count(|group| group.row_count), count(|group| group.other_count));
    for Insert { table, token, rows } in inserts(token, groups) {
        let blocks = native::blocks(table, rows).map(|piece| piece.map_err(ArchiveError::Rows));
        clickhouse.insert(table.name, &table.names(), "Native", &token, blocks).await?;
    }
    metrics.rows.with_label_values(&[REJECTED_EVENTS.name]).inc_by(others);
    metrics.rows.with_label_values(&[USAGE_EVENTS.name]).inc_by(rows);
    Ok(())
}

/// The group's row of `archived`, RowBinary.
fn archived(group: &Group) -> Vec<u8> {
    let mut row = Vec::with_capacity(76);
    row.extend_from_slice(&group.partition.to_le_bytes());
    row.extend_from_slice(&group.from_x.to_le_bytes());
    row.extend_from_slice(&group.place.x.to_le_bytes());
    row.extend_from_slice(&group.place.r.to_le_bytes());
    row.extend_from_slice(&group.place.c);
    row.extend_from_slice(&(group.row_count as u64).to_le_bytes());
    row.extend_from_slice(&(group.other_count as u64).to_le_bytes());
    row
}
