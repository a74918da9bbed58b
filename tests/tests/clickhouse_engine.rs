//! The ClickHouse engine of a single machine, and the client, against the real libchdb.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::clickhouse::{ClickHouse, ClickHouseError, Engine, MigrateError, Templating};
use serde_json::{Value, json};
use tests::{
    engine::{Folder, client, library, start},
    proxy::{Fault, Proxy},
};
use tokio::{sync::watch, task::JoinSet};

const PROGRAM: &str = env!("CARGO_BIN_EXE_clickhouse-engine");

struct Setup {
    engine: Engine,
    clickhouse: ClickHouse,
    // Last, so that the engine has ended when its folder goes.
    _folder: Folder,
}

async fn setup(test: &str) -> Result<Setup> {
    let folder = Folder::new(test)?;
    let engine = start(PROGRAM, &folder, 4).await?;
    let clickhouse = client(&engine.url(), "default");
    Ok(Setup { engine, clickhouse, _folder: folder })
}

impl Setup {
    async fn table(&self, columns: &str) -> Result<()> {
        let sql = format!(
            "CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY a
             SETTINGS non_replicated_deduplication_window = 1000"
        );
        Ok(self.clickhouse.execute(&sql).await?)
    }

    async fn count(&self) -> Result<u64> {
        number(&self.clickhouse, "SELECT count() AS n FROM t").await
    }

