//! Tampering with ClickHouse: each case on the tables themselves, which are then put back.

use std::collections::{BTreeMap, BTreeSet};

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

/// The kind of a tampering, the table, the statement, and what a first bad row says; `{row}` is a
/// condition on one row of the table, and the other words are its columns.
type Case = (&'static str, &'static str, &'static str, &'static str);

/// What sums, counts, groups and copied heads show.
const CASES: &[Case] = &[
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.charge` = arrayMap(x -> x + toDecimal128('0.000000000001', 12), lines.charge) WHERE {row} AND length(lines.charge) > 0",
        "team {team} of tenant {tenant}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.cost` = arrayMap(x -> x + toDecimal128('0.000000000001', 12), lines.cost) WHERE {row}",
        "team {team} of tenant {tenant}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.quantity` = arrayMap(x -> toDecimal128(x + 1, 12), lines.quantity) WHERE {row}",
        "team {team} of tenant {tenant}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.card_version` = arrayMap(x -> toUInt32(x + 1), lines.card_version) WHERE {row}",
        "team {team} of tenant {tenant}",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE outcome = 'unpriced' WHERE {row}",
        "partition {partition}, tenant {tenant}",
    ),
    (
        "delete",
        "usage_events",
        "ALTER TABLE usage_events DELETE WHERE {row}",
        "partition {partition}: its groups have",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (position - 1000000 AS position) FROM (SELECT * FROM usage_events WHERE {row})",
        "partition {partition}: its groups have",
    ),
    (
        "insert",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (arrayMap(x -> x + toDecimal128('1', 12), lines.charge) AS `lines.charge`) FROM (SELECT * FROM usage_events WHERE {row})",
        "{partition}:{position}:{place} is there with two contents",
    ),
    // What no check of sums looks at, and readers of usage do.
    (
        "corrections",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (1 AS rating_run) FROM (SELECT * FROM usage_events WHERE {row})",
        "{partition}:{position}:{place} takes nothing back",
    ),
    (
        "corrections",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (-1 AS sign, 1 AS rating_run) FROM (SELECT * FROM usage_events WHERE {row})",
        "{partition}:{position}:{place} takes back something else than",
    ),
    (
        "rows of nobody",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (-1 AS sign) FROM (SELECT * FROM usage_events WHERE {row})",
        "{partition}:{position}:{place} in usage_events: rating run 0 and sign -1",
    ),
    (
        "rows of nobody",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (3 AS partition) FROM (SELECT * FROM usage_events WHERE {row})",
        "3:{position}:{place} in usage_events: there are 3 partitions",
    ),
    (
        "rows of nobody",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (position + 1000000 AS position) FROM (SELECT * FROM usage_events WHERE {row})",
        "{partition}:{beyond}:{place} in usage_events: nothing was archived after",
    ),
    (
        "rows of nobody",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (4000000000 AS partition) FROM (SELECT * FROM rejected_events WHERE {row})",
        "4000000000:{position}:{place} in rejected_events: there are 3 partitions",
    ),
    (
        "rows of nobody",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position + 1000000 AS position) FROM (SELECT * FROM rejected_events WHERE {row})",
        "{partition}:{beyond}:{place} in rejected_events: nothing was archived after",
    ),
    (
        "rows of nobody",
        "archived",
        "INSERT INTO archived SELECT * REPLACE (4000000000 AS partition) FROM (SELECT * FROM archived WHERE {row})",
        "4000000000:{position}:{place} in archived: there are 3 partitions",
    ),
    (
        "delete",
        "rejected_events",
        "ALTER TABLE rejected_events DELETE WHERE {row}",
        "partition {partition}: its groups have",
    ),
    (
        "update",
        "rejected_events",
        "ALTER TABLE rejected_events UPDATE outcome = if(outcome = 'rejected', 'conflict', 'rejected') WHERE {row}",
        "partition {partition}, tenant {tenant}",
    ),
    (
        "insert",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position - 1000000 AS position) FROM (SELECT * FROM rejected_events WHERE {row})",
        "partition {partition}: its groups have",
    ),
    (
        "delete",
        "archived",
        "ALTER TABLE archived DELETE WHERE {row}",
        "partition {partition}: the group from position",
    ),
    (
        "update",
        "archived",
        "ALTER TABLE archived UPDATE rows = rows + 1 WHERE {row}",
        "partition {partition}: its groups have",
    ),
    (
        "truncate",
        "usage_events",
        "TRUNCATE TABLE usage_events",
        "partition {lowest}: its groups have",
    ),
    (
        "truncate",
        "rejected_events",
        "TRUNCATE TABLE rejected_events",
        "partition {lowest}: its groups have",
    ),
    (
        "update",
        "audit_heads",
        "ALTER TABLE audit_heads UPDATE hash = unhex(repeat('ab', 32)) WHERE {row}",
        "partition {partition}: the row that ends at position {position} is not the one that was copied",
    ),
];

