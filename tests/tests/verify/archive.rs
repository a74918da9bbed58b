//! Tampering with ClickHouse: each case on the tables themselves, which are then put back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use runtime::clickhouse::ClickHouse;
use tests::{
    seed::Moments,
    system::{System, integer},
};

use super::{
    Said,
    tampering::{found, look_at_archive},
};

/// The tables, with columns that are made by ClickHouse left out of none.
const TABLES: [&str; 4] = ["usage_events", "rejected_events", "archived", "audit_heads"];
/// Mutations are done when they are answered.
const NOW: &str = "SETTINGS mutations_sync = 2";

/// The kind of a tampering, and the statement; `{row}` is a condition on one row of the table.
type Case = (&'static str, &'static str, &'static str);

/// What sums, counts, groups and copied heads show.
const CASES: &[Case] = &[
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.charge` = arrayMap(x -> x + toDecimal128('0.000000000001', 12), lines.charge) WHERE {row} AND length(lines.charge) > 0",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.cost` = arrayMap(x -> x + toDecimal128('0.000000000001', 12), lines.cost) WHERE {row}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.quantity` = arrayMap(x -> toDecimal128(x + 1, 12), lines.quantity) WHERE {row}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.card_version` = arrayMap(x -> toUInt32(x + 1), lines.card_version) WHERE {row}",
    ),
    ("update", "usage_events", "ALTER TABLE usage_events UPDATE outcome = 'unpriced' WHERE {row}"),
    ("delete", "usage_events", "ALTER TABLE usage_events DELETE WHERE {row}"),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (position - 1000000 AS position) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (arrayMap(x -> x + toDecimal128('1', 12), lines.charge) AS `lines.charge`) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    // What no check of sums looks at, and readers of usage do.
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (1 AS rating_run) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (-1 AS sign, 1 AS rating_run) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (3 AS partition) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (position + 1000000 AS position) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "insert",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (4000000000 AS partition) FROM (SELECT * FROM rejected_events WHERE {row})",
    ),
    (
        "insert",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position + 1000000 AS position) FROM (SELECT * FROM rejected_events WHERE {row})",
    ),
    (
        "insert",
        "archived",
        "INSERT INTO archived SELECT * REPLACE (4000000000 AS partition) FROM (SELECT * FROM archived WHERE {row})",
    ),
    ("delete", "rejected_events", "ALTER TABLE rejected_events DELETE WHERE {row}"),
    (
        "update",
        "rejected_events",
        "ALTER TABLE rejected_events UPDATE outcome = if(outcome = 'rejected', 'conflict', 'rejected') WHERE {row}",
    ),
    (
        "insert",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position - 1000000 AS position) FROM (SELECT * FROM rejected_events WHERE {row})",
    ),
    ("delete", "archived", "ALTER TABLE archived DELETE WHERE {row}"),
    ("update", "archived", "ALTER TABLE archived UPDATE rows = rows + 1 WHERE {row}"),
    ("truncate", "usage_events", "TRUNCATE TABLE usage_events"),
    ("truncate", "rejected_events", "TRUNCATE TABLE rejected_events"),
    (
        "update",
        "audit_heads",
        "ALTER TABLE audit_heads UPDATE hash = unhex(repeat('ab', 32)) WHERE {row}",
    ),
];

/// INV-08: what only rating again shows: sums, counts and groups stay as they were.
const CASES_OF_RATING: &[Case] = &[
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE raw = replaceOne(raw, 'id', 'iD') WHERE {row}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE identity = identity + 1 WHERE {row}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.unit` = arrayMap(x -> concat(x, 'x'), lines.unit) WHERE {row}",
    ),
    (
        "swap",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.dimensions` = arrayMap(x -> map('model', 'other'), lines.dimensions) WHERE {row}",
    ),
];

/// Tampers in every way, and counts.
pub async fn tamper(
    system: &System,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    let clickhouse = system.clickhouse();
    let mut connection = system.postgres().await?;
    for table in TABLES {
        clickhouse.execute(&format!("CREATE TABLE {table}_kept AS {table}")).await?;
        clickhouse.execute(&format!("INSERT INTO {table}_kept SELECT * FROM {table}")).await?;
    }
    for (kind, table, statement) in CASES {
        let statement = change(clickhouse, moments, table, statement).await?;
        let copies = ledger::verify::heads::copies(clickhouse).await?;
        let checks = look_at_archive(&mut connection, system, &copies).await?;
        found(&statement, "", &checks)?;
        restore(clickhouse, table).await?;
        *faults.entry(kind).or_default() += 1;
    }
    let copies = ledger::verify::heads::copies(clickhouse).await?;
    let clean = look_at_archive(&mut connection, system, &copies).await?;
    ensure!(clean.iter().all(ledger::verify::Check::holds), "{clean:?}");
    for (kind, table, statement) in CASES_OF_RATING {
        let statement = change(clickhouse, moments, table, statement).await?;
        let said = Said::of_up(system, &["--sample", "100000"]).await?;
        ensure!(said.code == Some(1), "{statement}: {}", said.document);
        let ratings = said.check("ratings")?;
        ensure!(ratings["bad"] == 1 && ratings["first_bad"].is_string(), "{statement}: {ratings}");
        restore(clickhouse, table).await?;
        *faults.entry(kind).or_default() += 1;
    }
    Ok(())
}

/// Changes a row chosen by chance.
async fn change(
    clickhouse: &ClickHouse,
    moments: &mut Moments,
    table: &str,
    statement: &str,
) -> Result<String> {
    let columns = match table {
        "archived" => "partition, to_x AS position, 0 AS place",
        "audit_heads" => "partition, position_to AS position, 0 AS place",
        _ => "partition, position, `index` AS place",
    };
    // A row with lines, and not the last group: what lies after the end of `archived` is not looked at.
    let condition = match table {
        "usage_events" => {
            "WHERE length(lines.cost) > 0 AND outcome = 'rated' AND lines.charge[1] > 0"
        }
        "archived" => {
            "WHERE (partition, to_x) NOT IN (SELECT partition, max(to_x) FROM archived GROUP BY partition)"
        }
        _ => "",
    };
    let seed = moments.bits();
    let sql = format!(
        "SELECT {columns} FROM {table} {condition} ORDER BY sipHash64(toUInt64({seed}), partition, position, place) LIMIT 1"
    );
    let rows = clickhouse.query_json_rows(&sql, &[]).await?;
    let row = rows.first().with_context(|| format!("{table} has no such row"))?;
    let (partition, position, place) =
        (integer(&row["partition"])?, integer(&row["position"])?, integer(&row["place"])?);
    let row = match table {
        "archived" => format!("(partition = {partition} AND to_x = {position})"),
        "audit_heads" => format!("(partition = {partition} AND position_to = {position})"),
        _ => format!("(partition = {partition} AND position = {position} AND `index` = {place})"),
    };
    let mut statement = statement.replace("{row}", &row);
    if statement.starts_with("ALTER") {
        statement = format!("{statement} {NOW}");
    }
    clickhouse.execute(&statement).await.with_context(|| statement.clone())?;
    Ok(statement)
}

async fn restore(clickhouse: &ClickHouse, table: &str) -> Result<()> {
    clickhouse.execute(&format!("TRUNCATE TABLE {table}")).await?;
    let again =
        format!("INSERT INTO {table} SELECT * FROM {table}_kept SETTINGS insert_deduplicate = 0");
    clickhouse.execute(&again).await?;
    Ok(())
}
