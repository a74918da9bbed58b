//! What an archiver stands in: Postgres, the engine, a log, and rated batches with true rows.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use archiver::{Config, RATED, RunError};
use domain::{
    catalog::{Catalog, CatalogDocument},
    chain::{Offer, Place},
    event::{ContentHasher, IdentityKey, IdentityParts},
    money::Amount,
    rating::{Binding, Lines, NoTotals, Rating, Rejection, Scratch, rate},
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        codec::DictionaryWriter,
        rated::{BehindSums, Counts, Header, Parts, encode},
        record::{Attribute, AttributeKind, Entry, EventRecord, Quote},
        row::{OtherOutcome, RowPlace, put_other, put_usage_event},
        rows::ColumnsWriter,
        sums,
    },
};
use runtime::{
    clickhouse::{ClickHouse, Engine, Templating},
    config::{PostgresConfig, Secret},
    context::Context,
    http::Readiness,
    log::{
        AppendError, Log, SharedLog, Topic,
        local::{LocalLog, LocalOptions},
    },
    postgres::Pool,
    shutdown::Shutdown,
    telemetry::Metrics,
};
use tests::{
    engine::{ARCHIVE_MIGRATIONS, Folder, client, start},
    postgres::{TestPostgres, migrate},
    proxy::Proxy,
    wait::{eventually, stopped},
};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_clickhouse-engine");
pub const TENANT: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
/// 2026-01-15 12:00 UTC.
pub const JANUARY_US: i64 = 1_768_478_400_000_000;
/// 2026-02-01 00:00 UTC.
pub const FEBRUARY_US: i64 = 1_769_904_000_000_000;

/// A user whose name is no ASCII.
const USER: &str = "żółw@example.com";

const CATALOG: &str = r#"{
    "meters": [
        {"key": "tokens", "event_types": ["llm.call"], "aggregation": "sum", "value": "$.tokens", "unit": "token",
         "dimensions": {"model": "$.model", "provider": "source"}},
        {"key": "calls", "event_types": ["llm.call"], "aggregation": "count", "unit": "call"}
    ],
    "cards": [
        {"key": "standard", "kind": "rate", "currency": "USD", "versions": [{"version": 1, "effective_from_us": 0, "rates": [
            {"meter": "tokens", "dimensions": {"model": "gpt"}, "price": "0.01", "per": 3},
            {"meter": "tokens", "dimensions": {"model": "own"}, "price": "0.000000000001"},
            {"meter": "calls", "unlimited": true}]}]},
        {"key": "providers", "kind": "cost", "currency": "USD", "versions": [{"version": 1, "effective_from_us": 0, "rates": [
            {"meter": "tokens", "dimensions": {"model": "gpt"}, "price": "0.002"},
            {"meter": "tokens", "dimensions": {"model": "new"}, "price": "0.5"},
            {"meter": "calls", "price": "0"}]}]}
    ],
    "default_rate_card": "standard",
    "default_cost_card": "providers"
}"#;

/// A client's event of the test.
#[derive(Clone, Copy, Debug)]
pub struct TestEvent {
    pub number: u32,
    pub team: &'static str,
    pub model: &'static str,
    pub tokens: u64,
    pub time_us: i64,
    pub outcome: Wanted,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It takes its id.
    Rated,
    /// It is a duplicate of position 0, index 0.
    Duplicate,
    /// It cannot be rated.
    Rejected,
}

/// Everything but the archiver.
pub struct World {
    pub engine: Engine,
    pub clickhouse: ClickHouse,
    pub postgres: TestPostgres,
    pub pool: Pool,
    pub log: SharedLog,
    postgres_url: Secret,
    pub rater: Rater,
    _folders: (Folder, Folder),
}

