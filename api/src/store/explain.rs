//! What the archive says about a journal of usage: the sums of its lines, and its events in order.

use runtime::clickhouse::ClickHouse;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    events::{COLUMNS, EFFECTIVE, EventRow, number},
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Whether a sum is of charges or of costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TransferReason)]
pub(crate) enum Side {
    /// What customers pay: transfers with the reason `usage`.
    Usage,
    /// What providers charge: transfers with the reason `cost`.
    Cost,
}

/// What one transfer adds up. Of costs, everything but side, meter and currency is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SumKey {
    pub side: Side,
    pub team: String,
    pub meter: String,
    pub card: String,
    pub card_version: u32,
    pub currency: String,
}

/// A sum of lines. Decimals are text.
#[derive(Debug, Deserialize)]
pub(crate) struct SumRow {
    pub side: Side,
    pub team: String,
    pub meter: String,
    pub card: String,
    pub card_version: u32,
    pub currency: String,
    pub amount: String,
    pub quantity: String,
    #[serde(deserialize_with = "number")]
    pub lines: i64,
}

impl SumRow {
    /// What it adds up.
    pub fn key(&self) -> SumKey {
        SumKey {
            side: self.side,
            team: self.team.clone(),
            meter: self.meter.clone(),
            card: self.card.clone(),
            card_version: self.card_version,
            currency: self.currency.clone(),
        }
    }
}

/// The positions of `[usage]` that a journal posted, of one transfer or of all.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub partition: u32,
    pub from: i64,
    pub to: i64,
    /// Only lines of this transfer.
    pub only: Option<SumKey>,
}

/// A place in the journal's order: position, index and sign. What a correction takes back stands before
/// what it books instead.
pub(crate) type Place = (i64, u32, i8);

/// Conditions on an event of the scope. What corrects one of its events later is posted by another journal.
fn conditions(statement: &mut Statement, tenant: TenantScope, scope: &Scope) -> Vec<String> {
    let mut conditions = vec![
        format!("tenant_id = {}", statement.bind("UUID", tenant.id().to_string())),
        format!("partition = {}", statement.bind("UInt32", scope.partition.to_string())),
        format!("position >= {}", statement.bind("Int64", scope.from.to_string())),
        format!("position <= {}", statement.bind("Int64", scope.to.to_string())),
    ];
    if let Some(only) = scope.only.as_ref().filter(|only| only.side == Side::Usage) {
        conditions.push(format!("team = {}", statement.bind("String", &only.team)));
    }
    conditions
}

/// Sums of the scope's lines, by what its transfers add up; only lines up to `until`, if given.
/// Each row of the archive counts once, however often it was inserted, and with its sign.
pub(crate) async fn sums(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    scope: &Scope,
    until: Option<Place>,
) -> Result<Vec<SumRow>, ApiError> {
    let mut statement = Statement::default();
    let mut conditions = conditions(&mut statement, tenant, scope);
    if let Some(place) = until {
        conditions.push(compared(&mut statement, "<=", place));
    }
    let filter = conditions.join(" AND ");
    let (usage, cost) = match &scope.only {
        None => (Some(String::new()), Some(String::new())),
        Some(only) if only.side == Side::Usage => (Some(of_usage(&mut statement, only)), None),
        Some(only) => (None, Some(of_cost(&mut statement, only))),
    };
    let usage = usage.map(|own| {
        format!(
            "SELECT 'usage' AS side, toString(u.team) AS team, toString(u.meter) AS meter, toString(u.card) AS card,
                u.card_version AS card_version, toString(u.currency) AS currency,
                sum(u.charge * u.sign) AS amount, sum(u.quantity * u.sign) AS quantity, sum(toInt64(u.sign)) AS lines
             FROM usage_lines AS u WHERE {filter} AND u.currency != ''{own} GROUP BY u.team, u.meter, u.card, u.card_version, u.currency"
        )
    });
    let cost = cost.map(|own| {
        format!(
            "SELECT 'cost' AS side, '' AS team, toString(u.meter) AS meter, '' AS card, toUInt32(0) AS card_version,
                toString(u.cost_currency) AS currency,
                sum(u.cost * u.sign) AS amount, sum(u.quantity * u.sign) AS quantity, sum(toInt64(u.sign)) AS lines
             FROM usage_lines AS u WHERE {filter} AND u.cost_currency != ''{own} GROUP BY u.meter, u.cost_currency"
        )
    });
    let parts: Vec<String> = usage.into_iter().chain(cost).collect();
    statement.sql = format!("{} SETTINGS max_execution_time = 20", parts.join(" UNION ALL "));
    read_rows(statement.rows(clickhouse).await?)
}

fn of_usage(statement: &mut Statement, only: &SumKey) -> String {
    let meter = statement.bind("String", &only.meter);
    let card = statement.bind("String", &only.card);
    let version = statement.bind("UInt32", only.card_version.to_string());
    let currency = statement.bind("String", &only.currency);
    format!(
        " AND u.meter = {meter} AND u.card = {card} AND u.card_version = {version} AND u.currency = {currency}"
    )
}

