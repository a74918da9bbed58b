//! Borders of groups, fixed in Postgres before the insert, so that whoever comes next, or still
//! believes to own the partition, repeats the same groups with the same tokens.

use domain::chain::Hash;
use runtime::postgres::{Pool, PostgresError};

/// What is fixed of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Borders {
    /// First position of `[usage]`.
    pub from_x: i64,
    /// Last position of `[usage]`.
    pub to_x: i64,
    /// Where the first batch stands in `[rated]`.
    pub from_r: i64,
    /// Where the last batch stands in `[rated]`.
    pub to_r: i64,
    /// The hash of the last batch.
    pub c: Hash,
}

/// Fixes the borders of the group from `wanted.from_x`, unless they are fixed already. Answers
/// what holds.
pub(crate) async fn fix(
    pool: &Pool,
    partition: u32,
    wanted: &Borders,
) -> Result<Borders, PostgresError> {
    let number = i32::try_from(partition)
        .map_err(|_| PostgresError::Broken(format!("partition {partition}")))?;
    sqlx::query(
        "INSERT INTO archive_groups (partition, from_x, to_x, from_r, to_r, c)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (partition, from_x) DO NOTHING",
    )
    .bind(number)
    .bind(wanted.from_x)
    .bind(wanted.to_x)
    .bind(wanted.from_r)
    .bind(wanted.to_r)
    .bind(wanted.c.as_slice())
    .execute(pool)
    .await?;
    read(pool, number, wanted.from_x).await
}

async fn read(pool: &Pool, partition: i32, from_x: i64) -> Result<Borders, PostgresError> {
    let row: (i64, i64, i64, Vec<u8>) = sqlx::query_as(
        "SELECT to_x, from_r, to_r, c FROM archive_groups WHERE partition = $1 AND from_x = $2",
    )
    .bind(partition)
    .bind(from_x)
    .fetch_one(pool)
    .await?;
    let (to_x, from_r, to_r, c) = row;
    let c = Hash::try_from(c)
        .map_err(|_| PostgresError::Broken("archive_groups.c is no hash".to_owned()))?;
    Ok(Borders { from_x, to_x, from_r, to_r, c })
}
