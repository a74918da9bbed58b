//! What operators use: `weir doctor` on systems that are broken on purpose, the units of systemd, and
//! the alert rules.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tests::{
    broker::Broker,
    nobody::Nobody,
    postgres::TestFolder,
    process::{self, Http, Process},
    system::{ROLES, System},
    wait::eventually,
};

/// Longer than all checks together may wait.
const DOCTOR_TIME_MAX: Duration = Duration::from_secs(120);
const MASTER_KEY: &str = "1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a";

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The report of a `weir doctor`.
struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Report {
    /// Asks with `settings`, of which later ones override earlier ones.
    async fn of(
        folder: &Path,
        arguments: &[&str],
        settings: &[(String, String)],
        overrides: &[(&str, &str)],
    ) -> Result<Self> {
        let mut settings = settings.to_vec();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        settings.extend(overrides.iter().map(owned));
        let arguments = [&["doctor", "--json"], arguments].concat();
        let mut process = Process::start("doctor", folder, &arguments, &settings)?;
        let code = process.ended(DOCTOR_TIME_MAX).await?;
        let document: Value = serde_json::from_str(&process.output())
            .with_context(|| format!("no report: {}", process.log_tail()))?;
        let findings = document["findings"].as_array().context("no findings")?.clone();
        let wrong = findings.iter().any(|finding| finding["state"] == "wrong");
        ensure!(document["healthy"] == !wrong, "{document}");
        ensure!(code == Some(i32::from(wrong)), "exit code {code:?}: {document}");
        Ok(Self { code, findings })
    }

    /// The findings of `state`, as `check: found`.
    fn in_state(&self, state: &str) -> Vec<String> {
        let text =
            |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        self.findings
            .iter()
            .filter(|finding| finding["state"] == state)
            .map(|finding| format!("{}: {}", text(finding, "check"), text(finding, "found")))
            .collect()
    }

    /// Fails unless `check` alone is wrong, says `found`, and says what to do.
    fn only_wrong(&self, check: &str, found: &str) -> Result<()> {
        let wrong = self.in_state("wrong");
        ensure!(wrong.len() == 1, "{check} expected: {wrong:?}");
        ensure!(
            wrong[0].starts_with(&format!("{check}: ")) && wrong[0].contains(found),
            "{check} with {found:?} expected: {wrong:?}"
        );
        let acted = self.findings.iter().find(|finding| finding["state"] == "wrong");
        let action = acted.and_then(|finding| finding["action"].as_str()).unwrap_or_default();
        ensure!(!action.is_empty(), "{check} does not say what to do");
        Ok(())
    }

    /// Fails unless it has found this, however it judges it: the disk is that of the machine.
    fn tells(&self, check: &str, found: &str) -> Result<()> {
        let tells = |finding: &&Value| {
            finding["check"] == check
                && finding["found"].as_str().is_some_and(|it| it.contains(found))
        };
        ensure!(
            self.findings.iter().any(|finding| tells(&finding)),
            "{check}: {:?}",
            self.findings
        );
        Ok(())
    }

    /// Fails unless all of `checks` are ok and nothing is wrong.
    fn healthy(&self, checks: &[&str]) -> Result<()> {
        ensure!(self.code == Some(0), "wrong: {:?}", self.in_state("wrong"));
        let ok = self.in_state("ok");
        for check in checks {
            let found = ok.iter().any(|found| found.starts_with(&format!("{check}: ")));
            ensure!(found, "{check} is not ok: {:?}", self.findings);
        }
        Ok(())
    }
}

/// Writes a message to a topic.
fn write(broker: &Broker, topic: &str, message: &[u8]) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create()?;
    let record = BaseRecord::<(), [u8]>::to(topic).payload(message);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(Duration::from_secs(60))?)
}

fn event(id: &str) -> Vec<u8> {
    json!({
        "id": id, "type": "llm.tokens.v1", "source": "operators", "subject": "team-1",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 10, "outputTokens": 5},
    })
    .to_string()
    .into_bytes()
}

const WELL: [&str; 17] = [
    "configuration",
    "postgres",
    "postgres.clock",
    "postgres.roles",
    "postgres.migrations",
    "postgres.grants",
    "log",
    "log.installation",
    "clickhouse",
    "clickhouse.clock",
    "clickhouse.migrations",
    "keys.audit",
    "keys.master",
    "late",
    "lag.rated",
    "lag.posted",
    "lag.archived",
];

