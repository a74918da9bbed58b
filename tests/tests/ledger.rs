//! The ledger and the ledger-writer on a real Postgres and the local log: what they post, and what
//! faults do to it (nothing).

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use domain::{chain::Place, wire::rated::Counts};
use ledger::{
    account::Book,
    post::{self, PostError},
    statement::{self, UsageFilter},
};
use ledger_writer::{RATED, window::Window};
use runtime::{config::Secret, log::SharedLog, postgres::PostgresError};
use tests::{
    believers::Believers,
    proxy::{Fault, Proxy},
    wait::eventually,
};

use crate::world::{
    Line, ONE, OTHER, Outcomes, PARTITIONS, Rater, TENANT, World, Writer, after, audit_key, config,
};

#[path = "ledger/bank.rs"]
mod bank;
#[path = "ledger/cost.rs"]
mod cost;
#[path = "ledger/grants.rs"]
mod grants;
#[path = "ledger/histories.rs"]
mod histories;
#[path = "ledger/seal.rs"]
mod seal;
#[path = "ledger/tampering.rs"]
mod tampering;
#[path = "ledger/wallets.rs"]
mod wallets;
#[path = "ledger/world.rs"]
mod world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rated_is_posted_to_the_last_decimal() -> Result<()> {
    let world = World::start().await?;
    let writer = world.writer(config(50));
    let mut raters = [Rater::new(0), Rater::new(1)];
    let line = Line::new;

    let first = [
        line("alpha", "tokens", 1_003_333_333_333),
        Line { bucket: 1_900_001, ..line("alpha", "tokens", 1) },
        Line { charge: Some(("credits", 7 * ONE)), cost: None, ..line("alpha", "calls", 0) },
        Line { tenant: OTHER, ..line("alpha", "tokens", 5) },
    ];
    let message = raters[0]
        .append(&world.log, &first, &Outcomes { duplicates: 2, rejected: 1, ..Outcomes::default() })
        .await?;
    // The same batch again, and one of another rater that does not continue.
    world.log.append(RATED, 0, message.into()).outcome().await?;
    let (_, fork) = Rater { partition: 0, place: Place { c: [1; 32], ..raters[0].place } }
        .batch(&first, &Outcomes::default());
    world.log.append(RATED, 0, fork.into()).outcome().await?;
    let second = [
        Line { quantity: -ONE, ..line("alpha", "refunds", -3 * ONE) },
        line("free", "tokens", 0),
        Line { charge: None, cost: None, events: 4, ..line("alpha", "tokens", 0) },
    ];
    raters[0].append(&world.log, &second, &Outcomes::default()).await?;
    raters[1].append(&world.log, &[line("beta", "tokens", 10)], &Outcomes::default()).await?;
    // A batch with a marker only.
    raters[1].append(&world.log, &[], &Outcomes::default()).await?;
    for rater in &raters {
        world.posted(rater.place, rater.partition).await?;
    }
    eventually("ready", async || Ok(writer.context.readiness.is_ready())).await?;
    assert_eq!(writer.metric("weir_ledger_writer_batches_accepted_total", 0), 2);
    assert_eq!(writer.metric("weir_ledger_writer_batches_ignored_total", 0), 2);
    assert_eq!(writer.metric("weir_ledger_writer_fenced_total", 0), 0);
    writer.stop().await?;

    let pool = world.pool("weir_reader").await?;
    let mut connection = pool.acquire().await?;
    let balances = statement::balances(&mut connection, TENANT, "alpha").await?;
    let owed: Vec<_> =
        balances.iter().map(|one| (&*one.currency, one.owed.to_string(), one.place)).collect();
    let place = raters[0].place;
    assert_eq!(
        owed,
        [("EUR", "-1.996666666666".to_owned(), place), ("credits", "7".to_owned(), place)]
    );
    let free = statement::balances(&mut connection, TENANT, "free").await?;
    assert_eq!(
        (free[0].owed.raw(), free[0].partition),
        (0, 0),
        "a team with free usage has its partition"
    );

