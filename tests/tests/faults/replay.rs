//! F15: every event is sent again, over HTTP in other requests and through doors, and nothing changes.

use anyhow::{Context as _, Result, ensure};
use benches::generator::Fate;
use tests::harness::{
    oracle::ledger_hash,
    plan::Form,
    traffic::{Sending, Traffic},
    world::{Rest, bases},
};

use crate::door::Doors;

/// As fast as they are answered.
const RATE: u64 = 1_000_000;
/// Tenants whose events come through their doors, too: the largest ones.
const TENANTS_WITH_DOORS: usize = 3;

async fn repeats(rest: &Rest) -> Result<i64> {
    let mut connection = rest.world.system.postgres().await?;
    let sql = "SELECT coalesce(sum(duplicates), 0)::bigint FROM partition_counts";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

/// All of it again; poison comes through the doors as well (F18).
pub async fn over_http_and_a_door(rest: &mut Rest) -> Result<()> {
    let world = &rest.world;
    let hash = ledger_hash(&mut world.system.postgres().await?).await?;
    let before = repeats(rest).await?;
    let sending =
        Sending { rate: RATE, end: Some(rest.sent.numbers / world.plan.window), split: true };
    let bases = bases(&world.system)?;
    let again = Traffic::start(&world.plan, &world.tenants, &bases, &world.story, sending)?
        .finish()
        .await?;
    ensure!(again.numbers == rest.sent.numbers, "{} events were sent again", again.numbers);
    world.story.tell(format!("F15: {} events sent again over HTTP", again.numbers));
    let expected = before + again.records.len() as i64 - rejected(rest);
    are_repeats(rest, expected).await?;
    // More only where a request had no answer and was sent once more.
    let more = repeats(rest).await? - expected;
    ensure!(more == 0 || again.tally.repeated > 0, "{more} repeats too many");

    let broker = world.broker.as_ref().context("no broker")?;
    let doors = Doors::make(&world.system, broker, &world.tenants[..TENANTS_WITH_DOORS]).await?;
    let mut through_doors = 0;
    for number in 0..rest.sent.numbers {
        let tenant = world.plan.tenant(number);
        if tenant < TENANTS_WITH_DOORS && world.plan.generator().fate(number) == Fate::Rated {
            let body = world.plan.body(&[number], Form::Plain);
            doors.send(tenant, &body[1..body.len() - 1])?;
            through_doors += 1;
        }
    }
    doors.poison(rest).await?;
    world.story.tell(format!("F15: {through_doors} events sent again through doors"));

    // Messages of a door that changes hands may be read twice.
    are_repeats(rest, expected + more + through_doors).await?;
    let now = ledger_hash(&mut world.system.postgres().await?).await?;
    ensure!(now == hash, "the ledger has changed");
    world.story.count("F15", 1);
    Ok(())
}

/// Waits until so many repeats or more are posted, and all that was accepted.
async fn are_repeats(rest: &Rest, expected: i64) -> Result<()> {
    let seen = async |_: &_| Ok((repeats(rest).await? >= expected).then_some(()));
    rest.world.until("every repeat is a duplicate", seen).await?;
    rest.settle().await
}

/// Events that are rejected each time.
fn rejected(rest: &Rest) -> i64 {
    let rejected = |number: &u64| rest.world.plan.generator().fate(*number) == Fate::Rejected;
    (0..rest.sent.numbers).filter(rejected).count() as i64
}
