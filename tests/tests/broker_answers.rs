//! Kafka behind a proxy that swallows its answers, holds requests back and cuts connections, with
//! two raters and two ledger-writers, and the same sums every time.
//!
//! WEIR_DROPS sets the rounds (3), WEIR_SEED repeats their moments.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use benches::spread::Spread;
use tests::{
    broker::Broker,
    oracle::{self, CHARGE},
    process::Process,
    proxy::{Fault, Proxy},
    seed::{Moments, number},
    system::{System, finished},
};

/// Events of both traces.
const EVENTS: i64 = 28_185;
/// An append without an answer is unknown after 2.5 s, which is shorter than most silences below. A
/// member without a word is out after 6 s, so that an owner lives to learn that its append is unknown;
/// the longest silences take it its partitions.
const PROPERTIES: &str = r#"{"session.timeout.ms" = "6000", "message.timeout.ms" = "2500"}"#;
/// Rounds after which a batch must have been ignored; the first usually does it.
const ROUNDS_MAX: u64 = 10;
/// When requests arrive that were given up: after the raters have gone on without them.
const LATE: Duration = Duration::from_millis(2_500);
/// Events accepted between two faults, at least.
const EVENTS_BETWEEN: u64 = 500;
/// Rated batches between two faults, at least.
const BATCHES_BETWEEN: u64 = 10;
/// How long it may take until they are, on a busy machine.
const FLOW_TIME_MAX: Duration = Duration::from_secs(60);
const CONSUMERS: [&str; 4] = ["rater", "rater.2", "ledger-writer", "ledger-writer.2"];

/// The traces, sent over and over with the same ids.
struct Traffic {
    running: Process,
    replays: u32,
}

impl Traffic {
    fn start(system: &System) -> Result<Self> {
        Ok(Self { running: system.replay("replay-0", &["--batch", "50"])?, replays: 0 })
    }

