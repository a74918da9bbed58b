//! Usage in the order of time, line by line, from the archive; and from Postgres what changed a team's
//! wallets beside it.

use std::collections::BTreeMap;

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    events::number,
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError};

/// Times of entries, microseconds since 1970: years 1 to 9999. Postgres refuses what is far outside.
const TIMES_US: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

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
    pub after: Option<TimelinePlace>,
    pub limit: i64,
}

/// A place in the order of a time line, newest first. Of one instant usage comes first, then what
/// changed wallets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimelinePlace {
    /// Time, and what usage is ordered by at one time.
    pub usage: [i64; 7],
    /// What changes of wallets are ordered by at one time: wallet and sequence.
    pub change: (Uuid, i64),
}

impl TimelinePlace {
    /// Of a line of usage: all changes of wallets at its time come after it.
    pub fn of_line(row: &TimelineRow) -> Self {
        let usage = [
            row.time_us,
            row.partition.into(),
            row.position,
            row.index.into(),
            row.rating_run.into(),
            row.sign.into(),
            row.line_number.into(),
        ];
        Self { usage, change: (Uuid::max(), i64::MAX) }
    }

    /// Of a change of a wallet: no usage at its time comes after it.
    pub fn of_change(row: &WalletChange) -> Self {
        let usage = [row.time_us, -1, -1, -1, -1, -1, -1];
        Self { usage, change: (row.wallet_id, row.sequence) }
    }

    pub fn time_us(&self) -> i64 {
        let [time_us, ..] = self.usage;
        time_us
    }
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
        let bound = after.usage.map(|part| statement.bind("Int64", part.to_string()));
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

/// What changed a wallet and is no payment for usage.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct WalletChange {
    pub time_us: i64,
    pub wallet_id: Uuid,
    pub sequence: i64,
    pub grant_id: Option<Uuid>,
    pub reason: String,
    pub currency: String,
    /// What was added; negative where it was taken.
    pub amount: String,
}

/// What changed a team's wallets, newest first, but for settlements: they pay for usage that has lines.
pub(crate) async fn wallet_changes(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    question: &TimelineQuestion,
) -> Result<Vec<WalletChange>, ApiError> {
    let time = |time_us: i64| time_us.clamp(TIMES_US.0, TIMES_US.1);
    let after = question.after;
    let (wallet, sequence) = after.map_or((Uuid::max(), i64::MAX), |after| after.change);
    let rows = sqlx::query_as(
        "SELECT (extract(epoch FROM e.entered_at) * 1000000)::bigint AS time_us, w.wallet_id, e.sequence, e.grant_id, e.reason,
             w.currency, e.amount::text AS amount
         FROM wallets w CROSS JOIN LATERAL (
             SELECT * FROM wallet_entries e WHERE e.tenant_id = w.tenant_id AND e.wallet_id = w.wallet_id AND e.reason <> 'settlement'
                 AND e.entered_at >= 'epoch'::timestamptz + $3 * interval '1 microsecond'
                 AND e.entered_at < 'epoch'::timestamptz + $4 * interval '1 microsecond'
                 AND e.entered_at <= 'epoch'::timestamptz + $5 * interval '1 microsecond'
                 AND (e.entered_at, e.wallet_id, e.sequence) < ('epoch'::timestamptz + $5 * interval '1 microsecond', $6, $7)
             ORDER BY e.entered_at DESC, e.sequence DESC LIMIT $8) e
         WHERE w.tenant_id = $1 AND w.team = $2
         ORDER BY e.entered_at DESC, w.wallet_id DESC, e.sequence DESC LIMIT $8",
    )
    .bind(tenant.id())
    .bind(team)
    .bind(time(question.from_us.unwrap_or(i64::MIN)))
    .bind(time(question.to_us.unwrap_or(i64::MAX)))
    .bind(time(after.map_or(i64::MAX, |after| after.time_us())))
    .bind(wallet)
    .bind(sequence)
    .bind(question.limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
