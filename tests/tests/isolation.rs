//! INV-22: the second wall between tenants: every statement of the api, run with the other tenant's
//! scope.
//!
//! The statements are taken from the sources, so a new one without a case here fails the test. Each
//! is run three times as the api's role: as its owner, which must find something, or the case would
//! prove nothing; as another tenant that asks for the owner's rows by all their keys; and as
//! another tenant with the tenant's filter cut out of the text.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use runtime::postgres::Pool;
use serde_json::json;
use sqlx::{
    AssertSqlSafe, Column as _, Executor as _, PgConnection, Row as _, ValueRef as _, raw_sql,
};
use uuid::Uuid;

use crate::world::{OTHER, TENANT, World, catalog};

#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

/// What a statement is expected to do for its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It finds or changes rows.
    Finds,
    /// It inserts, which row-level security refuses for another tenant.
    Inserts,
    /// It lists faults of the books, of which there are none.
    FindsNone,
}

use Owner::{Finds, FindsNone, Inserts};

/// A statement by file and function, with its values: `$1`, `$2` and so on, as text, or NULL. A word
/// in braces is looked up in what the owner has.
type Case = (&'static str, &'static str, Owner, &'static [&'static str]);

const NULL: &str = "NULL";

const CASES: &[Case] = &[
    (
        "api_keys",
        "insert",
        Inserts,
        &[
            "{tenant}",
            "new",
            r"\x00000000000000000000000000000000000000000000000000000000000000aa",
            "tool",
            "n",
            "{}",
            NULL,
        ],
    ),
    ("api_keys", "list", Finds, &["{tenant}", NULL, "10"]),
    ("api_keys", "lock", Finds, &["{tenant}", "{key}"]),
    ("api_keys", "revoke", Finds, &["{tenant}", "{key}"]),
    ("api_keys", "set_expiry", Finds, &["{tenant}", "{key}", "2030-01-01T00:00:00Z"]),
    ("app_secrets", "insert", Inserts, &["{tenant}", "new", "tool", "n", "{}", r"\x00", "m", NULL]),
    ("app_secrets", "list", Finds, &["{tenant}", "tool", NULL, "10"]),
    ("app_secrets", "live", Finds, &["{tenant}", "tool"]),
    ("app_secrets", "lock", Finds, &["{tenant}", "tool", "secret"]),
    ("app_secrets", "lock_app", Finds, &["{tenant}", "tool"]),
    ("app_secrets", "revoke", Finds, &["{tenant}", "secret"]),
    ("app_secrets", "set_expiry", Finds, &["{tenant}", "secret", "2030-01-01T00:00:00Z"]),
    ("apps", "insert", Inserts, &["{tenant}", "new", "n"]),
    ("apps", "list", Finds, &["{tenant}", NULL, "10"]),
    (
        "audit",
        "insert",
        Inserts,
        &["{tenant}", "{new}", "api_key", "{key}", NULL, "a", "t", NULL, "{}", NULL],
    ),
    ("audit", "list", Finds, &["{tenant}", NULL, NULL, NULL, NULL, NULL, NULL, "10"]),
    ("balances", "receivables_of_partitions", Finds, &["{partitions}"]),
    ("balances", "receivables_of_teams", Finds, &["{tenants}", "{teams}"]),
    ("balances", "wallets_changed", Finds, &["{partitions}", "{0}", "0"]),
    ("balances", "wallets_of_partitions", Finds, &["{partitions}"]),
    (
        "catalog",
        "insert",
        Inserts,
        &[
            "{tenant}",
            "99",
            "{}",
            r"\x00000000000000000000000000000000000000000000000000000000000000aa",
        ],
    ),
    ("catalog", "insert_outbox", Inserts, &["{tenant}", "{unsent}", r"\x00"]),
    ("catalog", "is_appended", Finds, &["{tenant}", "1"]),
    ("catalog", "newest", Finds, &["{tenant}"]),
    ("catalog", "newest_version", Finds, &["{tenant}"]),
    ("catalog", "of_version", Finds, &["{tenant}", "1"]),
    ("catalog_drafts", "count", Finds, &["{tenant}"]),
    ("catalog_drafts", "delete", Finds, &["{tenant}", "spring"]),
    ("catalog_drafts", "document", Finds, &["{tenant}", "spring"]),
    ("catalog_drafts", "rows", Finds, &["{tenant}", NULL, NULL, "10"]),
    ("catalog_drafts", "save", Inserts, &["{tenant}", "new", "1", "n", "{}", "k"]),
    ("catalog_preview", "used", Finds, &["{tenant}", "{tokens}", "0", "100"]),
    ("conservation", "answered", Finds, &["{tenant}"]),
    ("events", "journals", Finds, &["{tenant}", "{partitions}", "{positions}"]),
    ("exchange_rates", "find", Finds, &["{tenant}", "USD", "EUR", "2026-01-31"]),
    ("exchange_rates", "newest", Finds, &["{tenant}", "{USD}", "EUR", "2026-02-28"]),
    ("exchange_rates", "remove", Finds, &["{tenant}", "USD", "EUR", "2026-01-31"]),
    ("exchange_rates", "rows", Finds, &["{tenant}", NULL, NULL, NULL, NULL, NULL, "10"]),
    (
        "exchange_rates",
        "store",
        Inserts,
        &["{tenant}", "USD", "JPY", "2026-01-31", "150", "s", "k"],
    ),
    ("explain", "transfers", Finds, &["{tenant}", "{journals}", "{teams}"]),
    (
        "grants",
        "allocations",
        Finds,
        &["{tenant}", "{grant}", "9223372036854775807", "9223372036854775807", "2147483647", "10"],
    ),
    ("grants", "find", Finds, &["{tenant}", "{grant}", NULL]),
    ("grants", "list", Finds, &["{tenant}", "{wallet}", NULL, "10"]),
    ("holds", "any_open", Finds, &["{tenant}", "acme"]),
    ("holds", "find", Finds, &["{tenant}", "{hold}", NULL]),
    ("idempotency", "find", Finds, &["{tenant}", "POST /v1/teams", "k"]),
    ("idempotency", "insert", Inserts, &["{tenant}", "r", "k", r"\x00", "200", "{}"]),
    ("limits", "find", Finds, &["{tenant}", ""]),
    ("limits", "has_credential", Finds, &["{tenant}", "{key}"]),
    ("limits", "list", Finds, &["{tenant}", NULL, "10"]),
    ("limits", "set", Inserts, &["{tenant}", "", "5", "5"]),
    ("outbox", "is_waiting", Finds, &[]),
    ("outbox", "mark_appended", Finds, &["{tenant}", "{waiting}"]),
    ("outbox", "waiting", Finds, &["10"]),
    ("provider_invoices", "billed", Finds, &["{tenant}", "march", "1"]),
    ("provider_invoices", "find", Finds, &["{tenant}", "march", NULL]),
    (
        "provider_invoices",
        "insert",
        Inserts,
        &[
            "{tenant}",
            "new",
            "1",
            "p",
            "UTC",
            "2026-03-01",
            "2026-04-01",
            "{}",
            "{}",
            "1",
            "{}",
            r"\x00000000000000000000000000000000000000000000000000000000000000aa",
            "k",
        ],
    ),
    (
        "provider_invoices",
        "insert_lines",
        Inserts,
        &["{tenant}", "march", "1", "{3}", "{NULL}", "{m}", "{c}", "{1}", "{1}", "{USD}"],
    ),
    ("provider_invoices", "lines", Finds, &["{tenant}", "march", "1", NULL, "10"]),
    ("provider_invoices", "list", Finds, &["{tenant}", NULL, "10"]),
    (
        "provider_prices",
        "history",
        Finds,
        &["{tenant}", NULL, NULL, NULL, NULL, NULL, NULL, NULL, "10"],
    ),
    (
        "provider_prices",
        "in_force",
        Finds,
        &["{tenant}", NULL, NULL, "2000000000000000", NULL, NULL, NULL, NULL, "10"],
    ),
    (
        "provider_prices",
        "insert_versions",
        Inserts,
        &["{tenant}", "{import}", "{p}", "{m}", "{c}", "{0}", "{1}", "{1}", "{1}", "{USD}", "{0}"],
    ),
    ("provider_prices", "insert_import", Inserts, &["{tenant}", "{new}", "s", "2026-01-01"]),
    ("provider_prices", "versions", Finds, &["{tenant}", NULL]),
    ("quotas", "counts", Finds, &["{tenant}"]),
    ("quotas", "quotas", Finds, &["{tenant}"]),
    ("quotas", "set", Inserts, &["{tenant}", "month", "5"]),
    ("rejected_events", "count", Finds, &["{tenant}", "{0}", "{7}", "{0}"]),
    ("rejected_events", "insert", Inserts, &["{tenant}", "0", "8", "0", "0:9:0", "f", "{key}"]),
    ("rejected_events", "reinjections", Finds, &["{tenant}", "{0}", "{7}", "{0}"]),
    ("running_totals", "of_team", Finds, &["{tenant}", "acme"]),
    ("twins", "insert", Inserts, &["{tenant}", "0", "9", "0", "7", "0"]),
    ("twins", "rows", Finds, &["{tenant}", NULL, NULL, NULL, "10"]),
    ("backfills", "close", Finds, &["{tenant}", "history"]),
    ("backfills", "insert", Inserts, &["{tenant}", "new", "r", "k"]),
    ("backfills", "revert", Finds, &["{tenant}", "history", "{correction}", NULL]),
    ("backfills", "rows", Finds, &["{tenant}", "history", NULL, "1", "60"]),
    ("corrections", "at_work", Finds, &["{tenant}"]),
    ("corrections", "advance", Finds, &["{tenant}", "{correction}", "previewing", "previewed"]),
    ("corrections", "blocks", Finds, &["{tenant}", "{correction}", NULL, NULL, "10"]),
    (
        "corrections",
        "deltas",
        Finds,
        &["{tenant}", "{correction}", "false", NULL, NULL, NULL, NULL, "10"],
    ),
    ("corrections", "fail", Finds, &["{tenant}", "{correction}", "{lease}", "e"]),
    ("corrections", "give_back", Finds, &["{tenant}", "{correction}", "{lease}", "1"]),
    (
        "corrections",
        "insert",
        Inserts,
        &["{tenant}", "{new}", "rate", "{}", "r", NULL, "1", "{}", "k"],
    ),
    ("corrections", "insert_block", Inserts, &["{tenant}", "{correction}", "0", "9", "1"]),
    ("corrections", "complete_blocks", Inserts, &["{tenant}", "{correction}", "{0}", "{8}", "{1}"]),
    ("corrections", "lease", Finds, &["{tenant}", "{correction}", "{new}", "1"]),
    (
        "corrections",
        "note",
        Finds,
        &["{tenant}", "{correction}", "{lease}", "{}", "1", "1", "0", "0", "1"],
    ),
    ("corrections", "clear_deltas", Finds, &["{tenant}", "{correction}", "false"]),
    (
        "corrections",
        "put_deltas",
        Inserts,
        &[
            "{tenant}",
            "{correction}",
            "true",
            "{acme}",
            "{calls}",
            "{USD}",
            "{USD}",
            "{1}",
            "{1}",
            "{1}",
        ],
    ),
    ("corrections", "newest_of", Finds, &["{tenant}", "k"]),
    ("corrections", "published_over_unpriced", Finds, &["another"]),
    ("corrections", "to_decide", Finds, &["task", "false"]),
    ("corrections", "rows", Finds, &["{tenant}", "{correction}", NULL, "10"]),
    ("corrections", "totals", Finds, &["{tenant}", "{correction}", "false"]),
    ("corrections", "waiting", Finds, &[]),
    (
        "meter_periods",
        "add",
        Inserts,
        &["{tenant}", "calls", "86400000000000", "86500000000000", "86400000000000", ""],
    ),
    ("meter_periods", "close", Finds, &["{tenant}", "calls", "0", "{lease}", "1", ""]),
    ("meter_periods", "due", Finds, &["2678400000000"]),
    ("meter_periods", "any_since", Finds, &["0"]),
    ("meter_periods", "keep", Finds, &["{tenant}", "calls", "0", "{lease}", "60", "0", ""]),
    ("meter_periods", "give_back", Finds, &["{tenant}", "calls", "0", "{lease}", "1", NULL, ""]),
    ("meter_periods", "lease", Finds, &["{tenant}", "calls", "0", "{new}", "1", ""]),
    ("meter_periods", "list", Finds, &["{tenant}", "calls", NULL, NULL, "10"]),
    ("meter_periods", "open_at", Finds, &["{tenant}", "calls", "5", "false"]),
    (
        "statement",
        "journals_of_team",
        Finds,
        &["{tenant}", "acme", "ffffffff-ffff-ffff-ffff-ffffffffffff", "10"],
    ),
    ("team_aliases", "find", Finds, &["{tenant}", "acme-2"]),
    ("team_aliases", "insert", Inserts, &["{tenant}", "new", "acme", "60", "true"]),
    ("team_aliases", "advance_merge", Finds, &["{tenant}", "acme-3", "moving", "merged", NULL]),
    ("team_aliases", "any_of", Finds, &["{tenant}", "acme"]),
    ("team_aliases", "lease", Finds, &["{tenant}", "acme-3", "30", "false"]),
    ("team_aliases", "merging", Finds, &[]),
    ("team_aliases", "note_moved", Finds, &["{tenant}", "acme-3", "5"]),
    ("team_aliases", "list", Finds, &["{tenant}", "acme", NULL, "10"]),
    ("team_aliases", "remove", Finds, &["{tenant}", "acme-2"]),
    ("team_aliases", "take_effect", Finds, &["{tenant}", "acme-2"]),
    ("team_aliases", "waiting", Finds, &[]),
    ("teams", "find", Finds, &["{tenant}", "acme"]),
    ("teams", "insert", Inserts, &["{tenant}", "new", "n"]),
    ("teams", "list", Finds, &["{tenant}", NULL, "10"]),
    (
        "timeline",
        "wallet_changes",
        Finds,
        &[
            "{tenant}",
            "acme",
            "0",
            "7258118400000000",
            "7258118400000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "9223372036854775807",
            "10",
        ],
    ),
    ("wallets", "balance_at", Finds, &["{tenant}", "{wallet}", NULL]),
    ("wallets", "entries", Finds, &["{tenant}", "{wallet}", NULL, "10"]),
    ("wallets", "find", Finds, &["{tenant}", "{wallet}", NULL]),
    ("wallets", "is_seller", Finds, &["{tenant}", "one"]),
    ("wallets", "named", Finds, &["{tenant}", "acme", "USD"]),
    ("wallets", "of_team", Finds, &["{tenant}", "acme"]),
    ("wallets", "set", Finds, &["{tenant}", "{wallet}", "credits_only", "5"]),
    ("ledger", "balances", Finds, &["{tenant}", "acme"]),
    ("ledger", "conservation", Finds, &["{tenant}"]),
    ("ledger", "imbalances", FindsNone, &[]),
    ("ledger", "journal", Finds, &["{tenant}", "{journal}"]),
    ("ledger", "journal_covering", Finds, &["{tenant}", "{partition}", "{position}"]),
    ("ledger", "journals", Finds, &["{tenant}", "ffffffff-ffff-ffff-ffff-ffffffffffff", "10"]),
    ("ledger", "receivable_drift", FindsNone, &[]),
    ("ledger", "receivables", Finds, &[]),
    ("ledger", "transfers_of_journal", Finds, &["{tenant}", "{journal}", "-1", "10"]),
    (
        "ledger",
        "transfers_of_team",
        Finds,
        &["{tenant}", "acme", "ffffffff-ffff-ffff-ffff-ffffffffffff", "2147483647", "10"],
    ),
    ("ledger", "trial_balance", Finds, &[]),
    ("ledger", "usage", Finds, &["{tenant}", NULL, NULL, NULL, NULL]),
];

