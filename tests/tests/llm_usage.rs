//! LLM usage and providers' prices through the whole pipeline: from the object that a provider
//! answered to a line with its charge and cost; and the meters that docs/METERS.md offers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use domain::llm_usage::UsageClass;
use serde_json::{Value, json};

use crate::world::World;

#[path = "llm_usage/costs.rs"]
mod costs;
#[path = "api/world.rs"]
#[allow(dead_code, reason = "shared with the api's tests")]
mod world;

const DOCUMENT: &str = include_str!("../../docs/METERS.md");

/// The JSON blocks of docs/METERS.md: meters of anything, some with formulas, some that do not add up, an event, meters of LLM
/// usage.
fn documented() -> Result<[Value; 5]> {
    let blocks = DOCUMENT.split("```json").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    let blocks: Vec<Value> = blocks.map(serde_json::from_str).collect::<Result<_, _>>()?;
    blocks.try_into().map_err(|_| anyhow::anyhow!("the document has other blocks"))
}

/// A catalog of all documented meters, at a price of 1 each.
fn catalog() -> Result<Value> {
    let [anything, formulas, observing, _, llm] = documented()?;
    let meters: Vec<Value> = [anything, formulas, observing, llm]
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .cloned()
        .collect();
    let rates: Vec<Value> =
        meters.iter().map(|meter| json!({"meter": meter["key"], "price": "1"})).collect();
    Ok(json!({
        "meters": meters,
        "cards": [{"key": "standard", "kind": "rate", "currency": "USD", "versions": [{"rates": rates}]}],
        "default_rate_card": "standard",
    }))
}

/// Sends an event and waits for its lines: quantity, cost and dimensions by meter.
async fn lines(world: &World, event: &Value) -> Result<(String, BTreeMap<String, Value>)> {
    let sent = world.post("/v1/events", event.clone()).await?.expect(200)?;
    let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?;
    let path = format!("/v1/events/{receipt}");
    let event = world.until(&path, |event| event["status"] != "pending").await?;
    let lines = event["lines"].as_array().context("lines")?.iter().map(|line| {
        let meter = line["meter"].as_str().unwrap_or_default().to_owned();
        (meter, line.clone())
    });
    Ok((event["status"].as_str().unwrap_or_default().to_owned(), lines.collect()))
}

fn quantities(lines: &BTreeMap<String, Value>) -> Value {
    lines.iter().map(|(meter, line)| (meter.clone(), line["quantity"].clone())).collect()
}

