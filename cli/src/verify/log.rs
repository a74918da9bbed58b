//! What came in, by the log's own blocks, against what the ledger has sealed; and that neither the
//! archive nor the slow lane is where the log is not. A local log is read beside its process.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use domain::wire::block::BlockHeader;
use ledger::{
    install::Installation,
    verify::{
        Check,
        archive::Ends,
        late,
        windows::{self, Window},
    },
};
use runtime::{
    log::{SharedLog, Topic},
    task,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{doctor::target::Target, lane};
use crate::process;

const NAME: &str = "the log";
const USAGE: Topic = Topic("usage");
/// Newest windows of each partition that are counted again.
const WINDOWS_MAX: i64 = 200;
/// How long the log may take for one answer.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Counts the blocks of the newest windows. `archived` was read before the log.
pub async fn check(
    target: &Target,
    installation: &Installation,
    snapshot: &mut PgConnection,
    archived: Option<&Ends>,
) -> Check {
    let mut check = Check::new(NAME);
    let looked = match open(target, installation).await {
        Ok(log) => look(&mut check, &log, snapshot, archived).await,
        Err(error) => Err(error),
    };
    check.left_out = looked.err().map(|error| format!("{error:#}"));
    check
}

/// The log that the database belongs to.
async fn open(target: &Target, installation: &Installation) -> Result<SharedLog> {
    let named = match &target.log_folder {
        Some(folder) => process::local_view(Path::new(folder), installation.partitions).await?,
        None => process::kafka_log(&target.config.log).await?,
    };
    let (name, own) = (&named.name, &installation.log_name);
    ensure!(name == own, "this is the log {name}, and the database belongs to {own}");
    Ok(named.log)
}

async fn look(
    check: &mut Check,
    log: &SharedLog,
    snapshot: &mut PgConnection,
    archived: Option<&Ends>,
) -> Result<()> {
    for partition in 0..log.partitions() {
        let (first, next) = bounds(log, USAGE, partition).await?;
        if let Some(archived) = archived.and_then(|ends| ends.get(&partition))
            && *archived >= next
        {
            check.blame(|| {
                format!("partition {partition}: the archive is at {archived}, and the log ends before {next}")
            });
        }
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
        compare(check, partition, &windows, &blocks(log, partition, (from, to)).await?);
    }
    for lane in late::lanes(snapshot).await? {
        lane::check_place(check, log, lane).await?;
    }
    for unposted in late::unposted(snapshot).await? {
        check_copies(check, log, unposted).await?;
    }
    Ok(())
}

/// `(first, next)`: the first position that the log holds, and the one after its last.
pub(super) async fn bounds(log: &SharedLog, topic: Topic, partition: u32) -> Result<(i64, i64)> {
    let log = log.clone();
    Ok(task::blocking(move || log.bounds(topic, partition, ANSWER_TIME_MAX)).await??)
}

/// Answers of the slow lane that are not posted have their copies after `X`.
async fn check_copies(check: &mut Check, log: &SharedLog, unposted: late::Unposted) -> Result<()> {
    let late::Unposted { partition, posted, tenant, copies } = unposted;
    check.rows += 1;
    let (_, next) = bounds(log, USAGE, partition).await?;
    let there = match posted + 1 < next {
        true => blocks(log, partition, (posted + 1, next - 1)).await?,
        false => Blocks::new(),
    };
    let own = there.values().flatten().filter(|(of, _)| *of == tenant);
    let found: u64 = own.map(|(_, (_, copies))| copies).sum();
    if found < copies {
        check.blame(|| {
            format!(
                "partition {partition}, tenant {tenant}: {copies} late events are answered and not posted, \
                 and the log has {found} copies after position {posted}"
            )
        });
    }
    Ok(())
}

/// Events and copies per tenant of a block, by its position.
type Blocks = BTreeMap<i64, Vec<(Uuid, (u64, u64))>>;

async fn blocks(log: &SharedLog, partition: u32, (from, to): (i64, i64)) -> Result<Blocks> {
    let log = log.clone();
    task::blocking(move || read_blocks(&log, partition, (from, to))).await?
}

fn read_blocks(log: &SharedLog, partition: u32, (from, to): (i64, i64)) -> Result<Blocks> {
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
