//! `/ready` tells the truth: it turns red when something does not go on although there is something to
//! do, whatever the reason, and green again by itself.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tests::{
    broker::Broker,
    process::{Http, freeze},
    system::{ROLES, System},
    wait::eventually,
};

/// The shortest time without progress that may be set.
const STALLED_AFTER_S: (&str, &str) = ("WEIR_HTTP__STALLED_AFTER_S", "5");

/// A process that stands still, and goes on when this is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn new(ids: &[i32]) -> Result<Self> {
        let frozen = Self(ids.iter().map(|id| Pid::from_raw(*id)).collect());
        for id in &frozen.0 {
            freeze(u32::try_from(id.as_raw())?)?;
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for id in &self.0 {
            let _ = kill(*id, Signal::SIGCONT);
        }
    }
}

/// A thread that stands still, while its process goes on. To be made and dropped by the same thread.
struct Wedged(Pid);

impl Wedged {
    /// The thread of this name; none where nobody may hold another process' threads.
    fn new(process: u32, name: &str) -> Result<Option<Self>> {
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = entry?.path();
            if fs::read_to_string(thread.join("comm"))?.trim_end() != name {
                continue;
            }
            let id = thread.file_name().and_then(|id| id.to_str()?.parse().ok());
            let id = Pid::from_raw(id.context("no number")?);
            match ptrace::seize(id, ptrace::Options::empty()) {
                Err(Errno::EPERM) => return Ok(None),
                seized => seized?,
            }
            ptrace::interrupt(id)?;
            waitpid(id, Some(WaitPidFlag::__WALL))?;
            return Ok(Some(Self(id)));
        }
        bail!("no thread is called {name}")
    }
}

impl Drop for Wedged {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

async fn send(http: &Http, ids: &str) -> Result<()> {
    let event = |number: u32| {
        json!({"id": format!("{ids}-{number}"), "source": "readiness", "type": "llm.tokens.v1", "subject": format!("team-{number}"),
            "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 10, "outputTokens": 5}})
    };
    let events: Vec<Value> = (0..40).map(event).collect();
    let (status, answer) =
        http.exchange("POST", "/v1/events", serde_json::to_vec(&events)?).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    Ok(())
}

/// Puts a message into partition 1 of a topic, past Weir.
fn append(broker: &Broker, topic: &str, payload: &[u8]) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create()?;
    let record = BaseRecord::<(), [u8]>::to(topic).partition(1).payload(payload);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(Duration::from_secs(30))?)
}

/// The reasons that `/ready` gives, by check; none if it is ready.
async fn not_ready(base: &str) -> Result<Vec<(String, String)>> {
    let (status, answer) = Http::new(base, "")?.exchange("GET", "/ready", Vec::new()).await?;
    let reasons = answer["not_ready"].as_object().context("no reasons")?;
    ensure!((status == 200) == reasons.is_empty(), "{status}: {answer}");
    let text = |(check, reason): (&String, &Value)| {
        (check.clone(), reason.as_str().unwrap_or_default().to_owned())
    };
    Ok(reasons.iter().map(text).collect())
}

async fn red(base: &str, role: &str, reason: &str) -> Result<()> {
    eventually(&format!("{role} is red: {reason}"), async || {
        let reasons = not_ready(base).await?;
        Ok(reasons.iter().any(|(check, why)| check.starts_with(role) && why.contains(reason)))
    })
    .await
}

/// It says so for as long as it lasts, whatever it tries meanwhile: beyond the half minute after which a
/// partition that has stopped is tried again.
async fn stay_red(checks: &[(&str, &str)]) -> Result<()> {
    for _ in 0..190 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (base, check) in checks {
            let reasons = not_ready(base).await?;
            ensure!(reasons.iter().any(|(red, _)| red == check), "{check} was green");
        }
    }
    Ok(())
}

async fn green(base: &str) -> Result<()> {
    eventually("it is green again", async || Ok(not_ready(base).await?.is_empty())).await
}

