//! Who sends: the API key of a request against what is known of keys.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use runtime::{
    http::Problem,
    keys::{self, KeyError},
};

use crate::{
    attempts::Attempts,
    metrics::Metrics,
    store::{Snapshot, Tenant},
};

/// The scope that lets a key report usage.
pub const SCOPE: &str = "events:write";
/// The scope that lets a key do everything.
const SCOPE_ALL: &str = "*";

/// Whoever was authenticated. Holds the snapshot, so that one request sees one state.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant of the key.
    pub tenant: Arc<Tenant>,
    /// The public id of the key.
    pub key: Arc<str>,
    /// The app of the key.
    pub app: Option<Arc<str>>,
    /// What was known.
    pub snapshot: Arc<Snapshot>,
    /// The database's time at the request.
    pub database_us: i64,
}

impl Caller {
    /// The team of a subject: that of an alias that has taken effect, else of the same name.
    #[must_use]
    pub fn team_of(&self, subject: &str) -> Arc<str> {
        match self.tenant.aliases.get(subject) {
            Some(alias) if alias.effective_us <= self.database_us => Arc::clone(&alias.team),
            _ => subject.into(),
        }
    }
}

/// Authenticates requests.
#[derive(Debug)]
pub struct Door {
    /// What is known, replaced as a whole.
    pub known: ArcSwap<Snapshot>,
    lease: Duration,
    attempts: Attempts,
    metrics: Metrics,
}

impl Door {
    /// A door that is open for `lease` after each load.
    #[must_use]
    pub fn new(known: Snapshot, lease: Duration, attempts: Attempts, metrics: &Metrics) -> Door {
        Door { known: ArcSwap::from_pointee(known), lease, attempts, metrics: metrics.clone() }
    }

    /// The caller, or the answer to one who may not.
    ///
    /// A refused credential costs its address an attempt. One without attempts left is told 429
    /// instead of 401; a good key is let through all the same, because many clients may share an
    /// address and looking at a key costs no more than counting it.
    pub fn admit(&self, headers: &HeaderMap, address: IpAddr) -> Result<Caller, Problem> {
        let admitted = self.authenticate(headers);
        if let Err(problem) = &admitted
            && problem.status() == axum::http::StatusCode::UNAUTHORIZED
        {
            self.metrics.keys_refused.with_label_values(&[problem.code()]).inc();
            if let Err(wait_s) = self.attempts.fail(address) {
                return Err(Problem::too_many(
                    wait_s,
                    "too_many_attempts",
                    "too many credentials from this address were refused",
                    "correct the key, then wait for the time in Retry-After",
                ));
            }
        }
        admitted
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let parsed = keys::parse(credential(headers)?).map_err(malformed)?;
        let snapshot = self.known.load_full();
        let age = snapshot.loaded_at.elapsed();
        if age > self.lease {
            return Err(Problem::unavailable(
                1,
                "catalog_stale",
                format!("keys and aliases could not be loaded for {} s", age.as_secs()),
                "send the same events again, with the same ids, after the time in Retry-After",
            ));
        }
        self.metrics.key_lookups.inc();
        let candidates =
            snapshot.keys.get(parsed.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let Some(key) =
            candidates.iter().find(|key| keys::verify(&parsed.secret_hash, &key.secret_hash))
        else {
            return Err(Problem::unauthorized(
                "key_unknown",
                "there is no such API key",
                "send a key of this installation",
            ));
        };
        let database_us = snapshot.database_now_us();
        if key.revoked_us.is_some_and(|revoked_us| revoked_us <= database_us) {
            return Err(Problem::unauthorized(
                "key_revoked",
                "the API key was revoked",
                "send another key",
            ));
        }
        if key.expires_us.is_some_and(|expires_us| expires_us <= database_us) {
            return Err(Problem::unauthorized(
                "key_expired",
                "the API key has expired",
                "send another key",
            ));
        }
        if !key.scopes.iter().any(|scope| scope == SCOPE || scope == SCOPE_ALL) {
            let detail = format!("the API key has not the scope `{SCOPE}`");
            return Err(Problem::forbidden("scope_missing", detail, "make a key with this scope"));
        }
        Ok(Caller {
            tenant: Arc::clone(&key.tenant),
            key: Arc::clone(&key.id),
            app: key.app.clone(),
            snapshot: Arc::clone(&snapshot),
            database_us,
        })
    }
}

/// The credential of `Authorization: Bearer …`, else of `X-Api-Key`.
fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let action = "send `Authorization: Bearer weir_live_…` or `X-Api-Key: weir_live_…`";
        Problem::unauthorized("key_missing", "the request has no API key", action)
    };
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| malformed(KeyError::Malformed))?;
        let (scheme, credential) =
            text.trim().split_once(' ').ok_or_else(|| malformed(KeyError::Malformed))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(malformed(KeyError::Malformed));
        }
        return Ok(credential.trim());
    }
    let value = headers.get("x-api-key").ok_or_else(missing)?;
    value.to_str().map(str::trim).map_err(|_| malformed(KeyError::Malformed))
}

fn malformed(error: KeyError) -> Problem {
    Problem::unauthorized(
        "key_malformed",
        error.to_string(),
        "copy the whole key, as it was shown when it was made",
    )
}
