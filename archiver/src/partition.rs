//! One partition: read accepted batches, fix a group's borders, insert it, move on.

use std::time::{Duration, Instant};

use domain::chain::Place;
use runtime::{
    clickhouse::ClickHouse,
    http::{Readiness, State},
    log::SharedLog,
    postgres::Pool,
    shutdown::Shutdown,
    task::TaskError,
};
use tokio::runtime::Handle;

use crate::{
    OWNERSHIP,
    borders::{Borders, fix},
    config::Config,
    error::ArchiveError,
    group::{Collector, End, Group},
    insert,
    metrics::ArchiverMetrics,
    pace::Pace,
};

/// The wait after the first failure; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a statement under way may go on after a stop was asked for. Cutting it is safe: the
/// next owner repeats it with the same token.
const GRACE: Duration = Duration::from_secs(5);
/// A position older than this is read again before an insert. Who was paused for longer may have
/// been overtaken by more inserts than ClickHouse remembers the tokens of.
const POSITION_AGE_MAX: Duration = Duration::from_secs(10);

/// What all partitions share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub config: Config,
    pub log: SharedLog,
    pub pool: Pool,
    pub clickhouse: ClickHouse,
    pub metrics: ArchiverMetrics,
    pub pace: Pace,
    pub readiness: Readiness,
    pub handle: Handle,
}

/// Archives one partition until `stop`. Only what no later attempt could mend is an error.
pub(crate) fn own(shared: &Shared, partition: u32, stop: &Shutdown) -> Result<(), TaskError> {
    let mut attempts: u32 = 0;
    while !stop.is_cancelled() {
        let mut owner = Owner { shared, partition, stop, attempts: &mut attempts };
        let Err(error) = owner.run() else { break };
        if matches!(error, ArchiveError::Stopped) {
            break;
        }
        shared.metrics.retries.with_label_values(&[error.reason()]).inc();
        let text = format!("partition {partition}: {error}");
        shared.readiness.set(OWNERSHIP.check(partition), State::NotReady(text.clone()));
        if !error.may_pass() {
            return Err(text.into());
        }
        if attempts == 0 {
            tracing::warn!(partition, error = text, "the archive waits; trying again");
        }
        let delay = BACKOFF_MIN.saturating_mul(1 << attempts.min(10)).min(BACKOFF_MAX);
        attempts = attempts.saturating_add(1);
        shared.handle.block_on(async {
            let _ = tokio::time::timeout(delay, stop.cancelled()).await;
        });
    }
    Ok(())
}

struct Owner<'a> {
    shared: &'a Shared,
    partition: u32,
    stop: &'a Shutdown,
    /// Failed attempts since the last success.
    attempts: &'a mut u32,
}

impl Owner<'_> {
    /// From the archive's position on, group by group, until a stop or a failure. After a failure
    /// nothing is kept: the next attempt begins at the position that `archived` has then.
    fn run(&mut self) -> Result<(), ArchiveError> {
        let mut place = self.position()?;
        let mut known_at = Instant::now();
        let mut collector = self.collector(place)?;
        while !self.stop.is_cancelled() {
            let Some(group) =
                collector.collect(End::Full, &self.shared.config, &|| self.stop.is_cancelled())?
            else {
                self.works();
                continue;
            };
            let fixed = self.wait(fix(&self.shared.pool, self.partition, &borders(&group)))?;
            let group = if fixed == borders(&group) {
                group
            } else {
                drop(group);
                self.shared.metrics.repeats.inc();
                collector = self.collector(place)?;
                self.repeat(&mut collector, &fixed)?
            };
            if known_at.elapsed() > POSITION_AGE_MAX && self.position()? != place {
                return Err(ArchiveError::Overtaken);
            }
            place = self.insert(group)?;
            known_at = Instant::now();
            self.works();
        }
        Ok(())
    }

    /// Collects a group whose borders somebody fixed before.
    fn repeat(&self, collector: &mut Collector, fixed: &Borders) -> Result<Group, ArchiveError> {
        let stopped = || self.stop.is_cancelled();
        loop {
            let group = collector.collect(End::At(fixed.to_x), &self.shared.config, &stopped)?;
            if stopped() {
                return Err(ArchiveError::Stopped);
            }
            match group {
                // The log is not readable as far as it was when the borders were fixed.
                None => {}
                Some(group) if borders(&group) == *fixed => return Ok(group),
                Some(_) => {
                    return Err(ArchiveError::Borders {
                        from_x: fixed.from_x,
                        to_x: fixed.to_x,
                        to_r: fixed.to_r,
                    });
                }
            }
        }
    }

    fn insert(&self, group: Group) -> Result<Place, ArchiveError> {
        let (place, append_time_us) = (group.place, group.append_time_us);
        let metrics = &self.shared.metrics;
        let began = Instant::now();
        self.wait(insert::insert(&self.shared.clickhouse, self.partition, group, metrics))?;
        metrics.insert_s.observe(began.elapsed().as_secs_f64());
        metrics.groups.inc();
        let label = self.partition.to_string();
        metrics.position.with_label_values(&[label.as_str()]).set(place.x);
        metrics
            .append_time_s
            .with_label_values(&[label.as_str()])
            .set(append_time_us.div_euclid(1_000_000));
        Ok(place)
    }

    fn position(&self) -> Result<Place, ArchiveError> {
        let place = self.wait(insert::position(&self.shared.clickhouse, self.partition))?;
        let label = self.partition.to_string();
        self.shared.metrics.position.with_label_values(&[label.as_str()]).set(place.x);
        Ok(place)
    }

    fn collector(&self, place: Place) -> Result<Collector, ArchiveError> {
        Collector::open(
            &self.shared.log,
            self.partition,
            place,
            &self.shared.metrics,
            &self.shared.pace,
        )
    }

    /// Everything works: said once after failures, and at the start.
    fn works(&mut self) {
        if *self.attempts > 0 {
            tracing::info!(partition = self.partition, "the archive goes on");
        }
        *self.attempts = 0;
        self.shared.readiness.set(OWNERSHIP.check(self.partition), State::Ready);
    }

    /// Waits for a statement, a while longer after a stop was asked for.
    fn wait<T, E: Into<ArchiveError>>(
        &self,
        statement: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ArchiveError> {
        let given_up = async {
            self.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        self.shared.handle.block_on(async {
            tokio::select! {
                outcome = statement => outcome.map_err(Into::into),
                () = given_up => Err(ArchiveError::Stopped),
            }
        })
    }
}

fn borders(group: &Group) -> Borders {
    Borders {
        from_x: group.from_x,
        to_x: group.place.x,
        from_r: group.from_r,
        to_r: group.place.r,
        c: group.place.c,
    }
}
