//! Analytics, added up by the archive. What is added up is read through `usage_lines`, which takes each
//! event once, and is multiplied by its sign: the numbers are those of the archive's other views.
//!
//! Statements are put together from fixed pieces; every value and every name that a client chose is
//! bound as a parameter.

use std::fmt::Write as _;

use domain::planted::{self, Bug};
use runtime::clickhouse::ClickHouse;
use serde::Deserialize;

use super::{
    events::number,
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Which lines are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// First event time, inclusive.
    pub from_us: i64,
    /// Last event time, exclusive.
    pub to_us: i64,
    pub team: Option<String>,
    pub meter: Option<String>,
    pub app: Option<String>,
    pub feature: Option<String>,
    /// Names of dimensions with the one value that is meant.
    pub dimensions: Vec<(String, String)>,
}

/// What is added up, and what is never added together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Quantities, by meter and unit.
    Usage,
    /// Charges, by their currency.
    Revenue,
    /// Costs, by their currency.
    Cost,
    /// Both, by both currencies.
    Margin,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Team,
    Meter,
    Feature,
    App,
    Model,
    Provider,
}

/// Length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Hour,
    Day,
    Week,
    Month,
}

/// What to add up.
#[derive(Clone, Debug)]
pub(crate) struct SumQuestion {
    pub selection: Selection,
    pub measure: Measure,
    pub window: Option<Window>,
    /// In which windows begin.
    pub time_zone: String,
    pub groups: Vec<Group>,
    pub limit: i64,
    /// [`SumRow::place`] of the row before the first.
    pub after: Option<Vec<String>>,
}

impl Measure {
    /// Columns that are never added together.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Measure::Usage => &["toString(u.meter)", "toString(u.unit)"],
            Measure::Revenue => &["toString(u.currency)"],
            Measure::Cost => &["toString(u.cost_currency)"],
            Measure::Margin => &["toString(u.currency)", "toString(u.cost_currency)"],
        }
    }
}

impl SumQuestion {
    /// Parts of a [`SumRow::place`].
    pub fn place_parts(&self) -> usize {
        1 + self.groups.len() + self.measure.keys().len()
    }
}

/// A row as the archive answers it; decimals are text.
#[derive(Debug, Deserialize)]
pub(crate) struct SumRow {
    /// Seconds since 1970 at which the window begins, where there are windows.
    pub window_s: Option<i64>,
    /// Values of the groups, then those of the measure's own columns.
    pub keys: Vec<String>,
    pub quantity: String,
    pub charge: Option<String>,
    pub cost: Option<String>,
    #[serde(deserialize_with = "number")]
    pub lines: i64,
    #[serde(deserialize_with = "number")]
    pub unpriced_lines: i64,
    #[serde(deserialize_with = "number")]
    pub uncosted_lines: i64,
}

impl SumRow {
    /// What no other row of an answer has, in the order of rows: seconds of its window (0 without
    /// windows), then its keys.
    pub fn place(&self) -> Vec<String> {
        let window = self.window_s.unwrap_or(0).to_string();
        [window].into_iter().chain(self.keys.iter().cloned()).collect()
    }
}

/// The sums of lines, as the views have them.
const SUMS: &str = "sum(u.quantity * u.sign) AS quantity, sum(u.charge * u.sign) AS charge, sum(u.cost * u.sign) AS cost,
    sum(toInt64(u.sign)) AS lines, sum(if(u.charge IS NULL, toInt64(u.sign), 0)) AS unpriced_lines,
    sum(if(u.cost IS NULL, toInt64(u.sign), 0)) AS uncosted_lines";

