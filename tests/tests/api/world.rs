//! Every role in one process, on a real Postgres, the local log and (where wanted) the real archive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use api::{RATED, Service, USAGE};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use bytes::Bytes;
use ledger::seal::AuditKey;
use runtime::{
    clickhouse::{ClickHouse, Engine, Templating},
    config::{PostgresConfig, Secret},
    context::Context,
    http::{Readiness, ServeOptions},
    keys,
    log::{
        AppendError, Log, LogError, Membership, Pending, Reader, Topic,
        local::{LocalLog, LocalOptions},
    },
    postgres::Pool,
    shutdown::Shutdown,
    telemetry::Metrics,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, migrate::Migrator, raw_sql};
use tests::{
    engine::{ARCHIVE_MIGRATIONS, Folder, client, start},
    postgres::TestPostgres,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_clickhouse-engine");
pub const PARTITIONS: u32 = 3;
pub const TENANT: Uuid = Uuid::from_u128(0x1111);
pub const OTHER: Uuid = Uuid::from_u128(0x2222);
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The local log, whose appends to `[usage]` can be refused.
pub struct Gate {
    log: Arc<LocalLog>,
    shut: AtomicBool,
}

impl Gate {
    pub fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::SeqCst);
    }
}

impl Log for Gate {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn append(&self, topic: Topic, partition: u32, payload: Bytes) -> Pending {
        if topic == USAGE && self.shut.load(Ordering::SeqCst) {
            let (answer, pending) = oneshot::channel();
            // What is in the log all the same must not matter.
            let appended = self.log.append(topic, partition, payload);
            tokio::spawn(async move {
                let _ = appended.outcome().await;
                answer.send(Err(AppendError::Unknown("the gate is shut".into())))
            });
            return Pending(pending);
        }
        self.log.append(topic, partition, payload)
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

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The body, if the status is this one.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status.as_u16() == status, "{}: {}", self.status, self.text);
        Ok(self.body)
    }

    /// Asserts a problem of this status and code.
    pub fn refused(self, status: u16, code: &str) -> Result<Value> {
        ensure!(
            self.status.as_u16() == status && self.body["code"] == code,
            "{}: {}",
            self.status,
            self.text
        );
        ensure!(self.headers["content-type"] == "application/problem+json");
        Ok(self.body)
    }
}

/// What a test runs in.
pub struct World {
    pub router: Router,
    pub document: Value,
    pub gate: Arc<Gate>,
    pub admin: Pool,
    pub key: String,
    pub other_key: String,
    pub context: Context,
    pub postgres: TestPostgres,
    pub url: Secret,
    pub engine: Option<Engine>,
    tasks: Vec<JoinHandle<Result<()>>>,
    _folders: (Folder, Folder),
}

fn audit_key() -> Secret {
    Secret::new("5a".repeat(32))
}

/// The master key of every test.
pub fn master_key() -> Secret {
    Secret::new("c3".repeat(32))
}

pub fn config() -> api::Config {
    let toml = include_str!("../../../api/config.toml");
    let defaults: ApiSection = runtime::config::load(toml, None).unwrap();
    api::Config {
        publish_wait_ms: 10_000,
        balance_refresh_ms: 50,
        live_entries_max: 100_000,
        pending_blocks_max: 10_000,
        pending_scan_ms: 5000,
        failed_attempts_max: 1_000_000,
        master_key: master_key(),
        ..defaults.api
    }
}

#[derive(serde::Deserialize)]
struct ApiSection {
    api: api::Config,
}

impl World {
    /// The api alone.
    pub async fn api() -> Result<World> {
        World::api_with(config()).await
    }

    /// [`World::api`] with other settings.
    pub async fn api_with(config: api::Config) -> Result<World> {
        World::start(false, config).await
    }

    /// Ingest, rater, ledger-writer, archiver and api.
    pub async fn all() -> Result<World> {
        World::start(true, config()).await
    }