    /// Lets it flow for a while.
    async fn flow(&mut self, system: &System, time: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            if !self.running.is_running()? {
                self.end().await?;
                self.replays += 1;
                let name = format!("replay-{}", self.replays);
                self.running = system.replay(&name, &["--batch", "50"])?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        let output = finished(&mut self.running).await?;
        println!("replay {}: {}", self.replays, output.trim());
        Ok(())
    }
}

/// What the roles say of appends whose outcome nobody told them, and of what came of it.
#[derive(Debug, Default)]
struct Bites {
    /// Blocks that ingest cannot tell the fate of.
    unknown_blocks: u64,
    /// Times that a rater gave up what it had not seen accepted.
    discards: u64,
    /// Batches that a rater saw not to continue the chain.
    ignored_by_raters: u64,
    /// Batches that a ledger-writer saw not to continue the chain.
    ignored_by_writers: u64,
}

async fn bites(system: &mut System) -> Result<Bites> {
    let mut bites = Bites::default();
    for name in ["ingest"].iter().chain(&CONSUMERS) {
        let metrics = metrics(system, name).await?;
        bites.unknown_blocks += sum(&metrics, "weir_ingest_blocks_answered_total", "\"unknown\"");
        bites.discards += sum(&metrics, "weir_rater_discards_total", "");
        bites.ignored_by_raters += sum(&metrics, "weir_rater_ignored_total", "");
        bites.ignored_by_writers += sum(&metrics, "weir_ledger_writer_batches_ignored_total", "");
    }
    Ok(bites)
}

async fn metrics(system: &mut System, name: &str) -> Result<String> {
    let base = system.process(name)?.address().await?;
    let answer = reqwest::get(format!("{base}/metrics")).await?.error_for_status()?;
    Ok(answer.text().await?)
}

/// A counter, over all labels that contain `label`.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Waits until events are accepted and rated again, so that a fault meets blocks and batches on
/// their way.
async fn flow_again(traffic: &mut Traffic, system: &mut System) -> Result<()> {
    let began = Instant::now();
    let (accepted, batches) = progress(system).await?;
    loop {
        let (accepted_now, batches_now) = progress(system).await?;
        if accepted_now >= accepted + EVENTS_BETWEEN && batches_now >= batches + BATCHES_BETWEEN {
            break;
        }
        traffic.flow(system, Duration::from_millis(50)).await?;
        ensure!(
            began.elapsed() < FLOW_TIME_MAX,
            "{} events are accepted, {} batches rated since",
            accepted_now - accepted,
            batches_now - batches
        );
    }
    println!("events are accepted and rated after {:?}", began.elapsed());
    Ok(())
}

/// Events accepted by ingest, and batches of the raters accepted by the log.
async fn progress(system: &mut System) -> Result<(u64, u64)> {
    let accepted = sum(&metrics(system, "ingest").await?, "weir_ingest_events_accepted_total", "");
    let mut batches = 0;
    for rater in ["rater", "rater.2"] {
        batches += sum(&metrics(system, rater).await?, "weir_rater_batches_total", "");
    }
    Ok((accepted, batches))
}

/// Requests arrive and are not answered; then everything is cut and nothing can connect, and at
/// last everything is slow.
async fn drop_answers(
    proxy: &Proxy,
    moments: &mut Moments,
    traffic: &mut Traffic,
    system: &System,
) -> Result<()> {
    let (before, silence) = (proxy.counts(), moments.between(1_000, 8_000));
    proxy.set(Fault::DropAnswers);
    traffic.flow(system, silence).await?;
    proxy.set(Fault::Refuse);
    proxy.cut();
    traffic.flow(system, moments.between(100, 600)).await?;
    proxy.set(Fault::Delay(moments.between(1, 20)));
    traffic.flow(system, Duration::from_millis(500)).await?;
    proxy.set(Fault::None);
    let did = proxy.counts().since(before);
    println!("answers dropped for {silence:?}: {did:?}");
    ensure!(did.dropped_bytes > 0 && did.unanswered_bytes > 0, "no answer was dropped: {did:?}");
    ensure!(did.cut > 0 && did.refused > 0 && did.delayed > 0, "the fault did not bite: {did:?}");
    Ok(())
}

/// Requests are held until they are given up, and arrive when their senders have gone on.
async fn deliver_late(
    proxy: &Proxy,
    moments: &mut Moments,
    traffic: &mut Traffic,
    system: &System,
) -> Result<()> {
    let (before, silence) = (proxy.counts(), moments.between(2_700, 3_500));
    proxy.set(Fault::HoldRequests);
    traffic.flow(system, silence).await?;
    proxy.cut_and_deliver(LATE);
    proxy.set(Fault::None);
    traffic.flow(system, LATE + Duration::from_millis(500)).await?;
    let did = proxy.counts().since(before);
    println!("requests held for {silence:?}: {did:?}");
    ensure!(did.late_bytes > 0, "no request arrived late: {did:?}");
    Ok(())
}

#[tokio::test]
async fn answers_of_the_broker_are_dropped() -> Result<()> {
    let rounds = number("WEIR_DROPS").unwrap_or(3);
    let mut moments = Moments::new("broker answers");
    let began = Instant::now();
    let proxy = Proxy::listen()?;
    let broker = Broker::start_behind(&proxy)?;
    let further = [("WEIR_LOG__KAFKA__PROPERTIES", PROPERTIES)];
    let mut system = System::kafka_with(&broker, 8, &further).await?;
    system.start("rater.2").await?;
    system.start("ledger-writer.2").await?;
    println!("ready after {:?}", began.elapsed());
    let mut traffic = Traffic::start(&system)?;
    let mut round = 0;
    let found = loop {
        flow_again(&mut traffic, &mut system).await?;
        traffic.flow(&system, moments.between(1, 500)).await?;
        drop_answers(&proxy, &mut moments, &mut traffic, &system).await?;
        flow_again(&mut traffic, &mut system).await?;
        traffic.flow(&system, moments.between(1, 500)).await?;
        deliver_late(&proxy, &mut moments, &mut traffic, &system).await?;
        round += 1;
        let found = bites(&mut system).await?;
        println!("round {round}: {found:?}");
        if round >= rounds && found.ignored_by_writers > 0 {
            break found;
        }
        ensure!(round < rounds.max(ROUNDS_MAX), "nothing that came late was ignored: {found:?}");
    };
    ensure!(found.unknown_blocks > 0 && found.discards > 0, "no append was unknown: {found:?}");
    traffic.end().await?;
    println!("sent after {:?}", began.elapsed());
    check(&mut system).await
}

/// Everything has healed by itself, and every row took effect once.
async fn check(system: &mut System) -> Result<()> {
    let began = Instant::now();
    let counts = system.settled(None).await?;
    println!("settled after {:?}: {counts:?}", began.elapsed());
    for name in CONSUMERS.iter().chain(&["ingest", "archiver", "api"]) {
        let process = system.process(name)?;
        ensure!(process.is_running()?, "{name} ended:\n{}", process.log_tail());
    }
    let expected = BTreeMap::from([("rated", EVENTS), ("conflicts", 0), ("rejected", 0)]);
    for (name, number) in expected {
        ensure!(counts[name] == number, "{name} is not {number}: {counts:?}");
    }
    ensure!(counts["lost"] == 0, "{counts:?}");
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await
}
