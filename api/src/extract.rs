//! Reading a request: query and body, with problems for what cannot be read.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use runtime::http::{Problem, read_body};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// A catalog with very many rows is the longest body.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;

/// The query of a request; unknown parameters are refused.
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let query = query.map_err(|error| {
            Problem::bad_request(
                "query_invalid",
                error.body_text(),
                "see /openapi.json for the parameters of this path",
            )
        })?;
        Ok(Self(query.0))
    }
}

/// The body of a request as it came, and read as JSON.
pub(crate) struct Body<T> {
    pub value: T,
    pub bytes: bytes::Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        // A call without parameters needs no body.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(text).map_err(|error| {
            Problem::bad_request(
                "body_invalid",
                format!("the body cannot be read: {error}"),
                "see /openapi.json for the body of this path",
            )
        })?;
        Ok(Self { value, bytes })
    }
}

/// Reads an RFC 3339 time of a parameter or field.
pub(crate) fn time_us(name: &str, text: &str) -> Result<i64, Problem> {
    domain::time::parse(text).map_err(|error| {
        Problem::bad_request(
            "time_invalid",
            format!("{name} is `{text}`: {error}"),
            "write it like 2026-01-31T00:00:00Z",
        )
    })
}
