//! F04, F05 and F06: Postgres is killed, restarted, loses its sessions, and its answers get lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::postgres::server::{Server, ServerOptions};
use tests::{
    harness::world::World,
    proxy::{Fault, Proxy},
};
use tokio::time::sleep;

/// What ledger-writers send last in a transaction.
const COMMIT: &str = "COMMIT";

/// The postmaster of `weir up`.
pub fn postmaster(world: &World) -> Option<i32> {
    let path = world.system.data().join("postgres/cluster/postmaster.pid");
    std::fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()
}

/// Ends the postmaster of `weir up` by a signal, and waits for its successor.
async fn end_private(world: &World, signal: Signal) -> Result<()> {
    let before = postmaster(world).context("Postgres does not run")?;
    kill(Pid::from_raw(before), signal)?;
    world
        .until("another postmaster", async |world| {
            let other = postmaster(world).filter(|now| *now != before);
            Ok(if other.is_some() { world.system.postgres().await.ok().map(drop) } else { None })
        })
        .await
}

/// F04: the postmaster is killed.
pub async fn is_killed(world: &mut World) -> Result<()> {
    for time in 0..world.tier.postgres_kills {
        world.moment().await?;
        match world.broker {
            Some(_) => world.system.servers()?.postgres.kill_and_restart().await?,
            None => end_private(world, Signal::SIGKILL).await?,
        }
        world.story.count("F04", 1);
        world.story.tell(format!("F04 {}: Postgres killed and back", time + 1));
        posts_again(world).await?;
    }
    Ok(())
}

/// The ledger goes on by itself.
pub async fn posts_again(world: &World) -> Result<()> {
    let posted = async |world: &World| {
        let statement = world.statement().await?;
        let partitions = statement["partitions"].as_array().context("no partitions")?;
        Ok::<_, anyhow::Error>(
            partitions.iter().filter_map(|one| one["posted_position"].as_i64()).sum::<i64>(),
        )
    };
    let before = world.until("a statement", async |world| Ok(posted(world).await.ok())).await?;
    let more = async |world: &World| Ok((posted(world).await? > before).then_some(()));
    world.until("something is posted", more).await
}

/// F05: it is restarted, and all its sessions are ended; the api says 503 meanwhile, never 500.
pub async fn is_restarted(world: &mut World) -> Result<()> {
    for time in 0..world.tier.postgres_restarts {
        world.moment().await?;
        let immediate = time % 2 == 1;
        match (&world.broker, immediate) {
            (Some(_), true) => world.system.servers()?.postgres.kill_and_restart().await?,
            (Some(_), false) => {
                world.system.servers()?.postgres.stop().await?;
                if time == 0 {
                    the_api_says_so(world).await?;
                }
                world.system.servers()?.postgres.start_again().await?;
            }
            (None, true) => end_private(world, Signal::SIGQUIT).await?,
            (None, false) => end_private(world, Signal::SIGINT).await?,
        }
        world.story.count("F05", 1);
        world.story.tell(format!("F05 {}: Postgres restarted, immediate: {immediate}", time + 1));
    }
    for time in 0..world.tier.session_ends {
        world.moment().await?;
        let ended = world.until("there are sessions to end", end_sessions).await?;
        world.story.count("F05s", 1);
        world.story.tell(format!("F05 {}: {ended} sessions ended", time + 1));
    }
    posts_again(world).await
}

/// A request that waits for Postgres is answered 503 in the end. (`weir up` has its own server back before
/// that: there another postmaster is what shows.)
async fn the_api_says_so(world: &World) -> Result<()> {
    let answered = |world: &World| world.prober.seen().statuses.get(&503).copied();
    let before = answered(world);
    let more = async |world: &World| Ok((answered(world) > before).then_some(()));
    world.until("the api says that Postgres is away", more).await
}

/// Ends all sessions but its own; says how many, if there were any.
async fn end_sessions(world: &World) -> Result<Option<i64>> {
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    .fetch_one(&mut world.system.postgres().await?)
    .await?;
    Ok((ended > 0).then_some(ended))
}

/// F06: a COMMIT arrives and its answer does not, on each of these links in turn.
pub async fn loses_answers(world: &mut World, names: &[&str]) -> Result<()> {
    for time in 0..world.tier.commits_lost {
        let name = names[time as usize % names.len()];
        world.moments.pause(1, 200).await;
        let proxy = &world.links.postgres[name];
        lose_an_answer(world, proxy, name).await?;
        world.story.count("F06", 1);
        world.story.tell(format!("F06 {}: the answer to a COMMIT of {name} lost", time + 1));
    }
    Ok(())
}

async fn lose_an_answer(world: &World, proxy: &Proxy, name: &str) -> Result<()> {
    let before = proxy.counts().struck;
    proxy.set(Fault::After(COMMIT));
    let struck = async |_: &World| Ok((proxy.counts().struck > before).then_some(()));
    let outcome = world.until(&format!("a COMMIT of {name}"), struck).await;
    sleep(Duration::from_millis(100)).await;
    proxy.set(Fault::None);
    outcome
}

/// The same data with Postgres behind a proxy: its private server is run by us for the rest.
pub async fn is_behind_a_proxy(world: &mut World) -> Result<()> {
    let (code, _) = world.system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    let server = Server::start(ServerOptions::new(world.system.data().join("postgres"))).await?;
    let proxy = Proxy::before(server.port())?;
    let url = proxy.through(world.system.postgres_url())?;
    world.system.set("up", "DATABASE_URL", &url);
    world.links.postgres.insert("up".to_owned(), proxy);
    world.system.start("up").await?;
    world.keep(server);
    loses_answers(world, &["up"]).await
}
