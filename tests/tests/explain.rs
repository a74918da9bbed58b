//! From money down to events and back, rejected events sent again, time lines and reports: on real
//! stores, through the public interface.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use domain::money::Amount;
use serde_json::{Value, json};

use crate::world::{Answer, TENANT, World, add_key, catalog};

#[path = "explain/additions.rs"]
mod additions;
#[path = "explain/borders.rs"]
mod borders;
#[path = "explain/bulk.rs"]
mod bulk;
#[path = "explain/filters.rs"]
mod filters;
#[path = "explain/offers.rs"]
mod offers;
#[path = "explain/quantities.rs"]
mod quantities;
#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

/// Events of a team whose charges have to be rounded: 0.01 for 3 tokens.
fn events(team: &str, numbers: Range<u32>) -> Value {
    let event = |number: u32| {
        let model = ["gpt", "own"][number as usize % 2];
        json!({"specversion": "1.0", "id": format!("{team}-{number}"), "source": "test", "type": "llm.call", "subject": team,
            "user": format!("user-{}", number % 3), "time": format!("2026-03-{:02}T{:02}:30:00Z", 1 + number / 24, number % 24),
            "data": {"tokens": number + 1, "model": model, "region": "eu"}})
    };
    numbers.map(event).collect()
}

/// What an event of [`events`] is charged, computed without any of our rules' code.
fn charge(number: u32) -> i128 {
    let tokens = i128::from(number) + 1;
    if number % 2 == 1 { tokens * 500_000_000_000 } else { (tokens * 10_000_000_000 * 2 + 3) / 6 }
}

fn raw(value: &Value) -> i128 {
    Amount::parse_exact(value.as_str().unwrap()).unwrap().raw()
}

/// Waits until so many events are accepted, posted and archived.
async fn settled(world: &World, accepted: u32) -> Result<()> {
    let done = |body: &Value| {
        let all = body["total"]["counts"]["accepted"] == accepted && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().unwrap();
        all && partitions.iter().all(|one| one["archived_position"] == one["posted_position"])
    };
    world.until("/v1/conservation", done).await.map(drop)
}

/// All items of a list, page by page; `path` has a question mark.
async fn all(world: &World, path: &str, list: &str) -> Result<Vec<Value>> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("{path}{cursor}")).await?.expect(200)?;
        let page = page.pointer(list).context("no list")?;
        items.extend(page["items"].as_array().context("no items")?.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(items),
        }
    }
}

