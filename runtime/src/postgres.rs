//! Postgres: a pool that stays clean, one way to begin a transaction, one reading of errors.
//!
//! ```ignore
//! let pool = postgres::connect(&config.postgres, Some("weir_api"), "api").await?;
//! let names = postgres::scoped(&pool, tenant, |mut transaction| async move {
//!     let query = sqlx::query_scalar("SELECT name FROM things");
//!     Ok::<Vec<String>, PostgresError>(query.fetch_all(&mut *transaction).await?)
//! })
//! .await?;
//! ```
//!
//! A mutation that answers a request runs inside of [`crate::task::to_completion`], because a
//! server drops the handler's future when the client hangs up.

mod error;
mod migrate;
mod pool;
pub mod server;
mod transaction;

pub use error::{PostgresError, Retryable};
pub use migrate::migrate;
pub use pool::{Pool, connect, connect_options};
pub use transaction::{Transaction, scoped, transaction};
