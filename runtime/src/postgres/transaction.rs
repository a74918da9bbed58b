//! The one way to begin a transaction.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{AssertSqlSafe, Executor, PgConnection, Postgres, pool::PoolConnection, raw_sql};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{Pool, PostgresError, Retryable};

/// Runs of one transaction, the first included, before contention is the caller's problem.
const ATTEMPTS_MAX: u32 = 6;
/// Back-off before the second attempt; it doubles, and half of it is random: 10 to 320 ms.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// COMMIT of a transaction in which a statement failed is a silent rollback. The SELECT before it
/// fails then, in the same round trip, so that nobody takes a rollback for a commit.
const COMMIT: &str = "SELECT 1; COMMIT";

/// The connection inside of a transaction, lent to its body. Use it as a `&mut PgConnection`.
#[derive(Debug)]
pub struct Transaction(OwnedMutexGuard<PoolConnection<Postgres>>);

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// Runs `body` in one transaction: commits when it is `Ok`, rolls back when it is `Err` or when
/// the caller's future is dropped. After a serialization failure or a deadlock the whole `body`
/// runs again, so it must have no effect outside of the database.
///
/// (`body` is not an `AsyncFn`, because futures with those are not `Send` where they borrow.)
pub async fn transaction<T, E, F, R>(pool: &Pool, body: F) -> Result<T, E>
where
    F: Fn(Transaction) -> R,
    R: Future<Output = Result<T, E>>,
    E: From<PostgresError> + Retryable,
{
    run(pool, "BEGIN", body).await
}

/// [`transaction`] in which row-level security sees `tenant`. The scope ends with it. INV-22.
pub async fn scoped<T, E, F, R>(pool: &Pool, tenant: Uuid, body: F) -> Result<T, E>
where
    F: Fn(Transaction) -> R,
    R: Future<Output = Result<T, E>>,
    E: From<PostgresError> + Retryable,
{
    // One round trip; a printed UUID needs no quoting.
    let begin = format!("BEGIN; SELECT set_config('app.tenant', '{tenant}', true)");
    run(pool, &begin, body).await
}

async fn run<T, E, F, R>(pool: &Pool, begin: &str, body: F) -> Result<T, E>
where
    F: Fn(Transaction) -> R,
    R: Future<Output = Result<T, E>>,
    E: From<PostgresError> + Retryable,
{
    let mut backoff = BACKOFF_MIN;
    for _ in 1..ATTEMPTS_MAX {
        match once(pool, begin, &body).await {
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(jittered(backoff)).await;
                backoff *= 2;
            }
            outcome => return outcome,
        }
    }
    once(pool, begin, &body).await
}

/// A future dropped anywhere in here gives the connection back to the pool, which rolls back.
async fn once<T, E, F, R>(pool: &Pool, begin: &str, body: &F) -> Result<T, E>
where
    F: Fn(Transaction) -> R,
    R: Future<Output = Result<T, E>>,
    E: From<PostgresError>,
{
    let connection = open(pool, begin).await?;
    let lent = Arc::clone(&connection).try_lock_owned().map_err(|_| still_lent())?;
    let outcome = body(Transaction(lent)).await;
    let mut connection = connection.try_lock_owned().map_err(|_| still_lent())?;
    match outcome {
        Ok(value) => {
            commit(&mut connection).await?;
            Ok(value)
        }
        Err(error) => {
            // Its locks are gone before the caller hears of it; if this fails, the pool tries too.
            let _ = connection.execute("ROLLBACK").await;
            Err(error)
        }
    }
}

async fn open(
    pool: &Pool,
    begin: &str,
) -> Result<Arc<Mutex<PoolConnection<Postgres>>>, PostgresError> {
    let mut connection = pool.acquire().await?;
    connection.execute(raw_sql(AssertSqlSafe(begin.to_owned()))).await?;
    Ok(Arc::new(Mutex::new(connection)))
}

/// Whatever cuts COMMIT short leaves its outcome open, unless Postgres itself said no.
async fn commit(connection: &mut PgConnection) -> Result<(), PostgresError> {
    let committed = connection.execute(raw_sql(COMMIT)).await.map_err(PostgresError::from);
    committed.map(|_| ()).map_err(|error| match error {
        PostgresError::Unavailable(reason) => PostgresError::OutcomeUnknown(reason),
        error => error,
    })
}

/// A body that keeps the connection after its end has not ended.
fn still_lent() -> PostgresError {
    PostgresError::Broken(
        "a transaction's body kept its connection; nothing was committed".to_owned(),
    )
}

/// Between half of `backoff` and all of it.
fn jittered(backoff: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    backoff / 2 + backoff / 2 * u32::from(byte) / 255
}
