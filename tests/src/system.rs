//! A whole Weir: embedded (`weir up` on a folder of its own), or a process per role on Kafka.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use runtime::{
    clickhouse::{ClickHouse, Engine, EngineLaunch},
    config::Secret,
    postgres::{connect_options, server::SUPERUSER},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::{
    broker::Broker,
    engine,
    oracle::{Books, Sums, parse},
    postgres::{TestFolder, TestPostgres},
    process::{Http, Process, program},
};

/// What the books may need after the last event was accepted, on a busy machine.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(120);
/// The demo's catalog, which the tests publish.
const CATALOG: &str = include_str!("../../cli/demo/catalog.json");
/// The archive's database.
const ARCHIVE: &str = "weir";

/// The roles, as the commands are called.
pub const ROLES: [&str; 5] = ["ingest", "rater", "ledger-writer", "archiver", "api"];

/// A running Weir with the demo's catalog.
pub struct System {
    // Processes end before the servers they use, and those before their folder goes.
    processes: BTreeMap<String, Process>,
    settings: Vec<(String, String)>,
    /// Settings of single processes or roles, which win over the others.
    own_settings: Vec<(String, (String, String))>,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    ports: BTreeMap<String, String>,
    key: String,
    postgres_url: String,
    clickhouse: ClickHouse,
    servers: Option<Servers>,
    folder: TestFolder,
}

/// What the roles on Kafka share.
#[derive(Debug)]
pub struct Servers {
    /// The archive's engine.
    pub engine: Engine,
    /// Postgres.
    pub postgres: TestPostgres,
}

impl System {
    /// `weir up`, with the catalog published.
    pub async fn embedded() -> Result<Self> {
        Self::embedded_with(&[], &[], &[]).await
    }

