//! Tests of [`super`]: a membership that the test writes, and bodies that report what they do.

use std::sync::Mutex;

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::*;
use crate::{
    clickhouse::ClickHouse,
    config::{ClickHouseConfig, PostgresConfig, Secret},
    log::{AppendError, Log, Membership, Pending, Reader},
    telemetry::Metrics,
};

const OWNERSHIP: Ownership = Ownership { role: "test", threads: "own", topic: Topic("lines") };
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log whose members own what the test says.
struct Scripted {
    owned: watch::Receiver<Vec<u32>>,
    /// How often joining is refused before it works.
    refusals: Mutex<u32>,
}

struct Member(watch::Receiver<Vec<u32>>);

impl Membership for Member {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.0.clone()
    }
}

fn nothing_to_read() -> LogError {
    LogError::Broken("this log has memberships only".to_owned())
}

impl Log for Scripted {
    fn partitions(&self) -> u32 {
        8
    }

    fn append(&self, _: Topic, _: u32, _: Bytes) -> Pending {
        let (answer, pending) = oneshot::channel();
        let _ = answer.send(Err(AppendError::Refused(nothing_to_read().to_string())));
        Pending(pending)
    }

    fn reader(&self, _: Topic, _: u32, _: i64) -> Result<Box<dyn Reader>, LogError> {
        Err(nothing_to_read())
    }

    fn bounds(&self, _: Topic, _: u32, _: Duration) -> Result<(i64, i64), LogError> {
        Err(nothing_to_read())
    }

    fn join(&self, topic: Topic, group: &str) -> Result<Box<dyn Membership>, LogError> {
        assert_eq!((topic, group), (OWNERSHIP.topic, OWNERSHIP.role));
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(LogError::Unavailable("no coordinator".to_owned()));
        }
        Ok(Box::new(Member(self.owned.clone())))
    }
}

fn context(log: Scripted) -> Context {
    let clickhouse = ClickHouseConfig {
        url: "http://127.0.0.1:1".to_owned(),
        database: "none".to_owned(),
        user: String::new(),
        password: Secret::new(""),
    };
    Context {
        log: Arc::new(log),
        postgres: PostgresConfig { url: Secret::new(""), connections: 1 },
        clickhouse: ClickHouse::new(&clickhouse),
        metrics: Metrics::new(),
        readiness: Readiness::new(),
        shutdown: Shutdown::new(),
    }
}

fn log(owned: &watch::Sender<Vec<u32>>) -> Scripted {
    Scripted { owned: owned.subscribe(), refusals: Mutex::new(0) }
}

/// What a body says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Started(u32, String),
    Stopped(u32),
}

/// Runs [`OWNERSHIP`] with a body that says when it starts and stops, between which it is ready and
/// does `work`.
struct World {
    context: Context,
    said: mpsc::Receiver<Said>,
    run: JoinHandle<Result<(), OwnershipError>>,
}

impl World {
    fn start(
        log: Scripted,
        work: impl Fn(&Share<'_>) -> Result<(), TaskError> + Send + Sync + 'static,
    ) -> World {
        let context = context(log);
        let (says, said) = mpsc::channel(64);
        let readiness = context.readiness.clone();
        let body = move |share: &Share<'_>| {
            let partition = share.partition;
            let name = std::fs::read_to_string("/proc/thread-self/comm")?.trim().to_owned();
            readiness.set(OWNERSHIP.check(partition), State::Ready);
            says.blocking_send(Said::Started(partition, name))?;
            let outcome = work(share);
            says.blocking_send(Said::Stopped(partition))?;
            outcome
        };
        let running = context.clone();
        let run = crate::task::spawn_detached(async move { OWNERSHIP.run(&running, body).await });
        World { context, said, run }
    }

    /// The next things said, sorted.
    async fn said(&mut self, count: usize) -> Vec<Said> {
        let mut said = Vec::new();
        while said.len() < count {
            said.push(timeout(PATIENCE, self.said.recv()).await.unwrap().unwrap());
        }
        said.sort();
        said
    }

