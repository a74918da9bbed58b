//! The formats between processes: `docs/FORMATS.md` defines them, golden files hold them fixed.
//!
//! [`block`] is a message of `[usage]`, made of [`record`]s; [`rated`] is a message of `[rated]`;
//! [`carry`] copies a record into another block; [`correction`] is the body of a command; [`row`] is what the archive stores, written once by the rater, [`columns`] its tables, and [`rows`] how
//! their rows are kept until then. [`trace`] is where a sampled request stands in a distributed trace. [`codec`] has the primitives.
//! Every decoder takes any bytes and answers; none panics, none allocates beyond its input's size.

pub mod block;
pub mod carry;
pub mod codec;
pub mod columns;
pub mod correction;
mod interner;
pub mod rated;
pub mod record;
pub mod row;
pub mod rows;
pub mod sums;
pub mod trace;
