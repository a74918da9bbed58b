//! Borders of groups, fixed in Postgres before the insert, so that whoever comes next, or still
//! believes to own the partition, repeats the same groups with the same tokens.

use domain::chain::{Hash, Place};
use runtime::postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::insert::Token;

/// What is fixed of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borders {
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

/// Groups whose borders were fixed together.
#[derive(Clone, Debug)]
pub struct Flush {
    /// The token of their inserts.
    pub token: Token,
    /// Partition, the place before its group, and the group's borders; by partition.
    pub groups: Vec<(u32, Place, Borders)>,
}

/// Fixes the borders of groups of several partitions, all or none. False where borders from one of
/// the positions on are fixed already.
pub(crate) async fn fix(
    pool: &Pool,
    flush: Uuid,
    wanted: &[(u32, Borders)],
) -> Result<bool, PostgresError> {
    let numbers = wanted.iter().map(|(partition, _)| number(*partition));
    let numbers = numbers.collect::<Result<Vec<i32>, _>>()?;
    let column = |field: fn(&Borders) -> i64| -> Vec<i64> {
        wanted.iter().map(|(_, borders)| field(borders)).collect()
    };
    let hashes: Vec<&[u8]> = wanted.iter().map(|(_, borders)| borders.c.as_slice()).collect();
    let done = sqlx::query(
        "INSERT INTO archive_groups (partition, from_x, to_x, from_r, to_r, c, flush)
         SELECT n, fx, tx, fr, tr, c, $7 FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[])
             AS wanted (n, fx, tx, fr, tr, c) ORDER BY n",
    )
    .bind(numbers)
    .bind(column(|borders| borders.from_x))
    .bind(column(|borders| borders.to_x))
    .bind(column(|borders| borders.from_r))
    .bind(column(|borders| borders.to_r))
    .bind(hashes)
    .bind(flush)
    .execute(pool)
    .await;
    match done {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A row of `archive_groups`, and the place before it.
type Row = (i32, i64, i64, i64, i64, Vec<u8>, Option<Uuid>, Option<i64>, Option<Vec<u8>>);

/// The flush that holds the partition's group from `from_x` on, if it is fixed.
pub(crate) async fn fixed(
    pool: &Pool,
    partition: u32,
    from_x: i64,
) -> Result<Option<Flush>, PostgresError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT a.partition, a.from_x, a.to_x, a.from_r, a.to_r, a.c, a.flush, before.to_r, before.c
         FROM archive_groups AS own
         JOIN archive_groups AS a ON a.flush = own.flush OR (a.partition = own.partition AND a.from_x = own.from_x)
         LEFT JOIN archive_groups AS before ON before.partition = a.partition AND before.to_x = a.from_x - 1
         WHERE own.partition = $1 AND own.from_x = $2 ORDER BY a.partition",
    )
    .bind(number(partition)?)
    .bind(from_x)
    .fetch_all(pool)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let token = match first.6 {
        Some(flush) => Token::Flush(flush),
        None => Token::Group { partition, from_x: first.1, to_x: first.2 },
    };
    let groups = rows.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Some(Flush { token, groups }))
}

fn group(row: &Row) -> Result<(u32, Place, Borders), PostgresError> {
    let (partition, from_x, to_x, from_r, to_r, c, _, before_r, before_c) = row;
    let partition = u32::try_from(*partition)
        .map_err(|_| PostgresError::Broken(format!("archive_groups.partition is {partition}")))?;
    let before = match (before_r, before_c) {
        (Some(r), Some(c)) => Place { x: from_x.saturating_sub(1), r: *r, c: hash(c)? },
        _ => Place::EMPTY,
    };
    let borders =
        Borders { from_x: *from_x, to_x: *to_x, from_r: *from_r, to_r: *to_r, c: hash(c)? };
    Ok((partition, before, borders))
}

/// Forgets borders that nobody can ask for: a day old, and not the partition's newest ones, of
/// which one is the place before the next.
pub(crate) async fn prune(pool: &Pool) -> Result<(), PostgresError> {
    sqlx::query(
        "DELETE FROM archive_groups AS a WHERE a.created_at < clock_timestamp() - interval '1 day'
         AND a.to_x < (SELECT max(newest.from_x) - 1 FROM archive_groups AS newest WHERE newest.partition = a.partition)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

fn number(partition: u32) -> Result<i32, PostgresError> {
    i32::try_from(partition).map_err(|_| PostgresError::Broken(format!("partition {partition}")))
}

fn hash(bytes: &[u8]) -> Result<Hash, PostgresError> {
    Hash::try_from(bytes)
        .map_err(|_| PostgresError::Broken("archive_groups.c is no hash".to_owned()))
}
