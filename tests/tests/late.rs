//! Late events: real traffic through duplicates tables far too small for it. What has left the table
//! is found again by the slow lane, whatever dies or is away meanwhile, and no book differs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use benches::spread::Spread;
use runtime::clickhouse::{Engine, EngineLaunch};
use serde_json::{Value, json};
use tests::{
    broker::Broker,
    engine::{self, Folder},
    harness::clocks::Clocks,
    oracle::{self, CHARGE},
    process::program,
    proxy::{Fault, Proxy},
    system::{ROLES, System, check_counts, finished},
    wait::eventually,
};

#[path = "late/steps.rs"]
mod steps;

/// Events of both traces.
const EVENTS: i64 = 28_185;
/// A table of a thousand identities, which leave in ranges of a few hundred.
const SMALL: [(&str, &str); 3] = [
    ("WEIR_RATER__TABLE_IDENTITIES_MAX", "1000"),
    ("WEIR_RATER__RANGE_IDENTITIES", "250"),
    ("WEIR_LOG__PARTITIONS", "4"),
];
const DEADLINE: Duration = Duration::from_secs(120);
/// What the lane asks the archive waits.
const SEARCHES_WAIT: Fault = Fault::Hold(SEARCH);
/// What its questions have in them, and no others.
const SEARCH: &str = "toString(e.content_hash)";

/// A pause from 100 ms to `most_ms`, by the clock's low digits: kills come at any moment.
async fn pause(most_ms: u64) {
    let random = uuid::Uuid::now_v7().as_u64_pair().1;
    tokio::time::sleep(Duration::from_millis(100 + random % most_ms)).await;
}

/// The traces' books stand, and every later round of them became what it should.
async fn check(system: &System, duplicates: i64, conflicts: i64) -> Result<()> {
    let counts = system.settled(None).await?;
    println!("{counts:?}");
    // What was sent again because a kill cut the answer, and whom a dying lane answered twice, is a
    // duplicate or a conflict once more.
    let sent_again = counts["accepted"] - EVENTS - duplicates - conflicts;
    let answered_again = counts["copies"] - counts["forwarded"];
    ensure!(counts["rated"] == EVENTS && sent_again >= 0 && answered_again >= 0, "{counts:?}");
    let repeats = sent_again + answered_again;
    ensure!(
        counts["duplicates"] >= duplicates
            && counts["conflicts"] >= conflicts
            && counts["duplicates"] + counts["conflicts"] == duplicates + conflicts + repeats,
        "{counts:?}"
    );
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await
}

/// Everything three times, the second and third time with kills while the lane is at work. `archive`
/// is the lane's way to it.
async fn story(system: &mut System, archive: &Proxy, victims: [&[&str]; 2]) -> Result<()> {
    system.replay_all("first", &[]).await?;
    check(system, 0, 0).await?;

    archive.set(SEARCHES_WAIT);
    let mut again = system.replay("again", &[])?;
    kill_in_mid_lane(system, archive, victims[0]).await?;
    finished(&mut again).await?;
    check(system, EVENTS, 0).await?;
    let counts = system.settled(None).await?;
    ensure!(counts["forwarded"] > EVENTS / 2, "the table was too large: {counts:?}");

    archive.set(SEARCHES_WAIT);
    let mut changed = system.replay("changed", &["--set", "data.note=changed"])?;
    kill_in_mid_lane(system, archive, victims[1]).await?;
    finished(&mut changed).await?;
    check(system, EVENTS, EVENTS).await?;
    let data = system.data();
    system
        .run("verify", &["verify", "--data", data.to_str().context("a path that is text")?])
        .await?;
    Ok(())
}

/// Kills one process after the other, each after the lane was let go on with late events that wait for
/// it, and lets it go on at the end.
async fn kill_in_mid_lane(system: &mut System, archive: &Proxy, victims: &[&str]) -> Result<()> {
    for victim in victims {
        until(system, "late events wait", |total| total["pending_forwards"].as_i64() > Some(500))
            .await?;
        archive.set(Fault::None);
        pause(200).await;
        system.kill(victim)?;
        archive.set(SEARCHES_WAIT);
        system.start(victim).await?;
    }
    archive.set(Fault::None);
    Ok(())
}

#[tokio::test]
async fn on_the_local_log() -> Result<()> {
    let archive = Archive::start().await?;
    let url = format!("http://127.0.0.1:{}", archive.proxy.port());
    let settings = [&SMALL[..], &[("CLICKHOUSE_URL", url.as_str())]].concat();
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    story(&mut system, &archive.proxy, [&["up"; 3]; 2]).await?;
    without_filters(&mut system).await
}

