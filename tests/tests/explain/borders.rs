//! What lies on which side of a border: windows of usage in a time zone, hours and days of finance's
//! views, dates from which prices hold, and the instant up to which a balance is live.

use anyhow::{Context as _, Result, ensure};
use domain::time;
use runtime::task::now_us;
use serde_json::{Value, json};

use super::{catalog, settled};
use crate::world::World;

/// Events on both sides of midnight, UTC and in Kathmandu (+05:45), with tokens and model.
const EVENTS: [(&str, u32, &str); 5] = [
    ("2026-03-31T18:14:59Z", 3, "gpt"),
    ("2026-03-31T18:15:00Z", 6, "gpt"),
    ("2026-03-31T23:59:59.999999Z", 2, "own"),
    ("2026-04-01T00:00:00Z", 4, "own"),
    ("2026-04-01T01:00:00Z", 1, "gpt"),
];

fn event(id: &str, time: &str, tokens: u32, model: &str) -> Value {
    json!({"id": id, "source": "borders", "type": "llm.call", "subject": "border", "time": time,
        "data": {"tokens": tokens, "model": model, "region": "eu"}})
}

/// The windows of `calls` in Kathmandu: start, end and events.
async fn windows(world: &World, window: &str) -> Result<Vec<(String, String, i64)>> {
    let path =
        format!("/v1/usage?meter=calls&team=border&window={window}&time_zone=Asia/Kathmandu");
    let usage = world.get(&path).await?.expect(200)?;
    let text = |value: &Value| -> Result<String> {
        let text = value.as_str().context("no text")?;
        Ok(text.strip_suffix("+05:45").context("another offset")?.to_owned())
    };
    let rows = usage["items"].as_array().context("items")?.iter().map(|row| {
        let events = row["events"].as_i64().context("events")?;
        Ok((text(&row["window_start"])?, text(&row["window_end"])?, events))
    });
    rows.collect()
}

/// Rows of the archive, each as its texts with `|` between them.
async fn rows(world: &World, sql: &str) -> Result<Vec<String>> {
    let rows = world.context.clickhouse.query_json_rows(sql, &[]).await?;
    let text = |row: &Value| row["row"].as_str().map(str::to_owned).context("no row");
    rows.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_and_views_end_where_they_say() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let events: Value = EVENTS
        .iter()
        .enumerate()
        .map(|(number, (time, tokens, model))| event(&number.to_string(), time, *tokens, model))
        .collect();
    world.post("/v1/events", events).await?.expect(200)?;
    settled(&world, 5).await?;

    for (window, wanted) in [
        (
            "minute",
            vec![
                ("2026-03-31T23:59:00", "2026-04-01T00:00:00", 1),
                ("2026-04-01T00:00:00", "2026-04-01T00:01:00", 1),
                ("2026-04-01T05:44:00", "2026-04-01T05:45:00", 1),
                ("2026-04-01T05:45:00", "2026-04-01T05:46:00", 1),
                ("2026-04-01T06:45:00", "2026-04-01T06:46:00", 1),
            ],
        ),
        (
            "hour",
            vec![
                ("2026-03-31T23:00:00", "2026-04-01T00:00:00", 1),
                ("2026-04-01T00:00:00", "2026-04-01T01:00:00", 1),
                ("2026-04-01T05:00:00", "2026-04-01T06:00:00", 2),
                ("2026-04-01T06:00:00", "2026-04-01T07:00:00", 1),
            ],
        ),
        (
            "day",
            vec![
                ("2026-03-31T00:00:00", "2026-04-01T00:00:00", 1),
                ("2026-04-01T00:00:00", "2026-04-02T00:00:00", 4),
            ],
        ),
        (
            "month",
            vec![
                ("2026-03-01T00:00:00", "2026-04-01T00:00:00", 1),
                ("2026-04-01T00:00:00", "2026-05-01T00:00:00", 4),
            ],
        ),
    ] {
        let wanted: Vec<(String, String, i64)> = wanted
            .into_iter()
            .map(|(start, end, events)| (start.into(), end.into(), events))
            .collect();
        assert_eq!(windows(&world, window).await?, wanted, "{window}");
    }
    views(&world).await?;
    world.stop().await
}

