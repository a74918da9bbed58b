//! What the rater reads from Postgres, as the role `weir_reader`; the slow lane's place, as `weir_lane`;
//! and what the lane and the filters read from the archive.

pub mod archive;
pub mod catalog;
pub mod lane;
pub mod state;
pub mod totals;