    /// [`System::embedded`] with further settings, as environment variables, further arguments of
    /// `weir up`, and a command that starts it.
    pub async fn embedded_with(
        settings: &[(&str, &str)],
        arguments: &[&str],
        wrapper: &[&str],
    ) -> Result<Self> {
        let folder = TestFolder::new("system")?;
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let mut system = Self {
            processes: BTreeMap::new(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            own_settings: Vec::new(),
            arguments: owned(arguments),
            wrapper: owned(wrapper),
            ports: BTreeMap::new(),
            key: String::new(),
            postgres_url: String::new(),
            clickhouse: engine::client("http://127.0.0.1:9", ARCHIVE),
            servers: None,
            folder,
        };
        system.start("up").await?;
        system.publish_catalog().await?;
        Ok(system)
    }

    /// A process per role on `broker`, in topics of its own, with the catalog published.
    pub async fn kafka(broker: &Broker, partitions: u32) -> Result<Self> {
        Self::kafka_with(broker, partitions, &[]).await
    }

    /// [`System::kafka`] with further settings of every process, as environment variables.
    pub async fn kafka_with(
        broker: &Broker,
        partitions: u32,
        further: &[(&str, &str)],
    ) -> Result<Self> {
        let mut system = Self::kafka_without_roles(broker, partitions, further).await?;
        for role in ROLES {
            system.start(role).await?;
        }
        system.publish_catalog().await?;
        Ok(system)
    }

    /// [`System::kafka_with`], migrated, with a key, but without any process and without a catalog.
    pub async fn kafka_without_roles(
        broker: &Broker,
        partitions: u32,
        further: &[(&str, &str)],
    ) -> Result<Self> {
        let folder = TestFolder::new("system")?;
        let postgres = TestPostgres::start().await?;
        let postgres_url = postgres.database("weir").await?.expose().to_owned();
        let engine = Engine::start(EngineLaunch {
            program: program()?,
            arguments: vec!["clickhouse-engine".to_owned()],
            library: engine::library()?,
            data: folder.path().join("clickhouse"),
            connections: 4,
        })
        .await?;
        let settings = [
            ("DATABASE_URL", postgres_url.clone()),
            ("CLICKHOUSE_URL", engine.url()),
            ("WEIR_KAFKA_BROKERS", broker.bootstrap()),
            ("WEIR_LOG__KAFKA__PREFIX", format!("weir-{}", uuid::Uuid::now_v7().simple())),
            ("WEIR_LOG__PARTITIONS", partitions.to_string()),
            ("WEIR_POSTGRES__CONNECTIONS", "8".to_owned()),
            ("WEIR_LEDGER_WRITER__AUDIT_KEY", "5a".repeat(32)),
        ];
        let mut system = Self {
            processes: BTreeMap::new(),
            settings: settings
                .into_iter()
                .chain(further.iter().map(|(name, value)| (*name, (*value).to_owned())))
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            own_settings: Vec::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            ports: BTreeMap::new(),
            key: String::new(),
            postgres_url,
            clickhouse: engine::client(&engine.url(), ARCHIVE),
            servers: Some(Servers { engine, postgres }),
            folder,
        };
        let replication = broker.replication().to_string();
        system.run("migrate", &["migrate", "--replication", &replication]).await?;
        system.key = system.run("keys", &["keys", "create"]).await?.trim().to_owned();
        Ok(system)
    }

    /// Sets something for all processes, from their next start.
    pub fn set_for_all(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Postgres and the archive's engine, where they are not those of `weir up`.
    pub fn servers(&mut self) -> Result<&mut Servers> {
        self.servers.as_mut().context("it has its own servers")
    }

    /// Sets something for one process (`rater.2`) or for all of a role (`rater`), from its next start.
    pub fn set(&mut self, name: &str, setting: &str, value: &str) {
        self.own_settings.push((name.to_owned(), (setting.to_owned(), value.to_owned())));
    }

    /// Where a process listens, `http://host:port`.
    pub fn base(&self, name: &str) -> Result<String> {
        self.ports.get(name).cloned().with_context(|| format!("{name} was never started"))
    }

    /// The URL of its Postgres, past all proxies.
    pub fn postgres_url(&self) -> &str {
        &self.postgres_url
    }

    /// The log of its Postgres.
    pub fn postgres_log(&self) -> Result<PathBuf> {
        match &self.servers {
            Some(servers) => Ok(servers.postgres.server()?.log_path()),
            None => Ok(self.data().join("postgres/server.log")),
        }
    }

    /// The key of its first tenant.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Names of the processes that run.
    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// Settings of its processes, as environment variables.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Addresses of its running processes.
    pub fn addresses(&self) -> Vec<String> {
        self.ports.values().cloned().collect()
    }

    /// The prefix of its topics and groups, on Kafka.
    pub fn prefix(&self) -> Result<&str> {
        let prefix = self.settings.iter().rfind(|(name, _)| name == "WEIR_LOG__KAFKA__PREFIX");
        Ok(&prefix.context("it is not on Kafka")?.1)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The data folder of `weir up`.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs a command to its end; answers its output, and fails unless it exits with 0.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut process = Process::start(name, self.folder.path(), arguments, &self.settings)?;
        let code = process.ended(Duration::from_secs(600)).await?;
        let output = process.output();
        ensure!(
            code == Some(0),
            "weir {name} exited with {code:?}: {output}\n{}",
            process.log_tail()
        );
        Ok(output)
    }

    /// Starts `up` or a role, again on the port that it had. A second one of a role has a name of
    /// its own: `rater.2`.
    pub async fn start(&mut self, name: &str) -> Result<()> {
        self.begin(name)?;
        self.wait(name).await
    }

    /// Begins to start it, so that others can be started meanwhile; [`System::wait`] follows.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        let process = self.spawn(name)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn wait(&mut self, name: &str) -> Result<()> {
        let endpoints = self.data().join("endpoints.json");
        let process = self.process(name)?;
        if name == "up" {
            let id = u64::from(process.id());
            let endpoints: Value = process
                .until("endpoints.json", || {
                    let text = std::fs::read(&endpoints).ok()?;
                    let found: Value = serde_json::from_slice(&text).ok()?;
                    (found["pid"].as_u64() == Some(id)).then_some(found)
                })
                .await?;
            let text = |name: &str| endpoints[name].as_str().unwrap_or_default().to_owned();
            self.key = text("admin_key");
            self.postgres_url = text("postgres");
            self.clickhouse = engine::client(&text("clickhouse"), ARCHIVE);
            self.ports.insert(name.to_owned(), text("http"));
        } else {
            let address = process.address().await?;
            self.ports.insert(name.to_owned(), address);
        }
        if let Some(base) = self.ports.get(name).cloned() {
            self.wait_until_ready(name, &base).await?;
        }
        Ok(())
    }

    /// Starts a process without waiting for anything.
    pub fn spawn(&self, name: &str) -> Result<Process> {
        let role = name.split('.').next().unwrap_or(name);
        let listen =
            self.ports.get(name).map_or("127.0.0.1:0", |base| base.trim_start_matches("http://"));
        let data = self.data();
        let mut settings = self.settings.clone();
        let own = self.own_settings.iter().filter(|(of, _)| of == name || of == role);
        settings.extend(own.map(|(_, setting)| setting.clone()));
        if role == "up" {
            let data = data.to_str().context("a path that is text")?;
            let mut arguments = vec!["up", "--data", data, "--listen", listen];
            arguments.extend(self.arguments.iter().map(String::as_str));
            let wrapper: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
            let folder = self.folder.path();
            return Process::start_under(name, folder, &wrapper, &arguments, &settings);
        }
        settings.push(("WEIR_HTTP__LISTEN".to_owned(), listen.to_owned()));
        Process::start(name, self.folder.path(), &[role], &settings)
    }

    async fn wait_until_ready(&mut self, name: &str, base: &str) -> Result<()> {
        let http = Http::new(base, "")?;
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            let error = match http.get("/ready").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let process = self.processes.get_mut(name).context("a process that was started")?;
            ensure!(
                process.is_running()?,
                "{name} ended; its log ends with\n{}",
                process.log_tail()
            );
            ensure!(
                Instant::now() < deadline,
                "{name} did not get ready: {error:#}\n{}",
                process.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A running process.
    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("{name} does not run"))
    }

    /// Takes a process out, to end it.
    pub fn take(&mut self, name: &str) -> Result<Process> {
        self.processes.remove(name).with_context(|| format!("{name} does not run"))
    }

    /// Ends a process with SIGKILL.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.take(name)?.kill()
    }