impl World {
    pub async fn new(partitions: u32) -> Result<World> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (engine_folder, log_folder) =
            (Folder::new("archive-engine")?, Folder::new("archive-log")?);
        let engine = start(PROGRAM, &engine_folder, 4).await?;
        let clickhouse = client(&engine.url(), "weir");
        clickhouse.create_database("weir", Templating::default()).await?;
        clickhouse.migrate(ARCHIVE_MIGRATIONS, Templating::default()).await?;
        let postgres = TestPostgres::start().await?;
        let postgres_url = postgres.database("weir").await?;
        let pool = postgres.pool(&postgres_url, None, 2).await?;
        migrate(&pool).await?;
        let topics: &'static [Topic] = &[Topic("usage"), RATED];
        let log = LocalLog::open(log_folder.path(), LocalOptions::new(partitions, topics))?;
        let rater = Rater::new(log.clone());
        Ok(World {
            engine,
            clickhouse,
            postgres,
            pool,
            log,
            postgres_url,
            rater,
            _folders: (engine_folder, log_folder),
        })
    }

    /// A proxy before ClickHouse, and where it is.
    pub fn proxy(&self) -> Result<(Proxy, String)> {
        let url = self.engine.url();
        let (_, port) = url.rsplit_once(':').context("a port")?;
        let proxy = Proxy::before(port.parse()?)?;
        let through = proxy.through(&url)?;
        Ok((proxy, through))
    }

    /// How many rows each step of an insert has left: others, events, markers.
    pub async fn steps(&self) -> Result<[i64; 3]> {
        let mut rows = [0; 3];
        for (rows, table) in rows.iter_mut().zip(["rejected_events", "usage_events", "archived"]) {
            let sql = format!("SELECT toInt64(count()) AS n FROM {table}");
            *rows = self.number(&sql).await?;
        }
        Ok(rows)
    }

    /// Starts an archiver that reaches ClickHouse at `url` and sees the log as `log`.
    pub fn archiver(&self, config: Config, url: &str, log: SharedLog) -> Archiver {
        let context = Context {
            log,
            postgres: PostgresConfig { url: self.postgres_url.clone(), connections: 4 },
            clickhouse: client(url, "weir"),
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            shutdown: Shutdown::new(),
        };
        let run = tokio::spawn(archiver::run(config, context.clone()));
        Archiver { context, run }
    }

    /// The only column `n` of the only row of a query.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        let rows = self.clickhouse.query_json_rows(sql, &[]).await?;
        Ok(rows[0]["n"].as_str().with_context(|| format!("{rows:?}"))?.parse()?)
    }

    /// Waits until the archive of every partition is where the rater is.
    pub async fn archived(&self) -> Result<()> {
        for (partition, chain) in self.rater.chains.iter().enumerate() {
            let sql = format!(
                "SELECT if(count() = 0, -1, max(to_x)) AS n FROM archived WHERE partition = {partition}"
            );
            eventually(&format!("partition {partition} is archived"), async || {
                Ok(chain.place.x < 0 || self.number(&sql).await.unwrap_or(-1) == chain.place.x)
            })
            .await?;
        }
        Ok(())
    }

    /// Every batch is in exactly one group, and nothing is twice: not hidden by a view, in the tables.
    pub async fn complete(&self) -> Result<()> {
        self.archived().await?;
        for (partition, chain) in self.rater.chains.iter().enumerate() {
            let groups = format!(
                "SELECT toString(from_x) AS from_x, toString(to_x) AS to_x, toString(rows) AS rows, toString(others) AS others
                 FROM archived AS a WHERE partition = {partition} ORDER BY a.from_x"
            );
            let (mut next, mut rows, mut others) = (0, 0, 0);
            for group in self.clickhouse.query_json_rows(&groups, &[]).await? {
                let field = |name: &str| -> Result<i64> {
                    Ok(group[name].as_str().context("no text")?.parse()?)
                };
                ensure!(
                    field("from_x")? == next,
                    "partition {partition}: a gap or an overlap at {next}: {group}"
                );
                next = field("to_x")? + 1;
                rows += field("rows")?;
                others += field("others")?;
            }
            ensure!(next == chain.place.x + 1, "partition {partition} is archived up to {next}");
            ensure!(
                (rows, others) == (chain.rows, chain.others),
                "partition {partition}: {rows} rows, {others} others"
            );
            let count = |table: &str| {
                format!("SELECT toInt64(count()) AS n FROM {table} WHERE partition = {partition}")
            };
            ensure!(
                self.number(&count("usage_events")).await? == chain.rows,
                "usage_events of partition {partition}"
            );
            ensure!(
                self.number(&count("rejected_events")).await? == chain.others,
                "rejected_events of partition {partition}"
            );
        }
        Ok(())
    }

    /// The rows of a query, one text per row, columns divided by a bar.
    pub async fn lines(&self, sql: &str) -> Result<Vec<String>> {
        let body = self.raw(&format!("{sql} FORMAT TSV")).await?;
        Ok(String::from_utf8(body)?.lines().map(|line| line.replace('\t', "|")).collect())
    }

    /// The bytes that ClickHouse answers.
    pub async fn raw(&self, sql: &str) -> Result<Vec<u8>> {
        let url = format!("{}/?database=weir", self.engine.url().trim_end_matches('/'));
        let answer = reqwest::Client::new().post(url).body(sql.to_owned()).send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        ensure!(status.is_success(), "{}", String::from_utf8_lossy(&body));
        Ok(body.to_vec())
    }
}

