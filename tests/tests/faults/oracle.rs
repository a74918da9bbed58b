//! The oracle itself: whatever somebody changes behind a system's back, it names the invariant that is
//! broken by it. A check that has never failed shows nothing.

use anyhow::{Context as _, Result, ensure};
use runtime::clickhouse::ClickHouse;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::{
    harness::{
        contained::contained,
        disk::LogFrom,
        oracle::Verdict,
        traffic::Sending,
        world::{Rest, Shape, World},
    },
    system::{System, integer},
};

use crate::clients::IDLE;

/// A few tenants, and enough events that each outcome is among them.
const SHAPE: Shape =
    Shape { tenants: 3, window: 250, sending: Sending { rate: 1_000, end: None, split: false } };

/// So many at least.
const EVENTS: u64 = 2_000;

/// The invariant, the table, and the statement; `{row}` is a condition on one row of the table.
type Case = (&'static str, &'static str, &'static str);

const IN_POSTGRES: &[Case] = &[
    ("INV-02", "usage_totals", "UPDATE usage_totals SET charge = charge + 1 WHERE {row}"),
    ("INV-02", "usage_totals", "UPDATE usage_totals SET events = events + 1 WHERE {row}"),
    ("INV-02", "usage_totals", "DELETE FROM usage_totals WHERE {row}"),
    ("INV-02", "transfers", "UPDATE transfers SET amount = amount + 1 WHERE {row}"),
    (
        "INV-04",
        "transfers",
        "UPDATE transfers t SET credit_account = (SELECT account_id FROM accounts a
         WHERE a.tenant_id = t.tenant_id AND a.kind = CASE t.reason WHEN 'cost' THEN 'revenue' ELSE 'provider_payable' END)
         WHERE {row}",
    ),
    ("INV-05", "transfers", "UPDATE transfers SET meter = meter || 'x' WHERE {row}"),
    ("INV-05", "transfers", "DELETE FROM transfers WHERE {row}"),
    ("INV-05", "journals", "DELETE FROM journals WHERE {row}"),
    ("INV-05", "audit", "UPDATE audit SET hash = sha256(hash) WHERE {row}"),
    (
        "INV-05",
        "transfers",
        "UPDATE transfers SET amount = amount + 1 WHERE reason = 'settlement'",
    ),
    ("INV-05", "journal_seals", "DELETE FROM journal_seals WHERE {row}"),
    ("INV-06", "wallets", "UPDATE wallets SET debt = debt + 1 WHERE {row}"),
    ("INV-06", "wallet_entries", "DELETE FROM wallet_entries WHERE {row}"),
    ("INV-06", "grants", "UPDATE grants SET remaining = amount WHERE remaining = 0"),
    ("INV-06", "open_items", "DELETE FROM open_items WHERE {row}"),
    ("INV-06", "receivables", "UPDATE receivables SET balance = balance + 1 WHERE {row}"),
    ("INV-06", "receivable_entries", "DELETE FROM receivable_entries WHERE {row}"),
    (
        "INV-06",
        "receivable_entries",
        "UPDATE receivable_entries SET amount = amount + 1, balance_after = balance_after + 1 WHERE {row}",
    ),
    ("INV-06", "receivable_entries", "DELETE FROM receivable_entries WHERE true"),
    (
        "INV-09",
        "partition_counts",
        "UPDATE partition_counts SET accepted = 0, copies = copies + accepted WHERE {row}",
    ),
    (
        "INV-09",
        "partition_counts",
        "UPDATE partition_counts SET rated = rated - 1, duplicates = duplicates + 1 WHERE {row}",
    ),
    ("INV-15", "audit", "DELETE FROM audit WHERE {row}"),
];

const IN_THE_ARCHIVE: &[Case] = &[
    ("INV-01", "usage_events", "ALTER TABLE usage_events DELETE WHERE {row}"),
    (
        "INV-02",
        "usage_events",
        "INSERT INTO usage_events SELECT * REPLACE (position - 1000000 AS position) FROM (SELECT * FROM usage_events WHERE {row})",
    ),
    (
        "INV-03",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position - 1000000 AS position, 'conflict' AS outcome)
         FROM (SELECT * FROM rejected_events WHERE {row})",
    ),
    (
        "INV-08",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.charge` = arrayMap(x -> x + toDecimal128('0.000000000001', 12), lines.charge) WHERE {row}",
    ),
    (
        "INV-09",
        "rejected_events",
        "ALTER TABLE rejected_events DELETE WHERE {row}",
    ),
    (
        "INV-18",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.card_version` = arrayMap(x -> toUInt32(2), lines.card_version) WHERE {row}",
    ),
    (
        "INV-18",
        "usage_events",
        "ALTER TABLE usage_events UPDATE `lines.card_version` = arrayMap(x -> toUInt32(3), lines.card_version) WHERE {row}",
    ),
    ("INV-13", "archived", "ALTER TABLE archived DELETE WHERE {row}"),
    (
        "INV-15",
        "rejected_events",
        "INSERT INTO rejected_events SELECT * REPLACE (position - 1000000 AS position, 'rejected' AS outcome)
         FROM (SELECT * FROM rejected_events WHERE {row})",
    ),
];

