//! Usage, added up by the archive. Statements are put together from fixed pieces; every value and
//! every name that a client chose is bound as a parameter.

use std::fmt::Write as _;

use bytes::Bytes;
use domain::planted::{self, Bug};
use futures_util::{
    StreamExt as _,
    stream::{self, Stream},
};
use runtime::clickhouse::{ClickHouse, ClickHouseError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::exports::spreadsheet_text;
use crate::{auth::TenantScope, error::ApiError};

/// Length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Minute,
    Hour,
    Day,
    Month,
    None,
}

/// What a row is about beside the meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Team,
    User,
    App,
    Feature,
    Dimension(String),
}

/// What to add up.
#[derive(Clone, Debug)]
pub(crate) struct UsageQuestion {
    pub meter: Option<String>,
    pub team: Option<String>,
    pub from_us: Option<i64>,
    pub to_us: Option<i64>,
    pub window: Window,
    pub time_zone: String,
    pub groups: Vec<Group>,
    pub filters: Vec<(String, String)>,
    pub limit: i64,
    /// [`UsageRow::place`] of the row before the first.
    pub after: Option<Vec<String>>,
}

/// Parts of a [`UsageRow::place`] beside its groups.
pub(crate) const PLACE_PARTS: usize = 4;

/// A row as the archive answers it; decimals are text.
#[derive(Debug, Deserialize)]
pub(crate) struct UsageRow {
    /// Seconds since 1970, where there are windows.
    pub window_s: Option<i64>,
    #[serde(default)]
    pub groups: Vec<String>,
    pub meter: String,
    pub unit: String,
    pub quantity: String,
    pub currency: String,
    pub charge: Option<String>,
    pub cost_currency: String,
    pub cost: Option<String>,
    pub events: String,
    pub unpriced_events: String,
    pub uncosted_events: String,
}

impl UsageRow {
    /// What no other row of an answer has, in the order of rows: seconds of its window (0 without
    /// windows), groups, meter, currency of the charge, of the cost.
    pub fn place(&self) -> Vec<String> {
        let window = self.window_s.unwrap_or(0).to_string();
        let names = [&self.meter, &self.currency, &self.cost_currency].map(String::clone);
        [window].into_iter().chain(self.groups.iter().cloned()).chain(names).collect()
    }
}

/// A statement with the values of its parameters.
#[derive(Debug, Default)]
pub(crate) struct Statement {
    pub sql: String,
    pub parameters: Vec<(String, String)>,
}

impl Statement {
    /// Binds a value and answers how the statement names it.
    pub fn bind(&mut self, kind: &str, value: impl Into<String>) -> String {
        let name = format!("p{}", self.parameters.len());
        let place = format!("{{{name}:{kind}}}");
        self.parameters.push((name, value.into()));
        place
    }

    /// Runs it.
    pub async fn rows(&self, clickhouse: &ClickHouse) -> Result<Vec<Value>, ApiError> {
        let parameters: Vec<(&str, &str)> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(clickhouse.query_json_rows(&self.sql, &parameters).await?)
    }

    /// Runs it and answers what ClickHouse writes in one of its formats, while it is read.
    pub async fn stream(
        &self,
        clickhouse: &ClickHouse,
        format: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ApiError> {
        let parameters: Vec<(&str, &str)> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(clickhouse.query_stream(&self.sql, &parameters, format).await?)
    }
}

/// Adds usage up. Each row of the archive counts once, however often it was inserted, and is
/// multiplied by its sign.
pub(crate) async fn read(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &UsageQuestion,
) -> Result<Vec<UsageRow>, ApiError> {
    read_rows(statement(tenant, question).rows(clickhouse).await?)
}

/// Rows of the archive in their own type.
pub(super) fn read_rows<T: DeserializeOwned>(rows: Vec<Value>) -> Result<Vec<T>, ApiError> {
    let rows = rows.into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
    rows.map_err(|error| {
        ApiError::Internal(format!("the archive's answer cannot be read: {error}"))
    })
}

/// Usage added up as CSV, as ClickHouse writes it, while it is read: a row per window, group, meter
/// and currencies; what is unknown is empty. The first line names the columns. Texts that a spreadsheet
/// would run are made plain texts.
pub(crate) async fn csv(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &UsageQuestion,
    names: &[String],
) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ApiError> {
    let rows = csv_statement(tenant, question).stream(clickhouse, "CSV").await?;
    let windows = (question.window != Window::None).then_some("window_start");
    let own = [
        "meter",
        "unit",
        "quantity",
        "currency",
        "charge",
        "cost_currency",
        "cost",
        "events",
        "unpriced_events",
    ];
    let columns = windows.into_iter().chain(names.iter().map(String::as_str)).chain(own);
    let head = columns.collect::<Vec<_>>().join(",") + "\n";
    Ok(stream::iter([Ok(Bytes::from(head))]).chain(rows))
}

fn csv_statement(tenant: TenantScope, question: &UsageQuestion) -> Statement {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, question);
    let mut keys = Vec::new();
    if let Some((start, zone)) = window_start(&mut statement, question) {
        keys.push(format!("formatDateTime({start}, '%Y-%m-%dT%H:%i:%S%z', {zone})"));
    }
    let mut shown = keys.clone();
    let groups: Vec<String> =
        question.groups.iter().map(|group| column(&mut statement, group)).collect();
    for key in groups.into_iter().chain(["toString(u.meter)".to_owned()]) {
        shown.push(spreadsheet_text(&key));
        keys.push(key);
    }
    let (keys, shown) = (keys.join(", "), shown.join(", "));
    let unit = spreadsheet_text("toString(any(u.unit))");
    statement.sql = format!(
        "SELECT {shown}, {unit}, sum(u.quantity * u.sign), toString(u.currency), sum(u.charge * u.sign),
            toString(u.cost_currency), sum(u.cost * u.sign), sum(toInt64(u.sign)),
            sum(if(u.status = 'unpriced', toInt64(u.sign), 0))
        FROM {lines}
        GROUP BY {keys}, u.currency, u.cost_currency ORDER BY {keys}, u.currency, u.cost_currency
        SETTINGS max_execution_time = 120, format_csv_null_representation = ''"
    );
    statement
}

