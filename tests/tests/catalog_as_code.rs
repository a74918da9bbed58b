//! Catalogs as code: the schema of a catalog's file, `weir catalog diff` and `apply`, and the preview that
//! they show.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use boon::{Compiler, Schemas};
use serde_json::{Value, json};
use tests::{process::Process, system::System};

use crate::world::{TENANT, World, add_key, catalog};

#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

const DOCUMENT: &str = include_str!("../../docs/PRICING.md");
const DEMO: &str = include_str!("../../cli/demo/catalog.json");
/// What a command may take on a busy machine.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);

/// Whether the schema takes a catalog, by a validator that is not ours.
fn fits(catalog: &Value) -> Result<bool> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let location = "memory:catalog";
    let added = compiler.add_resource(location, api::catalog_file::schema());
    added.map_err(|error| anyhow::anyhow!("{error}"))?;
    let schema = compiler.compile(location, &mut schemas);
    let schema = schema.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(schemas.validate(catalog, schema).is_ok())
}

fn with_rate(rate: &Value) -> Value {
    json!({"cards": [{"key": "standard", "kind": "rate", "currency": "USD", "versions": [{"rates": [rate]}]}]})
}

/// The blocks of a language in the document.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = DOCUMENT.split(language).skip(1);
    begin.map(|block| block.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn the_schema_takes_what_the_api_takes() -> Result<()> {
    let demo: Value = serde_json::from_str(DEMO)?;
    ensure!(fits(&demo)?);
    for example in blocks("```json\n") {
        let example: Value = serde_json::from_str(example)?;
        let mut rate = example["row"].clone();
        ensure!(fits(&with_rate(&rate))?, "{rate}");
        rate["prise"] = json!("1");
        ensure!(!fits(&with_rate(&rate))?, "{rate}");
    }
    let mut plain = demo.clone();
    let card = &mut plain["cards"][0];
    card["rates"] = card["versions"][0]["rates"].take();
    ensure!(!fits(&plain)?, "rates and versions");
    plain["cards"][0].as_object_mut().context("a card")?.remove("versions");
    ensure!(fits(&plain)?);
    plain["cards"][0].as_object_mut().context("a card")?.remove("rates");
    ensure!(!fits(&plain)?, "neither rates nor versions");
    Ok(())
}

#[test]
fn the_schema_refuses_a_typo_wherever_it_stands() -> Result<()> {
    let demo: Value = serde_json::from_str(DEMO)?;
    for place in [
        "",
        "/meters/0",
        "/cards/0",
        "/cards/0/versions/0",
        "/cards/0/versions/0/rates/0",
        "/cards/1/versions/0/rates/0",
    ] {
        let mut wrong = demo.clone();
        let object = wrong.pointer_mut(place).and_then(Value::as_object_mut);
        object.context("an object")?.insert("typo".to_owned(), json!("1"));
        ensure!(!fits(&wrong)?, "{place}");
    }
    for (place, value) in [
        ("/cards/0/versions/0/rates/0/price", json!(0.1)),
        ("/cards/0/versions/0/rates/0/per", json!("3")),
        ("/cards/0/kind", json!("rates")),
        ("/meters/0/event_types", json!("call")),
        ("/meters/0/value", json!(7)),
    ] {
        let mut wrong = demo.clone();
        *wrong.pointer_mut(place).context("a place")? = value;
        ensure!(!fits(&wrong)?, "{place}");
    }
    Ok(())
}

/// Runs `weir catalog`; answers its exit code, output and log.
async fn run(system: &System, arguments: &[&str]) -> Result<(i32, String, String)> {
    let data = system.data();
    let data = data.to_str().context("a path")?;
    let arguments = [&["catalog"], arguments, &["--data", data]].concat();
    let log = system.folder().join("code.log");
    fs::write(&log, "")?;
    let mut process = Process::start("code", &system.folder(), &arguments, &[])?;
    let code = process.ended(COMMAND_TIME_MAX).await?.context("an exit code")?;
    Ok((code, process.output(), fs::read_to_string(&log)?))
}

fn write(system: &System, name: &str, text: &str) -> Result<String> {
    let file: PathBuf = system.folder().join(name);
    fs::write(&file, text)?;
    Ok(file.to_str().context("a path")?.to_owned())
}

/// The demo's catalog as YAML, with its prices of a card as they should be.
fn yaml(search: &str) -> String {
    format!(
        "# yaml-language-server: $schema=catalog.schema.json
meters:
- {{key: api_calls, event_types: [api.request.v1], aggregation: count, unit: call, dimensions: {{route: $.route}}}}
cards:
- key: standard
  kind: rate
  currency: USD
  rates:
  - {{meter: api_calls, price: 0.00050}}
  - {{meter: api_calls, dimensions: {{route: /search}}, price: {search}}}
default_rate_card: standard
"
    )
}

const FAULTY: &str = "\
zone: Mars/Olympus
meters:
- {key: api_calls, event_types: [api.request.v1], aggregation: count, unit: call, dimensions: {route: $.route}}
- key: endless
  event_types: [api.request.v1]
  aggregation: sum
  formula: data.items.map(item, item.n)
cards:
- key: standard
  kind: rate
  currency: USD
  rates:
  - meter: api_calls
    price: -1
  - meter: api_calls
    dimensions: {route: /overlap}
    model: graduated
    tiers:
    - {up_to: 10, price: 1}
    - {up_to: 5, price: 2}
    - {price: 3}
  - meter: api_calls
    dimensions: {route: /gap}
    model: graduated
    tiers:
    - {up_to: 10, price: 1}
    - {up_to: 20, price: 1}
offers:
- {key: one, source: team, multiplier: 0.5, parent: two}
- {key: two, source: team, multiplier: 0.5, parent: one}
";

/// Tiers that overlap or end, a negative price, parents in a circle, a formula without a bound and an unknown zone.
async fn every_fault_has_its_line(system: &System) -> Result<()> {
    let file = write(system, "faulty.yaml", FAULTY)?;
    let (code, _, log) = run(system, &["apply", &file, "--yes"]).await?;
    ensure!(code == 1, "{code} {log}");
    for (line, place, reason) in [
        (1, "zone", "there is no time zone `Mars/Olympus`"),
        (7, "meters[endless].formula", "a number is wanted here"),
        (13, "cards[standard].versions[2].rates[0]", "the price `-1` is negative"),
        (15, "cards[standard].versions[2].rates[1]", "its `up_to` is 5; it must be above 10"),
        (22, "cards[standard].versions[2].rates[2]", "the last tier has no `up_to`"),
        (29, "offers[one].parent", "its parents lead back to itself"),
        // What the file does not have: the version before, and a card that is published.
        (9, "cards[standard].versions[1].rates[0]", "there is no meter `llm_input_tokens`"),
        (8, "cards[providers]", "it is published and cannot be removed"),
    ] {
        let said = format!("{file}:{line}: {place}: ");
        let fault = log.lines().find(|told| told.contains(&said));
        let fault = fault.with_context(|| format!("{said} {log}"))?;
        ensure!(fault.contains(reason), "{fault}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_compared_and_applied_once() -> Result<()> {
    let system = System::embedded().await?;
    let http = system.api()?;
    // What editors are given.
    let (code, schema, _) = run_schema(&system).await?;
    ensure!(code == 0 && serde_json::from_str::<Value>(&schema)? == api::catalog_file::schema());
    let sent = json!([{"id": "1", "source": "s", "type": "api.request.v1", "subject": "acme", "data": {"route": "/search"}}]);
    let (status, answer) = http.exchange("POST", "/v1/events", serde_json::to_vec(&sent)?).await?;
    ensure!(status == 200, "{answer}");
    system.settled(Some(1)).await?;

    let exported: Value = http.get("/v1/catalog").await?["catalog"].take();
    let same = write(&system, "same.json", &exported.to_string())?;
    let (code, output, _) = run(&system, &["diff", &same]).await?;
    ensure!(code == 0 && output.contains("the same already"), "{code} {output}");

    // A published card cannot go: the fault is told, and nothing is published.
    let gone = write(&system, "gone.yaml", &yaml("0.1"))?;
    for command in [vec!["diff", &gone], vec!["apply", &gone, "--yes"]] {
        let (code, output, log) = run(&system, &command).await?;
        ensure!(code == 1 && output.contains("- cards[providers]"), "{code} {output} {log}");
        ensure!(log.contains("cards[providers]: it is published and cannot be removed"), "{log}");
    }

    every_fault_has_its_line(&system).await?;

    // Prices of the demo's card as code; its other card stands with its versions.
    let mut file = exported.clone();
    let card = file["cards"][0].as_object_mut().context("a card")?;
    let mut rates = card["versions"][0]["rates"].take();
    card.remove("versions");
    rates
        .as_array_mut()
        .context("rates")?
        .push(json!({"meter": "api_calls", "dimensions": {"route": "/search"}, "price": "1e-7"}));
    card.insert("rates".to_owned(), rates);
    // JSON is YAML; a price without quotes arrives as it is written.
    let text = serde_json::to_string_pretty(&file)?
        .replace("\"1e-7\"", "1e-7")
        .replace("\"0.0005\"", "0.00050");
    let file = write(&system, "prices.yaml", &text)?;
    let (code, output, log) = run(&system, &["diff", &file]).await?;
    ensure!(code == 2 && output.contains("+ cards[standard].versions[2]"), "{code} {output} {log}");
    ensure!(!output.contains('~'), "only what is new: {output}");
    let (code, output, _) = run(&system, &["diff", &file, "--json"]).await?;
    let told: Value = serde_json::from_str(&output)?;
    ensure!(
        code == 2 && told["differences"][0]["place"] == "cards[standard].versions[2]",
        "{told}"
    );
    assert_eq!(told["preview"]["affected"]["teams"][0]["team"], "acme", "{told}");

    // Nobody is there to be asked.
    let (code, output, log) = run(&system, &["apply", &file]).await?;
    ensure!(code == 1 && log.contains("give --yes"), "{code} {output} {log}");
    ensure!(output.contains("1 team(s) used them since"), "{output}");
    ensure!(output.contains("  acme: 1 of api_calls, charged 0.0005 USD"), "{output}");
    assert_eq!(http.get("/v1/catalog").await?["catalog"], exported);

    let (code, output, log) = run(&system, &["apply", &file, "--yes"]).await?;
    ensure!(code == 0 && output.contains("published as version 2"), "{code} {output} {log}");
    let card = http.get("/v1/rate-cards/standard").await?;
    let rates = card["versions"][1]["rates"].as_array().context("rates")?;
    assert_eq!(rates.last().context("a rate")?["price"], "0.0000001");
    for command in [vec!["apply", &file], vec!["diff", &file]] {
        let (code, output, _) = run(&system, &command).await?;
        ensure!(code == 0 && output.contains("the same already"), "{code} {output}");
    }
    assert_eq!(http.get("/v1/catalog").await?["catalog_version"], 2);

    // A card that is archived is so in the file, and taken into use by leaving that out.
    let mut catalog = http.get("/v1/catalog").await?["catalog"].take();
    let old = json!({"key": "old", "kind": "rate", "currency": "USD", "archived": true,
        "rates": [{"meter": "api_calls", "price": "1"}]});
    catalog["cards"].as_array_mut().context("cards")?.push(old);
    let archived = write(&system, "archived.yaml", &catalog.to_string())?;
    let (code, output, log) = run(&system, &["apply", &archived, "--yes"]).await?;
    ensure!(code == 0 && output.contains("published as version 3"), "{code} {output} {log}");
    assert_eq!(http.get("/v1/rate-cards/old").await?["archived"], true);
    let (code, output, _) = run(&system, &["diff", &archived]).await?;
    ensure!(code == 0 && output.contains("the same already"), "{code} {output}");
    let used = catalog.to_string().replace("\"archived\":true,", "");
    let used = write(&system, "used.yaml", &used)?;
    let (code, output, _) = run(&system, &["diff", &used]).await?;
    ensure!(code == 2 && output.contains("- cards[old].archived: true"), "{code} {output}");

    let typo = write(&system, "typo.yaml", &text.replace("\"currency\"", "\"currancy\""))?;
    let (code, _, log) = run(&system, &["diff", &typo]).await?;
    ensure!(code == 1 && log.contains("there is no field `currancy`"), "{code} {log}");
    Ok(())
}

async fn run_schema(system: &System) -> Result<(i32, String, String)> {
    let mut process = Process::start("schema", &system.folder(), &["catalog", "schema"], &[])?;
    let code = process.ended(COMMAND_TIME_MAX).await?.context("an exit code")?;
    Ok((code, process.output(), String::new()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_tells_what_changes_and_for_whom_and_publishes_nothing() -> Result<()> {
    let world = World::all().await?;
    let preview = async |key: &str, body: Value| {
        let answer = world.send(Method::POST, "/v1/catalog/preview", key, &[], Some(body)).await?;
        answer.expect(200)
    };
    let first = preview(&world.key, catalog()).await?;
    assert_eq!((&first["catalog_version"], &first["fault_count"]), (&json!(0), &json!(0)));
    assert_eq!(first["affected"]["team_count"], 0);
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let mut events = Vec::new();
    for (number, (team, model)) in
        [("acme", "gpt"), ("acme", "gpt"), ("bolt", "other")].into_iter().enumerate()
    {
        events.push(
            json!({"id": number.to_string(), "source": "s", "type": "llm.call", "subject": team,
            "data": {"tokens": 3, "model": model}}),
        );
    }
    world.post("/v1/events", json!(events)).await?.expect(200)?;
    for team in ["acme", "bolt"] {
        let path = format!("/v1/teams/{team}/balance");
        world
            .until(&path, |body| !body["balances"].is_null() && body.to_string().contains("USD"))
            .await?;
    }
    let totals = "SELECT coalesce(sum(events), 0)::bigint FROM usage_totals WHERE meter = 'tokens'";
    for _ in 0..600 {
        let events: i64 = sqlx::query_scalar(totals).fetch_one(&world.admin).await?;
        if events == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let same = preview(&world.key, catalog()).await?;
    assert_eq!((&same["change_count"], &same["meters"]), (&json!(0), &json!([])));
    let mut new = catalog();
    let mut rates = new["cards"][0]["versions"][0]["rates"].clone();
    rates[0]["price"] = json!("0.020");
    new["cards"][0]["versions"].as_array_mut().context("versions")?.push(json!({"rates": rates}));
    let told = preview(&world.key, new.clone()).await?;
    assert_eq!((&told["change_count"], &told["meters"]), (&json!(1), &json!(["tokens"])), "{told}");
    let change = &told["changes"][0];
    assert_eq!(
        (&change["meter"], &change["dimensions"]),
        (&json!("tokens"), &json!({"model": "gpt"}))
    );
    assert_eq!(change["before"]["rate"]["price"], "0.01");
    assert_eq!(
        (&change["after"]["rate"]["price"], &change["after"]["version"]),
        (&json!("0.02"), &json!(2))
    );
    assert_eq!(told["affected"]["team_count"], 2);
    let teams = told["affected"]["teams"].as_array().context("teams")?;
    let used = |quantity: &str, charge: &str, events: i64| json!([{"meter": "tokens", "quantity": quantity, "charge": charge, "currency": "USD", "events": events}]);
    assert_eq!(teams[0], json!({"team": "acme", "usage": used("6", "0.02", 2)}));
    assert_eq!(teams[1], json!({"team": "bolt", "usage": used("3", "1.5", 1)}));

    // Who uses what is for those who may read usage.
    let reader = add_key(&world.admin, TENANT, "reader", &["catalog:read"]).await?;
    assert_eq!(preview(&reader, new.clone()).await?["affected"], Value::Null);
    let writer = add_key(&world.admin, TENANT, "writer", &["catalog:write"]).await?;
    let answer =
        world.send(Method::POST, "/v1/catalog/preview", &writer, &[], Some(new.clone())).await?;
    answer.refused(403, "scope_missing")?;
    // Another tenant has other teams.
    assert_eq!(preview(&world.other_key, new.clone()).await?["affected"]["team_count"], 0);

    new["cards"].as_array_mut().context("cards")?.pop();
    new["default_rate_card"] = json!("nothing");
    let faulty = preview(&world.key, new).await?;
    let places: Vec<&str> = faulty["faults"]
        .as_array()
        .context("faults")?
        .iter()
        .filter_map(|fault| fault["place"].as_str())
        .collect();
    assert_eq!(places, ["cards[providers]", "default_rate_card", "default_cost_card"]);
    assert_eq!(
        world.get("/v1/catalog").await?.expect(200)?["catalog_version"],
        same["catalog_version"]
    );
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_file_is_applied_as_it_stands() -> Result<()> {
    let world = World::api().await?;
    let [file] = blocks("```yaml\n").try_into().map_err(|_| anyhow::anyhow!("one block"))?;
    let folder = tests::postgres::TestFolder::new("documented")?;
    fs::write(folder.path().join("catalog.yaml"), file)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = world.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let arguments =
        ["catalog", "apply", "catalog.yaml", "--yes", "--url", &url, "--key", &world.key];
    let path = folder.path().join("catalog.yaml");
    let arguments = arguments
        .map(|one| if one == "catalog.yaml" { path.to_str().unwrap_or_default() } else { one });
    for says in ["published as version 1", "the same already"] {
        let mut process = Process::start("documented", folder.path(), &arguments, &[])?;
        let code = process.ended(COMMAND_TIME_MAX).await?;
        let log = fs::read_to_string(folder.path().join("documented.log"))?;
        ensure!(code == Some(0) && process.output().contains(says), "{}{log}", process.output());
    }
    let card = world.get("/v1/rate-cards/standard").await?.expect(200)?;
    let rates = card["versions"][0]["rates"].clone();
    assert_eq!((&rates[0]["price"], &rates[1]["price"]), (&json!("0.0005"), &json!("0.001")));
    let tiers = json!([{"up_to": "1000", "price": "0.1"}, {"price": "0.05"}]);
    assert_eq!(rates[2]["tiers"], tiers);
    assert_eq!(card["versions"][0]["effective_from"], "2026-01-01T00:00:00.000000Z");
    server.abort();
    world.stop().await
}