/// Adds lines up.
pub(crate) async fn sums(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &SumQuestion,
) -> Result<Vec<SumRow>, ApiError> {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, &question.selection);
    let window = match question.window {
        Some(window) => window_start(&mut statement, window, &question.time_zone),
        None => "CAST(NULL AS Nullable(UInt32))".to_owned(),
    };
    let groups = question.groups.iter().map(|group| column(*group));
    let keys: Vec<&str> = groups.chain(question.measure.keys().iter().copied()).collect();
    let keys = keys.join(", ");
    let rest = after(&mut statement, question.after.as_deref());
    let limit = statement.bind("UInt64", question.limit.to_string());
    statement.sql = format!(
        "SELECT {window} AS window_s, [{keys}] AS keys, {SUMS} FROM {lines}
         GROUP BY window_s, keys {rest} ORDER BY window_s, keys LIMIT {limit}
         SETTINGS max_execution_time = 20"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// When the window of a line begins, in seconds.
fn window_start(statement: &mut Statement, window: Window, zone: &str) -> String {
    let function = match window {
        Window::Hour => "toStartOfHour",
        Window::Day => "toStartOfDay",
        Window::Week => "toMonday",
        Window::Month => "toStartOfMonth",
    };
    let zone = statement.bind("String", zone);
    format!("toUInt32(toUnixTimestamp(toDateTime({function}(u.time, {zone}), {zone})))")
}

fn column(group: Group) -> &'static str {
    match group {
        Group::Team => "u.team",
        Group::Meter => "toString(u.meter)",
        Group::Feature => "toString(u.feature)",
        Group::App => "toString(u.app)",
        Group::Model => "u.dimensions['model']",
        Group::Provider => "u.dimensions['provider']",
    }
}

/// Leaves out the rows up to a place. Its parts are as many as those of a row.
fn after(statement: &mut Statement, place: Option<&[String]>) -> String {
    let Some([window, keys @ ..]) = place else {
        return String::new();
    };
    let window = statement.bind("UInt32", window);
    let keys: Vec<String> = keys.iter().map(|key| statement.bind("String", key)).collect();
    format!("HAVING (ifNull(window_s, 0), keys) > ({window}, [{}])", keys.join(", "))
}

/// The lines that are meant, as `u`.
fn lines(statement: &mut Statement, tenant: TenantScope, selection: &Selection) -> String {
    let filter = line_filter(statement, tenant, selection);
    format!(
        "(SELECT team, app, feature, type, time, meter, unit, quantity, currency, charge, cost_currency, cost, dimensions, sign
          FROM usage_lines WHERE {filter}) AS u"
    )
}

/// Conditions on a line of `usage_lines`.
pub(super) fn line_filter(
    statement: &mut Statement,
    tenant: TenantScope,
    selection: &Selection,
) -> String {
    let mut filter = event_filter(statement, tenant, selection);
    if let Some(meter) = &selection.meter {
        let _ = write!(filter, " AND meter = {}", statement.bind("String", meter));
    }
    for (name, value) in &selection.dimensions {
        let (name, value) = (statement.bind("String", name), statement.bind("String", value));
        let _ = write!(filter, " AND dimensions[{name}] = {value}");
    }
    filter
}

/// Conditions on an event: all of a selection but those on its lines.
pub(super) fn event_filter(
    statement: &mut Statement,
    tenant: TenantScope,
    selection: &Selection,
) -> String {
    let mut filter = format!("tenant_id = {}", statement.bind("UUID", tenant.id().to_string()));
    if planted::is(Bug::TenantForgotten) {
        filter = "true".to_owned();
    }
    for (comparison, time_us) in [(">=", selection.from_us), ("<", selection.to_us)] {
        let time = statement.bind("Int64", time_us.to_string());
        let _ = write!(filter, " AND time {comparison} fromUnixTimestamp64Micro({time}, 'UTC')");
    }
    let texts =
        [("team", &selection.team), ("app", &selection.app), ("feature", &selection.feature)];
    for (column, value) in texts {
        if let Some(value) = value {
            let _ = write!(filter, " AND {column} = {}", statement.bind("String", value));
        }
    }
    filter
}

/// Events that are meant, each once.
pub(super) fn once(columns: &str, filter: &str) -> String {
    const KEY: &str = "tenant_id, team, time, partition, position, `index`, rating_run, sign";
    format!("(SELECT {columns} FROM usage_events WHERE {filter} ORDER BY {KEY} LIMIT 1 BY {KEY})")
}