    /// The address that takes events, or answers questions.
    fn http(&self, role: &str) -> Result<Http> {
        let base =
            self.ports.get("up").or_else(|| self.ports.get(role)).context("nothing listens")?;
        Http::new(base, &self.key)
    }

    /// Where events are sent to.
    pub fn ingest(&self) -> Result<Http> {
        self.http("ingest")
    }

    /// Where questions are answered.
    pub fn api(&self) -> Result<Http> {
        self.http("api")
    }

    /// A connection to Postgres, past all row-level security but as whoever migrated.
    pub async fn postgres(&self) -> Result<PgConnection> {
        let url = Secret::new(self.postgres_url.clone());
        Ok(PgConnection::connect_with(&connect_options(url.expose())?).await?)
    }

    /// A connection to the Postgres of `weir up` as its superuser.
    pub async fn superuser(&self) -> Result<PgConnection> {
        let folder = self.data().join("postgres");
        let password = std::fs::read_to_string(folder.join("password"))?;
        let options = connect_options(&self.postgres_url)?;
        Ok(PgConnection::connect_with(&options.username(SUPERUSER).password(password.trim()))
            .await?)
    }

    /// The archive.
    pub fn clickhouse(&self) -> &ClickHouse {
        &self.clickhouse
    }

    /// Publishes the demo's catalog.
    /// Tries again where the markers are not in the log in time: it is the first append of a process.
    pub async fn publish_catalog(&self) -> Result<()> {
        let catalog = serde_json::from_str(CATALOG)?;
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            match self.api()?.send("PUT", "/v1/catalog", &catalog).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Starts a replay of both traces as calls of `gpt-4-turbo`; `extra` goes first.
    pub fn replay(&self, name: &str, extra: &[&str]) -> Result<Process> {
        let data = self.data();
        let http = self.ingest()?;
        let traces = crate::oracle::traces();
        let mut arguments = vec!["replay"];
        for trace in &traces {
            arguments.extend(["--csv", trace.to_str().context("a path that is text")?]);
        }
        arguments.extend([
            "--map",
            "TIMESTAMP=time",
            "--map",
            "ContextTokens=data.inputTokens",
            "--map",
            "GeneratedTokens=data.outputTokens",
            "--set",
            "type=llm.tokens.v1",
            "--set",
            "data.provider=openai",
            "--set",
            "data.model=gpt-4-turbo",
        ]);
        arguments.extend(extra);
        if self.servers.is_some() {
            arguments.extend(["--url", &http.base, "--key", &self.key]);
        } else {
            arguments.extend(["--data", data.to_str().context("a path that is text")?]);
        }
        Process::start(name, self.folder.path(), &arguments, &[])
    }

    /// Runs a replay to its end and answers what it said; fails unless every event was accepted.
    pub async fn replay_all(&self, name: &str, extra: &[&str]) -> Result<String> {
        let mut replay = self.replay(name, extra)?;
        finished(&mut replay).await
    }

    /// The counts of the conservation statement over all partitions, with what is pending.
    pub async fn conservation(&self) -> Result<BTreeMap<String, i64>> {
        let statement = self.api()?.get("/v1/conservation").await?;
        let total = &statement["total"];
        let counts = total["counts"].as_object().context("conservation has no counts")?;
        let counts = counts.iter().map(|(name, count)| Some((name.clone(), count.as_i64()?)));
        let mut counts: BTreeMap<_, _> =
            counts.collect::<Option<_>>().context("a count is no number")?;
        ensure!(
            total["balanced"] == true,
            "the conservation statement does not balance: {statement}"
        );
        let complete = total["pending_complete"] == true && statement["archive_available"] == true;
        let pending = total["pending"].as_i64().filter(|_| complete);
        counts.insert("pending".to_owned(), pending.context("what is pending is not known yet")?);
        counts.insert(
            "ignored_batches".to_owned(),
            total["ignored_batches"].as_i64().unwrap_or_default(),
        );
        Ok(counts)
    }

    /// Waits until none of the accepted events is pending and the archive has them all; answers
    /// their counts. With `events`, waits until so many were accepted, or more.
    pub async fn settled(&self, events: Option<i64>) -> Result<BTreeMap<String, i64>> {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            match self.look(events).await {
                Ok(counts) => return Ok(counts),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the books did not settle"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn look(&self, events: Option<i64>) -> Result<BTreeMap<String, i64>> {
        let counts = self.conservation().await?;
        let accepted = counts.get("accepted").copied().unwrap_or_default();
        ensure!(counts.get("pending") == Some(&0), "events are pending: {counts:?}");
        ensure!(
            events.is_none_or(|events| events <= accepted),
            "{events:?} events expected: {counts:?}"
        );
        let sql = "SELECT (SELECT count() FROM (SELECT DISTINCT partition, position, `index` FROM usage_events WHERE rating_run = 0)) AS rows, \
                   (SELECT count() FROM (SELECT DISTINCT partition, position, `index` FROM rejected_events WHERE outcome != 'uncorrected')) AS others";
        let rows = self.clickhouse.query_json_rows(sql, &[]).await?;
        let archived = integer(&rows[0]["rows"])? + integer(&rows[0]["others"])?;
        // A late event has its outcome, and its row, as a copy.
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        let outcomes = accepted + count("copies") - count("forwarded");
        ensure!(archived == i128::from(outcomes), "{archived} events in the archive: {counts:?}");
        Ok(counts)
    }
}

/// Fails unless `rated` events took effect, and all others that were accepted repeat one of them: so
/// many at least, of which so many changed. What is not answered in time is sent again.
pub fn check_counts(
    counts: &BTreeMap<String, i64>,
    rated: i64,
    duplicates: i64,
    conflicts: i64,
) -> Result<()> {
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    let all = of("rated") + of("duplicates") + of("conflicts");
    let enough = of("duplicates") >= duplicates && of("conflicts") >= conflicts;
    ensure!(of("rated") == rated && enough && all == of("accepted"), "{counts:?}");
    Ok(())
}

/// Waits until a replay has ended; fails unless every event was accepted.
pub async fn finished(replay: &mut Process) -> Result<String> {
    let code = replay.ended(Duration::from_secs(900)).await?;
    let output = replay.output();
    ensure!(code == Some(0), "the replay exited with {code:?}: {output}\n{}", replay.log_tail());
    Ok(output)
}

/// An integer that may stand in quotes.
pub fn integer(value: &Value) -> Result<i128> {
    match value {
        Value::String(text) => Ok(text.parse()?),
        Value::Number(number) => Ok(number.to_string().parse()?),
        other => bail!("{other} is no integer"),
    }
}

/// An amount in quotes.
pub fn amount(value: &Value) -> Result<i128> {
    parse(value.as_str().with_context(|| format!("{value} is no amount"))?)
}

/// A team, a meter, and sums as Postgres writes them.
type TotalsRow = (String, String, i64, String, String, String);

impl System {
    /// Sums in Postgres' running totals.
    pub async fn totals_in_postgres(&self) -> Result<Books> {
        let mut connection = self.postgres().await?;
        let rows: Vec<TotalsRow> = sqlx::query_as(
            "SELECT team, meter, sum(events)::bigint, sum(quantity)::text, sum(charge)::text, sum(cost)::text
             FROM usage_totals GROUP BY team, meter",
        )
        .fetch_all(&mut connection)
        .await?;
        rows.into_iter()
            .map(|(team, meter, events, quantity, charge, cost)| {
                let sums = Sums {
                    events: events.into(),
                    quantity: parse(&quantity)?,
                    charge: parse(&charge)?,
                    cost: parse(&cost)?,
                };
                Ok(((team, meter), sums))
            })
            .collect()
    }

    /// Sums of `column`s in ClickHouse's lines.
    pub async fn lines_in_clickhouse(&self) -> Result<Books> {
        let sql = "SELECT team, meter, toString(sum(sign)) AS events, toString(sum(quantity * sign)) AS quantity, \
                   toString(sum(charge * sign)) AS charge, toString(sum(cost * sign)) AS cost \
                   FROM usage_lines GROUP BY team, meter";
        let rows = self.clickhouse.query_json_rows(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                let sums = Sums {
                    events: integer(&row["events"])?,
                    quantity: amount(&row["quantity"])?,
                    charge: amount(&row["charge"])?,
                    cost: amount(&row["cost"])?,
                };
                Ok(((text("team"), text("meter")), sums))
            })
            .collect()
    }

    /// Charge per team in the transfers, with the sum of all costs.
    pub async fn transfers(&self) -> Result<(BTreeMap<String, i128>, i128)> {
        let mut connection = self.postgres().await?;
        let charges: Vec<(String, String)> = sqlx::query_as(
            "SELECT a.team, sum(t.amount)::text FROM transfers t JOIN accounts a ON a.account_id = t.debit_account
             WHERE a.kind = 'receivable' GROUP BY a.team",
        )
        .fetch_all(&mut connection)
        .await?;
        let cost: Option<String> = sqlx::query_scalar(
            "SELECT sum(t.amount)::text FROM transfers t JOIN accounts a ON a.account_id = t.debit_account
             WHERE a.kind = 'cost_of_sales'",
        )
        .fetch_one(&mut connection)
        .await?;
        let charges: Result<BTreeMap<_, _>> =
            charges.into_iter().map(|(team, sum)| Ok((team, parse(&sum)?))).collect();
        Ok((charges?, cost.map_or(Ok(0), |cost| parse(&cost))?))
    }

    /// What each team owes.
    pub async fn receivables(&self) -> Result<BTreeMap<String, i128>> {
        let mut connection = self.postgres().await?;
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT team, sum(balance)::text FROM receivables GROUP BY team")
                .fetch_all(&mut connection)
                .await?;
        rows.into_iter().map(|(team, balance)| Ok((team, parse(&balance)?))).collect()
    }

    /// Debits minus credits of the accounts of each kind.
    pub async fn trial_balance(&self) -> Result<BTreeMap<String, i128>> {
        let mut connection = self.postgres().await?;
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT a.kind, sum(balance)::text FROM (
                 SELECT debit_account AS account_id, amount AS balance FROM transfers
                 UNION ALL SELECT credit_account, -amount FROM transfers) AS entries
             JOIN accounts a USING (account_id) GROUP BY a.kind",
        )
        .fetch_all(&mut connection)
        .await?;
        rows.into_iter().map(|(kind, sum)| Ok((kind, parse(&sum)?))).collect()
    }

