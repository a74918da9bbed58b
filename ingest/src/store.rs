//! What ingest knows of Postgres: API keys, secrets of apps, tenants, apps, team aliases,
//! limits, quotas and the installation, in memory.
//!
//! [`load`] reads all of it as the role `weir_reader`, [`quotas`] tells what was accepted; nobody asks
//! Postgres while a request waits.

mod limits;
pub(crate) mod quotas;
mod secrets;
mod snapshot;

pub use secrets::AppSecret;
pub use snapshot::{Alias, Key, Snapshot, StoreError, Tenant, load};
