//! What an error of Postgres means for the one who asked: the one place that decides.

use sqlx::postgres::PgDatabaseError;

/// An error of Postgres, by who can act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// Postgres cannot be reached or cannot work now: try again later.
    #[error("postgres is unavailable: {0}")]
    Unavailable(String),
    /// The connection was lost during COMMIT: it may have happened. Look before trying again.
    #[error("the outcome of the transaction is unknown: {0}")]
    OutcomeUnknown(String),
    /// Another transaction was in the way: run the transaction again. [`super::transaction`]
    /// does so by itself and lets this through only when it has tried often enough.
    #[error("other transactions were in the way: {0}")]
    Contended(String),
    /// A unique or exclusion constraint of this name: it exists already.
    #[error("conflict with {0}")]
    Conflict(String),
    /// A check, foreign key or not-null rule: the constraint, or the column.
    #[error("violates {0}")]
    Violation(String),
    /// A row that must exist does not.
    #[error("no such row")]
    NotFound,
    /// Postgres refused the statement: no privilege, no such table, a syntax error.
    #[error("postgres refused: {message} ({code})")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// Postgres' message.
        message: String,
    },
    /// The configuration or our reading of the answer is wrong.
    #[error("postgres: {0}")]
    Broken(String),
}

/// Whether running the whole transaction again can help. Errors of a store implement it, so that
/// [`super::transaction`] sees through them.
pub trait Retryable {
    /// True for a serialization failure or a deadlock.
    fn is_retryable(&self) -> bool;
}

impl PostgresError {
    /// Whether it passes without a change of ours: Postgres is away, or others were in the way.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::Contended(_))
    }
}

impl Retryable for PostgresError {
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Contended(_))
    }
}

impl From<sqlx::Error> for PostgresError {
    fn from(error: sqlx::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&sqlx::Error> for PostgresError {
    fn from(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => classify(error),
                None => Self::Broken(error.to_string()),
            },
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(crate::task::chain(error)),
            error => Self::Broken(crate::task::chain(error)),
        }
    }
}

fn classify(error: &PgDatabaseError) -> PostgresError {
    let (code, message) = (error.code(), error.message());
    let named = || {
        let name = error.constraint().or(error.column()).or(error.table());
        name.unwrap_or("an unnamed rule").to_owned()
    };
    match code {
        "40001" | "40P01" => PostgresError::Contended(message.to_owned()),
        "23505" | "23P01" => PostgresError::Conflict(named()),
        _ if code.starts_with("23") => PostgresError::Violation(named()),
        _ if is_unavailable(code) => PostgresError::Unavailable(message.to_owned()),
        _ => PostgresError::Refused { code: code.to_owned(), message: message.to_owned() },
    }
}

/// SQLSTATEs that pass by themselves or with an operator's help, without a change of ours.
fn is_unavailable(code: &str) -> bool {
    // Connections (08), resources such as disk, memory and connections (53), system errors (58).
    ["08", "53", "58"].iter().any(|class| code.starts_with(class))
        || matches!(
            code,
            "57P01" | "57P02" | "57P03" | "57P05" // stopped, crashed, starting, idle too long
            | "57014" // statement_timeout
            | "55P03" // lock_timeout
            | "25P03" | "25P04" // transaction idle or open for too long
            | "25006" // read-only: a standby, until it is promoted
        )
}
