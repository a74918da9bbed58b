//! F02 and F14: partitions change hands, and an owner wakes up after it was given up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::harness::world::World;
use tokio::time::sleep;

/// Rounds of freezing after which an ignored batch must have been seen; the first usually does.
const ROUNDS_MAX: u64 = 10;
/// Longer than a member may be silent.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a member that has come or gone is left alone.
const STAY: Duration = Duration::from_secs(4);

/// Rated batches that did not count, as the ledger-writers saw them.
async fn ignored(world: &World) -> Result<i64> {
    let look =
        async |world: &World| Ok(world.statement().await?["total"]["ignored_batches"].as_i64());
    world.until("a statement", look).await
}

/// F02: a rater and a ledger-writer are frozen until others have their partitions, and thawed: for a
/// moment both believe they own them, and what the zombie still writes is ignored.
pub async fn are_paused(world: &mut World) -> Result<()> {
    let before = ignored(world).await?;
    let mut round = 0;
    loop {
        let frozen = [["rater", "ledger-writer"], ["rater.2", "ledger-writer.2"]];
        let frozen = frozen[(round % 2) as usize];
        world.moment().await?;
        for name in frozen {
            world.system.process(name)?.signal(Signal::SIGSTOP)?;
        }
        let posted = posted(world).await?;
        sleep(PAUSE).await;
        world
            .until("the others post", async |world| {
                Ok((self::posted(world).await? > posted).then_some(()))
            })
            .await?;
        for name in frozen {
            world.system.process(name)?.signal(Signal::SIGCONT)?;
        }
        sleep(Duration::from_secs(2)).await;
        let fired = ignored(world).await? - before;
        round += 1;
        world.story.count("F02", frozen.len() as u64);
        world.story.tell(format!("F02 {round}: {frozen:?} thawed, {fired} batches ignored"));
        if round >= world.tier.zombies && fired > 0 {
            return Ok(());
        }
        ensure!(round < world.tier.zombies.max(ROUNDS_MAX), "no zombie wrote anything");
    }
}

/// The sum of all posted positions.
async fn posted(world: &World) -> Result<i64> {
    let statement = world.statement().await?;
    let partitions = statement["partitions"].as_array().context("no partitions")?;
    Ok(partitions.iter().filter_map(|one| one["posted_position"].as_i64()).sum())
}

/// F14: a third consumer comes, and goes.
pub async fn come_and_go(world: &mut World) -> Result<()> {
    for change in 0..world.tier.rebalances {
        let name = ["rater.3", "ledger-writer.3"][(change / 2 % 2) as usize];
        if change % 2 == 0 {
            world.system.start(name).await?;
            let gauge = match name {
                "rater.3" => "weir_rater_position",
                _ => "weir_ledger_writer_position",
            };
            let owns = async |world: &World| {
                let owned = world.metric(name, gauge, "").await?;
                Ok((owned > 0).then_some(owned))
            };
            world.until(&format!("{name} has a partition"), owns).await?;
            sleep(STAY).await;
        } else {
            world.system.kill(name)?;
            world.traffic.flow(world.plan.window).await?;
        }
        world.story.count("F14", 1);
        world.story.tell(format!("F14 {}: {name} has come or gone", change + 1));
    }
    Ok(())
}
