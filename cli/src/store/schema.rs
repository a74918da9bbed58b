//! The tables: migrations in the order of their numbers, compiled in.

use std::borrow::Cow;

use anyhow::Result;
use runtime::{config::Secret, postgres};
use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Number, name and text of every file in `migrations/postgres` (`tests/tests/tidy.rs` compares).
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "spine", include_str!("../../../migrations/postgres/0001_spine.sql")),
    (
        2,
        "provider_prices",
        include_str!("../../../migrations/postgres/0002_provider_prices.sql"),
    ),
    (3, "app_secrets", include_str!("../../../migrations/postgres/0003_app_secrets.sql")),
    (
        4,
        "entries_and_reinjections",
        include_str!("../../../migrations/postgres/0004_entries_and_reinjections.sql"),
    ),
    (5, "audit_log", include_str!("../../../migrations/postgres/0005_audit_log.sql")),
    (6, "late", include_str!("../../../migrations/postgres/0006_late.sql")),
    (7, "flushes", include_str!("../../../migrations/postgres/0007_flushes.sql")),
];

/// Brings the tables up to date.
pub async fn migrate(url: &Secret) -> Result<()> {
    let migrations = MIGRATIONS.iter().map(|(number, name, text)| {
        let text = SqlStr::from_static(text);
        Migration::new(*number, Cow::Borrowed(*name), MigrationType::Simple, text, false)
    });
    postgres::migrate(url, &Migrator::with_migrations(migrations.collect())).await?;
    Ok(())
}
