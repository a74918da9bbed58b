//! What the load of a replay, a bench and a test have in common.

pub mod spread;
