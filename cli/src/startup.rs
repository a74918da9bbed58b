//! The start of a process that stays: it answers `/health` and `/ready` from its first moment on,
//! and waits for neighbours that are away.

use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use axum::Router;
use ledger::install::InstallError;
use runtime::{
    backoff::Backoff,
    clickhouse::ClickHouseError,
    context::DRAIN,
    http::{Readiness, Routes, ServeOptions, State, serve_routes},
    log::LogError,
    postgres::PostgresError,
    shutdown::Shutdown,
    task::Tasks,
    telemetry::Metrics,
};
use tokio::net::TcpListener;

use crate::{config::HttpConfig, web};

/// Name of the check that holds until the roles have been started.
const STARTING: &str = "start";
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A process that answers for its health and has no roles yet.
pub struct Startup {
    /// What `/ready` says; the roles say it here too.
    pub readiness: Readiness,
    routes: Routes,
    shutdown: Shutdown,
}

impl Startup {
    /// Answers on `listener` from now on, under `tasks`.
    pub fn begin(
        listener: TcpListener,
        http: &HttpConfig,
        shutdown: &Shutdown,
        tasks: &mut Tasks,
    ) -> Self {
        let readiness = Readiness::with_patience(Duration::from_secs(http.stalled_after_s));
        readiness.set(STARTING, State::NotReady("still starting".to_owned()));
        let options = ServeOptions { drain: DRAIN, ..ServeOptions::default() };
        let routes = Routes::new(web::starting(&readiness, &Metrics::process()), options);
        let (serving, stop) = (routes.clone(), shutdown.clone());
        tasks.spawn("http", async move { Ok(serve_routes(listener, serving, stop).await?) });
        Self { readiness, routes, shutdown: shutdown.clone() }
    }

    /// The roles run: answers by `router` from now on.
    pub fn finish(&self, router: Router) {
        self.routes.replace(router);
        self.readiness.remove(STARTING);
    }

    /// Does what needs `neighbour`, again and again while that is away; `None` when a stop was asked
    /// for. Any other failure is the answer.
    pub async fn wait_for<T>(
        &self,
        neighbour: &'static str,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<Option<T>> {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut said = String::new();
        self.readiness.set(neighbour, State::NotReady("it has not answered yet".to_owned()));
        loop {
            let outcome = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                outcome = attempt() => outcome,
            };
            let error = match outcome {
                Ok(done) => {
                    if !said.is_empty() {
                        tracing::info!(neighbour, "it is there; the start goes on");
                    }
                    self.readiness.remove(neighbour);
                    return Ok(Some(done));
                }
                Err(error) => error,
            };
            let Some(reason) = absence(&error) else { return Err(error).context(neighbour) };
            if reason != said {
                tracing::warn!(neighbour, reason, "it is away; the start waits for it");
                self.readiness.set(neighbour, State::NotReady(reason.clone()));
                said = reason;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }
}

/// Why waiting helps, if it does: a neighbour is away.
fn absence(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let postgres = |error: &PostgresError| error.is_passing().then(|| error.to_string());
        if let Some(InstallError::Postgres(error)) = cause.downcast_ref() {
            return postgres(error);
        }
        if let Some(error) = cause.downcast_ref::<PostgresError>() {
            return postgres(error);
        }
        if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
            return postgres(&error.into());
        }
        match (cause.downcast_ref(), cause.downcast_ref()) {
            (Some(ClickHouseError::Unavailable(_)), _) | (_, Some(LogError::Unavailable(_))) => {
                Some(cause.to_string())
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn only_a_neighbour_that_is_away_is_waited_for() {
        let away = || PostgresError::Unavailable("refused".to_owned());
        let wrong = || PostgresError::Broken("the URL is not one".to_owned());
        let waits = |error: Error| absence(&error.context("Postgres")).is_some();
        assert!(waits(away().into()));
        assert!(waits(InstallError::from(away()).into()));
        assert!(waits(sqlx::Error::PoolTimedOut.into()));
        assert!(waits(LogError::Unavailable("no broker".to_owned()).into()));
        assert!(waits(ClickHouseError::Unavailable("refused".to_owned()).into()));
        assert!(!waits(wrong().into()));
        assert!(!waits(InstallError::Missing.into()));
        assert!(!waits(LogError::Broken("settings".to_owned()).into()));
        assert!(!waits(sqlx::Error::RowNotFound.into()));
        assert!(!waits(anyhow!("something else")));
    }
}
