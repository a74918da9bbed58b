//! What a request is told about each of its events: written from the batch as it is, without a copy
//! of its ids.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use runtime::{http::Problem, log::AppendError};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{accept::Reject, batch::Batch, block::Placed, forms::Item};

/// The answer to a request of which something is in the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer<'a> {
    /// Events that are in the log, on every replica that must have them.
    pub accepted: usize,
    /// Events that are not, and will not be.
    pub rejected: usize,
    /// One per event, in the order of the request.
    #[schema(value_type = Vec<EventResult>)]
    pub results: Results<'a>,
}

/// The fate of one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventResult<'a> {
    /// Place in the request, from 0.
    pub index: usize,
    /// The event's id, where it has a usable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// What became of it.
    pub status: Status,
    /// `partition:position:index` in the log; of accepted events.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub receipt: Option<Placed>,
    /// Stable code; of events that were not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
}

impl<'a> EventResult<'a> {
    fn new(index: usize, id: Option<&'a str>, status: Status) -> Self {
        EventResult { index, id, status, receipt: None, code: None, detail: None, action: None }
    }

    fn because(self, code: &'static str, detail: &'a str, action: &'static str) -> Self {
        Self { code: Some(code), detail: Some(detail), action: Some(action), ..self }
    }

    fn rejected(index: usize, id: Option<&'a str>, reject: &'a Reject) -> Self {
        Self::new(index, id, Status::Rejected).because(reject.code, &reject.detail, reject.action)
    }
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

/// About the length of an accepted event's result without its id.
const RESULT_BYTES: usize = 72;

/// The fate of each event that went to the log, by its number in the batch.
pub type Fates = Vec<Option<Result<Placed, AppendError>>>;

/// The fates of the events of a request, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    items: &'a [Item],
    batch: &'a Batch,
    /// `None` where one that cannot be accepted kept all others out.
    fates: Option<&'a Fates>,
}

impl<'a> Results<'a> {
    fn iter(self) -> impl Iterator<Item = EventResult<'a>> {
        self.items.iter().enumerate().map(move |(index, item)| match &item.event {
            Err(reject) => EventResult::rejected(index, item.id.as_deref(), reject),
            Ok(number) => self.of_batch(index, usize::try_from(*number).unwrap_or(usize::MAX)),
        })
    }

    fn of_batch(self, index: usize, place: usize) -> EventResult<'a> {
        let id = self.batch.id(place);
        let Some(fates) = self.fates else {
            let code = "others_rejected";
            return EventResult::new(index, id, Status::NotAccepted).because(
                code,
                "other events of the request are rejected",
                "send it again without those, or with them corrected",
            );
        };
        match fates.get(place).and_then(Option::as_ref) {
            Some(Ok(placed)) => EventResult {
                receipt: Some(*placed),
                ..EventResult::new(index, id, Status::Accepted)
            },
            Some(Err(AppendError::Refused(_))) => EventResult::new(index, id, Status::NotAccepted)
                .because("log_unavailable", "the log does not take events now", RETRY),
            Some(Err(AppendError::Unknown(_))) | None => {
                EventResult::new(index, id, Status::Unknown).because(
                    "outcome_unknown",
                    "the log has not said in time whether it has the event",
                    RETRY,
                )
            }
        }
    }

    fn count(self, status: Status) -> usize {
        self.iter().filter(|result| result.status == status).count()
    }
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// The answer to a request, once all that can be known is known.
pub fn answer(items: &[Item], batch: &Batch, fates: &Fates) -> Response {
    let results = Results { items, batch, fates: Some(fates) };
    let (accepted, rejected) = (results.count(Status::Accepted), results.count(Status::Rejected));
    let answer = Answer { accepted, rejected, results };
    if accepted + rejected < items.len() {
        return not_logged(&answer);
    }
    match (accepted, rejected) {
        (_, 0) => json(StatusCode::OK, &answer),
        (0, _) => none_accepted(&answer),
        _ => json(StatusCode::MULTI_STATUS, &answer),
    }
}

/// The answer where one event that cannot be accepted keeps all others of its request out.
pub(crate) fn none_of_all(items: &[Item], batch: &Batch) -> Response {
    let results = Results { items, batch, fates: None };
    none_accepted(&Answer { accepted: 0, rejected: results.count(Status::Rejected), results })
}

fn json(status: StatusCode, answer: &Answer<'_>) -> Response {
    let Results { items, batch, .. } = answer.results;
    let mut body = Vec::with_capacity(RESULT_BYTES * (items.len() + 1) + batch.ids.len());
    match serde_json::to_writer(&mut body, answer) {
        Ok(()) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            Problem::internal().into_response()
        }
    }
}

/// 400. A single event's code is the problem's.
fn none_accepted(answer: &Answer<'_>) -> Response {
    let problem = match answer.results.items {
        [Item { event: Err(reject), .. }] => {
            Problem::bad_request(reject.code, &*reject.detail, reject.action)
        }
        _ => Problem::bad_request(
            "all_rejected",
            "none of the events was accepted",
            "see `results`, one per event",
        ),
    };
    with_results(problem, answer)
}

/// 503: some are not in the log, or nobody knows.
fn not_logged(answer: &Answer<'_>) -> Response {
    let (code, detail) = if answer.results.count(Status::Unknown) > 0 {
        ("outcome_unknown", "it is not known whether the log has all events")
    } else {
        ("log_unavailable", "the log does not take events now")
    };
    let action = "send the request again after the time in Retry-After, with the same ids: what is in the log counts once";
    with_results(Problem::unavailable(RETRY_AFTER_S, code, detail, action), answer)
}

fn with_results(problem: Problem, answer: &Answer<'_>) -> Response {
    let results = serde_json::to_value(answer.results).unwrap_or_default();
    problem
        .with("accepted", answer.accepted)
        .with("rejected", answer.rejected)
        .with("results", results)
        .into_response()
}