#[test]
fn names_what_is_broken() -> Result<()> {
    contained("oracle::names_what_is_broken", |run| async move {
        let mut world = World::embedded_with(&run, 2, SHAPE).await?;
        world.traffic.flow(EVENTS).await?;
        world.change_prices().await?;
        let mut rest = world.rest().await?;
        rest.check(None).await?;
        books_are_changed(&rest).await?;
        the_archive_is_changed(&rest).await?;
        sessions_are_left(&rest.world.system).await?;
        // Everything was put back.
        rest.check(None).await
    })
}

/// Fails unless the oracle has found what breaks this invariant.
fn is_named(invariant: &str, statement: &str, verdict: &Verdict) -> Result<()> {
    let wrong = verdict.lost + verdict.doubled + verdict.others > 0;
    let named = verdict.told.iter().any(|told| told.starts_with(invariant));
    ensure!(wrong && named, "{statement} breaks {invariant}: {:?}", verdict.told);
    Ok(())
}

/// Somebody with all rights changes Postgres, past its triggers and foreign keys.
async fn books_are_changed(rest: &Rest) -> Result<()> {
    let mut connection = rest.world.system.superuser().await?;
    connection.execute("SET session_replication_role = replica").await?;
    let before = rest.world.snapshot().await?;
    for (invariant, table, statement) in IN_POSTGRES {
        let changed = tamper(&mut connection, table, statement).await?;
        ensure!(changed > 0, "{statement} changed nothing");
        let verdict = rest.oracle()?.check(Some(&before)).await;
        put_back(&mut connection, table).await?;
        is_named(invariant, statement, &verdict?)?;
    }
    Ok(connection.close().await?)
}

async fn tamper(connection: &mut PgConnection, table: &str, statement: &str) -> Result<u64> {
    let keep = format!("CREATE TABLE {table}_kept AS TABLE {table}");
    connection.execute(AssertSqlSafe(keep)).await?;
    // Of usage: other money has another check.
    let of_usage = match table {
        "transfers" => "WHERE reason IN ('usage', 'cost')",
        "journals" => "WHERE reason = 'usage'",
        _ => "",
    };
    let first = format!("ctid = (SELECT ctid FROM {table} {of_usage} ORDER BY ctid LIMIT 1)");
    let statement = statement.replace("{row}", &first);
    Ok(connection.execute(AssertSqlSafe(statement)).await?.rows_affected())
}

async fn put_back(connection: &mut PgConnection, table: &str) -> Result<()> {
    let statements = format!(
        "BEGIN; DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {table}_kept; DROP TABLE {table}_kept; COMMIT"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await?;
    Ok(())
}

async fn the_archive_is_changed(rest: &Rest) -> Result<()> {
    let clickhouse = rest.world.system.clickhouse();
    for (invariant, table, statement) in IN_THE_ARCHIVE {
        let kept = format!("CREATE TABLE {table}_kept AS {table}");
        clickhouse.execute(&kept).await?;
        clickhouse.execute(&format!("INSERT INTO {table}_kept SELECT * FROM {table}")).await?;
        let mut changed = statement.replace("{row}", &a_row(clickhouse, table).await?);
        if changed.starts_with("ALTER") {
            changed += " SETTINGS mutations_sync = 2";
        }
        clickhouse.execute(&changed).await.with_context(|| changed.clone())?;
        let verdict = rest.oracle()?.check(None).await;
        clickhouse.execute(&format!("TRUNCATE TABLE {table}")).await?;
        let again = format!(
            "INSERT INTO {table} SELECT * FROM {table}_kept SETTINGS insert_deduplicate = 0"
        );
        clickhouse.execute(&again).await?;
        clickhouse.execute(&format!("DROP TABLE {table}_kept")).await?;
        is_named(invariant, statement, &verdict?)?;
    }
    Ok(())
}

/// A condition on one row: a priced event, a duplicate, or a group.
async fn a_row(clickhouse: &ClickHouse, table: &str) -> Result<String> {
    let (columns, condition) = match table {
        "archived" => (["partition", "to_x", "from_x"], "true"),
        "usage_events" => (["partition", "position", "`index`"], "outcome = 'rated'"),
        _ => (["partition", "position", "`index`"], "outcome = 'duplicate'"),
    };
    let [first, second, third] = columns;
    let sql = format!(
        "SELECT toString({first}) AS one, toString({second}) AS two, toString({third}) AS three FROM {table}
         WHERE {condition} ORDER BY {first}, {second}, {third} LIMIT 1"
    );
    let rows = clickhouse.query_json_rows(&sql, &[]).await?;
    let row = rows.first().with_context(|| format!("{table} has no such row"))?;
    let (one, two, three) = (integer(&row["one"])?, integer(&row["two"])?, integer(&row["three"])?);
    Ok(format!("{first} = {one} AND {second} = {two} AND {third} = {three}"))
}

/// What F25 looks for is said where a session idles in a transaction.
async fn sessions_are_left(system: &System) -> Result<()> {
    let log = LogFrom::now(&system.postgres_log()?)?;
    let mut connection = system.postgres().await?;
    let idle = "SET idle_in_transaction_session_timeout = '50ms'; BEGIN; SELECT 1";
    connection.execute(sqlx::raw_sql(idle)).await?;
    tests::wait::eventually("Postgres says that a session was idle", async || {
        Ok(log.line_with(IDLE)?.is_some())
    })
    .await
}