    async fn kill(&self) -> Result<()> {
        let before = self.engine.starts();
        kill(Pid::from_raw(i32::try_from(self.engine.process_id())?), Signal::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.engine.starts() == before || self.clickhouse.ping().await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the engine did not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The only column `n` of the only row; 64-bit numbers arrive as strings.
async fn number(clickhouse: &ClickHouse, sql: &str) -> Result<u64> {
    let rows = clickhouse.query_json_rows(sql, &[]).await?;
    Ok(rows[0]["n"].as_str().context("no number")?.parse()?)
}

fn resident_megabytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kilobytes / 1024)
}

/// Writes RowBinary.
#[derive(Default)]
struct Row(Vec<u8>);

impl Row {
    fn put(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn length(mut self, mut length: usize) -> Self {
        while length >= 0x80 {
            self.0.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
        self
    }

    fn string(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.length(value.len()).put(value)
    }
}

/// Rows of `a UInt64, s String`.
fn rows(values: &[(u64, &[u8])]) -> Bytes {
    let row = values.iter().fold(Row::default(), |row, (a, s)| row.put(a.to_le_bytes()).string(s));
    row.0.into()
}

async fn insert(clickhouse: &ClickHouse, token: &str, rows: Bytes) -> Result<(), ClickHouseError> {
    clickhouse.insert("t", "a, s", "RowBinary", token, [Ok(rows)]).await
}

#[tokio::test]
async fn an_answer_that_comes_in_pieces_is_read_whole_or_not_at_all() -> Result<()> {
    let setup = setup("pieces").await?;
    let url = setup.engine.url();
    let port = url.rsplit_once(':').context("a port")?.1.trim_end_matches('/').parse()?;
    let proxy = Proxy::before(port)?;
    let far = client(&proxy.through(&url)?, "default");
    let sql = "SELECT number FROM numbers({count:UInt64})";
    let count = [("count", "30000")];
    let whole: String = (0..30_000).map(|number| format!("{number}\n")).collect();
    for bytes_per_second in [2_000_000, 500_000] {
        proxy.set(Fault::Narrow(bytes_per_second));
        let answer = far.query_stream(sql, &count, "CSV").await?;
        let read: Vec<Bytes> = answer.try_collect().await?;
        assert!(read.concat() == whole.as_bytes(), "{} pieces", read.len());
    }
    // Cut in the middle, it has no end.
    proxy.set(Fault::Truncate(whole.len() / 2));
    let cut = async { far.query_stream(sql, &count, "CSV").await?.try_collect::<Vec<_>>().await };
    let cut: Result<Vec<Bytes>, ClickHouseError> = cut.await;
    assert!(matches!(cut, Err(ClickHouseError::Unavailable(_))), "{cut:?}");
    Ok(())
}

/// What an insert frees is for the next one, and allocations are not sampled.
#[tokio::test]
async fn the_engine_keeps_memory_for_a_minute() -> Result<()> {
    let setup = setup("memory").await?;
    let said =
        setup.clickhouse.query_bytes("SELECT * FROM system.jemalloc_stats", "RawBLOB").await?;
    let said = String::from_utf8(said.to_vec())?;
    for option in ["opt.prof: false", "opt.dirty_decay_ms: 60000"] {
        assert!(said.contains(option), "{option}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_is_inserted_once_across_connections_and_kills() -> Result<()> {
    let setup = setup("token").await?;
    setup.table("a UInt64, s String").await?;
    let block = rows(&[(1, b"x"), (2, b"y")]);
    insert(&setup.clickhouse, "block-1", block.clone()).await?;

    let mut twins = JoinSet::new();
    for _ in 0..16 {
        let (other, block) = (client(&setup.engine.url(), "default"), block.clone());
        twins.spawn(async move { insert(&other, "block-1", block).await });
    }
    while let Some(twin) = twins.join_next().await {
        twin??;
    }
    assert_eq!(setup.count().await?, 2);

    setup.kill().await?;
    insert(&setup.clickhouse, "block-1", block.clone()).await?;
    assert_eq!(setup.count().await?, 2);
    insert(&setup.clickhouse, "block-2", block).await?;
    assert_eq!(setup.count().await?, 4);
    setup.engine.stop().await;
    Ok(())
}

/// A block of `a UInt64, s String` in the format Native: columns one after the other.
fn native(numbers: std::ops::Range<u64>) -> Bytes {
    let count = numbers.clone().count();
    let mut block = Row::default().length(2).length(count).string("a").string("UInt64");
    block = numbers.clone().fold(block, |block, number| block.put(number.to_le_bytes()));
    block = block.string("s").string("String");
    numbers.fold(block, |block, number| block.string(number.to_string().repeat(20))).0.into()
}

#[tokio::test]
async fn many_blocks_are_one_insert_and_one_token() -> Result<()> {
    let setup = setup("blocks").await?;
    setup.table("a UInt64, s String").await?;
    // 14 MB in 20 blocks: what the archiver sends for a second of many events.
    let blocks: Vec<Bytes> =
        (0..20).map(|block| native(block * 5_000..(block + 1) * 5_000)).collect();
    for _ in 0..3 {
        let pieces = blocks.iter().cloned().map(Ok::<_, ClickHouseError>);
        setup.clickhouse.insert("t", "a, s", "Native", "one", pieces).await?;
        assert_eq!(setup.count().await?, 100_000);
    }
    let parts = "SELECT toString(count()) AS n FROM system.parts WHERE table = 't' AND active";
    assert_eq!(number(&setup.clickhouse, parts).await?, 1);
    let wrong = "SELECT toString(count()) AS n FROM t WHERE s != repeat(toString(a), 20)";
    assert_eq!(number(&setup.clickhouse, wrong).await?, 0);

    // A piece that is an error: nothing of it is there.
    let cut = blocks.iter().cloned().map(Ok).chain([Err(ClickHouseError::Unavailable("x".into()))]);
    assert!(setup.clickhouse.insert("t", "a, s", "Native", "two", cut).await.is_err());
    assert_eq!(setup.count().await?, 100_000);
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn any_bytes_arrive_as_they_were_sent() -> Result<()> {
    let setup = setup("bytes").await?;
    setup.table("a UInt64, s String").await?;
    // The first byte of each insert is one that a parser of statements might swallow.
    let nasty: [&[u8]; 7] = [
        b"\0",
        b"\n\r\n\t ",
        b"'\"`\\",
        b"); DROP TABLE t; --",
        b"\\N",
        b"FORMAT RowBinary\n",
        &[0xff, 0xfe, 0x80, 0xc3],
    ];
    for (index, first) in [9_u64, 10, 13, 32, 59, 0, 39].into_iter().enumerate() {
        let block = rows(&[(first, nasty[index]), (first + 1000, nasty[(index + 1) % 7])]);
        insert(&setup.clickhouse, &format!("n{index}"), block).await?;
    }
    assert_eq!(setup.count().await?, 14);
    for (index, first) in [9_u64, 10, 13, 32, 59, 0, 39].into_iter().enumerate() {
        let sql = "SELECT hex(s) AS h FROM t WHERE a = {a:UInt64}";
        let found = setup.clickhouse.query_json_rows(sql, &[("a", &first.to_string())]).await?;
        let hex: String = nasty[index].iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(found, [json!({ "h": hex })]);
    }
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn every_type_of_the_archive_passes_through_row_binary() -> Result<()> {
    let setup = setup("types").await?;
    setup
        .table(
            "a UInt64, amount Decimal(38, 12), identity UInt128, id UUID, at DateTime64(6, 'UTC'),
             lines Nested(meter LowCardinality(String), charge Decimal(38, 12)),
             costs Array(Nullable(Decimal(38, 12))), labels Map(String, String),
             outcome Enum8('rated' = 1, 'rejected' = -2), app LowCardinality(String), sign Int8,
             maybe Nullable(String)",
        )
        .await?;
    let amount = -99_999_999_999_999_999_999_123_456_789_012_i128;
    let id = uuid::Uuid::parse_str("0198c0de-1234-7abc-8def-0123456789ab")?;
    let (high, low) = id.as_u64_pair();
    let row = Row::default()
        .put(u64::MAX.to_le_bytes())
        .put(amount.to_le_bytes())
        .put((u128::MAX - 1).to_le_bytes())
        .put(high.to_le_bytes())
        .put(low.to_le_bytes())
        .put(1_700_000_000_123_456_i64.to_le_bytes())
        .length(2)
        .string("tokens")
        .string("calls")
        .length(2)
        .put(1_i128.to_le_bytes())
        .put((-1_i128).to_le_bytes())
        .length(2)
        .put([1])
        .put([0])
        .put(250_000_i128.to_le_bytes())
        .length(1)
        .string("region")
        .string("eu\n\0")
        .put((-2_i8).to_le_bytes())
        .string("app")
        .put((-1_i8).to_le_bytes())
        .put([1]);
    let columns = "a, amount, identity, id, at, lines.meter, lines.charge, costs, labels, outcome, \
                   app, sign, maybe";
    setup
        .clickhouse
        .insert("t", columns, "RowBinary", "one", [Ok::<_, ClickHouseError>(row.0.into())])
        .await?;
    let found = setup.clickhouse.query_json_rows("SELECT * FROM t", &[]).await?;
    assert_eq!(
        found,
        [json!({
            "a": "18446744073709551615",
            "amount": "-99999999999999999999.123456789012",
            "identity": "340282366920938463463374607431768211454",
            "id": "0198c0de-1234-7abc-8def-0123456789ab",
            "at": "2023-11-14 22:13:20.123456",
            "lines.meter": ["tokens", "calls"],
            "lines.charge": ["0.000000000001", "-0.000000000001"],
            "costs": [null, "0.00000025"],
            "labels": { "region": "eu\n\0" },
            "outcome": "rejected",
            "app": "app",
            "sign": -1,
            "maybe": null
        })]
    );
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn values_are_inert() -> Result<()> {
    let setup = setup("values").await?;
    setup.table("a UInt64, s String").await?;
    insert(&setup.clickhouse, "", rows(&[(1, b"x")])).await?;
    let hostile = [
        "'; DROP TABLE t; --",
        "\\'; DROP TABLE t; --",
        "x' OR '1'='1",
        "\\",
        "\\\\'",
        "\\N",
        "{b:String}",
        "line\nline\ttab\r\u{0}zero",
        "`\"$$ё🦀",
        "') UNION ALL SELECT 'y",
    ];
    for value in hostile {
        let sql = "SELECT {s:String} AS s, {n:Nullable(String)} AS n, {l:Array(String)} AS l,
                   (SELECT count() FROM t WHERE s = {s:String}) AS matched";
        let inside = value.replace('\\', "\\\\").replace('\'', "\\'");
        let list = format!("['{inside}']");
        // The crate escapes a text value for its place in the request; a list is text already.
        let parameters = [("s", value), ("n", value)];
        let found = setup
            .clickhouse
            .query_json_rows(&sql.replace("{l:Array(String)}", "['-']"), &parameters)
            .await?;
        assert_eq!(found[0]["s"], json!(value));
        assert_eq!(found[0]["n"], json!(value));
        assert_eq!(found[0]["matched"], json!("0"), "{value}");
        let url = format!("{}/?param_l={}", setup.engine.url(), percent(&list));
        let answer = post(&url, "SELECT {l:Array(String)}[1] AS s FORMAT JSONEachRow").await?;
        assert_eq!(serde_json::from_str::<Value>(&answer.2)?["s"], json!(value), "{list}");
    }
    // As an identifier and in a number's place.
    for sql in
        ["SELECT count() FROM {s:Identifier}", "SELECT {s:UInt64}", "SELECT {s:Enum8('a'=1)}"]
    {
        let refused = setup.clickhouse.query_json_rows(sql, &[("s", "t; DROP TABLE t")]).await;
        assert!(matches!(refused, Err(ClickHouseError::Refused { .. })), "{sql}: {refused:?}");
    }
    let sql = "SELECT number AS n FROM numbers(10) LIMIT {l:UInt64}";
    assert_eq!(setup.clickhouse.query_json_rows(sql, &[("l", "3")]).await?.len(), 3);
    assert_eq!(setup.count().await?, 1);
    setup.engine.stop().await;
    Ok(())
}

/// Status, exception code and text.
async fn post(url: &str, body: &str) -> Result<(u16, Option<String>, String)> {
    read(http()?.post(url).body(body.to_owned()).send().await?).await
}

async fn read(answer: reqwest::Response) -> Result<(u16, Option<String>, String)> {
    let code = answer.headers().get("x-clickhouse-exception-code");
    let code = code.map(|code| code.to_str().map(str::to_owned)).transpose()?;
    Ok((answer.status().as_u16(), code, answer.text().await?))
}

fn http() -> Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().build()?)
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn exceptions_carry_their_code() -> Result<()> {
    let setup = setup("exceptions").await?;
    let check = async |sql: &str, expected: u32| match setup.clickhouse.execute(sql).await {
        Err(ClickHouseError::Refused { code, message }) => {
            assert_eq!(code, expected, "{message}");
        }
        other => panic!("{sql}: {other:?}"),
    };
    check("SELECT * FROM nowhere", 60).await;
    check("SELEC 1 FROM", 62).await;
    check("SELECT 1; SELECT 2", 62).await;
    check("SELECT nothing", 47).await;
    check("SELECT {x:String}", 456).await;
    let wrong = setup
        .clickhouse
        .insert("nowhere", "a", "RowBinary", "", [Ok::<_, ClickHouseError>(Bytes::from("x"))])
        .await;
    assert!(matches!(wrong, Err(ClickHouseError::Refused { code: 60, .. })), "{wrong:?}");
    setup.table("a UInt64, s String").await?;
    let cut = insert(&setup.clickhouse, "cut", rows(&[(1, b"x")]).slice(..7)).await;
    assert!(matches!(cut, Err(ClickHouseError::Refused { code: 33, .. })), "{cut:?}");
    assert_eq!(setup.count().await?, 0);
    let nowhere = client(&setup.engine.url(), "nowhere").execute("SELECT 1").await;
    assert!(matches!(nowhere, Err(ClickHouseError::Refused { code: 81, .. })), "{nowhere:?}");
    let hungry = "SELECT groupArray(number) FROM numbers(1000000000)";
    let hungry = setup.clickhouse.execute(hungry).await;
    assert!(matches!(hungry, Err(ClickHouseError::Unavailable(_))), "{hungry:?}");
    // The connections are as good as before.
    for _ in 0..8 {
        setup.clickhouse.execute("SELECT 1").await?;
    }
    println!(
        "resident after a query too large: {} MB",
        resident_megabytes(setup.engine.process_id())?
    );
    setup.engine.stop().await;
    let gone = setup.clickhouse.execute("SELECT 1").await;
    assert!(matches!(gone, Err(ClickHouseError::Unavailable(_))), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn plain_http_clients_are_served() -> Result<()> {
    let setup = setup("http").await?;
    let url = setup.engine.url();
    let http = http()?;
    assert_eq!(http.get(format!("{url}/ping")).send().await?.text().await?, "Ok.\n");
    let answer = read(http.get(format!("{url}/?query=SELECT%201%2C2")).send().await?).await?;
    assert_eq!(answer, (200, None, "1\t2\n".to_owned()));
    assert_eq!(post(&url, "SELECT 'a' AS x FORMAT CSV").await?.2, "\"a\"\n");
    let named = format!("{url}/?query=SELECT+number&default_format=CSV");
    assert_eq!(post(&named, "FROM numbers(2)").await?.2, "0\n1\n");

    post(&url, "CREATE DATABASE d").await?;
    post(
        &format!("{url}/?database=d"),
        "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a",
    )
    .await?;
    post(&format!("{url}/?database=d"), "INSERT INTO t VALUES (1, ';'), (2, 'b')").await?;
    post(&url, "INSERT INTO d.t FORMAT JSONEachRow\n{\"a\": 3, \"s\": \"{x:String}\"}\n").await?;
    let csv = format!("{url}/?query=INSERT+INTO+d.t+SETTINGS+max_threads=1+FORMAT+CSV");
    assert_eq!(post(&csv, "4,four\n5,five\n").await?.0, 200);
    assert_eq!(post(&url, "SELECT count(), sum(a) FROM d.t").await?.2, "5\t15\n");

    let missing = post(&url, "SELECT * FROM nowhere").await?;
    assert_eq!((missing.0, missing.1.as_deref()), (404, Some("60")));
    assert!(missing.2.starts_with("Code: 60. DB::Exception: "), "{}", missing.2);

    // A setting holds for one request, on whatever connection the next one runs.
    let setting = "SELECT getSetting('max_block_size'), getSetting('max_execution_time')";
    let usual = post(&url, setting).await?.2;
    let own = post(&format!("{url}/?max_block_size=77&max_execution_time=5"), setting).await?.2;
    assert_eq!(own, "77\t5\n");
    for _ in 0..8 {
        assert_eq!(post(&url, "SET max_block_size = 99").await?.0, 200);
    }
    for _ in 0..8 {
        assert_eq!(post(&url, setting).await?.2, usual);
    }
    let unknown = post(&format!("{url}/?nonsense=1"), "SELECT 1").await?;
    assert_eq!((unknown.0, unknown.1.as_deref()), (404, Some("115")));

    let writing = read(http.get(format!("{url}/?query=DROP+TABLE+d.t")).send().await?).await?;
    assert_eq!(writing.1.as_deref(), Some("164"));
    let page = http.post(&url).header("Origin", "http://localhost").body("SELECT 1");
    assert_eq!(page.send().await?.status(), 403);
    setup.engine.stop().await;
    Ok(())
}

#[derive(clickhouse::Row, serde::Serialize, serde::Deserialize, Debug, PartialEq, Clone)]
struct Typed {
    a: u64,
    s: String,
}

#[tokio::test]
async fn the_crate_works_as_it_comes() -> Result<()> {
    let setup = setup("crate").await?;
    setup.table("a UInt64, s String").await?;
    // With its own compression, which inserts use.
    let plain = clickhouse::Client::default().with_url(setup.engine.url()).with_database("default");
    let sent: Vec<Typed> =
        (0..10_000).map(|a| Typed { a, s: format!("row {a} 'quoted'") }).collect();
    let mut insert = plain.insert::<Typed>("t").await?;
    for row in &sent {
        insert.write(row).await?;
    }
    insert.end().await?;
    let sql = "SELECT ?fields FROM t WHERE a >= ? AND s != {s:String} ORDER BY a";
    let found = plain.query(sql).bind(1).param("s", "row 2 'quoted'").fetch_all::<Typed>().await?;
    let expected: Vec<Typed> = sent.into_iter().filter(|row| row.a >= 1 && row.a != 2).collect();
    assert_eq!(found, expected);
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn eight_clients_insert_beside_a_heavy_query() -> Result<()> {
    let setup = setup("parallel").await?;
    setup.table("a UInt64, s String").await?;
    let heavy = setup.clickhouse.clone();
    let began = Instant::now();
    let heavy = tokio::spawn(async move {
        let sql = "SELECT uniqExact(sipHash64(number)) AS n FROM numbers(8000000)";
        let found = number(&heavy, sql).await?;
        anyhow::Ok((found, began.elapsed()))
    });
    let mut clients = JoinSet::new();
    for writer in 0..8_u64 {
        let own = client(&setup.engine.url(), "default");
        clients.spawn(async move {
            let mut slowest = Duration::ZERO;
            for block in 0..10_u64 {
                let values: Vec<(u64, &[u8])> =
                    (0..100).map(|row| (writer * 1000 + block * 100 + row, &b"x"[..])).collect();
                let began = Instant::now();
                insert(&own, &format!("{writer}-{block}"), rows(&values)).await?;
                slowest = slowest.max(began.elapsed());
            }
            anyhow::Ok(slowest)
        });
    }
    let mut slowest = Duration::ZERO;
    while let Some(client) = clients.join_next().await {
        slowest = slowest.max(client??);
    }
    let (distinct, heavy_time) = heavy.await??;
    println!("heavy query {heavy_time:?}, slowest of 80 inserts beside it {slowest:?}");
    assert_eq!(distinct, 8_000_000);
    let unique = number(&setup.clickhouse, "SELECT uniqExact(a) AS n FROM t").await?;
    assert_eq!((unique, setup.count().await?), (8000, 8000));
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn answered_inserts_survive_kills() -> Result<()> {
    let setup = setup("kills").await?;
    setup.table("a UInt64, s String").await?;
    let url = setup.engine.url();
    for round in 0..3_u64 {
        let (own, (first, mut begun)) = (setup.clickhouse.clone(), watch::channel(()));
        let writer = tokio::spawn(async move {
            let mut answered = 0;
            loop {
                let a = round * 1_000_000 + answered;
                match insert(&own, &a.to_string(), rows(&[(a, b"x")])).await {
                    Ok(()) => answered += 1,
                    Err(ClickHouseError::Unavailable(_)) => return anyhow::Ok(answered),
                    Err(refused) => return Err(refused.into()),
                }
                first.send_replace(());
            }
        });
        begun.changed().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        setup.kill().await?;
        let answered = writer.await??;
        assert!(answered > 0);
        let sql = format!("SELECT count() AS n FROM t WHERE intDiv(a, 1000000) = {round}");
        let found = number(&setup.clickhouse, &sql).await?;
        // The one that was on its way may be there too.
        assert!(found == answered || found == answered + 1, "{found} of {answered}");
        println!("round {round}: {answered} answered, {found} found");
    }
    assert_eq!(setup.engine.url(), url);
    assert_eq!(setup.engine.starts(), 4);
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stop_and_a_second_engine_find_the_data() -> Result<()> {
    let folder = Folder::new("again")?;
    let engine = start(PROGRAM, &folder, 2).await?;
    let clickhouse = client(&engine.url(), "default");
    clickhouse.execute("CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a").await?;
    insert(&clickhouse, "", rows(&[(7, b"seven")])).await?;
    // A folder serves one engine at a time.
    assert!(start(PROGRAM, &folder, 2).await.is_err());
    let began = Instant::now();
    engine.stop().await;
    println!("stopped in {:?}", began.elapsed());
    let began = Instant::now();
    let engine = start(PROGRAM, &folder, 2).await?;
    println!("started in {:?}", began.elapsed());
    let found = client(&engine.url(), "default").query_json_rows("SELECT * FROM t", &[]).await?;
    assert_eq!(found, [json!({ "a": "7", "s": "seven" })]);
    engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_projection_finds_places() -> Result<()> {
    let setup = setup("projection").await?;
    let sql = "CREATE TABLE events (
            tenant LowCardinality(String), partition UInt32, position UInt64, row_index UInt32,
            identity UInt128, payload String,
            PROJECTION by_place (SELECT partition, position, row_index, identity
                ORDER BY partition, position, row_index)
        ) ENGINE = MergeTree ORDER BY (tenant, identity)";
    setup.clickhouse.execute(sql).await?;
    let fill = "INSERT INTO events SELECT 'default', number % 16, intDiv(number, 160), number % 10,
            reinterpretAsUInt128(sipHash128(number)), toString(number) FROM numbers(1000000)";
    setup.clickhouse.execute(fill).await?;
    let select = "SELECT count() AS n FROM events
                  WHERE partition = {p:UInt32} AND position BETWEEN {from:UInt64} AND {to:UInt64}";
    let values = [("p", "3"), ("from", "100"), ("to", "199")];
    let found = setup.clickhouse.query_json_rows(select, &values).await?;
    assert_eq!(found, [json!({ "n": "1000" })]);
    let explain = format!("EXPLAIN projections = 1, indexes = 1 {select}");
    let plan = setup.clickhouse.query_json_rows(&explain, &values).await?;
    let plan: Vec<&str> = plan.iter().filter_map(|row| row["explain"].as_str()).collect();
    assert!(plan.iter().any(|line| line.contains("by_place")), "{plan:#?}");
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn migrations_are_applied_once() -> Result<()> {
    let setup = setup("migrations").await?;
    let weir = client(&setup.engine.url(), "weir");
    let templating = Templating::default();
    weir.create_database("weir", templating).await?;
    weir.create_database("weir", templating).await?;
    let first = (1, "tables", "-- two; tables\nCREATE TABLE IF NOT EXISTS a {on_cluster} (x UInt8) ENGINE = {engine} ORDER BY x;
        CREATE TABLE IF NOT EXISTS b (x String DEFAULT ';') ENGINE = {engine} ORDER BY x;");
    assert_eq!(weir.migrate(&[first], templating).await?, [1]);
    assert_eq!(weir.migrate(&[first], templating).await?, Vec::<u32>::new());
    let second = (2, "more", "ALTER TABLE a ADD COLUMN IF NOT EXISTS y UInt8");
    assert_eq!(weir.migrate(&[first, second], templating).await?, [2]);
    let broken = (3, "broken", "CREATE TABLE c (x UInt8) ENGINE = {engine} ORDER BY x; SELEC");
    let fault = weir.migrate(&[first, second, broken], templating).await;
    assert!(matches!(fault, Err(MigrateError::Statement { number: 3, .. })), "{fault:?}");
    let changed = (2, "more", "ALTER TABLE a ADD COLUMN z UInt8");
    let fault = weir.migrate(&[first, changed], templating).await;
    assert!(matches!(fault, Err(MigrateError::Changed { number: 2, .. })), "{fault:?}");
    let found = weir
        .query_json_rows("SELECT number, name FROM schema_migrations ORDER BY number", &[])
        .await?;
    assert_eq!(
        found,
        [json!({"number": 1, "name": "tables"}), json!({"number": 2, "name": "more"})]
    );
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn large_inserts_are_one_block_and_their_speed_is_told() -> Result<()> {
    let setup = setup("speed").await?;
    setup.table("a UInt64, s String").await?;
    for size in [50_000_u64, 200_000, 1_500_000] {
        let payload = [b'p'; 40];
        let values: Vec<(u64, &[u8])> = (0..size).map(|a| (a, &payload[..])).collect();
        let block = rows(&values);
        let megabytes = block.len() as f64 / 1e6;
        let began = Instant::now();
        insert(&setup.clickhouse, &format!("large-{size}"), block.clone()).await?;
        let took = began.elapsed();
        println!(
            "{size} rows, {megabytes:.1} MB: {took:?}, {:.0} rows/s, resident {} MB",
            size as f64 / took.as_secs_f64(),
            resident_megabytes(setup.engine.process_id())?
        );
        insert(&setup.clickhouse, &format!("large-{size}"), block).await?;
    }
    assert_eq!(setup.count().await?, 1_750_000);
    setup.engine.stop().await;
    Ok(())
}

/// Starts the engine's program by `command`, whose standard output it has, and waits for its URL.
fn launch(command: &mut Command) -> Result<(Child, String)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("no output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening ").context("no address")?;
    Ok((child, format!("http://{address}")))
}

#[tokio::test]
async fn sigterm_finishes_what_runs_and_exits_with_success() -> Result<()> {
    let folder = Folder::new("sigterm")?;
    let mut command = Command::new(PROGRAM);
    command.arg("--library").arg(library()?).arg("--data").arg(folder.path());
    let (mut child, url) = launch(command.args(["--listen", "127.0.0.1:0"]))?;
    let clickhouse = client(&url, "default");
    clickhouse.execute("CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a").await?;
    let running = tokio::spawn({
        let clickhouse = clickhouse.clone();
        async move {
            number(&clickhouse, "SELECT toUInt64(sum(sleepEachRow(1))) AS n FROM numbers(3)").await
        }
    });
    let seen = "SELECT count() AS n FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'";
    while number(&clickhouse, seen).await? == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    assert_eq!(running.await??, 0);
    let exit = tokio::task::spawn_blocking(move || child.wait()).await??;
    assert!(exit.success(), "{exit}");
    Ok(())
}

#[tokio::test]
async fn the_engine_dies_with_its_parent() -> Result<()> {
    let folder = Folder::new("parent")?;
    let mut command = Command::new("sh");
    let script = r#"ENGINE_PARENT_PROCESS=$$ "$0" "$@" & wait"#;
    command.args(["-c", script, PROGRAM, "--listen", "127.0.0.1:0"]);
    let (mut parent, url) =
        launch(command.arg("--library").arg(library()?).arg("--data").arg(folder.path()))?;
    let clickhouse = client(&url, "default");
    clickhouse.ping().await?;
    parent.kill()?;
    parent.wait()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while clickhouse.ping().await.is_ok() {
        anyhow::ensure!(Instant::now() < deadline, "the engine outlived its parent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused() -> Result<()> {
    let setup = setup("limit").await?;
    setup.table("a UInt64, s String").await?;
    let large = Bytes::from(vec![1_u8; (256 << 20) + 1]);
    let refused = insert(&setup.clickhouse, "large", large).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(setup.count().await?, 0);
    setup.engine.stop().await;
    Ok(())
}

#[tokio::test]
async fn more_requests_than_may_wait_are_told_to_come_back() -> Result<()> {
    let setup = setup("busy").await?;
    let mut requests = JoinSet::new();
    for _ in 0..400 {
        let clickhouse = setup.clickhouse.clone();
        requests.spawn(async move { clickhouse.execute("SELECT sleep(0.1)").await });
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(request) = requests.join_next().await {
        match request? {
            Ok(()) => done += 1,
            Err(ClickHouseError::Unavailable(message)) => {
                assert!(message.contains("Code: 202"), "{message}");
                refused += 1;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    println!("{done} answered, {refused} told to come back");
    assert!(done >= 256 && refused > 0);
    setup.clickhouse.ping().await?;
    setup.engine.stop().await;
    Ok(())
}
