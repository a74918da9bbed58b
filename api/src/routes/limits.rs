//! How fast usage may be reported: limits of the tenant, and of single keys and secrets.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{http::Problem, postgres::scoped};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check_key;
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::limits::{self, LimitRow},
};

/// The highest rate and burst that make sense to set.
const EVENTS_MAX: i64 = 1_000_000_000;
/// A burst that nobody names lets a full request through.
const BURST_DEFAULT: i64 = 10_000;

/// A limit to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLimit {
    /// Public id of an API key or an app's secret; absent for the tenant as a whole.
    #[serde(default)]
    credential: Option<String>,
    /// Accepted events of a second, on average; null lifts the limit. It must be there: nothing is
    /// lifted by leaving it out.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    events_per_second: Option<i64>,
    /// Events at once after a pause, and of one request at most; the rate or 10000 if absent,
    /// whichever is more.
    #[serde(default)]
    burst: Option<i64>,
}

/// A limit. It holds in each process that takes events, from a second later on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Limit {
    /// Whose it is; null for the tenant as a whole.
    credential: Option<String>,
    /// Accepted events of a second, on average; null: no limit.
    events_per_second: Option<i64>,
    /// Events at once.
    burst: Option<i64>,
    /// When it was set.
    changed_at: String,
}

impl From<LimitRow> for Limit {
    fn from(row: LimitRow) -> Self {
        Self {
            credential: Some(row.credential).filter(|credential| !credential.is_empty()),
            events_per_second: row.events_per_second,
            burst: row.burst,
            changed_at: time::format(row.changed_at_us),
        }
    }
}

/// Set a limit
#[utoipa::path(put, path = "/v1/limits", tag = "keys", params(IdempotencyKey), request_body = NewLimit,
    responses((status = 200, body = Limit), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn set(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewLimit>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::LimitsWrite)?;
    let limit = checked(&call.value)?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewLimit| {
        Box::pin(async move {
            let credential = new.credential.as_deref().unwrap_or_default();
            if !credential.is_empty()
                && !limits::has_credential(connection, tenant, credential).await?
            {
                return Err(Problem::not_found(
                    "credential_unknown",
                    "there is no API key and no app's secret of this id",
                    "list the API keys, or the secrets of the app",
                )
                .into());
            }
            let before = limits::find(connection, tenant, credential).await?.map(Limit::from);
            let after = limits::set(connection, tenant, credential, limit).await?;
            let made = Made::new(StatusCode::OK, &Limit::from(after))?;
            match before {
                Some(before) => made.instead_of(&before),
                None => Ok(made),
            }
        })
    })
    .await
}

fn checked(new: &NewLimit) -> Result<Option<(i64, i64)>, Problem> {
    if let Some(credential) = &new.credential {
        check_key("credential", credential)?;
    }
    let burst = match (new.events_per_second, new.burst) {
        (None, None) => return Ok(None),
        (Some(rate), None) => Some(rate.max(BURST_DEFAULT)),
        (_, burst) => burst,
    };
    let limit = new.events_per_second.zip(burst).filter(|(rate, burst)| {
        (1..=EVENTS_MAX).contains(rate) && (1..=EVENTS_MAX).contains(burst)
    });
    limit.map(Some).ok_or_else(|| {
        Problem::unprocessable(
            "rate_limit_invalid",
            format!("events_per_second and burst are not between 1 and {EVENTS_MAX}"),
            "give both, or events_per_second null without a burst to lift the limit",
        )
    })
}

/// List limits
///
/// What is not listed is not limited.
#[utoipa::path(get, path = "/v1/limits", tag = "keys", params(PageQuery), responses((status = 200, body = Page<Limit>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Limit>>, ApiError> {
    let tenant = caller.may(Scope::LimitsWrite)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        limits::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.into_iter().map(Limit::from).collect();
    let place = |limit: &Limit| vec![limit.credential.clone().unwrap_or_default()];
    Ok(Json(page(asked, items, place)))
}
