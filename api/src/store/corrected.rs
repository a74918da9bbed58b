//! Events of the archive with what they were corrected to: what a correction begins with.

use std::collections::BTreeMap;

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;

use super::{
    events::{EFFECTIVE, EventPlace, LineRow, number},
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Which events. Times are those at which they were rated first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub team: Option<String>,
    pub user: Option<String>,
    pub event_type: Option<String>,
    pub source: Option<String>,
    pub app: Option<String>,
    pub from_us: Option<i64>,
    pub to_us: Option<i64>,
    pub accepted_from_us: Option<i64>,
    pub accepted_to_us: Option<i64>,
}

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub partition: u32,
    /// First position and index, both exclusive.
    pub after: (i64, i64),
    /// Last position.
    pub to: i64,
}

/// A row of `usage_events`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredEvent {
    pub partition: u32,
    #[serde(deserialize_with = "number")]
    pub position: i64,
    pub index: u32,
    #[serde(deserialize_with = "number")]
    pub order_us: i64,
    pub has_client_time: bool,
    pub event_id: String,
    pub source: String,
    pub event_type: String,
    pub subject: String,
    pub team: String,
    pub user: String,
    pub app: String,
    pub key: String,
    pub feature: String,
    pub outcome: String,
    #[serde(deserialize_with = "number")]
    pub catalog_version: i64,
    pub content: String,
    pub raw: String,
    pub rating_run: u32,
    pub sign: i8,
    #[serde(deserialize_with = "number")]
    pub of_position: i64,
    pub of_index: u32,
    pub lines: Vec<LineRow>,
}

impl StoredEvent {
    /// Its place.
    pub fn place(&self) -> EventPlace {
        EventPlace { partition: self.partition, position: self.position, index: self.index }
    }
}

/// An event as it was rated first, and its corrections.
#[derive(Debug)]
pub(crate) struct Corrected {
    pub first: StoredEvent,
    /// Its corrections in their order.
    pub corrections: Vec<Applied>,
}

/// A correction of an event.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// Its number.
    pub run: u32,
    /// Position of its command.
    pub position: i64,
    /// The event as it is since then; none where it was voided.
    pub event: Option<StoredEvent>,
}

impl Corrected {
    /// The event as it is; `None` where it is void.
    pub fn effective(&self) -> Option<&StoredEvent> {
        match self.newest() {
            None => Some(&self.first),
            Some(newest) => newest.event.as_ref(),
        }
    }

    /// The newest correction.
    pub fn newest(&self) -> Option<&Applied> {
        self.corrections.last()
    }

    /// The event as it was when the archive had no more than this.
    pub fn as_of(&self, archived: i64) -> Corrected {
        let earlier = self.corrections.iter().filter(|one| one.position <= archived);
        Corrected { first: self.first.clone(), corrections: earlier.cloned().collect() }
    }

    /// How often it was corrected.
    pub fn run(&self) -> u32 {
        self.newest().map_or(0, |newest| newest.run)
    }
}

const COLUMNS: &str = "e.partition AS partition, e.position AS position, e.`index` AS `index`, e.has_client_time AS has_client_time,
    toString(e.event_id) AS event_id, toString(e.source) AS source, toString(e.type) AS event_type, toString(e.subject) AS subject,
    toString(e.team) AS team, toString(e.user) AS user, toString(e.app) AS app, toString(e.key) AS key, toString(e.feature) AS feature,
    toString(e.outcome) AS outcome, toInt64(e.catalog_version) AS catalog_version, toString(e.content_hash) AS content, e.raw AS raw";

const SETTINGS: &str = "SETTINGS max_execution_time = 60, output_format_json_named_tuples_as_objects = 1, prefer_column_name_to_alias = 1";

/// Conditions on an event as it was rated first.
fn conditions(statement: &mut Statement, tenant: TenantScope, selection: &Selection) -> String {
    let mut all = vec![
        format!("e.tenant_id = {}", statement.bind("UUID", tenant.id().to_string())),
        "e.rating_run = 0".to_owned(),
    ];
    let equal = [
        ("e.team", &selection.team),
        ("e.user", &selection.user),
        ("e.type", &selection.event_type),
        ("e.source", &selection.source),
        ("e.app", &selection.app),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            all.push(format!("{column} = {}", statement.bind("String", value)));
        }
    }
    let times = [
        ("e.time >=", selection.from_us),
        ("e.time <", selection.to_us),
        ("e.append_time >=", selection.accepted_from_us),
        ("e.append_time <", selection.accepted_to_us),
    ];
    for (compared, time_us) in times {
        if let Some(time_us) = time_us {
            let bound = statement.bind("Int64", time_us.to_string());
            all.push(format!("{compared} fromUnixTimestamp64Micro({bound}, 'UTC')"));
        }
    }
    all.join(" AND ")
}

