//! Rejected events: listed with their reason, corrected, and sent again through the door of ingest.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use domain::time;
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::{IntoParams, ToSchema};

use super::events::{
    Event, answer, cursor, cursor_of, event_of, read_receipt, receipt, time_optional, unknown,
};
use crate::{
    auth::{Actor, Caller, Scope, TenantScope, presented},
    door::{Fate, busy},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotConfigured, NotFound, Refusals},
    page::{Page, asked, encode},
    state::Api,
    store::{
        events::{self, EventPlace, EventQuestion, EventRow, Table},
        rejected_events::{self, NewReinjection, ReinjectionRow},
    },
};

mod compose;

pub(crate) use compose::compose;

/// Events that one call sends again unless asked otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Events that one call sends again at most: it must end within a request's time.
const LIMIT_MAX: u32 = 1_000;
/// Bytes that one request to ingest carries; it takes 4 MiB.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Rejected events that are read at once.
const READ_ROWS: i64 = 200;
/// Rejected events that one call looks at; the next one goes on from there.
const SCAN_MAX: usize = 20_000;
/// Rejected events that a dry run counts.
const COUNT_MAX: usize = 100_000;
/// Places that a dry run reads at once.
const COUNT_ROWS: i64 = 10_000;

/// Which rejected events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejectedQuery {
    /// Of this team.
    team: Option<String>,
    /// With this reason; `duplicate` and `conflict` are reasons as well.
    reason: Option<String>,
    /// `rejected` (cannot be rated), `duplicate` or `conflict`.
    outcome: Option<String>,
    /// Of this type.
    r#type: Option<String>,
    /// Of this source, as sent.
    source: Option<String>,
    /// Reported by this app.
    app: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Events of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// An event that took no effect, and whether it was sent again.
#[derive(Serialize, ToSchema)]
pub(crate) struct RejectedEvent {
    /// The event.
    #[serde(flatten)]
    event: Event,
    /// `open`: it can be corrected and sent again; `reinjected`: it was. Null for duplicates and
    /// conflicts, which need no correction: the first one counts.
    state: Option<String>,
    /// When and how it was sent again.
    reinjection: Option<Reinjection>,
    /// Every byte of what was sent, in base 64; only of a single event.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
}

/// An event that was sent again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reinjection {
    /// Receipt of the event that was sent: what became of it is there.
    receipt: String,
    /// Whether it was corrected, or sent as it was.
    corrected: bool,
    /// Who sent it: the public id of an API key or of an app's secret.
    reinjected_by: String,
    /// When.
    reinjected_at: String,
}

impl From<&ReinjectionRow> for Reinjection {
    fn from(row: &ReinjectionRow) -> Self {
        Self {
            receipt: row.receipt.clone(),
            corrected: row.corrected,
            reinjected_by: row.reinjected_by.clone(),
            reinjected_at: time::format(row.reinjected_at_us),
        }
    }
}

fn rejected(event: Event, place: Option<&ReinjectionRow>) -> RejectedEvent {
    let state = match (event.status.as_str(), place) {
        ("rejected", None) => Some("open".to_owned()),
        ("rejected", Some(_)) => Some("reinjected".to_owned()),
        _ => None,
    };
    RejectedEvent { event, state, reinjection: place.map(Reinjection::from), raw_base64: None }
}

/// List rejected events
///
/// Events that took no effect, newest first: those that cannot be rated, with their reason, and
/// duplicates and conflicts.
#[utoipa::path(get, path = "/v1/rejected-events", tag = "usage", params(RejectedQuery), responses((status = 200, body = Page<RejectedEvent>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(mut query): Query<RejectedQuery>,
) -> Result<Json<Page<RejectedEvent>>, ApiError> {
    let tenant = caller.may_filter(Scope::UsageRead, &mut query.team)?;
    let asked = asked(query.limit, query.cursor.as_deref(), 4)?;
    let question = EventQuestion {
        from_us: time_optional("from", query.from.as_ref())?,
        to_us: time_optional("to", query.to.as_ref())?,
        team: query.team,
        reason: query.reason,
        outcome: query.outcome,
        event_type: query.r#type,
        source: query.source,
        app: query.app,
        after: cursor(&asked)?,
        limit: asked.rows(),
        ..EventQuestion::default()
    };
    let rows = events::list(&api.clickhouse, tenant, Table::Other, &question).await?;
    let found = answer(&api, tenant, &asked, rows).await?;
    let receipts = found.items.iter().filter_map(|event| read_receipt(&event.receipt));
    let places: &Vec<EventPlace> = &receipts.collect();
    let states = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        rejected_events::reinjections(&mut transaction, tenant, places).await
    })
    .await?;
    let item = |event: Event| {
        let place = read_receipt(&event.receipt);
        rejected(event, place.and_then(|place| states.get(&place)))
    };
    let items = found.items.into_iter().map(item).collect();
    Ok(Json(Page { items, next_cursor: found.next_cursor }))
}

