//! Ingest on a local log and a private Postgres, and ways to disturb both.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use bytes::Bytes;
use domain::wire::{
    block::{Block, BlockHeader},
    record::Entry,
};
use ingest::{Config, RunError, Service, block::USAGE, budget::Budget};
use runtime::{
    config::{Faults, PostgresConfig, Secret},
    context::Context,
    http::{Readiness, ServeOptions},
    keys::{self, NewKey},
    log::{
        AppendError, Log, LogError, Membership, Pending, Reader, Topic,
        local::{LocalLog, LocalOptions},
    },
    postgres::Pool,
    shutdown::Shutdown,
    telemetry::Metrics,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, raw_sql};
use tests::{
    engine::{Folder, client},
    postgres::TestPostgres,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::ServiceExt as _;
use uuid::Uuid;

pub const PARTITIONS: u32 = 4;
pub const TENANT: Uuid = Uuid::from_u128(0xacce);

/// A real log whose appends can be held back or refused.
pub struct Gate {
    log: Arc<LocalLog>,
    mode: Mutex<Mode>,
}

#[derive(Default)]
enum Mode {
    #[default]
    Open,
    Refusing,
    /// All partitions, or one.
    Holding(Option<u32>, Vec<Held>),
}

struct Held {
    partition: u32,
    payload: Bytes,
    answer: oneshot::Sender<Result<runtime::log::Appended, AppendError>>,
}

impl Gate {
    /// Appends wait until the gate opens.
    pub fn hold(&self) {
        *self.mode.lock().unwrap() = Mode::Holding(None, Vec::new());
    }

    /// Appends to one partition wait until the gate opens.
    pub fn hold_one(&self, partition: u32) {
        *self.mode.lock().unwrap() = Mode::Holding(Some(partition), Vec::new());
    }

    /// Appends are refused.
    pub fn refuse(&self) {
        *self.mode.lock().unwrap() = Mode::Refusing;
    }

    /// Blocks that are held back, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        match &*self.mode.lock().unwrap() {
            Mode::Holding(_, held) => {
                (held.len(), held.iter().map(|held| held.payload.len()).sum())
            }
            _ => (0, 0),
        }
    }

    /// Opens again; what was held back is appended now.
    pub fn open(&self) {
        // A gate that refused holds nothing.
        let Mode::Holding(_, held) = std::mem::take(&mut *self.mode.lock().unwrap()) else {
            return;
        };
        for Held { partition, payload, answer } in held {
            let pending = self.log.append(USAGE, partition, payload);
            tokio::spawn(async move { answer.send(pending.outcome().await) });
        }
    }
}

impl Log for Gate {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn append(&self, topic: Topic, partition: u32, payload: Bytes) -> Pending {
        assert_eq!(topic, USAGE);
        let (answer, pending) = oneshot::channel();
        match &mut *self.mode.lock().unwrap() {
            Mode::Open => return self.log.append(topic, partition, payload),
            Mode::Holding(Some(held), _) if *held != partition => {
                return self.log.append(topic, partition, payload);
            }
            Mode::Refusing => {
                let _ = answer.send(Err(AppendError::Refused("the gate is shut".into())));
            }
            Mode::Holding(_, held) => held.push(Held { partition, payload, answer }),
        }
        Pending(pending)
    }

    fn reader(&self, topic: Topic, partition: u32, from: i64) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader(topic, partition, from)
    }

    fn bounds(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition, wait)
    }

    fn join(&self, topic: Topic, group: &str) -> Result<Box<dyn Membership>, LogError> {
        self.log.join(topic, group)
    }
}

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub partition: u32,
    pub position: i64,
    pub index: usize,
    pub id: String,
    pub team: String,
}

impl Logged {
    /// As ingest answers it.
    pub fn receipt(&self) -> String {
        format!("{}:{}:{}", self.partition, self.position, self.index)
    }
}

pub struct World {
    pub postgres: TestPostgres,
    pub pool: Pool,
    pub gate: Arc<Gate>,
    pub context: Context,
    pub router: Router,
    pub budget: Budget,
    pub key: NewKey,
    run: JoinHandle<Result<(), RunError>>,
    _folder: Folder,
}

/// The defaults, read from the commented section.
pub fn config() -> Config {
    let section: toml_section::Section =
        runtime::config::load(ingest::config::DEFAULT_TOML, None).unwrap();
    let mut faults = Faults::default();
    section.ingest.check(&mut faults);
    faults.finish().unwrap();
    section.ingest
}

mod toml_section {
    #[derive(serde::Deserialize)]
    pub struct Section {
        pub ingest: ingest::Config,
    }
}

impl World {
    pub async fn start() -> Result<World> {
        World::with(config()).await
    }

