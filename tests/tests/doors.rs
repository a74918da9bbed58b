//! Doors: what any producer of Kafka writes to a tenant's topic is accepted as over HTTP, what cannot
//! be is kept once with its reason, and kills between append and commit change no sum.
//!
//! WEIR_KILLS sets how often ingest is killed (5), WEIR_SEED repeats the moments.

use std::{collections::BTreeSet, fs, io::Write as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use benches::spread::Spread;
use nix::sys::signal::Signal;
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use serde_json::{Value, json};
use tests::{
    broker::Broker,
    forged::body_of_many_names,
    oracle::{self, CHARGE, Row},
    proxy::{Fault, Proxy},
    seed::{Moments, number},
    system::{System, check_counts, integer},
    wait::eventually,
};
use tokio::task::JoinSet;

#[path = "doors/secure.rs"]
mod secure;

/// Events of both traces.
const EVENTS: i64 = 28_185;
/// Events of a batch in CloudEvents' batched mode.
const BATCH: usize = 10;
/// `source` of all events of the traces.
const SOURCE: &str = "door";

type Producer = ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

/// A tenant's door, and a producer that knows nothing of Weir.
struct Door {
    producer: Producer,
    topic: String,
}

impl Door {
    /// Makes the door of the tenant `default`.
    async fn make(system: &System, broker: &Broker) -> Result<Door> {
        system.run("doors", &["migrate", "--replication", "1", "--door", "default"]).await?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            .set("message.max.bytes", "8000000")
            .create()?;
        Ok(Door { producer, topic: format!("{}.in.default", system.prefix()?) })
    }

    /// Writes a message; a value of `None` is a tombstone.
    fn send(&self, headers: &[(&str, &str)], value: Option<&[u8]>) -> Result<()> {
        let owned = headers.iter().fold(OwnedHeaders::new(), |owned, (key, value)| {
            owned.insert(Header { key, value: Some(*value) })
        });
        let mut record = BaseRecord::<(), [u8]>::to(&self.topic).headers(owned);
        record.payload = value;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, again)) => {
                    let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
                    ensure!(error.rdkafka_error_code() == Some(full), "{error}");
                    std::thread::sleep(Duration::from_millis(5));
                    again
                }
            };
        }
    }

    fn flush(&self) -> Result<()> {
        Ok(self.producer.flush(Duration::from_secs(60))?)
    }

    /// Writes rows of the traces, in every form in turn.
    fn send_rows(&self, rows: &[Row]) -> Result<()> {
        for (number, rows) in rows.chunks(BATCH).enumerate() {
            match number % 4 {
                0 => self.send(
                    &[("content-type", "application/cloudevents-batch+json; charset=UTF-8")],
                    Some(&serde_json::to_vec(&rows.iter().map(cloud).collect::<Vec<_>>())?),
                )?,
                1 => rows.iter().try_for_each(|row| {
                    let value = serde_json::to_vec(&cloud(row))?;
                    self.send(&[("content-type", "application/cloudevents+json")], Some(&value))
                })?,
                2 => rows.iter().try_for_each(|row| self.send_binary(row))?,
                _ => rows.iter().try_for_each(|row| {
                    let event = json!({"id": row.id, "type": "llm.tokens.v1", "source": SOURCE,
                        "subject": row.team, "data": data(row)});
                    self.send(&[], Some(&serde_json::to_vec(&event)?))
                })?,
            }
        }
        self.flush()
    }

    fn send_binary(&self, row: &Row) -> Result<()> {
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", row.id.as_str()),
            ("ce_type", "llm.tokens.v1"),
            ("ce_source", SOURCE),
            ("ce_subject", row.team.as_str()),
            ("content-type", "application/json"),
        ];
        self.send(&headers, Some(&serde_json::to_vec(&data(row))?))
    }
}

fn data(row: &Row) -> Value {
    json!({"provider": "openai", "model": "gpt-4-turbo",
        "inputTokens": row.prompt as i64, "outputTokens": row.generated as i64})
}

fn cloud(row: &Row) -> Value {
    json!({"specversion": "1.0", "id": row.id, "type": "llm.tokens.v1", "source": SOURCE,
        "subject": row.team, "data": data(row)})
}