    let snapshot = ledger::load_balances(&mut connection).await?;
    assert_eq!(snapshot.places, [(0, raters[0].place, 7), (1, raters[1].place, 7)]);
    let mut all: Vec<_> = snapshot
        .balances
        .iter()
        .map(|one| (one.tenant, &*one.team, &*one.currency, one.partition, one.owed.raw()))
        .collect();
    all.sort_unstable();
    assert_eq!(
        all,
        [
            (TENANT, "alpha", "EUR", 0, 1_003_333_333_334 - 3 * ONE),
            (TENANT, "alpha", "credits", 0, 7 * ONE),
            (TENANT, "beta", "EUR", 1, 10),
            (TENANT, "free", "EUR", 0, 0),
            (OTHER, "alpha", "EUR", 0, 5),
        ]
    );

    let usage = statement::usage(
        &mut connection,
        TENANT,
        &UsageFilter { team: Some("alpha".into()), ..UsageFilter::default() },
    )
    .await?;
    let usage: Vec<_> = usage
        .iter()
        .map(|row| {
            format!(
                "{}|{}|{}|{}|{}|{}|{}",
                row.meter,
                row.currency,
                row.cost_currency,
                row.quantity,
                row.charge,
                row.cost,
                row.events
            )
        })
        .collect();
    assert_eq!(
        usage,
        [
            "calls|credits||1|7|0|1",
            "refunds|EUR|USD|-1|-3|-1.5|1",
            "tokens|||1|0|0|4",
            "tokens|EUR|USD|2|1.003333333334|0.501666666666|2",
        ]
    );
    let bucket = UsageFilter {
        from_bucket: Some(1_900_001),
        to_bucket: Some(1_900_002),
        ..UsageFilter::default()
    };
    let usage = statement::usage(&mut connection, TENANT, &bucket).await?;
    assert_eq!((usage.len(), &*usage[0].charge), (1, "0.000000000001"));

    let conservation = statement::conservation(&mut connection, None).await?;
    let counts: Vec<_> =
        conservation.iter().map(|row| (row.tenant, row.partition, row.place, row.counts)).collect();
    let rated = |rated| Counts { accepted: rated, rated, ..Counts::default() };
    assert_eq!(
        counts,
        [
            (
                TENANT,
                0,
                raters[0].place,
                Counts {
                    accepted: 12,
                    rated: 5,
                    unpriced: 4,
                    duplicates: 2,
                    rejected: 1,
                    ..Counts::default()
                }
            ),
            (TENANT, 1, raters[1].place, rated(1)),
            (OTHER, 0, raters[0].place, rated(1)),
        ]
    );
    assert_eq!(statement::conservation(&mut connection, Some(OTHER)).await?.len(), 1);

    transfers_and_journals(&mut connection).await?;
    drop(connection);
    // alpha: tokens, calls, refunds; OTHER: tokens; beta: tokens; cost of each meter but calls and
    // the zero ones, per window. One or two windows in partition 0.
    let transfers = world.check_books().await?;
    assert_eq!(transfers, 5 + 4, "charges and costs; the cost of half a trillionth is nothing");
    assert_eq!(world.number("SELECT sum(ignored_batches)::bigint FROM partitions").await?, 2);
    assert_eq!(world.number("SELECT count(*) FROM teams WHERE origin = 'usage'").await?, 4);
    Ok(())
}