/// Read a rejected event
///
/// With every byte of what was sent.
#[utoipa::path(get, path = "/v1/rejected-events/{receipt}", tag = "usage", params(("receipt" = String, Path, description = "partition:position:index", example = "3:1042:0")),
    responses((status = 200, body = RejectedEvent), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<RejectedEvent>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let place = read_receipt(&text).ok_or_else(unknown)?;
    let mut row = row_at(&api, tenant, place).await?;
    let place = row.place();
    let places = &[place];
    let states = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        rejected_events::reinjections(&mut transaction, tenant, places).await
    })
    .await?;
    let bytes = std::mem::take(&mut row.raw_base64);
    let event = event_of(&api, tenant, row).await?;
    Ok(Json(RejectedEvent { raw_base64: Some(bytes), ..rejected(event, states.get(&place)) }))
}

async fn row_at(api: &Api, tenant: TenantScope, place: EventPlace) -> Result<EventRow, ApiError> {
    for question in [EventQuestion::at(place), EventQuestion::copy_of(place)] {
        let question = EventQuestion { bytes: true, ..question };
        let row = events::first(&api.clickhouse, tenant, &[Table::Other], &question).await?;
        if let Some(row) = row {
            return Ok(row);
        }
    }
    Err(Problem::not_found(
        "event_unknown",
        "there is no rejected event of this receipt",
        "check the receipt: GET /v1/rejected-events lists them",
    )
    .into())
}

/// The header by which the caller is known; ingest shall know it by the same credential.
fn credential(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let bearer = format!("Bearer {}", presented(headers)?);
    HeaderValue::from_str(&bearer).map_err(|_| {
        Problem::unauthorized(
            "key_malformed",
            "the credential cannot stand in a header",
            "copy the key again, whole",
        )
    })
}

/// Send a rejected event again
///
/// As the body says, or unchanged if there is none: after the catalog was corrected, for example.
/// The event goes through the same door as any other, with the caller's own credential, which
/// needs `events:write`. It keeps its id and source, and its time unless it says another. Its
/// rejection stays and gets the state `reinjected`.
#[utoipa::path(post, path = "/v1/rejected-events/{receipt}/reinject", tag = "usage", params(IdempotencyKey, ("receipt" = String, Path, description = "partition:position:index", example = "3:1042:0")),
    request_body(content = Option<serde_json::Value>, description = "The corrected event, as `POST /v1/events` takes it; none to send it as it was"),
    responses((status = 200, body = Reinjection), NotFound, NotConfigured, ChangeRefusals, Refusals))]
pub(crate) async fn reinject(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Path(text): Path<String>,
    call: Call<Box<RawValue>>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let place = read_receipt(&text).ok_or_else(unknown)?;
    let sender = Sender::of(&api, tenant, &headers, actor).await?;
    let call = call.map(|event| event.get().to_owned());
    idempotency::once(&api, tenant, call, move |connection, event: &String| {
        let sender = sender.clone();
        Box::pin(async move {
            wait_for_others(connection, tenant).await?;
            let row = row_at(&sender.api, tenant, place).await?;
            let place = row.place();
            check_open(connection, tenant, place, &row).await?;
            let corrected = Some(event.as_str()).filter(|text| *text != "{}");
            let text = compose(&row, corrected)?;
            let fates = sender.send(std::slice::from_ref(&text)).await?;
            match fates.into_iter().next().unwrap_or(Fate::Unknown) {
                Fate::Accepted { receipt } => {
                    sender.record(connection, place, &receipt, corrected.is_some()).await?;
                    let kept = rejected_events::reinjections(connection, tenant, &[place]).await?;
                    let kept = kept.get(&place).map(Reinjection::from);
                    Made::new(StatusCode::OK, &kept)
                }
                Fate::Refused { code, detail } => Err(Problem::unprocessable(
                    "event_refused",
                    format!("ingest refused the event: {detail}"),
                    "send it corrected, as the body",
                )
                .with("event_code", code)
                .into()),
                Fate::Unknown => Err(Problem::unavailable(
                    2,
                    "outcome_unknown",
                    "it is not known whether the log has the event",
                    "ask again; it counts once",
                )
                .into()),
            }
        })
    })
    .await
}