/// Sums of one half of a period and one pair of currencies.
#[derive(Debug, Deserialize)]
pub(crate) struct TotalRow {
    /// 1 in the later half, 0 in the one before it.
    pub later: u8,
    pub currency: String,
    pub cost_currency: String,
    pub charge: Option<String>,
    pub cost: Option<String>,
    #[serde(deserialize_with = "number")]
    pub unpriced_lines: i64,
    #[serde(deserialize_with = "number")]
    pub uncosted_lines: i64,
}

/// Adds up both halves of a period, which is cut at `middle_us`.
pub(crate) async fn totals(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    middle_us: i64,
) -> Result<Vec<TotalRow>, ApiError> {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, selection);
    let middle = statement.bind("Int64", middle_us.to_string());
    statement.sql = format!(
        "SELECT toUInt8(u.time >= fromUnixTimestamp64Micro({middle}, 'UTC')) AS later,
            toString(u.currency) AS currency, toString(u.cost_currency) AS cost_currency, {SUMS}
         FROM {lines} GROUP BY later, u.currency, u.cost_currency ORDER BY u.currency, u.cost_currency, later
         SETTINGS max_execution_time = 20"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// Events and teams of one half of a period.
#[derive(Debug, Deserialize)]
pub(crate) struct CountRow {
    /// 1 in the later half, 0 in the one before it.
    pub later: u8,
    #[serde(deserialize_with = "number")]
    pub events: i64,
    #[serde(deserialize_with = "number")]
    pub teams: i64,
}

/// Counts events with a line that is meant, and the teams that have them, in both halves of a period.
pub(crate) async fn counts(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    middle_us: i64,
) -> Result<Vec<CountRow>, ApiError> {
    let mut statement = Statement::default();
    let mut filter = event_filter(&mut statement, tenant, selection);
    let mut of_line = vec!["true".to_owned()];
    if let Some(meter) = &selection.meter {
        of_line.push(format!("m = {}", statement.bind("String", meter)));
    }
    for (name, value) in &selection.dimensions {
        let (name, value) = (statement.bind("String", name), statement.bind("String", value));
        of_line.push(format!("d[{name}] = {value}"));
    }
    let of_line = of_line.join(" AND ");
    let _ = write!(filter, " AND arrayExists((m, d) -> {of_line}, lines.meter, lines.dimensions)");
    let events = once("team, time, sign", &filter);
    let middle = statement.bind("Int64", middle_us.to_string());
    statement.sql = format!(
        "SELECT t.later AS later, sum(t.own) AS events, count() AS teams FROM (
            SELECT toUInt8(e.time >= fromUnixTimestamp64Micro({middle}, 'UTC')) AS later, e.team, sum(toInt64(e.sign)) AS own
            FROM {events} AS e GROUP BY later, e.team HAVING own > 0) AS t
         GROUP BY t.later SETTINGS max_execution_time = 20"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// A place in a list of the largest.
#[derive(Debug, Deserialize)]
pub(crate) struct TopRow {
    /// The team, or the provider and the model.
    pub keys: Vec<String>,
    pub currency: String,
    pub amount: String,
}

/// Which list of the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Top {
    /// Teams by their charges.
    TeamsByRevenue,
    /// Models by their costs.
    ModelsByCost,
}

/// Of each currency; currencies are not compared.
const TOP_ROWS: u32 = 10;

/// The ten largest of each currency.
pub(crate) async fn top(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    top: Top,
) -> Result<Vec<TopRow>, ApiError> {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, selection);
    let (keys, currency, amount, meant) = match top {
        Top::TeamsByRevenue => ("u.team", "u.currency", "u.charge", "true"),
        Top::ModelsByCost => (
            "u.dimensions['provider'], u.dimensions['model']",
            "u.cost_currency",
            "u.cost",
            "u.dimensions['model'] != ''",
        ),
    };
    statement.sql = format!(
        "SELECT [{keys}] AS keys, toString({currency}) AS currency, sum({amount} * u.sign) AS amount
         FROM {lines} WHERE {currency} != '' AND {meant} GROUP BY keys, {currency}
         ORDER BY {currency}, amount DESC, keys LIMIT {TOP_ROWS} BY {currency} LIMIT 1000
         SETTINGS max_execution_time = 20"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// Something without a price, a cost or a meter.
#[derive(Debug, Deserialize)]
pub(crate) struct UnpricedRow {
    /// Type of the events, meter, unit, provider and model.
    pub keys: Vec<String>,
    #[serde(deserialize_with = "number")]
    pub first_us: i64,
    #[serde(deserialize_with = "number")]
    pub last_us: i64,
    #[serde(deserialize_with = "number")]
    pub events: i64,
    #[serde(deserialize_with = "number")]
    pub unpriced: i64,
    #[serde(deserialize_with = "number")]
    pub uncosted: i64,
    pub quantity: String,
}

/// Parts of an [`UnpricedRow::place`].
pub(crate) const UNPRICED_PLACE_PARTS: usize = 6;

impl UnpricedRow {
    /// What no other row of an answer has, in the order of rows.
    pub fn place(&self) -> Vec<String> {
        [self.last_us.to_string()].into_iter().chain(self.keys.iter().cloned()).collect()
    }
}

/// Lists what has no price or no cost, and types of events that no meter counts, the last seen first.
/// `after` is the place of the row before the first.
pub(crate) async fn unpriced(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    limit: i64,
    after: Option<(i64, &[String])>,
) -> Result<Vec<UnpricedRow>, ApiError> {
    let mut statement = Statement::default();
    let lines = lines(&mut statement, tenant, selection);
    let of_lines = format!(
        "SELECT [u.type, toString(u.meter), toString(u.unit), u.dimensions['provider'], u.dimensions['model']] AS keys,
            toUnixTimestamp64Micro(min(u.time)) AS first_us, toUnixTimestamp64Micro(max(u.time)) AS last_us, sum(toInt64(u.sign)) AS events,
            sum(if(u.charge IS NULL, toInt64(u.sign), 0)) AS unpriced, sum(if(u.cost IS NULL, toInt64(u.sign), 0)) AS uncosted,
            sum(u.quantity * u.sign) AS quantity
         FROM {lines} WHERE u.charge IS NULL OR u.cost IS NULL GROUP BY keys"
    );
    let mut parts = vec![of_lines];
    // What no meter counts has neither a meter nor dimensions to be asked for.
    if selection.meter.is_none() && selection.dimensions.is_empty() {
        let filter = event_filter(&mut statement, tenant, selection);
        let events = once("type, time, sign", &format!("{filter} AND outcome = 'unmetered'"));
        parts.push(format!(
            "SELECT [e.type, '', '', '', ''] AS keys, toUnixTimestamp64Micro(min(e.time)) AS first_us,
                toUnixTimestamp64Micro(max(e.time)) AS last_us, sum(toInt64(e.sign)) AS events,
                toInt64(0) AS unpriced, toInt64(0) AS uncosted, sum(toDecimal128(0, 12)) AS quantity
             FROM {events} AS e GROUP BY keys"
        ));
    }
    let mut rest = String::new();
    if let Some((last_us, keys)) = after {
        let last = statement.bind("Int64", last_us.to_string());
        let keys: Vec<String> = keys.iter().map(|key| statement.bind("String", key)).collect();
        rest = format!(" AND (-s.last_us, s.keys) > (-{last}, [{}])", keys.join(", "));
    }
    let limit = statement.bind("UInt64", limit.to_string());
    statement.sql = format!(
        "SELECT * FROM ({}) AS s WHERE s.events > 0{rest} ORDER BY s.last_us DESC, s.keys LIMIT {limit}
         SETTINGS max_execution_time = 20",
        parts.join(" UNION ALL ")
    );
    read_rows(statement.rows(clickhouse).await?)
}
