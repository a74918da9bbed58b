//! What the archive says of the same events: counts, sums of lines, and whether it is whole.
//!
//! Positions are compared, never times: a snapshot of Postgres stands still at `X` while the archive
//! goes on, and what lies up to `X` never changes in it. `LIMIT 1 BY` in the table's order takes a row
//! once, however often it was inserted, in constant memory.

use std::collections::BTreeMap;

use domain::time;
use runtime::{clickhouse::ClickHouse, postgres::PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Check, VerifyError,
    compare::{Key, Sums, compare, number, text},
};
use crate::convert::{integer, partition as read_partition};

/// What two rows of one place may not differ in.
const CONTENT: &str = "sipHash64(identity, content_hash, event_id, source, type, subject, user, outcome, catalog_version,
    toString(lines.meter), toString(lines.quantity), toString(lines.card), toString(lines.card_version), toString(lines.charge),
    toString(lines.cost), raw_hash)";
/// What a row of `usage_events` is sorted and known by.
const ORDER: &str = "tenant_id, team, time, partition, position, `index`, rating_run, sign";

/// Last positions, inclusive, by partition.
pub type Ends = BTreeMap<u32, i64>;

/// How far the archive is: `A` of each of the partitions that has any.
pub async fn archived(clickhouse: &ClickHouse, partitions: u32) -> Result<Ends, VerifyError> {
    let sql = format!(
        "SELECT partition, toString(max(to_x)) AS position FROM archived WHERE partition < {partitions} GROUP BY partition"
    );
    let mut ends = Ends::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        ends.insert(number(&row, "partition")?, number(&row, "position")?);
    }
    Ok(ends)
}

/// How far the ledger is: `X` of each partition.
pub async fn posted(connection: &mut PgConnection) -> Result<Ends, PostgresError> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT partition, x FROM partitions WHERE partition < (SELECT partitions FROM installation)")
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|(partition, x)| Ok((read_partition(partition)?, x))).collect()
}

/// Ends of the newest windows that the archive has whole.
pub async fn common(connection: &mut PgConnection, archived: &Ends) -> Result<Ends, PostgresError> {
    let rows: Vec<(i32, Option<i64>)> = sqlx::query_as(
        "SELECT w.partition, (SELECT max(a.position_to) FROM audit a WHERE a.partition = w.partition AND a.position_to <= w.upto)
         FROM UNNEST($1::int[], $2::bigint[]) AS w (partition, upto)",
    )
    .bind(archived.keys().map(|partition| integer(*partition)).collect::<Vec<_>>())
    .bind(archived.values().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(partition, end)| Ok((read_partition(partition)?, end.unwrap_or(-1))))
        .collect()
}

/// A condition that a partition and its `position`, a column, lie within the ends.
pub(super) fn within(ends: &Ends, position: &str) -> String {
    let count = ends.keys().next_back().map_or(0, |last| last.saturating_add(1));
    let end = |partition: u32| ends.get(&partition).copied().unwrap_or(-1).to_string();
    let all: Vec<String> = (0..count).map(end).collect();
    if all.is_empty() {
        return "false".to_owned();
    }
    let all = all.join(", ");
    format!(
        "partition < {count} AND {position} <= arrayElement([{all}]::Array(Int64), partition + 1)"
    )
}

/// The insert groups follow each other from the first position on, and their rows are there.
pub async fn groups(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    archived: &Ends,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("archived groups");
    cut_tails(&mut check, connection, archived).await?;
    let gaps = "SELECT partition, toString(from_x) AS position, toString(before) AS last FROM (
            SELECT partition, from_x, to_x, lagInFrame(to_x, 1, toInt64(-1)) OVER (PARTITION BY partition ORDER BY to_x, from_x
                ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
            FROM (SELECT DISTINCT partition, from_x, to_x FROM archived))
        WHERE from_x != before + 1 ORDER BY partition, from_x LIMIT 100";
    for row in clickhouse.query_json_rows(gaps, &[]).await? {
        let (partition, from): (u32, i64) = (number(&row, "partition")?, number(&row, "position")?);
        let before = text(&row, "last")?;
        check.blame(|| {
            format!(
                "partition {partition}: the group from position {from} follows on position {before}"
            )
        });
    }
    // Groups that were added since do not count.
    let filter = within(archived, "to_x");
    let said = format!(
        "SELECT partition, count() AS groups, toString(sum(rows)) AS all_rows, toString(sum(others)) AS all_others
         FROM (SELECT DISTINCT partition, from_x, to_x, rows, others FROM archived WHERE {filter}) GROUP BY partition"
    );
    let mut expected = Sums::new();
    for row in clickhouse.query_json_rows(&said, &[]).await? {
        let partition: u32 = number(&row, "partition")?;
        check.rows = check.rows.saturating_add(number(&row, "groups")?);
        let counts = vec![number(&row, "all_rows")?, number(&row, "all_others")?];
        expected.insert(format!("partition {partition}"), counts);
    }
    let found = found_rows(clickhouse, archived).await?;
    for (partition, counts) in &expected {
        let there = found.get(partition).cloned().unwrap_or_else(|| vec![0, 0]);
        if there != *counts {
            check.blame(|| {
                format!(
                    "{partition}: its groups have {counts:?} rows and others, the tables {there:?}"
                )
            });
        }
    }
    Ok(check)
}

