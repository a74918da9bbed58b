//! Read-only checkers of the books, behind `weir verify`: each looks at all rows of one kind and
//! names the first that is not what the others say it must be.
//!
//! Reading order: [`Check`], [`begin`] (one snapshot for all of them), [`chain`] (what is sealed),
//! [`books`] and [`wallets`] (what is folded from it), [`late`] (where the slow lane is), [`archive`] and [`heads`] (what ClickHouse says of the same),
//! [`corrections`] (what takes events back), [`nobody`] (what else it says).

pub mod amounts;
pub mod archive;
pub mod books;
pub mod chain;
pub mod compare;
pub mod corrections;
pub mod heads;
pub mod late;
pub mod nobody;
pub mod wallets;
pub mod windows;

use runtime::{
    clickhouse::ClickHouseError,
    postgres::{Pool, PostgresError},
};
use sqlx::{Executor as _, PgConnection, Postgres, pool::PoolConnection};

/// What one checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Its name: what it looks at.
    pub name: &'static str,
    /// Rows, or groups of them, that it looked at.
    pub rows: u64,
    /// How many of them are not as they must be.
    pub bad: u64,
    /// The first of those, with what is wrong.
    pub first_bad: Option<String>,
    /// What it could not look at, and why.
    pub left_out: Option<String>,
}

impl Check {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn new(name: &'static str) -> Check {
        Check { name, ..Check::default() }
    }

    /// Notes a row that is not as it must be; the first one is named.
    pub fn blame(&mut self, row: impl FnOnce() -> String) {
        self.bad = self.bad.saturating_add(1);
        if self.first_bad.is_none() {
            self.first_bad = Some(row());
        }
    }

    /// Notes several such rows, of which the first one is named.
    pub fn blame_all(&mut self, rows: u64, first: impl FnOnce() -> String) {
        if rows > 0 {
            self.blame(first);
            self.bad = self.bad.saturating_add(rows - 1);
        }
    }

    /// Whether all that it looked at is as it must be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.bad == 0
    }
}

/// Why a checker could not look.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// ClickHouse failed.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// ClickHouse answered something that cannot be read.
    #[error("the archive's answer cannot be read: {0}")]
    Answer(String),
}

impl From<sqlx::Error> for VerifyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// A connection on which everything is read from one moment, for as long as it takes. The pool's
/// role must see all tenants (`weir_reader`); giving the connection back ends the snapshot.
pub async fn begin(pool: &Pool) -> Result<PoolConnection<Postgres>, PostgresError> {
    let mut connection = pool.acquire().await?;
    snapshot(&mut connection).await?;
    Ok(connection)
}

/// Begins the snapshot of [`begin`] on a connection.
async fn snapshot(connection: &mut PgConnection) -> Result<(), PostgresError> {
    let statements =
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off";
    connection.execute(sqlx::raw_sql(statements)).await?;
    Ok(())
}
