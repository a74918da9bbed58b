//! A log, a Postgres and ledger-writers on them; and rated batches as a rater would write them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use domain::{
    chain::Place,
    wire::{
        block::BlockWriter,
        codec::DictionaryWriter,
        rated::{self, BehindSums, Counts, Forward, Header, Outer, Parts},
        rows::ColumnsWriter,
        sums::{self, Sum, SumKey},
    },
};
use ledger::seal::AuditKey;
use ledger_writer::{Config, RATED, RunError};
use runtime::{
    clickhouse::ClickHouse,
    config::{ClickHouseConfig, PostgresConfig, Secret},
    context::Context,
    http::Readiness,
    log::{
        SharedLog, Topic,
        local::{LocalLog, LocalOptions},
    },
    postgres::Pool,
    shutdown::Shutdown,
    telemetry::Metrics,
};
use sqlx::{AssertSqlSafe, raw_sql};
use tests::{
    postgres::{TestFolder, TestPostgres, migrate},
    wait::{eventually, stopped},
};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Partitions of every test.
pub const PARTITIONS: u32 = 2;
/// The name of the log of every test.
pub const LOG_NAME: &str = "test";
/// 10¹²: the raw value of one.
pub const ONE: i128 = 1_000_000_000_000;
/// Two tenants.
pub const TENANT: Uuid = Uuid::from_u128(0x1111);
pub const OTHER: Uuid = Uuid::from_u128(0x2222);

/// The audit key of every test.
pub fn key() -> Secret {
    Secret::new("5a".repeat(32))
}

pub fn audit_key() -> AuditKey {
    AuditKey::parse(&key()).unwrap()
}

pub fn config(window_ms: u64) -> Config {
    Config { window_ms, batches_max: 1000, sums_max: 50_000, audit_key: key() }
}

/// What the next posting comes after.
pub fn after(standing: &ledger::post::Standing) -> (domain::chain::Hash, i64) {
    (standing.head, standing.settle_seq)
}

/// One sum of a batch.
#[derive(Clone, Debug)]
pub struct Line {
    pub tenant: Uuid,
    pub team: String,
    pub meter: &'static str,
    pub quantity: i128,
    /// Currency and raw amount; `None` is unpriced.
    pub charge: Option<(&'static str, i128)>,
    /// Currency and raw amount; `None` is unknown.
    pub cost: Option<(&'static str, i128)>,
    pub events: u64,
    pub bucket: i64,
    pub hold: Option<Uuid>,
}

impl Line {
    pub fn new(team: &str, meter: &'static str, charge: i128) -> Line {
        Line {
            tenant: TENANT,
            team: team.to_owned(),
            meter,
            quantity: ONE,
            charge: Some(("EUR", charge)),
            cost: Some(("USD", charge / 2)),
            events: 1,
            bucket: 1_900_000,
            hold: None,
        }
    }
}

/// What a batch says besides its sums.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    pub duplicates: u64,
    pub rejected: u64,
    /// Holds of events that are forwarded to the slow lane.
    pub forwarded: Vec<Uuid>,
}

/// The rater of one partition: keeps the chain.
pub struct Rater {
    pub partition: u32,
    pub place: Place,
}

impl Rater {
    pub fn new(partition: u32) -> Rater {
        Rater { partition, place: Place::EMPTY }
    }