async fn wait_for_others(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    let locked = rejected_events::lock(connection, tenant).await?;
    if locked { Ok(()) } else { Err(busy().into()) }
}

/// Refuses what needs no sending, or was sent already.
async fn check_open(
    connection: &mut PgConnection,
    tenant: TenantScope,
    place: EventPlace,
    row: &EventRow,
) -> Result<(), ApiError> {
    if row.outcome != "rejected" {
        return Err(Problem::conflict(
            "not_rejected",
            format!("the event is a {}: the first one of its id counts", row.outcome),
            "correct the first one instead",
        )
        .into());
    }
    let sent = rejected_events::reinjections(connection, tenant, &[place]).await?;
    match sent.get(&place) {
        None => Ok(()),
        Some(sent) => Err(Problem::conflict(
            "already_reinjected",
            format!("the event was sent again as {}", sent.receipt),
            "see what became of that one; if it was rejected as well, send that one again",
        )
        .with("receipt", sent.receipt.as_str())
        .into()),
    }
}

/// Who sends events again, and by which way.
#[derive(Clone)]
struct Sender {
    api: Api,
    tenant: TenantScope,
    credential: HeaderValue,
    actor: Actor,
    _turn: Arc<OwnedSemaphorePermit>,
}

impl Sender {
    async fn of(
        api: &Api,
        tenant: TenantScope,
        headers: &HeaderMap,
        actor: Actor,
    ) -> Result<Self, Problem> {
        let credential = credential(headers)?;
        let turn = Arc::new(api.door.turn().await?);
        Ok(Self { api: Api::clone(api), tenant, credential, actor, _turn: turn })
    }

    async fn send(&self, events: &[String]) -> Result<Vec<Fate>, ApiError> {
        let body = format!("[{}]", events.join(","));
        self.api.door.send(&self.credential, body.into_bytes(), events.len()).await
    }

    async fn record(
        &self,
        connection: &mut PgConnection,
        place: EventPlace,
        receipt: &str,
        corrected: bool,
    ) -> Result<(), ApiError> {
        let reinjected_by = self.actor.id.as_str();
        let new = NewReinjection { place, receipt, corrected, reinjected_by };
        rejected_events::insert(connection, self.tenant, &new).await?;
        self.api.metrics.reinjected.inc();
        Ok(())
    }
}

/// Which rejected events to send again, unchanged. Without any filter: all.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReinjectionSelection)]
pub(crate) struct Selection {
    /// With this reason.
    reason: Option<String>,
    /// Of this team.
    team: Option<String>,
    /// Of this type.
    r#type: Option<String>,
    /// Of this source, as sent.
    source: Option<String>,
    /// Reported by this app.
    app: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Only count them: nothing is sent.
    #[serde(default)]
    dry_run: bool,
    /// Events that this call sends again, at most 1000; 100 if absent.
    limit: Option<u32>,
    /// `next_cursor` of the call before, to go on where it ended.
    cursor: Option<String>,
}

/// What a call sent again.
#[derive(Serialize, ToSchema)]
#[schema(as = ReinjectionRun)]
pub(crate) struct Reinjected {
    /// Of a dry run: how many would be sent again.
    would_reinject: Option<usize>,
    /// Whether everything selected was looked at. If not: call again with `next_cursor`.
    complete: bool,
    /// Events that are in the log again.
    reinjected: usize,
    /// Events that ingest refused, or whose fate is unknown; they stay open.
    failed: Vec<Failed>,
    /// Where the next call goes on; null when complete.
    next_cursor: Option<String>,
}

