//! F07, F08 and F12: disks are full, and calls that write or sync fail. Whoever cannot keep what he
//! promised stops, and goes on by himself when he can.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use benches::measure;
use tests::harness::{
    contained::contained,
    disk::{LogFrom, SmallDisk},
    injected::Injected,
    world::World,
};
use tokio::time::timeout;

use crate::postgres::{postmaster, posts_again};

/// Room on a small disk before it is filled.
const ROOM_MIB: u64 = 1_024;
/// What everybody says when there is no room.
const FULL: &str = "No space left on device";
/// What Postgres says before it stops rather than lies.
const PANIC: &str = "PANIC";
/// Windows that must be accepted while Postgres has no room.
const WINDOWS: u64 = 8;
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(5);
/// Calls of Postgres that fail, and how.
const FAILURES: [(&str, &str); 2] = [("fsync,fdatasync", "EIO"), ("pwrite64", "ENOSPC")];

#[test]
#[ignore = "make test-deep does it"]
fn of_postgres() -> Result<()> {
    contained("disks::of_postgres", |run| async move {
        let mut world = World::embedded(&run, 4).await?;
        calls_of_postgres_fail(&mut world).await?;
        let before = world.snapshot().await?;
        postgres_has_no_room(&mut world, "").await?;
        postgres_has_no_room(&mut world, "pg_wal").await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

#[test]
#[ignore = "make test-deep does it"]
fn of_the_broker() -> Result<()> {
    contained("disks::of_the_broker", |run| async move {
        let mut world = World::on_kafka(&run, 8).await?;
        calls_of_the_broker_fail(&mut world).await?;
        let before = world.snapshot().await?;
        the_broker_has_no_room(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

/// F07: a part of Postgres' folder on a disk that is full for a while, several times.
async fn postgres_has_no_room(world: &mut World, part: &str) -> Result<()> {
    if !SmallDisk::possible() {
        world.story.tell("F07: blocked: no mounts");
        return Ok(());
    }
    let folder = world.system.data().join("postgres/cluster").join(part);
    let (code, _) = world.system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    // Without an end that would make it another folder's name.
    let disk = SmallDisk::under(&folder.components().collect::<PathBuf>(), ROOM_MIB)?;
    world.system.start("up").await?;
    for time in 0..world.tier.full_disks {
        world.moment().await?;
        let did = postgres_without_room(world, &disk).await?;
        world.story.count("F07", 1);
        world.story.tell(format!("F07 {}: cluster/{part} was full: {did}", time + 1));
    }
    world.keep_disk(disk);
    Ok(())
}

async fn postgres_without_room(world: &World, disk: &SmallDisk) -> Result<String> {
    let log = LogFrom::now(&world.system.postgres_log()?)?;
    let full = async |world: &World| {
        disk.fill()?;
        // Otherwise what it has in reserve lasts for long.
        let _ = timeout(STATEMENT_TIME_MAX, needs_a_segment(world)).await;
        log.line_with(FULL)
    };
    let said = world.until("Postgres has no room", full).await?;
    world.traffic.flow(WINDOWS * world.plan.window).await?;
    let stopped = log.line_with(PANIC)?.is_some();
    disk.empty()?;
    posts_again(world).await?;
    Ok(format!("{said:?}, panic: {stopped}"))
}

/// Makes the write-ahead log go on in another segment, which only a superuser may do.
async fn needs_a_segment(world: &World) -> Result<()> {
    let mut connection = world.system.superuser().await?;
    let sql = "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'room', 'wanted')";
    sqlx::query(sql).execute(&mut connection).await?;
    Ok(())
}

/// F08: what Postgres syncs or writes fails until it stops; it is back by itself.
async fn calls_of_postgres_fail(world: &mut World) -> Result<()> {
    if !Injected::possible() {
        world.story.tell("F08: blocked: no strace");
        return Ok(());
    }
    for time in 0..world.tier.failed_calls {
        for (calls, error) in FAILURES {
            world.moment().await?;
            let did = calls_fail(world, calls, error).await?;
            world.story.count("F08", 1);
            world.story.tell(format!("F08 {}: {calls} of Postgres: {error}: {did}", time + 1));
        }
    }
    Ok(())
}

async fn calls_fail(world: &World, calls: &str, error: &str) -> Result<String> {
    let log = LogFrom::now(&world.system.postgres_log()?)?;
    let server = u32::try_from(postmaster(world).context("Postgres does not run")?)?;
    let family = measure::tree(server, &measure::processes());
    let family: Vec<u32> = family.iter().map(|process| process.pid).collect();
    let injected = Injected::into(&family, calls, error)?;
    let stops = async |_: &World| log.line_with(PANIC);
    let said = world.until("Postgres stops", stops).await?;
    let bitten = injected.bitten();
    ensure!(bitten > 0, "no call has failed, but Postgres said {said:?}");
    drop(injected);
    posts_again(world).await?;
    Ok(format!("{bitten} failed, {said:?}"))
}

/// F08: what the broker syncs fails until it stops; it is started again.
async fn calls_of_the_broker_fail(world: &mut World) -> Result<()> {
    if !Injected::possible() {
        world.story.tell("F08: blocked: no strace");
        return Ok(());
    }
    for time in 0..world.tier.failed_calls {
        world.moment().await?;
        let unavailable = world.traffic.tally().unavailable;
        let broker = world.broker.as_mut().context("no broker")?;
        let injected = Injected::into(&[broker.id()?], "fsync,fdatasync", "EIO")?;
        world.traffic.until("clients are told 503", |now| now.unavailable > unavailable).await?;
        let broker = world.broker.as_mut().context("no broker")?;
        let (bitten, ended) = (injected.bitten(), broker.has_ended()?);
        ensure!(bitten > 0 && ended, "{bitten} calls have failed; the broker has ended: {ended}");
        drop(injected);
        broker.restart()?;
        posts_again(world).await?;
        world.story.count("F08", 1);
        world
            .story
            .tell(format!("F08 {}: {bitten} fsync of the broker: EIO; it stopped", time + 1));
    }
    Ok(())
}

/// F12: the broker's data on a disk that is full for a while, several times.
async fn the_broker_has_no_room(world: &mut World) -> Result<()> {
    if !SmallDisk::possible() {
        world.story.tell("F12: blocked: no mounts");
        return Ok(());
    }
    let broker = world.broker.as_mut().context("no broker")?;
    broker.kill();
    let disk = SmallDisk::under(&broker.data(), ROOM_MIB)?;
    broker.restart()?;
    for time in 0..world.tier.full_broker_disks {
        world.moment().await?;
        let did = broker_without_room(world, &disk).await?;
        world.story.count("F12", 1);
        world.story.tell(format!("F12 {}: the broker's disk was full: {did}", time + 1));
    }
    world.keep_disk(disk);
    Ok(())
}

async fn broker_without_room(world: &mut World, disk: &SmallDisk) -> Result<String> {
    let log = LogFrom::now(&world.broker.as_ref().context("no broker")?.log())?;
    let unavailable = world.traffic.tally().unavailable;
    let full = async |_: &World| {
        disk.fill()?;
        log.line_with(FULL)
    };
    let said = world.until("the broker has no room", full).await?;
    world.traffic.until("clients are told 503", |now| now.unavailable > unavailable).await?;
    let broker = world.broker.as_mut().context("no broker")?;
    let ended = broker.has_ended()?;
    disk.empty()?;
    // It stops at a disk that fails, and does not look at it again.
    broker.restart()?;
    posts_again(world).await?;
    Ok(format!("{said:?}, it had stopped: {ended}"))
}
