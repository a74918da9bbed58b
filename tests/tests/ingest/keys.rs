//! Credentials: which are taken, what the others are told, and what guessing costs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Result;
use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use ingest::Config;
use runtime::keys;
use tests::forged;
use tower::ServiceExt as _;

use crate::world::{TENANT, World, add_key, config};

/// Guesses at keys (S07).
const GUESSES: u32 = 1_000_000;

const EVENT: &str = r#"{"id":"1","type":"x","subject":"t"}"#;

fn quick() -> Config {
    Config { refresh_ms: 50, lease_ms: 10_000, failed_attempts_max: 1_000, ..config() }
}

async fn code(world: &World, headers: &[(&str, &str)]) -> (u16, String) {
    let answer = world.send("/v1/events", headers, EVENT).await.unwrap();
    (answer.status.as_u16(), answer.code().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_told_apart_and_follow_the_database() -> Result<()> {
    let world = World::with(quick()).await?;
    let expired =
        add_key(&world.pool, &["events:write"], "clock_timestamp() - interval '1 second'", "NULL")
            .await?;
    let ancient = add_key(&world.pool, &["events:write"], "'-infinity'", "NULL").await?;
    let endless = add_key(&world.pool, &["*"], "'infinity'", "NULL").await?;
    let revoked = add_key(&world.pool, &["events:write"], "NULL", "clock_timestamp()").await?;
    let reader = add_key(&world.pool, &["usage:read"], "NULL", "NULL").await?;
    // A known id with another secret behind it.
    let forged = add_key(&world.pool, &["events:write"], "NULL", "NULL").await?;
    let other = keys::generate()?.secret_hash.to_vec();
    sqlx::query("UPDATE api_keys SET secret_hash = $1 WHERE key_id = $2")
        .bind(other)
        .bind(&forged.id)
        .execute(&world.pool)
        .await?;
    let short = add_key(
        &world.pool,
        &["events:write"],
        "clock_timestamp() + interval '10 seconds'",
        "NULL",
    )
    .await?;
    world
        .until("a refresh", || world.metric("weir_ingest_refreshes_total{outcome=\"ok\"}") > 1)
        .await;
    let refreshed = world.metric("weir_ingest_refreshes_total{outcome=\"ok\"}");
    world
        .until("another", || {
            world.metric("weir_ingest_refreshes_total{outcome=\"ok\"}") > refreshed + 1
        })
        .await;

    let foreign = keys::generate()?.text;
    let mistyped = {
        let (rest, last) = world.key.text.split_at(world.key.text.len() - 1);
        format!("{rest}{}", if last == "0" { "1" } else { "0" })
    };
    for (key, want) in [
        (world.key.text.as_str(), (200, "ok")),
        (&endless.text, (200, "ok")),
        (&short.text, (200, "ok")),
        (&expired.text, (401, "key_expired")),
        (&ancient.text, (401, "key_expired")),
        (&revoked.text, (401, "key_revoked")),
        (&reader.text, (403, "scope_missing")),
        (&foreign, (401, "key_unknown")),
        (&forged.text, (401, "key_unknown")),
        (&mistyped, (401, "key_malformed")),
        ("nonsense", (401, "key_malformed")),
    ] {
        let want = (want.0, want.1.to_owned());
        assert_eq!(
            code(&world, &[("authorization", &format!("Bearer {key}"))]).await,
            want,
            "{want:?}"
        );
        assert_eq!(code(&world, &[("x-api-key", key)]).await, want);
    }
    assert_eq!(code(&world, &[]).await, (401, "key_missing".into()));
    assert_eq!(
        code(&world, &[("authorization", "Basic YTpi")]).await,
        (401, "key_malformed".into())
    );
    let unauthorized = world.send("/v1/events", &[], EVENT).await?;
    assert_eq!(unauthorized.headers["www-authenticate"], "Bearer");

    // A revocation counts from the next load on, an expiry by itself.
    sqlx::query("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id = $1")
        .bind(&endless.id)
        .execute(&world.pool)
        .await?;
    let started = Instant::now();
    while code(&world, &[("x-api-key", &endless.text)]).await.0 == 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "a revoked key is still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while code(&world, &[("x-api-key", &short.text)]).await.0 == 200 {
        assert!(started.elapsed() < Duration::from_secs(30), "an expired key is still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(code(&world, &[("x-api-key", &short.text)]).await.1, "key_expired");
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_that_waits_holds_up_its_subject_alone() -> Result<()> {
    let world = World::with(quick()).await?;
    sqlx::query("INSERT INTO teams (tenant_id, team, origin) VALUES ($1, 'main', 'registered')")
        .bind(TENANT)
        .execute(&world.pool)
        .await?;
    sqlx::query("INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting) VALUES ($1, 't', 'main', clock_timestamp(), true)")
        .bind(TENANT)
        .execute(&world.pool)
        .await?;
    let teams = |world: &World| {
        let mut teams: Vec<_> =
            world.logged().unwrap().0.into_iter().map(|event| event.team).collect();
        teams.sort();
        teams
    };
    let told = async || {
        let answer = world.post(&[], EVENT).await?;
        Ok::<_, anyhow::Error>((answer.status.as_u16(), answer.code().to_owned()))
    };
    let loads = world.metric("weir_ingest_refreshes_total{outcome=\"ok\"}");
    let loaded = || world.metric("weir_ingest_refreshes_total{outcome=\"ok\"}") > loads + 1;
    world.until("the alias is loaded", loaded).await;
    let answer = world.post(&[], EVENT).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "alias_waiting"));
    assert!(answer.headers.contains_key("retry-after"));
    let other = r#"{"id":"1","type":"x","subject":"u"}"#;
    assert_eq!(world.post(&[], other).await?.status, 200);
    assert_eq!(teams(&world), ["u"]);
    sqlx::query("UPDATE team_aliases SET waiting = false").execute(&world.pool).await?;
    let started = Instant::now();
    while told().await? != (200, "ok".to_owned()) {
        assert!(started.elapsed() < Duration::from_secs(10), "the alias never took effect");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(teams(&world), ["main", "u"]);
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgres_requests_are_answered_until_the_lease_ends() -> Result<()> {
    let world = World::with(Config { lease_ms: 2_000, ..quick() }).await?;
    assert_eq!(world.post(&[], EVENT).await?.status, 200);
    assert!(world.context.readiness.is_ready());
    world.pool.close().await;
    let stopped = Instant::now();
    let operator = world.postgres.pool(&world.postgres.server()?.superuser_url(), None, 1).await?;
    sqlx::query("ALTER DATABASE weir ALLOW_CONNECTIONS false").execute(&operator).await?;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'weir'";
    sqlx::query(terminate).execute(&operator).await?;
    let answer = loop {
        let answer = world.post(&[], EVENT).await?;
        if answer.status != 200 {
            break answer;
        }
        assert!(stopped.elapsed() < Duration::from_secs(60), "stale keys are still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "catalog_stale"));
    assert!(answer.headers.contains_key("retry-after"));
    world.until("not ready", || !world.context.readiness.is_ready()).await;
    // Malformed keys are still told so.
    assert_eq!(code(&world, &[("x-api-key", "nonsense")]).await, (401, "key_malformed".into()));
    sqlx::query("ALTER DATABASE weir ALLOW_CONNECTIONS true").execute(&operator).await?;
    let back = Instant::now();
    while world.post(&[], EVENT).await?.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(30), "it does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_works_as_soon_as_it_is_made() -> Result<()> {
    let world = World::with(Config { refresh_ms: 700, lease_ms: 10_000, ..config() }).await?;
    for _ in 0..5 {
        let key = add_key(&world.pool, &["events:write"], "NULL", "NULL").await?.text;
        assert_eq!(code(&world, &[("x-api-key", &key)]).await, (200, "ok".to_owned()));
    }
    let nobodys = keys::generate()?.text;
    assert_eq!(code(&world, &[("x-api-key", &nobodys)]).await, (401, "key_unknown".to_owned()));
    world.stop().await?;
    Ok(())
}

/// What a guess from an address is told, and whether it is told to wait.
async fn guess(router: &Router, address: SocketAddr, key: &str) -> (u16, bool) {
    let request =
        Request::post("/v1/events").header("x-api-key", key).extension(ConnectInfo(address));
    let request = request.body(Body::from(EVENT)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().contains_key("retry-after"))
}

/// Guesses with keys of the right shape whose checksum is wrong; how many were told to wait.
async fn guesses(router: Router, address: SocketAddr, numbers: Range<u32>) -> u32 {
    let mut limited = 0;
    for number in numbers {
        let key = format!("weir_live_{number:012}_{number:032}_000000");
        let (status, told_to_wait) = guess(&router, address, &key).await;
        assert!(status == 401 || status == 429, "{status}");
        assert_eq!(status == 429, told_to_wait);
        limited += u32::from(status == 429);
    }
    limited
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_cost_no_look_up_and_are_limited() -> Result<()> {
    let world = World::with(Config { failed_attempts_max: 30, ..quick() }).await?;
    let good = world.key.text.clone();
    let (one, other) = ("10.0.0.1:1".parse()?, "10.0.0.2:1".parse()?);
    let half = tokio::spawn(guesses(world.router.clone(), one, 0..GUESSES / 2));
    let limited = guesses(world.router.clone(), one, GUESSES / 2..GUESSES).await + half.await?;
    assert_eq!(world.metric("weir_ingest_key_lookups_total"), 0);
    assert_eq!(
        world.metric("weir_ingest_keys_refused_total{code=\"key_malformed\"}"),
        u64::from(GUESSES)
    );
    assert!(limited > GUESSES - 1_000, "{limited}");
    let told = guess(&world.router, other, "nonsense").await;
    assert_eq!(told.0, 401, "another address has its own attempts");
    assert_eq!(guess(&world.router, one, &good).await.0, 200, "a good key is let through");
    world.stop().await?;
    Ok(())
}

/// Whoever knows the id of a key and guesses at its secret from many addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_one_key_are_limited_from_all_addresses_together() -> Result<()> {
    let world = World::with(Config { failed_attempts_max: 30, ..quick() }).await?;
    let (key, nobodys) = (world.key.text.clone(), keys::generate()?.text);
    for id in [&key, &nobodys] {
        let mut limited = 0;
        for number in 0..10_000_u32 {
            let forged = forged::key(id, &format!("{number:032}"))?;
            let address = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 1));
            let (status, _) = guess(&world.router, address, &forged).await;
            assert!(status == 401 || status == 429, "{status}");
            limited += u32::from(status == 429);
        }
        // An id that exists and one that does not are told the same.
        assert!(limited > 9_000, "{limited}");
    }
    assert_eq!(
        guess(&world.router, "10.0.0.1:1".parse()?, &key).await.0,
        200,
        "a good key is let through"
    );
    world.stop().await?;
    Ok(())
}