fn of_cost(statement: &mut Statement, only: &SumKey) -> String {
    let meter = statement.bind("String", &only.meter);
    let currency = statement.bind("String", &only.currency);
    format!(" AND u.meter = {meter} AND u.cost_currency = {currency}")
}

/// Events of the scope with a line in it, in the order of the log, after `after`.
pub(crate) async fn events(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    scope: &Scope,
    after: Option<Place>,
    limit: i64,
) -> Result<Vec<EventRow>, ApiError> {
    let mut statement = Statement::default();
    let mut conditions = conditions(&mut statement, tenant, scope);
    conditions.push(match &scope.only {
        None => "notEmpty(lines.meter)".to_owned(),
        Some(only) => with_line(&mut statement, only),
    });
    if let Some(place) = after {
        conditions.push(compared(&mut statement, ">", place));
    }
    let limit = statement.bind("UInt64", limit.to_string());
    statement.sql = format!(
        "SELECT {COLUMNS}, {EFFECTIVE} FROM usage_events AS e WHERE {}
         ORDER BY e.position, e.index, e.sign LIMIT 1 BY e.position, e.index, e.sign LIMIT {limit}
         SETTINGS max_execution_time = 20, output_format_json_named_tuples_as_objects = 1, prefer_column_name_to_alias = 1",
        conditions.join(" AND ")
    );
    read_rows(statement.rows(clickhouse).await?)
}

fn compared(statement: &mut Statement, how: &str, (position, index, sign): Place) -> String {
    let position = statement.bind("Int64", position.to_string());
    let index = statement.bind("UInt32", index.to_string());
    let sign = statement.bind("Int8", sign.to_string());
    format!("(position, index, sign) {how} ({position}, {index}, {sign})")
}

fn with_line(statement: &mut Statement, only: &SumKey) -> String {
    let meter = statement.bind("String", &only.meter);
    let currency = statement.bind("String", &only.currency);
    if only.side == Side::Cost {
        return format!(
            "arrayExists((m, u) -> m = {meter} AND u = {currency}, lines.meter, lines.cost_currency)"
        );
    }
    let card = statement.bind("String", &only.card);
    let version = statement.bind("UInt32", only.card_version.to_string());
    format!(
        "arrayExists((m, c, v, u) -> m = {meter} AND c = {card} AND v = {version} AND u = {currency},
            lines.meter, lines.card, lines.card_version, lines.currency)"
    )
}

/// An insert group of the archive.
#[derive(Debug, Deserialize)]
pub(crate) struct GroupRow {
    #[serde(deserialize_with = "number")]
    pub from_x: i64,
    #[serde(deserialize_with = "number")]
    pub to_x: i64,
    #[serde(deserialize_with = "number")]
    pub archived_us: i64,
}

/// The groups of rated batches in which the archive took the scope's positions.
pub(crate) async fn groups(
    clickhouse: &ClickHouse,
    scope: &Scope,
    limit: i64,
) -> Result<Vec<GroupRow>, ApiError> {
    let mut statement = Statement::default();
    let partition = statement.bind("UInt32", scope.partition.to_string());
    let (from, to) = (
        statement.bind("Int64", scope.from.to_string()),
        statement.bind("Int64", scope.to.to_string()),
    );
    let limit = statement.bind("UInt64", limit.to_string());
    statement.sql = format!(
        "SELECT a.from_x AS from_x, a.to_x AS to_x, toUnixTimestamp64Micro(min(a.archived_at)) AS archived_us
         FROM archived AS a WHERE a.partition = {partition} AND a.to_x >= {from} AND a.from_x <= {to}
         GROUP BY a.from_x, a.to_x ORDER BY a.from_x LIMIT {limit}"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// A transfer's number in its journal, with what it adds up.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct TransferKeyRow {
    pub journal_id: Uuid,
    pub ordinal: i32,
    pub reason: String,
    pub team: String,
    pub meter: String,
    pub card: String,
    pub card_version: i32,
    pub currency: String,
}

impl TransferKeyRow {
    /// What it adds up.
    pub fn key(&self) -> SumKey {
        let side =
            if self.reason == ledger::transfer::REASON_COST { Side::Cost } else { Side::Usage };
        SumKey {
            side,
            team: self.team.clone(),
            meter: self.meter.clone(),
            card: self.card.clone(),
            card_version: self.card_version.unsigned_abs(),
            currency: self.currency.clone(),
        }
    }
}

/// Transfers of some journals that are about one of the teams, or of the tenant's own.
pub(crate) async fn transfers(
    connection: &mut PgConnection,
    tenant: TenantScope,
    journals: &[Uuid],
    teams: &[String],
) -> Result<Vec<TransferKeyRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT journal_id, ordinal, reason, team, meter, card, card_version, currency FROM transfers
         WHERE tenant_id = $1 AND journal_id = ANY($2) AND (team = ANY($3) OR team = '')",
    )
    .bind(tenant.id())
    .bind(journals)
    .bind(teams)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
