//! A mutating call with an `Idempotency-Key` has its effect once and the same answer each time.
//!
//! The answer is kept in the transaction of the effect, with a hash of the request. Twins wait for
//! each other on an advisory lock; the primary key is the last word. A call that fails keeps
//! nothing: its key is free again. INV-17.
//!
//! Every change is recorded here as well, in the same transaction: who, what, before and after.

use std::pin::Pin;

use axum::{
    extract::{FromRequest, MatchedPath, Request},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use runtime::{http::Problem, postgres::scoped, task};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;
use utoipa::IntoParams;

use crate::{
    auth::{Actor, TenantScope},
    error::ApiError,
    extract::Body,
    state::Api,
    store,
};

/// The header's name.
const HEADER: &str = "idempotency-key";
/// Set on an answer that was given before.
const REPEATED: HeaderName = HeaderName::from_static("idempotency-repeated");
/// Characters of a key.
const KEY_LENGTH_MAX: usize = 255;

/// The header of mutating calls, for the documentation.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct IdempotencyKey {
    /// Any text that names this call: a repeat with it has no second effect and the same answer.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// A mutating call: its body, and what makes a repeat recognisable.
pub(crate) struct Call<T> {
    pub value: T,
    actor: Actor,
    route: String,
    target: String,
    key: Option<String>,
    hash: [u8; 32],
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Call<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let matched = request.extensions().get::<MatchedPath>();
        let path = matched.map_or_else(|| request.uri().path(), MatchedPath::as_str);
        let route = format!("{} {path}", request.method());
        let target = request.uri().path().to_owned();
        // Authentication comes first; a route that forgot it answers 500 instead of changing.
        let actor = request.extensions().get::<Actor>().cloned();
        let actor = actor.ok_or_else(|| ApiError::Internal(format!("{route}: nobody asks")))?;
        let key = read_key(&request)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(request.uri().to_string().as_bytes());
        hasher.update(&[0]);
        let body = Body::from_request(request, state).await?;
        hasher.update(&body.bytes);
        let hash = hasher.finalize().into();
        Ok(Self { value: body.value, actor, route, target, key, hash })
    }
}

impl<T> Call<T> {
    /// Its `Idempotency-Key`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Hash of its address and body.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The same call with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Call<U> {
        let Call { value, actor, route, target, key, hash } = self;
        Call { value: change(value), actor, route, target, key, hash }
    }
}

fn read_key(request: &Request) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_LENGTH_MAX {
        return Err(Problem::bad_request(
            "idempotency_key_invalid",
            "the Idempotency-Key is empty, too long or not ASCII",
            format!("give 1 to {KEY_LENGTH_MAX} visible characters"),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// What an effect answers.
pub(crate) struct Made {
    status: StatusCode,
    answer: String,
    kept: Option<String>,
    before: Option<String>,
    changes: bool,
}

impl Made {
    /// An answer with a body.
    pub fn new(status: StatusCode, body: &impl Serialize) -> Result<Self, ApiError> {
        Ok(Self { status, answer: json(body)?, kept: None, before: None, changes: true })
    }

    /// Answers a repeat with `body` instead: for secrets, which are never stored.
    pub fn but_repeat(mut self, body: &impl Serialize) -> Result<Self, ApiError> {
        self.kept = Some(json(body)?);
        Ok(self)
    }

    /// Nothing was changed, so there is no row of it.
    pub fn without_change(mut self) -> Self {
        self.changes = false;
        self
    }

    /// Records what was there before.
    pub fn instead_of(mut self, before: &impl Serialize) -> Result<Self, ApiError> {
        self.before = Some(json(before)?);
        Ok(self)
    }
}

fn json(body: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(body).map_err(|error| ApiError::Internal(error.to_string()))
}

/// The answer to a mutating call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub repeated: bool,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status, [(header::CONTENT_TYPE, json)], self.body).into_response();
        if self.repeated {
            response.headers_mut().insert(REPEATED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The work of an effect, on the connection of its transaction.
pub(crate) type Effect<'a> = Pin<Box<dyn Future<Output = Result<Made, ApiError>> + Send + 'a>>;

/// Runs `effect` in one transaction of `tenant`, to its end even when the client hangs up; or
/// gives the answer again that an earlier call with the same key got.
pub(crate) async fn once<T, F>(
    api: &Api,
    tenant: TenantScope,
    call: Call<T>,
    effect: F,
) -> Result<Answer, ApiError>
where
    T: Send + Sync + 'static,
    F: for<'a> Fn(&'a mut PgConnection, &'a T) -> Effect<'a> + Send + Sync + 'static,
{
    let api = Api::clone(api);
    let done = task::to_completion(async move {
        let (call, effect) = (&call, &effect);
        let answer = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            run(&mut transaction, tenant, call, effect).await
        })
        .await?;
        if answer.repeated {
            api.metrics.repeated.inc();
        }
        Ok(answer)
    });
    done.await?
}

async fn run<T, F>(
    connection: &mut PgConnection,
    tenant: TenantScope,
    call: &Call<T>,
    effect: &F,
) -> Result<Answer, ApiError>
where
    F: for<'a> Fn(&'a mut PgConnection, &'a T) -> Effect<'a>,
{
    if let Some(key) = &call.key {
        store::idempotency::lock(connection, tenant, &call.route, key).await?;
        if let Some(kept) = store::idempotency::find(connection, tenant, &call.route, key).await? {
            return repeat(call, kept);
        }
    }
    let made = effect(connection, &call.value).await?;
    let kept = made.kept.unwrap_or_else(|| made.answer.clone());
    // INV-26: no change without its row.
    if made.changes {
        let change = store::audit::NewChange {
            actor: &call.actor,
            action: &call.route,
            target: &call.target,
            before: made.before.as_deref(),
            after: &kept,
        };
        store::audit::insert(connection, tenant, &change).await?;
    }
    if let Some(key) = &call.key {
        let entry = store::idempotency::Entry {
            request_hash: call.hash.to_vec(),
            status: i32::from(made.status.as_u16()),
            answer: kept,
        };
        store::idempotency::insert(connection, tenant, &call.route, key, &entry).await?;
    }
    Ok(Answer { status: made.status, body: made.answer, repeated: false })
}

/// The answer to another request with a key that was used.
pub(crate) fn key_reused() -> Problem {
    Problem::conflict(
        "idempotency_key_reused",
        "this Idempotency-Key was used for another request",
        "give every request a key of its own; repeat a request unchanged",
    )
}

fn repeat<T>(call: &Call<T>, kept: store::idempotency::Entry) -> Result<Answer, ApiError> {
    if kept.request_hash != call.hash {
        return Err(key_reused().into());
    }
    let status =
        u16::try_from(kept.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    Ok(Answer { status: status.unwrap_or(StatusCode::OK), body: kept.answer, repeated: true })
}
