//! `weir verify`: on a system that works it finds nothing, and whatever somebody with all rights changes
//! in Postgres or in ClickHouse it finds, with the first bad row named.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    harness::{oracle::Verdict, report::Run},
    postgres::TestPostgres,
    process::{Process, command},
    seed::Moments,
    system::{System, finished},
    wait::eventually,
};

#[path = "verify/archive.rs"]
mod archive;
#[path = "verify/books.rs"]
mod books;
#[path = "verify/forgery.rs"]
mod forgery;
#[path = "verify/kafka.rs"]
mod kafka;
#[path = "verify/periods.rs"]
mod periods;
#[path = "verify/tampering.rs"]
mod tampering;

/// Longer than all checks together may take.
const VERIFY_TIME_MAX: Duration = Duration::from_secs(240);
/// A few partitions with many windows, and copies of heads at once.
const SETTINGS: [(&str, &str); 4] = [
    ("WEIR_LOG__PARTITIONS", "3"),
    ("WEIR_LEDGER_WRITER__WINDOW_MS", "50"),
    ("WEIR_ARCHIVER__GROUP_WAIT_MS", "100"),
    ("WEIR_ARCHIVER__HEADS_EVERY_MS", "100"),
];

/// A table that a round of events fills many times over, so that repeats of earlier rounds are late.
const SMALL_TABLE: [(&str, &str); 2] =
    [("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"), ("WEIR_RATER__RANGE_IDENTITIES", "1")];

/// A table that a replay fills many times over, and filters that are made while it goes on.
const BUSY_TABLE: [(&str, &str); 2] =
    [("WEIR_RATER__TABLE_IDENTITIES_MAX", "1000"), ("WEIR_RATER__RANGE_IDENTITIES", "250")];

/// What `weir verify --json` said.
struct Said {
    code: Option<i32>,
    document: Value,
}

impl Said {
    async fn of(folder: &Path, arguments: &[&str], settings: &[(String, String)]) -> Result<Self> {
        let arguments = [&["verify", "--json"], arguments].concat();
        let mut process = Process::start("verify", folder, &arguments, settings)?;
        let code = process.ended(VERIFY_TIME_MAX).await?;
        let output = process.output();
        let document = serde_json::from_str(&output).unwrap_or_default();
        ensure!(code == Some(2) || !output.is_empty(), "nothing said: {}", process.log_tail());
        Ok(Self { code, document })
    }

    async fn of_up(system: &System, arguments: &[&str]) -> Result<Self> {
        let data = system.data();
        let data = data.to_str().context("a path that is text")?;
        let arguments = [&["--data", data], arguments].concat();
        Self::of(&system.folder(), &arguments, system.settings()).await
    }

    /// Fails unless everything was seen and is as it must be.
    fn holds(&self) -> Result<&Self> {
        ensure!(self.code == Some(0) && self.document["verdict"] == "holds", "{}", self.document);
        Ok(self)
    }

    /// Fails unless a first bad row says this.
    fn names(&self, name: &str) -> Result<&Self> {
        let checks = self.document["checks"].as_array().context("no checks")?;
        let said =
            |check: &Value| check["first_bad"].as_str().is_some_and(|row| row.contains(name));
        let broken = self.code == Some(1) && self.document["verdict"] == "broken";
        ensure!(
            broken && checks.iter().any(said),
            "no {name:?}: {:?} {}",
            self.code,
            self.document
        );
        Ok(self)
    }

    fn check(&self, name: &str) -> Result<&Value> {
        let checks = self.document["checks"].as_array().context("no checks")?;
        let found = checks.iter().find(|check| check["name"] == name);
        found.with_context(|| format!("no check {name:?}: {}", self.document))
    }

    fn looked_at(&self, name: &str) -> Result<u64> {
        self.check(name)?["looked_at"].as_u64().context("no count")
    }
}

