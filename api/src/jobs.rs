//! What the api does by itself, and work that several requests share.

pub(crate) mod append_markers;
pub(crate) mod close_periods;
pub(crate) mod correct;
pub(crate) mod count_pending;
pub(crate) mod decide_aliases;
pub(crate) mod merge_teams;
pub(crate) mod price_unpriced;
pub(crate) mod sweep_twins;
