//! What a role stands on, opened once per process: the log, the archive, signals, metrics.

use std::{num::NonZero, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ledger::install::{InstallError, Installation};
use runtime::{
    clickhouse::ClickHouse,
    config::{LogConfig, Secret},
    context::Context,
    http::Readiness,
    log::{
        SharedLog, Topic,
        kafka::{KafkaLog, KafkaOptions, cluster_id, create_topics},
        local::{Created, LocalLog, LocalOptions},
    },
    postgres::{PostgresError, connect},
    shutdown::Shutdown,
    task,
    telemetry::{self, Metrics},
    traces,
};
use sqlx::{Connection as _, PgConnection};

use crate::{
    config::{Config, TelemetryConfig},
    roles::Role,
    store,
};

/// The topics of Weir, in the order that the local log numbers them.
pub const TOPICS: &[Topic] = &[Topic("usage"), Topic("rated")];

/// Partitions of every topic in Kafka where the configuration leaves them open; the most of a local log.
const KAFKA_PARTITIONS: u32 = 16;

/// A log and the name by which its database knows it.
pub struct NamedLog {
    /// The log.
    pub log: SharedLog,
    /// Its name.
    pub name: String,
    /// The same log, where it is on this machine's disk.
    pub local: Option<Arc<LocalLog>>,
}

/// Starts telemetry, of which traces are those of `service`. Every command that stays calls it first.
pub fn telemetry(config: &TelemetryConfig, service: &str) -> Result<()> {
    telemetry::init(config.json, &config.filter).context("telemetry.filter")?;
    Ok(traces::start(&config.traces, service)?)
}

/// Runs `body` on a runtime whose threads are called `name`.
pub fn block_on<T>(name: &str, body: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(name)
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(body);
    // Reads of the log that block give up within a second.
    runtime.shutdown_timeout(Duration::from_secs(1));
    traces::stop();
    outcome
}

/// Opens the local log in `folder`.
pub async fn local_log(config: &LogConfig, folder: &Path) -> Result<NamedLog> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = folder.to_owned();
    let open = match Created::is_in(folder)? {
        true => Created::read(folder)?.partitions,
        false => new_local_partitions(),
    };
    let options = LocalOptions {
        segment_bytes: config.local.segment_bytes,
        ..LocalOptions::new(config.partitions_or(open), TOPICS)
    };
    let log = task::blocking(move || LocalLog::open(&path, options)).await??;
    let name = Created::read(folder)?.name();
    Ok(NamedLog { log: Arc::clone(&log) as SharedLog, name, local: Some(log) })
}

/// The local log in `folder` as it is now, beside the process that has it open.
pub async fn local_view(folder: &Path, partitions: u32) -> Result<NamedLog> {
    let path = folder.to_owned();
    let options = LocalOptions::new(partitions, TOPICS);
    let log = task::blocking(move || LocalLog::view(&path, options)).await??;
    let name = Created::read(folder)?.name();
    Ok(NamedLog { log, name, local: None })
}

/// Partitions of a new local log where the configuration leaves them open: two for each processor,
/// so that none idles while a partition waits, from 4 to 16. Each one more makes smaller messages
/// and more rows of them.
pub fn new_local_partitions() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(2 * processors).unwrap_or(u32::MAX).clamp(4, KAFKA_PARTITIONS)
}

/// Partitions of every topic in Kafka: as configured, or 16.
pub fn kafka_partitions(config: &LogConfig) -> u32 {
    config.partitions_or(KAFKA_PARTITIONS)
}

/// How to reach the cluster that the configuration names.
pub fn kafka_options(config: &LogConfig) -> KafkaOptions {
    KafkaOptions {
        prefix: config.kafka.prefix.clone(),
        properties: config.kafka.properties.clone(),
        partitions: Some(kafka_partitions(config)),
        ..KafkaOptions::new(config.kafka.brokers.clone(), TOPICS)
    }
}

/// The name of the log in the cluster that the configuration names: another cluster at the same
/// address has another name, and is refused by the database that belongs to the first.
pub async fn kafka_name(config: &LogConfig) -> Result<String> {
    let options = kafka_options(config);
    let id = task::blocking(move || cluster_id(&options)).await??;
    Ok(format!("kafka-{id}-{}", config.kafka.prefix))
}

/// Connects to Kafka.
pub async fn kafka_log(config: &LogConfig) -> Result<NamedLog> {
    let options = kafka_options(config);
    let log = task::blocking(move || KafkaLog::connect(options)).await??;
    Ok(NamedLog { log, name: kafka_name(config).await?, local: None })
}

/// Refuses a database that belongs to another log.
pub async fn check_installation(config: &Config, role: Role, named: &NamedLog) -> Result<()> {
    installation(config, role).await?.check(named.log.partitions(), &named.name)?;
    Ok(())
}

async fn installation(config: &Config, role: Role) -> Result<Installation, InstallError> {
    let pool = connect(&config.postgres, Some(role.database_role()), role.service()).await?;
    let mut connection = pool.acquire().await.map_err(PostgresError::from)?;
    ledger::install::read(&mut connection).await
}

