//! What came in, by the log's own blocks, against what the ledger has sealed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use domain::wire::block::BlockHeader;
use ledger::verify::{
    Check,
    windows::{self, Window},
};
use runtime::{
    log::{SharedLog, Topic},
    task,
};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{doctor::target::Target, unseen};
use crate::{client::Client, process};

const NAME: &str = "the log";
const USAGE: Topic = Topic("usage");
/// Newest windows of each partition that are counted again.
const WINDOWS_MAX: i64 = 200;
/// How long the log may take for one answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Counts the blocks of the newest windows. A local log is open in its process, which is asked.
pub async fn check(target: &Target, snapshot: &mut PgConnection) -> Check {
    let looked = match &target.up {
        Some(up) if target.log_folder.is_some() => of_process(&up.http, &up.admin_key).await,
        None if target.log_folder.is_some() => {
            Err(anyhow::anyhow!("a local log is open in the process that has it"))
        }
        _ => of_kafka(target, snapshot).await,
    };
    looked.unwrap_or_else(|error| unseen(NAME, format!("{error:#}")))
}

/// The conservation statement of the process that has the log.
async fn of_process(address: &str, key: &str) -> Result<Check> {
    let mut check = Check::new(NAME);
    let statement = Client::new(address, key)?.get("/v1/conservation").await?;
    let partitions = statement.get("partitions").and_then(Value::as_array);
    for one in partitions.context("the statement has no partitions")? {
        check.rows += 1;
        let number = |name: &str| one.get(name).and_then(Value::as_i64);
        let partition = number("partition").unwrap_or(-1);
        let posted = number("posted_position").context("the statement has no position")?;
        if number("end_position").is_some_and(|end| end <= posted) {
            check.blame(|| {
                format!(
                    "partition {partition}: the ledger is at {posted}, where the log has nothing"
                )
            });
        }
        if one.get("balanced") != Some(&Value::Bool(true)) {
            check.blame(|| format!("partition {partition}: the counts do not balance"));
        }
    }
    Ok(check)
}

async fn of_kafka(target: &Target, snapshot: &mut PgConnection) -> Result<Check> {
    let named = process::kafka_log(&target.config.log).await?;
    let mut check = Check::new(NAME);
    for partition in 0..named.log.partitions() {
        let log = named.log.clone();
        let (first, next) =
            task::blocking(move || log.bounds(USAGE, partition, ANSWER_TIME_MAX)).await??;
        let windows = windows::newest(snapshot, partition, first, WINDOWS_MAX).await?;
        let (Some(oldest), Some(newest)) = (windows.first(), windows.last()) else { continue };
        let (from, to) = (oldest.from, newest.to);
        if to >= next {
            check.blame(|| {
                format!(
                    "partition {partition}: the ledger is at {to}, and the log ends before {next}"
                )
            });
            continue;
        }
        let log = named.log.clone();
        let blocks = task::blocking(move || blocks(&log, partition, (from, to))).await??;
        compare(&mut check, partition, &windows, &blocks);
    }
    Ok(check)
}

/// Events and copies per tenant of a block, by its position.
type Blocks = BTreeMap<i64, Vec<(Uuid, (u64, u64))>>;

fn blocks(log: &SharedLog, partition: u32, (from, to): (i64, i64)) -> Result<Blocks> {
    let mut reader = log.reader(USAGE, partition, from)?;
    let mut blocks = Blocks::new();
    loop {
        let message = reader.next(ANSWER_TIME_MAX)?.context("the log does not answer in time")?;
        if message.position > to {
            return Ok(blocks);
        }
        let header = BlockHeader::decode(&message.payload)?;
        let tenants =
            header.tenants.iter().map(|count| (count.tenant, (count.events, count.copies)));
        blocks.insert(message.position, tenants.collect());
        if message.position == to {
            return Ok(blocks);
        }
    }
}

fn compare(check: &mut Check, partition: u32, windows: &[Window], blocks: &Blocks) {
    for window in windows {
        check.rows += 1;
        let mut counted: BTreeMap<Uuid, (u64, u64)> = BTreeMap::new();
        for (tenant, (events, copies)) in
            blocks.range(window.from..=window.to).flat_map(|(_, tenants)| tenants)
        {
            let sum = counted.entry(*tenant).or_default();
            *sum = (sum.0 + events, sum.1 + copies);
        }
        counted.retain(|_, sums| *sums != (0, 0));
        if counted != window.came_in {
            check.blame(|| {
                format!(
                    "partition {partition}, positions {} to {}: the log has {counted:?} events and copies, the ledger {:?}",
                    window.from, window.to, window.came_in
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_is_counted_by_its_blocks() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let blocks = Blocks::from([
            (4, vec![(one, (2, 0))]),
            (5, vec![(one, (1, 1)), (other, (0, 0))]),
            (7, vec![(other, (3, 0))]),
        ]);
        let window = |from, to, came_in: &[(Uuid, (u64, u64))]| Window {
            from,
            to,
            came_in: came_in.iter().copied().collect(),
        };
        let mut check = Check::new(NAME);
        let right = [window(4, 5, &[(one, (3, 1))]), window(6, 7, &[(other, (3, 0))])];
        compare(&mut check, 9, &right, &blocks);
        assert_eq!((check.rows, check.bad), (2, 0));
        compare(&mut check, 9, &[window(4, 5, &[(one, (3, 0))])], &blocks);
        let first = check.first_bad.unwrap();
        assert!(first.starts_with("partition 9, positions 4 to 5: "), "{first}");
    }
}
