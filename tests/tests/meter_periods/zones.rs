//! Periods of teams that have a zone of their own: worked by hand.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::system::System;

use super::{AT_ONCE, closed, come_to, event, meter, publish, send, verify};

/// April in Tokyo, and March in Berlin.
const BETWEEN: &str = "2026-03-31T16:00:00Z";

async fn set(system: &System, zones: &Value) -> Result<(u16, Value)> {
    let api = system.api()?;
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    catalog["team_zones"] = zones.clone();
    api.exchange("PUT", "/v1/catalog", serde_json::to_vec(&catalog)?).await
}

#[tokio::test]
async fn teams_with_a_zone_of_their_own_have_their_own_periods() -> Result<()> {
    let system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let mut calls = meter("calls", "call", json!({"aggregation": "sum"}));
    calls.as_object_mut().context("a meter")?.remove("period");
    let meters = [meter("peak", "gauge", json!({"aggregation": "max"})), calls];
    let tiers = json!([{"up_to": "10", "price": "2"}, {"price": "1"}]);
    let rows = json!([{"meter": "peak", "price": "1"},
        {"meter": "calls", "model": "graduated", "period": "month", "tiers": tiers}]);
    publish(&system, &meters, rows).await?;
    let (status, refused) =
        set(&system, &json!([{"team": "tokyo", "zone": "Asia/Nowhere"}])).await?;
    ensure!(status == 422 && refused["faults"][0]["place"] == "team_zones[0].zone", "{refused}");
    let zones = json!([{"team": "tokyo", "zone": "Asia/Tokyo"},
        {"team": "moves", "zone": "Asia/Tokyo", "from": "2026-03-16T00:00:00Z"}]);
    let (status, answer) = set(&system, &zones).await?;
    ensure!(status == 200, "{answer}");
    let mut kept = system.api()?.get("/v1/catalog").await?["catalog"]["team_zones"].take();
    ensure!(kept[1]["from"].take() == "2026-03-16T00:00:00.000000Z", "{kept}");

    let both = |team: &str, number: u32, time: &str, n: &str| {
        let mut call = event(&format!("c{number}"), team, time, json!({"n": "6"}));
        call["type"] = json!("call");
        [event(&format!("g{number}"), team, time, json!({"n": n})), call]
    };
    let mut events = Vec::new();
    for team in ["acme", "tokyo"] {
        events.extend(both(team, 1, "2026-03-10T00:00:00Z", "9"));
        events.extend(both(team, 2, BETWEEN, "5"));
    }
    events.extend(both("moves", 1, "2026-03-10T00:00:00Z", "9"));
    events.extend(both("moves", 2, "2026-03-20T00:00:00Z", "4"));
    events.push(event("g3", "moves", BETWEEN, json!({"n": "5"})));
    send(&system, &events).await?;
    // calls: acme 6 at 2, then 4 at 2 and 2 at 1; the others 6 at 2 in each of two months.
    // peak: acme 9; tokyo 9 and 5; moves 9 up to the 16th, 4 from then on, 5 in April.
    come_to(&system, &[("calls", "70"), ("peak", "41")]).await?;
    let periods = closed(&system, "peak", 3).await?;
    let own: Vec<&Value> = periods.iter().filter(|one| one["zone"] == "Asia/Tokyo").collect();
    let begin: Vec<&str> = own.iter().filter_map(|one| one["from"].as_str()).collect();
    ensure!(begin == ["2026-02-28T15:00:00.000000Z", "2026-03-31T15:00:00.000000Z"], "{periods:?}");
    ensure!(own[0]["quantities"] == 2 && own[1]["quantities"] == 2, "{periods:?}");

    for (at, from, counted_to, quantity) in [
        ("2026-03-10T00:00:00Z", "2026-02-28T23:00:00.000000Z", "2026-03-16T00:00:00.000000Z", "9"),
        ("2026-03-20T00:00:00Z", "2026-02-28T15:00:00.000000Z", "2026-03-31T15:00:00.000000Z", "4"),
    ] {
        let path = format!("/v1/teams/moves/meters/peak/estimate?at={at}");
        let shown = system.api()?.get(&path).await?;
        ensure!(shown["from"] == from && shown["counted_to"] == counted_to, "{shown}");
        ensure!(shown["quantities"][0]["quantity"] == quantity, "{shown}");
    }

    // Reported late: each in the period of its team's zone.
    send(&system, &[event("g4", "tokyo", BETWEEN, json!({"n": "8"}))]).await?;
    send(&system, &[event("g4", "acme", BETWEEN, json!({"n": "8"}))]).await?;
    come_to(&system, &[("peak", "44")]).await?;
    verify(&system).await
}
