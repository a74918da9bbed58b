//! The fault harness: a load like that of real clients, faults at random moments of one seed, and an
//! oracle that knows from the seed alone what the books must say.
//!
//! Reading order: [`plan`] (what is sent), [`traffic`] (how it is sent), [`expected`] and [`oracle`]
//! (what must come of it), [`story`] (what was done to it), [`world`] (a system under all of these),
//! [`report`] (what is kept of a run). `docs/RELIABILITY.md` says how to run it.

pub mod answers;
pub mod clocks;
pub mod contained;
pub mod disk;
pub mod expected;
pub mod injected;
pub mod links;
pub mod oracle;
pub mod plan;
pub mod poison;
pub mod prober;
pub mod report;
pub mod story;
pub mod table;
pub mod tenants;
pub mod tier;
pub mod traffic;
pub mod world;