/// INV-08: what only rating again shows: sums, counts and groups stay as they were.
const CASES_OF_RATING: &[Case] = &[
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE raw = replaceOne(raw, 'id', 'iD') WHERE {row}",
        "the event {partition}:{position}:{place}: ",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE identity = identity + 1 WHERE {row}",
        "the event {partition}:{position}:{place}: ",
    ),
    (
        "update",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.unit` = arrayMap(x -> concat(x, 'x'), lines.unit) WHERE {row}",
        "the event {partition}:{position}:{place}: ",
    ),
    (
        "swap",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.dimensions` = arrayMap(x -> map('model', 'other'), lines.dimensions) WHERE {row}",
        "the event {partition}:{position}:{place}: ",
    ),
];

/// Tampers in every way, and counts. The first of each kind is shown to the command too.
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
    let mut shown = BTreeSet::new();
    for (kind, table, statement, name) in CASES {
        let row = Row::choose(clickhouse, moments, table).await?;
        let (statement, name) = (row.change(clickhouse, statement).await?, row.fill(name));
        let copies = ledger::verify::heads::copies(clickhouse).await?;
        let checks = look_at_archive(&mut connection, system, &copies).await?;
        found(&statement, &name, &checks)?;
        if shown.insert(kind) {
            Said::of_up(system, &["--wait", "1"]).await?.names(&name)?;
        }
        restore(clickhouse, table).await?;
        *faults.entry(kind).or_default() += 1;
    }
    let copies = ledger::verify::heads::copies(clickhouse).await?;
    let clean = look_at_archive(&mut connection, system, &copies).await?;
    ensure!(clean.iter().all(ledger::verify::Check::holds), "{clean:?}");
    for (kind, table, statement, name) in CASES_OF_RATING {
        let row = Row::choose(clickhouse, moments, table).await?;
        let (statement, name) = (row.change(clickhouse, statement).await?, row.fill(name));
        let said = Said::of_up(system, &["--sample", "100000"]).await?;
        let ratings = said.names(&name)?.check("ratings")?;
        ensure!(ratings["bad"] == 1, "{statement}: {ratings}");
        restore(clickhouse, table).await?;
        *faults.entry(kind).or_default() += 1;
    }
    without_texts(system, moments, faults).await?;
    cut_tail(system, faults).await?;
    claim_more(system, faults).await
}

/// A text that is gone hides whatever else was changed in its event: it is said that it was not seen.
async fn without_texts(
    system: &System,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    let clickhouse = system.clickhouse();
    let row = Row::choose(clickhouse, moments, "usage_events").await?;
    let one = "ALTER TABLE usage_events UPDATE raw = '', identity = identity + 1 WHERE {row}";
    let all = "ALTER TABLE usage_events UPDATE raw = '' WHERE position >= 0";
    for (statement, name) in
        [(one, row.fill("{partition}:{position}:{place}")), (all, "events".into())]
    {
        row.change(clickhouse, statement).await?;
        let said = Said::of_up(system, &["--sample", "100000"]).await?;
        let ratings = said.check("ratings")?;
        let unseen = ratings["left_out"].as_str().unwrap_or_default();
        ensure!(said.code == Some(2) && unseen.contains(&name), "{statement}: {}", said.document);
        ensure!((ratings["looked_at"] == 0) == (statement == all), "{statement}: {ratings}");
        restore(clickhouse, "usage_events").await?;
        *faults.entry("without a text").or_default() += 1;
    }
    Ok(())
}

