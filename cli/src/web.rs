//! What the one HTTP address of a process serves: its roles' routes, health, and documentation.

use axum::Router;
use runtime::{context::Context, http::health_routes};
use utoipa_axum::router::OpenApiRouter;

/// The routes of the roles with health, metrics, `/openapi.json` and `/docs`.
pub fn router(roles: OpenApiRouter, context: &Context) -> Router {
    let (routes, document) =
        OpenApiRouter::with_openapi(api::openapi()).merge(roles).split_for_parts();
    routes
        .merge(api::documentation(document))
        .merge(health_routes(context.readiness.clone(), context.metrics.clone()))
}
