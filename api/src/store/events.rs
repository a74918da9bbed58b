//! Events in the archive, and where the ledger has them.

use runtime::clickhouse::ClickHouse;
use serde::{Deserialize, Deserializer};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::{
    explain::{Side, SumKey},
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Which events.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventQuestion {
    pub team: Option<String>,
    pub user: Option<String>,
    pub event_type: Option<String>,
    pub source: Option<String>,
    pub id: Option<String>,
    pub from_us: Option<i64>,
    pub to_us: Option<i64>,
    pub app: Option<String>,
    pub reason: Option<String>,
    /// `rated`, `unmetered`, `unpriced`; `duplicate`, `conflict`, `rejected`.
    pub outcome: Option<String>,
    /// Only this place.
    pub place: Option<EventPlace>,
    /// Only the copy of what was accepted at this place.
    pub origin: Option<EventPlace>,
    /// Only what comes after this one, newest first.
    pub after: Option<(i64, EventPlace)>,
    pub limit: i64,
    /// Whether every byte of what was sent is wanted.
    pub bytes: bool,
}

impl EventQuestion {
    /// The event at a place.
    pub fn at(place: EventPlace) -> Self {
        Self { place: Some(place), limit: 1, ..Self::default() }
    }

    /// What became of a late event that was accepted at a place.
    pub fn copy_of(place: EventPlace) -> Self {
        Self { origin: Some(place), limit: 1, ..Self::default() }
    }
}

/// Where an event stands in `[usage]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventPlace {
    pub partition: u32,
    pub position: i64,
    pub index: u32,
}

/// An event of either table of the archive.
#[derive(Debug, Deserialize)]
pub(crate) struct EventRow {
    pub partition: u32,
    #[serde(deserialize_with = "number")]
    pub position: i64,
    pub index: u32,
    /// Event time, or append time where there is none: the order of lists.
    #[serde(deserialize_with = "number")]
    pub order_us: i64,
    #[serde(deserialize_with = "number")]
    pub append_us: i64,
    pub event_id: String,
    pub source: String,
    #[serde(rename = "event_type")]
    pub event_type: String,
    pub subject: String,
    pub team: String,
    pub user: String,
    pub app: String,
    pub feature: String,
    pub outcome: String,
    #[serde(deserialize_with = "number")]
    pub catalog_version: i64,
    pub raw: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default, deserialize_with = "optional_number")]
    pub twin_position: Option<i64>,
    #[serde(default)]
    pub twin_index: u32,
    #[serde(default)]
    pub lines: Vec<LineRow>,
    /// −1 where the row takes back what an event came to.
    #[serde(default = "one")]
    pub sign: i8,
    /// Which correction of an event the row is; 0 for none.
    #[serde(default)]
    pub rating_run: u32,
    /// The place of the event that it corrects.
    #[serde(default, deserialize_with = "optional_number")]
    pub of_position: Option<i64>,
    #[serde(default)]
    pub of_index: u32,
    /// Every byte of `raw`, where it was asked for.
    #[serde(default)]
    pub raw_base64: String,
}

impl EventRow {
    /// Its place.
    pub fn place(&self) -> EventPlace {
        EventPlace { partition: self.partition, position: self.position, index: self.index }
    }

    /// The place of the event that it corrects.
    pub fn corrects(&self) -> Option<EventPlace> {
        let position = self.of_position.filter(|_| self.rating_run > 0)?;
        Some(EventPlace { partition: self.partition, position, index: self.of_index })
    }
}

/// A line of an event.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LineRow {
    pub meter: String,
    pub unit: String,
    pub quantity: String,
    pub status: String,
    pub card: String,
    pub card_version: u32,
    pub currency: String,
    pub charge: Option<String>,
    pub cost_card: String,
    pub cost_card_version: u32,
    pub cost_currency: String,
    pub cost: Option<String>,
    pub dimensions: BTreeMap<String, String>,
    pub total_before: String,
}

impl LineRow {
    /// The transfer that its charge is in; `None` without a charge.
    pub fn charged(&self, team: &str) -> Option<SumKey> {
        (!self.currency.is_empty()).then(|| SumKey {
            side: Side::Usage,
            team: team.to_owned(),
            meter: self.meter.clone(),
            card: self.card.clone(),
            card_version: self.card_version,
            currency: self.currency.clone(),
        })
    }

    /// The transfer that its cost is in; `None` without a cost.
    pub fn costed(&self) -> Option<SumKey> {
        (!self.cost_currency.is_empty()).then(|| SumKey {
            side: Side::Cost,
            team: String::new(),
            meter: self.meter.clone(),
            card: String::new(),
            card_version: 0,
            currency: self.cost_currency.clone(),
        })
    }
}