    /// Sums of `GET /v1/usage` by team and meter.
    pub async fn usage_in_api(&self) -> Result<Books> {
        let mut books = Books::new();
        let question = "/v1/usage?group_by=team&limit=1000";
        let mut path = question.to_owned();
        loop {
            let page = self.api()?.get(&path).await?;
            for row in page["items"].as_array().context("usage has no items")? {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let sums = Sums {
                    events: integer(&row["events"])?,
                    quantity: amount(&row["quantity"])?,
                    charge: amount(&row["charge"])?,
                    cost: amount(&row["cost"])?,
                };
                books
                    .entry((text(&row["group"]["team"]), text(&row["meter"])))
                    .or_default()
                    .add(sums);
            }
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("{question}&cursor={cursor}"),
                None => return Ok(books),
            }
        }
    }

    /// Compares every book with what it must say, to the last decimal.
    pub async fn check_books(&self, expected: &Books) -> Result<()> {
        compare("usage_totals in Postgres", &self.totals_in_postgres().await?, expected)?;
        compare("usage_lines in ClickHouse", &self.lines_in_clickhouse().await?, expected)?;
        let (mut charges, mut cost) = (BTreeMap::new(), 0);
        for ((team, _), sums) in expected {
            *charges.entry(team.clone()).or_default() += sums.charge;
            cost += sums.cost;
        }
        let (transferred, cost_transferred) = self.transfers().await?;
        compare("charges in transfers", &transferred, &charges)?;
        ensure!(cost_transferred == cost, "cost in transfers is {cost_transferred}, not {cost}");
        compare("receivables", &self.receivables().await?, &charges)?;
        // Of double entry: what was charged is revenue, what was spent is owed to providers.
        let charge: i128 = charges.values().sum();
        let trial = [
            ("cost_of_sales", cost),
            ("provider_payable", -cost),
            ("receivable", charge),
            ("revenue", -charge),
        ];
        let trial = trial.map(|(kind, sum)| (kind.to_owned(), sum)).into();
        compare("the trial balance", &self.trial_balance().await?, &trial)?;
        compare("GET /v1/usage", &self.usage_in_api().await?, expected)
    }
}

/// Fails with the first ten differences.
fn compare<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> Result<()> {
    let keys: std::collections::BTreeSet<&K> = found.keys().chain(expected.keys()).collect();
    let differences: Vec<String> = keys
        .into_iter()
        .filter(|key| found.get(*key) != expected.get(*key))
        .take(10)
        .map(|key| format!("{key:?}: {:?}, expected {:?}", found.get(key), expected.get(key)))
        .collect();
    ensure!(differences.is_empty(), "{what} differ:\n{}", differences.join("\n"));
    Ok(())
}
