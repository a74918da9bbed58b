//! Usage that had no price, no cost or no meter, and how it comes to have them: by a correction that begins by itself
//! for the first, by one that somebody begins for the others.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::all;
use crate::world::World;

const JUNE: &str = "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z";

fn meter(key: &str) -> Value {
    json!({"key": key, "event_types": [key], "aggregation": "sum", "value": "$.n"})
}

fn card(key: &str, kind: &str, meters: &[(&str, &str)]) -> Value {
    let rates = meters.iter().map(|(meter, price)| json!({"meter": meter, "price": price}));
    let rates: Vec<Value> = rates.collect();
    json!({"key": key, "kind": kind, "currency": "USD", "versions": [{"rates": rates}]})
}

/// Types of events and meters of what is listed, in alphabetical order.
async fn listed(world: &World) -> Result<Vec<String>> {
    let rows = all(world, &world.key, &format!("/v1/analytics/unpriced?{JUNE}")).await?;
    let mut rows: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["event_type"], row["meter"])).collect();
    rows.sort();
    Ok(rows)
}

/// Posts a correction that waits, and waits until the archive has what it made.
async fn post(world: &World, id: &str) -> Result<()> {
    let path = format!("/v1/corrections/{id}");
    world.until(&path, |one| one["state"] == "previewed").await?;
    let answer = world.post(&format!("{path}/post"), json!({})).await?;
    assert!(answer.status.is_success(), "{}", answer.text);
    world.until(&path, |one| one["state"] == "posted").await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_no_price_no_cost_or_no_meter_can_have_it_later() -> Result<()> {
    let world = World::all().await?;
    let catalog = |meters: Value, rates: Value, costs: Value| json!({"meters": meters, "cards": [rates, costs], "default_rate_card": rates["key"], "default_cost_card": costs["key"]});
    let before = catalog(
        json!([meter("priceless"), meter("costless")]),
        card("prices", "rate", &[("costless", "2")]),
        card("costs", "cost", &[("priceless", "1")]),
    );
    world.put("/v1/catalog", before.clone()).await?.expect(200)?;
    let event = |id: &str| json!({"id": id, "source": "unpriced", "type": id, "subject": "red", "time": "2026-06-02T00:00:00Z", "data": {"n": 5}});
    let events = ["priceless", "costless", "meterless"].map(event);
    world.post("/v1/events", json!(events)).await?.expect(200)?;
    let archived = |body: &Value| {
        let all = body["total"]["counts"]["accepted"] == 3 && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().into_iter().flatten();
        all && partitions.into_iter().all(|one| one["archived_position"] == one["posted_position"])
    };
    world.until("/v1/conservation", archived).await?;
    let (costless, meterless) = (r#""costless" "costless""#, r#""meterless" null"#);
    assert_eq!(listed(&world).await?, [costless, meterless, r#""priceless" "priceless""#]);

    // All of it is published. What was rated stays listed.
    let all_three = [("priceless", "3"), ("costless", "2"), ("meterless", "4")];
    let mut after = catalog(
        json!([meter("priceless"), meter("costless"), meter("meterless")]),
        card("prices-2", "rate", &all_three),
        card("costs-2", "cost", &[("priceless", "1"), ("costless", "0.5"), ("meterless", "0.25")]),
    );
    let kept = before["cards"].as_array().context("cards")?.iter().cloned();
    after["cards"].as_array_mut().context("cards")?.extend(kept);
    world.put("/v1/catalog", after).await?.expect(200)?;
    assert_eq!(listed(&world).await?.len(), 3);

    // What had no price is corrected by what began by itself, and nothing else is.
    let own = |page: &Value| {
        let items = page["items"].as_array().into_iter().flatten();
        let mut own = items.into_iter().filter(|one| one["created_by"] == "price-unpriced");
        own.next().and_then(|one| one["id"].as_str().map(str::to_owned))
    };
    let begun = world.until("/v1/corrections", |page| own(page).is_some()).await?;
    post(&world, &own(&begun).context("a correction")?).await?;
    assert_eq!(listed(&world).await?, [costless, meterless]);

    // The others by one that somebody begins.
    let asked = json!({"kind": "rate", "filter": {"team": "red"}, "reason": "costs and meters were missing"});
    let answer = world.post("/v1/corrections", asked).await?;
    assert!(answer.status.is_success(), "{}", answer.text);
    post(&world, answer.body["id"].as_str().context("an id")?).await?;
    assert_eq!(listed(&world).await?, Vec::<String>::new());
    // 5 × 3 + 5 × 2 + 5 × 4 and 5 × 1 + 5 × 0.5 + 5 × 0.25. What was taken back leaves rows of no lines, as in the views.
    let margin = all(&world, &world.key, &format!("/v1/analytics/margin?{JUNE}")).await?;
    let names = ["charge", "cost", "margin", "lines", "unpriced_lines", "uncosted_lines"];
    let sums: Vec<_> = margin.iter().map(|row| names.map(|name| row[name].clone())).collect();
    let wanted = json!([
        [null, "0", null, 0, 0, 0],
        ["0", null, null, 0, 0, 0],
        ["45", "8.75", "36.25", 3, 0, 0]
    ]);
    assert_eq!(json!(sums), wanted);
    world.stop().await
}
