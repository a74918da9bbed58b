//! What meters that do not add up have observed, and what a period of it comes to. The archive counts; exactly, in
//! whole numbers of 256 bits.

use domain::{
    meter::{CLOSING_TYPE, UNIQUE_DIMENSION},
    period::Period,
};
use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    events::number,
    usage::{Statement, read_rows},
};
use crate::{
    auth::TenantScope,
    closing::{Counted, Measure},
    error::ApiError,
};

/// A quarter of an hour in which something was observed, or a period is closed.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    pub tenant_id: Uuid,
    pub meter: String,
    /// When it began, microseconds.
    #[serde(deserialize_with = "number")]
    pub time_us: i64,
    /// Whether a period is closed in it.
    pub closes: bool,
}

/// What was archived of a partition behind `after` and up to `to`: of all tenants, for the task that closes their
/// periods. Each state of an event counts, also one that a correction has taken back. So do events that close periods:
/// one that was on its way may stand there after somebody has found that nothing is to be said.
pub(crate) async fn seen(
    clickhouse: &ClickHouse,
    partition: u32,
    (after, to): (i64, i64),
) -> Result<Vec<Seen>, ApiError> {
    let mut statement = Statement::default();
    let partition = statement.bind("UInt32", partition.to_string());
    let [after, to] = [after, to].map(|number| statement.bind("Int64", number.to_string()));
    let own = format!("e.partition = {partition} AND e.position > {after} AND e.position <= {to}");
    let quarter = "intDiv(toUnixTimestamp64Micro(e.time), 900000000) * 900000000 AS time_us";
    let behind = CLOSING_TYPE.len() + 1;
    statement.sql = format!(
        "SELECT DISTINCT tenant_id, meter, time_us, closes FROM (
             SELECT e.tenant_id AS tenant_id, toString(meter) AS meter, {quarter}, false AS closes
             FROM usage_events AS e ARRAY JOIN e.lines.meter AS meter, e.lines.status AS status WHERE {own} AND status = 'observed'
             UNION ALL
             SELECT e.tenant_id AS tenant_id, substring(toString(e.type), {behind}) AS meter, {quarter}, true AS closes
             FROM usage_events AS e WHERE {own} AND startsWith(e.type, '{CLOSING_TYPE}'))
         ORDER BY tenant_id, meter, time_us, closes SETTINGS max_execution_time = 60"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// Whose quantities.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose<'a> {
    /// Of all teams of a partition.
    Partition(u32),
    /// Of one.
    Team(&'a str),
}

/// What a period of a meter comes to, by team and dimensions. `until_us` is the end of what counts: the period's,
/// or now.
pub(crate) async fn counted(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    (meter, measure): (&str, Measure),
    whose: Whose<'_>,
    (period, until_us): (&Period, i64),
) -> Result<Vec<Counted>, ApiError> {
    let mut statement = Statement::default();
    let start = statement.bind("Int64", period.start_us.to_string());
    let until = statement.bind("Int64", until_us.to_string());
    let carries_over = matches!(measure, Measure::TimeWeighted { .. });
    let from = if carries_over { None } else { Some(start.as_str()) };
    let observed = observed(&mut statement, tenant, meter, whose, (from, &until));
    let own = if measure == Measure::Unique {
        format!("mapFilter((name, text) -> name != '{UNIQUE_DIMENSION}', o.dimensions)")
    } else {
        "o.dimensions".to_owned()
    };
    let raw =
        |sum: &str| format!("toInt256(toDecimal256({sum}, 12) * toDecimal256('1000000000000', 0))");
    let (total, divisor) = match measure {
        Measure::Max => (raw("max(o.quantity)"), "toInt256(1)".to_owned()),
        Measure::Min => (raw("min(o.quantity)"), "toInt256(1)".to_owned()),
        Measure::Latest => (
            raw("argMax(o.quantity, (o.us, o.partition, o.position, o.place))"),
            "toInt256(1)".to_owned(),
        ),
        Measure::Average => {
            (raw("sum(toDecimal256(o.quantity, 12))"), "toInt256(count())".to_owned())
        }
        Measure::Unique => (
            format!(
                "toInt256(uniqExact(o.dimensions['{UNIQUE_DIMENSION}'])) * toInt256(1000000000000)"
            ),
            "toInt256(1)".to_owned(),
        ),
        Measure::TimeWeighted { divisor_us, .. } => {
            let divisor = statement.bind("Int64", divisor_us.to_string());
            let held = format!("greatest(least(o.next_us, {until}) - greatest(o.us, {start}), 0)");
            (
                format!("sum({} * toInt256({held}))", raw("o.quantity")),
                format!("toInt256({divisor})"),
            )
        }
    };
    // What is held after each change.
    let observed = if matches!(measure, Measure::TimeWeighted { changes: true, .. }) {
        format!(
            "SELECT * REPLACE (sum(toDecimal256(quantity, 12)) OVER (PARTITION BY team, toJSONString(dimensions) ORDER BY us, partition, position, place
                 ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS quantity) FROM ({observed})"
        )
    } else {
        observed
    };
    // Where each number holds until the next one of its team and dimensions.
    let observed = if carries_over {
        format!(
            "SELECT *, leadInFrame(us, 1, {until}) OVER (PARTITION BY team, toJSONString(dimensions) ORDER BY us, partition, position, place
                 ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_us FROM ({observed})"
        )
    } else {
        observed
    };
    statement.sql = format!(
        "SELECT o.team AS team, toJSONString({own}) AS dimensions, toString(intDiv({total}, {divisor})) AS whole,
             toString({total} % {divisor}) AS rest, toString({divisor}) AS parts, toInt64(countIf(o.us >= {start})) AS observations
         FROM ({observed}) AS o GROUP BY o.team, toJSONString({own}) ORDER BY team, dimensions SETTINGS max_execution_time = 600"
    );
    read_rows(statement.rows(clickhouse).await?)
}

