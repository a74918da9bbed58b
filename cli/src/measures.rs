//! What a process with the api measures of the whole installation, for `/metrics`: lag, the
//! conservation of all tenants, neighbours and disks. `deploy/alerts.yml` stands on it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use runtime::{
    clickhouse::ClickHouse,
    config::PostgresConfig,
    context::Context,
    log::SharedLog,
    postgres::{Pool, connect},
    shutdown::Shutdown,
    task::{self, Tasks, now_us},
    telemetry::{IntGauge, IntGaugeVec, Metrics, TelemetryError},
};

use crate::{
    lag::{self, Lag, Places, Stage},
    store::{confirmed, measures},
};

/// How often it is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How long ClickHouse may take for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// The gauges.
struct Gauges {
    lag_seconds: IntGaugeVec,
    lag_blocks: IntGaugeVec,
    lost_blocks: IntGaugeVec,
    balanced: IntGauge,
    neighbour_up: IntGaugeVec,
    disk_free: IntGaugeVec,
    disk_size: IntGaugeVec,
}

impl Gauges {
    fn new(metrics: &Metrics) -> Result<Self, TelemetryError> {
        let stage = &["stage", "partition"];
        Ok(Self {
            lag_seconds: metrics.gauges(
                "weir_lag_seconds",
                "Age of the oldest block of [usage] that is not rated, posted or archived; 0 if there is none.",
                stage,
            )?,
            lag_blocks: metrics.gauges(
                "weir_lag_blocks",
                "Blocks of [usage] that are not rated, posted or archived.",
                stage,
            )?,
            lost_blocks: metrics.gauges(
                "weir_lag_lost_blocks",
                "Of those, blocks that the log does not hold any more.",
                stage,
            )?,
            balanced: metrics.gauge(
                "weir_conservation_balanced",
                "Whether the counts of all tenants and partitions balance.",
            )?,
            neighbour_up: metrics.gauges(
                "weir_neighbour_up",
                "Whether the log, Postgres or ClickHouse answered when it was last asked.",
                &["neighbour"],
            )?,
            disk_free: metrics.gauges("weir_disk_free_bytes", "Free bytes of a disk.", &["disk"])?,
            disk_size: metrics.gauges("weir_disk_size_bytes", "All bytes of a disk.", &["disk"])?,
        })
    }

    fn show(&self, lags: &[Lag]) {
        for lag in lags {
            let partition = lag.partition.to_string();
            let labels = [lag.stage.name(), partition.as_str()];
            self.lag_seconds.with_label_values(&labels).set(lag.seconds);
            self.lag_blocks.with_label_values(&labels).set(lag.blocks);
            self.lost_blocks.with_label_values(&labels).set(lag.lost);
        }
    }

    fn show_disk(&self, name: &str, free: i64, size: i64) {
        self.disk_free.with_label_values(&[name]).set(free);
        self.disk_size.with_label_values(&[name]).set(size);
    }
}

struct Measurer {
    log: SharedLog,
    /// The folder of the local log.
    folder: Option<PathBuf>,
    postgres: PostgresConfig,
    clickhouse: ClickHouse,
    pool: Option<Pool>,
    rated: BTreeMap<u32, (i64, i64)>,
    gauges: Gauges,
}

/// Starts to measure under `tasks`; `folder` is that of the local log, where the log is one.
pub fn keep(folder: Option<PathBuf>, context: &Context, tasks: &mut Tasks) -> Result<()> {
    let measurer = Measurer {
        log: context.log.clone(),
        folder,
        postgres: PostgresConfig { connections: 1, ..context.postgres.clone() },
        clickhouse: context.clickhouse.clone(),
        pool: None,
        rated: BTreeMap::new(),
        gauges: Gauges::new(&context.metrics)?,
    };
    let shutdown = context.shutdown.clone();
    tasks.spawn("measures", async move {
        measurer.run(&shutdown).await;
        Ok(())
    });
    Ok(())
}

impl Measurer {
    async fn run(mut self, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.turn() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(MEASURE_EVERY) => {}
            }
        }
    }

    /// Each neighbour by itself: one that is away leaves what the others say.
    async fn turn(&mut self) {
        let posted = self.posted().await;
        self.answered("postgres", &posted);
        let archived = self.archived().await;
        self.answered("clickhouse", &archived);
        let places = [
            (Stage::Posted, posted.unwrap_or_default()),
            (Stage::Archived, archived.unwrap_or_default()),
        ];
        let lags = self.lags(places).await;
        self.answered("log", &lags);
        self.gauges.show(&lags.unwrap_or_default());
        if let Some(folder) = &self.folder
            && let Ok((free, size)) = disk(folder)
        {
            self.gauges.show_disk("log", free, size);
        }
    }

    fn answered<T>(&self, neighbour: &str, outcome: &Result<T>) {
        if let Err(error) = outcome {
            tracing::debug!(neighbour, reason = format!("{error:#}"), "cannot be measured");
        }
        let up = self.gauges.neighbour_up.with_label_values(&[neighbour]);
        up.set(i64::from(outcome.is_ok()));
    }

    async fn posted(&mut self) -> Result<Option<Places>> {
        let pool = match &self.pool {
            Some(pool) => pool.clone(),
            None => connect(&self.postgres, Some("weir_reader"), "weir-measures").await?,
        };
        let posted = confirmed::posted(&pool).await?;
        self.gauges.balanced.set(i64::from(measures::balanced(&pool).await?));
        self.pool = Some(pool);
        Ok(Some(positions(posted)))
    }

    async fn archived(&self) -> Result<Option<Places>> {
        let asked = async {
            for (name, free, size) in measures::disks(&self.clickhouse).await? {
                self.gauges.show_disk(&format!("clickhouse-{name}"), free, size);
            }
            confirmed::archived(&self.clickhouse).await
        };
        let archived = tokio::time::timeout(ANSWER_TIME_MAX, asked).await;
        Ok(Some(positions(archived.context("ClickHouse is slow")??)))
    }

    /// Lag of what is rated, and of `places` that are known.
    async fn lags(&mut self, places: [(Stage, Option<Places>); 2]) -> Result<Vec<Lag>> {
        let (log, mut rated) = (self.log.clone(), self.rated.clone());
        let (rated, lags) = task::blocking(move || {
            let now = now_us();
            let done = lag::rated(log.as_ref(), &mut rated)?;
            let mut lags = lag::of_stage(log.as_ref(), Stage::Rated, &done, now)?;
            for (stage, places) in places {
                if let Some(places) = places {
                    lags.extend(lag::of_stage(log.as_ref(), stage, &places, now)?);
                }
            }
            Ok::<_, runtime::log::LogError>((rated, lags))
        })
        .await??;
        self.rated = rated;
        Ok(lags)
    }
}

/// The positions of `[usage]` alone.
pub fn positions(confirmed: BTreeMap<u32, confirmed::Confirmed>) -> Places {
    confirmed.into_iter().map(|(partition, (x, _))| (partition, x)).collect()
}

/// Free and all bytes of the disk that `folder` is on.
pub fn disk(folder: &std::path::Path) -> Result<(i64, i64)> {
    let found = statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let bytes = |blocks: u64| {
        i64::try_from(blocks.saturating_mul(found.fragment_size())).unwrap_or(i64::MAX)
    };
    Ok((bytes(found.blocks_available()), bytes(found.blocks())))
}