/// The rejected events that people read, by reason; without duplicates of events.
async fn refused(system: &System) -> Result<Vec<(String, String)>> {
    let mut refused = Vec::new();
    let question = "/v1/rejected-events?outcome=rejected&limit=3";
    let mut path = question.to_owned();
    loop {
        let page = system.api()?.get(&path).await?;
        for event in page["items"].as_array().context("no items")? {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            refused.push((text("reason"), text("detail")));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("{question}&cursor={cursor}"),
            None => break,
        }
    }
    refused.sort();
    Ok(refused)
}

/// The places in doors of what was refused, as the archive has them.
async fn places(system: &System) -> Result<Vec<Value>> {
    let sql = "SELECT door, door_partition, door_offset, door_index, toString(reason) AS reason, \
               length(raw) AS length, count() AS times FROM rejected_events WHERE door != '' \
               GROUP BY ALL ORDER BY reason, door_partition, door_offset, door_index";
    Ok(system.clickhouse().query_json_rows(sql, &[]).await?)
}

/// Writes messages that cannot be accepted; answers the codes of what is kept.
fn poison(door: &Door) -> Result<Vec<&'static str>> {
    let random: Vec<u8> =
        (0..3_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let event = json!({"id": "p-1", "type": "of.no.meter", "subject": "team-01"});
    let nobody = json!({"id": "p-2", "type": "llm.tokens.v1"});
    door.send(&[], Some(&random))?;
    door.send(&[], Some(&vec![b' '; 2 << 20]))?;
    door.send(&[], Some(b""))?;
    door.send(&[], None)?;
    door.send(&[("content-type", "application/cloudevents+avro")], Some(b"x"))?;
    door.send(&[("content-type", "application/cloudevents+json")], Some(b"{\"id\":"))?;
    door.send(
        &[("ce_specversion", "1.0"), ("ce_id", "p-3"), ("content-type", "text/plain")],
        Some(b"x"),
    )?;
    door.send(&[], Some(&serde_json::to_vec(&nobody)?))?;
    door.send(&[], Some(&serde_json::to_vec(&json!([event, nobody, 7]))?))?;
    door.send(&[], Some(body_of_many_names(700).as_bytes()))?;
    door.flush()?;
    let mut codes = vec![
        "body_too_complex",
        "body_not_utf8",
        "no_events",
        "no_events",
        "no_events",
        "content_type_unsupported",
        "json_invalid",
        "data_not_json",
        "subject_missing",
        "subject_missing",
        "event_not_object",
    ];
    codes.sort_unstable();
    Ok(codes)
}