/// Follows a transfer through all pages of its events.
async fn follow(world: &World, transfer: &Value) -> Result<()> {
    let id = transfer["transfer_id"].as_str().context("an id")?;
    let explained = world.get(&format!("/v1/explain/{id}")).await?.expect(200)?;
    ensure!(explained["matches"] == true, "{explained}");
    assert_eq!(explained["transfers"].as_array().map(Vec::len), Some(1));
    assert_eq!(explained["transfers"][0]["transfer_id"], id);
    let step = if transfer["reason"] == "usage" { "charge_step" } else { "cost_step" };
    let amount = if step == "charge_step" { "charge" } else { "cost" };
    let (mut running, mut quantity, mut lines) = (0, 0, 0);
    for event in all(world, &format!("/v1/explain/{id}?limit=7"), "/events").await? {
        for line in event["lines"].as_array().unwrap() {
            running += raw(&line[amount]);
            quantity += raw(&line["quantity"]);
            lines += 1;
            assert_eq!(raw(&line[step]["running_total"]), running, "{event}");
            assert_eq!(
                (&line[step]["matches"], &line[step]["transfer_id"], &line[step]["computed"]),
                (&json!(true), &json!(id), &line[amount])
            );
            let named = ["transfer_id", "cost_transfer_id"].map(|field| line[field] == id);
            assert!(named.contains(&true), "{line}");
            let own = line["dimensions"]["model"] == "own" && step == "charge_step";
            if own {
                assert_eq!(
                    line[step]["rate"],
                    json!({"meter": "tokens", "price": "0.5", "per": 1})
                );
            }
        }
    }
    assert_eq!(running, raw(&transfer["amount"]), "{transfer}");
    assert_eq!(quantity, raw(&transfer["quantity"]));
    assert_eq!(json!(lines), transfer["events"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_explained_down_to_the_event_and_back() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    // Several journals of several teams.
    for part in 0..3 {
        for team in ["acme", "bolt"] {
            let sent = events(team, part * 20..part * 20 + 20);
            world.post("/v1/events", sent).await?.expect(200)?;
        }
        settled(&world, (part + 1) * 40).await?;
    }
    let (mut booked, mut lines) = (BTreeMap::new(), 0);
    let journals = all(&world, "/v1/teams/acme/journals?limit=2", "").await?;
    assert!(journals.len() >= 3, "{journals:?}");
    for journal in &journals {
        let id = journal["journal_id"].as_str().context("an id")?;
        let explained = world.get(&format!("/v1/explain/{id}")).await?.expect(200)?;
        ensure!(explained["matches"] == true, "{explained}");
        assert_eq!(explained["sums_without_transfer"], json!([]));
        assert_eq!(explained["journal"]["journal_id"], id);
        let batches = explained["batches"].as_array().unwrap();
        let (first, last) = (batches.first().unwrap(), batches.last().unwrap());
        assert!(first["from"].as_i64() <= journal["position_from"].as_i64(), "{explained}");
        assert!(last["to"].as_i64() >= journal["position_to"].as_i64(), "{explained}");
        for total in explained["totals"].as_array().unwrap() {
            assert_eq!(total["ledger"], total["archive"]);
            assert_eq!(
                (&total["matches"], &total["ledger_lines"]),
                (&json!(true), &total["archive_lines"])
            );
        }
        for transfer in explained["transfers"].as_array().unwrap() {
            assert_eq!(transfer["matches"], true);
            if transfer["team"] == "acme" {
                lines += transfer["events"].as_i64().unwrap();
                *booked.entry("acme").or_insert(0) += raw(&transfer["amount"]);
            }
            follow(&world, transfer).await?;
        }
        // All its events, each with all its lines, whatever the size of a page.
        let events = all(&world, &format!("/v1/explain/{id}?limit=9"), "/events").await?;
        assert!(events.iter().all(|event| event["lines"].as_array().map(Vec::len) == Some(2)));
    }
    let charges: i128 = (0..60).map(charge).sum();
    assert_eq!((booked["acme"], lines), (charges, 60));
    back_from_events(&world).await?;
    numbered_postings(&world, charges).await?;
    disagreement_and_delay(&world, journals[0]["journal_id"].as_str().unwrap()).await?;
    world.stop().await
}

/// From an event up to the transfers of its lines, and down to the event again.
async fn back_from_events(world: &World) -> Result<()> {
    let found = world.get("/v1/events?team=bolt&id=bolt-7").await?.expect(200)?;
    let event = &found["items"][0];
    let tokens = event["lines"].as_array().unwrap().iter().find(|line| line["meter"] == "tokens");
    let tokens = tokens.context("a line")?;
    for (field, amount) in [("transfer_id", "charge"), ("cost_transfer_id", "cost")] {
        let id = tokens[field].as_str().with_context(|| format!("{field}: {event}"))?;
        assert!(id.starts_with(event["journal_id"].as_str().unwrap()), "{event}");
        let down = all(world, &format!("/v1/explain/{id}?limit=1000"), "/events").await?;
        let again = down.iter().find(|down| down["receipt"] == event["receipt"]);
        let again = again.with_context(|| format!("{id} without {event}"))?;
        assert_eq!(again["lines"][0][amount], tokens[amount]);
    }
    // A line that costs nothing is in no transfer.
    let calls = event["lines"].as_array().unwrap().iter().find(|line| line["meter"] == "calls");
    assert_eq!(calls.context("a line")?["transfer_id"], Value::Null);
    Ok(())
}

/// The team's postings have numbers without a gap, and each goes on where the one before ended.
async fn numbered_postings(world: &World, owed: i128) -> Result<()> {
    let mut transfers = all(world, "/v1/teams/acme/transfers?limit=2", "").await?;
    transfers.reverse();
    let mut postings: BTreeMap<i64, (i128, i128, i128)> = BTreeMap::new();
    for transfer in &transfers {
        let sequence = transfer["sequence"].as_i64().with_context(|| format!("{transfer}"))?;
        let (before, after) = (raw(&transfer["balance_before"]), raw(&transfer["balance_after"]));
        postings.entry(sequence).or_insert((before, after, 0)).2 += raw(&transfer["amount"]);
    }
    let mut balance = 0;
    for (expected, (sequence, (before, after, moved))) in (1..).zip(postings) {
        assert_eq!((sequence, before, before + moved), (expected, balance, after));
        balance = after;
    }
    assert_eq!(balance, owed);
    Ok(())
}

/// Rows that came twice change nothing; a row that is not in the books is seen; a part is no sum.
async fn disagreement_and_delay(world: &World, journal: &str) -> Result<()> {
    let path = format!("/v1/explain/{journal}");
    let before = world.get(&path).await?.expect(200)?;
    let clickhouse = &world.context.clickhouse;
    clickhouse.execute("INSERT INTO usage_events SELECT * FROM usage_events").await?;
    let again = world.get(&path).await?.expect(200)?;
    assert_eq!((&again["totals"], &again["matches"]), (&before["totals"], &json!(true)));
    assert_eq!(again["events"], before["events"]);

    let (partition, to) = (&before["journal"]["partition"], &before["journal"]["position_to"]);
    let forged = format!(
        "INSERT INTO usage_events SELECT * REPLACE (toUInt32(90000) AS index) FROM usage_events
         WHERE partition = {partition} AND position <= {to} ORDER BY position DESC LIMIT 1"
    );
    clickhouse.execute(&forged).await?;
    let found = world.get(&path).await?.expect(200)?;
    ensure!(found["matches"] == false, "{found}");
    let differs = |total: &Value| total["matches"] == false && total["ledger"] != total["archive"];
    assert!(found["totals"].as_array().unwrap().iter().any(differs), "{found}");
    let wrong = |transfer: &Value| transfer["matches"] == false && transfer["archive"].is_object();
    assert!(found["transfers"].as_array().unwrap().iter().any(wrong), "{found}");

    for id in ["x", "01980d3e-6c4e-7d2a-9a55-0c3ff0f3a001", &format!("{journal}:99999")] {
        world.get(&format!("/v1/explain/{id}")).await?.refused(404, "explanation_unknown")?;
    }
    let other = world.send(Method::GET, &path, &world.other_key, &[], None).await?;
    other.refused(404, "explanation_unknown")?;
    let reader = add_key(&world.admin, TENANT, "reader", &["balances:read"]).await?;
    world.send(Method::GET, &path, &reader, &[], None).await?.refused(403, "scope_missing")?;

    clickhouse.execute("TRUNCATE TABLE archived").await?;
    let behind = world.get(&path).await?.refused(503, "archive_behind")?;
    assert_eq!((&behind["needed_position"], &behind["archived_position"]), (to, &json!(-1)));
    Ok(())
}

/// Events that the first catalog cannot rate: the number stands where it does not look.
fn unreadable(numbers: Range<u32>) -> Value {
    let event = |number: u32| {
        json!({"id": format!("bad-{number}"), "source": "old-tool/2.1", "type": "llm.call", "subject": "cato",
            "time": "2026-03-05T06:07:08Z", "data": {"tokens": "many", "amount": number + 1, "model": "own"}})
    };
    numbers.map(event).collect()
}

async fn page_of(world: &World, query: &str) -> Result<Vec<Value>> {
    all(world, &format!("/v1/rejected-events?limit=3&{query}"), "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_events_are_corrected_and_sent_again() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    world.post("/v1/events", unreadable(0..8)).await?.expect(200)?;
    let unknown = json!([{"id": "u", "type": "nobody.meters.this", "subject": "cato", "data": {}}]);
    world.post("/v1/events", unknown).await?.expect(200)?;
    world.post("/v1/events", events("cato", 0..2)).await?.expect(200)?;
    world.post("/v1/events", events("cato", 0..1)).await?.expect(200)?;
    settled(&world, 12).await?;

    let rejected = page_of(&world, "outcome=rejected&team=cato&type=llm.call").await?;
    assert_eq!(rejected.len(), 8);
    let reason = rejected[0]["reason"].as_str().context("a reason")?.to_owned();
    for (query, found) in [
        (format!("reason={reason}"), 8),
        ("outcome=duplicate".to_owned(), 1),
        ("source=old-tool%2F2.1".to_owned(), 8),
        ("source=test".to_owned(), 1),
        ("outcome=rejected&from=2026-03-05T06:07:08Z&to=2026-03-05T06:07:09Z".to_owned(), 8),
        ("outcome=rejected&to=2026-03-05T06:07:08Z".to_owned(), 0),
        ("app=nobody".to_owned(), 0),
        (String::new(), 9),
    ] {
        assert_eq!(page_of(&world, &query).await?.len(), found, "{query}");
    }
    let unmetered = world.get("/v1/events?outcome=unmetered").await?.expect(200)?;
    assert_eq!(
        (&unmetered["items"][0]["id"], unmetered["items"].as_array().map(Vec::len)),
        (&json!("u"), Some(1))
    );
    world.get("/v1/events?outcome=odd").await?.refused(400, "query_invalid")?;

    one_corrected(&world, &rejected[0]).await?;
    settled(&world, 13).await?;
    all_unchanged(&world, &reason).await?;
    settled(&world, 13 + 7).await?;
    let open = page_of(&world, "outcome=rejected").await?;
    assert!(open.iter().all(|event| event["state"] == "reinjected"), "{open:?}");
    assert_eq!(open.len(), 8, "their rejections stay");
    let rated = world.get("/v1/events?team=cato&outcome=rated&limit=1000").await?.expect(200)?;
    assert_eq!(rated["items"].as_array().map(Vec::len), Some(8 + 2));
    let changes: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM reinjections r JOIN api_keys k ON k.key_id = r.reinjected_by WHERE k.name = 'one'",
    )
    .fetch_one(&world.admin)
    .await?;
    assert_eq!(changes, 8, "each says who sent it");
    let metrics = world.context.metrics.render();
    assert!(metrics.contains("weir_api_reinjected_total 8"), "{metrics}");
    for reason in [reason.as_str(), "unmetered"] {
        let series = format!("weir_rater_unrated_events_total{{reason=\"{reason}\"}} ");
        assert!(metrics.contains(&series), "{series}: {metrics}");
    }
    world.stop().await
}

/// Sends with a new key until ingest has loaded it.
async fn patiently(world: &World, path: &str, key: &str) -> Result<Answer> {
    for _ in 0..600 {
        let answer = world.send(Method::POST, path, key, &[], None).await?;
        if answer.body["code"] != "credential_not_loaded" {
            return Ok(answer);
        }
        assert_eq!(answer.status.as_u16(), 503);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("ingest never loads the key")
}

async fn one_corrected(world: &World, rejected: &Value) -> Result<()> {
    let receipt = rejected["receipt"].as_str().context("a receipt")?;
    let path = format!("/v1/rejected-events/{receipt}");
    let detail = world.get(&path).await?.expect(200)?;
    assert_eq!((&detail["state"], &detail["reinjection"]), (&json!("open"), &Value::Null));
    // Base 64 of the first three bytes of `{"id":…`.
    assert!(detail["raw_base64"].as_str().unwrap().starts_with("eyJ"), "{detail}");
    let reinject = format!("{path}/reinject");
    world.post(&reinject, json!({"id": "another"})).await?.refused(422, "identity_changed")?;
    let refused = world.post(&reinject, json!({"type": "", "subject": "cato"})).await?;
    assert_eq!(refused.refused(422, "event_refused")?["event_code"], "type_missing");
    let reader = add_key(&world.admin, TENANT, "reader", &["usage:read"]).await?;
    let refused = patiently(world, &reinject, &reader).await?;
    assert_eq!(refused.refused(403, "ingest_refused")?["ingest_code"], "scope_missing");
    world
        .send(Method::POST, &reinject, &world.other_key, &[], None)
        .await?
        .refused(404, "event_unknown")?;
    world
        .send(Method::GET, &path, &world.other_key, &[], None)
        .await?
        .refused(404, "event_unknown")?;

    let corrected =
        json!({"type": "llm.call", "subject": "cato", "data": {"tokens": 4, "model": "own"}});
    let headers = [("idempotency-key", "fix")];
    let sent = world
        .send(Method::POST, &reinject, &world.key, &headers, Some(corrected.clone()))
        .await?
        .expect(200)?;
    let again = world
        .send(Method::POST, &reinject, &world.key, &headers, Some(corrected))
        .await?
        .expect(200)?;
    assert_eq!((&sent, &sent["corrected"]), (&again, &json!(true)));
    let conflict = world.post(&reinject, json!({})).await?.refused(409, "already_reinjected")?;
    assert_eq!(conflict["receipt"], sent["receipt"]);
    let new = format!("/v1/events/{}", sent["receipt"].as_str().unwrap());
    let event = world.until(&new, |body| body["status"] == "rated").await?;
    assert_eq!(
        (&event["id"], &event["source"], &event["time"]),
        (&rejected["id"], &rejected["source"], &rejected["time"])
    );
    let charge: i128 =
        event["lines"].as_array().unwrap().iter().map(|line| raw(&line["charge"])).sum();
    assert_eq!(charge, 2_000_000_000_000);
    assert_eq!(world.get(&path).await?.expect(200)?["reinjection"]["receipt"], sent["receipt"]);
    let duplicate = page_of(world, "outcome=duplicate").await?;
    let duplicate = duplicate[0]["receipt"].as_str().unwrap();
    world
        .post(&format!("/v1/rejected-events/{duplicate}/reinject"), json!({}))
        .await?
        .refused(409, "not_rejected")?;
    Ok(())
}

/// The catalog is corrected; what is open is counted and sent again in steps.
async fn all_unchanged(world: &World, reason: &str) -> Result<()> {
    let mut corrected = catalog();
    corrected["meters"][1]["value"] = json!(["$.amount", "$.tokens"]);
    world.put("/v1/catalog", corrected).await?.expect(200)?;
    let path = "/v1/rejected-events/reinject";
    for (reason, open) in [(reason, 7), ("none_of_these", 0)] {
        let dry =
            world.post(path, json!({"dry_run": true, "reason": reason})).await?.expect(200)?;
        assert_eq!((&dry["would_reinject"], &dry["complete"]), (&json!(open), &json!(true)));
    }
    let none = world.post(path, json!({"team": "acme"})).await?.expect(200)?;
    assert_eq!((&none["reinjected"], &none["complete"]), (&json!(0), &json!(true)));
    world.post(path, json!({"limit": 0})).await?.refused(400, "limit_invalid")?;
    let first = world.post(path, json!({"reason": reason, "limit": 3})).await?.expect(200)?;
    assert_eq!((&first["reinjected"], &first["complete"]), (&json!(3), &json!(false)), "{first}");
    // Begun again from the start, it goes on with what is open.
    let mut next = world.post(path, json!({"reason": reason, "limit": 2})).await?.expect(200)?;
    assert_eq!(next["reinjected"], 2, "{next}");
    let mut sent = 5;
    while let Some(cursor) = next["next_cursor"].as_str() {
        let body = json!({"reason": reason, "limit": 2, "cursor": cursor});
        next = world.post(path, body).await?.expect(200)?;
        sent += next["reinjected"].as_i64().unwrap();
    }
    assert_eq!((sent, &next["failed"], &next["complete"]), (7, &json!([]), &json!(true)));
    let dry = world.post(path, json!({"dry_run": true})).await?.expect(200)?;
    assert_eq!(dry["would_reinject"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_lines_and_reports_say_when_what_and_how_much() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", quantities::with_words(catalog())).await?.expect(200)?;
    for team in ["acme", "bolt"] {
        world.post("/v1/events", events(team, 0..30)).await?.expect(200)?;
    }
    // A name that a spreadsheet must not take apart.
    let odd = json!([{"id": "odd", "source": "test", "type": "llm.call", "subject": "a \"b\", c", "time": "2026-04-01T00:00:00Z", "data": {"tokens": 1, "model": "own"}}]);
    world.post("/v1/events", odd).await?.expect(200)?;
    settled(&world, 61).await?;

    // Ten events each of two teams, each with a line of calls and one of tokens.
    let lines = all(&world, "/v1/users/user-1/timeline?limit=7", "").await?;
    assert_eq!(lines.len(), 2 * 10 * 2);
    assert!(
        lines.is_sorted_by_key(|line| std::cmp::Reverse(line["time"].as_str().unwrap().to_owned()))
    );
    assert!(lines.iter().all(|line| line["user"] == "user-1" && line["kind"] == "consumption"));
    let amount = |lines: &[Value]| -> i128 { lines.iter().map(|line| raw(&line["amount"])).sum() };
    let wanted: i128 = (0..30).filter(|number| number % 3 == 1).map(charge).sum();
    assert_eq!(amount(&lines), 2 * wanted);
    let of_one =
        all(&world, "/v1/users/user-1/timeline?team=acme&meter=tokens&limit=100", "").await?;
    assert_eq!((of_one.len(), amount(&of_one)), (10, wanted));
    let first = of_one.last().context("an entry")?;
    assert_eq!(
        (&first["event_id"], &first["quantity"], &first["unit"], &first["service"]),
        (
            &json!("acme-1"),
            &json!("2"),
            &json!("token"),
            &json!({"type": "llm.call", "meter": "tokens", "dimensions": {"model": "own", "region": "eu"}, "app": null, "feature": null})
        )
    );
    let day = "/v1/teams/acme/timeline?meter=calls&from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z&limit=5";
    assert_eq!(all(&world, day, "").await?.len(), 24);
    let none = world.get("/v1/users/nobody/timeline").await?.expect(200)?;
    assert_eq!(none["items"], json!([]));
    world.get("/v1/teams/nobody/timeline").await?.refused(404, "team_unknown")?;
    world.get("/v1/teams/acme/timeline?team=bolt").await?.refused(400, "query_invalid")?;
    let other =
        world.send(Method::GET, "/v1/users/user-1/timeline", &world.other_key, &[], None).await?;
    assert_eq!(other.expect(200)?["items"], json!([]));
    report(&world).await?;
    pages(&world).await?;
    quantities::end_as_documented(&world, 61).await?;
    quantities::sums_beyond_an_amount(&world, 77).await?;
    filters::find_what_is_asked_for(&world, 79).await?;
    world.stop().await
}

/// Row by row, and all rows at once, whatever the rows are told apart by.
async fn pages(world: &World) -> Result<()> {
    let group = "group_by=team,user,model,feature";
    for (question, least) in [
        ("window=none", 2),
        ("window=hour&time_zone=Asia/Kathmandu", 2),
        (group, 6),
        ("window=minute&group_by=user", 4),
    ] {
        let whole = all(world, &format!("/v1/usage?{question}&limit=1000"), "").await?;
        ensure!(whole.len() >= least, "{question} has {} rows", whole.len());
        let rows = all(world, &format!("/v1/usage?{question}&limit=1"), "").await?;
        assert_eq!(rows, whole, "{question}");
    }
    let page = world.get(&format!("/v1/usage?{group}&limit=1")).await?.expect(200)?;
    let cursor = page["next_cursor"].as_str().context("a second page")?;
    // Of a question with other groups, and with a window that is no time.
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for cursor in [cursor.to_owned(), hex(r#"["-1","m","",""]"#), hex(r#"["x","m","",""]"#)] {
        world.get(&format!("/v1/usage?cursor={cursor}")).await?.refused(400, "cursor_invalid")?;
    }
    Ok(())
}

/// The same numbers as JSON and as CSV.
async fn report(world: &World) -> Result<()> {
    let question = "/v1/usage-report?period=2026-03&group_by=team,model,user&meter=tokens";
    let rows = all(world, &format!("{question}&limit=4"), "").await?;
    assert_eq!(rows.len(), 2 * 2 * 3);
    let csv = world.get(&format!("{question}&format=csv")).await?;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8; header=present");
    let mut lines = csv.text.lines();
    assert_eq!(
        lines.next(),
        Some(
            "team,model,user,meter,unit,quantity,currency,charge,cost_currency,cost,events,unpriced_events"
        )
    );
    let wanted: Vec<String> = rows
        .iter()
        .map(|row| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let group = &row["group"];
            format!(
                "\"{}\",\"{}\",\"{}\",\"tokens\",\"token\",{},\"USD\",{},\"USD\",{},{},0",
                text(&group["team"]),
                text(&group["model"]),
                text(&group["user"]),
                text(&row["quantity"]),
                text(&row["charge"]),
                text(&row["cost"]),
                row["events"]
            )
        })
        .collect();
    assert_eq!(lines.collect::<Vec<_>>(), wanted);

    let accept = [("accept", "text/csv")];
    let april = "/v1/usage-report?from=2026-04-01T00:00:00Z&to=2026-05-01T00:00:00Z&window=month&time_zone=Europe/Berlin";
    let csv = world.send(Method::GET, april, &world.key, &accept, None).await?;
    let rows: Vec<&str> = csv.text.lines().collect();
    assert_eq!(rows.len(), 3, "{}", csv.text);
    assert_eq!(
        rows[1],
        "\"2026-04-01T00:00:00+0200\",\"a \"\"b\"\", c\",\"calls\",\"call\",1,\"USD\",0,\"USD\",0,1,0"
    );
    for query in [
        "",
        "period=2026-3",
        "period=2026-03&from=2026-03-01T00:00:00Z",
        "from=2026-03-01T00:00:00Z",
        "period=2026-03&format=xls",
        "period=2026-03&format=csv&limit=3",
    ] {
        world.get(&format!("/v1/usage-report?{query}")).await?.refused(400, "query_invalid")?;
    }
    let other = format!("{question}&format=csv");
    let other = world.send(Method::GET, &other, &world.other_key, &[], None).await?;
    assert_eq!(other.text.lines().count(), 1, "only the names of the columns: {}", other.text);
    Ok(())
}
