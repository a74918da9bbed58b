//! Freshness, as a customer sees it: an event is sent, and its team's balance read until it shows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use benches::account::{Account, CURRENCY, MODELS, lines, parse};
use hdrhistogram::Histogram;
use reqwest::{Method, StatusCode};
use runtime::{shutdown::Shutdown, task::Tasks};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::load::histogram;
use crate::client::Client;

/// Probes at a time, each with a team of its own.
const PROBES: usize = 4;
/// How often the live balance is read, and so the resolution of its freshness.
const LIVE_POLL: Duration = Duration::from_millis(10);
/// How often the posted balance is read, and so the resolution of its freshness.
const POSTED_POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
const INPUT_TOKENS: u64 = 100;
const OUTPUT_TOKENS: u64 = 10;

/// What the probes saw.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// Microseconds from 2xx to the live balance.
    pub live_us: Histogram<u64>,
    /// Microseconds from 2xx to the posted balance.
    pub posted_us: Histogram<u64>,
    /// Events of each probe.
    pub events: Vec<u64>,
}

impl Freshness {
    /// Events of all probes.
    pub fn sent(&self) -> u64 {
        self.events.iter().sum()
    }

    /// Adds the probes' events to what must be in the books.
    pub fn add_to(&self, account: &mut Account) {
        let Some(model) = MODELS.first() else { return };
        for (probe, events) in self.events.iter().enumerate() {
            for _ in 0..*events {
                account.add(&team(probe), model, INPUT_TOKENS, OUTPUT_TOKENS);
            }
        }
    }
}

fn team(probe: usize) -> String {
    format!("probe-{probe}")
}

/// Probes that run until they are told that it is enough.
pub struct Probes {
    enough: Shutdown,
    tasks: Tasks,
    seen: Arc<Mutex<Freshness>>,
}

impl Probes {
    /// Starts them.
    pub fn start(client: &Client, parent: &Shutdown) -> Result<Self> {
        let (live_us, posted_us) = (histogram()?, histogram()?);
        let seen = Arc::new(Mutex::new(Freshness { live_us, posted_us, events: vec![0; PROBES] }));
        let (enough, mut tasks) = (parent.child(), Tasks::new(parent));
        for probe in 0..PROBES {
            let (client, enough, seen) = (client.clone(), enough.clone(), Arc::clone(&seen));
            tasks.spawn(format!("probe-{probe}"), async move {
                while !enough.is_cancelled() {
                    once(&client, probe, &seen).await?;
                }
                Ok(())
            });
        }
        Ok(Self { enough, tasks, seen })
    }

    /// Lets each finish what it has begun.
    pub async fn finish(self) -> Result<Freshness> {
        self.enough.trigger();
        self.tasks.drain(PATIENCE * 2).await?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.clone())
    }
}

/// Sends one event and waits until the balance shows it, live and posted.
async fn once(client: &Client, probe: usize, seen: &Mutex<Freshness>) -> Result<()> {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let number = lock().events.get(probe).copied().unwrap_or_default() + 1;
    let model = MODELS.first().context("the bench has no models")?;
    let each: i128 = lines(model, INPUT_TOKENS, OUTPUT_TOKENS).iter().map(|line| line.charge).sum();
    let owed = each * i128::from(number);
    let event = json!({
        "id": format!("probe-{probe}-{number}"), "source": "bench-probe",
        "type": benches::generator::EVENT_TYPE, "subject": team(probe),
        "data": { "provider": model.provider, "model": model.name, "inputTokens": INPUT_TOKENS, "outputTokens": OUTPUT_TOKENS },
    });
    let deadline = Instant::now() + PATIENCE;
    while !accepted(client, event.to_string()).await? {
        anyhow::ensure!(
            Instant::now() < deadline,
            "a probe was not accepted for {} s",
            PATIENCE.as_secs()
        );
        sleep(POSTED_POLL).await;
    }
    let sent = Instant::now();
    if let Some(events) = lock().events.get_mut(probe) {
        *events = number;
    }
    let elapsed_us = || u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
    for (field, poll) in [("live", LIVE_POLL), ("posted", POSTED_POLL)] {
        while balance(client, &team(probe), field).await? != Some(-owed) {
            anyhow::ensure!(
                Instant::now() < deadline,
                "a probe's event is not in the {field} balance after {} s",
                PATIENCE.as_secs()
            );
            sleep(poll).await;
        }
        let mut seen = lock();
        let times = if field == "live" { &mut seen.live_us } else { &mut seen.posted_us };
        times.saturating_record(elapsed_us());
    }
    Ok(())
}

/// Whether the event is in the log; one that was refused or is unknown is sent again.
async fn accepted(client: &Client, event: String) -> Result<bool> {
    let sent =
        client.send(Method::POST, "/v1/events", "application/json", event.into_bytes(), &[]).await;
    match sent {
        Ok(answer)
            if answer.status.is_server_error()
                || answer.status == StatusCode::TOO_MANY_REQUESTS =>
        {
            Ok(false)
        }
        Ok(answer) => answer.success("a probe").map(|_| true),
        Err(_) => Ok(false),
    }
}

/// A balance of a team, if it has one and the server can say.
async fn balance(client: &Client, team: &str, field: &str) -> Result<Option<i128>> {
    let path = format!("/v1/teams/{team}/balance");
    let answer = client.send(Method::GET, &path, "application/json", Vec::new(), &[]).await?;
    if answer.status == StatusCode::NOT_FOUND || answer.status.is_server_error() {
        return Ok(None);
    }
    let body = answer.success(&path)?;
    let balances = body.get("balances").and_then(Value::as_array).into_iter().flatten();
    let mut own = balances
        .filter(|balance| balance.get("currency").and_then(Value::as_str) == Some(CURRENCY));
    let text = own.next().and_then(|balance| balance.get(field)?.as_str());
    text.map(|text| parse(text).with_context(|| format!("{text:?} is no balance"))).transpose()
}
