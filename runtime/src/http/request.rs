//! What surrounds a request: its id, its span where it is followed, its total time, and a panic that
//! does not end the connection.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::Problem;
use crate::{
    task::now_us,
    traces::{self, Kind, Place, Span},
};

/// Taken from the request when it is sane, made otherwise, and always in the answer.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// A longer id, or one with other characters than these, is replaced: ids go into logs.
const REQUEST_ID_LENGTH_MAX: usize = 128;

tokio::task_local! {
    static REQUEST_ID: Option<Arc<str>>;
}

/// The id of the request that the current task answers.
pub fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok().flatten().map(|id| id.to_string())
}

/// Runs `future` as part of the request `id`.
pub async fn with_request_id<T>(id: Option<String>, future: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id.map(Arc::from), future).await
}

/// The middleware around every route.
pub(super) async fn surround(timeout: Duration, request: Request, next: Next) -> Response {
    let id = accept_id(&request).unwrap_or_else(|| Uuid::now_v7().to_string());
    let header = HeaderValue::from_str(&id).ok();
    let followed = Followed::begin(&request, &id);
    let place = followed.as_ref().map(|followed| followed.place);
    let answer = traces::within(place, answer(timeout, request, next));
    let mut response = with_request_id(Some(id), answer).await;
    if let Some(followed) = followed {
        followed.end(response.status());
    }
    if let Some(header) = header {
        response.headers_mut().insert(REQUEST_ID_HEADER, header);
    }
    response
}

/// A request whose span is recorded when it is answered.
struct Followed {
    place: Place,
    parent: u64,
    method: String,
    route: String,
    request_id: String,
    began_us: i64,
}

impl Followed {
    fn begin(request: &Request, id: &str) -> Option<Followed> {
        let (place, parent) = traces::follow(request.headers())?;
        // The route and not the path, so that spans of one kind have one name.
        let route = request.extensions().get::<MatchedPath>();
        Some(Followed {
            place,
            parent,
            method: request.method().to_string(),
            route: route.map_or("unknown path", MatchedPath::as_str).to_owned(),
            request_id: id.to_owned(),
            began_us: now_us(),
        })
    }

    fn end(self, status: StatusCode) {
        let failed = status.is_server_error().then(|| status.to_string().into());
        traces::record(Span {
            trace: self.place.trace,
            span: self.place.span,
            parent: self.parent,
            kind: Kind::Server,
            name: format!("{} {}", self.method, self.route).into(),
            time_us: (self.began_us, now_us()),
            attributes: vec![
                ("http.request.method", self.method.into()),
                ("http.route", self.route.into()),
                ("http.response.status_code", i64::from(status.as_u16()).into()),
                ("weir.request_id", self.request_id.into()),
            ],
            error: failed,
        });
    }
}

async fn answer(timeout: Duration, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let caught = CatchUnwind(Box::pin(next.run(request)));
    match tokio::time::timeout(timeout, caught).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let error = crate::task::panic_text(&*panic);
            tracing::error!(%method, path, error, request_id = request_id(), "handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => {
            let limit_s = timeout.as_secs();
            tracing::warn!(%method, path, limit_s, request_id = request_id(), "request took too long");
            Problem::unavailable(
                1,
                "request_timeout",
                format!("the request was not answered within {limit_s} s; its outcome is unknown"),
                "send it again with the same ids or the same Idempotency-Key",
            )
            .into_response()
        }
    }
}

fn accept_id(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    let accepted = !id.is_empty() && id.len() <= REQUEST_ID_LENGTH_MAX && id.bytes().all(sane);
    accepted.then(|| id.to_owned())
}

/// A future whose panic is a value.
struct CatchUnwind<F>(std::pin::Pin<Box<F>>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let inner = self.0.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    }
}
