//! `weir bench pipeline`: events through a whole fresh system, what they cost, and whether the
//! books are right afterwards. A speed whose sums are wrong is not printed.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use benches::{
    account::Account,
    generator::{Generator, Load},
};
use runtime::{shutdown::Shutdown, task::now_us};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    bench::{
        books::Stores,
        connection::{self, Connection},
        load::{self, Plan, Sent},
        probe::{Freshness, Probes},
        report::{Report, Setting},
        system::System,
        tenants,
        watch::{Pids, Used, Watch},
    },
    output::{note, sayln},
    process,
};

mod bars;
mod stages;

/// How often threads are looked at; those that end leave nothing behind. A look takes some 10 ms of
/// processor time itself.
const SAMPLE: Duration = Duration::from_secs(1);
/// Events of a run with a time and no number.
const EVENTS_UNLIMITED: u64 = u64::MAX / 2;
const EVENTS_DEFAULT: u64 = 1_000_000;
/// Event times lie in this past, so that none is ahead of the clock.
const PAST_US: i64 = 120_000_000;

/// What `weir bench` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// From the request until everything is posted and archived, in a fresh `weir up`
    Pipeline(PipelineArguments),
    /// Ingest alone, over HTTP into a local log, beside a message of the log for each request
    Ingest(stages::IngestArguments),
    /// Parsing, packing and rating alone, in one thread and in memory, beside a plain loop
    Rate(stages::RateArguments),
    /// Posting alone, into the Postgres of a fresh `weir up`, beside a row per line of an event
    Post(stages::PostArguments),
    /// All of these, and what each bar asks for
    Bars(bars::BarsArguments),
    /// Archiving alone, into the engine of a fresh `weir up`, beside text inserts
    Archive(stages::ArchiveArguments),
    /// Holds over HTTP on a fresh `weir up`, on one wallet or over several
    Hold(stages::HoldArguments),
}

/// What the events of a bench are.
#[derive(Debug, clap::Args)]
pub struct LoadArguments {
    /// Events of one request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Teams that report usage
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    teams: u32,
    /// How uneven: the weight of team n is 1 / n^skew
    #[arg(long, default_value_t = 1.0)]
    skew: f64,
    /// Share of events that repeat an earlier one
    #[arg(long, default_value_t = 0.02)]
    duplicates: f64,
    /// Share of events that the rater rejects
    #[arg(long, default_value_t = 0.001)]
    rejected: f64,
    /// Share of events that are two hours late
    #[arg(long, default_value_t = 0.01)]
    late: f64,
    /// Another seed, other events
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl LoadArguments {
    /// What makes the events. Their times lie before `now_us`, so that none is ahead of the clock.
    fn generator(&self, tenants: u32, now_us: i64) -> Result<Generator> {
        let shares = [self.duplicates, self.rejected, self.duplicates + self.rejected];
        ensure!(
            shares.iter().all(|share| (0.0..1.0).contains(share)),
            "--duplicates and --rejected are shares, below 1 together"
        );
        ensure!((0.0..1.0).contains(&self.late), "--late is a share, below 1");
        ensure!((0.0..=10.0).contains(&self.skew), "--skew is between 0 and 10");
        Ok(Generator::new(&Load {
            seed: self.seed,
            teams: self.teams,
            tenants,
            batch: self.batch,
            skew: self.skew,
            duplicates: self.duplicates,
            rejected: self.rejected,
            late: self.late,
            start_us: now_us - PAST_US,
        }))
    }
}

/// What `weir bench pipeline` is started with.
#[derive(Debug, clap::Args)]
pub struct PipelineArguments {
    /// Events to send; 1,000,000 if no --seconds are given either
    #[arg(long)]
    events: Option<u64>,
    /// Seconds to send for
    #[arg(long)]
    seconds: Option<u64>,
    /// Events per second to send, instead of as many as can be
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    #[command(flatten)]
    load: LoadArguments,
    /// Connections that send, each with one request at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: u32,
    /// Tenants that share the teams; each sends requests of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tenants: u32,
    /// Partitions of the log; by default as many as `weir up` takes
    #[arg(long)]
    partitions: Option<u32>,
    /// Empty folder for the data, which are kept; by default a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Process of a broker that is named by WEIR_KAFKA_BROKERS, to count its processor time
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Process of a Postgres that is named by DATABASE_URL
    #[arg(long, value_name = "PID")]
    postgres_pid: Option<u32>,
    /// Process of a ClickHouse that is named by CLICKHOUSE_URL
    #[arg(long, value_name = "PID")]
    clickhouse_pid: Option<u32>,
}

/// Runs it; exits with 1 if the books are wrong.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        note("this is a debug build: its speed says nothing; use `cargo run --release`");
    }
    match arguments.bench {
        Bench::Pipeline(arguments) => run_pipeline(arguments),
        Bench::Ingest(arguments) => process::block_on("bench", stages::ingest(&arguments)),
        Bench::Rate(arguments) => stages::rate(&arguments),
        Bench::Bars(arguments) => bars::bars(&arguments),
        Bench::Post(arguments) => process::block_on("bench", stages::post(&arguments)),
        Bench::Archive(arguments) => process::block_on("bench", stages::archive(&arguments)),
        Bench::Hold(arguments) => process::block_on("bench", stages::hold(&arguments)),
    }
}