/// A statement of the sources.
#[derive(Debug)]
struct Statement {
    file: String,
    function: String,
    text: String,
}

/// Every statement of the api's stores and of the ledger's reads that it calls.
fn statements() -> Result<Vec<Statement>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = vec![("ledger".to_owned(), root.join("ledger/src/statement.rs"))];
    for entry in fs::read_dir(root.join("api/src/store"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name")?.to_owned();
        ensure!(path.is_file(), "{name} is a folder: read it here as well");
        sources.push((name, path));
    }
    sources.sort();
    let mut statements = Vec::new();
    for (file, path) in sources {
        let source = fs::read_to_string(path)?;
        for (at, call) in source.match_indices("sqlx::query") {
            let text = literal(&source[at + call.len()..])
                .with_context(|| format!("{file}: a statement that is no literal"))?;
            let function = function_at(&source[..at]).context("a function")?;
            statements.push(Statement { file: file.clone(), function, text });
        }
    }
    ensure!(statements.len() > 50, "only {} statements are found", statements.len());
    Ok(statements)
}

/// The literal that is the first argument of a call whose name ends here.
fn literal(rest: &str) -> Option<String> {
    let (call, rest) = rest.split_once('"')?;
    let mut chars = rest.chars();
    if call.contains(';') || !call.trim_end().ends_with('(') {
        return None;
    }
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?),
            char => text.push(char),
        }
    }
}

