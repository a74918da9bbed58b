//! Price models through the whole system: every example of `docs/PRICING.md` is sent as events while the
//! process is killed in between, and the Azure traces are rated under six models at once. What each must
//! come to is the document's, or plain arithmetic over the books' quantities.

#![allow(clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::{
    oracle::parse,
    system::{System, amount},
};

const DOCUMENT: &str = include_str!("../../docs/PRICING.md");
/// The source of all events.
const SOURCE: &str = "price-models";
/// A unit of twelve decimals.
const ONE: i128 = 1_000_000_000_000;

/// An example of the document.
struct Example {
    /// Names its meter, its event type and its team.
    key: String,
    row: Value,
    usage: Vec<Vec<Option<String>>>,
    total: i128,
}

fn examples() -> Result<Vec<Example>> {
    let blocks = DOCUMENT.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
    let mut examples = Vec::new();
    for (number, block) in blocks.enumerate() {
        let mut value: Value = serde_json::from_str(block)?;
        if value.get("row").is_none() {
            continue;
        }
        let key = format!("example-{number}");
        value["row"]["meter"] = json!(key);
        examples.push(Example {
            key,
            usage: serde_json::from_value(value["usage"].take())?,
            total: parse(value["total"].as_str().context("a total is text")?)?,
            row: value["row"].take(),
        });
    }
    Ok(examples)
}

impl Example {
    fn costs(&self) -> bool {
        self.row["model"] == "cost_plus"
    }

    /// The row of the cost card that gives the costs of the example, which are in proportion.
    fn cost_row(&self) -> Option<Value> {
        let first = self.usage.first().filter(|_| self.costs())?;
        let per: u64 = first.first()?.as_deref()?.parse().ok()?;
        Some(
            json!({"meter": self.key, "dimensions": {"known": "yes"}, "price": first.get(2)?, "per": per}),
        )
    }

    /// A time in the period of its events.
    fn within(&self) -> Result<String> {
        let first = self.event(0).context("a first event")?["time"].take();
        let month = first.as_str().and_then(|time| time.get(..7)).context("a time")?;
        Ok(format!("{month}-28T12:00:00Z"))
    }

    /// Its event of a round, if it has so many.
    fn event(&self, round: usize) -> Option<Value> {
        let usage = self.usage.get(round)?;
        let more = usage.get(2).and_then(|more| more.as_deref());
        let time = match more.filter(|_| !self.costs()) {
            Some(local) => moment(local),
            None => format!("2026-06-02T00:00:{round:02}Z"),
        };
        let known = if more.is_some() { "yes" } else { "no" };
        Some(json!({"id": format!("{}-{round}", self.key), "source": SOURCE, "type": self.key,
            "subject": self.key, "time": time, "data": {"n": usage.first()?, "known": known}}))
    }
}

/// An instant of the first week of June 2026, whose first is a Monday: `sat 21:30`; or one that is written in full.
fn moment(local: &str) -> String {
    if local.ends_with('Z') {
        return local.to_owned();
    }
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let (day, time) = local.split_once(' ').unwrap_or_default();
    let day = days.iter().position(|name| *name == day).unwrap_or_default() + 1;
    format!("2026-06-{day:02}T{time}:00Z")
}

fn catalog(examples: &[Example]) -> Value {
    let meter = |example: &Example| {
        json!({"key": example.key, "event_types": [example.key], "aggregation": "sum", "value": "$.n",
            "dimensions": {"known": "$.known"}, "allow_negative": true})
    };
    let rows: Vec<&Value> = examples.iter().map(|example| &example.row).collect();
    let costs: Vec<Value> = examples.iter().filter_map(Example::cost_row).collect();
    let card = |key: &str, kind: &str, rates: Value| json!({"key": key, "kind": kind, "currency": "USD", "versions": [{"rates": rates}]});
    json!({"meters": examples.iter().map(meter).collect::<Vec<_>>(),
        "cards": [card("examples", "rate", json!(rows)), card("example-costs", "cost", json!(costs))],
        "default_rate_card": "examples", "default_cost_card": "example-costs"})
}

/// The whole catalog with these meters and cards beside what is published.
async fn publish(system: &System, added: &Value) -> Result<()> {
    let api = system.api()?;
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    for name in ["meters", "cards"] {
        let list = catalog[name].as_array_mut().context("a list")?;
        list.extend(added[name].as_array().context("a list")?.iter().cloned());
    }
    for name in ["default_rate_card", "default_cost_card"] {
        catalog[name] = added[name].clone();
    }
    api.send("PUT", "/v1/catalog", &catalog).await?;
    Ok(())
}

