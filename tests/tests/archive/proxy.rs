//! A proxy before ClickHouse that fails where a test wants it to.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

/// What happens to statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All pass.
    None,
    /// None arrives.
    Down,
    /// The insert into this table does not arrive, and nothing after it does.
    Before(&'static str),
    /// The insert into this table happens, its answer is lost, and nothing after it arrives.
    After(&'static str),
    /// The insert into this table waits until the fault is changed, then arrives.
    Held(&'static str),
}

/// A proxy of its own port. Ends when dropped.
pub struct Proxy {
    url: String,
    fault: watch::Sender<Fault>,
    seen: Arc<Mutex<Vec<String>>>,
    server: AbortHandle,
}

#[derive(Clone)]
struct Shared {
    target: String,
    client: reqwest::Client,
    fault: watch::Sender<Fault>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one before the ClickHouse at `target`.
    pub async fn start(target: &str) -> Result<Proxy> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (fault, seen) = (watch::Sender::new(Fault::None), Arc::default());
        let shared = Shared {
            target: target.trim_end_matches('/').to_owned(),
            client: reqwest::Client::new(),
            fault: fault.clone(),
            seen: Arc::clone(&seen),
        };
        let router = Router::new().fallback(pass).with_state(shared);
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Proxy { url, fault, seen, server: server.abort_handle() })
    }

    /// Where clients go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Waits until a `Before` or `After` has struck, which leaves nothing through.
    pub async fn struck(&self) {
        let _ = self.fault.subscribe().wait_for(|fault| *fault == Fault::Down).await;
    }

    /// Tables of the inserts that passed, in order.
    pub fn inserts(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(State(shared): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let Ok(body) = to_bytes(body, 1 << 30).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let table = table(&path, &body);
    let is = |wanted: &str| table.as_deref() == Some(wanted);
    let fault = *shared.fault.borrow();
    match fault {
        Fault::Down => return gone(),
        Fault::Before(wanted) if is(wanted) => {
            shared.fault.send_replace(Fault::Down);
            return gone();
        }
        Fault::Held(wanted) if is(wanted) => {
            let _ = shared.fault.subscribe().wait_for(|now| *now != fault).await;
        }
        _ => {}
    }
    let method = head.method;
    let sent = shared
        .client
        .request(method, format!("{}{path}", shared.target))
        .headers(strip(head.headers))
        .body(body);
    let Ok(answer) = sent.send().await else { return gone() };
    let (status, headers) = (answer.status(), strip(answer.headers().clone()));
    let Ok(bytes) = answer.bytes().await else { return gone() };
    if let Some(table) = &table {
        shared.seen.lock().unwrap().push(table.clone());
    }
    if let Fault::After(wanted) = fault
        && is(wanted)
    {
        shared.fault.send_replace(Fault::Down);
        return gone();
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The headers that speak of one connection are made anew for the other.
fn strip(mut headers: axum::http::HeaderMap) -> axum::http::HeaderMap {
    for name in ["host", "content-length", "transfer-encoding", "connection"] {
        headers.remove(name);
    }
    headers
}

fn gone() -> Response {
    (StatusCode::BAD_GATEWAY, "the proxy lets nothing through").into_response()
}

/// The table of an insert, which stands in the address or at the beginning of the body.
fn table(path: &str, body: &Bytes) -> Option<String> {
    let begin = String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default());
    let text = format!("{} {begin}", path.replace(['+'], " ").replace("%20", " "));
    let (_, rest) = text.split_once("INSERT INTO ")?;
    Some(rest.split([' ', '%', '(']).next()?.to_owned())
}
