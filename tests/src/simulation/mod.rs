//! The installation in one thread, without a clock: the product's own rules over a simulated log
//! and stores, in virtual time. Acceptance, state, table, verdicts, windows, postings and groups are the code that runs in production; the log, Postgres and ClickHouse are stood in for by what
//! they promise, and every call to them may happen late, unheard, or never.
//!
//! Reading order: `traffic` (what is sent and what it is worth), `stores`, `calls`, `world` and its
//! processes `owner`, `lane`, `writer`, `archiver`; `walk` draws the steps of a seed, `exploration`
//! takes every order of a few; `corrections` corrects what the archive has, `closings` closes its periods; `check` says
//! what must be true.

pub mod archiver;
pub mod calls;
pub mod check;
pub mod closings;
pub mod corrections;
pub mod exploration;
pub mod lane;
pub mod observing;
pub mod owner;
pub mod random;
pub mod rows;
pub mod stores;
pub mod traffic;
pub mod walk;
pub mod world;
pub mod writer;
