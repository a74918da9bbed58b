//! What the measures and `weir doctor` ask of Postgres and ClickHouse.

use anyhow::{Context as _, Result};
use runtime::{
    clickhouse::{ClickHouse, ClickHouseError},
    postgres::{Pool, PostgresError},
};
use serde_json::Value;
use sqlx::PgConnection;

/// Whether the counts of every tenant and partition balance: each accepted event has one outcome.
pub async fn balanced(pool: &Pool) -> Result<bool, PostgresError> {
    let sql = "SELECT coalesce(bool_and(accepted + copies = rated + unmetered + unpriced + duplicates + conflicts + rejected + forwarded), true)
        FROM partition_counts";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// A disk of ClickHouse: its name, and free and all bytes.
pub type Disk = (String, i64, i64);

/// The disks of ClickHouse.
pub async fn disks(clickhouse: &ClickHouse) -> Result<Vec<Disk>, ClickHouseError> {
    let sql = "SELECT name, toInt64(least(free_space, 9223372036854775807)) AS free,
        toInt64(least(total_space, 9223372036854775807)) AS size FROM system.disks";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = |row: &Value| {
        let number = |name: &str| row.get(name)?.as_str()?.parse().ok();
        Some((row.get("name")?.as_str()?.to_owned(), number("free")?, number("size")?))
    };
    Ok(rows.iter().filter_map(row).collect())
}

/// Version number of Postgres (170004), and its clock in microseconds since 1970.
pub async fn postgres_version(connection: &mut PgConnection) -> Result<(i32, i64)> {
    let sql = "SELECT current_setting('server_version_num')::integer, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
}

/// Version of ClickHouse, and its clock in microseconds since 1970.
pub async fn clickhouse_version(clickhouse: &ClickHouse) -> Result<(String, i64)> {
    let sql = "SELECT version() AS version, toUnixTimestamp64Micro(now64(6)) AS now_us";
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    let row = rows.first().context("ClickHouse did not say its version")?;
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    Ok((text("version").to_owned(), text("now_us").parse()?))
}

/// Roles that do not exist, or that this login cannot work as.
pub async fn missing_roles(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM unnest(ARRAY['weir_api', 'weir_writer', 'weir_archiver', 'weir_reader', 'weir_lane']) AS name
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name AND pg_has_role(current_user, oid, 'MEMBER'))";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Roles that row-level security would not hold for.
pub async fn unbound_roles(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT rolname::text FROM pg_roles
        WHERE rolname IN ('weir_api', 'weir_writer', 'weir_archiver', 'weir_reader', 'weir_lane') AND (rolsuper OR rolbypassrls)";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Privileges that a role needs and has not, and those that it has and must not have, in words. The
/// tables must exist.
pub async fn wrong_grants(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT CASE WHEN needed THEN format('%s may not %s %s', role, privilege, name)
            ELSE format('%s may %s %s, which nobody must', role, privilege, name) END
        FROM (VALUES
            ('weir_reader', 'SELECT', 'installation', true), ('weir_reader', 'SELECT', 'api_keys', true),
            ('weir_reader', 'SELECT', 'catalog_versions', true), ('weir_reader', 'SELECT', 'partition_counts', true),
            ('weir_lane', 'INSERT', 'late_places', true), ('weir_lane', 'UPDATE', 'late_places', true),
            ('weir_archiver', 'SELECT', 'archive_groups', true), ('weir_archiver', 'INSERT', 'archive_groups', true),
            ('weir_writer', 'UPDATE', 'partitions', true), ('weir_writer', 'UPDATE', 'partition_counts', true),
            ('weir_writer', 'INSERT', 'journals', true), ('weir_writer', 'INSERT', 'transfers', true),
            ('weir_writer', 'INSERT', 'audit', true), ('weir_writer', 'UPDATE', 'receivables', true),
            ('weir_api', 'SELECT', 'transfers', true), ('weir_api', 'INSERT', 'idempotency', true),
            ('weir_api', 'INSERT', 'catalog_versions', true), ('weir_api', 'INSERT', 'privileged_changes', true),
            ('weir_writer', 'UPDATE', 'transfers', false), ('weir_writer', 'DELETE', 'transfers', false),
            ('weir_api', 'UPDATE', 'transfers', false), ('weir_api', 'DELETE', 'transfers', false),
            ('weir_writer', 'UPDATE', 'audit', false), ('weir_writer', 'DELETE', 'audit', false)
        ) AS rule (role, privilege, name, needed)
        WHERE has_table_privilege(role, name, privilege) <> needed";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Statements that the archiver and the api make, for which ClickHouse gives this user no right.
pub async fn missing_archive_grants(
    clickhouse: &ClickHouse,
) -> Result<Vec<&'static str>, ClickHouseError> {
    const RIGHTS: [(&str, &str); 6] = [
        ("SELECT ON usage_events", "CHECK GRANT SELECT ON usage_events"),
        ("INSERT ON usage_events", "CHECK GRANT INSERT ON usage_events"),
        ("INSERT ON rejected_events", "CHECK GRANT INSERT ON rejected_events"),
        ("SELECT ON archived", "CHECK GRANT SELECT ON archived"),
        ("INSERT ON archived", "CHECK GRANT INSERT ON archived"),
        ("INSERT ON audit_heads", "CHECK GRANT INSERT ON audit_heads"),
    ];
    let mut missing = Vec::new();
    for (right, sql) in RIGHTS {
        let rows = clickhouse.query_json_rows(sql, &[]).await?;
        let granted = rows.first().and_then(|row| row.get("result"));
        let granted = granted.is_some_and(|value| value == 1 || value == true || value == "1");
        if !granted {
            missing.push(right);
        }
    }
    Ok(missing)
}

/// Numbers of the archive's migrations that were applied.
pub async fn archive_migrations(clickhouse: &ClickHouse) -> Result<Vec<u32>, ClickHouseError> {
    let rows = clickhouse.query_json_rows("SELECT number FROM schema_migrations", &[]).await?;
    let number = |row: &Value| u32::try_from(row.get("number")?.as_u64()?).ok();
    Ok(rows.iter().filter_map(number).collect())
}
