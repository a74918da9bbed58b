//! One partition: read accepted batches, fix a group's borders, insert it, move on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{
    chain::Place,
    wire::trace::{ARCHIVE, RATE, TraceContext},
};
use runtime::{
    clickhouse::ClickHouse,
    http::{Readiness, State},
    log::SharedLog,
    ownership::Share,
    postgres::Pool,
    progress::Progress,
    shutdown::Shutdown,
    task::{TaskError, now_us},
    traces::{self, Span},
};
use tokio::runtime::Handle;

use crate::{
    OWNERSHIP,
    borders::{self, Borders},
    config::Config,
    error::ArchiveError,
    flush::{Flushed, Flusher, Ticks},
    group::{Collector, End, Group, RATED},
    insert,
    metrics::ArchiverMetrics,
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
    pub ticks: Ticks,
    pub flusher: Arc<Flusher>,
    pub readiness: Readiness,
    pub handle: Handle,
}

/// Archives one partition until it is lost. Only what needs a person is an error.
pub(crate) fn own(shared: &Shared, share: &Share<'_>) -> Result<(), TaskError> {
    let Share { partition, stop, mut doubted } = *share;
    let mut attempts: u32 = 0;
    let mut progress = Progress::new(
        &shared.readiness,
        OWNERSHIP.check(partition),
        shared.config.group_wait(),
        &shared.log,
        (RATED, partition),
    );
    while !stop.is_cancelled() {
        let mut owner = Owner {
            shared,
            partition,
            stop,
            attempts: &mut attempts,
            doubted: &mut doubted,
            progress: &mut progress,
        };
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

/// Where the archive stands after a group.
struct After {
    place: Place,
    /// Not by the group that was collected, so the log has to be read anew from there.
    repeated: bool,
}

struct Owner<'a> {
    shared: &'a Shared,
    partition: u32,
    stop: &'a Shutdown,
    /// Failed attempts since the last success.
    attempts: &'a mut u32,
    /// Whether the attempt before has failed, and nothing has gone on since.
    doubted: &'a mut bool,
    progress: &'a mut Progress,
}

impl Owner<'_> {
    /// From the archive's position on, group by group, until a stop or a failure. After a failure
    /// nothing is kept: the next attempt begins at the position that `archived` has then.
    fn run(&mut self) -> Result<(), ArchiveError> {
        let mut place = self.position()?;
        let mut known_at = Instant::now();
        let mut collector = self.collector(place)?;
        while !self.stop.is_cancelled() {
            self.progress.allow(self.shared.ticks.apart());
            let Some(group) =
                collector.collect(End::Full, &self.shared.config, &|| self.stop.is_cancelled())?
            else {
                self.progress.next_is(collector.next_position());
                if self.progress.idle() || !*self.doubted {
                    self.works();
                }
                continue;
            };
            self.progress.advanced();
            if known_at.elapsed() > POSITION_AGE_MAX && self.position()? != place {
                return Err(ArchiveError::Overtaken);
            }
            let after = self.flush(group)?;
            if after.repeated {
                collector = self.collector(after.place)?;
            }
            place = after.place;
            known_at = Instant::now();
            self.progress.advanced();
            self.works();
        }
        Ok(())
    }

    /// Brings a group into the archive; where others have fixed borders from its first position on,
    /// what they have fixed.
    fn flush(&self, mut group: Group) -> Result<After, ArchiveError> {
        loop {
            let (from_x, place, append_time_us) = (group.from_x, group.place, group.append_time_us);
            let (traces, began_us) = (group.traces.clone(), now_us());
            match self.wait(self.shared.flusher.flush(group))? {
                Flushed::Inserted => {
                    self.say(place, Some(append_time_us));
                    self.trace(&traces, began_us, place);
                    return Ok(After { place, repeated: false });
                }
                Flushed::Conflict(back) => match self.repeat(from_x)? {
                    Some(place) => return Ok(After { place, repeated: true }),
                    // It was another partition's group that was fixed otherwise.
                    None => group = *back,
                },
            }
        }
    }

    /// Inserts again, under its token, the flush that was fixed with a group from `from_x` on,
    /// with the groups of the other partitions in it. Answers where the archive stands then;
    /// `None` where nothing was fixed.
    fn repeat(&self, from_x: i64) -> Result<Option<Place>, ArchiveError> {
        // One at a time: after the first one of its partitions, a flush is there for all.
        let _alone =
            self.wait(async { Ok::<_, ArchiveError>(self.shared.flusher.alone().await) })?;
        let place = self.position()?;
        if place.x >= from_x {
            return Ok(Some(place));
        }
        let Some(flush) = self.wait(borders::fixed(&self.shared.pool, self.partition, from_x))?
        else {
            return Ok(None);
        };
        let groups = flush
            .groups
            .iter()
            .map(|(partition, before, fixed)| self.collect_again(*partition, *before, fixed));
        let groups = groups.collect::<Result<Vec<Group>, _>>()?;
        self.wait(self.shared.flusher.repeat(flush.token, groups))?;
        self.position().map(Some)
    }

    /// Collects a group whose borders were fixed before.
    fn collect_again(
        &self,
        partition: u32,
        before: Place,
        fixed: &Borders,
    ) -> Result<Group, ArchiveError> {
        let shared = self.shared;
        let mut collector =
            Collector::open(&shared.log, partition, before, &shared.metrics, &shared.ticks)?;
        let stopped = || self.stop.is_cancelled();
        loop {
            let group = collector.collect(End::At(fixed.to_x), &shared.config, &stopped)?;
            if stopped() {
                return Err(ArchiveError::Stopped);
            }
            match group {
                // The log is not readable as far as it was when the borders were fixed.
                None => {}
                Some(group) if group.borders() == *fixed => return Ok(group),
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

    /// The spans of a group that was inserted.
    fn trace(&self, traces: &[TraceContext], began_us: i64, place: Place) {
        for request in traces {
            let (parent, own) = request.after(RATE, ARCHIVE, self.partition);
            let ids = (own.trace, own.span, parent.span);
            let place = ("weir.position", place.x);
            traces::record(Span::of_reader(ARCHIVE, ids, began_us, self.partition, place));
        }
    }

    fn say(&self, place: Place, append_time_us: Option<i64>) {
        let (metrics, label) = (&self.shared.metrics, self.partition.to_string());
        metrics.position.with_label_values(&[label.as_str()]).set(place.x);
        if let Some(append_time_us) = append_time_us {
            let seconds = append_time_us.div_euclid(1_000_000);
            metrics.append_time_s.with_label_values(&[label.as_str()]).set(seconds);
        }
    }

    fn position(&self) -> Result<Place, ArchiveError> {
        let place = self.wait(insert::position(&self.shared.clickhouse, self.partition))?;
        self.say(place, None);
        Ok(place)
    }

    fn collector(&self, place: Place) -> Result<Collector, ArchiveError> {
        Collector::open(
            &self.shared.log,
            self.partition,
            place,
            &self.shared.metrics,
            &self.shared.ticks,
        )
    }

    /// Everything works: said once after failures, and at the start.
    fn works(&mut self) {
        if *self.attempts > 0 {
            tracing::info!(partition = self.partition, "the archive goes on");
        }
        (*self.attempts, *self.doubted) = (0, false);
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
