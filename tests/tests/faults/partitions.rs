//! F16: the same events in another order, in requests of one to thousands, on one partition, on
//! four and on twelve: the same totals (INV-12). A changed count is refused.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::harness::{
    contained::contained,
    oracle::Verdict,
    traffic::Sending,
    world::{Shape, World},
};

/// Windows that are sent.
const WINDOWS: u64 = 4;
/// Few tenants and large windows make large requests.
const SHAPE: Shape = Shape {
    tenants: 2,
    window: 5_000,
    sending: Sending { rate: 1_000_000, end: Some(WINDOWS), split: true },
};

#[test]
fn other_counts_of_partitions() -> Result<()> {
    contained("partitions::other_counts_of_partitions", |run| async move {
        let mut events = 0;
        for partitions in [1, 4, 12] {
            let world = World::embedded_with(&run, partitions, SHAPE).await?;
            let mut rest = world.sent().await?;
            rest.world.story.count("F16", 1);
            events += rest.check(None).await?.events;
            another_count_is_refused(&mut rest.world).await?;
        }
        Ok(Verdict { events, ..Verdict::default() })
    })
}

/// Teams would move, so another count is refused.
async fn another_count_is_refused(world: &mut World) -> Result<()> {
    let (code, _) = world.system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    world.system.set("up", "WEIR_LOG__PARTITIONS", "5");
    let mut process = world.system.spawn("up")?;
    let code = process.ended(Duration::from_secs(60)).await?;
    let log = process.log_tail();
    ensure!(code.context("it was killed")? != 0, "it started with another count");
    ensure!(log.contains("partitions"), "it does not say why: {log}");
    Ok(())
}