/// Forgets how far the doors were read, while nobody reads them.
async fn forget(system: &System, broker: &Broker) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create()?;
    let group = format!("{}.ingest", system.prefix()?);
    let results = admin.delete_groups(&[&group], &AdminOptions::new()).await?;
    for result in results {
        result.map_err(|(group, code)| anyhow::anyhow!("deleting {group}: {code}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_is_accepted_and_what_is_refused_is_kept_once() -> Result<()> {
    let broker = Broker::start()?;
    let mut system = System::kafka(&broker, 8).await?;
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    let books = oracle::books(&rows, |_| CHARGE);
    // Made while ingest runs, which finds it.
    let door = Door::make(&system, &broker).await?;

    door.send_rows(&rows)?;
    let counts = system.settled(Some(EVENTS)).await?;
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    system.check_books(&books).await?;

    // Over HTTP the same are duplicates.
    system.replay_all("again", &["--set", &format!("source={SOURCE}")]).await?;
    let counts = system.settled(Some(2 * EVENTS)).await?;
    check_counts(&counts, EVENTS, EVENTS, 0)?;

    let codes = poison(&door)?;
    let count = i64::try_from(codes.len())?;
    // One event of the last message is accepted, and no meter counts it.
    let counts = system.settled(Some(2 * EVENTS + count + 1)).await?;
    ensure!(counts["rejected"] >= count, "{counts:?}");
    let kept = refused(&system).await?;
    let found: Vec<&str> = kept.iter().map(|(code, _)| code.as_str()).collect();
    let doors_only: Vec<&str> = found.iter().copied().filter(|code| codes.contains(code)).collect();
    ensure!(doors_only == codes, "{kept:?}");
    let before = places(&system).await?;
    ensure!(before.len() == codes.len(), "{before:?}");
    let huge = before.iter().any(|row| integer(&row["length"]).ok() == Some(1 << 20));
    ensure!(huge, "a megabyte of the longest message is kept: {before:?}");

    // The whole door once more: nothing counts twice, and the list says the same.
    let (code, _) = system.take("ingest")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended ingest with {code:?}");
    forget(&system, &broker).await?;
    system.start("ingest").await?;
    let counts = system.settled(Some(3 * EVENTS + 2 * count + 2)).await?;
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    system.check_books(&books).await?;
    let after = places(&system).await?;
    let twice = after.iter().all(|row| integer(&row["times"]).ok() == Some(2));
    ensure!(after.len() == before.len() && twice, "{after:?}");
    ensure!(refused(&system).await? == kept, "what is refused twice is listed once");

    javas_producers(&system, &broker, &door).await?;
    refused_events_are_corrected_through_another_ingest(&mut system).await?;
    an_unknown_door_waits(&system, &broker).await
}

/// An api in a process of its own sends corrected events to the ingest that it is told of.
async fn refused_events_are_corrected_through_another_ingest(system: &mut System) -> Result<()> {
    let list = system.api()?.get("/v1/rejected-events?outcome=rejected&limit=100").await?;
    let items = list["items"].as_array().context("no items")?;
    let nobodys = items.iter().filter(|event| event["reason"] == "subject_missing");
    let paths: Vec<String> = nobodys
        .filter_map(|event| event["receipt"].as_str())
        .map(|receipt| format!("/v1/rejected-events/{receipt}/reinject"))
        .collect();
    let [first, second] = paths.as_slice() else { bail!("not two without a subject: {list}") };
    // What could not be read has no id of its own: the body says all of it.
    let corrected = serde_json::to_vec(
        &json!({"id": "p-2", "type": "llm.tokens.v1", "subject": "team-01",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}}),
    )?;

    let refused = system.api()?.exchange("POST", first, corrected.clone()).await?;
    ensure!(
        (refused.0, &refused.1["code"]) == (501, &json!("ingest_not_configured")),
        "{refused:?}"
    );

    let ingest = system.base("ingest")?;
    system.set("api", "WEIR_API__INGEST_URL", &ingest);
    let (code, _) = system.take("api")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended the api with {code:?}");
    system.start("api").await?;
    let before = system.settled(None).await?;
    let sent = system.api()?.exchange("POST", first, corrected.clone()).await?;
    ensure!((sent.0, &sent.1["corrected"]) == (200, &json!(true)), "{sent:?}");
    let after = system.settled(Some(before["accepted"] + 1)).await?;
    // Both lack the same: one event, sent by itself and in an array.
    ensure!(after["rated"] == before["rated"] + 1, "{before:?} {after:?}");

    others_do_not_wait_for_ingest(system, second, &corrected).await?;
    let away = system.api()?.exchange("POST", second, corrected.clone()).await?;
    ensure!((away.0, &away.1["code"]) == (503, &json!("ingest_unavailable")), "{away:?}");
    system.start("ingest").await?;
    let sent = system.api()?.exchange("POST", second, corrected).await?;
    ensure!(sent.0 == 200, "{sent:?}");
    let last = system.settled(Some(before["accepted"] + 2)).await?;
    ensure!(last["rated"] == after["rated"], "the same event again is a duplicate: {last:?}");
    Ok(())
}

/// Ingest hangs, and then dies, while more requests wait for it than the api has connections of the
/// database.
async fn others_do_not_wait_for_ingest(
    system: &mut System,
    path: &str,
    event: &[u8],
) -> Result<()> {
    system.process("ingest")?.signal(Signal::SIGSTOP)?;
    let mut asked = JoinSet::new();
    for _ in 0..24 {
        let (api, path, event) = (system.api()?, path.to_owned(), event.to_vec());
        asked.spawn(async move { api.exchange("POST", &path, event).await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let (status, answer) = system.api()?.exchange("GET", "/v1/teams", Vec::new()).await?;
        ensure!(status == 200, "{status}: {answer}");
    }
    let mut codes = BTreeSet::new();
    while let Some(answer) = asked.join_next().await {
        let (status, answer) = answer??;
        ensure!(status == 503, "{status}: {answer}");
        // The first was not let wait any longer; those that ingest has hang until it dies.
        if codes.is_empty() {
            system.kill("ingest")?;
        }
        codes.insert(answer["code"].as_str().unwrap_or_default().to_owned());
    }
    let known = ["ingest_unavailable", "reinjection_busy"].map(str::to_owned);
    ensure!(codes == BTreeSet::from(known), "{codes:?}");
    Ok(())
}

/// Kafka's own producer, by its console and by its load generator, with headers and compression.
async fn javas_producers(system: &System, broker: &Broker, door: &Door) -> Result<()> {
    let before = system.settled(None).await?;
    let event = |id: &str| {
        json!({"specversion": "1.0", "id": id, "type": "llm.tokens.v1", "source": "java", "subject": "team-java",
            "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}})
        .to_string()
    };
    let mut console = broker
        .tool("org.apache.kafka.tools.ConsoleProducer")?
        .args(["--bootstrap-server", &broker.bootstrap(), "--topic", &door.topic])
        .args(["--property", "parse.headers=true", "--compression-codec", "snappy"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let data =
        r#"{"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}"#;
    let binary =
        "ce_specversion:1.0,ce_id:java-2,ce_type:llm.tokens.v1,ce_source:java,ce_subject:team-java";
    let mut input = console.stdin.take().context("no standard input")?;
    writeln!(input, "content-type:application/cloudevents+json\t{}", event("java-1"))?;
    writeln!(input, "{binary},content-type:application/json\t{data}")?;
    drop(input);
    ensure!(console.wait()?.success(), "the console producer failed");

    let payloads = system.folder().join("payloads");
    fs::write(&payloads, event("java-3"))?;
    let output = broker
        .tool("org.apache.kafka.tools.ProducerPerformance")?
        .args([
            "--topic",
            &door.topic,
            "--num-records",
            "5",
            "--throughput",
            "-1",
            "--payload-file",
        ])
        .arg(&payloads)
        .args(["--producer-props", &format!("bootstrap.servers={}", broker.bootstrap())])
        .args(["compression.type=lz4", "acks=all"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = system.settled(Some(before["accepted"] + 7)).await?;
    let more = |name: &str| after[name] - before[name];
    ensure!((more("rated"), more("duplicates")) == (3, 4), "{before:?} {after:?}");
    Ok(())
}

/// A door of nobody is not read on, and closes no other door; nothing of it is committed.
async fn an_unknown_door_waits(system: &System, broker: &Broker) -> Result<()> {
    system.run("doors", &["migrate", "--replication", "1", "--door", "late-comer"]).await?;
    let before = system.settled(None).await?;
    let mut door = Door::make(system, broker).await?;
    let known = std::mem::replace(&mut door.topic, format!("{}.in.late-comer", system.prefix()?));
    let event = |id: &str| {
        json!({"id": id, "type": "llm.tokens.v1", "subject": "team-01",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}})
    };
    for id in ["w-1", "w-2", "w-3"] {
        door.send(&[], Some(&serde_json::to_vec(&event(id))?))?;
    }
    door.flush()?;
    eventually("ingest says that nobody is called so", async || {
        let log = fs::read_to_string(system.folder().join("ingest.log"))?;
        Ok(log.contains("nobody is called like this door, or is disabled"))
    })
    .await?;
    door.topic = known;
    door.send(&[], Some(&serde_json::to_vec(&event("w-4"))?))?;
    door.flush()?;
    let after = system.settled(Some(before["accepted"] + 1)).await?;
    ensure!(after["rated"] == before["rated"] + 1, "{after:?}");

    let mut postgres = system.postgres().await?;
    sqlx::query("INSERT INTO tenants (tenant_id, key) VALUES (gen_random_uuid(), 'late-comer')")
        .execute(&mut postgres)
        .await?;
    eventually("the messages that waited are accepted", async || {
        let metrics = system.ingest()?.text("/metrics").await?;
        let wanted = r#"weir_ingest_door_events_total{door="late-comer",outcome="accepted"} 3"#;
        Ok(metrics.contains(wanted))
    })
    .await?;
    a_disabled_tenants_door_waits(system, &mut door).await?;
    a_name_that_waits_holds_up_its_door_alone(system, door).await
}

/// While a name may become another team's, its door waits from that message on, and the other doors
/// do not; then everything in it is accepted, once, in its order.
async fn a_name_that_waits_holds_up_its_door_alone(system: &System, mut door: Door) -> Result<()> {
    let mut postgres = system.postgres().await?;
    sqlx::query("INSERT INTO teams (tenant_id, team, origin) SELECT tenant_id, 'team-01', 'registered' FROM tenants WHERE key = 'late-comer'")
        .execute(&mut postgres)
        .await?;
    let sql = "INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting)
        SELECT tenant_id, 'alias-01', 'team-01', clock_timestamp() + interval '1 hour', true FROM tenants WHERE key = 'late-comer'";
    sqlx::query(sql).execute(&mut postgres).await?;
    let refreshes = async || metric(system, r#"weir_ingest_refreshes_total{outcome="ok"}"#).await;
    let before = refreshes().await?;
    eventually("ingest knows of the alias", async || Ok(refreshes().await? > before + 1)).await?;
    let accepted = async |door: &str| {
        metric(
            system,
            &format!(r#"weir_ingest_door_events_total{{door="{door}",outcome="accepted"}}"#),
        )
        .await
    };
    let (held, free) = (accepted("late-comer").await?, accepted("default").await?);
    door_sends(&mut door, system, "team-09", "late-comer")?;
    door_sends(&mut door, system, "alias-01", "late-comer")?;
    for _ in 0..3 {
        door_sends(&mut door, system, "team-09", "late-comer")?;
        door_sends(&mut door, system, "team-09", "default")?;
    }
    eventually("the other door goes on", async || Ok(accepted("default").await? == free + 3))
        .await?;
    eventually("what lies before the message is let in", async || {
        Ok(accepted("late-comer").await? == held + 1)
    })
    .await?;
    ensure!(metric(system, r#"weir_ingest_door_retries_total{reason="alias"}"#).await? > 0);
    sqlx::query("UPDATE team_aliases SET waiting = false").execute(&mut postgres).await?;
    eventually("everything that waited is accepted", async || {
        Ok(accepted("late-comer").await? == held + 5)
    })
    .await?;
    eventually("the name is the team's in the archive", async || {
        let sql = "SELECT team, uniqExact(partition, position, index) AS events FROM usage_events WHERE subject = 'alias-01' GROUP BY team";
        let rows = system.clickhouse().query_json_rows(sql, &[]).await?;
        Ok(rows == [json!({"team": "team-01", "events": "1"})])
    })
    .await
}

/// A counter of ingest.
async fn metric(system: &System, name: &str) -> Result<u64> {
    let metrics = system.ingest()?.text("/metrics").await?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?.unwrap_or(0))
}

/// Writes an event of a subject to the first partition of a tenant's door.
fn door_sends(door: &mut Door, system: &System, subject: &str, tenant: &str) -> Result<()> {
    door.topic = format!("{}.in.{tenant}", system.prefix()?);
    let event = json!({"id": uuid::Uuid::now_v7().to_string(), "type": "llm.tokens.v1", "subject": subject,
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}});
    let value = serde_json::to_vec(&event)?;
    let record = BaseRecord::<(), [u8]>::to(&door.topic).partition(0).payload(&value);
    door.producer.send(record).map_err(|(error, _)| error)?;
    door.flush()
}

/// While its tenant is disabled a door waits too, and the others do not.
async fn a_disabled_tenants_door_waits(system: &System, door: &mut Door) -> Result<()> {
    system.run("tenants", &["tenants", "disable", "late-comer"]).await?;
    let known = std::mem::replace(&mut door.topic, format!("{}.in.late-comer", system.prefix()?));
    let event = |id: u32| {
        json!({"id": id.to_string(), "type": "llm.tokens.v1", "subject": "team-01",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}})
    };
    // Ingest hears of it within a second: until then it takes what comes.
    let mut sent = 0;
    let log = system.folder().join("ingest.log");
    let warnings = |log: &str| log.matches("nobody is called like this door").count();
    let before = warnings(&fs::read_to_string(&log)?);
    eventually("ingest sets the door aside", async || {
        sent += 1;
        door.send(&[], Some(&serde_json::to_vec(&event(sent))?))?;
        door.flush()?;
        Ok(warnings(&fs::read_to_string(&log)?) > before)
    })
    .await?;
    let other = std::mem::replace(&mut door.topic, known);
    let mut before = 0;
    eventually("how much is accepted", async || {
        before = system.conservation().await.map_or(0, |counts| counts["accepted"]);
        Ok(before > 0)
    })
    .await?;
    door.send(&[], Some(&serde_json::to_vec(&event(1_000_000))?))?;
    door.flush()?;
    eventually("the other door goes on", async || {
        Ok(system.conservation().await.is_ok_and(|counts| counts["accepted"] > before))
    })
    .await?;
    door.topic = other;
    system.run("tenants", &["tenants", "enable", "late-comer"]).await?;
    // What had been taken before the door was set aside may have been read twice.
    let mut postgres = system.postgres().await?;
    eventually("everything in the door is accepted", async || {
        let sql = "SELECT sum(rated + unmetered + unpriced)::bigint FROM partition_counts JOIN tenants USING (tenant_id)
            WHERE key = 'late-comer'";
        let count: Option<i64> = sqlx::query_scalar(sql).fetch_one(&mut postgres).await?;
        Ok(count == Some(3 + i64::from(sent)))
    })
    .await?;
    Ok(())
}

/// The broker is away for longer than a member of a group may be silent, while a second ingest comes
/// and goes: everything in the door is accepted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_and_a_second_ingest_change_no_sum() -> Result<()> {
    let proxy = Proxy::listen()?;
    let broker = Broker::start_behind(&proxy)?;
    let session = r#"{"session.timeout.ms" = "6000"}"#;
    let mut system =
        System::kafka_with(&broker, 4, &[("WEIR_LOG__KAFKA__PROPERTIES", session)]).await?;
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    let door = Door::make(&system, &broker).await?;
    let mut parts = rows.chunks(rows.len().div_ceil(4));
    let mut send = || parts.next().map_or(Ok(()), |rows| door.send_rows(rows));
    send()?;
    system.start("ingest.2").await?;
    send()?;
    proxy.set(Fault::Refuse);
    proxy.cut();
    tokio::time::sleep(Duration::from_secs(12)).await;
    proxy.set(Fault::None);
    ensure!(proxy.counts().refused > 0, "nobody noticed that the broker was away");
    send()?;
    system.kill("ingest.2")?;
    send()?;
    eventually("the door is read to its end", async || {
        let counts = system.conservation().await;
        Ok(counts.is_ok_and(|counts| counts["rated"] == EVENTS && counts["pending"] == 0))
    })
    .await?;
    let counts = system.settled(None).await?;
    ensure!(counts["conflicts"] == 0 && counts["rejected"] == 0, "{counts:?}");
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await
}

/// Events that are in the log when ingest is killed, and not committed.
const UNCOMMITTED: i64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn kills_between_append_and_commit_change_no_sum() -> Result<()> {
    let mut moments = Moments::new("doors");
    let proxy = Proxy::listen()?;
    let broker = Broker::start_behind(&proxy)?;
    let mut system = System::kafka(&broker, 4).await?;
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    let door = Door::make(&system, &broker).await?;
    let kills = usize::try_from(number("WEIR_KILLS").unwrap_or(5))?;
    let mut codes = Vec::new();
    let (uncommitted, rest) = rows.split_at(usize::try_from(UNCOMMITTED)?);
    let (first, rest) = rest.split_at(1);
    door.send_rows(first)?;
    let rated = async |count: i64| {
        Ok(system.conservation().await.is_ok_and(|counts| counts["rated"] == count))
    };
    eventually("the door is read", async || rated(1).await).await?;
    // Whatever names the group waits, commits too, and is lost when ingest has gone.
    proxy.set(Fault::Hold(".ingest"));
    door.send_rows(uncommitted)?;
    eventually("they are in the log", async || rated(UNCOMMITTED + 1).await).await?;
    system.kill("ingest")?;
    proxy.cut();
    proxy.set(Fault::None);
    system.start("ingest").await?;
    eventually("they are read again", async || {
        Ok(system.conservation().await.is_ok_and(|counts| counts["duplicates"] >= UNCOMMITTED))
    })
    .await?;

    for rows in rest.chunks(rest.len().div_ceil(kills)) {
        codes.extend(poison(&door)?);
        door.send_rows(rows)?;
        moments.pause(50, 2_500).await;
        system.kill("ingest")?;
        system.start("ingest").await?;
    }
    codes.sort_unstable();
    eventually("the door is read to its end", async || {
        let Ok(counts) = system.conservation().await else { return Ok(false) };
        let metrics = system.ingest()?.text("/metrics").await?;
        let lag = metrics
            .lines()
            .find(|line| line.starts_with("weir_ingest_door_lag_messages{door=\"default\"}"));
        let done = lag.is_some_and(|line| line.ends_with(" 0"));
        Ok(done && counts.get("rated") == Some(&EVENTS) && counts.get("pending") == Some(&0))
    })
    .await?;
    let counts = system.settled(None).await?;
    println!("{counts:?}");
    ensure!(counts["rated"] == EVENTS && counts["conflicts"] == 0, "{counts:?}");
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await?;
    let kept = refused(&system).await?;
    let found: Vec<&str> =
        kept.iter().map(|(code, _)| code.as_str()).filter(|code| codes.contains(code)).collect();
    ensure!(found == codes, "{kept:?}");
    Ok(())
}
