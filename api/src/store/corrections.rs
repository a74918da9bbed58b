//! Corrections of many events: what is wanted, how far it is, and what it comes to.

use std::collections::BTreeMap;

use runtime::postgres::{Pool, PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auth::TenantScope,
    correcting::{Delta, DeltaKey, Deltas},
    error::ApiError,
    page::Asked,
};

/// Seconds that a process has a correction to itself without saying that it goes on.
const LEASE_S: f64 = 30.0;

/// Before all events.
pub(crate) const NOTHING_SENT: [i64; 3] = [-1; 3];

/// A row of `corrections`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct CorrectionRow {
    pub correction_id: Uuid,
    pub kind: String,
    pub filter: String,
    pub reason: String,
    pub document: Option<String>,
    pub catalog_version: i64,
    pub state: String,
    pub archived_to: Vec<i64>,
    pub cursor: Vec<i64>,
    pub events: i64,
    pub changes: i64,
    pub rejected: i64,
    pub applied: i64,
    pub error: Option<String>,
    pub created_by: String,
    pub created_at_us: i64,
    pub previewed_at_us: Option<i64>,
    pub posting_at_us: Option<i64>,
    pub ended_at_us: Option<i64>,
}

impl CorrectionRow {
    /// Partition, position and index of the last event whose command is in the log.
    pub fn sent_to(&self) -> [i64; 3] {
        self.cursor.get(..3).and_then(|place| place.try_into().ok()).unwrap_or(NOTHING_SENT)
    }

    /// How many events a pass goes through, once they are counted: it stands behind the place in `cursor`.
    /// Between two passes it is what the last one has looked at.
    pub fn events_total(&self) -> Option<i64> {
        match self.cursor.as_slice() {
            [_, _, _, total] => Some(*total).filter(|total| *total >= 0),
            [] => self.previewed_at_us.map(|_| self.events),
            _ => None,
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewCorrection {
    pub id: Uuid,
    pub kind: &'static str,
    pub filter: String,
    pub reason: String,
    pub document: Option<String>,
    pub catalog_version: i64,
    pub archived_to: Vec<i64>,
    pub created_by: String,
}

/// How many corrections of a tenant are being worked on, up to a hundred.
pub(crate) async fn at_work(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<i64, ApiError> {
    let rows: Vec<Uuid> = sqlx::query_scalar(
        "SELECT correction_id FROM corrections WHERE tenant_id = $1 AND state IN ('previewing', 'posting', 'confirming') LIMIT 100",
    )
    .bind(tenant.id())
    .fetch_all(connection)
    .await?;
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

/// Begins a correction with its preview.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewCorrection,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO corrections (tenant_id, correction_id, kind, filter, reason, document, catalog_version, state, archived_to, created_by)
         VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, 'previewing', $8, $9)",
    )
    .bind(tenant.id())
    .bind(new.id)
    .bind(new.kind)
    .bind(&new.filter)
    .bind(&new.reason)
    .bind(&new.document)
    .bind(new.catalog_version)
    .bind(&new.archived_to)
    .bind(&new.created_by)
    .execute(connection)
    .await?;
    Ok(())
}

/// One correction.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
) -> Result<Option<CorrectionRow>, ApiError> {
    Ok(rows(connection, tenant, Some(id), None, 1).await?.into_iter().next())
}

/// Corrections, newest first.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<CorrectionRow>, ApiError> {
    let after = asked.after(0).and_then(|text| text.parse::<Uuid>().ok());
    rows(connection, tenant, None, after, asked.rows()).await
}

