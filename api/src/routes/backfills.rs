//! Backfills: history that is loaded as a unit, and can be taken back as one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{Extension, Json, extract::State, http::StatusCode};
use domain::{
    event::{BACKFILL_SOURCE, without_version},
    time,
};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{api_keys::Nothing, check_key, corrections, format_optional};
use crate::{
    auth::{Actor, Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    progress::{Posted, accepted, archived, has_reached, posted},
    state::Api,
    store::backfills::{self, BackfillRow, Loaded},
};

/// By then every ingest process that runs knows that it is open, or closed, or lets nobody in: its view of the tenants is
/// at most `ingest.lease_ms` old, 45 s, and an answer takes seconds.
const KNOWN_AFTER_S: u32 = 60;
/// Bytes of a key: a source has at most 256.
const KEY_BYTES_MAX: usize = 200;
/// How long books and archive are waited for, and how often they are asked.
const WHOLE_WAIT: Duration = Duration::from_secs(8);
const WHOLE_EVERY: Duration = Duration::from_millis(200);

/// A backfill to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBackfill {
    /// Its key: 1 to 200 bytes without control characters, and without a version (`/2`, `/v1.2`) at its end.
    #[schema(min_length = 1, max_length = 200)]
    backfill: String,
    /// Why, for people.
    reason: String,
}

/// A backfill.
#[derive(Serialize, ToSchema)]
pub(crate) struct Backfill {
    /// Its key.
    backfill: String,
    /// The source that its events have. Others have another.
    source: String,
    /// Why.
    reason: String,
    /// `open` (its events are taken), `closed` (they are not), `reverting` (the correction that takes it back is being
    /// previewed, posted, or waits for either) or `reverted`.
    state: String,
    /// The newest correction that takes it back: look at its preview, then post it.
    correction: Option<String>,
    /// Events that took effect, as the archive has them; null in lists.
    events: Option<u64>,
    /// Events that did not: duplicates, conflicts, rejected ones; null in lists.
    others: Option<u64>,
    /// Who opened it.
    created_by: String,
    /// When it was opened. Every ingest process knows it at most a minute later.
    opened_at: String,
    /// When it was closed.
    closed_at: Option<String>,
}

fn source_of(backfill: &str) -> String {
    format!("{BACKFILL_SOURCE}{backfill}")
}

impl Backfill {
    fn of(row: BackfillRow, loaded: Option<Loaded>) -> Self {
        let state = match row.correction_state.as_deref() {
            Some("posted") => "reverted".to_owned(),
            Some("previewing" | "previewed" | "posting" | "confirming") => "reverting".to_owned(),
            _ => row.state,
        };
        Self {
            source: source_of(&row.backfill),
            backfill: row.backfill,
            reason: row.reason,
            state,
            correction: row.correction_id.map(|id| id.to_string()),
            events: loaded.as_ref().map(|loaded| loaded.events.unsigned_abs()),
            others: loaded.map(|loaded| loaded.others.unsigned_abs()),
            created_by: row.created_by,
            opened_at: time::format(row.opened_at_us),
            closed_at: format_optional(row.closed_at_us),
        }
    }
}

async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    key: &str,
) -> Result<BackfillRow, ApiError> {
    let rows =
        backfills::rows(connection, tenant, Some(key), None, f64::from(KNOWN_AFTER_S)).await?;
    let row = rows.into_iter().next().ok_or_else(|| {
        Problem::not_found(
            "backfill_unknown",
            format!("there is no backfill `{key}`"),
            "list them: GET /v1/backfills",
        )
    })?;
    Ok(row)
}

/// Open a backfill
///
/// Send its events with the `source` that the answer names; they are taken, late or not, until it is closed, and can be
/// taken back together. At most a minute passes until every ingest process knows it.
#[utoipa::path(post, path = "/v1/backfills", tag = "corrections", params(IdempotencyKey), request_body = NewBackfill,
    responses((status = 201, body = Backfill), ChangeRefusals, Refusals))]
pub(crate) async fn open(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    call: Call<NewBackfill>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    check_backfill_key(&call.value.backfill)?;
    corrections::check_reason(&call.value.reason)?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewBackfill| {
        let by = actor.id.clone();
        Box::pin(async move {
            let named = (new.backfill.as_str(), new.reason.as_str());
            if !backfills::insert(connection, tenant, named, &by).await? {
                return Err(Problem::conflict(
                    "backfill_exists",
                    format!("there is a backfill `{}`", new.backfill),
                    "choose another key: each is opened once",
                )
                .into());
            }
            let row = find(connection, tenant, &new.backfill).await?;
            Made::new(StatusCode::CREATED, &Backfill::of(row, None))
        })
    })
    .await
}

fn check_backfill_key(key: &str) -> Result<(), Problem> {
    let source = source_of(key);
    let detail = if key.len() > KEY_BYTES_MAX {
        format!("backfill is longer than {KEY_BYTES_MAX} bytes")
    } else if without_version(&source) != source {
        // Events of two such keys would repeat one another.
        "backfill ends like a version: a slash, then a digit or `v` and a digit".to_owned()
    } else {
        return check_key("backfill", key);
    };
    let problem = Problem::unprocessable("key_invalid", detail, "choose another");
    Err(problem.with("field", "backfill"))
}

/// List backfills
#[utoipa::path(get, path = "/v1/backfills", tag = "corrections", params(PageQuery), responses((status = 200, body = Page<Backfill>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Backfill>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let settled_s = f64::from(KNOWN_AFTER_S);
        backfills::rows(&mut transaction, tenant, None, Some(asked), settled_s).await
    })
    .await?;
    let items = rows.into_iter().map(|row| Backfill::of(row, None)).collect();
    Ok(Json(page(asked, items, |one: &Backfill| vec![one.backfill.clone()])))
}

