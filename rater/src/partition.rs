//! One partition's whole loop: read blocks, rate them, send batches, watch where they land.
//!
//! A plain thread, no async in the loop. The rules are in [`crate::state`]; this file only moves
//! messages between it, the log and Postgres. Beside it runs the partition's slow lane.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::wire::trace::{RATE, TraceContext};
use runtime::{
    attempts::{pause, until_stopped},
    clickhouse::{ClickHouse, ClickHouseError},
    http::{Readiness, State as Ready},
    log::{LogError, Message, Pending, Reader, SharedLog, Topic},
    ownership::Share,
    postgres::{Pool, PostgresError},
    progress::Progress,
    shutdown::Shutdown,
    task::{Task, TaskError, now_us, panic_text, spawn_thread},
    traces::{self, Span},
};
use tokio::runtime::Handle;

use crate::{
    OWNERSHIP,
    catalogs::Catalogs,
    config::Config,
    late::{self, Link},
    metrics::RaterMetrics,
    ranges::Folder,
    start::{begin, read_rated},
    state::{State, StateError},
    store::{catalog::CatalogStore, state::posted, totals::running_totals},
    upkeep::Upkeep,
};

/// `[usage]`: blocks of events.
pub const USAGE: Topic = Topic("usage");
/// `[rated]`: rated batches.
pub const RATED: Topic = Topic("rated");

pub(crate) const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Between looks at reports while no input comes; a report changes nothing for the next block.
const REPORT_WAIT: Duration = Duration::from_millis(10);
/// Between looks at reports while nothing more may be sent.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(1);
pub(crate) const BOUNDS_WAIT: Duration = Duration::from_secs(5);
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(100);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the partitions of a rater share.
#[derive(Clone)]
pub struct Shared {
    /// Options.
    pub config: Config,
    /// The log.
    pub log: SharedLog,
    /// Postgres, as `weir_reader`.
    pub pool: Pool,
    /// Postgres, as `weir_lane`.
    pub lane_pool: Pool,
    /// The archive, for the slow lane and for filters.
    pub clickhouse: ClickHouse,
    /// Where filters are kept.
    pub folder: Folder,
    /// Catalogs by version.
    pub catalogs: CatalogStore,
    /// Counters.
    pub metrics: RaterMetrics,
    /// Where readiness is said.
    pub readiness: Readiness,
    /// The runtime that database calls of the thread run on.
    pub handle: Handle,
    /// The process's stop signal.
    pub shutdown: Shutdown,
}

/// Why a partition's loop ended.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// A neighbour is down: try again.
    #[error("{0}")]
    Unavailable(String),
    /// Going on needs a person or a newer program.
    #[error("{0}")]
    Stopped(String),
}

impl From<StateError> for PartitionError {
    fn from(error: StateError) -> Self {
        PartitionError::Stopped(error.to_string())
    }
}

impl From<PostgresError> for PartitionError {
    fn from(error: PostgresError) -> Self {
        match error {
            error if error.is_passing() => PartitionError::Unavailable(error.to_string()),
            error => PartitionError::Stopped(error.to_string()),
        }
    }
}

impl From<ClickHouseError> for PartitionError {
    /// What it refuses counts too: a person may mend it, and until then only late events wait.
    fn from(error: ClickHouseError) -> Self {
        PartitionError::Unavailable(error.to_string())
    }
}

impl From<LogError> for PartitionError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => PartitionError::Unavailable(error.to_string()),
            LogError::Trimmed { topic: USAGE, .. } => PartitionError::Stopped(format!(
                "{error}: usage was lost before it was rated; an operator has to decide how to go on"
            )),
            error => PartitionError::Stopped(error.to_string()),
        }
    }
}

/// Owns a partition, with its slow lane, until it is lost, through every outage of its neighbours. Only
/// what needs a person is an error.
pub fn own(shared: &Shared, share: &Share<'_>) -> Result<(), TaskError> {
    let link = Arc::new(Link::default());
    let (lane, lane_stop) = start_lane(shared, share, &link)?;
    // The lane ends with this attempt, also if it panics.
    let rated = catch_unwind(AssertUnwindSafe(|| rate_until(shared, &link, share)));
    lane_stop.trigger();
    shared.handle.block_on(lane.ended());
    shared.readiness.remove(&late::check_name(share.partition));
    Ok(rated.unwrap_or_else(|panic| Err(PartitionError::Stopped(panic_text(&*panic))))?)
}