/// Where each partition's archive was when its newest group was begun: that happens only after the
/// group before is archived, so it never ends before that.
pub async fn reached(connection: &mut PgConnection) -> Result<Ends, PostgresError> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT partition, max(from_x) - 1 FROM archive_groups GROUP BY partition")
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|(partition, x)| Ok((read_partition(partition)?, x))).collect()
}

async fn cut_tails(
    check: &mut Check,
    connection: &mut PgConnection,
    archived: &Ends,
) -> Result<(), PostgresError> {
    for (partition, before) in reached(connection).await? {
        let end = archived.get(&partition).copied().unwrap_or(-1);
        if end < before {
            check.blame(|| {
                format!(
                    "partition {partition}: the archive has ended at position {before} before, and ends at {end} now"
                )
            });
        }
    }
    Ok(())
}

async fn found_rows(clickhouse: &ClickHouse, archived: &Ends) -> Result<Sums, VerifyError> {
    let mut found = Sums::new();
    let filter = within(archived, "position");
    let queries = [
        (
            0,
            format!(
                "SELECT partition, count() AS rows FROM (SELECT partition FROM usage_events WHERE {filter} ORDER BY {ORDER} LIMIT 1 BY {ORDER}) GROUP BY partition"
            ),
        ),
        (
            1,
            format!(
                "SELECT partition, count() AS rows FROM (SELECT DISTINCT partition, position, `index` FROM rejected_events WHERE {filter}) GROUP BY partition"
            ),
        ),
    ];
    for (place, sql) in queries {
        for row in clickhouse.query_json_rows(&sql, &[]).await? {
            let partition: u32 = number(&row, "partition")?;
            let counts =
                found.entry(format!("partition {partition}")).or_insert_with(|| vec![0, 0]);
            if let Some(count) = counts.get_mut(place) {
                *count = number(&row, "rows")?;
            }
        }
    }
    Ok(found)
}

/// A row that was inserted again says the same as before.
pub async fn repeats(clickhouse: &ClickHouse) -> Result<Check, VerifyError> {
    let mut check = Check::new("repeated rows");
    let sql = format!(
        "SELECT partition, toString(position) AS position, `index` AS place, uniqExact({CONTENT}) AS different FROM usage_events
         WHERE ({ORDER}) IN (SELECT {ORDER} FROM usage_events GROUP BY {ORDER} HAVING count() > 1 SETTINGS optimize_aggregation_in_order = 1)
         GROUP BY {ORDER} ORDER BY partition, position, place LIMIT 100000"
    );
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        check.rows += 1;
        if number::<u64>(&row, "different")? > 1 {
            let (partition, place): (u32, u32) =
                (number(&row, "partition")?, number(&row, "place")?);
            let position = text(&row, "position")?;
            check.blame(|| {
                format!("the event {partition}:{position}:{place} is there with two contents")
            });
        }
    }
    Ok(check)
}

/// No event up to `X` was appended after the partition's append time: an owner that believes it would
/// take the repeats of such events for new ones. Nor does it lie in the future, unless the log's own
/// clock has put an event there; clocks may differ by what events may lie in the future.
pub async fn append_times(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    posted: &Ends,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("append times");
    let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
        "SELECT partition, (extract(epoch FROM append_time) * 1000000)::bigint, (extract(epoch FROM now()) * 1000000)::bigint
         FROM partitions ORDER BY partition",
    )
    .fetch_all(connection)
    .await?;
    let newest = newest_rows(clickhouse, posted).await?;
    for (partition, append_time_us, now_us) in rows {
        check.rows += 1;
        let row_us = newest.get(&read_partition(partition)?).copied().unwrap_or(i64::MIN);
        let kept = time::format(append_time_us);
        if append_time_us < row_us {
            let row = time::format(row_us);
            check.blame(|| {
                format!("partition {partition}: its append time is {kept}, and an event of {row} is posted")
            });
        } else if append_time_us > row_us.max(now_us.saturating_add(time::FUTURE_US_MAX)) {
            check.blame(|| {
                format!("partition {partition}: its append time {kept} lies in the future")
            });
        }
    }
    Ok(check)
}