fn one() -> i8 {
    1
}

/// 64-bit integers arrive as text.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    number(deserializer).map(Some)
}

/// Columns that both tables have.
pub(super) const COLUMNS: &str = "partition, position, index, toUnixTimestamp64Micro(append_time) AS append_us, toValidUTF8(event_id) AS event_id,
    toValidUTF8(source) AS source, toValidUTF8(type) AS event_type, toValidUTF8(subject) AS subject, toValidUTF8(team) AS team,
    toValidUTF8(user) AS user, toString(app) AS app, toValidUTF8(feature) AS feature, toString(outcome) AS outcome,
    toInt64(catalog_version) AS catalog_version, toValidUTF8(raw) AS raw";

/// Of events that took their id.
pub(super) const EFFECTIVE: &str = "toUnixTimestamp64Micro(time) AS order_us, sign, rating_run, origin_position AS of_position, origin_index AS of_index,
    arrayMap((a, b, c, d, e, f, g, h, i, j, k, l, m, n) -> CAST((a, b, c, d, e, f, g, h, i, j, k, l, m, n),
        'Tuple(meter String, unit String, quantity Decimal(38, 12), status String, card String, card_version UInt32, currency String,
         charge Nullable(Decimal(38, 12)), cost_card String, cost_card_version UInt32, cost_currency String,
         cost Nullable(Decimal(38, 12)), dimensions Map(String, String), total_before Decimal(38, 12))'),
        lines.meter, lines.unit, lines.quantity, lines.status, lines.card, lines.card_version, lines.currency, lines.charge,
        lines.cost_card, lines.cost_card_version, lines.cost_currency, lines.cost, lines.dimensions, lines.total_before) AS lines";

/// Of events that did not.
const OTHER: &str = "toUnixTimestamp64Micro(coalesce(time, append_time)) AS order_us,
    toString(reason) AS reason, toValidUTF8(detail) AS detail, twin_position, twin_index";

/// Which of the archive's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Events that took their id.
    Effective,
    /// Events that did not.
    Other,
}

/// A door's message that came twice, after a crash between the append and the commit of its offset,
/// counts where it stood first. It is the same by its place in the door and by its bytes: offsets of
/// a topic that is made anew begin at zero again. All that a tenant's doors refuse is in one partition.
const FIRST_OF_DOOR: &str = "(e.door = '' OR (e.partition, e.position, e.index) IN (
    SELECT argMin((partition, position, index), (position, index)) FROM rejected_events
    WHERE tenant_id = {tenant} AND door != '' GROUP BY door, door_partition, door_offset, door_index, cityHash64(raw)))";

/// Events of a table, newest first. Each counts once, however often it was inserted.
pub(crate) async fn list(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    table: Table,
    question: &EventQuestion,
) -> Result<Vec<EventRow>, ApiError> {
    let own = if table == Table::Effective { EFFECTIVE } else { OTHER };
    let bytes = if question.bytes { ", base64Encode(raw) AS raw_base64" } else { "" };
    let columns = format!("{COLUMNS}{bytes}, {own}");
    read_rows(statement(tenant, table, question, &columns).rows(clickhouse).await?)
}