/// Filters that are gone, damaged or of another chain cost time and nothing else.
async fn without_filters(system: &mut System) -> Result<()> {
    let folder = system.folder().join("data/rater");
    let filters = || -> Result<Vec<std::path::PathBuf>> {
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    let before = filters()?;
    ensure!(before.len() > 20, "only {} filters", before.len());
    for (number, path) in before.iter().enumerate() {
        match number % 3 {
            0 => std::fs::remove_file(path)?,
            1 => std::fs::write(path, b"damaged")?,
            _ => {}
        }
    }
    // A good file under the name of another chain.
    let name = before[2].file_name().and_then(|name| name.to_str()).context("a name")?;
    let (place, _) = name.rsplit_once('-').context("a name without a hash")?;
    let foreign = folder.join(format!("{place}-00112233445566ff.filter"));
    std::fs::copy(&before[2], &foreign)?;
    system.start("up").await?;
    let mut more = system.replay("without-filters", &[])?;
    finished(&mut more).await?;
    check(system, 2 * EVENTS, EVENTS).await?;
    until_filters_are_there(system).await?;
    ensure!(filters()?.len() > 3, "no filter was made again");
    ensure!(!foreign.exists(), "a filter of another chain is believed");
    Ok(())
}

/// Waits until every range has a filter again.
async fn until_filters_are_there(system: &System) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let metrics = system.api()?.text("/metrics").await?;
        let of = |name: &str| {
            let lines = metrics.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Vec<u64>>()
        };
        let missing: u64 = of("weir_rater_ranges_without_filter{").iter().sum();
        // Not before all four partitions have told what they have.
        let ranges = of("weir_rater_ranges{");
        if ranges.len() == 4 && ranges.iter().sum::<u64>() > 0 && missing == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "{missing} of {ranges:?} ranges lack filters");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// A log that is trimmed has lost the batches of the ranges: their filters come from the archive.
#[tokio::test]
async fn on_a_trimmed_log() -> Result<()> {
    let settings = [SMALL.as_slice(), &[("WEIR_LOG__LOCAL__SEGMENT_BYTES", "65536")]].concat();
    let mut system = System::embedded_with(&settings, &["--trim-after", "1"], &[]).await?;
    system.replay_all("first", &[]).await?;
    check(&system, 0, 0).await?;
    until_trimmed(&system).await?;
    system.kill("up")?;
    std::fs::remove_dir_all(system.folder().join("data/rater"))?;
    system.start("up").await?;
    eventually("filters are made again", async || {
        until_filters_are_there(&system).await?;
        Ok(std::fs::read_dir(system.folder().join("data/rater"))?.count() > 3)
    })
    .await?;
    system.replay_all("again", &[]).await?;
    check(&system, EVENTS, 0).await?;
    system.replay_all("changed", &["--set", "data.note=changed"]).await?;
    check(&system, EVENTS, EVENTS).await
}