/// How many events there are in a partition up to a position, and where the first and the last is.
pub(crate) async fn extent(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    partition: u32,
    to: i64,
) -> Result<Option<(u64, i64, i64)>, ApiError> {
    #[derive(Deserialize)]
    struct Extent {
        #[serde(deserialize_with = "number")]
        events: i64,
        #[serde(deserialize_with = "number")]
        first: i64,
        #[serde(deserialize_with = "number")]
        last: i64,
    }
    let mut statement = Statement::default();
    let filter = conditions(&mut statement, tenant, selection);
    let (partition, to) =
        (statement.bind("UInt32", partition.to_string()), statement.bind("Int64", to.to_string()));
    statement.sql = format!(
        "SELECT toInt64(count()) AS events, min(e.position) AS first, max(e.position) AS last FROM usage_events AS e
         WHERE {filter} AND e.partition = {partition} AND e.position <= {to} SETTINGS max_execution_time = 60"
    );
    let rows: Vec<Extent> = read_rows(statement.rows(clickhouse).await?)?;
    let extent = rows.into_iter().next().filter(|extent| extent.events > 0);
    Ok(extent.map(|extent| (extent.events.unsigned_abs(), extent.first, extent.last)))
}

/// Whether a tenant has usage that catalogs before this one had no price for.
pub(crate) async fn any_unpriced(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    version: i64,
) -> Result<bool, ApiError> {
    #[derive(Deserialize)]
    struct Unpriced {
        #[serde(deserialize_with = "number")]
        events: i64,
    }
    let mut statement = Statement::default();
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let version = statement.bind("Int64", version.to_string());
    statement.sql = format!(
        "SELECT toInt64(sum(e.sign)) AS events FROM usage_events AS e
         WHERE e.tenant_id = {tenant} AND e.outcome = 'unpriced' AND e.catalog_version < {version}
         SETTINGS max_execution_time = 60"
    );
    let rows: Vec<Unpriced> = read_rows(statement.rows(clickhouse).await?)?;
    Ok(rows.iter().any(|row| row.events > 0))
}

/// The events of a stretch in the order of the log, at most so many, with their newest corrections up to
/// the archive's position `archived`.
pub(crate) async fn events(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    stretch: Stretch,
    (archived, limit): (i64, usize),
) -> Result<Vec<Corrected>, ApiError> {
    let mut statement = Statement::default();
    let filter = conditions(&mut statement, tenant, selection);
    let partition = statement.bind("UInt32", stretch.partition.to_string());
    let [position, index, to] = [stretch.after.0, stretch.after.1, stretch.to]
        .map(|number| statement.bind("Int64", number.to_string()));
    statement.sql = format!(
        "SELECT {COLUMNS}, {EFFECTIVE} FROM usage_events AS e
         WHERE {filter} AND e.partition = {partition} AND e.position BETWEEN {position} AND {to}
             AND (e.position, toInt64(e.`index`)) > ({position}, {index})
         ORDER BY e.position, e.`index` LIMIT 1 BY e.position, e.`index` LIMIT {limit} {SETTINGS}"
    );
    let first: Vec<StoredEvent> = read_rows(statement.rows(clickhouse).await?)?;
    with_corrections(clickhouse, tenant, first, archived).await
}

/// The event that took its id at a place, or that is the copy of what was accepted there.
pub(crate) async fn event_at(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    place: EventPlace,
    archived: i64,
) -> Result<Option<Corrected>, ApiError> {
    for prefix in ["", "origin_"] {
        let mut statement = Statement::default();
        let filter = conditions(&mut statement, tenant, &Selection::default());
        let [partition, index] = [place.partition, place.index]
            .map(|number| statement.bind("UInt32", number.to_string()));
        let position = statement.bind("Int64", place.position.to_string());
        let to = statement.bind("Int64", archived.to_string());
        statement.sql = format!(
            "SELECT {COLUMNS}, {EFFECTIVE} FROM usage_events AS e WHERE {filter} AND e.{prefix}partition = {partition}
                 AND e.{prefix}position = {position} AND e.{prefix}index = {index} AND e.position <= {to} LIMIT 1 {SETTINGS}"
        );
        let first: Vec<StoredEvent> = read_rows(statement.rows(clickhouse).await?)?;
        if !first.is_empty() {
            let found = with_corrections(clickhouse, tenant, first, archived).await?;
            return Ok(found.into_iter().next());
        }
    }
    Ok(None)
}