/// The newest append time of the archive's rows up to `X`, by partition.
async fn newest_rows(
    clickhouse: &ClickHouse,
    posted: &Ends,
) -> Result<BTreeMap<u32, i64>, VerifyError> {
    let filter = within(posted, "position");
    let sql = format!(
        "SELECT partition, toString(toUnixTimestamp64Micro(max(append_time))) AS newest
         FROM (SELECT partition, append_time FROM usage_events WHERE {filter}
             UNION ALL SELECT partition, append_time FROM rejected_events WHERE {filter})
         GROUP BY partition"
    );
    let mut newest = BTreeMap::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        newest.insert(number(&row, "partition")?, number(&row, "newest")?);
    }
    Ok(newest)
}

/// Outcomes of events per partition and tenant: as sealed in the ledger, and as rows of the archive.
pub async fn counts(
    connection: &mut PgConnection,
    clickhouse: &ClickHouse,
    ends: &Ends,
) -> Result<Check, VerifyError> {
    let mut check = Check::new("conservation in the archive");
    compare(
        &mut check,
        &sealed_counts(connection, ends).await?,
        &archived_counts(clickhouse, ends).await?,
    );
    Ok(check)
}

fn outcome_key(partition: u32, tenant: Uuid, outcome: &str) -> Key {
    format!("partition {partition}, tenant {tenant}, {outcome} events")
}

async fn sealed_counts(connection: &mut PgConnection, ends: &Ends) -> Result<Sums, VerifyError> {
    const OUTCOMES: [&str; 6] =
        ["rated", "unmetered", "unpriced", "duplicate", "conflict", "rejected"];
    let rows: Vec<(i32, Uuid, Vec<i64>)> = sqlx::query_as(
        "SELECT a.partition, split_part(one, '=', 1)::uuid AS tenant, ARRAY[sum(n[3]), sum(n[4]), sum(n[5]), sum(n[6]), sum(n[7]), sum(n[8])]::bigint[]
         FROM UNNEST($1::int[], $2::bigint[]) AS w (partition, upto)
         JOIN audit a ON a.partition = w.partition AND a.position_to <= w.upto,
             regexp_split_to_table(a.counts, ';') AS one, LATERAL (SELECT string_to_array(split_part(one, '=', 2), ',')::numeric[] AS n) AS numbers
         WHERE one ~ '^[0-9a-f-]{36}=([0-9]+,){9}[0-9]+$'
         GROUP BY a.partition, tenant",
    )
    .bind(ends.keys().map(|partition| integer(*partition)).collect::<Vec<_>>())
    .bind(ends.values().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut sums = Sums::new();
    for (partition, tenant, counts) in rows {
        let partition = read_partition(partition)?;
        for (outcome, count) in OUTCOMES.iter().zip(counts) {
            sums.insert(outcome_key(partition, tenant, outcome), vec![i128::from(count)]);
        }
    }
    Ok(sums)
}

async fn archived_counts(clickhouse: &ClickHouse, ends: &Ends) -> Result<Sums, VerifyError> {
    let filter = within(ends, "position");
    let sql = format!(
        "SELECT partition, toString(tenant_id) AS tenant, toString(outcome) AS kind, count() AS events
         FROM (SELECT partition, tenant_id, outcome FROM usage_events WHERE rating_run = 0 AND {filter} ORDER BY {ORDER} LIMIT 1 BY {ORDER})
         GROUP BY partition, tenant, kind
         UNION ALL
         SELECT partition, toString(tenant_id) AS tenant, toString(outcome) AS kind, count() AS events
         FROM (SELECT DISTINCT partition, tenant_id, position, `index`, outcome FROM rejected_events
             WHERE {filter} AND outcome != 'uncorrected')
         GROUP BY partition, tenant, kind"
    );
    let mut sums = Sums::new();
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        let tenant: Uuid = number(&row, "tenant")?;
        let key = outcome_key(number(&row, "partition")?, tenant, text(&row, "kind")?);
        sums.insert(key, vec![number(&row, "events")?]);
    }
    Ok(sums)
}
