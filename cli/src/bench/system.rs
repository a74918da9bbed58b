//! The system under load: a fresh `weir up` of this same binary, stopped and removed afterwards.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use benches::account::{CURRENCY, INPUT_METER, MODELS, OUTPUT_METER, Price};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::{
    clickhouse::ClickHouse,
    config::{ClickHouseConfig, Secret, variable},
    task::now_us,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{books::Stores, watch::Pids};
use crate::{client::Client, config::Config, endpoints::Endpoints, process, store};

const START_TIME_MAX: Duration = Duration::from_secs(180);
const STOP_TIME_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
const LOG_LINES_SHOWN: usize = 20;

/// A running `weir up`. Dropping it kills it.
#[derive(Debug)]
pub struct System {
    child: Child,
    folder: PathBuf,
    /// Removed in the end: what nobody asked to keep.
    temporary: bool,
    /// Where it answers.
    pub endpoints: Endpoints,
    /// Databases made on servers of others.
    borrowed: Borrowed,
    /// How to reach its ClickHouse.
    pub clickhouse: ClickHouseConfig,
    /// What stores events: `local log, private Postgres, …`.
    pub engines: String,
}

/// What is fresh on servers that are not ours: a database each, and topics with a prefix.
#[derive(Debug, Default)]
struct Borrowed {
    postgres: Option<String>,
    clickhouse: Option<String>,
    settings: Vec<(&'static str, String)>,
}

impl System {
    /// Starts it, in `folder` or one that is removed again, and waits until it is ready.
    pub async fn start(folder: Option<&Path>, partitions: Option<u32>) -> Result<Self> {
        let id = format!("weir_bench_{}_{}", std::process::id(), now_us() / 1_000);
        let path = folder.map_or_else(|| std::env::temp_dir().join(&id), Path::to_owned);
        ensure!(
            !path.join("endpoints.json").exists() && !path.join("log").exists(),
            "{} holds a Weir already; a bench begins with a fresh one",
            path.display()
        );
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let path = path.canonicalize()?;
        let mut config = Config::read(None)?;
        let borrowed = Borrowed::take(&config, &id).await?;
        let log = path.join("weir.log");
        let mut command =
            Command::new(std::env::current_exe().context("cannot find our own program")?);
        command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(&path);
        command.envs(partitions.map(|number| ("WEIR_LOG__PARTITIONS", number.to_string())));
        command.envs(borrowed.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("cannot start `weir up`")?;
        let endpoints = ready(&mut child, &path).await;
        if endpoints.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            if folder.is_none() {
                let _ = fs::remove_dir_all(&path);
            }
        }
        let endpoints = endpoints?;
        config.clickhouse.url.clone_from(&endpoints.clickhouse);
        if let Some(database) = &borrowed.clickhouse {
            config.clickhouse.database.clone_from(database);
        }
        let engines = engines(&endpoints, &borrowed);
        let temporary = folder.is_none();
        Ok(Self {
            child,
            folder: path,
            temporary,
            endpoints,
            borrowed,
            clickhouse: config.clickhouse,
            engines,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process of a server that it brought along.
    pub fn server(&self, name: &str) -> Result<u32> {
        let pids = Pids::of(self.pid());
        let server = pids.trees.iter().find(|(known, _)| *known == name).map(|(_, pid)| *pid);
        server.with_context(|| format!("`weir up` has no {name} of its own here"))
    }

    /// Where its data are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client with the admin key.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.endpoints.http, &self.endpoints.admin_key)
    }

    /// Its books, read by a client of each tenant.
    pub async fn stores(&self, clients: Vec<Client>) -> Result<Stores> {
        Ok(Stores {
            postgres: process::sign_in(&Secret::new(self.endpoints.postgres.clone())).await?,
            clickhouse: ClickHouse::new(&self.clickhouse),
            clients,
        })
    }

    /// Stops it and removes what nobody asked to keep.
    pub async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_TIME_MAX;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "`weir up` did not stop within {} s",
                STOP_TIME_MAX.as_secs()
            );
            sleep(POLL).await;
        }
        if self.temporary {
            if let Some(name) = &self.borrowed.postgres
                && let Some(url) = variable("DATABASE_URL")
            {
                let mut connection = process::sign_in(&Secret::new(url)).await?;
                store::books::drop_database(&mut connection, name).await?;
            }
            if let Some(name) = &self.borrowed.clickhouse {
                let config =
                    ClickHouseConfig { database: "default".to_owned(), ..self.clickhouse.clone() };
                store::books::drop_archive(&ClickHouse::new(&config), name).await?;
            }
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.folder)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Borrowed {
    /// Makes what the environment's servers need for a fresh system.
    async fn take(config: &Config, id: &str) -> Result<Self> {
        let mut borrowed = Self::default();
        if !config.log.kafka.brokers.is_empty() {
            borrowed.settings.push(("WEIR_LOG__KAFKA__PREFIX", id.replace('_', "-")));
        }
        if let Some(url) = variable("DATABASE_URL") {
            let mut connection = process::sign_in(&Secret::new(url.clone())).await?;
            store::books::create_database(&mut connection, id).await?;
            borrowed.settings.push(("DATABASE_URL", with_database(&url, id)?));
            borrowed.postgres = Some(id.to_owned());
        }
        if !config.clickhouse.url.is_empty() {
            borrowed.settings.push(("WEIR_CLICKHOUSE__DATABASE", id.to_owned()));
            borrowed.clickhouse = Some(id.to_owned());
        }
        Ok(borrowed)
    }
}

/// The URL with another database.
pub fn with_database(url: &str, name: &str) -> Result<String> {
    let mut url = reqwest::Url::parse(url).context("DATABASE_URL is no URL")?;
    url.set_path(name);
    Ok(url.into())
}

fn engines(endpoints: &Endpoints, borrowed: &Borrowed) -> String {
    let log = if endpoints.kafka.is_some() { "Kafka" } else { "local log" };
    let postgres = if borrowed.postgres.is_some() { "Postgres server" } else { "private Postgres" };
    let clickhouse =
        if borrowed.clickhouse.is_some() { "ClickHouse server" } else { "ClickHouse engine" };
    format!("{log}, {postgres}, {clickhouse}")
}

async fn ready(child: &mut Child, folder: &Path) -> Result<Endpoints> {
    let deadline = Instant::now() + START_TIME_MAX;
    loop {
        if let Ok(endpoints) = Endpoints::read(folder) {
            return Ok(endpoints);
        }
        if let Some(status) = child.try_wait()? {
            bail!("`weir up` ended with {status}:\n{}", log_tail(folder));
        }
        ensure!(
            Instant::now() < deadline,
            "`weir up` is not ready after {} s:\n{}",
            START_TIME_MAX.as_secs(),
            log_tail(folder)
        );
        sleep(POLL).await;
    }
}

fn log_tail(folder: &Path) -> String {
    let text = fs::read(folder.join("weir.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // What it says when all is well helps nobody here.
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.contains("\"level\":\"INFO\"")).collect();
    lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
}

/// Two meters, a rate card and a cost card with every model of the load.
pub fn catalog() -> Value {
    let meter = |key: &str, path: &str| {
        json!({ "key": key, "event_types": [benches::generator::EVENT_TYPE], "aggregation": "sum", "value": path,
            "unit": "token", "dimensions": { "provider": "$.provider", "model": "$.model" } })
    };
    let rates = |prices: fn(&benches::account::Model) -> [Price; 2]| {
        let of_model = |model: &benches::account::Model| {
            let row = |(meter, price): (&str, Price)| {
                let per = u64::try_from(price.per).unwrap_or(1);
                json!({ "meter": meter, "dimensions": { "provider": model.provider, "model": model.name },
                    "price": price.amount(), "per": per })
            };
            [INPUT_METER, OUTPUT_METER]
                .into_iter()
                .zip(prices(model))
                .map(row)
                .collect::<Vec<Value>>()
        };
        MODELS.iter().flat_map(of_model).collect::<Vec<Value>>()
    };
    let card = |key: &str, kind: &str, rates: Vec<Value>| json!({ "key": key, "kind": kind, "currency": CURRENCY, "versions": [{ "rates": rates }] });
    json!({
        "meters": [meter(INPUT_METER, "$.inputTokens"), meter(OUTPUT_METER, "$.outputTokens")],
        "cards": [
            card("standard", "rate", rates(|model| model.charge)),
            card("providers", "cost", rates(|model| model.cost)),
        ],
        "default_rate_card": "standard",
        "default_cost_card": "providers",
    })
}
