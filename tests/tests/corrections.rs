//! Corrections: events taken back, amended and rated again, while the process is killed in between. What was
//! shown is what is booked, in ledger, archive and balances alike, once.

#![allow(clippy::indexing_slicing, reason = "a test")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    oracle::parse,
    owed::{comes_to, owed},
    system::{System, amount},
};

#[path = "corrections/merges.rs"]
mod merges;
#[path = "corrections/meters.rs"]
mod meters;
#[path = "corrections/offers.rs"]
mod offers;
#[path = "corrections/on_the_way.rs"]
mod on_the_way;
#[path = "corrections/parts.rs"]
mod parts;
#[path = "corrections/unpriced.rs"]
mod unpriced;

use self::on_the_way::OnTheWay;

/// How long the books may take.
const WAIT: Duration = Duration::from_secs(300);

async fn publish(system: &System, meters: Value, cards: Value, default: &str) -> Result<()> {
    let api = system.api()?;
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    for (name, added) in [("meters", &meters), ("cards", &cards)] {
        let list = catalog[name].as_array_mut().context("a list")?;
        for one in added.as_array().context("a list")? {
            list.retain(|known| known["key"] != one["key"]);
            list.push(one.clone());
        }
    }
    catalog["default_rate_card"] = json!(default);
    catalog["default_cost_card"] = Value::Null;
    api.send("PUT", "/v1/catalog", &catalog).await?;
    Ok(())
}

/// A meter of events of its own type, in `$.n`.
fn meter(key: &str) -> Value {
    json!({"key": key, "event_types": [key], "aggregation": "sum", "value": "$.n", "allow_negative": false})
}

async fn send(system: &System, events: &[Value]) -> Result<Vec<String>> {
    let body = serde_json::to_vec(events)?;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
    ensure!(status == 200 && answer["accepted"] == events.len(), "{status}: {answer}");
    let results = answer["results"].as_array().context("results")?;
    let receipt = |one: &Value| one["receipt"].as_str().map(str::to_owned).context("a receipt");
    results.iter().map(receipt).collect()
}

fn event(kind: &str, id: &str, n: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "corrections", "type": kind, "subject": "acme",
        "time": "2026-06-10T12:00:00Z", "data": {"n": n, "note": "as sent"}})
}

async fn balance(system: &System) -> Result<i128> {
    let answer = system.api()?.get("/v1/teams/acme/balance").await?;
    Ok(answer["balances"][0]["live"].as_str().map(parse).transpose()?.unwrap_or(0))
}

