//! F17: clocks are wrong. No amount differs; only what ingest takes for the future moves, by as much.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{harness::world::{World, bases}, process::Http};

/// Whose clock is wrong, by how much: seconds, and as faketime says it.
const SKEWS: [(&[&str], i64, &str); 6] = [
    (&["ingest", "ingest.2"], -600, "-10m"),
    (&["rater", "ledger-writer"], 86_400, "+1d"),
    (&["ingest", "archiver"], 600, "+10m"),
    (&["rater", "archiver"], -86_400, "-1d"),
    (&["api", "ledger-writer"], -86_400, "-1d"),
    (&["rater", "ingest"], 0, "+0 x2"),
];
/// How far a clock may be from where it was put, and the margin around the limit for the future.
const MARGIN_S: i64 = 60;
/// More than this in the future is rejected.
const FUTURE_S: i64 = 300;

/// A command that starts another one with a wrong clock. The monotonic one stays right: timers of
/// real machines do not jump either.
fn wrapper(skew: &str) -> [&str; 7] {
    ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-m", "--exclude-monotonic", "-f", skew]
}

fn now_s() -> i64 {
    runtime::task::now_us() / 1_000_000
}

/// How far a process' clock is from ours, by the date of its answers.
async fn skew_of(world: &World, name: &str) -> Result<i64> {
    let answer = reqwest::get(format!("{}/health", world.system.base(name)?)).await?;
    let date = answer.headers().get("date").context("no date")?.to_str()?;
    let seen = jiff_seconds(date)?;
    Ok(seen - now_s())
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn jiff_seconds(date: &str) -> Result<i64> {
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, _] = words[..] else {
        anyhow::bail!("{date:?} is no date");
    };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|name| *name == month).context("no month")?;
    let text = format!("{year}-{month:02}-{day}T{hour}:{minute}:{second}Z");
    Ok(domain::time::parse(&text).context("no time")? / 1_000_000)
}

/// Each of the tier's skews in turn, on the processes of a few roles.
pub async fn are_wrong(world: &mut World) -> Result<()> {
    for (names, seconds, skew) in SKEWS.into_iter().take(world.tier.skews) {
        world.moment().await?;
        restart_with(world, names, &wrapper(skew)).await?;
        world.story.tell(format!("F17: clocks of {names:?} at {skew}"));
        if seconds != 0 {
            for name in names {
                let found = skew_of(world, name).await?;
                ensure!((found - seconds).abs() <= MARGIN_S, "{name}'s clock is at {found} s");
            }
            if names[0].starts_with("ingest") {
                the_future_has_moved(world, names[0], seconds).await?;
            }
        }
        world.traffic.flow(4 * world.plan.window).await?;
        restart_with(world, names, &[]).await?;
        world.story.count("F17", names.len() as u64);
        world.story.tell(format!("F17: clocks of {names:?} right again"));
    }
    Ok(())
}

async fn restart_with(world: &mut World, names: &[&str], wrapper: &[&str]) -> Result<()> {
    for name in names {
        let (code, _) = world.system.take(name)?.terminate().await?;
        ensure!(code == Some(0), "SIGTERM ended {name} with {code:?}");
        world.system.wrap(name, wrapper);
        world.system.start(name).await?;
    }
    world.traffic.send_to(bases(&world.system)?);
    Ok(())
}

/// What ingest takes for the future is later or earlier by the skew, and nothing else.
async fn the_future_has_moved(world: &World, name: &str, seconds: i64) -> Result<()> {
    let ingest = Http::new(&world.system.base(name)?, world.system.key())?;
    for (at, accepted) in [
        (seconds + FUTURE_S - MARGIN_S, true),
        (seconds + FUTURE_S + MARGIN_S, false),
    ] {
        let event = json!({
            "id": format!("clock-{seconds}-{at}"), "type": "clock", "source": "clock", "subject": "clock",
            "time": domain::time::format((now_s() + at) * 1_000_000), "data": {},
        });
        let (status, answer) = ingest.exchange("POST", "/v1/events", event.to_string().into_bytes()).await?;
        let future = answer["code"] == Value::from("time_in_future");
        ensure!(
            (status == 200) == accepted && future != accepted,
            "an event at {at} s by a clock at {seconds} s: {status}: {answer}"
        );
    }
    Ok(())
}

/// The same of `weir up`, with all that it brings along.
pub async fn of_everything_is_wrong(world: &mut World) -> Result<()> {
    for (seconds, skew) in [(600, "+10m"), (-600, "-10m")] {
        world.moment().await?;
        restart_with(world, &["up"], &wrapper(skew)).await?;
        let found = skew_of(world, "up").await?;
        ensure!((found - seconds).abs() <= MARGIN_S, "the clock is at {found} s");
        world.story.tell(format!("F17: all clocks at {skew}"));
        world.traffic.flow(4 * world.plan.window).await?;
        world.story.count("F17", 1);
    }
    world.moment().await?;
    restart_with(world, &["up"], &[]).await?;
    world.story.tell("F17: all clocks right again");
    Ok(())
}
