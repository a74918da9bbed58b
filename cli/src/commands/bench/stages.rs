//! `weir bench rate` and the others of one stage alone, by processor time.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use benches::{account::Account, generator::Generator};
use bytes::Bytes;
use runtime::{shutdown::Shutdown, task::now_us};
use serde_json::json;

use super::LoadArguments;
use crate::{
    bench::{
        archive::Archive,
        blocks::Desk,
        database,
        hold::{hold as place_holds, wallets},
        ingest::{Packing, Taken, take},
        load::Plan,
        post::Ledger,
        preview::previews,
        rate::{More, check, one_by_one, rate as rate_blocks},
        system::System,
    },
    output::sayln,
    process,
};

/// What `weir bench rate` is started with.
#[derive(Debug, clap::Args)]
pub struct RateArguments {
    /// Events
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: u64,
    #[command(flatten)]
    load: LoadArguments,
    /// Requests of one block of the log
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=100))]
    requests: u64,
    /// Meters that the catalog has besides, of other types of events
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000))]
    more_meters: u32,
    /// Prices that the catalog has besides, of other models
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    more_rates: u32,
    /// Prices by the heaviest model: tiers by a running total, an allowance, a maximum, a unit that is converted
    #[arg(long)]
    tiers: bool,
    /// Identities that have left the table, which all events are too old for
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=200_000_000))]
    behind: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Events that are also previewed, at most.
const PREVIEWS: u64 = 10_000;