async fn verify(system: &System) -> Result<()> {
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    // Totals of very many events are left out, and said to be.
    match system.run("verify", &["verify", "--data", data, "--sample", "500"]).await {
        Err(error) => {
            let report = error.to_string();
            let unseen: Vec<&str> =
                report.lines().filter(|line| line.starts_with("unseen")).collect();
            let only_long =
                matches!(unseen.as_slice(), [one] if one.contains("more than 5000 events"));
            ensure!(only_long && !report.contains("WRONG"), "{report}");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// The corrections of an event, once there are so many.
async fn corrections(system: &System, receipt: &str, count: usize) -> Result<Vec<Value>> {
    let deadline = Instant::now() + WAIT;
    loop {
        let mut event = system.api()?.get(&format!("/v1/events/{receipt}")).await?;
        if let Value::Array(all) = event["corrections"].take()
            && all.len() >= count
        {
            return Ok(all);
        }
        ensure!(Instant::now() < deadline, "{event} has not {count} corrections");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_event_is_taken_back_and_amended_once_whatever_is_killed() -> Result<()> {
    let mut system = System::embedded().await?;
    let tiers = json!([{"up_to": "10", "price": "2"}, {"price": "1"}]);
    let rows = json!([{"meter": "plain", "price": "0.5"},
        {"meter": "tiered", "model": "graduated", "period": "month", "tiers": tiers}]);
    let card =
        json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": [{"rates": rows}]});
    publish(&system, json!([meter("plain"), meter("tiered")]), json!([card]), "own").await?;
    let receipts = send(
        &system,
        &[
            event("plain", "1", "8"),
            event("plain", "2", "4"),
            event("tiered", "3", "6"),
            event("tiered", "4", "6"),
            event("tiered", "5", "6"),
        ],
    )
    .await?;
    system.settled(Some(5)).await?;
    comes_to(&system, "plain", "6").await?;
    // 6 at 2; 4 at 2 and 2 at 1; 6 at 1.
    comes_to(&system, "tiered", "28").await?;
    let api = system.api()?;
    let void = |receipt: &str| format!("/v1/events/{receipt}/void");
    let amend = |receipt: &str| format!("/v1/events/{receipt}/amend");

    // Shown, and nothing is done.
    let path = format!("{}?preview=true", void(&receipts[0]));
    let shown = api.send("POST", &path, &json!({})).await?;
    ensure!(shown["command"].is_null() && shown["deltas"][0]["charge"] == "-4", "{shown}");
    comes_to(&system, "plain", "6").await?;

    // Void: once, whatever is sent again or killed.
    let done = api.send("POST", &void(&receipts[0]), &json!({"reason": "a mistake"})).await?;
    ensure!(done["run"] == 1 && done["deltas"][0]["quantity"] == "-8", "{done}");
    let kept = api.get("/v1/audit?limit=1").await?["items"][0].take();
    ensure!(kept["after"]["reason"] == "a mistake", "{kept}");
    let (status, again) = api.exchange("POST", &void(&receipts[0]), b"{}".to_vec()).await?;
    ensure!([202, 409].contains(&status), "{status}: {again}");
    system.kill("up")?;
    system.start("up").await?;
    comes_to(&system, "plain", "2").await?;
    let expected = if status == 202 { 2 } else { 1 };
    let of_first = corrections(&system, &receipts[0], expected).await?;
    ensure!(of_first[0]["status"] == "applied" && of_first[0]["outcome"].is_null(), "{of_first:?}");
    if let Some(second) = of_first.get(1) {
        ensure!(second["reason"] == "correction_superseded", "{second}");
    }
    let api = system.api()?;
    let (status, again) = api.exchange("POST", &void(&receipts[0]), b"{}".to_vec()).await?;
    ensure!(status == 409 && again["code"] == "event_void", "{status}: {again}");
    // Its id stays taken.
    send(&system, &[event("plain", "1", "8")]).await?;
    let counts = system.settled(Some(6)).await?;
    ensure!(counts["duplicates"] == 1, "{counts:?}");
    comes_to(&system, "plain", "2").await?;

    // Amended: twice, the second on top of the first, after a restart.
    let body = json!({"data": {"n": "10"}, "user": "u-1", "reason": "wrong unit"});
    let done = api.send("POST", &amend(&receipts[1]), &body).await?;
    ensure!(done["run"] == 1 && done["deltas"][0]["charge"] == "3", "{done}");
    comes_to(&system, "plain", "5").await?;
    corrections(&system, &receipts[1], 1).await?;
    let (status, again) =
        api.exchange("POST", &amend(&receipts[1]), serde_json::to_vec(&body)?).await?;
    ensure!(status == 409 && again["code"] == "nothing_changes", "{status}: {again}");
    system.kill("up")?;
    system.start("up").await?;
    let api = system.api()?;
    let done = api.send("POST", &amend(&receipts[1]), &json!({"data": {"n": "1"}})).await?;
    ensure!(done["run"] == 2 && done["deltas"][0]["charge"] == "-4.5", "{done}");
    comes_to(&system, "plain", "0.5").await?;
    let of_second = corrections(&system, &receipts[1], 2).await?;
    let line = &of_second[1]["lines"][0];
    ensure!(line["quantity"] == "1" && line["charge"] == "0.5", "{of_second:?}");

    // The journal of a correction explains itself down to what was taken back.
    let command = of_second[1]["command"].as_str().context("a command")?;
    explains(&system, command).await?;

    // Tiers: an event is charged where it stands; what came later keeps its price until it is rated again.
    let done = api.send("POST", &void(&receipts[3]), &json!({})).await?;
    ensure!(done["moves_totals"] == true && done["deltas"][0]["charge"] == "-10", "{done}");
    comes_to(&system, "tiered", "18").await?;
    corrections(&system, &receipts[3], 1).await?;
    verify(&system).await?;
    let asked =
        json!({"kind": "rate", "filter": {"meter": "tiered"}, "reason": "tiers after a void"});
    let id = begun(&system, &asked).await?;
    let shown = state(&system, &id, "previewed").await?;
    // 6 at 2; 4 at 2 and 2 at 1.
    ensure!(shown["preview"][0]["charge"] == "4" && shown["changes"] == 1, "{shown}");
    api.send("POST", &format!("/v1/corrections/{id}/post"), &json!({})).await?;
    state(&system, &id, "posted").await?;
    comes_to(&system, "tiered", "22").await?;
    // The period goes on from 12.
    send(&system, &[event("tiered", "6", "1")]).await?;
    comes_to(&system, "tiered", "23").await?;
    ensure!(balance(&system).await? == -parse("23.5")?, "the balance");
    verify(&system).await
}

/// Finds the journal of a place and lets it explain itself.
async fn explains(system: &System, command: &str) -> Result<()> {
    let api = system.api()?;
    let place: Vec<i64> = command.split(':').filter_map(|part| part.parse().ok()).collect();
    let journal: String = sqlx::query_scalar(
        "SELECT journal_id::text FROM journals WHERE partition = $1 AND $2 BETWEEN position_from AND position_to",
    )
    .bind(i32::try_from(place[0])?)
    .bind(place[1])
    .fetch_one(&mut system.postgres().await?)
    .await?;
    let explained = api.get(&format!("/v1/explain/{journal}")).await?;
    ensure!(explained["matches"] == true, "{explained}");
    let events = explained["events"]["items"].as_array().context("events")?;
    let own: Vec<&Value> = events.iter().filter(|event| event["receipt"] == command).collect();
    ensure!(own.len() == 2 && own[0]["reversal"] == true && own[1]["reversal"] == false, "{own:?}");
    ensure!(own[0]["lines"][0]["quantity"] == "-10" && own[1]["corrects"].is_string(), "{own:?}");
    Ok(())
}

async fn begun(system: &System, asked: &Value) -> Result<String> {
    let answer = system.api()?.send("POST", "/v1/corrections", asked).await?;
    Ok(answer["id"].as_str().context("an id")?.to_owned())
}

/// The correction once it is in a state.
async fn state(system: &System, id: &str, wanted: &str) -> Result<Value> {
    let deadline = Instant::now() + WAIT;
    loop {
        let answer = system.api()?.get(&format!("/v1/corrections/{id}")).await?;
        if answer["state"] == wanted {
            return Ok(answer);
        }
        if answer["state"] == "failed" || Instant::now() > deadline {
            bail!("not {wanted}: {answer}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The correction once it has failed.
async fn failed(system: &System, id: &str) -> Result<Value> {
    let deadline = Instant::now() + WAIT;
    loop {
        let answer = system.api()?.get(&format!("/v1/corrections/{id}")).await?;
        if answer["state"] == "failed" {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{answer} has not failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Previews a correction and posts it: what was shown, in sum and by team and meter, is what was posted.
async fn carried_out(system: &System, asked: &Value) -> Result<(Value, Charges)> {
    let id = begun(system, asked).await?;
    let shown = state(system, &id, "previewed").await?;
    ensure!(shown["events_total"] == shown["events"] && shown["rejected"] == 0, "{shown}");
    let wanted = deltas(system, &id, false).await?;
    system.api()?.send("POST", &format!("/v1/corrections/{id}/post"), &json!({})).await?;
    let posted = state(system, &id, "posted").await?;
    ensure!(posted["posted"] == shown["preview"], "{posted} is not {shown}");
    ensure!(posted["applied"] == shown["changes"], "{posted} is not {shown}");
    let found = deltas(system, &id, true).await?;
    ensure!(found == wanted, "{found:?} was posted, {wanted:?} shown");
    Ok((shown, wanted))
}

async fn exchange(system: &System, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    system.api()?.exchange(method, path, serde_json::to_vec(body)?).await
}

/// The rows of both meters, at prices of a version.
fn versions(all: &[(&str, &str, &str)]) -> Value {
    let version = |(flat, first, rest): &(&str, &str, &str)| {
        let tiers = json!([{"up_to": "10000", "price": first}, {"price": rest}]);
        json!({"effective_from": "2000-01-01T00:00:00Z", "rates": [{"meter": "flat", "price": flat},
            {"meter": "graduated", "model": "graduated", "period": "month", "tiers": tiers}]})
    };
    json!(all.iter().map(version).collect::<Vec<_>>())
}

/// What a team's tokens come to in a month.
fn graduated(tokens: i128, first: i128, rest: i128) -> i128 {
    tokens.min(10_000) * first + (tokens - 10_000).max(0) * rest
}

#[tokio::test]
async fn a_month_is_rated_again_as_shown_whatever_is_killed() -> Result<()> {
    let mut system = System::embedded().await?;
    let meters: Vec<Value> = ["flat", "graduated"]
        .iter()
        .map(|key| json!({"key": key, "event_types": ["llm.tokens.v1"], "aggregation": "sum", "value": "$.inputTokens"}))
        .collect();
    let card = |all: &[(&str, &str, &str)]| json!([{"key": "own", "kind": "rate", "currency": "USD", "versions": versions(all)}]);
    let old = ("0.001", "0.003", "0.002");
    publish(&system, json!(meters), card(&[old]), "own").await?;
    system.replay_all("traces", &[]).await?;
    system.settled(Some(28_185)).await?;
    let tokens: BTreeMap<String, i128> = system
        .totals_in_postgres()
        .await?
        .into_iter()
        .filter(|((_, meter), _)| meter == "flat")
        .map(|((team, _), sums)| (team, sums.quantity / 1_000_000_000_000))
        .collect();
    ensure!(tokens.len() > 5, "{} teams", tokens.len());

    // What another catalog would have come to: nothing is published or changed.
    let new = ("0.0015", "0.005", "0.001");
    let mut catalog = system.api()?.get("/v1/catalog").await?["catalog"].take();
    let cards = catalog["cards"].as_array_mut().context("cards")?;
    cards.retain(|card| card["key"] != "own");
    cards.extend(card(&[old, new]).as_array().context("a list")?.iter().cloned());
    let simulated =
        system.api()?.send("POST", "/v1/rating/simulate", &json!({"catalog": catalog})).await?;
    let simulated = simulated["id"].as_str().context("an id")?.to_owned();
    let simulated = state(&system, &simulated, "previewed").await?;
    // The same from a draft, which is saved once.
    let (status, draft) =
        exchange(&system, "PUT", "/v1/catalog/drafts/new", &json!({"catalog": catalog})).await?;
    ensure!(status == 201 && draft["changed"] == json!(["cards[own]"]), "{draft}");
    let drafted =
        system.api()?.send("POST", "/v1/rating/simulate", &json!({"draft": "new"})).await?;
    let drafted = drafted["id"].as_str().context("an id")?.to_owned();
    let drafted = state(&system, &drafted, "previewed").await?;
    ensure!(drafted["preview"] == simulated["preview"], "{drafted} is not {simulated}");

    // The price was wrong from the beginning.
    publish(&system, json!([]), card(&[old, new]), "own").await?;
    let id =
        begun(&system, &json!({"kind": "rate", "reason": "the price of the contract"})).await?;
    let mut on_the_way = OnTheWay::new(&id, 28_185);
    on_the_way.kill_in(&mut system, "previewing", 10_000).await?;
    let shown = state(&system, &id, "previewed").await?;
    ensure!(shown["events"] == 28_185 && shown["changes"] == 28_185, "{shown}");
    ensure!(shown["events_total"] == 28_185, "{shown}");
    ensure!(shown["preview"] == simulated["preview"], "{shown} is not {simulated}");
    let milli = 1_000_000_000;
    let mut wanted = BTreeMap::new();
    for (team, tokens) in &tokens {
        let graduated =
            graduated(*tokens, 5 * milli, milli) - graduated(*tokens, 3 * milli, 2 * milli);
        wanted.insert((team.clone(), "flat".to_owned()), tokens * milli / 2);
        wanted.insert((team.clone(), "graduated".to_owned()), graduated);
    }
    ensure!(deltas(&system, &id, false).await? == wanted, "the preview is not plain arithmetic");
    let drafted = drafted["id"].as_str().context("an id")?;
    ensure!(deltas(&system, drafted, false).await? == wanted, "the draft came to something else");
    let (before, _) = owed(&system, "graduated").await?;

    on_the_way.post_and_kill(&mut system).await?;
    for events in [5_000, 20_000] {
        on_the_way.kill_in(&mut system, "posting", events).await?;
    }
    on_the_way.kill_in(&mut system, "confirming", 10_000).await?;
    ensure!(on_the_way.kills == 5, "{} kills", on_the_way.kills);
    let posted = state(&system, &id, "posted").await?;
    ensure!(posted["applied"] == 28_185 && posted["rejected"] == 0, "{posted}");
    ensure!(posted["posted"] == posted["preview"], "{posted}");
    ensure!(deltas(&system, &id, true).await? == wanted, "what was posted is not what was shown");
    on_the_way.is_logged(&system).await?;
    let sum = |meter: &str| -> i128 {
        wanted.iter().filter(|((_, of), _)| of == meter).map(|(_, delta)| delta).sum()
    };
    let total = before + sum("graduated");
    comes_to(&system, "graduated", &domain::money::Amount::of_sum(total).to_string()).await?;
    // Recomputed from the archive's lines alone.
    let sql = "SELECT team, meter, toString(sum(charge * sign)) AS charge, toString(sum(quantity * sign)) AS quantity
        FROM usage_lines WHERE meter IN ('flat', 'graduated') GROUP BY team, meter";
    for row in system.clickhouse().query_json_rows(sql, &[]).await? {
        let team = row["team"].as_str().context("a team")?;
        let tokens = tokens.get(team).context("a known team")?;
        let charge = match row["meter"].as_str() {
            Some("flat") => tokens * 3 * milli / 2,
            _ => graduated(*tokens, 5 * milli, milli),
        };
        ensure!(amount(&row["charge"])? == charge, "{row} is not {charge}");
        ensure!(amount(&row["quantity"])? == tokens * 1_000_000_000_000, "{row}: {tokens}");
    }
    // Again there is nothing to do.
    let id = begun(&system, &json!({"kind": "rate", "reason": "once more"})).await?;
    let shown = state(&system, &id, "previewed").await?;
    ensure!(shown["changes"] == 0 && shown["preview"] == json!([]), "{shown}");
    verify(&system).await
}

/// Charges by team and meter.
type Charges = BTreeMap<(String, String), i128>;

/// Charges that a correction changes.
async fn deltas(system: &System, id: &str, posted: bool) -> Result<Charges> {
    let mut all = BTreeMap::new();
    let mut path = format!("/v1/corrections/{id}/deltas?posted={posted}&limit=7");
    loop {
        let page = system.api()?.get(&path).await?;
        for row in page["items"].as_array().context("items")? {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            all.insert((text("team"), text("meter")), parse(&text("charge"))?);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => {
                path =
                    format!("/v1/corrections/{id}/deltas?posted={posted}&limit=7&cursor={cursor}");
            }
            None => return Ok(all),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_corrected_is_refused_and_changes_nothing() -> Result<()> {
    let system = System::embedded().await?;
    let rows = json!([{"meter": "plain", "price": "0.5"}]);
    let card =
        json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": [{"rates": rows}]});
    publish(&system, json!([meter("plain")]), json!([card]), "own").await?;
    let receipts = send(&system, &[event("plain", "1", "8"), event("plain", "2", "many")]).await?;
    system.settled(Some(2)).await?;
    let (first, rejected) = (&receipts[0], &receipts[1]);
    let cases = [
        (format!("/v1/events/{rejected}/void"), json!({}), 409, "event_without_effect"),
        ("/v1/events/0:999999:0/void".to_owned(), json!({}), 404, "event_unknown"),
        ("/v1/events/x/void".to_owned(), json!({}), 404, "event_unknown"),
        (format!("/v1/events/{first}/amend"), json!({}), 422, "field_invalid"),
        (format!("/v1/events/{first}/amend"), json!({"data": 7}), 422, "field_invalid"),
        (format!("/v1/events/{first}/void"), json!({"reason": ""}), 422, "field_invalid"),
        (
            format!("/v1/events/{first}/amend"),
            json!({"time": "2190-01-01T00:00:00Z"}),
            422,
            "field_invalid",
        ),
        (format!("/v1/events/{first}/amend"), json!({"type": ""}), 422, "field_invalid"),
        (format!("/v1/events/{first}/amend"), json!({"subject": "bolt"}), 400, "body_invalid"),
        (format!("/v1/events/{first}/amend"), json!({"time": "soon"}), 400, "time_invalid"),
        (
            format!("/v1/events/{first}/amend"),
            json!({"data": {"n": "few"}}),
            422,
            "amendment_rejected",
        ),
        (
            format!("/v1/events/{first}/amend"),
            json!({"data": {"n": "-1"}}),
            422,
            "amendment_rejected",
        ),
        (
            "/v1/corrections".to_owned(),
            json!({"kind": "void", "reason": "all"}),
            422,
            "filter_missing",
        ),
        (
            "/v1/corrections".to_owned(),
            json!({"kind": "rate", "reason": " "}),
            422,
            "field_invalid",
        ),
        ("/v1/corrections".to_owned(), json!({"kind": "undo", "reason": "x"}), 400, "body_invalid"),
        (
            "/v1/corrections".to_owned(),
            json!({"kind": "rate", "reason": "x", "filter": {"outcome": "duplicate"}}),
            422,
            "field_invalid",
        ),
        ("/v1/corrections/7/post".to_owned(), json!({}), 404, "correction_unknown"),
        (
            "/v1/rating/simulate".to_owned(),
            json!({"catalog": {"default_rate_card": "none"}}),
            422,
            "catalog_invalid",
        ),
        ("/v1/rating/simulate".to_owned(), json!({}), 422, "field_invalid"),
        (
            "/v1/rating/simulate".to_owned(),
            json!({"catalog": {}, "draft": "none"}),
            422,
            "field_invalid",
        ),
        ("/v1/rating/simulate".to_owned(), json!({"draft": "none"}), 404, "draft_unknown"),
    ];
    for (path, body, status, code) in cases {
        let (found, answer) =
            system.api()?.exchange("POST", &path, serde_json::to_vec(&body)?).await?;
        ensure!(
            (found, &answer["code"]) == (status, &json!(code)),
            "{path} {body}: {found} {answer}"
        );
    }
    comes_to(&system, "plain", "4").await?;
    // A catalog that is published in between stops what was previewed.
    let id =
        begun(&system, &json!({"kind": "void", "filter": {"team": "acme"}, "reason": "a test"}))
            .await?;
    state(&system, &id, "previewed").await?;
    let other = begun(&system, &json!({"kind": "rate", "reason": "prices"})).await?;
    state(&system, &other, "previewed").await?;
    let rows = json!([{"meter": "plain", "price": "0.7"}]);
    let cards =
        json!([{"key": "next", "kind": "rate", "currency": "EUR", "versions": [{"rates": rows}]}]);
    publish(&system, json!([]), cards, "next").await?;
    system.api()?.send("POST", &format!("/v1/corrections/{other}/post"), &json!({})).await?;
    failed(&system, &other).await?;
    comes_to(&system, "plain", "4").await?;
    // Taking back needs no prices; cancelling needs a preview that was not posted.
    system.api()?.send("POST", &format!("/v1/corrections/{id}/post"), &json!({})).await?;
    let posted = state(&system, &id, "posted").await?;
    ensure!(posted["applied"] == 1 && posted["posted"][0]["charge"] == "-4", "{posted}");
    comes_to(&system, "plain", "0").await?;
    let path = format!("/v1/corrections/{id}/cancel");
    let (status, answer) = system.api()?.exchange("POST", &path, b"{}".to_vec()).await?;
    ensure!(status == 409 && answer["code"] == "correction_not_previewed", "{status}: {answer}");
    verify(&system).await
}
