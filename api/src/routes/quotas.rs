//! How much usage the tenant may report in a day or month.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use runtime::{http::Problem, postgres::scoped, task::now_us};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, Refusals},
    state::Api,
    store::quotas,
};

/// The largest quota that makes sense to set.
const EVENTS_MAX: i64 = 1_000_000_000_000_000;

/// How long a quota counts before it begins anew.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = QuotaPeriod)]
pub(crate) enum Period {
    /// A day, UTC.
    Day,
    /// A calendar month, UTC.
    Month,
}

impl Period {
    fn name(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}

/// A quota to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewQuota {
    /// How long it counts before it begins anew.
    period: Period,
    /// Events that may be accepted in it; null lifts the quota. It must be there: nothing is lifted
    /// by leaving it out.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    events: Option<i64>,
}

/// A quota and what is counted against it. Processes that take events hear of a quota, and of what
/// the others have accepted, within a second.
#[derive(Serialize, ToSchema)]
pub(crate) struct Quota {
    /// How long it counts before it begins anew: `day` or `month`, UTC.
    period: String,
    /// Events that may be accepted in it; null: no quota.
    events: Option<i64>,
    /// Events accepted in it, as of a second ago.
    used: i64,
    /// Events that are left; null without a quota.
    remaining: Option<i64>,
    /// What is used of it, in percent with two decimals, rounded down; null without a quota, or for one of zero.
    used_percent: Option<String>,
    /// Whether it is used up: nothing more is accepted.
    is_over_quota: bool,
    /// When it begins anew.
    resets_at: String,
}

/// The quotas of all periods, with what is counted against them.
async fn read(connection: &mut PgConnection, tenant: TenantScope) -> Result<Vec<Quota>, ApiError> {
    let set = quotas::quotas(connection, tenant).await?;
    let counted = quotas::counts(connection, tenant).await?;
    let now = Timestamp::from_microsecond(now_us()).map(|now| now.to_zoned(TimeZone::UTC));
    let now = now.map_err(|_| Problem::internal())?;
    let quota = |period: Period| {
        let name = period.name();
        let events = set.iter().find(|(known, _)| known == name).and_then(|(_, events)| *events);
        let used = counted.iter().find(|(known, _)| known == name).map_or(0, |(_, used)| *used);
        let (today, span) = match period {
            Period::Day => (now.date(), 1.day()),
            Period::Month => (now.date().first_of_month(), 1.month()),
        };
        let resets = today.checked_add(span).and_then(|date| date.to_zoned(TimeZone::UTC));
        let resets_at = resets.map_err(|_| Problem::internal())?.timestamp().as_microsecond();
        Ok(Quota {
            period: name.to_owned(),
            events,
            used,
            remaining: events.map(|events| events.saturating_sub(used).max(0)),
            used_percent: events.and_then(|events| percent(used, events)),
            is_over_quota: events.is_some_and(|events| used >= events),
            resets_at: time::format(resets_at),
        })
    };
    [Period::Day, Period::Month].into_iter().map(quota).collect()
}

/// So many of so many in percent, with two decimals, rounded down; `None` of nothing.
fn percent(part: i64, whole: i64) -> Option<String> {
    let hundredths = i128::from(part).checked_mul(10_000)?.checked_div(i128::from(whole))?;
    Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

async fn read_one(
    connection: &mut PgConnection,
    tenant: TenantScope,
    period: Period,
) -> Result<Quota, ApiError> {
    let quotas = read(connection, tenant).await?;
    let one = quotas.into_iter().find(|quota| quota.period == period.name());
    one.ok_or_else(|| Problem::internal().into())
}

/// The quotas of the tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Quotas {
    /// One per period, whether it is limited or not.
    items: Vec<Quota>,
}

/// Set a quota
///
/// Events beyond it are answered with 429 until the period is over or the quota is raised.
#[utoipa::path(put, path = "/v1/quotas", tag = "keys", params(IdempotencyKey), request_body = NewQuota,
    responses((status = 200, body = Quota), ChangeRefusals, Refusals))]
pub(crate) async fn set(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewQuota>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::LimitsWrite)?;
    if call.value.events.is_some_and(|events| !(0..=EVENTS_MAX).contains(&events)) {
        return Err(Problem::unprocessable(
            "quota_invalid",
            format!("events is not between 0 and {EVENTS_MAX}"),
            "give a number of events, or null to lift the quota",
        )
        .into());
    }
    idempotency::once(&api, tenant, call, move |connection, new: &NewQuota| {
        Box::pin(async move {
            let before = read_one(connection, tenant, new.period).await?;
            quotas::set(connection, tenant, new.period.name(), new.events).await?;
            let after = read_one(connection, tenant, new.period).await?;
            Made::new(StatusCode::OK, &after)?.instead_of(&before)
        })
    })
    .await
}

/// List quotas
#[utoipa::path(get, path = "/v1/quotas", tag = "keys", responses((status = 200, body = Quotas), Refusals))]
pub(crate) async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<Quotas>, ApiError> {
    let tenant = caller.may(Scope::LimitsWrite)?;
    let items = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        read(&mut transaction, tenant).await
    })
    .await?;
    Ok(Json(Quotas { items }))
}
