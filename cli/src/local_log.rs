//! The housekeeping of the local log: segments that nobody needs are removed, and a log that its
//! disk has failed ends the process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use runtime::{
    clickhouse::ClickHouse,
    config::PostgresConfig,
    context::Context,
    http::Readiness,
    log::{Log as _, Topic, local::LocalLog},
    postgres::{Pool, connect},
    shutdown::Shutdown,
    task::{self, Tasks, now_us},
};

use crate::{
    process::TOPICS,
    store::confirmed::{self, Confirmed},
};

/// How often it is looked whether the disk has failed.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Bounds of the pause between two looks for segments to remove.
const TRIM_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Positions of a partition of which nothing is confirmed.
const NOTHING: Confirmed = (-1, -1);

/// Starts the housekeeping under `tasks`. Segments are removed `retention` after their last
/// message, if there is one.
pub fn keep(
    log: &Arc<LocalLog>,
    retention: Option<Duration>,
    context: &Context,
    tasks: &mut Tasks,
) {
    let (watched, shutdown) = (Arc::clone(log), context.shutdown.clone());
    tasks.spawn("log-watch", async move { Ok(watch(&watched, &shutdown).await?) });
    if let Some(retention) = retention {
        let trimmer = Trimmer {
            log: Arc::clone(log),
            postgres: PostgresConfig { connections: 1, ..context.postgres.clone() },
            clickhouse: context.clickhouse.clone(),
            readiness: context.readiness.clone(),
            retention,
            pool: None,
        };
        let shutdown = context.shutdown.clone();
        tasks.spawn("log-trim", async move {
            trimmer.run(&shutdown).await;
            Ok(())
        });
    }
}

/// A log whose disk has failed refuses everything until it is opened again.
async fn watch(log: &LocalLog, shutdown: &Shutdown) -> Result<()> {
    while !pause(WATCH_EVERY, shutdown).await {
        if let Some(reason) = log.failure() {
            bail!("the local log has stopped ({reason}); look after the disk and start again");
        }
    }
    Ok(())
}

struct Trimmer {
    log: Arc<LocalLog>,
    postgres: PostgresConfig,
    clickhouse: ClickHouse,
    readiness: Readiness,
    retention: Duration,
    pool: Option<Pool>,
}

impl Trimmer {
    /// Trims now and then, until a stop is asked for. A failure changes nothing: the log only stays
    /// longer than it had to.
    async fn run(mut self, shutdown: &Shutdown) {
        let every = (self.retention / 10).clamp(TRIM_EVERY.0, TRIM_EVERY.1);
        let mut said = String::new();
        while !pause(every, shutdown).await {
            // A reader that begins looks where the log begins, and must find it so.
            if !self.readiness.is_ready() {
                continue;
            }
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.turn() => outcome,
            };
            match outcome {
                Ok(0) => said.clear(),
                Ok(segments) => tracing::info!(segments, "removed segments of the local log"),
                Err(error) => {
                    let reason = format!("{error:#}");
                    if reason != said {
                        tracing::warn!(reason, "the local log cannot be trimmed for now");
                        said = reason;
                    }
                }
            }
        }
    }

    /// Removes what can be removed; answers how many segments.
    async fn turn(&mut self) -> Result<usize> {
        let retention_us = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let before_us = now_us().saturating_sub(retention_us);
        let pool = match &self.pool {
            Some(pool) => pool.clone(),
            None => connect(&self.postgres, Some("weir_reader"), "weir-trim").await?,
        };
        let places = Places {
            posted: confirmed::posted(&pool).await?,
            answered: confirmed::answered(&pool).await?,
            archived: confirmed::archived(&self.clickhouse).await?,
        };
        self.pool = Some(pool);
        let keep_from = places.keep_from(self.log.partitions());
        let log = Arc::clone(&self.log);
        Ok(task::blocking(move || log.trim(&keep_from, before_us)).await??)
    }
}

/// How far the readers are that record it, per partition. What they have confirmed is in Postgres
/// and in ClickHouse: nobody reads it in the log again, neither after a restart.
struct Places {
    posted: BTreeMap<u32, Confirmed>,
    archived: BTreeMap<u32, Confirmed>,
    /// Of `[rated]`.
    answered: BTreeMap<u32, i64>,
}

impl Places {
    /// From where on each topic and partition is needed by the slowest reader.
    fn keep_from(&self, partitions: u32) -> Vec<(Topic, u32, i64)> {
        let &[usage, rated] = TOPICS else { return Vec::new() };
        let of = |places: &BTreeMap<u32, Confirmed>, partition: u32| {
            places.get(&partition).copied().unwrap_or(NOTHING)
        };
        (0..partitions)
            .flat_map(|partition| {
                let (posted, archived) =
                    (of(&self.posted, partition), of(&self.archived, partition));
                let answered = self.answered.get(&partition).copied().unwrap_or(NOTHING.1);
                let read = posted.1.min(archived.1).min(answered);
                [
                    (usage, partition, posted.0.min(archived.0).saturating_add(1)),
                    (rated, partition, read.saturating_add(1)),
                ]
            })
            .collect()
    }
}

/// Waits; true when a stop was asked for.
async fn pause(length: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => true,
        () = tokio::time::sleep(length) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_reader_decides_and_one_that_has_confirmed_nothing_keeps_all() {
        let places = Places {
            posted: BTreeMap::from([(0, (10, 4)), (1, (7, 7)), (2, (5, 5)), (3, (6, 6))]),
            archived: BTreeMap::from([(0, (8, 3)), (1, (9, 9)), (3, (6, 6))]),
            answered: BTreeMap::from([(0, 4), (1, 6), (2, 5)]),
        };
        let (usage, rated) = (TOPICS[0], TOPICS[1]);
        assert_eq!(
            places.keep_from(4),
            [
                (usage, 0, 9),
                (rated, 0, 4),
                (usage, 1, 8),
                (rated, 1, 7),
                (usage, 2, 0),
                (rated, 2, 0),
                (usage, 3, 7),
                (rated, 3, 0),
            ]
        );
    }
}
