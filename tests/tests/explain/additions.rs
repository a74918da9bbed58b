//! What was added to wallets and left them: in time lines beside usage, in one order, and in balances.

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use domain::{partition::partition_of, wallet::GrantKind};
use ledger::{
    hold::{self, NewHold, SettleBy},
    wallet::{self, Ending, NewGrant, NewWallet, Wallet},
};
use runtime::postgres::{Pool, PostgresError, scoped};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    all, raw, settled,
    world::{PARTITIONS, TENANT, World, catalog},
};

/// 10¹²: the raw value of one.
const ONE: i128 = 1_000_000_000_000;

/// The wallets of a world, as the api changes them.
struct Bank<'a> {
    world: &'a World,
    pool: Pool,
}

impl Bank<'_> {
    async fn open(world: &World) -> Result<Bank<'_>> {
        let pool = world.postgres.pool(&world.url, Some("weir_api"), 2).await?;
        Ok(Bank { world, pool })
    }

    /// Registers a team with a wallet in USD.
    async fn team(&self, team: &str) -> Result<Uuid> {
        self.world.post("/v1/teams", json!({"team": team})).await?.expect(201)?;
        let made = scoped(&self.pool, TENANT, |mut connection| async move {
            let new = NewWallet {
                tenant: TENANT,
                team,
                currency: "USD",
                partition: partition_of(TENANT, team, PARTITIONS),
                mode: "credits_then_invoice",
                credit_limit: 0,
            };
            wallet::create(&mut connection, &new).await
        });
        Ok(made.await?)
    }

    /// Runs with the wallet locked.
    async fn locked<T>(
        &self,
        wallet: Uuid,
        body: impl AsyncFn(&mut PgConnection, &mut Wallet) -> Result<T, PostgresError>,
    ) -> Result<T> {
        let body = &body;
        let done = scoped(&self.pool, TENANT, |mut connection| async move {
            let locked = wallet::lock(&mut connection, TENANT, wallet).await?;
            let mut locked = locked.ok_or(PostgresError::NotFound)?;
            body(&mut connection, &mut locked).await
        });
        Ok(done.await?)
    }

    async fn grant(&self, wallet: Uuid, kind: GrantKind, amount: i128) -> Result<Uuid> {
        self.locked(wallet, async |connection, wallet| {
            let now_us = wallet::now_us(connection).await?;
            let source_id = Uuid::now_v7().to_string();
            let new = NewGrant {
                kind,
                priority: 50,
                name: "test",
                amount: amount * ONE,
                meters: &[],
                starts_us: None,
                expires_us: None,
                source: "test",
                source_id: &source_id,
            };
            wallet::grant(connection, wallet, &new, now_us).await
        })
        .await
    }

    async fn consume(&self, wallet: Uuid, amount: i128) -> Result<()> {
        let consumed = self
            .locked(wallet, async |connection, wallet| {
                wallet::consume(connection, wallet, amount * ONE, "job-1").await
            })
            .await?;
        ensure!(consumed.is_ok(), "{consumed:?}");
        Ok(())
    }

    async fn hold(&self, wallet: Uuid, amount: i128) -> Result<()> {
        let asked = NewHold {
            hold: Uuid::now_v7(),
            key: None,
            request_hash: [0; 32],
            amount: amount * ONE,
            life_ms: 600_000,
            settle_by: SettleBy::Usage,
            meters: Vec::new(),
        };
        let mut connection = self.pool.acquire().await?;
        let decided = hold::place(&mut connection, TENANT, wallet, &[asked]).await?;
        ensure!(decided.first().is_some_and(|one| one.state == "open"), "{decided:?}");
        Ok(())
    }
}

/// An event at a time that is charged 1: two tokens for 0.5 each.
fn event(id: &str, time: &str) -> Value {
    json!({"id": id, "source": "test", "type": "llm.call", "subject": "acme", "user": "ann", "time": time,
        "data": {"tokens": 2, "model": "own", "region": "eu"}})
}

/// Kind, reason, event or grant, and quantity of each line.
fn told(lines: &[Value]) -> Vec<(String, String, String)> {
    let of = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let what = if line["service"].is_null() { text("reason") } else { text("event_id") };
        (text("kind"), what, text("quantity"))
    };
    lines.iter().map(of).collect()
}

fn line(kind: &str, what: &str, quantity: &str) -> (String, String, String) {
    (kind.to_owned(), what.to_owned(), quantity.to_owned())
}

