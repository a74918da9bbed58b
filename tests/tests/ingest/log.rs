//! Blocks shared by requests, and a log that refuses or hangs (INV-01, INV-20).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use ingest::Config;
use serde_json::{Value, json};

use crate::world::{PARTITIONS, TENANT, World, config};

fn event(id: &str, team: &str) -> String {
    json!({"id": id, "type": "api.call", "subject": team, "data": {"n": 1}}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_share_blocks_and_a_lone_event_leaves_at_once() -> Result<()> {
    requests_share_blocks(1).await?;
    requests_share_blocks(2).await
}

/// With so many blocks of a partition on their way at a time.
async fn requests_share_blocks(in_flight: usize) -> Result<()> {
    let world = Arc::new(World::with(Config { in_flight, ..config() }).await?);
    assert_eq!(world.post(&[], event("lone", "a")).await?.status, 200);
    assert_eq!(world.logged()?.1, 1);

    world.gate.hold();
    let send = |number: usize| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.post(&[], event(&format!("r{number}"), "a")).await })
    };
    // Each is alone when it comes, so each is a block; those that come later wait for one of them.
    let mut requests = Vec::new();
    for number in 0..in_flight {
        requests.push(send(number));
        world.until("a block in flight", || world.gate.held().0 == number + 1).await;
    }
    requests.extend((in_flight..200).map(send));
    let bodies: usize = (0..200).map(|number| event(&format!("r{number}"), "a").len()).sum();
    let arrived = || {
        world.metric("weir_ingest_held_bytes_total")
            - world.metric("weir_ingest_released_bytes_total")
            >= bodies as u64
    };
    world.until("requests", arrived).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.gate.held().0, in_flight, "no more of a partition are on their way");
    world.gate.open();
    let mut receipts = Vec::new();
    for request in requests {
        let answer = request.await??;
        assert_eq!(answer.status, 200, "{}", answer.body);
        receipts.push(answer.body["results"][0]["receipt"].as_str().unwrap().to_owned());
    }
    let (logged, blocks) = world.logged()?;
    assert_eq!(logged.len(), 201);
    assert!(blocks <= 5, "{blocks} blocks for 200 requests");
    let mut known: Vec<String> =
        logged.iter().filter(|event| event.id != "lone").map(|event| event.receipt()).collect();
    receipts.sort();
    known.sort();
    assert_eq!(receipts, known);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_hangs_is_answered_in_time_within_memory() -> Result<()> {
    let memory_bytes = 8 << 20;
    // Less than the 5 s by what a busy machine needs for 40 bodies of 2 MB.
    let config = Config { memory_bytes, answer_timeout_ms: 1_000, ..config() };
    let world = Arc::new(World::with(config).await?);
    world.gate.hold();
    let started = Instant::now();
    let filler = "f".repeat(200_000);
    let body = Value::from((0..10).map(|n| json!({"id": format!("{n}"), "type": "x", "subject": format!("t{n}"), "data": filler})).collect::<Vec<_>>());
    let requests: Vec<_> = (0..40)
        .map(|_| {
            let (world, body) = (Arc::clone(&world), body.to_string());
            tokio::spawn(async move { world.post(&[], body).await })
        })
        .collect();
    let mut codes = Vec::new();
    for request in requests {
        let answer = request.await??;
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "answered after {:?}",
            started.elapsed()
        );
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.headers.contains_key("retry-after"));
        if answer.code() == "outcome_unknown" {
            assert_eq!(answer.statuses(), ["unknown"; 10]);
        }
        codes.push(answer.code().to_owned());
    }
    let unknown = codes.iter().filter(|code| *code == "outcome_unknown").count();
    assert!((1..=4).contains(&unknown), "8 MiB hold at most four bodies of 2 MB: {codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "overloaded").count(), 40 - unknown);
    assert!(world.budget.used() <= memory_bytes);
    let (blocks, bytes) = world.gate.held();
    assert!(
        blocks <= 2 * PARTITIONS as usize && bytes <= memory_bytes,
        "{blocks} blocks of {bytes} bytes"
    );

    // When the log is back, so are we, and what nobody waited for is let go.
    world.gate.open();
    let back = Instant::now();
    while world.post(&[], event("after", "t")).await?.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(10), "it does not recover");
    }
    world.until("memory", || world.budget.used() == 0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_refuses_says_what_is_known() -> Result<()> {
    let world = World::start().await?;
    world.gate.refuse();
    let body = format!("[{},{{\"id\":\"2\"}}]", event("1", "a"));
    let answer = world.post(&[], body).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "log_unavailable"));
    assert_eq!(answer.statuses(), ["not_accepted", "rejected"]);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(world.metric("weir_ingest_blocks_answered_total{outcome=\"refused\"}"), 1);
    world.gate.open();
    assert_eq!(world.post(&[], event("3", "a")).await?.status, 200);
    let ids: Vec<String> = world.logged()?.0.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["3"], "what was refused is not in the log");
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_is_told_although_the_rest_is_not() -> Result<()> {
    let world = World::with(Config { answer_timeout_ms: 2_000, ..config() }).await?;
    let partition_of = |team: &str| domain::partition::partition_of(TENANT, team, PARTITIONS);
    let other = (0..)
        .map(|n| format!("t{n}"))
        .find(|team| partition_of(team) != partition_of("a"))
        .unwrap();
    world.gate.hold_one(partition_of("a"));
    let body = format!("[{},{},{{\"id\":\"3\"}}]", event("1", "a"), event("2", &other));
    let answer = world.post(&[], body).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "outcome_unknown"));
    assert_eq!(answer.statuses(), ["unknown", "accepted", "rejected"]);
    assert_eq!((&answer.body["accepted"], &answer.body["rejected"]), (&json!(1), &json!(1)));
    let logged = world.logged()?.0;
    assert_eq!(logged.len(), 1);
    assert_eq!(answer.body["results"][1]["receipt"], logged[0].receipt());
    // Unknown means that it may be there later.
    world.gate.open();
    world.until("the other", || world.logged().unwrap().0.len() == 2).await;
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_end_at_their_size() -> Result<()> {
    let world = World::start().await?;
    let filler = "f".repeat(1_000);
    let events: Vec<Value> =
        (0..2_000).map(|n| json!({"id": format!("{n}"), "type": "x", "subject": "t", "data": {"filler": filler}})).collect();
    let answer = world.post(&[], Value::from(events).to_string()).await?;
    assert_eq!((answer.status.as_u16(), &answer.body["accepted"]), (200, &json!(2_000)));
    let (logged, blocks) = world.logged()?;
    let ids: Vec<String> = logged.iter().map(|event| event.id.clone()).collect();
    let sent: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    let mut sorted = ids.clone();
    sorted.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(sorted, sent);
    assert!((8..=11).contains(&blocks), "{blocks} blocks of 256 KiB for 2.3 MB");
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_open_requests_first() -> Result<()> {
    let world = World::start().await?;
    world.gate.hold();
    let (router, key, gate) =
        (world.router.clone(), world.key.text.clone(), Arc::clone(&world.gate));
    let request = tokio::spawn(async move {
        crate::world::send(router, "/v1/events", &[("x-api-key", &key)], event("1", "a").into())
            .await
    });
    world.until("the block", || gate.held().0 == 1).await;
    let (router, key) = (world.router.clone(), world.key.text.clone());
    let stopping = tokio::spawn(world.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!stopping.is_finished(), "it waits for the open request");
    gate.open();
    assert_eq!(request.await??.status, 200);
    stopping.await??;
    let late =
        crate::world::send(router, "/v1/events", &[("x-api-key", &key)], event("2", "a").into())
            .await?;
    assert_eq!((late.status.as_u16(), late.code()), (503, "log_unavailable"));
    Ok(())
}
