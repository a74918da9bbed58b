//! Holds over HTTP, as many as there can be: on one wallet or over several, each of them decided by
//! Postgres. What was granted must be what the wallets have held.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use benches::measure::{Threads, peak_memory_kib, processes, tree, tree_time};
use hdrhistogram::Histogram;
use reqwest::Method;
use runtime::{
    shutdown::Shutdown,
    task::{TaskError, Tasks},
};
use serde_json::{Value, json};

use super::{
    connection::{self, Connection},
    load::{self, THREAD_NAME},
    system::System,
    watch::time_of,
};
use crate::{client::Client, process, store};

/// What a wallet has to begin with.
const FUNDS: &str = "1000000000";
/// What each hold is of.
const AMOUNT: &str = "0.01";
/// How long the threads may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds that were granted.
#[derive(Clone, Debug)]
pub struct Held {
    /// How many.
    pub holds: u64,
    /// From the start to the last answer.
    pub time: Duration,
    /// Microseconds from a request's first byte to its answer.
    pub http_us: Histogram<u64>,
    /// Processor time of Weir.
    pub weir: Duration,
    /// Of Postgres.
    pub postgres: Duration,
    /// Of the threads that ask, which are in this process.
    pub generator: Duration,
    /// Batches in which they were decided.
    pub batches: u64,
    /// Most memory that Weir's process had.
    pub peak_rss_mb: f64,
}

/// What the threads share.
struct Shared {
    wallets: Vec<String>,
    started: Instant,
    duration: Duration,
    next: AtomicU64,
    held: Mutex<(u64, Histogram<u64>)>,
}

/// Buys credits for so many teams, and answers the ids of their wallets.
pub async fn wallets(client: &Client, count: u32) -> Result<Vec<String>> {
    let mut wallets = Vec::new();
    for number in 0..count {
        let team = format!("team-{number}");
        let purchase =
            json!({ "customer_id": team, "amount": FUNDS, "currency": "USD", "reference": team });
        let (path, body) = ("/v1/credits/purchase", serde_json::to_vec(&purchase)?);
        let made = client.send_patiently(Method::POST, path, body, &[]).await?.success(path)?;
        let wallet = made.get("wallet").and_then(Value::as_str).context("no wallet was made")?;
        wallets.push(wallet.to_owned());
    }
    Ok(wallets)
}

/// Asks for holds on the wallets in turn, from so many connections, each with one request at a time.
pub async fn hold(
    system: &System,
    wallets: Vec<String>,
    (connections, duration): (u32, Duration),
    parent: &Shutdown,
) -> Result<Held> {
    let address = system.endpoints.http.trim_start_matches("http://").parse()?;
    let key = system.endpoints.admin_key.clone();
    let heads = connection::heads(address, "/v1/holds", &[key]);
    let shared = Arc::new(Shared {
        wallets,
        started: Instant::now(),
        duration,
        next: AtomicU64::new(0),
        held: Mutex::new((0, load::histogram()?)),
    });
    let postgres = system.server("postgres")?;
    let server = || tree_time(&tree(postgres, &processes()));
    let (weir, database) = (time_of(system.pid()), server());
    let mut threads = Threads::of(std::process::id());
    let mut tasks = Tasks::new(parent);
    for number in 0..connections {
        let (shared, connection) = (Arc::clone(&shared), Connection::new(address, &heads));
        tasks.spawn_thread(format!("{THREAD_NAME}-{number}"), move || {
            shared.run(connection).map_err(TaskError::from)
        })?;
    }
    while shared.started.elapsed() < duration {
        tokio::time::sleep(Duration::from_millis(200)).await;
        threads.sample();
    }
    tasks.drain(PATIENCE).await?;
    let time = shared.started.elapsed();
    let of_generator = threads.times().filter(|(name, _)| name.starts_with(THREAD_NAME));
    let generator = of_generator.map(|(_, time)| time).sum();
    let (holds, http_us) = shared.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (weir, postgres) =
        (time_of(system.pid()).saturating_sub(weir), server().saturating_sub(database));
    let peak_rss_mb = peak_memory_kib(system.pid()).unwrap_or_default() as f64 / 1024.0;
    let url = runtime::config::Secret::new(system.endpoints.postgres.clone());
    let (found, batches, equal) = store::books::held(&mut process::sign_in(&url).await?).await?;
    ensure!(equal, "the wallets have not held what the holds are of");
    ensure!(found == i64::try_from(holds)?, "{holds} holds were granted, {found} are in the books");
    let batches = batches.unsigned_abs();
    Ok(Held { holds, time, http_us, weir, postgres, generator, batches, peak_rss_mb })
}

impl Shared {
    /// One connection's thread: the next hold, until the time is over.
    fn run(&self, mut connection: Connection) -> Result<()> {
        let (mut holds, mut http_us) = (0, load::histogram()?);
        while self.started.elapsed() < self.duration {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let place = usize::try_from(number)? % self.wallets.len().max(1);
            let wallet = self.wallets.get(place).context("a wallet")?;
            connection.prepare(0, |body| {
                body.extend_from_slice(b"{\"wallet\":\"");
                body.extend_from_slice(wallet.as_bytes());
                body.extend_from_slice(b"\",\"amount\":\"");
                body.extend_from_slice(AMOUNT.as_bytes());
                body.extend_from_slice(b"\"}");
            });
            let sent = Instant::now();
            let answer = connection.send()?;
            let text = || String::from_utf8_lossy(connection.body(&answer)).into_owned();
            ensure!(answer.status == 201, "a hold was answered {}: {}", answer.status, text());
            http_us.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
            holds += 1;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 += holds;
        held.1.add(&http_us)?;
        Ok(())
    }
}