fn llm(id: &str, data: Value) -> Value {
    json!({"id": id, "source": "test", "type": "llm.call", "subject": "team-01", "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_meters_measure_what_they_say() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()?).await?.expect(200)?;

    let plain = [
        ("storage.v1", json!({"gbHours": "1.5", "region": "eu"}), json!({"storage": "1.5"})),
        ("bandwidth.v1", json!({"bytes": 10_485_760}), json!({"bandwidth": "10485760"})),
        ("api.request.v1", json!({"status": 200}), json!({"api_calls": "1"})),
        ("agent.run.v1", json!({"agent": "writer"}), json!({"agent_runs": "1"})),
        ("seat.v1", json!({"seatDays": 0.25}), json!({"seats": "0.25"})),
        ("CUSTOM", json!({"unit_type": "page", "quantity": 7}), json!({"custom": "7"})),
        ("CUSTOM", json!({"metricKey": "page", "units": 8}), json!({"custom": "8"})),
        (
            "job.v1",
            json!({"vcpus": "2", "seconds": 1, "class": "plain"}),
            json!({"compute": "0.000556"}),
        ),
        ("transfer.v1", json!({"sent": 1_000_000_001, "received": null}), json!({"transfer": "2"})),
    ];
    for (number, (event_type, data, want)) in plain.into_iter().enumerate() {
        let event = json!({"id": number.to_string(), "type": event_type, "subject": "team-01", "data": data});
        let (status, lines) = lines(&world, &event).await?;
        assert_eq!((status.as_str(), quantities(&lines)), ("rated", want), "{event}");
    }
    let failed =
        json!({"id": "f", "type": "api.request.v1", "subject": "team-01", "data": {"status": 503}});
    assert_eq!(lines(&world, &failed).await?.0, "unmetered");

    check_formulas(&world).await?;

    // The documented event, and what is said of it.
    let [_, _, _, event, _] = documented()?;
    let (status, found) = lines(&world, &event).await?;
    assert_eq!(status, "rated");
    assert_eq!(
        quantities(&found),
        json!({"llm_input": "86", "llm_cache_read": "1920", "llm_output": "300"})
    );
    // The same again is a duplicate: what was derived is no part of what it says.
    let (status, _) = lines(&world, &event).await?;
    assert_eq!(status, "duplicate");

    check_forms(&world).await?;
    check_refused(&world).await?;
    world.stop().await
}

/// Events that a formula makes nothing of; catalogs that are refused for theirs.
async fn check_formulas(world: &World) -> Result<()> {
    let job = |id: &str, data: Value| json!({"id": id, "type": "job.v1", "subject": "team-01", "data": data});
    let without = job("without", json!({"vcpus": 2, "seconds": 60}));
    assert_eq!(lines(world, &without).await?.0, "unmetered");
    let sent = world
        .post("/v1/events", job("wrong", json!({"vcpus": "many", "seconds": 60, "class": "a"})));
    let receipt =
        sent.await?.expect(200)?["results"][0]["receipt"].as_str().context("a receipt")?.to_owned();
    let path = format!("/v1/events/{receipt}");
    let event = world.until(&path, |event| event["status"] != "pending").await?;
    ensure!(event["status"] == "rejected" && event["reason"] == "quantity_not_a_number", "{event}");

    let refused = async |formula: &str| -> Result<Value> {
        let mut wrong = catalog()?;
        let meters = wrong["meters"].as_array_mut().context("meters")?;
        let compute = meters.iter_mut().find(|meter| meter["key"] == "compute");
        compute.context("compute")?["formula"] = json!(formula);
        Ok(world.put("/v1/catalog", wrong).await?.expect(422)?["faults"][0].take())
    };
    let fault = refused("data.vcpus / 3600").await?;
    let reason = fault["reason"].as_str().unwrap_or_default();
    ensure!(
        fault["place"] == "meters[compute].formula"
            && reason.starts_with("at character 12: a division says"),
        "{fault}"
    );
    let fault = refused("data.vcpus * data.seconds * (data.class == 'spot' ? 1 : 2)").await?;
    ensure!(
        fault["place"] == "meters[compute].samples[0]"
            && fault["reason"] == "the formula comes to 21600, not to 1.5",
        "{fault}"
    );
    Ok(())
}

/// Other providers, and the flat form.
async fn check_forms(world: &World) -> Result<()> {
    let anthropic = json!({"provider": "anthropic", "model": "claude-sonnet-4-5", "usage": {
        "input_tokens": 10, "cache_read_input_tokens": 200_000, "cache_creation_input_tokens": 0,
        "output_tokens": 503, "output_tokens_details": {"thinking_tokens": 3}}});
    let (_, found) = lines(world, &llm("anthropic", anthropic)).await?;
    assert_eq!(
        quantities(&found),
        json!({"llm_input": "10", "llm_cache_read": "200000", "llm_output": "500", "llm_reasoning": "3"})
    );
    assert_eq!(
        found["llm_input"]["dimensions"],
        json!({"provider": "anthropic", "model": "claude-sonnet-4-5", "context": "200000"})
    );
    let images = json!({"provider": "openai", "model": "gpt-image-1", "images": {"count": 2, "size": "1024x1024", "quality": "high"},
        "usage": {"total_tokens": 100, "input_tokens": 50, "output_tokens": 50, "input_tokens_details": {"text_tokens": 50, "image_tokens": 0}}});
    let (_, found) = lines(world, &llm("images", images)).await?;
    assert_eq!(quantities(&found), json!({"llm_input": "50", "llm_output": "50", "images": "2"}));
    assert_eq!(found["images"]["dimensions"]["size"], "1024x1024");
    let flat = json!({"provider": "openai", "model": "gpt-4.1", "inputTokens": 12, "outputTokens": "3", "cacheReadTokens": 4});
    let (_, found) = lines(world, &llm("flat", flat)).await?;
    assert_eq!(
        quantities(&found),
        json!({"llm_input": "12", "llm_output": "3", "llm_cache_read": "4"})
    );
    // Of a provider that nobody knows, of none, and of a usage that is no object: no classes.
    for (id, data) in [
        (
            "unknown",
            json!({"provider": "new", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}),
        ),
        ("none", json!({"usage": {"prompt_tokens": 5, "completion_tokens": 1}})),
        ("number", json!({"provider": "openai", "usage": 5})),
        ("empty", json!({"provider": "openai", "usage": {}})),
    ] {
        assert_eq!(lines(world, &llm(id, data)).await?.0, "unmetered", "{id}");
    }
    Ok(())
}

/// Objects that say something impossible are refused, each by itself.
async fn check_refused(world: &World) -> Result<()> {
    let bad = json!({"provider": "google", "model": "gemini-2.5-pro", "usage": {
        "promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120, "cachedContentTokenCount": 500}});
    let good = json!({"provider": "google", "model": "gemini-2.5-pro", "usage": {
        "promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}});
    let both = json!([llm("impossible", bad.clone()), llm("possible", good)]);
    let answer = world.post("/v1/events", both).await?.expect(207)?;
    let refused = &answer["results"][0];
    ensure!(refused["code"] == "usage_invalid", "{answer}");
    let detail = refused["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("`usage.cachedContentTokenCount` (500)"), "{detail}");
    let receipt = answer["results"][1]["receipt"].as_str().context("a receipt")?;
    let path = format!("/v1/events/{receipt}");
    let good = world.until(&path, |event| event["status"] != "pending").await?;
    assert_eq!(good["lines"][0]["quantity"], "100", "{good}");
    world.post("/v1/events", llm("impossible", bad)).await?.refused(400, "usage_invalid")?;
    Ok(())
}

/// The neutral record: one event with all classes, each of which has its line and its price; and the
/// tier of service as a dimension.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_has_its_line_and_its_price() -> Result<()> {
    let world = World::all().await?;
    let dimensions =
        json!({"provider": "$.provider", "tier": ["$.usage.service_tier", "$.service_tier"]});
    let (mut meters, mut rates) = (Vec::new(), Vec::new());
    for (number, class) in UsageClass::ALL.into_iter().enumerate() {
        let meter = format!("of_{}", class.name());
        let price = (number + 1).to_string();
        rates.push(json!({"meter": meter, "price": price, "per": 1000}));
        meters.push(json!({"key": meter, "event_types": ["llm.call"], "aggregation": "sum",
            "value": format!("usage.{}", class.name()), "unit": "token", "dimensions": dimensions}));
    }
    rates.push(
        json!({"meter": "of_output", "dimensions": {"tier": "batch"}, "price": "0.5", "per": 1000}),
    );
    let card = json!({"key": "standard", "kind": "rate", "currency": "USD", "versions": [{"rates": rates}]});
    let catalog = json!({"meters": meters, "cards": [card], "default_rate_card": "standard"});
    world.put("/v1/catalog", catalog).await?.expect(200)?;

    let usage: Value = UsageClass::ALL
        .into_iter()
        .enumerate()
        .map(|(number, class)| {
            let count = 100 * (number + 1);
            // Clients of other systems write numbers as texts.
            let count = if number % 2 == 0 { json!(count) } else { json!(count.to_string()) };
            (class.name().to_owned(), count)
        })
        .collect();
    let event = llm("neutral", json!({"provider": "a-provider-of-2031", "usage": usage}));
    let (status, found) = lines(&world, &event).await?;
    assert_eq!((status.as_str(), found.len()), ("rated", UsageClass::ALL.len()));
    for (number, class) in UsageClass::ALL.into_iter().enumerate() {
        let line = &found[&format!("of_{}", class.name())];
        let (quantity, charge) = (100 * (number + 1), (number + 1) * (number + 1));
        assert_eq!(line["quantity"], quantity.to_string(), "{line}");
        // A tenth of the square: no more than one decimal.
        let charge = if charge % 10 == 0 {
            (charge / 10).to_string()
        } else {
            format!("{}.{}", charge / 10, charge % 10)
        };
        assert_eq!(line["charge"], charge, "{line}");
    }
    for (id, data, charge) in [
        (
            "batch",
            json!({"provider": "anthropic", "usage": {"input_tokens": 10, "output_tokens": 1000, "service_tier": "batch"}}),
            "0.5",
        ),
        (
            "standard",
            json!({"provider": "anthropic", "usage": {"input_tokens": 10, "output_tokens": 1000, "service_tier": "standard"}}),
            "2",
        ),
        (
            "beside",
            json!({"provider": "openai", "service_tier": "batch", "usage": {"prompt_tokens": 10, "completion_tokens": 1000}}),
            "0.5",
        ),
    ] {
        let (_, found) = lines(&world, &llm(id, data)).await?;
        assert_eq!(found["of_output"]["charge"], charge, "{found:?}");
    }
    let negative = json!({"provider": "a-provider-of-2031", "usage": {"input": -1}});
    world.post("/v1/events", llm("negative", negative)).await?.refused(400, "usage_invalid")?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_come_from_the_price_list() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()?).await?.expect(200)?;
    let card = json!({"card": "costs", "default": true});
    let make = "/v1/providers/pricing/cost-card";
    world.post(make, card.clone()).await?.refused(422, "prices_missing")?;
    let imports = "/v1/providers/pricing/imports";
    world.post(imports, json!({"builtin": true})).await?.expect(201)?;
    let preview = json!({"card": "costs", "default": true, "dry_run": true});
    let preview = world.post(make, preview).await?.expect(200)?;
    assert_eq!((&preview["version"], &preview["dry_run"]), (&json!(1), &json!(true)));
    let version = world.get("/v1/catalog").await?.expect(200)?["catalog_version"].clone();
    let made = world.post(make, card.clone()).await?.expect(200)?;
    assert_eq!(made["rows"], preview["rows"]);
    assert_ne!(made["catalog_version"], version);
    let again = world.post(make, card).await?.expect(200)?;
    assert_eq!(again["catalog_version"], made["catalog_version"]);

    // gpt-4.1: 86 at 2 and 1,920 at 0.5 and 300 at 8 USD per million.
    let [_, _, _, event, _] = documented()?;
    let (_, found) = lines(&world, &event).await?;
    let cost = |meter: &str| found[meter]["cost"].as_str().unwrap_or("none").to_owned();
    assert_eq!(
        ["llm_input", "llm_cache_read", "llm_output"].map(cost),
        ["0.000172", "0.00096", "0.0024"]
    );
    // A long prompt of gemini-2.5-pro costs twice as much; thinking costs what output costs.
    for (id, prompt, input, reasoning) in
        [("short", 200_000, "0.25", "0.0001"), ("long", 200_001, "0.5000025", "0.00015")]
    {
        let data = json!({"provider": "google", "model": "gemini-2.5-pro", "usage": {
            "promptTokenCount": prompt, "candidatesTokenCount": 20, "thoughtsTokenCount": 10}});
        let (_, found) = lines(&world, &llm(id, data)).await?;
        assert_eq!(found["llm_input"]["cost"], input, "{found:?}");
        assert_eq!(found["llm_reasoning"]["cost"], reasoning, "{found:?}");
    }
    // A model without a price has an unknown cost, and still its charge.
    let data = json!({"provider": "openai", "model": "gpt-9", "usage": {"prompt_tokens": 5, "completion_tokens": 1}});
    let (status, found) = lines(&world, &llm("unknown-model", data)).await?;
    assert_eq!((status.as_str(), &found["llm_input"]["cost"]), ("rated", &Value::Null));
    let metrics = world.context.metrics.render();
    let counted = "weir_rater_unrated_events_total{reason=\"uncosted\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_have_versions_and_belong_to_a_tenant() -> Result<()> {
    let world = World::api().await?;
    let imports = "/v1/providers/pricing/imports";
    let preview = json!({"builtin": true, "dry_run": true});
    let preview = world.post(imports, preview).await?.expect(200)?;
    let all = preview["counts"]["added"].as_u64().context("a count")?;
    ensure!(all > 400 && preview["import_id"].is_null(), "{}", preview["counts"]);
    ensure!(world.get("/v1/providers/pricing").await?.expect(200)?["items"] == json!([]));
    let key = [("idempotency-key", "import")];
    let body = Some(json!({"builtin": true}));
    for _ in 0..2 {
        let done = world.send(Method::POST, imports, &world.key, &key, body.clone()).await?;
        assert_eq!(done.expect(201)?["counts"]["added"], json!(all));
    }
    let again = world.post(imports, json!({"builtin": true})).await?.expect(200)?;
    assert_eq!(again["counts"], json!({"added": 0, "changed": 0, "removed": 0, "unchanged": all}));

    // Every price once, in pages.
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page =
            world.get(&format!("/v1/providers/pricing?limit=100{cursor}")).await?.expect(200)?;
        let items = page["items"].as_array().context("items")?;
        seen.extend(items.iter().map(|price| {
            ["provider", "model", "class", "above"].map(|name| price[name].to_string()).join(" ")
        }));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), u64::try_from(count)?), (count, all));

    // A list of Cohere's own with one model, from a day on.
    let list = json!({"source": "ours", "date": "2026-08-01", "currency": "USD", "per": 1_000_000,
        "effective_from": "2026-08-01T00:00:00Z",
        "models": [{"provider": "cohere", "model": "command-r-08-2024", "prices": {"input": "0.10", "output": "0.6"}}]});
    let done = world.post(imports, json!({"list": list})).await?.expect(201)?;
    assert_eq!(done["counts"]["changed"], 1, "{}", done["counts"]);
    assert_eq!(done["changed"][0]["before"], "0.15");
    let model = "/v1/providers/pricing?provider=cohere&model=command-r-08-2024";
    let at = async |time: &str| -> Result<Value> {
        let found = world.get(&format!("{model}&at={time}")).await?.expect(200)?;
        Ok(found["items"][0]["price"].clone())
    };
    assert_eq!(
        (at("2026-07-31T23:59:59Z").await?, at("2026-08-01T00:00:00Z").await?),
        (json!("0.15"), json!("0.1"))
    );
    let cohere = |time: &str| format!("/v1/providers/pricing?provider=cohere&at={time}");
    let before = world.get(&cohere("2026-07-31T00:00:00Z")).await?.expect(200)?;
    let after = world.get(&cohere("2026-08-01T00:00:00Z")).await?.expect(200)?;
    assert_eq!(after["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(before["items"].as_array().map(Vec::len), Some(20));
    let history = world.get(&format!("{model}&history=true")).await?.expect(200)?;
    let versions: Vec<String> = history["items"]
        .as_array()
        .context("items")?
        .iter()
        .map(|price| {
            format!(
                "{} {} {} {}",
                price["class"], price["version"], price["price"], price["source"]
            )
        })
        .collect();
    assert_eq!(
        versions,
        [
            r#""input" 1 "0.15" "models.dev""#,
            r#""input" 2 "0.1" "ours""#,
            r#""output" 1 "0.6" "models.dev""#
        ]
    );

    // Another tenant has its own table, and a broken list changes nothing.
    let others =
        world.send(Method::GET, "/v1/providers/pricing", &world.other_key, &[], None).await?;
    assert_eq!(others.expect(200)?["items"], json!([]));
    let broken = json!({"list": {"source": "s", "date": "2026-08-01", "currency": "USD", "per": 1,
        "models": [{"provider": "p", "model": "m", "prices": {"inputs": "1"}}]}});
    let faults = world.post(imports, broken).await?.refused(422, "price_list_invalid")?;
    assert_eq!(faults["faults"][0]["place"], "models[p/m].inputs");
    world.post(imports, json!({})).await?.refused(422, "price_list_invalid")?;
    world.stop().await
}
