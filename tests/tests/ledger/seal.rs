//! Whatever is changed behind the ledger's back is found (INV-05).

use anyhow::Result;
use ledger::seal::{AuditKey, SealError, verify_chain};
use runtime::config::Secret;
use sqlx::{AssertSqlSafe, Executor as _, raw_sql};

use crate::world::{Line, OTHER, Outcomes, Rater, World, audit_key, config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_chain_finds_what_was_changed() -> Result<()> {
    let world = World::start().await?;
    let writer = world.writer(config(1));
    let mut rater = Rater::new(0);
    for number in 1..=4 {
        let lines = [
            Line::new("a", "tokens", number * 10),
            Line::new("b", "tokens", number * 10),
            Line { tenant: OTHER, ..Line::new("a", "tokens", number * 10) },
        ];
        rater.append(&world.log, &lines, &Outcomes::default()).await?;
        world.posted(rater.place, 0).await?;
    }
    writer.stop().await?;

    let pool = world.admin().await?;
    let mut connection = pool.acquire().await?;
    let verified = verify_chain(&mut connection, &audit_key(), 0).await?;
    assert_eq!((verified.rows, verified.transfers, verified.place), (4, 20, rater.place));
    let other = AuditKey::parse(&Secret::new("01".repeat(32))).unwrap();
    let wrong_key = verify_chain(&mut connection, &other, 0).await;
    assert!(matches!(wrong_key, Err(SealError::Broken { position: 1, .. })), "{wrong_key:?}");

    let in_third =
        "(SELECT journal_id FROM journals WHERE position_to = 5 ORDER BY tenant_id LIMIT 1)";
    let tampered = [
        (format!("UPDATE transfers SET amount = amount + 0.000000000001 WHERE journal_id = {in_third} AND ordinal = 0"), 5),
        (format!("UPDATE transfers SET quantity = 2 WHERE journal_id = {in_third} AND ordinal = 0"), 5),
        (format!("UPDATE transfers SET team = 'c' WHERE journal_id = {in_third} AND ordinal = 0"), 5),
        (format!("UPDATE transfers SET debit_account = credit_account, credit_account = debit_account WHERE journal_id = {in_third}"), 5),
        (format!("DELETE FROM transfers WHERE journal_id = {in_third} AND ordinal = 2"), 5),
        (format!("INSERT INTO transfers SELECT tenant_id, journal_id, 99, debit_account, credit_account, amount, currency, reason FROM transfers WHERE journal_id = {in_third} AND ordinal = 0"), 5),
        ("UPDATE journals SET reference = 'x' WHERE position_to = 3".to_owned(), 3),
        ("UPDATE journals SET position_to = 4 WHERE position_to = 5".to_owned(), 4),
        ("INSERT INTO journals (tenant_id, journal_id, reason, reference, partition, position_from, position_to) SELECT tenant_id, gen_random_uuid(), reason, 'more', partition, 8, 9 FROM journals LIMIT 1".to_owned(), 7),
        ("UPDATE accounts SET team = 'c' WHERE kind = 'receivable' AND team = 'b'".to_owned(), 1),
        ("UPDATE audit SET counts = replace(counts, '=2,', '=3,') WHERE position_to = 5".to_owned(), 5),
        ("UPDATE audit SET posted_at = posted_at + interval '1 microsecond' WHERE position_to = 5".to_owned(), 5),
        ("UPDATE audit SET hash = previous_hash WHERE position_to = 5".to_owned(), 5),
        ("DELETE FROM audit WHERE position_to = 5".to_owned(), 7),
        ("DELETE FROM audit WHERE position_to = 7".to_owned(), 5),
        ("UPDATE partitions SET r = r + 1 WHERE partition = 0".to_owned(), 7),
    ];
    for (statement, place) in tampered {
        connection.execute("BEGIN").await?;
        let changed = raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *connection).await?;
        assert!(changed.rows_affected() > 0, "{statement}");
        let outcome = verify_chain(&mut connection, &audit_key(), 0).await;
        connection.execute("ROLLBACK").await?;
        let Err(SealError::Broken { position, .. }) = outcome else {
            panic!("{statement}: {outcome:?}")
        };
        assert_eq!(position, place, "{statement}");
    }
    assert_eq!(verify_chain(&mut connection, &audit_key(), 0).await?, verified);
    Ok(())
}
