//! The door of ingest, for events that are sent again.
//!
//! Only ingest validates events and writes them into `[usage]`, so the api hands an event to it
//! over its public interface, with the credential of whoever asks: the same checks, limits and
//! rights apply as to the first time, and services need nothing of each other. In a process that
//! runs both, the request does not leave it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use runtime::http::Problem;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower::ServiceExt as _;

use crate::error::ApiError;

/// Where ingest takes events.
const PATH: &str = "/v1/events";
/// Requests that send events again at once. Those of one tenant wait for each other besides.
const TURNS: usize = 2;
/// Longer than most of them take.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);
/// Ingest answers within 5 s of a request's last byte.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer: a line for each of at most 10,000 events.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What became of an event that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in the log.
    Accepted { receipt: String },
    /// It is not, and sending it again as it is does not help.
    Refused { code: String, detail: String },
    /// Nobody knows; sending it again is harmless.
    Unknown,
}

/// The way to ingest.
pub(crate) struct Door {
    turns: Arc<Semaphore>,
    /// Base address, without a slash at the end; empty: only the ingest of this process.
    url: String,
    client: reqwest::Client,
    here: OnceLock<Router>,
}

/// A status, the seconds after which to come again, and the body.
type Answered = (StatusCode, Option<u64>, Bytes);

#[derive(Deserialize)]
struct Answer {
    results: Vec<EventResult>,
}

#[derive(Deserialize)]
struct EventResult {
    status: String,
    receipt: Option<String>,
    code: Option<String>,
    detail: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: String,
    detail: String,
    action: String,
}

impl Door {
    /// A door at an address; empty for the one of this process.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(ANSWER_TIME_MAX).no_proxy().build()?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { turns: Arc::new(Semaphore::new(TURNS)), url, client, here: OnceLock::new() })
    }

    /// Waits for one of a few turns. Whoever has one also has a connection of the database, until
    /// ingest has answered: the others of the pool are for those who do not wait for ingest.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = timeout(TURN_TIME_MAX, Arc::clone(&self.turns).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// Uses the ingest of this process unless an address is set.
    pub fn open(&self, ingest: Router) {
        let _ = self.here.set(ingest);
    }

    /// Hands `events`, a JSON array of `count` of them, in. One fate per event, in their order.
    pub async fn send(
        &self,
        credential: &HeaderValue,
        events: Vec<u8>,
        count: usize,
    ) -> Result<Vec<Fate>, ApiError> {
        let (status, wait_s, body) = match self.here.get().filter(|_| self.url.is_empty()) {
            Some(ingest) => here(ingest, credential, events).await?,
            None => self.there(credential, events).await?,
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
            return Err(refused(status, wait_s, &body).into());
        };
        if answer.results.len() != count {
            let odd = format!("ingest answered {} events of {count}", answer.results.len());
            return Err(ApiError::Internal(odd));
        }
        Ok(answer.results.into_iter().map(fate).collect())
    }

    async fn there(&self, credential: &HeaderValue, events: Vec<u8>) -> Result<Answered, ApiError> {
        if self.url.is_empty() {
            return Err(Problem::new(
                StatusCode::NOT_IMPLEMENTED,
                "ingest_not_configured",
                "this api does not know where ingest is, so it cannot send events again",
                "set api.ingest_url (WEIR_API__INGEST_URL) to the address of ingest",
            )
            .into());
        }
        let request = self.client.request(Method::POST, format!("{}{PATH}", self.url));
        let request = request
            .header(header::AUTHORIZATION, credential)
            .header(header::CONTENT_TYPE, "application/json")
            .body(events);
        let response = request.send().await.map_err(|error| away(&error.to_string()))?;
        let (status, wait_s) = (response.status(), wait_s(response.headers()));
        let body = response.bytes().await.map_err(|error| away(&error.to_string()))?;
        Ok((status, wait_s, body))
    }
}

async fn here(
    ingest: &Router,
    credential: &HeaderValue,
    events: Vec<u8>,
) -> Result<Answered, ApiError> {
    let request = Request::post(PATH)
        .header(header::AUTHORIZATION, credential)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(events))
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    // A router never fails.
    let response = ingest.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let (status, wait_s) = (response.status(), wait_s(response.headers()));
    let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
    Ok((status, wait_s, body.map_err(|error| away(&error.to_string()))?))
}

/// The seconds of a Retry-After.
fn wait_s(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

fn fate(result: EventResult) -> Fate {
    match (result.status.as_str(), result.receipt) {
        ("accepted", Some(receipt)) => Fate::Accepted { receipt },
        ("rejected", _) => Fate::Refused {
            code: result.code.unwrap_or_default(),
            detail: result.detail.unwrap_or_default(),
        },
        _ => Fate::Unknown,
    }
}

/// The answer to those who have waited for others in vain.
pub(crate) fn busy() -> Problem {
    Problem::unavailable(
        5,
        "reinjection_busy",
        "other rejected events are being sent again now",
        "ask again; nothing was sent",
    )
}

fn away(reason: &str) -> Problem {
    tracing::warn!(reason, "ingest is away");
    Problem::unavailable(
        2,
        "ingest_unavailable",
        "ingest cannot be reached now, or has not answered: nothing is known to be sent again",
        "ask again; what is in the log counts once",
    )
}

/// Ingest refused the request as a whole: credentials, limits (whose `wait_s` goes on to the caller),
/// or it is away itself.
fn refused(status: StatusCode, wait_s: Option<u64>, body: &[u8]) -> Problem {
    if status.is_server_error() || status.is_success() {
        return away(status.as_str());
    }
    if status == StatusCode::UNAUTHORIZED {
        // The api has just accepted it: ingest loads new credentials every second.
        return Problem::unavailable(
            1,
            "credential_not_loaded",
            "ingest does not know the credential yet, so nothing was sent again",
            "ask again in a second",
        );
    }
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let problem = Problem::new(status, "ingest_refused", refusal.detail, refusal.action)
        .with("ingest_code", refusal.code);
    match wait_s {
        Some(wait_s) => problem.retry_after(wait_s),
        None => problem,
    }
}