/// Takes the newest groups of a partition out of the archive, with their events. The very newest alone
/// may be one that is still being inserted: then not all can be seen.
async fn cut_tail(system: &System, faults: &mut BTreeMap<&'static str, u64>) -> Result<()> {
    let clickhouse = system.clickhouse();
    let sql = "SELECT toString(partition) AS number, arrayMap(x -> toString(x), arrayReverseSort(groupUniqArray(from_x))) AS begins
        FROM archived GROUP BY partition ORDER BY length(begins) DESC LIMIT 1";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = rows.first().context("nothing is archived")?;
    let partition = integer(&row["number"])?;
    let (newest, before) = (integer(&row["begins"][0])?, integer(&row["begins"][1])?);
    let cases = [
        (
            newest,
            2,
            format!("the archive is behind the ledger: partition {partition} at {}", newest - 1),
        ),
        (
            before,
            1,
            format!("partition {partition}: the archive has ended at position {}", newest - 1),
        ),
    ];
    for (from, code, name) in cases {
        for table in ["archived", "usage_events", "rejected_events"] {
            let column = if table == "archived" { "from_x" } else { "position" };
            let cut = format!(
                "ALTER TABLE {table} DELETE WHERE partition = {partition} AND {column} >= {from} {NOW}"
            );
            clickhouse.execute(&cut).await?;
        }
        let said = Said::of_up(system, &["--wait", "1"]).await?;
        ensure!(said.code == Some(code), "cut from {from}: {}", said.document);
        ensure!(said.document.to_string().contains(&name), "no {name:?}: {}", said.document);
        for table in ["archived", "usage_events", "rejected_events"] {
            restore(clickhouse, table).await?;
        }
        *faults.entry("cut the tail").or_default() += 1;
    }
    Ok(())
}

/// Says that the archive is where the log is not.
async fn claim_more(system: &System, faults: &mut BTreeMap<&'static str, u64>) -> Result<()> {
    let clickhouse = system.clickhouse();
    let claim = "INSERT INTO archived SELECT * REPLACE (to_x + 1 AS from_x, to_x + 1000 AS to_x, 0 AS rows, 0 AS others)
        FROM (SELECT * FROM archived ORDER BY partition, to_x DESC LIMIT 1)";
    clickhouse.execute(claim).await?;
    let said = Said::of_up(system, &[]).await?;
    said.names("partition 0: the archive is at")?;
    ensure!(said.check("the log")?["bad"] == 1, "{}", said.document);
    restore(clickhouse, "archived").await?;
    *faults.entry("insert").or_default() += 1;
    Ok(())
}

/// A row chosen by chance.
struct Row {
    condition: String,
    /// What stands in braces, and what for.
    words: Vec<(&'static str, String)>,
}

impl Row {
    async fn choose(clickhouse: &ClickHouse, moments: &mut Moments, table: &str) -> Result<Row> {
        let columns = match table {
            "archived" => "partition, to_x AS position, 0 AS place, '' AS of_team, '' AS of_tenant",
            "audit_heads" => {
                "partition, position_to AS position, 0 AS place, '' AS of_team, '' AS of_tenant"
            }
            _ => {
                "partition, position, `index` AS place, team AS of_team, toString(tenant_id) AS of_tenant"
            }
        };
        // A row with lines, and not the last group, which may be one that is still being inserted.
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
            "SELECT {columns}, (SELECT min(partition) FROM {table}) AS lowest FROM {table} {condition}
             ORDER BY sipHash64(toUInt64({seed}), partition, position, place) LIMIT 1"
        );
        let rows = clickhouse.query_json_rows(&sql, &[]).await?;
        let row = rows.first().with_context(|| format!("{table} has no such row"))?;
        let (partition, position, place) =
            (integer(&row["partition"])?, integer(&row["position"])?, integer(&row["place"])?);
        let condition = match table {
            "archived" => format!("(partition = {partition} AND to_x = {position})"),
            "audit_heads" => format!("(partition = {partition} AND position_to = {position})"),
            _ => {
                format!("(partition = {partition} AND position = {position} AND `index` = {place})")
            }
        };
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let words = vec![
            ("{partition}", partition.to_string()),
            ("{position}", position.to_string()),
            ("{place}", place.to_string()),
            ("{beyond}", (position + 1_000_000).to_string()),
            ("{lowest}", integer(&row["lowest"])?.to_string()),
            ("{team}", text("of_team")),
            ("{tenant}", text("of_tenant")),
        ];
        Ok(Row { condition, words })
    }

    fn fill(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    /// Changes it; answers the statement.
    async fn change(&self, clickhouse: &ClickHouse, statement: &str) -> Result<String> {
        let mut statement = statement.replace("{row}", &self.condition);
        if statement.starts_with("ALTER") {
            statement = format!("{statement} {NOW}");
        }
        clickhouse.execute(&statement).await.with_context(|| statement.clone())?;
        Ok(statement)
    }
}

async fn restore(clickhouse: &ClickHouse, table: &str) -> Result<()> {
    clickhouse.execute(&format!("TRUNCATE TABLE {table}")).await?;
    let again =
        format!("INSERT INTO {table} SELECT * FROM {table}_kept SETTINGS insert_deduplicate = 0");
    clickhouse.execute(&again).await?;
    Ok(())
}
