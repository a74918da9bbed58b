//! The one way to begin a transaction.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Pool, PostgresError, Retryable};

/// Runs of one transaction, the first included, before contention is the caller's problem.
const ATTEMPTS_MAX: u32 = 6;
/// Back-off before the second attempt; it doubles, and half of it is random: 10 to 320 ms.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Runs `body` in one transaction: commits when it is `Ok`, rolls back when it is `Err` or when
/// the caller's future is dropped. After a serialization failure or a deadlock the whole `body`
/// runs again, so it must have no effect outside of the database.
pub async fn transaction<T, E, F>(pool: &Pool, body: F) -> Result<T, E>
where
    F: AsyncFn(&mut PgConnection) -> Result<T, E>,
    E: From<PostgresError> + Retryable,
{
    run(pool, None, body).await
}

/// [`transaction`] in which row-level security sees `tenant`. The scope ends with it.
pub async fn scoped<T, E, F>(pool: &Pool, tenant: Uuid, body: F) -> Result<T, E>
where
    F: AsyncFn(&mut PgConnection) -> Result<T, E>,
    E: From<PostgresError> + Retryable,
{
    run(pool, Some(tenant), body).await
}

async fn run<T, E, F>(pool: &Pool, tenant: Option<Uuid>, body: F) -> Result<T, E>
where
    F: AsyncFn(&mut PgConnection) -> Result<T, E>,
    E: From<PostgresError> + Retryable,
{
    let mut backoff = BACKOFF_MIN;
    for attempt in 1.. {
        match once(pool, tenant, &body).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                tokio::time::sleep(jittered(backoff)).await;
                backoff *= 2;
            }
            outcome => return outcome,
        }
    }
    Err(PostgresError::Contended("too many attempts".to_owned()).into())
}

async fn once<T, E, F>(pool: &Pool, tenant: Option<Uuid>, body: &F) -> Result<T, E>
where
    F: AsyncFn(&mut PgConnection) -> Result<T, E>,
    E: From<PostgresError>,
{
    let postgres = |error: sqlx::Error| E::from(PostgresError::from(error));
    let mut pooled = pool.acquire().await.map_err(postgres)?;
    let mut transaction = pooled.begin().await.map_err(postgres)?;
    if let Some(tenant) = tenant {
        sqlx::query("SELECT set_config('app.tenant', $1, true)")
            .bind(tenant.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(postgres)?;
    }
    let value = body(&mut transaction).await?;
    transaction
        .commit()
        .await
        .map_err(|error| E::from(commit_error(error.into())))?;
    Ok(value)
}

/// Whatever cuts COMMIT short leaves its outcome open, unless Postgres itself said no.
fn commit_error(error: PostgresError) -> PostgresError {
    match error {
        PostgresError::Unavailable(reason) => PostgresError::OutcomeUnknown(reason),
        error => error,
    }
}

/// Between half of `backoff` and all of it.
fn jittered(backoff: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    backoff / 2 + backoff / 2 * u32::from(byte) / 255
}
