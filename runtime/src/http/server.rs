//! Accepting connections, and letting them end.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, middleware};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::{Problem, request, security};
use crate::{shutdown::Shutdown, task};

/// Bytes of the request line and all headers: more than any proxy lets through. Their number is
/// limited by hyper, to 100.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Time for the request line and the headers, and for an idle connection to be kept: a little more
/// than the 90 s after which common clients close it themselves.
const HEAD_TIME_MAX: Duration = Duration::from_secs(100);
/// Connections that wait to be accepted: a burst of more has to knock again, which takes a second. The
/// kernel's own limit, `net.core.somaxconn`, may be lower.
const QUEUE: u32 = 4_096;
/// Pause after `accept` failed, which it does when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a server behaves; [`Default`] is right for all but tests.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Total time of one request, its body included.
    pub request_timeout: Duration,
    /// Time that open requests have after a stop was asked for.
    pub drain: Duration,
    /// Connections at a time; more wait in the listener's queue.
    pub connections: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(20),
            connections: 10_000,
        }
    }
}

/// A server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}: {source}; free it or choose another")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Listens on `address`; port 0 takes a free one.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    listen(address).map_err(|source| ServeError::Bind { address, source })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Adds to `router` what every request gets: see the module's documentation. [`serve`] calls it;
/// tests that call a router without a socket do so too.
pub fn finish(router: Router, options: &ServeOptions) -> Router {
    let timeout = options.request_timeout;
    let router = router
        .fallback(|| async {
            Problem::not_found("unknown_path", "there is nothing at this path", "see /openapi.json")
        })
        .method_not_allowed_fallback(async || security::method_not_allowed())
        .layer(middleware::from_fn(move |incoming, next| {
            request::surround(timeout, incoming, next)
        }));
    security::headers(router)
}

/// The router of a server, which can be exchanged while the server runs: a process answers for its
/// health before it has what its other routes need.
#[derive(Clone, Debug)]
pub struct Routes {
    current: Arc<RwLock<Router>>,
    options: ServeOptions,
}

impl Routes {
    /// Routes to begin with.
    pub fn new(router: Router, options: ServeOptions) -> Self {
        Self { current: Arc::new(RwLock::new(finish(router, &options))), options }
    }

    /// Answers all requests that come from now on by `router`.
    pub fn replace(&self, router: Router) {
        let router = finish(router, &self.options);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    fn current(&self) -> Router {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Service<hyper::Request<Body>> for Routes {
    type Response = <Router as Service<hyper::Request<Body>>>::Response;
    type Error = <Router as Service<hyper::Request<Body>>>::Error;
    type Future = <Router as Service<hyper::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        self.current().call(request)
    }
}

/// Serves `router` until a stop is asked for, then lets open requests end within the drain.
/// Handlers find the peer's address as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    options: ServeOptions,
) -> Result<(), ServeError> {
    serve_routes(listener, Routes::new(router, options), shutdown).await
}

/// [`serve`], with routes that can be exchanged meanwhile.
pub async fn serve_routes(
    listener: TcpListener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let options = routes.options;
    let places = Arc::new(Semaphore::new(options.connections));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let connection = graceful.watch(connect(stream, peer, routes.clone()));
        let cut = cut.clone();
        task::spawn_detached(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                },
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(options.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            drain_s = options.drain.as_secs(),
            "requests were cut off at the drain's end"
        );
    }
    cut.cancel();
    Ok(())
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, Place)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// One connection with `routes` behind it.
fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Routes,
) -> impl GracefulConnection<Error = hyper::Error> {
    let _ = stream.set_nodelay(true);
    let service = routes.map_request(move |incoming: hyper::Request<Incoming>| {
        let mut incoming = incoming.map(Body::new);
        incoming.extensions_mut().insert(ConnectInfo(peer));
        incoming
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
}