#[tokio::test]
async fn the_doctor_finds_each_thing_that_is_broken_on_kafka() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka_with(&broker, 2, &[("WEIR_MASTER_KEY", MASTER_KEY)]).await?;
    let folder = system.folder();
    let api = system.api()?;
    api.send("POST", "/v1/apps", &json!({"app": "tool"})).await?;
    let secret = json!({"name": "first", "scopes": ["events:write"]});
    api.send("POST", "/v1/apps/tool/secrets", &secret).await?;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", event("one")).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    system.settled(None).await?;

    let asked = ["--process", &api.base];
    let settings = system.settings().to_vec();
    let ask =
        async |overrides: &[(&str, &str)]| Report::of(&folder, &asked, &settings, overrides).await;
    ask(&[]).await?.healthy(&WELL)?;
    ask(&[]).await?.healthy(&["ready", "clickhouse.grants"])?;
    ask(&[]).await?.tells("clickhouse.disk.default", "MiB are free")?;

    // Settings.
    let other_key = "77".repeat(32);
    ask(&[("WEIR_LEDGER_WRITER__AUDIT_KEY", &other_key)])
        .await?
        .only_wrong("keys.audit", "audit key")?;
    ask(&[("WEIR_MASTER_KEY", &other_key)]).await?.only_wrong("keys.master", "master key")?;
    let faults = ask(&[("WEIR_POSTGRES__CONNECTIONS", "1"), ("WEIR_RATER__NONSENSE", "1")]).await?;
    ensure!(faults.in_state("wrong").iter().all(|fault| fault.starts_with("configuration: ")));
    let both =
        ask(&[("WEIR_POSTGRES__CONNECTIONS", "1"), ("WEIR_API__PUBLISH_WAIT_MS", "0")]).await?;
    ensure!(both.in_state("wrong").len() == 2, "{:?}", both.in_state("wrong"));
    let unset = ask(&[("WEIR_LEDGER_WRITER__AUDIT_KEY", "")]).await?;
    unset.healthy(&["configuration"])?;
    ensure!(unset.in_state("warning").iter().any(|found| found.starts_with("keys.audit")));

    // Servers that are away.
    let nobody = Nobody::new()?;
    let port = nobody.port()?;
    let away = format!("postgres://weir:weir@127.0.0.1:{port}/weir");
    ask(&[("DATABASE_URL", &away)]).await?.only_wrong("postgres", "")?;
    let away = format!("http://127.0.0.1:{port}");
    ask(&[("CLICKHOUSE_URL", &away)]).await?.only_wrong("clickhouse", "")?;
    let away = format!("127.0.0.1:{port}");
    ask(&[("WEIR_KAFKA_BROKERS", &away)]).await?.only_wrong("log", &away)?;
    let away = format!("http://127.0.0.1:{port}");
    let gone = Report::of(&folder, &["--process", &away], &settings, &[]).await?;
    gone.only_wrong("ready", "does not answer")?;
    let other = ask(&[("WEIR_LOG__PARTITIONS", "3")]).await?.in_state("wrong");
    let [log, installation] = other.as_slice() else { anyhow::bail!("{other:?}") };
    ensure!(
        log.starts_with("log: ") && installation.starts_with("log.installation: "),
        "{other:?}"
    );

    let away = format!("http://127.0.0.1:{port}");
    ask(&[("WEIR_API__INGEST_URL", &away)])
        .await?
        .only_wrong("api.ingest_url", "does not answer")?;
    let here = system.ingest()?.base.clone();
    ask(&[("WEIR_API__INGEST_URL", &here)]).await?.healthy(&["api.ingest_url"])?;

    // Databases that somebody changed.
    let mut postgres = system.postgres().await?;
    let cases = [
        (
            "DELETE FROM _sqlx_migrations WHERE version = 7",
            "INSERT INTO _sqlx_migrations SELECT * FROM kept",
            ("postgres.migrations", "migration 7 (flushes) is missing"),
        ),
        (
            "REVOKE INSERT ON transfers FROM weir_writer",
            "GRANT INSERT ON transfers TO weir_writer",
            ("postgres.grants", "weir_writer may not INSERT transfers"),
        ),
        (
            "GRANT DELETE ON transfers TO weir_api",
            "REVOKE DELETE ON transfers FROM weir_api",
            ("postgres.grants", "weir_api may DELETE transfers"),
        ),
        (
            "ALTER ROLE weir_reader BYPASSRLS",
            "ALTER ROLE weir_reader NOBYPASSRLS",
            ("postgres.roles", "weir_reader"),
        ),
        (
            "UPDATE installation SET log_name = 'kafka-other-weir'",
            "UPDATE installation SET log_name = (SELECT log_name FROM kept_installation)",
            ("log.installation", "kafka-other-weir"),
        ),
    ];
    postgres
        .execute("CREATE TABLE kept AS SELECT * FROM _sqlx_migrations WHERE version = 7")
        .await?;
    postgres.execute("CREATE TABLE kept_installation AS SELECT log_name FROM installation").await?;
    for (break_it, mend_it, (check, found)) in cases {
        postgres.execute(break_it).await?;
        ask(&[]).await?.only_wrong(check, found).context(break_it)?;
        postgres.execute(mend_it).await?;
    }
    postgres.close().await?;
    let migrations = "SELECT number, name, hash, applied_at FROM schema_migrations";
    let archive = system.clickhouse();
    archive
        .execute(&format!("CREATE TABLE kept ENGINE = MergeTree ORDER BY number AS {migrations}"))
        .await?;
    archive
        .execute(
            "ALTER TABLE schema_migrations DELETE WHERE number = 3 SETTINGS mutations_sync = 2",
        )
        .await?;
    ask(&[])
        .await?
        .only_wrong("clickhouse.migrations", "migration 3 (compact_parts) is missing")?;
    let restore = "INSERT INTO schema_migrations (number, name, hash, applied_at) SELECT * FROM kept WHERE number = 3";
    archive.execute(restore).await?;
    ask(&[]).await?.healthy(&WELL)?;

    // A late event that nobody answers.
    let mut postgres = system.postgres().await?;
    let change = |by: i64| {
        format!(
            "UPDATE partition_counts SET accepted = accepted + {by}, forwarded = forwarded + {by}"
        )
    };
    postgres.execute(AssertSqlSafe(change(3))).await?;
    let late = ask(&[]).await?.in_state("warning");
    ensure!(
        late.iter().any(|found| found.starts_with("late: ") && found.ends_with(": 3")),
        "{late:?}"
    );
    postgres.execute(AssertSqlSafe(change(-3))).await?;
    postgres.close().await?;

    // Doors: of nobody, read, and not read.
    let doors = ["migrate", "--replication", "1", "--door", "default", "--door", "nobody"];
    system.run("doors", &doors).await?;
    let read = async |what: &'static str| {
        eventually(what, async || {
            let report = ask(&[]).await?;
            let found = [report.in_state("ok"), report.in_state("warning")].concat();
            Ok(report.code == Some(0) && found.iter().any(|found| found.starts_with(what)))
        })
        .await
    };
    let prefix = system.prefix()?.to_owned();
    let door = |tenant: &str| format!("{prefix}.in.{tenant}");
    read("doors: 2 of 2 doors are read").await?;
    write(&broker, &door("nobody"), &event("of nobody"))?;
    read("doors: the door of nobody: 1 messages wait, and no tenant has this key").await?;
    write(&broker, &door("default"), &event("by the door"))?;
    read("doors: 1 of 2 doors are read").await?;
    system.kill("ingest")?;
    write(&broker, &door("default"), &event("by the closed door"))?;
    read("doors: the door of default: messages wait, and are not read: partition ").await?;
    system.start("ingest").await?;
    read("doors: 1 of 2 doors are read").await?;
    system.settled(None).await?;

    // Processes that do not work.
    system.kill("ledger-writer")?;
    system.kill("archiver")?;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", event("two")).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    eventually("lag of posting and archiving", async || {
        let report = Report::of(&folder, &["--lag", "1"], &settings, &[]).await?;
        let warnings = report.in_state("warning");
        let lags = |stage: &str| {
            warnings.iter().any(|found| found.starts_with(&format!("lag.{stage}: partition")))
        };
        Ok(lags("posted") && lags("archived") && !lags("rated") && report.code == Some(0))
    })
    .await?;
    let metrics = Http::new(&api.base, "")?;
    eventually("the lag in /metrics", async || {
        let text = metrics.text("/metrics").await?;
        let behind = text.lines().any(|line| {
            line.starts_with("weir_lag_blocks{")
                && line.contains("stage=\"posted\"")
                && line.ends_with(" 1")
        });
        Ok(behind && text.contains("weir_neighbour_up{neighbour=\"postgres\"} 1"))
    })
    .await
}