/// Runs it; the sums of both ways must be the account's, and so must each preview.
pub fn rate(arguments: &RateArguments) -> Result<ExitCode> {
    let now_us = now_us();
    let generator = arguments.load.generator(1, now_us)?;
    let (events, sizes) = (arguments.events, (arguments.load.batch, arguments.requests));
    let account = Account::of(&generator, events);
    let blocks = Desk::new(now_us)?.blocks(&generator, 0..events, sizes, now_us)?;
    let more =
        More { meters: arguments.more_meters, rates: arguments.more_rates, tiers: arguments.tiers };
    let rated = rate_blocks(&blocks.messages, more, arguments.behind, now_us)?;
    check(&rated.messages, &account, arguments.tiers)?;
    let previews = previews(&generator, events.min(PREVIEWS), &more.catalog()?, now_us)?;
    let nearly_all = previews.len().saturating_sub(1).saturating_mul(99) / 100;
    let preview = previews.get(nearly_all).copied().unwrap_or_default();
    let (plain, books) = one_by_one(&generator, events, arguments.load.batch)?;
    let difference = account.first_difference(&books);
    ensure!(difference.is_none(), "the sums of the plain loop are wrong: {difference:?}");
    let bytes = |messages: &[bytes::Bytes]| {
        messages.iter().map(bytes::Bytes::len).sum::<usize>() as f64 / events.max(1) as f64
    };
    let lines = [
        ("parse", each(blocks.parsing, events)),
        ("pack", each(blocks.packing, events)),
        ("open", each(rated.opening, events)),
        ("rate", each(rated.rating, events)),
        ("cut", each(rated.cutting, events)),
        ("rater", each(rated.total(), events)),
        ("one_by_one", each(plain, events)),
    ];
    if arguments.json {
        let mut us: serde_json::Map<String, serde_json::Value> =
            lines.iter().map(|(name, us)| ((*name).to_owned(), json!(us))).collect();
        us.insert("preview_p99".to_owned(), json!(each(preview, 1)));
        sayln!(
            "{:#}",
            json!({ "events": events, "us_per_event": us, "usage_bytes_per_event": bytes(&blocks.messages), "rated_bytes_per_event": bytes(&rated.messages), "oracle": "ok" })
        );
    } else {
        for (name, us) in lines {
            sayln!("{name:<12}{us:>8.3} µs of processor time per event");
        }
        sayln!("preview     {:>8.3} µs by the clock, p99", each(preview, 1));
        sayln!(
            "{:.0} bytes per event in [usage], {:.0} in [rated]; the sums are right",
            bytes(&blocks.messages),
            bytes(&rated.messages)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What `weir bench ingest` is started with.
#[derive(Debug, clap::Args)]
pub struct IngestArguments {
    /// Events
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: u64,
    #[command(flatten)]
    load: LoadArguments,
    /// Connections that send, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: u32,
    /// Partitions of the log; by default as many as `weir up` takes
    #[arg(long)]
    partitions: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Takes the events into a log, twice: packed as configured, and request by request.
pub async fn ingest(arguments: &IngestArguments) -> Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let generator = arguments.load.generator(1, now_us())?;
    let system = System::start(None, Some(1)).await?;
    let partitions = arguments.partitions.unwrap_or_else(process::new_local_partitions);
    let config = database::make(&system.endpoints.postgres, partitions).await?;
    let plan = Plan {
        generator,
        events: arguments.events,
        batch: arguments.load.batch,
        rate: None,
        duration: None,
        connections: arguments.connections,
    };
    let folder = |name| system.folder().join(name);
    let run =
        async |name, packing| take(&config, &folder(name), packing, plan.clone(), &shutdown).await;
    let shared = run("bench-shared", Packing::Shared).await?;
    let single = run("bench-single", Packing::Single).await?;
    system.stop().await?;
    let per_s = |taken: &Taken| taken.sent.events as f64 / taken.sent.time.as_secs_f64();
    let p99 = |taken: &Taken| taken.sent.http_us.value_at_quantile(0.99) as f64 / 1e3;
    print(
        arguments.json,
        &[
            ("us_per_event", each(shared.time, shared.sent.events)),
            ("us_per_event.single", each(single.time, single.sent.events)),
            ("events_per_s", per_s(&shared)),
            ("events_per_s.single", per_s(&single)),
            ("http_p99_ms", p99(&shared)),
            ("http_p99_ms.single", p99(&single)),
            ("messages", shared.messages as f64),
            ("messages.single", single.messages as f64),
        ],
    );
    Ok(ExitCode::SUCCESS)
}

/// What `weir bench post` is started with.
#[derive(Debug, clap::Args)]
pub struct PostArguments {
    #[command(flatten)]
    batches: BatchArguments,
    /// Rated batches of one window
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
}

/// What `weir bench archive` is started with.
#[derive(Debug, clap::Args)]
pub struct ArchiveArguments {
    #[command(flatten)]
    batches: BatchArguments,
    /// Rows of one insert, about
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
}

/// The rated batches that a stage begins with.
#[derive(Debug, clap::Args)]
struct BatchArguments {
    /// Events; 10,000 are a rated batch
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: u64,
    #[command(flatten)]
    load: LoadArguments,
    /// Events that are also taken one by one
    #[arg(long, default_value_t = 20_000)]
    one_by_one: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Requests of one block: 400 events, of which 25 blocks are a batch.
const REQUESTS: u64 = 4;

impl BatchArguments {
    /// The batches, what they must come to, and what made their events.
    fn batches(&self) -> Result<(Vec<Bytes>, Account, Generator)> {
        let now_us = now_us();
        let generator = self.load.generator(1, now_us)?;
        let sizes = (self.load.batch, REQUESTS);
        let blocks = Desk::new(now_us)?.blocks(&generator, 0..self.events, sizes, now_us)?;
        let rated = rate_blocks(&blocks.messages, More::default(), 0, now_us)?;
        Ok((rated.messages, Account::of(&generator, self.events), generator))
    }
}

/// Prints figures with their names.
fn print(json: bool, figures: &[(&str, f64)]) {
    if json {
        let mut all: serde_json::Map<String, serde_json::Value> =
            figures.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
        all.insert("oracle".to_owned(), json!("ok"));
        sayln!("{:#}", serde_json::Value::Object(all));
    } else {
        figures.iter().for_each(|(name, figure)| sayln!("{name:<24}{figure:>12.2}"));
        sayln!("the sums are right");
    }
}

/// Microseconds of each of so many.
fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// Posts into a database beside that of a fresh `weir up`.
pub async fn post(arguments: &PostArguments) -> Result<ExitCode> {
    let (messages, account, generator) = arguments.batches.batches()?;
    let system = System::start(None, Some(1)).await?;
    let mut ledger = Ledger::make(&system.endpoints.postgres, system.server("postgres")?).await?;
    let posted = ledger.post(&messages, usize::from(arguments.window), &account).await?;
    let plain = ledger.one_by_one(&generator, arguments.batches.one_by_one).await?;
    drop(ledger);
    system.stop().await?;
    let events = arguments.batches.events;
    print(
        arguments.batches.json,
        &[
            ("us_per_total", each(posted.used.total(), posted.totals)),
            ("us_per_total.postgres", each(posted.used.server, posted.totals)),
            ("us_per_event", each(posted.used.total(), events)),
            ("us_per_event.one_by_one", each(plain.used.total(), arguments.batches.one_by_one)),
            ("totals", posted.totals as f64),
            ("windows", posted.windows as f64),
        ],
    );
    Ok(ExitCode::SUCCESS)
}

/// Archives into a database beside that of a fresh `weir up`.
pub async fn archive(arguments: &ArchiveArguments) -> Result<ExitCode> {
    let (messages, account, generator) = arguments.batches.batches()?;
    let system = System::start(None, Some(1)).await?;
    let archive = Archive::make(&system.clickhouse, system.server("clickhouse")?).await?;
    let archived = archive.archive(&messages, arguments.rows, &account).await?;
    let plain = archive.one_by_one(&generator, arguments.batches.one_by_one).await?;
    system.stop().await?;
    print(
        arguments.batches.json,
        &[
            ("us_per_row", each(archived.used.total(), archived.rows)),
            ("us_per_row.clickhouse", each(archived.used.server, archived.rows)),
            ("us_per_row.one_by_one", each(plain.used.total(), plain.rows)),
            ("rows", archived.rows as f64),
            ("inserts", archived.inserts as f64),
        ],
    );
    Ok(ExitCode::SUCCESS)
}

/// What `weir bench hold` is started with.
#[derive(Debug, clap::Args)]
pub struct HoldArguments {
    /// Seconds of load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    seconds: u16,
    /// Wallets, which are held on in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    wallets: u32,
    /// Connections that ask, each with one request at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=2_048))]
    connections: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks a fresh system for holds.
pub async fn hold(arguments: &HoldArguments) -> Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let system = System::start(None, None).await?;
    let ids = wallets(&system.client()?, arguments.wallets).await?;
    let load = (arguments.connections, Duration::from_secs(arguments.seconds.into()));
    let held = place_holds(&system, ids, load, &shutdown).await?;
    system.stop().await?;
    let ms = |quantile| held.http_us.value_at_quantile(quantile) as f64 / 1e3;
    let used = held.weir + held.postgres;
    let figures = [
        ("per_s", held.holds as f64 / held.time.as_secs_f64()),
        ("ms.p50", ms(0.5)),
        ("ms.p99", ms(0.99)),
        ("cpu_us", each(used, held.holds)),
        ("cpu_us.weir", each(held.weir, held.holds)),
        ("cpu_us.postgres", each(held.postgres, held.holds)),
        ("cpu_us.generator", each(held.generator, held.holds)),
        ("holds_per_batch", held.holds as f64 / held.batches.max(1) as f64),
        ("peak_rss_mb", held.peak_rss_mb),
    ];
    print(arguments.json, &figures);
    Ok(ExitCode::SUCCESS)
}
