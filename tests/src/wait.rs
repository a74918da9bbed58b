//! Waiting for what has to come.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

/// Longer than what a group of Kafka takes for a member that says nothing (a minute), on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Asks again until it is so.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await? {
        ensure!(Instant::now() < deadline, "{PATIENCE:?} have passed, but not: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
