//! Where the ledger stands in a partition, and where an older audit row stood.

use domain::chain::{Hash, Place};
use runtime::postgres::{Pool, PostgresError};

/// The ledger's place, and what is known of everything up to it.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// `(X, R, C)`.
    pub place: Place,
    /// The catalog version after `X`.
    pub catalog_version: u64,
    /// Highest append time of any block up to `X`, microseconds since 1970.
    pub append_time_us: i64,
}

type Row = (i64, i64, Vec<u8>);

/// The ledger's place in a partition.
pub async fn posted(pool: &Pool, partition: u32) -> Result<Posted, PostgresError> {
    type Row = (i64, i64, Vec<u8>, i64, i64);
    let row: Row = sqlx::query_as(
        "SELECT x, r, c, catalog_version, (extract(epoch FROM append_time) * 1000000)::bigint FROM partitions WHERE partition = $1",
    )
    .bind(i64::from(partition))
    .fetch_one(pool)
    .await?;
    let (x, r, c, catalog_version, append_time_us) = row;
    let catalog_version = u64::try_from(catalog_version).unwrap_or(0);
    Ok(Posted { place: place((x, r, c))?, catalog_version, append_time_us })
}

/// The oldest audited place whose next batch stands at or after `first` of `[rated]`; none where
/// nothing has been posted.
pub async fn audited_from(
    pool: &Pool,
    partition: u32,
    first: i64,
) -> Result<Option<Place>, PostgresError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT position_to, r, c FROM audit WHERE partition = $1 AND r + 1 >= $2 ORDER BY position_to LIMIT 1",
    )
    .bind(i64::from(partition))
    .bind(first)
    .fetch_optional(pool)
    .await?;
    row.map(place).transpose()
}

/// The newest audited place below `position` whose next batch stands at or after `first` of
/// `[rated]`; none where there is no such place.
pub async fn audited_before(
    pool: &Pool,
    partition: u32,
    position: i64,
    first: i64,
) -> Result<Option<Place>, PostgresError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT position_to, r, c FROM audit WHERE partition = $1 AND position_to < $2 AND r + 1 >= $3
         ORDER BY position_to DESC LIMIT 1",
    )
    .bind(i64::from(partition))
    .bind(position)
    .bind(first)
    .fetch_optional(pool)
    .await?;
    row.map(place).transpose()
}

fn place((x, r, c): Row) -> Result<Place, PostgresError> {
    let c: Hash =
        c.try_into().map_err(|_| PostgresError::Broken("the column c has not 32 bytes".into()))?;
    Ok(Place { x, r, c })
}