#[tokio::test]
async fn every_example_is_charged_as_written_whatever_is_killed() -> Result<()> {
    let examples = examples()?;
    ensure!(examples.len() > 15, "{} examples", examples.len());
    let mut system = System::embedded().await?;
    publish(&system, &catalog(&examples)).await?;
    let (mut sent, mut round) = (0, 0);
    loop {
        let events: Vec<Value> = examples.iter().filter_map(|one| one.event(round)).collect();
        if events.is_empty() {
            break;
        }
        let body = serde_json::to_vec(&events)?;
        let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
        ensure!(status == 200 && answer["accepted"] == events.len(), "{status}: {answer}");
        sent += i64::try_from(events.len())?;
        // In the first round while batches are under way, in the second once all is posted.
        if round == 1 {
            system.settled(Some(sent)).await?;
        }
        if round < 2 {
            system.kill("up")?;
            system.start("up").await?;
        }
        round += 1;
    }
    system.settled(Some(sent)).await?;
    for example in &examples {
        check(&system, example)
            .await
            .with_context(|| format!("{}: {}", example.key, example.row))?;
    }
    totals_are_posted(&system, &examples).await?;
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    let report = system.run("verify", &["verify", "--data", data, "--sample", "500"]).await?;
    ensure!(report.contains("ratings"), "{report}");
    // A total that somebody changed is found.
    let sql = "UPDATE running_totals SET quantity = quantity + 0.000000000001
        WHERE meter = (SELECT min(meter) FROM running_totals)";
    let changed = sqlx::query(sql).execute(&mut system.superuser().await?).await?.rows_affected();
    let found = system.run("verify", &["verify", "--data", data, "--sample", "5000"]).await;
    ensure!(changed == 1, "{changed} rows were changed");
    let report = match found {
        Err(error) => error.to_string(),
        Ok(report) => anyhow::bail!("nothing was found: {report}"),
    };
    ensure!(report.contains("totals of periods"), "{report}");
    Ok(())
}

/// The lines of the example's events, and what explains them.
async fn check(system: &System, example: &Example) -> Result<()> {
    let api = system.api()?;
    let mut sum = 0;
    let mut transfers = BTreeMap::new();
    for (round, usage) in example.usage.iter().enumerate() {
        let path = format!("/v1/events?source={SOURCE}&id={}-{round}", example.key);
        let line = api.get(&path).await?["items"][0]["lines"][0].take();
        let charge = line["charge"].as_str().map(parse).transpose()?;
        let wanted = usage.get(1).and_then(|text| text.as_deref()).map(parse).transpose()?;
        ensure!(charge == wanted, "event {round}: {line} is not {usage:?}");
        // What was used stays as it was reported, however the row converts and rounds it.
        let quantity = line["quantity"].as_str().map(parse).transpose()?;
        let reported = usage.first().and_then(|text| text.as_deref()).map(parse).transpose()?;
        ensure!(
            quantity.is_some() && quantity == reported,
            "event {round}: {line} is not {usage:?}"
        );
        sum += charge.unwrap_or(0);
        if let Some(transfer) = line["transfer_id"].as_str() {
            transfers.insert(transfer.to_owned(), ());
        }
    }
    ensure!(sum == example.total, "they add up to {sum}");
    let balance = api.get(&format!("/v1/teams/{}/balance", example.key)).await?;
    let owed = balance["balances"][0]["live"].as_str().map(parse).transpose()?.unwrap_or(0);
    ensure!(owed == -sum, "{balance}");
    for transfer in transfers.keys() {
        let explained = api.get(&format!("/v1/explain/{transfer}")).await?;
        ensure!(explained["matches"] == true, "{explained}");
        for event in explained["events"]["items"].as_array().context("events")? {
            let step = &event["lines"][0]["charge_step"];
            ensure!(step["matches"] == true, "{event}");
        }
    }
    Ok(())
}

