//! What both halves of F30 share: the checkers, and what they must find.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ledger::{
    seal::AuditKey,
    verify::{Check, amounts, archive, books, chain, corrections, heads, late, nobody},
};
use runtime::config::Secret;
use sqlx::PgConnection;
use tests::system::System;

/// Partitions of the system whose books are tampered with.
pub const PARTITIONS: u32 = 3;

/// The key that the books are sealed with.
pub fn audit_key(system: &System) -> Result<AuditKey> {
    let text = fs::read_to_string(system.data().join("keys/audit"))?;
    AuditKey::parse(&Secret::new(text.trim())).context("keys/audit is no key")
}

/// The checks over Postgres alone.
pub async fn look_at_books(connection: &mut PgConnection, key: &AuditKey) -> Result<Vec<Check>> {
    let mut checks = vec![chain::chains(connection, key).await?];
    checks.extend(books::checks(connection).await?);
    checks.push(late::check(connection).await?);
    Ok(checks)
}

/// The checks over both.
pub async fn look_at_archive(
    connection: &mut PgConnection,
    system: &System,
    copies: &heads::Copies,
) -> Result<Vec<Check>> {
    let clickhouse = system.clickhouse();
    let reach = nobody::Reach::read(clickhouse, PARTITIONS).await?;
    let posted = archive::posted(connection).await?;
    let archived = archive::archived(clickhouse, PARTITIONS).await?;
    let ends = archive::common(connection, &archived).await?;
    Ok(vec![
        heads::check(connection, clickhouse, copies).await?,
        nobody::check(connection, clickhouse, &reach).await?,
        corrections::check(clickhouse).await?,
        archive::groups(connection, clickhouse, &archived).await?,
        archive::repeats(clickhouse).await?,
        archive::append_times(connection, clickhouse, &posted).await?,
        archive::counts(connection, clickhouse, &ends).await?,
        amounts::amounts(connection, clickhouse, &ends).await?,
        amounts::totals(connection, clickhouse, &posted).await?,
    ])
}

/// Fails unless something was found, and a first bad row names what was changed.
pub fn found(what: &str, name: &str, checks: &[Check]) -> Result<()> {
    let bad: Vec<&Check> = checks.iter().filter(|check| !check.holds()).collect();
    ensure!(!bad.is_empty(), "{what} ({name}) was not found");
    let named = bad.iter().any(|check| {
        check.first_bad.as_ref().is_some_and(|first| !first.is_empty() && first.contains(name))
    });
    ensure!(named, "{what}: no first bad row names {name:?}: {bad:?}");
    Ok(())
}
