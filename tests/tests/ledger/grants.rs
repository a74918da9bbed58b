//! Who may do what, from the catalog and by trying.

use std::collections::BTreeMap;

use anyhow::Result;
use runtime::postgres::{Pool, PostgresError};
use sqlx::{AssertSqlSafe, Executor as _, raw_sql};

use crate::world::World;

const ROLES: [&str; 5] = ["weir_api", "weir_writer", "weir_archiver", "weir_reader", "weir_lane"];
const VERBS: [&str; 7] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"];

/// Everything that is allowed: role, table, verbs (S select, I insert, U update, D delete, u update
/// of the named columns). What is not here is refused: only the archiver deletes, rows of
/// `archive_groups`, and the api, aliases and differences of corrections; nobody truncates.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("weir_api", "accounts", "SI"),
    ("weir_api", "api_keys", "SI u(expires_at,revoked_at)"),
    ("weir_api", "app_secrets", "SI u(expires_at,revoked_at)"),
    ("weir_api", "apps", "SI u(name)"),
    ("weir_api", "catalog_outbox", "SI u(appended_at)"),
    ("weir_api", "catalog_versions", "SI"),
    ("weir_api", "idempotency", "SI"),
    ("weir_api", "ingest_counts", "S"),
    ("weir_api", "ingest_quotas", "SI u(changed_at,events)"),
    ("weir_api", "ingest_limits", "SI u(burst,changed_at,events_per_second)"),
    ("weir_api", "installation", "S u(catalog_version)"),
    ("weir_api", "journals", "SI"),
    ("weir_api", "partition_counts", "S"),
    ("weir_api", "partitions", "S"),
    ("weir_api", "receivable_entries", "S"),
    ("weir_api", "reinjections", "SI"),
    ("weir_api", "provider_invoices", "SI"),
    ("weir_api", "provider_invoice_lines", "SI"),
    ("weir_api", "provider_price_imports", "SI"),
    ("weir_api", "provider_prices", "SI"),
    ("weir_api", "privileged_changes", "SI"),
    ("weir_api", "receivables", "S"),
    (
        "weir_api",
        "team_aliases",
        "SID u(corrections,effective_at,leased_until,merge,moved,waiting)",
    ),
    ("weir_api", "teams", "SI u(name)"),
    ("weir_api", "tenants", "S"),
    ("weir_api", "transfers", "SI"),
    ("weir_api", "running_totals", "S"),
    ("weir_api", "correction_blocks", "SI"),
    ("weir_api", "correction_deltas", "SID"),
    (
        "weir_api",
        "corrections",
        "SI u(applied,archived_to,changes,cursor,ended_at,error,events,lease,leased_until,posting_at,previewed_at,rejected,state)",
    ),
    (
        "weir_api",
        "catalog_drafts",
        "SID u(base_version,document,note,revision,updated_at,updated_by)",
    ),
    ("weir_api", "exchange_rates", "SID u(rate,source,stored_at,stored_by)"),
    ("weir_api", "backfills", "SI u(closed_at,correction_id,state)"),
    (
        "weir_api",
        "meter_periods",
        "SI u(closed_at,closings,error,lease,leased_until,quantities,state)",
    ),
    ("weir_api", "observed_positions", "SI u(position)"),
    ("weir_api", "twins", "SI"),
    ("weir_api", "swept_positions", "SI u(position,swept_at)"),
    ("weir_api", "usage_totals", "S"),
    ("weir_api", "late_answers", "S"),
    ("weir_api", "allocations", "S"),
    ("weir_api", "captures", "SI"),
    ("weir_api", "grants", "SI u(ending,held,remaining,state)"),
    ("weir_api", "hold_lots", "SI u(captured,released)"),
    ("weir_api", "holds", "SI u(captured,ended_at,on_credit,reason,state)"),
    ("weir_api", "new_wallets", "I"),
    ("weir_api", "open_items", "S"),
    ("weir_api", "reversals", "S"),
    ("weir_api", "settle_due", "SI u(version)"),
    ("weir_api", "unsealed_journals", "I"),
    ("weir_api", "wallet_entries", "SI"),
    ("weir_api", "wallets", "SI u(balance,credit_limit,held,held_on_credit,mode,sequence)"),
    ("weir_archiver", "archive_groups", "SID"),
    ("weir_archiver", "audit", "S"),
    ("weir_archiver", "installation", "S"),
    ("weir_archiver", "partitions", "S"),
    ("weir_lane", "late_answers", "SIU"),
    ("weir_lane", "late_places", "SIU"),
    ("weir_reader", "_sqlx_migrations", "S"),
    ("weir_reader", "allocations", "S"),
    ("weir_reader", "captures", "S"),
    ("weir_reader", "grants", "S"),
    ("weir_reader", "hold_lots", "S"),
    ("weir_reader", "holds", "S"),
    ("weir_reader", "journal_seals", "S"),
    ("weir_reader", "new_wallets", "S"),
    ("weir_reader", "open_items", "S"),
    ("weir_reader", "reversal_allocations", "S"),
    ("weir_reader", "reversals", "S"),
    ("weir_reader", "settle_due", "S"),
    ("weir_reader", "unsealed_journals", "S"),
    ("weir_reader", "wallet_entries", "S"),
    ("weir_reader", "wallets", "S"),
    ("weir_reader", "accounts", "S"),
    ("weir_reader", "api_keys", "S"),
    ("weir_reader", "app_secrets", "S"),
    ("weir_reader", "apps", "S"),
    ("weir_reader", "archive_groups", "S"),
    ("weir_reader", "audit", "S"),
    ("weir_reader", "catalog_outbox", "S"),
    ("weir_reader", "catalog_versions", "S"),
    ("weir_reader", "ingest_counts", "S"),
    ("weir_reader", "ingest_quotas", "S"),
    ("weir_reader", "ingest_limits", "S"),
    ("weir_reader", "installation", "S"),
    ("weir_reader", "journals", "S"),
    ("weir_reader", "late_answers", "S"),
    ("weir_reader", "late_places", "S"),
    ("weir_reader", "partition_counts", "S"),
    ("weir_reader", "partitions", "S"),
    ("weir_reader", "receivable_entries", "S"),
    ("weir_reader", "reinjections", "S"),
    ("weir_reader", "provider_invoices", "S"),
    ("weir_reader", "provider_invoice_lines", "S"),
    ("weir_reader", "provider_price_imports", "S"),
    ("weir_reader", "provider_prices", "S"),
    ("weir_reader", "privileged_changes", "S"),
    ("weir_reader", "receivables", "S"),
    ("weir_reader", "team_aliases", "S"),
    ("weir_reader", "teams", "S"),
    ("weir_reader", "tenants", "S"),
    ("weir_reader", "transfers", "S"),
    ("weir_reader", "running_totals", "S"),
    ("weir_reader", "correction_blocks", "S"),
    ("weir_reader", "correction_deltas", "S"),
    ("weir_reader", "corrections", "S"),
    ("weir_reader", "backfills", "S"),
    ("weir_reader", "catalog_drafts", "S"),
    ("weir_reader", "exchange_rates", "S"),
    ("weir_reader", "meter_periods", "S"),
    ("weir_reader", "observed_positions", "S"),
    ("weir_reader", "twins", "S"),
    ("weir_reader", "swept_positions", "S"),
    ("weir_reader", "usage_totals", "S"),
    ("weir_writer", "allocations", "SI"),
    (
        "weir_writer",
        "grants",
        "S u(ended_at,ending,ending_position,final_position,held,remaining,state)",
    ),
    ("weir_writer", "hold_lots", "S u(captured,released)"),
    (
        "weir_writer",
        "holds",
        "S u(captured,ended_at,ending_position,forwarded_to,on_credit,reason,state)",
    ),
    ("weir_writer", "journal_seals", "SI"),
    ("weir_writer", "late_places", "S"),
    ("weir_writer", "new_wallets", "SD"),
    ("weir_writer", "open_items", "SI u(captured,paid)"),
    ("weir_writer", "reversal_allocations", "SI"),
    ("weir_writer", "reversals", "SI u(applied)"),
    ("weir_writer", "settle_due", "SID u(version)"),
    ("weir_writer", "unsealed_journals", "SID"),
    ("weir_writer", "wallet_entries", "SI"),
    ("weir_writer", "wallets", "S u(balance,debt,held,held_on_credit,sequence,settled_to)"),
    ("weir_writer", "accounts", "SI"),
    ("weir_writer", "audit", "SI"),
    ("weir_writer", "installation", "S"),
    ("weir_writer", "journals", "SI"),
    ("weir_writer", "partition_counts", "SIU"),
    ("weir_writer", "partitions", "SU"),
    ("weir_writer", "receivable_entries", "SI"),
    ("weir_writer", "receivables", "SIU"),
    ("weir_writer", "teams", "SI"),
    ("weir_writer", "tenants", "S"),
    ("weir_writer", "transfers", "SI"),
    ("weir_writer", "running_totals", "SIU"),
    ("weir_writer", "usage_totals", "SIU"),
];