/// The lines that a question is about, each once, as `u`.
fn lines(statement: &mut Statement, tenant: TenantScope, question: &UsageQuestion) -> String {
    let mut filter = format!("tenant_id = {}", statement.bind("UUID", tenant.id().to_string()));
    if planted::is(Bug::TenantForgotten) {
        filter = "true".to_owned();
    }
    let mut and = |condition: String| {
        let _ = write!(filter, " AND {condition}");
    };
    for (column, value) in [("meter", &question.meter), ("team", &question.team)] {
        if let Some(value) = value {
            and(format!("{column} = {}", statement.bind("String", value)));
        }
    }
    for (comparison, time_us) in [(">=", question.from_us), ("<", question.to_us)] {
        if let Some(time_us) = time_us {
            and(format!(
                "time {comparison} fromUnixTimestamp64Micro({}, 'UTC')",
                statement.bind("Int64", time_us.to_string())
            ));
        }
    }
    for (name, value) in &question.filters {
        let (name, value) = (statement.bind("String", name), statement.bind("String", value));
        and(format!("dimensions[{name}] = {value}"));
    }
    format!(
        "(
            SELECT team, user, app, feature, time, meter, unit, quantity, status, currency, charge, cost_currency, cost, dimensions, sign
            FROM usage_lines WHERE {filter}
            LIMIT 1 BY partition, position, index, line_number, rating_run, sign
        ) AS u"
    )
}

/// The statement that [`read`] runs.
pub(crate) fn statement(tenant: TenantScope, question: &UsageQuestion) -> Statement {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, question);
    let window = match window_start(&mut statement, question) {
        Some((start, _)) => format!("toUInt32(toUnixTimestamp({start}))"),
        None => "CAST(NULL AS Nullable(UInt32))".to_owned(),
    };
    let groups: Vec<String> =
        question.groups.iter().map(|group| column(&mut statement, group)).collect();
    let groups = if groups.is_empty() {
        "emptyArrayString()".to_owned()
    } else {
        format!("[{}]", groups.join(", "))
    };
    let rest = after(&mut statement, question);
    let limit = statement.bind("UInt64", question.limit.to_string());
    statement.sql = format!(
        "SELECT {window} AS window_s, {groups} AS groups, toString(u.meter) AS meter, toString(any(u.unit)) AS unit,
            sum(u.quantity * u.sign) AS quantity, toString(u.currency) AS currency, sum(u.charge * u.sign) AS charge,
            toString(u.cost_currency) AS cost_currency, sum(u.cost * u.sign) AS cost, sum(toInt64(u.sign)) AS events,
            sum(if(u.status = 'unpriced', toInt64(u.sign), 0)) AS unpriced_events,
            sum(if(u.cost IS NULL, toInt64(u.sign), 0)) AS uncosted_events
        FROM {lines}
        GROUP BY window_s, groups, u.meter, u.currency, u.cost_currency {rest}
        ORDER BY window_s, groups, u.meter, u.currency, u.cost_currency LIMIT {limit}
        SETTINGS max_execution_time = 20"
    );
    statement
}

/// Leaves out the rows up to [`UsageQuestion::after`]. Its parts are as many as those of a place.
fn after(statement: &mut Statement, question: &UsageQuestion) -> String {
    let Some([window, groups @ .., meter, currency, cost_currency]) = question.after.as_deref()
    else {
        return String::new();
    };
    let window = statement.bind("UInt32", window);
    let groups: Vec<String> = groups.iter().map(|value| statement.bind("String", value)).collect();
    let groups = match groups.as_slice() {
        [] => "emptyArrayString()".to_owned(),
        groups => format!("[{}]", groups.join(", ")),
    };
    let names = [meter, currency, cost_currency].map(|name| statement.bind("String", name));
    format!(
        "HAVING (ifNull(window_s, 0), groups, toString(u.meter), toString(u.currency), toString(u.cost_currency))
            > ({window}, {groups}, {})",
        names.join(", ")
    )
}

/// When the window of a line begins, and the zone that it begins in; `None` without windows.
fn window_start(statement: &mut Statement, question: &UsageQuestion) -> Option<(String, String)> {
    let function = match question.window {
        Window::None => return None,
        Window::Minute => "toStartOfMinute",
        Window::Hour => "toStartOfHour",
        Window::Day => "toStartOfDay",
        Window::Month => "toStartOfMonth",
    };
    let zone = statement.bind("String", &question.time_zone);
    Some((format!("toDateTime({function}(u.time, {zone}), {zone})"), zone))
}

fn column(statement: &mut Statement, group: &Group) -> String {
    match group {
        Group::Team => "u.team".to_owned(),
        Group::User => "u.user".to_owned(),
        Group::App => "toString(u.app)".to_owned(),
        Group::Feature => "toString(u.feature)".to_owned(),
        Group::Dimension(name) => format!("u.dimensions[{}]", statement.bind("String", name)),
    }
}
