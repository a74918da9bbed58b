//! Sends a generator's events from several connections until each has a definite answer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use benches::generator::{Generator, TimeText, due_after};
use hdrhistogram::Histogram;
use runtime::{
    shutdown::Shutdown,
    task::{TaskError, Tasks},
};

use super::connection::Connection;

/// Threads of the load are called so; their time is the generator's.
pub const THREAD_NAME: &str = "generator";
/// How long a request is sent again before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What to send, how fast, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Makes the events.
    pub generator: Generator,
    /// Events at most.
    pub events: u64,
    /// Events of a request.
    pub batch: u64,
    /// Events per second, of all connections together; as many as can be if there is none.
    pub rate: Option<u64>,
    /// Time after which no new request is made.
    pub duration: Option<Duration>,
    /// Connections, each with a thread of its own.
    pub connections: u32,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The events with numbers below this are in the log, all of them.
    pub events: u64,
    /// Requests that were sent more than once.
    pub repeated: u64,
    /// From the start to the last answer.
    pub time: Duration,
    /// Microseconds from a request's first byte to its definite answer.
    pub http_us: Histogram<u64>,
    /// Of it, those of the attempt that was answered so.
    pub attempt_us: Histogram<u64>,
}

/// Microseconds in 3 digits, up to 2 minutes.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

/// What the threads share.
struct Shared {
    plan: Plan,
    started: Instant,
    /// The next request's number.
    next: AtomicU64,
    sent: Mutex<Sent>,
    shutdown: Shutdown,
}

/// Sends the whole plan. `connection` makes a connection.
pub async fn send(
    plan: Plan,
    connection: impl Fn() -> Connection,
    parent: &Shutdown,
) -> Result<Sent> {
    let nothing = Sent {
        events: 0,
        repeated: 0,
        time: Duration::ZERO,
        http_us: histogram()?,
        attempt_us: histogram()?,
    };
    let connections = plan.connections;
    let shared = Arc::new(Shared {
        plan,
        started: Instant::now(),
        next: AtomicU64::new(0),
        sent: Mutex::new(nothing),
        shutdown: parent.clone(),
    });
    let mut tasks = Tasks::new(parent);
    for number in 0..connections {
        let (shared, connection) = (Arc::clone(&shared), connection());
        tasks.spawn_thread(format!("{THREAD_NAME}-{number}"), move || {
            shared.run(connection).map_err(TaskError::from)
        })?;
    }
    tasks.drain(Duration::from_secs(u64::from(u32::MAX))).await?;
    let sent = shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(sent.clone())
}

impl Shared {
    /// One connection's thread: takes the next request until there is none.
    fn run(&self, mut connection: Connection) -> Result<()> {
        let (mut clock, mut http_us) = (TimeText::default(), histogram()?);
        let mut attempt_us = histogram()?;
        let (mut events, mut repeated) = (0, 0);
        while !self.shutdown.is_cancelled()
            && self.plan.duration.is_none_or(|time| self.started.elapsed() < time)
        {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let from = number.saturating_mul(self.plan.batch);
            let to = from.saturating_add(self.plan.batch).min(self.plan.events);
            if from >= to {
                break;
            }
            if let Some(rate) = self.plan.rate {
                let due = self.started + due_after(from, rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let generator = &self.plan.generator;
            let tenant = usize::try_from(generator.tenant(from))?;
            connection.prepare(tenant, |body| generator.write_array(from..to, &mut clock, body));
            let sent = Instant::now();
            let (attempts, last) = until_definite(&mut connection, to - from)?;
            repeated += u64::from(attempts > 1);
            http_us.saturating_record(micros(sent.elapsed()));
            attempt_us.saturating_record(micros(last.elapsed()));
            events = events.max(to);
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.events = sent.events.max(events);
        sent.repeated += repeated;
        sent.time = sent.time.max(self.started.elapsed());
        sent.http_us.add(&http_us)?;
        sent.attempt_us.add(&attempt_us)?;
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Sends what was prepared, with the same ids, until all of it is in the log; answers how
/// many attempts it took and when the last one began.
fn until_definite(connection: &mut Connection, events: u64) -> Result<(u32, Instant)> {
    let whole = format!("{{\"accepted\":{events},\"rejected\":0,");
    let (mut pause, deadline) = (PAUSE_MIN, Instant::now() + PATIENCE);
    for attempt in 1.. {
        let began = Instant::now();
        let reason = match connection.send() {
            Ok(answer)
                if answer.status == 200
                    && connection.body(&answer).starts_with(whole.as_bytes()) =>
            {
                return Ok((attempt, began));
            }
            Ok(answer) => {
                let text = String::from_utf8_lossy(connection.body(&answer))
                    .chars()
                    .take(400)
                    .collect::<String>();
                let text = format!("{} {text}", answer.status);
                if answer.status < 500 && answer.status != 429 && answer.status != 408 {
                    bail!("a request was not accepted as a whole: {text}");
                }
                pause = answer.retry_after.unwrap_or(pause);
                anyhow::anyhow!(text)
            }
            Err(error) => error.into(),
        };
        if Instant::now() + pause > deadline {
            return Err(reason).context("no definite answer for a minute");
        }
        std::thread::sleep(pause.min(PAUSE_MAX));
        pause = (pause * 2).min(PAUSE_MAX);
    }
    bail!("more attempts than can be counted")
}
