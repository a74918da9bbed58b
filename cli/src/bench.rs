//! `weir bench`: a fresh system, a load, what it took, and whether the books are right.
//!
//! Reading order: [`pipeline`](crate::commands::bench), [`system`], [`tenants`], [`load`], [`probe`], [`watch`],
//! [`instructions`], [`books`], [`report`]; [`stages`](crate::commands::bench), [`blocks`], [`ingest`], [`rate`], [`preview`], [`database`], [`post`], [`archive`], [`hold`], [`used`]. Events and the arithmetic that checks them are in the crate `benches`.

pub mod archive;
pub mod blocks;
pub mod books;
pub mod connection;
pub mod database;
pub mod hold;
pub mod ingest;
pub mod instructions;
pub mod load;
pub mod post;
pub mod preview;
pub mod probe;
pub mod rate;
pub mod report;
pub mod system;
pub mod tenants;
pub mod used;
pub mod watch;