/// The function of a file that its last line is in; functions within it do not count.
fn function_at(before: &str) -> Option<String> {
    let lines = before.lines().rev().filter(|line| !line.starts_with(' '));
    let name = |line: &str| {
        let (_, rest) = line.split_once("fn ")?;
        Some(rest.split(['(', '<']).next()?.to_owned())
    };
    lines.filter_map(name).next()
}

/// The statement with its values in their places.
fn filled(text: &str, values: &[String]) -> String {
    let mut text = text.to_owned();
    for (number, value) in values.iter().enumerate().rev() {
        let value =
            if value == NULL { value.clone() } else { format!("'{}'", value.replace('\'', "''")) };
        text = text.replace(&format!("${}", number + 1), &value);
    }
    text
}

/// The statement without the tenant's filter.
fn unfiltered(text: &str) -> String {
    text.replace("$1::uuid IS NULL OR n.tenant_id = $1", "true")
        .replace("n.tenant_id = $1", "true")
        .replace("r.tenant_id = $1", "true")
        .replace("t.tenant_id = $1", "true")
        .replace("w.tenant_id = $1", "true")
        .replace("tenant_id = $1", "true")
}

/// What a statement did: how many rows it found or changed, and those that it answered, as text.
type Outcome = Result<(u64, Vec<Vec<Option<String>>>), String>;

