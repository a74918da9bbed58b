//! Rows of a CSV file as events: read ([`rows`]), mapped ([`mapping`]), sent until there is a
//! definite answer ([`send`]).

pub mod mapping;
pub mod rows;
pub mod send;
