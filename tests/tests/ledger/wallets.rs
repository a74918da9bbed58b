//! Wallets, grants, holds and settlement: the traces of `docs/WALLETS.md`, and what faults do to them.

use anyhow::{Context as _, Result};
use domain::wallet::GrantKind;
use ledger::{
    account::Book,
    hold::{self, Decided, NewCapture, NewHold, Refused, SettleBy},
    post::PostError,
    settle::{self, Chunk},
    wallet::{self, Ending, NewGrant},
};
use runtime::postgres::scoped;
use sqlx::{AssertSqlSafe, Executor as _};
use tests::wait::eventually;
use uuid::Uuid;

use crate::{
    bank::{Bank, grant, line, new_hold, of_hold},
    world::{Line, ONE, Outcomes, TENANT, config},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_paid_out_of_grants_in_burn_order_and_the_rest_is_debt() -> Result<()> {
    let mut bank = Bank::start().await?;
    let paid = bank.paid(10).await?;
    let (kind, source_id) = (GrantKind::Promotional, "gift");
    let gift = bank.grant(&NewGrant { kind, source_id, ..grant(3 * ONE) }).await?;
    bank.usage(&[line(4)]).await?;
    bank.becomes("9", "0", "0").await?;
    bank.usage(&[line(11), Line::new("b", "tokens", 5 * ONE)]).await?;
    bank.becomes("0", "0", "2").await?;
    // A top-up pays the debt first.
    let later = bank.paid(5).await?;
    bank.becomes("3", "0", "0").await?;
    let paid_by = "SELECT string_agg(format('%s:%s', grant_id, trim_scale(amount)), ' ' ORDER BY settle_seq, amount) FROM allocations";
    let expected = format!("{paid}:1 {gift}:3 {paid}:9 {later}:2");
    assert_eq!(bank.text(paid_by).await?, expected);
    let owed = "SELECT string_agg(format('%s:%s:%s', team, trim_scale(balance), itemised), ' ' ORDER BY team) FROM receivables";
    assert_eq!(bank.text(owed).await?, "a:0:t b:5:f");
    let entries = "SELECT string_agg(format('%s %s %s→%s', sequence, reason, trim_scale(balance_before), trim_scale(balance_after)), ', '
        ORDER BY sequence) FROM wallet_entries";
    assert_eq!(
        bank.text(entries).await?,
        "1 grant 0→10, 2 grant 10→13, 3 settlement 13→10, 4 settlement 10→9, 5 settlement 9→0, 6 grant 0→5, 7 settlement 5→3"
    );
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_owed_before_there_was_a_wallet_is_paid_once_there_is() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.usage(&[Line::new("late", "tokens", 7 * ONE)]).await?;
    bank.world.posted(bank.rater.place, 0).await?;
    bank.wallet = bank.create("late", 0).await?;
    bank.becomes("0", "0", "7").await?;
    bank.paid(10).await?;
    bank.becomes("3", "0", "0").await?;
    // And from then on by items.
    bank.usage(&[Line::new("late", "tokens", ONE), Line::new("late", "images", ONE)]).await?;
    bank.becomes("1", "0", "0").await?;
    let items = "SELECT string_agg(format('%s:%s', meter, trim_scale(amount)), ' ' ORDER BY batch_to, ordinal) FROM open_items";
    assert_eq!(bank.text(items).await?, ":7 images:1 tokens:1");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_pays_what_names_it_and_frees_the_rest_after_what_was_in_the_log() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(20).await?;
    let granted = bank.hold(10, 600_000).await?;
    assert_eq!((granted.state.as_str(), granted.available), ("open", 10 * ONE));
    // Unheld usage takes what is free, and no more: the held lots are the hold's.
    bank.usage(&[line(12)]).await?;
    bank.becomes("10", "10", "2").await?;
    assert_eq!(bank.hold(1, 600_000).await?.state, "refused");
    bank.usage(&[of_hold(6, granted.hold)]).await?;
    bank.becomes("4", "4", "2").await?;
    // Its event is in the log when it is released, and is not rated yet: nothing is freed.
    bank.unrated().await?;
    let pool = bank.api.clone();
    let hold = granted.hold;
    let released = scoped(&pool, TENANT, |mut connection| async move {
        hold::release(&mut connection, TENANT, hold, "released").await
    });
    assert!(released.await?);
    eventually("closing begins", async || {
        let end =
            bank.text("SELECT ending_position::text FROM holds WHERE state = 'closing'").await;
        Ok(end.is_ok_and(|end| end == "6"))
    })
    .await?;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(bank.stands().await?, ("4".to_owned(), "4".to_owned(), "2".to_owned()));
    bank.rate(&[of_hold(3, granted.hold)]).await?;
    // 3 of the hold are captured, 1 is freed and pays half of the debt.
    bank.becomes("0", "0", "1").await?;
    let state = "SELECT format('%s %s %s', state, reason, trim_scale(captured)) FROM holds WHERE state <> 'refused'";
    assert_eq!(bank.text(state).await?, "ended released 9");
    // Usage after that is charged all the same, and its item says that no hold took it.
    bank.usage(&[of_hold(1, granted.hold)]).await?;
    bank.becomes("0", "0", "2").await?;
    let beyond = "SELECT string_agg(trim_scale(captured)::text, ' ' ORDER BY batch_to) FROM open_items WHERE hold_id IS NOT NULL";
    assert_eq!(bank.text(beyond).await?, "6 3 0");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_expires_is_freed_by_itself() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(5).await?;
    let first = bank.hold(5, 300).await?;
    assert_eq!(first.state, "open");
    bank.usage(&[of_hold(2, first.hold)]).await?;
    bank.becomes("3", "0", "0").await?;
    let state = "SELECT format('%s %s', state, reason) FROM holds";
    assert_eq!(bank.text(state).await?, "ended expired");
    assert_eq!(bank.hold(3, 600_000).await?.state, "open");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_whose_usage_waits_in_the_slow_lane_is_not_freed_before_the_answer() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(5).await?;
    let granted = bank.hold(4, 300).await?;
    bank.unrated().await?;
    let outcomes = Outcomes { forwarded: vec![granted.hold], ..Outcomes::default() };
    bank.rater.append(&bank.world.log, &[], &outcomes).await?;
    bank.world.posted(bank.rater.place, 0).await?;
    // It has expired, all of the log is posted, and yet its event may come back.
    tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    assert_eq!(bank.text("SELECT state FROM holds").await?, "closing");
    assert_eq!(bank.stands().await?, ("5".to_owned(), "4".to_owned(), "0".to_owned()));
    // The lane appends the copy, and says so after that.
    bank.unrated().await?;
    let answered = "INSERT INTO late_places (partition, x, r, c, answered) SELECT partition, x, r, c, 0 FROM partitions WHERE partition = 0";
    let admin = bank.world.admin().await?;
    admin.execute(answered).await?;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(bank.stands().await?, ("5".to_owned(), "4".to_owned(), "0".to_owned()));
    bank.rate(&[of_hold(3, granted.hold)]).await?;
    bank.becomes("2", "0", "0").await?;
    assert_eq!(bank.text("SELECT trim_scale(captured)::text FROM holds").await?, "3");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_decided_once_and_a_batch_decides_in_order() -> Result<()> {
    let bank = Bank::start().await?;
    bank.paid(10).await?;
    let asked: Vec<NewHold> = [(Some("x"), 6), (None, 5), (Some("y"), 4), (Some("z"), 1)]
        .map(|(key, amount)| new_hold(key, amount * ONE, 600_000))
        .to_vec();
    let mut connection = bank.api.acquire().await?;
    let decided = hold::place(&mut connection, TENANT, bank.wallet, &asked).await?;
    let states: Vec<&str> = decided.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, ["open", "refused", "open", "refused"]);
    // The same batch again, as after a lost answer, and a key with another id: nothing moves.
    let again = hold::place(&mut connection, TENANT, bank.wallet, &asked).await?;
    let same = |one: &Decided| (one.hold, one.state.clone(), one.same, one.amount);
    assert!(again.iter().map(same).eq(decided.iter().map(same)));
    let other = [
        new_hold(Some("x"), 6 * ONE, 600_000),
        NewHold { request_hash: [2; 32], ..new_hold(Some("y"), 3 * ONE, 600_000) },
    ];
    let repeated = hold::place(&mut connection, TENANT, bank.wallet, &other).await?;
    let found: Vec<_> = repeated.iter().map(|one| (one.hold, one.same)).collect();
    assert_eq!(found, [(asked[0].hold, true), (asked[2].hold, false)]);
    assert_eq!(bank.stands().await?, ("10".to_owned(), "10".to_owned(), "0".to_owned()));
    // Another tenant's wallet is none.
    let foreign = hold::place(&mut connection, crate::world::OTHER, bank.wallet, &asked).await?;
    assert_eq!(foreign, []);
    drop(connection);
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rests_on_the_credit_limit_stays_owed() -> Result<()> {
    let mut bank = Bank::with_limit(8 * ONE).await?;
    bank.paid(4).await?;
    let granted = bank.hold(10, 600_000).await?;
    assert_eq!((granted.state.as_str(), granted.available), ("open", 2 * ONE));
    assert_eq!(bank.hold(3, 600_000).await?.state, "refused");
    bank.usage(&[of_hold(9, granted.hold)]).await?;
    bank.becomes("0", "1", "5").await?;
    // 8 of credit, 5 owed, 1 held on it.
    assert_eq!(bank.hold(3, 600_000).await?.state, "refused");
    assert_eq!(bank.hold(2, 600_000).await?.state, "open");
    bank.paid(6).await?;
    bank.becomes("1", "3", "0").await?;
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_reduces_debt_and_then_returns_to_the_lots() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(5).await?;
    bank.usage(&[line(8)]).await?;
    bank.becomes("0", "0", "3").await?;
    bank.usage(&[Line { quantity: -ONE, ..line(-4) }]).await?;
    bank.becomes("1", "0", "0").await?;
    let returned = "SELECT string_agg(format('%s:%s', paid_in > 0, trim_scale(amount)), ' ' ORDER BY paid_in) FROM reversal_allocations";
    assert_eq!(bank.text(returned).await?, "f:3 t:1");
    // More than was ever paid stays the team's.
    bank.usage(&[Line { quantity: -ONE, ..line(-6) }]).await?;
    bank.becomes("5", "0", "0").await?;
    let owed = "SELECT trim_scale(balance)::text FROM receivables";
    assert_eq!(bank.text(owed).await?, "-2");
    bank.usage(&[line(1)]).await?;
    eventually("usage is set off", async || Ok(bank.text(owed).await? == "-1")).await?;
    let waits = "SELECT trim_scale(amount - applied)::text FROM reversals WHERE applied < amount";
    eventually("the reversal is applied", async || Ok(bank.text(waits).await? == "1")).await?;
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_start_end_and_are_refunded_after_what_was_in_the_log() -> Result<()> {
    let mut bank = Bank::start().await?;
    let (paid, voided) = (bank.paid(10).await?, bank.paid(4).await?);
    let now_us = runtime::task::now_us();
    let starts_us = Some(now_us + 700_000);
    let scheduled = bank.grant(&NewGrant { starts_us, ..grant(2 * ONE) }).await?;
    assert_eq!(
        bank.text(&format!("SELECT state FROM grants WHERE grant_id = '{scheduled}'")).await?,
        "scheduled"
    );
    bank.becomes("16", "0", "0").await?;
    let granted = bank.hold(3, 600_000).await?;
    bank.unrated().await?;
    for (grant, ending) in [(paid, Ending::Refund), (voided, Ending::Void)] {
        let begun = bank.locked(async |connection, wallet| {
            wallet::end_grant(connection, wallet, grant, ending).await
        });
        assert!(begun.await?);
    }
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    bank.becomes("16", "3", "0").await?;
    // 5 were in the log: the refund is of what they leave, and of what no hold has.
    bank.rate(&[line(5)]).await?;
    bank.becomes("5", "3", "0").await?;
    let ended = "SELECT string_agg(format('%s:%s:%s', ending, state, trim_scale(remaining)), ' ' ORDER BY ending) FROM grants WHERE ending IS NOT NULL";
    assert_eq!(bank.text(ended).await?, "refund:ending:3 void:ended:0");
    bank.usage(&[of_hold(1, granted.hold)]).await?;
    bank.becomes("4", "2", "0").await?;
    let released = bank.locked(async |connection, _| {
        hold::release(connection, TENANT, granted.hold, "released").await
    });
    assert!(released.await?);
    bank.becomes("2", "0", "0").await?;
    let accounts = "SELECT string_agg(format('%s:%s', kind, trim_scale(amount)), ' ' ORDER BY kind) FROM (
        SELECT kind, sum(CASE WHEN debit_account = account_id THEN amount ELSE -amount END) AS amount
        FROM transfers JOIN accounts ON account_id IN (debit_account, credit_account)
        WHERE kind IN ('payments_in_transit', 'breakage', 'promotions', 'wallet') GROUP BY kind) sums";
    assert_eq!(bank.text(accounts).await?, "breakage:-4 payments_in_transit:12 wallet:-2");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_archive_costs_nobody_their_credits() -> Result<()> {
    let mut bank = Bank::start().await?;
    let (gift, kind) = ("gift", GrantKind::Promotional);
    let grant = bank.grant(&NewGrant { kind, source_id: gift, ..grant(9 * ONE) }).await?;
    bank.paid(5).await?;
    // Late usage of the grant's time waits in the slow lane, which has nobody to ask.
    bank.unrated().await?;
    let outcomes = Outcomes { forwarded: vec![Uuid::now_v7()], ..Outcomes::default() };
    bank.rater.append(&bank.world.log, &[], &outcomes).await?;
    bank.world.posted(bank.rater.place, 0).await?;
    let admin = bank.world.admin().await?;
    let expired = format!(
        "UPDATE grants SET starts_at = 'epoch'::timestamptz + interval '15 minutes' * 1900000, expires_at = now() - interval '1 hour'
         WHERE grant_id = '{grant}'"
    );
    admin.execute(AssertSqlSafe(expired)).await?;
    eventually("it is ending", async || {
        Ok(bank
            .text("SELECT ending_position::text FROM grants WHERE state = 'ending'")
            .await
            .is_ok_and(|end| end == "2"))
    })
    .await?;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(bank.stands().await?, ("14".to_owned(), "0".to_owned(), "0".to_owned()));
    // The archive is back: the lane appends its copy, then says so. The grant pays, and what it has left goes.
    bank.unrated().await?;
    let answered = "INSERT INTO late_places (partition, x, r, c, answered) SELECT partition, x, r, c, 0 FROM partitions WHERE partition = 0";
    admin.execute(answered).await?;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(bank.stands().await?, ("14".to_owned(), "0".to_owned(), "0".to_owned()));
    bank.rate(&[line(4)]).await?;
    bank.becomes("5", "0", "0").await?;
    let unused = "SELECT format('%s %s', reason, trim_scale(amount)) FROM wallet_entries ORDER BY sequence DESC LIMIT 1";
    assert_eq!(bank.text(unused).await?, "breakage -5");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_consumes_what_there_is_and_never_more() -> Result<()> {
    let bank = Bank::with_limit(100 * ONE).await?;
    bank.paid(5).await?;
    let consumed = bank.locked(async |connection, wallet| {
        wallet::consume(connection, wallet, 3 * ONE, "one").await
    });
    assert_eq!(consumed.await?.map(|one| one.lots.len()), Ok(1));
    // It is sealed although nothing is settled for it.
    let sealed = "SELECT count(*)::text FROM journal_seals WHERE journal_id IN (SELECT journal_id FROM journals WHERE reason = 'consumption')";
    eventually("it is sealed", async || Ok(bank.text(sealed).await? == "1")).await?;
    let refused = bank.locked(async |connection, wallet| {
        wallet::consume(connection, wallet, 3 * ONE, "two").await
    });
    assert_eq!(refused.await?.map(|one| one.lots.len()), Err(2 * ONE));
    let again = bank.locked(async |connection, wallet| {
        wallet::consume(connection, wallet, ONE, "one").await.map(|_| ())
    });
    let error = again.await.unwrap_err();
    assert!(format!("{error:#}").contains("journals_tenant_id_reason_reference_key"), "{error:#}");
    bank.becomes("2", "0", "0").await?;
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_writer_posted_and_did_not_settle_its_successor_settles() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(16).await?;
    let granted = bank.hold(10, 600_000).await?;
    bank.usage(&[line(1)]).await?;
    bank.becomes("15", "10", "0").await?;
    if let Some(writer) = bank.writer.take() {
        writer.stop().await?;
    }
    // A writer that posts and dies before it settles: R1.
    bank.usage(&[of_hold(10, granted.hold), line(6)]).await?;
    let pool = bank.world.pool("weir_writer").await?;
    let mut reader = bank.world.log.reader(ledger_writer::RATED, 0, 1)?;
    let message = reader.next(std::time::Duration::from_secs(10))?.context("a batch")?;
    let standing = ledger::post::standing(&mut *pool.acquire().await?, 0).await?;
    let mut window = ledger_writer::window::Window::new(0, standing.place, 0);
    assert!(window.offer(message.position, &message.payload)?);
    let mut book = ledger::account::Book::default();
    let known = ledger::settle::wallets(&mut *pool.acquire().await?, 0).await?;
    book.set_wallets(
        known.into_iter().map(|((tenant, id), team, currency)| ((tenant, team, currency), id)),
    );
    let (key, head) = (crate::world::audit_key(), crate::world::after(&standing));
    let posted = ledger::post::post(&pool, &key, &mut book, head, &window.posting()).await?;
    assert_eq!(posted.wallets, [(TENANT, bank.wallet)]);
    assert_eq!(bank.stands().await?, ("15".to_owned(), "10".to_owned(), "0".to_owned()));
    bank.writer = Some(bank.world.writer(config(20)));
    bank.becomes("0", "0", "1").await?;
    assert_eq!(bank.text("SELECT trim_scale(captured)::text FROM holds").await?, "10");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_calls_capture_no_usage_does() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(10).await?;
    let ask = |settle_by, amount| NewHold { settle_by, ..new_hold(None, amount * ONE, 600_000) };
    let mut connection = bank.api.acquire().await?;
    let asked = [ask(SettleBy::Call, 6)];
    let placed = hold::place(&mut connection, TENANT, bank.wallet, &asked).await?;
    assert_eq!(placed[0].state, "open");
    drop(connection);
    let held = asked[0].hold;
    let capture = async |key: &str, amount: i128, tolerance: i128, last: bool| {
        let (amount, tolerance) = (amount * ONE, tolerance * ONE);
        let new = NewCapture { hold: held, key, amount, tolerance, last };
        bank.locked(async |connection, wallet| hold::capture(connection, wallet, &new).await).await
    };
    assert_eq!(capture("a", 7, 0, false).await?.err(), Some(Refused::Beyond(6 * ONE)));
    assert_eq!(capture("b", 11, 9, false).await?.err(), Some(Refused::NotCovered(10 * ONE)));
    assert!(capture("c", 2, 0, false).await?.is_ok());
    assert!(capture("c", 1, 0, false).await.is_err(), "a key captures once");
    bank.becomes("8", "4", "0").await?;
    bank.usage(&[of_hold(3, held)]).await?;
    bank.becomes("5", "4", "0").await?;
    let capture = async |key: &str, amount: i128, last: bool| {
        let (amount, tolerance) = (amount * ONE, ONE);
        let new = NewCapture { hold: held, key, amount, tolerance, last };
        bank.locked(async |connection, wallet| hold::capture(connection, wallet, &new).await).await
    };
    // All of it, one beyond, and it has ended: what is left of the wallet is free.
    assert!(capture("d", 5, true).await?.is_ok());
    bank.becomes("0", "0", "0").await?;
    assert_eq!(capture("e", 1, false).await?.err(), Some(Refused::NotOpen));
    // One that expires while usage names it is freed, and the usage is as good as unheld.
    bank.paid(4).await?;
    let mut connection = bank.api.acquire().await?;
    let asked = [NewHold { life_ms: 1, ..ask(SettleBy::Call, 4) }];
    hold::place(&mut connection, TENANT, bank.wallet, &asked).await?;
    drop(connection);
    bank.usage(&[of_hold(1, asked[0].hold)]).await?;
    bank.becomes("3", "0", "0").await?;
    let captured = "SELECT string_agg(trim_scale(captured)::text, ' ') FROM open_items WHERE hold_id IS NOT NULL";
    assert_eq!(bank.text(captured).await?, "0 0");
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_somebody_keeps_locked_holds_up_itself_alone() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.paid(20).await?;
    let locked = bank.wallet;
    bank.wallet = bank.create("cool", 0).await?;
    bank.paid(5).await?;
    let mut holder = bank.world.postgres.pool(&bank.world.url, None, 1).await?.acquire().await?;
    holder.execute("SET idle_in_transaction_session_timeout = 0").await?;
    holder.execute("BEGIN").await?;
    let lock = format!("SELECT FROM wallets WHERE wallet_id = '{locked}' FOR UPDATE");
    holder.execute(AssertSqlSafe(lock)).await?;
    bank.usage(&[line(3), Line::new("cool", "tokens", 2 * ONE)]).await?;
    // Posting goes on, and so does the other wallet.
    bank.world.posted(bank.rater.place, 0).await?;
    bank.becomes("3", "0", "0").await?;
    bank.usage(&[Line::new("cool", "tokens", ONE)]).await?;
    bank.becomes("2", "0", "0").await?;
    holder.execute("ROLLBACK").await?;
    bank.wallet = locked;
    bank.becomes("17", "0", "0").await?;
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_settlements_at_once_one_is_stale() -> Result<()> {
    let mut bank = Bank::start().await?;
    bank.usage(&[line(7)]).await?;
    bank.becomes("0", "0", "7").await?;
    if let Some(writer) = bank.writer.take() {
        writer.stop().await?;
    }
    bank.paid(20).await?;
    let pool = bank.world.pool("weir_writer").await?;
    let standing = ledger::post::standing(&mut *pool.acquire().await?, 0).await?;
    let wallets = vec![(TENANT, bank.wallet)];
    let chunk = Chunk { partition: 0, settle_seq: standing.settle_seq, wallets };
    let (key, book) = (crate::world::audit_key(), Book::default());
    let settle = || settle::settle(&pool, &key, &book, &chunk);
    let (first, second) = tokio::join!(settle(), settle());
    let outcomes = [first.is_ok(), second.is_ok()];
    assert!(outcomes == [true, false] || outcomes == [false, true], "{first:?} {second:?}");
    let stale = [first, second].into_iter().find_map(Result::err);
    assert_eq!(stale, Some(PostError::Stale));
    bank.becomes("13", "0", "0").await?;
    // A posting that does not know of it is stale too: what it knows of wallets may be old.
    bank.usage(&[line(1)]).await?;
    let mut reader = bank.world.log.reader(ledger_writer::RATED, 0, 1)?;
    let message = reader.next(std::time::Duration::from_secs(10))?.context("a batch")?;
    let mut window = ledger_writer::window::Window::new(0, standing.place, 0);
    assert!(window.offer(message.position, &message.payload)?);
    let (mut book, before) = (Book::default(), crate::world::after(&standing));
    let posted = ledger::post::post(&pool, &key, &mut book, before, &window.posting()).await;
    assert_eq!(posted, Err(PostError::Stale));
    bank.end().await?;
    Ok(())
}
