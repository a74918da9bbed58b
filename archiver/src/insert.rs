//! What the archiver does in ClickHouse: read its position, insert groups, say how far it is.

use std::{fmt, mem};

use domain::{
    chain::{Place, hash_of_hex},
    planted::{self, Bug},
    wire::{
        codec::DecodeError,
        columns::{ARCHIVED, REJECTED_EVENTS, Table, USAGE_EVENTS},
        rows::{Columns, ColumnsWriter, RowOutput as _},
    },
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
    /// The rows, in pieces; none is empty.
    pub rows: Vec<Columns>,
}

/// The inserts of groups whose borders are fixed, in their order: each may be repeated, by anyone. The
/// positions move last.
pub fn inserts(token: &Token, mut groups: Vec<Group>) -> Result<Vec<Insert>, DecodeError> {
    let positions = archived(&groups)?;
    let others = groups.iter_mut().flat_map(|group| mem::take(&mut group.others)).collect();
    let rows = groups.iter_mut().flat_map(|group| mem::take(&mut group.rows)).collect();
    let insert = |table, name: &str, mut rows: Vec<Columns>| {
        rows.retain(|piece| piece.count() > 0);
        Insert { table, token: format!("{name}:{token}"), rows }
    };
    let mut inserts = vec![
        insert(&REJECTED_EVENTS, "rejected", others),
        insert(&USAGE_EVENTS, "usage", rows),
        insert(&ARCHIVED, "archived", vec![positions]),
    ];
    inserts.retain(|insert| !insert.rows.is_empty());
    if planted::is(Bug::RejectsDropped)
        && !inserts.iter().any(|one| one.table.name == USAGE_EVENTS.name)
    {
        inserts.retain(|one| one.table.name != REJECTED_EVENTS.name);
    }
    Ok(inserts)
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
    for Insert { table, token, rows } in inserts(token, groups).map_err(ArchiveError::Rows)? {
        let blocks = native::blocks(table, rows).map(Ok::<_, ArchiveError>);
        clickhouse.insert(table.name, &table.names(), "Native", &token, blocks).await?;
    }
    metrics.rows.with_label_values(&[REJECTED_EVENTS.name]).inc_by(others);
    metrics.rows.with_label_values(&[USAGE_EVENTS.name]).inc_by(rows);
    Ok(())
}

/// The groups' rows of `archived`.
fn archived(groups: &[Group]) -> Result<Columns, DecodeError> {
    let mut rows = ColumnsWriter::new(&ARCHIVED);
    for group in groups {
        rows.push(|row| {
            row.fixed(&group.partition.to_le_bytes());
            row.fixed(&group.from_x.to_le_bytes());
            row.fixed(&group.place.x.to_le_bytes());
            row.fixed(&group.place.r.to_le_bytes());
            row.fixed(&group.place.c);
            row.fixed(&(group.row_count as u64).to_le_bytes());
            row.fixed(&(group.other_count as u64).to_le_bytes());
        });
    }
    rows.columns()
}
