//! Time lines: when a user or a team used what service, and how much.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    events::{receipt, some, time_optional},
    no_team,
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    openapi::{NotFound, Refusals},
    page::{Asked, Page, asked, page},
    state::Api,
    store::{
        events::EventPlace,
        teams,
        timeline::{self, TimelineQuestion, TimelineRow},
    },
};

/// Parts of the cursor: the order of the list.
const CURSOR_PARTS: usize = 7;

/// Which part of a time line.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimelineQuery {
    /// Of a user: only usage of this team. Each route documents the one that is not in its path.
    #[param(ignore)]
    team: Option<String>,
    /// Of a team: only usage of this user.
    #[param(ignore)]
    user: Option<String>,
    /// Reported by this app.
    app: Option<String>,
    /// Of this feature.
    feature: Option<String>,
    /// Of events of this type.
    r#type: Option<String>,
    /// Of this meter.
    meter: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Entries of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TimelineKind)]
pub(crate) enum Kind {
    /// A service was used; negative where usage was taken back.
    Consumption,
}

/// One entry of a time line.
#[derive(Serialize, ToSchema)]
pub(crate) struct TimelineEntry {
    /// When.
    time: String,
    /// What it is; programs must expect further kinds.
    kind: Kind,
    /// What was used; null for what is no usage.
    service: Option<Service>,
    /// How much, in the unit.
    quantity: String,
    /// What one of the quantity is.
    unit: String,
    /// What it is charged; null where no price is known.
    amount: Option<String>,
    /// Currency of the amount.
    currency: Option<String>,
    /// The team.
    team: String,
    /// The user.
    user: Option<String>,
    /// Of usage: the client's id of the event.
    event_id: Option<String>,
    /// Of usage: receipt of the event, which has more about it.
    receipt: Option<String>,
}

/// A service that was used.
#[derive(Serialize, ToSchema)]
#[schema(as = TimelineService)]
pub(crate) struct Service {
    /// Type of the event.
    r#type: String,
    /// The meter.
    meter: String,
    /// Values that the price depends on, such as provider and model.
    dimensions: BTreeMap<String, String>,
    /// The app that reported it.
    app: Option<String>,
    /// The feature.
    feature: Option<String>,
}

fn entry(row: TimelineRow) -> TimelineEntry {
    // The archive's decimals in the form that is used everywhere else.
    let plain = |text: String| Amount::parse_exact(&text).map_or(text, |amount| amount.to_string());
    let place = EventPlace { partition: row.partition, position: row.position, index: row.index };
    let priced = row.status != "unpriced";
    TimelineEntry {
        time: time::format(row.time_us),
        kind: Kind::Consumption,
        service: Some(Service {
            r#type: row.event_type,
            meter: row.meter,
            dimensions: row.dimensions,
            app: some(row.app),
            feature: some(row.feature),
        }),
        quantity: plain(row.quantity),
        unit: row.unit,
        amount: row.charge.filter(|_| priced).map(plain),
        currency: some(row.currency),
        team: row.team,
        user: some(row.user),
        event_id: some(row.event_id),
        receipt: Some(receipt(place)),
    }
}

fn cursor_of(row: &TimelineRow) -> Vec<String> {
    let parts: [i64; CURSOR_PARTS] = [
        row.time_us,
        row.partition.into(),
        row.position,
        row.index.into(),
        row.rating_run.into(),
        row.sign.into(),
        row.line_number.into(),
    ];
    parts.map(|part| part.to_string()).into()
}

fn cursor(asked: &Asked) -> Result<Option<[i64; CURSOR_PARTS]>, Problem> {
    let parts = (0..CURSOR_PARTS).map(|place| asked.after_number(place));
    let parts: Option<Vec<i64>> = parts.collect::<Result<_, _>>()?;
    Ok(parts.and_then(|parts| parts.try_into().ok()))
}

async fn answer(
    api: &Api,
    tenant: TenantScope,
    query: TimelineQuery,
) -> Result<Json<Page<TimelineEntry>>, ApiError> {
    let asked = asked(query.limit, query.cursor.as_deref(), CURSOR_PARTS)?;
    let question = TimelineQuestion {
        from_us: time_optional("from", query.from.as_ref())?,
        to_us: time_optional("to", query.to.as_ref())?,
        team: query.team,
        user: query.user,
        app: query.app,
        feature: query.feature,
        event_type: query.r#type,
        meter: query.meter,
        after: cursor(&asked)?,
        limit: asked.rows(),
    };
    let rows = timeline::lines(&api.clickhouse, tenant, &question).await?;
    let found = page(&asked, rows, cursor_of);
    let items = found.items.into_iter().map(entry).collect();
    Ok(Json(Page { items, next_cursor: found.next_cursor }))
}

/// The path and the query name the same thing.
fn named_twice(field: &str) -> Problem {
    Problem::bad_request(
        "query_invalid",
        format!("`{field}` is in the path already"),
        "leave it out of the query",
    )
}

/// Read a user's time line
///
/// When the user used what service, and how much, newest first, in whatever team. A user is known
/// by their usage; one without any has an empty time line.
#[utoipa::path(get, path = "/v1/users/{user}/timeline", tag = "usage", params(TimelineQuery, ("user" = String, Path, description = "The user, as events name them"),
    ("team" = Option<String>, Query, description = "Only usage of this team")),
    responses((status = 200, body = Page<TimelineEntry>), Refusals))]
pub(crate) async fn of_user(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<String>,
    Query(mut query): Query<TimelineQuery>,
) -> Result<Json<Page<TimelineEntry>>, ApiError> {
    let tenant = caller.may_filter(Scope::UsageRead, &mut query.team)?;
    if query.user.replace(user).is_some() {
        return Err(named_twice("user").into());
    }
    answer(&api, tenant, query).await
}

/// Read a team's time line
///
/// When the team's users used what service, and how much, newest first.
#[utoipa::path(get, path = "/v1/teams/{team}/timeline", tag = "usage", params(TimelineQuery, ("team" = String, Path, description = "Key of the team"),
    ("user" = Option<String>, Query, description = "Only usage of this user")),
    responses((status = 200, body = Page<TimelineEntry>), NotFound, Refusals))]
pub(crate) async fn of_team(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    Query(mut query): Query<TimelineQuery>,
) -> Result<Json<Page<TimelineEntry>>, ApiError> {
    let tenant = caller.may_of(Scope::UsageRead, &team)?;
    if query.team.is_some() {
        return Err(named_twice("team").into());
    }
    let named = &team;
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let found = teams::find(&mut transaction, tenant, named).await?;
        found.ok_or_else(|| ApiError::from(no_team(named)))
    })
    .await?;
    query.team = Some(team);
    answer(&api, tenant, query).await
}
