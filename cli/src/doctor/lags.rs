//! How far rating, posting and archiving are behind, per partition.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use runtime::{clickhouse::ClickHouse, log::SharedLog, task, task::now_us};
use tokio::time::timeout;

use super::{ANSWER_TIME_MAX, Report, database::Database, processes, target::Target};
use crate::{
    lag::{self, Lag, Stage},
    measures::positions,
    store::confirmed,
};

/// Half of the 7 days for which `weir migrate` makes the topics keep their messages.
const HALF_OF_RETENTION_S: i64 = 302_400;
const STAGES: [Stage; 3] = [Stage::Rated, Stage::Posted, Stage::Archived];

/// Measures and judges. A local log is open in its process, which has measured it.
pub async fn check(
    target: &Target,
    log: Option<SharedLog>,
    database: &Database,
    report: &mut Report,
) {
    let measured = match (log, &target.up) {
        (Some(log), _) => measure(log, target, database, report).await,
        (None, Some(up)) if target.log_folder.is_some() => of_process(&up.http).await,
        // The check of the log has said why.
        _ => return,
    };
    match measured {
        Ok(lags) => {
            for stage in STAGES {
                let of_stage: Vec<Lag> =
                    lags.iter().filter(|lag| lag.stage == stage).copied().collect();
                if !of_stage.is_empty() {
                    judge(stage, &of_stage, target.lag_s, report);
                }
            }
        }
        Err(error) => report.wrong("lag", format!("{error:#}"), "see what is wrong above"),
    }
}

async fn measure(
    log: SharedLog,
    target: &Target,
    database: &Database,
    report: &mut Report,
) -> Result<Vec<Lag>> {
    let posted = positions(confirmed::posted(&database.pool).await?);
    let clickhouse = ClickHouse::new(&target.config.clickhouse);
    let archived = timeout(ANSWER_TIME_MAX, confirmed::archived(&clickhouse)).await;
    let archived = archived.ok().and_then(Result::ok).map(positions);
    let now = now_us();
    let (lags, newest) = task::blocking(move || {
        let log = log.as_ref();
        let rated = lag::rated(log, &mut BTreeMap::new())?;
        let mut lags = lag::of_stage(log, Stage::Rated, &rated, now)?;
        lags.extend(lag::of_stage(log, Stage::Posted, &posted, now)?);
        if let Some(archived) = archived {
            lags.extend(lag::of_stage(log, Stage::Archived, &archived, now)?);
        }
        Ok::<_, runtime::log::LogError>((lags, lag::newest_append_time(log)?))
    })
    .await??;
    // When the brokers appended last is not known to the second: only a clock before ours shows.
    if let Some(newest_us) = newest {
        report.clock("log", newest_us.max(now), (now, now));
    }
    Ok(lags)
}

/// What the process with the log says in `/metrics`.
async fn of_process(address: &str) -> Result<Vec<Lag>> {
    let text = processes::get(address, "/metrics").await?.1;
    let seconds = processes::gauges(&text, "weir_lag_seconds");
    let blocks = processes::gauges(&text, "weir_lag_blocks");
    anyhow::ensure!(!seconds.is_empty(), "{address} has not measured its lag yet");
    let lag = |(labels, seconds): (&BTreeMap<String, String>, &i64)| {
        let stage = STAGES
            .into_iter()
            .find(|stage| labels.get("stage").is_some_and(|it| it == stage.name()))?;
        let partition = labels.get("partition")?.parse().ok()?;
        let blocks = blocks.get(labels).copied().unwrap_or_default();
        Some(Lag { stage, partition, blocks, seconds: *seconds, lost: 0 })
    };
    seconds.iter().map(lag).collect::<Option<_>>().context("weir_lag_seconds has other labels")
}

fn judge(stage: Stage, lags: &[Lag], limit_s: i64, report: &mut Report) {
    let check = format!("lag.{}", stage.name());
    let behind: Vec<String> = lags
        .iter()
        .filter(|lag| lag.blocks > 0 && lag.seconds >= limit_s)
        .map(|lag| format!("partition {}: {} blocks, {} s", lag.partition, lag.blocks, lag.seconds))
        .collect();
    let lost: i64 = lags.iter().map(|lag| lag.lost).sum();
    let oldest = lags.iter().map(|lag| lag.seconds).max().unwrap_or_default();
    let waiting: i64 = lags.iter().map(|lag| lag.blocks).sum();
    if lost > 0 {
        let found = format!("{lost} blocks have left the log before they were {}", stage.name());
        report.wrong(&check, found, "lengthen the topics' retention now, and restore the blocks");
    } else if oldest > HALF_OF_RETENTION_S {
        let found = format!("half of the retention has passed: {}", behind.join("; "));
        let action = format!("lengthen the topics' retention now, and start {}s", stage.role());
        report.wrong(&check, found, &action);
    } else if behind.is_empty() {
        let partitions = lags.len();
        report.ok(
            &check,
            format!("{waiting} blocks wait in {partitions} partitions, the oldest for {oldest} s"),
        );
    } else {
        let action =
            format!("look at /ready and the log of the {}, or start more of them", stage.role());
        report.warning(&check, behind.join("; "), &action);
    }
}
