//! What the api does by itself, and work that several requests share.

pub(crate) mod append_markers;
pub(crate) mod close_periods;
pub(crate) mod correct;
pub(crate) mod count_pending;
pub(crate) mod decide_aliases;
pub(crate) mod merge_teams;
pub(crate) mod price_unpriced;
pub(crate) mod sweep_twins;

use std::time::Duration;

use runtime::http::Heartbeat;

use crate::{error::ApiError, state::Api};

/// What follows a look for work: a pause, until a stop at most. A look that failed is made again: while a neighbour is
/// away the task goes on waiting, and the api answers what it can.
async fn rest(
    api: &Api,
    heartbeat: &Heartbeat,
    looked: Result<(), ApiError>,
    (waits, pause): (&str, Duration),
) {
    if let Err(error) = looked {
        tracing::warn!(?error, "{waits}");
    }
    heartbeat.beat();
    tokio::select! {
        () = api.shutdown.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
