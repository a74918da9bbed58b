//! Clients that people already run, as they are published, against a running Weir: nothing but the
//! address and the key is told to them. And real traffic in their forms, against plain arithmetic.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use benches::spread::Spread;
use serde_json::{Value, json};
use tests::{
    oracle::{self, CHARGE, Row},
    system::{System, amount, integer},
};

/// The repository's main document.
const README: &str = include_str!("../../README.md");

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a command to its end; its output, or an error with all that it said.
async fn output(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null());
    let what = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said.trim().to_owned())
}

/// The folder of the clients.
async fn clients() -> Result<PathBuf> {
    Ok(output(Command::new(repository("deploy/setup/clients.sh"))).await?.into())
}

/// A meter of `event_type` that is 1 for each unit of a member of `data`.
fn meter(key: &str, event_type: &str, member: &str) -> Value {
    json!({"key": key, "event_types": [event_type], "aggregation": "sum", "value": format!("$.{member}"), "unit": "token"})
}

/// The rated events of a source: id and quantities by meter, in the order of ids.
async fn events(system: &System, source: &str) -> Result<Vec<(String, Value)>> {
    let page = system.api()?.get(&format!("/v1/events?source={source}&limit=100")).await?;
    let mut found = Vec::new();
    for event in page["items"].as_array().with_context(|| format!("no list: {page}"))? {
        ensure!(event["status"] == "rated" && event["posted"] == true, "{event}");
        ensure!(event["journal_id"].is_string(), "in no journal: {event}");
        let lines = event["lines"].as_array().context("an event without lines")?;
        let quantities =
            lines.iter().map(|line| (text(&line["meter"]), line["quantity"].clone())).collect();
        found.push((text(&event["id"]), quantities));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn software_kits_change_only_address_and_key() -> Result<()> {
    let clients = clients().await?;
    let system = System::embedded().await?;
    let api = system.api()?;
    api.send("POST", "/v1/meters", &meter("tokens", "tokens", "tokens")).await?;
    let version = json!({"rates": [{"meter": "tokens", "price": "2"}]});
    api.send("POST", "/v1/rate-cards/standard/versions", &version).await?;
    let folder = repository("tests/tests/clients");
    let mut python = Command::new(clients.join("python/bin/python"));
    python.arg(folder.join("sdk.py"));
    let mut node = Command::new("node");
    node.arg(folder.join("sdk.mjs"));
    for mut command in [python, node] {
        let http = system.ingest()?;
        command.env("WEIR_URL", &http.base).env("WEIR_KEY", http.key()).env("CLIENTS", &clients);
        output(command).await?;
    }

    system.settled(Some(16)).await?;
    let quantity = |text: &str| json!({ "tokens": text });
    for name in ["openmeter-py", "openmeter-js"] {
        let wanted = ["100", "200", "0.5"].into_iter().zip(1..);
        let wanted: Vec<_> =
            wanted.map(|(text, number)| (format!("{name}-{number}"), quantity(text))).collect();
        assert_eq!(events(&system, name).await?, wanted);
    }
    let wanted = ["js", "py"].into_iter().flat_map(|language| {
        ["100", "200", "0.5"]
            .into_iter()
            .zip(1..)
            .map(move |(text, number)| (format!("lago-{language}-{number}"), quantity(text)))
    });
    assert_eq!(events(&system, "lago").await?, wanted.collect::<Vec<_>>());
    for name in ["cloudevents-py", "cloudevents-js"] {
        let wanted = ["100", "200"].into_iter().zip(1..);
        let wanted: Vec<_> =
            wanted.map(|(text, number)| (format!("{name}-{number}"), quantity(text))).collect();
        assert_eq!(events(&system, name).await?, wanted);
    }
    // 4 times 300.5 and twice 300, at a price of 2.
    assert_eq!(receivable(&system, "team-01").await?, oracle::parse("3604")?);
    Ok(())
}

async fn receivable(system: &System, team: &str) -> Result<i128> {
    system.receivables().await?.get(team).copied().context("the team owes nothing")
}

#[tokio::test]
async fn litellm_reports_by_its_callbacks() -> Result<()> {
    let clients = clients().await?;
    let system = System::embedded().await?;
    // What the README says to publish, by the command that it says.
    let http = system.api()?;
    let mut blocks = README.split("```sh").skip(1).filter_map(|block| block.split("```").next());
    let block = blocks.find(|block| block.contains("litellm_tokens")).context("no such block")?;
    let mut publish = Command::new("sh");
    publish.args(["-euc", block]).env("URL", &http.base).env("KEY", http.key());
    output(publish).await?;

    let mut tokens = Vec::new();
    for callback in ["openmeter", "lago"] {
        let mut python = Command::new(clients.join("litellm/bin/python"));
        python.arg(repository("tests/tests/clients/callbacks.py")).args([callback, "team-07"]);
        python
            .env("OPENMETER_API_ENDPOINT", &http.base)
            .env("OPENMETER_API_KEY", http.key())
            .env("LAGO_API_BASE", &http.base)
            .env("LAGO_API_KEY", http.key())
            .env("LAGO_API_EVENT_CODE", "litellm_tokens")
            .env("LAGO_API_CHARGE_BY", "end_user_id")
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        tokens.push(output(python).await?);
    }
    system.settled(Some(2)).await?;
    for (source, tokens) in ["litellm-proxy", "lago"].into_iter().zip(&tokens) {
        let (input, written) = tokens.split_once(' ').context("two numbers")?;
        let found = events(&system, source).await?;
        let wanted = json!({"litellm_input_tokens": input, "litellm_output_tokens": written});
        assert_eq!(found.iter().map(|(_, lines)| lines).collect::<Vec<_>>(), [&wanted]);
    }
    assert!(receivable(&system, "team-07").await? > 0);
    Ok(())
}

#[tokio::test]
async fn the_traces_give_the_same_sums_in_every_form() -> Result<()> {
    let system = System::embedded().await?;
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    let data = |row: &Row| {
        json!({"provider": "openai", "model": "gpt-4-turbo",
            "inputTokens": row.prompt.to_string(), "outputTokens": row.generated.to_string()})
    };
    let cloud = |row: &Row| {
        json!({"specversion": "1.0", "id": row.id, "source": "openmeter", "type": "llm.tokens.v1",
            "subject": row.team, "data": data(row)})
    };
    let lago = |row: &Row| {
        json!({"transaction_id": row.id, "external_subscription_id": row.team, "code": "llm.tokens.v1",
            "timestamp": "1700000000.25", "properties": data(row)})
    };
    let http = system.ingest()?;
    for part in rows.chunks(5_000) {
        let native: Vec<Value> = part
            .iter()
            .map(|row| {
                json!({"id": row.id, "source": "native", "type": "llm.tokens.v1", "subject": row.team, "data": data(row)})
            })
            .collect();
        let form: Vec<Value> = part.iter().map(cloud).collect();
        let lagos = json!({"events": part.iter().map(lago).collect::<Vec<_>>()});
        for (path, body, wanted) in [
            ("/v1/events", Value::from(native), 200),
            ("/api/v1/events", Value::from(form), 204),
            ("/api/v1/events/batch", lagos, 200),
        ] {
            let (status, answer) = http.exchange("POST", path, body.to_string().into()).await?;
            ensure!(status == wanted, "{path}: {status} {answer}");
        }
    }

    let counts = system.settled(Some(3 * 28_185)).await?;
    ensure!(counts["rated"] == 3 * 28_185, "{counts:?}");
    let mut expected = oracle::Books::new();
    for (key, sums) in oracle::books(&rows, |_| CHARGE) {
        let all = expected.entry(key).or_default();
        (0..3).for_each(|_| all.add(sums));
    }
    system.check_books(&expected).await?;

    let sql = "SELECT source, meter, toString(sum(quantity)) AS quantity, toString(sum(charge)) AS charge, count() AS lines \
               FROM usage_lines GROUP BY source, meter ORDER BY source, meter";
    let found = system.clickhouse().query_json_rows(sql, &[]).await?;
    ensure!(found.len() == 6, "{found:?}");
    for (number, row) in found.iter().enumerate() {
        let tokens = if row["meter"] == "llm_input_tokens" { 40_421_844 } else { 4_334_561 };
        ensure!(integer(&row["lines"])? == 28_185, "{row}");
        ensure!(amount(&row["quantity"])? == oracle::parse(&tokens.to_string())?, "{row}");
        ensure!(row["charge"] == found[number % 2]["charge"], "{row}");
    }
    Ok(())
}
