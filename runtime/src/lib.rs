//! The plumbing that every process of Weir stands on. It knows no business nouns.
//!
//! Reading order: [`config`], [`telemetry`], [`traces`], [`shutdown`], [`task`], [`http`], [`log`],
//! [`postgres`], [`clickhouse`], [`keys`], [`ownership`], [`progress`]; [`backoff`] is used by several
//! of them.

pub mod attempts;
pub mod backoff;
pub mod clickhouse;
pub mod config;
pub mod context;
pub mod http;
pub mod keys;
pub mod log;
pub mod ownership;
pub mod postgres;
pub mod progress;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod traces;
