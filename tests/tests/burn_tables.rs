//! Burn tables: made, listed, and what they charge, from the call to the line of an event.

use anyhow::{Context as _, Result, ensure};
use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::world::{World, catalog};

#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

/// The table that clients of AI billing make.
const TABLE: &str = r#"{"name": "standard-burn", "rules": {
    "gpt-4-turbo": {"input_tokens": 1.5, "output_tokens": 10.0, "per_unit": 1000},
    "gpt-4o-mini": {"input_tokens": 0.30, "output_tokens": "0.1", "cached_input_tokens": 1e-7, "per_unit": "1000"},
    "dall-e-3": {"image_count": 40}}, "credit_value": {"amount": "0.01", "currency": "USD"}}"#;

/// Posts a body as it is written: no number of it passes through this test's own JSON.
async fn post(world: &World, body: &str, key: Option<&str>) -> Result<(u16, Value)> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/v1/burn-tables")
        .header("authorization", format!("Bearer {}", world.key))
        .header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = world.router.clone().oneshot(request.body(Body::from(body.to_owned()))?).await?;
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await?;
    Ok((status, serde_json::from_slice(&bytes)?))
}

async fn calculated(world: &World, body: Value) -> Result<Value> {
    world.post("/v1/rating/calculate", body).await?.expect(200)
}