/// An event that could not be sent again.
#[derive(Serialize, ToSchema)]
#[schema(as = ReinjectionFailure)]
pub(crate) struct Failed {
    /// Receipt of the rejected event.
    receipt: String,
    /// Why; `outcome_unknown` may be in the log: sending it again is harmless.
    code: String,
    /// The same for people.
    detail: String,
}

impl Reinjected {
    /// Whether the log may have events that it had not.
    fn may_have_sent(&self) -> bool {
        self.reinjected > 0 || self.failed.iter().any(|one| one.code == UNKNOWN)
    }
}

impl Selection {
    fn question(&self) -> Result<EventQuestion, Problem> {
        let asked = asked(None, self.cursor.as_deref(), 4)?;
        Ok(EventQuestion {
            from_us: time_optional("from", self.from.as_ref())?,
            to_us: time_optional("to", self.to.as_ref())?,
            team: self.team.clone(),
            reason: self.reason.clone(),
            outcome: Some("rejected".to_owned()),
            event_type: self.r#type.clone(),
            source: self.source.clone(),
            app: self.app.clone(),
            after: cursor(&asked)?,
            ..EventQuestion::default()
        })
    }
}

/// Send rejected events again
///
/// All that are selected and still open, unchanged: after the catalog was corrected. A call sends
/// a bounded number and says where the next one goes on; what was sent is remembered, so a run
/// that broke off can simply be started again. `dry_run` counts without sending.
#[utoipa::path(post, path = "/v1/rejected-events/reinject", tag = "usage", params(IdempotencyKey), request_body = Selection,
    responses((status = 200, body = Reinjected), NotConfigured, ChangeRefusals, Refusals))]
pub(crate) async fn reinject_all(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    mut call: Call<Selection>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may_filter(Scope::UsageRead, &mut call.value.team)?;
    let question = call.value.question()?;
    let limit = call.value.limit.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MAX {
        let action = format!("give a limit between 1 and {LIMIT_MAX}");
        return Err(
            Problem::bad_request("limit_invalid", format!("limit is {limit}"), action).into()
        );
    }
    let sender = Sender::of(&api, tenant, &headers, actor).await?;
    idempotency::once(&api, tenant, call, move |connection, selection: &Selection| {
        let (sender, question) = (sender.clone(), question.clone());
        Box::pin(async move {
            if selection.dry_run {
                let count = sender.count(connection, question).await?;
                return Ok(Made::new(StatusCode::OK, &count)?.without_change());
            }
            wait_for_others(connection, tenant).await?;
            let done = sender.run(connection, question, limit).await?;
            let made = Made::new(StatusCode::OK, &done)?;
            Ok(if done.may_have_sent() { made } else { made.without_change() })
        })
    })
    .await
}

/// The code of an event whose fate nobody knows.
const UNKNOWN: &str = "outcome_unknown";

/// Open events of one stretch of the list.
struct Stretch {
    rows: Vec<EventRow>,
    /// Where the list goes on; `None` at its end.
    next: Option<Vec<String>>,
}

