//! Credit units: a rate card in a unit that is no currency, from events to every book. Expected sums
//! are plain arithmetic; what is owed in one unit never mixes with what is owed in another.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    oracle::{CHARGE, COST, Price, Prices, parse},
    process::Http,
    system::{System, amount},
    wait::eventually,
};

/// The credit unit. It sorts after every currency.
const UNIT: &str = "ai-credits";
/// One unit of it, in units of the last decimal.
const ONE: i128 = 1_000_000_000_000;
/// What its card says: 1 for 7 tokens read, 0.5 for 3 tokens written. Both have to be rounded.
const CREDITS: Prices =
    Prices { input: Price { amount: ONE, per: 7 }, output: Price { amount: ONE / 2, per: 3 } };
/// The source of all events.
const SOURCE: &str = "credits-test";

/// Amounts by team and unit.
type Amounts = BTreeMap<(String, String), i128>;

/// Sums that the books must have.
#[derive(Default)]
struct Expected {
    events: u32,
    charges: Amounts,
    /// Charges by team, meter and unit, as text.
    usage: BTreeMap<(String, String, String), i128>,
    /// Costs, which are in USD whatever the charge is in, by team and unit of the charge.
    costs: Amounts,
}

impl Expected {
    /// Sends `count` events of each team, and adds what they must be charged.
    async fn send(&mut self, http: &Http, teams: &[&str], prices: (&str, Prices)) -> Result<()> {
        let (unit, prices) = prices;
        let mut sent = Vec::new();
        for (team, number) in teams.iter().flat_map(|team| (1..=20_u32).map(move |one| (team, one)))
        {
            self.events += 1;
            let (read, written) = (97 * number + 1, 13 * number);
            sent.push(json!({"id": format!("event-{}", self.events), "source": SOURCE,
                "type": "llm.tokens.v1", "subject": team, "data": {"provider": "openai",
                "model": "gpt-4-turbo", "inputTokens": read, "outputTokens": written}}));
            let (read, written) = (i128::from(read), i128::from(written));
            let charges = [
                ("llm_input_tokens", prices.input.of(read)),
                ("llm_output_tokens", prices.output.of(written)),
            ];
            for (meter, charge) in charges {
                let key = ((*team).to_owned(), meter.to_owned(), unit.to_owned());
                *self.usage.entry(key).or_default() += charge;
                *self.charges.entry(((*team).to_owned(), unit.to_owned())).or_default() += charge;
            }
            let cost = COST.input.of(read) + COST.output.of(written);
            *self.costs.entry(((*team).to_owned(), unit.to_owned())).or_default() += cost;
        }
        let (status, answer) =
            http.exchange("POST", "/v1/events", serde_json::to_vec(&sent)?).await?;
        ensure!(status == 200 && answer["accepted"] == sent.len(), "{status}: {answer}");
        Ok(())
    }
}

/// Publishes the unit and a card in it, which is not the default yet.
async fn publish_card(http: &Http) -> Result<()> {
    let mut catalog = http.get("/v1/catalog").await?["catalog"].take();
    catalog["credit_units"] = json!([{ "key": UNIT }]);
    let card = json!({"key": "credits", "kind": "rate", "currency": UNIT, "versions": [{"rates": [
        {"meter": "llm_input_tokens", "price": "1", "per": 7},
        {"meter": "llm_output_tokens", "price": "0.5", "per": 3},
    ]}]});
    catalog["cards"].as_array_mut().context("no cards")?.push(card);
    http.send("PUT", "/v1/catalog", &catalog).await?;
    let read = http.get("/v1/rate-cards/credits").await?;
    assert_eq!(read["currency"], UNIT, "{read}");
    Ok(())
}

/// Events that are accepted from now on are rated with this card.
async fn use_card(http: &Http, card: &str) -> Result<()> {
    let defaults = json!({"default_rate_card": card, "default_cost_card": "providers"});
    http.send("PUT", "/v1/catalog/defaults", &defaults).await?;
    Ok(())
}

