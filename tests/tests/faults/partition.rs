//! F19: processes are cut off from one thing that they depend on, in one direction or both: nobody
//! believes for long what others know better, and all goes on when the link is back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{
    harness::{contained::contained, links::Links, world::World},
    proxy::{Counts, Fault, Proxy},
};
use tokio::time::{Instant, sleep};

/// Longer than a member may be silent, so that others take its partitions.
const CUT_FROM_KAFKA: Duration = Duration::from_secs(8);
/// Long enough for some answers to be waited for in vain.
const CUT_FROM_A_STORE: Duration = Duration::from_secs(3);
/// Raters ask Postgres for little, and on a busy machine they ask late: a cut lasts until one has met it.
const NOTICED_TIME_MAX: Duration = Duration::from_secs(120);
/// Whose links are cut, and what they lead to: single processes, whose neighbours go on, and whole roles.
const LINKS: [(&[&str], To); 9] = [
    (&["rater"], To::Kafka),
    (&["rater", "rater.2"], To::Kafka),
    (&["ledger-writer"], To::Kafka),
    (&["ledger-writer", "ledger-writer.2"], To::Postgres),
    (&["ingest", "ingest.2"], To::Kafka),
    (&["rater", "rater.2"], To::Postgres),
    (&["archiver", "archiver.2"], To::Kafka),
    (&["archiver", "archiver.2"], To::ClickHouse),
    (&["ingest", "ingest.2", "api"], To::Postgres),
];
/// One direction, the other one, and both: with connections that hang, and with none.
const FAULTS: [Fault; 4] =
    [Fault::DropRequests, Fault::DropAnswers, Fault::HalfOpen, Fault::Refuse];

/// What a link leads to.
#[derive(Clone, Copy, Debug)]
enum To {
    Kafka,
    Postgres,
    ClickHouse,
}

#[test]
#[ignore = "make test-deep does it"]
fn of_each_link() -> Result<()> {
    contained("partition::of_each_link", |run| async move {
        let mut world = World::on_kafka_apart(&run, 8).await?;
        world.traffic.send_at(world.tier.long_rate);
        let mut cuts = cuts();
        world.moments.shuffle(&mut cuts);
        let half = world.tier.partitions as usize / 2;
        roles_are_cut_off(&mut world, cuts.iter().take(half)).await?;
        let before = world.snapshot().await?;
        let rest = world.tier.partitions as usize - half;
        roles_are_cut_off(&mut world, cuts.iter().skip(half).take(rest)).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

type OneCut = (&'static [&'static str], To, Fault);

/// Each fault of each link.
fn cuts() -> Vec<OneCut> {
    let each = |(names, to): (&'static [&'static str], To)| FAULTS.map(|fault| (names, to, fault));
    LINKS.into_iter().flat_map(each).collect()
}

async fn roles_are_cut_off(world: &mut World, cuts: impl Iterator<Item = &OneCut>) -> Result<()> {
    for (names, to, fault) in cuts {
        world.moment().await?;
        let bites = cut_off(&world.links, names, *to, *fault).await?;
        let healed = Instant::now();
        goes_on(world).await?;
        world.story.count("F19", 1);
        world.story.tell(format!(
            "F19: {names:?} without {to:?}, {fault:?}: {bites}; all goes on after {:?}",
            healed.elapsed()
        ));
    }
    Ok(())
}

fn proxies<'a>(links: &'a Links, names: &[&str], to: To) -> Result<Vec<&'a Proxy>> {
    let all = match to {
        To::Kafka => &links.kafka_apart,
        To::Postgres => &links.postgres,
        To::ClickHouse => &links.clickhouse,
    };
    let of = |name: &&str| all.get(*name).with_context(|| format!("{name} has no link to {to:?}"));
    names.iter().map(of).collect()
}

/// Cuts the links for a while; says what was noticed of it on each.
async fn cut_off(links: &Links, names: &[&str], to: To, fault: Fault) -> Result<String> {
    let proxies = proxies(links, names, to)?;
    let before: Vec<Counts> = proxies.iter().map(|proxy| proxy.counts()).collect();
    for proxy in &proxies {
        proxy.set(fault);
        // What exists is cut where the fault leaves it alone.
        if matches!(fault, Fault::HalfOpen | Fault::Refuse) {
            proxy.cut();
        }
    }
    let bites = |(proxy, before): (&&Proxy, &Counts)| {
        let did = proxy.counts().since(*before);
        match fault {
            Fault::DropRequests => did.vanished_bytes,
            Fault::DropAnswers => did.dropped_bytes,
            Fault::HalfOpen => did.half_open,
            _ => did.refused,
        }
    };
    let told = || proxies.iter().zip(&before).map(bites).collect::<Vec<u64>>();
    sleep(match to {
        To::Kafka => CUT_FROM_KAFKA,
        To::Postgres | To::ClickHouse => CUT_FROM_A_STORE,
    })
    .await;
    let deadline = Instant::now() + NOTICED_TIME_MAX;
    while told().iter().all(|bites| *bites == 0) && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    let told = told();
    proxies.iter().for_each(|proxy| proxy.set(Fault::None));
    ensure!(
        told.iter().any(|bites| *bites > 0),
        "nobody noticed that {names:?} are cut off from {to:?}: {fault:?}"
    );
    let told: Vec<String> = told.iter().map(u64::to_string).collect();
    let unit =
        if matches!(fault, Fault::HalfOpen | Fault::Refuse) { "connections" } else { "bytes" };
    Ok(format!("{} {unit}", told.join(" + ")))
}

/// What was in the log when the link came back is posted and archived, and more is accepted.
async fn goes_on(world: &World) -> Result<()> {
    world.traffic.flow(world.plan.window).await?;
    let ends =
        world.until("a statement", async |world| places(world, "end_position").await).await?;
    let done = async |world: &World| {
        let posted = places(world, "posted_position").await?.context("no places")?;
        let archived = places(world, "archived_position").await?.context("no places")?;
        let reached =
            |places: &[i64]| places.iter().zip(&ends).all(|(place, end)| *place >= end - 1);
        Ok((reached(&posted) && reached(&archived)).then_some(()))
    };
    world.until("what was in the log is posted and archived", done).await
}

/// A position of each partition; none where one is not known yet.
async fn places(world: &World, name: &str) -> Result<Option<Vec<i64>>> {
    let statement = world.statement().await?;
    let partitions = statement["partitions"].as_array().context("no partitions")?;
    Ok(partitions.iter().map(|one| one[name].as_i64()).collect())
}
