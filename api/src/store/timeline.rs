//! Usage in the order of time, line by line, from the archive.

use std::collections::BTreeMap;

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;

use super::{
    events::number,
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Which usage.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineQuestion {
    pub team: Option<String>,
    pub user: Option<String>,
    pub app: Option<String>,
    pub feature: Option<String>,
    pub event_type: Option<String>,
    pub meter: Option<String>,
    pub from_us: Option<i64>,
    pub to_us: Option<i64>,
    /// Only what comes after this one, newest first.
    pub after: Option<[i64; 7]>,
    pub limit: i64,
}

/// A line of an event. What was taken back has a negative quantity and charge.
#[derive(Debug, Deserialize)]
pub(crate) struct TimelineRow {
    #[serde(deserialize_with = "number")]
    pub time_us: i64,
    pub partition: u32,
    #[serde(deserialize_with = "number")]
    pub position: i64,
    pub index: u32,
    pub rating_run: u32,
    pub sign: i8,
    pub line_number: u32,
    pub event_id: String,
    pub event_type: String,
    pub team: String,
    pub user: String,
    pub app: String,
    pub feature: String,
    pub meter: String,
    pub unit: String,
    pub quantity: String,
    pub status: String,
    pub currency: String,
    pub charge: Option<String>,
    pub dimensions: BTreeMap<String, String>,
}

/// Lines of usage, newest first. Each counts once, however often it was inserted.
pub(crate) async fn lines(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &TimelineQuestion,
) -> Result<Vec<TimelineRow>, ApiError> {
    let mut statement = Statement::default();
    let filter = filter(&mut statement, tenant, question).join(" AND ");
    let limit = statement.bind("UInt64", question.limit.to_string());
    statement.sql = format!(
        "SELECT toUnixTimestamp64Micro(u.time) AS time_us, u.partition AS partition, u.position AS position, u.index AS index,
            u.rating_run AS rating_run, u.sign AS sign, u.line_number AS line_number, toValidUTF8(u.event_id) AS event_id,
            toValidUTF8(u.type) AS event_type, toValidUTF8(u.team) AS team, toValidUTF8(u.user) AS user, toString(u.app) AS app,
            toValidUTF8(u.feature) AS feature, toString(u.meter) AS meter, toString(u.unit) AS unit, u.quantity * u.sign AS quantity,
            toString(u.status) AS status, toString(u.currency) AS currency, u.charge * u.sign AS charge, u.dimensions AS dimensions
         FROM usage_lines AS u WHERE {filter}
         ORDER BY u.time DESC, u.partition DESC, u.position DESC, u.index DESC, u.rating_run DESC, u.sign DESC, u.line_number DESC
         LIMIT {limit} SETTINGS max_execution_time = 20, prefer_column_name_to_alias = 1"
    );
    read_rows(statement.rows(clickhouse).await?)
}

fn filter(
    statement: &mut Statement,
    tenant: TenantScope,
    question: &TimelineQuestion,
) -> Vec<String> {
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let mut conditions = vec![format!("u.tenant_id = {tenant}")];
    let equal = [
        ("u.team", &question.team),
        ("u.user", &question.user),
        ("u.app", &question.app),
        ("u.feature", &question.feature),
        ("u.type", &question.event_type),
        ("u.meter", &question.meter),
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
                .push(format!("u.time {comparison} fromUnixTimestamp64Micro({bound}, 'UTC')"));
        }
    }
    if let Some(after) = question.after {
        let bound = after.map(|part| statement.bind("Int64", part.to_string()));
        conditions.push(format!(
            "u.time <= fromUnixTimestamp64Micro({}, 'UTC')
             AND (toUnixTimestamp64Micro(u.time), toInt64(u.partition), u.position, toInt64(u.index), toInt64(u.rating_run),
                 toInt64(u.sign), toInt64(u.line_number)) < ({})",
            bound.first().map_or("0", String::as_str),
            bound.join(", ")
        ));
    }
    conditions
}