/// Waits until the balance of `acme` is as wanted. Its live balance is one of `live` all the time:
/// neither posting nor settling moves it.
async fn balance(world: &World, live: &[i128], wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let seen = |body: &Value| {
        let one = &body["balances"][0];
        let now = one["live"].as_str().map(|_| raw(&one["live"]) / ONE);
        assert!(now.is_none_or(|now| live.contains(&now)), "{body}");
        wanted(one)
    };
    world.until("/v1/teams/acme/balance", seen).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_lines_and_balances_have_what_was_added() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let bank = Bank::open(&world).await?;
    let wallet = bank.team("acme").await?;
    bank.grant(wallet, GrantKind::Paid, 100).await?;
    let gift = bank.grant(wallet, GrantKind::Promotional, 5).await?;
    bank.consume(wallet, 3).await?;
    // A wallet without any usage is in the balance.
    let without = json!({"balance": "102", "held": "0"});
    let first = balance(&world, &[0, 100, 105, 102], |one| one["wallet"] == without).await?;
    assert_eq!(
        first["balances"],
        json!([{"currency": "USD", "posted": "102", "live": "102", "wallet": without}])
    );
    bank.hold(wallet, 30).await?;
    balance(&world, &[102], |one| one["wallet"]["held"] == "30").await?;

    let before = all(&world, "/v1/teams/acme/timeline?limit=1", "").await?;
    let told_before = told(&before);
    assert_eq!(
        told_before,
        [
            line("consumption", "consumption", "3"),
            line("addition", "grant", "5"),
            line("addition", "grant", "100")
        ]
    );
    let newest = before.get(1).context("the gift")?;
    assert_eq!(
        (&newest["grant"], &newest["unit"], &newest["amount"], &newest["currency"]),
        (&json!(gift), &json!("USD"), &json!("5"), &json!("USD"))
    );
    assert_eq!(
        ["team", "service", "user", "event_id", "receipt"].map(|name| &newest[name]),
        [&json!("acme"), &Value::Null, &Value::Null, &Value::Null, &Value::Null]
    );

    // Usage at the very time of the gift, and long before. Each has a line of calls and one of tokens.
    let time = newest["time"].as_str().context("a time")?.to_owned();
    let sent = json!([event("same", &time), event("old", "2026-03-01T00:00:00Z")]);
    world.post("/v1/events", sent).await?.expect(200)?;
    settled(&world, 2).await?;
    // Both cost 1; what pays for them is no line.
    balance(&world, &[102, 101, 100], |one| one["wallet"]["balance"] == "100").await?;
    let last = balance(&world, &[100], |one| one["posted"] == "100").await?;
    assert_eq!(last["balances"][0]["wallet"], json!({"balance": "100", "held": "30"}));
    let whole = [
        line("consumption", "consumption", "3"),
        line("consumption", "same", "2"),
        line("consumption", "same", "1"),
        line("addition", "grant", "5"),
        line("addition", "grant", "100"),
        line("consumption", "old", "2"),
        line("consumption", "old", "1"),
    ];
    for limit in [1, 2, 3, 100] {
        let lines = all(&world, &format!("/v1/teams/acme/timeline?limit={limit}"), "").await?;
        assert_eq!(told(&lines), whole, "{limit}");
    }
    narrowed(&world, &time, &whole).await?;
    of_users(&world, &bank).await?;
    removed(&world, &bank, wallet).await?;
    world.stop().await
}

/// Parts of the time line.
async fn narrowed(world: &World, time: &str, whole: &[(String, String, String)]) -> Result<()> {
    let usage: Vec<_> = whole.iter().filter(|line| line.1.len() < 5).cloned().collect();
    for filter in ["user=ann", "type=llm.call"] {
        let lines = all(world, &format!("/v1/teams/acme/timeline?{filter}"), "").await?;
        assert_eq!(told(&lines), usage, "{filter}");
    }
    let calls = all(world, "/v1/teams/acme/timeline?meter=calls", "").await?;
    assert_eq!(calls.len(), 2, "{calls:?}");
    let from = all(world, &format!("/v1/teams/acme/timeline?from={time}&limit=2"), "").await?;
    assert_eq!(told(&from), whole[..4]);
    let to = all(world, &format!("/v1/teams/acme/timeline?to={time}&limit=2"), "").await?;
    assert_eq!(told(&to), whole[4..]);
    // A cursor of before there were two sources.
    let old = "5b2231222c2231222c2231222c2231222c2231222c2231222c2231225d";
    let path = format!("/v1/teams/acme/timeline?cursor={old}");
    world.get(&path).await?.refused(400, "cursor_invalid")?;
    Ok(())
}

/// What is added to the team of a user's own name is in the user's time line.
async fn of_users(world: &World, bank: &Bank<'_>) -> Result<()> {
    let path = "/v1/users/ann/timeline";
    let usage = told(&all(world, &format!("{path}?limit=100"), "").await?);
    assert_eq!(usage.len(), 4, "the wallet of acme is not ann's: {usage:?}");
    let own = bank.team("ann").await?;
    bank.grant(own, GrantKind::Promotional, 7).await?;
    let added = line("addition", "grant", "7");
    let lines = told(&all(world, &format!("{path}?limit=1"), "").await?);
    assert_eq!((lines.first(), lines.len()), (Some(&added), 5));
    let of_team = told(&all(world, &format!("{path}?team=acme"), "").await?);
    assert_eq!(of_team, usage);
    let of_own = told(&all(world, &format!("{path}?team=ann"), "").await?);
    assert_eq!(of_own, [added]);
    let other = world.send(Method::GET, path, &world.other_key, &[], None).await?;
    assert_eq!(other.expect(200)?["items"], json!([]));
    Ok(())
}

/// What leaves a wallet unused is in the time line.
async fn removed(world: &World, bank: &Bank<'_>, wallet: Uuid) -> Result<()> {
    let added = bank.grant(wallet, GrantKind::Paid, 9).await?;
    let ended = bank
        .locked(wallet, async |connection, wallet| {
            wallet::end_grant(connection, wallet, added, Ending::Refund).await
        })
        .await?;
    ensure!(ended, "it ran");
    let is_there = |body: &Value| body["items"][0]["kind"] == "removal";
    let page = world.until("/v1/teams/acme/timeline?limit=2", is_there).await?;
    let lines = page["items"].as_array().context("items")?;
    assert_eq!(told(lines), [line("removal", "refund", "9"), line("addition", "grant", "9")]);
    assert_eq!(lines[0]["grant"], json!(added));
    Ok(())
}
