//! What the archiver does in ClickHouse: read its position, insert a group, say how far it is.

use bytes::Bytes;
use domain::{
    chain::{HASH_LENGTH, Hash, Place},
    wire::row::{REJECTED_EVENTS_COLUMNS, USAGE_EVENTS_COLUMNS},
};
use runtime::clickhouse::ClickHouse;
use serde::Deserialize;

use crate::{error::ArchiveError, group::Group, metrics::ArchiverMetrics};

const ARCHIVED_COLUMNS: &str = "partition, from_x, to_x, r, c, rows, others";

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
    Some(Place { x: row.to_x.parse().ok()?, r: row.r.parse().ok()?, c: hash(&row.c)? })
}

fn hash(hex: &str) -> Option<Hash> {
    let mut hash = [0; HASH_LENGTH];
    if hex.len() != HASH_LENGTH * 2 {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// Inserts a group whose borders are fixed. Each step may be repeated, by anyone: the token says
/// that it is the same one. The position moves last.
pub(crate) async fn insert(
    clickhouse: &ClickHouse,
    partition: u32,
    mut group: Group,
    metrics: &ArchiverMetrics,
) -> Result<(), ArchiveError> {
    let borders = format!("{partition}:{}:{}", group.from_x, group.place.x);
    let marker = archived(partition, &group);
    if group.other_count > 0 {
        let (token, rows) =
            (format!("rejected:{borders}"), Bytes::from(std::mem::take(&mut group.others)));
        clickhouse
            .insert_row_binary("rejected_events", REJECTED_EVENTS_COLUMNS, &token, &[], rows)
            .await?;
    }
    if group.row_count > 0 {
        let (token, rows) =
            (format!("usage:{borders}"), Bytes::from(std::mem::take(&mut group.rows)));
        clickhouse
            .insert_row_binary("usage_events", USAGE_EVENTS_COLUMNS, &token, &[], rows)
            .await?;
    }
    let token = format!("archived:{borders}");
    clickhouse.insert_row_binary("archived", ARCHIVED_COLUMNS, &token, &[], marker.into()).await?;
    metrics.rows.with_label_values(&["rejected_events"]).inc_by(group.other_count as u64);
    metrics.rows.with_label_values(&["usage_events"]).inc_by(group.row_count as u64);
    Ok(())
}

/// The group's row of `archived`, RowBinary.
fn archived(partition: u32, group: &Group) -> Vec<u8> {
    let mut row = Vec::with_capacity(76);
    row.extend_from_slice(&partition.to_le_bytes());
    row.extend_from_slice(&group.from_x.to_le_bytes());
    row.extend_from_slice(&group.place.x.to_le_bytes());
    row.extend_from_slice(&group.place.r.to_le_bytes());
    row.extend_from_slice(&group.place.c);
    row.extend_from_slice(&(group.row_count as u64).to_le_bytes());
    row.extend_from_slice(&(group.other_count as u64).to_le_bytes());
    row
}
