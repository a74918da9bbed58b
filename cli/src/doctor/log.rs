//! The log: Kafka's settings, or the folder and its disk; and whether the database belongs to it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use runtime::{
    config::LogConfig,
    log::{
        SharedLog,
        kafka::{KafkaLog, KafkaOptions, cluster_id},
        local::Created,
    },
    task,
};

use super::{Report, database::Database, target::Target};
use crate::{measures, process};

/// How long the cluster may take to answer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(8);
/// A file that is no part of a log.
const PROBE: &str = "doctor.probe";

/// Checks it; the log itself where this process can read it, which is Kafka.
pub async fn check(
    target: &Target,
    database: Option<&Database>,
    report: &mut Report,
) -> Option<SharedLog> {
    let (found, log) = match &target.log_folder {
        Some(folder) => (local(&target.config.log, folder, report), None),
        None => kafka(target, report).await,
    };
    if let (Some(found), Some(database)) = (found, database) {
        match database.installation.check(found.partitions, &found.name) {
            Ok(()) => report.ok("log.installation", "the database belongs to this log"),
            Err(error) => {
                let action = "set log.partitions, the brokers, or the database's URL right";
                report.wrong("log.installation", error.to_string(), action);
            }
        }
    }
    log
}

/// What is expected of the database's installation.
struct Found {
    name: String,
    partitions: u32,
}

/// The log in the folder.
fn local(config: &LogConfig, folder: &Path, report: &mut Report) -> Option<Found> {
    match Created::read(folder) {
        Ok(created) => {
            report.ok("log", format!("the local log is in {}", folder.display()));
            match measures::disk(folder) {
                Ok(space) => report.disk("log.disk", space),
                Err(error) => report.wrong("log.disk", format!("{error:#}"), "mend the disk"),
            }
            match write_durably(folder) {
                Ok(()) => report.ok("log.sync", "a file can be written and synced"),
                Err(error) => {
                    let action = "mend the disk or its rights, and run this as Weir's user";
                    report.wrong("log.sync", format!("{error:#}"), action);
                }
            }
            let partitions = config.partitions_or(created.partitions);
            Some(Found { name: created.name(), partitions })
        }
        Err(error) => {
            let action = "name its folder (log.directory), or restore it from the backup";
            report.wrong("log", error.to_string(), action);
            None
        }
    }
}

fn write_durably(folder: &Path) -> Result<()> {
    let path = folder.join(PROBE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()
    });
    let _ = fs::remove_file(&path);
    written.with_context(|| format!("cannot write and sync {}", path.display()))
}

/// The log in the cluster, where it can be opened too.
async fn kafka(target: &Target, report: &mut Report) -> (Option<Found>, Option<SharedLog>) {
    let config = &target.config.log;
    let partitions = process::kafka_partitions(config);
    let found = |id, prefix| Some(Found { name: format!("kafka-{id}-{prefix}"), partitions });
    let options =
        KafkaOptions { connect_timeout: CONNECT_TIME_MAX, ..process::kafka_options(config) };
    let prefix = options.prefix.clone();
    let asked = task::blocking(move || {
        let id = cluster_id(&options)?;
        Ok::<_, runtime::log::LogError>((id, KafkaLog::connect(options)))
    });
    let answered = asked.await.map_err(anyhow::Error::from).and_then(|asked| Ok(asked?));
    match answered {
        Ok((id, Ok(log))) => {
            report.ok("log", format!("Kafka at {} keeps its promises", config.kafka.brokers));
            (found(id, prefix), Some(log))
        }
        Ok((id, Err(error))) => {
            report.wrong(
                "log",
                error.to_string(),
                "change the topic with kafka-configs, or run `weir migrate`",
            );
            (found(id, prefix), None)
        }
        Err(error) => {
            let action = "start the brokers, or mend log.kafka (WEIR_KAFKA_BROKERS); ingest answers 503 meanwhile";
            report.wrong("log", format!("{}: {error:#}", config.kafka.brokers), action);
            (None, None)
        }
    }
}
