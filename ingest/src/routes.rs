//! The table of contents: what ingest answers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use domain::wire::trace::TraceContext;
use runtime::{
    http::{Path, Problem},
    log::AppendError,
    task, traces,
};
use tokio::time::{Instant, timeout_at};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Ingest,
    accept::Reject,
    admit::Caller,
    answer::{self, Answer, Fates},
    batch::Batch,
    binary,
    block::Placed,
    body,
    budget::{Full, Held},
    document::{EventDocument, ProblemDocument},
    forms::{self, Form, Item, Parsed},
    overload::Waiting,
    whole,
};

/// The routes with their documentation.
pub(crate) fn router(ingest: &Arc<Ingest>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(post_events))
        .routes(routes!(post_events_ingest))
        .routes(routes!(post_app_events))
        .merge(whole::router())
        .with_state(Arc::clone(ingest))
}

/// Report usage
///
/// Takes one event, an array, or one event per line, plain or as CloudEvents (also in binary mode,
/// with `ce-` headers), optionally compressed with gzip or zstd. Each event gets an answer of its own: a receipt once the log has it durably,
/// or what is wrong with it. Sending an event again with the same id, source and subject is
/// harmless: it counts once.
///
/// Other names are understood: `event_id` and `idempotencyKey` for `id`; `event_type` and
/// `eventType` for `type`; `teamId` for `subject`; `timestamp` for `time`; `payload` for `data`;
/// `user_id` and `userId` for `user`; `feature_id` for `feature`. In a body without `data`, all
/// that is not named here is the data. Without `subject`, `customer_id` is the team, unless it is
/// the tenant itself: then `user_id` is.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "postEvents",
    tag = "events",
    request_body(
        description = "At most 4 MiB when decompressed, and 10,000 events of 256 KiB each.",
        content(
            (EventDocument = "application/json", examples(
                ("one" = (summary = "One event", value = json!({
                    "id": "req-8f41", "type": "llm.tokens.v1", "subject": "team-7", "source": "chat/1.4.0",
                    "time": "2026-05-04T03:02:01.5Z", "user": "ada",
                    "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1200, "outputTokens": 310}}))),
                ("array" = (summary = "Several events", value = json!([
                    {"id": "1", "type": "api.call", "subject": "team-7", "data": {"route": "/search"}},
                    {"id": "2", "type": "api.call", "subject": "team-8", "data": {"route": "/search"}}]))),
                ("aliases" = (summary = "Other names", value = json!([{
                    "idempotencyKey": "9b1d", "eventType": "llm.tokens.v1", "timestamp": "2026-05-04T03:02:01Z", "teamId": "team-7",
                    "payload": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1200, "outputTokens": 310},
                    "source": "my-tool/1.0.0"}]))),
                ("flat" = (summary = "Without data", value = json!({
                    "event_id": "e-1", "customer_id": "acme", "user_id": "team-7", "event_type": "TOKEN_USAGE", "feature_id": "chat",
                    "provider": "OPENAI", "model": "gpt-4-turbo", "input_tokens": 1200, "output_tokens": 310,
                    "timestamp": "2026-05-04T03:02:01Z"}))),
            )),
            (String = "application/x-ndjson", example = json!("{\"id\":\"1\",\"type\":\"api.call\",\"subject\":\"team-7\"}\n{\"id\":\"2\",\"type\":\"api.call\",\"subject\":\"team-8\"}\n")),
            (EventDocument = "application/cloudevents+json", example = json!({
                "specversion": "1.0", "id": "req-8f41", "type": "llm.tokens.v1", "source": "chat/1.4.0", "subject": "team-7",
                "time": "2026-05-04T03:02:01.5Z", "data": {"inputTokens": 1200}})),
            (Vec<EventDocument> = "application/cloudevents-batch+json", example = json!([{
                "specversion": "1.0", "id": "req-8f41", "type": "llm.tokens.v1", "source": "chat/1.4.0", "subject": "team-7",
                "data": {"inputTokens": 1200}}])),
        )
    ),
    params(
        ("Authorization" = Option<String>, Header, description = "`Bearer weir_live_…`, a key with the scope `events:write`, or `Bearer` and a token that an app signed"),
        ("X-Api-Key" = Option<String>, Header, description = "The key, instead of `Authorization`"),
        ("Content-Encoding" = Option<String>, Header, description = "`gzip`, `zstd` or `identity`"),
    ),
    responses(
        (status = 200, description = "All events are in the log", body = Answer, example = json!({
            "accepted": 1, "rejected": 0,
            "results": [{"index": 0, "id": "req-8f41", "status": "accepted", "receipt": "3:1042:17"}]})),
        (status = 207, description = "Some events are in the log, the others are rejected", body = Answer, example = json!({
            "accepted": 1, "rejected": 1,
            "results": [
                {"index": 0, "id": "1", "status": "accepted", "receipt": "3:1042:17"},
                {"index": 1, "id": "2", "status": "rejected", "code": "subject_missing", "detail": "the event has no `subject`",
                 "action": "send the team that pays as `subject`"}]})),
        (status = 400, description = "No event was accepted; `results` says why where the body could be read", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:json_invalid", "title": "Bad Request", "status": 400, "code": "json_invalid",
            "detail": "the body is not JSON at byte 17: expected a value",
            "action": "correct it and send all of it again: no event was accepted", "request_id": "0190-7a"})),
        (status = 401, description = "No key or token, or one that is malformed, unknown, expired or revoked", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:key_expired", "title": "Unauthorized", "status": 401, "code": "key_expired",
            "detail": "the API key has expired", "action": "send another key"})),
        (status = 403, description = "A key or token that may not report usage", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:scope_missing", "title": "Forbidden", "status": 403, "code": "scope_missing",
            "detail": "the API key or token has not the scope `events:write`", "action": "use one with this scope"})),
        (status = 413, description = "Too many bytes or events", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:too_many_events", "title": "Payload Too Large", "status": 413, "code": "too_many_events",
            "detail": "the body holds more than 10000 events", "action": "send fewer events in one request"})),
        (status = 415, description = "A content type or encoding that holds no events", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:encoding_unsupported", "title": "Unsupported Media Type", "status": 415,
            "code": "encoding_unsupported", "detail": "the content encoding is not supported",
            "action": "send the body as it is, or with gzip or zstd"})),
        (status = 429, description = "More events than the limit of the tenant or key, or too many refused credentials from this address",
            body = ProblemDocument, content_type = "application/problem+json",
            headers(
                ("Retry-After" = u64, description = "Seconds to wait"),
                ("RateLimit-Limit" = u64, description = "Events at once, of a limit"),
                ("RateLimit-Remaining" = u64, description = "Events that are left of it"),
                ("RateLimit-Reset" = u64, description = "Seconds until these events fit")), example = json!({
            "type": "urn:weir:problem:too_many_attempts", "title": "Too Many Requests", "status": 429, "code": "too_many_attempts",
            "detail": "too many credentials from this address were refused",
            "action": "correct the key, then wait for the time in Retry-After"})),
        (status = 503, description = "Not all events are known to be in the log; send the same request again, with the same ids",
            body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "Seconds to wait")), example = json!({
            "type": "urn:weir:problem:outcome_unknown", "title": "Service Unavailable", "status": 503, "code": "outcome_unknown",
            "detail": "it is not known whether the log has all events",
            "action": "send the request again after the time in Retry-After, with the same ids: what is in the log counts once",
            "accepted": 0, "rejected": 0,
            "results": [{"index": 0, "id": "req-8f41", "status": "unknown", "code": "outcome_unknown",
                "detail": "the log has not said in time whether it has the event", "action": "send it again, with the same id"}]})),
    )
)]
async fn post_events(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    counted(&ingest, respond(&ingest, request, None)).await
}