/// Runs one statement as the api's role in a tenant's scope, and takes it back.
async fn run(pool: &Pool, scope: Uuid, sql: &str) -> Result<Outcome> {
    let mut connection = pool.acquire().await?;
    let begin = format!("BEGIN; SELECT set_config('app.tenant', '{scope}', true)");
    connection.execute(raw_sql(AssertSqlSafe(begin))).await?;
    let outcome = outcome(&mut connection, sql).await;
    connection.execute("ROLLBACK").await?;
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(sqlx::Error::Database(error)) => {
            Ok(Err(format!("{} {}", error.code().unwrap_or_default(), error.message())))
        }
        Err(error) => Err(error.into()),
    }
}

async fn outcome(
    connection: &mut PgConnection,
    sql: &str,
) -> Result<(u64, Vec<Vec<Option<String>>>), sqlx::Error> {
    connection.execute("SAVEPOINT before").await?;
    let changed = connection.execute(raw_sql(AssertSqlSafe(sql.to_owned()))).await?.rows_affected();
    connection.execute("ROLLBACK TO before").await?;
    let rows = connection.fetch_all(raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
    let text = |row: &sqlx::postgres::PgRow| {
        let value = |column: usize| {
            let value = row.try_get_raw(column).ok()?;
            (!value.is_null()).then(|| value.as_str().unwrap_or_default().to_owned())
        };
        row.columns().iter().map(|column| value(column.ordinal())).collect()
    };
    let rows = rows.iter().map(text).collect();
    Ok((changed, rows))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_the_api_reaches_another_tenant_without_its_filter() -> Result<()> {
    let mut world = World::all().await?;
    let owned = owned(&mut world).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.table_name::text FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.column_name = 'tenant_id' AND c.table_schema = 'public' AND t.table_type = 'BASE TABLE'",
    )
    .fetch_all(&world.admin)
    .await?;
    let pool = world.postgres.pool(&world.url, Some("weir_api"), 1).await?;
    let (faults, _) = walk(&pool, &tables, &owned).await?;
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // Without the wall, the same look finds fault with every statement that it can.
    for table in &tables {
        let sql = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY");
        world.admin.execute(raw_sql(AssertSqlSafe(sql))).await?;
    }
    let (_, unnoticed) = walk(&pool, &tables, &owned).await?;
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
    world.stop().await
}

/// What is wrong with the statements, and which of those that have a filter to lose or insert rows
/// nothing is wrong with.
async fn walk(
    pool: &Pool,
    tables: &[String],
    owned: &BTreeMap<&'static str, String>,
) -> Result<(Vec<String>, Vec<String>)> {
    let statements = statements()?;
    let case = |(file, function, owner, values): &Case| ((*file, *function), (*owner, *values));
    let mut cases: BTreeMap<(&str, &str), (Owner, &[&str])> = CASES.iter().map(case).collect();
    assert_eq!(cases.len(), CASES.len(), "a case stands twice");
    let (mut faults, mut faultless) = (Vec::new(), Vec::new());
    for statement in &statements {
        // A lock on a number reads no rows.
        let touches = tables.iter().any(|table| has_word(&statement.text, table));
        if !touches || statement.text.contains("pg_advisory_xact_lock") {
            continue;
        }
        let place = (statement.file.as_str(), statement.function.as_str());
        let Some((owner, values)) = cases.remove(&place) else {
            faults.push(format!("{place:?} has no case: say with which values it finds rows"));
            continue;
        };
        let values = |tenant| fill(values, owned, tenant);
        let filtered = unfiltered(&statement.text) != statement.text;
        match check(pool, statement, owner, &values).await {
            Err(fault) => faults.push(format!("{place:?}: {fault:#}")),
            Ok(()) if filtered || owner == Inserts => faultless.push(format!("{place:?}")),
            Ok(()) => {}
        }
    }
    faults.extend(cases.keys().map(|place| format!("{place:?}: a case without a statement")));
    Ok((faults, faultless))
}

async fn check(
    pool: &Pool,
    statement: &Statement,
    owner: Owner,
    values: &dyn Fn(Uuid) -> Vec<String>,
) -> Result<()> {
    let nobody = Uuid::from_u128(0x9999);
    let asked = filled(&statement.text, &values(TENANT));
    let own = run(pool, TENANT, &asked).await?;
    let (changed, rows) = own.clone().map_err(|error| anyhow::anyhow!("as its owner: {error}"))?;
    let says =
        |row: &Vec<Option<String>>| row.iter().flatten().any(|text| text != "f" && text != "0");
    let found = if rows.is_empty() { changed > 0 } else { rows.iter().any(says) };
    ensure!(found == (owner != FindsNone), "as its owner: {own:?}");

    let attack = run(pool, OTHER, &asked).await?;
    if owner == Inserts {
        let refused = attack.as_ref().err().is_some_and(|error| error.starts_with("42501"));
        ensure!(refused, "inserted for another tenant: {attack:?}");
        return Ok(());
    }
    // The owner's rows are to the other tenant what no rows are.
    let nothing = if statement.text.contains("tenant_id = $1") {
        run(pool, OTHER, &filled(&statement.text, &values(nobody))).await?
    } else {
        run(pool, nobody, &asked).await?
    };
    let (attack, nothing) =
        (attack.map_err(anyhow::Error::msg)?, nothing.map_err(anyhow::Error::msg)?);
    ensure!(attack == nothing, "asking for another's rows gives {attack:?} instead of {nothing:?}");

    let open = unfiltered(&statement.text);
    if open == statement.text {
        return Ok(());
    }
    let open = run(pool, OTHER, &filled(&open, &values(OTHER))).await?;
    let base = run(pool, OTHER, &filled(&statement.text, &values(OTHER))).await?;
    let (open, base) = (open.map_err(anyhow::Error::msg)?, base.map_err(anyhow::Error::msg)?);
    ensure!(open == base, "without the filter: {open:?} instead of {base:?}");
    let tenant = TENANT.to_string();
    let leaked = open.1.iter().flatten().flatten().any(|text| text.contains(&tenant));
    ensure!(!leaked, "without the filter: {open:?}");
    Ok(())
}

fn has_word(text: &str, word: &str) -> bool {
    let inside =
        |char: Option<char>| char.is_some_and(|char| char.is_ascii_alphanumeric() || char == '_');
    text.match_indices(word).any(|(at, _)| {
        !inside(text[..at].chars().next_back()) && !inside(text[at + word.len()..].chars().next())
    })
}

fn fill(values: &[&str], owned: &BTreeMap<&'static str, String>, tenant: Uuid) -> Vec<String> {
    let value = |value: &&str| {
        let name = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some("tenant") => tenant.to_string(),
            Some("tenants") => format!("{{{tenant}}}"),
            Some(name) => owned.get(name).cloned().unwrap_or_else(|| (*value).to_owned()),
            None => (*value).to_owned(),
        }
    };
    values.iter().map(value).collect()
}

