//! Forms of other systems, and CloudEvents in binary mode: what is answered, and what is in the log.

use anyhow::Result;
use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::world::World;

const PATH: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";
const ONE: &[(&str, &str)] = &[("content-type", "application/cloudevents+json")];
const MANY: &[(&str, &str)] = &[("content-type", "application/cloudevents-batch+json")];
const PLAIN: &[(&str, &str)] = &[("content-type", "application/json")];

/// Sends with the good key; an empty answer is null.
async fn send(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Result<(StatusCode, HeaderMap, Value)> {
    let mut request =
        Request::post(path).header("authorization", format!("Bearer {}", world.key.text));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = world.router.clone().oneshot(request.body(body.into())?).await?;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await?;
    let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    Ok((parts.status, parts.headers, value))
}

fn cloud(id: &str, team: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "s", "type": "tokens", "subject": team, "data": {"tokens": "100"}})
}

fn lago(id: &str, team: &str) -> Value {
    json!({"transaction_id": id, "external_subscription_id": team, "code": "tokens", "properties": {"tokens": "100"}})
}

fn ids(world: &World) -> Result<Vec<String>> {
    let mut ids: Vec<String> = world.logged()?.0.into_iter().map(|event| event.id).collect();
    ids.sort();
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloudevents_are_all_accepted_or_none() -> Result<()> {
    let world = World::start().await?;
    for (headers, body) in [
        (ONE, cloud("1", "a")),
        (MANY, json!([cloud("2", "a"), cloud("3", "b")])),
        (PLAIN, cloud("4", "c")),
        (PLAIN, json!([cloud("5", "d")])),
    ] {
        let (status, _, answer) = send(&world, PATH, headers, body.to_string()).await?;
        assert_eq!((status.as_u16(), answer), (204, Value::Null), "{body}");
    }
    let accepted = ["1", "2", "3", "4", "5"];
    assert_eq!(ids(&world)?, accepted);

    let bad = json!([cloud("6", "a"), cloud("7", ""), cloud("8", "b")]);
    let (status, _, problem) = send(&world, PATH, MANY, bad.to_string()).await?;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("all_rejected")), "{problem}");
    let results = problem["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|result| result["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["others_rejected", "subject_missing", "others_rejected"]);
    assert_eq!((&problem["accepted"], &problem["rejected"]), (&json!(0), &json!(1)));
    let (status, _, problem) = send(&world, PATH, ONE, cloud("", "a").to_string()).await?;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("id_missing")));
    let (status, _, problem) = send(&world, PATH, ONE, "{").await?;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("json_invalid")));
    let (status, _, problem) = send(&world, PATH, &[("content-type", "text/html")], "{}").await?;
    assert_eq!((status.as_u16(), &problem["code"]), (415, &json!("content_type_unsupported")));
    assert_eq!(ids(&world)?, accepted);
    let rejected = "weir_ingest_events_rejected_total{code=\"subject_missing\"}";
    assert_eq!(world.metric(rejected), 1);
    Ok(world.stop().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lago_is_answered_with_its_events() -> Result<()> {
    let world = World::start().await?;
    let mut event = lago("1", "a");
    event["timestamp"] = json!("1700000000.25");
    event["precise_total_amount_cents"] = json!(12.5);
    let body = json!({ "event": event }).to_string();
    let (status, headers, first) = send(&world, PATH, PLAIN, body.clone()).await?;
    assert_eq!(status.as_u16(), 200, "{first}");
    assert_eq!(headers["content-type"], "application/json");
    let answer = &first["event"];
    assert_eq!(answer["transaction_id"], "1");
    assert_eq!(answer["external_subscription_id"], "a");
    assert_eq!(answer["timestamp"], "2023-11-14T22:13:20.250000Z");
    assert_eq!(answer["precise_total_amount_cents"], "12.5");
    assert_eq!(answer["properties"], json!({"tokens": "100"}));
    let (_, _, again) = send(&world, PATH, PLAIN, body).await?;
    assert_eq!(again["event"]["lago_id"], answer["lago_id"]);

    let several = json!({"events": [lago("2", "a"), lago("3", "b")]}).to_string();
    let (status, _, answer) = send(&world, BATCH, PLAIN, several).await?;
    assert_eq!(status.as_u16(), 200, "{answer}");
    assert_eq!(answer["events"].as_array().unwrap().len(), 2);
    assert_eq!(answer["events"][1]["transaction_id"], "3");
    assert_ne!(answer["events"][1]["lago_id"], answer["events"][0]["lago_id"]);
    let accepted = ["1", "1", "2", "3"];
    assert_eq!(ids(&world)?, accepted);

    let late = |timestamp: Value| {
        let mut event = lago("5", "a");
        event["timestamp"] = timestamp;
        json!({"events": [lago("4", "b"), event]})
    };
    for (body, code) in [
        (json!({"events": [lago("4", "a"), lago("", "b")]}), "id_missing"),
        (json!({"events": [lago("4", "a"), {"transaction_id": "5"}]}), "type_missing"),
        (late(json!(1_700_000_000_000_i64)), "time_invalid"),
        (late(json!("yesterday")), "time_invalid"),
        (late(json!("4102444800")), "time_in_future"),
        (json!({"events": [lago("4", "a"), lago("5", &"x".repeat(300))]}), "field_too_long"),
        (json!({"events": []}), "no_events"),
        (json!({"event": lago("4", "a")}), "json_invalid"),
    ] {
        let (status, _, problem) = send(&world, BATCH, PLAIN, body.to_string()).await?;
        let found = match problem["code"].as_str() {
            Some("all_rejected") => &problem["results"][1]["code"],
            _ => &problem["code"],
        };
        assert_eq!((status.as_u16(), found), (400, &json!(code)), "{body}: {problem}");
    }
    let many = vec![json!({}); 10_001];
    let (status, _, problem) =
        send(&world, BATCH, PLAIN, json!({ "events": many }).to_string()).await?;
    assert_eq!((status.as_u16(), &problem["code"]), (413, &json!("too_many_events")));
    assert_eq!(ids(&world)?, accepted);
    Ok(world.stop().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_sent_again_and_counts_once() -> Result<()> {
    let config = ingest::Config { answer_timeout_ms: 2_000, ..crate::world::config() };
    let world = World::with(config).await?;
    world.gate.hold();
    let bodies = [
        (PATH, json!({"event": lago("1", "a")})),
        (BATCH, json!({"events": [lago("2", "b")]})),
        (PATH, cloud("3", "c")),
    ];
    for (path, body) in &bodies {
        let (status, headers, problem) = send(&world, path, PLAIN, body.to_string()).await?;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("outcome_unknown")));
        assert!(headers.contains_key("retry-after"));
    }
    world.gate.open();
    for (path, body) in &bodies {
        let (status, ..) = send(&world, path, PLAIN, body.to_string()).await?;
        assert!(status.is_success(), "{status}");
    }
    world.gate.refuse();
    let (status, headers, problem) = send(&world, PATH, ONE, cloud("4", "a").to_string()).await?;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("log_unavailable")));
    assert!(headers.contains_key("retry-after"));
    // The repeats are there with the same identity: the rater takes the first.
    assert_eq!(ids(&world)?, ["1", "1", "2", "2", "3", "3"]);
    Ok(world.stop().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_mode_is_one_event() -> Result<()> {
    let world = World::start().await?;
    let attributes = |id: &'static str| {
        [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-type", "tokens"),
            ("ce-source", "s"),
            ("ce-subject", "t%C3%A9am"),
        ]
    };
    let with = |id, further: &[(&'static str, &'static str)]| [&attributes(id), further].concat();
    let json = ("content-type", "application/json; charset=utf-8");
    let hold = ("ce-holdid", "00000000-0000-0000-0000-000000000009");
    let time = ("ce-time", "2026-05-04T03:02:01Z");
    for (path, headers, data, wanted) in [
        ("/v1/events", with("1", &[json]), "{\"tokens\": 1}", 200),
        ("/v1/events", with("2", &[]), "{\"tokens\": 1}", 200),
        ("/v1/events/ingest", with("3", &[json]), "", 200),
        (PATH, with("4", &[json, hold, time, ("ce-holdend", "true")]), "[1]", 204),
    ] {
        let (status, _, answer) = send(&world, path, &headers, data).await?;
        assert_eq!(status.as_u16(), wanted, "{answer}");
    }
    for (path, headers, data, code) in [
        ("/v1/events", with("5", &[("content-type", "text/plain")]), "1", "data_not_json"),
        (PATH, with("5", &[json]), "{\"tokens\": 1", "data_not_json"),
        ("/v1/events", with("5", &[json]), "1,\"id\":\"6\"", "data_not_json"),
        ("/v1/events", with("5", &[("ce-user", "%ff")]), "1", "field_not_text"),
        ("/v1/events", with("5", &[hold]), "1", "hold_needs_time"),
        ("/v1/events", with("5", &[("ce-id", "6")]), "1", "duplicate_member"),
    ] {
        let (status, _, problem) = send(&world, path, &headers, data).await?;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!(code)), "{problem}");
    }
    let (mut events, _) = world.logged()?;
    events.sort_by(|one, other| one.id.cmp(&other.id));
    let found: Vec<_> =
        events.iter().map(|event| (event.id.as_str(), event.team.as_str())).collect();
    assert_eq!(found, ["1", "2", "3", "4"].map(|id| (id, "téam")));
    Ok(world.stop().await?)
}
