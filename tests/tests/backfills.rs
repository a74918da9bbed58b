//! Backfills: history is loaded as a unit, and taken back as one, while the process is killed.

#![allow(clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{owed::comes_to, system::System};

/// How long the books may take.
const WAIT: Duration = Duration::from_secs(150);

async fn until(system: &System, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + WAIT;
    loop {
        let answer = system.api()?.get(path).await?;
        if wanted(&answer) {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{path}: {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn events(source: &str, ids: std::ops::Range<u64>) -> Vec<u8> {
    let event = |id: u64| {
        json!({"id": id.to_string(), "source": source, "type": "job", "subject": format!("team-{}", id % 20),
            "time": "2026-01-05T00:00:00Z", "data": {"n": 2}})
    };
    serde_json::to_vec(&ids.map(event).collect::<Vec<Value>>()).unwrap_or_default()
}

async fn post(system: &System, path: &str, body: Value) -> Result<(u16, Value)> {
    system.api()?.exchange("POST", path, serde_json::to_vec(&body)?).await
}

#[tokio::test]
async fn history_is_loaded_and_taken_back_as_a_unit() -> Result<()> {
    let mut system = System::embedded().await?;
    let api = system.api()?;
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    let meter =
        json!({"key": "jobs", "event_types": ["job"], "aggregation": "sum", "value": "$.n"});
    let versions = json!([{"effective_from": "2020-01-01T00:00:00Z", "rates": [{"meter": "jobs", "price": "0.5"}]}]);
    let card = json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": versions});
    catalog["meters"].as_array_mut().context("meters")?.push(meter);
    catalog["cards"].as_array_mut().context("cards")?.push(card);
    catalog["default_rate_card"] = json!("own");
    catalog["default_cost_card"] = Value::Null;
    api.send("PUT", "/v1/catalog", &catalog).await?;

    // Nobody has opened it yet.
    let ingest = system.ingest()?;
    let (status, answer) =
        ingest.exchange("POST", "/v1/events", events("backfill:q1", 0..1)).await?;
    ensure!(
        status == 400 && answer["results"][0]["code"] == "backfill_not_open",
        "{status}: {answer}"
    );

    let opened = api
        .send("POST", "/v1/backfills", &json!({"backfill": "q1", "reason": "the old meter"}))
        .await?;
    ensure!(opened["state"] == "open" && opened["source"] == "backfill:q1", "{opened}");
    let (status, answer) =
        post(&system, "/v1/backfills", json!({"backfill": "q1", "reason": "again"})).await?;
    ensure!(status == 409 && answer["code"] == "backfill_exists", "{status}: {answer}");
    let (status, answer) =
        post(&system, "/v1/backfills", json!({"backfill": "q1/v2", "reason": "a version"})).await?;
    ensure!(status == 422 && answer["code"] == "key_invalid", "{status}: {answer}");
    let deadline = Instant::now() + WAIT;
    loop {
        let (status, answer) =
            ingest.exchange("POST", "/v1/events", events("backfill:q1", 0..1_000)).await?;
        if status == 200 && answer["accepted"] == 1_000 {
            break;
        }
        ensure!(Instant::now() < deadline, "{status}: {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Beside them what is no part of it, and one that is sent twice.
    ingest.exchange("POST", "/v1/events", events("tool", 0..100)).await?;
    ingest.exchange("POST", "/v1/events", events("backfill:q1", 0..1)).await?;
    comes_to(&system, "jobs", "1100").await?;
    let loaded = until(&system, "/v1/backfills/q1", |one| one["others"] == 1).await?;
    ensure!(loaded["events"] == 1_000, "{loaded}");

    let revert = "/v1/backfills/q1/revert";
    let (status, answer) = post(&system, revert, json!({})).await?;
    ensure!(status == 409 && answer["code"] == "backfill_open", "{status}: {answer}");
    let closed = system.api()?.send("POST", "/v1/backfills/q1/close", &json!({})).await?;
    ensure!(closed["state"] == "closed", "{closed}");
    let (status, answer) = post(&system, "/v1/backfills/q1/close", json!({})).await?;
    ensure!(status == 409 && answer["code"] == "backfill_not_open", "{status}: {answer}");
    let (status, answer) = post(&system, revert, json!({})).await?;
    ensure!(status == 409 && answer["code"] == "backfill_closing", "{status}: {answer}");
    // A minute later, by the database's clock.
    sqlx::query("UPDATE backfills SET closed_at = closed_at - interval '2 minutes'")
        .execute(&mut system.postgres().await?)
        .await?;
    system.kill("up")?;
    system.start("up").await?;
    let deadline = Instant::now() + WAIT;
    let reverting = loop {
        let (status, answer) = post(&system, revert, json!({})).await?;
        if status == 202 {
            break answer;
        }
        ensure!(
            answer["code"] == "backfill_closing" && Instant::now() < deadline,
            "{status}: {answer}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let correction = reverting["correction"].as_str().context("a correction")?;
    let correction = format!("/v1/corrections/{correction}");
    let previewed = until(&system, &correction, |one| one["state"] == "previewed").await?;
    ensure!(
        previewed["changes"] == 1_000 && previewed["preview"][0]["charge"] == "-1000",
        "{previewed}"
    );
    let (status, answer) = post(&system, revert, json!({})).await?;
    ensure!(status == 409 && answer["code"] == "backfill_reverting", "{status}: {answer}");
    comes_to(&system, "jobs", "1100").await?;
    system.api()?.send("POST", &format!("{correction}/post"), &json!({})).await?;
    system.kill("up")?;
    system.start("up").await?;
    until(&system, "/v1/backfills/q1", |one| one["state"] == "reverted").await?;
    comes_to(&system, "jobs", "100").await?;
    // Another shows that nothing is left.
    let again = system.api()?.send("POST", revert, &json!({})).await?;
    let again = format!("/v1/corrections/{}", again["correction"].as_str().context("another")?);
    let previewed = until(&system, &again, |one| one["state"] == "previewed").await?;
    ensure!(previewed["changes"] == 0, "{previewed}");
    let (status, answer) = post(&system, "/v1/backfills/none/close", json!({})).await?;
    ensure!(status == 404 && answer["code"] == "backfill_unknown", "{status}: {answer}");
    Ok(())
}