/// The first event that is asked for, in the first of the tables that has one.
pub(crate) async fn first(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    tables: &[Table],
    question: &EventQuestion,
) -> Result<Option<EventRow>, ApiError> {
    for table in tables {
        let rows = list(clickhouse, tenant, *table, question).await?;
        if let Some(row) = rows.into_iter().next() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Where an event stands in a list, and in the log.
#[derive(Debug, Deserialize)]
pub(crate) struct PlaceRow {
    pub partition: u32,
    #[serde(deserialize_with = "number")]
    pub position: i64,
    pub index: u32,
    #[serde(deserialize_with = "number")]
    pub order_us: i64,
}

impl PlaceRow {
    /// Its place.
    pub fn place(&self) -> EventPlace {
        EventPlace { partition: self.partition, position: self.position, index: self.index }
    }
}

/// The places of events that took no effect, newest first.
pub(crate) async fn places(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &EventQuestion,
) -> Result<Vec<PlaceRow>, ApiError> {
    let columns = "partition, position, index, toUnixTimestamp64Micro(coalesce(time, append_time)) AS order_us";
    read_rows(statement(tenant, Table::Other, question, columns).rows(clickhouse).await?)
}

fn statement(
    tenant: TenantScope,
    table: Table,
    question: &EventQuestion,
    columns: &str,
) -> Statement {
    let mut statement = Statement::default();
    let (name, time) = match table {
        Table::Effective => ("usage_events", "e.time"),
        Table::Other => ("rejected_events", "coalesce(e.time, e.append_time)"),
    };
    let own = statement.bind("UUID", tenant.id().to_string());
    let mut conditions = vec![format!("e.tenant_id = {own}")];
    if table == Table::Effective {
        // As it was rated first; corrections of it stand elsewhere.
        conditions.push("e.rating_run = 0".to_owned());
    } else {
        conditions.push("e.outcome != 'uncorrected'".to_owned());
    }
    if table == Table::Other && question.place.is_none() && question.origin.is_none() {
        conditions.push(FIRST_OF_DOOR.replace("{tenant}", &own));
    }
    let equal = [
        ("e.team", &question.team),
        ("e.user", &question.user),
        ("e.type", &question.event_type),
        ("e.source", &question.source),
        ("e.event_id", &question.id),
        ("e.app", &question.app),
        ("e.reason", &question.reason),
        ("toString(e.outcome)", &question.outcome),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            conditions.push(format!("{column} = {}", statement.bind("String", value)));
        }
    }
    for (comparison, time_us) in [(">=", question.from_us), ("<", question.to_us)] {
        if let Some(time_us) = time_us {
            let bound = statement.bind("Int64", time_us.to_string());
            conditions
                .push(format!("{time} {comparison} fromUnixTimestamp64Micro({bound}, 'UTC')"));
        }
    }
    for (prefix, place) in [("", question.place), ("origin_", question.origin)] {
        let Some(place) = place else { continue };
        let [partition, position, index] = bind_place(&mut statement, place);
        conditions.push(format!(
            "e.{prefix}partition = {partition} AND e.{prefix}position = {position} AND e.{prefix}index = {index}"
        ));
    }
    if let Some((order_us, place)) = question.after {
        let order = statement.bind("Int64", order_us.to_string());
        let [partition, position, index] = bind_place(&mut statement, place);
        conditions.push(format!(
            "{time} <= fromUnixTimestamp64Micro({order}, 'UTC')
             AND (toUnixTimestamp64Micro({time}), e.partition, e.position, e.index) < ({order}, {partition}, {position}, {index})"
        ));
    }
    let limit = statement.bind("UInt64", question.limit.to_string());
    statement.sql = format!(
        "SELECT {columns} FROM {name} AS e WHERE {}
         ORDER BY {time} DESC, e.partition DESC, e.position DESC, e.index DESC
         LIMIT 1 BY e.partition, e.position, e.index LIMIT {limit}
         SETTINGS max_execution_time = 20, output_format_json_named_tuples_as_objects = 1, prefer_column_name_to_alias = 1",
        conditions.join(" AND ")
    );
    statement
}

fn bind_place(statement: &mut Statement, place: EventPlace) -> [String; 3] {
    [
        statement.bind("UInt32", place.partition.to_string()),
        statement.bind("Int64", place.position.to_string()),
        statement.bind("UInt32", place.index.to_string()),
    ]
}

/// Journals that posted positions of the tenant, by partition and position.
pub(crate) async fn journals(
    connection: &mut PgConnection,
    tenant: TenantScope,
    places: &[EventPlace],
) -> Result<BTreeMap<(u32, i64), Uuid>, ApiError> {
    let partitions: Vec<i32> =
        places.iter().map(|place| i32::try_from(place.partition).unwrap_or(i32::MAX)).collect();
    let positions: Vec<i64> = places.iter().map(|place| place.position).collect();
    let rows: Vec<(i32, i64, Uuid)> = sqlx::query_as(
        "SELECT asked.partition, asked.position, j.journal_id
         FROM (SELECT DISTINCT * FROM unnest($2::integer[], $3::bigint[]) AS places (partition, position)) asked
         CROSS JOIN LATERAL (
             SELECT journal_id, position_from FROM journals
             WHERE tenant_id = $1 AND partition = asked.partition AND position_to >= asked.position
             ORDER BY position_to LIMIT 1) j
         WHERE j.position_from <= asked.position",
    )
    .bind(tenant.id())
    .bind(partitions)
    .bind(positions)
    .fetch_all(connection)
    .await?;
    let row = |(partition, position, journal): (i32, i64, Uuid)| {
        ((partition.unsigned_abs(), position), journal)
    };
    Ok(rows.into_iter().map(row).collect())
}