    /// The next batch, over two positions of `[usage]`, not yet appended.
    pub fn batch(&self, lines: &[Line], outcomes: &Outcomes) -> (Outer, Vec<u8>) {
        let mut tenants: Vec<Uuid> = lines.iter().map(|line| line.tenant).collect();
        tenants.push(TENANT);
        tenants.sort_unstable();
        tenants.dedup();
        let mut dictionary = DictionaryWriter::default();
        let entries: Vec<_> =
            lines.iter().map(|line| entry(line, &tenants, &mut dictionary)).collect();
        let mut encoded = Vec::new();
        sums::encode(&dictionary, &entries, None, &mut encoded);
        let count = |tenant: &Uuid| {
            let of = |line: &&Line| line.tenant == *tenant;
            let rated = lines
                .iter()
                .filter(of)
                .filter(|line| line.charge.is_some())
                .map(|line| line.events)
                .sum();
            let unpriced = lines
                .iter()
                .filter(of)
                .filter(|line| line.charge.is_none())
                .map(|line| line.events)
                .sum();
            let mut counts = Counts { rated, unpriced, ..Counts::default() };
            if *tenant == TENANT {
                counts = Counts {
                    duplicates: outcomes.duplicates,
                    rejected: outcomes.rejected,
                    forwarded: outcomes.forwarded.len() as u64,
                    ..counts
                };
            }
            counts.accepted = counts.outcomes();
            (*tenant, counts)
        };
        let parts = Parts {
            header: Header {
                catalog_version: 7,
                rules_version: 1,
                table_from: 0,
                horizon_us: i64::MIN,
                append_time_us: (1_700_000_000_000_000, 1_700_000_000_000_000),
                counts: tenants.iter().map(count).collect(),
                traces: Vec::new(),
            },
            sums: encoded,
            behind: BehindSums::Nothing,
            rows: ColumnsWriter::usage_events(),
            others: ColumnsWriter::rejected_events(),
            forwards: outcomes.forwarded.iter().map(|hold| self.forward(*hold)).collect(),
        };
        rated::encode(self.partition, self.place.x + 1, self.place.x + 2, self.place.c, &parts)
    }

    /// An event of a hold that the next batch forwards.
    fn forward(&self, hold: Uuid) -> Forward {
        let mut block = BlockWriter::default();
        block.tenant(TENANT);
        Forward {
            position: self.place.x + 1,
            index: 0,
            append_time_us: 0,
            hold: Some(hold),
            ranges: Vec::new(),
            block: block.finish(),
        }
    }

    /// Appends the next batch and moves on.
    pub async fn append(
        &mut self,
        log: &SharedLog,
        lines: &[Line],
        outcomes: &Outcomes,
    ) -> Result<Vec<u8>> {
        let (outer, message) = self.batch(lines, outcomes);
        let appended = log.append(RATED, self.partition, message.clone().into()).outcome().await?;
        self.place = self.place.after(&outer, appended.position);
        Ok(message)
    }
}

fn entry(line: &Line, tenants: &[Uuid], dictionary: &mut DictionaryWriter) -> (SumKey, Sum) {
    let tenant = tenants.iter().position(|tenant| *tenant == line.tenant).unwrap();
    let key = SumKey {
        tenant: u32::try_from(tenant).unwrap(),
        team: dictionary.intern(&line.team),
        meter: dictionary.intern(line.meter),
        card: line.charge.map(|_| dictionary.intern("card")),
        card_version: u32::from(line.charge.is_some()) * 3,
        currency: line.charge.map(|(currency, _)| dictionary.intern(currency)),
        cost_currency: line.cost.map(|(currency, _)| dictionary.intern(currency)),
        hold: line.hold,
        bucket: line.bucket,
        user: None,
        app: None,
        key: None,
        feature: None,
    };
    let sum = Sum {
        quantity: line.quantity,
        charge: line.charge.map_or(0, |(_, amount)| amount),
        cost: line.cost.map_or(0, |(_, amount)| amount),
        events: i64::try_from(line.events).expect("few"),
    };
    (key, sum)
}

/// A database with the tables and two tenants, and a log.
pub struct World {
    pub postgres: TestPostgres,
    pub url: Secret,
    pub log: SharedLog,
    _folder: TestFolder,
}

impl World {
    pub async fn start() -> Result<World> {
        let postgres = TestPostgres::start().await?;
        let url = postgres.database("weir").await?;
        let admin = postgres.pool(&url, None, 1).await?;
        migrate(&admin).await?;
        let name = audit_key().id();
        ledger::install(&mut *admin.acquire().await?, PARTITIONS, LOG_NAME, &name).await?;
        raw_sql(AssertSqlSafe(format!(
            "INSERT INTO tenants (tenant_id, key) VALUES ('{TENANT}', 'one'), ('{OTHER}', 'other')"
        )))
        .execute(&admin)
        .await?;
        admin.close().await;
        let folder = TestFolder::new("log")?;
        let log =
            LocalLog::open(folder.path(), LocalOptions::new(PARTITIONS, &[Topic("usage"), RATED]))?;
        Ok(World { postgres, url, log, _folder: folder })
    }

