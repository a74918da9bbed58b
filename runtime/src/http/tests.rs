//! Tests of [`super`].

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::ServiceExt;

use super::*;
use crate::{shutdown::Shutdown, telemetry::Metrics};

fn router() -> Router {
    Router::new()
        .route("/panic", get(panics))
        .route("/slow", get(std::future::pending::<()>))
        .route(
            "/wait",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                "waited"
            }),
        )
        .route(
            "/body",
            post(|body: Body| async {
                read_body(body, 10).await.map(|read| read.len().to_string())
            }),
        )
        .route(
            "/busy",
            get(|| async {
                Problem::unavailable(7, "busy", "too much to do", "wait").with("lag", json!([1, 2]))
            }),
        )
}

async fn panics() -> &'static str {
    panic!("a secret")
}

fn options() -> ServeOptions {
    ServeOptions { request_timeout: Duration::from_millis(500), ..ServeOptions::default() }
}

async fn ask(request: Request) -> (StatusCode, axum::http::HeaderMap, Value) {
    let response = finish(router(), &options()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 100_000).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (parts.status, parts.headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn get_request(path: &str) -> Request {
    Request::get(path).header(REQUEST_ID_HEADER, "abc-1").body(Body::empty()).unwrap()
}

#[tokio::test]
async fn problems_are_complete() {
    let (status, headers, body) = ask(get_request("/busy")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(headers[header::RETRY_AFTER], "7");
    assert_eq!(headers[REQUEST_ID_HEADER], "abc-1");
    assert_eq!(
        body,
        json!({
            "type": "urn:weir:problem:busy", "title": "Service Unavailable", "status": 503,
            "code": "busy", "detail": "too much to do", "action": "wait",
            "request_id": "abc-1", "lag": [1, 2],
        })
    );
}

#[tokio::test]
async fn what_no_handler_answers_is_a_problem_too() {
    let cases = [
        ("/nothing", 404, "unknown_path"),
        ("/body", 405, "method_not_allowed"),
        ("/panic", 500, "internal"),
        ("/slow", 503, "request_timeout"),
    ];
    for (path, status, code) in cases {
        let (got, headers, body) = ask(get_request(path)).await;
        assert_eq!((got.as_u16(), &body["code"]), (status, &json!(code)), "{path}");
        assert_eq!(body["request_id"], "abc-1", "{path}");
        assert_eq!(headers[REQUEST_ID_HEADER], "abc-1", "{path}");
        assert!(!body.to_string().contains("a secret"), "{body}");
    }
}

#[tokio::test]
async fn a_request_id_that_is_not_sane_is_replaced() {
    for id in ["", "a b", "a\u{e9}", &"x".repeat(129)] {
        let request = Request::get("/busy").header(REQUEST_ID_HEADER, id.as_bytes());
        let (_, headers, body) = ask(request.body(Body::empty()).unwrap()).await;
        let made = body["request_id"].as_str().unwrap();
        assert_eq!(made.len(), 36, "{made}");
        assert_eq!(headers[REQUEST_ID_HEADER], made);
    }
}

#[tokio::test]
async fn bodies_end_at_the_limit() {
    for (length, status) in [(0, 200), (9, 200), (10, 200), (11, 413), (100_000, 413)] {
        let request = Request::post("/body").body(Body::from("x".repeat(length))).unwrap();
        let (got, _, body) = ask(request).await;
        assert_eq!(got.as_u16(), status, "{length}: {body}");
        if status == 200 {
            assert_eq!(body, json!(length));
        }
    }
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let (readiness, metrics) = (Readiness::new(), Metrics::new());
    metrics.counter("seen_total", "Seen.").unwrap().inc();
    let routes = health_routes(readiness.clone(), metrics);
    let ask = async |path: &str| {
        let response = routes.clone().oneshot(get_request(path)).await.unwrap();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    };
    assert_eq!(ask("/ready").await.0, 503);
    readiness.set("log", State::Ready);
    readiness.set("postgres", State::NotReady("connecting".into()));
    let (status, body) = ask("/ready").await;
    assert_eq!(
        (status, body.contains("connecting"), body.contains("log")),
        (503, true, false),
        "{body}"
    );
    readiness.set("postgres", State::Ready);
    assert!(readiness.is_ready());
    assert_eq!(ask("/ready").await.0, 200);
    assert_eq!(ask("/health").await.0, 200);
    assert!(ask("/metrics").await.1.contains("seen_total 1"));
}

async fn served()
-> (std::net::SocketAddr, Shutdown, tokio::task::JoinHandle<Result<(), ServeError>>) {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let server = serve(listener, router(), shutdown.clone(), options());
    (address, shutdown, crate::task::spawn_detached(server))
}

async fn exchange(address: std::net::SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_stop_lets_the_open_request_end() {
    let (address, shutdown, server) = served().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let idle = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    shutdown.trigger();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("waited"), "{answer}");
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop(idle);
}

#[tokio::test]
async fn headers_are_limited() {
    let (address, _shutdown, _server) = served().await;
    let end = "Connection: close\r\n\r\n";
    let usual =
        exchange(address, format!("GET /busy HTTP/1.1\r\nHost: a\r\n{end}").as_bytes()).await;
    assert!(usual.starts_with("HTTP/1.1 503"), "{usual}");
    let long = format!("GET /busy HTTP/1.1\r\nHost: a\r\nx: {}\r\n{end}", "y".repeat(70_000));
    assert!(!exchange(address, long.as_bytes()).await.starts_with("HTTP/1.1 503"));
    let many: String = (0..200).map(|number| format!("x{number}: y\r\n")).collect();
    let many =
        exchange(address, format!("GET /busy HTTP/1.1\r\nHost: a\r\n{many}{end}").as_bytes()).await;
    assert!(!many.starts_with("HTTP/1.1 503"), "{many}");
}
