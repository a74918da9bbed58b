//! What the one HTTP address of a process serves: its roles' routes, health, and documentation.

use axum::{Router, routing::any};
use runtime::{
    context::Context,
    http::{Problem, Readiness, allow_origins, health_routes},
    telemetry::Metrics,
};
use utoipa_axum::router::OpenApiRouter;

use crate::config::HttpConfig;

/// Seconds after which a client may look again whether the start is over.
const RETRY_AFTER_S: u64 = 2;

/// The routes of the roles with health, metrics, `/openapi.json` and `/docs`.
pub fn router(roles: OpenApiRouter, context: &Context, http: &HttpConfig) -> Router {
    let (routes, document) =
        OpenApiRouter::with_openapi(api::openapi()).merge(roles).split_for_parts();
    let routes = routes
        .merge(api::documentation(document))
        .merge(health_routes(context.readiness.clone(), context.metrics.clone()));
    allow_origins(routes, &http.allowed_origins)
}

/// What is answered before the roles have been started: health and metrics, and 503 for the rest.
pub fn starting(readiness: &Readiness, metrics: &Metrics) -> Router {
    let wait = || async {
        Problem::unavailable(
            RETRY_AFTER_S,
            "starting",
            "this process is starting, or waits for a server that it needs",
            "send the same again a little later; /ready says what is missing",
        )
    };
    health_routes(readiness.clone(), metrics.clone())
        .route("/", any(wait))
        .route("/{*path}", any(wait))
}
