//! What `weir up --demo` shows: a catalog, what providers charge, and a day of usage of twenty teams,
//! all of it through the public interface.

use anyhow::Result;
use benches::spread::Spread;
use jiff::Timestamp;
use reqwest::Method;
use runtime::task::now_us;
use serde_json::{Value, json};

use crate::{
    client::Client,
    folder::{DataFolder, write_private},
    replay::send::{Form, Sender},
};

/// Meters, a rate card and a cost card. The costs of gpt-4-turbo are OpenAI's list prices of
/// 2026-07-02 in USD; the rate card is ours.
const CATALOG: &str = include_str!("../demo/catalog.json");

const EVENTS: u64 = 3_000;
const BATCH: u64 = 500;
const TEAMS: u32 = 20;
const DAY_US: i64 = 86_400_000_000;
const MODELS: [(&str, &str); 3] =
    [("openai", "gpt-4-turbo"), ("openai", "gpt-4.1-mini"), ("anthropic", "claude-sonnet-4")];
/// Says that the demo's usage was sent.
const DONE: &str = "demo";

/// Publishes the catalog where there is none, with the providers' prices, and sends the usage once.
pub async fn run(client: &Client, folder: &DataFolder) -> Result<()> {
    let current = client.get("/v1/catalog").await?;
    if current.get("catalog_version").and_then(Value::as_u64) == Some(0) {
        let body = CATALOG.as_bytes().to_vec();
        let headers = [("Idempotency-Key", "weir-demo")];
        let answer = client.send_patiently(Method::PUT, "/v1/catalog", body, &headers).await?;
        answer.success("publishing the demo's catalog")?;
        let body = br#"{"builtin": true}"#.to_vec();
        let path = "/v1/providers/pricing/imports";
        let answer = client.send_patiently(Method::POST, path, body, &headers).await?;
        answer.success("importing the providers' prices")?;
    }
    let done = folder.path().join(DONE);
    if done.exists() {
        return Ok(());
    }
    // Ids are the same every time, so a demo that was cut off can be sent again.
    let spread = Spread::new(TEAMS, 1, 1.0);
    let mut sender = Sender::to(client.clone(), Form::Array);
    let now = now_us();
    for begin in (0..EVENTS).step_by(usize::try_from(BATCH)?) {
        let events: Result<Vec<String>> =
            (begin..begin + BATCH).map(|number| event(number, &spread, now)).collect();
        sender.send(&events?).await?;
    }
    write_private(&done, b"sent\n")
}

/// The event of a number: two of three are LLM calls.
fn event(number: u64, spread: &Spread, now_us: i64) -> Result<String> {
    // Spread over the last day, the newest first.
    let age_us = DAY_US / i64::try_from(EVENTS)? * i64::try_from(number)?;
    let mixed = number.wrapping_mul(2_654_435_761) >> 7;
    let model = usize::try_from(mixed % 7)?;
    let (provider, model) = MODELS.get(model).or(MODELS.first()).copied().unwrap_or_default();
    let (event_type, data) = if number.is_multiple_of(3) {
        (
            "api.request.v1",
            json!({ "route": if mixed.is_multiple_of(2) { "/v1/search" } else { "/v1/answer" } }),
        )
    } else {
        let (input, output) = (50 + mixed % 4_000, 10 + mixed % 700);
        (
            "llm.tokens.v1",
            json!({ "provider": provider, "model": model, "inputTokens": input, "outputTokens": output }),
        )
    };
    let event = json!({
        "id": format!("demo-{number}"),
        "source": "weir-demo",
        "type": event_type,
        "subject": spread.team(number),
        "user": format!("user-{}", mixed % 5),
        "time": Timestamp::from_microsecond(now_us - age_us)?.to_string(),
        "data": data,
    });
    Ok(event.to_string())
}
