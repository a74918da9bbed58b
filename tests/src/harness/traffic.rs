//! Clients: they send a plan's windows at a steady rate, and each keeps sending the same ids until it
//! has a definite answer. What they know of every event is kept for the oracle.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use benches::generator::mix;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::Mutex as AsyncMutex,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    answers::{self, Outcome, Reading},
    plan::{Form, LATE_WINDOWS_MAX, Plan},
    poison,
    story::Story,
    tenants::Tenant,
};

/// Windows that are on their way at once.
const WORKERS: usize = 4;
/// How long a client waits for an answer: longer than ingest may take to say that it does not know.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// A client without a definite answer after so long has found a system that does not heal.
const DEFINITE_TIME_MAX: Duration = Duration::from_secs(300);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(1_000);
/// Wrong answers that are kept.
const WRONG_MAX: usize = 20;
/// How long it may take until events are accepted again, on a busy machine.
const FLOW_TIME_MAX: Duration = Duration::from_secs(120);

/// What a client knows of an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// When it was first sent, in milliseconds of the story.
    pub first_ms: u64,
    /// When it had its definite answer.
    pub done_ms: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// The answer.
    pub outcome: Outcome,
}

/// What clients have seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Events accepted.
    pub accepted: u64,
    /// Requests that were sent again.
    pub repeated: u64,
    /// Answers 503 or 429.
    pub unavailable: u64,
    /// The longest time from a request to its answer 503.
    pub unavailable_time: Duration,
    /// Requests that had a definite answer at their first attempt, by time: the place is the number of
    /// binary digits of its milliseconds.
    pub answer_times: [u64; 24],
    /// Connections that failed, and answers that did not come.
    pub broken: u64,
    /// Requests of poison that were refused.
    pub poison: u64,
    /// Clients that hung up.
    pub hung_up: u64,
    /// Answers that no promise allows.
    pub wrong: Vec<String>,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Numbers below this.
    pub numbers: u64,
    /// What clients know of each.
    pub records: Vec<Record>,
    /// What they have seen.
    pub tally: Tally,
}

impl Tally {
    /// The milliseconds within which 99 of 100 requests since `before` had their answer at the first
    /// attempt: the next power of two.
    pub fn answered_within_ms(&self, before: &Tally) -> u64 {
        let times = self.answer_times.iter().zip(before.answer_times).map(|(now, then)| now - then);
        let most = times.clone().sum::<u64>() * 99 / 100;
        let mut seen = 0;
        let within = times.take_while(|count| {
            seen += count;
            seen < most
        });
        1 << within.count()
    }
}

impl Sent {
    /// Events a second, from the first request to the last answer.
    pub fn rate(&self) -> u64 {
        let first = self.records.iter().map(|record| record.first_ms).min().unwrap_or_default();
        let last = self.records.iter().map(|record| record.done_ms).max().unwrap_or_default();
        self.numbers * 1_000 / last.saturating_sub(first).max(1)
    }
}

struct Pace {
    next: u64,
    end: u64,
    due: Instant,
}

struct Shared {
    plan: Plan,
    tenants: Vec<Tenant>,
    story: Story,
    client: reqwest::Client,
    bases: RwLock<Vec<String>>,
    rate: AtomicU64,
    hang_ups: AtomicU64,
    split: bool,
    pace: AsyncMutex<Pace>,
    known: Mutex<(Vec<Record>, Tally)>,
}

/// Clients at work.
pub struct Traffic {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

/// How a plan is sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Events per second.
    pub rate: u64,
    /// The first window that is not sent any more; `None` goes on until it is stopped.
    pub end: Option<u64>,
    /// Whether the events of a request are shuffled and split into requests of random sizes.
    pub split: bool,
}

