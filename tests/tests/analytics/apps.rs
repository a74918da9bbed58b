//! What two apps sold and what it cost, by the credentials that reported it.

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};
use tests::signed::{now_s, sign};

use super::all;
use crate::world::World;

const JUNE: &str = "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z";

/// A page is sold for 2 and costs 0.5; a scan is sold for 1 and costs 1.25.
fn catalog() -> Value {
    let meter =
        |key: &str| json!({"key": key, "event_types": [key], "aggregation": "sum", "value": "$.n"});
    let card = |key: &str, kind: &str, pages: &str, scans: &str| {
        json!({"key": key, "kind": kind, "currency": "USD", "versions": [{"rates": [
            {"meter": "pages", "price": pages}, {"meter": "scans", "price": scans}]}]})
    };
    json!({"meters": [meter("pages"), meter("scans")],
        "cards": [card("prices", "rate", "2", "1"), card("costs", "cost", "0.5", "1.25")],
        "default_rate_card": "prices", "default_cost_card": "costs"})
}

fn event(id: &str, meter: &str, n: u32) -> Value {
    json!({"id": id, "source": "apps", "type": meter, "subject": "red", "time": "2026-06-02T00:00:00Z", "data": {"n": n}})
}

/// A key of an app that may report.
async fn key_of(world: &World, app: &str) -> Result<String> {
    let wanted = json!({"app": app, "scopes": ["events:write"]});
    let made = world.post("/v1/api-keys", wanted).await?.expect(201)?;
    Ok(made["key"].as_str().context("a key")?.to_owned())
}

/// A token that an app signed for a team.
async fn token_of(world: &World, app: &str) -> Result<String> {
    let wanted = json!({"scopes": ["events:write"]});
    let secret = world.post(&format!("/v1/apps/{app}/secrets"), wanted).await?.expect(201)?;
    let secret = secret["secret"].as_str().context("a secret")?;
    let claims = json!({"app": app, "scopes": ["events:write"], "iat": now_s(), "exp": now_s() + 290, "team": "red"});
    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    Ok(sign(&header, &claims.to_string(), secret.as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_has_the_margin_of_what_it_reported() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    for app in ["reader", "scanner"] {
        world.post("/v1/apps", json!({"app": app})).await?.expect(201)?;
    }
    let reader = key_of(&world, "reader").await?;
    let (scanner, token) = (key_of(&world, "scanner").await?, token_of(&world, "scanner").await?);
    let sent = [
        (&reader, event("1", "pages", 10)),
        (&reader, event("2", "scans", 4)),
        (&scanner, event("3", "scans", 8)),
        // The same app by a token that it signed.
        (&token, event("4", "pages", 1)),
        // Of no app.
        (&world.key, event("5", "pages", 3)),
    ];
    for (key, event) in &sent {
        // New credentials are known to ingest in a moment.
        let answer = world
            .send(Method::POST, "/v1/events", key, &[], Some(event.clone()))
            .await?
            .expect(200)?;
        assert_eq!(answer["accepted"], 1, "{answer}");
    }
    let archived = |body: &Value| {
        let all =
            body["total"]["counts"]["accepted"] == sent.len() && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().into_iter().flatten();
        all && partitions.into_iter().all(|one| one["archived_position"] == one["posted_position"])
    };
    world.until("/v1/conservation", archived).await?;

    let row = |app: Value, amounts: [&str; 4], lines: u32| {
        let [charge, cost, margin, percent] = amounts;
        json!({"window_start": null, "window_end": null, "group": {"app": app}, "currency": "USD", "cost_currency": "USD",
            "charge": charge, "cost": cost, "margin": margin, "margin_percent": percent,
            "lines": lines, "unpriced_lines": 0, "uncosted_lines": 0})
    };
    // No app: 3 × 2 and 3 × 0.5. reader: 10 × 2 + 4 × 1 and 10 × 0.5 + 4 × 1.25; 14 of 24 are 58.33 percent.
    // scanner: 8 × 1 + 1 × 2 and 8 × 1.25 + 1 × 0.5: it sells at a loss.
    let none = row(Value::Null, ["6", "1.5", "4.5", "75"], 1);
    let reader = row(json!("reader"), ["24", "10", "14", "58.33"], 2);
    let scanner = row(json!("scanner"), ["10", "10.5", "-0.5", "-5"], 2);
    let path = format!("/v1/analytics/margin?{JUNE}&group_by=app");
    assert_eq!(all(&world, &world.key, &path).await?, [none, reader, scanner.clone()]);
    let mut alone = scanner;
    alone["group"] = json!({});
    let path = format!("/v1/analytics/margin?{JUNE}&app=scanner");
    assert_eq!(all(&world, &world.key, &path).await?, [alone]);
    world.stop().await
}