/// Every function that a role may call: role and function.
const ALLOWED_FUNCTIONS: &[(&str, &str)] = &[
    ("weir_api", "find_api_key(text)"),
    ("weir_api", "find_app_secrets(text,text)"),
    ("weir_api", "place_holds(uuid,uuid,uuid[],text[],bytea[],numeric[],bigint[],text[],text[])"),
    ("weir_api", "tenant_is_disabled(uuid)"),
    ("weir_reader", "count_ingested(uuid[],bigint[])"),
];

/// Every function of ours, and whether it does what its owner may do.
const FUNCTIONS: &[(&str, bool)] = &[
    ("check_transfers()", false),
    ("count_ingested(uuid[],bigint[])", true),
    ("find_api_key(text)", true),
    ("find_app_secrets(text,text)", true),
    ("note_wallet_change()", false),
    ("place_holds(uuid,uuid,uuid[],text[],bytea[],numeric[],bigint[],text[],text[])", false),
    ("tenant_is_disabled(uuid)", true),
];

/// Every verb that a role has for a column without having it for the table: role, column, verb.
const ALLOWED_COLUMNS: &[(&str, &str, &str)] = &[
    ("weir_api", "api_keys.expires_at", "UPDATE"),
    ("weir_api", "api_keys.revoked_at", "UPDATE"),
    ("weir_api", "app_secrets.expires_at", "UPDATE"),
    ("weir_api", "app_secrets.revoked_at", "UPDATE"),
    ("weir_api", "apps.name", "UPDATE"),
    ("weir_api", "backfills.closed_at", "UPDATE"),
    ("weir_api", "backfills.correction_id", "UPDATE"),
    ("weir_api", "backfills.state", "UPDATE"),
    ("weir_api", "catalog_drafts.base_version", "UPDATE"),
    ("weir_api", "catalog_drafts.document", "UPDATE"),
    ("weir_api", "catalog_drafts.note", "UPDATE"),
    ("weir_api", "catalog_drafts.revision", "UPDATE"),
    ("weir_api", "catalog_drafts.updated_at", "UPDATE"),
    ("weir_api", "catalog_drafts.updated_by", "UPDATE"),
    ("weir_api", "catalog_outbox.appended_at", "UPDATE"),
    ("weir_api", "corrections.applied", "UPDATE"),
    ("weir_api", "corrections.archived_to", "UPDATE"),
    ("weir_api", "corrections.changes", "UPDATE"),
    ("weir_api", "corrections.cursor", "UPDATE"),
    ("weir_api", "corrections.ended_at", "UPDATE"),
    ("weir_api", "corrections.error", "UPDATE"),
    ("weir_api", "corrections.events", "UPDATE"),
    ("weir_api", "corrections.lease", "UPDATE"),
    ("weir_api", "corrections.leased_until", "UPDATE"),
    ("weir_api", "corrections.posting_at", "UPDATE"),
    ("weir_api", "corrections.previewed_at", "UPDATE"),
    ("weir_api", "corrections.rejected", "UPDATE"),
    ("weir_api", "corrections.state", "UPDATE"),
    ("weir_api", "exchange_rates.rate", "UPDATE"),
    ("weir_api", "exchange_rates.source", "UPDATE"),
    ("weir_api", "exchange_rates.stored_at", "UPDATE"),
    ("weir_api", "exchange_rates.stored_by", "UPDATE"),
    ("weir_api", "grants.ending", "UPDATE"),
    ("weir_api", "grants.held", "UPDATE"),
    ("weir_api", "grants.remaining", "UPDATE"),
    ("weir_api", "grants.state", "UPDATE"),
    ("weir_api", "hold_lots.captured", "UPDATE"),
    ("weir_api", "hold_lots.released", "UPDATE"),
    ("weir_api", "holds.captured", "UPDATE"),
    ("weir_api", "holds.ended_at", "UPDATE"),
    ("weir_api", "holds.on_credit", "UPDATE"),
    ("weir_api", "holds.reason", "UPDATE"),
    ("weir_api", "holds.state", "UPDATE"),
    ("weir_api", "ingest_limits.burst", "UPDATE"),
    ("weir_api", "ingest_limits.changed_at", "UPDATE"),
    ("weir_api", "ingest_limits.events_per_second", "UPDATE"),
    ("weir_api", "ingest_quotas.changed_at", "UPDATE"),
    ("weir_api", "ingest_quotas.events", "UPDATE"),
    ("weir_api", "installation.catalog_version", "UPDATE"),
    ("weir_api", "meter_periods.closed_at", "UPDATE"),
    ("weir_api", "meter_periods.closings", "UPDATE"),
    ("weir_api", "meter_periods.error", "UPDATE"),
    ("weir_api", "meter_periods.lease", "UPDATE"),
    ("weir_api", "meter_periods.leased_until", "UPDATE"),
    ("weir_api", "meter_periods.quantities", "UPDATE"),
    ("weir_api", "meter_periods.state", "UPDATE"),
    ("weir_api", "observed_positions.position", "UPDATE"),
    ("weir_api", "settle_due.version", "UPDATE"),
    ("weir_api", "swept_positions.position", "UPDATE"),
    ("weir_api", "swept_positions.swept_at", "UPDATE"),
    ("weir_api", "team_aliases.corrections", "UPDATE"),
    ("weir_api", "team_aliases.effective_at", "UPDATE"),
    ("weir_api", "team_aliases.leased_until", "UPDATE"),
    ("weir_api", "team_aliases.merge", "UPDATE"),
    ("weir_api", "team_aliases.moved", "UPDATE"),
    ("weir_api", "team_aliases.waiting", "UPDATE"),
    ("weir_api", "teams.name", "UPDATE"),
    ("weir_api", "wallets.balance", "UPDATE"),
    ("weir_api", "wallets.credit_limit", "UPDATE"),
    ("weir_api", "wallets.held", "UPDATE"),
    ("weir_api", "wallets.held_on_credit", "UPDATE"),
    ("weir_api", "wallets.mode", "UPDATE"),
    ("weir_api", "wallets.sequence", "UPDATE"),
    ("weir_writer", "grants.ended_at", "UPDATE"),
    ("weir_writer", "grants.ending", "UPDATE"),
    ("weir_writer", "grants.ending_position", "UPDATE"),
    ("weir_writer", "grants.final_position", "UPDATE"),
    ("weir_writer", "grants.held", "UPDATE"),
    ("weir_writer", "grants.remaining", "UPDATE"),
    ("weir_writer", "grants.state", "UPDATE"),
    ("weir_writer", "hold_lots.captured", "UPDATE"),
    ("weir_writer", "hold_lots.released", "UPDATE"),
    ("weir_writer", "holds.captured", "UPDATE"),
    ("weir_writer", "holds.ended_at", "UPDATE"),
    ("weir_writer", "holds.ending_position", "UPDATE"),
    ("weir_writer", "holds.forwarded_to", "UPDATE"),
    ("weir_writer", "holds.on_credit", "UPDATE"),
    ("weir_writer", "holds.reason", "UPDATE"),
    ("weir_writer", "holds.state", "UPDATE"),
    ("weir_writer", "open_items.captured", "UPDATE"),
    ("weir_writer", "open_items.paid", "UPDATE"),
    ("weir_writer", "reversals.applied", "UPDATE"),
    ("weir_writer", "settle_due.version", "UPDATE"),
    ("weir_writer", "wallets.balance", "UPDATE"),
    ("weir_writer", "wallets.debt", "UPDATE"),
    ("weir_writer", "wallets.held", "UPDATE"),
    ("weir_writer", "wallets.held_on_credit", "UPDATE"),
    ("weir_writer", "wallets.sequence", "UPDATE"),
    ("weir_writer", "wallets.settled_to", "UPDATE"),
];

