//! F02 and F14: partitions change hands, and an owner wakes up after it was given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::harness::world::World;
use tokio::time::{Instant, sleep};

/// Rounds of freezing that may hold no batch; the first usually holds some.
const ROUNDS_MAX: u64 = 10;
/// How long who was thawed is given to write what it held.
const AWAKE: Duration = Duration::from_secs(2);
/// How long a member that has come or gone is left alone.
const STAY: Duration = Duration::from_secs(4);

/// A number of each partition, as the conservation statement says it.
async fn of_partitions(world: &World, name: &str) -> Result<BTreeMap<i64, i64>> {
    let look = async |world: &World| {
        let statement = world.statement().await?;
        let partitions = statement["partitions"].as_array().context("no partitions")?;
        let number = |one: &Value| Some((one["partition"].as_i64()?, one[name].as_i64()?));
        Ok(partitions.iter().map(number).collect())
    };
    world.until("a statement", look).await
}

/// The process of a role that has each partition: the one whose position moves.
async fn owners(world: &World, role: &str, gauge: &str) -> Result<BTreeMap<i64, String>> {
    let positions = async |world: &World| {
        let mut positions = BTreeMap::new();
        for process in world.of_role(role) {
            for (partition, position) in world.by_partition(&process, gauge).await? {
                positions.insert((partition, process.clone()), position);
            }
        }
        Ok::<_, Error>(positions)
    };
    let (count, before) =
        (of_partitions(world, "posted_position").await?.len(), positions(world).await?);
    let moved = async |world: &World| {
        let now = positions(world).await?.into_iter();
        let moved = now.filter(|(of, position)| before.get(of).is_none_or(|then| position > then));
        let owners: BTreeMap<i64, String> = moved.map(|(of, _)| of).collect();
        Ok((owners.len() == count).then_some(owners))
    };
    world.until(&format!("every partition has a {role}"), moved).await
}

/// Rated batches of these partitions that did not count, as the ledger-writers saw them.
async fn ignored(world: &World, partitions: &BTreeSet<i64>) -> Result<i64> {
    let batches = of_partitions(world, "ignored_batches").await?;
    Ok(partitions.iter().filter_map(|partition| batches.get(partition)).sum())
}

/// F02: a rater and a ledger-writer are frozen until others have their partitions, and thawed: for a
/// moment both believe they own them, and what the zombie still writes is ignored.
pub async fn are_paused(world: &mut World) -> Result<()> {
    let (pauses, mut bitten) = (world.tier.zombies, 0);
    for round in 0..pauses + ROUNDS_MAX {
        if bitten == pauses {
            return Ok(());
        }
        let frozen = [["rater", "ledger-writer"], ["rater.2", "ledger-writer.2"]];
        let frozen = frozen[(round % 2) as usize];
        world.moment().await?;
        // One that held no batch shows nothing.
        if is_paused(world, frozen, round + 1).await? > 0 {
            bitten += 1;
            world.story.count("F02", frozen.len() as u64);
        }
    }
    ensure!(bitten == pauses, "{bitten} zombies of {pauses} wrote anything");
    Ok(())
}

/// Answers how many batches were ignored in the partitions that the frozen rater had.
async fn is_paused(world: &mut World, frozen: [&str; 2], round: u64) -> Result<i64> {
    let [rater, writer] = frozen;
    let of = |owners: BTreeMap<i64, String>, name: &str| {
        let own = owners.into_iter().filter(|(_, owner)| owner == name);
        own.map(|(partition, _)| partition).collect::<BTreeSet<i64>>()
    };
    let rated = of(owners(world, "rater", "weir_rater_position").await?, rater);
    let posted = of(owners(world, "ledger-writer", "weir_ledger_writer_position").await?, writer);
    ensure!(!rated.is_empty() && !posted.is_empty(), "{frozen:?} have no partitions");
    let before = ignored(world, &rated).await?;
    for name in frozen {
        world.system.process(name)?.signal(Signal::SIGSTOP)?;
    }
    let ends = of_partitions(world, "end_position").await?;
    // What comes at the end that was read now is rated and posted by somebody else.
    let others = async |world: &World| {
        let now = of_partitions(world, "posted_position").await?;
        let beyond = |partition| now.get(partition) >= ends.get(partition);
        Ok(rated.union(&posted).all(beyond).then_some(()))
    };
    world.until("others have the partitions", others).await?;
    for name in frozen {
        world.system.process(name)?.signal(Signal::SIGCONT)?;
    }
    sleep(AWAKE).await;
    let fired = ignored(world, &rated).await? - before;
    world.story.tell(format!(
        "F02 {round}: others had {rated:?} and {posted:?} of {frozen:?}, thawed: \
         {fired} batches ignored there"
    ));
    Ok(fired)
}

/// Rated batches that the api has read: accepted ones, and those that did not continue the chain.
async fn batches(world: &World) -> Result<(u64, u64)> {
    let read = |name| world.metric_of_role("api", name, "");
    let accepted = read("weir_api_batches_accepted_total").await?;
    Ok((accepted, read("weir_api_batches_ignored_total").await?))
}

/// Waits until every partition has posted what has come to it by now, and answers how long it took.
async fn all_go_on(world: &World) -> Result<Duration> {
    let began = Instant::now();
    let ends = of_partitions(world, "end_position").await?;
    let posted = async |world: &World| {
        let now = of_partitions(world, "posted_position").await?;
        Ok(ends.iter().all(|(partition, end)| now.get(partition) >= Some(end)).then_some(()))
    };
    world.until("every partition goes on", posted).await?;
    Ok(began.elapsed())
}

/// F14: a third consumer comes, and goes.
pub async fn come_and_go(world: &mut World) -> Result<()> {
    let (accepted, ignored) = batches(world).await?;
    let mut stall = Duration::ZERO;
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
            stall = stall.max(all_go_on(world).await?);
        }
        world.story.count("F14", 1);
        world.story.tell(format!("F14 {}: {name} has come or gone", change + 1));
    }
    let after = batches(world).await?;
    let (accepted, ignored) = (after.0 - accepted, after.1 - ignored);
    ensure!(accepted > 0, "no batches came to the api");
    world.story.tell(format!(
        "F14: {ignored} batches beside {accepted} were of former owners; all partitions had posted \
         what had come to them at most {stall:?} after an owner was killed"
    ));
    Ok(())
}