fn run_pipeline(arguments: PipelineArguments) -> Result<ExitCode> {
    let tenants = arguments.tenants;
    ensure!(tenants <= arguments.load.teams, "each of --tenants has one of --teams at least");
    let generator = arguments.load.generator(tenants, now_us())?;
    process::block_on("bench", async {
        let shutdown = Shutdown::on_signals()?;
        let system = System::start(arguments.data.as_deref(), arguments.partitions).await?;
        let ran = tokio::select! {
            ran = pipeline(&arguments, &generator, &system, &shutdown) => ran,
            () = stopped(&shutdown) => Err(anyhow::anyhow!("stopped before the end")),
        };
        let ran = ran.map_err(|error| match shutdown.failure() {
            Some(failure) => anyhow::anyhow!(failure),
            None => error,
        });
        let log = system.log_tail();
        let ran = match log.is_empty() {
            true => ran,
            false => ran.with_context(|| format!("the log of `weir up` ends with:\n{log}\n")),
        };
        system.stop().await?;
        ran
    })
}

/// A stop by signal. One by a failed task is left to whoever waits for the task.
async fn stopped(shutdown: &Shutdown) {
    shutdown.cancelled().await;
    if shutdown.failure().is_some() {
        sleep(Duration::from_secs(5)).await;
    }
}

async fn pipeline(
    arguments: &PipelineArguments,
    generator: &Generator,
    system: &System,
    shutdown: &Shutdown,
) -> Result<ExitCode> {
    let setting = Setting::new(&system.engines, system.folder());
    if setting.file_system == "tmpfs" {
        note("the data are in memory (tmpfs): nothing is durable there; give --data on a disk");
    }
    let clients = tenants::make(system, arguments.tenants).await?;
    let mut stores = system.stores(clients).await?;
    let measured = measure(arguments, system, generator, &mut stores, shutdown).await?;
    let mut account = Account::of(generator, measured.sent.events);
    measured.freshness.add_to(&mut account);
    if let Some(difference) = stores.first_difference(&account, &measured.sent).await? {
        if arguments.json {
            sayln!("{}", json!({ "oracle": difference }));
        }
        bail!("the books are wrong, so no speed is printed: {difference}");
    }
    let report =
        Report::new(&measured.sent, &measured.freshness, &measured.used, measured.time, setting);
    if arguments.json {
        sayln!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let setting = &report.setting;
        sayln!("{}", report.table());
        sayln!(
            "{} build, beside sources of {}, on {} ({}, {})",
            setting.build,
            setting.commit,
            setting.machine,
            setting.engines,
            setting.file_system
        );
        sayln!("{}", setting.command);
    }
    Ok(ExitCode::SUCCESS)
}

/// What a run gave.
struct Measured {
    sent: Sent,
    freshness: Freshness,
    used: Used,
    time: Duration,
}

/// Sends the load and waits until it is posted and archived, watching all the time.
async fn measure(
    arguments: &PipelineArguments,
    system: &System,
    generator: &Generator,
    stores: &mut Stores,
    shutdown: &Shutdown,
) -> Result<Measured> {
    let address: SocketAddr = system
        .endpoints
        .http
        .trim_start_matches("http://")
        .parse()
        .context("the address of `weir up`")?;
    let client = system.client()?;
    let heads = connection::heads(address, "/v1/events", &stores.keys());
    let mut pids = Pids::of(system.pid());
    pids.add("broker", arguments.broker_pid);
    pids.add("postgres", arguments.postgres_pid);
    pids.add("clickhouse", arguments.clickhouse_pid);
    let plan = Plan {
        generator: generator.clone(),
        events: arguments.events.unwrap_or(if arguments.seconds.is_some() {
            EVENTS_UNLIMITED
        } else {
            EVENTS_DEFAULT
        }),
        batch: arguments.load.batch,
        rate: arguments.rate,
        duration: arguments.seconds.map(Duration::from_secs),
        connections: arguments.connections,
    };
    let mut watch = Watch::start(&pids);
    let started = Instant::now();
    let run = async {
        let probes = Probes::start(&client, shutdown)?;
        let sent = load::send(plan, || Connection::new(address, &heads), shutdown).await?;
        let freshness = probes.finish().await?;
        stores.settled(&sent, freshness.sent()).await?;
        Ok::<_, anyhow::Error>((sent, freshness, started.elapsed()))
    };
    tokio::pin!(run);
    loop {
        tokio::select! {
            ran = &mut run => {
                let (sent, freshness, time) = ran?;
                return Ok(Measured { sent, freshness, used: watch.finish(), time });
            }
            () = sleep(SAMPLE) => watch.sample(),
        }
    }
}