/// Gives the owner rows in every table, and answers their keys.
async fn owned(world: &mut World) -> Result<BTreeMap<&'static str, String>> {
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    let headers = [("idempotency-key", "k")];
    let team = json!({"team": "acme"});
    world.send(Method::POST, "/v1/teams", &world.key, &headers, Some(team)).await?.expect(201)?;
    world.post("/v1/teams/acme/aliases", json!({"alias": "acme-2"})).await?.expect(201)?;
    let credits = json!({"customer_id": "acme", "amount": "100", "currency": "USD"});
    let bought = world.post("/v1/credits/purchase", credits).await?.expect(201)?;
    let hold = json!({"wallet": bought["wallet"], "amount": "1", "expires_in_seconds": 86_400});
    let hold = world.post("/v1/holds", hold).await?.expect(201)?;
    let event = json!([{"id": "1", "source": "s", "type": "llm.call", "subject": "acme", "data": {"tokens": 7, "model": "gpt"}}]);
    world.post("/v1/events", event).await?.expect(200)?;
    world
        .until("/v1/teams/acme/transfers", |body| {
            body["items"].as_array().is_some_and(|items| !items.is_empty())
        })
        .await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let allocations = format!("/v1/grants/{}/allocations", text(&bought["grant"]));
    world
        .until(&allocations, |body| body["items"].as_array().is_some_and(|items| !items.is_empty()))
        .await?;
    // Nobody works on what is put in below.
    world.halt().await?;
    let import = Uuid::from_u128(0x3333);
    for sql in [
        "INSERT INTO app_secrets (tenant_id, secret_id, app, scopes, sealed, master_key_id) VALUES ($1, 'secret', 'tool', '{}', '', 'm')",
        "INSERT INTO ingest_limits (tenant_id, credential, events_per_second, burst) VALUES ($1, '', 1000000, 1000000)",
        "INSERT INTO ingest_quotas (tenant_id, period, events) VALUES ($1, 'day', 1000000)",
        "INSERT INTO ingest_counts (tenant_id, period, period_start, events) VALUES ($1, 'day', now() AT TIME ZONE 'UTC', 5)
         ON CONFLICT (tenant_id, period) DO UPDATE SET events = 5",
        "UPDATE team_aliases SET effective_at = clock_timestamp() WHERE tenant_id = $1",
        "INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting, merge) VALUES ($1, 'acme-3', 'acme', now(), true, 'moving')",
        "INSERT INTO running_totals (tenant_id, team, meter, scope, period, starts_at, quantity)
         VALUES ($1, 'acme', 'calls', '', 'ever', '-infinity', 7)",
        "INSERT INTO corrections (tenant_id, correction_id, kind, filter, reason, catalog_version, state, archived_to, created_by, lease)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', 'rate', '{}', 'r', 1, 'previewing', '{}', 'k', '00000000-0000-0000-0000-000000006666')",
        "INSERT INTO corrections (tenant_id, correction_id, kind, filter, reason, catalog_version, state, archived_to, created_by)
         VALUES ($1, '00000000-0000-0000-0000-000000005556', 'rate', '{}', 'r', 1, 'previewed', '{}', 'task')",
        "UPDATE partition_counts SET accepted = accepted + 1, unpriced = unpriced + 1 WHERE tenant_id = $1",
        "INSERT INTO correction_deltas (tenant_id, correction_id, posted, team, meter, currency, cost_currency, quantity, charge, cost)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', false, 'acme', 'calls', 'USD', '', 0, 1, 0)",
        "INSERT INTO correction_blocks (tenant_id, correction_id, partition, position, commands)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', 0, 7, 1)",
        "INSERT INTO meter_periods (tenant_id, meter, period_from, period_to, lease)
         VALUES ($1, 'calls', 'epoch', '1970-02-01T00:00:00Z', '00000000-0000-0000-0000-000000006666')",
        "INSERT INTO twins (tenant_id, partition, position, index, first_position, first_index) VALUES ($1, 0, 8, 0, 7, 0)",
        "INSERT INTO backfills (tenant_id, backfill, reason, created_by) VALUES ($1, 'history', 'r', 'k')",
        "INSERT INTO catalog_drafts (tenant_id, draft, base_version, note, document, created_by, updated_by)
         VALUES ($1, 'spring', 1, 'n', '{}', 'k', 'k')",
        "INSERT INTO exchange_rates (tenant_id, from_currency, to_currency, effective_on, rate, source, stored_by)
         VALUES ($1, 'USD', 'EUR', '2026-01-31', 0.9, 's', 'k')",
        "INSERT INTO provider_invoices (tenant_id, invoice, revision, provider, time_zone, period_from, period_to, models, classes,
             lines, totals, content_hash, imported_by)
         VALUES ($1, 'march', 1, 'openai', 'UTC', '2026-03-01', '2026-04-01', '{}', '{}', 1, '{}', decode(repeat('00', 32), 'hex'), 'k')",
        "INSERT INTO provider_invoice_lines (tenant_id, invoice, revision, line, quantity, amount, currency) VALUES ($1, 'march', 1, 2, 1, 1, 'USD')",
        "INSERT INTO late_answers (tenant_id, partition, answered) VALUES ($1, 0, 1)",
        "INSERT INTO reinjections (tenant_id, partition, position, index, receipt, corrected, reinjected_by) VALUES ($1, 0, 7, 0, '0:8:0', true, 'k')",
        "INSERT INTO catalog_versions (tenant_id, catalog_version, document, document_hash) VALUES ($1, 70, '{}', decode(repeat('aa', 32), 'hex'))",
        "INSERT INTO catalog_versions (tenant_id, catalog_version, document, document_hash) VALUES ($1, 71, '{}', decode(repeat('aa', 32), 'hex'))",
        "INSERT INTO catalog_outbox (tenant_id, catalog_version, document_hash) VALUES ($1, 71, '')",
        "INSERT INTO provider_price_imports (tenant_id, import_id, source, source_date) VALUES ($1, '00000000-0000-0000-0000-000000003333', 's', '2026-01-01')",
        "INSERT INTO provider_prices (tenant_id, provider, model, class, above, version, price, per, currency, effective_from, import_id)
         VALUES ($1, 'openai', 'gpt', 'input', 0, 1, 1, 1, 'USD', 'epoch', '00000000-0000-0000-0000-000000003333')",
    ] {
        sqlx::query(sql).bind(TENANT).execute(&world.admin).await.with_context(|| sql)?;
    }
    let key: String = sqlx::query_scalar("SELECT key_id FROM api_keys WHERE name = 'one'")
        .fetch_one(&world.admin)
        .await?;
    let (journal, partition, position): (Uuid, i32, i64) = sqlx::query_as(
        "SELECT journal_id, partition, position_to FROM journals JOIN transfers USING (tenant_id, journal_id) WHERE tenant_id = $1 AND position_to IS NOT NULL LIMIT 1",
    )
    .bind(TENANT)
    .fetch_one(&world.admin)
    .await?;
    Ok(BTreeMap::from([
        ("key", key),
        ("wallet", text(&bought["wallet"])),
        ("grant", text(&bought["grant"])),
        ("hold", text(&hold["id"])),
        ("new", Uuid::from_u128(0x4444).to_string()),
        ("import", import.to_string()),
        ("correction", Uuid::from_u128(0x5555).to_string()),
        ("lease", Uuid::from_u128(0x6666).to_string()),
        ("journal", journal.to_string()),
        ("journals", format!("{{{journal}}}")),
        ("teams", "{acme}".to_owned()),
        ("partition", partition.to_string()),
        ("partitions", format!("{{{partition}}}")),
        ("position", position.to_string()),
        ("positions", format!("{{{position}}}")),
        ("unsent", "70".to_owned()),
        ("waiting", "71".to_owned()),
    ]))
}