/// Report usage (another path)
///
/// The same as `POST /v1/events`, for clients that send there.
#[utoipa::path(
    post,
    path = "/v1/events/ingest",
    operation_id = "postEventsIngest",
    tag = "events",
    request_body(content((EventDocument = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "All events are in the log", body = Answer),
        (status = 207, description = "Some events are in the log, the others are rejected", body = Answer),
        (status = 400, description = "No event was accepted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No key that is good", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key that may not", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not a form of events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many refused credentials", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Send it again, with the same ids", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn post_events_ingest(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    counted(&ingest, respond(&ingest, request, None)).await
}

/// Report usage of an app
///
/// The same as `POST /v1/events`, for clients that name their app in the path: it must be the one
/// that the API key or the token belongs to.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/events",
    operation_id = "postAppEvents",
    tag = "events",
    params(("app" = String, Path, description = "Key of the app")),
    request_body(content((EventDocument = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "All events are in the log", body = Answer),
        (status = 207, description = "Some events are in the log, the others are rejected", body = Answer),
        (status = 400, description = "No event was accepted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No key or token that is good", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key or token that may not, or of another app", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not a form of events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too fast, or too many refused credentials", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Send it again, with the same ids", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn post_app_events(
    State(ingest): State<Arc<Ingest>>,
    Path(app): Path<String>,
    request: Request,
) -> Response {
    counted(&ingest, respond(&ingest, request, Some(&app))).await
}

/// Answers a request, counted while it is open and when it is answered.
pub(crate) async fn counted(
    ingest: &Ingest,
    answer: impl Future<Output = Result<Response, Problem>>,
) -> Response {
    let _open = ingest.open_request();
    let response = answer.await.unwrap_or_else(IntoResponse::into_response);
    ingest.metrics.requests.with_label_values(&[status_label(response.status())]).inc();
    response
}

/// Authenticate, read, accept, log, answer.
async fn respond(
    ingest: &Ingest,
    request: Request,
    app: Option<&str>,
) -> Result<Response, Problem> {
    let received = receive(ingest, request, app).await?;
    let (parsed, turn) = received.parse()?;
    count_rejected(ingest, &parsed.items);
    Ok(logged(ingest, parsed, turn).await?.answer())
}

/// A body of somebody who was let in.
pub(crate) struct Received {
    caller: Caller,
    /// What the body is.
    pub(crate) form: Form,
    /// Decompressed; of an event in binary mode, the event in structured mode.
    pub(crate) body: Bytes,
    /// What it takes of the budget.
    pub(crate) held: Held,
    /// Why the event in binary mode cannot be accepted.
    pub(crate) refused: Option<Reject>,
    turn: Turn,
}

/// A request's turn at the log.
pub(crate) struct Turn {
    waiting: Waiting,
    /// When the request must be answered.
    deadline: Instant,
}

impl Received {
    /// The events of the body.
    pub(crate) fn parse(self) -> Result<(Parsed, Turn), Problem> {
        let Received { caller, form, body, held, refused, turn } = self;
        let parsed = match refused {
            Some(reject) => forms::refused(caller, held, reject),
            None => forms::parse(form, body, caller, held, task::now_us())?,
        };
        Ok((parsed, turn))
    }
}

/// Authenticates and reads.
pub(crate) async fn receive(
    ingest: &Ingest,
    request: Request,
    app: Option<&str>,
) -> Result<Received, Problem> {
    let (parts, body) = request.into_parts();
    let address = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let caller = ingest.door.admit(&parts.headers, address, app).await?;
    let attributes = body::binary_attributes(&parts.headers);
    let form = if attributes.is_some() { Form::Json } else { body::form(&parts.headers)? };
    let (body, mut held) = body::read(&parts.headers, body, &ingest.budget).await?;
    let now = Instant::now();
    let deadline = now + ingest.answer_timeout;
    let waiting = ingest.overload.admit(body.len(), now.into_std());
    let waiting = waiting.ok_or_else(|| forms::no_room(Full::Now))?;
    let turn = Turn { waiting, deadline };
    let (mut body, mut refused) = (body, None);
    if let Some(attributes) = attributes {
        match of_binary(attributes, body::content_type(&parts.headers), &body) {
            Ok(event) => {
                held.grow(event.len()).map_err(forms::no_room)?;
                body = event.into();
            }
            Err(reject) => refused = Some(reject),
        }
    }
    Ok(Received { caller, form, body, held, refused, turn })
}

/// The event in structured mode of one in binary mode.
fn of_binary(
    attributes: Vec<(&str, &[u8])>,
    content_type: Option<&str>,
    data: &[u8],
) -> Result<Vec<u8>, Reject> {
    let attributes: Vec<_> = attributes
        .into_iter()
        .map(|(name, value)| Ok((name, binary::unescape_header(name, value)?)))
        .collect::<Result<_, Reject>>()?;
    binary::structured(attributes, content_type, data)
}

/// Counts what is not accepted, by its code.
pub(crate) fn count_rejected(ingest: &Ingest, items: &[Item]) {
    for reject in items.iter().filter_map(|item| item.event.as_ref().err()) {
        ingest.metrics.rejected.with_label_values(&[reject.code]).inc();
    }
}

/// A request whose events went to the log.
pub(crate) struct Logged {
    items: Vec<Item>,
    batch: Arc<Batch>,
    fates: Fates,
}

impl Logged {
    /// What it is told.
    pub(crate) fn answer(&self) -> Response {
        answer::answer(&self.items, &self.batch, &self.fates)
    }
}

/// Hands the accepted events to the log and waits for their fates, if limits and quota have room for
/// all of them. What is not known to be in the log does not count against the quota.
pub(crate) async fn logged(
    ingest: &Ingest,
    parsed: Parsed,
    Turn { waiting, deadline }: Turn,
) -> Result<Logged, Problem> {
    let Parsed { mut batch, items } = parsed;
    // Reading the body may have taken long: what is known of aliases must be young enough still.
    ingest.door.fresh(&batch.caller.snapshot)?;
    batch.trace =
        traces::current().map(|place| TraceContext { trace: place.trace, span: place.span });
    let numbers: Vec<u32> =
        items.iter().filter_map(|item| item.event.as_ref().ok().copied()).collect();
    let counter = batch.caller.counter.clone();
    batch.caller.buckets.take(batch.events.len())?;
    if let Some(counter) = &counter {
        counter.take(batch.events.len())?;
    }
    let mut fates: Fates = vec![None; batch.events.len()];
    let batch = Arc::new(batch);
    for (events, answer) in ingest.blocks.push(&batch, &numbers) {
        let outcome = match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AppendError::Unknown("the task ended".into())),
            Err(_) => Err(AppendError::Unknown("no answer in time".into())),
        };
        for (event, nth) in events.iter().zip(0..) {
            let placed =
                outcome.clone().map(|placed| Placed { first: placed.first + nth, ..placed });
            if let Some(fate) = usize::try_from(*event).ok().and_then(|place| fates.get_mut(place))
            {
                *fate = Some(placed);
            }
        }
    }
    if let Some(counter) = counter {
        counter.give_back(fates.iter().filter(|fate| !matches!(fate, Some(Ok(_)))).count());
    }
    if fates.iter().any(|fate| matches!(fate, Some(Ok(_)))) {
        waiting.logged(Instant::now().into_std());
    }
    Ok(Logged { items, batch, fates })
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        204 => "204",
        207 => "207",
        400 => "400",
        401 => "401",
        403 => "403",
        413 => "413",
        415 => "415",
        429 => "429",
        503 => "503",
        _ => "other",
    }
}
