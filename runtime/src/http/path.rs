//! Parameters in a path.

use axum::{
    extract::{FromRequestParts, Path as AxumPath},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::Problem;

/// The parameters of a path; what cannot be read is a 400 with a problem document.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = AxumPath::<T>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::bad_request(
                "path_invalid",
                error.body_text(),
                "percent-encode the UTF-8 bytes of each part of the path",
            )
        })?;
        Ok(Self(path.0))
    }
}