/// An archiver under way.
pub struct Archiver {
    pub context: Context,
    run: JoinHandle<Result<(), RunError>>,
}

impl Archiver {
    /// Stops it and gives what it ended with.
    pub async fn stop(self) -> Result<(), RunError> {
        self.context.shutdown.trigger();
        self.run.await.unwrap()
    }

    /// Waits until a partition has stopped and gives the reason.
    pub async fn stopped(&self, partition: u32) -> Result<String> {
        stopped(&self.context.readiness, &format!("archiver.{partition}")).await
    }
}

pub fn config(group_rows: usize, group_wait_ms: u64) -> Config {
    Config { group_rows, group_bytes: 1 << 25, group_wait_ms, heads_every_ms: 60_000 }
}

/// What was rated of one partition.
pub struct Chain {
    pub place: Place,
    pub rows: i64,
    pub others: i64,
    /// Rows of `usage_events` as they were written.
    pub bytes: Vec<u8>,
    /// The length of each.
    pub lengths: Vec<usize>,
    /// Rows of `rejected_events` as they were written.
    pub other_bytes: Vec<u8>,
}

/// Makes rated batches with the rules of `domain`.
pub struct Rater {
    log: Arc<LocalLog>,
    catalog: Catalog,
    pub chains: Vec<Chain>,
    /// How long the users' names are that events carry: what makes rows long.
    pub name_bytes: usize,
}

impl Rater {
    fn new(log: Arc<LocalLog>) -> Rater {
        let document: CatalogDocument = serde_json::from_str(CATALOG).unwrap();
        let chain = || Chain {
            place: Place::EMPTY,
            rows: 0,
            others: 0,
            bytes: Vec::new(),
            lengths: Vec::new(),
            other_bytes: Vec::new(),
        };
        let chains = (0..log.partitions()).map(|_| chain()).collect();
        Rater { log, catalog: document.compile().unwrap(), chains, name_bytes: USER.len() }
    }

    /// Rates `events` as one block appended at `append_time_us`, and appends the batch.
    pub async fn batch(
        &mut self,
        partition: u32,
        append_time_us: i64,
        events: &[TestEvent],
    ) -> Result<()> {
        let chain = &self.chains[partition as usize];
        let (from, prev) = (chain.place.x + 1, chain.place.c);
        let parts = self.parts(partition, from, append_time_us, events)?;
        let (_, message) = encode(partition, from, from, prev, &parts);
        let appended = append(&self.log, partition, message.clone()).await?;
        let chain = &mut self.chains[partition as usize];
        let offer = chain.place.offer(partition, appended, &message)?;
        let Offer::Accepted(_, place) = offer else { anyhow::bail!("{offer:?}") };
        let sections = domain::wire::rated::Sections::split(&message)?;
        chain.place = place;
        chain.rows += i64::try_from(parts.rows.count())?;
        chain.others += i64::try_from(parts.others.count())?;
        let rows = sections.rows()?.rows();
        chain.bytes.extend(rows.bytes);
        chain.lengths.extend(rows.lengths);
        chain.other_bytes.extend(sections.others()?.rows().bytes);
        Ok(())
    }

    /// Appends a message that continues an older place: what a zombie rater writes.
    pub async fn stale(&mut self, partition: u32, from: i64) -> Result<()> {
        let parts = self.parts(partition, from, JANUARY_US, &[])?;
        let (_, message) = encode(partition, from, from, [9; 32], &parts);
        append(&self.log, partition, message).await?;
        Ok(())
    }