#[tokio::test]
async fn the_doctor_of_one_machine_looks_at_its_folder_and_its_process() -> Result<()> {
    let mut system = System::embedded().await?;
    let (folder, data) = (system.folder(), system.data());
    let data_text = data.to_str().context("a path that is text")?.to_owned();
    let arguments = ["--data", data_text.as_str()];
    let ask = async || Report::of(&folder, &arguments, &[], &[]).await;
    let (status, answer) = system.ingest()?.exchange("POST", "/v1/events", event("one")).await?;
    ensure!(status == 200 || status == 202, "{status}: {answer}");
    system.settled(Some(1)).await?;
    let metrics = Http::new(&system.api()?.base, "")?;
    eventually("the first measures", async || {
        Ok(metrics.text("/metrics").await?.contains("weir_lag_seconds{"))
    })
    .await?;
    ask().await?.healthy(&WELL)?;
    ask().await?.healthy(&["ready", "log.sync"])?;
    for disk in ["log.disk", "clickhouse.disk.default"] {
        ask().await?.tells(disk, "MiB are free")?;
    }
    check_metrics(&metrics.text("/metrics").await?)?;

    let key = data.join("keys/audit");
    let kept = fs::read(&key)?;
    fs::write(&key, "77".repeat(32))?;
    ask().await?.only_wrong("keys.audit", "audit key")?;
    fs::write(&key, kept)?;

    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "exit code {code:?}");
    ask().await?.only_wrong("weir up", "endpoints.json")
}

