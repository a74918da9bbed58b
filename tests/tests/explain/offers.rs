//! Prices of offers: which one applies, what it charges, and the way down to the event.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    all, charge, events, follow, raw, settled,
    world::{World, catalog},
};

/// Acme pays half of what others pay for tokens; Bolt has a card in euros up to the second of March.
fn with_offers() -> Value {
    let mut catalog = catalog();
    let agreed = json!({"key": "agreed", "kind": "rate", "currency": "EUR", "versions": [{"rates": [
        {"meter": "tokens", "dimensions": {"model": "gpt"}, "price": "1"}]}]});
    catalog["cards"].as_array_mut().unwrap().push(agreed);
    catalog["offers"] = json!([
        {"key": "deal", "source": "contract", "card": "agreed"},
        {"key": "half", "source": "team", "multiplier": "0.50", "meters": ["tokens"]}]);
    catalog["holders"] = json!([
        {"team": "acme", "offer": "half", "from": "2026-01-01T00:00:00Z"},
        {"team": "bolt", "offer": "deal", "from": "2026-01-01T00:00:00Z", "until": "2026-03-02T00:00:00Z"}]);
    catalog
}

/// Half of a charge, to the even neighbour.
fn half(charge: i128) -> i128 {
    charge / 2 + charge % 2 * (charge / 2 % 2)
}

/// What an event of [`events`] of a team is charged.
fn offered(team: &str, number: u32) -> (i128, &'static str) {
    match team {
        "acme" => (half(charge(number)), "USD"),
        "bolt" if number < 24 && number.is_multiple_of(2) => {
            (i128::from(number + 1) * 1_000_000_000_000, "EUR")
        }
        _ => (charge(number), "USD"),
    }
}

async fn resolved(world: &World, query: &str) -> Result<Value> {
    world.get(&format!("/v1/rating/resolve?meter=tokens&{query}")).await?.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offered_price_is_told_charged_and_explained() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", with_offers()).await?.expect(200)?;
    let stored = world.get("/v1/catalog").await?.expect(200)?;
    assert_eq!(stored["catalog"]["offers"][1]["multiplier"], "0.5");
    assert_eq!(stored["catalog"]["holders"][1]["until"], "2026-03-02T00:00:00.000000Z");
    told(&world).await?;
    assumed(&world).await?;
    for team in ["acme", "bolt", "carl"] {
        world.post("/v1/events", events(team, 0..30)).await?.expect(200)?;
    }
    settled(&world, 90).await?;
    for team in ["acme", "bolt", "carl"] {
        charged(&world, team).await?;
    }
    // Who held what when the events were rated is known, whatever was published since.
    let mut without = with_offers();
    without["offers"] = json!([]);
    without["holders"] = json!([]);
    world.put("/v1/catalog", without).await?.expect(200)?;
    let now = resolved(&world, "team=acme&filter%5Bmodel%5D=own").await?;
    assert_eq!((&now["offer"], &now["multiplier"]), (&Value::Null, &Value::Null), "{now}");
    for team in ["acme", "bolt", "carl"] {
        explained(&world, team).await?;
    }
    world.stop().await
}

/// Which price applies, before anything is reported.
async fn told(world: &World) -> Result<()> {
    let half = resolved(world, "team=acme&at=2026-03-01T00:00:00Z&filter%5Bmodel%5D=own").await?;
    let found = ["offer", "multiplier", "card", "card_version", "currency"].map(|one| &half[one]);
    assert_eq!(json!(found), json!(["half", "0.5", "standard", 1, "USD"]), "{half}");
    assert_eq!(half["rate"], json!({"meter": "tokens", "price": "0.5", "per": 1}));
    assert_eq!(half["reason"], "it comes first, and multiplies what the default card charges");
    let deal = |day| format!("team=bolt&at=2026-03-{day}T00:00:00Z&filter%5Bmodel%5D=gpt");
    let held = resolved(world, &deal("01")).await?;
    assert_eq!((&held["offer"], &held["currency"]), (&json!("deal"), &json!("EUR")), "{held}");
    let ended = resolved(world, &deal("02")).await?;
    assert_eq!((&ended["offer"], &ended["card"]), (&Value::Null, &json!("standard")), "{ended}");
    let reasons: Vec<&Value> =
        ended["candidates"].as_array().unwrap().iter().map(|one| &one["reason"]).collect();
    let other_time = "the team has it at another time: \
        from 2026-01-01T00:00:00.000000Z until 2026-03-02T00:00:00.000000Z";
    assert_eq!(json!(reasons), json!(["no offer of the team prices this usage", other_time]));
    let path = "/v1/rating/resolve?";
    world.get(&format!("{path}meter=words")).await?.refused(404, "meter_unknown")?;
    world.get(path).await?.refused(400, "query_invalid")?;
    let unknown = format!("{path}meter=calls&filter%5Bmodel%5D=own");
    world.get(&unknown).await?.refused(400, "query_invalid").map(drop)
}