impl Sender {
    async fn count(
        &self,
        connection: &mut PgConnection,
        mut question: EventQuestion,
    ) -> Result<Reinjected, ApiError> {
        question.limit = COUNT_ROWS;
        let (mut seen, mut open, mut complete) = (0, 0, false);
        while seen < COUNT_MAX && !complete {
            let rows = events::places(&self.api.clickhouse, self.tenant, &question).await?;
            let places: Vec<EventPlace> = rows.iter().map(|row| row.place()).collect();
            let sent = rejected_events::count(connection, self.tenant, &places).await?;
            seen += places.len();
            open += places.len().saturating_sub(usize::try_from(sent).unwrap_or(0));
            complete = i64::try_from(places.len()).is_ok_and(|found| found < COUNT_ROWS);
            question.after = rows.last().map(|row| (row.order_us, row.place()));
        }
        let (would_reinject, failed) = (Some(open), Vec::new());
        Ok(Reinjected { would_reinject, complete, reinjected: 0, failed, next_cursor: None })
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        mut question: EventQuestion,
        limit: u32,
    ) -> Result<Reinjected, ApiError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut done = Reinjected {
            would_reinject: None,
            complete: false,
            reinjected: 0,
            failed: Vec::new(),
            next_cursor: None,
        };
        let (mut sent, mut seen) = (0, 0);
        while sent < limit && seen < SCAN_MAX {
            let most = limit - sent;
            let (rows, next) = match self.step(connection, &mut question, most, &mut done).await {
                // What was sent is in the log, and is remembered only by a call that succeeds; after an
                // error of Postgres none can.
                Err(error) if done.may_have_sent() && !matches!(error, ApiError::Postgres(_)) => {
                    tracing::warn!(?error, "a run that sends events again ends early");
                    break;
                }
                stepped => stepped?,
            };
            seen += usize::try_from(READ_ROWS).unwrap_or(0);
            sent += rows;
            done.next_cursor = next.map(|place| encode(&place));
            if done.next_cursor.is_none() {
                done.complete = true;
                break;
            }
        }
        Ok(done)
    }

    /// Reads a stretch and sends it: its rows, and where the list goes on.
    async fn step(
        &self,
        connection: &mut PgConnection,
        question: &mut EventQuestion,
        most: usize,
        done: &mut Reinjected,
    ) -> Result<(usize, Option<Vec<String>>), ApiError> {
        let Stretch { rows, next } = self.stretch(connection, question, most).await?;
        let count = rows.len();
        self.send_stretch(connection, rows, done).await?;
        Ok((count, next))
    }

    /// Reads on in the list: at most `most` open events and [`REQUEST_BYTES_MAX`] of them.
    async fn stretch(
        &self,
        connection: &mut PgConnection,
        question: &mut EventQuestion,
        most: usize,
    ) -> Result<Stretch, ApiError> {
        question.limit = READ_ROWS;
        let rows = events::list(&self.api.clickhouse, self.tenant, Table::Other, question).await?;
        let mut ended = i64::try_from(rows.len()).is_ok_and(|found| found < READ_ROWS);
        let places: Vec<EventPlace> = rows.iter().map(EventRow::place).collect();
        let states = rejected_events::reinjections(connection, self.tenant, &places).await?;
        let (mut open, mut bytes, mut last) = (Vec::new(), 0, None);
        for row in rows {
            if open.len() >= most || bytes + row.raw.len() > REQUEST_BYTES_MAX && !open.is_empty() {
                ended = false;
                break;
            }
            last = Some((row.order_us, row.place(), cursor_of(&row)));
            if !states.contains_key(&row.place()) {
                bytes += row.raw.len();
                open.push(row);
            }
        }
        let next = last.filter(|_| !ended).map(|(order_us, place, next)| {
            question.after = Some((order_us, place));
            next
        });
        Ok(Stretch { rows: open, next })
    }

    async fn send_stretch(
        &self,
        connection: &mut PgConnection,
        rows: Vec<EventRow>,
        done: &mut Reinjected,
    ) -> Result<(), ApiError> {
        let (mut places, mut texts, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            match compose(&row, None) {
                Ok(text) => {
                    places.push(row.place());
                    texts.push(text);
                }
                Err(problem) => unsent.push(failed(row.place(), problem.code(), problem.detail())),
            }
        }
        let fates = if texts.is_empty() { Vec::new() } else { self.send(&texts).await? };
        done.failed.append(&mut unsent);
        for (place, fate) in places.into_iter().zip(fates) {
            match fate {
                Fate::Accepted { receipt } => {
                    self.record(connection, place, &receipt, false).await?;
                    done.reinjected += 1;
                }
                Fate::Refused { code, detail } => done.failed.push(failed(place, &code, &detail)),
                Fate::Unknown => {
                    let detail = "it is not known whether the log has the event";
                    done.failed.push(failed(place, UNKNOWN, detail));
                }
            }
        }
        Ok(())
    }
}

fn failed(place: EventPlace, code: &str, detail: &str) -> Failed {
    Failed { receipt: receipt(place), code: code.to_owned(), detail: detail.to_owned() }
}