/// A server that shows a certificate which ends in so many days; its port.
/// `prelude` is what it answers before that, to eight bytes.
fn tls_server(folder: &Path, days: &str, prelude: &'static [u8]) -> Result<u16> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-days",
            days,
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .context("openssl is missing")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_file(certificate)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_file(key)?)?;
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0")?);
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), Ok(mut connection)) =
                (stream, ServerConnection::new(Arc::clone(&config)))
            else {
                return;
            };
            if !prelude.is_empty()
                && (stream.read_exact(&mut [0; 8]).is_err() || stream.write_all(prelude).is_err())
            {
                continue;
            }
            let _ = connection.complete_io(&mut stream);
        }
    });
    Ok(port)
}

#[tokio::test]
async fn the_doctor_names_certificates_that_end_soon() -> Result<()> {
    let folder = TestFolder::new("certificates")?;
    let soon = tls_server(folder.path(), "5", b"")?;
    let later = tls_server(folder.path(), "400", b"")?;
    // Postgres says `S` where it speaks TLS.
    let postgres = tls_server(folder.path(), "3", b"S")?;
    let settings = [
        ("DATABASE_URL", format!("postgres://weir@localhost:{postgres}/weir?sslmode=require")),
        ("CLICKHOUSE_URL", format!("https://localhost:{soon}")),
        ("WEIR_KAFKA_BROKERS", format!("127.0.0.1:{later}")),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let config = folder.path().join("weir.toml");
    fs::write(&config, "[log.kafka.properties]\n\"security.protocol\" = \"ssl\"\n")?;
    let arguments = ["--config", config.to_str().context("a path that is text")?];
    let report = Report::of(folder.path(), &arguments, &settings, &[]).await?;
    let warnings = report.in_state("warning");
    let named = |found: &[String], check: &str, days: &str| {
        found.iter().any(|found| found.starts_with(check) && found.ends_with(days))
    };
    ensure!(named(&warnings, "clickhouse.certificate", "in 4 days"), "{:?}", report.findings);
    ensure!(named(&warnings, "postgres.certificate", "in 2 days"), "{:?}", report.findings);
    ensure!(
        named(&report.in_state("ok"), "log.certificate", "in 399 days"),
        "{:?}",
        report.findings
    );
    let nobody = Nobody::new()?;
    let plain = format!("postgres://weir@127.0.0.1:{}/weir?sslmode=disable", nobody.port()?);
    let plain = [("DATABASE_URL", plain.as_str())];
    let report = Report::of(folder.path(), &arguments, &settings, &plain).await?;
    ensure!(!report.findings.iter().any(|finding| finding["check"] == "postgres.certificate"));
    Ok(())
}

/// `Key=value` lines of a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn every_role_has_a_unit_that_systemd_takes() -> Result<()> {
    let folder = TestFolder::new("systemd")?;
    let program = process::program()?;
    let program = program.to_str().context("a path that is text")?;
    for command in ROLES.into_iter().chain(["up"]) {
        let name = format!("weir-{command}.service");
        let unit = fs::read_to_string(repository("deploy/systemd").join(&name))?;
        for (key, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateDevices", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("CapabilityBoundingSet", ""),
            ("Restart", "always"),
            ("LimitNOFILE", "65536"),
            ("User", "weir"),
        ] {
            ensure!(values(&unit, key) == [value], "{name}: {key} is not {value:?}");
        }
        let starts = values(&unit, "ExecStart");
        let [start] = starts.as_slice() else { anyhow::bail!("{name}: {starts:?}") };
        let arguments: Vec<&str> = start.split(' ').collect();
        ensure!(arguments[..2] == ["/usr/bin/weir", command], "{name}: {start}");
        let parsed = process::command()?.args(&arguments[1..]).arg("--help").output()?;
        ensure!(parsed.status.success(), "{name}: {}", String::from_utf8_lossy(&parsed.stderr));
        fs::write(folder.path().join(&name), unit.replace("/usr/bin/weir", program))?;
        if let Ok(verified) =
            Command::new("systemd-analyze").arg("verify").arg(folder.path().join(&name)).output()
        {
            let said = String::from_utf8_lossy(&verified.stderr);
            ensure!(verified.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
    Ok(())
}

/// The mistakes of `make test-planted` are in no other build.
#[cfg(not(feature = "planted"))]
#[test]
fn a_program_for_use_knows_no_mistake_to_make() -> Result<()> {
    let program = process::program()?;
    let found = |text: &str| Command::new("grep").args(["-qF", text]).arg(&program).status();
    ensure!(found("WEIR_LIBCHDB")?.success(), "grep does not find what is there");
    ensure!(found("WEIR_PLANT")?.code() == Some(1), "{} can be told to fail", program.display());
    let refused = process::command()?.arg("rater").env("WEIR_PLANT", "4").output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("WEIR_PLANT"), "{said}");
    ensure!(said.contains("is not a setting"), "{said}");
    Ok(())
}

/// Names of metrics in the alert rules, without what Prometheus adds to a histogram's.
fn alert_metrics() -> Result<BTreeSet<String>> {
    let rules = fs::read_to_string(repository("deploy/alerts.yml"))?;
    let mut names = BTreeSet::new();
    for line in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        let words = line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for word in words.filter(|word| word.starts_with("weir_")) {
            names.insert(word.trim_end_matches("_bucket").to_owned());
        }
    }
    Ok(names)
}

/// The text of all sources of a folder.
fn sources(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(text)
}

#[test]
fn every_metric_of_an_alert_is_registered() -> Result<()> {
    let mut registered = String::new();
    for folder in ["ingest", "rater", "ledger-writer", "archiver", "api", "cli", "runtime"] {
        registered.push_str(&sources(&repository(folder).join("src"))?);
    }
    let names = alert_metrics()?;
    ensure!(names.len() >= 20, "{names:?}");
    for name in names {
        let known = registered.contains(&format!("\"{name}\"")) || name == "weir_not_ready";
        ensure!(known, "the alert rules ask for {name}, which nobody registers");
    }
    let rules = fs::read_to_string(repository("deploy/alerts.yml"))?;
    let document = fs::read_to_string(repository("docs/OPERATIONS.md"))?;
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(document.contains(alert), "docs/OPERATIONS.md does not speak of {alert}");
    }
    Ok(())
}

