//! The archiver on the real engine, a real Postgres and the local log: what arrives, what the views
//! say of it, and what faults at every step do to it (nothing).

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use archiver::Config;
use domain::wire::{
    columns::{self, Column, REJECTED_EVENTS, Table, USAGE_EVENTS},
    row::RowHead,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::clickhouse::ClickHouseError;
use tests::{
    believers::Believers,
    process::freeze,
    proxy::{Fault, Proxy},
    wait::eventually,
};

use crate::world::{FEBRUARY_US, JANUARY_US, TestEvent, Wanted, World, config};

#[path = "archive/world.rs"]
mod world;

/// The steps of an insert, as its requests begin.
const REJECTED: &str = "INSERT+INTO+rejected_events";
const USAGE: &str = "INSERT+INTO+usage_events";
const ARCHIVED: &str = "INSERT+INTO+archived";

/// Waits until a fault has struck, which lets nothing through any more.
async fn struck(proxy: &Proxy) -> Result<()> {
    eventually("the fault strikes", async || Ok(proxy.counts().struck > 0)).await
}

/// Events with every kind of line and outcome, told by their number.
fn events(numbers: std::ops::Range<u32>, append_time_us: i64) -> Vec<TestEvent> {
    let event = |number: u32| TestEvent {
        number,
        team: ["alpha", "beta", "gamma"][number as usize % 3],
        model: ["gpt", "own", "new"][number as usize / 3 % 3],
        tokens: u64::from(number) * 7 + 1,
        time_us: append_time_us - i64::from(number) * 61_000_000,
        outcome: match number % 10 {
            4 => Wanted::Duplicate,
            9 => Wanted::Rejected,
            _ => Wanted::Rated,
        },
    };
    numbers.map(event).collect()
}

/// A raw value at scale 12 as ClickHouse writes decimals.
fn decimal(raw: i128) -> String {
    let (whole, part) = (raw / 1_000_000_000_000, raw % 1_000_000_000_000);
    let text = format!("{whole}.{part:012}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Charge of tokens, plainly: 0.01 for 3 tokens of `gpt`, 10^-12 for one of `own`; `new` has none.
fn charge(event: &TestEvent) -> Option<i128> {
    let tokens = i128::from(event.tokens);
    match event.model {
        // A third is never a tie: the nearest is half up.
        "gpt" => Some((tokens * 10_000_000_000 * 2 + 3) / 6),
        "own" => Some(tokens),
        _ => None,
    }
}

/// Cost of tokens, plainly: 0.002 of `gpt`, 0.5 of `new`; `own` has none.
fn cost(event: &TestEvent) -> Option<i128> {
    let tokens = i128::from(event.tokens);
    match event.model {
        "gpt" => Some(tokens * 2_000_000_000),
        "new" => Some(tokens * 500_000_000_000),
        _ => None,
    }
}

/// What `margin_by_team` must say of the tokens (calls are free and cost nothing).
fn margins(all: &[TestEvent]) -> Vec<String> {
    let mut lines = Vec::new();
    for team in ["alpha", "beta", "gamma"] {
        let of = |model: &'static str| {
            all.iter().filter(move |event| {
                event.team == team && event.model == model && event.outcome == Wanted::Rated
            })
        };
        let calls =
            all.iter().filter(|event| event.team == team && event.outcome == Wanted::Rated).count();
        let charged = |model| of(model).filter_map(charge).sum::<i128>();
        let cost_of = |model| of(model).filter_map(cost).sum::<i128>();
        let (new, own, gpt) = (of("new").count(), of("own").count(), of("gpt").count());
        lines.push(format!("{team}||USD|\\N|{}|{new}|{new}|0|\\N", decimal(cost_of("new"))));
        lines.push(format!("{team}|USD||{}|\\N|{own}|0|{own}|\\N", decimal(charged("own"))));
        let margin = decimal_signed(charged("gpt") - cost_of("gpt"));
        let (charge, cost) = (decimal(charged("gpt")), decimal(cost_of("gpt")));
        lines.push(format!("{team}|USD|USD|{charge}|{cost}|{}|0|0|{margin}", gpt + calls));
    }
    lines
}

fn decimal_signed(raw: i128) -> String {
    if raw < 0 { format!("-{}", decimal(-raw)) } else { decimal(raw) }
}

const MARGINS: &str = "SELECT team, currency, cost_currency, charge, cost, events, unpriced_lines, uncosted_lines, margin
    FROM margin_by_team ORDER BY team, currency, cost_currency";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_exactly_and_views_add_them_up() -> Result<()> {
    let mut world = World::new(2).await?;
    let all = events(0..900, JANUARY_US);
    for (number, part) in all.chunks(30).enumerate() {
        world.rater.batch(0, JANUARY_US + i64::try_from(number)? * 1_000_000, part).await?;
        if number % 7 == 0 {
            world.rater.stale(0, i64::try_from(number)? - 1).await?;
        }
    }
    world.rater.batch(1, JANUARY_US, &[]).await?;
    let archiver = world.archiver(config(100, 50), &world.engine.url(), world.log.clone());
    world.complete().await?;
    eventually("it is ready", async || Ok(archiver.context.readiness.is_ready())).await?;

    // Byte for byte what the rater wrote.
    for (table, want) in [
        (&USAGE_EVENTS, &world.rater.chains[0].bytes),
        (&REJECTED_EVENTS, &world.rater.chains[0].other_bytes),
    ] {
        let (columns, table) = (table.names(), table.name);
        let sql = format!(
            "SELECT {columns} FROM {table} ORDER BY partition, position, `index` FORMAT RowBinary"
        );
        assert!(world.raw(&sql).await? == *want, "{table}");
    }
    heads(&world, &all).await?;

    let rated = || all.iter().filter(|event| event.outcome == Wanted::Rated);
    let by_day = world.lines("SELECT meter, sum(quantity), sum(events) FROM usage_by_day GROUP BY meter ORDER BY meter").await?;
    let tokens: u64 = rated().map(|event| event.tokens).sum();
    assert_eq!(
        by_day,
        [format!("calls|{0}|{0}", rated().count()), format!("tokens|{tokens}|{}", rated().count())]
    );
    assert_eq!(world.lines(MARGINS).await?, margins(&all));
    views_agree(&world).await?;
    twice_and_corrected(&world, &all).await?;

    let text = archiver.context.metrics.render();
    assert!(text.contains("weir_archiver_ignored_total 5"), "{text}");
    archiver.stop().await?;
    Ok(())
}

/// The head of each stored row is what a duplicates table reads from a batch.
async fn heads(world: &World, all: &[TestEvent]) -> Result<()> {
    let columns = "position, `index`, identity, content_hash, event_id, lines.meter";
    let stored = world
        .lines(&format!("SELECT {columns} FROM usage_events ORDER BY position, `index`"))
        .await?;
    let chain = &world.rater.chains[0];
    let mut rest = chain.bytes.as_slice();
    let mut want = Vec::new();
    for (length, event) in
        chain.lengths.iter().zip(all.iter().filter(|event| event.outcome == Wanted::Rated))
    {
        let RowHead { position, index, identity, content } = RowHead::decode(rest)?;
        want.push(format!(
            "{position}|{index}|{identity}|{content}|event-{}-é|['tokens','calls']",
            event.number
        ));
        rest = &rest[*length..];
    }
    assert!(rest.is_empty());
    assert_eq!(stored, want);

    let columns = "tenant_id, source, user, feature, hold, hold_end, quote_charge, quote_currency, time, outcome, lines.charge";
    let rich = world
        .lines(&format!("SELECT {columns} FROM usage_events WHERE event_id = 'event-3-é'"))
        .await?;
    let tenant = world::TENANT;
    let hold = "00000000-0000-0003-0000-000000000005";
    assert_eq!(
        rich,
        [format!(
            "{tenant}|openai|żółw@example.com|chat|{hold}|true|12345678901234567890.123456789012|USD\
             |2026-01-15 11:56:57.000000|rated|[0.000000000022,0]"
        )]
    );
    Ok(())
}

/// All views are sums of the same lines.
async fn views_agree(world: &World) -> Result<()> {
    let sums = |view: &str, columns: &str| {
        format!("SELECT sum(charge), sum(cost), sum({columns}) FROM {view}")
    };
    let want = world.lines("SELECT sum(charge), sum(cost), count() FROM usage_lines").await?;
    for view in
        ["usage_by_hour", "usage_by_day", "margin_by_team", "margin_by_model", "margin_by_day"]
    {
        assert_eq!(world.lines(&sums(view, "events")).await?, want, "{view}");
    }
    let models = "SELECT provider, model, margin IS NULL FROM margin_by_model WHERE model != '' ORDER BY model";
    assert_eq!(world.lines(models).await?, ["openai|gpt|0", "openai|new|1", "openai|own|1"]);
    Ok(())
}

/// A row that is there twice counts once; one that was taken back counts not at all.
async fn twice_and_corrected(world: &World, all: &[TestEvent]) -> Result<()> {
    world
        .clickhouse
        .execute("INSERT INTO usage_events SELECT * FROM usage_events WHERE position < 5")
        .await?;
    let twice = world.number("SELECT toInt64(count()) AS n FROM usage_events").await?;
    assert!(twice > world.rater.chains[0].rows);
    assert_eq!(world.lines(MARGINS).await?, margins(all));
    world
        .clickhouse
        .execute(
            "INSERT INTO usage_events SELECT * REPLACE (toInt8(-1) AS sign, 1 AS rating_run) FROM usage_events
             WHERE event_id = 'event-8-é' OR event_id = 'event-0-é'",
        )
        .await?;
    let left: Vec<TestEvent> =
        all.iter().filter(|event| ![0, 8].contains(&event.number)).copied().collect();
    assert_eq!(world.lines(MARGINS).await?, margins(&left));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_cut_anywhere_is_repeated_and_nothing_doubles() -> Result<()> {
    let mut world = World::new(1).await?;
    let faults = [
        Fault::Before(REJECTED),
        Fault::After(REJECTED),
        Fault::Before(USAGE),
        Fault::After(USAGE),
        Fault::Before(ARCHIVED),
        Fault::After(ARCHIVED),
    ];
    let mut number = 0;
    for (round, fault) in faults.into_iter().enumerate() {
        let (proxy, url) = world.proxy()?;
        for _ in 0..3 {
            world.rater.batch(0, JANUARY_US, &events(number..number + 40, JANUARY_US)).await?;
            number += 40;
        }
        let before = world.steps().await?;
        proxy.set(fault);
        let archiver = world.archiver(config(1_000, 30), &url, world.log.clone());
        struck(&proxy).await?;
        // As good as killed: nothing of it reaches ClickHouse any more.
        archiver.stop().await?;
        let after = world.steps().await?;
        let done = before.iter().zip(&after).take_while(|(before, after)| before < after).count();
        assert_eq!(done, [0, 1, 1, 2, 2, 3][round], "it struck elsewhere: {before:?} {after:?}");
        // What comes next must not change the borders of the group that was begun.
        world.rater.batch(0, JANUARY_US, &events(number..number + 10, JANUARY_US)).await?;
        number += 10;
        let successor =
            world.archiver(config(20 + round, 5), &world.engine.url(), world.log.clone());
        world.complete().await?;
        successor.stop().await?;
    }
    assert_eq!(world.lines(MARGINS).await?, margins(&events(0..number, JANUARY_US)));
    Ok(())
}

/// The groups of three partitions are one flush, which is cut; then the partitions belong to two
/// others, each of which has to repeat the flush for what it owns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_was_cut_is_repeated_by_those_who_share_its_partitions() -> Result<()> {
    let mut world = World::new(3).await?;
    let faults = [Fault::Before(REJECTED), Fault::After(USAGE), Fault::After(ARCHIVED)];
    let (mut number, mut cut, mut rounds) = (0, 0, 0);
    // A partition that is read late has a flush of its own: then the fault has to be tried again.
    while cut < faults.len() {
        rounds += 1;
        assert!(rounds < 20, "flushes of several partitions were cut {cut} times");
        let (proxy, url) = world.proxy()?;
        for partition in 0..3 {
            world
                .rater
                .batch(partition, JANUARY_US, &events(number..number + 30, JANUARY_US))
                .await?;
            number += 30;
        }
        proxy.set(faults[cut]);
        let archiver = world.archiver(config(1_000, 500), &url, world.log.clone());
        struck(&proxy).await?;
        archiver.stop().await?;
        let together: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM archive_groups GROUP BY flush ORDER BY max(created_at) DESC LIMIT 1",
        )
        .fetch_one(&world.pool)
        .await?;
        cut += usize::from(together > 1);
        for partition in 0..3 {
            world
                .rater
                .batch(partition, JANUARY_US, &events(number..number + 10, JANUARY_US))
                .await?;
            number += 10;
        }
        let shares = [vec![0, 2], vec![1]].map(|owned| {
            let log = Arc::new(Believers { log: world.log.clone(), owned });
            world.archiver(config(20, 5), &world.engine.url(), log)
        });
        world.complete().await?;
        for successor in shares {
            successor.stop().await?;
        }
    }
    assert_eq!(world.lines(MARGINS).await?, margins(&events(0..number, JANUARY_US)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archivers_of_one_partition_double_nothing() -> Result<()> {
    let mut world = World::new(2).await?;
    let believers = Arc::new(Believers { log: world.log.clone(), owned: vec![0, 1] });
    let (proxy, url) = world.proxy()?;
    let first = world.archiver(config(25, 10), &world.engine.url(), believers.clone());
    let second = world.archiver(config(60, 25), &url, believers.clone());
    for round in 0..30 {
        // The second is paused in the middle of an insert, and goes on when the first is far ahead.
        match round {
            10 => proxy.set(Fault::Hold(USAGE)),
            25 => proxy.set(Fault::None),
            _ => {}
        }
        for partition in 0..2 {
            world
                .rater
                .batch(partition, JANUARY_US, &events(round * 20..round * 20 + 20, JANUARY_US))
                .await?;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.complete().await?;
    eventually("both are ready", async || {
        Ok(first.context.readiness.is_ready() && second.context.readiness.is_ready())
    })
    .await?;
    let repeats = |text: String| -> u64 {
        let line = text
            .lines()
            .find(|line| line.starts_with("weir_archiver_repeats_total"))
            .unwrap()
            .to_owned();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let seen = repeats(first.context.metrics.render()) + repeats(second.context.metrics.render());
    assert!(seen > 0, "they met");
    first.stop().await?;
    second.stop().await?;
    world.complete().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_were_away_are_caught_up_with() -> Result<()> {
    let mut world = World::new(1).await?;
    let (proxy, url) = world.proxy()?;
    proxy.set(Fault::Refuse);
    let archiver = world.archiver(config(200, 20), &url, world.log.clone());
    for round in 0..20 {
        world.rater.batch(0, JANUARY_US, &events(round * 30..round * 30 + 30, JANUARY_US)).await?;
    }
    eventually("it says that ClickHouse is away", async || {
        let reasons = archiver.context.readiness.not_ready();
        Ok(reasons
            .get("archiver.0")
            .is_some_and(|reason| reason.contains("ClickHouse is unavailable")))
    })
    .await?;
    assert!(!archiver.context.shutdown.is_cancelled(), "the others go on");
    proxy.set(Fault::None);
    world.complete().await?;

    // The engine dies in the middle; the supervisor starts it again.
    kill(Pid::from_raw(i32::try_from(world.engine.process_id())?), Signal::SIGKILL)?;
    for round in 20..40 {
        world.rater.batch(0, JANUARY_US, &events(round * 30..round * 30 + 30, JANUARY_US)).await?;
    }
    world.complete().await?;

    world.postgres.kill_and_restart().await?;
    world.rater.batch(0, JANUARY_US, &events(1_200..1_230, JANUARY_US)).await?;
    world.complete().await?;
    assert_eq!(world.lines(MARGINS).await?, margins(&events(0..1_230, JANUARY_US)));
    eventually("it is ready again", async || Ok(archiver.context.readiness.is_ready())).await?;
    archiver.stop().await?;
    Ok(())
}

/// The engine stands still while each partition gets more than one flush may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_a_flush_is_caught_up_with() -> Result<()> {
    const NAME_BYTES: usize = 16_000;
    const EVENTS: u32 = 100;
    let mut world = World::new(3).await?;
    let flush_bytes: usize = 64 << 20;
    let archiver = world.archiver(
        Config { group_bytes: flush_bytes, ..config(1_000_000, 100) },
        &world.engine.url(),
        world.log.clone(),
    );
    world.rater.batch(0, JANUARY_US, &events(0..9, JANUARY_US)).await?;
    world.complete().await?;
    let engine = Pid::from_raw(i32::try_from(world.engine.process_id())?);
    freeze(world.engine.process_id())?;
    world.rater.name_bytes = NAME_BYTES;
    let mut with_user = 0;
    while world.rater.chains.iter().any(|chain| chain.bytes.len() < flush_bytes * 5 / 4) {
        // Those whose number is a multiple of three have a user; some of them are no new events.
        let part: Vec<TestEvent> = events(0..3 * EVENTS, JANUARY_US)
            .into_iter()
            .filter(|event| event.number.is_multiple_of(3) && event.outcome == Wanted::Rated)
            .collect();
        for partition in 0..3 {
            world.rater.batch(partition, JANUARY_US, &part).await?;
            with_user += part.len();
        }
    }
    kill(engine, Signal::SIGCONT)?;
    world.complete().await?;
    archiver.stop().await?;
    let sql =
        format!("SELECT toInt64(countIf(length(user) = {NAME_BYTES})) AS n FROM usage_events");
    assert_eq!(world.number(&sql).await?, i64::try_from(with_user)?);
    let flushes: i64 = sqlx::query_scalar("SELECT count(DISTINCT flush) FROM archive_groups")
        .fetch_one(&world.pool)
        .await?;
    assert!(flushes > 3, "{flushes} flushes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_ends_where_the_month_of_append_time_does() -> Result<()> {
    let mut world = World::new(1).await?;
    for (time_us, numbers) in [
        (JANUARY_US, 0..20),
        (FEBRUARY_US - 1, 20..40),
        (FEBRUARY_US, 40..60),
        (FEBRUARY_US + 1, 60..80),
    ] {
        world.rater.batch(0, time_us, &events(numbers, JANUARY_US)).await?;
    }
    // Long enough for all four batches to come within one tick.
    let archiver = world.archiver(config(10_000, 2_000), &world.engine.url(), world.log.clone());
    world.complete().await?;
    archiver.stop().await?;
    let groups = world.lines("SELECT from_x, to_x FROM archived AS a ORDER BY a.from_x").await?;
    assert_eq!(groups, ["0|1", "2|3"]);
    let months = "SELECT partition, sum(rows) FROM system.parts WHERE database = 'weir' AND table = 'usage_events' AND active
        GROUP BY partition ORDER BY partition";
    assert_eq!(world.lines(months).await?, ["202601|32", "202602|32"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_stops_its_partition() -> Result<()> {
    // A damaged message that might continue the chain.
    let mut world = World::new(1).await?;
    world.rater.batch(0, JANUARY_US, &events(0..20, JANUARY_US)).await?;
    let damaged = bytes::Bytes::from_static(b"WRRB and then something else");
    world.log.append(archiver::RATED, 0, damaged).outcome().await?;
    let archiver = world.archiver(config(10, 10), &world.engine.url(), world.log.clone());
    let reason = archiver.stopped(0).await?;
    assert!(reason.contains("position 1 of [rated]"), "{reason}");
    archiver.stop().await?;

    // Borders that belong to another log.
    let mut world = World::new(1).await?;
    world.rater.batch(0, JANUARY_US, &events(0..20, JANUARY_US)).await?;
    sqlx::query("INSERT INTO archive_groups (partition, from_x, to_x, from_r, to_r, c) VALUES (0, 0, 0, 0, 0, $1)")
        .bind([7_u8; 32].as_slice())
        .execute(&world.pool)
        .await?;
    let archiver = world.archiver(config(10, 10), &world.engine.url(), world.log.clone());
    let reason = archiver.stopped(0).await?;
    assert!(reason.contains("do not belong together"), "{reason}");
    archiver.stop().await?;
    assert_eq!(world.number("SELECT toInt64(count()) AS n FROM usage_events").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_columns_of_rows_are_those_of_the_tables() -> Result<()> {
    let world = World::new(1).await?;
    for Table { name, columns } in [&USAGE_EVENTS, &REJECTED_EVENTS, &columns::ARCHIVED] {
        let sql = format!(
            "SELECT name, type FROM system.columns
             WHERE database = 'weir' AND table = '{name}' AND name <> 'archived_at' ORDER BY position"
        );
        // A quote is escaped in the answer. Events arrive with words in a dictionary, and the table
        // keeps them as strings.
        let kept = |data_type: &str| match *name {
            "usage_events" => data_type.replace("LowCardinality(String)", "String"),
            _ => data_type.to_owned(),
        };
        let of = |column: &Column| {
            format!("{}|{}", column.name, kept(column.data_type).replace('\'', "\\'"))
        };
        let want: Vec<String> = columns.iter().map(of).collect();
        assert_eq!(world.lines(&sql).await?, want, "{name}");
    }
    // A row cut short is refused, not stored in part.
    let refused = world
        .clickhouse
        .insert(
            "usage_events",
            &USAGE_EVENTS.names(),
            "RowBinary",
            "cut",
            [Ok::<_, ClickHouseError>(vec![1; 50].into())],
        )
        .await;
    assert!(matches!(refused, Err(ClickHouseError::Refused { .. })), "{refused:?}");
    Ok(())
}
