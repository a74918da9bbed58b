//! How far the readers of the log have confirmed what they read.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use runtime::{clickhouse::ClickHouse, postgres::Pool};
use serde::Deserialize;

/// `(X, R)`: the last positions of `[usage]` and of `[rated]` that are accounted for.
pub type Confirmed = (i64, i64);

/// What is posted, per partition.
pub async fn posted(pool: &Pool) -> Result<BTreeMap<u32, Confirmed>> {
    let rows: Vec<(i32, i64, i64)> =
        sqlx::query_as("SELECT partition, x, r FROM partitions").fetch_all(pool).await?;
    rows.into_iter().map(|(partition, x, r)| Ok((u32::try_from(partition)?, (x, r)))).collect()
}

/// Up to where of `[rated]` the slow lane has answered all late events, per partition.
pub async fn answered(pool: &Pool) -> Result<BTreeMap<u32, i64>> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT partition, r FROM late_places").fetch_all(pool).await?;
    rows.into_iter().map(|(partition, r)| Ok((u32::try_from(partition)?, r))).collect()
}

/// Late events of a partition, all tenants together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Posted as forwarded, and without an answer of the slow lane.
    pub waiting: i64,
    /// How far the slow lane is: a position of `[rated]`, and answers in the batch after it.
    pub place: (i64, i64),
}

/// Per partition.
pub async fn late(pool: &Pool) -> Result<BTreeMap<u32, Late>> {
    let rows: Vec<(i32, i64, i64, i64)> = sqlx::query_as(
        "SELECT partition, greatest(forwarded - coalesce(a.answered, 0), 0), coalesce(p.r, -1), coalesce(p.answered, 0)
         FROM (SELECT partition, sum(forwarded)::bigint AS forwarded FROM partition_counts GROUP BY partition) c
         LEFT JOIN (SELECT partition, sum(answered)::bigint AS answered FROM late_answers GROUP BY partition) a USING (partition)
         LEFT JOIN late_places p USING (partition)",
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(partition, waiting, r, answered)| {
            Ok((u32::try_from(partition)?, Late { waiting, place: (r, answered) }))
        })
        .collect()
}

/// 64-bit numbers are text in ClickHouse's JSON.
#[derive(Deserialize)]
struct ArchivedRow {
    partition: u32,
    last_x: String,
    last_r: String,
}

/// What is archived, per partition that has any.
pub async fn archived(clickhouse: &ClickHouse) -> Result<BTreeMap<u32, Confirmed>> {
    let sql = "SELECT partition, toString(max(to_x)) AS last_x, toString(argMax(r, to_x)) AS last_r
        FROM archived GROUP BY partition";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = |row: serde_json::Value| {
        let row: ArchivedRow =
            serde_json::from_value(row).context("archived has a row that cannot be read")?;
        Ok((row.partition, (row.last_x.parse()?, row.last_r.parse()?)))
    };
    rows.into_iter().map(row).collect()
}