/// Usage of three teams: of one in both units, and of two in one each.
async fn used(system: &System) -> Result<Expected> {
    let http = system.api()?;
    let mut expected = Expected::default();
    publish_card(&http).await?;
    expected.send(&http, &["both", "money"], ("USD", CHARGE)).await?;
    use_card(&http, "credits").await?;
    expected.send(&http, &["both", "points"], (UNIT, CREDITS)).await?;
    // And back: what is owed in credits stays as it is.
    use_card(&http, "standard").await?;
    expected.send(&http, &["both"], ("USD", CHARGE)).await?;
    let counts = system.settled(Some(i64::from(expected.events))).await?;
    ensure!(counts["rated"] == i64::from(expected.events), "{counts:?}");
    Ok(expected)
}

#[tokio::test]
async fn credits_are_the_same_in_every_book_and_mix_with_no_currency() -> Result<()> {
    let system = System::embedded().await?;
    let expected = used(&system).await?;
    let units = |team: &str| expected.charges.keys().filter(|(of, _)| of == team).count();
    assert_eq!(["both", "money", "points"].map(units), [2, 1, 1]);
    balances(&system.api()?, &expected).await?;
    books_in_postgres(&system, &expected).await?;
    trial_balance(&system, &expected).await?;
    views_in_clickhouse(&system, &expected).await?;
    usage(&system.api()?, &expected).await?;
    events_and_explanations(&system.api()?).await?;
    let data = system.data();
    let arguments = ["verify", "--data", data.to_str().context("a path that is text")?];
    system.run("verify", &arguments).await?;
    Ok(())
}

/// `GET /v1/teams/{team}/balance`: one balance for each unit, minus what is owed.
async fn balances(http: &Http, expected: &Expected) -> Result<()> {
    for team in ["both", "money", "points"] {
        let of_team = expected.charges.iter().filter(|((of, _), _)| of == team);
        let wanted: Vec<(String, i128, i128)> =
            of_team.map(|((_, unit), charge)| (unit.clone(), -charge, -charge)).collect();
        let path = format!("/v1/teams/{team}/balance");
        eventually(&format!("the balances of {team} are {wanted:?}"), async || {
            let answer = http.get(&path).await?;
            let balances = answer["balances"].as_array().context("no balances")?;
            let found: Result<Vec<(String, i128, i128)>> = balances
                .iter()
                .map(|one| {
                    let unit = one["currency"].as_str().context("no unit")?.to_owned();
                    Ok((unit, amount(&one["posted"])?, amount(&one["live"])?))
                })
                .collect();
            Ok(found? == wanted)
        })
        .await?;
    }
    Ok(())
}

/// A team, a unit and an amount.
type Row = (String, String, String);

fn amounts(rows: Vec<Row>) -> Result<Amounts> {
    rows.into_iter().map(|(team, unit, sum)| Ok(((team, unit), parse(&sum)?))).collect()
}

/// What teams owe, the transfers that say why, and the running totals.
async fn books_in_postgres(system: &System, expected: &Expected) -> Result<()> {
    let mut connection = system.postgres().await?;
    for (book, sql) in [
        ("receivables", "SELECT team, currency, balance::text FROM receivables"),
        (
            "transfers",
            "SELECT a.team, a.currency, sum(t.amount)::text FROM transfers t JOIN accounts a ON a.account_id = t.debit_account
             WHERE a.kind = 'receivable' AND t.currency = a.currency GROUP BY a.team, a.currency",
        ),
        (
            "usage_totals",
            "SELECT team, currency, sum(charge)::text FROM usage_totals GROUP BY team, currency",
        ),
    ] {
        let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(&mut connection).await?;
        assert_eq!(amounts(rows)?, expected.charges, "{book}");
    }
    Ok(())
}

