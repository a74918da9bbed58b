//! The OpenAPI document and its browsable page.

use axum::Router;
use serde::Serialize;
use utoipa::{
    IntoResponses, Modify, OpenApi, ToSchema,
    openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Name of the security scheme that every route under `/v1` requires.
const SCHEME: &str = "api_key";

#[derive(OpenApi)]
#[openapi(
    info(title = "Weir", description = "Usage metering, rating and a ledger that stays explainable down to the event.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    tags(
        (name = "catalog", description = "Meters, rate cards and cost cards, published as numbered versions"),
        (name = "teams", description = "Billing accounts and their aliases"),
        (name = "keys", description = "Apps, API keys and secrets, limits, and who changed what"),
        (name = "balances", description = "Balances, transfers and journals"),
        (name = "wallets", description = "Stored value: wallets, grants, holds and credits"),
        (name = "usage", description = "Usage, and what became of each event"),
        (name = "corrections", description = "Events taken back, amended or rated again"),
        (name = "analytics", description = "Usage, revenue, cost and margin over a period, and exports"),
        (name = "status", description = "What has been accepted, and where it is"),
    ),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        let description = "An API key (weir_live_...), or a token that an app signed (JWT, HS256)";
        scheme.description = Some(description.to_owned());
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
        document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(SCHEME, [])]);
    }
}

/// The document without any route: title, tags and security. Routers are merged into it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Serves the merged document at `/openapi.json` and its page at `/docs`.
pub fn documentation(document: utoipa::openapi::OpenApi) -> Router {
    let config = Config::default().try_it_out_enabled(true).persist_authorization(false);
    SwaggerUi::new("/docs").url("/openapi.json", document).config(config).into()
}

/// An error, as RFC 9457 has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// Names the kind of problem.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// Stable name of the problem, for programs.
    code: String,
    /// What is wrong, for people.
    detail: String,
    /// What to do.
    action: String,
    /// Tell it to the operator.
    request_id: Option<String>,
}

/// Answers that every route may give.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) enum Refusals {
    /// The request cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(ProblemDocument),
    /// There is no API key, or none that is accepted.
    #[response(status = 401, content_type = "application/problem+json", headers(("WWW-Authenticate" = String, description = "`Bearer`")))]
    Unauthorized(ProblemDocument),
    /// The API key has not the scope.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDocument),
    /// Too many refused credentials from this address.
    #[response(status = 429, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds to wait")))]
    TooMany(ProblemDocument),
    /// Something that is needed is away; try again.
    #[response(status = 503, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds to wait")))]
    Unavailable(ProblemDocument),
}

/// Answers that every mutating route may give besides.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) enum ChangeRefusals {
    /// It contradicts what is there, or the Idempotency-Key was used for another request.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDocument),
    /// The body is too long.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
    /// It can be read and is against a rule.
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(ProblemDocument),
}

/// A problem document of what a wallet does not cover.
#[derive(Serialize, ToSchema)]
pub(crate) struct InsufficientFunds {
    /// As every error has it.
    #[serde(flatten)]
    problem: ProblemDocument,
    /// What there is, or what may be captured.
    available: String,
    /// What helps: `top_up`, `raise_credit_limit`.
    actions: Vec<String>,
}

/// The wallet does not cover it, and nothing was changed.
#[derive(IntoResponses)]
#[response(status = 402, content_type = "application/problem+json")]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct NotCovered(InsufficientFunds);

/// There is nothing of that name for this caller.
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct NotFound(ProblemDocument);

/// This process is not told what it needs for that.
#[derive(IntoResponses)]
#[response(status = 501, content_type = "application/problem+json")]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct NotConfigured(ProblemDocument);

/// It can be read and is against a rule.
#[derive(IntoResponses)]
#[response(status = 422, content_type = "application/problem+json")]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct Unprocessable(ProblemDocument);
