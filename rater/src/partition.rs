//! One partition's whole loop: read blocks, rate them, send batches, watch where they land.
//!
//! A plain thread, no async in the loop. The rules are in [`crate::state`]; this file only moves
//! messages between it, the log and Postgres.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::chain::Place;
use runtime::{
    http::{Readiness, State as Ready},
    log::{LogError, Message, Pending, Reader, SharedLog, Topic},
    postgres::{Pool, PostgresError},
};
use tokio::runtime::Handle;

use crate::{
    catalogs::Catalogs,
    config::Config,
    metrics::RaterMetrics,
    state::{State, StateError},
    store::{
        catalog::CatalogStore,
        state::{Posted, audited_from, posted},
    },
};

/// `[usage]`: blocks of events.
pub const USAGE: Topic = Topic("usage");
/// `[rated]`: rated batches.
pub const RATED: Topic = Topic("rated");

const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Between looks at reports while no input comes; a report changes nothing for the next block.
const REPORT_WAIT: Duration = Duration::from_millis(10);
/// Between looks at reports while nothing more may be sent.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(1);
const BOUNDS_WAIT: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the partitions of a rater share.
#[derive(Clone)]
pub struct Shared {
    /// Options.
    pub config: Config,
    /// The log.
    pub log: SharedLog,
    /// Postgres, as `weir_reader`.
    pub pool: Pool,
    /// Catalogs by version.
    pub catalogs: CatalogStore,
    /// Counters.
    pub metrics: RaterMetrics,
    /// Where readiness is said.
    pub readiness: Readiness,
    /// The runtime that database calls of the thread run on.
    pub handle: Handle,
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
            PostgresError::Unavailable(_)
            | PostgresError::OutcomeUnknown(_)
            | PostgresError::Contended(_) => PartitionError::Unavailable(error.to_string()),
            error => PartitionError::Stopped(error.to_string()),
        }
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

/// Owns a partition until `stop` is set, through every outage of its neighbours.
pub fn own(shared: &Shared, partition: u32, stop: &AtomicBool) {
    let check = format!("rater.{partition}");
    let mut retry = RETRY_MIN;
    while !stop.load(Ordering::Relaxed) {
        shared.readiness.set(check.clone(), Ready::NotReady("starting".into()));
        let began = Instant::now();
        match incarnation(shared, partition, &check, stop) {
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
            Err(PartitionError::Stopped(reason)) => {
                tracing::error!(
                    partition,
                    reason,
                    "the rater has stopped this partition; a person has to act"
                );
                shared.readiness.set(check, Ready::NotReady(reason));
                return;
            }
        }
    }
    shared.readiness.remove(&check);
}

fn pause(length: Duration, stop: &AtomicBool) {
    let until = Instant::now() + length;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(IDLE_WAIT.min(length));
    }
}

/// From reading the accepted history to losing the partition.
fn incarnation(
    shared: &Shared,
    partition: u32,
    check: &str,
    stop: &AtomicBool,
) -> Result<(), PartitionError> {
    let mut owner = Owner::start(shared, partition, stop)?;
    shared.readiness.set(check, Ready::Ready);
    let mut retry = RETRY_MIN;
    while !stop.load(Ordering::Relaxed) {
        match owner.step() {
            Ok(()) if !owner.broken => {
                if retry > RETRY_MIN {
                    shared.readiness.set(check, Ready::Ready);
                    retry = RETRY_MIN;
                }
            }
            Ok(()) => {}
            // The table stays: what is accepted cannot change. Only what is not is given up.
            Err(PartitionError::Unavailable(reason)) => {
                tracing::warn!(partition, reason, "the rater waits for a neighbour");
                shared.readiness.set(check, Ready::NotReady(reason));
                owner.broken = true;
                pause(retry, stop);
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(stopped) => return Err(stopped),
        }
    }
    Ok(())
}

struct Owner<'a> {
    shared: &'a Shared,
    partition: u32,
    state: State,
    usage: Box<dyn Reader>,
    pending: VecDeque<Pending>,
    /// Where in `[rated]` the next report must say that its batch stands.
    next_rated: i64,
    /// When the batch in the making took its first block.
    batch_since: Instant,
    /// A block that was read and not yet rated, because the batch had to be cut before it.
    held: Option<Message>,
    /// What is in flight or in the making cannot become accepted as it is.
    broken: bool,
}

