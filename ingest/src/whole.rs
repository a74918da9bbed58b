//! Forms of other systems that have no answer per event: all events of a request, or none.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use runtime::{http::Problem, task};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Ingest, answer,
    document::{EventDocument, ProblemDocument},
    forms::{self, Form},
    lago::{
        LagoAcceptedDocument, LagoAnswerDocument, LagoError, LagoEventDocument, LagoEvents,
        LagoEventsDocument, looks_like_lago,
    },
    routes::{Received, count_rejected, counted, logged, receive},
};

/// The routes with their documentation.
pub(crate) fn router() -> OpenApiRouter<Arc<Ingest>> {
    OpenApiRouter::new().routes(routes!(post_whole)).routes(routes!(post_whole_batch))
}

/// Report usage as OpenMeter's and Lago's clients do
///
/// Takes CloudEvents as OpenMeter does (one or an array), and one event in Lago's form. All events of
/// a request are accepted, or none: one that cannot be is answered with 400 and `results`, and none
/// of them is in the log. After 503 send the same again: what is in the log counts once.
///
/// Of an event in Lago's form, `transaction_id` is the id, `external_subscription_id` the subject,
/// `code` the type, `properties` the data, and the source is `lago`. Quantities may be strings.
#[utoipa::path(
    post,
    path = "/api/v1/events",
    operation_id = "postWhole",
    tag = "events",
    request_body(
        description = "At most 4 MiB when decompressed, and 10,000 events of 256 KiB each.",
        content(
            (EventDocument = "application/cloudevents+json", example = json!({
                "specversion": "1.0", "id": "req-8f41", "type": "tokens", "source": "chat", "subject": "team-7",
                "data": {"tokens": "100", "model": "gpt-4o"}})),
            (Vec<EventDocument> = "application/cloudevents-batch+json", example = json!([{
                "specversion": "1.0", "id": "req-8f41", "type": "tokens", "source": "chat", "subject": "team-7",
                "data": {"tokens": "100", "model": "gpt-4o"}}])),
            (LagoEventDocument = "application/json", example = json!({"event": {
                "transaction_id": "req-8f41", "external_subscription_id": "team-7", "code": "tokens",
                "timestamp": "1777863721.5", "properties": {"tokens": "100", "model": "gpt-4o"}}})),
        )
    ),
    params(
        ("Authorization" = Option<String>, Header, description = "`Bearer weir_live_…`, a key with the scope `events:write`, or `Bearer` and a token that an app signed"),
        ("Content-Encoding" = Option<String>, Header, description = "`gzip`, `zstd` or `identity`"),
    ),
    responses(
        (status = 200, description = "The event in Lago's form is in the log", body = LagoAnswerDocument, example = json!({"event": {
            "lago_id": "6b1f4a5e-7d0c-4a8e-9d6b-0d8a3f1c2b7e", "transaction_id": "req-8f41", "lago_customer_id": null,
            "lago_subscription_id": null, "external_subscription_id": "team-7", "code": "tokens",
            "timestamp": "2026-05-04T03:02:01.500000Z", "precise_total_amount_cents": null,
            "properties": {"tokens": "100", "model": "gpt-4o"}, "created_at": "2026-05-04T03:02:02.000000Z"}})),
        (status = 204, description = "All CloudEvents are in the log"),
        (status = 400, description = "No event was accepted; `results` says why where the body could be read", body = ProblemDocument,
            content_type = "application/problem+json", example = json!({
            "type": "urn:weir:problem:subject_missing", "title": "Bad Request", "status": 400, "code": "subject_missing",
            "detail": "the event has no `external_subscription_id`", "action": "send it as a string in quotes"})),
        (status = 401, description = "No key or token that is good", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key or token that may not", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not a form of events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too fast, or too many refused credentials", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not all events are known to be in the log; send the same request again, with the same ids",
            body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "Seconds to wait"))),
    )
)]
async fn post_whole(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    counted(&ingest, async {
        let received = receive(&ingest, request, None).await?;
        let lago = received.refused.is_none()
            && received.form == Form::Json
            && looks_like_lago(&received.body);
        if lago {
            respond_lago(&ingest, received, false).await
        } else {
            respond(&ingest, received).await
        }
    })
    .await
}

