//! Real traffic through the whole system, on both logs: the books say to the last decimal what
//! plain arithmetic says, whatever is sent again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use benches::spread::Spread;
use serde_json::json;
use tests::{
    broker::Broker,
    oracle::{self, CHARGE, COST, Price, Prices, Row},
    system::{System, check_counts, finished, integer},
};

/// Events of both traces.
const EVENTS: i64 = 28_185;

#[tokio::test]
async fn embedded() -> Result<()> {
    let mut system = System::embedded().await?;
    story(&mut system, "up").await?;
    let (code, time) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?} after {time:?}");
    Ok(())
}

#[tokio::test]
async fn on_kafka() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka(&broker, 8).await?;
    story(&mut system, "rater").await
}

/// The whole story; `victim` is the process that is killed in its last part.
async fn story(system: &mut System, victim: &str) -> Result<()> {
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    let once = oracle::books(&rows, |_| CHARGE);

    system.replay_all("first", &[]).await?;
    let counts = system.settled(Some(EVENTS)).await?;
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    system.check_books(&once).await?;

    system.replay_all("again", &["--form", "array"]).await?;
    let counts = system.settled(Some(2 * EVENTS)).await?;
    check_counts(&counts, EVENTS, EVENTS, 0)?;
    system.check_books(&once).await?;

    system.replay_all("changed", &["--set", "data.note=changed"]).await?;
    let counts = system.settled(Some(3 * EVENTS)).await?;
    check_counts(&counts, EVENTS, EVENTS, EVENTS)?;
    system.check_books(&once).await?;

    new_version_in_mid_replay(system, victim, &rows).await
}

/// The second version's prices: 0.00005 for 7 tokens, 0.03 for 1,000.
const SECOND: Prices = Prices {
    input: Price { amount: 50_000_000, per: 7 },
    output: Price { amount: 30_000_000_000, per: 1_000 },
};

/// Publishes a version while events of another source arrive, then kills a process.
async fn new_version_in_mid_replay(system: &mut System, victim: &str, rows: &[Row]) -> Result<()> {
    let mut replay = system.replay("mid", &["--set", "source=mid-replay", "--batch", "20"])?;
    loop {
        let counts = system.conservation().await.unwrap_or_default();
        let seen = counts.get("accepted").copied().unwrap_or_default()
            + counts.get("pending").copied().unwrap_or_default();
        if seen >= 3 * EVENTS + 4_000 {
            break;
        }
        ensure!(replay.is_running()?, "the replay ended too early: {}", replay.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dimensions = json!({ "provider": "openai", "model": "gpt-4-turbo" });
    let version = json!({ "rates": [
        { "meter": "llm_input_tokens", "dimensions": dimensions, "price": "0.00005", "per": 7 },
        { "meter": "llm_output_tokens", "dimensions": dimensions, "price": "0.03", "per": 1000 },
    ] });
    let published =
        system.api()?.send("POST", "/v1/rate-cards/standard/versions", &version).await?;
    let markers = published["markers"].as_array().context("no markers")?;
    let markers: Result<BTreeMap<i128, (i128, i128)>> = markers
        .iter()
        .map(|marker| {
            let parts: Result<Vec<i128>, _> =
                marker.as_str().unwrap_or_default().split(':').map(str::parse).collect();
            let parts = parts?;
            Ok((parts[0], (parts[1], parts[2])))
        })
        .collect();
    let markers = markers?;
    ensure!(replay.is_running()?, "the replay ended before the version was published");
    system.kill(victim)?;
    system.start(victim).await?;
    finished(&mut replay).await?;
    let counts = system.settled(None).await?;
    ensure!(counts["rated"] == 2 * EVENTS, "{counts:?}");

    let versions = versions_of(system, &markers).await?;
    let second = versions.values().filter(|version| **version == 2).count();
    ensure!(
        versions.len() == rows.len() && second > 0 && second < rows.len(),
        "{second} of {} events have version 2",
        versions.len()
    );
    let price = |row: &Row| if versions.get(&row.id) == Some(&2) { SECOND } else { CHARGE };
    let mut expected = oracle::books(rows, |_| CHARGE);
    for (key, sums) in oracle::books(rows, price) {
        expected.entry(key).or_default().add(sums);
    }
    system.check_books(&expected).await
}

/// The card version of every event of the last replay, by its id; fails where it is not the one
/// that the marker of its partition says.
async fn versions_of(
    system: &System,
    markers: &BTreeMap<i128, (i128, i128)>,
) -> Result<BTreeMap<String, i128>> {
    let sql = "SELECT event_id, partition, position, `index` AS place, card_version FROM usage_lines \
               WHERE source = 'mid-replay' AND meter = 'llm_input_tokens'";
    let mut versions = BTreeMap::new();
    for row in system.clickhouse().query_json_rows(sql, &[]).await? {
        let (partition, version) = (integer(&row["partition"])?, integer(&row["card_version"])?);
        let place = (integer(&row["position"])?, integer(&row["place"])?);
        let marker = markers
            .get(&partition)
            .with_context(|| format!("no marker in partition {partition}"))?;
        let expected = if place > *marker { 2 } else { 1 };
        ensure!(version == expected, "{row} has not version {expected} of marker {marker:?}");
        versions.insert(row["event_id"].as_str().unwrap_or_default().to_owned(), version);
    }
    Ok(versions)
}

#[test]
fn the_traces_and_the_card_give_these_sums() {
    let rows = oracle::rows(&Spread::new(20, 1, 1.0)).unwrap();
    let books = oracle::books(&rows, |_| CHARGE);
    let mut input = oracle::Sums::default();
    let mut output = oracle::Sums::default();
    for ((_, meter), sums) in &books {
        if meter == "llm_input_tokens" { input.add(*sums) } else { output.add(*sums) }
    }
    let one = 1_000_000_000_000;
    assert_eq!((input.quantity / one, output.quantity / one), (40_421_844, 4_334_561));
    // Costs need no rounding: 10 and 30 for a million.
    assert_eq!(input.cost + output.cost, COST.input.of(40_421_844) + COST.output.of(4_334_561));
    // Rounding each line is not rounding the sum: this is what `per` = 3 is for.
    assert_ne!(input.charge, CHARGE.input.of(40_421_844));
}