/// Whether a key opens the api.
async fn opens(system: &System, key: &str) -> Result<bool> {
    let (status, _) =
        Http::new(&system.api()?.base, key)?.exchange("GET", "/v1/teams", Vec::new()).await?;
    ensure!(status == 200 || status == 401 || status == 403, "{status}");
    Ok(status == 200)
}

#[tokio::test]
async fn tenants_and_keys_are_made_listed_and_ended_by_command() -> Result<()> {
    let system = System::embedded().await?;
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    let run = async |arguments: &[&str]| {
        system.run("command", &[arguments, &["--data", data]].concat()).await
    };
    let lists = async |what: &str, more: &[&str]| -> Result<Vec<Value>> {
        let output = run(&[&[what, "list", "--json"], more].concat()).await?;
        Ok(serde_json::from_str(&output)?)
    };
    run(&["tenants", "create", "acme", "--name", "Acme"]).await?;
    ensure!(run(&["tenants", "create", "acme"]).await.is_err(), "two tenants of one key");
    ensure!(run(&["tenants", "create", "a b"]).await.is_err(), "a key that is no name");
    run(&["tenants", "set", "acme", "--external-key", "Acme & Co"]).await?;
    ensure!(run(&["tenants", "set", "default", "--external-key", "Acme & Co"]).await.is_err());
    ensure!(lists("tenants", &[]).await?[0]["external_key"] == "Acme & Co");
    let key =
        run(&["keys", "create", "--tenant", "acme", "--name", "one"]).await?.trim().to_owned();
    run(&["keys", "create", "--tenant", "acme", "--expires-at", "2020-01-01T00:00:00Z"]).await?;
    ensure!(opens(&system, &key).await?);

    let keys = lists("keys", &["--tenant", "acme"]).await?;
    let states: Vec<_> = keys.iter().map(|key| key["state"].as_str().unwrap_or_default()).collect();
    ensure!(states == ["live", "expired"] && keys[0]["name"] == "one", "{keys:?}");
    let text = run(&["keys", "list", "--tenant", "acme"]).await?;
    ensure!(text.contains("expired") && text.contains("one"), "{text}");
    let secret = key.rsplit('_').next().context("a key has parts")?;
    ensure!(
        !text.contains(secret) && !json!(keys).to_string().contains(secret),
        "a secret is listed"
    );

    run(&["tenants", "disable", "acme"]).await?;
    eventually("the key opens nothing", async || Ok(!opens(&system, &key).await?)).await?;
    let tenants = lists("tenants", &[]).await?;
    let names: Vec<_> =
        tenants.iter().map(|tenant| tenant["key"].as_str().unwrap_or_default()).collect();
    ensure!(names == ["acme", "default"] && tenants[0]["disabled_at"].is_string(), "{tenants:?}");
    ensure!(opens(&system, system.api()?.key()).await?, "another tenant is disabled too");
    run(&["tenants", "enable", "acme"]).await?;
    eventually("the key opens again", async || opens(&system, &key).await).await?;
    run(&["keys", "revoke", &key, "--tenant", "acme"]).await?;
    eventually("the key is revoked", async || Ok(!opens(&system, &key).await?)).await?;
    ensure!(lists("keys", &["--tenant", "acme"]).await?[0]["state"] == "revoked");

    let mut postgres = system.postgres().await?;
    let actions: Vec<String> = sqlx::query_scalar(
        "SELECT action FROM privileged_changes JOIN tenants USING (tenant_id) WHERE key = 'acme' ORDER BY changed_at, change_id",
    )
    .fetch_all(&mut postgres)
    .await?;
    let wanted = [
        "tenants create",
        "tenants set",
        "keys create",
        "keys create",
        "tenants disable",
        "tenants enable",
        "keys revoke",
    ];
    ensure!(actions == wanted, "{actions:?}");
    Ok(())
}