/// Every verb of a role for a sequence: role, sequence, verb. Numbers are given by the tables.
const ALLOWED_SEQUENCES: &[(&str, &str, &str)] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_may_do_more_than_is_written_here() -> Result<()> {
    let world = World::start().await?;
    let admin = world.admin().await?;
    let rows: Vec<(String, String, Vec<bool>, Vec<String>)> = sqlx::query_as(
        "SELECT role, c.relname::text,
             ARRAY(SELECT has_table_privilege(role, c.oid, verb) FROM UNNEST($2::text[]) WITH ORDINALITY AS verbs (verb, n) ORDER BY n),
             ARRAY(SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                 AND has_column_privilege(role, c.oid, attnum, 'UPDATE') AND NOT has_table_privilege(role, c.oid, 'UPDATE')
                 ORDER BY attname)
         FROM pg_class c CROSS JOIN UNNEST($1::text[]) AS roles (role)
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .bind(ROLES.as_slice())
    .bind(VERBS.as_slice())
    .fetch_all(&admin)
    .await?;
    let found: BTreeMap<(String, String), String> = rows
        .into_iter()
        .map(|(role, table, verbs, columns)| ((role, table), describe(&verbs, &columns)))
        .filter(|(_, verbs)| !verbs.is_empty())
        .collect();
    let allowed: BTreeMap<(String, String), String> = ALLOWED
        .iter()
        .map(|(role, table, verbs)| {
            (((*role).to_owned(), (*table).to_owned()), (*verbs).to_owned())
        })
        .collect();
    assert_eq!(allowed.len(), ALLOWED.len());
    assert_eq!(found, allowed);
    functions(&admin).await?;
    columns(&admin).await?;
    sequences(&admin).await?;
    no_way_around(&world).await
}

/// A new function is called by everybody until that is revoked.
async fn functions(admin: &Pool) -> Result<()> {
    // What an extension brings along is not ours.
    let ours = "pronamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_depend
        WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')";
    let all: Vec<(String, bool)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT oid::regprocedure::text, prosecdef FROM pg_proc p WHERE {ours} ORDER BY 1"
    )))
    .fetch_all(admin)
    .await?;
    let all: Vec<(&str, bool)> = all.iter().map(|(name, own)| (name.as_str(), *own)).collect();
    assert_eq!(all, FUNCTIONS);
    let found: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT role, oid::regprocedure::text FROM pg_proc p CROSS JOIN UNNEST($1::text[]) AS roles (role)
         WHERE {ours} AND has_function_privilege(role, oid, 'EXECUTE') ORDER BY 1, 2"
    )))
    .bind(ROLES.as_slice())
    .fetch_all(admin)
    .await?;
    let found: Vec<(&str, &str)> =
        found.iter().map(|(role, name)| (role.as_str(), name.as_str())).collect();
    assert_eq!(found, ALLOWED_FUNCTIONS);
    Ok(())
}

