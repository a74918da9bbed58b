//! The engine's process: ClickHouse's HTTP interface in front of libchdb.
//!
//! [`serve`] is what the hidden command `weir clickhouse-engine` runs. It answers on loopback and
//! knows no users: credentials in a request are ignored, and requests of a browser are refused, so
//! that no web page can reach it. One line on standard output, `listening ADDRESS`, says that it
//! is ready.

use std::{io::Write, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
};

use super::{
    bodies::Bodies,
    chdb::ChdbError,
    pool::{Failure, Pool},
    request,
    statement::Refusal,
};

/// What the engine's process needs to know.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Path of libchdb.so.
    pub library: PathBuf,
    /// The data folder; made when it is missing. One process uses it at a time.
    pub data: PathBuf,
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How many statements run at once.
    pub connections: usize,
}

/// Why the engine's process ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// libchdb is missing or did not start.
    #[error("{0}")]
    Library(String),
    /// The folder cannot be made or the address cannot be bound.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What came of it.
        source: std::io::Error,
    },
}

/// Size of one request's body, compressed or not: an insert of 200,000 rows has about 100 MB.
pub(super) const BODY_BYTES_MAX: usize = 512 << 20;
/// Requests that wait for a connection; the next one is told to come back.
const WAITING_MAX: usize = 256;
/// Requests whose body is in memory beyond those that run.
const READ_AHEAD: usize = 2;
/// A body that takes longer is given up: its sender holds one of the few places.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);
/// How long running statements may go on after SIGTERM.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// Name of the variable with the process id of the supervisor, with which the engine dies.
pub(super) const PARENT_VARIABLE: &str = "ENGINE_PARENT_PROCESS";

/// ClickHouse's code for "come back later".
const TOO_MANY_SIMULTANEOUS_QUERIES: u32 = 202;
const BAD_REQUEST: u32 = 36;

/// Runs the engine until SIGTERM or SIGINT. Blocks; may be called within a tokio runtime or not.
pub fn serve(options: EngineOptions) -> Result<(), EngineError> {
    // A thread of its own, because a runtime cannot be started within another.
    let thread = std::thread::Builder::new().name("clickhouse-engine".into());
    let running = thread
        .spawn(move || run(&options))
        .map_err(|source| EngineError::System { what: "start a thread".into(), source })?;
    running.join().unwrap_or_else(|_| Err(EngineError::Library("the engine panicked".into())))
}

fn run(options: &EngineOptions) -> Result<(), EngineError> {
    follow_parent()?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| EngineError::System { what, source }
    };
    std::fs::create_dir_all(&options.data)
        .map_err(failed(&format!("make the folder {}", options.data.display())))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed("watch SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("watch SIGINT"))?;
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(failed(&format!("listen on {}", options.listen)))?;
        let address = listener.local_addr().map_err(failed("ask for the address"))?;
        let front = Arc::new(Front::open(options)?);
        writeln!(std::io::stdout(), "listening {address}").map_err(failed("say the address"))?;

        let (stop, stopped) = watch::channel(false);
        let server = crate::task::spawn_detached(listen(listener, Arc::clone(&front), stopped));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, server).await;
        front.close().await;
        Ok(())
    });
    // A statement that did not end in time goes with the process; parts are written whole or not.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Asks the system to end this process when the supervisor's thread is gone, even by `kill -9`.
fn follow_parent() -> Result<(), EngineError> {
    let Some(parent) = crate::config::variable(PARENT_VARIABLE) else {
        return Ok(());
    };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(|fault| {
        EngineError::System { what: "follow the parent process".into(), source: fault.into() }
    })?;
    // It may have gone before we asked.
    if nix::unistd::getppid().to_string() == parent {
        return Ok(());
    }
    Err(EngineError::System {
        what: "follow the parent process".into(),
        source: std::io::Error::other("it is gone"),
    })
}

async fn listen(listener: TcpListener, front: Arc<Front>, mut stopped: watch::Receiver<bool>) {
    let routes = Router::new()
        .route("/", any(answer))
        .route("/ping", get(|| async { "Ok.\n" }))
        .with_state(front);
    let served = axum::serve(listener, routes)
        .with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await;
    if let Err(fault) = served {
        tracing::error!(error = %fault, "the ClickHouse engine stopped listening");
    }
}