/// Read a backfill
///
/// With the events that the archive has of it.
#[utoipa::path(get, path = "/v1/backfills/{backfill}", tag = "corrections", params(("backfill" = String, Path, description = "Its key")),
    responses((status = 200, body = Backfill), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Backfill>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let asked = key.as_str();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        find(&mut transaction, tenant, asked).await
    })
    .await?;
    let loaded = backfills::loaded(&api.clickhouse, tenant, &source_of(&key)).await?;
    Ok(Json(Backfill::of(row, Some(loaded))))
}

/// Close a backfill
///
/// Its events are refused from then on, by every ingest process within a minute.
#[utoipa::path(post, path = "/v1/backfills/{backfill}/close", tag = "corrections", params(IdempotencyKey, ("backfill" = String, Path, description = "Its key")),
    responses((status = 200, body = Backfill), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn close(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    idempotency::once(&api, tenant, call, move |connection, _: &Nothing| {
        let key = key.clone();
        Box::pin(async move {
            find(connection, tenant, &key).await?;
            if !backfills::close(connection, tenant, &key).await? {
                return Err(Problem::conflict(
                    "backfill_not_open",
                    "the backfill is closed already",
                    "nothing has to be done",
                )
                .into());
            }
            let row = find(connection, tenant, &key).await?;
            Made::new(StatusCode::OK, &Backfill::of(row, None))
        })
    })
    .await
}

/// Revert a backfill
///
/// Begins the preview of a correction that takes back every event of it: look at `GET /v1/corrections/{correction}`, then
/// post it. The backfill must have been closed a minute ago, and the archive must have all of it. Once that correction is
/// posted, another revert takes back what it left, if it left anything.
#[utoipa::path(post, path = "/v1/backfills/{backfill}/revert", tag = "corrections", params(IdempotencyKey, ("backfill" = String, Path, description = "Its key")),
    responses((status = 202, body = Backfill), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn revert(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    let asked = key.as_str();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        find(&mut transaction, tenant, asked).await
    })
    .await?;
    // What is refused anyway need not wait.
    let whole = check_revert(&row, true).is_ok() && is_whole(&api, tenant).await?;
    let filter = corrections::filter::Filter::of_source(source_of(&key));
    let reason = format!("the backfill `{key}` is reverted");
    let new = corrections::begin(&api, tenant, "void", (&filter, &reason), (None, &actor)).await?;
    idempotency::once(&api, tenant, call, move |connection, _: &Nothing| {
        let (key, new) = (key.clone(), new.clone());
        Box::pin(async move {
            let row = find(connection, tenant, &key).await?;
            check_revert(&row, whole)?;
            corrections::add(connection, tenant, &new).await?;
            if !backfills::revert(connection, tenant, &key, (row.correction_id, new.id)).await? {
                return Err(reverting(&row).into());
            }
            let row = find(connection, tenant, &key).await?;
            Made::new(StatusCode::ACCEPTED, &Backfill::of(row, None))
        })
    })
    .await
}

fn reverting(row: &BackfillRow) -> Problem {
    let problem = Problem::conflict(
        "backfill_reverting",
        "a correction takes it back already",
        "go on with that one: look at its preview, then post or cancel it",
    );
    match row.correction_id {
        Some(id) => problem.with("correction", id.to_string()),
        None => problem,
    }
}

fn check_revert(row: &BackfillRow, whole: bool) -> Result<(), Problem> {
    // One that has ended may have left something: the preview of another shows what.
    if !matches!(row.correction_state.as_deref(), None | Some("failed" | "cancelled" | "posted")) {
        return Err(reverting(row));
    }
    if row.state == "open" {
        return Err(Problem::conflict(
            "backfill_open",
            "its events are still taken",
            "close it first, and revert it a minute later",
        ));
    }
    if !row.settled || !whole {
        return Err(Problem::conflict(
            "backfill_closing",
            "events of it may still be on their way into the archive",
            "ask again in a minute",
        ));
    }
    Ok(())
}

/// Whether books, slow lane and archive have all that was accepted up to now; waits a while for them.
async fn is_whole(api: &Api, tenant: TenantScope) -> Result<bool, ApiError> {
    let deadline = Instant::now() + WHOLE_WAIT;
    // Twice: the copy that the slow lane appends of a late event may have to pass it once more.
    for _ in 0..2 {
        if !are_answered(api, tenant, deadline).await? {
            return Ok(false);
        }
        let wanted = accepted(api).await?;
        while !has_reached(&archived(api).await?, &wanted) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(WHOLE_EVERY).await;
        }
    }
    Ok(true)
}

/// Whether everything accepted up to now is posted, and the slow lane has answered what came late of it.
async fn are_answered(api: &Api, tenant: TenantScope, deadline: Instant) -> Result<bool, ApiError> {
    let wanted = accepted(api).await?;
    let mut forwarded: Option<BTreeMap<u32, u64>> = None;
    loop {
        let posted = posted(api, tenant).await?;
        let reached = posted.iter().map(|(partition, one)| (*partition, one.row.x)).collect();
        if forwarded.is_none() && has_reached(&reached, &wanted) {
            let late = |(partition, one): (&u32, &Posted)| (*partition, one.counts.forwarded);
            forwarded = Some(posted.iter().map(late).collect());
        }
        let is_answered = |(partition, late): (&u32, &u64)| {
            posted.get(partition).is_some_and(|one| one.answered >= *late)
        };
        if forwarded.as_ref().is_some_and(|forwarded| forwarded.iter().all(is_answered)) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(WHOLE_EVERY).await;
    }
}