/// Prometheus' own tool reads the rules, and they fire for what they are about.
#[test]
fn prometheus_takes_the_alert_rules_and_they_fire() -> Result<()> {
    let output = Command::new(repository("deploy/setup/promtool.sh")).output()?;
    ensure!(output.status.success(), "promtool.sh: {}", output.status);
    let promtool = String::from_utf8(output.stdout)?.trim().to_owned();
    let folder = TestFolder::new("alerts")?;
    fs::copy(repository("deploy/alerts.yml"), folder.path().join("alerts.yml"))?;
    fs::copy(repository("tests/data/alert_cases.yml"), folder.path().join("cases.yml"))?;
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "cases.yml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(folder.path()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {arguments:?}: {said}{wrong}");
    }
    Ok(())
}

/// Fails unless a running system has the measures of the whole installation.
fn check_metrics(text: &str) -> Result<()> {
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let installation =
        ["weir_lag_", "weir_conservation_", "weir_neighbour_", "weir_disk_", "weir_not_ready"];
    for name in alert_metrics()? {
        let always = installation.iter().any(|prefix| name.starts_with(prefix));
        ensure!(!always || shown.contains(name.as_str()), "{name} is not in /metrics");
    }
    ensure!(text.contains("weir_conservation_balanced 1"), "the books do not balance");
    Ok(())
}