async fn version(world: &World) -> Result<i64> {
    let current = world.get("/v1/catalog").await?.expect(200)?;
    current["catalog_version"].as_i64().context("a version")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burn_table_prices_usage_from_its_call_on() -> Result<()> {
    let world = World::all().await?;
    let (status, made) = post(&world, TABLE, Some("once")).await?;
    ensure!(status == 201, "{made}");
    let told = ["name", "currency", "default_rate_card", "version", "models", "rows"]
        .map(|name| made[name].clone());
    let wanted = [
        json!("standard-burn"),
        json!("credits"),
        json!("standard-burn"),
        json!(1),
        json!(3),
        json!(6),
    ];
    assert_eq!(told, wanted, "{made}");
    // With its key it has one effect and the same answer; without, nothing to publish.
    assert_eq!(post(&world, TABLE, Some("once")).await?, (201, made.clone()));
    let (status, again) = post(&world, TABLE, None).await?;
    assert_eq!((status, &again["catalog_version"]), (200, &made["catalog_version"]));
    assert_eq!(version(&world).await?, 1);

    let listed = world.get("/v1/burn-tables").await?.expect(200)?;
    let rules = json!({
        "gpt-4-turbo": {"input_tokens": "1.5", "output_tokens": "10", "per_unit": 1000},
        "gpt-4o-mini": {"input_tokens": "0.3", "output_tokens": "0.1", "cached_input_tokens": "0.0000001", "per_unit": 1000},
        "dall-e-3": {"image_count": "40", "per_unit": 1}});
    assert_eq!(listed["items"][0]["rules"], rules);
    assert_eq!(
        (&listed["items"][0]["default"], &listed["items"][0]["other_rates"]),
        (&json!(true), &json!(0))
    );

    let usage = json!({"provider": "OPENAI", "model": "gpt-4-turbo", "input_tokens": 1000, "output_tokens": 500});
    let price = calculated(&world, usage.clone()).await?;
    assert_eq!(
        (&price["credits"], &price["currency"]),
        (&json!("6.5"), &json!("credits")),
        "{price}"
    );
    assert_eq!((&price["usd_cost"], &price["margin_percent"]), (&Value::Null, &Value::Null));
    // A model that no row fits is unpriced, and not free.
    let unknown = json!({"provider": "OPENAI", "model": "gpt-9", "input_tokens": 1000});
    let unknown = calculated(&world, unknown).await?;
    assert_eq!((&unknown["status"], &unknown["credits"]), (&json!("unpriced"), &Value::Null));

    // What providers charge, and the margin by what a credit is worth: 0.065 for 0.025.
    let rate = |meter: &str, price: &str| json!({"meter": meter, "dimensions": {"provider": "OPENAI", "model": "gpt-4-turbo"}, "price": price, "per": 1_000_000});
    let costs = json!({"key": "providers", "currency": "USD", "rates": [rate("burn_input_tokens", "10"), rate("burn_output_tokens", "30")]});
    world.post("/v1/cost-cards", costs).await?.expect(201)?;
    let defaults = json!({"default_rate_card": "standard-burn", "default_cost_card": "providers"});
    world.put("/v1/catalog/defaults", defaults).await?.expect(200)?;
    let price = calculated(&world, usage.clone()).await?;
    let told = ["credits", "usd_cost", "margin_percent"].map(|name| price[name].clone());
    assert_eq!(told, [json!("6.5"), json!("0.025"), json!("61.54")], "{price}");

    // And the event itself is charged what was calculated.
    let event =
        json!({"id": "1", "source": "s", "type": "TOKEN_USAGE", "subject": "acme", "data": usage});
    let sent = world.post("/v1/events", event).await?.expect(200)?;
    let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?;
    let event =
        world.until(&format!("/v1/events/{receipt}"), |event| event["status"] != "pending").await?;
    assert_eq!(event["status"], "rated", "{event}");
    let charges: Vec<(&str, &str)> = event["lines"]
        .as_array()
        .context("lines")?
        .iter()
        .filter_map(|line| Some((line["currency"].as_str()?, line["charge"].as_str()?)))
        .collect();
    assert_eq!(charges, [("credits", "1.5"), ("credits", "5")], "{event}");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burn_table_and_a_card_in_a_currency_never_charge_both() -> Result<()> {
    let world = World::api().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let before = version(&world).await?;
    let (status, refused) = post(&world, TABLE, None).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("default_card_in_other_currency")),
        "{refused}"
    );
    assert_eq!(version(&world).await?, before);
    let none = json!({"default_rate_card": null, "default_cost_card": "providers"});
    world.put("/v1/catalog/defaults", none).await?.expect(200)?;
    let (status, made) = post(&world, TABLE, None).await?;
    assert_eq!((status, &made["default_rate_card"]), (201, &json!("standard-burn")), "{made}");

    // Another table in the unit: its rows go into the default card too.
    let more = r#"{"name": "more", "rules": {"claude": {"inputTokens": "12345678901.123456789012", "perUnit": 1000000}}}"#;
    let (status, made) = post(&world, more, None).await?;
    let told = ["version", "default_version"].map(|name| made[name].clone());
    assert_eq!((status, told), (201, [json!(1), json!(2)]), "{made}");
    let price = calculated(&world, json!({"model": "claude", "input_tokens": 1_000_000})).await?;
    assert_eq!(
        (&price["credits"], &price["card"]),
        (&json!("12345678901.123456789012"), &json!("standard-burn")),
        "{price}"
    );
    // As a number it keeps its digits too; the table before goes on beside it.
    let number = more.replace("\"12345678901.123456789012\"", "12345678901.123456789012");
    assert_eq!(post(&world, &number, None).await?.0, 200);
    let price = calculated(&world, json!({"model": "gpt-4-turbo", "input_tokens": 1000})).await?;
    assert_eq!(price["credits"], "1.5", "{price}");
    let page = world.get("/v1/burn-tables?limit=1").await?.expect(200)?;
    assert_eq!(page["items"][0]["name"], "more");
    let next = format!(
        "/v1/burn-tables?limit=1&cursor={}",
        page["next_cursor"].as_str().context("a cursor")?
    );
    assert_eq!(world.get(&next).await?.expect(200)?["items"][0]["name"], "standard-burn");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_faults_changes_nothing_and_all_of_them_are_told() -> Result<()> {
    let world = World::api().await?;
    let faulty = r#"{"name": "burn", "rules": {
        "a": {"input_tokens": -1, "output": 1, "outputTokens": 2, "tokens": 1, "per_unit": 0},
        "b": {"input_tokens": "1,5", "per_unit": 1.5}, "c": {"per_unit": 1}, "d": {"image_count": true}}}"#;
    let (status, refused) = post(&world, faulty, None).await?;
    assert_eq!((status, &refused["code"]), (422, &json!("catalog_invalid")), "{refused}");
    let places: Vec<&str> = refused["faults"]
        .as_array()
        .context("faults")?
        .iter()
        .filter_map(|fault| fault["place"].as_str())
        .collect();
    let wanted = [
        "rules[a].input_tokens",
        "rules[a].outputTokens",
        "rules[a].per_unit",
        "rules[a].tokens",
        "rules[b].input_tokens",
        "rules[b].per_unit",
        "rules[b]",
        "rules[c]",
        "rules[d].image_count",
        "rules[d]",
    ];
    assert_eq!(places, wanted);
    for (body, place) in [
        (r#"{"name": "burn", "rules": {}}"#, "rules"),
        (r#"{"name": "burn", "currency": "USD", "rules": {"a": {"input_tokens": 1}}}"#, "currency"),
        (r#"{"name": "Burn", "rules": {"a": {"input_tokens": 1}}}"#, "cards[Burn]"),
    ] {
        let (status, refused) = post(&world, body, None).await?;
        assert_eq!((status, &refused["faults"][0]["place"]), (422, &json!(place)), "{refused}");
    }
    assert_eq!(post(&world, r#"{"name": "burn", "rules": [1]}"#, None).await?.0, 400);
    assert_eq!(version(&world).await?, 0);
    world.stop().await
}
