//! F20 and F25: links are cut one by one, and clients hang up at any byte.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Row as _;
use tests::harness::{disk::LogFrom, traffic, world::World};
use tokio::time::sleep;

/// Of the clients that hang up, one in so many asks the api for a change.
const CHANGES: u64 = 10;

/// Longer than Postgres lets a session idle in a transaction, which `runtime::postgres` tells it.
const IDLE_TIME: Duration = Duration::from_secs(6);
/// What Postgres says when it ends one that has.
pub const IDLE: &str = "idle-in-transaction timeout";

/// F25: clients hang up; nothing is done by half, and no session stays in a transaction.
pub async fn hang_up(world: &mut World) -> Result<()> {
    let log = LogFrom::now(&world.system.postgres_log()?)?;
    let (times, before) = (world.tier.hang_ups, world.traffic.tally().hung_up);
    world.traffic.hang_up(times);
    let host = world.system.api()?.base.trim_start_matches("http://").to_owned();
    let changes = times / CHANGES;
    for number in 0..changes {
        let body = format!(r#"{{"team":"gone-{number}"}}"#);
        let text = format!(
            "POST /v1/teams HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nIdempotency-Key: gone-{number}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            world.tenants[0].key,
            body.len()
        );
        traffic::hang_up(&host, text.as_bytes(), world.moments.bits()).await?;
    }
    world.traffic.until("clients hung up", |now| now.hung_up >= before + times).await?;
    let made = made_whole(world).await?;
    for number in 0..changes {
        make_team(world, number).await?;
    }
    let all = made_whole(world).await?;
    ensure!(all == i64::try_from(changes)?, "{all} of {changes} teams were made");
    sleep(IDLE_TIME).await;
    let idle = log.line_with(IDLE)?;
    ensure!(idle.is_none(), "a session was left in a transaction: {idle:?}");
    world.story.count("F25", times + changes);
    world.story.tell(format!(
        "F25: {times} clients hung up at ingest, {changes} at the api, {made} too late"
    ));
    Ok(())
}

/// The teams that were made; each has its row of the changes and its answer.
async fn made_whole(world: &World) -> Result<i64> {
    let mut connection = world.system.postgres().await?;
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM teams WHERE tenant_id = $1 AND team LIKE 'gone-%') AS teams,
            (SELECT count(*) FROM privileged_changes WHERE tenant_id = $1 AND action = 'POST /v1/teams') AS changes,
            (SELECT count(*) FROM idempotency WHERE tenant_id = $1 AND key LIKE 'gone-%') AS answers",
    )
    .bind(world.tenants[0].id)
    .fetch_one(&mut connection)
    .await?;
    let (teams, changes, answers): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(
        (teams, teams) == (changes, answers),
        "by half: {teams} teams, {changes} changes, {answers} answers"
    );
    Ok(teams)
}

/// Asks for the same again, with the same key, until it is answered.
async fn make_team(world: &World, number: u64) -> Result<()> {
    let url = format!("{}/v1/teams", world.system.api()?.base);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let made = async |world: &World| {
        let request = client.post(&url).bearer_auth(&world.tenants[0].key);
        let request = request.header("Idempotency-Key", format!("gone-{number}"));
        let request = request.json(&serde_json::json!({"team": format!("gone-{number}")}));
        Ok((request.send().await?.status() == 201).then_some(()))
    };
    world.until("the team is made", made).await
}

/// F20: a random part of the links is cut one by one and healed in another order.
pub async fn links_are_cut(world: &mut World) -> Result<()> {
    for round in 0..world.tier.swizzles {
        world.moment().await?;
        let (told, bitten) = world.links.swizzle(&mut world.moments).await;
        ensure!(bitten > 0, "no cut was noticed: {told:?}");
        world.story.count("F20", 1);
        world.story.tell(format!(
            "F20 {}: {bitten} of {} noticed: {}",
            round + 1,
            told.len(),
            told.join(", ")
        ));
        world.traffic.flow(world.plan.window).await?;
    }
    Ok(())
}