/// Verbs for a column of a table whose role has not the verb for the table.
async fn columns(admin: &Pool) -> Result<()> {
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT role, c.relname || '.' || a.attname, verb
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
         CROSS JOIN UNNEST($1::text[]) AS roles (role)
         CROSS JOIN UNNEST(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS verbs (verb)
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
             AND has_column_privilege(role, c.oid, a.attnum, verb) AND NOT has_table_privilege(role, c.oid, verb)
         ORDER BY role, c.relname, a.attname, verb",
    )
    .bind(ROLES.as_slice())
    .fetch_all(admin)
    .await?;
    assert_eq!(triples(&found), ALLOWED_COLUMNS);
    Ok(())
}

/// Whoever may use a sequence can spend its numbers or, with UPDATE, give one twice.
async fn sequences(admin: &Pool) -> Result<()> {
    let exist: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S')",
    )
    .fetch_one(admin)
    .await?;
    assert!(exist, "the numbers of accounts are of a sequence");
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT role, c.relname::text, verb FROM pg_class c CROSS JOIN UNNEST($1::text[]) AS roles (role)
         CROSS JOIN UNNEST(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS verbs (verb)
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S'
             AND has_sequence_privilege(role, c.oid, verb)
         ORDER BY role, c.relname, verb",
    )
    .bind(ROLES.as_slice())
    .fetch_all(admin)
    .await?;
    assert_eq!(triples(&found), ALLOWED_SEQUENCES);
    Ok(())
}

