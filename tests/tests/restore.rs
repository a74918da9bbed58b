//! F29: Postgres and the archive are lost; a base backup and the write-ahead log bring Postgres back to a
//! point, dumps or backups the archive to an older one, and the log does the rest. As docs/OPERATIONS.md
//! says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use runtime::{
    clickhouse::{Engine, EngineLaunch, Templating},
    config::Secret,
    postgres::{
        connect_options,
        server::{Server, ServerOptions},
    },
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tests::{
    broker::Broker,
    canaries::secrets_are_nowhere,
    engine::{self, ARCHIVE_MIGRATIONS},
    harness::{oracle::Verdict, report::Run},
    postgres::TestFolder,
    process::{Process, program},
    seed::Moments,
    system::System,
    wait::eventually,
};

/// Tables of the archive, in the order in which a backup takes them.
const TABLES: [&str; 4] = ["audit_heads", "archived", "usage_events", "rejected_events"];
/// The same in two backups, each of a moment.
const BACKUPS: [(&str, &str); 2] = [
    ("places", "TABLE weir.archived, TABLE weir.audit_heads"),
    ("rows", "TABLE weir.usage_events, TABLE weir.rejected_events"),
];

/// How the archive is backed up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each table as a file.
    Dump,
    /// By `BACKUP`, the places before the rows, to which a backup of the next day adds what is new.
    Backup,
}

/// The server, its folder, and where its write-ahead log is archived.
struct Place {
    folder: TestFolder,
}

impl Place {
    fn new() -> Result<Self> {
        let place = Self { folder: TestFolder::new("restore")? };
        fs::create_dir(place.wal())?;
        // Postgres may run as somebody else.
        Command::new("chmod").args(["-R", "a+rwx"]).arg(place.folder.path()).status()?;
        Ok(place)
    }

    fn wal(&self) -> PathBuf {
        self.folder.path().join("wal")
    }

    fn options(&self, name: &str, settings: &[String]) -> ServerOptions {
        let settings = settings.to_vec();
        let data = self.folder.path().join(name);
        ServerOptions { shared_buffers_mb: 64, settings, ..ServerOptions::new(data) }
    }

    /// A server that archives its write-ahead log.
    async fn first(&self) -> Result<Server> {
        let command =
            format!("archive_command=test ! -f {0}/%f && cp %p {0}/%f", self.wal().display());
        Ok(Server::start(self.options("first", &["archive_mode=on".to_owned(), command])).await?)
    }

    /// A server from the base backup and that log, as of the restore point.
    async fn restored(&self, point: &str) -> Result<Server> {
        let settings = [
            format!("restore_command=cp {}/%f %p", self.wal().display()),
            format!("recovery_target_name={point}"),
            "recovery_target_action=promote".to_owned(),
        ];
        Ok(Server::start(self.options("restored", &settings)).await?)
    }
}

async fn connection(url: &Secret) -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&connect_options(url.expose())?).await?)
}

/// `pg_basebackup` into the folder of the next server.
fn base_backup(place: &Place, server: &Server) -> Result<()> {
    let program = ["/usr/lib/postgresql", "/usr/pgsql"].iter().find_map(|root| {
        let versions = fs::read_dir(root).ok()?;
        versions
            .filter_map(|entry| Some(entry.ok()?.path().join("bin/pg_basebackup")))
            .find(|path| path.is_file())
    });
    let next = place.folder.path().join("restored");
    fs::create_dir(&next)?;
    let url = server.superuser_url();
    let output = Command::new(program.unwrap_or_else(|| "pg_basebackup".into()))
        .args([
            "--checkpoint",
            "fast",
            "--wal-method",
            "none",
            "--no-manifest",
            "--dbname",
            url.expose(),
            "--pgdata",
        ])
        .arg(next.join("cluster"))
        .output()
        .context("pg_basebackup")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(next.join("cluster/recovery.signal"), "")?;
    fs::copy(place.folder.path().join("first/password"), next.join("password"))?;
    Ok(())
}

async fn send(system: &System, moments: &mut Moments, round: &str) -> Result<()> {
    for batch in 0..4 {
        let mut event = |number: u64| {
            let team = format!("team-{}", moments.bits() % 9);
            json!({"id": format!("{round}-{batch}-{number}"), "source": "restore", "type": "llm.tokens.v1", "subject": team,
                "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": moments.bits() % 1000, "outputTokens": 7}})
        };
        let mut events: Vec<Value> = (0..50).map(&mut event).collect();
        events.push(events[0].clone());
        events.push(json!({"id": format!("{round}-{batch}-bad"), "source": "restore", "type": "llm.tokens.v1", "subject": "team-1",
            "data": {"inputTokens": "many"}}));
        let (status, answer) =
            system.ingest()?.exchange("POST", "/v1/events", serde_json::to_vec(&events)?).await?;
        ensure!(status == 200 || status == 202, "{status}: {answer}");
    }
    Ok(())
}

