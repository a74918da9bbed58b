//! F21 and F24: everything is slow at once: links, processors, bandwidth. Nothing gives up for good,
//! queues stay bounded (the oracle looks at memory), and all of it settles.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use benches::measure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{
    harness::{contained::contained, world::World},
    proxy::{Counts, Fault},
};
use tokio::time::{Instant, sleep};

use crate::postgres::posts_again;

/// How much later everything arrives.
const LATE: Duration = Duration::from_millis(500);
/// A megabit a second, on each connection and either way.
const NARROW_BYTES: usize = 125_000;
/// How long processes work and how long they stand still, in turn: they have a fifth of the time.
const WORK: Duration = Duration::from_millis(20);
const STILL: Duration = Duration::from_millis(80);
/// F24: as many windows on their way at once, of which each is some 50 requests.
const WINDOWS: usize = 24;
/// As fast as clients are answered.
const RATE: u64 = 1_000_000;

#[test]
#[ignore = "make test-deep does it"]
fn of_everything() -> Result<()> {
    contained("slowness::of_everything", |run| async move {
        let mut world = World::on_kafka(&run, 8).await?;
        links_are_slow(&mut world, Fault::Delay(LATE), |did| did.delayed).await?;
        let before = world.snapshot().await?;
        processors_are_slow(&mut world).await?;
        links_are_slow(&mut world, Fault::Narrow(NARROW_BYTES), |did| did.narrowed).await?;
        more_comes_than_the_log_takes(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

/// Events are accepted and posted for as long as everything is slow.
async fn works_on(world: &World) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(world.tier.slow_s);
    while Instant::now() < end {
        world.traffic.flow(world.plan.window).await?;
        posts_again(world).await?;
    }
    Ok(())
}

/// What clients saw since `before`.
fn seen(world: &World, accepted: u64, unavailable: u64) -> String {
    let now = world.traffic.tally();
    format!("{} accepted, {} times 503", now.accepted - accepted, now.unavailable - unavailable)
}

/// All links at once are slow in one way.
async fn links_are_slow(world: &mut World, fault: Fault, bites: fn(Counts) -> u64) -> Result<()> {
    world.moment().await?;
    let before = world.traffic.tally();
    let links = world.links.all();
    let counts: Vec<Counts> = links.iter().map(|(_, proxy)| proxy.counts()).collect();
    links.iter().for_each(|(_, proxy)| proxy.set(fault));
    works_on(world).await?;
    let did = links.iter().zip(counts).map(|((_, proxy), before)| proxy.counts().since(before));
    let did: Vec<u64> = did.map(bites).collect();
    let noticed = did.iter().filter(|bites| **bites > 0).count();
    ensure!(noticed > 0, "no link was slow");
    let seen = seen(world, before.accepted, before.unavailable);
    let (total, of) = (did.iter().sum::<u64>(), did.len());
    world.links.heal();
    let healed = Instant::now();
    posts_again(world).await?;
    world.story.count("F21", 1);
    world.story.tell(format!(
        "F21: {fault:?} on every link: {total} pieces on {noticed} of {of}; {seen}; posts again after {:?}",
        healed.elapsed()
    ));
    Ok(())
}

/// All processes stand still for four fifths of the time.
async fn processors_are_slow(world: &mut World) -> Result<()> {
    world.moment().await?;
    let mut processes = Vec::new();
    for name in world.system.names() {
        processes.push(world.system.process(&name)?.id());
    }
    let before = world.traffic.tally();
    let (used, began, still) = (time_of(&processes)?, Instant::now(), AtomicU64::new(0));
    let worked = tokio::select! {
        ended = take_turns(&processes, &still) => ended,
        worked = works_on(world) => worked,
    };
    signal(&processes, Signal::SIGCONT)?;
    worked?;
    let (used, times) = (time_of(&processes)? - used, still.load(Ordering::SeqCst));
    ensure!(times > 0, "no process stood still");
    let seen = seen(world, before.accepted, before.unavailable);
    world.story.count("F21", 1);
    world.story.tell(format!(
        "F21: {} processes stood still {times} times in {:?} and used {used:?} of processors; {seen}",
        processes.len(),
        began.elapsed()
    ));
    posts_again(world).await
}

/// F24: far more comes than the log takes. What it cannot take soon is refused at once, and what it
/// takes does not wait behind the rest.
async fn more_comes_than_the_log_takes(world: &mut World) -> Result<()> {
    let link = world.links.kafka.as_ref().context("no link to Kafka")?;
    link.set(Fault::Narrow(NARROW_BYTES));
    world.moment().await?;
    let usual = world.traffic.tally();
    works_on(world).await?;
    let before = world.traffic.tally();
    world.traffic.widen(WINDOWS);
    world.traffic.send_at(RATE);
    world.traffic.until("a request is refused", |now| now.unavailable > before.unavailable).await?;
    works_on(world).await?;
    let (now, limits) = (world.traffic.tally(), waiting_limits(world).await?);
    world.traffic.send_at(world.tier.rate);
    world.links.heal();
    posts_again(world).await?;
    world.story.count("F24", 1);
    world.story.tell(format!(
        "F24: {} accepted, {} times 503; 99 of 100 that were taken at once had their answer within {} ms, \
         before within {} ms; {limits:?} bytes might wait",
        now.accepted - before.accepted,
        now.unavailable - before.unavailable,
        now.answered_within_ms(&before),
        before.answered_within_ms(&usual),
    ));
    Ok(())
}

/// How much may wait for the log at each ingest.
async fn waiting_limits(world: &World) -> Result<Vec<u64>> {
    let mut limits = Vec::new();
    for name in world.of_role("ingest") {
        limits.push(world.metric(&name, "weir_ingest_waiting_limit_bytes", "").await?);
    }
    Ok(limits)
}

/// Processor time of all of them.
fn time_of(processes: &[u32]) -> Result<Duration> {
    let of = |pid: &u32| measure::Process::read(*pid).map(|process| process.own);
    processes.iter().map(of).sum::<Option<Duration>>().context("a process has ended")
}

fn signal(processes: &[u32], signal: Signal) -> Result<()> {
    for process in processes {
        kill(Pid::from_raw(i32::try_from(*process)?), signal)?;
    }
    Ok(())
}

/// Stops all, and lets all go on, in turn; counts how often one was seen to stand still.
async fn take_turns(processes: &[u32], still: &AtomicU64) -> Result<()> {
    loop {
        signal(processes, Signal::SIGSTOP)?;
        sleep(STILL).await;
        let stands = processes.iter().filter(|process| stands_still(**process)).count();
        still.fetch_add(stands as u64, Ordering::SeqCst);
        signal(processes, Signal::SIGCONT)?;
        sleep(WORK).await;
    }
}

fn stands_still(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tT"))
}
