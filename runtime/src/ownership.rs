//! Shares of partitions: one thread for each partition that an instance owns.
//!
//! ```ignore
//! const OWNERSHIP: Ownership = Ownership { role: "copier", threads: "copy", topic: LINES };
//!
//! let connect = || postgres::connect(&context.postgres, None, "copier");
//! let pool = OWNERSHIP.until_available(&context, PostgresError::is_passing, connect).await?;
//! let Some(pool) = pool else { return Ok(()) };
//! OWNERSHIP.run(&context, move |share| copy(&pool, share)).await?;
//! ```
//!
//! A thread that has to stop never runs beside its successor of the same partition: the partition
//! waits until the thread has ended, and only this partition does (INV-21).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    attempts::until_stopped,
    backoff::Backoff,
    context::{Context, DRAIN},
    http::{Readiness, State},
    log::{LogError, Topic},
    shutdown::{Failure, Shutdown},
    task::{Task, TaskError, blocking, spawn_thread},
};

/// Pauses between attempts to reach a neighbour: what the first lasts, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How the instances of a role share the partitions of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// The role: its group in the log, and its readiness check. A partition's check is
    /// `<role>.<partition>`.
    pub role: &'static str,
    /// Threads are called `<threads>-<partition>`, which is at most 15 bytes.
    pub threads: &'static str,
    /// The topic whose partitions are shared.
    pub topic: Topic,
}

/// A partition that is owned.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// Its number.
    pub partition: u32,
    /// Set when the partition is lost, or the process stops.
    pub stop: &'a Shutdown,
    /// Whether the attempt before this one has failed: then the partition is ready only when
    /// something has gone on, or the log says that there is nothing to do.
    pub doubted: bool,
}

/// Why ownership ended although nobody asked for a stop.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The log refuses the membership.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log took the membership away for good.
    #[error("the membership of the group ended")]
    Ended,
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// Another task failed, or a thread did not end in time.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Ownership {
    /// The name of a partition's readiness check.
    pub fn check(&self, partition: u32) -> String {
        format!("{}.{partition}", self.role)
    }

    /// Attempts something until it succeeds, with pauses that double, and says meanwhile on
    /// `/ready` what is in the way. An error that `is_passing` does not know ends it; `None`: a
    /// stop was asked for. INV-19: what was away is found again by nobody's hand.
    pub async fn until_available<T, E: Display, Attempt: Future<Output = Result<T, E>>>(
        &self,
        context: &Context,
        is_passing: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> Attempt,
    ) -> Result<Option<T>, E> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told = "starting".to_owned();
        context.readiness.set(self.role, State::NotReady(told.clone()));
        loop {
            let outcome = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return Ok(None),
                outcome = attempt() => outcome,
            };
            let error = match outcome {
                Err(error) if is_passing(&error) => error.to_string(),
                outcome => return outcome.map(Some),
            };
            if error != told {
                tracing::warn!(role = self.role, error, "waiting for a neighbour; trying again");
                context.readiness.set(self.role, State::NotReady(error.clone()));
                told = error;
            }
            tokio::select! {
                () = context.shutdown.cancelled() => return Ok(None),
                () = sleep(backoff.pause()) => {}
            }
        }
    }

    /// Joins the group and runs `body` on a thread of its own for each owned partition, until a
    /// stop is asked for. A body ends when [`Share::stop`] says so; one that ends earlier without
    /// an error is not started again before the partition comes back, and its readiness check stays
    /// as it left it. An error or a panic of a body stops its partition, until another attempt
    /// succeeds: [`until_stopped`].
    ///
    /// A body sets its check when it is ready. The check is made before the thread is started, and
    /// removed when the partition is lost.
    pub async fn run(
        &self,
        context: &Context,
        body: impl Fn(&Share<'_>) -> Result<(), TaskError> + Send + Sync + 'static,
    ) -> Result<(), OwnershipError> {
        let is_passing = |error: &LogError| matches!(error, LogError::Unavailable(_));
        let join = || async { context.log.join(self.topic, self.role) };
        let joined = self.until_available(context, is_passing, join).await?;
        let Some(membership) = joined else { return Ok(()) };

        let mut threads = Threads {
            ownership: *self,
            shutdown: &context.shutdown,
            readiness: &context.readiness,
            body: Arc::new(body),
            running: BTreeMap::new(),
            ending: BTreeMap::new(),
        };
        let followed = threads.follow(membership.owned()).await;
        context.readiness.set(self.role, State::NotReady("stopping".to_owned()));
        let drained = threads.drain(DRAIN).await;
        // After the threads, so that a successor finds nobody; and a log may take its time for it.
        let left = blocking(move || drop(membership)).await;
        followed.and(drained)?;
        Ok(left?)
    }
}

