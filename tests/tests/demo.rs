//! What somebody sees who tries Weir: `weir up --demo`, the lines that `weir hints` prints, `make up`
//! and its friends, the page at `/`, and rows of their own.

use std::{
    collections::BTreeMap,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    oracle::{self, CHARGE},
    system::{System, amount, check_counts},
    wait::eventually,
};

#[path = "demo/aliases.rs"]
mod aliases;
#[path = "demo/made.rs"]
mod made;
#[path = "demo/page.rs"]
mod page;
#[path = "demo/rejected.rs"]
mod rejected;
#[path = "demo/replay.rs"]
mod replay;
#[path = "demo/status.rs"]
mod status;

/// Events of the demo.
const EVENTS: i64 = 3_000;
/// Headings of what `weir hints` prints; the line to try follows each.
const SEND: &str = "Send an event:";
const BALANCE: &str = "Read its team's balance:";
const LINES: &str = "List the event's lines and journal";
const LEDGER: &str = "SQL on the ledger:";
const ARCHIVE: &str = "SQL on the archive:";
/// The team of the hinted event.
const TEAM: &str = "team-01";

/// `weir up --demo` on an empty folder, as `deploy/up.sh` starts it.
async fn demo() -> Result<System> {
    // The catalog that it publishes by itself is there already, so nothing is published again.
    let system = System::embedded_with(&[], &["--demo"], &[]).await?;
    let counts = system.settled(Some(EVENTS)).await?;
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    Ok(system)
}

async fn hints(system: &System) -> Result<String> {
    let data = system.data();
    system.run("hints", &["hints", "--data", data.to_str().context("a path that is text")?]).await
}

/// The line below a heading.
fn hinted<'a>(hints: &'a str, heading: &str) -> Result<&'a str> {
    let below = hints.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
    let mut lines = below.map(str::trim).filter(|line| !line.is_empty());
    lines.next().with_context(|| format!("nothing below {heading:?} in\n{hints}"))
}

/// Runs a command to its end, whatever its exit code is.
async fn ended(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// Runs a command to its end; what it wrote, or an error with all that it said.
async fn output(command: Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = ended(command).await?;
    let said = String::from_utf8(output.stdout)?;
    let faults = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}\n{said}\n{faults}", output.status);
    Ok(said)
}

/// Types a line into a shell.
async fn typed(line: &str) -> Result<String> {
    let mut command = Command::new("sh");
    // Settings of whoever runs the tests may change how psql prints.
    command.args(["-c", line]).env("PSQLRC", "/dev/null");
    output(command).await
}

/// [`typed`], for a line that answers JSON.
async fn answered(line: &str) -> Result<Value> {
    let text = typed(line).await?;
    serde_json::from_str(&text).with_context(|| format!("{line} answered {text:?}"))
}

/// Cells of the rows of a printed table.
fn cells(table: &str, border: char) -> Vec<Vec<&str>> {
    let rows = table.lines().filter(|line| line.contains(border));
    rows.map(|row| row.split(border).map(str::trim).collect()).collect()
}

#[tokio::test]
async fn the_hints_work_when_they_are_typed_in() -> Result<()> {
    let system = demo().await?;
    let owed = system.receivables().await?.get(TEAM).copied().context("no usage of the team")?;
    let hints = hints(&system).await?;
    let base = system.base("up")?;
    ensure!(hints.contains(&format!("  address   {base}/ ")), "{hints}");
    ensure!(hints.contains(&format!("  API key   {}\n", system.key())), "{hints}");

    let sent = answered(hinted(&hints, SEND)?).await?;
    assert_eq!((&sent["accepted"], &sent["rejected"]), (&json!(1), &json!(0)), "{sent}");
    let result = &sent["results"][0];
    assert_eq!((&result["id"], &result["status"]), (&json!("first-1"), &json!("accepted")));

    let charge = CHARGE.input.of(1_000) + CHARGE.output.of(250);
    let balance = hinted(&hints, BALANCE)?;
    eventually(&format!("{owed} and {charge} are posted"), async || {
        let answer = answered(balance).await?;
        assert_eq!(
            (&answer["team"], &answer["balances"][0]["currency"]),
            (&json!(TEAM), &json!("USD"))
        );
        assert_eq!(answer["balances"].as_array().map(Vec::len), Some(1), "{answer}");
        let of = |name: &str| amount(&answer["balances"][0][name]);
        Ok((of("posted")?, of("live")?) == (-owed - charge, -owed - charge))
    })
    .await?;

    lines_and_journal(hinted(&hints, LINES)?, &result["receipt"]).await?;
    rows_of_the_ledger(hinted(&hints, LEDGER)?).await?;
    rows_of_the_archive(&system, hinted(&hints, ARCHIVE)?).await
}

