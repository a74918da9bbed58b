//! F10 and F11: the broker is killed, mute, late, slow, or cannot be reached.

use std::{ops::Range, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tests::{
    broker::Broker,
    harness::{contained::contained, world::World},
    proxy::{Fault, Proxy},
};
use tokio::time::sleep;

/// How long the broker may take over what arrives late.
const LATE_TIME: Duration = Duration::from_secs(1);
/// How long all is slow.
const SLOW_TIME: Duration = Duration::from_secs(2);
/// Rounds after which a batch must have been ignored; the first usually does it.
const ROUNDS_MAX: u64 = 10;

/// F10: kill -9 of the broker; what was on its way is answered 503.
pub async fn is_killed(world: &mut World) -> Result<()> {
    for time in 0..world.tier.broker_kills {
        world.moment().await?;
        let before = world.traffic.tally();
        world.broker.as_mut().context("no broker")?.kill();
        world.moments.pause(100, 2_000).await;
        world.broker.as_mut().context("no broker")?.restart()?;
        let unanswered = |unavailable: u64, broken: u64| unavailable + broken;
        let known = unanswered(before.unavailable, before.broken);
        world
            .traffic
            .until("somebody noticed", |now| unanswered(now.unavailable, now.broken) > known)
            .await?;
        world.story.count("F10", 1);
        world.story.tell(format!("F10 {}: broker killed and back", time + 1));
    }
    Ok(())
}

/// F10 of a cluster: one of three nodes is killed at a time, whichever; the others go on without it, and
/// it comes back and has what it missed.
#[test]
#[ignore = "make test-deep does it"]
fn one_of_three_is_killed() -> Result<()> {
    contained("broker::one_of_three_is_killed", |run| async move {
        let mut world = World::on_three_brokers(&run, 8).await?;
        for time in 0..world.tier.broker_kills {
            world.moment().await?;
            let node = usize::try_from(time)? % 3;
            node_of(&mut world, node)?.kill();
            world.traffic.flow(3 * world.plan.window).await?;
            world.rated_again().await?;
            world.moments.pause(100, 5_000).await;
            node_of(&mut world, node)?.restart()?;
            let in_sync = async |world: &World| {
                let broker = world.broker.as_ref().context("no broker")?;
                Ok(broker.is_in_sync()?.then_some(()))
            };
            world.until("all copies are complete", in_sync).await?;
            world.story.count("F10", 1);
            world.story.tell(format!("F10 {}: node {} killed and back", time + 1, node + 1));
        }
        let mut rest = world.rest().await?;
        rest.check(None).await
    })
}

fn node_of(world: &mut World, node: usize) -> Result<&mut Broker> {
    match node {
        0 => world.broker.as_mut().context("no broker"),
        other => world.other_brokers.get_mut(other - 1).context("no such node"),
    }
}

/// What the roles say of appends whose outcome nobody told them, and of what came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Bites {
    /// Blocks that ingest cannot tell the fate of.
    unknown_blocks: u64,
    /// Times that a rater gave up what it had not seen accepted.
    discards: u64,
    /// Batches that a ledger-writer saw not to continue the chain.
    ignored_by_writers: u64,
}

async fn bites(world: &World) -> Result<Bites> {
    let of = async |role, name, label| world.metric_of_role(role, name, label).await;
    Ok(Bites {
        unknown_blocks: of("ingest", "weir_ingest_blocks_answered_total", "\"unknown\"").await?,
        discards: of("rater", "weir_rater_discards_total", "").await?,
        ignored_by_writers: of("ledger-writer", "weir_ledger_writer_batches_ignored_total", "")
            .await?,
    })
}

/// F11: the broker cannot be reached for long, once for each of these times.
pub async fn is_mute(world: &mut World, times: Range<u64>) -> Result<()> {
    for time in times {
        let outage = Duration::from_secs(world.tier.broker_outage_s);
        let mute = world.moments.between(1_000, 8_000).min(outage);
        let did = drop_answers(world, mute, outage.saturating_sub(mute)).await?;
        world.story.count("F11", 1);
        world.story.tell(format!("F11 {}: away for {outage:?}: {did}", time + 1));
    }
    Ok(())
}

/// F11: until a batch that came late was ignored, answers are dropped for a while and requests arrive
/// long after they were given up.
pub async fn is_late(world: &mut World) -> Result<()> {
    let before = bites(world).await?;
    for round in 1..=ROUNDS_MAX {
        let (mute, away) = (world.moments.between(1_000, 4_000), world.moments.between(100, 600));
        let did = drop_answers(world, mute, away).await?;
        world.story.tell(format!("F11: answers dropped for {mute:?}: {did}"));
        let held = world.moments.between(2_700, 3_500);
        let did = deliver_late(world, held).await?;
        world.story.count("F11", 2);
        let now = bites(world).await?;
        world
            .story
            .tell(format!("F11: requests held for {held:?}: {did}; {now:?} after {before:?}"));
        let unknown = now.unknown_blocks > before.unknown_blocks && now.discards > before.discards;
        if unknown && now.ignored_by_writers > before.ignored_by_writers {
            return Ok(());
        }
        ensure!(round < ROUNDS_MAX, "nothing that came late was ignored: {now:?}");
    }
    Ok(())
}

fn proxy(world: &World) -> Result<&Proxy> {
    world.links.kafka.as_ref().context("no proxy before Kafka")
}

/// Requests arrive and are not answered; then everything is cut and nothing can connect, and at last
/// everything is slow.
async fn drop_answers(world: &mut World, mute: Duration, away: Duration) -> Result<String> {
    world.rated_again().await?;
    world.moment().await?;
    let slow = world.moments.between(100, 500);
    let proxy = proxy(world)?;
    let before = proxy.counts();
    proxy.set(Fault::DropAnswers);
    sleep(mute).await;
    proxy.set(Fault::Refuse);
    proxy.cut();
    sleep(away).await;
    proxy.set(Fault::Delay(slow));
    sleep(SLOW_TIME).await;
    proxy.set(Fault::None);
    let did = proxy.counts().since(before);
    ensure!(did.dropped_bytes > 0 && did.unanswered_bytes > 0, "no answer was dropped: {did:?}");
    ensure!(did.cut > 0 && did.refused > 0 && did.delayed > 0, "the fault did not bite: {did:?}");
    Ok(format!("{} cut, {} refused, {} delayed", did.cut, did.refused, did.delayed))
}

/// Requests are held until they are given up, and arrive when their senders have gone on.
async fn deliver_late(world: &mut World, held: Duration) -> Result<String> {
    world.rated_again().await?;
    world.moment().await?;
    let before = proxy(world)?.counts();
    proxy(world)?.set(Fault::HoldRequests);
    sleep(held).await;
    proxy(world)?.cut_and_keep();
    proxy(world)?.set(Fault::None);
    world.rated_again().await?;
    proxy(world)?.deliver();
    sleep(LATE_TIME).await;
    let did = proxy(world)?.counts().since(before);
    ensure!(did.late_bytes > 0, "no request arrived late: {did:?}");
    Ok(format!("{} bytes arrived late", did.late_bytes))
}