async fn rows(
    connection: &mut PgConnection,
    tenant: TenantScope,
    only: Option<Uuid>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<CorrectionRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT correction_id, kind, filter::text AS filter, reason, document, catalog_version, state, archived_to, cursor, events,
             changes, rejected, applied, error, created_by, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
             (extract(epoch FROM previewed_at) * 1000000)::bigint AS previewed_at_us,
             (extract(epoch FROM posting_at) * 1000000)::bigint AS posting_at_us,
             (extract(epoch FROM ended_at) * 1000000)::bigint AS ended_at_us
         FROM corrections WHERE tenant_id = $1 AND ($2::uuid IS NULL OR correction_id = $2) AND ($3::uuid IS NULL OR correction_id < $3)
         ORDER BY correction_id DESC LIMIT $4",
    )
    .bind(tenant.id())
    .bind(only)
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Moves a correction from one state to the next; false where it is not in the first.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
    (from, to): (&str, &str),
) -> Result<bool, ApiError> {
    let changed = sqlx::query(
        "UPDATE corrections SET state = $4, cursor = '{}', lease = NULL, leased_until = NULL,
             previewed_at = CASE WHEN $4 = 'previewed' THEN clock_timestamp() ELSE previewed_at END,
             posting_at = CASE WHEN $4 = 'posting' THEN clock_timestamp() ELSE posting_at END,
             ended_at = CASE WHEN $4 IN ('posted', 'cancelled') THEN clock_timestamp() ELSE ended_at END
         WHERE tenant_id = $1 AND correction_id = $2 AND state = $3",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(from)
    .bind(to)
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Corrections that a process should go on with, of all tenants, oldest first.
pub(crate) async fn waiting(reader: &Pool) -> Result<Vec<(Uuid, Uuid)>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, correction_id FROM corrections
         WHERE state IN ('previewing', 'posting', 'confirming') AND coalesce(leased_until < clock_timestamp(), true)
         ORDER BY created_at LIMIT 10",
    )
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// Takes a correction for this process, if it is nobody's.
pub(crate) async fn lease(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
    lease: Uuid,
) -> Result<Option<CorrectionRow>, ApiError> {
    let leased = sqlx::query(
        "UPDATE corrections SET lease = $3, leased_until = clock_timestamp() + make_interval(secs => $4)
         WHERE tenant_id = $1 AND correction_id = $2 AND state IN ('previewing', 'posting', 'confirming')
             AND coalesce(leased_until < clock_timestamp(), true)",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(lease)
    .bind(LEASE_S)
    .execute(&mut *connection)
    .await?;
    if leased.rows_affected() == 0 { Ok(None) } else { find(connection, tenant, id).await }
}

/// Tenants that have, or have had, unpriced usage, with the version of their newest catalog, which none of this
/// task's corrections has seen.
pub(crate) async fn published_over_unpriced(
    reader: &Pool,
    task: &str,
) -> Result<Vec<(Uuid, i64)>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, catalog_version FROM (
             SELECT tenant_id, (SELECT v.catalog_version FROM catalog_versions v WHERE v.tenant_id = counts.tenant_id
                 ORDER BY v.catalog_version DESC LIMIT 1) AS catalog_version
             FROM (SELECT DISTINCT tenant_id FROM partition_counts WHERE unpriced > 0) AS counts
         ) AS newest
         WHERE catalog_version IS NOT NULL AND NOT EXISTS (SELECT FROM corrections c WHERE c.tenant_id = newest.tenant_id AND c.created_by = $1
             AND c.catalog_version >= newest.catalog_version)",
    )
    .bind(task)
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// The newest catalog that a correction of this task was previewed by; 0 for none.
pub(crate) async fn newest_of(
    connection: &mut PgConnection,
    tenant: TenantScope,
    task: &str,
) -> Result<i64, ApiError> {
    let rows: Vec<i64> = sqlx::query_scalar(
        "SELECT catalog_version FROM corrections WHERE tenant_id = $1 AND created_by = $2 ORDER BY catalog_version DESC LIMIT 1",
    )
    .bind(tenant.id())
    .bind(task)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().next().unwrap_or(0))
}

