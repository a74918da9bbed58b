//! `weir up` by itself: it heals when a server of its own dies, waits for servers that are away,
//! trims its log, goes on after a full disk, and has neighbours.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use benches::spread::Spread;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::postgres::server::{Server, ServerOptions};
use serde_json::{Value, json};
use tests::{
    broker::Broker,
    engine,
    nobody::Nobody,
    oracle::{self, CHARGE},
    postgres::TestFolder,
    process::{Http, Process},
    system::{System, check_counts, finished},
};

/// Events of both traces.
const EVENTS: i64 = 28_185;
/// What anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks `look` until it gives something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what} did not come in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The status of `/ready` and what it names.
async fn ready(http: &Http) -> Result<(u16, Value)> {
    let (status, body) = http.exchange("GET", "/ready", Vec::new()).await?;
    Ok((status, body["not_ready"].clone()))
}

fn event(id: &str, team: &str) -> Vec<u8> {
    json!({
        "id": id, "type": "llm.tokens.v1", "source": "up-test", "subject": team,
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 10, "outputTokens": 5},
    })
    .to_string()
    .into_bytes()
}

async fn check_traces(system: &System) -> Result<()> {
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await
}

/// Process id of the private Postgres' postmaster.
fn postmaster(system: &System) -> Result<Pid> {
    let text = fs::read_to_string(system.data().join("postgres/cluster/postmaster.pid"))?;
    Ok(Pid::from_raw(text.lines().next().context("postmaster.pid is empty")?.parse()?))
}

fn endpoints(system: &System) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(system.data().join("endpoints.json"))?)?)
}

#[tokio::test]
async fn a_killed_postgres_is_started_again_and_nothing_is_lost() -> Result<()> {
    let mut system = System::embedded().await?;
    let before = endpoints(&system)?;
    let mut replay = system.replay("replay", &["--batch", "50"])?;
    for round in 0..3 {
        kill(postmaster(&system)?, Signal::SIGKILL)?;
        let http = system.api()?;
        until("a word that Postgres is being started", async || {
            let (status, not_ready) = ready(&http).await?;
            let said = not_ready.get("private postgres").is_some();
            ensure!(!said || status == 503, "ready without Postgres: {status}");
            Ok(said.then_some(()))
        })
        .await?;
        until("readiness", async || Ok((ready(&http).await?.0 == 200).then_some(()))).await?;
        ensure!(system.process("up")?.is_running()?, "weir up ended in round {round}");
    }
    finished(&mut replay).await?;
    let counts = system.settled(Some(EVENTS)).await?;
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    check_traces(&system).await?;
    ensure!(endpoints(&system)? == before, "an address has changed");
    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "exit code {code:?}");
    Ok(())
}

