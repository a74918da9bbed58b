//! `weir bench`: a fresh system, a load, what it took, and whether the books are right.
//!
//! Reading order: [`pipeline`](crate::commands::bench), [`system`], [`load`], [`probe`], [`watch`],
//! [`instructions`], [`books`], [`report`]; [`stages`](crate::commands::bench), [`blocks`], [`rate`]. Events and the arithmetic that checks them are in the crate `benches`.

pub mod blocks;
pub mod books;
pub mod connection;
pub mod instructions;
pub mod load;
pub mod probe;
pub mod rate;
pub mod report;
pub mod system;
pub mod watch;
