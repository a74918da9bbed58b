//! Meters that do not add up: their periods are closed from the archive, exactly, once, whatever is killed, and again
//! where something is reported or corrected later.

#![allow(clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{owed::comes_to, system::System};

#[path = "meter_periods/versions.rs"]
mod versions;
#[path = "meter_periods/zones.rs"]
mod zones;

/// How long the books may take.
const WAIT: Duration = Duration::from_secs(120);
/// Periods are closed as soon as they are over.
const AT_ONCE: [(&str, &str); 1] = [("WEIR_API__CLOSE_AFTER_S", "0")];

fn meter(key: &str, event_type: &str, more: Value) -> Value {
    let mut meter =
        json!({"key": key, "event_types": [event_type], "value": "$.n", "period": "month"});
    for (name, value) in more.as_object().into_iter().flatten() {
        meter[name] = value.clone();
    }
    meter
}

async fn publish(system: &System, meters: &[Value], rows: Value) -> Result<()> {
    let api = system.api()?;
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    let versions = json!([{"effective_from": "2020-01-01T00:00:00Z", "rates": rows}]);
    let card = json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": versions});
    catalog["meters"].as_array_mut().context("meters")?.extend(meters.iter().cloned());
    catalog["cards"].as_array_mut().context("cards")?.push(card);
    catalog["zone"] = json!("Europe/Berlin");
    catalog["default_rate_card"] = json!("own");
    catalog["default_cost_card"] = Value::Null;
    api.send("PUT", "/v1/catalog", &catalog).await?;
    Ok(())
}

fn event(id: &str, team: &str, time: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "gauges", "type": "gauge", "subject": team, "time": time, "data": data})
}

async fn send(system: &System, events: &[Value]) -> Result<Vec<String>> {
    let body = serde_json::to_vec(events)?;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
    ensure!(status == 200 && answer["accepted"] == events.len(), "{status}: {answer}");
    let results = answer["results"].as_array().context("results")?;
    let receipt = |one: &Value| one["receipt"].as_str().map(str::to_owned).context("a receipt");
    results.iter().map(receipt).collect()
}

/// Waits until ledger and archive say what is owed for each meter.
async fn come_to(system: &System, wanted: &[(&str, &str)]) -> Result<()> {
    for (meter, wanted) in wanted {
        comes_to(system, meter, wanted).await?;
    }
    Ok(())
}