async fn transfers_and_journals(connection: &mut sqlx::PgConnection) -> Result<()> {
    let transfers = statement::transfers_of_team(connection, TENANT, "alpha", None, 10).await?;
    let mut shown: Vec<_> = transfers
        .iter()
        .map(|one| {
            format!(
                "{}>{} {} {} {} {} {}.{}",
                one.debit,
                one.credit,
                one.amount,
                one.currency,
                one.meter,
                one.quantity,
                one.card,
                one.card_version
            )
        })
        .collect();
    shown.sort_unstable();
    assert_eq!(
        shown,
        [
            "receivable>revenue 1.003333333334 EUR tokens 2 card.3",
            "receivable>revenue 7 credits calls 1 card.3",
            "revenue>receivable 3 EUR refunds -1 card.3",
        ]
    );
    let mut paged = Vec::new();
    let mut cursor = None;
    loop {
        let page = statement::transfers_of_team(connection, TENANT, "alpha", cursor, 1).await?;
        let Some(last) = page.last() else { break };
        cursor = Some((last.journal_id, last.ordinal));
        paged.extend(page);
    }
    assert_eq!(paged, transfers);

    let journals = statement::journals(connection, TENANT, None, 10).await?;
    for journal in &journals {
        let (from, to) = (journal.position_from.unwrap(), journal.position_to.unwrap());
        let partition = u32::try_from(journal.partition.unwrap())?;
        assert_eq!(journal.reference, format!("usage:{partition}:{to}"));
        for position in from..=to {
            let covering =
                statement::journal_covering(connection, TENANT, partition, position).await?;
            assert_eq!(covering.as_ref(), Some(journal));
        }
        assert_eq!(
            statement::journal(connection, TENANT, journal.journal_id).await?.as_ref(),
            Some(journal)
        );
        let of_journal =
            statement::transfers_of_journal(connection, TENANT, journal.journal_id, -1, 100)
                .await?;
        assert!(of_journal.iter().map(|one| one.ordinal).eq(0..i32::try_from(of_journal.len())?));
    }
    assert_eq!(
        statement::journal_covering(connection, TENANT, 0, 99).await?,
        None,
        "not posted yet"
    );
    let trial = statement::trial_balance(connection).await?;
    let credits: Vec<_> = trial
        .iter()
        .filter(|row| row.currency == "credits")
        .map(|row| (&*row.kind, &*row.debit, &*row.credit))
        .collect();
    assert_eq!(credits, [("receivable", "7", "0"), ("revenue", "0", "7")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_window_twice_or_from_a_stale_place_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let pool = world.pool("weir_writer").await?;
    let standing = post::standing(&mut *pool.acquire().await?, 0).await?;
    let mut rater = Rater::new(0);
    let (outer, message) = rater.batch(&[Line::new("a", "tokens", ONE)], &Outcomes::default());
    let mut window = Window::new(0, standing.place, 0);
    assert!(window.offer(0, &message)?);
    let (key, mut book) = (audit_key(), Book::default());
    let posted = post::post(&pool, &key, &mut book, after(&standing), &window.posting()).await?;
    assert_eq!((posted.transfers, posted.standing.place), (2, window.place()));
    let again = post::post(&pool, &key, &mut book, after(&standing), &window.posting()).await;
    assert_eq!(again, Err(PostError::Stale));
    // When it was posted is said; `faults/clocks.rs` sees by whose clock.
    let recent: Vec<bool> = sqlx::query_scalar(
        "SELECT posted_at BETWEEN now() - interval '10 minutes' AND now() FROM audit",
    )
    .fetch_all(&pool)
    .await?;
    assert_eq!(recent, [true]);

    // Another chain's batch over the same positions: X and R may be equal, C is not.
    rater.place = rater.place.after(&outer, 0);
    let (_, next) = rater.batch(&[Line::new("a", "tokens", ONE)], &Outcomes::default());
    let mut window = Window::new(0, rater.place, 0);
    assert!(window.offer(1, &next)?);
    let mut posting = window.posting();
    posting.from.c = [9; 32];
    let forked = post::post(&pool, &key, &mut book, after(&posted.standing), &posting).await;
    assert_eq!(forked, Err(PostError::Stale));
    assert_eq!(post::standing(&mut *pool.acquire().await?, 0).await?, posted.standing);
    assert_eq!(world.check_books().await?, 2);

    // Postgres itself refuses a transfer whose sides have another currency or no journal.
    let insert = "INSERT INTO transfers (tenant_id, journal_id, ordinal, debit_account, credit_account, amount, currency, reason)
        SELECT tenant_id, journal_id, 99, debit_account, credit_account, 1, 'USD', 'x' FROM transfers WHERE team = 'a'";
    let refused = sqlx::query(insert).execute(&pool).await.map_err(PostgresError::from);
    assert!(
        matches!(&refused, Err(PostgresError::Violation(name)) if name == "transfers_account"),
        "{refused:?}"
    );
    let insert = "INSERT INTO transfers (tenant_id, journal_id, ordinal, debit_account, credit_account, amount, currency, reason)
        SELECT tenant_id, gen_random_uuid(), 99, debit_account, credit_account, 1, currency, 'x' FROM transfers WHERE team = 'a'";
    let refused = sqlx::query(insert).execute(&pool).await.map_err(PostgresError::from);
    assert!(
        matches!(&refused, Err(PostgresError::Violation(name)) if name == "transfers_journal"),
        "{refused:?}"
    );

    // What would not add up is never committed.
    let mut wrong = window.posting();
    wrong.charges[0].figures.amount += 1;
    let (pool_again, head) = (pool.clone(), after(&posted.standing));
    let wrong = tokio::spawn(async move {
        post::post(&pool_again, &audit_key(), &mut Book::default(), head, &wrong).await
    });
    assert!(wrong.await.is_err_and(|error| error.is_panic()));
    assert_eq!(world.check_books().await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_on_one_partition_each_window_is_posted_by_one() -> Result<()> {
    let world = World::start().await?;
    let believers: SharedLog =
        Arc::new(Believers { log: Arc::clone(&world.log), owned: (0..PARTITIONS).collect() });
    // Holds what it read for two seconds, as a frozen process does; the other one posts it.
    let slow = Writer::start(config(2000), world.context(&world.url, Arc::clone(&believers)));
    let quick = Writer::start(config(20), world.context(&world.url, believers));
    let mut rater = Rater::new(0);
    let mut sent = 0;
    let line = || [Line::new("a", "tokens", 3), Line::new("b", "tokens", 5)];
    while slow.metric("weir_ledger_writer_fenced_total", 0) < 2 {
        rater.append(&world.log, &line(), &Outcomes::default()).await?;
        sent += 1;
        assert!(sent < 3000, "the slow writer was never fenced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.posted(rater.place, 0).await?;
    quick.stop().await?;
    // The slow one goes on from where the other one left.
    rater.append(&world.log, &line(), &Outcomes::default()).await?;
    sent += 1;
    world.posted(rater.place, 0).await?;
    slow.stop().await?;
    world.check_books().await?;
    assert_eq!(
        world.number("SELECT (sum(balance) * 1000000000000)::bigint FROM receivables").await?,
        8 * sent
    );
    assert_eq!(world.number("SELECT sum(accepted)::bigint FROM partition_counts").await?, 2 * sent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_of_postgres_and_stops_lose_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let mut writer = world.writer(config(20));
    let mut raters = [Rater::new(0), Rater::new(1)];
    let mut sent = 0;
    for round in 0..4 {
        for _ in 0..40 {
            for rater in &mut raters {
                // A team is in one partition; anything else is a bug that ends the process.
                let team = |name: &str| format!("{name}{}", rater.partition);
                let lines = [Line::new(&team("a"), "tokens", 3), Line::new(&team("b"), "calls", 5)];
                rater.append(&world.log, &lines, &Outcomes::default()).await?;
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match round {
            0 | 2 => world.postgres.kill_and_restart().await?,
            1 => {
                // Stopped with a window in hand: it is posted before the end.
                writer.stop().await?;
                writer = world.writer(config(20));
            }
            _ => {}
        }
    }
    for rater in &raters {
        world.posted(rater.place, rater.partition).await?;
    }
    writer.stop().await?;
    world.check_books().await?;
    assert_eq!(
        world.number("SELECT (sum(balance) * 1000000000000)::bigint FROM receivables").await?,
        8 * sent
    );
    assert_eq!(world.number("SELECT sum(events)::bigint FROM usage_totals").await?, 2 * sent);
    Ok(())
}

/// INV-13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_commit_posts_once() -> Result<()> {
    let world = World::start().await?;
    let port = world.postgres.server()?.port();
    let proxy = Proxy::before(port)?;
    let url = Secret::new(proxy.through(world.url.expose())?);
    let writer = Writer::start(config(10), world.context(&url, Arc::clone(&world.log)));
    let mut rater = Rater::new(0);
    let mut sent = 0;
    let (lose_answer, lose_commit) = (Fault::After("COMMIT"), Fault::Before("COMMIT"));
    for fault in [lose_answer, lose_commit, lose_answer, Fault::None] {
        let before = proxy.counts().struck;
        proxy.set(fault);
        rater.append(&world.log, &[Line::new("a", "tokens", 3)], &Outcomes::default()).await?;
        sent += 1;
        if fault != Fault::None {
            eventually("a COMMIT was hit", async || Ok(proxy.counts().struck > before)).await?;
        }
        proxy.set(Fault::None);
        world.posted(rater.place, 0).await?;
    }
    // The writer's own view is right again: the next window continues.
    rater.append(&world.log, &[Line::new("a", "tokens", 3)], &Outcomes::default()).await?;
    sent += 1;
    world.posted(rater.place, 0).await?;
    assert!(writer.metric("weir_ledger_writer_retries_total", 0) >= 3);
    writer.stop().await?;
    world.check_books().await?;
    assert_eq!(
        world.number("SELECT (sum(balance) * 1000000000000)::bigint FROM receivables").await?,
        3 * sent
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_together_is_refused() -> Result<()> {
    let world = World::start().await?;
    let admin = world.admin().await?;
    let mut connection = admin.acquire().await?;
    let name = audit_key().id();
    let first = ledger::install(&mut connection, PARTITIONS, "test", &name).await?;
    assert_eq!(
        ledger::install(&mut connection, PARTITIONS, "test", &name).await?,
        first,
        "safe to run again"
    );
    let message =
        |outcome: Result<_, ledger::install::InstallError>| outcome.unwrap_err().to_string();
    let partitions = message(ledger::install(&mut connection, 3, "test", &name).await);
    assert!(
        partitions.contains("set up for 2 partitions and the configuration says 3"),
        "{partitions}"
    );
    let log = message(ledger::install(&mut connection, PARTITIONS, "else", &name).await);
    assert!(log.contains("belongs to the log \"test\", not to \"else\""), "{log}");
    let key = message(ledger::install(&mut connection, PARTITIONS, "test", "0").await);
    assert!(key.contains("ledger_writer.audit_key"), "{key}");
    drop(connection);

    let other_key = ledger_writer::Config {
        audit_key: runtime::config::Secret::new("00".repeat(32)),
        ..config(10)
    };
    let failure = world.writer(other_key).failure().await?;
    assert!(failure.contains("audit_key"), "{failure}");

    // A damaged batch that would continue stops its partition, and no other.
    let (_, mut message) =
        Rater::new(0).batch(&[Line::new("a", "tokens", 1)], &Outcomes::default());
    *message.last_mut().unwrap() ^= 1;
    let damaged = world.log.append(RATED, 0, message.into()).outcome().await?;
    let writer = world.writer(config(10));
    let reason = writer.stopped(0).await?;
    assert!(reason.contains(&format!("position {} of [rated]", damaged.position)), "{reason}");
    let mut rater = Rater::new(1);
    rater.append(&world.log, &[Line::new("b", "tokens", 1)], &Outcomes::default()).await?;
    world.posted(rater.place, 1).await?;
    assert_eq!(writer.stopped(0).await?, reason);
    writer.stop().await?;
    let transfers = world.check_books().await?;

    // A ledger that is ahead of its log.
    sqlx::query("UPDATE partitions SET r = 100 WHERE partition = 1").execute(&admin).await?;
    let writer = world.writer(config(10));
    let reason = writer.stopped(1).await?;
    assert!(reason.contains("the log ends before"), "{reason}");
    writer.stop().await?;
    let now = world.number("SELECT count(*) FROM transfers").await?;
    assert_eq!(u64::try_from(now)?, transfers);
    Ok(())
}