/// Sends events of every outcome; answers how many were accepted.
async fn send(system: &System, moments: &mut Moments, round: u64) -> Result<i64> {
    let number = |moments: &mut Moments, below: u64| moments.bits() % below;
    let mut events = Vec::new();
    for place in 0..40 {
        let team = format!("team-{}", number(moments, 7));
        let id = format!("{round}-{place}");
        let data = match number(moments, 5) {
            0 => {
                json!({"provider": "openai", "model": "gpt-4-turbo", "inputTokens": number(moments, 900), "outputTokens": "0.5"})
            }
            1 => {
                json!({"provider": "x", "model": "y\u{e9}\"z", "inputTokens": 1, "nested": {"a": [1, null, {}]}})
            }
            _ => {
                json!({"provider": "openai", "model": "gpt-4-turbo", "inputTokens": number(moments, 900), "outputTokens": number(moments, 90)})
            }
        };
        events.push(json!({"id": id, "source": "tests/1.2", "type": "llm.tokens.v1", "subject": team, "data": data}));
    }
    // A duplicate, a conflict, a rejection, one without a meter, and one without a price.
    events.push(events[0].clone());
    let mut conflict = events[1].clone();
    conflict["data"]["inputTokens"] = json!(77_777);
    events.push(conflict);
    let event = |id: &str, kind: &str, data: Value| json!({"id": format!("{round}-{id}"), "source": "tests", "type": kind, "subject": "team-1", "data": data});
    events.push(event("bad", "llm.tokens.v1", json!({"inputTokens": "many"})));
    events.push(event("unknown", "nobody.counts.v1", json!({"x": 1})));
    events.push(event("seat", "seat.day.v1", json!({"seats": 3, "plan": "basic"})));
    // What came two rounds before, and has left the table by now where that is small.
    if let Some(before) = round.checked_sub(2) {
        events.push(json!({"id": format!("{before}-seat"), "source": "tests", "type": "seat.day.v1", "subject": "team-1",
            "data": {"seats": 3, "plan": "basic"}}));
    }
    let body = serde_json::to_vec(&events)?;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    Ok(i64::try_from(events.len())?)
}

/// A system with books of many windows, all of it posted and archived, and its heads copied.
async fn system_with_books(
    moments: &mut Moments,
    rounds: u64,
    settings: &[(&str, &str)],
) -> Result<(System, i64)> {
    let system = System::embedded_with(&[&SETTINGS, settings].concat(), &[], &[]).await?;
    add_books(&system, moments, rounds).await.map(|sent| (system, sent))
}

/// Sends events of every outcome in rounds, and waits until all books have them.
async fn add_books(system: &System, moments: &mut Moments, rounds: u64) -> Result<i64> {
    let seats = json!({"key": "seats", "event_types": ["seat.day.v1"], "aggregation": "sum", "value": "$.seats",
        "unit": "seat", "dimensions": {"plan": "$.plan"}});
    system.api()?.send("POST", "/v1/meters", &seats).await.context("a meter without a price")?;
    let mut sent = 0;
    for round in 0..rounds {
        sent += send(system, moments, round).await?;
        let counts = system.settled(Some(sent)).await?;
        let round = i64::try_from(round)?;
        for outcome in ["unmetered", "unpriced", "rejected", "conflicts"] {
            ensure!(counts[outcome] == round + 1, "{outcome}: {counts:?}");
        }
        let again = (round - 1).max(0) + answered_again(&counts);
        ensure!(counts["duplicates"] == round + 1 + again, "{counts:?}");
    }
    heads_copied(system).await?;
    lanes_read_on(system).await?;
    Ok(sent)
}

/// Whom a lane answered twice is a duplicate once more.
fn answered_again(counts: &BTreeMap<String, i64>) -> i64 {
    counts["copies"] - counts["forwarded"]
}

/// Waits until the slow lanes have read what is posted.
async fn lanes_read_on(system: &System) -> Result<()> {
    let mut postgres = system.postgres().await?;
    eventually("the lanes have read on", async || {
        let sql = "SELECT NOT EXISTS (SELECT x, r, c, partition FROM partitions EXCEPT SELECT x, r, c, partition FROM late_places)";
        Ok(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut postgres).await?)
    })
    .await
}

/// Waits until the newest row of every chain was copied.
async fn heads_copied(system: &System) -> Result<()> {
    let mut postgres = system.postgres().await?;
    eventually("the heads are copied", async || {
        let newest: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT partition, max(position_to) FROM audit GROUP BY partition ORDER BY partition",
        )
        .fetch_all(&mut postgres)
        .await?;
        let sql = "SELECT toInt32(partition) AS partition, toString(max(position_to)) AS position FROM audit_heads
            GROUP BY partition ORDER BY partition";
        let mut copied = Vec::new();
        for row in system.clickhouse().query_json_rows(sql, &[]).await? {
            let partition = i32::try_from(row["partition"].as_i64().context("no number")?)?;
            copied.push((partition, row["position"].as_str().context("no position")?.parse()?));
        }
        Ok(copied == newest)
    })
    .await
}