/// Per unit, what accounts received is what they gave; no transfer goes from one unit to another.
async fn trial_balance(system: &System, expected: &Expected) -> Result<()> {
    let mut connection = system.postgres().await?;
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT a.currency, sum(greatest(side, 0))::text, sum(side)::text FROM (
             SELECT debit_account AS account_id, amount AS side FROM transfers
             UNION ALL SELECT credit_account, -amount FROM transfers) AS sides
         JOIN accounts a USING (account_id) GROUP BY a.currency ORDER BY a.currency",
    )
    .fetch_all(&mut connection)
    .await?;
    let mut received: BTreeMap<String, i128> = BTreeMap::new();
    for ((_, unit), charge) in &expected.charges {
        *received.entry(unit.clone()).or_default() += charge;
    }
    // What providers are owed is in USD.
    *received.entry("USD".to_owned()).or_default() += expected.costs.values().sum::<i128>();
    let mut found = BTreeMap::new();
    for (unit, debits, rest) in rows {
        assert_eq!(parse(&rest)?, 0, "the trial balance of {unit}");
        found.insert(unit, parse(&debits)?);
    }
    assert_eq!(found, received);
    Ok(())
}

/// The archive's lines and views: a row for each unit, and no margin between two units.
async fn views_in_clickhouse(system: &System, expected: &Expected) -> Result<()> {
    for (view, charge) in [
        ("usage_lines", "charge * sign"),
        ("usage_by_hour", "charge"),
        ("usage_by_day", "charge"),
        ("margin_by_team", "charge"),
    ] {
        let sql = format!(
            "SELECT team, currency, toString(sum({charge})) AS charge FROM {view} GROUP BY team, currency"
        );
        let rows = system.clickhouse().query_json_rows(&sql, &[]).await?;
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let rows = rows.iter().map(|row| {
            let [team, unit, charge] = ["team", "currency", "charge"].map(|name| text(row, name));
            (team, unit, charge)
        });
        assert_eq!(amounts(rows.collect())?, expected.charges, "{view}");
    }
    let sql = "SELECT team, currency, cost_currency, toString(cost) AS cost, toString(margin) AS margin FROM margin_by_team";
    let rows = system.clickhouse().query_json_rows(sql, &[]).await?;
    assert_eq!(rows.len(), expected.charges.len(), "{rows:?}");
    for row in rows {
        check_margin(&row, &row["team"], expected)?;
    }
    Ok(())
}

/// A cost in USD, and a margin only where the charge is in USD too.
fn check_margin(row: &Value, team: &Value, expected: &Expected) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = (text(team), text(&row["currency"]));
    let (charge, cost) = (expected.charges[&key], expected.costs[&key]);
    assert_eq!((&row["cost_currency"], amount(&row["cost"])?), (&json!("USD"), cost), "{row}");
    match key.1.as_str() {
        "USD" => assert_eq!(amount(&row["margin"])?, charge - cost, "{row}"),
        _ => assert_eq!(row["margin"], Value::Null, "{row}"),
    }
    Ok(())
}

/// `GET /v1/usage` and the report: sums by team, meter and unit.
async fn usage(http: &Http, expected: &Expected) -> Result<()> {
    let period = "from=2020-01-01T00:00:00Z&to=2199-01-01T00:00:00Z";
    let report = format!("/v1/usage-report?group_by=team&limit=1000&{period}");
    for path in ["/v1/usage?group_by=team&limit=1000", &report] {
        let page = http.get(path).await?;
        let rows = page["items"].as_array().context("no items")?;
        let mut found = BTreeMap::new();
        let mut costs = BTreeMap::new();
        for row in rows {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (team, unit) = (text(&row["group"]["team"]), text(&row["currency"]));
            let (charge, cost) = (amount(&row["charge"])?, amount(&row["cost"])?);
            let key = (team.clone(), text(&row["meter"]), unit.clone());
            ensure!(found.insert(key, charge).is_none(), "two rows of one sum: {page}");
            *costs.entry((team, unit.clone())).or_default() += cost;
            let margin = if unit == "USD" { Some(charge - cost) } else { None };
            let shown = Some(&row["margin"]).filter(|margin| !margin.is_null());
            assert_eq!(shown.map(amount).transpose()?, margin, "{row}");
        }
        assert_eq!((&found, &costs), (&expected.usage, &expected.costs), "{path}");
    }
    Ok(())
}

