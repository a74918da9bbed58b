//! Tokens that apps sign: which are taken, what they may do, and that no crafted one is taken.

use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::{Router, http::Method};
use runtime::{config::Secret, task::now_us, telemetry::Metrics};
use serde_json::{Value, json};
use tests::signed::{now_s, sign};

use crate::world::{Answer, OTHER, TENANT, World, config, master_key, send};

#[path = "tokens/shapes.rs"]
mod shapes;
#[expect(dead_code, reason = "the tests of the api use all of it")]
#[path = "api/world.rs"]
mod world;

/// What is signed with and for.
pub struct Signer {
    pub id: String,
    pub secret: String,
}

/// Claims of an app for two minutes, with more on top.
pub fn claims(app: &str, more: Value) -> Value {
    let now = now_s();
    let mut claims = json!({"app": app, "scopes": ["*"], "iat": now, "exp": now + 120});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

impl Signer {
    /// A token as an app makes it.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
        sign(&header, &claims.to_string(), self.secret.as_bytes())
    }

    /// The same, naming the secret.
    pub fn token_with_kid(&self, claims: &Value) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": self.id}).to_string();
        sign(&header, &claims.to_string(), self.secret.as_bytes())
    }
}

async fn make_secret(world: &World, key: &str, app: &str, body: Value) -> Result<Signer> {
    let path = format!("/v1/apps/{app}/secrets");
    let made = world.send(Method::POST, &path, key, &[], Some(body)).await?.expect(201)?;
    let text = |name: &str| made[name].as_str().map(str::to_owned).context("a text");
    Ok(Signer { id: text("secret_id")?, secret: text("secret")? })
}

async fn make_app(world: &World, key: &str, app: &str) -> Result<()> {
    let body = json!({"app": app});
    world.send(Method::POST, "/v1/apps", key, &[], Some(body)).await?.expect(201)?;
    Ok(())
}

/// An app with a secret for everything, which every process knows.
async fn app(world: &World, app: &str) -> Result<Signer> {
    make_app(world, &world.key, app).await?;
    let signer = make_secret(world, &world.key, app, json!({"scopes": ["*"]})).await?;
    until_taken(world, &signer.token(&claims(app, json!({})))).await?;
    Ok(signer)
}

fn event(id: &str, team: &str) -> Value {
    json!({"id": id, "type": "llm.call", "subject": team, "data": {"tokens": 1}})
}

async fn post_event(world: &World, token: &str, event: Value) -> Result<Answer> {
    world.send(Method::POST, "/v1/events", token, &[], Some(event)).await
}

/// Ingest hears of a new secret with its next load.
async fn until_taken(world: &World, token: &str) -> Result<()> {
    until_answered(world, token, 200).await
}