/// Makes the topics that are missing.
pub async fn make_topics(config: &LogConfig, replication: u32) -> Result<()> {
    let (options, partitions) = (kafka_options(config), kafka_partitions(config));
    task::blocking(move || create_topics(&options, partitions, replication)).await??;
    Ok(())
}

/// The context of the roles of this process.
pub fn context(
    config: &Config,
    log: SharedLog,
    readiness: Readiness,
    shutdown: Shutdown,
) -> Context {
    Context {
        log,
        postgres: config.postgres.clone(),
        clickhouse: ClickHouse::new(&config.clickhouse),
        metrics: Metrics::process(),
        readiness,
        shutdown,
    }
}

/// Signs in to Postgres for a command of one transaction.
pub async fn sign_in(url: &Secret) -> Result<PgConnection> {
    ensure!(!url.is_empty(), "postgres.url is not set; set DATABASE_URL, or use `weir up`");
    let options = runtime::postgres::connect_options(url.expose())?.application_name("weir");
    PgConnection::connect_with(&options).await.context("cannot sign in to Postgres")
}

/// Brings Postgres up to date: roles, tables, the installation for a log of this name and so many
/// partitions, the tenant `default`.
pub async fn prepare_postgres(config: &Config, log_name: &str, partitions: u32) -> Result<()> {
    let url = &config.postgres.url;
    let mut connection = sign_in(url).await?;
    store::roles::ensure_roles(&mut connection).await?;
    store::schema::migrate(url).await?;
    let audit_key = config.ledger_writer.key().context("ledger_writer.audit_key is not a key")?;
    ledger::install(&mut connection, partitions, log_name, &audit_key.id()).await?;
    store::tenants::ensure_default(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Engine and cluster clause of the archive's tables.
#[derive(Clone, Debug, clap::Args)]
pub struct ArchiveArguments {
    /// Table engine of the archive, such as "ReplicatedMergeTree"
    #[arg(long, value_name = "ENGINE", default_value = "MergeTree")]
    clickhouse_engine: String,
    /// ClickHouse cluster on which the archive's tables are made
    #[arg(long, value_name = "NAME")]
    clickhouse_cluster: Option<String>,
}

impl Default for ArchiveArguments {
    fn default() -> Self {
        Self { clickhouse_engine: "MergeTree".to_owned(), clickhouse_cluster: None }
    }
}

/// Number, name and text of every file in `migrations/clickhouse`.
pub const ARCHIVE_MIGRATIONS: &[(u32, &str, &str)] = &[
    (1, "spine", include_str!("../../migrations/clickhouse/0001_spine.sql")),
    (2, "look_ups", include_str!("../../migrations/clickhouse/0002_look_ups.sql")),
    (3, "compact_parts", include_str!("../../migrations/clickhouse/0003_compact_parts.sql")),
    (4, "audit_heads", include_str!("../../migrations/clickhouse/0004_audit_heads.sql")),
    (5, "origins", include_str!("../../migrations/clickhouse/0005_origins.sql")),
    (6, "fewer_merges", include_str!("../../migrations/clickhouse/0006_fewer_merges.sql")),
    (7, "plain_words", include_str!("../../migrations/clickhouse/0007_plain_words.sql")),
    (8, "uncorrected", include_str!("../../migrations/clickhouse/0008_uncorrected.sql")),
    (9, "observed", include_str!("../../migrations/clickhouse/0009_observed.sql")),
];

/// Brings the archive's schema up to date.
pub async fn prepare_clickhouse(config: &Config, arguments: &ArchiveArguments) -> Result<()> {
    let database = config.clickhouse.database.as_str();
    let on_cluster = match &arguments.clickhouse_cluster {
        Some(name) => format!("ON CLUSTER `{}`", name.replace('`', "")),
        None => String::new(),
    };
    let templating = runtime::clickhouse::Templating {
        engine: &arguments.clickhouse_engine,
        on_cluster: &on_cluster,
    };
    let clickhouse = ClickHouse::new(&config.clickhouse);
    clickhouse
        .create_database(database, templating)
        .await
        .context("cannot make the archive's database")?;
    clickhouse.migrate(ARCHIVE_MIGRATIONS, templating).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_log_keeps_the_partitions_that_it_was_created_with() {
        let folder = std::env::temp_dir().join(format!("weir-log-{}", uuid::Uuid::now_v7()));
        let with = |partitions| LogConfig { partitions, ..Config::read(None).unwrap().log };
        let opened = async |partitions, folder: &Path| {
            Ok::<_, anyhow::Error>(local_log(&with(partitions), folder).await?.log.partitions())
        };
        assert_eq!(opened(3, &folder).await.unwrap(), 3);
        assert_eq!(opened(0, &folder).await.unwrap(), 3);
        let refused = opened(5, &folder).await.unwrap_err().to_string();
        assert!(refused.contains("set it back to 3"), "{refused}");
        let new = opened(0, &folder.join("new")).await.unwrap();
        assert!((4..=16).contains(&new), "{new}");
        assert_eq!(kafka_partitions(&with(0)), 16);
        assert_eq!(kafka_partitions(&with(5)), 5);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