/// 0.01 for 3 tokens of gpt, 0.5 for one of own, calls are free; a token costs 0.001.
async fn views(world: &World) -> Result<()> {
    let sums = "toString(quantity), toString(charge), toString(cost), toString(events)";
    let margins = "ifNull(toString(charge), '-'), ifNull(toString(cost), '-'), ifNull(toString(margin), '-'), toString(events)";
    for (columns, view, wanted) in [
        (
            format!("toString(hour), dimensions['model'], {sums}"),
            "usage_by_hour WHERE meter = 'tokens'",
            vec![
                "2026-03-31 18:00:00|gpt|9|0.03|0.009|2",
                "2026-03-31 23:00:00|own|2|1|0.002|1",
                "2026-04-01 00:00:00|own|4|2|0.004|1",
                "2026-04-01 01:00:00|gpt|1|0.003333333333|0.001|1",
            ],
        ),
        (
            format!("toString(day), dimensions['model'], {sums}"),
            "usage_by_day WHERE meter = 'tokens'",
            vec![
                "2026-03-31|gpt|9|0.03|0.009|2",
                "2026-03-31|own|2|1|0.002|1",
                "2026-04-01|gpt|1|0.003333333333|0.001|1",
                "2026-04-01|own|4|2|0.004|1",
            ],
        ),
        (
            format!("team, {margins}"),
            "margin_by_team WHERE true",
            vec!["border|3.033333333333|0.016|3.017333333333|10"],
        ),
        (
            format!("model, {margins}"),
            "margin_by_model WHERE true",
            vec!["gpt|0.033333333333|0.01|0.023333333333|3", "own|3|0.006|2.994|2", "|0|0|0|5"],
        ),
        (
            format!("toString(day), {margins}"),
            "margin_by_day WHERE true",
            vec![
                "2026-03-31|1.03|0.011|1.019|6",
                "2026-04-01|2.003333333333|0.005|1.998333333333|4",
            ],
        ),
    ] {
        let sql = format!("SELECT concatWithSeparator('|', {columns}) AS row FROM {view}");
        let mut found = rows(world, &sql).await?;
        found.sort();
        let mut wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
        wanted.sort();
        assert_eq!(found, wanted, "{view}");
    }
    Ok(())
}

