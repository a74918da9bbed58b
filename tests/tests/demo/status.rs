//! `weir status`: what became of every event, and what is on its way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tests::{
    oracle::CHARGE,
    postgres::TestFolder,
    process::{Http, Process},
    system::{System, amount},
    wait::eventually,
};

use super::cells;

/// Outcomes of an event, as the statement calls them.
const OUTCOMES: [&str; 7] =
    ["rated", "unmetered", "unpriced", "duplicates", "conflicts", "rejected", "forwarded"];
/// Headings of the table that are counts of the statement.
const COUNTS: [&str; 7] =
    ["accepted", "rated", "unpriced", "unmetered", "duplicates", "conflicts", "rejected"];

/// What a command said.
pub struct Said {
    pub code: Option<i32>,
    pub output: String,
    pub faults: String,
}

/// Runs `weir` with these arguments to its end.
pub async fn said(folder: &std::path::Path, arguments: &[&str]) -> Result<Said> {
    let name = format!("command-{}", uuid::Uuid::now_v7());
    let mut process = Process::start(&name, folder, arguments, &[])?;
    let code = process.ended(Duration::from_secs(120)).await?;
    Ok(Said { code, output: process.output(), faults: process.log_tail() })
}

/// `weir status` of the system's folder.
async fn status(system: &System, further: &[&str]) -> Result<Said> {
    let data = system.data();
    let arguments = ["status", "--data", data.to_str().context("a path that is text")?];
    said(&system.folder(), &[&arguments, further].concat()).await
}

/// `weir status --json`.
async fn statement(system: &System, further: &[&str]) -> Result<Value> {
    let said = status(system, &[&["--json"], further].concat()).await?;
    ensure!(said.code == Some(0), "{:?}: {}", said.code, said.faults);
    Ok(serde_json::from_str(&said.output)?)
}

/// Waits until all is posted and archived, and until the balances in memory know it; what is shown then.
async fn at_rest(system: &System) -> Result<(Value, Said)> {
    let mut shown = Value::Null;
    eventually("all is posted, archived and known to be", async || {
        shown = statement(system, &[]).await?;
        let partitions = shown["partitions"].as_array().context("no partitions")?;
        let read =
            |one: &Value| is_archived(one) && one["posted_position"] == one["archived_position"];
        let unposted = shown["unposted"].as_array().context("no amounts")?;
        let posted = |one: &Value| one["rated"] == "0" && one["unrated_estimate"] == "0";
        Ok(partitions.iter().all(read) && unposted.iter().all(posted))
    })
    .await?;
    let text = status(system, &[]).await?;
    ensure!(text.code == Some(0), "{:?}: {}", text.code, text.faults);
    assert_eq!(text.output.lines().last(), Some("every accepted event is posted"));
    Ok((shown, text))
}

/// Whether nothing of a partition can be archived any more. The archive does not wait for the ledger.
fn is_archived(partition: &Value) -> bool {
    let end = partition["end_position"].as_i64();
    end.is_some_and(|end| partition["archived_position"] == end - 1)
}

fn number(value: &Value) -> Result<i64> {
    value.as_i64().with_context(|| format!("{value} is no number"))
}

