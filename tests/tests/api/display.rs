//! Amounts shown in another currency by stored rates, worked out by hand.

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};

use crate::{
    is_archived,
    world::{TENANT, World, add_key, catalog},
};

const RATES: &str = "/v1/exchange-rates";
const MARCH: &str = "from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z";

fn rate(from: &str, to: &str, on: &str, rate: &str) -> Value {
    json!({"from_currency": from, "to_currency": to, "effective_on": on, "rate": rate, "source": "ECB"})
}

/// What is shown of an amount: the amount or why there is none, by which rate of which day.
fn told(display: &Value) -> (String, String, String, bool) {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let amount = if display["amount"].is_null() { &display["reason"] } else { &display["amount"] };
    assert_eq!(display["amount"].is_null(), !display["reason"].is_null(), "{display}");
    assert_eq!(display["rounding"], "half_even");
    (
        text(amount),
        text(&display["rate"]),
        text(&display["effective_on"]),
        display["inverse"].as_bool().unwrap_or_default(),
    )
}

fn is(display: &Value, amount: &str, rate: &str, on: &str, inverse: bool) {
    let wanted = (amount.to_owned(), rate.to_owned(), on.to_owned(), inverse);
    assert_eq!(told(display), wanted, "{display}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_are_shown_by_the_rate_of_the_day() -> Result<()> {
    let world = World::all().await?;
    let mut sold = catalog();
    sold["credit_units"] =
        json!([{"key": "credits", "value": {"amount": "0.01", "currency": "EUR"}}]);
    world.put("/v1/catalog", sold).await?.expect(200)?;
    // 7 tokens at 0.5 are 3.5 USD, and cost 0.007 USD.
    let event = json!([{"id": "1", "source": "s", "type": "llm.call", "subject": "acme", "time": "2026-03-10T12:00:00Z",
        "data": {"tokens": 7, "model": "own"}}]);
    world.post("/v1/events", event).await?.expect(200)?;
    let credits = json!({"customer_id": "bolt", "amount": "250", "currency": "credits"});
    world.post("/v1/credits/purchase", credits).await?.expect(201)?;
    let settled = |body: &Value| {
        body["total"]["counts"]["accepted"] == 1
            && body["total"]["pending"] == 0
            && is_archived(body)
    };
    world.until("/v1/conservation", settled).await?;
    let posted = |body: &Value| body["balances"][0]["posted"] == "-3.5";
    world.until("/v1/teams/acme/balance", posted).await?;
    let stored = |body: &Value| body["balances"][0]["wallet"]["balance"] == "250";
    world.until("/v1/teams/bolt/balance", stored).await?;

    let rates = json!({"rates": [
        rate("USD", "EUR", "2026-02-28", "0.80"),
        rate("USD", "EUR", "2026-03-31", "0.9213"),
        // After March.
        rate("USD", "EUR", "2026-04-01", "0.95"),
        // Not yet.
        rate("USD", "EUR", "2999-01-01", "7"),
        rate("USD", "JPY", "2026-01-31", "150.5"),
        // Of the other direction, and the newer one of the two.
        rate("USD", "GBP", "2026-01-31", "0.9"),
        rate("GBP", "USD", "2026-02-28", "1.28"),
        // Through USD there would be one to CHF.
        rate("EUR", "CHF", "2026-01-31", "0.94"),
    ]});
    let answer = world.put(RATES, rates.clone()).await?.expect(200)?;
    assert_eq!((&answer["added"], &answer["rates"][0]["rate"]), (&json!(8), &json!("0.8")));
    let again = world.put(RATES, rates).await?.expect(200)?;
    assert_eq!((&again["unchanged"], &again["rates"]), (&json!(8), &answer["rates"]));

    let plain = world.get("/v1/teams/acme/balance").await?.expect(200)?;
    assert_eq!(plain["balances"][0].get("posted_display"), None, "only where it is asked for");
    let balance = async |team: &str, currency: &str| {
        let path = format!("/v1/teams/{team}/balance?display_currency={currency}");
        let mut body = world.get(&path).await?.expect(200)?;
        Ok::<Value, anyhow::Error>(body["balances"][0].take())
    };
    // 3.5 × 0.95 = 3.325: half to even.
    let shown = balance("acme", "EUR").await?;
    assert_eq!((&shown["posted"], &shown["currency"]), (&json!("-3.5"), &json!("USD")));
    is(&shown["posted_display"], "-3.32", "0.95", "2026-04-01", false);
    is(&shown["live_display"], "-3.32", "0.95", "2026-04-01", false);
    assert_eq!(
        (&shown["live_display"]["source"], &shown["live_display"]["decimals"]),
        (&json!("ECB"), &json!(2))
    );
    // 3.5 × 150.5 = 526.75; 3.5 / 1.28 = 2.734375.
    is(&balance("acme", "JPY").await?["live_display"], "-527", "150.5", "2026-01-31", false);
    is(&balance("acme", "GBP").await?["live_display"], "-2.73", "1.28", "2026-02-28", true);
    is(&balance("acme", "CHF").await?["live_display"], "rate_unknown", "none", "none", false);
    is(&balance("acme", "USD").await?["live_display"], "-3.50", "1", "none", false);
    // A credit unit has no rate but one that is stored, whatever it is worth.
    let shown = balance("bolt", "EUR").await?;
    is(&shown["wallet"]["balance_display"], "rate_unknown", "none", "none", false);
    let unit = json!({"rates": [rate("credits", "EUR", "2026-01-01", "0.013")]});
    world.put(RATES, unit).await?.expect(200)?;
    let shown = balance("bolt", "EUR").await?;
    is(&shown["wallet"]["balance_display"], "3.25", "0.013", "2026-01-01", false);
    is(&shown["wallet"]["held_display"], "0.00", "0.013", "2026-01-01", false);
    assert_eq!(shown["posted"], "250");

    analytics(&world).await?;

    // No book has heard of it.
    let currencies: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT currency FROM accounts ORDER BY currency")
            .fetch_all(&world.admin)
            .await?;
    assert_eq!(currencies, ["USD", "credits"]);
    assert_eq!(
        world.get("/v1/teams/acme/balance").await?.expect(200)?["balances"],
        plain["balances"]
    );
    let other = format!("{RATES}?limit=1000");
    let other = world.send(Method::GET, &other, &world.other_key, &[], None).await?.expect(200)?;
    assert_eq!(other["items"], json!([]));
    world.stop().await
}

/// March ends on its last day, so its rate is 0.9213.
async fn analytics(world: &World) -> Result<()> {
    let ask = async |what: &str| {
        let path = format!("/v1/analytics/{what}?{MARCH}&display_currency=EUR");
        world.get(&path).await?.expect(200)
    };
    // 3.5 × 0.9213 = 3.22455; 0.007 × 0.9213 = 0.0064491; 3.493 × 0.9213 = 3.2181009.
    let day = "2026-03-31";
    let row = &ask("revenue").await?["items"][0];
    assert_eq!(row["revenue"], "3.5");
    is(&row["revenue_display"], "3.22", "0.9213", day, false);
    let row = &ask("cost").await?["items"][0];
    is(&row["cost_display"], "0.01", "0.9213", day, false);
    let row = &ask("margin").await?["items"][0];
    assert_eq!(row["margin"], "3.493");
    is(&row["charge_display"], "3.22", "0.9213", day, false);
    is(&row["cost_display"], "0.01", "0.9213", day, false);
    is(&row["margin_display"], "3.22", "0.9213", day, false);
    let all = ask("overview").await?;
    is(&all["revenue"][0]["current_display"], "3.22", "0.9213", day, false);
    is(&all["revenue"][0]["previous_display"], "amount_unknown", "0.9213", day, false);
    is(&all["cost"][0]["current_display"], "0.01", "0.9213", day, false);
    is(&all["margin"][0]["margin_display"], "3.22", "0.9213", day, false);
    is(&all["margin"][0]["previous_margin_display"], "amount_unknown", "0.9213", day, false);
    is(&all["top_teams_by_revenue"][0]["revenue_display"], "3.22", "0.9213", day, false);
    is(&all["top_models_by_cost"][0]["cost_display"], "0.01", "0.9213", day, false);
    // A period that has not ended has the rate of today, 0.95.
    let path = "/v1/analytics/revenue?from=2026-03-01T00:00:00Z&to=2027-03-01T00:00:00Z&display_currency=EUR";
    let row = &world.get(path).await?.expect(200)?["items"][0];
    is(&row["revenue_display"], "3.32", "0.95", "2026-04-01", false);
    let plain = world.get(&format!("/v1/analytics/revenue?{MARCH}")).await?.expect(200)?;
    assert_eq!(plain["items"][0].get("revenue_display"), None);
    // Quantities are no amounts.
    let refused = world.get(&format!("/v1/analytics/usage?{MARCH}&display_currency=EUR")).await?;
    refused.refused(400, "query_invalid")?;
    for path in ["/v1/teams/acme/balance?", &format!("/v1/analytics/overview?{MARCH}&")] {
        for currency in ["eur", "EURO", "", "credits"] {
            let path = format!("{path}display_currency={currency}");
            world.get(&path).await?.refused(400, "display_currency_unknown")?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_rate_changes_only_where_that_is_meant() -> Result<()> {
    let world = World::api().await?;
    let one = |one: Value| json!({"rates": [one]});
    let stored = one(rate("USD", "EUR", "2026-03-31", "0.92"));
    world.put(RATES, stored.clone()).await?.expect(200)?;
    let mut other = one(rate("USD", "EUR", "2026-03-31", "0.29"));
    let refused = world.put(RATES, other.clone()).await?.refused(409, "exchange_rate_exists")?;
    assert_eq!(refused["rate"], "0.92");
    // With one that is refused nothing is stored.
    let two = json!({"rates": [rate("USD", "JPY", "2026-03-31", "150"), other["rates"][0]]});
    world.put(RATES, two).await?.refused(409, "exchange_rate_exists")?;
    assert_eq!(world.get(RATES).await?.expect(200)?["items"].as_array().map(Vec::len), Some(1));
    other["replace"] = json!(true);
    let headers = [("idempotency-key", "once")];
    for _ in 0..2 {
        let body = Some(other.clone());
        let done = world.send(Method::PUT, RATES, &world.key, &headers, body).await?.expect(200)?;
        assert_eq!((&done["replaced"], &done["rates"][0]["rate"]), (&json!(1), &json!("0.29")));
    }
    let mut gone = one(rate("USD", "EUR", "2026-03-31", "1"));
    gone["rates"][0]["rate"] = Value::Null;
    world.put(RATES, gone.clone()).await?.refused(409, "exchange_rate_exists")?;
    gone["replace"] = json!(true);
    assert_eq!(world.put(RATES, gone.clone()).await?.expect(200)?["removed"], 1);
    assert_eq!(world.put(RATES, gone).await?.expect(200)?["unchanged"], 1);
    // Who changed what, the last first; what changed nothing is not among them.
    let changes = world.get("/v1/audit?action=PUT%20/v1/exchange-rates").await?.expect(200)?;
    let changes = changes["items"].as_array().context("changes")?;
    let before: Vec<&Value> =
        changes.iter().map(|change| &change["before"]["rates"][0]["rate"]).collect();
    assert_eq!(before, [&json!("0.29"), &json!("0.92"), &Value::Null]);

    for (wrong, status, code) in [
        (json!({"rate": "0"}), 422, "rate_invalid"),
        (json!({"rate": "-0.92"}), 422, "rate_invalid"),
        (json!({"rate": "0.1234567890123"}), 422, "rate_invalid"),
        (json!({"rate": "1e20"}), 422, "rate_invalid"),
        (json!({"rate": "much"}), 422, "rate_invalid"),
        (json!({"rate": 0.92}), 400, "body_invalid"),
        (json!({"effective_on": "31.03.2026"}), 422, "date_invalid"),
        (json!({"effective_on": "2026-02-30"}), 422, "date_invalid"),
        (json!({"effective_on": "20260331"}), 422, "date_invalid"),
        (json!({"effective_on": "2026-03-31T00:00:00Z"}), 422, "date_invalid"),
        (json!({"effective_on": "1969-12-31"}), 422, "date_invalid"),
        (json!({"from_currency": "usd"}), 422, "currency_unknown"),
        (json!({"from_currency": "credits"}), 422, "currency_unknown"),
        (json!({"to_currency": "euro"}), 422, "currency_unknown"),
        (json!({"to_currency": "USD"}), 422, "field_invalid"),
        (json!({"source": " "}), 422, "field_invalid"),
        (json!({"source": "s".repeat(257)}), 422, "field_invalid"),
        (json!({"source": "\0"}), 422, "field_invalid"),
        (json!({"day": "2026-03-31"}), 400, "body_invalid"),
    ] {
        let mut body = stored.clone();
        let members = body["rates"][0].as_object_mut().context("a rate")?;
        members.extend(wrong.as_object().context("members")?.clone());
        world.put(RATES, body).await?.refused(status, code)?;
    }
    let same = rate("USD", "EUR", "2026-03-31", "0.92");
    for rates in [json!([]), json!([same, same]), json!(vec![same.clone(); 1_001])] {
        world.put(RATES, json!({ "rates": rates })).await?.refused(422, "field_invalid")?;
    }
    world.put(RATES, json!({"rates": [{"rate": "1"}]})).await?.refused(400, "body_invalid")?;

    let mut days = Vec::new();
    for (from, to, on) in
        [("USD", "EUR", "2026-03-30"), ("USD", "EUR", "2026-03-31"), ("USD", "JPY", "2026-03-30")]
    {
        world.put(RATES, one(rate(from, to, on, "1.5"))).await?.expect(200)?;
        days.push(format!("{from} {to} {on}"));
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("{RATES}?limit=1{cursor}")).await?.expect(200)?;
        for item in page["items"].as_array().context("items")? {
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            let (from, to) = (text("from_currency"), text("to_currency"));
            found.push(format!("{from} {to} {}", text("effective_on")));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, days);
    let yen =
        world.get(&format!("{RATES}?to_currency=JPY&from_currency=USD")).await?.expect(200)?;
    assert_eq!(yen["items"].as_array().map(Vec::len), Some(1));
    // A cursor of three parts whose last is no day.
    let forged: String =
        br#"["USD","EUR","soon"]"#.iter().map(|byte| format!("{byte:02x}")).collect();
    world.get(&format!("{RATES}?cursor={forged}")).await?.refused(400, "cursor_invalid")?;
    let reader = add_key(&world.admin, TENANT, "reader", &["catalog:read"]).await?;
    let refused = world.send(Method::PUT, RATES, &reader, &[], Some(stored)).await?;
    assert_eq!(refused.status.as_u16(), 403, "{}", refused.text);
    world.stop().await
}
