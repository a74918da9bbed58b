//! The one error body: RFC 9457 problem documents.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

/// Where the documents behind `type` live.
const TYPE_PREFIX: &str = "urn:weir:problem:";

/// An error answer. `code` is stable and for programs; `detail` says what is wrong and `action`
/// what to do, for people. Never carries internals: log those where they are handled.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    action: String,
    extra: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of any status.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let (detail, action) = (detail.into(), action.into());
        let (extra, headers) = (Map::new(), Vec::new());
        Self { status, code, detail, action, extra, headers }
    }

    /// 400: the request cannot be read.
    pub fn bad_request(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail, action)
    }

    /// 401: no credential, or one that is not accepted.
    pub fn unauthorized(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail, action)
    }

    /// 403: a credential that may not do this.
    pub fn forbidden(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail, action)
    }

    /// 404: nothing of that name for this caller.
    pub fn not_found(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail, action)
    }

    /// 409: it contradicts what is there.
    pub fn conflict(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail, action)
    }

    /// 413: too many bytes or items.
    pub fn payload_too_large(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail, action)
    }

    /// 422: read, but against a rule.
    pub fn unprocessable(
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail, action)
    }

    /// 429: too fast; come back after `retry_after_s`.
    pub fn too_many(
        retry_after_s: u64,
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail, action);
        problem.retry_after(retry_after_s)
    }

    /// 503: something we need is away; come back after `retry_after_s`.
    pub fn unavailable(
        retry_after_s: u64,
        code: &'static str,
        detail: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail, action);
        problem.retry_after(retry_after_s)
    }

    /// 500: our fault. Log the cause before; the caller only gets the request id.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong on our side",
            "try again; if it goes on, tell the operator the request id",
        )
    }

    /// Adds `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds)
    }

    /// Adds a member of the document. The standard members cannot be replaced.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What to do.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The document, with the id of the request that is being answered.
    pub fn document(&self) -> Value {
        let mut document = self.extra.clone();
        let mut set = |name: &str, value: Value| document.insert(name.to_owned(), value);
        set("type", format!("{TYPE_PREFIX}{}", self.code).into());
        set("title", self.status.canonical_reason().unwrap_or("Error").into());
        set("status", self.status.as_u16().into());
        set("code", self.code.into());
        set("detail", self.detail.clone().into());
        set("action", self.action.clone().into());
        if let Some(id) = super::request_id() {
            set("request_id", id.into());
        }
        Value::Object(document)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.document().to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
