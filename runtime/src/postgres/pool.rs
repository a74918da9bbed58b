//! The pool: every connection starts the same and goes back clean.

use std::{str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::PostgresError;
use crate::config::PostgresConfig;

/// A pool of connections. Begin transactions with [`super::transaction`] only.
pub type Pool = sqlx::PgPool;

/// A statement that takes longer is stopped: no request waits that long for an answer.
const STATEMENT_TIMEOUT: &str = "20s";
/// A lock that is not given by then will be asked for again by a caller who backs off.
const LOCK_TIMEOUT: &str = "5s";
/// A transaction whose owner went away must not hold locks.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "5s";
/// Waiting for a free connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections are renewed, so that a failed-over or re-balanced server is noticed.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Postgres keeps 63 bytes of a name.
const NAME_LENGTH_MAX: usize = 63;

/// Opens a pool as `role` (`SET ROLE` after signing in, when given). Fails if Postgres is away.
pub async fn connect(
    config: &PostgresConfig,
    role: Option<&str>,
    application_name: &str,
) -> Result<Pool, PostgresError> {
    let options = connect_options(config.url.expose())?.application_name(application_name);
    let setup = setup(role)?;
    let pool = PgPoolOptions::new()
        .max_connections(config.connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(LIFETIME_MAX)
        .after_connect(move |connection, _| {
            let setup = setup.clone();
            Box::pin(async move {
                connection.execute(sqlx::raw_sql(AssertSqlSafe(setup))).await.map(|_| ())
            })
        })
        // sqlx 0.9.0 gives connections back inside of a transaction when `begin` was cancelled
        // (its issue 4385). Outside of one, ROLLBACK is a warning that is not even sent.
        .after_release(|connection, _| {
            Box::pin(async move { connection.execute("ROLLBACK").await.map(|_| true) })
        })
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// Reads a `postgres://` URL, without ever quoting it: it holds a password.
pub fn connect_options(url: &str) -> Result<PgConnectOptions, PostgresError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        PostgresError::Broken(
            "the URL is not one; write postgres://user:password@host:port/database".to_owned(),
        )
    })?;
    Ok(options.disable_statement_logging())
}

/// Everything a fresh connection is told, in one round trip.
fn setup(role: Option<&str>) -> Result<String, PostgresError> {
    let mut setup = format!(
        "SET client_min_messages = error; \
         SET statement_timeout = '{STATEMENT_TIMEOUT}'; \
         SET lock_timeout = '{LOCK_TIMEOUT}'; \
         SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_TIMEOUT}'; \
         SET TimeZone = 'UTC';"
    );
    if let Some(role) = role {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if role.is_empty() || role.len() > NAME_LENGTH_MAX || !role.bytes().all(plain) {
            return Err(PostgresError::Broken(format!(
                "the role {role:?} is not a name of a-z, 0-9 and _"
            )));
        }
        setup.push_str(&format!(" SET ROLE \"{role}\";"));
    }
    Ok(setup)
}
