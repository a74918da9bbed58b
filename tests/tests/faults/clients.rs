//! F20 and F25: links are cut one by one, and clients hang up at any byte.

use anyhow::{Result, ensure};
use sqlx::Row as _;
use tests::harness::{traffic, world::World};

/// Of the clients that hang up, one in so many asks the api for a change.
const CHANGES: u64 = 10;

/// F25: clients hang up; nothing is done by half, and no session stays in a transaction.
pub async fn hang_up(world: &mut World) -> Result<()> {
    let (times, before) = (world.tier.hang_ups, world.traffic.tally().hung_up);
    world.traffic.hang_up(times);
    let base = world.system.api()?.base;
    let host = base.trim_start_matches("http://").to_owned();
    for number in 0..times / CHANGES {
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
    ensure!((teams, teams) == (changes, answers), "by half: {teams} teams, {changes} changes, {answers} answers");
    ensure!(teams > 0 && teams < i64::try_from(times)?, "{teams} of the teams were made");
    world.story.count("F25", times + times / CHANGES);
    world.story.tell(format!("F25: {times} clients hung up at ingest, {} at the api", times / CHANGES));
    Ok(())
}

/// F20: a random part of the links is cut one by one and healed in another order.
pub async fn links_are_cut(world: &mut World) -> Result<()> {
    for round in 0..world.tier.swizzles {
        world.moment().await?;
        let (told, bitten) = world.links.swizzle(&mut world.moments).await;
        ensure!(bitten > 0, "no cut was noticed: {told:?}");
        world.story.count("F20", 1);
        world.story.tell(format!("F20 {}: {bitten} of {} noticed: {}", round + 1, told.len(), told.join(", ")));
        world.traffic.flow(world.plan.window).await?;
    }
    Ok(())
}
