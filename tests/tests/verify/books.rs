//! Tampering with Postgres as its owner: each in a transaction that is rolled back.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::{seed::Moments, system::System};

use super::{
    Said,
    forgery::forge,
    tampering::{audit_key, found, look_at_archive, look_at_books},
};

/// A row of a table chosen by chance, as a condition.
const ANY: &str =
    "ctid = (SELECT ctid FROM {table} {where} ORDER BY md5(ctid::text || '{seed}') LIMIT 1)";

/// The kind of a tampering, the table with a condition on the row, and the statement. It answers a text
/// that a first bad row must hold; `{any}` is the condition on a row chosen by chance.
type Case = (&'static str, &'static str, &'static str);

const WINDOW: &str = "(SELECT 'position ' || j.position_to FROM journals j WHERE (j.tenant_id, j.journal_id) = (x.tenant_id, x.journal_id))";

/// Lanes that have answered something.
const LANES: &str =
    "late_places WHERE partition IN (SELECT partition FROM late_answers WHERE answered > 0)";

/// Cases that Postgres alone shows.
const CASES: &[Case] = &[
    ("update", "transfers", "UPDATE transfers x SET amount = amount + 0.000000000001 WHERE {any} RETURNING {window}"),
    ("update", "transfers", "UPDATE transfers x SET quantity = quantity + 1 WHERE {any} RETURNING {window}"),
    ("update", "transfers", "UPDATE transfers x SET events = events + 1 WHERE {any} RETURNING {window}"),
    ("update", "transfers", "UPDATE transfers x SET card_version = card_version + 1 WHERE {any} RETURNING {window}"),
    ("update", "transfers WHERE team <> ''", "UPDATE transfers x SET team = 'nobody' WHERE {any} RETURNING {window}"),
    ("update", "transfers", "UPDATE transfers x SET meter = meter || 'x' WHERE {any} RETURNING {window}"),
    ("update", "transfers", "UPDATE transfers x SET reason = 'gift' WHERE {any} RETURNING {window}"),
    ("swap", "transfers", "UPDATE transfers x SET debit_account = credit_account, credit_account = debit_account WHERE {any} RETURNING {window}"),
    ("swap", "transfers", "UPDATE transfers x SET amount = y.amount FROM transfers y WHERE x.{any} AND y.currency = x.currency AND y.amount <> x.amount RETURNING {window}"),
    ("delete", "transfers", "DELETE FROM transfers x WHERE {any} RETURNING {window}"),
    ("insert", "transfers", "INSERT INTO transfers AS x SELECT tenant_id, journal_id, ordinal + 1000, debit_account, credit_account, amount, currency, reason, team,
        meter, card, card_version, quantity, events FROM transfers x WHERE {any} RETURNING {window}"),
    ("insert", "transfers", "INSERT INTO transfers AS x SELECT tenant_id, gen_random_uuid(), 0, debit_account, credit_account, amount, currency, reason, team,
        meter, card, card_version, quantity, events FROM transfers x WHERE {any} RETURNING journal_id::text"),
    ("update", "journals", "UPDATE journals x SET reference = reference || 'x' WHERE {any} RETURNING journal_id::text"),
    ("update", "journals", "UPDATE journals x SET position_from = position_from - 1 WHERE {any} RETURNING journal_id::text"),
    ("update", "journals", "UPDATE journals x SET posted_at = posted_at - interval '1 day' WHERE {any} RETURNING journal_id::text"),
    ("update", "journals", "UPDATE journals x SET partition = (partition + 1) % 3 WHERE {any} RETURNING journal_id::text"),
    ("update", "journals", "UPDATE journals x SET reason = 'gift' WHERE {any} RETURNING journal_id::text"),
    ("delete", "journals", "DELETE FROM journals x WHERE {any} RETURNING 'position ' || position_to"),
    ("insert", "journals", "INSERT INTO journals SELECT tenant_id, gen_random_uuid(), 'gift', reference || 'x', partition, position_from, position_to, posted_at
        FROM journals x WHERE {any} RETURNING journal_id::text"),
    ("insert", "journals", "INSERT INTO journals SELECT tenant_id, gen_random_uuid(), 'usage', reference || 'x', partition, position_from, position_to, posted_at
        FROM journals x WHERE {any} RETURNING 'position ' || position_to"),
    ("update", "audit WHERE counts <> ''", "UPDATE audit x SET counts = regexp_replace(counts, '=([0-9]+),', '=1\\1,') WHERE {any} RETURNING 'position ' || position_to"),
    ("update", "audit", "UPDATE audit x SET posted_at = posted_at + interval '1 microsecond' WHERE {any} RETURNING 'position ' || position_to"),
    ("update", "audit", "UPDATE audit x SET hash = sha256(hash) WHERE {any} RETURNING 'position ' || position_to"),
    ("update", "audit", "UPDATE audit x SET r = r + 1 WHERE {any} RETURNING 'position ' || position_to"),
    ("unkeyed hash", "audit", "UPDATE audit x SET transfers_hash = sha256(transfers_hash), hash = sha256(previous_hash || transfers_hash) WHERE {any}
        RETURNING 'position ' || position_to"),
    ("unkeyed hash", "audit WHERE counts <> ''", "UPDATE audit x SET counts = regexp_replace(counts, '=([0-9]+),', '=1\\1,'), hash = sha256(previous_hash || counts::bytea)
        WHERE {any} RETURNING 'position ' || position_to"),
    ("delete", "audit", "DELETE FROM audit x WHERE {any} RETURNING 'the audit chain of partition ' || partition"),
    ("insert", "audit", "INSERT INTO audit SELECT partition, position_to + 1000000, position_from + 1000000, r, c, catalog_version, counts, transfers, transfers_hash,
        previous_hash, hash, posted_at FROM audit x WHERE {any} RETURNING 'the audit chain of partition ' || partition"),
    ("update", "partitions WHERE x >= 0", "UPDATE partitions x SET r = r - 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "partitions WHERE x >= 0", "UPDATE partitions x SET c = sha256(c) WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "partitions WHERE x >= 0", "UPDATE partitions x SET catalog_version = catalog_version + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("insert", "partitions", "INSERT INTO partitions SELECT 99, x, r, c FROM partitions x WHERE {any} RETURNING 'partition 99'"),
    ("swap", "partition_counts WHERE rated > 0", "UPDATE partition_counts x SET rated = rated - 1, duplicates = duplicates + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "partition_counts", "UPDATE partition_counts x SET accepted = accepted + 1, rated = rated + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "partition_counts", "UPDATE partition_counts x SET lost = lost + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("delete", "partition_counts", "DELETE FROM partition_counts x WHERE {any} RETURNING 'partition ' || partition"),
    ("insert", "partition_counts", "INSERT INTO partition_counts (tenant_id, partition, accepted, rated) SELECT gen_random_uuid(), partition, 1, 1
        FROM partition_counts x WHERE {any} RETURNING tenant_id::text"),
    ("update", "receivable_entries", "UPDATE receivable_entries x SET amount = amount + 1 WHERE {any} RETURNING team"),
    ("update", "receivable_entries", "UPDATE receivable_entries x SET balance_after = balance_after + 1 WHERE {any} RETURNING team"),
    ("update", "receivable_entries", "UPDATE receivable_entries x SET sequence = sequence + 1000 WHERE {any} RETURNING team"),
    ("swap", "receivable_entries WHERE sequence > 1", "UPDATE receivable_entries x SET sequence = sequence - 1 WHERE {any} RETURNING team"),
    ("delete", "receivable_entries", "DELETE FROM receivable_entries x WHERE {any} RETURNING team"),
    ("insert", "receivable_entries", "INSERT INTO receivable_entries SELECT tenant_id, gen_random_uuid(), team, currency, 0, balance_after, sequence
        FROM receivable_entries x WHERE {any} RETURNING team"),
    ("insert", "receivable_entries", "INSERT INTO receivable_entries SELECT tenant_id, journal_id, 'nobody', currency, amount, amount, 1
        FROM receivable_entries x WHERE {any} RETURNING team"),
    ("update", "receivables", "UPDATE receivables x SET balance = balance - 0.000000000001 WHERE {any} RETURNING team"),
    ("update", "receivables", "UPDATE receivables x SET sequence = sequence + 1 WHERE {any} RETURNING team"),
    ("update", "receivables", "UPDATE receivables x SET partition = (partition + 1) % 3 WHERE {any} RETURNING team"),
    ("delete", "receivables", "DELETE FROM receivables x WHERE {any} RETURNING team"),
    ("insert", "receivables", "INSERT INTO receivables SELECT tenant_id, account_id, 'nobody', currency, partition, balance, sequence
        FROM receivables x WHERE {any} RETURNING team"),
    ("swap", "accounts WHERE team <> ''", "UPDATE accounts x SET team = team || 'x' WHERE {any} RETURNING left(team, -1)"),
    ("swap", "accounts WHERE kind = 'revenue'", "UPDATE accounts x SET kind = 'breakage' WHERE {any} RETURNING 'position '"),
    ("update", "usage_totals", "UPDATE usage_totals x SET charge = charge + 0.000000000001 WHERE {any} RETURNING team"),
    ("update", "usage_totals WHERE cost > 0", "UPDATE usage_totals x SET cost = cost - 0.000000000001 WHERE {any} RETURNING meter"),
    // A place that was moved ahead has passed late events that were not answered.
    ("late events", "late_answers WHERE answered > 0", "UPDATE late_answers x SET answered = answered - 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_answers WHERE answered > 0", "UPDATE late_answers x SET answered = answered + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_answers WHERE answered > 0", "DELETE FROM late_answers x WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_answers", "INSERT INTO late_answers SELECT gen_random_uuid(), partition, 1 FROM late_answers x WHERE {any} RETURNING tenant_id::text"),
    ("late events", "late_places WHERE x >= 0", "UPDATE late_places x SET c = sha256(c) WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_places WHERE x >= 0", "UPDATE late_places x SET r = r + 1 WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_places WHERE x >= 0", "UPDATE late_places x SET x = x + 1000 WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_places WHERE x >= 0", "UPDATE late_places x SET answered = answered + 1 WHERE {any} RETURNING 'the lane of partition ' || partition"),
    ("late events", LANES, "UPDATE late_places x SET x = -1, r = -1, c = 'weir: no rated batch before this' WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", LANES, "DELETE FROM late_places x WHERE {any} RETURNING 'partition ' || partition"),
    ("late events", "late_places", "INSERT INTO late_places SELECT 99, x, r, c, answered FROM late_places x WHERE {any} RETURNING 'partition 99'"),
    ("delete", "usage_totals WHERE charge > 0", "DELETE FROM usage_totals x WHERE {any} RETURNING meter"),
];

/// Cases that only the archive shows.
const CASES_OF_BOTH: &[Case] = &[
    ("update", "partitions WHERE x >= 0", "UPDATE partitions x SET append_time = append_time + interval '1 hour' WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "partitions WHERE partition IN (SELECT partition FROM journals)", "UPDATE partitions x SET append_time = append_time - interval '1 hour' WHERE {any} RETURNING 'partition ' || partition"),
    ("update", "usage_totals", "UPDATE usage_totals x SET quantity = quantity + 1 WHERE {any} RETURNING team"),
    ("update", "usage_totals", "UPDATE usage_totals x SET events = events + 1 WHERE {any} RETURNING team"),
    // Before all others, where no row of the same key can be.
    ("swap", "usage_totals", "UPDATE usage_totals x SET bucket = (SELECT min(bucket) FROM usage_totals) - interval '15 minutes' WHERE {any} RETURNING team"),
    ("insert", "usage_totals", "INSERT INTO usage_totals SELECT tenant_id, 'nobody', meter, bucket, currency, cost_currency, 1, 0, 0, 1
        FROM usage_totals x WHERE {any} RETURNING team"),
];

/// Whole tables, and what the first bad row is then.
const TRUNCATED: [(&str, &str); 9] = [
    ("transfers", "SELECT 'the audit chain of partition ' || min(partition) FROM journals"),
    ("journals", "SELECT 'the audit chain of partition ' || min(partition) FROM journals"),
    ("audit", "SELECT 'the audit chain of partition ' || min(partition) FROM audit"),
    (
        "partition_counts",
        "SELECT format('partition %s, tenant %s: the counts are', partition, tenant_id) FROM partition_counts ORDER BY partition, tenant_id LIMIT 1",
    ),
    (
        "receivable_entries",
        "SELECT format('of team %s of tenant %s', team, tenant_id) FROM receivable_entries ORDER BY tenant_id, team LIMIT 1",
    ),
    (
        "receivables",
        "SELECT format('team %s of tenant %s', team, tenant_id) FROM receivables ORDER BY tenant_id, team LIMIT 1",
    ),
    (
        "usage_totals",
        "SELECT format('cost of team  of tenant %s, meter %s', tenant_id, meter) FROM usage_totals WHERE cost > 0 ORDER BY tenant_id, meter LIMIT 1",
    ),
    (
        "late_places",
        "SELECT 'late events of partition ' || min(partition) FROM late_answers WHERE answered > 0",
    ),
    (
        "late_answers",
        "SELECT 'late events of partition ' || min(partition) FROM late_answers WHERE answered > 0",
    ),
];

/// All tables that are tampered with.
const TABLES: [&str; 11] = [
    "partitions",
    "partition_counts",
    "accounts",
    "receivables",
    "journals",
    "transfers",
    "usage_totals",
    "audit",
    "receivable_entries",
    "late_places",
    "late_answers",
];

/// Ends the sessions of a process that stands still, with their locks.
const OTHERS_LEAVE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// Times that each case is tried, on rows chosen by chance.
const ROUNDS: u64 = 2;

/// Tampers in every way, and counts.
pub async fn tamper(
    system: &System,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    let key = audit_key(system)?;
    let copies = ledger::verify::heads::copies(system.clickhouse()).await?;
    let mut connection = system.postgres().await?;
    let clean = look_at_books(&mut connection, &key).await?;
    ensure!(clean.iter().all(ledger::verify::Check::holds), "{clean:?}");
    for (kind, table, statement) in CASES {
        for _ in 0..ROUNDS {
            begin(&mut connection).await?;
            let name = change(&mut connection, moments, table, statement).await?;
            let checks = look_at_books(&mut connection, &key).await;
            connection.execute("ROLLBACK").await?;
            found(statement, &name, &checks?)?;
            *faults.entry(kind).or_default() += 1;
        }
    }
    for (kind, table, statement) in CASES_OF_BOTH {
        begin(&mut connection).await?;
        let name = change(&mut connection, moments, table, statement).await?;
        let checks = look_at_archive(&mut connection, system, &copies).await;
        connection.execute("ROLLBACK").await?;
        found(statement, &name, &checks?)?;
        *faults.entry(kind).or_default() += 1;
    }
    for _ in 0..2 * ROUNDS {
        begin(&mut connection).await?;
        let name = forge(&mut connection, moments).await?;
        let checks = look_at_books(&mut connection, &key).await;
        connection.execute("ROLLBACK").await?;
        let checks = checks?;
        let bad: Vec<&str> = checks.iter().filter(|one| !one.holds()).map(|one| one.name).collect();
        ensure!(bad == ["audit chain"], "the forgery was not perfect: {checks:?}");
        found("a forged window", &name, &checks)?;
        *faults.entry("unkeyed hash").or_default() += 1;
    }
    for (table, name) in TRUNCATED {
        begin(&mut connection).await?;
        let name = truncate(&mut connection, table, name).await?;
        let checks = look_at_books(&mut connection, &key).await;
        connection.execute("ROLLBACK").await?;
        found(table, &name, &checks?)?;
        *faults.entry("truncate").or_default() += 1;
    }
    for partition in tails(&mut connection).await? {
        begin(&mut connection).await?;
        let name = cut_tail(&mut connection, partition).await?;
        // Postgres by itself cannot know: it is as it was before the window.
        let books = look_at_books(&mut connection, &key).await;
        let checks = look_at_archive(&mut connection, system, &copies).await;
        connection.execute("ROLLBACK").await?;
        let books = books?;
        ensure!(books.iter().all(ledger::verify::Check::holds), "the cut was not clean: {books:?}");
        found("the tail was cut", &name, &checks?)?;
        *faults.entry("cut the tail").or_default() += 1;
    }
    connection.close().await?;
    Ok(())
}

/// Tampers once in each way so that it stays, and asks the command. The process that has the books
/// stands still meanwhile, and does not copy what is forged.
pub async fn tamper_for_good(
    system: &mut System,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    system.process("up")?.signal(Signal::SIGSTOP)?;
    let shown = show_all(system, moments, faults).await;
    system.process("up")?.signal(Signal::SIGCONT)?;
    shown
}

async fn show_all(
    system: &System,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    let mut connection = system.postgres().await?;
    connection.execute(sqlx::raw_sql(OTHERS_LEAVE)).await?;
    connection.execute("CREATE SCHEMA kept").await?;
    for table in TABLES {
        let keep = format!("CREATE TABLE kept.{table} AS TABLE public.{table}");
        connection.execute(AssertSqlSafe(keep)).await?;
    }
    let mut shown = BTreeSet::new();
    let first_of_its_kind = CASES.iter().filter(|(kind, ..)| shown.insert(*kind));
    let first_of_its_kind: Vec<&Case> = first_of_its_kind.collect();
    for (kind, table, statement) in first_of_its_kind {
        begin_to_stay(&mut connection).await?;
        let name = change(&mut connection, moments, table, statement).await?;
        show(system, &mut connection, &name).await?;
        *faults.entry(kind).or_default() += 1;
    }
    begin_to_stay(&mut connection).await?;
    let name = forge(&mut connection, moments).await?;
    show(system, &mut connection, &name).await?;
    *faults.entry("unkeyed hash").or_default() += 1;
    let (table, name) = TRUNCATED[0];
    begin_to_stay(&mut connection).await?;
    let name = truncate(&mut connection, table, name).await?;
    show(system, &mut connection, &name).await?;
    *faults.entry("truncate").or_default() += 1;
    let partition =
        *tails(&mut connection).await?.first().context("no partition has two windows")?;
    begin_to_stay(&mut connection).await?;
    let name = cut_tail(&mut connection, partition).await?;
    show(system, &mut connection, &name).await?;
    *faults.entry("cut the tail").or_default() += 1;
    show_by_the_log(system, &mut connection, moments, faults).await?;
    connection.execute("DROP SCHEMA kept CASCADE").await?;
    connection.close().await?;
    Ok(())
}

/// What only the log shows: a count that was changed, and a lane that says it is ahead of the ledger.
async fn show_by_the_log(
    system: &System,
    connection: &mut PgConnection,
    moments: &mut Moments,
    faults: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    begin_to_stay(connection).await?;
    let name = change_count(connection).await?;
    let said = show(system, connection, &name).await?;
    ensure!(said.check("the log")?["bad"] == 1, "{}", said.document);
    *faults.entry("update").or_default() += 1;
    let ahead = "UPDATE late_places x SET x = x + 1000, r = r + 1000 WHERE {any} RETURNING 'partition ' || partition || ': the place of the slow lane'";
    begin_to_stay(connection).await?;
    let name = change(connection, moments, LANES, ahead).await?;
    let number = name.trim_start_matches("partition ").split(':').next().unwrap_or_default();
    let more =
        format!("UPDATE late_answers SET answered = answered + 1000 WHERE partition = {number}");
    connection.execute(AssertSqlSafe(more)).await?;
    let said = show(system, connection, &name).await?;
    let log = said.check("the log")?;
    ensure!(log["bad"] == 2 && said.check("late events")?["bad"] == 0, "{}", said.document);
    *faults.entry("swap").or_default() += 1;
    Ok(())
}

/// Makes it stay, asks the command, and puts everything back.
async fn show(system: &System, connection: &mut PgConnection, name: &str) -> Result<Said> {
    connection.execute("COMMIT").await?;
    let said = Said::of_up(system, &["--sample", "1", "--wait", "1"]).await?;
    begin_to_stay(connection).await?;
    for table in TABLES {
        let statements = format!(
            "DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM kept.{table}"
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await?;
    }
    connection.execute("COMMIT").await?;
    said.names(name)?;
    Ok(said)
}

/// Begins what is meant to stay: no foreign key and no trigger stands in its way.
async fn begin_to_stay(connection: &mut PgConnection) -> Result<()> {
    let statements =
        "BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '20s'";
    connection.execute(sqlx::raw_sql(statements)).await?;
    Ok(())
}

/// Changes what the newest window with events says came in; answers what the log says of it.
pub async fn change_count(connection: &mut PgConnection) -> Result<String> {
    let sql = "UPDATE audit a SET counts = regexp_replace(counts, '=([0-9]+),', '=1\\1,') FROM (
             SELECT partition, max(position_to) AS position_to FROM audit WHERE counts <> '' GROUP BY partition ORDER BY partition LIMIT 1) newest
         WHERE (a.partition, a.position_to) = (newest.partition, newest.position_to)
         RETURNING format('partition %s, positions %s to %s: the log has', a.partition, position_from, a.position_to)";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

async fn truncate(
    connection: &mut PgConnection,
    table: &str,
    name: &'static str,
) -> Result<String> {
    let name: String = sqlx::query_scalar(name).fetch_one(&mut *connection).await?;
    connection.execute(AssertSqlSafe(format!("TRUNCATE {table}"))).await?;
    Ok(name)
}

/// Begins, with everything locked: those who read meanwhile wait. Whoever waits for them in turn is
/// told so by Postgres, and tries again.
async fn begin(connection: &mut PgConnection) -> Result<()> {
    let lock = "BEGIN; LOCK TABLE partitions, partition_counts, accounts, receivables, journals, transfers, usage_totals, audit,
        receivable_entries, late_places, late_answers IN ACCESS EXCLUSIVE MODE";
    let mut attempts = 0;
    while let Err(error) = connection.execute(sqlx::raw_sql(lock)).await {
        connection.execute("ROLLBACK").await?;
        attempts += 1;
        ensure!(attempts < 20, "the tables cannot be locked: {error}");
    }
    let statements =
        "SET CONSTRAINTS ALL DEFERRED; ALTER TABLE transfers DISABLE TRIGGER check_transfers";
    connection.execute(sqlx::raw_sql(statements)).await?;
    for (table, name) in foreign_keys(connection).await? {
        connection
            .execute(AssertSqlSafe(format!("ALTER TABLE {table} DROP CONSTRAINT {name}")))
            .await?;
    }
    Ok(())
}

/// Whoever tampers does not let foreign keys or checks stop him.
async fn foreign_keys(connection: &mut PgConnection) -> Result<Vec<(String, String)>> {
    let rows = sqlx::query_as(
        "SELECT conrelid::regclass::text, conname::text FROM pg_constraint WHERE contype IN ('f', 'c') AND connamespace = 'public'::regnamespace
         AND conrelid::regclass::text IN ('transfers', 'journals', 'audit', 'partition_counts', 'receivable_entries', 'receivables', 'accounts', 'usage_totals', 'late_places', 'late_answers')",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Changes something; answers what the first bad row must name.
async fn change(
    connection: &mut PgConnection,
    moments: &mut Moments,
    table: &str,
    statement: &str,
) -> Result<String> {
    let (table, condition) = table.split_once(' ').unwrap_or((table, ""));
    let any = ANY
        .replace("{table}", table)
        .replace("{where}", condition)
        .replace("{seed}", &moments.bits().to_string());
    let statement =
        statement.replace("x.{any}", &format!("x.{any}")).replace("{any}", &format!("x.{any}"));
    let statement = statement.replace("{window}", WINDOW);
    let names: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(statement.clone()))
        .fetch_all(connection)
        .await
        .context(statement.clone())?;
    ensure!(names.len() == 1, "{statement} changed {} rows", names.len());
    Ok(names.into_iter().flatten().next().unwrap_or_default())
}

/// Partitions with two windows or more.
async fn tails(connection: &mut PgConnection) -> Result<Vec<i32>> {
    let sql =
        "SELECT partition FROM audit GROUP BY partition HAVING count(*) > 1 ORDER BY partition";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Takes the newest window of a partition out of all books, without a trace in Postgres.
async fn cut_tail(connection: &mut PgConnection, partition: i32) -> Result<String> {
    let position: i64 =
        sqlx::query_scalar("SELECT max(position_to) FROM audit WHERE partition = $1")
            .bind(partition)
            .fetch_one(&mut *connection)
            .await?;
    let statements = format!(
        "CREATE TEMPORARY TABLE cut ON COMMIT DROP AS SELECT * FROM journals WHERE partition = {partition} AND position_to = {position};
         UPDATE receivables r SET balance = r.balance - e.amount, sequence = r.sequence - 1 FROM receivable_entries e JOIN cut USING (tenant_id, journal_id)
             WHERE (r.tenant_id, r.team, r.currency) = (e.tenant_id, e.team, e.currency);
         DELETE FROM receivables WHERE sequence = 0;
         DELETE FROM receivable_entries e USING cut WHERE (e.tenant_id, e.journal_id) = (cut.tenant_id, cut.journal_id);
         UPDATE usage_totals u SET charge = u.charge - t.amount FROM (
             SELECT t.tenant_id, t.team, t.meter, t.currency, sum(t.amount) AS amount FROM transfers t JOIN cut USING (tenant_id, journal_id)
             WHERE t.reason = 'usage' GROUP BY 1, 2, 3, 4) t
             WHERE u.ctid = (SELECT v.ctid FROM usage_totals v WHERE (v.tenant_id, v.team, v.meter, v.currency) = (t.tenant_id, t.team, t.meter, t.currency)
                 ORDER BY v.bucket DESC LIMIT 1);
         UPDATE usage_totals u SET cost = u.cost - t.amount FROM (
             SELECT t.tenant_id, t.meter, t.currency, sum(t.amount) AS amount FROM transfers t JOIN cut USING (tenant_id, journal_id)
             WHERE t.reason = 'cost' GROUP BY 1, 2, 3) t
             WHERE u.ctid = (SELECT v.ctid FROM usage_totals v WHERE (v.tenant_id, v.meter, v.cost_currency) = (t.tenant_id, t.meter, t.currency)
                 ORDER BY v.bucket DESC, v.team LIMIT 1);
         UPDATE partition_counts n SET accepted = n.accepted - c[1], copies = n.copies - c[2], rated = n.rated - c[3], unmetered = n.unmetered - c[4],
             unpriced = n.unpriced - c[5], duplicates = n.duplicates - c[6], conflicts = n.conflicts - c[7], rejected = n.rejected - c[8],
             forwarded = n.forwarded - c[9]
             FROM (SELECT split_part(one, '=', 1)::uuid AS tenant_id, string_to_array(split_part(one, '=', 2), ',')::bigint[] AS c
                 FROM audit, regexp_split_to_table(counts, ';') AS one WHERE partition = {partition} AND position_to = {position} AND one <> '') s
             WHERE (n.tenant_id, n.partition) = (s.tenant_id, {partition});
         DELETE FROM partition_counts WHERE accepted + copies = 0;
         DELETE FROM transfers t USING cut WHERE (t.tenant_id, t.journal_id) = (cut.tenant_id, cut.journal_id);
         DELETE FROM journals j USING cut WHERE (j.tenant_id, j.journal_id) = (cut.tenant_id, cut.journal_id);
         DELETE FROM audit WHERE partition = {partition} AND position_to = {position};
         UPDATE partitions p SET x = a.position_to, r = a.r, c = a.c, catalog_version = a.catalog_version FROM (SELECT * FROM audit WHERE partition = {partition} ORDER BY position_to DESC LIMIT 1) a
             WHERE p.partition = {partition}"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await?;
    Ok(format!("position {position}"))
}
