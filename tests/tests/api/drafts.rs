//! Drafts of the catalog, and cards that are archived.

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};

use crate::{
    events,
    world::{Answer, TENANT, World, catalog},
};

const SPRING: &str = "/v1/catalog/drafts/spring";

fn dearer(price: &str) -> Value {
    json!({"version": {"card": "standard", "effective_from": "2026-04-01T00:00:00Z",
        "rates": [{"meter": "tokens", "price": price}]}})
}

async fn published(world: &World) -> Result<(u64, Value)> {
    let mut read = world.get("/v1/catalog").await?.expect(200)?;
    Ok((read["catalog_version"].as_u64().context("a version")?, read["catalog"].take()))
}

async fn publish(world: &World, path: &str, body: Value) -> Result<Answer> {
    world.post(&format!("{path}/publish"), body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_saved_with_faults_and_published_without() -> Result<()> {
    let world = World::api().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let mut faulty = dearer("0.6");
    let unknown = json!({"meter": "nothing", "price": "1"});
    faulty["version"]["rates"].as_array_mut().context("rates")?.push(unknown);
    faulty["note"] = json!("for spring");
    let saved = world.put(SPRING, faulty).await?.expect(201)?;
    assert_eq!(
        (&saved["revision"], &saved["base_version"], &saved["note"]),
        (&json!(1), &json!(1), &json!("for spring"))
    );
    assert_eq!(saved["changed"], json!(["cards[standard]"]));
    assert_eq!(saved["faults"][0]["place"], "cards[standard].versions[2].rates[1]", "{saved}");
    assert_eq!((&saved["fault_count"], &saved["outdated"]), (&json!(1), &json!([])));
    let refused = publish(&world, SPRING, json!({})).await?.refused(422, "catalog_invalid")?;
    assert_eq!(refused["faults"][0]["place"], "cards[standard].versions[2].rates[1]");
    assert_eq!(published(&world).await?.0, 1, "nothing is published");

    let mut mended = dearer("0.60");
    mended["revision"] = json!(1);
    let saved = world.put(SPRING, mended.clone()).await?.expect(200)?;
    assert_eq!((&saved["revision"], &saved["fault_count"]), (&json!(2), &json!(0)));
    let refused = world.put(SPRING, mended.clone()).await?.refused(409, "draft_changed")?;
    assert_eq!(refused["revision"], 2);
    let read = world.get(SPRING).await?.expect(200)?;
    assert_eq!(read["catalog"]["cards"][0]["versions"][1]["rates"][0]["price"], "0.60");
    let listed = world.get("/v1/catalog/drafts").await?.expect(200)?;
    assert_eq!(listed["items"][0]["draft"], "spring");
    assert_eq!(listed["items"][0].get("catalog"), None);
    let other = world.send(Method::GET, SPRING, &world.other_key, &[], None).await?;
    other.refused(404, "draft_unknown")?;

    // A price changes, and two rows go.
    let preview = world.get(&format!("{SPRING}/preview")).await?.expect(200)?;
    assert_eq!((&preview["catalog_version"], &preview["fault_count"]), (&json!(1), &json!(0)));
    let changes = preview["changes"].as_array().context("changes")?;
    let told: Vec<(&Value, &Value, &Value)> = changes
        .iter()
        .map(|one| (&one["meter"], &one["before"]["rate"]["price"], &one["after"]["rate"]["price"]))
        .collect();
    let (calls, tokens, none) = (json!("calls"), json!("tokens"), Value::Null);
    assert_eq!(
        told,
        [
            (&calls, &none, &none),
            (&tokens, &json!("0.5"), &json!("0.6")),
            (&tokens, &json!("0.01"), &none)
        ],
        "{preview}"
    );

    // Somebody publishes something else: it stays.
    let meter = json!({"key": "more", "event_types": ["more"], "aggregation": "count"});
    world.post("/v1/meters", meter).await?.expect(201)?;
    let read = world.get(SPRING).await?.expect(200)?;
    assert_eq!((&read["catalog_version"], &read["outdated"]), (&json!(2), &json!([])));
    let refused = publish(&world, SPRING, json!({"revision": 1})).await?;
    refused.refused(409, "draft_changed")?;
    let path = format!("{SPRING}/publish");
    let once = async || {
        let (headers, body) = ([("idempotency-key", "once")], Some(json!({"revision": 2})));
        world.send(Method::POST, &path, &world.key, &headers, body).await?.expect(200)
    };
    let done = once().await?;
    assert_eq!((&done["draft"], &done["catalog_version"]), (&json!("spring"), &json!(3)));
    assert_eq!(once().await?["catalog_version"], 3);
    let (version, new) = published(&world).await?;
    assert_eq!(version, 3);
    assert_eq!(new["cards"][0]["versions"][1]["rates"][0]["price"], "0.6");
    assert_eq!(new["meters"][2]["key"], "more");
    publish(&world, SPRING, json!({})).await?.refused(404, "draft_unknown")?;
    let listed = world.get("/v1/catalog/drafts").await?.expect(200)?;
    assert_eq!(listed["items"], json!([]));
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_of_what_was_changed_since_is_refused() -> Result<()> {
    let world = World::api().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let autumn = "/v1/catalog/drafts/autumn";
    world.put(SPRING, dearer("0.6")).await?.expect(201)?;
    let mut whole = catalog();
    whole["cards"][0]["versions"].as_array_mut().context("versions")?.push(json!({
        "effective_from": "2026-10-01T00:00:00Z", "rates": [{"meter": "tokens", "price": "0.7"}]}));
    whole["default_cost_card"] = Value::Null;
    let saved = world.put(autumn, json!({"catalog": whole})).await?.expect(201)?;
    assert_eq!(saved["changed"], json!(["cards[standard]", "default_cost_card"]));
    publish(&world, SPRING, json!({})).await?.expect(200)?;

    let read = world.get(autumn).await?.expect(200)?;
    assert_eq!(read["outdated"], json!(["cards[standard]"]), "{read}");
    for answer in
        [publish(&world, autumn, json!({})).await?, world.get(&format!("{autumn}/preview")).await?]
    {
        let refused = answer.refused(409, "draft_outdated")?;
        assert_eq!(
            (&refused["outdated"], &refused["base_version"], &refused["catalog_version"]),
            (&json!(["cards[standard]"]), &json!(1), &json!(2))
        );
    }
    // Saved again, it is still made from version 1; unless it says otherwise.
    let saved = world.put(autumn, json!({"catalog": whole})).await?.expect(200)?;
    assert_eq!((&saved["base_version"], &saved["outdated"]), (&json!(1), &read["outdated"]));
    let refused = world.put(autumn, json!({"catalog": whole, "base_version": 99})).await?;
    refused.refused(422, "catalog_version_unknown")?;
    let (_, mut current) = published(&world).await?;
    current["cards"][0]["versions"].as_array_mut().context("versions")?.push(json!({
        "effective_from": "2026-10-01T00:00:00Z", "rates": [{"meter": "tokens", "price": "0.7"}]}));
    let body = json!({"catalog": current, "base_version": 2});
    let saved = world.put(autumn, body).await?.expect(200)?;
    assert_eq!((&saved["revision"], &saved["outdated"]), (&json!(3), &json!([])));
    publish(&world, autumn, json!({})).await?.expect(200)?;
    let (version, new) = published(&world).await?;
    assert_eq!((version, new["cards"][0]["versions"].as_array().map(Vec::len)), (3, Some(3)));
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_that_say_nothing_are_refused() -> Result<()> {
    let world = World::api().await?;
    // Before anything is published, a draft is made from nothing.
    let saved = world.put(SPRING, json!({"catalog": catalog()})).await?.expect(201)?;
    assert_eq!((&saved["base_version"], &saved["fault_count"]), (&json!(0), &json!(0)));
    let both = json!({"catalog": {}, "version": {"card": "standard", "rates": []}});
    let no_card = json!({"version": {"card": "none", "rates": []}});
    let upper = "/v1/catalog/drafts/Spring";
    for (path, body, status, code) in [
        (SPRING, json!({}), 422, "field_invalid"),
        (SPRING, both, 422, "field_invalid"),
        (SPRING, json!({"catalog": {}, "note": "n".repeat(1_001)}), 422, "field_invalid"),
        (SPRING, json!({"catalog": {}, "note": "\0"}), 422, "field_invalid"),
        (SPRING, json!({"catalog": {"cards": 7}}), 400, "body_invalid"),
        (SPRING, json!({"catalog": {}, "revision": 7}), 409, "draft_changed"),
        (SPRING, no_card, 404, "card_unknown"),
        (upper, json!({"catalog": {}}), 422, "key_invalid"),
    ] {
        world.put(path, body).await?.refused(status, code)?;
    }
    let reader = crate::world::add_key(&world.admin, TENANT, "reader", &["catalog:read"]).await?;
    let body = Some(json!({"catalog": {}}));
    let refused = world.send(Method::PUT, SPRING, &reader, &[], body).await?;
    assert_eq!(refused.status.as_u16(), 403, "{}", refused.text);

    let deleted = world.send(Method::DELETE, SPRING, &world.key, &[], None).await?.expect(200)?;
    assert_eq!((&deleted["draft"], &deleted["revision"]), (&json!("spring"), &json!(1)));
    let again = world.send(Method::DELETE, SPRING, &world.key, &[], None).await?;
    again.refused(404, "draft_unknown")?;
    world.get(&format!("{SPRING}/preview")).await?.refused(404, "draft_unknown")?;
    let sql = "INSERT INTO catalog_drafts (tenant_id, draft, base_version, note, document, created_by, updated_by)
        SELECT $1, 'd' || number, 0, '', '{}', 'k', 'k' FROM generate_series(1, 100) AS number";
    sqlx::query(sql).bind(TENANT).execute(&world.admin).await?;
    world.put(SPRING, json!({"catalog": {}})).await?.refused(409, "drafts_limit")?;
    world.put("/v1/catalog/drafts/d7", json!({"catalog": {}})).await?.expect(200)?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_card_stays_and_is_used_no_more() -> Result<()> {
    let world = World::all().await?;
    let card = |key: &str, kind: &str, currency: &str| {
        json!({"key": key, "kind": kind, "currency": currency,
            "versions": [{"rates": [{"meter": "tokens", "price": "0.4"}]}]})
    };
    let mut all = catalog();
    all["credit_units"] = json!([{"key": "credits"}]);
    let more =
        [card("new", "rate", "USD"), card("burn", "rate", "credits"), card("old", "cost", "USD")];
    all["cards"].as_array_mut().context("cards")?.extend(more);
    world.put("/v1/catalog", all).await?.expect(200)?;
    let text: String =
        sqlx::query_scalar("SELECT document FROM catalog_versions").fetch_one(&world.admin).await?;
    assert!(!text.contains("archived"), "documents are written as before: {text}");
    world.post("/v1/events", events("acme", 0..2)).await?.expect(200)?;
    let some = |body: &Value| body["items"].as_array().is_some_and(|items| !items.is_empty());
    let journals = world.until("/v1/teams/acme/journals", some).await?;
    let journal = journals["items"][0]["journal_id"].as_str().context("a journal")?.to_owned();
    let settled = |body: &Value| {
        body["total"]["counts"]["accepted"] == 2
            && body["total"]["pending"] == 0
            && crate::is_archived(body)
    };
    world.until("/v1/conservation", settled).await?;

    let change = async |path: &str| world.post(path, json!({})).await;
    let refused = change("/v1/rate-cards/standard/archive").await?.refused(409, "card_in_use")?;
    assert_eq!(refused["places"], json!(["default_rate_card"]));
    let refused = change("/v1/cost-cards/providers/archive").await?.refused(409, "card_in_use")?;
    assert_eq!(refused["places"], json!(["default_cost_card"]));
    let defaults = json!({"default_rate_card": "new", "default_cost_card": "providers"});
    world.put("/v1/catalog/defaults", defaults.clone()).await?.expect(200)?;
    let (_, mut offered) = published(&world).await?;
    offered["offers"] = json!([{"key": "vip", "source": "team", "card": "standard"}]);
    world.put("/v1/catalog", offered.clone()).await?.expect(200)?;
    let refused = change("/v1/rate-cards/standard/archive").await?.refused(409, "card_in_use")?;
    assert_eq!(refused["places"], json!(["offers[vip].card"]));
    offered["offers"] = json!([]);
    world.put("/v1/catalog", offered.clone()).await?.expect(200)?;

    let done = change("/v1/rate-cards/standard/archive").await?.expect(200)?;
    assert_eq!((&done["card"], &done["archived"]), (&json!("standard"), &json!(true)));
    let again = change("/v1/rate-cards/standard/archive").await?.expect(200)?;
    assert_eq!(again["catalog_version"], done["catalog_version"], "twice is once");
    change("/v1/rate-cards/burn/archive").await?.expect(200)?;
    change("/v1/cost-cards/old/archive").await?.expect(200)?;
    change("/v1/cost-cards/standard/archive").await?.refused(404, "card_unknown")?;
    change("/v1/rate-cards/none/unarchive").await?.refused(404, "card_unknown")?;

    for (path, keys) in [
        ("/v1/rate-cards", vec!["new"]),
        ("/v1/rate-cards?archived=true", vec!["burn", "standard"]),
        ("/v1/cost-cards", vec!["providers"]),
        ("/v1/cost-cards?archived=true", vec!["old"]),
    ] {
        let listed = world.get(path).await?.expect(200)?;
        let items = listed["items"].as_array().context("items")?;
        let found: Vec<&str> = items.iter().filter_map(|card| card["key"].as_str()).collect();
        assert_eq!(found, keys, "{path}");
    }
    assert_eq!(world.get("/v1/burn-tables").await?.expect(200)?["items"], json!([]));
    let read = world.get("/v1/rate-cards/standard").await?.expect(200)?;
    assert_eq!(
        (&read["archived"], read["versions"].as_array().map(Vec::len)),
        (&json!(true), Some(1))
    );
    // What it priced is explained by it.
    let explained = world.get(&format!("/v1/explain/{journal}")).await?.expect(200)?;
    assert!(explained.to_string().contains("\"standard\""), "{explained}");

    let version = json!({"rates": [{"meter": "tokens", "price": "1"}]});
    let back = json!({"default_rate_card": "standard", "default_cost_card": "providers"});
    let burn = json!({"name": "burn", "rules": {"m": {"input_tokens": 2}}});
    world
        .post("/v1/rate-cards/standard/versions", version.clone())
        .await?
        .refused(409, "card_archived")?;
    world.put("/v1/catalog/defaults", back).await?.refused(409, "card_archived")?;
    let none = json!({"default_rate_card": null, "default_cost_card": "providers"});
    world.put("/v1/catalog/defaults", none).await?.expect(200)?;
    world.post("/v1/burn-tables", burn).await?.refused(409, "card_archived")?;
    world.put("/v1/catalog/defaults", defaults).await?.expect(200)?;
    world.post("/v1/providers/pricing/imports", json!({"builtin": true})).await?.expect(201)?;
    let made = world.post("/v1/providers/pricing/cost-card", json!({"card": "old"})).await?;
    made.refused(409, "card_archived")?;
    let (_, archived) = published(&world).await?;
    for (change, place) in [
        (json!({"default_rate_card": "standard"}), "default_rate_card"),
        (
            json!({"offers": [{"key": "vip", "source": "team", "card": "standard"}]}),
            "offers[vip].card",
        ),
    ] {
        let mut named = archived.clone();
        let members = change.as_object().context("members")?.clone();
        named.as_object_mut().context("a catalog")?.extend(members);
        let refused = world.put("/v1/catalog", named).await?.refused(422, "catalog_invalid")?;
        assert_eq!(refused["faults"][0]["place"], place);
    }
    let mut grown = archived.clone();
    let versions = grown["cards"][0]["versions"].as_array_mut().context("versions")?;
    versions.push(json!({"effective_from": "2026-04-01T00:00:00Z", "rates": []}));
    let refused = world.put("/v1/catalog", grown).await?.refused(422, "catalog_invalid")?;
    assert_eq!(refused["faults"][0]["place"], "cards[standard].versions");

    let done = change("/v1/rate-cards/standard/unarchive").await?.expect(200)?;
    assert_eq!(done["archived"], false);
    let read = world.get("/v1/rate-cards/standard").await?.expect(200)?;
    assert_eq!(read.get("archived"), None, "{read}");
    world.post("/v1/rate-cards/standard/versions", version).await?.expect(201)?;
    world.stop().await
}
