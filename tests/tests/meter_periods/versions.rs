//! A price that changes inside a period: what adds up pays each event by its time, what does not pays once.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::system::System;

use super::{AT_ONCE, closed, come_to, event, meter, publish, send, verify};

/// The last moment of March in Berlin.
const CLOSE: &str = "2026-03-31T21:59:59.999999Z";

fn rows(peak: &str, held: &str, traffic: &str) -> Value {
    json!([{"meter": "peak", "price": peak}, {"meter": "held", "price": held}, {"meter": "traffic", "price": traffic}])
}

fn call(id: &str, time: &str, n: &str) -> Value {
    let mut call = event(id, "acme", time, json!({"n": n}));
    call["type"] = json!("call");
    call
}

/// The line that closed March: its quantity, its charge, and the version of the card that priced it.
async fn march(system: &System, meter: &str) -> Result<[Value; 3]> {
    let path = format!("/v1/events?type=weir.closed.{meter}&limit=10");
    let found = system.api()?.get(&path).await?;
    let items = found["items"].as_array().context("items")?;
    let own: Vec<&Value> = items.iter().filter(|one| one["time"] == CLOSE).collect();
    ensure!(
        own.len() == 1 && own[0]["lines"].as_array().is_some_and(|lines| lines.len() == 1),
        "{found}"
    );
    Ok(["quantity", "charge", "card_version"].map(|name| own[0]["lines"][0][name].clone()))
}

#[tokio::test]
async fn a_card_version_inside_a_period_prices_the_whole_of_what_does_not_add_up() -> Result<()> {
    let system = System::embedded_with(&AT_ONCE, &[], &[]).await?;
    let mut traffic = meter("traffic", "call", json!({"aggregation": "sum"}));
    traffic.as_object_mut().context("a meter")?.remove("period");
    let held = json!({"aggregation": "time_weighted", "held_for": "hour"});
    let meters = [
        meter("peak", "gauge", json!({"aggregation": "max"})),
        meter("held", "gauge", held),
        traffic,
    ];
    publish(&system, &meters, rows("1", "1", "1")).await?;
    let version = json!({"effective_from": "2026-03-15T00:00:00Z", "rates": rows("3", "2", "4")});
    system.api()?.send("POST", "/v1/rate-cards/own/versions", &version).await?;

    let gauge = |id: &str, time: &str, n: &str| event(id, "acme", time, json!({"n": n}));
    send(
        &system,
        &[
            gauge("1", "2026-03-01T00:00:00Z", "10"),
            gauge("2", "2026-03-11T00:00:00Z", "4"),
            gauge("3", "2026-03-21T00:00:00Z", "6"),
            // April's first moment: nothing is held from then on.
            gauge("4", "2026-03-31T22:00:00Z", "0"),
            call("5", "2026-03-14T23:59:59.999999Z", "7"),
            call("6", "2026-03-15T00:00:00Z", "7"),
        ],
    )
    .await?;
    let first = [
        // The largest is of before the 15th; March is closed behind it, at 3: not 10 × 1, and not both.
        ("peak", "30"),
        // 240 h of 10, 240 h of 4 and 262 h of 6 are 4932, all of them at 2; by the hour it would be 2784 × 1 + 2148 × 2 = 7080.
        ("held", "9864"),
        // 7 × 1 + 7 × 4
        ("traffic", "35"),
    ];
    come_to(&system, &first).await?;
    for (meter, line) in [
        ("peak", [json!("10"), json!("30"), json!(2)]),
        ("held", [json!("4932"), json!("9864"), json!(2)]),
    ] {
        closed(&system, meter, 2).await?;
        assert_eq!(march(&system, meter).await?, line, "{meter}");
    }

    // Reported late, of before the version: the period is amended at the price of its close, the sum takes its own.
    send(
        &system,
        &[gauge("7", "2026-03-05T00:00:00Z", "20"), call("8", "2026-03-05T00:00:00Z", "5")],
    )
    .await?;
    let second = [
        // 20 × 3
        ("peak", "60"),
        // 96 h of 10, 144 h of 20, 240 h of 4 and 262 h of 6 are 6372; × 2
        ("held", "12744"),
        // and 5 × 1
        ("traffic", "40"),
    ];
    come_to(&system, &second).await?;
    closed(&system, "held", 2).await?;
    verify(&system).await
}