    pub async fn with(config: Config) -> Result<World> {
        let postgres = TestPostgres::start().await?;
        let url = postgres.database("weir").await?;
        let pool = postgres.pool(&url, None, 2).await?;
        install(&pool).await?;
        let folder = Folder::new("ingest-log")?;
        let log = LocalLog::open(folder.path(), LocalOptions::new(PARTITIONS, &[USAGE]))?;
        let gate = Arc::new(Gate { log, mode: Mutex::default() });
        let key = add_key(&pool, &["events:write"], "NULL", "NULL").await?;
        let context = context(gate.clone(), url);
        let service = Service::open(config, &context).await?;
        let (router, _) = service.router().split_for_parts();
        let router = runtime::http::finish(router, &ServeOptions::default());
        let budget = service.budget();
        let run = tokio::spawn(service.run());
        Ok(World { postgres, pool, gate, context, router, budget, key, run, _folder: folder })
    }

    /// Sends a request with the good key to the router.
    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Result<Answer> {
        let authorization = format!("Bearer {}", self.key.text);
        let with_key = [&[("authorization", authorization.as_str())], headers].concat();
        self.send("/v1/events", &with_key, body).await
    }

    /// Sends a request to the router.
    pub async fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Result<Answer> {
        send(self.router.clone(), path, headers, body.into()).await
    }

    /// Serves on a real socket until the world ends.
    pub async fn serve(&self) -> Result<SocketAddr> {
        let listener = runtime::http::bind("127.0.0.1:0".parse()?).await?;
        let address = listener.local_addr()?;
        let (router, shutdown) = (self.router.clone(), self.context.shutdown.clone());
        tokio::spawn(runtime::http::serve(listener, router, shutdown, ServeOptions::default()));
        Ok(address)
    }

    /// Everything in the log, in order of partition and position, and the number of blocks.
    pub fn logged(&self) -> Result<(Vec<Logged>, usize)> {
        let (mut events, mut blocks) = (Vec::new(), 0);
        for partition in 0..PARTITIONS {
            let (_, end) = self.gate.bounds(USAGE, partition, Duration::ZERO)?;
            let mut reader = self.gate.reader(USAGE, partition, 0)?;
            for _ in 0..end {
                let message = reader.next(Duration::from_secs(5))?.context("a message")?;
                blocks += 1;
                let header = BlockHeader::decode(&message.payload)?;
                assert_eq!(
                    header.tenants.iter().map(|count| count.events).sum::<u64>(),
                    u64::from(header.entries)
                );
                let body = header.body(&message.payload)?;
                let block = Block::decode(&header, &body)?;
                for (index, entry) in block.entries.iter().enumerate() {
                    let Entry::Event(event) = entry else { anyhow::bail!("{entry:?}") };
                    assert_eq!(header.tenant(event.tenant), Some(TENANT));
                    let team = block.dictionary.get(event.team)?.to_owned();
                    assert_eq!(
                        domain::partition::partition_of(TENANT, &team, PARTITIONS),
                        partition
                    );
                    events.push(Logged {
                        partition,
                        position: message.position,
                        index,
                        id: event.id.to_owned(),
                        team,
                    });
                }
            }
        }
        Ok((events, blocks))
    }

    /// One sample of a metric, 0 if there is none.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.context.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waited = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited)
            .await
            .unwrap_or_else(|_| panic!("waited for: {what}"));
    }

    /// Stops ingest as a process does, and gives what it ended with.
    pub async fn stop(self) -> Result<(), RunError> {
        self.context.shutdown.trigger();
        self.run.await.unwrap()
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// `code` of a problem, or `ok`.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("ok")
    }

    /// The status of each event.
    pub fn statuses(&self) -> Vec<&str> {
        self.body["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result["status"].as_str().unwrap())
            .collect()
    }
}

pub async fn send(
    router: Router,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<Answer> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(body)?).await?;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&body)?,
    })
}

/// Adds a key of the tenant; times are SQL expressions.
pub async fn add_key(
    pool: &Pool,
    scopes: &[&str],
    expires_at: &str,
    revoked_at: &str,
) -> Result<NewKey> {
    let key = keys::generate()?;
    let sql = format!(
        "INSERT INTO api_keys (tenant_id, key_id, secret_hash, app, scopes, expires_at, revoked_at)
         VALUES ($1, $2, $3, 'chat', $4, {expires_at}, {revoked_at})"
    );
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(TENANT)
        .bind(&key.id)
        .bind(key.secret_hash.to_vec())
        .bind(scopes);
    query.execute(pool).await?;
    Ok(key)
}

/// A context with this log and this database.
pub fn context(gate: Arc<Gate>, url: Secret) -> Context {
    Context {
        log: gate,
        postgres: PostgresConfig { url, connections: 2 },
        clickhouse: client("http://127.0.0.1:9", "weir"),
        metrics: Metrics::new(),
        readiness: Readiness::new(),
        shutdown: Shutdown::new(),
    }
}

async fn install(pool: &Pool) -> Result<()> {
    tests::postgres::migrate(pool).await?;
    let rows = format!(
        "INSERT INTO installation (identity_key, audit_key_id, partitions, log_name)
             VALUES ('\\x00112233445566778899aabbccddeeff', 'test', {PARTITIONS}, 'test');
         INSERT INTO tenants (tenant_id, key, external_key) VALUES ('{TENANT}', 'acme', 'acme-ext');
         INSERT INTO apps (tenant_id, app) VALUES ('{TENANT}', 'chat');"
    );
    raw_sql(AssertSqlSafe(rows)).execute(pool).await?;
    Ok(())
}
