//! What browsers are told: headers of every answer, and which other origins may ask.

use std::time::Duration;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::map_response,
    response::Response,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::Problem;

/// Of every answer that has not its own. Pages may load what this server serves, and nothing else;
/// nobody may show them in a frame.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long a browser remembers that an origin may ask.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Adds the headers to every answer. Strict-Transport-Security is the matter of the proxy that has
/// the certificate.
pub(super) fn headers(router: Router) -> Router {
    router.layer(map_response(async |mut response: Response| {
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        };
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::X_FRAME_OPTIONS, "DENY");
        set(header::REFERRER_POLICY, "no-referrer");
        // Answers hold amounts, and now and then a key.
        set(header::CACHE_CONTROL, "no-store");
        response
    }))
}

/// The answer to a method that a path does not take.
pub(super) fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not take this method",
        "see the Allow header and /openapi.json",
    )
}

/// Whether a text is an origin as browsers send it: scheme, host and port, nothing more.
pub fn is_origin(text: &str) -> bool {
    let host = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain))
}

/// Lets pages of these origins ask; without any, only pages of this server may. Keys are sent in a
/// header that a page must set itself, so nothing is ever sent along unasked.
pub fn allow_origins(router: Router, origins: &[String]) -> Router {
    if origins.is_empty() {
        return router;
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let names = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    };
    let asked = names(&[
        "authorization",
        "content-encoding",
        "content-type",
        "idempotency-key",
        "x-api-key",
        "x-request-id",
    ]);
    let answered = names(&[
        "idempotency-repeated",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "retry-after",
        "x-request-id",
    ]);
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    // Before the layer, so that it sees what browsers ask with OPTIONS.
    router.method_not_allowed_fallback(async || method_not_allowed()).layer(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods(methods)
            .allow_headers(asked)
            .expose_headers(answered)
            .max_age(MAX_AGE),
    )
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request, routing::get};
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::{ServeOptions, finish};

    async fn ask(router: &Router, method: Method, path: &str, origin: &str) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if !origin.is_empty() {
            request = request
                .header(header::ORIGIN, origin)
                .header(header::ACCESS_CONTROL_REQUEST_METHOD, "GET");
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn router(origins: &[&str]) -> Router {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let own = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'")];
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/own", get(async move || own))
            .route("/panic", get(async || -> &'static str { panic!("a secret") }));
        finish(allow_origins(router, &origins), &ServeOptions::default())
    }

    #[tokio::test]
    async fn every_answer_has_the_headers() {
        let router = router(&[]);
        for path in ["/", "/nothing", "/panic"] {
            let response = ask(&router, Method::GET, path, "").await;
            let headers = response.headers();
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(headers["x-frame-options"], "DENY", "{path}");
            assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
            assert_eq!(headers["content-security-policy"], POLICY, "{path}");
            assert_eq!(headers["cache-control"], "no-store", "{path}");
        }
        let own = ask(&router, Method::GET, "/own", "").await;
        assert_eq!(own.headers()["content-security-policy"], "default-src 'none'");
    }

    #[tokio::test]
    async fn other_origins_may_ask_only_when_they_are_named() {
        let named = "https://app.example.com";
        for (origins, origin, allowed) in [
            (&[][..], named, false),
            (&[named][..], named, true),
            (&[named][..], "https://app.example.com.evil.net", false),
            (&[named][..], "http://app.example.com", false),
            (&[named][..], "null", false),
        ] {
            let router = router(origins);
            let answer = ask(&router, Method::GET, "/", origin).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let given = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(given.is_some_and(|given| given == origin), allowed, "{origin}");
            assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
            let asked = ask(&router, Method::OPTIONS, "/", origin).await;
            let given = asked.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(given.is_some_and(|given| given == origin), allowed, "{origin}");
        }
    }

    #[test]
    fn origins_are_told_from_other_texts() {
        for good in ["https://a.example", "http://127.0.0.1:8080", "http://[::1]:80"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in
            ["", "*", "null", "a.example", "https://", "https://a/", "https://a b", "ftp://a"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