/// Postgres has the totals, and a calculation for the team goes on from them.
async fn totals_are_posted(system: &System, examples: &[Example]) -> Result<()> {
    let api = system.api()?;
    let mut connection = system.postgres().await?;
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT meter, quantity::text FROM running_totals WHERE team = meter")
            .fetch_all(&mut connection)
            .await?;
    ensure!(rows.len() > 10, "{rows:?}");
    for (meter, quantity) in rows {
        let example = examples.iter().find(|one| one.key == meter).context("an example")?;
        let time = example.within()?;
        let asked = json!({"type": meter, "team": meter, "time": time, "data": {"n": "0"}});
        let answer = api.send("POST", "/v1/rating/calculate", &asked).await?;
        let line = &answer["lines"][0];
        ensure!(
            line["total_before"].as_str().map(parse).transpose()? == Some(parse(&quantity)?),
            "{answer}: {quantity}"
        );
        // Without a team it is the first usage of its period.
        let first = &example.usage[0];
        let time = example.event(0).context("a first event")?["time"].take();
        let asked = json!({"type": meter, "time": time, "data": {"n": first[0]}});
        let answer = api.send("POST", "/v1/rating/calculate", &asked).await?;
        let charge = answer["credits"].as_str().map(parse).transpose()?;
        let wanted = first[1].as_deref().map(parse).transpose()?;
        ensure!(charge == wanted && answer["lines"][0]["total_before"] == "0", "{answer}");
    }
    Ok(())
}

/// An example of the document with a catalog of its own, whose events may have several lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    name: String,
    catalog: Value,
    events: Vec<Used>,
    /// What each team owes.
    totals: BTreeMap<String, String>,
    /// By team and user: quantity and charge, of the first meter.
    #[serde(default)]
    shares: BTreeMap<String, BTreeMap<String, [String; 2]>>,
}

/// An event, and its charges by meter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Used {
    team: String,
    #[serde(default)]
    user: Option<String>,
    time: String,
    n: String,
    charges: BTreeMap<String, String>,
}

#[tokio::test]
async fn every_example_of_events_is_charged_as_written() -> Result<()> {
    let blocks = DOCUMENT.split("```json events\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let examples: Vec<Events> = blocks.map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(examples.len() == 2, "{} examples", examples.len());
    let system = System::embedded().await?;
    let mut sent = 0;
    for example in &examples {
        publish(&system, &example.catalog).await?;
        for (number, used) in example.events.iter().enumerate() {
            let event = json!({"id": format!("{}-{number}", example.name), "source": SOURCE,
                "type": example.catalog["meters"][0]["event_types"][0], "subject": used.team, "user": used.user,
                "time": used.time, "data": {"n": used.n}});
            let body = serde_json::to_vec(&event)?;
            let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
            ensure!(status == 200, "{status}: {answer}");
            sent += 1;
        }
    }
    system.settled(Some(sent)).await?;
    for example in &examples {
        is_charged_as_written(&system, example).await.with_context(|| example.name.clone())?;
    }
    Ok(())
}

async fn is_charged_as_written(system: &System, example: &Events) -> Result<()> {
    let api = system.api()?;
    let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
    for (number, used) in example.events.iter().enumerate() {
        let id = format!("{}-{number}", example.name).replace(' ', "%20");
        let event =
            api.get(&format!("/v1/events?source={SOURCE}&id={id}")).await?["items"][0].take();
        let lines = event["lines"].as_array().context("lines")?;
        let charges: BTreeMap<&str, &str> = lines
            .iter()
            .filter_map(|line| Some((line["meter"].as_str()?, line["charge"].as_str()?)))
            .collect();
        let wanted = used.charges.iter();
        let wanted: BTreeMap<&str, &str> =
            wanted.map(|(meter, charge)| (meter.as_str(), charge.as_str())).collect();
        ensure!(charges == wanted && lines.len() == wanted.len(), "event {number}: {event}");
        for charge in charges.values() {
            *sums.entry(&used.team).or_default() += parse(charge)?;
        }
    }
    for (team, total) in &example.totals {
        let total = parse(total)?;
        let balance = api.get(&format!("/v1/teams/{team}/balance")).await?;
        let owed = balance["balances"][0]["live"].as_str().map(parse).transpose()?;
        ensure!(owed == Some(-total), "{team}: {balance}");
        ensure!(
            sums.remove(team.as_str()) == Some(total),
            "{team}: the lines add up to less or more"
        );
    }
    ensure!(sums.is_empty(), "teams without a total: {sums:?}");
    for (team, shares) in &example.shares {
        let usage = api.get(&format!("/v1/usage?team={team}&group_by=user")).await?;
        let rows = usage["items"].as_array().context("rows")?;
        let found: BTreeMap<String, [String; 2]> = rows
            .iter()
            .map(|row| {
                let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
                Ok((text(&row["group"]["user"])?, [text(&row["quantity"])?, text(&row["charge"])?]))
            })
            .collect::<Result<_>>()?;
        ensure!(found == *shares, "{team}: {usage}");
    }
    Ok(())
}

/// Half to even.
fn rounded(numerator: i128, denominator: i128) -> i128 {
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    match (2 * rest).cmp(&denominator) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + whole % 2,
    }
}