/// Previews of this task that show nothing or are of an older catalog, which is the third; and the others, if wanted.
pub(crate) async fn to_decide(
    reader: &Pool,
    task: &str,
    others: bool,
) -> Result<Vec<(Uuid, Uuid, bool)>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, correction_id, is_over FROM (
             SELECT tenant_id, correction_id, changes = 0 OR EXISTS (SELECT FROM catalog_versions v
                 WHERE v.tenant_id = c.tenant_id AND v.catalog_version > c.catalog_version) AS is_over
             FROM corrections c WHERE created_by = $1 AND state = 'previewed'
         ) AS previewed
         WHERE is_over OR $2 LIMIT 100",
    )
    .bind(task)
    .bind(others)
    .fetch_all(reader)
    .await?;
    Ok(rows)
}

/// How far a correction is.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// As in [`CorrectionRow::sent_to`].
    pub sent_to: [i64; 3],
    /// As in [`CorrectionRow::events_total`].
    pub total: Option<i64>,
    pub events: i64,
    pub changes: i64,
    pub rejected: i64,
    pub applied: i64,
}

/// Notes how far a correction is and that its process goes on; false where it is another's by now.
pub(crate) async fn note(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, lease): (Uuid, Uuid),
    progress: &Progress,
) -> Result<bool, ApiError> {
    let [partition, position, index] = progress.sent_to;
    let cursor = vec![partition, position, index, progress.total.unwrap_or(-1)];
    let changed = sqlx::query(
        "UPDATE corrections SET cursor = $4, events = $5, changes = $6, rejected = $7, applied = $8,
             leased_until = clock_timestamp() + make_interval(secs => $9)
         WHERE tenant_id = $1 AND correction_id = $2 AND lease = $3",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(lease)
    .bind(cursor)
    .bind(progress.events)
    .bind(progress.changes)
    .bind(progress.rejected)
    .bind(progress.applied)
    .bind(LEASE_S)
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Gives a correction back, to be gone on with later.
pub(crate) async fn give_back(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, lease): (Uuid, Uuid),
    after_s: f64,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE corrections SET leased_until = clock_timestamp() + make_interval(secs => $4)
         WHERE tenant_id = $1 AND correction_id = $2 AND lease = $3",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(lease)
    .bind(after_s)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends a correction that cannot be gone on with.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, lease): (Uuid, Uuid),
    error: &str,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE corrections SET state = 'failed', error = $4, ended_at = clock_timestamp()
         WHERE tenant_id = $1 AND correction_id = $2 AND lease = $3",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(lease)
    .bind(error)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a block to the run log.
pub(crate) async fn insert_block(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
    (partition, position, commands): (u32, i64, usize),
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO correction_blocks (tenant_id, correction_id, partition, position, commands) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(i32::try_from(partition).unwrap_or(i32::MAX))
    .bind(position)
    .bind(i32::try_from(commands).unwrap_or(i32::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds the blocks, by partition and position with their commands, that are in the log and not in the run log:
/// of a process that ended in between.
pub(crate) async fn complete_blocks(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
    places: &BTreeMap<(u32, i64), i32>,
) -> Result<(), ApiError> {
    let partition = |(partition, _): &(u32, i64)| i32::try_from(*partition).unwrap_or(i32::MAX);
    sqlx::query(
        "INSERT INTO correction_blocks (tenant_id, correction_id, partition, position, commands)
         SELECT $1, $2, partition, position, commands FROM UNNEST($3::integer[], $4::bigint[], $5::integer[])
             AS applied (partition, position, commands)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(places.keys().map(partition).collect::<Vec<_>>())
    .bind(places.keys().map(|(_, position)| *position).collect::<Vec<_>>())
    .bind(places.values().copied().collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A block of the run log.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct BlockRow {
    pub partition: i32,
    pub position: i64,
    pub commands: i32,
    pub appended_at_us: i64,
}

/// The run log in the order of the log's places.
pub(crate) async fn blocks(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
    asked: Option<&Asked>,
) -> Result<Vec<BlockRow>, ApiError> {
    let after = |place| asked.and_then(|asked| asked.after_number(place).ok().flatten());
    let rows = sqlx::query_as(
        "SELECT partition, position, commands, (extract(epoch FROM appended_at) * 1000000)::bigint AS appended_at_us
         FROM correction_blocks WHERE tenant_id = $1 AND correction_id = $2
             AND ($3::bigint IS NULL OR (partition::bigint, position) > ($3, $4))
         ORDER BY partition, position LIMIT $5",
    )
    .bind(tenant.id())
    .bind(id)
    .bind::<Option<i64>>(after(0))
    .bind::<Option<i64>>(after(1))
    .bind(asked.map_or(i64::MAX, Asked::rows))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

fn decimal(raw: i128) -> String {
    domain::money::Amount::of_sum(raw).to_string()
}

/// Takes out what a correction changes.
pub(crate) async fn clear_deltas(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, posted): (Uuid, bool),
) -> Result<(), ApiError> {
    sqlx::query(
        "DELETE FROM correction_deltas WHERE tenant_id = $1 AND correction_id = $2 AND posted = $3",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(posted)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what a correction changes.
pub(crate) async fn put_deltas(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, posted): (Uuid, bool),
    deltas: &Deltas,
) -> Result<(), ApiError> {
    let all: Vec<(&DeltaKey, &Delta)> = deltas.0.iter().collect();
    let texts =
        |of: fn(&DeltaKey) -> &String| all.iter().map(|(key, _)| of(key)).collect::<Vec<_>>();
    let numbers = |of: fn(&Delta) -> i128| {
        all.iter().map(|(_, delta)| decimal(of(delta))).collect::<Vec<_>>()
    };
    sqlx::query(
        "INSERT INTO correction_deltas (tenant_id, correction_id, posted, team, meter, currency, cost_currency, quantity, charge, cost)
         SELECT $1, $2, $3, team, meter, currency, cost_currency, quantity::numeric, charge::numeric, cost::numeric
         FROM UNNEST($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
             AS new (team, meter, currency, cost_currency, quantity, charge, cost)",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(posted)
    .bind(texts(|key| &key.team))
    .bind(texts(|key| &key.meter))
    .bind(texts(|key| &key.currency))
    .bind(texts(|key| &key.cost_currency))
    .bind(numbers(|delta| delta.quantity))
    .bind(numbers(|delta| delta.charge))
    .bind(numbers(|delta| delta.cost))
    .execute(connection)
    .await?;
    Ok(())
}

/// A row of `correction_deltas`, or a sum of some.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct DeltaRow {
    pub team: String,
    pub meter: String,
    pub currency: String,
    pub cost_currency: String,
    pub quantity: String,
    pub charge: String,
    pub cost: String,
}

/// What a correction changes, by team, meter and currencies.
pub(crate) async fn deltas(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, posted): (Uuid, bool),
    asked: &Asked,
) -> Result<Vec<DeltaRow>, ApiError> {
    let after = |place| asked.after(place).map(str::to_owned);
    let rows = sqlx::query_as(
        "SELECT team, meter, currency, cost_currency, trim_scale(quantity)::text AS quantity, trim_scale(charge)::text AS charge,
             trim_scale(cost)::text AS cost
         FROM correction_deltas WHERE tenant_id = $1 AND correction_id = $2 AND posted = $3
             AND ($4::text IS NULL OR (team, meter, currency, cost_currency) > ($4, $5, $6, $7))
         ORDER BY team, meter, currency, cost_currency LIMIT $8",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(posted)
    .bind(after(0))
    .bind(after(1))
    .bind(after(2))
    .bind(after(3))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A sum of differences in a currency.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct TotalRow {
    pub currency: String,
    pub charge: String,
    pub cost_currency: String,
    pub cost: String,
    pub teams: i64,
}

/// What a correction changes, by currencies.
pub(crate) async fn totals(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (id, posted): (Uuid, bool),
) -> Result<Vec<TotalRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT currency, cost_currency, trim_scale(sum(charge))::text AS charge, trim_scale(sum(cost))::text AS cost,
             count(DISTINCT team) AS teams
         FROM correction_deltas WHERE tenant_id = $1 AND correction_id = $2 AND posted = $3
         GROUP BY currency, cost_currency ORDER BY currency, cost_currency",
    )
    .bind(tenant.id())
    .bind(id)
    .bind(posted)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
