//! F13: the archive is away for a long time, slow, and killed in the midst of an insert.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use benches::measure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{
    harness::world::World,
    proxy::{Fault, Proxy},
};
use tokio::time::{Instant, sleep};

/// What an archiver sends with rows.
const INSERT: &str = "INSERT+INTO+usage_events";
/// How much later everything arrives when it is slow, and how many pieces must be.
const SLOW: Duration = Duration::from_millis(200);
const PIECES: u64 = 50;

/// Positions of a statement, added up.
async fn places(world: &World, name: &str) -> Result<i64> {
    let statement = world.statement().await?;
    let partitions = statement["partitions"].as_array().context("no partitions")?;
    Ok(partitions.iter().filter_map(|one| one[name].as_i64()).sum())
}

fn archives(world: &World) -> impl Iterator<Item = &Proxy> {
    world.links.clickhouse.values()
}

/// Since when the archive is away, and what was so at that time.
pub struct Away {
    since: Instant,
    posted: i64,
    refused: u64,
}

fn refused(world: &World) -> u64 {
    archives(world).map(|proxy| proxy.counts().refused).sum()
}

/// Away: the ledger goes on (INV-21), whatever else happens meanwhile.
pub async fn goes_away(world: &mut World) -> Result<Away> {
    world.moment().await?;
    let refused = refused(world);
    archives(world).for_each(|proxy| {
        proxy.set(Fault::Refuse);
        proxy.cut();
    });
    Ok(Away { since: Instant::now(), posted: places(world, "posted_position").await?, refused })
}

/// Back after the tier's time: first slow, then killed while an insert is on its way.
pub async fn comes_back(world: &mut World, away: Away) -> Result<()> {
    let time = Duration::from_secs(world.tier.archive_outage_s);
    sleep(time.saturating_sub(away.since.elapsed())).await;
    let posted = places(world, "posted_position").await?;
    ensure!(posted > away.posted, "nothing was posted while the archive was away");
    ensure!(world.statement().await?["archive_available"] == false, "the archive was not away");
    let refused = refused(world) - away.refused;
    ensure!(refused > 0, "nobody looked for the archive");
    let delayed = is_slow(world).await?;
    world.story.count("F13", 2);
    world.story.tell(format!(
        "F13: archive away for {:?}, {refused} refused, then slow, {delayed} delayed",
        away.since.elapsed()
    ));
    killed_at_an_insert(world, Fault::Before(INSERT)).await?;
    killed_at_an_insert(world, Fault::After(INSERT)).await
}

async fn is_slow(world: &World) -> Result<u64> {
    let delayed = |world: &World| archives(world).map(|proxy| proxy.counts().delayed).sum::<u64>();
    let before = delayed(world);
    archives(world).for_each(|proxy| proxy.set(Fault::Delay(SLOW)));
    let late = async |world: &World| Ok((delayed(world) >= before + PIECES).then_some(()));
    world.until("much is late", late).await?;
    archives(world).for_each(|proxy| proxy.set(Fault::None));
    Ok(delayed(world) - before)
}

/// Killed when an insert is on its way, or has arrived and is not known to.
async fn killed_at_an_insert(world: &mut World, fault: Fault) -> Result<()> {
    let engine = world.system.servers()?.engine.process_id();
    let struck = |world: &World| archives(world).map(|proxy| proxy.counts().struck).sum::<u64>();
    let before = struck(world);
    for name in ["archiver", "archiver.2"] {
        world.links.clickhouse[name].set(fault);
    }
    let inserting = async |world: &World| Ok((struck(world) > before).then_some(()));
    world.until("an insert", inserting).await?;
    kill(Pid::from_raw(i32::try_from(engine)?), Signal::SIGKILL)?;
    archives(world).for_each(|proxy| proxy.set(Fault::None));
    world.story.count("F13", 1);
    world.story.tell(format!("F13: the archive was killed: {fault:?}"));
    archives_again(world).await
}

/// The archive goes on by itself.
async fn archives_again(world: &World) -> Result<()> {
    let before = world
        .until("the archive answers", async |world| {
            Ok((world.statement().await?["archive_available"] == true).then_some(()))
        })
        .await;
    before?;
    let archived = places(world, "archived_position").await?;
    let more = async |world: &World| {
        Ok((places(world, "archived_position").await? > archived).then_some(()))
    };
    world.until("something is archived", more).await
}

/// The engine of `weir up` is killed, and started again by it.
pub async fn is_killed(world: &mut World) -> Result<()> {
    world.moment().await?;
    let up = world.system.process("up")?.id();
    let engine = |up: u32| {
        let family = measure::tree(up, &measure::processes());
        family
            .into_iter()
            .find(|process| process.command().contains("clickhouse-engine"))
            .map(|process| process.pid)
    };
    let before = engine(up).context("weir up has no engine")?;
    kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
    let other = async |_: &World| Ok(engine(up).filter(|now| *now != before));
    world.until("another engine", other).await?;
    world.story.count("F13", 1);
    world.story.tell("F13: the engine was killed");
    archives_again(world).await
}
