//! F01 and F03: processes end, at once or when they are told to.

use anyhow::{Result, ensure};
use tests::harness::world::{World, bases};

/// F01: kill -9 at random moments; sometimes all copies of a role, sometimes again while it starts.
pub async fn are_killed(world: &mut World, roles: &[&str]) -> Result<()> {
    let repeated = world.traffic.tally().repeated;
    for kill in 0..world.tier.kills {
        for role in roles {
            world.moment().await?;
            let mut names = world.of_role(role);
            world.moments.shuffle(&mut names);
            if !world.moments.bits().is_multiple_of(3) {
                names.truncate(1);
            }
            kill_and_start(world, &names).await?;
            world.story.tell(format!("F01 {}: {names:?} killed and back", kill + 1));
        }
    }
    let repeated = world.traffic.tally().repeated - repeated;
    ensure!(repeated > 0, "no kill interrupted a request");
    Ok(())
}

async fn kill_and_start(world: &mut World, names: &[String]) -> Result<()> {
    for name in names {
        ensure!(world.system.process(name)?.is_running()?, "{name} had ended by itself");
        world.system.kill(name)?;
        world.story.count("F01", 1);
    }
    world.moments.pause(1, 1_500).await;
    for name in names {
        if world.moments.bits().is_multiple_of(4) {
            let starting = world.system.spawn(name)?;
            world.moments.pause(20, 1_000).await;
            starting.kill()?;
            world.story.count("F01", 1);
        }
        world.system.start(name).await?;
    }
    world.traffic.send_to(bases(&world.system)?);
    Ok(())
}

/// F03: SIGTERM under load; it drains and ends well.
pub async fn are_told_to_stop(world: &mut World, roles: &[&str]) -> Result<()> {
    for stop in 0..world.tier.terminations {
        let role = roles[stop as usize % roles.len()];
        world.moment().await?;
        let names = world.of_role(role);
        let name = &names[world.moments.below(names.len())];
        let (code, time) = world.system.take(name)?.terminate().await?;
        ensure!(code == Some(0), "SIGTERM ended {name} with {code:?}");
        world.system.start(name).await?;
        world.traffic.send_to(bases(&world.system)?);
        world.story.count("F03", 1);
        world.story.tell(format!("F03 {}: {name} drained in {time:?}", stop + 1));
    }
    Ok(())
}
