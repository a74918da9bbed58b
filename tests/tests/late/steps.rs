//! The slow lane is killed at each of its steps: while it searches, after its answer is in the log and
//! before it hears so, and before its place is stored.

use anyhow::{Context as _, Result, ensure};
use tests::{
    broker::Broker,
    process::Http,
    proxy::{Fault, Proxy},
    system::{ROLES, System},
    wait::eventually,
};

use super::{SEARCH, port_of, send, setting, until};

/// The lane's ways to what it depends on.
struct Ways {
    archive: Proxy,
    log: Proxy,
    postgres: Proxy,
}

/// Whether the table begins after the first events.
async fn has_left(system: &System) -> Result<bool> {
    let metrics = Http::new(&system.base("rater")?, "")?.text("/metrics").await?;
    let begins = "weir_rater_table_from{partition=\"0\"} ";
    let found = metrics.lines().find_map(|line| line.strip_prefix(begins)?.parse::<i64>().ok());
    Ok(found.is_some_and(|found| found > 8))
}

/// An event comes again, which is late, while the archive says nothing; then `fault` sets in and has
/// bitten, the rater is killed, and starts again with all ways open.
async fn kill_while(
    system: &mut System,
    ways: &Ways,
    id: &str,
    fault: impl Fn(&Ways),
    has_bitten: impl AsyncFn(&System) -> Result<bool>,
) -> Result<()> {
    eventually("old events have left the table", async || has_left(system).await).await?;
    ways.archive.set(Fault::HoldRequests);
    send(system, id, None, 1_000).await?;
    until(system, "it waits", |total| total["pending_forwards"] == 1).await?;
    fault(ways);
    eventually("the fault bites", async || has_bitten(system).await).await?;
    system.kill("rater")?;
    for way in [&ways.archive, &ways.log, &ways.postgres] {
        way.cut();
        way.set(Fault::None);
    }
    system.start("rater").await
}

#[tokio::test]
async fn a_lane_that_is_killed_at_any_step_answers_all_the_same() -> Result<()> {
    let (everybody, log) = (Proxy::listen()?, Proxy::listen()?);
    let broker = Broker::start_behind_each(&everybody, &[&log])?;
    let settings =
        [("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"), ("WEIR_RATER__RANGE_IDENTITIES", "1")];
    let mut system = System::kafka_without_roles(&broker, 1, &settings).await?;
    let (postgres, archive) =
        (setting(&system, "DATABASE_URL")?, setting(&system, "CLICKHOUSE_URL")?);
    let ways = Ways {
        archive: Proxy::before(port_of(&archive)?)?,
        log,
        postgres: Proxy::before(port_of(&postgres)?)?,
    };
    system.set("rater", "DATABASE_URL", &ways.postgres.through(&postgres)?);
    system.set("rater", "CLICKHOUSE_URL", &ways.archive.through(&archive)?);
    system.set("rater", "WEIR_KAFKA_BROKERS", &format!("127.0.0.1:{}", ways.log.port()));
    for role in ROLES {
        system.start(role).await?;
    }
    system.publish_catalog().await?;
    // In more than one batch: the newest one does not leave the table.
    for numbers in [0..10, 10..20] {
        let end = numbers.end;
        for number in numbers {
            send(&system, &format!("old-{number}"), None, 1_000).await?;
        }
        system.settled(Some(end)).await?;
    }
    let copies =
        async |system: &System| -> Result<i64> { Ok(system.conservation().await?["copies"]) };

    // The archive has searched, and the lane does not hear what it has found.
    let searched = async |_: &System| Ok(ways.archive.counts().struck > 0);
    let silent = |ways: &Ways| ways.archive.set(Fault::After(SEARCH));
    kill_while(&mut system, &ways, "old-1", silent, searched).await?;
    let counts = system.settled(Some(21)).await?;
    ensure!((counts["duplicates"], counts["copies"]) == (1, 1), "{counts:?}");

    // The copy arrives in the log, and the lane does not hear so.
    let arrived = async |_: &System| Ok(ways.log.counts().struck > 0);
    let deaf = |ways: &Ways| {
        ways.log.set(Fault::After("old-2"));
        ways.archive.set(Fault::None);
    };
    kill_while(&mut system, &ways, "old-2", deaf, arrived).await?;
    let counts = system.settled(Some(22)).await?;
    let answered = counts["copies"] - counts["forwarded"];
    println!("killed before it heard: {counts:?}");
    ensure!(answered > 0 && counts["duplicates"] == 2 + answered, "{counts:?}");

    // The copy is in the log and counted, and the lane's place is not stored.
    let before = copies(&system).await?;
    let held = |ways: &Ways| {
        ways.postgres.set(Fault::HoldRequests);
        ways.archive.set(Fault::None);
    };
    let bitten = async |system: &System| Ok(copies(system).await? > before);
    kill_while(&mut system, &ways, "old-3", held, bitten).await?;
    let counts = system.settled(Some(23)).await?;
    println!("killed before its place was stored: {counts:?}");
    ensure!(counts["copies"] - counts["forwarded"] > answered, "it was answered once: {counts:?}");
    ensure!(
        counts["rated"] == 20
            && counts["conflicts"] == 0
            && counts["duplicates"] == 3 + counts["copies"] - counts["forwarded"],
        "{counts:?}"
    );
    let charged = system.totals_in_postgres().await?;
    let input = charged.get(&("late-team".to_owned(), "llm_input_tokens".to_owned()));
    let input = input.context("no usage of the team")?;
    ensure!(input.quantity == 20_000 * 1_000_000_000_000, "{input:?}");
    ensure!(system.lines_in_clickhouse().await? == charged, "the archive differs from the books");
    Ok(())
}
