//! Who is calling: an API key becomes a [`Caller`], and only a caller makes a [`TenantScope`].
//!
//! Wall 1 of tenancy: every function of `store` takes a [`TenantScope`] and filters by it, and no
//! other module can make one. Wall 2 is Postgres' row-level security.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use runtime::http::Problem;
use uuid::Uuid;

use crate::{error::ApiError, state::Api};

mod api_key;
mod scope;

pub(crate) use api_key::FoundKey;
pub use api_key::KeyCache;
pub use scope::Scope;

/// The tenant whose data a request may see. Made by authentication alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantScope(Uuid);

impl TenantScope {
    /// The tenant's id.
    pub(crate) fn id(self) -> Uuid {
        self.0
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<FoundKey>);

impl Caller {
    /// The tenant, if the key has the scope.
    pub fn may(&self, scope: Scope) -> Result<TenantScope, Problem> {
        if self.has(scope.text()) {
            return Ok(TenantScope(self.0.tenant));
        }
        Err(Problem::forbidden(
            "scope_missing",
            format!("the API key has not the scope {}", scope.text()),
            "use a key with this scope, or make one",
        )
        .with("scope", scope.text()))
    }

    /// Whether the key has a scope, given as text.
    pub fn has(&self, scope: &str) -> bool {
        self.0.scopes.iter().any(|own| own == "*" || own == scope)
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let refused = |problem: Problem| {
            api.metrics.unauthorized.inc();
            problem
        };
        let text = bearer(parts).map_err(refused)?;
        let found = api_key::authenticate(api, text).await?;
        Ok(Self(found.map_err(refused)?))
    }
}

fn bearer(parts: &Parts) -> Result<&str, Problem> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.ok_or_else(|| {
        Problem::unauthorized(
            "key_missing",
            "there is no API key in the request",
            "send the header Authorization: Bearer weir_live_...",
        )
    })
}
