//! Waiting for what has to come.

use std::time::Duration;

use anyhow::{Result, ensure};

/// Asks again until it is so, for at most a minute.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !ask().await? {
        ensure!(tokio::time::Instant::now() < deadline, "a minute has passed, but not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
