//! Offers that a team had before anybody said so: published late, from a time in the past.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{oracle::parse, owed::comes_to, system::System};

use super::{carried_out, event, meter, publish, send, verify};

fn at(subject: &str, day: &str, mut event: Value) -> Value {
    event["subject"] = json!(subject);
    event["time"] = json!(format!("2026-06-{day}T12:00:00Z"));
    event
}

async fn owes(system: &System, team: &str) -> Result<i128> {
    Ok(system.receivables().await?.get(team).copied().unwrap_or(0))
}

#[tokio::test]
async fn an_offer_from_the_past_is_charged_once_its_team_is_rated_again() -> Result<()> {
    let system = System::embedded().await?;
    let rows = json!([{"meter": "plain", "price": "2"}]);
    let cards = json!([
        {"key": "own", "kind": "rate", "currency": "EUR", "versions": [{"rates": rows}]},
        {"key": "agreed", "kind": "rate", "currency": "EUR",
            "versions": [{"rates": [{"meter": "plain", "price": "0.5"}]}]}]);
    publish(&system, json!([meter("plain")]), cards, "own").await?;
    let events = [
        at("acme", "01", event("plain", "1", "3")),
        at("acme", "10", event("plain", "2", "5")),
        at("bolt", "01", event("plain", "3", "4")),
        at("bolt", "10", event("plain", "4", "7")),
        at("carl", "10", event("plain", "5", "1")),
    ];
    send(&system, &events).await?;
    system.settled(Some(5)).await?;
    // 8, 11 and 1 at 2.
    comes_to(&system, "plain", "40").await?;

    // Since the fifth of June, Acme pays by the agreed card, and Bolt half.
    let mut catalog = system.api()?.get("/v1/catalog").await?["catalog"].take();
    catalog["offers"] = json!([{"key": "deal", "source": "contract", "card": "agreed"},
        {"key": "half", "source": "team", "multiplier": "0.5", "meters": ["plain"]}]);
    catalog["holders"] = json!([{"team": "acme", "offer": "deal", "from": "2026-06-05T00:00:00Z"},
        {"team": "bolt", "offer": "half", "from": "2026-06-05T00:00:00Z"}]);
    system.api()?.send("PUT", "/v1/catalog", &catalog).await?;
    // What comes from now on has it: 2 at 0.5.
    send(&system, &[at("acme", "11", event("plain", "6", "2"))]).await?;
    system.settled(Some(6)).await?;
    comes_to(&system, "plain", "41").await?;

    let of = |team: &str| json!({"kind": "rate", "filter": {"team": team}, "reason": "a contract"});
    let delta = |team: &str, charge: &str| -> Result<_> {
        Ok([((team.to_owned(), "plain".to_owned()), parse(charge)?)].into())
    };
    // Only the 5 of the tenth: 2.5 instead of 10.
    let (shown, deltas) = carried_out(&system, &of("acme")).await?;
    ensure!(shown["changes"] == 1 && shown["events"] == 3, "{shown}");
    ensure!(shown["preview"].as_array().context("totals")?.len() == 1, "{shown}");
    assert_eq!(deltas, delta("acme", "-7.5")?);
    comes_to(&system, "plain", "33.5").await?;
    assert_eq!(owes(&system, "acme").await?, parse("9.5")?);
    assert_eq!(owes(&system, "bolt").await?, parse("22")?);
    // Of Bolt the 7: 7 instead of 14.
    let (shown, deltas) = carried_out(&system, &of("bolt")).await?;
    ensure!(shown["changes"] == 1 && shown["events"] == 2, "{shown}");
    assert_eq!(deltas, delta("bolt", "-7")?);
    comes_to(&system, "plain", "26.5").await?;
    assert_eq!(owes(&system, "acme").await?, parse("9.5")?);
    assert_eq!(owes(&system, "bolt").await?, parse("15")?);
    assert_eq!(owes(&system, "carl").await?, parse("2")?);
    // For all others there is nothing to do.
    let (shown, deltas) =
        carried_out(&system, &json!({"kind": "rate", "reason": "everybody"})).await?;
    ensure!(shown["changes"] == 0 && shown["events"] == 6 && deltas.is_empty(), "{shown}");
    verify(&system).await
}
