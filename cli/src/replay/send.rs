//! Sends batches of events until each has a definite answer.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Client, Target};

const PATH: &str = "/v1/events";
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Patience of a sender that nobody watches.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the events of a batch travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One event per line
    Ndjson,
    /// A JSON array
    Array,
}

/// Sends to a target that may go away and come back, even at another address.
#[derive(Debug)]
pub struct Sender {
    /// `None` for an address that does not change.
    target: Option<Target>,
    client: Option<Client>,
    form: Form,
    patience: Duration,
    /// What became of the events so far.
    pub outcome: Outcome,
}

/// Counts of definite answers.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the log. Duplicates among them are found by the rater.
    pub accepted: u64,
    /// Refused, and why the first were.
    pub rejected: u64,
    /// The reasons of the first refusals.
    pub reasons: Vec<String>,
    /// Requests that were sent again because nobody could tell what became of them.
    pub repeated: u64,
}

/// Reasons that are kept for the report.
const REASONS_MAX: usize = 10;

impl Sender {
    /// A sender that gives up when nothing was answered for `patience`.
    pub fn new(target: Target, form: Form, patience: Duration) -> Self {
        Self { target: Some(target), client: None, form, patience, outcome: Outcome::default() }
    }

    /// A sender with a client of its own.
    pub fn to(client: Client, form: Form) -> Self {
        Self {
            target: None,
            client: Some(client),
            form,
            patience: PATIENCE,
            outcome: Outcome::default(),
        }
    }

    /// Sends `events`, each a JSON object, with the same ids until there is a definite answer.
    pub async fn send(&mut self, events: &[String]) -> Result<()> {
        let (content_type, body) = match self.form {
            Form::Ndjson => ("application/x-ndjson", events.join("\n")),
            Form::Array => ("application/json", format!("[{}]", events.join(","))),
        };
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE_MIN;
        loop {
            let reason = match self.attempt(content_type, &body).await {
                Ok(answer) if is_definite(answer.status) => {
                    return self.outcome.add(answer, events.len());
                }
                Ok(answer) => {
                    pause = answer.retry_after.unwrap_or(pause).min(PAUSE_MAX);
                    format!("{}", answer.status)
                }
                Err(error) => {
                    // It may have been started again elsewhere.
                    if self.target.is_some() {
                        self.client = None;
                    }
                    format!("{error:#}")
                }
            };
            if Instant::now() + pause > deadline {
                bail!(
                    "gave up after {} s without an answer: {reason}; send the same again, nothing will count twice",
                    self.patience.as_secs()
                );
            }
            self.outcome.repeated += 1;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&mut self, content_type: &str, body: &str) -> Result<Answer> {
        let client = match (&self.client, &self.target) {
            (Some(client), _) => client,
            (None, Some(target)) => self.client.insert(target.client()?),
            (None, None) => bail!("there is nowhere to send to"),
        };
        client.send(Method::POST, PATH, content_type, body.as_bytes().to_vec(), &[]).await
    }
}

/// Whether the same request would be answered the same again.
fn is_definite(status: StatusCode) -> bool {
    !status.is_server_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && status != StatusCode::REQUEST_TIMEOUT
}

impl Outcome {
    fn add(&mut self, answer: Answer, sent: usize) -> Result<()> {
        let Some(items) = answer.body.get("results").and_then(Value::as_array) else {
            answer.success(PATH)?;
            bail!("the answer of {PATH} has no `results`; is this a Weir?");
        };
        anyhow::ensure!(
            items.len() == sent,
            "{sent} events were sent and {} answered",
            items.len()
        );
        for item in items {
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            match item
                .get("status")
                .and_then(Value::as_str)
                .context("an answer without `status`")?
            {
                "accepted" => self.accepted += 1,
                _ => {
                    self.rejected += 1;
                    if self.reasons.len() < REASONS_MAX {
                        self.reasons.push(format!(
                            "{}: {} ({})",
                            text("id"),
                            text("code"),
                            text("detail")
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
