//! Usage without a price is shown, and charged, once a catalog has one.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{owed::comes_to, system::System, wait::eventually};

use super::{event, meter, publish, send, state, verify};

/// The corrections that began by themselves, newest first.
async fn begun(system: &System) -> Result<Vec<Value>> {
    let mut page = system.api()?.get("/v1/corrections").await?;
    let items = page["items"].as_array_mut().context("items")?;
    Ok(items.drain(..).filter(|one| one["created_by"] == "price-unpriced").collect())
}

/// The newest of so many, once it is in a state.
async fn newest(system: &System, count: usize, wanted: &str) -> Result<String> {
    eventually("a correction begins", async || Ok(begun(system).await?.len() == count)).await?;
    let id = begun(system).await?[0]["id"].as_str().context("an id")?.to_owned();
    state(system, &id, wanted).await?;
    Ok(id)
}

fn card(rows: &Value) -> Value {
    json!([{"key": "own", "kind": "rate", "currency": "EUR",
        "versions": [{"effective_from": "2000-01-01T00:00:00Z", "rates": rows}]}])
}

/// Adds a version to the card.
async fn add(system: &System, from: &str, rows: &Value) -> Result<()> {
    let version = json!({"effective_from": from, "rates": rows});
    system.api()?.send("POST", "/v1/rate-cards/own/versions", &version).await?;
    Ok(())
}

#[tokio::test]
async fn usage_without_a_price_is_shown_once_it_has_one() -> Result<()> {
    let mut system = System::embedded().await?;
    let (one, both) = (
        json!([{"meter": "one", "price": "1"}]),
        json!([{"meter": "one", "price": "1"}, {"meter": "other", "price": "3"}]),
    );
    publish(&system, json!([meter("one"), meter("other")]), card(&one), "own").await?;
    send(&system, &[event("one", "1", "2"), event("other", "2", "5")]).await?;
    system.settled(Some(2)).await?;
    comes_to(&system, "one", "2").await?;
    comes_to(&system, "other", "0").await?;

    // A version that has no price for it either: nothing is left of it but that it was looked at.
    add(&system, "2026-01-01T00:00:00Z", &json!([{"meter": "one", "price": "1"}])).await?;
    newest(&system, 1, "cancelled").await?;
    // One that has: it is shown, and waits.
    add(&system, "2026-01-02T00:00:00Z", &both).await?;
    let id = newest(&system, 2, "previewed").await?;
    let shown = state(&system, &id, "previewed").await?;
    let totals = shown["preview"].as_array().context("totals")?;
    let charged = totals.iter().find(|total| total["currency"] == "EUR").context("EUR")?;
    ensure!(shown["changes"] == 1 && charged["charge"] == "15", "{shown}");
    ensure!(shown["filter"] == json!({"outcome": "unpriced"}), "{shown}");
    comes_to(&system, "other", "0").await?;
    // Another one has made it old.
    add(&system, "2030-01-01T00:00:00Z", &both).await?;
    state(&system, &id, "cancelled").await?;
    let id = newest(&system, 3, "previewed").await?;
    system.api()?.send("POST", &format!("/v1/corrections/{id}/post"), &json!({})).await?;
    state(&system, &id, "posted").await?;
    comes_to(&system, "other", "15").await?;
    comes_to(&system, "one", "2").await?;

    // It is posted by itself where that is wanted, after a restart.
    publish(&system, json!([meter("third")]), json!([]), "own").await?;
    send(&system, &[event("third", "3", "4")]).await?;
    system.settled(Some(3)).await?;
    system.kill("up")?;
    system.set("up", "WEIR_API__UNPRICED", "post");
    system.start("up").await?;
    let mut all = both.clone();
    all.as_array_mut().context("rows")?.push(json!({"meter": "third", "price": "2"}));
    add(&system, "2031-01-01T00:00:00Z", &all).await?;
    newest(&system, 4, "cancelled").await?;
    let mut postgres = system.postgres().await?;
    let counted: i64 =
        sqlx::query_scalar("SELECT count(*) FROM corrections WHERE state = 'posted'")
            .fetch_one(&mut postgres)
            .await?;
    assert_eq!(counted, 1, "nothing has had a price at its time");
    publish(
        &system,
        json!([]),
        json!([{"key": "own-2", "kind": "rate", "currency": "EUR",
            "versions": [{"effective_from": "2000-01-01T00:00:00Z", "rates": all}]}]),
        "own-2",
    )
    .await?;
    newest(&system, 5, "posted").await?;
    comes_to(&system, "third", "8").await?;
    verify(&system).await
}