    async fn start(all: bool, config: api::Config) -> Result<World> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = runtime::telemetry::init(false, "warn");
        let folders = (Folder::new("api-engine")?, Folder::new("api-log")?);
        let postgres = TestPostgres::start().await?;
        let url = postgres.database("weir").await?;
        let admin = postgres.pool(&url, None, 4).await?;
        migrate(&admin).await?;
        let (engine, clickhouse) = if all {
            archive(&folders.0).await?
        } else {
            (None, client("http://127.0.0.1:9", "weir"))
        };
        let topics: &'static [Topic] = &[USAGE, RATED];
        let log = LocalLog::open(folders.1.path(), LocalOptions::new(PARTITIONS, topics))?;
        let gate = Arc::new(Gate { log, shut: AtomicBool::new(false) });
        let context = Context {
            log: gate.clone(),
            postgres: PostgresConfig { url: url.clone(), connections: 8 },
            clickhouse,
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            shutdown: Shutdown::new(),
        };
        let key = add_key(&admin, TENANT, "one", &["*"]).await?;
        let other_key = add_key(&admin, OTHER, "two", &["*"]).await?;
        let mut tasks = Vec::new();
        let service = Service::open(config, &context).await?;
        let mut roles = OpenApiRouter::with_openapi(api::openapi()).merge(service.router());
        if all {
            let ingest = pipeline(&context, &mut tasks).await?;
            service.use_ingest(ingest.clone().into());
            roles = roles.merge(ingest);
        }
        tasks.push(spawn(async move { Ok(service.run().await?) }));
        let (router, document) = roles.split_for_parts();
        let router = runtime::http::finish(
            router.merge(api::documentation(document.clone())),
            &ServeOptions::default(),
        );
        let document = serde_json::to_value(document)?;
        Ok(World {
            router,
            document,
            gate,
            admin,
            key,
            other_key,
            context,
            postgres,
            url,
            engine,
            tasks,
            _folders: folders,
        })
    }

    /// Sends a request with a key and headers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Answer> {
        send(&self.router, method, path, key, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &self.key, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.send(Method::POST, path, &self.key, &[], Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Result<Answer> {
        self.send(Method::PUT, path, &self.key, &[], Some(body)).await
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await?;
            if answer.status.is_success() && wanted(&answer.body) {
                return Ok(answer.body);
            }
            ensure!(Instant::now() < deadline, "{path} came to {}", answer.text);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Another process's api on the same stores.
    pub async fn another(&self) -> Result<(Router, Context)> {
        let context = Context {
            shutdown: self.context.shutdown.child(),
            metrics: Metrics::new(),
            ..self.context.clone()
        };
        self.another_with(config(), context).await
    }

    /// Another process's api with other settings.
    pub async fn another_with(
        &self,
        config: api::Config,
        context: Context,
    ) -> Result<(Router, Context)> {
        let service = Service::open(config, &context).await?;
        let (router, _) = service.router().split_for_parts();
        tokio::spawn(service.run());
        Ok((runtime::http::finish(router, &ServeOptions::default()), context))
    }

    /// Stops all roles; fails if any did. The stores stay.
    pub async fn halt(&mut self) -> Result<()> {
        self.context.shutdown.trigger();
        for task in self.tasks.drain(..) {
            task.await??;
        }
        Ok(())
    }

    /// Stops everything; fails if any role did.
    pub async fn stop(mut self) -> Result<()> {
        self.halt().await
    }
}

/// Sends a request to a router.
pub async fn send(
    router: &Router,
    method: Method,
    path: &str,
    key: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Result<Answer> {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = request.header("content-type", "application/json").body(body)?;
    let response = router.clone().oneshot(request).await?;
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 64 << 20).await?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answer { status: parts.status, headers: parts.headers, body, text })
}

fn spawn(role: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<Result<()>> {
    tokio::spawn(role)
}

async fn archive(folder: &Folder) -> Result<(Option<Engine>, ClickHouse)> {
    let engine = start(PROGRAM, folder, 4).await?;
    let clickhouse = client(&engine.url(), "weir");
    clickhouse.create_database("weir", Templating::default()).await?;
    clickhouse.migrate(ARCHIVE_MIGRATIONS, Templating::default()).await?;
    Ok((Some(engine), clickhouse))
}

async fn pipeline(
    context: &Context,
    tasks: &mut Vec<JoinHandle<Result<()>>>,
) -> Result<OpenApiRouter> {
    let toml = concat!(
        include_str!("../../../ingest/config.toml"),
        "\n",
        include_str!("../../../rater/config.toml")
    );
    let section: Section = runtime::config::load(toml, None)?;
    let ingest = ingest::Config {
        failed_attempts_max: 1_000_000,
        refresh_ms: 100,
        master_key: master_key(),
        ..section.ingest
    };
    let service = ingest::Service::open(ingest, context).await?;
    let router = service.router();
    tasks.push(spawn(async move { Ok(service.run().await?) }));
    let rater = rater::config::Config {
        batch_events: 10_000,
        batch_bytes: 4 << 20,
        batch_ms: 20,
        batches_in_flight: 4,
        ..section.rater
    };
    let (one, two, three) = (context.clone(), context.clone(), context.clone());
    tasks.push(spawn(async move { Ok(rater::run(rater, one).await?) }));
    let writer = ledger_writer::Config {
        window_ms: 100,
        batches_max: 1000,
        sums_max: 50_000,
        audit_key: audit_key(),
    };
    tasks.push(spawn(async move { Ok(ledger_writer::run(writer, two).await?) }));
    let archiver = archiver::Config {
        group_rows: 50_000,
        group_bytes: 32 << 20,
        group_wait_ms: 100,
        heads_every_ms: 60_000,
    };
    tasks.push(spawn(async move { Ok(archiver::run(archiver, three).await?) }));
    Ok(router)
}

#[derive(serde::Deserialize)]
struct Section {
    ingest: ingest::Config,
    rater: rater::config::Config,
}

async fn migrate(admin: &Pool) -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let roles = std::fs::read_to_string(root.join("deploy/postgres/roles.sql"))?;
    raw_sql(AssertSqlSafe(roles)).execute(admin).await?;
    Migrator::new(root.join("migrations/postgres")).await?.run(admin).await?;
    let mut connection = admin.acquire().await?;
    let audit_key = AuditKey::parse(&audit_key()).context("an audit key")?;
    ledger::install::install(&mut connection, PARTITIONS, "test", &audit_key.id()).await?;
    for (tenant, name) in [(TENANT, "one"), (OTHER, "two")] {
        sqlx::query("INSERT INTO tenants (tenant_id, key) VALUES ($1, $2)")
            .bind(tenant)
            .bind(name)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Makes a key with scopes behind the api's back.
pub async fn add_key(admin: &Pool, tenant: Uuid, name: &str, scopes: &[&str]) -> Result<String> {
    let key = keys::generate()?;
    sqlx::query("INSERT INTO api_keys (tenant_id, key_id, secret_hash, name, scopes) VALUES ($1, $2, $3, $4, $5)")
        .bind(tenant)
        .bind(&key.id)
        .bind(key.secret_hash.as_slice())
        .bind(name)
        .bind(scopes)
        .execute(admin)
        .await?;
    Ok(key.text)
}

/// A catalog with a meter of calls and one of tokens, and prices of both.
pub fn catalog() -> Value {
    json!({
        "meters": [
            {"key": "calls", "event_types": ["llm.call"], "aggregation": "count", "unit": "call"},
            {"key": "tokens", "event_types": ["llm.call"], "aggregation": "sum", "value": "$.tokens", "unit": "token",
             "dimensions": {"model": "$.model", "region": "$.region"}},
        ],
        "cards": [
            {"key": "standard", "kind": "rate", "currency": "USD", "versions": [{"rates": [
                {"meter": "tokens", "dimensions": {"model": "gpt"}, "price": "0.01", "per": 3},
                {"meter": "tokens", "price": "0.5"},
                {"meter": "calls", "unlimited": true}]}]},
            {"key": "providers", "kind": "cost", "currency": "USD", "versions": [{"rates": [
                {"meter": "tokens", "price": "0.001"}, {"meter": "calls", "price": "0"}]}]},
        ],
        "default_rate_card": "standard",
        "default_cost_card": "providers",
    })
}
