//! The one place that moves money in Postgres: accounts, transfers, postings, the audit chain, and
//! the reads over them.
//!
//! Reading order: [`account`] (the chart), [`transfer`] (one row moves money from one account to
//! another), [`post`] (one transaction per posting window), [`seal`] (the keyed audit chain),
//! [`wallet`] and [`hold`] (stored value, as the api changes it), [`settle`] (usage is paid out of it),
//! [`journal`] and [`journal_seal`] (what those move, and the chain over it),
//! [`statement`] (reads), [`install`] (the rows that are written once), [`verify`] (read-only checkers
//! behind `weir verify`).
//!
//! Invariant: nothing here updates or deletes a transfer, a journal or an audit row, and the role
//! that runs it may not.

pub mod account;
mod convert;
pub mod hold;
pub mod install;
pub mod journal;
pub mod journal_seal;
pub mod post;
pub mod seal;
pub mod settle;
pub mod statement;
pub mod transfer;
pub mod verify;
pub mod wallet;

pub use install::install;
pub use statement::load_balances;
