//! The tables: migrations in the order of their numbers, compiled in.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::Result;
use runtime::{config::Secret, postgres};
use sqlx::{
    PgConnection, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Number, name and text of every file in `migrations/postgres` (`tests/tests/tidy.rs` compares).
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "spine", include_str!("../../../migrations/postgres/0001_spine.sql")),
    (2, "provider_prices", include_str!("../../../migrations/postgres/0002_provider_prices.sql")),
    (3, "app_secrets", include_str!("../../../migrations/postgres/0003_app_secrets.sql")),
    (
        4,
        "entries_and_reinjections",
        include_str!("../../../migrations/postgres/0004_entries_and_reinjections.sql"),
    ),
    (5, "audit_log", include_str!("../../../migrations/postgres/0005_audit_log.sql")),
    (6, "late", include_str!("../../../migrations/postgres/0006_late.sql")),
    (7, "flushes", include_str!("../../../migrations/postgres/0007_flushes.sql")),
    (8, "heads", include_str!("../../../migrations/postgres/0008_heads.sql")),
    (
        9,
        "quotas_and_disabled_tenants",
        include_str!("../../../migrations/postgres/0009_quotas_and_disabled_tenants.sql"),
    ),
    (
        10,
        "append_time_of_what_is_posted",
        include_str!("../../../migrations/postgres/0010_append_time_of_what_is_posted.sql"),
    ),
    (
        11,
        "cheaper_check_of_transfers",
        include_str!("../../../migrations/postgres/0011_cheaper_check_of_transfers.sql"),
    ),
    (12, "waiting_aliases", include_str!("../../../migrations/postgres/0012_waiting_aliases.sql")),
    (13, "data_keys", include_str!("../../../migrations/postgres/0013_data_keys.sql")),
    (14, "wallets", include_str!("../../../migrations/postgres/0014_wallets.sql")),
    (15, "running_totals", include_str!("../../../migrations/postgres/0015_running_totals.sql")),
    (16, "corrections", include_str!("../../../migrations/postgres/0016_corrections.sql")),
    (17, "meter_periods", include_str!("../../../migrations/postgres/0017_meter_periods.sql")),
    (18, "backfills", include_str!("../../../migrations/postgres/0018_backfills.sql")),
    (19, "twins", include_str!("../../../migrations/postgres/0019_twins.sql")),
    (
        20,
        "provider_invoices",
        include_str!("../../../migrations/postgres/0020_provider_invoices.sql"),
    ),
    (
        21,
        "drafts_and_exchange_rates",
        include_str!("../../../migrations/postgres/0021_drafts_and_exchange_rates.sql"),
    ),
    (22, "merges", include_str!("../../../migrations/postgres/0022_merges.sql")),
    (
        23,
        "zones_of_periods",
        include_str!("../../../migrations/postgres/0023_zones_of_periods.sql"),
    ),
];

/// Brings the tables up to date.
pub async fn migrate(url: &Secret) -> Result<()> {
    postgres::migrate(url, &Migrator::with_migrations(migrations().collect())).await?;
    Ok(())
}

fn migrations() -> impl Iterator<Item = Migration> {
    MIGRATIONS.iter().map(|(number, name, text)| {
        let text = SqlStr::from_static(text);
        Migration::new(*number, Cow::Borrowed(*name), MigrationType::Simple, text, false)
    })
}

/// What the database differs in from this program's migrations, in words.
pub async fn differences(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql).fetch_all(connection).await?;
    let mut applied: BTreeMap<i64, Vec<u8>> = applied.into_iter().collect();
    let mut differences = Vec::new();
    for ours in migrations() {
        let fault = match applied.remove(&ours.version) {
            None => "is missing",
            Some(checksum) if checksum.as_slice() != ours.checksum.as_ref() => {
                "was applied with another text"
            }
            Some(_) => continue,
        };
        differences.push(format!("migration {} ({}) {fault}", ours.version, ours.description));
    }
    let newer =
        applied.into_keys().map(|number| format!("migration {number} is not of this program"));
    differences.extend(newer);
    Ok(differences)
}
