//! `/health`, `/ready` and `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;

use crate::telemetry::Metrics;

/// Whether one part of a process can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Ready,
    /// It cannot, for this reason.
    NotReady(String),
}

/// Named checks, shared by the tasks that set them and by `/ready`. A process without any check
/// is not ready: it has not started yet.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, State>>>);

impl Readiness {
    /// No checks yet.
    pub fn new() -> Self {
        Self::default()
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
        let checks = self.checks();
        !checks.is_empty() && checks.values().all(|state| *state == State::Ready)
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
        reasons.collect()
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
