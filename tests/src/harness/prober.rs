//! Somebody who asks the api all the time: it answers, or says 503 and when to come again, and never
//! 500.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{task::JoinHandle, time::sleep};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// What is asked, in turn.
const QUESTIONS: [&str; 4] =
    ["/v1/teams?limit=5", "/v1/usage?group_by=team&limit=5", "/v1/catalog", "/v1/audit?limit=5"];

/// Answers so far: how many of each status, and those that are wrong.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers by status; 0 is none at all.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers that no promise allows.
    pub wrong: Vec<String>,
}

impl Seen {
    fn add(&mut self, question: &str, status: u16, retry_after: bool) {
        *self.statuses.entry(status).or_default() += 1;
        let promised = matches!(status, 0 | 200 | 429) || (status == 503 && retry_after);
        if !promised {
            self.wrong.push(format!("{question}: {status}, Retry-After: {retry_after}"));
        }
    }
}

/// Somebody who asks.
pub struct Prober {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// Begins to ask.
    pub fn start(base: &str, key: &str) -> Result<Prober> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIME_MAX).build()?;
        let (base, key, seen) = (base.to_owned(), key.to_owned(), Arc::<Mutex<Seen>>::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            for question in QUESTIONS.iter().cycle() {
                let request = client.get(format!("{base}{question}")).bearer_auth(&key);
                let (status, retry) = match request.send().await {
                    Ok(answer) => {
                        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
                    }
                    Err(_) => (0, false),
                };
                shared.lock().unwrap_or_else(PoisonError::into_inner).add(question, status, retry);
                sleep(ASK_EVERY).await;
            }
        });
        Ok(Prober { seen, task })
    }

    /// What was answered so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails where an answer was wrong, or none was good.
    pub fn check(&self) -> Result<()> {
        let seen = self.seen();
        ensure!(
            seen.wrong.is_empty(),
            "{} wrong answers: {:?}",
            seen.wrong.len(),
            seen.wrong.first()
        );
        ensure!(seen.statuses.get(&200).is_some_and(|good| *good > 0), "{:?}", seen.statuses);
        Ok(())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}
