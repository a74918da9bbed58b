//! Periods of meters that do not add up: which there are, and which are closed.

use domain::{event::IdentityKey, period::Period};
use runtime::postgres::{Pool, PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// Seconds that a process has a period to itself.
const LEASE_S: f64 = 60.0;

/// A row of `meter_periods`; times in microseconds.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct MeterPeriodRow {
    pub zone: String,
    pub from_us: i64,
    pub to_us: i64,
    pub state: String,
    pub closings: i32,
    pub quantities: i64,
    pub error: Option<String>,
    pub closed_at_us: Option<i64>,
}

/// A period to be closed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct OpenPeriod {
    pub tenant_id: Uuid,
    pub meter: String,
    /// Of teams that have this zone of their own; empty for the others.
    pub zone: String,
    pub from_us: i64,
    pub to_us: i64,
}

impl OpenPeriod {
    /// Which it is.
    pub fn own(&self) -> OwnPeriod<'_> {
        (&self.meter, &self.zone, self.from_us)
    }
}

/// Which period: meter, zone, and when it begins.
pub(crate) type OwnPeriod<'p> = (&'p str, &'p str, i64);

/// The installation's key of identities.
pub(crate) async fn identity_key(reader: &Pool) -> Result<IdentityKey, ApiError> {
    let key: Vec<u8> = sqlx::query_scalar("SELECT identity_key FROM installation")
        .fetch_one(reader)
        .await
        .map_err(PostgresError::from)?;
    let key =
        key.try_into().map_err(|_| ApiError::Internal("the identity key is damaged".into()))?;
    Ok(IdentityKey(key))
}

/// Up to where the archive was searched, by partition.
pub(crate) async fn searched(reader: &Pool) -> Result<Vec<(i32, i64)>, PostgresError> {
    let rows = sqlx::query_as("SELECT partition, position FROM observed_positions")
        .fetch_all(reader)
        .await?;
    Ok(rows)
}

/// Notes up to where the archive was searched; never back.
pub(crate) async fn note_searched(
    connection: &mut PgConnection,
    partition: i32,
    position: i64,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO observed_positions AS o (partition, position) VALUES ($1, $2)
         ON CONFLICT (partition) DO UPDATE SET position = greatest(o.position, excluded.position)",
    )
    .bind(partition)
    .bind(position)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether a catalog that was published after the version `after`, or was the last up to then, has meters that do not
/// add up; and the newest version.
pub(crate) async fn any_since(reader: &Pool, after: i64) -> Result<(bool, i64), PostgresError> {
    // As documents are stored: without spaces.
    let rows = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM catalog_versions WHERE catalog_version > $1
               AND document ~ '\"aggregation\":\"(max|min|average|latest|unique|time_weighted)\"'),
             (SELECT coalesce(max(catalog_version), 0) FROM catalog_versions)",
    )
    .bind(after)
    .fetch_one(reader)
    .await?;
    Ok(rows)
}

/// Opens the periods that something was archived of, where they were closed, and all behind them with `and_later`;
/// answers the zones of those that there are at that time.
pub(crate) async fn open_at(
    connection: &mut PgConnection,
    tenant: TenantScope,
    meter: &str,
    time_us: i64,
    and_later: bool,
) -> Result<Vec<String>, ApiError> {
    let zones = sqlx::query_scalar(
        "WITH found AS (
             SELECT zone FROM meter_periods
             WHERE tenant_id = $1 AND meter = $2 AND period_from <= (to_timestamp(0) + $3::bigint * interval '1 microsecond')
                 AND period_to > (to_timestamp(0) + $3::bigint * interval '1 microsecond')),
         opened AS (
             UPDATE meter_periods SET state = 'open', error = NULL, lease = NULL, leased_until = NULL
             WHERE tenant_id = $1 AND meter = $2 AND period_to > (to_timestamp(0) + $3::bigint * interval '1 microsecond')
                 AND ($4 OR period_from <= (to_timestamp(0) + $3::bigint * interval '1 microsecond'))
                 AND (state = 'closed' OR lease IS NOT NULL))
         SELECT zone FROM found",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(time_us)
    .bind(and_later)
    .fetch_all(connection)
    .await?;
    Ok(zones)
}

/// Adds a period of a zone, cut where it would overlap with others of it.
pub(crate) async fn add(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (meter, zone): (&str, &str),
    (period, time_us): (&Period, i64),
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO meter_periods (tenant_id, meter, zone, period_from, period_to)
         SELECT $1, $2, $6, greatest(p.from_at, max(m.period_to) FILTER (WHERE m.period_to <= p.at)),
             least(p.to_at, min(m.period_from) FILTER (WHERE m.period_from > p.at))
         FROM (SELECT (to_timestamp(0) + $3::bigint * interval '1 microsecond') AS from_at, (to_timestamp(0) + $4::bigint * interval '1 microsecond') AS to_at,
                   (to_timestamp(0) + $5::bigint * interval '1 microsecond') AS at) p
         LEFT JOIN meter_periods m ON m.tenant_id = $1 AND m.meter = $2 AND m.zone = $6
         GROUP BY p.from_at, p.to_at
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(period.start_us)
    .bind(period.end_us)
    .bind(time_us)
    .bind(zone)
    .execute(connection)
    .await?;
    Ok(())
}