/// What becomes of an event: the versions and charges of its lines of tokens.
async fn version_of(world: &World, event: Value) -> Result<(Value, Value)> {
    let sent = world.post("/v1/events", event).await?.expect(200)?;
    let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?.to_owned();
    let path = format!("/v1/events/{receipt}");
    let event = world.until(&path, |event| event["status"] == "rated").await?;
    let lines = event["lines"].as_array().context("lines")?;
    let line = lines.iter().find(|line| line["meter"] == "tokens").context("no tokens")?;
    Ok((line["card_version"].clone(), line["charge"].clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_hold_from_their_date_on() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let version = |from: &str, price: &str| json!({"effective_from": from, "rates": [{"meter": "tokens", "price": price}, {"meter": "calls", "unlimited": true}]});
    let versions = "/v1/rate-cards/standard/versions";
    world.post(versions, version("2026-04-01T00:00:00Z", "2")).await?.expect(201)?;
    // As far ahead as events may be; they are sent at once.
    let from_us = now_us() / 1_000_000 * 1_000_000 + 200_000_000;
    world.post(versions, version(&time::format(from_us), "7")).await?.expect(201)?;
    for (id, time_us, wanted) in [
        ("before", time::parse("2026-03-31T23:59:59.999999Z").context("a time")?, (1, "0.5")),
        ("at", time::parse("2026-04-01T00:00:00Z").context("a time")?, (2, "2")),
        ("soon", from_us - 1, (2, "2")),
        ("then", from_us, (3, "7")),
    ] {
        let event = event(id, &time::format(time_us), 1, "own");
        let found = version_of(&world, event).await?;
        assert_eq!(found, (json!(wanted.0), json!(wanted.1)), "{id}");
    }
    settled(&world, 4).await?;
    let sql = "SELECT concatWithSeparator('|', event_id, toString(card_version), toString(charge)) AS row \
               FROM usage_lines WHERE meter = 'tokens' ORDER BY time";
    assert_eq!(rows(&world, sql).await?, ["before|1|0.5", "at|2|2", "soon|2|2", "then|3|7"]);
    let owed: String = sqlx::query_scalar("SELECT sum(balance)::text FROM receivables")
        .fetch_one(&world.admin)
        .await?;
    ensure!(owed.starts_with("11.5") && owed[4..].bytes().all(|digit| digit == b'0'), "{owed}");
    world.stop().await
}

/// A provider's price holds from its date on too: each event costs what held at its own time, to the microsecond, whatever
/// was published by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_hold_from_their_date_on() -> Result<()> {
    let world = World::all().await?;
    // A token costs 0.001.
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let version = |from: &str, price: &str| json!({"effective_from": from, "rates": [{"meter": "tokens", "price": price}, {"meter": "calls", "price": "0"}]});
    let versions = "/v1/cost-cards/providers/versions";
    // An event of before, that was rated before there was another price.
    let early = event("early", "2026-05-01T00:00:00Z", 3, "own");
    cost_of(&world, early, "0.003").await?;
    world.post(versions, version("2026-04-01T00:00:00Z", "0.004")).await?.expect(201)?;
    let from_us = now_us() / 1_000_000 * 1_000_000 + 200_000_000;
    world.post(versions, version(&time::format(from_us), "0.0007")).await?.expect(201)?;
    for (id, time_us, tokens, wanted) in [
        // 3 × 0.001
        ("before", time::parse("2026-03-31T23:59:59.999999Z").context("a time")?, 3, "0.003"),
        // 3 × 0.004, and 5 × 0.004
        ("at", time::parse("2026-04-01T00:00:00Z").context("a time")?, 3, "0.012"),
        ("soon", from_us - 1, 5, "0.02"),
        // 5 × 0.0007
        ("then", from_us, 5, "0.0035"),
        // After the others, with a time before them: 7 × 0.001
        ("late", time::parse("2026-03-01T00:00:00Z").context("a time")?, 7, "0.007"),
    ] {
        cost_of(&world, event(id, &time::format(time_us), tokens, "own"), wanted).await?;
    }
    settled(&world, 6).await?;
    // What was rated stays as it was: a price is not taken again.
    let sql = "SELECT concatWithSeparator('|', event_id, toString(cost)) AS row \
               FROM usage_lines WHERE meter = 'tokens' ORDER BY time, event_id";
    let archived = rows(&world, sql).await?;
    let wanted =
        ["late|0.007", "before|0.003", "at|0.012", "early|0.003", "soon|0.02", "then|0.0035"];
    assert_eq!(archived, wanted);
    // 0.007 + 0.003 + 0.012 + 0.003 + 0.02 + 0.0035
    let booked: String = sqlx::query_scalar(
        "SELECT trim_scale(sum(t.amount))::text FROM transfers t
         JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         WHERE d.kind = 'cost_of_sales'",
    )
    .fetch_one(&world.admin)
    .await?;
    assert_eq!(booked, "0.0485");
    world.stop().await
}

/// Sends an event, and compares what its line of tokens costs.
async fn cost_of(world: &World, event: Value, wanted: &str) -> Result<()> {
    let sent = world.post("/v1/events", event).await?.expect(200)?;
    let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?.to_owned();
    let path = format!("/v1/events/{receipt}");
    let event = world.until(&path, |event| event["status"] == "rated").await?;
    let lines = event["lines"].as_array().context("lines")?;
    let line = lines.iter().find(|line| line["meter"] == "tokens").context("no tokens")?;
    assert_eq!((&line["cost"], &line["cost_currency"]), (&json!(wanted), &json!("USD")), "{event}");
    Ok(())
}

/// Whatever was accepted before `as_of` is in a live balance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_balance_holds_all_that_was_accepted_before_its_instant() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let mut later = 0;
    for number in 1..=10 {
        let event = event(&number.to_string(), "2026-04-01T00:00:00Z", 1, "own");
        world.post("/v1/events", event).await?.expect(200)?;
        let accepted_us = now_us();
        let owed =
            if number % 2 == 0 { (number / 2).to_string() } else { format!("{}.5", number / 2) };
        let live = json!(format!("-{owed}"));
        for attempt in 0.. {
            let balance = world.get("/v1/teams/border/balance").await?;
            // The team is known from its first posting on.
            let body = if balance.status.as_u16() == 404 { Value::Null } else { balance.body };
            let as_of = body["as_of"].as_str().and_then(|text| time::parse(text).ok());
            let holds_it = body["balances"][0]["live"] == live;
            if as_of.is_some_and(|as_of_us| as_of_us > accepted_us) {
                ensure!(holds_it, "{body} was asked for, and {live} accepted at {accepted_us}");
                later += 1;
                break;
            }
            ensure!(attempt < 3_000, "as_of never comes to {accepted_us}: {body}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    assert_eq!(later, 10);
    world.stop().await
}
