//! Random histories of wallets, several things at once, ledger-writers that stop and start: in the end
//! every amount is where plain arithmetic says, and no hold was overspent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use domain::wallet::GrantKind;
use ledger::{
    hold::{self, NewHold},
    wallet::{self, Ending, NewGrant},
};
use runtime::postgres::{Pool, PostgresError, scoped};
use tests::{seed::Moments, wait::eventually};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    bank::{Bank, grant, new_hold},
    world::{Line, ONE, TENANT, config},
};

/// Teams, each with a wallet.
const TEAMS: usize = 5;
/// Rounds of usage; ledger-writers stop and start in between.
const ROUNDS: usize = 24;

/// What plain arithmetic knows of a team, in EUR.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    granted: i128,
    charged: i128,
    consumed: i128,
}

/// A hold that was granted.
struct Held {
    team: usize,
    hold: Uuid,
    amount: i128,
    used: i128,
}

fn team(number: usize) -> String {
    format!("team-{number}")
}

/// Holds on one wallet, decided in one round trip.
async fn place(pool: &Pool, wallet: Uuid, asked: &[NewHold]) -> Result<Vec<(Uuid, i128)>> {
    let mut connection = pool.acquire().await?;
    let decided = hold::place(&mut connection, TENANT, wallet, asked).await?;
    ensure!(decided.len() == asked.len(), "each is decided");
    let open = decided.into_iter().filter(|one| one.state == "open");
    Ok(open.map(|one| (one.hold, one.amount / ONE)).collect())
}

/// Gives a team credits; some are restricted, some go first.
async fn give(pool: &Pool, wallet: Uuid, bits: u64) -> Result<i128> {
    let amount = i128::from(bits % 40 + 1);
    let kind = if bits & 64 == 0 { GrantKind::Paid } else { GrantKind::Promotional };
    let meters = if bits & 896 == 0 { vec!["tokens".to_owned()] } else { Vec::new() };
    let priority = if bits & 1024 == 0 { 50 } else { 10 };
    let source_id = Uuid::now_v7().to_string();
    scoped(pool, TENANT, |mut connection| {
        let (meters, source_id) = (meters.clone(), source_id.clone());
        async move {
            let mut wallet =
                wallet::lock(&mut connection, TENANT, wallet).await?.ok_or_else(missing)?;
            let now_us = wallet::now_us(&mut connection).await?;
            let (meters, source_id) = (meters.as_slice(), source_id.as_str());
            let new = NewGrant { kind, priority, meters, source_id, ..grant(amount * ONE) };
            wallet::grant(&mut connection, &mut wallet, &new, now_us).await
        }
    })
    .await?;
    Ok(amount)
}

fn missing() -> PostgresError {
    PostgresError::Broken("no wallet".to_owned())
}

/// Takes credits by a call, if there are enough.
async fn consume(pool: &Pool, wallet: Uuid, amount: i128) -> Result<i128> {
    let reference = Uuid::now_v7().to_string();
    let consumed = scoped(pool, TENANT, |mut connection| {
        let reference = reference.clone();
        async move {
            let mut wallet =
                wallet::lock(&mut connection, TENANT, wallet).await?.ok_or_else(missing)?;
            wallet::consume(&mut connection, &mut wallet, amount * ONE, &reference).await
        }
    });
    Ok(if consumed.await?.is_ok() { amount } else { 0 })
}