async fn until_answered(world: &World, token: &str, status: u16) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = post_event(world, token, event("first", "acme")).await?;
        if answer.status.as_u16() == status {
            return Ok(());
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "{}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_taken_wherever_keys_are_under_both_sets_of_names() -> Result<()> {
    let world = World::all().await?;
    let signer = app(&world, "chat").await?;
    world.post("/v1/teams", json!({"team": "acme"})).await?.expect(201)?;
    let now = now_s();
    let forms = [
        // Within the leeway of ten seconds: first, for it has eight left.
        json!({"app": "chat", "scopes": ["*"], "iat": now - 65, "exp": now - 2}),
        json!({"app": "chat", "scopes": ["*"], "iat": now + 5, "exp": now + 100}),
        json!({"app": "chat", "scopes": ["*"], "iat": now, "exp": now + 300}),
        json!({"appId": "chat", "teamId": "acme", "scopes": ["events:write", "teams:read"], "iat": now, "exp": now + 60}),
        json!({"app": "chat", "team": "acme", "scope": "teams:read events:write", "iat": now - 5, "exp": now + 60}),
        json!({"app": "chat", "scopes": ["events:write", "teams:read", "of:another:system"], "iat": now, "exp": now + 100,
            "iss": "chat", "aud": ["weir"], "nbf": now, "sub": "anybody", "jti": "1", "own": {"any": 1}}),
    ];
    for form in forms {
        for token in [signer.token(&form), signer.token_with_kid(&form)] {
            // Twice: a token may be used as often as its life allows.
            for id in ["1", "2"] {
                let answer = post_event(&world, &token, event(id, "acme")).await?.expect(200)?;
                assert_eq!(answer["accepted"], 1, "{form}");
                let path = "/v1/apps/chat/events";
                world
                    .send(Method::POST, path, &token, &[], Some(event(id, "acme")))
                    .await?
                    .expect(200)?;
                world.send(Method::GET, "/v1/teams/acme", &token, &[], None).await?.expect(200)?;
            }
        }
    }
    // The events of a token have its app and its secret's id as those of a key have theirs.
    let settled = |body: &Value| body["items"].as_array().is_some_and(|items| !items.is_empty());
    let events = world.until("/v1/events?team=acme&limit=1", settled).await?;
    assert_eq!(events["items"][0]["source"], "chat", "{events}");

    // A path that names an app takes its credentials, and keys of no app.
    let token = signer.token(&claims("chat", json!({})));
    make_app(&world, &world.key, "other").await?;
    for (path, key, status) in [
        ("/v1/apps/other/events", token.as_str(), 403),
        ("/v1/apps/nothing/events", token.as_str(), 403),
        ("/v1/apps/nothing/events", world.key.as_str(), 403),
        ("/v1/apps/chat/events", world.key.as_str(), 200),
        ("/v1/apps/chat/events", world.other_key.as_str(), 403),
    ] {
        let answer = world.send(Method::POST, path, key, &[], Some(event("p", "acme"))).await?;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
        if status == 403 {
            answer.refused(403, "app_not_yours")?;
        }
    }
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_team_reports_and_reads_that_team_alone() -> Result<()> {
    let world = World::all().await?;
    let signer = app(&world, "chat").await?;
    for team in ["own", "other"] {
        world.post("/v1/teams", json!({"team": team})).await?.expect(201)?;
    }
    sqlx::query("INSERT INTO team_aliases (tenant_id, alias, team, effective_at) VALUES ($1, 'own-2', 'own', now() - interval '1 hour')")
        .bind(TENANT)
        .execute(&world.admin)
        .await?;
    let token = signer.token(&claims("chat", json!({"team": "own"})));
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while post_event(&world, &token, event("alias", "own-2")).await?.status != 200 {
        assert!(std::time::Instant::now() < until, "the alias is not known");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let batch =
        json!([event("1", "own"), event("2", "other"), event("3", "own-2"), event("4", "nobody")]);
    let answer = post_event(&world, &token, batch).await?.expect(207)?;
    let codes: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
    assert_eq!(
        codes,
        [&Value::Null, &json!("team_not_yours"), &Value::Null, &json!("team_not_yours")]
    );
    post_event(&world, &token, event("5", "other")).await?.refused(400, "team_not_yours")?;
    post_event(&world, &world.key.clone(), event("6", "other")).await?.expect(200)?;
    let settled = |body: &Value| body["items"].as_array().is_some_and(|items| items.len() >= 3);
    world.until("/v1/events", settled).await?;

    let get = async |path: &str| world.send(Method::GET, path, &token, &[], None).await;
    for path in ["", "/aliases", "/balance", "/transfers", "/journals"] {
        get(&format!("/v1/teams/own{path}")).await?.expect(200)?;
        let (other, missing) = (
            get(&format!("/v1/teams/other{path}")).await?.refused(403, "team_not_yours")?,
            get(&format!("/v1/teams/missing{path}")).await?.refused(403, "team_not_yours")?,
        );
        assert_eq!(other["detail"], missing["detail"]);
    }
    for path in ["/v1/usage?group_by=team", "/v1/usage?team=own&group_by=team"] {
        let usage = get(path).await?.expect(200)?.to_string();
        assert!(!usage.contains("other"), "{usage}");
    }
    let events = get("/v1/events").await?.expect(200)?;
    let events = events["items"].as_array().unwrap().clone();
    assert!(!events.is_empty() && events.iter().all(|event| event["team"] == "own"), "{events:?}");
    get("/v1/rejected-events").await?.expect(200)?;
    for path in ["/v1/usage?team=other", "/v1/events?team=other", "/v1/rejected-events?team=x"] {
        get(path).await?.refused(403, "team_not_yours")?;
    }
    // What is not a team's: refused whatever it is.
    for path in [
        "/v1/teams",
        "/v1/apps",
        "/v1/api-keys",
        "/v1/catalog",
        "/v1/conservation",
        "/v1/audit",
        "/v1/limits",
        "/v1/quotas",
    ] {
        get(path).await?.refused(403, "team_limited")?;
    }
    let made = world
        .send(Method::POST, "/v1/api-keys", &token, &[], Some(json!({"scopes": ["*"]})))
        .await?;
    made.refused(403, "team_limited")?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_disabled_tenant_open_nothing() -> Result<()> {
    let world = World::all().await?;
    let signer = app(&world, "chat").await?;
    let token = signer.token(&claims("chat", json!({})));
    world.get("/v1/teams").await?.expect(200)?;
    let sql = "UPDATE tenants SET disabled_at = clock_timestamp() WHERE tenant_id = $1";
    sqlx::query(sql).bind(TENANT).execute(&world.admin).await?;
    for credential in [&token, &world.key] {
        until_answered(&world, credential, 403).await?;
        let refused = post_event(&world, credential, event("2", "acme")).await?;
        refused.refused(403, "tenant_disabled")?;
        // What the api has looked up it believes for a second.
        let asked = async || world.send(Method::GET, "/v1/teams", credential, &[], None).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while asked().await?.status == 200 {
            anyhow::ensure!(std::time::Instant::now() < deadline, "the api still answers");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        asked().await?.refused(403, "tenant_disabled")?;
    }
    world.send(Method::GET, "/v1/teams", &world.other_key, &[], None).await?.expect(200)?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_shown_once_stored_encrypted_two_at_a_time_and_end() -> Result<()> {
    let world = World::all().await?;
    make_app(&world, &world.key, "chat").await?;
    let path = "/v1/apps/chat/secrets";
    let headers = [("idempotency-key", "make")];
    let body = Some(json!({"name": "first"}));
    let first =
        world.send(Method::POST, path, &world.key, &headers, body.clone()).await?.expect(201)?;
    let again = world.send(Method::POST, path, &world.key, &headers, body).await?.expect(201)?;
    assert_eq!(
        (again["secret_id"].clone(), &again["secret"]),
        (first["secret_id"].clone(), &Value::Null)
    );
    assert_eq!(first["scopes"], json!(["events:write"]));
    let text = |name: &str| first[name].as_str().unwrap().to_owned();
    let signer = Signer { id: text("secret_id"), secret: text("secret") };
    assert!(
        signer.secret.starts_with("weir_app_") && signer.secret.len() == 52,
        "{}",
        signer.secret
    );

    // A token asks for all and gets what its secret may give.
    let all = signer.token(&claims("chat", json!({})));
    until_taken(&world, &all).await?;
    world.send(Method::GET, "/v1/teams", &all, &[], None).await?.refused(403, "scope_missing")?;
    let nothing = signer.token(&claims("chat", json!({"scopes": ["teams:read"]})));
    world
        .send(Method::GET, "/v1/teams", &nothing, &[], None)
        .await?
        .refused(403, "scope_missing")?;
    post_event(&world, &nothing, event("1", "acme")).await?.refused(403, "scope_missing")?;

    let second = make_secret(&world, &world.key, "chat", json!({"scopes": ["*"]})).await?;
    world.post(path, json!({})).await?.refused(409, "secrets_live")?;
    world.post("/v1/apps/missing/secrets", json!({})).await?.refused(404, "app_unknown")?;
    world
        .send(Method::POST, path, &world.other_key, &[], Some(json!({})))
        .await?
        .refused(404, "app_unknown")?;
    let few = world.post("/v1/api-keys", json!({"scopes": ["keys:write"]})).await?.expect(201)?;
    let few = few["key"].as_str().unwrap();
    world
        .send(Method::POST, path, few, &[], Some(json!({})))
        .await?
        .refused(403, "scope_not_yours")?;
    world
        .post(path, json!({"expires_at": "2020-01-01T00:00:00Z"}))
        .await?
        .refused(422, "expiry_past")?;

    // Nowhere in clear.
    let listed = world.get(path).await?.expect(200)?;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let sealed: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT sealed FROM app_secrets").fetch_all(&world.admin).await?;
    let texts: Vec<String> = sqlx::query_scalar("SELECT answer FROM idempotency UNION ALL SELECT after FROM privileged_changes UNION ALL SELECT before FROM privileged_changes WHERE before IS NOT NULL")
        .fetch_all(&world.admin)
        .await?;
    let kept = format!("{listed} {texts:?}");
    for secret in [&signer.secret, &second.secret] {
        assert!(!kept.contains(secret.as_str()));
        assert!(
            !sealed
                .iter()
                .any(|sealed| sealed.windows(16).any(|part| part == &secret.as_bytes()[..16]))
        );
    }

    // One ends at once, the other at its time; both are then told like ones that never were.
    let with_second = second.token_with_kid(&claims("chat", json!({})));
    until_taken(&world, &with_second).await?;
    let one = format!("{path}/{}", signer.id);
    world
        .send(Method::DELETE, &one, &world.other_key, &[], None)
        .await?
        .refused(404, "secret_unknown")?;
    let revoked = world.send(Method::DELETE, &one, &world.key, &[], None).await?.expect(200)?;
    assert!(revoked["revoked_at"].is_string());
    until_answered(&world, &all, 401).await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while world.send(Method::GET, "/v1/teams", &all, &[], None).await?.status != 401 {
        assert!(std::time::Instant::now() < deadline, "a token of a revoked secret is still taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.send(Method::GET, "/v1/teams", &all, &[], None).await?.refused(401, "token_unknown")?;
    world.send(Method::GET, "/v1/teams", &with_second, &[], None).await?.expect(200)?;
    let two = format!("{path}/{}", second.id);
    let soon = domain::time::format(now_us() + 1_500_000);
    world
        .send(Method::PATCH, &two, &world.key, &[], Some(json!({"expires_at": soon})))
        .await?
        .expect(200)?;
    until_answered(&world, &with_second, 401).await?;
    // Ingest's clock may be before the database's by what its question took.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while world.post(path, json!({})).await?.status != 201 {
        assert!(std::time::Instant::now() < deadline, "two live secrets are still counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_may_call_their_apps_alike() -> Result<()> {
    let world = World::all().await?;
    let mut signers = Vec::new();
    for key in [&world.key, &world.other_key] {
        make_app(&world, key, "chat").await?;
        signers.push(make_secret(&world, key, "chat", json!({"scopes": ["*"]})).await?);
    }
    for (signer, team) in signers.iter().zip(["of-one", "of-two"]) {
        let token = signer.token(&claims("chat", json!({})));
        until_taken(&world, &token).await?;
        let body = Some(json!({"team": team}));
        world.send(Method::POST, "/v1/teams", &token, &[], body).await?.expect(201)?;
        // Named by its id, a secret is its own.
        let id = &signers.iter().find(|other| other.id != signer.id).unwrap().id;
        let crossed = Signer { id: id.clone(), secret: signer.secret.clone() };
        let crossed = crossed.token_with_kid(&claims("chat", json!({})));
        world
            .send(Method::GET, "/v1/teams", &crossed, &[], None)
            .await?
            .refused(401, "token_unknown")?;
        post_event(&world, &crossed, event("x", "acme")).await?.refused(401, "token_unknown")?;
    }
    // One that was made a moment ago works at once, at a gateway that has not heard of it.
    for app in ["fresh-1", "fresh-2", "fresh-3"] {
        make_app(&world, &world.key, app).await?;
        let fresh = make_secret(&world, &world.key, app, json!({"scopes": ["*"]})).await?;
        let token = fresh.token(&claims(app, json!({})));
        post_event(&world, &token, event(app, "acme")).await?.expect(200)?;
    }
    let rows: Vec<(uuid::Uuid, String)> = sqlx::query_as(
        "SELECT tenant_id, team FROM teams WHERE origin = 'registered' ORDER BY team",
    )
    .fetch_all(&world.admin)
    .await?;
    assert_eq!(rows, [(TENANT, "of-one".to_owned()), (OTHER, "of-two".to_owned())]);
    world.stop().await
}

async fn another(world: &World, master_key: Secret) -> Result<Router> {
    let context = runtime::context::Context {
        shutdown: world.context.shutdown.child(),
        metrics: Metrics::new(),
        ..world.context.clone()
    };
    Ok(world.another_with(api::Config { master_key, ..config() }, context).await?.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_key_is_needed_and_can_be_replaced() -> Result<()> {
    let world = World::api().await?;
    make_app(&world, &world.key, "chat").await?;
    let old = make_secret(&world, &world.key, "chat", json!({"scopes": ["*"]})).await?;
    let token = old.token(&claims("chat", json!({})));
    let ask = async |router: &Router, token: &str| {
        send(router, Method::GET, "/v1/teams", token, &[], None).await
    };
    ask(&world.router, &token).await?.expect(200)?;

    let without = another(&world, Secret::default()).await?;
    let made =
        send(&without, Method::POST, "/v1/apps/chat/secrets", &world.key, &[], Some(json!({})))
            .await?;
    made.refused(503, "master_key_missing")?;
    for token in [
        &token,
        &old.token_with_kid(&claims("chat", json!({}))),
        &old.token(&claims("missing", json!({}))),
    ] {
        let refused = ask(&without, token).await?;
        assert!(refused.headers.contains_key("retry-after"));
        refused.refused(503, "tokens_unavailable")?;
    }
    ask(&without, "a.b").await?.refused(401, "token_malformed")?;
    ask(&without, &world.key).await?.expect(200)?;

    // While it is replaced, both are known; then the old one is not needed.
    let new = "d4".repeat(32);
    let wrong = another(&world, Secret::new(new.clone())).await?;
    ask(&wrong, &token).await?.refused(503, "tokens_unavailable")?;
    let both = another(&world, Secret::new(format!("{new},{}", master_key().expose()))).await?;
    ask(&both, &token).await?.expect(200)?;
    let made = send(
        &both,
        Method::POST,
        "/v1/apps/chat/secrets",
        &world.key,
        &[],
        Some(json!({"scopes": ["*"]})),
    )
    .await?;
    let made = made.expect(201)?;
    let signer = Signer {
        id: made["secret_id"].as_str().unwrap().to_owned(),
        secret: made["secret"].as_str().unwrap().to_owned(),
    };
    let newer = signer.token_with_kid(&claims("chat", json!({})));
    ask(&wrong, &newer).await?.expect(200)?;
    ask(&world.router, &newer).await?.refused(503, "tokens_unavailable")?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crafted_token_is_taken_anywhere() -> Result<()> {
    let world = World::all().await?;
    let signer = app(&world, "chat").await?;
    let retired = make_secret(&world, &world.key, "chat", json!({"scopes": ["*"]})).await?;
    let path = format!("/v1/apps/chat/secrets/{}", retired.id);
    world.send(Method::DELETE, &path, &world.key, &[], None).await?.expect(200)?;
    until_answered(&world, &retired.token(&claims("chat", json!({}))), 401).await?;
    let shapes = shapes::all(&signer, &retired);
    assert!(shapes.len() >= 60, "{}", shapes.len());
    let mut names: Vec<&str> = shapes.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), shapes.len());
    let mut accepted = Vec::new();
    for (name, token) in &shapes {
        for (method, path, body) in [
            (Method::POST, "/v1/events", Some(event("crafted", "acme"))),
            (Method::POST, "/v1/teams", Some(json!({"team": "crafted"}))),
            (Method::GET, "/v1/teams", None),
        ] {
            let answer = world.send(method, path, token, &[], body).await;
            // What no header can hold is not sent at all.
            let Ok(answer) = answer else { continue };
            let answer_ok = answer.status == 401 && answer.body["code"].is_string();
            if !answer_ok || answer.text.contains(&signer.secret) {
                accepted.push(format!("{name} at {path}: {} {}", answer.status, answer.text));
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    let crafted: i64 = sqlx::query_scalar("SELECT count(*) FROM teams WHERE team = 'crafted'")
        .fetch_one(&world.admin)
        .await?;
    assert_eq!(crafted, 0);
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exists_and_what_does_not_are_told_alike() -> Result<()> {
    let world = World::all().await?;
    let signer = app(&world, "chat").await?;
    let other_secret = "weir_app_0123456789012345678901234567890123456789012";
    let forged = |app: &str, id: &str| {
        let signer = Signer { id: id.to_owned(), secret: other_secret.to_owned() };
        [signer.token(&claims(app, json!({}))), signer.token_with_kid(&claims(app, json!({})))]
    };
    // A key of this installation with another secret, and one that nobody made.
    let stolen = runtime::keys::generate()?;
    let (known, unknown) = (stolen.text.clone(), runtime::keys::generate()?.text);
    let other_hash = runtime::keys::generate()?.secret_hash;
    sqlx::query(
        "INSERT INTO api_keys (tenant_id, key_id, secret_hash, scopes) VALUES ($1, $2, $3, '{*}')",
    )
    .bind(TENANT)
    .bind(&stolen.id)
    .bind(other_hash.as_slice())
    .execute(&world.admin)
    .await?;
    let [exists, exists_kid] = forged("chat", &signer.id);
    let [missing, missing_kid] = forged("missing", "000000000000");
    let without_id = |mut body: Value| {
        body.as_object_mut().unwrap().remove("request_id");
        body
    };
    for (one, two) in [(known, unknown), (exists, missing), (exists_kid, missing_kid)] {
        for (method, path, body) in [
            (Method::POST, "/v1/events", Some(event("1", "acme"))),
            (Method::GET, "/v1/teams", None),
        ] {
            let one = world.send(method.clone(), path, &one, &[], body.clone()).await?;
            let two = world.send(method, path, &two, &[], body).await?;
            assert_eq!((one.status, one.status.as_u16()), (two.status, 401));
            assert_eq!(without_id(one.body), without_id(two.body), "{path}");
            let names = |answer: &axum::http::HeaderMap| answer.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&one.headers), names(&two.headers));
        }
    }
    // Another tenant's things, against things that nobody has.
    world.post("/v1/teams", json!({"team": "acme"})).await?.expect(201)?;
    for (path, missing) in [
        ("/v1/teams/acme", "/v1/teams/none"),
        ("/v1/teams/acme/balance", "/v1/teams/none/balance"),
        ("/v1/apps/chat/secrets", "/v1/apps/none/secrets"),
    ] {
        let ask =
            async |path: &str| world.send(Method::GET, path, &world.other_key, &[], None).await;
        let (one, two) = (ask(path).await?, ask(missing).await?);
        assert_eq!(one.status, two.status, "{path}");
        let plain = |answer: Answer| {
            without_id(answer.body).to_string().replace("acme", "NAME").replace("none", "NAME")
        };
        assert_eq!(plain(one), plain(two), "{path}");
    }
    world.stop().await
}
