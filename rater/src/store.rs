//! What the rater reads from Postgres, as the role `weir_reader`.

pub mod catalog;
pub mod state;