impl<'a> Owner<'a> {
    /// Rebuilds the table from accepted batches and goes on to the end of `[rated]`.
    fn start(
        shared: &'a Shared,
        partition: u32,
        stop: &AtomicBool,
    ) -> Result<Owner<'a>, PartitionError> {
        let Posted { place: posted, catalog_version } =
            shared.handle.block_on(posted(&shared.pool, partition))?;
        let (first, end) = shared.log.bounds(RATED, partition, BOUNDS_WAIT)?;
        let begin = if first == 0 {
            Place::EMPTY
        } else {
            let audited = shared.handle.block_on(audited_from(&shared.pool, partition, first))?;
            audited.ok_or_else(|| PartitionError::Stopped(format!(
                "[rated] begins at {first} and no audited place stands before it: batches were lost before they were posted"
            )))?
        };
        let mut state = State::new(partition, begin);
        let version =
            read_rated(shared, partition, &mut state, end, catalog_version, Some((posted, stop)))?;
        state.set_catalogs(Arc::new(shared.handle.block_on(shared.catalogs.at(version))?));
        let usage = shared.log.reader(USAGE, partition, state.next_position())?;
        tracing::info!(
            partition,
            x = state.place().x,
            identities = state.identities(),
            catalog_version = version,
            "the rater owns the partition"
        );
        Ok(Owner {
            shared,
            partition,
            state,
            usage,
            pending: VecDeque::new(),
            next_rated: end,
            batch_since: Instant::now(),
            held: None,
            broken: false,
        })
    }

    /// One turn: reports first, then a block, then the batch if it is due.
    fn step(&mut self) -> Result<(), PartitionError> {
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
        }
        if self.is_due() {
            self.send();
        }
        Ok(())
    }

    /// Takes the reports that are there. False: the chain in flight is broken.
    fn reports(&mut self) -> Result<bool, PartitionError> {
        while let Some(oldest) = self.pending.front_mut() {
            let Some(outcome) = oldest.try_outcome() else { break };
            let reason = match outcome {
                Ok(appended) if appended.position == self.next_rated => {
                    self.pending.pop_front();
                    self.state.accepted(appended.position);
                    self.next_rated += 1;
                    self.shared.metrics.batches.inc();
                    let label = self.partition.to_string();
                    self.shared
                        .metrics
                        .position
                        .with_label_values(&[&label])
                        .set(self.state.place().x);
                    continue;
                }
                Ok(_) => "not_adjacent",
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
        self.next_rated = end;
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
        if self.state.batch().is_none() {
            self.batch_since = Instant::now();
        }
        let before = self.state.batch().map_or(0, |batch| batch.entries);
        self.state.rate(message.position, message.append_time_us, &opened, &coming)?;
        let after = self.state.batch().map_or(0, |batch| batch.entries);
        self.shared.metrics.entries.inc_by(u64::from(after.saturating_sub(before)));
        Ok(())
    }

    fn batch_age_max(&self) -> Duration {
        Duration::from_millis(self.shared.config.batch_ms)
    }

    fn is_due(&self) -> bool {
        self.state.batch().is_some_and(|batch| {
            batch.entries >= self.shared.config.batch_events
                || batch.size() >= self.shared.config.batch_bytes
                || self.batch_since.elapsed() >= self.batch_age_max()
        })
    }

    fn send(&mut self) {
        let Some((_, message)) = self.state.cut() else { return };
        self.pending.push_back(self.shared.log.append(RATED, self.partition, Bytes::from(message)));
        let label = self.partition.to_string();
        let identities = i64::try_from(self.state.identities()).unwrap_or(i64::MAX);
        self.shared.metrics.identities.with_label_values(&[&label]).set(identities);
    }
}

/// Applies `[rated]` from `R + 1` up to `end`. Answers the catalog version after the last accepted
/// batch, or `version` where there is none. With `posted`, checks that the ledger's place lies on
/// the chain: otherwise database and log do not belong together.
fn read_rated(
    shared: &Shared,
    partition: u32,
    state: &mut State,
    end: i64,
    version: u64,
    posted: Option<(Place, &AtomicBool)>,
) -> Result<u64, PartitionError> {
    let mut version = version;
    let mut met = posted.is_none_or(|(posted, _)| posted == state.place());
    let mut next = state.place().r + 1;
    if next < end {
        let mut reader = shared.log.reader(RATED, partition, next)?;
        let mut silent_since = Instant::now();
        while next < end {
            if posted.is_some_and(|(_, stop)| stop.load(Ordering::Relaxed)) {
                return Err(PartitionError::Unavailable("asked to stop while starting".into()));
            }
            let Some(message) = reader.next(IDLE_WAIT)? else {
                if silent_since.elapsed() > BOUNDS_WAIT {
                    return Err(PartitionError::Unavailable(format!(
                        "[rated] gave no message at {next}"
                    )));
                }
                continue;
            };
            silent_since = Instant::now();
            match state.offer(message.position, &message.payload)? {
                Some(accepted) => version = accepted,
                None => shared.metrics.ignored.inc(),
            }
            met |= posted.is_some_and(|(posted, _)| posted == state.place());
            next = message.position + 1;
        }
    }
    if met {
        return Ok(version);
    }
    Err(PartitionError::Stopped(
        "the ledger's place is not on the chain in [rated]: this database and this log do not belong together".into(),
    ))
}
