//! Meters that change: one that comes after its usage, and a dimension that comes later. Old usage keeps what it was
//! charged until it is rated again.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    oracle::parse,
    owed::comes_to,
    system::{System, amount},
};

use super::{balance, carried_out, event, meter, publish, send, verify};

/// The card with these rows, and with others from its beginning where they have been changed.
fn card(all: &[&Value]) -> Value {
    let version = |rows: &&Value| json!({"effective_from": "2000-01-01T00:00:00Z", "rates": rows});
    json!([{"key": "own", "kind": "rate", "currency": "EUR",
        "versions": all.iter().map(version).collect::<Vec<_>>()}])
}

/// Quantity and charge of a meter by the values of a dimension; usage without one is under the empty text.
async fn usage(system: &System, meter: &str, by: &str) -> Result<BTreeMap<String, (i128, i128)>> {
    let path = format!("/v1/usage?meter={meter}&group_by={by}&limit=1000");
    let page = system.api()?.get(&path).await?;
    let row = |row: &Value| {
        let value = row["group"][by].as_str().unwrap_or_default().to_owned();
        Ok((value, (amount(&row["quantity"])?, amount(&row["charge"])?)))
    };
    page["items"].as_array().context("items")?.iter().map(row).collect()
}

fn by(all: &[(&str, &str, &str)]) -> Result<BTreeMap<String, (i128, i128)>> {
    all.iter()
        .map(|(value, quantity, charge)| {
            Ok(((*value).to_owned(), (parse(quantity)?, parse(charge)?)))
        })
        .collect()
}

#[tokio::test]
async fn usage_that_no_meter_saw_is_charged_once_a_meter_counts_it() -> Result<()> {
    let system = System::embedded().await?;
    let old = json!([{"meter": "plain", "price": "0.5"}]);
    publish(&system, json!([meter("plain")]), card(&[&old]), "own").await?;
    let events = [event("later", "1", "3"), event("plain", "2", "8"), event("later", "3", "5")];
    let receipts = send(&system, &events).await?;
    let counts = system.settled(Some(3)).await?;
    ensure!(counts["unmetered"] == 2 && counts["rated"] == 1, "{counts:?}");
    let unmetered = system.api()?.get("/v1/events?outcome=unmetered").await?;
    assert_eq!(unmetered["items"].as_array().map(Vec::len), Some(2), "{unmetered}");

    // The meter and its price come later, and hold for what comes after them: 1 at 2.
    let new = json!([{"meter": "plain", "price": "0.5"}, {"meter": "later", "price": "2"}]);
    publish(&system, json!([meter("later")]), card(&[&old, &new]), "own").await?;
    send(&system, &[event("later", "4", "1")]).await?;
    system.settled(Some(4)).await?;
    comes_to(&system, "later", "2").await?;
    assert_eq!(balance(&system).await?, -parse("6")?);

    // 3 and 5 at 2, and nothing else.
    let asked =
        json!({"kind": "rate", "filter": {"outcome": "unmetered"}, "reason": "a new meter"});
    let (shown, deltas) = carried_out(&system, &asked).await?;
    ensure!(shown["changes"] == 2 && shown["events"] == 4, "{shown}");
    assert_eq!(deltas, [(("acme".to_owned(), "later".to_owned()), parse("16")?)].into());
    comes_to(&system, "later", "18").await?;
    comes_to(&system, "plain", "4").await?;
    assert_eq!(balance(&system).await?, -parse("22")?);
    assert_eq!(usage(&system, "later", "team").await?, by(&[("acme", "9", "18")])?);
    let kept = system.api()?.get(&format!("/v1/events/{}", receipts[0])).await?;
    let correction = &kept["corrections"][0];
    ensure!(kept["status"] == "unmetered" && correction["outcome"] == "rated", "{kept}");
    let line = &correction["lines"][0];
    ensure!(line["quantity"] == "3" && line["charge"] == "6", "{kept}");

    // Again there is nothing to do.
    let (shown, deltas) = carried_out(&system, &asked).await?;
    ensure!(shown["changes"] == 0 && deltas.is_empty(), "{shown}");
    verify(&system).await
}

fn work(id: &str, n: &str, region: &str, size: &str) -> Value {
    let mut event = event("work", id, n);
    event["data"] = json!({"n": n, "region": region, "size": size});
    event
}

#[tokio::test]
async fn a_dimension_that_comes_later_leaves_history_as_it_is() -> Result<()> {
    let system = System::embedded().await?;
    let of = |dimensions: Value| {
        let mut meter = meter("work");
        meter["dimensions"] = dimensions;
        json!([meter])
    };
    let old = json!([{"meter": "work", "price": "1"}]);
    publish(&system, of(json!({"region": "$.region"})), card(&[&old]), "own").await?;
    let receipts = send(
        &system,
        &[
            work("1", "2", "eu", "small"),
            work("2", "4", "eu", "large"),
            work("3", "5", "us", "large"),
        ],
    )
    .await?;
    system.settled(Some(3)).await?;
    comes_to(&system, "work", "11").await?;
    let regions = by(&[("eu", "6", "6"), ("us", "5", "5")])?;
    assert_eq!(usage(&system, "work", "region").await?, regions);

    // Large work costs 3 from now on. What was reported before stays, in every question.
    let both = json!({"region": "$.region", "size": "$.size"});
    let new = json!([{"meter": "work", "price": "1"},
        {"meter": "work", "dimensions": {"size": "large"}, "price": "3"}]);
    publish(&system, of(both), card(&[&old, &new]), "own").await?;
    assert_eq!(usage(&system, "work", "region").await?, regions);
    assert_eq!(usage(&system, "work", "size").await?, by(&[("", "11", "11")])?);
    send(&system, &[work("4", "10", "eu", "large"), work("5", "1", "us", "small")]).await?;
    system.settled(Some(5)).await?;
    // 10 at 3, and 1 at 1.
    comes_to(&system, "work", "42").await?;
    let regions = by(&[("eu", "16", "36"), ("us", "6", "6")])?;
    assert_eq!(usage(&system, "work", "region").await?, regions);
    let sizes = by(&[("", "11", "11"), ("large", "10", "30"), ("small", "1", "1")])?;
    assert_eq!(usage(&system, "work", "size").await?, sizes);
    let kept = system.api()?.get(&format!("/v1/events/{}", receipts[1])).await?;
    let line = &kept["lines"][0];
    ensure!(line["charge"] == "4" && line["dimensions"] == json!({"region": "eu"}), "{kept}");

    // Rated again, the three old ones get their size; 4 and 5 cost 2 more each.
    let asked = json!({"kind": "rate", "filter": {"meter": "work"}, "reason": "sizes"});
    let (shown, deltas) = carried_out(&system, &asked).await?;
    ensure!(shown["changes"] == 3 && shown["events"] == 5, "{shown}");
    assert_eq!(deltas, [(("acme".to_owned(), "work".to_owned()), parse("18")?)].into());
    comes_to(&system, "work", "60").await?;
    assert_eq!(balance(&system).await?, -parse("60")?);
    let regions = by(&[("eu", "16", "44"), ("us", "6", "16")])?;
    assert_eq!(usage(&system, "work", "region").await?, regions);
    // Without a size there is nothing left: what was booked, and the same taken back.
    let sizes = by(&[("", "0", "0"), ("large", "19", "57"), ("small", "3", "3")])?;
    assert_eq!(usage(&system, "work", "size").await?, sizes);
    verify(&system).await
}