async fn with_corrections(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    first: Vec<StoredEvent>,
    archived: i64,
) -> Result<Vec<Corrected>, ApiError> {
    let (Some(from), Some(to)) = (first.first(), first.last()) else { return Ok(Vec::new()) };
    let range = (from.partition, from.position, to.position);
    let mut all: BTreeMap<(i64, u32), BTreeMap<u32, Applied>> = BTreeMap::new();
    for row in corrections(clickhouse, tenant, range, archived).await? {
        let (run, position) = (row.rating_run, row.position);
        let of_event = all.entry((row.of_position, row.of_index)).or_default();
        let applied = of_event.entry(run).or_insert(Applied { run, position, event: None });
        if row.sign > 0 {
            applied.event = Some(row);
        }
    }
    let corrected = first.into_iter().map(|first| {
        let own = all.remove(&(first.position, first.index)).unwrap_or_default();
        Corrected { first, corrections: own.into_values().collect() }
    });
    Ok(corrected.collect())
}

/// All corrections of events between two positions, up to the archive's position.
pub(crate) async fn corrections(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    (partition, from, to): (u32, i64, i64),
    archived: i64,
) -> Result<Vec<StoredEvent>, ApiError> {
    let mut statement = Statement::default();
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let partition = statement.bind("UInt32", partition.to_string());
    let [from, to, archived] =
        [from, to, archived].map(|number| statement.bind("Int64", number.to_string()));
    statement.sql = format!(
        "SELECT {COLUMNS}, {EFFECTIVE} FROM usage_events AS e WHERE e.tenant_id = {tenant} AND e.partition = {partition} AND e.rating_run > 0
             AND e.origin_position BETWEEN {from} AND {to} AND e.position <= {archived}
         ORDER BY e.position, e.`index`, e.sign LIMIT 1 BY e.position, e.`index`, e.sign {SETTINGS}"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// A correction of an event: carried out, or not and why.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CorrectionOf {
    pub partition: u32,
    #[serde(deserialize_with = "number")]
    pub position: i64,
    pub index: u32,
    #[serde(deserialize_with = "number")]
    pub append_us: i64,
    pub rating_run: u32,
    pub sign: i8,
    #[serde(deserialize_with = "number")]
    pub of_position: i64,
    pub of_index: u32,
    pub outcome: String,
    pub reason: String,
    pub detail: String,
    pub lines: Vec<LineRow>,
}

impl CorrectionOf {
    /// The place of its command.
    pub fn place(&self) -> EventPlace {
        EventPlace { partition: self.partition, position: self.position, index: self.index }
    }

    /// The place of the event.
    pub fn event(&self) -> EventPlace {
        EventPlace { partition: self.partition, position: self.of_position, index: self.of_index }
    }
}

/// Corrections of the events at these places, in the order of the log.
pub(crate) async fn corrections_of(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    places: &[EventPlace],
) -> Result<Vec<CorrectionOf>, ApiError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut statement = Statement::default();
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let positions: Vec<String> = places.iter().map(|place| place.position.to_string()).collect();
    let positions = statement.bind("Array(Int64)", format!("[{}]", positions.join(",")));
    let of = "e.partition AS partition, e.position AS position, e.`index` AS `index`, toUnixTimestamp64Micro(e.append_time) AS append_us,
        toString(e.outcome) AS outcome";
    statement.sql = format!(
        "SELECT {of}, '' AS reason, '' AS detail, {EFFECTIVE} FROM usage_events AS e
         WHERE e.tenant_id = {tenant} AND e.rating_run > 0 AND e.origin_position IN {positions}
         ORDER BY e.position, e.`index`, e.sign LIMIT 1 BY e.partition, e.position, e.`index`, e.sign {SETTINGS}"
    );
    let mut rows: Vec<CorrectionOf> = read_rows(statement.rows(clickhouse).await?)?;
    statement.sql = format!(
        "SELECT {of}, toString(e.reason) AS reason, toString(e.detail) AS detail, toInt8(0) AS sign, toUInt32(0) AS rating_run,
             e.origin_position AS of_position, e.origin_index AS of_index, [] AS lines FROM rejected_events AS e
         WHERE e.tenant_id = {tenant} AND e.outcome = 'uncorrected' AND e.origin_position IN {positions}
         ORDER BY e.position, e.`index` LIMIT 1 BY e.partition, e.position, e.`index` {SETTINGS}"
    );
    rows.extend(read_rows::<CorrectionOf>(statement.rows(clickhouse).await?)?);
    rows.retain(|row| places.contains(&row.event()));
    rows.sort_by_key(|row| (row.position, row.index, row.sign));
    Ok(rows)
}