fn triples(rows: &[(String, String, String)]) -> Vec<(&str, &str, &str)> {
    rows.iter().map(|(role, what, verb)| (role.as_str(), what.as_str(), verb.as_str())).collect()
}

fn describe(verbs: &[bool], columns: &[String]) -> String {
    let short = ["S", "I", "U", "D", "T", "R", "G"];
    let mut text: String =
        short.iter().zip(verbs).filter(|(_, held)| **held).map(|(name, _)| *name).collect();
    if !columns.is_empty() {
        text.push_str(&format!(" u({})", columns.join(",")));
    }
    text
}

/// Schemas, attributes of the roles, and a login that is a member of one.
async fn no_way_around(world: &World) -> Result<()> {
    let admin = world.admin().await?;
    let powers: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_roles WHERE rolname = ANY($1) AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls
             OR rolreplication OR EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid)
             OR EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid)
             OR has_schema_privilege(rolname, 'public', 'CREATE') OR has_database_privilege(rolname, current_database(), 'CREATE'))",
    )
    .bind(ROLES.as_slice())
    .fetch_one(&admin)
    .await?;
    assert_eq!(powers, 0);
    for role in ROLES {
        let login = format!("login_{role}");
        admin
            .execute(AssertSqlSafe(format!(
                "CREATE ROLE {login} LOGIN PASSWORD 'p' IN ROLE {role}"
            )))
            .await?;
        let url = world.postgres.server()?.url(&login, "p", "weir");
        let pool = world.postgres.pool(&url, Some(role), 1).await?;
        for statement in forbidden(role) {
            let refused = pool.execute(raw_sql(AssertSqlSafe(statement.clone()))).await;
            let Err(error) = refused else { panic!("{role} may: {statement}") };
            let error = PostgresError::from(error);
            let code = match &error {
                PostgresError::Refused { code, .. } => code.as_str(),
                other => panic!("{role}: {statement}: {other}"),
            };
            assert_eq!(code, "42501", "{role}: {statement}: {error}");
        }
        pool.close().await;
    }
    Ok(())
}