fn start_lane(
    shared: &Shared,
    share: &Share<'_>,
    link: &Arc<Link>,
) -> std::io::Result<(Task, Shutdown)> {
    let (partition, stop) = (share.partition, share.stop.child());
    let (own, link, watched) = (shared.clone(), Arc::clone(link), stop.clone());
    let task = spawn_thread(format!("late-{partition}"), &shared.shutdown, move || {
        let check = late::check_name(partition);
        until_stopped(&own.readiness, &check, &watched, |doubted| {
            late::run(&own, partition, &link, &watched, doubted)
        });
        Ok(())
    })?;
    Ok((task, stop))
}

fn rate_until(shared: &Shared, link: &Link, share: &Share<'_>) -> Result<(), PartitionError> {
    let (partition, stop) = (share.partition, share.stop);
    let check = OWNERSHIP.check(partition);
    let mut retry = RETRY_MIN;
    while !stop.is_cancelled() {
        let began = Instant::now();
        match incarnation(shared, link, &check, share) {
            Ok(()) => break,
            Err(PartitionError::Unavailable(reason)) => {
                tracing::warn!(partition, reason, "the rater waits for a neighbour");
                shared.readiness.set(check.clone(), Ready::NotReady(reason));
                if began.elapsed() > RETRY_MAX {
                    retry = RETRY_MIN;
                }
                pause(retry, stop);
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(stopped) => return Err(stopped),
        }
    }
    Ok(())
}

/// From reading the accepted history to losing the partition. After a stop it is ready only when it
/// has gone on.
fn incarnation(
    shared: &Shared,
    link: &Link,
    check: &str,
    share: &Share<'_>,
) -> Result<(), PartitionError> {
    let Share { partition, stop, doubted } = *share;
    let mut owner = Owner::start(shared, partition, link, stop)?;
    let mut ready = !doubted;
    if ready {
        shared.readiness.set(check, Ready::Ready);
    }
    let mut retry = RETRY_MIN;
    while !stop.is_cancelled() {
        match owner.step() {
            Ok(()) if !owner.broken => {
                if !ready && owner.went_on {
                    shared.readiness.set(check, Ready::Ready);
                    (ready, retry) = (true, RETRY_MIN);
                }
            }
            Ok(()) => {}
            // The table stays: what is accepted cannot change. Only what is not is given up.
            Err(PartitionError::Unavailable(reason)) => {
                tracing::warn!(partition, reason, "the rater waits for a neighbour");
                shared.readiness.set(check, Ready::NotReady(reason));
                (ready, owner.went_on) = (false, !doubted);
                owner.broken = true;
                pause(retry, stop);
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(stopped) => return Err(stopped),
        }
    }
    Ok(())
}

/// A batch on its way to the log.
struct Sent {
    report: Pending,
    traces: Vec<TraceContext>,
    since_us: i64,
}

struct Owner<'a> {
    shared: &'a Shared,
    partition: u32,
    link: &'a Link,
    upkeep: Upkeep,
    state: State,
    usage: Box<dyn Reader>,
    pending: VecDeque<Sent>,
    /// When the batch in the making took its first block.
    batch_since: Instant,
    /// The same by the wall clock, for spans only.
    batch_since_us: i64,
    /// A block that was read and not yet rated, because the batch had to be cut before it.
    held: Option<Message>,
    /// What is in flight or in the making cannot become accepted as it is.
    broken: bool,
    progress: Progress,
    /// Whether anything was accepted since the start, or the log said that there was nothing to do.
    went_on: bool,
}

impl<'a> Owner<'a> {
    /// Rebuilds the table from the accepted batches from `S` on and goes on to the end of `[rated]`.
    fn start(
        shared: &'a Shared,
        partition: u32,
        link: &'a Link,
        stop: &Shutdown,
    ) -> Result<Owner<'a>, PartitionError> {
        let posted = shared.handle.block_on(posted(&shared.pool, partition))?;
        let (first, end) = shared.log.bounds(RATED, partition, BOUNDS_WAIT)?;
        let (begin, coverage) = begin(shared, partition, &posted, first)?;
        let mut state = State::new(partition, begin, coverage, shared.config.limits());
        let version = read_rated(
            shared,
            partition,
            &mut state,
            end,
            posted.catalog_version,
            Some((posted.place, stop)),
        )?;
        state.set_catalogs(Arc::new(shared.handle.block_on(shared.catalogs.at(version))?));
        let usage = shared.log.reader(USAGE, partition, state.next_position())?;
        tracing::info!(
            partition,
            x = state.place().x,
            table_from = state.table().coverage().table_from,
            identities = state.table().identities(),
            catalog_version = version,
            "the rater owns the partition"
        );
        Ok(Owner {
            shared,
            partition,
            link,
            upkeep: Upkeep::new(),
            state,
            usage,
            pending: VecDeque::new(),
            batch_since: Instant::now(),
            batch_since_us: 0,
            held: None,
            broken: false,
            progress: Progress::new(
                &shared.readiness,
                OWNERSHIP.check(partition),
                Duration::from_millis(shared.config.batch_ms),
                &shared.log,
                (USAGE, partition),
            ),
            went_on: false,
        })
    }

    /// One turn: reports first, then a block, then the batch if it is due.
    fn step(&mut self) -> Result<(), PartitionError> {
        if self.upkeep.turn(self.shared, &mut self.state, self.link.held()) {
            self.show_table();
        }
        self.link.tell(self.state.table().coverage().table_from, self.state.place().x);
        if self.broken || !self.reports()? {
            self.broken = true;
            return self.recover();
        }
        if self.pending.len() >= self.shared.config.batches_in_flight {
            std::thread::sleep(IN_FLIGHT_WAIT);
            return Ok(());
        }
        if let Some(message) = self.next_block()? {
            if self.state.must_cut_before(message.append_time_us) {
                self.held = Some(message);
                self.send();
                return Ok(());
            }
            self.rate(&message)?;
        } else if self.pending.is_empty() && self.state.batch().is_none() {
            self.progress.next_is(self.state.next_position());
            self.went_on |= self.progress.idle();
        }
        if self.is_due() {
            self.send();
        }
        Ok(())
    }

    /// Takes the reports that are there. False: the chain in flight is broken.
    fn reports(&mut self) -> Result<bool, PartitionError> {
        while let Some(oldest) = self.pending.front_mut() {
            let Some(outcome) = oldest.report.try_outcome() else { break };
            let reason = match outcome {
                Ok(appended) => {
                    if self.state.landed(appended.position) {
                        if let Some(sent) = self.pending.pop_front() {
                            self.trace(&sent, appended.position);
                        }
                        self.batch_accepted();
                        continue;
                    }
                    "not_adjacent"
                }
                Err(error) => {
                    tracing::warn!(partition = self.partition, %error, "a rated batch has no report of its place");
                    "no_report"
                }
            };
            self.shared.metrics.discards.with_label_values(&[reason]).inc();
            return Ok(false);
        }
        Ok(true)
    }

    fn batch_accepted(&mut self) {
        self.went_on = true;
        self.progress.advanced();
        let (metrics, label) = (&self.shared.metrics, self.partition.to_string());
        metrics.batches.inc();
        metrics.position.with_label_values(&[&label]).set(self.state.place().x);
    }

    /// Discards what is not accepted, reads `[rated]` to its end and goes on from there.
    fn recover(&mut self) -> Result<(), PartitionError> {
        self.pending.clear();
        self.held = None;
        self.state.discard();
        let (_, end) = self.shared.log.bounds(RATED, self.partition, BOUNDS_WAIT)?;
        let before = self.state.catalog_version();
        let version = read_rated(self.shared, self.partition, &mut self.state, end, before, None)?;
        if version != before {
            self.state.set_catalogs(Arc::new(
                self.shared.handle.block_on(self.shared.catalogs.at(version))?,
            ));
        }
        self.usage = self.shared.log.reader(USAGE, self.partition, self.state.next_position())?;
        tracing::info!(
            partition = self.partition,
            x = self.state.place().x,
            "the rater goes on from the accepted place"
        );
        self.broken = false;
        Ok(())
    }

    fn next_block(&mut self) -> Result<Option<Message>, PartitionError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let wait = if self.state.batch().is_some() {
            self.batch_age_max().saturating_sub(self.batch_since.elapsed())
        } else if self.pending.is_empty() {
            IDLE_WAIT
        } else {
            REPORT_WAIT
        };
        Ok(self.usage.next(wait)?)
    }

    fn rate(&mut self, message: &Message) -> Result<(), PartitionError> {
        let opened = self.state.open(message.position, &message.payload)?;
        let mut coming = Vec::with_capacity(opened.versions.len());
        for version in &opened.versions {
            let catalogs: Catalogs =
                self.shared.handle.block_on(self.shared.catalogs.at(*version))?;
            coming.push(Arc::new(catalogs));
        }
        let block = opened.block()?;
        let unknown = self.state.unknown_teams(&opened, &block, &coming);
        if !unknown.is_empty() {
            let stored = self.shared.handle.block_on(running_totals(&self.shared.pool, unknown))?;
            for (team, totals) in stored {
                self.state.put_totals(team, totals);
            }
        }
        if self.state.batch().is_none() {
            self.batch_since = Instant::now();
            self.batch_since_us = now_us();
        }
        let counts = |state: &State| {
            state.batch().map_or((0, 0), |batch| (batch.entries, batch.forwarded()))
        };
        let before = counts(&self.state);
        self.state.rate(message.append_time_us, &opened, &block, &coming)?;
        let after = counts(&self.state);
        let (unrated, rounded) = self.state.take_unrated();
        let metrics = &self.shared.metrics;
        metrics.rounded.inc_by(rounded);
        for (reason, count) in unrated {
            metrics.unrated.with_label_values(&[&reason]).inc_by(count);
        }
        metrics.entries.inc_by(u64::from(after.0.saturating_sub(before.0)));
        metrics.forwarded.inc_by(u64::try_from(after.1.saturating_sub(before.1)).unwrap_or(0));
        Ok(())
    }

    /// The more batches are on their way the longer: a log that is slow gets fewer and longer ones.
    fn batch_age_max(&self) -> Duration {
        let in_flight = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        Duration::from_millis(self.shared.config.batch_ms)
            .saturating_mul(in_flight.saturating_add(1))
    }

    fn is_due(&self) -> bool {
        self.state.batch().is_some_and(|batch| {
            batch.entries >= self.shared.config.batch_events
                || batch.size() >= self.shared.config.batch_bytes
                || self.batch_since.elapsed() >= self.batch_age_max()
        })
    }

    fn send(&mut self) {
        let traces = self.state.traces().to_vec();
        let Some((_, message)) = self.state.cut() else { return };
        let report = self.shared.log.append(RATED, self.partition, Bytes::from(message));
        self.pending.push_back(Sent { report, traces, since_us: self.batch_since_us });
        self.show_table();
    }

    /// The spans of an accepted batch.
    fn trace(&self, sent: &Sent, position: i64) {
        for parent in &sent.traces {
            let own = parent.below(RATE, self.partition);
            let ids = (own.trace, own.span, parent.span);
            let place = ("weir.rated_position", position);
            traces::record(Span::of_reader(RATE, ids, sent.since_us, self.partition, place));
        }
    }

    /// Tells the table's size in metrics.
    fn show_table(&self) {
        let label = self.partition.to_string();
        let (metrics, table) = (&self.shared.metrics, self.state.table());
        let (ranges, without) = table.ranges().count();
        let set = |gauge: &prometheus::IntGaugeVec, value: usize| {
            gauge.with_label_values(&[&label]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&metrics.identities, table.identities());
        set(&metrics.running_totals, self.state.totals().count());
        set(&metrics.ranges, ranges);
        set(&metrics.ranges_without_filter, without);
        metrics.table_from.with_label_values(&[&label]).set(table.coverage().table_from);
    }
}
