//! Who sends: the API key or token of a request against what is known of keys and secrets.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use runtime::{
    http::{Attempts, Problem},
    keys::{self, KeyError},
};
use tokio::sync::{Semaphore, watch};

use crate::{
    limits::{Buckets, Limit, Limits},
    metrics::Metrics,
    quotas::{Counter, Quotas},
    store::{Snapshot, Tenant},
};

mod token;

/// The scope that lets a key report usage.
pub const SCOPE: &str = "events:write";
/// The scope that lets a key do everything.
const SCOPE_ALL: &str = "*";

/// Codes of credentials that are refused because they were not there at the last load.
const MAY_BE_NEW: [&str; 2] = ["key_unknown", "token_unknown"];
/// Seconds after which to send again what an alias holds up.
const ALIAS_WAIT_S: u64 = 10;
/// Requests that wait for the next load at a time; more are refused at once.
const WAITING_MAX: usize = 64;
/// How long they wait: two loads, as often as they are by default.
const LOAD_WAIT_MAX: Duration = Duration::from_secs(2);

/// Whoever was authenticated. Holds the snapshot, so that one request sees one state.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant of the key.
    pub tenant: Arc<Tenant>,
    /// The public id of the key, or of the secret that signed the token.
    pub key: Arc<str>,
    /// The app of the key.
    pub app: Option<Arc<str>>,
    /// The only team that may be reported for.
    pub team: Option<Arc<str>>,
    /// What its events are counted against.
    pub buckets: Buckets,
    /// What its tenant has used; `None` where nothing is counted.
    pub counter: Option<Arc<Counter>>,
    /// What was known.
    pub snapshot: Arc<Snapshot>,
    /// Whether it is Weir itself, which may say what closes a period.
    pub is_weir: bool,
}

impl Caller {
    /// The team of a subject: that of its alias, else of the same name; `None` while its alias waits.
    #[must_use]
    pub fn team_of<'a>(&'a self, subject: &'a str) -> Option<&'a str> {
        match self.tenant.aliases.get(subject) {
            Some(alias) if alias.waiting => None,
            Some(alias) => Some(&alias.team),
            None => Some(subject),
        }
    }

    /// Whether usage of this team, as [`Caller::team_of`] gives it, may be reported.
    #[must_use]
    pub fn may_report(&self, team: &str) -> bool {
        self.team.as_deref().is_none_or(|own| own == team)
    }
}

/// A credential that is good, before it is known what for.
struct Credential {
    tenant: Arc<Tenant>,
    id: Arc<str>,
    app: Option<Arc<str>>,
    scopes: Vec<String>,
    team: Option<Arc<str>>,
    limit: Option<Limit>,
}

/// Authenticates requests.
#[derive(Debug)]
pub struct Door {
    /// What is known, replaced as a whole.
    pub known: ArcSwap<Snapshot>,
    lease: Duration,
    attempts: Attempts,
    limits: Limits,
    /// How much tenants may report in a day or month.
    pub quotas: Quotas,
    metrics: Metrics,
    /// Tells of each load.
    loads: watch::Sender<()>,
    /// Who may wait for the next one.
    waiting: Semaphore,
}

impl Door {
    /// A door that is open for `lease` after each load.
    #[must_use]
    pub fn new(
        known: Snapshot,
        lease: Duration,
        attempts: Attempts,
        quotas: Quotas,
        metrics: &Metrics,
    ) -> Door {
        let (known, limits) = (ArcSwap::from_pointee(known), Limits::default());
        let (loads, waiting) = (watch::Sender::default(), Semaphore::new(WAITING_MAX));
        Door { known, lease, attempts, limits, quotas, metrics: metrics.clone(), loads, waiting }
    }

    /// Goes on with what was loaded anew.
    pub fn replace(&self, known: Snapshot) {
        self.limits
            .keep(|tenant, credential| known.limits.contains_key(&(tenant, credential.into())));
        self.known.store(Arc::new(known));
        self.loads.send_replace(());
    }

