//! What a request is told about each of its events.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use runtime::{http::Problem, log::AppendError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{accept::Reject, block::Placed, forms::Item};

/// The answer to a request of which something is in the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    /// Events that are in the log, on every replica that must have them.
    pub accepted: usize,
    /// Events that are not, and will not be.
    pub rejected: usize,
    /// One per event, in the order of the request.
    pub results: Vec<EventResult>,
}

/// The fate of one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventResult {
    /// Place in the request, from 0.
    pub index: usize,
    /// The event's id, where it has a usable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What became of it.
    pub status: Status,
    /// `partition:position:index` in the log; of accepted events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Stable code; of events that were not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is in the log.
    Accepted,
    /// It is not, and sending it again does not help.
    Rejected,
    /// It is not; send it again.
    NotAccepted,
    /// It may be; send it again with the same id, and it counts once.
    Unknown,
}

const RETRY: &str = "send it again, with the same id";
/// Seconds after which to try again when the log is away.
const RETRY_AFTER_S: u64 = 1;

/// The fate of each event that went to the log, by its number in the batch.
pub type Fates = Vec<Option<Result<Placed, AppendError>>>;

/// The answer to a request, once all that can be known is known.
pub fn answer(items: Vec<Item>, fates: &Fates) -> Response {
    let mut results = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        results.push(match item.event {
            Err(reject) => rejected(index, item.id, reject),
            Ok(number) => {
                let place = usize::try_from(number).unwrap_or(usize::MAX);
                logged(index, item.id, fates.get(place).and_then(Option::as_ref))
            }
        });
    }
    let count = |status: Status| results.iter().filter(|result| result.status == status).count();
    let (accepted, rejected) = (count(Status::Accepted), count(Status::Rejected));
    let answer = Answer { accepted, rejected, results };
    if accepted + rejected < answer.results.len() {
        return not_logged(answer);
    }
    match (accepted, rejected) {
        (_, 0) => (StatusCode::OK, Json(answer)).into_response(),
        (0, _) => none_accepted(answer),
        _ => (StatusCode::MULTI_STATUS, Json(answer)).into_response(),
    }
}

/// The answer where one event that cannot be accepted keeps all others of its request out.
pub(crate) fn none_of_all(items: Vec<Item>) -> Response {
    let results = items.into_iter().enumerate().map(|(index, item)| match item.event {
        Err(reject) => rejected(index, item.id, reject),
        Ok(_) => EventResult {
            index,
            id: item.id,
            status: Status::NotAccepted,
            receipt: None,
            code: Some("others_rejected"),
            detail: Some("other events of the request are rejected".to_owned()),
            action: Some("send it again without those, or with them corrected"),
        },
    });
    let results: Vec<EventResult> = results.collect();
    let rejected = results.iter().filter(|result| result.status == Status::Rejected).count();
    none_accepted(Answer { accepted: 0, rejected, results })
}

fn rejected(index: usize, id: Option<String>, reject: Reject) -> EventResult {
    EventResult {
        index,
        id,
        status: Status::Rejected,
        receipt: None,
        code: Some(reject.code),
        detail: Some(reject.detail.into_owned()),
        action: Some(reject.action),
    }
}

fn logged(
    index: usize,
    id: Option<String>,
    fate: Option<&Result<Placed, AppendError>>,
) -> EventResult {
    let (status, code, detail) = match fate {
        Some(Ok(placed)) => {
            let receipt =
                Some(format!("{}:{}:{}", placed.partition, placed.position, placed.first));
            return EventResult {
                index,
                id,
                status: Status::Accepted,
                receipt,
                code: None,
                detail: None,
                action: None,
            };
        }
        Some(Err(AppendError::Refused(_))) => {
            (Status::NotAccepted, "log_unavailable", "the log does not take events now")
        }
        Some(Err(AppendError::Unknown(_))) | None => (
            Status::Unknown,
            "outcome_unknown",
            "the log has not said in time whether it has the event",
        ),
    };
    let detail = Some(detail.to_owned());
    EventResult { index, id, status, receipt: None, code: Some(code), detail, action: Some(RETRY) }
}

/// 400. A single event's code is the problem's.
fn none_accepted(answer: Answer) -> Response {
    let only = match answer.results.as_slice() {
        [only] => only.code.zip(only.detail.clone()).zip(only.action),
        _ => None,
    };
    let problem = match only {
        Some(((code, detail), action)) => Problem::bad_request(code, detail, action),
        None => Problem::bad_request(
            "all_rejected",
            "none of the events was accepted",
            "see `results`, one per event",
        ),
    };
    with_results(problem, answer)
}

/// 503: some are not in the log, or nobody knows.
fn not_logged(answer: Answer) -> Response {
    let unknown = answer.results.iter().any(|result| result.status == Status::Unknown);
    let (code, detail) = if unknown {
        ("outcome_unknown", "it is not known whether the log has all events")
    } else {
        ("log_unavailable", "the log does not take events now")
    };
    let action = "send the request again after the time in Retry-After, with the same ids: what is in the log counts once";
    with_results(Problem::unavailable(RETRY_AFTER_S, code, detail, action), answer)
}

fn with_results(problem: Problem, answer: Answer) -> Response {
    let results = serde_json::to_value(answer.results).unwrap_or_default();
    problem
        .with("accepted", answer.accepted)
        .with("rejected", answer.rejected)
        .with("results", results)
        .into_response()
}