impl Traffic {
    /// Begins to send to `bases`.
    pub fn start(
        plan: &Plan,
        tenants: &[Tenant],
        bases: &[String],
        story: &Story,
        sending: Sending,
    ) -> Result<Traffic> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIME_MAX).build()?;
        let end = sending.end.unwrap_or(u64::MAX / plan.window);
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            tenants: tenants.to_vec(),
            story: story.clone(),
            client,
            bases: RwLock::new(bases.to_vec()),
            rate: AtomicU64::new(sending.rate.max(1)),
            hang_ups: AtomicU64::new(0),
            split: sending.split,
            pace: AsyncMutex::new(Pace { next: 0, end, due: Instant::now() }),
            known: Mutex::default(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(&shared)));
        }
        Ok(Traffic { shared, workers })
    }

    /// So many further windows are on their way at once from now on.
    pub fn widen(&mut self, windows: usize) {
        for _ in 0..windows {
            self.workers.spawn(work(Arc::clone(&self.shared)));
        }
    }

    /// Where requests go from now on.
    pub fn send_to(&self, bases: Vec<String>) {
        *self.shared.bases.write().unwrap_or_else(PoisonError::into_inner) = bases;
    }

    /// So many events a second are sent from now on.
    pub fn send_at(&self, rate: u64) {
        self.shared.rate.store(rate.max(1), Ordering::SeqCst);
    }

    /// The next so many requests are begun by a client that hangs up, before they are sent properly.
    pub fn hang_up(&self, times: u64) {
        self.shared.hang_ups.fetch_add(times, Ordering::SeqCst);
    }

    /// What clients have seen so far.
    pub fn tally(&self) -> Tally {
        self.shared.known().1.clone()
    }

    /// Waits until so many more events are accepted, so that a fault meets some on their way.
    pub async fn flow(&self, events: u64) -> Result<()> {
        let before = self.tally().accepted;
        let deadline = Instant::now() + FLOW_TIME_MAX;
        while self.tally().accepted < before + events {
            ensure!(Instant::now() < deadline, "no events are accepted any more");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until `seen` holds of what clients have seen.
    pub async fn until(&self, what: &str, seen: impl Fn(&Tally) -> bool) -> Result<()> {
        let deadline = Instant::now() + FLOW_TIME_MAX;
        while !seen(&self.tally()) {
            ensure!(Instant::now() < deadline, "not in time: {what}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Sends no further windows, and waits until every event has its definite answer.
    pub async fn stop(&mut self) -> Result<Sent> {
        {
            let mut pace = self.shared.pace.lock().await;
            pace.end = pace.end.min(pace.next);
        }
        self.finish().await
    }

    /// Waits until all windows are sent and every event has its definite answer.
    pub async fn finish(&mut self) -> Result<Sent> {
        while let Some(ended) = self.workers.join_next().await {
            ended?;
        }
        let numbers = self.shared.pace.lock().await.end * self.shared.plan.window;
        let (records, tally) = self.shared.known().clone();
        if let Some(wrong) = tally.wrong.first() {
            bail!("{} wrong answers, the first: {wrong}", tally.wrong.len());
        }
        ensure!(records.len() as u64 == numbers, "{} of {numbers} events were sent", records.len());
        Ok(Sent { numbers, records, tally })
    }
}

/// Sends one window after the other.
async fn work(shared: Arc<Shared>) {
    loop {
        let (window, end) = {
            let mut pace = shared.pace.lock().await;
            if pace.next >= pace.end + LATE_WINDOWS_MAX {
                return;
            }
            sleep_until(pace.due).await;
            let rate = shared.rate.load(Ordering::SeqCst);
            let gap = Duration::from_nanos(shared.plan.window * 1_000_000_000 / rate);
            pace.due = pace.due.max(Instant::now()) + gap;
            pace.next += 1;
            (pace.next - 1, pace.end)
        };
        shared.window(window, end).await;
    }
}

/// A request of one tenant.
struct Request {
    tenant: usize,
    numbers: Vec<u64>,
    form: Form,
}

impl Shared {
    fn known(&self) -> std::sync::MutexGuard<'_, (Vec<Record>, Tally)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn window(self: &Arc<Self>, window: u64, end: u64) {
        let numbers = self.plan.numbers(window, end);
        self.requests(&numbers, Form::Plain).await;
        let conflicts = self.plan.conflicts(&numbers);
        self.requests(&conflicts, Form::Changed).await;
        let roll = mix(self.plan.seed ^ mix(window));
        // One event in a thousand, together with those that only the rater rejects.
        if roll % 1_000 < self.plan.window {
            self.poison(roll >> 32).await;
        }
    }

    async fn requests(self: &Arc<Self>, numbers: &[u64], form: Form) {
        let mut sending = JoinSet::new();
        for (tenant, numbers) in self.plan.by_tenant(numbers) {
            for numbers in self.pieces(numbers) {
                let (shared, request) = (Arc::clone(self), Request { tenant, numbers, form });
                sending.spawn(async move { shared.request(&request).await });
            }
        }
        while sending.join_next().await.is_some() {}
    }

    /// Splits what a request would have, in random places and a random order.
    fn pieces(&self, mut numbers: Vec<u64>) -> Vec<Vec<u64>> {
        if !self.split {
            return vec![numbers];
        }
        numbers.sort_by_key(|number| mix(self.plan.seed ^ mix(*number)));
        let mut pieces = Vec::new();
        while let Some(first) = numbers.first() {
            // Small ones and large ones alike.
            let most = 1_usize << (mix(*first) % 13);
            let length = (1 + mix(mix(*first)) as usize % most).min(numbers.len());
            let rest = numbers.split_off(length);
            pieces.push(std::mem::replace(&mut numbers, rest));
        }
        pieces
    }

    /// Sends a request until it has a definite answer.
    async fn request(&self, request: &Request) {
        let body = self.plan.body(&request.numbers, request.form);
        let first = request.numbers.first().copied().unwrap_or_default();
        let waits = self
            .hang_ups
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if waits.is_ok() {
            self.hang_up_on(request.tenant, &body, mix(first ^ self.plan.seed)).await;
        }
        let (began, first_ms) = (Instant::now(), self.story.now_ms());
        let (mut attempts, mut pause) = (0, PAUSE_MIN);
        loop {
            attempts += 1;
            let base = self.base(mix(first) as usize + attempts as usize);
            match self.attempt(&base, request, &body, attempts == 1).await {
                Reading::Definite(outcomes) => {
                    let record = Record {
                        first_ms,
                        done_ms: self.story.now_ms(),
                        attempts,
                        ..Record::default()
                    };
                    return self.record(request, record, &outcomes);
                }
                Reading::Again => {}
                Reading::Wrong(what) => self.wrong(what),
            }
            if began.elapsed() > DEFINITE_TIME_MAX {
                return self
                    .wrong(format!("no definite answer in {DEFINITE_TIME_MAX:?} to {first}"));
            }
            self.known().1.repeated += 1;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn base(&self, turn: usize) -> String {
        let bases = self.bases.read().unwrap_or_else(PoisonError::into_inner);
        bases[turn % bases.len()].clone()
    }

    async fn attempt(&self, base: &str, of: &Request, body: &[u8], first: bool) -> Reading {
        let request = self.client.post(format!("{base}/v1/events"));
        let request = request.bearer_auth(&self.tenants[of.tenant].key);
        let request = request.header("Content-Type", "application/json").body(body.to_vec());
        let answer = async {
            let answer = request.send().await?;
            let (status, retry) =
                (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
            Ok::<_, reqwest::Error>((status, retry, answer.bytes().await?))
        };
        let began = Instant::now();
        match answer.await {
            Ok((status, retry, body)) => {
                let took = began.elapsed();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let reading = answers::read(status, retry, &body, of.numbers.len());
                let tally = &mut self.known().1;
                tally.unavailable += u64::from(reading == Reading::Again);
                if first && matches!(reading, Reading::Definite(_)) {
                    let digits = u128::BITS - took.as_millis().leading_zeros();
                    tally.answer_times[digits.min(23) as usize] += 1;
                }
                if status == 503 {
                    tally.unavailable_time = tally.unavailable_time.max(took);
                }
                reading
            }
            Err(_) => {
                self.known().1.broken += 1;
                Reading::Again
            }
        }
    }

    fn record(&self, request: &Request, record: Record, outcomes: &[Outcome]) {
        let mut known = self.known();
        let (records, tally) = &mut *known;
        for (number, outcome) in request.numbers.iter().zip(outcomes) {
            tally.accepted += u64::from(*outcome == Outcome::Accepted);
            if request.form == Form::Changed {
                continue;
            }
            let place = *number as usize;
            if records.len() <= place {
                records.resize(place + 1, Record::default());
            }
            records[place] = Record { outcome: *outcome, ..record };
        }
    }

    fn wrong(&self, what: String) {
        let mut known = self.known();
        if known.1.wrong.len() < WRONG_MAX {
            drop(known);
            self.story.tell(format!("wrong answer: {what}"));
            known = self.known();
            known.1.wrong.push(what);
        }
    }

    /// Sends something that must be refused, until it is.
    async fn poison(&self, roll: u64) {
        let tenant = roll as usize % self.tenants.len();
        let body = poison::body(roll);
        let began = Instant::now();
        while began.elapsed() < DEFINITE_TIME_MAX {
            let base = self.base(roll as usize);
            let request = self.client.post(format!("{base}/v1/events"));
            let request = request.bearer_auth(&self.tenants[tenant].key);
            let request = request.header("Content-Type", "application/json").body(body.clone());
            match request.send().await.map(|answer| answer.status().as_u16()) {
                Ok(400 | 413 | 415 | 422) => {
                    self.known().1.poison += 1;
                    return;
                }
                Ok(503 | 429 | 408) | Err(_) => sleep(PAUSE_MAX).await,
                Ok(status) => {
                    let start = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
                    return self.wrong(format!("{status} for poison {start:?}"));
                }
            }
        }
        self.wrong("poison was never answered".to_owned());
    }

    /// Sends the request up to a random byte, or the whole of it, and hangs up after a moment.
    async fn hang_up_on(&self, tenant: usize, body: &[u8], roll: u64) {
        let base = self.base(roll as usize);
        let host = base.trim_start_matches("http://");
        let mut text = format!(
            "POST /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.tenants[tenant].key,
            body.len()
        )
        .into_bytes();
        text.extend_from_slice(body);
        if hang_up(host, &text, roll).await.is_ok() {
            self.known().1.hung_up += 1;
        }
    }
}

/// Sends `text` up to a random byte, in two cases of five the whole of it, waits for a moment and
/// closes or resets the connection.
pub async fn hang_up(host: &str, text: &[u8], roll: u64) -> Result<()> {
    let mut stream = timeout(ANSWER_TIME_MAX, TcpStream::connect(host)).await??;
    let length = match roll % 5 {
        0 | 1 => text.len(),
        _ => (roll >> 8) as usize % text.len(),
    };
    stream.write_all(&text[..length]).await?;
    stream.flush().await?;
    sleep(Duration::from_millis((roll >> 40) % 20)).await;
    if roll.is_multiple_of(2) {
        stream.set_zero_linger()?;
    }
    Ok(())
}
