//! Rejected events that were sent again. The rejections themselves are in the archive.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::events::EventPlace;
use crate::{auth::TenantScope, error::ApiError};

/// A row of `reinjections`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct ReinjectionRow {
    pub partition: i32,
    pub position: i64,
    pub index: i32,
    pub receipt: String,
    pub corrected: bool,
    pub reinjected_by: String,
    pub reinjected_at_us: i64,
}

/// What is recorded about an event that was sent again.
pub(crate) struct NewReinjection<'a> {
    pub place: EventPlace,
    pub receipt: &'a str,
    pub corrected: bool,
    pub reinjected_by: &'a str,
}

/// Lets one caller at a time send the tenant's rejected events again, until the transaction ends:
/// the second would send the same again. False where the other one takes longer than a lock is waited
/// for; the transaction is of no use then.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<bool, ApiError> {
    let locked = sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' reinjections', 3))",
    )
    .bind(tenant.id())
    .execute(connection)
    .await;
    match locked {
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
        {
            Ok(false)
        }
        locked => Ok(locked.map(|_| true)?),
    }
}

/// Postgres' code for a lock that was waited for too long.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Which of some rejected events were sent again.
pub(crate) async fn reinjections(
    connection: &mut PgConnection,
    tenant: TenantScope,
    places: &[EventPlace],
) -> Result<BTreeMap<EventPlace, ReinjectionRow>, ApiError> {
    let (partitions, positions, indexes) = columns(places);
    let rows: Vec<ReinjectionRow> = sqlx::query_as(
        "SELECT r.partition, r.position, r.index, r.receipt, r.corrected, r.reinjected_by,
             (extract(epoch FROM r.reinjected_at) * 1000000)::bigint AS reinjected_at_us
         FROM unnest($2::integer[], $3::bigint[], $4::integer[]) AS asked (partition, position, index)
         JOIN reinjections r USING (partition, position, index) WHERE tenant_id = $1",
    )
    .bind(tenant.id())
    .bind(partitions)
    .bind(positions)
    .bind(indexes)
    .fetch_all(connection)
    .await?;
    let place = |row: &ReinjectionRow| EventPlace {
        partition: row.partition.unsigned_abs(),
        position: row.position,
        index: row.index.unsigned_abs(),
    };
    Ok(rows.into_iter().map(|row| (place(&row), row)).collect())
}

/// How many of some rejected events were sent again.
pub(crate) async fn count(
    connection: &mut PgConnection,
    tenant: TenantScope,
    places: &[EventPlace],
) -> Result<i64, ApiError> {
    let (partitions, positions, indexes) = columns(places);
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM unnest($2::integer[], $3::bigint[], $4::integer[]) AS asked (partition, position, index)
         JOIN reinjections USING (partition, position, index) WHERE tenant_id = $1",
    )
    .bind(tenant.id())
    .bind(partitions)
    .bind(positions)
    .bind(indexes)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Records an event that was sent again; the first time stands.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewReinjection<'_>,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO reinjections (tenant_id, partition, position, index, receipt, corrected, reinjected_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id())
    .bind(integer(new.place.partition))
    .bind(new.place.position)
    .bind(integer(new.place.index))
    .bind(new.receipt)
    .bind(new.corrected)
    .bind(new.reinjected_by)
    .execute(connection)
    .await?;
    Ok(())
}

fn columns(places: &[EventPlace]) -> (Vec<i32>, Vec<i64>, Vec<i32>) {
    let partitions = places.iter().map(|place| integer(place.partition)).collect();
    let positions = places.iter().map(|place| place.position).collect();
    (partitions, positions, places.iter().map(|place| integer(place.index)).collect())
}

/// Partitions and indexes stay far below 2³¹.
fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