/// Children of a process whose command line holds a word.
fn children(parent: u32, word: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent_of = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if parent_of == Some(&parent.to_string()) && String::from_utf8_lossy(&line).contains(word) {
            found.push(id);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_neighbour_that_stands_still_shows_and_goes_on() -> Result<()> {
    let settings = [STALLED_AFTER_S, ("WEIR_LOG__PARTITIONS", "2")];
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    let http = system.ingest()?;
    send(&http, "first").await?;
    system.settled(Some(40)).await?;
    // Longer than it may stand still: with nothing to do it stays green.
    for _ in 0..16 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let reasons = not_ready(&http.base).await?;
        ensure!(reasons.is_empty(), "nothing is to be done, and yet: {reasons:?}");
    }

    // Postgres, with all its sessions.
    let mut postgres = system.postgres().await?;
    let mut processes: Vec<i32> =
        sqlx::query_scalar("SELECT pid FROM pg_stat_activity").fetch_all(&mut postgres).await?;
    let postmaster = fs::read_to_string(system.data().join("postgres/cluster/postmaster.pid"))?;
    processes.push(postmaster.lines().next().context("no process id")?.parse()?);
    let frozen = Frozen::new(&processes)?;
    send(&http, "second").await?;
    red(&http.base, "ledger-writer.", "").await?;
    drop(frozen);
    green(&http.base).await?;
    system.settled(Some(80)).await?;

    // The archive's engine.
    let engines = children(system.process("up")?.id(), "clickhouse-engine")?;
    ensure!(engines.len() == 1, "{engines:?}");
    let frozen = Frozen::new(&engines)?;
    send(&http, "third").await?;
    red(&http.base, "archiver.", "has not gone on for").await?;
    drop(frozen);
    green(&http.base).await?;
    system.settled(Some(120)).await?;
    Ok(())
}

#[tokio::test]
async fn a_block_that_nobody_can_read_stops_its_partition_alone() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka_with(&broker, 2, &[STALLED_AFTER_S]).await?;
    let http = system.ingest()?;
    send(&http, "before").await?;
    system.settled(Some(40)).await?;
    append(&broker, &format!("{}.usage", system.prefix()?), b"WRUB no block at all")?;

    let rater = system.base("rater")?;
    red(&rater, "rater.1", "").await?;
    let reasons = not_ready(&rater).await?;
    ensure!(reasons.iter().all(|(check, _)| check == "rater.1"), "{reasons:?}");
    ensure!(system.process("rater")?.is_running()?, "the process goes on");
    // INV-21: the other partition goes on, and so do those who accept.
    let accepted = |counts: &Value| counts["partitions"][0]["counts"]["accepted"].as_i64();
    let before = accepted(&system.api()?.get("/v1/conservation").await?).context("no count")?;
    send(&http, "after").await?;
    eventually("the other partition goes on", async || {
        Ok(accepted(&system.api()?.get("/v1/conservation").await?) > Some(before))
    })
    .await?;
    stay_red(&[(&rater, "rater.1")]).await?;
    // What waits has a price, also for an api that has not seen any event rated.
    system.kill("api")?;
    system.start("api").await?;
    eventually("unrated usage is estimated", async || {
        let metrics = system.api()?.text("/metrics").await?;
        let unrated = "weir_unposted_amount{currency=\"USD\",stage=\"unrated\"} ";
        let amount = metrics.lines().find_map(|line| line.strip_prefix(unrated));
        Ok(amount.is_some_and(|amount| amount.parse().is_ok_and(|amount: f64| amount > 0.0)))
    })
    .await?;

    // A broker that stands still: nobody can say that there is nothing to do.
    let ledger = system.base("ledger-writer")?;
    green(&ledger).await?;
    broker.pause()?;
    red(&ledger, "ledger-writer.", "").await?;
    broker.resume()?;
    green(&ledger).await
}

/// Accepted events of the first partition that are posted and archived.
async fn gone_on(system: &System) -> Result<i64> {
    let statement = system.api()?.get("/v1/conservation").await?;
    let first = &statement["partitions"][0];
    let posted = first["counts"]["accepted"].as_i64().context("no count")?;
    let sql = "SELECT toString(count()) AS events FROM usage_events WHERE partition = 0";
    let rows = system.clickhouse().query_json_rows(sql, &[]).await?;
    Ok(posted.min(rows[0]["events"].as_str().context("no count")?.parse()?))
}