fn event(id: &str, kind: &str, team: &str, tokens: Value) -> Value {
    json!({"id": id, "source": "status", "type": kind, "subject": team,
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": tokens, "outputTokens": 0}})
}

async fn send(http: &Http, events: &[Value]) -> Result<()> {
    let body = serde_json::to_vec(events)?;
    let (status, answer) = http.exchange("POST", "/v1/events", body).await?;
    ensure!(status == 200 && answer["accepted"] == events.len(), "{status}: {answer}");
    Ok(())
}

/// An event of each outcome, and two more that are rated: teams are in several partitions.
async fn one_of_each(system: &System) -> Result<i64> {
    let meter =
        json!({"key": "seats", "event_types": ["seat.v1"], "aggregation": "count", "unit": "seat"});
    system.api()?.send("POST", "/v1/meters", &meter).await?;
    let llm = "llm.tokens.v1";
    let sent = [
        event("a", llm, "team-01", json!(10)),
        event("b", llm, "team-02", json!(20)),
        event("c", llm, "team-03", json!(30)),
        // The same again, other content under the same id, no price, no meter, no number.
        event("a", llm, "team-01", json!(10)),
        event("b", llm, "team-02", json!(21)),
        event("d", "seat.v1", "team-04", json!(1)),
        event("e", "nothing.v1", "team-05", json!(1)),
        event("f", llm, "team-06", json!("many")),
    ];
    send(&system.ingest()?, &sent).await?;
    let events = i64::try_from(sent.len())?;
    system.settled(Some(events)).await?;
    Ok(events)
}

/// Per partition, accepted and copies are the outcomes; all partitions together are the total. Answers
/// how many partitions have events.
fn check_equation(statement: &Value) -> Result<u32> {
    let partitions = statement["partitions"].as_array().context("no partitions")?;
    let of = |one: &Value, name: &str| number(&one["counts"][name]);
    let mut with_events = 0;
    for one in partitions {
        let entered = of(one, "accepted")? + of(one, "copies")?;
        let mut left = 0;
        for name in OUTCOMES {
            left += of(one, name)?;
        }
        ensure!(entered == left && one["balanced"] == true, "{entered} of {left}: {one}");
        with_events += u32::from(entered > 0);
    }
    for name in [&["accepted", "copies"], &OUTCOMES[..]].concat() {
        let mut sum = 0;
        for one in partitions {
            sum += of(one, name)?;
        }
        assert_eq!(of(&statement["total"], name)?, sum, "{name}");
    }
    Ok(with_events)
}

/// The table says what the statement says, row by row.
fn check_table(text: &str, statement: &Value) -> Result<()> {
    let partitions = statement["partitions"].as_array().context("no partitions")?;
    // Only the table's ends have borders.
    let rows = cells(text, '│');
    let rows: Vec<Vec<&str>> = rows.iter().map(|row| row[1].split_whitespace().collect()).collect();
    let (head, rows) = rows.split_first().context("no table")?;
    let column = |heading: &str| {
        let place = head.iter().position(|name| *name == heading);
        place.with_context(|| format!("no column {heading}: {head:?}"))
    };
    assert_eq!(rows.len(), partitions.len() + 1, "{text}");
    for (row, one) in rows.iter().zip(partitions.iter().chain([&statement["total"]])) {
        let name = one["partition"].as_u64().map_or("total".to_owned(), |name| name.to_string());
        assert_eq!((row[0], row.last()), (&*name, Some(&"yes")), "{text}");
        for heading in COUNTS {
            assert_eq!(
                row[column(heading)?],
                one["counts"][heading].to_string(),
                "{heading}: {text}"
            );
        }
        assert_eq!(row[column("pending")?], one["pending"].to_string(), "{text}");
        assert_eq!(row[column("late")?], one["pending_forwards"].to_string(), "{text}");
        if name != "total" {
            assert_eq!(row[column("posted")?], one["posted_position"].to_string(), "{text}");
            assert_eq!(row[column("archived")?], one["archived_position"].to_string(), "{text}");
            assert_eq!(row[column("end")?], one["end_position"].to_string(), "{text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_event_is_accounted_for_by_partition_and_tenant() -> Result<()> {
    let system = System::embedded().await?;
    let events = one_of_each(&system).await?;
    let (mut shown, text) = at_rest(&system).await?;
    shown["as_of"].take();
    eventually("the api says the same", async || {
        let mut asked = system.api()?.get("/v1/conservation").await?;
        asked["as_of"].take();
        Ok(asked == shown)
    })
    .await?;
    let counts = json!({"accepted": events, "copies": 0, "rated": 3, "unmetered": 1, "unpriced": 1,
        "duplicates": 1, "conflicts": 1, "rejected": 1, "forwarded": 0, "lost": 0});
    assert_eq!(shown["total"]["counts"], counts);
    ensure!(check_equation(&shown)? > 1, "all events are in one partition: {shown}");
    check_table(&text.output, &shown)?;
    another_tenant(&system, &counts).await
}

/// What another tenant sends is in its own statement, and in nobody else's.
async fn another_tenant(system: &System, first: &Value) -> Result<()> {
    let data = system.data();
    let place = ["--data", data.to_str().context("a path that is text")?];
    system.run("tenants", &[&["tenants", "create", "other"], &place[..]].concat()).await?;
    let create = [&["keys", "create", "--tenant", "other"], &place[..]].concat();
    let key = system.run("keys", &create).await?;
    let other = Http::new(&system.base("up")?, key.trim())?;
    // A new key is known within seconds.
    eventually("the key is known", async || {
        let (status, answer) = other.exchange("GET", "/v1/conservation", Vec::new()).await?;
        let (sending, _) = other.exchange("POST", "/v1/events", b"[]".to_vec()).await?;
        ensure!([200, 401].contains(&status), "{status}: {answer}");
        Ok(status == 200 && sending != 401)
    })
    .await?;
    // It has no catalog.
    let sent = [
        event("a", "llm.tokens.v1", "team-01", json!(10)),
        event("b", "llm.tokens.v1", "team-02", json!(10)),
    ];
    send(&other, &sent).await?;
    let arguments = ["status", "--json", "--url", &other.base, "--key", other.key()];
    let mut shown = Value::Null;
    eventually("the other tenant's events are posted", async || {
        shown = serde_json::from_str(&said(&system.folder(), &arguments).await?.output)?;
        Ok(shown["total"]["pending"] == 0 && shown["total"]["counts"]["accepted"] == 2)
    })
    .await?;
    assert_eq!(shown["total"]["counts"]["unmetered"], 2, "{shown}");
    check_equation(&shown)?;
    assert_eq!(&statement(system, &[]).await?["total"]["counts"], first);
    Ok(())
}

#[tokio::test]
async fn what_is_not_posted_stands_beside_what_is() -> Result<()> {
    let system = System::embedded().await?;
    let events = one_of_each(&system).await?;
    let before = at_rest(&system).await?.0["total"]["counts"].take();
    // Nothing can be posted while somebody else has the table.
    let mut connection = system.postgres().await?;
    let mut transaction = connection.begin().await?;
    transaction.execute("LOCK TABLE transfers IN SHARE MODE").await?;
    let http = system.ingest()?;
    let (mut owed, words) = (0, ["1 event not yet posted", "4 events not yet posted"]);
    for (teams, pending, words) in [(0..1, 1, words[0]), (1..4, 4, words[1])] {
        let waiting = |team: u32| {
            event(&format!("late-{team}"), "llm.tokens.v1", &format!("team-{team}"), json!(1_001))
        };
        owed += CHARGE.input.of(1_001) * i128::try_from(teams.len())?;
        send(&http, &teams.map(waiting).collect::<Vec<_>>()).await?;
        let mut shown = Value::Null;
        eventually(&format!("{pending} events with {owed} wait"), async || {
            shown = statement(&system, &[]).await?;
            let unposted = &shown["unposted"][0];
            let rated = unposted["currency"] == "USD" && amount(&unposted["rated"])? == owed;
            let rated = rated && unposted["unrated_estimate"] == "0";
            let archived =
                shown["partitions"].as_array().context("no partitions")?.iter().all(is_archived);
            Ok(shown["total"]["pending"] == pending && rated && archived)
        })
        .await?;
        check_equation(&shown)?;
        assert_eq!(
            (&shown["total"]["counts"], &shown["total"]["summary"]),
            (&before, &json!(words))
        );
        let text = status(&system, &[]).await?;
        ensure!(text.code == Some(0), "{:?}: {}", text.code, text.faults);
        check_table(&text.output, &shown)?;
        let rated = shown["unposted"][0]["rated"].as_str().unwrap_or_default();
        let money = format!("not yet posted: {rated} USD rated, about 0 USD not yet rated");
        ensure!(text.output.ends_with(&format!("\n{words}\n{money}\n")), "{}", text.output);
    }
    transaction.rollback().await?;
    let counts = system.settled(Some(events + 4)).await?;
    ensure!(counts["rated"] == 7, "{counts:?}");
    at_rest(&system).await?;
    books_that_do_not_balance(&system).await
}

/// Somebody with all rights changes a count: the command says so, and so does its exit code.
async fn books_that_do_not_balance(system: &System) -> Result<()> {
    let mut connection = system.postgres().await?;
    let checks: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint WHERE conrelid = 'partition_counts'::regclass AND contype = 'c'",
    )
    .fetch_all(&mut connection)
    .await?;
    ensure!(!checks.is_empty(), "nothing guards the counts");
    for check in checks {
        let drop = format!("ALTER TABLE partition_counts DROP CONSTRAINT \"{check}\"");
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    let wrong = "UPDATE partition_counts SET rated = rated + 1 WHERE rejected = 1";
    ensure!(connection.execute(wrong).await?.rows_affected() == 1, "nothing was changed");
    for further in [&[][..], &["--json"]] {
        let said = status(system, further).await?;
        assert_eq!(said.code, Some(1), "{}", said.output);
        ensure!(
            said.output.contains("the counts do not balance; tell the operator"),
            "{}",
            said.output
        );
    }
    let text = status(system, &[]).await?.output;
    assert_eq!(text.matches(" NO ").count(), 2, "a partition and the total: {text}");
    Ok(())
}

/// Where all events are posted, no money waits for it: both are said in one answer.
#[tokio::test]
async fn no_statement_contradicts_itself() -> Result<()> {
    let system = System::embedded().await?;
    for number in 0..5 {
        let one = event(&format!("one-{number}"), "llm.tokens.v1", "team-01", json!(1_000));
        send(&system.ingest()?, &[one]).await?;
        let mut shown = Value::Null;
        eventually("the event is posted", async || {
            shown = system.api()?.get("/v1/conservation").await?;
            let total = &shown["total"];
            Ok(total["counts"]["accepted"] == number + 1 && total["pending"] == 0)
        })
        .await?;
        assert_eq!(shown["total"]["summary"], "every accepted event is posted");
        for unposted in shown["unposted"].as_array().context("no amounts")? {
            assert_eq!(unposted["rated"], "0", "every event is posted, and yet: {unposted}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn where_nothing_was_started_it_says_what_to_do() -> Result<()> {
    let folder = TestFolder::new("nothing")?;
    let data = folder.path().join("data");
    let data = data.to_str().context("a path that is text")?;
    for arguments in [&["status"][..], &["status", "--json"], &["hints"]] {
        let said = said(folder.path(), &[arguments, &["--data", data]].concat()).await?;
        assert_eq!((said.code, &*said.output), (Some(1), ""), "{arguments:?}");
        let what = format!("weir: there is no {data}/endpoints.json; start `weir up`");
        ensure!(said.faults.starts_with(&what), "{arguments:?}: {}", said.faults);
    }
    Ok(())
}

/// A process that was killed leaves its addresses behind, and nothing answers there.
#[tokio::test]
async fn where_it_was_killed_nobody_says_that_it_runs() -> Result<()> {
    let mut system = System::embedded().await?;
    system.kill("up")?;
    ensure!(system.data().join("endpoints.json").exists(), "it left nothing behind");
    let shown = status(&system, &[]).await?;
    assert_eq!((shown.code, &*shown.output), (Some(1), ""));
    let what = format!("weir: no answer from {}", system.base("up")?);
    ensure!(shown.faults.starts_with(&what), "{}", shown.faults);
    let data = system.data();
    let arguments = ["hints", "--data", data.to_str().context("a path that is text")?];
    let hints = said(&system.folder(), &arguments).await?;
    ensure!(!hints.output.contains("Weir is running."), "{}", hints.output);
    assert_eq!(hints.code, Some(1));
    Ok(())
}
