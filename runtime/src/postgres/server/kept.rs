//! Keeps the private server running: started again with back-off when it ended by itself, on the
//! same folder and port.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{SUPERUSER, Server, ServerError, ServerOptions, url};
use crate::{backoff::Backoff, config::Secret, task};

const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A server that lived as long has earned a fast restart.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// A private server that is kept running. Dropping it stops the server at once, without losing
/// what was committed; [`KeptServer::stop`] is kinder.
#[derive(Debug)]
pub struct KeptServer {
    port: u16,
    password: String,
    running: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    keeper: Option<JoinHandle<()>>,
}

impl KeptServer {
    /// Starts the server. The first start is tried once.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let server = Server::start(options.clone()).await?;
        let (port, password) = (server.port, server.password.clone());
        let (sender, running) = watch::channel(Some(server.pid()));
        let stop = CancellationToken::new();
        let options = ServerOptions { port: Some(port), ..options };
        let keeper = task::spawn_detached(keep(server, options, sender, stop.clone()));
        Ok(Self { port, password, running, stop, keeper: Some(keeper) })
    }

    /// URL of `database` for `user` over TCP; stays the same across restarts.
    pub fn url(&self, user: &str, password: &str, database: &str) -> Secret {
        url(self.port, user, password, database)
    }

    /// URL of the database `postgres` for the superuser.
    pub fn superuser_url(&self) -> Secret {
        self.url(SUPERUSER, &self.password, "postgres")
    }

    /// Process id of the postmaster while it runs, `None` while it is being started again.
    pub fn running(&self) -> watch::Receiver<Option<u32>> {
        self.running.clone()
    }

    /// Ends all sessions, writes a checkpoint and stops.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.await;
        }
    }
}

impl Drop for KeptServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
    }
}

async fn keep(
    mut server: Server,
    options: ServerOptions,
    running: watch::Sender<Option<u32>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(RESTART_DELAY_MIN, RESTART_DELAY_MAX);
    loop {
        let began = Instant::now();
        let how = tokio::select! {
            biased;
            () = stop.cancelled() => return end(server).await,
            how = server.ended() => how,
        };
        running.send_replace(None);
        tracing::error!(how, "the private Postgres ended; it is started again");
        // The folder is locked until the old server is gone.
        drop(server);
        if began.elapsed() > STEADY_AFTER {
            backoff.reset();
        }
        server = tokio::select! {
            () = stop.cancelled() => return,
            server = start_again(&options, &mut backoff) => server,
        };
        tracing::info!(pid = server.pid(), "the private Postgres runs again");
        running.send_replace(Some(server.pid()));
    }
}

/// Starts it, however often that takes; says once why it does not work.
async fn start_again(options: &ServerOptions, backoff: &mut Backoff) -> Server {
    let mut said = String::new();
    loop {
        sleep(backoff.pause()).await;
        match Server::start(options.clone()).await {
            Ok(server) => return server,
            Err(error) => {
                let reason = error.to_string();
                if reason != said {
                    tracing::error!(reason, "the private Postgres does not start; trying again");
                    said = reason;
                }
            }
        }
    }
}

async fn end(server: Server) {
    if let Err(error) = server.stop().await {
        tracing::warn!(%error, "the private Postgres did not stop well");
    }
}