/// The pool and the limits in front of it.
struct Front {
    pool: Arc<Pool>,
    bodies: Bodies,
    connections: u32,
    waiting: Arc<Semaphore>,
    in_memory: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Front {
    fn open(options: &EngineOptions) -> Result<Self, EngineError> {
        let connections = options.connections.clamp(1, 64);
        let pool = Pool::open(&options.library, &options.data, connections)
            .map_err(|fault: ChdbError| EngineError::Library(fault.to_string()))?;
        Ok(Self {
            pool: Arc::new(pool),
            bodies: Bodies::default(),
            connections: u32::try_from(connections).unwrap_or(1),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            in_memory: Arc::new(Semaphore::new(connections + READ_AHEAD)),
            running: Arc::new(Semaphore::new(connections)),
        })
    }

    /// Closes the connections if nothing runs on them.
    async fn close(&self) {
        let all = self.running.acquire_many(self.connections);
        if let Ok(Ok(_permits)) = tokio::time::timeout(Duration::from_millis(100), all).await {
            let pool = Arc::clone(&self.pool);
            let _ = tokio::task::spawn_blocking(move || pool.close()).await;
        }
    }
}

/// A problem and the HTTP status that goes with it.
struct Problem(StatusCode, u32, String);

async fn answer(State(front): State<Arc<Front>>, request: Request) -> Response {
    match handle(&front, request).await {
        Ok((format, body)) => {
            let mut response = Body::from(body).into_response();
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static(content_type(&format));
            headers.insert(header::CONTENT_TYPE, kind);
            if let Ok(format) = HeaderValue::from_str(&format) {
                headers.insert("X-ClickHouse-Format", format);
            }
            response
        }
        Err(Problem(status, code, message)) => {
            let code = HeaderValue::from(code);
            (status, [("X-ClickHouse-Exception-Code", code)], message + "\n").into_response()
        }
    }
}

async fn handle(front: &Front, request: Request) -> Result<(String, Vec<u8>), Problem> {
    let (parts, body) = request.into_parts();
    if ["origin", "sec-fetch-site"].iter().any(|name| parts.headers.contains_key(*name)) {
        let message = "Code: 36. DB::Exception: Requests of a browser are refused".to_owned();
        return Err(Problem(StatusCode::FORBIDDEN, BAD_REQUEST, message));
    }
    let busy = || {
        let message = "Code: 202. DB::Exception: Too many simultaneous queries".to_owned();
        Problem(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY_SIMULTANEOUS_QUERIES, message)
    };
    let waiting = Arc::clone(&front.waiting).try_acquire_owned().map_err(|_| busy())?;
    let in_memory = Arc::clone(&front.in_memory).acquire_owned().await.map_err(|_| busy())?;
    let body = tokio::time::timeout(BODY_TIME_MAX, front.bodies.read(body, BODY_BYTES_MAX))
        .await
        .map_err(|_| unreadable(StatusCode::REQUEST_TIMEOUT, "The body took too long"))?
        .map_err(|fault| {
            let message = format!("The body is cut or above {BODY_BYTES_MAX} bytes: {fault}");
            unreadable(StatusCode::PAYLOAD_TOO_LARGE, &message)
        })?;
    let url_query = parts.uri.query().unwrap_or_default();
    let work = request::read(&parts.method, url_query, &parts.headers, body).map_err(refused)?;
    let format = work.format.clone();
    let running = Arc::clone(&front.running).acquire_owned().await.map_err(|_| busy())?;
    drop(waiting);
    let pool = Arc::clone(&front.pool);
    // The permits go along: a statement whose client has left still holds its connection.
    let done = tokio::task::spawn_blocking(move || {
        let outcome = pool.run(&work);
        drop((work, in_memory, running));
        outcome
    });
    match done.await {
        Ok(outcome) => outcome.map(|body| (format, body)).map_err(failed),
        Err(fault) => Err(Problem(StatusCode::INTERNAL_SERVER_ERROR, 0, fault.to_string())),
    }
}

fn unreadable(status: StatusCode, message: &str) -> Problem {
    Problem(status, BAD_REQUEST, format!("Code: {BAD_REQUEST}. DB::Exception: {message}"))
}

fn refused(refusal: Refusal) -> Problem {
    let Refusal { code, message } = refusal;
    Problem(status_of(code), code, format!("Code: {code}. DB::Exception: {message}"))
}

fn failed(failure: Failure) -> Problem {
    let message = failure.to_string();
    let code = super::exception_code(&message).unwrap_or(0);
    Problem(status_of(code), code, message)
}

/// The statuses that ClickHouse gives the codes that clients meet most.
fn status_of(code: u32) -> StatusCode {
    match code {
        // Unknown function, identifier, table, database, setting.
        46 | 47 | 60 | 81 | 115 => StatusCode::NOT_FOUND,
        // Cannot parse, syntax, bad arguments, a parameter that is missing.
        6 | 26 | 27 | 36 | 62 | 456 | 457 => StatusCode::BAD_REQUEST,
        TOO_MANY_SIMULTANEOUS_QUERIES => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn content_type(format: &str) -> &'static str {
    match format {
        "TabSeparated" | "TSV" => "text/tab-separated-values; charset=UTF-8",
        "JSON" | "JSONCompact" => "application/json; charset=UTF-8",
        "JSONEachRow" | "JSONLines" | "NDJSON" => "application/x-ndjson; charset=UTF-8",
        "CSV" => "text/csv; charset=UTF-8",
        _ => "application/octet-stream",
    }
}
