//! Waiting for what has to come.

use std::time::Duration;

use anyhow::{Result, ensure};
use runtime::http::Readiness;
use tokio::time::{Instant, sleep};

/// Longer than what a group of Kafka takes for a member that says nothing (a minute), on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until a partition has stopped, and gives the reason that its check has.
pub async fn stopped(readiness: &Readiness, check: &str) -> Result<String> {
    let mut reason = String::new();
    eventually(&format!("{check} has stopped"), async || {
        reason = readiness.not_ready().remove(check).unwrap_or_default();
        Ok(!["", "starting"].contains(&reason.as_str()))
    })
    .await?;
    Ok(reason)
}

/// Asks again until it is so.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await? {
        ensure!(Instant::now() < deadline, "{PATIENCE:?} have passed, but not: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
