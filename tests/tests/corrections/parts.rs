//! A part of a period that is rated again: only that part changes, and what cannot be counted from there is refused.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{oracle::parse, owed::comes_to, system::System};

use super::{
    balance, begun, carried_out, deltas, event, exchange, failed, meter, publish, send, verify,
};

/// The middle of the month.
const MIDDLE: &str = "2026-06-15T00:00:00Z";

fn rows(plain: &str, once: &str, first: &str, grown: Value) -> Value {
    let tiers = json!([{"up_to": "10", "price": first}, {"price": "1"}]);
    json!([{"meter": "plain", "price": plain},
        {"meter": "once", "model": "flat", "price": once, "period": "month"},
        {"meter": "tiered", "model": "graduated", "period": "month", "tiers": tiers},
        grown])
}

fn asked(meter: &str, (name, time): (&str, &str)) -> Value {
    json!({"kind": "rate", "filter": {"meter": meter, name: time}, "reason": "half a month"})
}

#[tokio::test]
async fn a_part_of_a_period_is_rated_again_where_it_can_be_counted() -> Result<()> {
    let system = System::embedded().await?;
    let old = rows("0.5", "49", "2", json!({"meter": "grown", "price": "1"}));
    let tiers = json!([{"up_to": "10", "price": "2"}, {"price": "1"}]);
    let grown = json!({"meter": "grown", "model": "graduated", "period": "month", "tiers": tiers});
    let new = rows("0.75", "59", "3", grown);
    let version = |rows: &Value| json!({"effective_from": "2000-01-01T00:00:00Z", "rates": rows});
    let card = |all: &[&Value]| {
        let versions: Vec<Value> = all.iter().map(|rows| version(rows)).collect();
        json!([{"key": "own", "kind": "rate", "currency": "EUR", "versions": versions}])
    };
    let meters = ["plain", "once", "tiered", "grown"].map(meter);
    publish(&system, json!(meters), card(&[&old]), "own").await?;
    let mut events = Vec::new();
    for (day, plain) in [("10", "8"), ("20", "4")] {
        for (kind, n) in [("plain", plain), ("once", "1"), ("tiered", "6"), ("grown", "6")] {
            let mut event = event(kind, &format!("{kind}-{day}"), n);
            event["time"] = json!(format!("2026-06-{day}T12:00:00Z"));
            events.push(event);
        }
    }
    let receipts = send(&system, &events).await?;
    system.settled(Some(8)).await?;
    // 8 and 4 at 0.5; once; 6 at 2, then 4 at 2 and 2 at 1; 12 at 1.
    for (meter, owed) in [("plain", "6"), ("once", "49"), ("tiered", "22"), ("grown", "12")] {
        comes_to(&system, meter, owed).await?;
    }
    publish(&system, json!([]), card(&[&old, &new]), "own").await?;
    let of = |meter: &str, charge: &str| -> Result<_> {
        Ok([(("acme".to_owned(), meter.to_owned()), parse(charge)?)].into())
    };

    // Of a plain price, 4 of the second half cost 0.25 more each; the first half is not touched.
    let (shown, changed) = carried_out(&system, &asked("plain", ("from", MIDDLE))).await?;
    ensure!(shown["events"] == 4 && shown["changes"] == 1, "{shown}");
    assert_eq!(changed, of("plain", "1")?);
    comes_to(&system, "plain", "7").await?;
    let first = system.api()?.get(&format!("/v1/events/{}", receipts[0])).await?;
    ensure!(first["corrections"] == json!([]) && first["lines"][0]["charge"] == "4", "{first}");

    // A flat price is in the first half, with the first usage.
    let (_, changed) = carried_out(&system, &asked("once", ("from", MIDDLE))).await?;
    ensure!(changed.is_empty(), "{changed:?}");
    comes_to(&system, "once", "49").await?;
    let (_, changed) = carried_out(&system, &asked("once", ("to", MIDDLE))).await?;
    assert_eq!(changed, of("once", "10")?);
    comes_to(&system, "once", "59").await?;

    // The total of these tiers was counted all along. The second half stands at 6: 4 at 3 and 2 at 1, instead of 10.
    let (_, changed) = carried_out(&system, &asked("tiered", ("from", MIDDLE))).await?;
    assert_eq!(changed, of("tiered", "4")?);
    comes_to(&system, "tiered", "26").await?;
    // The first half: 6 at 3 instead of 2. Both halves are the month: 10 at 3 and 2 at 1.
    let (_, changed) = carried_out(&system, &asked("tiered", ("to", MIDDLE))).await?;
    assert_eq!(changed, of("tiered", "6")?);
    comes_to(&system, "tiered", "32").await?;

    // Nothing counted the total of these tiers, so a half of the month cannot be rated by them.
    let before = balance(&system).await?;
    assert_eq!(before, -parse("110")?);
    let id = begun(&system, &asked("grown", ("from", MIDDLE))).await?;
    let refused = failed(&system, &id).await?;
    let reason = "prices depend on a total that began before the range: \
        begin it at 2026-06-01T00:00:00.000000Z or before";
    ensure!(refused["error"].as_str().is_some_and(|error| error.contains(reason)), "{refused}");
    ensure!(refused["preview"] == json!([]) && refused["posted"] == json!([]), "{refused}");
    ensure!(deltas(&system, &id, false).await?.is_empty(), "{refused}");
    let path = format!("/v1/corrections/{id}/post");
    let (status, answer) = exchange(&system, "POST", &path, &json!({})).await?;
    ensure!(status == 409 && answer["code"] == "correction_not_previewed", "{status}: {answer}");
    for receipt in [&receipts[3], &receipts[7]] {
        let kept = system.api()?.get(&format!("/v1/events/{receipt}")).await?;
        ensure!(kept["corrections"] == json!([]) && kept["lines"][0]["charge"] == "6", "{kept}");
    }
    comes_to(&system, "grown", "12").await?;
    assert_eq!(balance(&system).await?, before);
    // From where the month begins it is: 10 at 2 and 2 at 1, instead of 12.
    let begins = ("from", "2026-06-01T00:00:00Z");
    let (shown, changed) = carried_out(&system, &asked("grown", begins)).await?;
    ensure!(shown["changes"] == 2, "{shown}");
    assert_eq!(changed, of("grown", "10")?);
    comes_to(&system, "grown", "22").await?;
    assert_eq!(balance(&system).await?, -parse("120")?);
    verify(&system).await
}
