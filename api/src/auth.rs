//! Who is calling: an API key or a token becomes a [`Caller`], and for a request only a caller makes
//! a [`TenantScope`].
//!
//! Wall 1 of tenancy: every function of `store` takes a [`TenantScope`] and filters by it, and none is
//! made elsewhere but by a task ([`TenantScope::of_task`]). Wall 2 is Postgres' row-level security.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use runtime::{http::Problem, keys};
use uuid::Uuid;

use crate::{error::ApiError, state::Api};

mod api_key;
mod look_ups;
mod scope;
mod token;

pub(crate) use api_key::FoundKey;
pub(crate) use look_ups::LookUps;
pub use scope::Scope;
pub(crate) use token::FoundSecret;

/// The tenant whose data a request may see. Made by authentication, and for tasks by
/// [`TenantScope::of_task`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantScope(Uuid);

impl TenantScope {
    /// A tenant in whose name a task ends what a caller has begun. Never that of a request.
    pub(crate) fn of_task(tenant: Uuid) -> Self {
        Self(tenant)
    }

    /// The tenant's id.
    pub(crate) fn id(self) -> Uuid {
        self.0
    }
}

/// Who is named beside a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// `api_key` or `app_token`.
    pub kind: &'static str,
    /// Public id of the key, or of the secret that signed the token.
    pub id: String,
    /// Its app.
    pub app: Option<String>,
}

/// A credential that is good, before it is known what for.
#[derive(Clone, Debug)]
struct Credential {
    tenant: Uuid,
    scopes: Vec<String>,
    team: Option<String>,
    actor: Actor,
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Credential>);

impl Caller {
    /// The tenant, if the credential has the scope and is not limited to a team.
    pub fn may(&self, scope: Scope) -> Result<TenantScope, Problem> {
        let tenant = self.tenant(scope)?;
        match self.0.team {
            None => Ok(tenant),
            Some(_) => Err(Problem::forbidden(
                "team_limited",
                "the token is limited to a team, and this is not a team's",
                "use a token without a team, or an API key",
            )),
        }
    }

    /// The tenant, if the credential has the scope, for what is this team's alone. Another team is
    /// refused alike whether it exists or not.
    pub fn may_of(&self, scope: Scope, team: &str) -> Result<TenantScope, Problem> {
        let tenant = self.tenant(scope)?;
        if self.0.team.as_deref().is_none_or(|own| own == team) {
            return Ok(tenant);
        }
        Err(Problem::forbidden(
            "team_not_yours",
            "the token is limited to another team",
            "use a token of this team, or one without a team",
        ))
    }

    /// [`Caller::may_of`] for a filter: one that is absent becomes the team of the token.
    pub fn may_filter(
        &self,
        scope: Scope,
        team: &mut Option<String>,
    ) -> Result<TenantScope, Problem> {
        if team.is_none() {
            team.clone_from(&self.0.team);
        }
        match team {
            Some(team) => self.may_of(scope, team),
            None => self.may(scope),
        }
    }

    fn tenant(&self, scope: Scope) -> Result<TenantScope, Problem> {
        if self.has(scope.text()) {
            return Ok(TenantScope(self.0.tenant));
        }
        Err(Problem::forbidden(
            "scope_missing",
            format!("the API key or token has not the scope {}", scope.text()),
            "use one with this scope, or make one",
        )
        .with("scope", scope.text()))
    }

    /// Whether the credential has a scope, given as text.
    pub fn has(&self, scope: &str) -> bool {
        self.0.scopes.iter().any(|own| own == "*" || own == scope)
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    /// A refused credential costs its address an attempt, and its public id as well; a good one is
    /// let through all the same.
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let found = match presented(&parts.headers) {
            Ok(text) if keys::is_token(text) => token::authenticate(api, text).await?,
            Ok(text) => api_key::authenticate(api, text).await?,
            Err(problem) => Err(problem),
        };
        let credential = match found {
            Ok(credential) => credential,
            Err(problem) => {
                api.metrics.unauthorized.inc();
                if problem.status() == StatusCode::UNAUTHORIZED {
                    let id = presented(&parts.headers).ok().and_then(keys::public_id);
                    api.attempts.refused(address(parts), id.as_deref())?;
                }
                return Err(problem.into());
            }
        };
        // For whatever is recorded about the request.
        parts.extensions.insert(credential.actor.clone());
        Ok(Self(Arc::new(credential)))
    }
}

fn disabled() -> Problem {
    Problem::forbidden(
        "tenant_disabled",
        "the tenant of this API key or token is disabled",
        "ask the operator of this installation",
    )
}

fn address(parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
}

/// The credential of `Authorization: Bearer …`, else of `X-Api-Key`.
pub(crate) fn presented(headers: &HeaderMap) -> Result<&str, Problem> {
    fn bearer(value: &HeaderValue) -> Option<&str> {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
    let credential = match headers.get(header::AUTHORIZATION) {
        Some(value) => bearer(value),
        None => headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::trim),
    };
    credential.ok_or_else(|| {
        Problem::unauthorized(
            "key_missing",
            "there is no API key in the request",
            "send `Authorization: Bearer` with an API key or a token, or `X-Api-Key`",
        )
    })
}
