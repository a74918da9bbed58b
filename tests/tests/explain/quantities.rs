//! Quantities that cannot be, have to be rounded, or have no price: each ends as documented, and
//! nothing beside it changes.

use anyhow::{Context as _, Result, ensure};
use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{all, raw, settled, world::World};

/// What becomes of an event.
#[derive(Clone, Copy)]
enum End {
    /// Rejected for this reason.
    Rejected(&'static str),
    /// Rated with this quantity; a word costs 1, so this is its charge as well.
    Rated(&'static str),
    /// Without a price, with this quantity.
    Unpriced(&'static str),
}

/// Each quantity as JSON, with the model and the end of its event.
const CASES: [(&str, &str, End); 16] = [
    ("-1", "gpt", End::Rejected("quantity_negative")),
    ("\"-1\"", "gpt", End::Rejected("quantity_negative")),
    ("-0.000000000001", "gpt", End::Rejected("quantity_negative")),
    ("1e30", "gpt", End::Rejected("quantity_out_of_range")),
    ("-1e30", "gpt", End::Rejected("quantity_out_of_range")),
    ("\"1e30\"", "gpt", End::Rejected("quantity_out_of_range")),
    ("1000000000000000", "gpt", End::Rejected("quantity_out_of_range")),
    ("\"NaN\"", "gpt", End::Rejected("quantity_not_a_number")),
    ("true", "gpt", End::Rejected("quantity_not_a_number")),
    // 20 decimals: two that are halfway go to the even neighbour, one is a little above.
    ("3.00000000000250000000", "gpt", End::Rated("3.000000000002")),
    ("3.00000000000350000000", "gpt", End::Rated("3.000000000004")),
    ("3.00000000000250000001", "gpt", End::Rated("3.000000000003")),
    ("\"0.00000000000150000000\"", "gpt", End::Rated("0.000000000002")),
    ("999999999999999", "gpt", End::Rated("999999999999999")),
    ("7", "nobody-has-its-price", End::Unpriced("7")),
    ("-7", "nobody-has-its-price", End::Rejected("quantity_negative")),
];

/// The catalog with a meter of words, which have a price for two models only.
pub fn with_words(mut catalog: Value) -> Value {
    let meter = json!({"key": "words", "event_types": ["words"], "aggregation": "sum", "value": "$.words",
        "unit": "word", "dimensions": {"model": "$.model"}});
    catalog["meters"].as_array_mut().unwrap().push(meter);
    for (model, price) in [("gpt", "1"), ("dear", "99999")] {
        let rate = json!({"meter": "words", "dimensions": {"model": model}, "price": price});
        catalog["cards"][0]["versions"][0]["rates"].as_array_mut().unwrap().push(rate);
    }
    catalog
}

/// A sum may be larger than the amount of one line may be: what is owed, used and posted is told all the
/// same. So many events were accepted before.
pub async fn sums_beyond_an_amount(world: &World, accepted: u32) -> Result<()> {
    const SUM: &str = "199997999999999800002";
    let event = |number: u32| {
        json!({"id": format!("dear-{number}"), "source": "words", "type": "words", "subject": "edda",
            "data": {"words": 999_999_999_999_999_u64, "model": "dear"}})
    };
    send(world, &json!([event(0), event(1)]).to_string()).await?;
    settled(world, accepted + 2).await?;
    // The balance in memory follows what is posted a moment later.
    let owed = format!("-{SUM}");
    let owed = json!({"currency": "USD", "posted": owed, "live": owed, "wallet": null});
    world.until("/v1/teams/edda/balance", |body| body["balances"][0] == owed).await?;
    let [usage] = &*all(world, "/v1/usage?team=edda&limit=1000", "").await? else {
        anyhow::bail!("one row")
    };
    let told = (&usage["charge"], &usage["quantity"], &usage["events"]);
    assert_eq!(told, (&json!(SUM), &json!("1999999999999998"), &json!(2)), "{usage}");
    let transfers = all(world, "/v1/teams/edda/transfers?limit=1000", "").await?;
    for transfer in &transfers {
        let id = transfer["transfer_id"].as_str().context("an id")?;
        world.get(&format!("/v1/explain/{id}")).await?.expect(200)?;
    }
    ensure!(!transfers.is_empty());
    counts(world).await.map(drop)
}

/// Sends all cases, of the team `dora`; so many events were accepted before.
pub async fn end_as_documented(world: &World, accepted: u32) -> Result<()> {
    let (counts, others) = (counts(world).await?, beside(world).await?);
    let event = |(number, (quantity, model, _)): (usize, &(&str, &str, End))| {
        format!(
            "{{\"id\": \"{number}\", \"source\": \"words\", \"type\": \"words\", \"subject\": \"dora\", \
             \"time\": \"2026-05-01T00:00:00Z\", \"data\": {{\"words\": {quantity}, \"model\": \"{model}\"}}}}"
        )
    };
    let events: Vec<String> = CASES.iter().enumerate().map(event).collect();
    send(world, &format!("[{}]", events.join(", "))).await?;
    settled(world, accepted + u32::try_from(CASES.len())?).await?;

    let (mut rated, mut rejected, mut unpriced, mut charge) = (0, 0, 0, 0);
    for (number, (quantity, _, end)) in CASES.iter().enumerate() {
        let path = format!("/v1/events?source=words&id={number}");
        let found = world.get(&path).await?.expect(200)?;
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
        let event = &found["items"][0];
        match end {
            End::Rejected(reason) => {
                rejected += 1;
                let shown = (&event["status"], &event["reason"], &event["lines"]);
                assert_eq!(shown, (&json!("rejected"), &json!(reason), &json!([])), "{event}");
                let raw = event["raw"].as_str().context("what was sent")?;
                assert!(raw.contains(quantity) && event["journal_id"].is_null(), "{event}");
            }
            End::Rated(wanted) => {
                rated += 1;
                charge += raw(&json!(wanted));
                check_line(event, "rated", wanted, &json!(wanted))?;
            }
            End::Unpriced(wanted) => {
                unpriced += 1;
                check_line(event, "unpriced", wanted, &Value::Null)?;
            }
        }
    }
    rejected_are_listed(world).await?;
    for (outcome, events) in [("rated", rated), ("unpriced", unpriced), ("rejected", rejected)] {
        let path = format!("/v1/events?team=dora&limit=1000&outcome={outcome}");
        assert_eq!(all(world, &path, "").await?.len(), events, "{outcome}");
    }
    let mut wanted = counts;
    for (outcome, events) in [
        ("accepted", CASES.len()),
        ("rated", rated),
        ("rejected", rejected),
        ("unpriced", unpriced),
    ] {
        wanted[outcome] = json!(wanted[outcome].as_u64().context("a count")? + events as u64);
    }
    assert_eq!(self::counts(world).await?, wanted);
    books_hold_what_is_rated(world, charge, rated).await?;
    assert_eq!(beside(world).await?, others, "nothing beside it changed");
    Ok(())
}

/// Sends a text, so that its numbers stay as they are.
async fn send(world: &World, events: &str) -> Result<()> {
    let request = Request::post("/v1/events")
        .header("authorization", format!("Bearer {}", world.key))
        .header("content-type", "application/json")
        .body(Body::from(events.to_owned()))?;
    let response = world.router.clone().oneshot(request).await?;
    ensure!(response.status() == 200, "{}", response.status());
    Ok(())
}

/// Checks the one line of an event; an unknown charge is null and in no transfer.
fn check_line(event: &Value, status: &str, quantity: &str, charge: &Value) -> Result<()> {
    assert_eq!(event["status"], status, "{event}");
    let [line] = event["lines"].as_array().context("lines")?.as_slice() else {
        anyhow::bail!("one line: {event}")
    };
    let line_status = if status == "rated" { "priced" } else { status };
    assert_eq!((&line["status"], &line["quantity"]), (&json!(line_status), &json!(quantity)));
    assert_eq!(line["charge"], *charge, "{event}");
    for known in ["card", "currency", "transfer_id"] {
        assert_eq!(line[known].is_null(), charge.is_null(), "{known}: {event}");
    }
    Ok(())
}

/// The list of rejected events has each under its reason, and no other.
async fn rejected_are_listed(world: &World) -> Result<()> {
    let mut listed = 0;
    for reason in ["quantity_negative", "quantity_out_of_range", "quantity_not_a_number"] {
        let path = format!("/v1/rejected-events?team=dora&reason={reason}&limit=1000");
        let mut found: Vec<String> = all(world, &path, "")
            .await?
            .iter()
            .map(|event| event["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        let is_of = |end: &End| matches!(end, End::Rejected(of) if *of == reason);
        let cases = CASES.iter().enumerate().filter(|(_, (.., end))| is_of(end));
        let mut wanted: Vec<String> = cases.map(|(number, _)| number.to_string()).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{reason}");
        listed += found.len();
    }
    let path = "/v1/rejected-events?team=dora&limit=1000";
    assert_eq!(all(world, path, "").await?.len(), listed);
    Ok(())
}

/// The team owes what is rated; usage tells what has no price from what is free.
async fn books_hold_what_is_rated(world: &World, charge: i128, events: usize) -> Result<()> {
    let balance = world.get("/v1/teams/dora/balance").await?.expect(200)?;
    assert_eq!(balance["balances"].as_array().map(Vec::len), Some(1), "{balance}");
    for reach in ["posted", "live"] {
        assert_eq!(raw(&balance["balances"][0][reach]), -charge, "{balance}");
    }
    let transfers = all(world, "/v1/teams/dora/transfers?limit=1000", "").await?;
    let booked: i128 = transfers.iter().map(|transfer| raw(&transfer["amount"])).sum();
    assert_eq!(booked, charge, "{transfers:?}");
    let usage = all(world, "/v1/usage?team=dora&limit=1000", "").await?;
    let (without, with): (Vec<&Value>, Vec<&Value>) =
        usage.iter().partition(|row| row["currency"].is_null());
    let ([without], [with]) = (without.as_slice(), with.as_slice()) else {
        anyhow::bail!("two rows: {usage:?}")
    };
    assert_eq!(
        (&without["quantity"], &without["charge"], &without["unpriced_events"]),
        (&json!("7"), &Value::Null, &json!(1))
    );
    assert_eq!((raw(&with["quantity"]), raw(&with["charge"])), (charge, charge));
    assert_eq!((&with["events"], &with["unpriced_events"]), (&json!(events), &json!(0)));
    Ok(())
}

async fn counts(world: &World) -> Result<Value> {
    let statement = world.get("/v1/conservation").await?.expect(200)?;
    assert_eq!(statement["total"]["balanced"], true, "{statement}");
    Ok(statement["total"]["counts"].clone())
}

/// What is said of the other teams.
async fn beside(world: &World) -> Result<Vec<Value>> {
    let mut said = all(world, "/v1/usage?group_by=team&limit=1000", "").await?;
    said.retain(|row| row["group"]["team"] != "dora");
    for team in ["acme", "bolt"] {
        let balance = world.get(&format!("/v1/teams/{team}/balance")).await?.expect(200)?;
        said.push(balance["balances"].clone());
        said.extend(all(world, &format!("/v1/teams/{team}/transfers?limit=1000"), "").await?);
        said.extend(all(world, &format!("/v1/rejected-events?team={team}&limit=1000"), "").await?);
    }
    Ok(said)
}