/// The hinted list has the event with this receipt, its two lines and their journal.
async fn lines_and_journal(line: &str, receipt: &Value) -> Result<()> {
    let mut found = Value::Null;
    eventually("the event is posted and archived", async || {
        found = answered(line).await?;
        Ok(found["items"][0]["posted"] == true)
    })
    .await?;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
    let event = &found["items"][0];
    assert_eq!((&event["receipt"], &event["status"]), (receipt, &json!("rated")));
    let journal = event["journal_id"].as_str().with_context(|| format!("no journal: {event}"))?;
    let lines = event["lines"].as_array().context("no lines")?;
    let wanted = [
        ("llm_input_tokens", "1000", CHARGE.input.of(1_000)),
        ("llm_output_tokens", "250", CHARGE.output.of(250)),
    ];
    assert_eq!(lines.len(), wanted.len(), "{event}");
    for (line, (meter, quantity, charge)) in lines.iter().zip(wanted) {
        assert_eq!((&line["meter"], &line["quantity"]), (&json!(meter), &json!(quantity)));
        assert_eq!((amount(&line["charge"])?, &line["currency"]), (charge, &json!("USD")));
        for transfer in ["transfer_id", "cost_transfer_id"] {
            let id = line[transfer].as_str().with_context(|| format!("no {transfer}: {line}"))?;
            ensure!(id.starts_with(journal), "{id} is not in the journal {journal}");
        }
    }
    Ok(())
}

/// The hinted SQL shows the newest journal, which is the hinted event's.
async fn rows_of_the_ledger(line: &str) -> Result<()> {
    let table = typed(line).await?;
    let rows = cells(&table, '|');
    let (head, rows) = rows.split_first().context("no table")?;
    assert_eq!(head, &["posted_at", "team", "meter", "quantity", "amount", "currency"]);
    assert_eq!(rows.len(), 10, "{table}");
    for (meter, quantity, charge) in [
        ("llm_input_tokens", "1000", CHARGE.input.of(1_000)),
        ("llm_output_tokens", "250", CHARGE.output.of(250)),
    ] {
        let own = rows.iter().find(|row| row[1..3] == [TEAM, meter]);
        let own = own.with_context(|| format!("no {meter} of {TEAM} in\n{table}"))?;
        let numbers = (oracle::parse(own[3])?, oracle::parse(own[4])?);
        assert_eq!((numbers, own[5]), ((oracle::parse(quantity)?, charge), "USD"), "{table}");
    }
    Ok(())
}

/// The hinted SQL shows the ten teams that owe most, with what Postgres says that they owe.
async fn rows_of_the_archive(system: &System, line: &str) -> Result<()> {
    let table = typed(line).await?;
    let mut found = Vec::new();
    for row in cells(&table, '│') {
        let [_, team, charge, cost, margin, _] = row[..] else {
            anyhow::bail!("no row of four columns: {row:?} in\n{table}");
        };
        let (charge, cost) = (oracle::parse(charge)?, oracle::parse(cost)?);
        assert_eq!(oracle::parse(margin)?, charge - cost, "{table}");
        ensure!(cost > 0, "{team} costs nothing:\n{table}");
        found.push((team.to_owned(), charge));
    }
    let mut owed: Vec<(String, i128)> = system.receivables().await?.into_iter().collect();
    owed.sort_by_key(|(_, owed)| -owed);
    owed.truncate(10);
    assert_eq!(found, owed, "{table}");
    Ok(())
}

/// Stops `weir up --demo` and starts it again.
async fn again(system: &mut System, between: impl FnOnce(&System) -> Result<()>) -> Result<()> {
    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "exit code {code:?}");
    between(system)?;
    system.start("up").await
}

/// What must not change when the demo is started again: the catalog's version and what teams owe.
async fn books(system: &System) -> Result<(Value, BTreeMap<String, i128>)> {
    let catalog = system.api()?.get("/v1/catalog").await?;
    Ok((catalog["catalog_version"].clone(), system.receivables().await?))
}

#[tokio::test]
async fn a_second_start_prints_the_same_and_loads_nothing_twice() -> Result<()> {
    let mut system = demo().await?;
    let first = hints(&system).await?;
    assert_eq!(hints(&system).await?, first);
    let before = books(&system).await?;
    assert_eq!(before.0, 1, "the catalog was published more than once");

    again(&mut system, |_| Ok(())).await?;
    // The archive's engine takes any free port at each start.
    let fixed = |hints: &str| hints.split_once(ARCHIVE).map(|(fixed, _)| fixed.to_owned());
    ensure!(fixed(&first).is_some(), "{first}");
    let second = hints(&system).await?;
    assert_eq!(fixed(&second), fixed(&first));
    ensure!(typed(hinted(&second, ARCHIVE)?).await?.contains(TEAM), "nothing in the archive");
    let counts = system.settled(Some(EVENTS)).await?;
    check_counts(&counts, EVENTS, 0, 0)?;
    assert_eq!(books(&system).await?, before);

    // A demo that was cut off before its end is sent again whole, and counts once.
    again(&mut system, |system| Ok(std::fs::remove_file(system.data().join("demo"))?)).await?;
    let counts = system.settled(Some(2 * EVENTS)).await?;
    check_counts(&counts, EVENTS, EVENTS, 0)?;
    assert_eq!(books(&system).await?, before);

    // So does the hinted event.
    for _ in 0..2 {
        typed(hinted(&second, SEND)?).await?;
    }
    let counts = system.settled(Some(2 * EVENTS + 2)).await?;
    check_counts(&counts, EVENTS + 1, EVENTS + 1, 0)?;
    Ok(())
}
