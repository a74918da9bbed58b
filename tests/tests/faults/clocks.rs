//! F17: clocks are wrong. No amount differs (INV-18); only what ingest takes for the future moves, by
//! as much.

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tests::{harness::world::World, process::Http};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Whose clock jumps while it works, and by how much, one after the other.
const SKEWS: [(&[&str], [i64; 2]); 6] = [
    (&["ingest", "ingest.2"], [-10 * MINUTE, 10 * MINUTE]),
    (&["rater", "ledger-writer", "archiver"], [DAY, -HOUR]),
    (&["rater", "rater.2"], [10 * MINUTE, -10 * MINUTE]),
    (&["archiver", "archiver.2", "api"], [-DAY, DAY]),
    (&["ledger-writer", "ledger-writer.2"], [HOUR, 0]),
    (&["ingest", "api"], [DAY, -HOUR]),
];
/// How near to the limit for the future it is tried.
const MARGIN: i64 = MINUTE;
/// More than this in the future is rejected.
const FUTURE: i64 = 5 * MINUTE;

fn now_s() -> i64 {
    runtime::task::now_us() / 1_000_000
}

/// Each of the tier's skews in turn.
pub async fn are_wrong(world: &mut World) -> Result<()> {
    for (names, skews) in SKEWS.into_iter().take(world.tier.skews) {
        world.moment().await?;
        for skew in skews {
            jump(world, names, skew).await?;
        }
        put_right(world, names).await?;
    }
    run_twice_as_fast(world, &["ingest", "rater", "ledger-writer", "archiver", "api"]).await?;
    postings_have_the_databases_time(world).await
}

/// INV-18: when something was posted is Postgres' time, which was right, and no ledger-writer's.
async fn postings_have_the_databases_time(world: &World) -> Result<()> {
    let mut connection = PgConnection::connect(world.system.postgres_url()).await?;
    let (windows, off): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE posted_at > now() OR posted_at < before) FROM (
             SELECT posted_at, lag(posted_at) OVER (PARTITION BY partition ORDER BY position_to) AS before FROM audit) windows",
    )
    .fetch_one(&mut connection)
    .await?;
    ensure!(
        windows > 0 && off == 0,
        "{off} of {windows} windows are of the future, or earlier than the one before"
    );
    Ok(())
}

async fn run_twice_as_fast(world: &World, names: &[&str]) -> Result<()> {
    for name in names {
        world.clocks.set_twice_as_fast(name)?;
    }
    world.story.tell(format!("F17: clocks of {names:?} run twice as fast"));
    world.traffic.flow(4 * world.plan.window).await?;
    the_clocks_were_read(world, names)?;
    put_right(world, names).await
}

/// That the fault bit, and is counted.
fn the_clocks_were_read(world: &World, names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(world.clocks.reads(name)? > 0, "{name} did not look at its clock");
    }
    world.story.count("F17", names.len() as u64);
    Ok(())
}

async fn put_right(world: &World, names: &[&str]) -> Result<()> {
    for name in names {
        world.clocks.set(name, 0)?;
    }
    world.story.tell(format!("F17: clocks of {names:?} are right again"));
    world.traffic.flow(world.plan.window).await
}

async fn jump(world: &World, names: &[&str], skew: i64) -> Result<()> {
    for name in names {
        world.clocks.set(name, skew)?;
    }
    world.story.tell(format!("F17: clocks of {names:?} at {skew} s"));
    for name in names.iter().filter(|name| name.starts_with("ingest") || **name == "up") {
        the_future_has_moved(world, name, skew).await?;
    }
    world.traffic.flow(4 * world.plan.window).await?;
    // A clock that was put right again counts no reads.
    if skew != 0 { the_clocks_were_read(world, names) } else { Ok(()) }
}

/// What ingest takes for the future is later or earlier by the skew, and nothing else.
async fn the_future_has_moved(world: &World, name: &str, skew: i64) -> Result<()> {
    let ingest = Http::new(&world.system.base(name)?, world.system.key())?;
    for (at, accepted) in [(skew + FUTURE - MARGIN, true), (skew + FUTURE + MARGIN, false)] {
        let event = json!({
            "id": format!("clock-{name}-{at}"), "type": "clock", "source": "clock", "subject": "clock",
            "time": domain::time::format((now_s() + at) * 1_000_000), "data": {},
        });
        let body = event.to_string().into_bytes();
        let answered = async |_: &World| {
            let (status, answer) = ingest.exchange("POST", "/v1/events", body.clone()).await?;
            // Under this load it may have to be asked again.
            Ok((![429, 503].contains(&status)).then_some((status, answer)))
        };
        let (status, answer) = world.until("an answer", answered).await?;
        let future = answer.to_string().contains("time_in_future");
        ensure!(
            (status == 200) == accepted && future != accepted,
            "an event at {at} s by a clock at {skew} s: {status}: {answer}"
        );
    }
    Ok(())
}

/// The same of `weir up`, with all that it brings along.
pub async fn of_everything_are_wrong(world: &mut World) -> Result<()> {
    for skew in [10 * MINUTE, -10 * MINUTE, DAY, -HOUR] {
        world.moment().await?;
        jump(world, &["up"], skew).await?;
    }
    put_right(world, &["up"]).await?;
    run_twice_as_fast(world, &["up"]).await
}
