//! What is changed of wallets behind the ledger's back.

use anyhow::Result;
use ledger::wallet;
use sqlx::{Executor as _, raw_sql};

use crate::{
    bank::{Bank, line, of_hold},
    world::{Line, ONE},
};

/// What somebody with all rights changes, and the checker that names it.
const TAMPERINGS: &[(&str, &str)] = &[
    ("wallets", "UPDATE wallets SET balance = balance + 0.000000000001"),
    ("wallets", "UPDATE wallets SET held = held + 1 WHERE held > 0"),
    ("wallets", "UPDATE wallets SET held_on_credit = held_on_credit + 0.5 WHERE held > 1"),
    ("wallets", "UPDATE wallets SET debt = debt + 1"),
    ("wallets", "UPDATE wallets SET sequence = sequence + 1"),
    ("wallets", "UPDATE wallets SET settled_to = -1 WHERE debt > 0"),
    (
        "wallets",
        "DELETE FROM wallet_entries WHERE (wallet_id, sequence) IN (SELECT wallet_id, sequence FROM wallets)",
    ),
    (
        "wallet entries",
        "UPDATE wallet_entries SET amount = amount + 1, balance_after = balance_after + 1 WHERE sequence = 2",
    ),
    ("wallet entries", "UPDATE wallet_entries SET reason = 'gift' WHERE sequence = 1"),
    ("wallet entries", "DELETE FROM wallet_entries WHERE sequence = 2"),
    ("grants", "UPDATE grants SET remaining = remaining + 0.000000000001"),
    ("grants", "UPDATE grants SET held = held - 1 WHERE held >= 1"),
    ("grants", "DELETE FROM allocations"),
    ("grants", "UPDATE allocations SET amount = amount + 1"),
    ("open items", "UPDATE open_items SET paid = paid - 0.000000000001 WHERE paid > 0"),
    ("open items", "DELETE FROM open_items WHERE paid > 0"),
    ("open items", "UPDATE reversals SET applied = applied - 1 WHERE applied >= 1"),
    ("open items", "DELETE FROM reversal_allocations"),
    ("itemised receivables", "DELETE FROM open_items WHERE paid < amount"),
    ("itemised receivables", "UPDATE open_items SET amount = amount + 1"),
    ("itemised receivables", "UPDATE receivables SET itemised = false WHERE itemised"),
    ("holds", "UPDATE holds SET captured = captured + 0.5 WHERE state = 'open' AND captured > 0"),
    ("holds", "UPDATE holds SET state = 'ended', ended_at = now() WHERE state = 'open'"),
    ("holds", "DELETE FROM hold_lots"),
    ("journals", "DELETE FROM journal_seals"),
    (
        "journals",
        "INSERT INTO journals (tenant_id, journal_id, reason, reference, partition) SELECT tenant_id, gen_random_uuid(), 'grant', 'more', 0 FROM tenants LIMIT 1",
    ),
    (
        "entries",
        "DELETE FROM receivable_entries WHERE journal_id IN (SELECT journal_id FROM journals WHERE reason = 'settlement')",
    ),
    ("receivables", "UPDATE receivables SET balance = balance + 1"),
    ("transfers", "DELETE FROM journals WHERE reason = 'grant'"),
    ("seals", "UPDATE transfers SET amount = amount + 1 WHERE reason = 'grant'"),
    ("seals", "UPDATE transfers SET team = 'b' WHERE reason = 'settlement'"),
    (
        "seals",
        "UPDATE journals SET posted_at = posted_at - interval '1 day' WHERE reason = 'settlement'",
    ),
    ("seals", "UPDATE journals SET reference = 'x' WHERE reason = 'consumption'"),
    ("seals", "UPDATE journal_seals SET hash = sha256(hash) WHERE number = 2"),
    ("seals", "DELETE FROM journal_seals WHERE number = 2"),
    ("seals", "UPDATE journal_seals SET transfers_hash = sha256(transfers_hash) WHERE number = 1"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_of_wallets_behind_the_ledgers_back_is_found() -> Result<()> {
    let mut bank = Bank::with_limit(9 * ONE).await?;
    bank.paid(30).await?;
    bank.usage(&[line(4), Line::new("b", "tokens", ONE)]).await?;
    bank.becomes("26", "0", "0").await?;
    bank.usage(&[Line { quantity: -ONE, ..line(-2) }]).await?;
    bank.becomes("28", "0", "0").await?;
    let granted = bank.hold(20, 600_000).await?;
    let consumed = bank.locked(async |connection, wallet| {
        wallet::consume(connection, wallet, 2 * ONE, "one").await
    });
    assert!(consumed.await?.is_ok());
    bank.usage(&[of_hold(3, granted.hold), line(8)]).await?;
    bank.becomes("17", "17", "2").await?;
    let world = bank.end().await?;
    let pool = world.admin().await?;
    let mut connection = pool.acquire().await?;
    for (checker, statement) in TAMPERINGS {
        connection.execute("BEGIN").await?;
        let changed = connection.execute(raw_sql(*statement)).await?;
        assert!(changed.rows_affected() > 0, "{statement}");
        let found = found(&mut connection).await;
        connection.execute("ROLLBACK").await?;
        let found = found?;
        assert!(found.iter().any(|name| name == checker), "{statement}: {found:?}");
    }
    let found = found(&mut connection).await?;
    assert_eq!(found, Vec::<String>::new());
    Ok(())
}

/// The checkers that find something.
async fn found(connection: &mut sqlx::PgConnection) -> Result<Vec<String>> {
    let mut checks = ledger::verify::books::checks(connection).await?;
    checks.extend(ledger::verify::wallets::checks(connection).await?);
    let bad = checks.iter().filter(|check| !check.holds()).map(|check| check.name.to_owned());
    let mut found: Vec<String> = bad.collect();
    for partition in 0..crate::world::PARTITIONS {
        let key = crate::world::audit_key();
        if ledger::journal_seal::verify(connection, &key, partition).await.is_err() {
            found.push("seals".to_owned());
        }
    }
    Ok(found)
}
