//! The page at `/`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{system::System, wait::eventually};
use tokio::process::Command;

use super::typed;

/// Values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    page.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Places where a host may be named: two slashes, and a name after them.
fn hosts(text: &str) -> Vec<&str> {
    let after = text.match_indices("//").map(|(place, _)| &text[place + 2..]);
    let named =
        |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    after
        .filter(named)
        .map(|rest| rest.split(['"', '\'', ' ', '\n']).next().unwrap_or_default())
        .collect()
}

#[test]
fn hosts_are_seen() {
    let text = "// a remark\n'//cdn.example/a.js' url(https://b.example/c)";
    assert_eq!(hosts(text), ["cdn.example/a.js", "b.example/c)"]);
}

#[tokio::test]
async fn the_page_is_one_file_and_names_no_other_host() -> Result<()> {
    let system = System::embedded().await?;
    let base = system.base("up")?;
    // Without a key: the page asks for one.
    let answer = typed(&format!("curl -sS -i {base}/")).await?;
    let (head, page) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/html"),
        "{head}"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/static/index.html");
    assert_eq!(page, fs::read_to_string(file)?);

    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.with_context(|| format!("no policy: {head}"))?;
    for directive in policy.split(';') {
        let mut words = directive.split_whitespace();
        let name = words.next().context("a directive without a name")?;
        let own = |source: &str| source.starts_with('\'') || source == "data:";
        ensure!(words.all(own), "{name} lets something in from elsewhere: {directive}");
    }
    ensure!(policy.contains("default-src 'none'"), "{policy}");

    let named = ["src", "href", "action"].map(|attribute| values(page, attribute)).concat();
    ensure!(!named.is_empty(), "no link in the page");
    let mut rest = page.to_owned();
    for value in named {
        let data = value.starts_with("data:");
        ensure!(data || (value.starts_with('/') && !value.starts_with("//")), "it names {value}");
        if data {
            // Nobody is asked for what stands in the page itself, such as the name of SVG.
            rest = rest.replace(value, "");
        }
    }
    assert_eq!(hosts(&rest), Vec::<&str>::new());
    Ok(())
}

/// What the page has written, by its own script.
async fn shown(base: &str, key: &str) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo/page.mjs");
    let output =
        Command::new("node").arg(script).args([base, key]).kill_on_drop(true).output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {error}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn the_page_shows_what_flows_and_its_lines_work() -> Result<()> {
    let system = System::embedded().await?;
    let (api, base, key) = (system.api()?, system.base("up")?, system.key());
    let event = |id: &str, model: Value| {
        json!({"id": id, "type": "llm.tokens.v1", "source": "page", "subject": "page-team",
            "data": {"provider": "openai", "model": model, "inputTokens": 1200, "outputTokens": 300}})
    };
    let events = json!([event("1", json!("gpt-4-turbo")), event("2", json!("gpt-4-turbo"))]);
    api.send("POST", "/v1/events", &events).await?;
    api.send("POST", "/v1/events", &events).await?;
    system.settled(Some(4)).await?;
    // What is in memory follows what is posted.
    eventually("the balance is posted", async || {
        let balance = &api.get("/v1/teams/page-team/balance").await?["balances"][0];
        let posted = balance["posted"].as_str();
        Ok(posted.is_some_and(|posted| posted != "0") && balance["posted"] == balance["live"])
    })
    .await?;
    let page = shown(&base, key).await?;

    for (tile, wanted) in [
        ("accepted", "4"),
        ("rated", "2"),
        ("duplicates", "2"),
        ("pending", "0"),
        ("rejected", "0"),
        ("conflicts", "0"),
        ("unpriced", "0"),
        ("unmetered", "0"),
    ] {
        ensure!(page["tiles"][tile] == wanted, "{tile}: {page}");
    }
    ensure!(page["hint_is_hidden"] == true, "{page}");
    let balance = api.get("/v1/teams/page-team/balance").await?;
    let owed = |which: &str| {
        json!(format!("{} USD", balance["balances"][0][which].as_str().unwrap_or_default()))
    };
    let team = &page["teams"][1];
    ensure!(
        (&team[0], &team[1], &team[2]) == (&json!("page-team"), &owed("posted"), &owed("live")),
        "{team}: {balance}"
    );
    let statement = api.get("/v1/conservation").await?;
    ensure!(page["state"] == statement["total"]["summary"], "{page}: {statement}");
    let rows = page["partitions"].as_array().context("partitions")?;
    let partitions = statement["partitions"].as_array().context("partitions")?;
    ensure!(rows.len() == 1 + partitions.len() && !partitions.is_empty(), "{page}");
    for (row, partition) in rows.iter().skip(1).zip(partitions) {
        let count = |value: &Value| json!(value.to_string());
        ensure!(
            row[0] == count(&partition["partition"])
                && row[1] == count(&partition["counts"]["accepted"])
                && row[5] == count(&partition["posted_position"])
                && row[6] == count(&partition["archived_position"])
                && row[8] == "balances",
            "{row}: {partition}"
        );
    }

    // Its lines, typed as they stand.
    let lines = page["lines"].as_array().context("lines")?;
    for (line, wanted) in lines.iter().zip(["accepted", "\"posted\"", "page-team"]) {
        let line = line.as_str().context("a line")?;
        let answer = typed(&format!("export WEIR_KEY={key}\n{line}")).await?;
        ensure!(
            answer.contains(wanted) && !answer.contains("urn:weir:problem"),
            "{line}: {answer}"
        );
    }
    // Whoever has no good key is told so.
    let wrong = shown(&base, "weir_live_nobody").await;
    ensure!(
        wrong.is_err_and(|error| error.to_string().contains("key")),
        "a wrong key shows something"
    );
    Ok(())
}
