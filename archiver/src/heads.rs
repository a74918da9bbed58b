//! Copies of the heads of the ledger's audit chains: whoever cuts a chain off, or writes it anew with
//! its key, does so in Postgres, and the copies are in ClickHouse.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use runtime::{
    clickhouse::{ClickHouse, ClickHouseError},
    postgres::{Pool, PostgresError},
};

use crate::metrics::ArchiverMetrics;

const COLUMNS: &str = "partition, position_to, r, hash, posted_at";

/// The newest row of a chain.
type Head = (i32, i64, i64, Vec<u8>, i64);

/// Why the heads were not copied this time.
#[derive(Debug, thiserror::Error)]
enum HeadsError {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
}

/// Copies what is new every now and then. A failure is one copy less, and counted.
pub(crate) async fn copy(
    pool: &Pool,
    clickhouse: &ClickHouse,
    every: Duration,
    metrics: &ArchiverMetrics,
) -> Infallible {
    let mut copied = BTreeMap::new();
    loop {
        tokio::time::sleep(every).await;
        match turn(pool, clickhouse, &mut copied).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "the heads of the audit chains were not copied; later again");
                metrics.retries.with_label_values(&["heads"]).inc();
            }
        }
    }
}

async fn turn(
    pool: &Pool,
    clickhouse: &ClickHouse,
    copied: &mut BTreeMap<i32, Vec<u8>>,
) -> Result<(), HeadsError> {
    let mut heads = newest(pool).await?;
    heads.retain(|(partition, _, _, hash, _)| copied.get(partition) != Some(hash));
    if heads.is_empty() {
        return Ok(());
    }
    let rows: Vec<u8> = heads.iter().flat_map(row).collect();
    clickhouse
        .insert("audit_heads", COLUMNS, "RowBinary", "", [Ok::<_, ClickHouseError>(rows.into())])
        .await?;
    copied.extend(heads.into_iter().map(|(partition, _, _, hash, _)| (partition, hash)));
    Ok(())
}

async fn newest(pool: &Pool) -> Result<Vec<Head>, PostgresError> {
    let heads: Vec<Head> = sqlx::query_as(
        "SELECT a.partition, a.position_to, a.r, a.hash, (extract(epoch FROM a.posted_at) * 1000000)::bigint
         FROM partitions p CROSS JOIN LATERAL (
             SELECT * FROM audit WHERE audit.partition = p.partition ORDER BY position_to DESC LIMIT 1) a
         WHERE length(a.hash) = 32",
    )
    .fetch_all(pool)
    .await?;
    Ok(heads)
}

/// A row of `audit_heads`, RowBinary.
fn row((partition, position_to, r, hash, posted_at_us): &Head) -> Vec<u8> {
    let mut row = Vec::with_capacity(60);
    row.extend_from_slice(&partition.to_le_bytes());
    row.extend_from_slice(&position_to.to_le_bytes());
    row.extend_from_slice(&r.to_le_bytes());
    row.extend_from_slice(hash);
    row.extend_from_slice(&posted_at_us.to_le_bytes());
    row
}
