//! What the load of a replay, a bench and a test have in common.

pub mod account;
pub mod generator;
pub mod measure;
pub mod spread;
pub mod teams;