/// Each event names its unit, and the transfer of its line is explained in it.
async fn events_and_explanations(http: &Http) -> Result<()> {
    let page = http.get("/v1/events?team=points&limit=1000").await?;
    let events = page["items"].as_array().context("no items")?;
    assert_eq!(events.len(), 20);
    let mut transfers = Vec::new();
    for line in events.iter().flat_map(|event| event["lines"].as_array().into_iter().flatten()) {
        let named = (&line["card"], &line["currency"], &line["cost_currency"]);
        assert_eq!(named, (&json!("credits"), &json!(UNIT), &json!("USD")), "{line}");
        transfers.push(line["transfer_id"].as_str().context("no transfer")?.to_owned());
    }
    assert_eq!(transfers.len(), 40);
    transfers.sort();
    transfers.dedup();
    for transfer in transfers {
        let explained = http.get(&format!("/v1/explain/{transfer}")).await?;
        let one = &explained["transfers"][0];
        assert_eq!((&explained["matches"], &one["currency"]), (&json!(true), &json!(UNIT)));
        assert_eq!((&one["debit"], &one["credit"]), (&json!("receivable"), &json!("revenue")));
    }
    Ok(())
}

/// Sends what must be refused as a faulty catalog, for a reason at `place`.
async fn refused(http: &Http, call: (&str, &str), body: &Value, place: &str) -> Result<()> {
    let before = http.get("/v1/catalog").await?;
    let (status, answer) = http.exchange(call.0, call.1, serde_json::to_vec(body)?).await?;
    assert_eq!((status, &answer["code"]), (422, &json!("catalog_invalid")), "{place}: {answer}");
    let faults = answer["faults"].as_array().context("no faults")?;
    ensure!(faults.iter().any(|fault| fault["place"] == place), "nothing about {place}: {answer}");
    assert_eq!(http.get("/v1/catalog").await?, before, "something was published");
    Ok(())
}

#[tokio::test]
async fn a_bad_unit_is_refused_and_nothing_is_published() -> Result<()> {
    let system = System::embedded().await?;
    let http = system.api()?;
    publish_card(&http).await?;
    let published = http.get("/v1/catalog").await?["catalog"].take();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut catalog = published.clone();
        change(&mut catalog);
        catalog
    };
    let all = ("PUT", "/v1/catalog");
    // A key is 1 to 64 of a-z, 0-9, `_`, `-`, `.`, and there once.
    let long = "u".repeat(65);
    for key in ["", UNIT, "AI-Credits", "USD", "ai credits", "crédits", "ai/credits", &long] {
        let units = json!([{ "key": UNIT }, { "key": key }]);
        let catalog = with(&|catalog| catalog["credit_units"] = units.clone());
        refused(&http, all, &catalog, &format!("credit_units[{key}]")).await?;
    }
    // A card is in three capitals or in a unit of the catalog, letter by letter.
    let rates = json!([{"meter": "api_calls", "price": "1"}]);
    for unit in ["", "points", "AI-CREDITS", "ai-credit", "usd", "US", "USDT"] {
        let card = json!({"key": "other", "currency": unit, "rates": rates});
        for path in ["/v1/rate-cards", "/v1/cost-cards"] {
            refused(&http, ("POST", path), &card, "cards[other].currency").await?;
        }
    }
    // The unit of a published card stays, and the card stays in it.
    let without = with(&|catalog| catalog["credit_units"] = json!([]));
    refused(&http, all, &without, "cards[credits].currency").await?;
    let credits = |catalog: &mut Value| {
        let cards = catalog["cards"].as_array_mut().into_iter().flatten();
        cards
            .filter(|card| card["key"] == "credits")
            .for_each(|card| card["currency"] = json!("EUR"));
    };
    refused(&http, all, &with(&credits), "cards[credits]").await?;

    // The longest key that there may be.
    let unit = &long[1..];
    let more = with(&|catalog| catalog["credit_units"] = json!([{ "key": UNIT }, { "key": unit }]));
    http.send("PUT", "/v1/catalog", &more).await?;
    let card = json!({"key": "other", "currency": unit, "rates": rates});
    http.send("POST", "/v1/rate-cards", &card).await?;
    assert_eq!(http.get("/v1/rate-cards/other").await?["currency"], unit);
    Ok(())
}