/// Waits until the first periods of a meter, in order of time, are closed.
async fn closed(system: &System, meter: &str, count: usize) -> Result<Vec<Value>> {
    let deadline = Instant::now() + WAIT;
    loop {
        let answer = system.api()?.get(&format!("/v1/meters/{meter}/periods")).await?;
        let mut periods = answer["items"].as_array().context("items")?.clone();
        periods.reverse();
        if periods.len() >= count && periods[..count].iter().all(|one| one["state"] == "closed") {
            return Ok(periods);
        }
        ensure!(Instant::now() < deadline, "{meter}: {periods:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn verify(system: &System) -> Result<()> {
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    system.run("verify", &["verify", "--data", data, "--sample", "500"]).await?;
    Ok(())
}

/// One team's gauge, worked by hand. March 2026 has 743 hours in Berlin; it begins on 28 February at 23:00 UTC.
#[tokio::test]
async fn each_aggregation_closes_its_periods_exactly() -> Result<()> {
    let mut system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let region = json!({"region": "$.region"});
    let meters = [
        meter("peak", "gauge", json!({"aggregation": "max", "dimensions": region})),
        meter("low", "gauge", json!({"aggregation": "min"})),
        meter("mean", "gauge", json!({"aggregation": "average"})),
        meter("last", "gauge", json!({"aggregation": "latest"})),
        meter("users", "gauge", json!({"aggregation": "unique", "value": "$.who"})),
        meter("stored", "gauge", json!({"aggregation": "time_weighted", "held_for": "hour"})),
        meter("share", "gauge", json!({"aggregation": "time_weighted", "held_for": "period"})),
    ];
    let tiers = json!([{"up_to": "5000", "price": "1"}, {"price": "0.5"}]);
    let rows = json!([
        {"meter": "peak", "price": "1"},
        {"meter": "peak", "price": "2", "dimensions": {"region": "us"}},
        {"meter": "low", "price": "1"}, {"meter": "mean", "price": "1"}, {"meter": "last", "price": "1"},
        {"meter": "users", "price": "2"},
        {"meter": "stored", "model": "graduated", "period": "month", "tiers": tiers},
        {"meter": "share", "price": "1"},
    ]);
    publish(&system, &meters, rows).await?;
    let gauge = |id: &str, time: &str, n: &str, who: &str, region: &str| {
        event(id, "acme", time, json!({"n": n, "who": who, "region": region}))
    };
    let receipts = send(
        &system,
        &[
            gauge("1", "2026-02-10T00:00:00Z", "4", "a", "eu"),
            gauge("2", "2026-03-01T00:00:00Z", "10", "a", "eu"),
            gauge("3", "2026-03-11T00:00:00Z", "1", "b", "eu"),
            gauge("4", "2026-03-11T00:00:00Z", "3", "b", "eu"),
            gauge("5", "2026-03-21T00:00:00Z", "7.5", "c", "us"),
            gauge("6", "2026-04-01T00:00:00Z", "0", "a", "eu"),
        ],
    )
    .await?;
    // February, March and April.
    let first = [
        ("peak", "29"),    // 4; 10 and 7.5 at 2; 0
        ("low", "5"),      // 4; 1; 0
        ("mean", "9.375"), // 4; (10 + 1 + 3 + 7.5) / 4; 0
        ("last", "11.5"),  // 4; 7.5; 0
        ("users", "10"),   // 1, 3 and 1 at 2
        // 455 h of 4; 1 h of 4, 240 h of 10, 240 h of 3 and 262 h of 7.5 are 5089; 2 h of 7.5.
        ("stored", "6879.5"),
        // 1820 / 672; 5089 / 743; 15 / 720
        ("share", "9.578426424405"),
    ];
    come_to(&system, &first).await?;
    let periods = closed(&system, "stored", 3).await?;
    ensure!(
        periods[1]["from"] == "2026-02-28T23:00:00.000000Z"
            && periods[1]["to"] == "2026-03-31T22:00:00.000000Z"
            && periods[1]["quantities"] == 1
            && periods[1]["error"].is_null(),
        "{periods:?}"
    );
    // Nothing is held behind April, so nothing is closed for ever.
    ensure!(periods.len() == 4, "{periods:?}");

    // What is observed has no price of its own, and what closes the period says where it comes from.
    let api = system.api()?;
    let seen = api.get(&format!("/v1/events/{}", receipts[1])).await?;
    let lines = seen["lines"].as_array().context("lines")?;
    ensure!(
        lines.len() == 7
            && lines.iter().all(|line| line["status"] == "observed" && line["charge"].is_null()),
        "{seen}"
    );
    let closing = api.get("/v1/events?type=weir.closed.stored&limit=10").await?;
    let closing = closing["items"].as_array().context("items")?;
    ensure!(closing.len() == 3 && closing.iter().all(|one| one["posted"] == true), "{closing:?}");
    let march = &closing[1];
    ensure!(
        march["time"] == "2026-03-31T21:59:59.999999Z" && march["lines"][0]["quantity"] == "5089",
        "{march}"
    );
    // It follows what is observed: it cannot be made to say something else, and nothing can be made to close a period.
    let receipt = |one: &Value| one["receipt"].as_str().map(str::to_owned).context("a receipt");
    for (receipt, body) in [
        (receipt(march)?, json!({"data": {"quantity": "1"}})),
        (receipts[0].clone(), json!({"type": "weir.closed.stored"})),
    ] {
        let path = format!("/v1/events/{receipt}/amend");
        let (status, answer) = api.exchange("POST", &path, serde_json::to_vec(&body)?).await?;
        let code = (&answer["code"], &answer["reason"]);
        ensure!(
            status == 422
                && *code.0 == json!("amendment_rejected")
                && *code.1 == json!("type_reserved"),
            "{status}: {answer}"
        );
    }
    let estimate = api.get("/v1/teams/acme/meters/peak/estimate?at=2026-03-05T00:00:00Z").await?;
    let of_us = json!({"dimensions": {"region": "us"}, "quantity": "7.5", "status": "priced", "charge": "15", "currency": "EUR"});
    ensure!(estimate["quantities"][1] == of_us, "{estimate}");

    // Reported late, after the close and a kill: the period is opened again and amended.
    system.kill("up")?;
    system.start("up").await?;
    send(&system, &[gauge("7", "2026-03-15T00:00:00Z", "20", "d", "eu")]).await?;
    let second = [
        ("peak", "39"), // 20 instead of 10
        ("low", "5"),
        ("mean", "12.3"), // 41.5 / 5
        ("last", "11.5"),
        ("users", "12"),
        ("stored", "8103.5"), // 7537: 5000 and 2537 at 0.5
    ];
    come_to(&system, &second).await?;
    closed(&system, "stored", 4).await?;

    // Taken back: 4 holds for 241 hours.
    let void = format!("/v1/events/{}/void", receipts[1]);
    system.api()?.send("POST", &void, &json!({"reason": "a broken gauge"})).await?;
    let third = [
        ("peak", "39"),
        ("mean", "11.875"),   // (1 + 3 + 20 + 7.5) / 4
        ("users", "10"),      // b, c and d
        ("stored", "7383.5"), // 6097: 5000 and 1097 at 0.5
    ];
    come_to(&system, &third).await?;
    let periods = closed(&system, "stored", 4).await?;
    ensure!(periods[1]["closings"].as_u64() >= Some(3), "{periods:?}");

    // Of a period before all others: 2 holds for 287 hours of January, and for 217 of February.
    send(&system, &[gauge("8", "2026-01-20T00:00:00Z", "2", "a", "eu")]).await?;
    come_to(&system, &[("peak", "41"), ("users", "12"), ("stored", "8391.5")]).await?;
    closed(&system, "stored", 5).await?;
    verify(&system).await
}

/// The same gauge, told by its changes.
#[tokio::test]
async fn changes_add_up_to_what_is_held() -> Result<()> {
    let mut system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let meters = [meter(
        "seats",
        "gauge",
        json!({"aggregation": "time_weighted", "held_for": "hour", "changes": true}),
    )];
    publish(&system, &meters, json!([{"meter": "seats", "price": "1"}])).await?;
    let change = |id: &str, time: &str, n: &str| event(id, "acme", time, json!({"n": n}));
    send(
        &system,
        &[
            change("1", "2026-02-10T00:00:00Z", "4"),
            change("2", "2026-03-01T00:00:00Z", "6"),
            change("3", "2026-03-11T00:00:00Z", "-9"),
            change("4", "2026-03-11T00:00:00Z", "2"),
            change("5", "2026-03-21T00:00:00Z", "4.5"),
            change("6", "2026-04-01T00:00:00Z", "-7.5"),
        ],
    )
    .await?;
    // 1820, 5089 and 15, as of the levels.
    come_to(&system, &[("seats", "6924")]).await?;
    closed(&system, "seats", 3).await?;
    system.kill("up")?;
    system.start("up").await?;
    // 10 more for 406 hours of March and 2 of April.
    let late =
        [change("7", "2026-03-15T00:00:00Z", "10"), change("8", "2026-04-01T00:00:00Z", "-10")];
    let receipts = send(&system, &late).await?;
    come_to(&system, &[("seats", "11004")]).await?;
    for receipt in receipts {
        let void = format!("/v1/events/{receipt}/void");
        system.api()?.send("POST", &void, &json!({"reason": "a mistake"})).await?;
    }
    come_to(&system, &[("seats", "6924")]).await?;
    verify(&system).await
}

/// Many teams, and a process that is killed while their period is closed.
#[tokio::test]
async fn a_close_that_is_killed_comes_to_the_same() -> Result<()> {
    const TEAMS: u64 = 3_000;
    let mut system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let meters = [
        meter("peak", "gauge", json!({"aggregation": "max"})),
        meter("users", "gauge", json!({"aggregation": "unique", "value": "$.who"})),
    ];
    publish(
        &system,
        &meters,
        json!([{"meter": "peak", "price": "1"}, {"meter": "users", "price": "3"}]),
    )
    .await?;
    let events: Vec<Value> = (0..TEAMS)
        .flat_map(|team| {
            (0..3_u64).map(move |one| {
                let data = json!({"n": (team + one).to_string(), "who": format!("u-{}", one % 2)});
                event(
                    &format!("{team}-{one}"),
                    &format!("team-{team}"),
                    "2026-05-05T00:00:00Z",
                    data,
                )
            })
        })
        .collect();
    for page in events.chunks(1_000) {
        send(&system, page).await?;
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        system.kill("up")?;
        system.start("up").await?;
    }
    // The largest of each team is its number and 2; two users each.
    let peak = (TEAMS * (TEAMS - 1) / 2 + 2 * TEAMS).to_string();
    come_to(&system, &[("peak", peak.as_str()), ("users", &(TEAMS * 6).to_string())]).await?;
    closed(&system, "peak", 1).await?;
    verify(&system).await?;
    Ok(())
}

/// What closes a period may reach the archive after what it was counted from was taken back, and the period was closed
/// with nothing to say. So its period is counted once more as soon as it is there.
#[tokio::test]
async fn what_closes_a_period_late_is_looked_at_again() -> Result<()> {
    let system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let meters = [meter("peak", "gauge", json!({"aggregation": "max"}))];
    publish(&system, &meters, json!([{"meter": "peak", "price": "1"}])).await?;
    send(&system, &[event("1", "acme", "2026-03-01T00:00:00Z", json!({"n": "10"}))]).await?;
    come_to(&system, &[("peak", "10")]).await?;
    closed(&system, "peak", 1).await?;
    let found = system.api()?.get("/v1/events?type=weir.closed.peak").await?;
    let receipt = found["items"][0]["receipt"].as_str().context("a receipt")?;
    let place: Vec<i64> = receipt.split(':').map(str::parse).collect::<Result<_, _>>()?;
    // As if it had just come, and nothing had been observed.
    let gone = "ALTER TABLE usage_events DELETE WHERE event_id = '1' SETTINGS mutations_sync = 2";
    system.clickhouse().execute(gone).await?;
    let back = "UPDATE observed_positions SET position = $2 WHERE partition = $1";
    let back = sqlx::query(back).bind(i32::try_from(place[0])?).bind(place[1] - 1);
    back.execute(&mut system.superuser().await?).await?;
    come_to(&system, &[("peak", "0")]).await?;
    let periods = closed(&system, "peak", 1).await?;
    ensure!(periods[0]["closings"] == 2, "{periods:?}");
    Ok(())
}

#[tokio::test]
async fn what_closes_periods_is_ours_to_say() -> Result<()> {
    let system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let api = system.api()?;
    let sent = [
        json!({"id": "1", "type": "weir.closed.peak", "subject": "acme", "source": "x", "data": {"quantity": "5"}}),
        json!({"id": "2", "type": "gauge", "subject": "acme", "source": "weir.closings/2", "data": {"n": "5"}}),
    ];
    for one in sent {
        let (status, answer) =
            system.ingest()?.exchange("POST", "/v1/events", serde_json::to_vec(&one)?).await?;
        ensure!(
            status == 400 && answer["results"][0]["code"] == "type_reserved",
            "{status}: {answer}"
        );
    }
    let wrong = [
        (json!({"aggregation": "max", "period": null}), "meters[m].period"),
        (json!({"aggregation": "max", "period": "ever"}), "meters[m].period"),
        (json!({"aggregation": "sum"}), "meters[m].period"),
        (json!({"aggregation": "max", "value": null}), "meters[m].value"),
        (json!({"aggregation": "time_weighted"}), "meters[m].held_for"),
        (json!({"aggregation": "max", "held_for": "day"}), "meters[m].held_for"),
        (json!({"aggregation": "max", "changes": true}), "meters[m].changes"),
        (
            json!({"aggregation": "unique", "dimensions": {"value": "$.x"}}),
            "meters[m].dimensions[value]",
        ),
        (json!({"aggregation": "max", "event_types": ["weir.closed.x"]}), "meters[m].event_types"),
    ];
    for (more, place) in wrong {
        let body = serde_json::to_vec(&meter("m", "gauge", more))?;
        let (status, answer) = api.exchange("POST", "/v1/meters", body).await?;
        ensure!(status == 422 && answer["faults"][0]["place"] == place, "{status}: {answer}");
    }
    let plain = json!({"key": "plain", "event_types": ["e"], "aggregation": "sum", "value": "$.n"});
    api.send("POST", "/v1/meters", &plain).await?;
    let (status, answer) =
        api.exchange("GET", "/v1/teams/acme/meters/plain/estimate", Vec::new()).await?;
    ensure!(status == 422 && answer["code"] == "meter_adds_up", "{status}: {answer}");
    let (status, answer) = api.exchange("GET", "/v1/meters/none/periods", Vec::new()).await?;
    ensure!(status == 404 && answer["code"] == "meter_unknown", "{status}: {answer}");
    let none = api.get("/v1/meters/plain/periods").await?;
    ensure!(none["items"] == json!([]), "{none}");
    Ok(())
}