/// Report several usage facts as Lago's clients do
///
/// All events of a request are accepted, or none, as `POST /api/v1/events` says.
#[utoipa::path(
    post,
    path = "/api/v1/events/batch",
    operation_id = "postWholeBatch",
    tag = "events",
    request_body(
        content((LagoEventsDocument = "application/json", example = json!({"events": [{
            "transaction_id": "req-8f41", "external_subscription_id": "team-7", "code": "tokens",
            "timestamp": 1_777_863_721, "properties": {"tokens": 100}}]})))
    ),
    responses(
        (status = 200, description = "All events are in the log", body = inline(LagoEventsAnswer)),
        (status = 400, description = "No event was accepted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No key or token that is good", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key or token that may not", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not a form of events", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too fast, or too many refused credentials", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Send it again, with the same ids", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn post_whole_batch(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    counted(&ingest, async {
        let received = receive(&ingest, request, None).await?;
        respond_lago(&ingest, received, true).await
    })
    .await
}

/// CloudEvents: 204, or a problem.
async fn respond(ingest: &Ingest, received: Received) -> Result<Response, Problem> {
    let (parsed, turn) = received.parse()?;
    if parsed.items.iter().any(|item| item.event.is_err()) {
        count_rejected(ingest, &parsed.items);
        return Ok(answer::none_of_all(&parsed.items, &parsed.batch));
    }
    let answered = logged(ingest, parsed, turn).await?.answer();
    if answered.status() == StatusCode::OK {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(answered)
}

/// Lago's form: 200 with the events, or a problem.
async fn respond_lago(
    ingest: &Ingest,
    mut received: Received,
    batch: bool,
) -> Result<Response, Problem> {
    let body = received.body.clone();
    let read = if batch { LagoEvents::several(&body) } else { LagoEvents::one(&body) };
    let structured = read.as_ref().map_err(|_| ()).map(LagoEvents::structured);
    let (events, structured) = match (read, structured) {
        (Ok(events), Ok(Ok(structured))) => (events, structured),
        (Err(error), _) | (_, Ok(Err(error))) => return Err(refused(ingest, error, batch)),
        (Ok(_), Err(())) => return Err(Problem::internal()),
    };
    received.held.grow(structured.len()).map_err(forms::no_room)?;
    (received.body, received.form) = (structured.into(), Form::Json);
    let (parsed, turn) = received.parse()?;
    if parsed.items.iter().any(|item| item.event.is_err()) {
        count_rejected(ingest, &parsed.items);
        return Ok(answer::none_of_all(&parsed.items, &parsed.batch));
    }
    let identities: Vec<u128> = parsed.batch.events.iter().map(|event| event.identity).collect();
    let answered = logged(ingest, parsed, turn).await?.answer();
    if answered.status() != StatusCode::OK {
        return Ok(answered);
    }
    let json = events.answer(&identities, task::now_us()).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        Problem::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn refused(ingest: &Ingest, error: LagoError, batch: bool) -> Problem {
    match error {
        LagoError::TooMany => forms::too_many(),
        LagoError::Form(error) => {
            let action = if batch {
                "send {\"events\": [{\"transaction_id\": …}, …]}"
            } else {
                "send {\"event\": {\"transaction_id\": …}}"
            };
            let detail = format!("the body holds no events in Lago's form: {error}");
            Problem::bad_request("json_invalid", detail, action)
        }
        LagoError::Event(number, reject) => {
            ingest.metrics.rejected.with_label_values(&[reject.code]).inc();
            let detail = if batch {
                format!("events[{number}]: {}; no event was accepted", reject.detail)
            } else {
                reject.detail.into_owned()
            };
            Problem::bad_request(reject.code, detail, reject.action)
        }
    }
}

/// Accepted events as Lago answers them.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct LagoEventsAnswer {
    /// In the order of the request.
    events: Vec<LagoAcceptedDocument>,
}