/// What so many tokens of a month cost under each model, in units of the last decimal, by arithmetic in
/// whole tokens that knows nothing of how prices are computed.
fn under_models(tokens: i128) -> BTreeMap<&'static str, i128> {
    let cent = ONE / 100;
    let graduated = tokens.min(10_000) * 3
        + (tokens.min(100_000) - 10_000).max(0) * 2
        + (tokens - 100_000).max(0);
    let volume = tokens * if tokens <= 100_000 { 3 } else { 2 };
    BTreeMap::from([
        ("package", (tokens + 999) / 1_000 * cent),
        ("graduated", rounded(graduated * cent, 7)),
        ("volume", rounded(volume * cent, 7) + if tokens > 100_000 { 5 * ONE } else { 0 }),
        ("flat", if tokens > 0 { 9 * ONE } else { 0 }),
        ("allowance", rounded((tokens - 50_000).max(0) * cent, 3)),
        ("capped", rounded(tokens * cent, 3).clamp(ONE, 700 * ONE)),
    ])
}

#[tokio::test]
async fn traces_under_six_models_come_to_plain_arithmetic() -> Result<()> {
    let system = System::embedded().await?;
    let tiers = |last: Value| json!([{"up_to": "10000", "price": "0.03"}, {"up_to": "100000", "price": "0.02"}, last]);
    let rows = [
        json!({"meter": "package", "model": "package", "price": "0.01", "per": 1000}),
        json!({"meter": "graduated", "model": "graduated", "per": 7, "tiers": tiers(json!({"price": "0.01"}))}),
        json!({"meter": "volume", "model": "volume", "per": 7,
            "tiers": [{"up_to": "100000", "price": "0.03"}, {"price": "0.02", "flat": "5"}]}),
        json!({"meter": "flat", "model": "flat", "price": "9"}),
        json!({"meter": "allowance", "price": "0.01", "per": 3, "included": "50000"}),
        json!({"meter": "capped", "price": "0.01", "per": 3, "minimum": "1", "maximum": "700"}),
    ];
    let meters: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"key": row["meter"], "event_types": ["llm.tokens.v1"], "aggregation": "sum",
                "value": "$.inputTokens"})
        })
        .collect();
    let card =
        json!({"key": "six", "kind": "rate", "currency": "USD", "versions": [{"rates": rows}]});
    publish(
        &system,
        &json!({"meters": meters, "cards": [card], "default_rate_card": "six", "default_cost_card": null}),
    )
    .await?;
    system.replay_all("traces", &[]).await?;
    system.settled(Some(28_185)).await?;
    let postgres = system.totals_in_postgres().await?;
    let sql = "SELECT team, meter, toString(sum(charge * sign)) AS charge FROM usage_lines GROUP BY team, meter";
    let archive = system.clickhouse().query_json_rows(sql, &[]).await?;
    let archive: BTreeMap<(&str, &str), &Value> = archive
        .iter()
        .filter_map(|row| Some(((row["team"].as_str()?, row["meter"].as_str()?), &row["charge"])))
        .collect();
    let (mut checked, mut teams) = (0, BTreeMap::new());
    for ((team, meter), sums) in &postgres {
        let Some(wanted) = under_models(sums.quantity / ONE).get(meter.as_str()).copied() else {
            continue;
        };
        ensure!(sums.charge == wanted, "{team}, {meter}: {sums:?} is not {wanted}");
        let archived = archive.get(&(team.as_str(), meter.as_str())).context("in the archive")?;
        ensure!(amount(archived)? == wanted, "{team}, {meter}: {archived} is not {wanted}");
        teams.insert(team, ());
        checked += 1;
    }
    ensure!(checked == 6 * teams.len() && teams.len() > 5, "{checked} of {} teams", teams.len());
    Ok(())
}
