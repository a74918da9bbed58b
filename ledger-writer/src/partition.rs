//! One partition: read `[rated]` from `R + 1` by the acceptance rule, post windows, and start over
//! from Postgres whenever another writer was there. One thread owns all of it.

mod settling;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use domain::{
    chain::Place,
    wire::trace::{POST, RATE},
};
use ledger::{
    account::Book,
    post::{self, PostError, Posted, Posting, Seen, Standing},
    seal::AuditKey,
    settle::{self, WalletId},
};
use runtime::{
    backoff::Backoff,
    http::{Readiness, State},
    log::{LogError, Reader, SharedLog},
    ownership::Share,
    postgres::{Pool, PostgresError},
    progress::Progress,
    shutdown::Shutdown,
    task,
    traces::{self, Span},
};
use tokio::runtime::Handle;

use crate::{
    OWNERSHIP, RATED,
    config::Config,
    metrics::Metrics,
    window::{Window, WindowError},
};
use settling::Settling;

/// A wait for the log is no longer than this, so that a stop is noticed.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Waiting for the log's bounds.
const BOUNDS_WAIT: Duration = Duration::from_secs(5);
/// A posting without an answer by then has an unknown outcome; the server stops it earlier.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for the one attempt after a stop was asked for, within the drain.
const LAST_POST_TIMEOUT: Duration = Duration::from_secs(5);
/// A window is at least so many times as long as the posting before it took: where Postgres is slow
/// or much is used, windows are fewer and larger, and each key costs less.
const POSTING_TIMES: u32 = 8;
/// But at most so many times as long as it is set to be.
const LENGTH_TIMES_MAX: u32 = 5;
/// Wallets of one settlement.
const CHUNK_WALLETS: usize = 1000;
/// Back-off between attempts: doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the partitions of a process share.
pub(crate) struct Shared {
    pub log: SharedLog,
    pub pool: Pool,
    pub key: AuditKey,
    pub config: Config,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub handle: Handle,
}

/// Why a partition stops, until a person has acted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartitionError {
    #[error("partition {partition}: {error}")]
    Log { partition: u32, error: LogError },
    #[error("partition {partition}, position {position} of [rated]: {error}")]
    Window { partition: u32, position: i64, error: WindowError },
    #[error("partition {partition}: {error}")]
    Post { partition: u32, error: PostError },
    #[error(
        "partition {partition}: the ledger stands at position {r} of [rated], but the log ends before {next}; \
         this log does not belong to this database, or it lost what was acknowledged"
    )]
    LogTooShort { partition: u32, r: i64, next: i64 },
}

/// What ended one round of following the log.
enum End {
    /// A stop was asked for.
    Stopped,
    /// Begin again at what Postgres says.
    Reload,
}

/// What became of a window.
enum Fate {
    Posted(Standing),
    /// Only what Postgres has says where to go on: another writer posted, or an answer was lost.
    Anew,
    /// A stop was asked for before it could be posted; the log still has it.
    GivenUp,
}

/// Follows a partition until it is lost.
pub(crate) fn run(shared: &Shared, share: &Share<'_>) -> Result<(), PartitionError> {
    let partition = share.partition;
    let mut worker = Worker {
        shared,
        partition,
        stop: share.stop,
        doubted: share.doubted,
        book: Book::default(),
        took: Duration::ZERO,
        settle_seq: 0,
        unsettled: VecDeque::new(),
        chunk: CHUNK_WALLETS,
        settle_at: Instant::now(),
        duties_at: Instant::now(),
        label: partition.to_string(),
        check: OWNERSHIP.check(partition),
        progress: Progress::new(
            &shared.readiness,
            OWNERSHIP.check(partition),
            shared.config.window(),
            &shared.log,
            (RATED, partition),
        ),
    };
    worker.work()
}