    /// A pool of the superuser.
    pub async fn admin(&self) -> Result<Pool> {
        self.postgres.pool(&self.url, None, 4).await
    }

    /// A pool of a role.
    pub async fn pool(&self, role: &str) -> Result<Pool> {
        self.postgres.pool(&self.url, Some(role), 4).await
    }

    /// What a role stands on, with Postgres at `url`.
    pub fn context(&self, url: &Secret, log: SharedLog) -> Context {
        let clickhouse = ClickHouseConfig {
            url: "http://127.0.0.1:1".to_owned(),
            database: "weir".to_owned(),
            user: String::new(),
            password: Secret::default(),
        };
        Context {
            log,
            postgres: PostgresConfig { url: url.clone(), connections: 4 },
            clickhouse: ClickHouse::new(&clickhouse),
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            shutdown: Shutdown::new(),
        }
    }

    /// Starts a ledger-writer.
    pub fn writer(&self, config: Config) -> Writer {
        Writer::start(config, self.context(&self.url, Arc::clone(&self.log)))
    }

    /// Waits until the ledger of a partition stands at `place`.
    pub async fn posted(&self, place: Place, partition: u32) -> Result<()> {
        let pool = self.pool("weir_reader").await?;
        eventually(&format!("partition {partition} is posted up to {}", place.x), async || {
            let mut connection = pool.acquire().await?;
            let standing = ledger::post::standing(&mut connection, partition).await?;
            Ok(standing.place == place)
        })
        .await
    }

    /// Everything that must be true of the books, whatever happened.
    pub async fn check_books(&self) -> Result<u64> {
        let pool = self.pool("weir_reader").await?;
        let mut connection = pool.acquire().await?;
        let imbalances = ledger::statement::imbalances(&mut connection).await?;
        ensure!(imbalances.is_empty(), "trial balance: {imbalances:?}");
        let drift = ledger::statement::receivable_drift(&mut connection).await?;
        ensure!(drift.is_empty(), "receivables: {drift:?}");
        let mut transfers = 0;
        for partition in 0..PARTITIONS {
            transfers += ledger::seal::verify_chain(&mut connection, &audit_key(), partition)
                .await?
                .transfers;
        }
        Ok(transfers)
    }

    /// Everything that must be true of wallets, whatever happened: what `weir verify` looks at, and
    /// the chain over journals.
    pub async fn check_wallets(&self) -> Result<()> {
        let pool = self.pool("weir_reader").await?;
        let mut connection = pool.acquire().await?;
        let mut checks = ledger::verify::books::checks(&mut connection).await?;
        checks.extend(ledger::verify::wallets::checks(&mut connection).await?);
        for check in checks {
            ensure!(check.holds(), "{}: {:?}", check.name, check.first_bad);
        }
        for partition in 0..PARTITIONS {
            ledger::journal_seal::verify(&mut connection, &audit_key(), partition).await?;
        }
        Ok(())
    }

    /// One number.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        let pool = self.admin().await?;
        let number = sqlx::query_scalar(sql).fetch_one(&pool).await?;
        pool.close().await;
        Ok(number)
    }
}

/// A ledger-writer under way.
pub struct Writer {
    pub context: Context,
    run: JoinHandle<Result<(), RunError>>,
}

impl Writer {
    pub fn start(config: Config, context: Context) -> Writer {
        let run = tokio::spawn(ledger_writer::run(config, context.clone()));
        Writer { context, run }
    }

    /// Stops it and gives what it ended with.
    pub async fn stop(self) -> Result<()> {
        self.context.shutdown.trigger();
        Ok(self.run.await??)
    }

    /// Waits for it to end by itself and gives its error.
    pub async fn failure(self) -> Result<String> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.run).await??;
        Ok(ended.err().context("it ended without a failure")?.to_string())
    }

    /// Waits until a partition has stopped and gives the reason.
    pub async fn stopped(&self, partition: u32) -> Result<String> {
        stopped(&self.context.readiness, &format!("ledger-writer.{partition}")).await
    }

    /// The value of a metric of a partition.
    pub fn metric(&self, name: &str, partition: u32) -> u64 {
        let line = format!("{name}{{partition=\"{partition}\"}} ");
        let text = self.context.metrics.render();
        text.lines().find_map(|one| one.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}
