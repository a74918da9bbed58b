//! What ingest knows of Postgres: API keys, tenants, team aliases and the installation, in memory.
//!
//! [`load`] reads all of it as the role `weir_reader`; nobody asks Postgres while a request waits.

mod snapshot;

pub use snapshot::{Alias, Key, Snapshot, StoreError, Tenant, load};