/// Lines of a meter as they are now, of events from `from` (if any) up to `until`: what was corrected as it was
/// corrected, and what was taken back not at all.
fn observed(
    statement: &mut Statement,
    tenant: TenantScope,
    meter: &str,
    whose: Whose<'_>,
    (from, until): (Option<&str>, &str),
) -> String {
    let tenant = statement.bind("UUID", tenant.id().to_string());
    let meter = statement.bind("String", meter);
    let whose = match whose {
        Whose::Partition(partition) => {
            format!("partition = {}", statement.bind("UInt32", partition.to_string()))
        }
        Whose::Team(team) => format!("team = {}", statement.bind("String", team)),
    };
    let within = |time: &str| {
        let from =
            from.map(|from| format!(" AND {time} >= fromUnixTimestamp64Micro({from}, 'UTC')"));
        format!("{time} < fromUnixTimestamp64Micro({until}, 'UTC'){}", from.unwrap_or_default())
    };
    let of_meter = |meters: &str, statuses: &str| {
        format!("arrayFirstIndex((m, s) -> m = {meter} AND s = 'observed', {meters}, {statuses})")
    };
    let (first, again) =
        (of_meter("e.lines.meter", "e.lines.status"), of_meter("newest.4", "newest.5"));
    format!(
        "SELECT team, partition, position, place, us, quantities[line] AS quantity, kinds[line] AS dimensions FROM (
             SELECT e.team AS team, e.partition AS partition, e.position AS position, e.`index` AS place,
                 toUnixTimestamp64Micro(e.time) AS us, {first} AS line, e.lines.quantity AS quantities, e.lines.dimensions AS kinds
             FROM usage_events AS e
             WHERE e.tenant_id = {tenant} AND e.{whose} AND e.rating_run = 0 AND {} AND has(e.lines.meter, {meter}) AND line > 0
                 AND (e.partition, e.position, e.`index`) NOT IN (
                     SELECT partition, origin_position, origin_index FROM usage_events
                     WHERE tenant_id = {tenant} AND rating_run > 0 AND {whose})
             LIMIT 1 BY e.partition, e.position, e.`index`
             UNION ALL
             SELECT newest.2, partition, position, place, toUnixTimestamp64Micro(newest.3), {again} AS line, newest.6, newest.7
             FROM (
                 SELECT c.partition AS partition, c.origin_position AS position, c.origin_index AS place,
                     argMax((c.sign, c.team, c.time, c.lines.meter, c.lines.status, c.lines.quantity, c.lines.dimensions),
                         (c.rating_run, c.sign)) AS newest
                 FROM usage_events AS c WHERE c.tenant_id = {tenant} AND c.rating_run > 0 AND c.{whose}
                 GROUP BY partition, position, place)
             WHERE newest.1 > 0 AND {} AND line > 0)",
        within("e.time"),
        within("newest.3"),
    )
}