struct Worker<'a> {
    shared: &'a Shared,
    partition: u32,
    stop: &'a Shutdown,
    /// Whether the attempt before has failed, and nothing has gone on since.
    doubted: bool,
    book: Book,
    /// How long the newest posting took.
    took: Duration,
    /// Number of the newest transaction that posted or settled.
    settle_seq: i64,
    /// Wallets that a posting left to be settled.
    unsettled: VecDeque<WalletId>,
    /// Wallets of the next settlement: fewer after one that waited for a lock too long.
    chunk: usize,
    /// Nothing is settled before.
    settle_at: Instant,
    /// When it is looked for duties again.
    duties_at: Instant,
    label: String,
    check: String,
    progress: Progress,
}

impl Worker<'_> {
    fn work(&mut self) -> Result<(), PartitionError> {
        while let Some(standing) = self.load()? {
            match self.follow(standing)? {
                End::Stopped => break,
                End::Reload => self.book.forget(),
            }
        }
        Ok(())
    }

    /// Where the ledger stands; waits while Postgres is away. `None` after a stop.
    fn load(&mut self) -> Result<Option<Standing>, PartitionError> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while !self.stop.is_cancelled() {
            match self.begin_anew() {
                Ok(standing) => return Ok(Some(standing)),
                Err(PostError::Postgres(error)) if error.is_passing() => {
                    self.retry(&mut backoff, "postgres", &error);
                }
                Err(error) => return Err(self.post_error(error)),
            }
        }
        Ok(None)
    }

    /// Where the ledger stands, the wallets of the partition, and what the writer before left
    /// unsettled. Were another writer in between, the next posting or settlement is stale.
    fn begin_anew(&mut self) -> Result<Standing, PostError> {
        let standing = self.standing()?;
        let read = async {
            let mut connection = self.shared.pool.acquire().await.map_err(PostgresError::from)?;
            let wallets = settle::wallets(&mut connection, self.partition).await?;
            let indebted = settle::indebted(&mut connection, self.partition).await?;
            Ok((wallets, indebted))
        };
        let (wallets, indebted) = self.block_on(POST_TIMEOUT, read)?;
        let named = wallets
            .into_iter()
            .map(|((tenant, wallet), team, currency)| ((tenant, team, currency), wallet));
        self.book.set_wallets(named);
        self.unsettled = indebted.into();
        self.settle_seq = standing.settle_seq;
        Ok(standing)
    }

    fn standing(&self) -> Result<Standing, PostError> {
        let read = async {
            let mut connection = self.shared.pool.acquire().await.map_err(PostgresError::from)?;
            post::standing(&mut connection, self.partition).await
        };
        self.block_on(POST_TIMEOUT, read)
    }

    /// Runs a future on this thread. What does not answer in time is unknown.
    fn block_on<T>(
        &self,
        timeout: Duration,
        future: impl Future<Output = Result<T, PostError>>,
    ) -> Result<T, PostError> {
        let limited = async { tokio::time::timeout(timeout, future).await };
        self.shared.handle.block_on(limited).unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", timeout.as_secs());
            Err(PostgresError::OutcomeUnknown(reason).into())
        })
    }

    /// Reads and posts from where the ledger stands.
    fn follow(&mut self, mut standing: Standing) -> Result<End, PartitionError> {
        let Some(mut reader) = self.open(standing.place)? else { return Ok(End::Stopped) };
        self.stands_at(standing.place);
        self.progress.next_is(standing.place.r.saturating_add(1));
        let mut window = self.window(&standing);
        let mut deadline = None;
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let stopped = self.stop.is_cancelled();
            if stopped || self.is_due(&window, deadline) {
                if !window.is_empty() {
                    match self.post(&window, &standing)? {
                        Fate::Posted(now) => standing = now,
                        Fate::Anew => return Ok(End::Reload),
                        Fate::GivenUp => return Ok(End::Stopped),
                    }
                    window = self.window(&standing);
                }
                deadline = None;
                if stopped {
                    return Ok(End::Stopped);
                }
            }
            if let Settling::Anew = self.settle()? {
                return Ok(End::Reload);
            }
            match reader.next(wait(deadline)) {
                Ok(None) => {
                    backoff.reset();
                    if window.is_empty() && self.progress.idle() {
                        self.goes_on();
                    }
                }
                Ok(Some(message)) => {
                    backoff.reset();
                    self.progress.next_is(message.position.saturating_add(1));
                    if window.is_empty() {
                        self.progress.advanced();
                    }
                    self.offer(&mut window, message.position, &message.payload)?;
                    if !window.is_empty() {
                        deadline.get_or_insert_with(|| Instant::now() + self.begin());
                    }
                }
                Err(error @ LogError::Unavailable(_)) => {
                    self.retry(&mut backoff, "the log", &error);
                    let Some(again) = self.open(window.place())? else { return Ok(End::Stopped) };
                    reader = again;
                }
                Err(error) => return Err(self.log_error(error)),
            }
        }
    }

    /// How long the window is that begins.
    fn begin(&self) -> Duration {
        let set = self.shared.config.window();
        let length = set.max(self.took * POSTING_TIMES).min(set * LENGTH_TIMES_MAX);
        self.progress.allow(length);
        length
    }

    fn window(&self, standing: &Standing) -> Window {
        Window::new(self.partition, standing.place, standing.catalog_version)
    }

    /// A reader at `R + 1`; waits while the log is away. `None` after a stop.
    fn open(&self, place: Place) -> Result<Option<Box<dyn Reader>>, PartitionError> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while !self.stop.is_cancelled() {
            match self.try_open(place) {
                Ok(reader) => {
                    if !self.doubted {
                        self.shared.readiness.set(&self.check, State::Ready);
                    }
                    return Ok(Some(reader));
                }
                Err(PartitionError::Log { error: error @ LogError::Unavailable(_), .. }) => {
                    self.retry(&mut backoff, "the log", &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn try_open(&self, place: Place) -> Result<Box<dyn Reader>, PartitionError> {
        let log = |error| self.log_error(error);
        let (_, next) = self.shared.log.bounds(RATED, self.partition, BOUNDS_WAIT).map_err(log)?;
        let from = place.r.saturating_add(1);
        if next < from {
            return Err(PartitionError::LogTooShort {
                partition: self.partition,
                r: place.r,
                next,
            });
        }
        self.shared.log.reader(RATED, self.partition, from).map_err(log)
    }

    fn offer(
        &self,
        window: &mut Window,
        position: i64,
        payload: &[u8],
    ) -> Result<(), PartitionError> {
        let accepted = window.offer(position, payload).map_err(|error| {
            let partition = self.partition;
            PartitionError::Window { partition, position, error }
        })?;
        let metrics = &self.shared.metrics;
        let counter = if accepted { &metrics.accepted } else { &metrics.ignored };
        counter.with_label_values(&[&self.label]).inc();
        Ok(())
    }

    fn is_due(&self, window: &Window, deadline: Option<Instant>) -> bool {
        let config = &self.shared.config;
        window.batches() >= config.batches_max
            || window.sums() >= config.sums_max
            || deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Posts one window, again and again while Postgres is away. The log keeps what comes
    /// meanwhile, so memory is bounded by this window.
    fn post(&mut self, window: &Window, standing: &Standing) -> Result<Fate, PartitionError> {
        let (posting, began_us) = (window.posting(), task::now_us());
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.attempt(&posting, standing) {
                Ok(posted) => {
                    self.trace(window, began_us);
                    self.goes_on();
                    return Ok(self.posted(window, posted));
                }
                Err(PostError::Stale) => return Ok(self.fenced()),
                Err(PostError::Postgres(error)) if error.is_passing() => {
                    if self.stop.is_cancelled() {
                        return Ok(Fate::GivenUp);
                    }
                    self.retry(&mut backoff, "postgres", &error);
                    if let Some(fate) = self.look(&posting)? {
                        self.goes_on();
                        return Ok(fate);
                    }
                }
                Err(error) => return Err(self.post_error(error)),
            }
        }
    }

    fn attempt(&mut self, posting: &Posting, standing: &Standing) -> Result<Posted, PostError> {
        let timeout = if self.stop.is_cancelled() { LAST_POST_TIMEOUT } else { POST_TIMEOUT };
        let started = Instant::now();
        let mut book = std::mem::take(&mut self.book);
        let shared = self.shared;
        let after = (standing.head, self.settle_seq);
        let posting = post::post(&shared.pool, &shared.key, &mut book, after, posting);
        let outcome = self.block_on(timeout, posting);
        self.book = book;
        if outcome.is_ok() {
            self.took = started.elapsed();
            shared.metrics.post_seconds.observe(self.took.as_secs_f64());
        }
        outcome
    }

    /// After a failed attempt: did it happen all the same? `None`: not, as far as can be seen; the
    /// compare-and-set of the next attempt decides.
    fn look(&self, posting: &Posting) -> Result<Option<Fate>, PartitionError> {
        match self.standing() {
            Ok(now) => Ok(match posting.seen(&now.place) {
                Seen::Posted => {
                    tracing::info!(
                        partition = self.partition,
                        x = now.place.x,
                        "the window was posted, its answer was lost"
                    );
                    self.stands_at(now.place);
                    // What it itemised, and what is to be settled, is in Postgres alone.
                    Some(Fate::Anew)
                }
                Seen::NotPosted => None,
                Seen::Overtaken => Some(self.fenced()),
            }),
            Err(PostError::Postgres(error)) if error.is_passing() => Ok(None),
            Err(error) => Err(self.post_error(error)),
        }
    }

    fn posted(&mut self, window: &Window, posted: Posted) -> Fate {
        let metrics = &self.shared.metrics;
        let labels = [self.label.as_str()];
        metrics.windows.with_label_values(&labels).inc();
        metrics.transfers.inc_by(u64::try_from(posted.transfers).unwrap_or(0));
        let append_time_ms = window.append_time_us() / 1000;
        metrics.posted_append_time.with_label_values(&labels).set(append_time_ms);
        self.stands_at(posted.standing.place);
        self.settle_seq = posted.standing.settle_seq;
        self.unsettled.extend(posted.wallets);
        Fate::Posted(posted.standing)
    }

    /// The spans of a window that was posted.
    fn trace(&self, window: &Window, began_us: i64) {
        for request in window.traces() {
            let (parent, own) = request.after(RATE, POST, self.partition);
            let ids = (own.trace, own.span, parent.span);
            let place = ("weir.position", window.place().x);
            traces::record(Span::of_reader(POST, ids, began_us, self.partition, place));
        }
    }

    fn stands_at(&self, place: Place) {
        self.progress.advanced();
        self.shared.metrics.position.with_label_values(&[&self.label]).set(place.x);
    }

    /// A window was posted, or there is nothing to post.
    fn goes_on(&mut self) {
        self.doubted = false;
        self.shared.readiness.set(&self.check, State::Ready);
    }

    fn fenced(&self) -> Fate {
        tracing::info!(
            partition = self.partition,
            "another writer posted; starting over from where the ledger stands"
        );
        self.shared.metrics.fenced.with_label_values(&[&self.label]).inc();
        Fate::Anew
    }

    /// Counts, tells, and waits before the next attempt.
    fn retry(&self, backoff: &mut Backoff, what: &str, error: &dyn std::error::Error) {
        tracing::warn!(partition = self.partition, %error, "{what} is not available; trying again");
        self.shared.metrics.retries.with_label_values(&[&self.label]).inc();
        self.not_ready(&error.to_string());
        let pause = backoff.pause();
        let (stop, sleep) = (self.stop.cancelled(), async { tokio::time::sleep(pause).await });
        self.shared.handle.block_on(async {
            tokio::select! {
                () = stop => {}
                () = sleep => {}
            }
        });
    }

    fn not_ready(&self, reason: &str) {
        self.shared.readiness.set(&self.check, State::NotReady(reason.to_owned()));
    }

    fn log_error(&self, error: LogError) -> PartitionError {
        PartitionError::Log { partition: self.partition, error }
    }

    fn post_error(&self, error: PostError) -> PartitionError {
        PartitionError::Post { partition: self.partition, error }
    }
}

/// How long to wait for the log: until the window is due, and never long.
fn wait(deadline: Option<Instant>) -> Duration {
    let due =
        deadline.map_or(WAIT_MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    due.min(WAIT_MAX)
}