/// All that the books say, whatever windows it was posted in; each row as text.
async fn books(connection: &mut PgConnection) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar(
        "SELECT format('balance %s %s %s %s', tenant_id, team, currency, trim_scale(balance)) AS line FROM receivables
         UNION ALL SELECT format('total %s', usage_totals) FROM usage_totals
         UNION ALL SELECT format('counts %s', partition_counts) FROM partition_counts
         UNION ALL SELECT format('place %s %s %s %s', partition, x, r, c) FROM partitions
         UNION ALL SELECT format('transfers %s %s %s %s %s %s %s', tenant_id, reason, team, meter, card, card_version, currency)
             || format(' %s %s %s', sum(amount), sum(quantity), sum(events)) FROM transfers
             GROUP BY tenant_id, reason, team, meter, card, card_version, currency
         ORDER BY line",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Every row of every chain: its end and its hash.
async fn chain(connection: &mut PgConnection) -> Result<BTreeMap<(i32, i64), Vec<u8>>> {
    let rows: Vec<(i32, i64, Vec<u8>)> =
        sqlx::query_as("SELECT partition, position_to, hash FROM audit")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(partition, position, hash)| ((partition, position), hash)).collect())
}

/// The address of ClickHouse.
fn clickhouse_url(system: &System) -> Result<String> {
    let text = fs::read(system.data().join("endpoints.json"))?;
    let endpoints: Value = serde_json::from_slice(&text)?;
    Ok(endpoints["clickhouse"].as_str().context("no ClickHouse")?.to_owned())
}

/// Sends ClickHouse a statement, or the body of one that `parameters` has.
async fn clickhouse(url: &str, parameters: &str, body: Vec<u8>) -> Result<Vec<u8>> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.post(format!("{url}/?database=weir{parameters}")).body(body).send().await?;
    let (status, text) = (answer.status(), answer.bytes().await?);
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&text));
    Ok(text.into())
}

/// Backs the archive up, and takes what that is out of the folder that will be lost.
async fn back_up(way: Way, system: &System, folder: &Path) -> Result<()> {
    let url = clickhouse_url(system)?;
    if way == Way::Dump {
        return dump(&url, folder).await;
    }
    for (day, base) in [("first", None), ("second", Some("first"))] {
        for (name, tables) in BACKUPS {
            let base = base.map(|base| format!(" SETTINGS base_backup = File('{base}/{name}')"));
            let base = base.unwrap_or_default();
            let sql = format!("BACKUP {tables} TO File('{day}/{name}'){base}");
            clickhouse(&url, "", sql.into()).await?;
        }
    }
    fs::rename(system.data().join("clickhouse/backups"), folder.join("backups"))?;
    Ok(())
}

#[test]
fn the_statements_are_those_of_the_document() {
    let document = include_str!("../../docs/OPERATIONS.md");
    for (name, tables) in BACKUPS {
        let statement = format!("BACKUP {tables} TO File('TODAY/{name}')");
        assert!(document.contains(&statement), "{statement}");
    }
}

async fn dump(url: &str, folder: &Path) -> Result<()> {
    for table in TABLES {
        let rows = clickhouse(url, "", format!("SELECT * FROM {table} FORMAT Native").into());
        fs::write(folder.join(format!("{table}.native")), rows.await?)?;
    }
    Ok(())
}

/// A new archive with what was backed up in it, in the folder of the `weir up` that is down.
async fn restore_archive(way: Way, system: &System, folder: &Path) -> Result<()> {
    let data = system.data().join("clickhouse");
    fs::remove_dir_all(&data)?;
    let launch = EngineLaunch {
        program: program()?,
        arguments: vec!["clickhouse-engine".to_owned()],
        library: engine::library()?,
        data: data.clone(),
        connections: 2,
    };
    let engine = Engine::start(launch).await?;
    let client = engine::client(&engine.url(), "weir");
    client.create_database("weir", Templating::default()).await?;
    client.migrate(ARCHIVE_MIGRATIONS, Templating::default()).await?;
    match way {
        Way::Dump => {
            for table in TABLES.into_iter().rev() {
                let parameters = format!("&query=INSERT+INTO+{table}+FORMAT+Native");
                let body = fs::read(folder.join(format!("{table}.native")))?;
                clickhouse(&engine.url(), &parameters, body).await?;
            }
        }
        Way::Backup => {
            fs::rename(folder.join("backups"), data.join("backups"))?;
            for (name, tables) in BACKUPS.into_iter().rev() {
                let sql = format!("RESTORE {tables} FROM File('second/{name}')");
                clickhouse(&engine.url(), "", sql.into()).await?;
            }
        }
    }
    engine.stop().await;
    Ok(())
}