    /// Waits until the reasons for not being ready are these.
    async fn not_ready(&self, expected: &[(&str, &str)]) {
        let deadline = Instant::now() + PATIENCE;
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(name, reason)| ((*name).into(), (*reason).into())).collect();
        while self.context.readiness.not_ready() != expected {
            let found = self.context.readiness.not_ready();
            assert!(Instant::now() < deadline, "{found:?} and not {expected:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn ended(self) -> Result<(), OwnershipError> {
        timeout(PATIENCE, self.run).await.unwrap().unwrap()
    }
}

/// Works until told to stop.
fn works() -> impl Fn(&Share<'_>) -> Result<(), TaskError> + Send + Sync + 'static {
    let handle = Handle::current();
    move |share| {
        handle.block_on(share.stop.cancelled());
        Ok(())
    }
}

fn started(partition: u32) -> Said {
    Said::Started(partition, format!("own-{partition}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_follow_what_is_owned() {
    let owned = watch::Sender::new(vec![0, 1]);
    let mut world = World::start(log(&owned), works());
    assert_eq!(world.said(2).await, [started(0), started(1)]);
    world.not_ready(&[]).await;

    owned.send_replace(vec![0, 2]);
    assert_eq!(world.said(2).await, [started(2), Said::Stopped(1)]);

    owned.send_replace(vec![]);
    assert_eq!(world.said(2).await, [Said::Stopped(0), Said::Stopped(2)]);
    world.not_ready(&[]).await;

    owned.send_replace(vec![1]);
    assert_eq!(world.said(1).await, [started(1)]);
    world.context.shutdown.trigger();
    assert_eq!(world.said(1).await, [Said::Stopped(1)]);
    world.not_ready(&[("test", "stopping")]).await;
    world.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_thread_holds_up_only_its_own_partition() {
    let owned = watch::Sender::new(vec![0]);
    let (open, gate) = watch::channel(false);
    let handle = Handle::current();
    let mut world = World::start(log(&owned), move |share| {
        handle.block_on(async {
            share.stop.cancelled().await;
            if share.partition == 0 {
                gate.clone().wait_for(|open| *open).await?;
            }
            Ok(())
        })
    });
    assert_eq!(world.said(1).await, [started(0)]);

    // Lost and back again, with another beside it.
    owned.send_replace(vec![1]);
    assert_eq!(world.said(1).await, [started(1)]);
    owned.send_replace(vec![0, 1, 2]);
    assert_eq!(world.said(1).await, [started(2)]);
    world.not_ready(&[("test.0", "its earlier thread has not ended yet")]).await;

    // Lost once more: what its thread does is nobody's business now.
    owned.send_replace(vec![1, 2]);
    world.not_ready(&[]).await;
    owned.send_replace(vec![0]);
    assert_eq!(world.said(2).await, [Said::Stopped(1), Said::Stopped(2)]);

    open.send_replace(true);
    let ended = timeout(PATIENCE, world.said.recv()).await.unwrap().unwrap();
    assert_eq!(ended, Said::Stopped(0), "the successor waits for it");
    assert_eq!(world.said(1).await, [started(0)]);
    world.not_ready(&[]).await;
    world.context.shutdown.trigger();
    world.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_fails_stops_alone() {
    let owned = watch::Sender::new(vec![0, 1, 2]);
    let (open, gate) = watch::channel(false);
    let handle = Handle::current();
    let mut world = World::start(log(&owned), move |share| {
        if share.partition == 0 {
            handle.block_on(gate.clone().wait_for(|open| *open))?;
            return Err("position 7 is damaged".into());
        }
        assert!(share.partition != 2, "the sums differ");
        handle.block_on(share.stop.cancelled());
        Ok(())
    });
    assert_eq!(world.said(3).await, [started(0), started(1), started(2)]);
    open.send_replace(true);
    assert_eq!(world.said(1).await, [Said::Stopped(0)]);
    let damaged = ("test.0", "position 7 is damaged");
    world.not_ready(&[damaged, ("test.2", "panicked: the sums differ")]).await;
    assert!(!world.context.shutdown.is_cancelled(), "INV-21: the others go on");
    // Whoever owns it next finds it as it is.
    owned.send_replace(vec![1]);
    world.not_ready(&[]).await;
    owned.send_replace(vec![0, 1]);
    assert_eq!(world.said(2).await, [started(0), Said::Stopped(0)]);
    world.not_ready(&[damaged]).await;
    world.context.shutdown.trigger();
    assert_eq!(world.said(1).await, [Said::Stopped(1)]);
    world.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_that_ends_is_an_error_after_a_drain() {
    let owned = watch::Sender::new(vec![0, 1]);
    let mut world = World::start(log(&owned), works());
    assert_eq!(world.said(2).await, [started(0), started(1)]);
    drop(owned);
    assert_eq!(world.said(2).await, [Said::Stopped(0), Said::Stopped(1)]);
    let shutdown = world.context.shutdown.clone();
    assert!(matches!(world.ended().await, Err(OwnershipError::Ended)));
    assert!(!shutdown.is_cancelled(), "whoever runs the role decides what that means");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_ends_by_itself_keeps_its_check_and_comes_back_with_its_partition() {
    let owned = watch::Sender::new(vec![0]);
    let mut world = World::start(log(&owned), |_| Ok(()));
    assert_eq!(world.said(2).await, [started(0), Said::Stopped(0)]);
    world.context.readiness.set("test.0", State::NotReady("a person has to act".to_owned()));
    owned.send_replace(vec![0, 1]);
    assert_eq!(world.said(2).await, [started(1), Said::Stopped(1)], "0 is not started again");
    world.not_ready(&[("test.0", "a person has to act")]).await;
    owned.send_replace(vec![]);
    world.not_ready(&[]).await;
    owned.send_replace(vec![0]);
    assert_eq!(world.said(2).await, [started(0), Said::Stopped(0)]);
    world.context.shutdown.trigger();
    world.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_does_not_end_in_time_is_a_failure() {
    let (open, gate) = watch::channel(false);
    let (begins, mut begun) = mpsc::channel(1);
    let (handle, shutdown, readiness) = (Handle::current(), Shutdown::new(), Readiness::new());
    let mut threads = Threads {
        ownership: OWNERSHIP,
        shutdown: &shutdown,
        readiness: &readiness,
        body: Arc::new(move |_| {
            begins.blocking_send(())?;
            handle.block_on(gate.clone().wait_for(|open| *open))?;
            Ok(())
        }),
        running: BTreeMap::new(),
        ending: BTreeMap::new(),
    };
    threads.start_missing(&BTreeSet::from([4])).unwrap();
    begun.recv().await.unwrap();
    let error = threads.drain(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "task own-4 failed: did not end within 0 s");
    assert_eq!(readiness.not_ready().get("test.4").map(String::as_str), Some("starting"));
    open.send_replace(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_away_is_waited_for() {
    let owned = watch::Sender::new(vec![0]);
    let away = Scripted { owned: owned.subscribe(), refusals: Mutex::new(2) };
    let mut world = World::start(away, works());
    world.not_ready(&[("test", "the log is unavailable: no coordinator")]).await;
    assert_eq!(world.said(1).await, [started(0)]);
    world.not_ready(&[]).await;
    world.context.shutdown.trigger();
    world.ended().await.unwrap();
}

#[tokio::test]
async fn what_waiting_does_not_mend_ends_it_and_so_does_a_stop() {
    let context = context(log(&watch::Sender::new(Vec::new())));
    let mut answers = vec![Err("refused"), Err("away"), Err("away")];
    let outcome = OWNERSHIP
        .until_available(
            &context,
            |error| *error == "away",
            || std::future::ready(answers.pop().unwrap_or(Ok(1))),
        )
        .await;
    assert_eq!(outcome, Err("refused"));
    assert!(answers.is_empty());
    let reasons = context.readiness.not_ready();
    assert_eq!(reasons.get("test").map(String::as_str), Some("away"));

    let outcome = OWNERSHIP
        .until_available(
            &context,
            |_: &&str| true,
            || {
                context.shutdown.trigger();
                std::future::ready(Err::<(), _>("away"))
            },
        )
        .await;
    assert_eq!(outcome, Ok(None), "asked to stop between two attempts");

    // An attempt without an answer does not hold up a stop.
    let outcome = OWNERSHIP
        .until_available(&context, |_: &&str| true, std::future::pending::<Result<(), _>>)
        .await;
    assert_eq!(outcome, Ok(None));
}
