//! Twins: events with one identity that all took effect.

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::usage::{Statement, read_rows};
use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A place in a partition: position and index.
pub(crate) type Place = (i64, u32);

/// A row of `twins`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct TwinRow {
    pub partition: i32,
    pub position: i64,
    pub index: i32,
    pub first_position: i64,
    pub first_index: i32,
    pub found_at_us: i64,
}

/// Events of one identity in the order of the log; there are at least two.
#[derive(Clone, Debug)]
pub(crate) struct Twins {
    pub tenant_id: Uuid,
    pub places: Vec<Place>,
}

/// Identities that took effect more than once in a partition up to the position `to`, the last time behind `after`.
pub(crate) async fn found(
    clickhouse: &ClickHouse,
    partition: u32,
    (after, to): (i64, i64),
) -> Result<Vec<Twins>, ApiError> {
    #[derive(Deserialize)]
    struct Found {
        tenant: Uuid,
        places: Vec<String>,
    }
    let mut statement = Statement::default();
    let partition = statement.bind("UInt32", partition.to_string());
    let [after, to] = [after, to].map(|number| statement.bind("Int64", number.to_string()));
    let own = format!("partition = {partition} AND rating_run = 0 AND position <= {to}");
    statement.sql = format!(
        "SELECT tenant_id AS tenant,
             arrayMap(place -> concat(toString(place.1), ':', toString(place.2)), arraySort(groupUniqArray((position, `index`)))) AS places
         FROM usage_events
         WHERE {own} AND identity IN (SELECT identity FROM usage_events WHERE {own} AND position > {after})
         GROUP BY tenant_id, identity HAVING length(places) > 1
         SETTINGS max_execution_time = 600"
    );
    let unread = || ApiError::Internal("a place in the archive cannot be read".into());
    let place = |text: String| {
        let (position, index) = text.split_once(':')?;
        Some((position.parse().ok()?, index.parse().ok()?))
    };
    let rows: Vec<Found> = read_rows(statement.rows(clickhouse).await?)?;
    let read = |row: Found| {
        let places = row.places.into_iter().map(place).collect::<Option<Vec<Place>>>();
        Ok(Twins { tenant_id: row.tenant, places: places.ok_or_else(unread)? })
    };
    rows.into_iter().map(read).collect()
}

/// Up to where a partition was searched, for the process that may search it now; none may within `every_s` seconds.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    partition: i32,
    every_s: f64,
) -> Result<Option<i64>, ApiError> {
    let position = sqlx::query_scalar(
        "INSERT INTO swept_positions AS s (partition, swept_at) VALUES ($1, clock_timestamp())
         ON CONFLICT (partition) DO UPDATE SET swept_at = clock_timestamp()
         WHERE s.swept_at + make_interval(secs => $2) <= clock_timestamp() RETURNING position",
    )
    .bind(partition)
    .bind(every_s)
    .fetch_optional(connection)
    .await?;
    Ok(position)
}

/// Notes up to where a partition was searched; never back.
pub(crate) async fn note_swept(
    connection: &mut PgConnection,
    partition: i32,
    position: i64,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE swept_positions SET position = greatest(position, $2) WHERE partition = $1",
    )
    .bind(partition)
    .bind(position)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes a twin, and the first of its identity, unless it is noted already.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    partition: i32,
    (twin, first): (Place, Place),
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO twins (tenant_id, partition, position, index, first_position, first_index) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id())
    .bind(partition)
    .bind(twin.0)
    .bind(i64::from(twin.1))
    .bind(first.0)
    .bind(i64::from(first.1))
    .execute(connection)
    .await?;
    Ok(())
}

/// Twins by their place.
pub(crate) async fn rows(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<TwinRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT partition, position, index, first_position, first_index, (extract(epoch FROM found_at) * 1000000)::bigint AS found_at_us
         FROM twins WHERE tenant_id = $1
             AND ($2::bigint IS NULL OR (partition, position, index) > ($2::bigint, $3::bigint, $4::bigint))
         ORDER BY partition, position, index LIMIT $5",
    )
    .bind(tenant.id())
    .bind(asked.after_number(0)?)
    .bind(asked.after_number(1)?)
    .bind(asked.after_number(2)?)
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
