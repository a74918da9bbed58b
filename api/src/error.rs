//! Errors of the api and the one place that turns them into problem documents.

use axum::response::{IntoResponse, Response};
use runtime::{
    clickhouse::ClickHouseError,
    http::Problem,
    log::LogError,
    postgres::{PostgresError, Retryable},
    shutdown::Failure,
};

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The caller can act.
    Problem(Box<Problem>),
    /// Postgres did not do it.
    Postgres(PostgresError),
    /// The archive did not answer.
    Archive(ClickHouseError),
    /// The log did not answer.
    Log(LogError),
    /// We are wrong.
    Internal(String),
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<PostgresError> for ApiError {
    fn from(error: PostgresError) -> Self {
        Self::Postgres(error)
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

impl From<ClickHouseError> for ApiError {
    fn from(error: ClickHouseError) -> Self {
        Self::Archive(error)
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::Internal(failure.to_string())
    }
}

impl Retryable for ApiError {
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.is_retryable())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        problem(self).into_response()
    }
}

fn problem(error: ApiError) -> Problem {
    match error {
        ApiError::Problem(problem) => *problem,
        ApiError::Postgres(error) => postgres_problem(&error),
        ApiError::Archive(ClickHouseError::Unavailable(reason)) => {
            tracing::warn!(reason, "the archive is unavailable");
            Problem::unavailable(
                2,
                "archive_unavailable",
                "the archive cannot be reached now",
                "ask again; balances and ingestion go on without it",
            )
        }
        ApiError::Log(LogError::Unavailable(reason)) => {
            tracing::warn!(reason, "the log is unavailable");
            Problem::unavailable(2, "log_unavailable", "the log cannot be reached now", "ask again")
        }
        ApiError::Archive(error) => internal(&error.to_string()),
        ApiError::Log(error) => internal(&error.to_string()),
        ApiError::Internal(reason) => internal(&reason),
    }
}

fn postgres_problem(error: &PostgresError) -> Problem {
    let again = "send the request again, with the same Idempotency-Key if it had one";
    match error {
        PostgresError::Unavailable(reason) => {
            tracing::warn!(reason, "postgres is unavailable");
            Problem::unavailable(
                1,
                "database_unavailable",
                "the database cannot be reached now",
                again,
            )
        }
        PostgresError::OutcomeUnknown(reason) => {
            tracing::warn!(reason, "the outcome of a transaction is unknown");
            Problem::unavailable(1, "outcome_unknown", "it is unknown whether this was done", again)
        }
        PostgresError::Contended(_) => {
            Problem::unavailable(1, "contended", "other requests were in the way", again)
        }
        PostgresError::Conflict(name) => Problem::conflict(
            "exists",
            format!("it exists already ({name})"),
            "read what is there, or choose another name",
        ),
        PostgresError::Violation(name) => Problem::unprocessable(
            "rule_violated",
            format!("it is against a rule ({name})"),
            "check that everything it refers to exists",
        ),
        // Postgres' texts hold every character but this one.
        PostgresError::Refused { code, .. } if code == "22021" => Problem::bad_request(
            "text_invalid",
            "a text of the request holds the character U+0000",
            "send it without that character",
        ),
        error => internal(&error.to_string()),
    }
}

fn internal(reason: &str) -> Problem {
    tracing::error!(error = reason, request_id = runtime::http::request_id(), "a request failed");
    Problem::internal()
}
