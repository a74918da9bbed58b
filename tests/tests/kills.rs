//! kill -9 at random moments while both traces are replayed, and the same sums every time.
//!
//! WEIR_KILLS sets how many kills each scenario makes (5), WEIR_SEED repeats their moments. The fault
//! runs (`faults.rs`) kill under a load of many tenants; here it is what a user does.

use anyhow::{Context as _, Result, ensure};
use benches::spread::Spread;
use tests::{
    broker::Broker,
    canaries::secrets_are_nowhere,
    harness::{oracle::Verdict, report::Run},
    oracle::{self, CHARGE},
    process::Process,
    seed::number,
    system::{ROLES, System, finished},
};

/// Events of both traces.
const EVENTS: i64 = 28_185;

fn kills() -> u64 {
    number("WEIR_KILLS").unwrap_or(5)
}

/// Replays in small requests, begun anew with the same ids whenever one has ended.
struct Replays {
    running: Process,
    rounds: u32,
    repeated: u64,
}

impl Replays {
    fn start(system: &System) -> Result<Self> {
        let running = system.replay("replay-0", &["--batch", "50"])?;
        Ok(Self { running, rounds: 0, repeated: 0 })
    }

    async fn keep_on(&mut self, system: &System) -> Result<()> {
        if !self.running.is_running()? {
            self.end().await?;
            self.rounds += 1;
            self.running = system.replay(&format!("replay-{}", self.rounds), &["--batch", "50"])?;
        }
        Ok(())
    }

    /// Waits for the last one; answers how many requests had to be sent again.
    async fn end(&mut self) -> Result<u64> {
        let output = finished(&mut self.running).await?;
        println!("round {}: {}", self.rounds, output.trim());
        let words: Vec<&str> = output.split_whitespace().collect();
        let place =
            words.iter().position(|word| *word == "requests").context("no count of requests")?;
        self.repeated += words[place - 1].parse::<u64>()?;
        Ok(self.repeated)
    }
}

/// Every row took effect once, however often it was sent.
async fn check(system: &System) -> Result<Verdict> {
    let counts = system.settled(None).await?;
    println!("{counts:?}");
    ensure!(counts["rated"] == EVENTS, "{counts:?}");
    ensure!(
        counts["conflicts"] == 0 && counts["rejected"] == 0 && counts["lost"] == 0,
        "{counts:?}"
    );
    let rows = oracle::rows(&Spread::new(20, 1, 1.0))?;
    system.check_books(&oracle::books(&rows, |_| CHARGE)).await?;
    Ok(Verdict { events: counts["accepted"].unsigned_abs(), ..Verdict::default() })
}

#[tokio::test]
async fn embedded_survives_kills() -> Result<()> {
    let run = Run::new("kills_embedded");
    run.keep(embedded_is_killed(&run).await)
}

async fn embedded_is_killed(run: &Run) -> Result<Verdict> {
    let mut moments = run.moments.clone();
    let mut system = System::embedded().await?;
    let mut replays = Replays::start(&system)?;
    for _ in 0..kills() {
        moments.pause(100, 2_000).await;
        replays.keep_on(&system).await?;
        system.kill("up")?;
        run.story.count("F01", 1);
        // Sometimes it is killed again while it recovers.
        if moments.bits().is_multiple_of(3) {
            let starting = system.spawn("up")?;
            moments.pause(50, 1_500).await;
            starting.kill()?;
            run.story.count("F01", 1);
        }
        system.start("up").await?;
    }
    let repeated = replays.end().await?;
    ensure!(repeated > 0, "no kill interrupted a request");
    let verdict = check(&system).await?;
    secrets_are_nowhere(&system, []).await?;
    Ok(verdict)
}

#[tokio::test]
async fn roles_on_kafka_survive_kills() -> Result<()> {
    let run = Run::new("kills_on_kafka");
    run.keep(roles_are_killed(&run).await)
}

async fn roles_are_killed(run: &Run) -> Result<Verdict> {
    let mut moments = run.moments.clone();
    let broker = Broker::start()?;
    let mut system = System::kafka(&broker, 8).await?;
    let mut replays = Replays::start(&system)?;
    for kill in 0..kills() {
        let role = ROLES[usize::try_from(kill)? % ROLES.len()];
        moments.pause(100, 2_000).await;
        replays.keep_on(&system).await?;
        system.kill(role)?;
        run.story.count("F01", 1);
        moments.pause(1, 500).await;
        system.start(role).await?;
    }
    replays.end().await?;
    let verdict = check(&system).await?;
    secrets_are_nowhere(&system, []).await?;
    Ok(verdict)
}