async fn verify(system: &System) -> Result<()> {
    let data = system.data();
    let data = data.to_str().context("a path that is text")?;
    let arguments = ["verify", "--json", "--sample", "100000", "--data", data];
    let mut process = Process::start("verify", &system.folder(), &arguments, system.settings())?;
    let code = process.ended(std::time::Duration::from_secs(240)).await?;
    ensure!(
        code == Some(0),
        "verify exited with {code:?}: {}\n{}",
        process.output(),
        process.log_tail()
    );
    Ok(())
}

#[tokio::test]
async fn what_was_lost_comes_back_from_dumps_and_the_log() -> Result<()> {
    let run = Run::new("restore");
    run.keep(comes_back(Way::Dump, None, &run).await)
}

#[tokio::test]
async fn what_was_lost_comes_back_from_backups_and_the_log() -> Result<()> {
    let run = Run::new("restore");
    run.keep(comes_back(Way::Backup, None, &run).await)
}

#[tokio::test]
async fn what_was_lost_comes_back_from_dumps_and_kafka() -> Result<()> {
    let (run, broker) = (Run::new("restore"), Broker::start()?);
    run.keep(comes_back(Way::Dump, Some(&broker), &run).await)
}

async fn comes_back(way: Way, broker: Option<&Broker>, run: &Run) -> Result<Verdict> {
    let mut moments = run.moments.clone();
    let (place, dumps) = (Place::new()?, TestFolder::new("dumps")?);
    let first = place.first().await?;
    let mut settings = vec![
        ("DATABASE_URL", first.superuser_url().expose().to_owned()),
        ("WEIR_LOG__PARTITIONS", "3".to_owned()),
        ("WEIR_LEDGER_WRITER__WINDOW_MS", "100".to_owned()),
        ("WEIR_ARCHIVER__HEADS_EVERY_MS", "100".to_owned()),
    ];
    settings.extend(broker.map(|broker| ("WEIR_KAFKA_BROKERS", broker.bootstrap())));
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    send(&system, &mut moments, "before").await?;
    system.settled(Some(4 * 52)).await?;

    // The backup, with everything running.
    base_backup(&place, &first)?;
    back_up(way, &system, dumps.path()).await?;
    send(&system, &mut moments, "in-wal").await?;
    system.settled(Some(8 * 52)).await?;
    let mut postgres = connection(&first.superuser_url()).await?;
    sqlx::query("SELECT pg_create_restore_point('the_point')").execute(&mut postgres).await?;
    let at_point = chain(&mut postgres).await?;
    let segment: String = sqlx::query_scalar("SELECT pg_walfile_name(pg_switch_wal())")
        .fetch_one(&mut postgres)
        .await?;
    eventually("the write-ahead log is archived", async || {
        Ok(place.wal().join(&segment).is_file())
    })
    .await?;
    send(&system, &mut moments, "after-point").await?;
    let counts = system.settled(Some(12 * 52)).await?;
    let lost = books(&mut postgres).await?;
    drop(postgres);

    // Everything but the log goes.
    let began = Instant::now();
    system.kill("up")?;
    first.kill().await;
    fs::remove_dir_all(place.folder.path().join("first"))?;
    let restored = place.restored("the_point").await?;
    let mut postgres = connection(&restored.superuser_url()).await?;
    eventually("the server is writable", async || {
        Ok(!sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()")
            .fetch_one(&mut postgres)
            .await?)
    })
    .await?;
    ensure!(chain(&mut postgres).await? == at_point, "the chain is not that of the point");
    ensure!(books(&mut postgres).await? != lost, "nothing was lost, so nothing is tried here");
    restore_archive(way, &system, dumps.path()).await?;
    system.set_for_all("DATABASE_URL", restored.superuser_url().expose());
    system.start("up").await?;

    // The log has the rest.
    let again = system.settled(Some(12 * 52)).await?;
    let recovered = began.elapsed();
    ensure!(again == counts, "{again:?} instead of {counts:?}");
    ensure!(books(&mut postgres).await? == lost, "the books are not the lost ones");
    let chain = chain(&mut postgres).await?;
    ensure!(
        at_point.iter().all(|(place, hash)| chain.get(place) == Some(hash)),
        "the chain was not continued"
    );
    verify(&system).await?;
    secrets_are_nowhere(&system, []).await?;
    system.kill("up")?;
    restored.stop().await?;
    run.story.count("F29", 1);
    run.story.tell(format!("F29: Postgres and the archive lost, back after {recovered:?}"));
    Ok(Verdict { events: counts["accepted"].unsigned_abs(), ..Verdict::default() })
}