#[tokio::test]
async fn a_batch_that_nobody_can_read_stops_its_partition_alone() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka_with(&broker, 2, &[STALLED_AFTER_S]).await?;
    let http = system.ingest()?;
    send(&http, "before").await?;
    system.settled(Some(40)).await?;
    append(&broker, &format!("{}.rated", system.prefix()?), b"WRRB no batch at all")?;

    let [ledger, archiver, api] =
        [system.base("ledger-writer")?, system.base("archiver")?, system.base("api")?];
    let checks = [(&*ledger, "ledger-writer.1"), (&*archiver, "archiver.1"), (&*api, "api.1")];
    for (base, check) in checks {
        red(base, check, "").await?;
    }
    // INV-21: the other partition goes on, everywhere.
    let before = gone_on(&system).await?;
    send(&http, "after").await?;
    eventually("the other partition goes on", async || Ok(gone_on(&system).await? > before))
        .await?;
    stay_red(&checks).await?;
    for role in ROLES {
        ensure!(system.process(role)?.is_running()?, "{role} goes on");
    }
    Ok(())
}

#[tokio::test]
async fn a_lane_that_was_refused_goes_on_by_itself() -> Result<()> {
    let settings = [
        STALLED_AFTER_S,
        ("WEIR_LOG__PARTITIONS", "1"),
        ("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"),
        ("WEIR_RATER__RANGE_IDENTITIES", "1"),
    ];
    let system = System::embedded_with(&settings, &[], &[]).await?;
    let http = system.ingest()?;
    send(&http, "first").await?;
    system.settled(Some(40)).await?;
    let mut postgres = system.postgres().await?;
    sqlx::raw_sql("REVOKE ALL ON late_places FROM weir_lane").execute(&mut postgres).await?;
    send(&http, "first").await?;
    red(&http.base, "rater.0.late", "permission denied").await?;
    stay_red(&[(&http.base, "rater.0.late")]).await?;
    sqlx::raw_sql("GRANT SELECT, INSERT, UPDATE ON late_places TO weir_lane")
        .execute(&mut postgres)
        .await?;
    green(&http.base).await?;
    let counts = system.settled(Some(80)).await?;
    ensure!(counts["duplicates"] >= 40 && counts["rated"] == 40, "{counts:?}");
    Ok(())
}

/// Whatever holds a thread up: each role's partition shows by itself, and goes on where it was.
#[tokio::test]
async fn a_thread_that_hangs_shows_and_goes_on() -> Result<()> {
    let settings = [STALLED_AFTER_S, ("WEIR_LOG__PARTITIONS", "2")];
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    let http = system.ingest()?;
    let process = system.process("up")?.id();
    let threads = [
        ("rater-1", "rater.1"),
        ("ledger-1", "ledger-writer.1"),
        ("archive-1", "archiver.1"),
        ("api-live-1", "api.1"),
    ];
    for (number, (thread, check)) in (1..).zip(threads) {
        let Some(wedged) = Wedged::new(process, thread)? else {
            eprintln!("threads of other processes may not be held here: not tried");
            return Ok(());
        };
        send(&http, thread).await?;
        red(&http.base, check, "has not gone on for").await?;
        let reasons = not_ready(&http.base).await?;
        ensure!(reasons.iter().all(|(red, _)| red == check), "{thread} hangs: {reasons:?}");
        drop(wedged);
        green(&http.base).await?;
        system.settled(Some(40 * number)).await?;
    }
    Ok(())
}

/// Each task of the api that Postgres refuses says so and goes on by itself; the process stays.
#[tokio::test]
async fn what_the_api_may_not_read_shows_and_does_not_end_it() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka_with(&broker, 2, &[STALLED_AFTER_S]).await?;
    let api = system.base("api")?;
    let mut postgres = system.postgres().await?;
    for (table, check, reason) in [
        ("partitions", "api", "permission denied"),
        ("catalog_outbox", "api.markers", "permission denied"),
        ("team_aliases", "api.aliases", "has not gone on for"),
    ] {
        let revoke = AssertSqlSafe(format!("REVOKE SELECT ON {table} FROM weir_reader"));
        sqlx::raw_sql(revoke).execute(&mut postgres).await?;
        red(&api, check, reason).await?;
        ensure!(system.process("api")?.is_running()?, "the api goes on without {table}");
        let grant = AssertSqlSafe(format!("GRANT SELECT ON {table} TO weir_reader"));
        sqlx::raw_sql(grant).execute(&mut postgres).await?;
        green(&api).await?;
    }
    Ok(())
}
