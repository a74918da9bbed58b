//! Time lines: when a user or a team used what service, and how much; and what was added to the team's
//! wallets, and left them.

use std::{cmp::Reverse, collections::BTreeMap};

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    events::{receipt, some, time_optional},
    no_team,
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    openapi::{NotFound, Refusals},
    page::{Asked, Page, asked, cursor_invalid, page},
    state::Api,
    store::{
        events::EventPlace,
        teams,
        timeline::{self, TimelinePlace, TimelineQuestion, TimelineRow, WalletChange},
    },
};

/// Parts of the cursor: the order of usage, then wallet and sequence.
const CURSOR_PARTS: usize = 9;

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
    /// Only usage, reported by this app.
    app: Option<String>,
    /// Only usage, of this feature.
    feature: Option<String>,
    /// Only usage, of events of this type.
    r#type: Option<String>,
    /// Only usage, of this meter.
    meter: Option<String>,
    /// First time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last time, RFC 3339, exclusive.
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
    /// A service was used, negative where usage was taken back; or a call took something out of a
    /// wallet, without an event.
    Consumption,
    /// Something was added to a wallet: a grant, or what usage had been paid that was taken back.
    Addition,
    /// Something left a wallet unused: it expired, was voided or was paid back.
    Removal,
}

/// One entry of a time line.
#[derive(Serialize, ToSchema)]
pub(crate) struct TimelineEntry {
    /// When: the time of the event, or when the wallet changed.
    time: String,
    /// What it is; programs must expect further kinds.
    kind: Kind,
    /// What was used; null for what is no event.
    service: Option<Service>,
    /// How much, in the unit.
    quantity: String,
    /// What one of the quantity is; of a wallet its currency.
    unit: String,
    /// What it is charged, null where no price is known; or how much a wallet was changed by.
    amount: Option<String>,
    /// Currency of the amount.
    currency: Option<String>,
    /// The team.
    team: String,
    /// The user; null for what is no event.
    user: Option<String>,
    /// Of usage: the client's id of the event.
    event_id: Option<String>,
    /// Of usage: receipt of the event, which has more about it.
    receipt: Option<String>,
    /// Of a wallet: the grant that was added to, or taken from.
    grant: Option<Uuid>,
    /// Of a wallet: `grant`, `reversal`, `consumption`, `breakage` or `refund`; more may come.
    reason: Option<String>,
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

/// The decimals of a store in the form that is used everywhere else.
fn plain(text: String) -> String {
    Amount::parse_sum(&text).map_or(text, |amount| amount.to_string())
}

fn usage(row: TimelineRow) -> TimelineEntry {
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
        grant: None,
        reason: None,
    }
}

/// What a wallet was changed by. The kind says in which direction; the amount never is negative.
fn change(team: &str, row: WalletChange) -> TimelineEntry {
    let (kind, amount) = match row.amount.strip_prefix('-') {
        None => (Kind::Addition, row.amount.as_str()),
        Some(taken) if row.reason == "consumption" => (Kind::Consumption, taken),
        Some(taken) => (Kind::Removal, taken),
    };
    let amount = plain(amount.to_owned());
    TimelineEntry {
        time: time::format(row.time_us),
        kind,
        service: None,
        quantity: amount.clone(),
        unit: row.currency.clone(),
        amount: Some(amount),
        currency: Some(row.currency),
        team: team.to_owned(),
        user: None,
        event_id: None,
        receipt: None,
        grant: row.grant_id,
        reason: Some(row.reason),
    }
}

/// An entry and its place.
type Placed = (TimelinePlace, TimelineEntry);

fn cursor_of((place, _): &Placed) -> Vec<String> {
    let TimelinePlace { usage, change: (wallet, sequence) } = place;
    let usage = usage.map(|part| part.to_string());
    usage.into_iter().chain([wallet.to_string(), sequence.to_string()]).collect()
}

fn cursor(asked: &Asked) -> Result<Option<TimelinePlace>, Problem> {
    let usage: Option<Vec<i64>> =
        (0..7).map(|place| asked.after_number(place)).collect::<Result<_, _>>()?;
    let usage = usage.and_then(|usage| usage.try_into().ok());
    let wallet = asked.after(7).map(Uuid::parse_str).transpose().map_err(|_| cursor_invalid())?;
    let change = wallet.zip(asked.after_number(8)?);
    Ok(usage.zip(change).map(|(usage, change)| TimelinePlace { usage, change }))
}

/// Both in one order: usage first where times are the same.
fn merge(lines: Vec<TimelineRow>, changes: Vec<WalletChange>, team: &str) -> Vec<Placed> {
    let lines = lines.into_iter().map(|row| (TimelinePlace::of_line(&row), usage(row)));
    let mut all: Vec<Placed> = lines.collect();
    let changes = changes.into_iter();
    all.extend(changes.map(|row| (TimelinePlace::of_change(&row), change(team, row))));
    all.sort_by_key(|(place, _)| Reverse(place.time_us()));
    all
}

/// `wallets_of` is the team whose wallets are wanted too.
async fn answer(
    api: &Api,
    tenant: TenantScope,
    query: TimelineQuery,
    wallets_of: Option<String>,
) -> Result<Json<Page<TimelineEntry>>, ApiError> {
    let asked = asked(query.limit, query.cursor.as_deref(), CURSOR_PARTS)?;
    let usage_only = [&query.app, &query.feature, &query.r#type, &query.meter];
    let usage_only = usage_only.into_iter().any(Option::is_some);
    let team = wallets_of.filter(|_| !usage_only);
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
    let lines = timeline::lines(&api.clickhouse, tenant, &question).await?;
    let changes = match &team {
        Some(team) => {
            let (team, question) = (team, &question);
            scoped(&api.pool, tenant.id(), |mut transaction| async move {
                timeline::wallet_changes(&mut transaction, tenant, team, question).await
            })
            .await?
        }
        None => Vec::new(),
    };
    let entries = merge(lines, changes, &team.unwrap_or_default());
    let found = page(&asked, entries, cursor_of);
    let items = found.items.into_iter().map(|(_, entry)| entry).collect();
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
/// by their usage; one without any has an empty time line. Where a team has the user's own name, it is
/// theirs alone: what was added to its wallets, and left them, is listed as well. The wallets of other
/// teams are not the user's. Filters of usage (`app`, `feature`, `type`, `meter`) leave wallets out, and so
/// does `team` where it names another team.
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
    let own = query.user.clone().filter(|user| query.team.as_ref().is_none_or(|team| team == user));
    answer(&api, tenant, query, own).await
}

/// Read a team's time line
///
/// When the team's users used what service, and how much, newest first; and when what was added to the
/// team's wallets, or left them other than for that usage: by a call, by expiry, or paid back. A payment
/// for usage is not listed again. Filters of usage (`user`, `app`, `feature`, `type`, `meter`) leave wallets
/// out.
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
    query.team = Some(team.clone());
    let wallets_of = Some(team).filter(|_| query.user.is_none());
    answer(&api, tenant, query, wallets_of).await
}