    /// The caller, or the answer to one who may not. A path that names an app takes its own
    /// credentials, and those of no app.
    ///
    /// A refused credential costs its address an attempt, and its public id as well. One without
    /// attempts left is told 429 instead of 401; a good key is let through all the same, because many
    /// clients may share an address and looking at a key costs no more than counting it. One that is
    /// not known may have been made a moment ago: it waits for the next load.
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
        app: Option<&str>,
    ) -> Result<Caller, Problem> {
        let mut admitted = self.authenticate(headers, app);
        if let Err(problem) = &admitted
            && problem.status() == axum::http::StatusCode::UNAUTHORIZED
        {
            let id = credential(headers).ok().and_then(keys::public_id);
            let attempt = self.attempts.refused(address, id.as_deref());
            if attempt.is_ok() && MAY_BE_NEW.contains(&problem.code()) && self.loaded_anew().await {
                admitted = self.authenticate(headers, app);
            }
            if let Err(problem) = &admitted {
                self.metrics.keys_refused.with_label_values(&[problem.code()]).inc();
                attempt?;
            }
        }
        let caller = admitted?;
        caller.buckets.look()?;
        Ok(caller)
    }

    /// Waits for a load that begins after now; false if it does not come, or too many wait already.
    async fn loaded_anew(&self) -> bool {
        let (now, mut loads) = (Instant::now(), self.loads.subscribe());
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let loaded = async {
            while self.known.load().loaded_at <= now {
                if loads.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(LOAD_WAIT_MAX, loaded).await.unwrap_or(false)
    }

    /// Who writes to the door of the tenant with this key: whoever may, by the ACL of its topic.
    /// `None` for a tenant that is not known (yet), or disabled. Its events have no app and no key, and
    /// count against no limit.
    pub fn writer_of(&self, tenant: &str) -> Result<Option<Caller>, Problem> {
        let snapshot = self.known.load_full();
        self.fresh(&snapshot)?;
        let tenant = snapshot.tenants.get(tenant).filter(|tenant| !tenant.disabled).cloned();
        let Some(tenant) = tenant else { return Ok(None) };
        Ok(Some(Caller {
            tenant,
            key: "".into(),
            app: None,
            team: None,
            buckets: Buckets::default(),
            counter: None,
            snapshot,
            is_weir: false,
        }))
    }

    fn authenticate(&self, headers: &HeaderMap, app: Option<&str>) -> Result<Caller, Problem> {
        let text = credential(headers)?;
        let snapshot = self.known.load_full();
        let found = if keys::is_token(text) {
            self.fresh(&snapshot)?;
            token::find(&snapshot, text)?
        } else {
            self.by_key(&snapshot, text)?
        };
        if found.tenant.disabled {
            return Err(disabled());
        }
        if !found.scopes.iter().any(|scope| scope == SCOPE || scope == SCOPE_ALL) {
            let detail = format!("the API key or token has not the scope `{SCOPE}`");
            return Err(Problem::forbidden("scope_missing", detail, "use one with this scope"));
        }
        let app = of_path(&found, app)?;
        let limit =
            |credential: &str| snapshot.limits.get(&(found.tenant.id, credential.into())).copied();
        let buckets = self.limits.buckets((found.tenant.id, limit("")), (&found.id, found.limit));
        let counter = Some(self.quotas.of(found.tenant.id));
        let mut caller = Caller {
            tenant: found.tenant,
            key: found.id,
            app,
            team: None,
            buckets,
            counter,
            snapshot,
            is_weir: false,
        };
        if let Some(team) = found.team {
            caller.team = Some(caller.team_of(&team).ok_or_else(alias_waiting)?.into());
        }
        Ok(caller)
    }

    /// Refuses to decide by what may have changed since.
    pub(crate) fn fresh(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        let age = snapshot.loaded_at.elapsed();
        if age > self.lease {
            return Err(Problem::unavailable(
                1,
                "catalog_stale",
                format!("keys and aliases could not be loaded for {} s", age.as_secs()),
                "send the same events again, with the same ids, after the time in Retry-After",
            ));
        }
        Ok(())
    }

    fn by_key(&self, snapshot: &Snapshot, text: &str) -> Result<Credential, Problem> {
        let parsed = keys::parse(text).map_err(malformed)?;
        self.fresh(snapshot)?;
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
        Ok(Credential {
            tenant: Arc::clone(&key.tenant),
            id: Arc::clone(&key.id),
            app: key.app.clone(),
            scopes: key.scopes.clone(),
            team: None,
            limit: key.limit,
        })
    }
}

fn disabled() -> Problem {
    Problem::forbidden(
        "tenant_disabled",
        "the tenant of this API key or token is disabled",
        "ask the operator of this installation; events that were not accepted may be sent again then",
    )
}

/// The app for which events come: that of the path, if the credential may speak for it. An app
/// that does not exist is answered like one of somebody else.
fn of_path(found: &Credential, path: Option<&str>) -> Result<Option<Arc<str>>, Problem> {
    let Some(path) = path else { return Ok(found.app.clone()) };
    let own = found.app.clone();
    let app = match own {
        Some(own) => Some(own).filter(|own| **own == *path),
        None => found.tenant.apps.get(path).cloned(),
    };
    if app.is_some() {
        return Ok(app);
    }
    Err(Problem::forbidden(
        "app_not_yours",
        "the API key or token does not belong to the app in the path",
        "send to the app that it belongs to, or to /v1/events",
    ))
}

/// The credential of `Authorization: Bearer …`, else of `X-Api-Key`.
fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let action = "send `Authorization: Bearer` with an API key or a token, or `X-Api-Key`";
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

/// Code of [`alias_waiting`].
pub const ALIAS_WAITING: &str = "alias_waiting";

/// The answer to usage of a subject whose alias waits.
pub fn alias_waiting() -> Problem {
    Problem::unavailable(
        ALIAS_WAIT_S,
        "alias_waiting",
        "a subject of these events is about to become another name of a team",
        "send the same events again, with the same ids, after the time in Retry-After: it is decided in about a minute",
    )
}

fn malformed(error: KeyError) -> Problem {
    Problem::unauthorized(
        "key_malformed",
        error.to_string(),
        "copy the whole key, as it was shown when it was made",
    )
}
