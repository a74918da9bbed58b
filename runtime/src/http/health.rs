//! `/health`, `/ready` and `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;

use super::heartbeat::Pulse;
use crate::telemetry::Metrics;

/// A part of a process that has not gone on for so long is not ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether one part of a process can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Ready,
    /// It cannot, for this reason.
    NotReady(String),
}

/// Named checks, shared by the tasks that set them and by `/ready`. A process without any check
/// is not ready: it has not started yet. A check with a [`super::Heartbeat`] is not ready either
/// when that has stopped.
#[derive(Clone, Debug)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<String, State>>>,
    pulses: Arc<Mutex<Vec<Arc<Pulse>>>>,
    patience: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

impl Readiness {
    /// No checks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No checks yet; heartbeats may be so far apart.
    pub fn with_patience(patience: Duration) -> Self {
        Self { checks: Arc::default(), pulses: Arc::default(), patience }
    }

    /// Sets the state of the check `name`.
    pub fn set(&self, name: impl Into<String>, state: State) {
        self.checks().insert(name.into(), state);
    }

    /// Forgets a check, such as that of a partition given away.
    pub fn remove(&self, name: &str) {
        self.checks().remove(name);
    }

    /// Whether there are checks and all are ready.
    pub fn is_ready(&self) -> bool {
        self.not_ready().is_empty()
    }

    /// The checks that are not ready, with their reasons.
    pub fn not_ready(&self) -> BTreeMap<String, String> {
        let checks = self.checks();
        if checks.is_empty() {
            return BTreeMap::from([("start".to_owned(), "still starting".to_owned())]);
        }
        let reasons = checks.iter().filter_map(|(name, state)| match state {
            State::Ready => None,
            State::NotReady(reason) => Some((name.clone(), reason.clone())),
        });
        let mut reasons: BTreeMap<String, String> = reasons.collect();
        drop(checks);
        for pulse in self.pulses().iter() {
            if let Some(fault) = pulse.fault(self.patience) {
                reasons.entry(pulse.check.clone()).or_insert(fault);
            }
        }
        reasons
    }

    /// The checks that are not ready, as a gauge in Prometheus' text format.
    fn render(&self) -> String {
        let mut text = String::from(
            "# HELP weir_not_ready 1 for every check of /ready that is not ready.\n# TYPE weir_not_ready gauge\n",
        );
        for check in self.not_ready().into_keys() {
            let check = check.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
            text.push_str(&format!("weir_not_ready{{check=\"{check}\"}} 1\n"));
        }
        text
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, State>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pulses(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Pulse>>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/health` (the process answers), `/ready` (its parts can work) and `/metrics`.
pub fn health_routes(readiness: Readiness, metrics: Metrics) -> Router {
    let shown = readiness.clone();
    let ready = move || {
        let not_ready = readiness.not_ready();
        async move {
            let status =
                if not_ready.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, Json(json!({ "ready": not_ready.is_empty(), "not_ready": not_ready })))
        }
    };
    let metrics = move || {
        let text = metrics.render() + &shown.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response() }
    };
    Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
}