/// Waits until the log holds next to nothing.
async fn until_trimmed(system: &System) -> Result<()> {
    let log = system.folder().join("data/log");
    let segments = || -> Result<usize> {
        let names = std::fs::read_dir(&log)?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<Result<_>>()?;
        Ok(names.iter().filter(|name| name.to_string_lossy().ends_with(".segment")).count())
    };
    let deadline = Instant::now() + DEADLINE;
    while segments()? > 2 {
        ensure!(Instant::now() < deadline, "the log was not trimmed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A machine whose clock is a day behind until it has asked for the time: what it then takes for the
/// past must not make an event new that has a twin in what the log has lost.
#[tokio::test]
async fn on_a_trimmed_log_with_a_clock_that_was_behind() -> Result<()> {
    const TWINS: i64 = 20;
    let clocks = Clocks::new()?;
    let [library, offset] = clocks.settings("up")?;
    let settings = [
        ("WEIR_LOG__PARTITIONS", "1"),
        ("WEIR_LOG__LOCAL__SEGMENT_BYTES", "65536"),
        (library.0, &library.1),
        (offset.0, &offset.1),
    ];
    let mut system = System::embedded_with(&settings, &["--trim-after", "1"], &[]).await?;
    let time = domain::time::format(runtime::task::now_us());
    let twins = async |system: &System| {
        for number in 0..TWINS {
            send(system, &format!("twin-{number}"), Some(&time), 1_000).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    twins(&system).await?;
    system.replay_all("first", &[]).await?;
    system.settled(Some(EVENTS + TWINS)).await?;
    until_trimmed(&system).await?;
    system.kill("up")?;
    clocks.set("up", -86_400)?;
    system.start("up").await?;
    clocks.set("up", 0)?;
    twins(&system).await?;
    let counts = system.settled(Some(EVENTS + 2 * TWINS)).await?;
    check_counts(&counts, EVENTS + TWINS, TWINS, 0)?;
    Ok(())
}

#[tokio::test]
async fn on_kafka() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka_without_roles(&broker, 4, &SMALL[..2]).await?;
    let url = setting(&system, "CLICKHOUSE_URL")?;
    let archive = Proxy::before(port_of(&url)?)?;
    system.set("rater", "CLICKHOUSE_URL", &archive.through(&url)?);
    // Two raters share the partitions, and take each other's over.
    for role in ROLES.into_iter().chain(["rater.2"]) {
        system.start(role).await?;
    }
    system.publish_catalog().await?;
    let victims: [&[&str]; 2] = [&["archiver", "rater", "ingest"], &["rater.2", "ledger-writer"]];
    story(&mut system, &archive, victims).await
}

/// An archive behind a proxy, so that it can be away.
struct Archive {
    proxy: Proxy,
    _engine: Engine,
    _folder: Folder,
}

impl Archive {
    async fn start() -> Result<Archive> {
        let folder = Folder::new("late")?;
        let engine = Engine::start(EngineLaunch {
            program: program()?,
            arguments: vec!["clickhouse-engine".to_owned()],
            library: engine::library()?,
            data: folder.path().join("clickhouse"),
            connections: 4,
        })
        .await?;
        let proxy = Proxy::listen()?;
        let url = engine.url();
        let port = url.rsplit(':').next().context("a port")?.trim_end_matches('/').parse()?;
        proxy.forward_to(port);
        Ok(Archive { proxy, _engine: engine, _folder: folder })
    }

    fn goes_away(&self) {
        self.proxy.set(Fault::Refuse);
        self.proxy.cut();
    }

    fn comes_back(&self) {
        self.proxy.set(Fault::None);
    }
}

/// The value of a setting of the system.
fn setting(system: &System, name: &str) -> Result<String> {
    let found = system.settings().iter().find(|(known, _)| known == name);
    Ok(found.context("no such setting")?.1.clone())
}

fn port_of(url: &str) -> Result<u16> {
    let (_, rest) = url.rsplit_once(':').context("no port")?;
    Ok(rest.split('/').next().unwrap_or_default().parse()?)
}

/// Sends an event, and gives its receipt.
async fn send(system: &System, id: &str, time: Option<&str>, tokens: u32) -> Result<String> {
    let mut event = json!({
        "id": id, "type": "llm.tokens.v1", "source": "late", "subject": "late-team",
        "data": { "provider": "openai", "model": "gpt-4-turbo", "inputTokens": tokens, "outputTokens": 0 },
    });
    if let Some(time) = time {
        event["time"] = json!(time);
    }
    let answer = system.ingest()?.send("POST", "/v1/events", &event).await?;
    ensure!(answer.to_string().contains("accepted"), "{answer}");
    let receipt = answer["results"][0]["receipt"].as_str().context("no receipt")?;
    Ok(receipt.to_owned())
}

/// What the api says of a receipt, and where the event stands.
async fn status(system: &System, receipt: &str) -> Result<(String, String)> {
    let event = system.api()?.get(&format!("/v1/events/{receipt}")).await?;
    let text = |name: &str| event[name].as_str().context("no text").map(str::to_owned);
    Ok((text("status")?, text("receipt")?))
}

/// Waits until the counts of the statement, posted so far, are as wanted.
async fn until(system: &System, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let statement = system.api()?.get("/v1/conservation").await?;
        let total = &statement["total"];
        if wanted(total) {
            return Ok(total.clone());
        }
        if Instant::now() > deadline {
            bail!("{what}: {total}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The archive is away while all of the traffic comes again: what is late waits, nothing else does, and
/// nothing is charged twice.
#[tokio::test]
async fn the_archive_is_away_for_a_whole_replay() -> Result<()> {
    let archive = Archive::start().await?;
    let url = format!("http://127.0.0.1:{}", archive.proxy.port());
    let settings = [&SMALL[..], &[("CLICKHOUSE_URL", url.as_str())]].concat();
    let system = System::embedded_with(&settings, &[], &[]).await?;
    system.replay_all("first", &[]).await?;
    check(&system, 0, 0).await?;
    archive.goes_away();
    system.replay_all("again", &[]).await?;
    let waits = |total: &Value| {
        let pending = &total["pending"];
        total["counts"]["accepted"].as_i64() >= Some(2 * EVENTS)
            && *pending == total["pending_forwards"]
    };
    let total = until(&system, "only late events wait", waits).await?;
    ensure!(total["pending"].as_i64() > Some(EVENTS / 2), "few were late: {total}");
    ensure!(total["counts"]["rated"] == EVENTS && total["balanced"] == true, "{total}");
    // What is new goes on meanwhile; no meter counts it.
    let now = domain::time::format(runtime::task::now_us());
    let new =
        json!({"id": "meanwhile", "type": "new", "source": "late", "subject": "a", "time": now});
    system.ingest()?.send("POST", "/v1/events", &new).await?;
    until(&system, "it is posted", |total| total["counts"]["unmetered"] == 1).await?;
    archive.comes_back();
    let counts = system.settled(Some(2 * EVENTS + 1)).await?;
    ensure!(counts["rated"] == EVENTS && counts["unmetered"] == 1, "{counts:?}");
    let repeats = counts["accepted"] - EVENTS - 1;
    ensure!(counts["duplicates"] == repeats && counts["conflicts"] == 0, "{counts:?}");
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await
}

/// While the archive is away, late events wait, are seen to wait, and nothing else does; twins come
/// in both ways meanwhile.
#[tokio::test]
async fn the_archive_is_away() -> Result<()> {
    let archive = Archive::start().await?;
    let url = format!("http://127.0.0.1:{}", archive.proxy.port());
    let settings = [
        ("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"),
        ("WEIR_RATER__RANGE_IDENTITIES", "1"),
        ("WEIR_LOG__PARTITIONS", "1"),
        ("CLICKHOUSE_URL", url.as_str()),
    ];
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    let now = |later_s: i64| domain::time::format(runtime::task::now_us() + later_s * 1_000_000);
    for number in 0..20 {
        send(&system, &format!("old-{number}"), Some(&now(0)), 1_000).await?;
    }
    system.settled(Some(20)).await?;

    archive.goes_away();
    // A duplicate, a conflict, and both again: all of them wait.
    let duplicate = send(&system, "old-3", Some("2023-11-16T00:00:00Z"), 1_000).await?;
    let conflict = send(&system, "old-4", None, 1_001).await?;
    send(&system, "old-3", None, 1_000).await?;
    until(&system, "late", |total| total["pending_forwards"] == 3).await?;
    // Nobody else waits.
    for number in 0..5 {
        send(&system, &format!("new-{number}"), Some(&now(0)), 1_000).await?;
    }
    let total = until(&system, "new", |total| total["counts"]["rated"] == 25).await?;
    ensure!(total["pending_forwards"] == 3 && total["balanced"] == true, "{total}");
    // The rater is restarted without its filters, so that every late event waits.
    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    std::fs::remove_dir_all(system.folder().join("data/rater"))?;
    // It needs the archive to start. Then that goes away; the three that waited may have been answered
    // in between.
    archive.comes_back();
    system.start("up").await?;
    archive.goes_away();
    // Both twins wait; and one waits while its twin comes on the fast path.
    let twins =
        [send(&system, "twins", None, 1_000).await?, send(&system, "twins", None, 1_000).await?];
    send(&system, "one-waits", None, 1_000).await?;
    let waits = |total: &Value| {
        total["counts"]["forwarded"] == 6 && total["pending_forwards"].as_i64() >= Some(3)
    };
    until(&system, "twins", waits).await?;
    // As far in the future as may be: no twin of it can lie below the table, which has not moved since
    // before the restart.
    send(&system, "one-waits", Some(&now(299)), 1_000).await?;
    until(&system, "fast path", |total| total["counts"]["rated"] == 26).await?;
    // A card that is published while they wait holds for what is decided after its marker, like for
    // everything behind it.
    let dimensions = json!({ "provider": "openai", "model": "gpt-4-turbo" });
    let version = json!({ "rates": [
        { "meter": "llm_input_tokens", "dimensions": dimensions, "price": "0.5", "per": 1000 },
        { "meter": "llm_output_tokens", "price": "1" },
    ] });
    system.api()?.send("POST", "/v1/rate-cards/standard/versions", &version).await?;

    archive.comes_back();
    let counts = system.settled(Some(20 + 3 + 5 + 4)).await?;
    println!("{counts:?}");
    ensure!(
        (counts["rated"], counts["duplicates"], counts["conflicts"]) == (27, 4, 1),
        "{counts:?}"
    );
    let charged = system.totals_in_postgres().await?;
    let input = charged.get(&("late-team".to_owned(), "llm_input_tokens".to_owned()));
    let input = input.context("no usage of the team")?;
    ensure!(input.quantity == 27_000 * 1_000_000_000_000, "{input:?}");
    ensure!(system.lines_in_clickhouse().await? == charged, "the archive differs from the books");
    let versions = "SELECT event_id, card_version, toString(charge) AS charge FROM usage_lines \
                    WHERE meter = 'llm_input_tokens' AND (card_version != 1 OR event_id = 'one-waits') \
                    ORDER BY event_id";
    let versions = system.clickhouse().query_json_rows(versions, &[]).await?;
    ensure!(
        versions
            == [
                json!({"event_id": "one-waits", "card_version": 1, "charge": "0.013333333333"}),
                json!({"event_id": "twins", "card_version": 2, "charge": "0.5"}),
            ],
        "{versions:?}"
    );
    // Receipts of late events lead to their copies, and the copies' own to the same.
    let mut of_twins = Vec::new();
    for (receipt, wanted) in [(&duplicate, Some("duplicate")), (&conflict, Some("conflict"))]
        .into_iter()
        .chain(twins.iter().map(|receipt| (receipt, None)))
    {
        let (told, copy) = status(&system, receipt).await?;
        ensure!(copy != *receipt && wanted.is_none_or(|wanted| wanted == told), "{receipt} {told}");
        ensure!(status(&system, &copy).await? == (told.clone(), copy), "{receipt}");
        of_twins.extend(wanted.is_none().then_some(told));
    }
    of_twins.sort();
    ensure!(of_twins == ["duplicate", "rated"], "{of_twins:?}");
    Ok(())
}

/// A client that changes the time when it sends again gets past the table: both count until the sweep takes the second
/// back, whatever is killed meanwhile.
#[tokio::test]
async fn what_another_time_charged_twice_is_taken_back() -> Result<()> {
    let settings = [
        ("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"),
        ("WEIR_RATER__RANGE_IDENTITIES", "1"),
        ("WEIR_LOG__PARTITIONS", "1"),
        ("WEIR_API__SWEEP_EVERY_S", "1"),
    ];
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    let now = |later_s: i64| domain::time::format(runtime::task::now_us() + later_s * 1_000_000);
    let mut first = Vec::new();
    for number in 0..20 {
        first.push(send(&system, &format!("old-{number}"), Some(&now(0)), 1_000).await?);
    }
    system.settled(Some(20)).await?;
    // With a time so far behind the first one's that no range in which that was accepted can hold a twin: two as they
    // were, and one that says something else.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut again = Vec::new();
    for (number, tokens) in [(3, 1_000), (5, 7_000), (7, 1_000)] {
        again.push(send(&system, &format!("old-{number}"), Some(&now(298)), tokens).await?);
    }
    until(&system, "all count", |total| total["counts"]["rated"] == 23).await?;
    system.kill("up")?;
    system.start("up").await?;
    let deadline = Instant::now() + DEADLINE;
    let twins = loop {
        let twins = system.api()?.get("/v1/twins").await?;
        let charged = system.totals_in_postgres().await?;
        let input = charged.get(&("late-team".to_owned(), "llm_input_tokens".to_owned()));
        let is_back = input.is_some_and(|input| input.quantity == 20_000 * 1_000_000_000_000);
        if is_back && system.lines_in_clickhouse().await? == charged {
            break twins;
        }
        ensure!(Instant::now() < deadline, "{twins}: {input:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let found = twins["items"].as_array().context("twins")?.iter();
    let found: Vec<(&str, &str)> = found
        .filter_map(|twin| Some((twin["receipt"].as_str()?, twin["first"].as_str()?)))
        .collect();
    let wanted = [(&again[0], &first[3]), (&again[1], &first[5]), (&again[2], &first[7])];
    let wanted: Vec<(&str, &str)> =
        wanted.iter().map(|(twin, first)| (twin.as_str(), first.as_str())).collect();
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    let path = format!("/v1/events/{}", again[1]);
    let event = system.api()?.get(&path).await?;
    ensure!(event["corrections"].as_array().is_some_and(|all| all.len() == 1), "{event}");
    // Further sweeps find nothing to do.
    system.kill("up")?;
    system.start("up").await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let charged = system.totals_in_postgres().await?;
    let input = charged.get(&("late-team".to_owned(), "llm_input_tokens".to_owned()));
    ensure!(input.is_some_and(|input| input.quantity == 20_000 * 1_000_000_000_000), "{input:?}");
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    system.run("verify", &["verify", "--data", data]).await?;
    Ok(())
}