#[test]
fn the_unit_of_the_night_starts_it() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let unit = std::fs::read_to_string(folder.join("weir-verify.service"))?;
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/weir "));
    let arguments: Vec<&str> = start.context("no ExecStart")?.split(' ').collect();
    ensure!(arguments[0] == "verify", "{arguments:?}");
    let parsed = command()?.args(&arguments).arg("--help").output()?;
    ensure!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    let timer = std::fs::read_to_string(folder.join("weir-verify.timer"))?;
    ensure!(timer.contains("OnCalendar=") && timer.contains("WantedBy=timers.target"), "{timer}");
    Ok(())
}

#[tokio::test]
async fn a_system_that_works_is_verified_while_it_works() -> Result<()> {
    let mut moments = Moments::new("verify");
    let (system, sent) = system_with_books(&mut moments, 3, &BUSY_TABLE).await?;
    let said = Said::of_up(&system, &["--sample", "100000"]).await?;
    said.holds()?;
    ensure!(said.looked_at("ratings")? >= 120, "{}", said.document);
    for check in [
        "audit chain",
        "journals",
        "transfers",
        "entries",
        "copied heads",
        "rows of nobody",
        "append times",
        "the log",
    ] {
        ensure!(said.looked_at(check)? > 0, "{check} saw nothing: {}", said.document);
    }
    let again = Said::of_up(&system, &["--sample", "5", "--seed", "7"]).await?;
    ensure!(again.holds()?.looked_at("ratings")? == 5 && again.document["seed"] == 7);

    // While events come in, at every moment, and while they come again and are late.
    for name in ["busy", "again"] {
        let mut replay = system.replay(name, &["--teams", "20", "--batch", "50"])?;
        let mut verified = 0;
        while replay.is_running()? && verified < 3 {
            Said::of_up(&system, &["--sample", "200"]).await?.holds()?;
            verified += 1;
        }
        ensure!(verified > 0, "the replay ended before anything was verified");
        finished(&mut replay).await?;
    }
    let counts = system.settled(None).await?;
    Said::of_up(&system, &[]).await?.holds()?;
    ensure!(counts["accepted"] > sent && counts["forwarded"] > 0, "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_seen_is_not_called_verified() -> Result<()> {
    let mut moments = Moments::new("verify-unseen");
    let (system, _) = system_with_books(&mut moments, 1, &[]).await?;
    let mut settings = system.settings().to_vec();
    settings.push(("CLICKHOUSE_URL".to_owned(), "http://127.0.0.1:9".to_owned()));
    let data = system.data();
    let arguments = ["--data", data.to_str().context("a path that is text")?];
    let said = Said::of(&system.folder(), &arguments, &settings).await?;
    ensure!(said.code == Some(2) && said.document["verdict"] == "unknown", "{}", said.document);
    ensure!(said.check("audit chain")?["left_out"].is_null(), "{}", said.document);
    ensure!(!said.check("archive")?["left_out"].is_null(), "{}", said.document);
    // With another key nothing can be said at all.
    settings.push(("WEIR_LEDGER_WRITER__AUDIT_KEY".to_owned(), "07".repeat(32)));
    let said = Said::of(&system.folder(), &arguments, &settings).await?;
    ensure!(said.code == Some(2) && said.document.is_null(), "{:?} {}", said.code, said.document);
    Ok(())
}

#[tokio::test]
async fn whatever_is_tampered_with_is_found_and_named() -> Result<()> {
    let run = Run::new("verify");
    run.keep(everything_is_tampered_with(&run).await)
}

async fn everything_is_tampered_with(run: &Run) -> Result<Verdict> {
    let mut moments = run.moments.clone();
    // As its superuser, whom nothing stops.
    let postgres = TestPostgres::start().await?;
    let url = postgres.database("weir").await?;
    let settings = [&SMALL_TABLE[..], &[("DATABASE_URL", url.expose())]].concat();
    let (mut system, events) = system_with_books(&mut moments, 6, &settings).await?;
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    ensure!(system.conservation().await?["forwarded"] > 0, "nothing was late");
    books::tamper(&system, &mut moments, &mut faults).await?;
    books::tamper_for_good(&mut system, &mut moments, &mut faults).await?;
    archive::tamper(&system, &mut moments, &mut faults).await?;
    Said::of_up(&system, &["--sample", "100000"]).await?.holds()?;
    let all: u64 = faults.values().sum();
    ensure!(all >= 100, "only {all} tamperings: {faults:?}");
    run.story.count("F30", all);
    run.story.tell(format!("F30: {faults:?}"));
    Ok(Verdict { events: events.unsigned_abs(), ..Verdict::default() })
}