/// Settings that name servers of these ports.
fn servers(postgres: &str, clickhouse: u16, kafka: &str) -> Vec<(String, String)> {
    [
        ("DATABASE_URL", postgres.to_owned()),
        ("CLICKHOUSE_URL", format!("http://127.0.0.1:{clickhouse}")),
        ("WEIR_KAFKA_BROKERS", kafka.to_owned()),
        ("WEIR_LOG__PARTITIONS", "4".to_owned()),
        ("WEIR_HTTP__LISTEN", "127.0.0.1:0".to_owned()),
        ("WEIR_LEDGER_WRITER__AUDIT_KEY", "5a".repeat(32)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[tokio::test]
async fn what_is_away_is_named_and_a_stop_ends_the_wait() -> Result<()> {
    let folder = TestFolder::new("away")?;
    let [first, second, third] = [Nobody::new()?, Nobody::new()?, Nobody::new()?];
    let postgres = format!("postgres://weir:weir@127.0.0.1:{}/weir", first.port()?);
    let settings = servers(&postgres, second.port()?, &format!("127.0.0.1:{}", third.port()?));
    let data = folder.path().join("data");
    let up = ["up", "--data", data.to_str().context("a path that is text")?];
    let cases: [(&[&str], &[&str]); 6] = [
        (&up, &["clickhouse", "kafka", "postgres"]),
        (&["ingest"], &["kafka", "postgres"]),
        (&["rater"], &["kafka", "postgres"]),
        (&["ledger-writer"], &["kafka", "postgres"]),
        (&["archiver"], &["kafka", "postgres"]),
        (&["api"], &["kafka", "postgres"]),
    ];
    for (arguments, missing) in cases {
        let name = arguments[0];
        let mut process = Process::start(name, folder.path(), arguments, &settings)?;
        let http = Http::new(&process.address().await?, "")?;
        let (status, _) = http.exchange("GET", "/health", Vec::new()).await?;
        ensure!(status == 200, "{name}: /health says {status}");
        let named = until("all names", async || {
            let (status, not_ready) = ready(&http).await?;
            ensure!(status == 503, "{name}: ready without any server");
            let all = missing.iter().all(|server| not_ready.get(server).is_some());
            Ok(all.then_some(not_ready))
        });
        let named = named.await.with_context(|| process.log_tail())?;
        println!("{name}: {named}");
        let (status, problem) = http.exchange("POST", "/v1/events", event("early", "a")).await?;
        ensure!((status, &problem["code"]) == (503, &json!("starting")), "{name}: {problem}");
        ensure!(process.is_running()?, "{name} ended: {}", process.log_tail());
        let log = process.log_tail();
        let lines = log.lines().filter(|line| line.contains("it is away")).count();
        ensure!(lines <= missing.len() + 1, "{name} repeats itself:\n{log}");
        let (code, took) = process.terminate().await?;
        ensure!(code == Some(0), "{name}: exit code {code:?}");
        ensure!(took < Duration::from_secs(10), "{name} took {took:?} to stop");
    }
    Ok(())
}

#[tokio::test]
async fn a_start_goes_on_when_the_servers_come() -> Result<()> {
    let folder = TestFolder::new("late")?;
    let mut broker = Broker::start()?;
    broker.kill();
    let port = Nobody::new()?.port()?;
    let options = ServerOptions {
        port: Some(port),
        shared_buffers_mb: 64,
        ..ServerOptions::new(folder.path().join("postgres"))
    };
    // Its password is made at the first start.
    let server = Server::start(options.clone()).await?;
    let url = server.superuser_url();
    server.stop().await?;
    let no_clickhouse = Nobody::new()?;
    let clickhouse = no_clickhouse.port()?;
    let settings = servers(url.expose(), clickhouse, &broker.bootstrap());
    let data = folder.path().join("data");
    let arguments = ["up", "--data", data.to_str().context("a path that is text")?];
    let mut up = Process::start("up", folder.path(), &arguments, &settings)?;
    let http = Http::new(&up.address().await?, "")?;
    until("a word of what is missing", async || {
        let (status, not_ready) = ready(&http).await?;
        ensure!(status == 503, "ready without any server");
        Ok(["postgres", "kafka", "clickhouse"]
            .iter()
            .all(|server| not_ready.get(server).is_some())
            .then_some(()))
    })
    .await?;
    let server = Server::start(options).await?;
    drop(no_clickhouse);
    let _engine = start_engine(folder.path(), clickhouse)?;
    broker.restart()?;
    up.until("endpoints.json", || data.join("endpoints.json").exists().then_some(())).await?;
    until("readiness", async || Ok((ready(&http).await?.0 == 200).then_some(()))).await?;
    let endpoints: Value = serde_json::from_slice(&fs::read(data.join("endpoints.json"))?)?;
    let key = endpoints["admin_key"].as_str().context("no key")?;
    let http = Http::new(&http.base, key)?;
    let (status, answer) = http.exchange("POST", "/v1/events", event("one", "a")).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    let (code, _) = up.terminate().await?;
    ensure!(code == Some(0), "exit code {code:?}");
    server.stop().await?;
    Ok(())
}

/// The engine on a port of our choice, killed when dropped.
struct EngineProcess(std::process::Child);

impl Drop for EngineProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_engine(folder: &Path, port: u16) -> Result<EngineProcess> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clickhouse-engine"));
    command.arg("--library").arg(engine::library()?);
    command.arg("--data").arg(folder.join("clickhouse"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let child = command.stdout(File::create(folder.join("engine.out"))?).spawn()?;
    Ok(EngineProcess(child))
}

#[tokio::test]
async fn two_beside_each_other_do_not_meet() -> Result<()> {
    let (one, two) = tokio::try_join!(System::embedded(), System::embedded())?;
    for (system, count) in [(&one, 3_i64), (&two, 5_i64)] {
        for number in 0..count {
            let body = event(&format!("same-{number}"), "team-01");
            let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
            ensure!(status == 200 || status == 202, "{status}: {answer}");
        }
    }
    for (system, count) in [(&one, 3_i64), (&two, 5_i64)] {
        let counts = system.settled(Some(count)).await?;
        ensure!(counts["rated"] == count && counts["duplicates"] == 0, "{counts:?}");
    }
    ensure!(endpoints(&one)? != endpoints(&two)?, "both have the same addresses");
    Ok(())
}

/// Numbers of the segments of the local log, ascending.
fn segments(folder: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Some(number) = name.strip_suffix(".segment") {
            numbers.push(number.parse()?);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[tokio::test]
async fn a_log_that_everybody_has_read_is_trimmed_and_the_books_stay() -> Result<()> {
    let settings = [("WEIR_LOG__LOCAL__SEGMENT_BYTES", "65536"), ("WEIR_LOG__PARTITIONS", "4")];
    let mut system = System::embedded_with(&settings, &["--trim-after", "1"], &[]).await?;
    system.replay_all("replay", &[]).await?;
    system.settled(Some(EVENTS)).await?;
    let log = system.data().join("log");
    // The newest segment stays, and one may be in the making.
    let left = until("a trimmed log", async || {
        let left = segments(&log)?;
        Ok((left.len() <= 2 && left.first() > Some(&10)).then_some(left))
    })
    .await?;
    println!("segments left: {left:?}");
    check_traces(&system).await?;
    for stop in ["terminate", "kill"] {
        match stop {
            "kill" => system.kill("up")?,
            _ => {
                let (code, _) = system.take("up")?.terminate().await?;
                ensure!(code == Some(0), "exit code {code:?}");
            }
        }
        system.start("up").await?;
        system.settled(Some(EVENTS)).await?;
        check_traces(&system).await?;
    }
    ensure!(segments(&log)?.first() >= left.first(), "segments came back");
    // What was trimmed is still known: every event sent again is a duplicate.
    system.replay_all("again", &[]).await?;
    let counts = system.settled(None).await?;
    println!("{counts:?}");
    check_counts(&counts, EVENTS, EVENTS, 0)?;
    check_traces(&system).await?;
    let body = event("after", "team-01");
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", body).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    let counts = system.settled(None).await?;
    ensure!(counts["rated"] == EVENTS + 1, "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_answered_with_503_until_there_is_room() -> Result<()> {
    let disk = TestFolder::new("disk")?;
    let path = disk.path().to_str().context("a path that is text")?;
    let settings = [
        ("WEIR_LOG__DIRECTORY", path),
        ("WEIR_LOG__LOCAL__SEGMENT_BYTES", "65536"),
        ("WEIR_LOG__PARTITIONS", "2"),
    ];
    // A small file system of its own for the log, seen by this process only.
    let mount = format!("mount -t tmpfs -o size=4m none '{path}' && exec \"$0\" \"$@\"");
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount];
    let mut system = System::embedded_with(&settings, &[], &wrapper).await?;
    let seen = format!("/proc/{}/root{path}", system.process("up")?.id());
    let http = system.ingest()?;
    let send = async |id: String| send_event(&http, &id).await;
    ensure!(send("before".to_owned()).await? != 503, "refused although there is room");
    let mut accepted = 1;
    for round in 0..2 {
        let ballast = Path::new(&seen).join("ballast");
        fill(&ballast)?;
        // Room that was reserved is used up first.
        let mut number = 0;
        until("a refusal", async || {
            number += 1;
            let refused = send(format!("{round}-{number}")).await? == 503;
            accepted += i64::from(!refused);
            Ok(refused.then_some(()))
        })
        .await?;
        ensure!(system_runs(&http).await?, "it has ended");
        fs::remove_file(&ballast)?;
        // The same id again, until there is another answer.
        until("an acceptance", async || {
            Ok((send(format!("{round}-{number}")).await? != 503).then_some(()))
        })
        .await?;
        accepted += 1;
    }
    // What was answered 503 may have been accepted all the same; then it is a duplicate now.
    let counts = until("the books", async || {
        let counts = system.settled(None).await?;
        Ok((counts["rated"] == accepted).then_some(counts))
    })
    .await?;
    ensure!(counts["conflicts"] == 0 && counts["rejected"] == 0, "{counts:?}");
    ensure!(system.process("up")?.is_running()?, "weir up ended");
    Ok(())
}

/// Sends an event; answers the status. A refusal says after how many seconds to come again.
async fn send_event(http: &Http, id: &str) -> Result<u16> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let request = client.post(format!("{}/v1/events", http.base)).bearer_auth(http.key());
    let request = request.header("Content-Type", "application/json").body(event(id, "team-01"));
    let response = request.send().await?;
    let status = response.status().as_u16();
    let later = response.headers().get("retry-after").map(|value| value.to_str()).transpose()?;
    let later: Option<u64> = later.map(str::parse).transpose()?;
    let answer = response.text().await?;
    ensure!([200, 202, 503].contains(&status), "{status}: {answer}");
    ensure!((status == 503) == later.is_some(), "{status} with Retry-After {later:?}: {answer}");
    ensure!(later != Some(0), "at once again: {answer}");
    Ok(status)
}

/// Writes until the disk is full.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut length = 65_536;
    while length > 0 {
        if file.write_all(&vec![7; length]).is_err() {
            length /= 2;
        }
    }
    Ok(())
}

async fn system_runs(http: &Http) -> Result<bool> {
    Ok(http.exchange("GET", "/health", Vec::new()).await?.0 == 200)
}

/// `weir bench` on the settings; its report.
async fn bench(arguments: &[&str], settings: &[(String, String)]) -> Result<Value> {
    let folder = TestFolder::new("bench")?;
    let arguments = [&["bench"], arguments, &["--json"]].concat();
    let mut process = Process::start("bench", folder.path(), &arguments, settings)?;
    let code = process.ended(Duration::from_secs(300)).await?;
    let output = process.output();
    ensure!(code == Some(0), "exit code {code:?}: {output}\n{}", process.log_tail());
    Ok(serde_json::from_str(&output)?)
}

#[tokio::test]
async fn the_bench_of_a_stage_reports_once_its_sums_are_right() -> Result<()> {
    let alone = ["--one-by-one", "300"];
    let stages: [(&[&str], &[&str]); 5] = [
        (&["ingest", "--events", "3000", "--partitions", "4"], &[]),
        (&["ingest", "--events", "300", "--batch", "1", "--partitions", "4"], &[]),
        (&["rate", "--events", "30000"], &[]),
        (&["post", "--events", "30000"], &alone),
        (&["archive", "--events", "30000", "--rows", "15000"], &alone),
    ];
    for (stage, more) in stages {
        let report = bench(&[stage, more].concat(), &[]).await?;
        ensure!(report["oracle"] == "ok", "{stage:?}: {report}");
        for name in report.as_object().context("a report")?.keys().filter(|name| *name != "oracle")
        {
            let figures = match &report[name] {
                Value::Object(figures) => figures.values().cloned().collect(),
                one => vec![one.clone()],
            };
            // A part that is shorter than a tick of the processor clock reads as nothing, the
            // whole does not.
            let mut numbers = figures.iter().map(|figure| figure.as_f64().unwrap_or(-1.0));
            ensure!(numbers.clone().all(|number| number >= 0.0), "{stage:?}, {name}: {report}");
            ensure!(numbers.any(|number| number > 0.0), "{stage:?}, {name}: {report}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_bench_reports_by_role_once_its_books_are_right_on_both_logs() -> Result<()> {
    let broker = Broker::start()?;
    let on_kafka = [("WEIR_KAFKA_BROKERS".to_owned(), broker.bootstrap())];
    for settings in [&[][..], &on_kafka] {
        let arguments = ["pipeline", "--events", "4000", "--connections", "4", "--partitions", "4"];
        let report = bench(&arguments, settings).await?;
        ensure!(report["oracle"] == "ok" && report["events"] == 4_000, "{report}");
        for role in
            ["rater", "archive", "ledger", "api", "tokio (http, sql)", "postgres", "clickhouse"]
        {
            let seconds = report["cpu_s_per_million"][role].as_f64().context(role)?;
            ensure!(seconds > 0.0, "{role}: {report}");
        }
        for name in ["events_per_s", "accepted_per_s", "seconds"] {
            ensure!(report[name].as_f64().is_some_and(|number| number > 0.0), "{name}: {report}");
        }
        for latency in
            [&report["http_ms"], &report["freshness_ms"]["live"], &report["freshness_ms"]["posted"]]
        {
            ensure!(latency["count"].as_u64() > Some(0), "{report}");
        }
        ensure!(report["peak_rss_mb"]["weir"].as_f64() > Some(1.0), "{report}");
    }
    Ok(())
}
