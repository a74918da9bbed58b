//! Many rejected events at once: what ingest takes is remembered although it does not take all, and
//! two runs at the same time send nothing twice.

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use serde_json::{Value, json};
use tests::wait::eventually;

use super::{catalog, settled};
use crate::world::World;

const PATH: &str = "/v1/rejected-events/reinject";
const EVENTS: u32 = 450;
/// More than the rows that are read and sent at a time, and less than twice as many.
const BURST: u32 = 300;

/// Rows of the audit log about events that were sent again.
async fn rows(world: &World) -> Result<usize> {
    let page = world.get("/v1/audit?limit=1000").await?.expect(200)?;
    let rows = page["items"].as_array().context("items")?;
    let is_about = |row: &&Value| row["action"].as_str().is_some_and(|it| it.contains("reinject"));
    Ok(rows.iter().filter(is_about).count())
}

async fn limit(world: &World, limit: Value) -> Result<()> {
    ensure!(world.put("/v1/limits", limit).await?.status.is_success());
    let loads = || -> Option<u64> {
        let metrics = world.context.metrics.render();
        let (_, rest) = metrics.split_once("weir_ingest_refreshes_total{outcome=\"ok\"} ")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    // One load may have begun before.
    let before = loads().context("no loads")?;
    eventually("ingest knows the limit", async || Ok(loads().is_some_and(|now| now >= before + 2)))
        .await
}

/// Sends everything again, call by call; how many.
async fn everything(world: &World) -> Result<u64> {
    let (mut body, mut sent, mut patience) = (json!({"limit": 100}), 0, 200);
    loop {
        let answer = world.post(PATH, body.clone()).await?;
        if answer.status.as_u16() == 503 && patience > 0 {
            patience -= 1;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        }
        let done = answer.expect(200)?;
        ensure!(done["failed"] == json!([]), "{done}");
        sent += done["reinjected"].as_u64().context("a count")?;
        match done["next_cursor"].as_str() {
            Some(cursor) => body["cursor"] = json!(cursor),
            None => return Ok(sent),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_again_is_remembered_however_the_run_ends() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let broken: Value = (0..EVENTS)
        .map(|number| {
            json!({"id": number.to_string(), "source": "tool", "type": "llm.call", "subject": "acme",
                "data": {"tokens": "many", "amount": 1, "model": "own"}})
        })
        .collect();
    world.post("/v1/events", broken).await?.expect(200)?;
    settled(&world, EVENTS).await?;
    let nothing = world.post(PATH, json!({"reason": "none_of_these"})).await?.expect(200)?;
    assert_eq!((&nothing["reinjected"], rows(&world).await?), (&json!(0), 0));
    let mut corrected = catalog();
    corrected["meters"][1]["value"] = json!(["$.amount", "$.tokens"]);
    world.put("/v1/catalog", corrected).await?.expect(200)?;

    limit(&world, json!({"events_per_second": 1, "burst": BURST})).await?;
    let first = world.post(PATH, json!({"limit": 1000})).await?.expect(200)?;
    assert_eq!(
        (&first["reinjected"], &first["complete"], &first["failed"]),
        (&json!(200), &json!(false), &json!([])),
        "{first}"
    );
    ensure!(first["next_cursor"].is_string(), "{first}");
    assert_eq!(rows(&world).await?, 1);
    let refused = world.post(PATH, json!({"limit": 1000})).await?;
    let wait = refused.headers.get("retry-after").context("a time to come again")?;
    ensure!(wait.to_str()?.parse::<u64>()? > 0, "{wait:?}");
    refused.refused(429, "ingest_refused")?;
    let open = world.post(PATH, json!({"dry_run": true})).await?.expect(200)?;
    assert_eq!((&open["would_reinject"], rows(&world).await?), (&json!(EVENTS - 200), 1));

    limit(&world, json!({"events_per_second": null, "burst": null})).await?;
    let (one, two) = tokio::try_join!(everything(&world), everything(&world))?;
    assert_eq!(one + two, u64::from(EVENTS - 200), "{one} and {two}");
    settled(&world, 2 * EVENTS).await?;
    let counts = world.get("/v1/conservation").await?.expect(200)?["total"]["counts"].clone();
    assert_eq!(
        (&counts["rated"], &counts["rejected"], &counts["duplicates"]),
        (&json!(EVENTS), &json!(EVENTS), &json!(0)),
        "{counts}"
    );
    let others = world
        .send(Method::POST, PATH, &world.other_key, &[], Some(json!({})))
        .await?
        .expect(200)?;
    assert_eq!(others["reinjected"], 0);
    world.stop().await
}