async fn release(pool: &Pool, hold: Uuid) -> Result<bool> {
    Ok(scoped(pool, TENANT, |mut connection| async move {
        hold::release(&mut connection, TENANT, hold, "released").await
    })
    .await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_end_where_plain_arithmetic_says() -> Result<()> {
    let mut moments = Moments::new("histories");
    let seed = moments.seed();
    let mut bank = Bank::start().await?;
    let mut wallets = Vec::new();
    for number in 0..TEAMS {
        wallets.push(bank.create(&team(number), 0).await?);
    }
    let pool = bank.api.clone();
    let mut known = vec![Known::default(); TEAMS];
    let mut open: Vec<Held> = Vec::new();
    let mut ended: Vec<Held> = Vec::new();
    for round in 0..ROUNDS {
        // Things that happen at once.
        let mut gifts = JoinSet::new();
        let mut holds = JoinSet::new();
        let mut spending = JoinSet::new();
        for (number, wallet) in wallets.iter().copied().enumerate() {
            let (bits, pool) = (moments.bits(), pool.clone());
            if bits & 1 == 0 {
                let pool = pool.clone();
                gifts.spawn(async move { (number, give(&pool, wallet, bits >> 8).await) });
            }
            if bits & 6 != 0 {
                let pool = pool.clone();
                let amounts =
                    (0..bits >> 3 & 3).map(|place| i128::from(bits >> (16 + 4 * place) & 7) + 1);
                let asked: Vec<NewHold> =
                    amounts.map(|amount| new_hold(None, amount * ONE, 600_000)).collect();
                holds.spawn(async move { (number, place(&pool, wallet, &asked).await) });
            }
            if bits & 1920 == 0 {
                spending.spawn(async move { (number, consume(&pool, wallet, 2).await) });
            }
        }
        while let Some(done) = gifts.join_next().await {
            let (number, amount) = done?;
            known[number].granted += amount?;
        }
        while let Some(done) = holds.join_next().await {
            let (team, granted) = done?;
            open.extend(granted?.into_iter().map(|(hold, amount)| Held {
                team,
                hold,
                amount,
                used: 0,
            }));
        }
        while let Some(done) = spending.join_next().await {
            let (number, amount) = done?;
            known[number].consumed += amount?;
        }
        // Usage, of holds and of none, more than was held among it.
        let mut lines = Vec::new();
        for held in &mut open {
            let amount = i128::from(moments.bits() % 5);
            if amount > 0 {
                held.used += amount;
                known[held.team].charged += amount;
                let line = Line::new(&team(held.team), "tokens", amount * ONE);
                lines.push(Line { hold: Some(held.hold), ..line });
            }
        }
        for (number, known) in known.iter_mut().enumerate() {
            let bits = moments.bits();
            let meter = if bits & 1 == 0 { "tokens" } else { "images" };
            let amount = i128::from(bits >> 1 & 7);
            known.charged += amount;
            lines.push(Line::new(&team(number), meter, amount * ONE));
        }
        bank.usage(&lines).await?;
        // Some holds end: their usage is in the log, whether it is posted or not.
        let (stay, go): (Vec<Held>, Vec<Held>) =
            open.into_iter().partition(|_| !moments.bits().is_multiple_of(3));
        for held in &go {
            ensure!(release(&pool, held.hold).await?, "it was open");
        }
        open = stay;
        ended.extend(go);
        if round % 6 == 5
            && let Some(writer) = bank.writer.take()
        {
            writer.stop().await?;
            bank.writer = Some(bank.world.writer(config(20)));
        }
    }
    for held in &open {
        ensure!(release(&pool, held.hold).await?, "it was open");
    }
    ended.append(&mut open);
    let sql = "SELECT count(*)::text FROM holds WHERE state IN ('open', 'closing')";
    eventually("all holds have ended", async || Ok(bank.text(sql).await? == "0")).await?;
    bank.world.posted(bank.rater.place, 0).await?;
    let due = "SELECT count(*)::text FROM settle_due";
    eventually("all is settled", async || Ok(bank.text(due).await? == "0")).await?;

    let mut captured: BTreeMap<Uuid, String> = BTreeMap::new();
    let reader = bank.world.pool("weir_reader").await?;
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT hold_id, trim_scale(captured)::text FROM holds WHERE state = 'ended'",
    )
    .fetch_all(&reader)
    .await?;
    captured.extend(rows);
    for held in &ended {
        let found = captured.get(&held.hold).context("the hold")?;
        ensure!(
            *found == held.amount.min(held.used).to_string(),
            "a hold of {} whose usage came to {} captured {found}: seed {seed}",
            held.amount,
            held.used
        );
    }
    for (number, known) in known.iter().enumerate() {
        let sql = format!(
            "SELECT format('%s %s %s', trim_scale(balance - debt), trim_scale(held), debt >= 0 AND (debt = 0 OR NOT EXISTS (SELECT FROM grants g
                 WHERE g.wallet_id = w.wallet_id AND g.remaining > 0 AND g.meters = '{{}}'))) FROM wallets w WHERE team = '{}'",
            team(number)
        );
        let net = known.granted - known.charged - known.consumed;
        let found = bank.text(&sql).await?;
        ensure!(found == format!("{net} 0 t"), "team {number}: {found}, {known:?}: seed {seed}");
    }
    bank.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_hold_what_there_is_and_never_more() -> Result<()> {
    let bank = Bank::start().await?;
    let pool = bank.world.postgres.pool(&bank.world.url, Some("weir_api"), 16).await?;
    let source_id = "all";
    let given = scoped(&pool, TENANT, |mut connection| {
        let id = bank.wallet;
        async move {
            let mut wallet =
                wallet::lock(&mut connection, TENANT, id).await?.ok_or_else(missing)?;
            let now_us = wallet::now_us(&mut connection).await?;
            let new = NewGrant { source_id, ..grant(100 * ONE) };
            wallet::grant(&mut connection, &mut wallet, &new, now_us).await
        }
    });
    let granted = given.await?;
    // 64 clients, of several api processes: batches of holds, calls that consume, and half of the keys
    // twice; in the middle of it the grant is voided.
    let (pool, wallet) = (Arc::new(pool), bank.wallet);
    let mut clients = JoinSet::new();
    for client in 0..64_usize {
        let pool = Arc::clone(&pool);
        clients.spawn(async move {
            let mut held = 0;
            for round in 0..4 {
                let key = format!("{}-{round}", client / 2);
                let asked = [new_hold(Some(&key), ONE, 600_000), new_hold(None, ONE / 2, 600_000)];
                let mut connection = pool.acquire().await?;
                let decided = hold::place(&mut connection, TENANT, wallet, &asked).await?;
                drop(connection);
                // A key that a twin used is the twin's hold.
                let own = decided.iter().zip(&asked).filter(|(one, ask)| one.hold == ask.hold);
                held += own
                    .filter(|(one, _)| one.state == "open")
                    .map(|(one, _)| one.amount)
                    .sum::<i128>();
            }
            Ok::<i128, anyhow::Error>(held)
        });
    }
    for _ in 0..4 {
        let pool = Arc::clone(&pool);
        clients.spawn(async move { Ok(consume(&pool, wallet, 1).await? * ONE) });
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let ends = bank.locked(async |connection, wallet| {
        wallet::end_grant(connection, wallet, granted, Ending::Void).await
    });
    assert!(ends.await?);
    let mut taken = 0;
    while let Some(done) = clients.join_next().await {
        taken += done??;
    }
    ensure!(taken > 0 && taken <= 100 * ONE, "{taken}");
    let sql = "SELECT format('%s', held * 1000000000000 + (SELECT coalesce(sum(amount), 0) * 1000000000000 FROM transfers
        WHERE reason = 'consumption'))::numeric(60, 0)::text FROM wallets";
    assert_eq!(bank.text(sql).await?, taken.to_string());
    // What nobody held is gone; what is held stays until its holds end.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(bank.text("SELECT state FROM grants").await?, "ending");
    bank.end().await?;
    Ok(())
}