/// What 10 tokens would cost a team, had it an offer that it does not hold.
async fn assumed(world: &World) -> Result<()> {
    for (team, model, offers, wanted) in [
        (json!("carl"), "own", json!([]), ["5", "USD"]),
        (json!("carl"), "own", json!(["half"]), ["2.5", "USD"]),
        (Value::Null, "own", json!(["half"]), ["2.5", "USD"]),
        (Value::Null, "gpt", json!(["deal", "half"]), ["10", "EUR"]),
        // Acme holds it anyway.
        (json!("acme"), "own", json!(["half"]), ["2.5", "USD"]),
        // Besides those that it holds.
        (json!("acme"), "gpt", json!(["deal"]), ["10", "EUR"]),
    ] {
        let asked = json!({"type": "llm.call", "team": team, "offers": offers, "time": "2026-03-01T00:00:00Z",
            "data": {"tokens": 10, "model": model, "region": "eu"}});
        let price = world.post("/v1/rating/calculate", asked).await?.expect(200)?;
        let lines = price["lines"].as_array().context("lines")?;
        let tokens = lines.iter().find(|line| line["meter"] == "tokens").context("a line")?;
        assert_eq!(json!([tokens["charge"], tokens["currency"]]), json!(wanted), "{price}");
    }
    let unknown = json!({"type": "llm.call", "offers": ["none"], "data": {"tokens": 1}});
    world.post("/v1/rating/calculate", unknown).await?.refused(422, "offer_unknown")?;
    let no_list = json!({"type": "llm.call", "offers": "half", "data": {"tokens": 1}});
    world.post("/v1/rating/calculate", no_list).await?.refused(422, "field_invalid").map(drop)
}

/// Each event has its charge and its currency.
async fn charged(world: &World, team: &str) -> Result<()> {
    let found = all(world, &format!("/v1/events?team={team}&limit=100"), "").await?;
    assert_eq!(found.len(), 30);
    for event in found {
        let id = event["id"].as_str().context("an id")?;
        let number = id.rsplit('-').next().context("a number")?.parse()?;
        let lines = event["lines"].as_array().context("lines")?;
        let tokens = lines.iter().find(|line| line["meter"] == "tokens").context("a line")?;
        let shown = (raw(&tokens["charge"]), tokens["currency"].as_str().context("a currency")?);
        assert_eq!(shown, offered(team, number), "{event}");
    }
    Ok(())
}

/// Each charge is computed again.
async fn explained(world: &World, team: &str) -> Result<()> {
    let transfers = all(world, &format!("/v1/teams/{team}/transfers?limit=100"), "").await?;
    let usage = transfers.iter().filter(|transfer| transfer["reason"] == "usage");
    let mut multiplied = 0;
    for transfer in usage {
        follow(world, transfer).await?;
        let id = transfer["transfer_id"].as_str().context("an id")?;
        for event in all(world, &format!("/v1/explain/{id}?limit=100"), "/events").await? {
            for line in event["lines"].as_array().context("lines")? {
                multiplied += u32::from(line["charge_step"]["multiplier"] == "0.5");
            }
        }
    }
    ensure!(multiplied == if team == "acme" { 30 } else { 0 }, "{team}: {multiplied}");
    Ok(())
}