/// Periods that were over at a time and are open, of all tenants.
pub(crate) async fn due(reader: &Pool, over_us: i64) -> Result<Vec<OpenPeriod>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, meter, zone, (extract(epoch FROM period_from) * 1000000)::bigint AS from_us,
             (extract(epoch FROM period_to) * 1000000)::bigint AS to_us
         FROM meter_periods
         WHERE state = 'open' AND period_to <= (to_timestamp(0) + $1::bigint * interval '1 microsecond')
             AND coalesce(leased_until < clock_timestamp(), true)
         ORDER BY period_to, tenant_id, meter, zone LIMIT 100",
    )
    .bind(over_us)
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// Takes a period for this process, if it is nobody's.
pub(crate) async fn lease(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (meter, zone, from_us): OwnPeriod<'_>,
    lease: Uuid,
) -> Result<bool, ApiError> {
    let leased = sqlx::query(
        "UPDATE meter_periods SET lease = $4, leased_until = clock_timestamp() + make_interval(secs => $5)
         WHERE tenant_id = $1 AND meter = $2 AND zone = $6 AND period_from = (to_timestamp(0) + $3::bigint * interval '1 microsecond') AND state = 'open'
             AND coalesce(leased_until < clock_timestamp(), true)",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(from_us)
    .bind(lease)
    .bind(LEASE_S)
    .bind(zone)
    .execute(connection)
    .await?;
    Ok(leased.rows_affected() == 1)
}

/// Keeps a period for this process, and counts a close where it has `said` something; false where something was
/// archived of it meanwhile, or another process has it.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (meter, zone, from_us): OwnPeriod<'_>,
    (lease, said): (Uuid, bool),
) -> Result<bool, ApiError> {
    let kept = sqlx::query(
        "UPDATE meter_periods SET leased_until = clock_timestamp() + make_interval(secs => $5), closings = closings + $6
         WHERE tenant_id = $1 AND meter = $2 AND zone = $7 AND period_from = (to_timestamp(0) + $3::bigint * interval '1 microsecond') AND lease = $4",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(from_us)
    .bind(lease)
    .bind(LEASE_S)
    .bind(i32::from(said))
    .bind(zone)
    .execute(connection)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Closes a period; false where something was archived of it meanwhile, or another process has it.
pub(crate) async fn close(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (meter, zone, from_us): OwnPeriod<'_>,
    lease: Uuid,
    quantities: i64,
) -> Result<bool, ApiError> {
    let closed = sqlx::query(
        "UPDATE meter_periods SET state = 'closed', closings = greatest(closings, 1), quantities = $5, error = NULL,
             closed_at = clock_timestamp(), lease = NULL, leased_until = NULL
         WHERE tenant_id = $1 AND meter = $2 AND zone = $6 AND period_from = (to_timestamp(0) + $3::bigint * interval '1 microsecond') AND lease = $4",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(from_us)
    .bind(lease)
    .bind(quantities)
    .bind(zone)
    .execute(connection)
    .await?;
    Ok(closed.rows_affected() == 1)
}

/// Gives a period back, to be gone on with later; with what is wrong, if anything is.
pub(crate) async fn give_back(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (meter, zone, from_us): OwnPeriod<'_>,
    lease: Uuid,
    (after_s, error): (f64, Option<&str>),
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE meter_periods SET leased_until = clock_timestamp() + make_interval(secs => $5), error = $6
         WHERE tenant_id = $1 AND meter = $2 AND zone = $7 AND period_from = (to_timestamp(0) + $3::bigint * interval '1 microsecond') AND lease = $4",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(from_us)
    .bind(lease)
    .bind(after_s)
    .bind(error)
    .bind(zone)
    .execute(connection)
    .await?;
    Ok(())
}

/// Periods of a meter, newest first.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    meter: &str,
    asked: &Asked,
) -> Result<Vec<MeterPeriodRow>, ApiError> {
    let before = asked.after(0).and_then(|text| text.parse::<i64>().ok());
    let rows = sqlx::query_as(
        "SELECT zone, (extract(epoch FROM period_from) * 1000000)::bigint AS from_us, (extract(epoch FROM period_to) * 1000000)::bigint AS to_us,
             state, closings, quantities, error, (extract(epoch FROM closed_at) * 1000000)::bigint AS closed_at_us
         FROM meter_periods
         WHERE tenant_id = $1 AND meter = $2 AND ($3::bigint IS NULL
             OR (period_from, zone) < ((to_timestamp(0) + $3::bigint * interval '1 microsecond'), $4))
         ORDER BY period_from DESC, zone DESC LIMIT $5",
    )
    .bind(tenant.id())
    .bind(meter)
    .bind(before)
    .bind(asked.after(1))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
