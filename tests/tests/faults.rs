//! Faults under load: what was acknowledged has one effect, the right one, whatever dies, hangs,
//! stutters or lies meanwhile. `docs/RELIABILITY.md` says what each does and how to run them.
//!
//! A system is put together once and has one fault after the other; the oracle looks at everything
//! it kept at the end. WEIR_SEED repeats the random moments, WEIR_TIER=deep does each more often,
//! WEIR_FAULTS_OUT names a file for the run's line.

use anyhow::Result;
use tests::harness::{contained::contained, world::World};

#[path = "faults/archive.rs"]
mod archive;
#[path = "faults/broker.rs"]
mod broker;
#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/door.rs"]
mod door;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/oracle.rs"]
mod oracle;
#[path = "faults/owners.rs"]
mod owners;
#[path = "faults/partition.rs"]
mod partition;
#[path = "faults/partitions.rs"]
mod partitions;
#[path = "faults/postgres.rs"]
mod postgres;
#[path = "faults/processes.rs"]
mod processes;
#[path = "faults/replay.rs"]
mod replay;
#[path = "faults/slowness.rs"]
mod slowness;

#[test]
fn processes_on_kafka() -> Result<()> {
    contained("processes_on_kafka", |run| async move {
        let mut world = World::on_kafka(&run, 8).await?;
        processes::are_killed(&mut world, &tests::system::ROLES).await?;
        let before = world.snapshot().await?;
        processes::are_told_to_stop(&mut world, &["ingest", "rater", "ledger-writer", "archiver"])
            .await?;
        world.change_prices().await?;
        postgres::is_killed(&mut world).await?;
        postgres::is_restarted(&mut world).await?;
        clients::hang_up(&mut world).await?;
        let mut rest = world.rest().await?;
        let verdict = rest.check(Some(&before)).await?;
        replay::over_http_and_a_door(&mut rest).await?;
        let again = rest.check(Some(&before)).await?;
        anyhow::ensure!(verdict.events == again.events, "{verdict:?}, then {again:?}");
        door::unknown_formats_stop_a_partition(&mut rest).await?;
        Ok(again)
    })
}

#[test]
fn owners_on_kafka() -> Result<()> {
    contained("owners_on_kafka", |run| async move {
        let mut world = World::on_kafka_late(&run, 8).await?;
        owners::come_and_go(&mut world).await?;
        let before = world.snapshot().await?;
        world.change_prices().await?;
        owners::are_paused(&mut world).await?;
        clocks::are_wrong(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.had_late_events().await?;
        rest.check(Some(&before)).await
    })
}

#[test]
fn neighbours_on_kafka() -> Result<()> {
    contained("neighbours_on_kafka", |run| async move {
        let mut world = World::on_kafka_late(&run, 8).await?;
        broker::is_killed(&mut world).await?;
        let before = world.snapshot().await?;
        world.change_prices().await?;
        world.traffic.send_at(world.tier.long_rate);
        let outages = world.tier.broker_outages;
        let away = archive::goes_away(&mut world).await?;
        broker::is_mute(&mut world, 0..outages / 2).await?;
        postgres::loses_answers(&mut world, &["ledger-writer", "ledger-writer.2"]).await?;
        archive::comes_back(&mut world, away).await?;
        broker::is_mute(&mut world, outages / 2..outages).await?;
        broker::is_late(&mut world).await?;
        clients::links_are_cut(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.had_late_events().await?;
        rest.check(Some(&before)).await
    })
}

#[test]
fn embedded() -> Result<()> {
    contained("embedded", |run| async move {
        let mut world = World::embedded(&run, 4).await?;
        processes::are_killed(&mut world, &["up"]).await?;
        let before = world.snapshot().await?;
        processes::are_told_to_stop(&mut world, &["up"]).await?;
        world.change_prices().await?;
        postgres::is_killed(&mut world).await?;
        postgres::is_restarted(&mut world).await?;
        clients::hang_up(&mut world).await?;
        archive::is_killed(&mut world).await?;
        clocks::of_everything_are_wrong(&mut world).await?;
        postgres::is_behind_a_proxy(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}
