//! How far the slow lane of a partition is, as the role `weir_lane`.

use domain::chain::{Hash, Place};
use runtime::postgres::{Pool, PostgresError, transaction};
use uuid::Uuid;

use crate::{queue::Move, verdict::Cursor};

type Row = (i64, i64, Vec<u8>, i64);

/// Where the lane is; a lane that was never here begins at the beginning.
pub async fn read(pool: &Pool, partition: u32) -> Result<Cursor, PostgresError> {
    let row: Option<Row> =
        sqlx::query_as("SELECT x, r, c, answered FROM late_places WHERE partition = $1")
            .bind(i64::from(partition))
            .fetch_optional(pool)
            .await?;
    if let Some(row) = row {
        return from_row(row);
    }
    sqlx::query(
        "INSERT INTO late_places (partition, x, r, c, answered) VALUES ($1, $2, $3, $4, 0) ON CONFLICT (partition) DO NOTHING",
    )
    .bind(i64::from(partition))
    .bind(Place::EMPTY.x)
    .bind(Place::EMPTY.r)
    .bind(Place::EMPTY.c.as_slice())
    .execute(pool)
    .await?;
    Ok(Cursor::EMPTY)
}

fn from_row((x, r, c, answered): Row) -> Result<Cursor, PostgresError> {
    let c: Hash =
        c.try_into().map_err(|_| PostgresError::Broken("the column c has not 32 bytes".into()))?;
    let index = u32::try_from(answered)
        .map_err(|_| PostgresError::Broken("late_places.answered is no count".into()))?;
    Ok(Cursor { place: Place { x, r, c }, index })
}

/// Moves the lane. False: another lane has
/// moved it, and nothing was changed.
pub async fn advance(
    pool: &Pool,
    partition: u32,
    Move { before, after, answers }: &Move,
) -> Result<bool, PostgresError> {
    let (before, after) = (*before, *after);
    let tenants: Vec<Uuid> = answers.iter().map(|(tenant, _)| *tenant).collect();
    let counts: Vec<i64> = answers.iter().map(|(_, count)| *count).collect();
    transaction(pool, |mut transaction| {
        let (tenants, counts) = (tenants.clone(), counts.clone());
        async move {
            let moved = sqlx::query(
                "UPDATE late_places SET x = $2, r = $3, c = $4, answered = $5
                 WHERE partition = $1 AND x = $6 AND r = $7 AND c = $8 AND answered = $9",
            )
            .bind(i64::from(partition))
            .bind(after.place.x)
            .bind(after.place.r)
            .bind(after.place.c.as_slice())
            .bind(i64::from(after.index))
            .bind(before.place.x)
            .bind(before.place.r)
            .bind(before.place.c.as_slice())
            .bind(i64::from(before.index))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if moved == 0 {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO late_answers AS old (tenant_id, partition, answered)
                 SELECT tenant_id, $1, answered FROM UNNEST($2::uuid[], $3::bigint[]) AS new (tenant_id, answered)
                 ON CONFLICT (tenant_id, partition) DO UPDATE SET answered = old.answered + excluded.answered",
            )
            .bind(i64::from(partition))
            .bind(&tenants)
            .bind(&counts)
            .execute(&mut *transaction)
            .await?;
            Ok(true)
        }
    })
    .await
}