    fn parts(
        &self,
        partition: u32,
        position: i64,
        append_time_us: i64,
        events: &[TestEvent],
    ) -> Result<Parts> {
        let message = block(events, self.name_bytes);
        let header = BlockHeader::decode(&message)?;
        let body = header.body(&message)?;
        let block = Block::decode(&header, &body)?;
        let binding = Binding::new(&self.catalog, &block.dictionary);
        let (mut rows, mut others) =
            (ColumnsWriter::usage_events(), ColumnsWriter::rejected_events());
        let (mut scratch, mut counts) =
            (Scratch::default(), Counts { accepted: events.len() as u64, ..Counts::default() });
        for (index, (entry, wanted)) in block.entries.iter().zip(events).enumerate() {
            let Entry::Event(event) = entry else { anyhow::bail!("no event") };
            let place = RowPlace {
                position,
                index: u32::try_from(index)?,
                partition,
                tenant: TENANT,
                append_time_us,
                catalog_version: 7,
                dictionary: &block.dictionary,
                copy: None,
                corrects: None,
                serial: 0,
            };
            let time_us = event.time_us.unwrap_or(append_time_us);
            let other = match wanted.outcome {
                Wanted::Rated => None,
                Wanted::Duplicate => Some(OtherOutcome::Duplicate { position: 0, index: 0 }),
                Wanted::Rejected => Some(OtherOutcome::Rejected(Rejection {
                    reason: "time_in_future",
                    detail: "später".into(),
                })),
            };
            if let Some(other) = other {
                match other {
                    OtherOutcome::Rejected(_) => counts.rejected += 1,
                    _ => counts.duplicates += 1,
                }
                others.push(|out| put_other(out, &place, event, &other));
                continue;
            }
            let rating = Rating {
                catalog: &self.catalog,
                binding: &binding,
                dictionary: &block.dictionary,
                time_us,
                append_time_us,
            };
            let mut lines = Lines::new();
            let outcome = rate(&rating, event, &NoTotals, &mut scratch, &mut lines)
                .map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
            match outcome {
                domain::rating::Outcome::Rated => counts.rated += 1,
                domain::rating::Outcome::Unmetered => counts.unmetered += 1,
                domain::rating::Outcome::Unpriced => counts.unpriced += 1,
            }
            rows.push(|out| {
                put_usage_event(out, &place, event, time_us, outcome, &self.catalog, &lines)
            });
        }
        ensure!(counts.balanced(), "{counts:?}");
        let mut sums = Vec::new();
        sums::encode(&DictionaryWriter::default(), &[], None, &mut sums);
        let header = Header {
            catalog_version: 7,
            rules_version: 1,
            table_from: 0,
            horizon_us: i64::MIN,
            append_time_us: (append_time_us, append_time_us),
            counts: vec![(TENANT, counts)],
            traces: Vec::new(),
        };
        Ok(Parts { header, sums, behind: BehindSums::Nothing, rows, others, forwards: Vec::new() })
    }
}

async fn append(log: &LocalLog, partition: u32, message: Vec<u8>) -> Result<i64, AppendError> {
    Ok(log.append(RATED, partition, message.into()).outcome().await?.position)
}

/// A block of events; every third has a hold, a quote and a user, whose name is made so long.
fn block(events: &[TestEvent], name_bytes: usize) -> Vec<u8> {
    let user = format!("{USER:_<width$}", width = name_bytes - USER.len() + USER.chars().count());
    let mut writer = BlockWriter::default();
    let key = IdentityKey([3; 16]);
    for event in events {
        let rich = event.number.is_multiple_of(3);
        let id = format!("event-{}-é", event.number);
        let raw = format!(
            r#"{{"id":"{id}","data":{{"model":"{}","tokens":{}}}}}"#,
            event.model, event.tokens
        );
        let tenant = writer.tenant(TENANT);
        let mut intern = |text: &str| writer.dictionary.intern(text);
        let attributes = vec![
            attribute(&raw, intern("/model"), AttributeKind::Text, event.model),
            attribute(&raw, intern("/tokens"), AttributeKind::Number, &event.tokens.to_string()),
        ];
        let mut content = ContentHasher::new("llm.call", event.team);
        content.scalar("/model", AttributeKind::Text, event.model.as_bytes());
        content.scalar("/tokens", AttributeKind::Number, event.tokens.to_string().as_bytes());
        let identity = key.identity(&IdentityParts {
            tenant: TENANT,
            subject: event.team,
            source: "openai",
            id: &id,
        });
        let record = EventRecord {
            tenant,
            team: intern(event.team),
            subject: intern(event.team),
            source: intern("openai"),
            event_type: intern("llm.call"),
            user: rich.then(|| intern(&user)),
            app: Some(intern("app")),
            key: Some(intern("key-1")),
            feature: rich.then(|| intern("chat")),
            id: &id,
            identity,
            content: content.finish(),
            time_us: Some(event.time_us),
            hold: rich.then(|| Uuid::from_u128(u128::from(event.number) << 64 | 5)),
            hold_end: rich,
            quote: rich.then(|| Quote {
                charge: Amount::parse_exact("12345678901234567890.123456789012").unwrap(),
                currency: intern("USD"),
                catalog_version: 6,
                not_after_us: i64::MAX / 4096,
            }),
            attributes,
            raw: raw.as_bytes(),
        };
        writer.push(&Entry::Event(record));
    }
    writer.finish()
}

fn attribute(raw: &str, pointer: u32, kind: AttributeKind, text: &str) -> Attribute {
    let offset =
        raw.find(&format!("\"{text}\"")).map(|at| at + 1).or_else(|| raw.rfind(text)).unwrap();
    Attribute {
        pointer,
        kind,
        offset: u32::try_from(offset).unwrap(),
        length: u32::try_from(text.len()).unwrap(),
    }
}