type Body = dyn Fn(&Share<'_>) -> Result<(), TaskError> + Send + Sync;

/// Threads by partition. A partition is in at most one of the two.
struct Threads<'a> {
    ownership: Ownership,
    shutdown: &'a Shutdown,
    readiness: &'a Readiness,
    body: Arc<Body>,
    /// Partitions that are owned.
    running: BTreeMap<u32, Running>,
    /// Threads that were told to stop; they resolve when they have.
    ending: BTreeMap<u32, Ending>,
}

struct Running {
    stop: Shutdown,
    task: Task,
}

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Threads<'_> {
    /// Until a stop is asked for, or an error.
    async fn follow(&mut self, mut owned: watch::Receiver<Vec<u32>>) -> Result<(), OwnershipError> {
        while !self.shutdown.is_cancelled() {
            let wanted: BTreeSet<u32> = owned.borrow_and_update().iter().copied().collect();
            self.stop_unwanted(&wanted);
            self.start_missing(&wanted)?;
            self.readiness.set(self.ownership.role, State::Ready);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                partition = first_ended(&mut self.ending) => self.forget(partition),
                changed = owned.changed() => changed.map_err(|_| OwnershipError::Ended)?,
            }
        }
        Ok(())
    }

    fn stop_unwanted(&mut self, wanted: &BTreeSet<u32>) {
        let lost: Vec<(u32, Running)> =
            self.running.extract_if(.., |partition, _| !wanted.contains(partition)).collect();
        for (partition, one) in lost {
            self.stop(partition, one);
        }
        for partition in self.ending.keys().filter(|partition| !wanted.contains(partition)) {
            self.readiness.remove(&self.ownership.check(*partition));
        }
    }

    fn stop(&mut self, partition: u32, one: Running) {
        one.stop.trigger();
        self.ending.insert(partition, Box::pin(ended(one.task)));
    }

    fn start_missing(&mut self, wanted: &BTreeSet<u32>) -> Result<(), OwnershipError> {
        for partition in wanted {
            if self.running.contains_key(partition) {
                continue;
            }
            let waits = self.ending.contains_key(partition);
            let reason = if waits { "its earlier thread has not ended yet" } else { "starting" };
            let check = self.ownership.check(*partition);
            self.readiness.set(check, State::NotReady(reason.to_owned()));
            if !waits {
                let one = self.start(*partition)?;
                self.running.insert(*partition, one);
            }
        }
        Ok(())
    }

    fn start(&self, partition: u32) -> Result<Running, OwnershipError> {
        let stop = self.shutdown.child();
        let (body, stopped) = (Arc::clone(&self.body), stop.clone());
        let (readiness, check) = (self.readiness.clone(), self.ownership.check(partition));
        let name = format!("{}-{partition}", self.ownership.threads);
        let task = spawn_thread(name, self.shutdown, move || {
            until_stopped(&readiness, &check, &stopped, |doubted| {
                body(&Share { partition, stop: &stopped, doubted })
            });
            Ok(())
        })?;
        Ok(Running { stop, task })
    }

    /// The thread of a lost partition has ended. After a failure its check is left to be seen.
    fn forget(&self, partition: u32) {
        if self.shutdown.failure().is_none() {
            self.readiness.remove(&self.ownership.check(partition));
        }
    }

    /// Stops all threads and gives them `within` to end.
    async fn drain(&mut self, within: Duration) -> Result<(), OwnershipError> {
        for (partition, one) in std::mem::take(&mut self.running) {
            self.stop(partition, one);
        }
        let deadline = Instant::now() + within;
        while !self.ending.is_empty() {
            match timeout_at(deadline, first_ended(&mut self.ending)).await {
                Ok(partition) => self.forget(partition),
                Err(_) => break,
            }
        }
        for partition in self.ending.keys() {
            let name = format!("{}-{partition}", self.ownership.threads);
            self.shutdown.fail(&name, format!("did not end within {} s", within.as_secs()));
        }
        self.shutdown.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }
}

/// Resolves when the thread has ended, and warns when that takes long.
async fn ended(task: Task) {
    let name = task.name().to_owned();
    let mut ended = pin!(task.ended());
    if timeout(DRAIN, &mut ended).await.is_err() {
        tracing::warn!(thread = name, "a thread was told to stop and still has not ended");
        ended.await;
    }
}

/// The next thread that ends, which is then not among them any more. Waits for ever if there are
/// none.
async fn first_ended(ending: &mut BTreeMap<u32, Ending>) -> u32 {
    poll_fn(|context| {
        let ended = ending.iter_mut().find_map(|(partition, one)| {
            one.as_mut().poll(context).is_ready().then_some(*partition)
        });
        let Some(partition) = ended else { return Poll::Pending };
        ending.remove(&partition);
        Poll::Ready(partition)
    })
    .await
}

#[cfg(test)]
mod tests;
