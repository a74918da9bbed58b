//! What waits beside the log: late events for an answer of the archive, and messages of doors.
//!
//! That something waits is usual; that it does not go on is not. So what waits is looked at twice.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use ingest::doors;
use runtime::{
    log::kafka::{Uncommitted, uncommitted},
    task,
};

use super::{Report, database::Database, target::Target};
use crate::{
    process,
    store::{confirmed, tenants},
};

const LATE: &str = "late";
const DOORS: &str = "doors";
/// Between two looks at doors, which commit at least every second.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// The slow lane waits up to ten seconds for the archive to come as far as an event.
const LOOK_AGAIN_AT_LATE: Duration = Duration::from_secs(12);

/// Checks both; doors are topics of Kafka.
pub async fn check(target: &Target, kafka: bool, database: &Database, report: &mut Report) {
    if let Err(error) = late(database, report).await {
        report.wrong(LATE, format!("{error:#}"), "see what is wrong above");
    }
    if kafka && let Err(error) = check_doors(target, database, report).await {
        let action = "grant Weir's principal what deploy/kafka/acls.sh grants";
        report.wrong(DOORS, format!("{error:#}"), action);
    }
}

async fn late(database: &Database, report: &mut Report) -> Result<()> {
    let mut waiting = confirmed::late(&database.pool).await?;
    waiting.retain(|_, late| late.waiting > 0);
    let all: i64 = waiting.values().map(|late| late.waiting).sum();
    if all > 0 {
        tokio::time::sleep(LOOK_AGAIN_AT_LATE).await;
        let after = confirmed::late(&database.pool).await?;
        let stands = |partition: &u32, late: &confirmed::Late| {
            after.get(partition).is_some_and(|after| after.place == late.place)
        };
        waiting.retain(|partition, late| stands(partition, late));
    }
    if waiting.is_empty() {
        report.ok(LATE, format!("{all} late events waited for an answer, and none in vain"));
        return Ok(());
    }
    let stuck: Vec<String> = waiting
        .iter()
        .map(|(partition, late)| format!("partition {partition}: {}", late.waiting))
        .collect();
    let action = "they wait for the archive, and for the rater that owns the partition: look at clickhouse, \
                  at lag.archived and at the rater's /ready";
    report.warning(LATE, format!("late events get no answer: {}", stuck.join("; ")), action);
    Ok(())
}

async fn check_doors(target: &Target, database: &Database, report: &mut Report) -> Result<()> {
    let before = ask(target).await?;
    let tenants = tenants::open(&database.pool).await?;
    let after = if before.values().any(|door| waiting(door) > 0) {
        tokio::time::sleep(LOOK_AGAIN).await;
        ask(target).await?
    } else {
        before.clone()
    };
    let mut well = 0;
    for (tenant, partitions) in &after {
        let door = format!("the door of {tenant}");
        let lost: i64 = partitions.values().map(|partition| partition.lost).sum();
        if lost > 0 {
            let found = format!("{lost} messages have left {door} before they were read");
            let action = "lengthen its retention, and have its tools send them again; unless they were \
                          markers of a transactional producer";
            report.warning(DOORS, found, action);
        }
        let unread = unread(before.get(tenant), partitions);
        if waiting(partitions) > 0 && !tenants.contains(tenant) {
            let found = format!(
                "{door}: {} messages wait, and no tenant has this key or it is disabled",
                waiting(partitions)
            );
            let action = "`weir tenants create` or `enable` it, or delete the topic";
            report.warning(DOORS, found, action);
        } else if !unread.is_empty() {
            let found = format!("{door}: messages wait, and are not read: {}", unread.join("; "));
            let action = "look at ingest's /ready and warnings; a subject whose alias is being decided holds its \
                          door up for minutes, and a marker of a transactional producer waits for the next message";
            report.warning(DOORS, found, action);
        } else {
            well += 1;
        }
    }
    report.ok(DOORS, format!("{well} of {} doors are read", after.len()));
    Ok(())
}

type Door = BTreeMap<i32, Uncommitted>;

fn waiting(door: &Door) -> i64 {
    door.values().map(|partition| partition.messages).sum()
}

/// The partitions that held messages at both looks and were not read on in between.
fn unread(before: Option<&Door>, after: &Door) -> Vec<String> {
    let stands = |(number, partition): &(&i32, &Uncommitted)| {
        let before = before.and_then(|before| before.get(number));
        partition.messages > 0
            && before.is_some_and(|before| before.messages > 0 && before.next == partition.next)
    };
    let said = |(number, partition): (&i32, &Uncommitted)| {
        format!("partition {number}: {}", partition.messages)
    };
    after.iter().filter(stands).map(said).collect()
}

async fn ask(target: &Target) -> Result<BTreeMap<String, Door>> {
    let options = process::kafka_options(&target.config.log);
    Ok(task::blocking(move || uncommitted(&options, doors::DOORS, doors::GROUP)).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(partitions: &[(i32, i64, i64)]) -> Door {
        let partition = |(number, messages, next): &(i32, i64, i64)| {
            (*number, Uncommitted { messages: *messages, next: *next, lost: 0 })
        };
        partitions.iter().map(partition).collect()
    }

    #[test]
    fn a_partition_that_stands_is_found_beside_those_that_are_read() {
        let before = door(&[(0, 3, 7), (1, 5, 7), (2, 0, 9), (3, 2, 1)]);
        // The first is read, the second stands, the third has just got one, the fourth is read to its end.
        let after = door(&[(0, 9, 8), (1, 6, 7), (2, 1, 9), (3, 0, 3)]);
        assert_eq!(unread(Some(&before), &after), ["partition 1: 6"]);
        assert_eq!(
            unread(None, &after),
            Vec::<String>::new(),
            "it was not there at the first look"
        );
    }
}