fn forbidden(role: &str) -> Vec<String> {
    let tables = [
        "transfers",
        "journals",
        "audit",
        "accounts",
        "receivables",
        "receivable_entries",
        "usage_totals",
        "partitions",
        "partition_counts",
        "privileged_changes",
        "app_secrets",
        "ingest_limits",
        "ingest_quotas",
        "ingest_counts",
        "late_places",
        "late_answers",
        "wallets",
        "grants",
        "wallet_entries",
        "open_items",
        "allocations",
        "reversals",
        "reversal_allocations",
        "holds",
        "hold_lots",
        "captures",
        "journal_seals",
    ];
    let mut statements = Vec::new();
    for table in tables {
        statements.push(format!("DELETE FROM {table}"));
        statements.push(format!("TRUNCATE {table} CASCADE"));
        statements.push(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
        statements.push(format!("DROP TABLE {table} CASCADE"));
    }
    statements.push("UPDATE transfers SET amount = 1".to_owned());
    statements.push("UPDATE journals SET reference = 'x'".to_owned());
    statements.push("UPDATE audit SET counts = 'x'".to_owned());
    statements.push("UPDATE wallet_entries SET amount = 1".to_owned());
    statements.push("UPDATE allocations SET amount = 1".to_owned());
    statements.push("UPDATE journal_seals SET hash = '\\x00'".to_owned());
    statements.push("UPDATE grants SET amount = 1".to_owned());
    statements.push("UPDATE privileged_changes SET actor = 'x'".to_owned());
    statements.push("UPDATE app_secrets SET sealed = '\\x00'".to_owned());
    statements.push("UPDATE accounts SET team = 'x'".to_owned());
    statements.push("UPDATE installation SET identity_key = '\\x00'".to_owned());
    statements.push("CREATE TABLE mine (id integer)".to_owned());
    statements.push("CREATE SCHEMA mine".to_owned());
    statements.push("SET session_replication_role = replica".to_owned());
    statements.push("COPY transfers TO PROGRAM 'true'".to_owned());
    statements.push("CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'".to_owned());
    for other in ROLES.iter().filter(|other| **other != role) {
        statements.push(format!("SET ROLE {other}"));
    }
    statements.push("SET ROLE weir_migrate".to_owned());
    if role != "weir_writer" {
        statements.push("INSERT INTO teams SELECT * FROM teams".to_owned());
        statements.push("UPDATE open_items SET paid = 0".to_owned());
        statements.push("UPDATE wallets SET debt = 0".to_owned());
        statements.push("UPDATE partitions SET x = x".to_owned());
        statements.push("UPDATE receivables SET balance = 0".to_owned());
    }
    if role != "weir_writer" && role != "weir_api" {
        statements.push("INSERT INTO transfers SELECT * FROM transfers".to_owned());
    }
    if role != "weir_lane" {
        statements.push("UPDATE late_places SET x = x".to_owned());
        statements.push("UPDATE late_answers SET answered = 0".to_owned());
    }
    if role == "weir_api" {
        statements.retain(|statement| !statement.starts_with("INSERT INTO teams"));
    }
    statements
}
