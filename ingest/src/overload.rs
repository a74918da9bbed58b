//! Overload: how much may wait for the log at once, so that what is accepted is accepted soon.
//!
//! A queue that comes and goes takes up a burst, and costs nobody anything. One that stands makes
//! every request wait and brings nothing: the log takes as much in a second as it did without it. So
//! the shortest time that any request took is looked at, interval by interval (as CoDel does with
//! packets, RFC 8289). Where that alone is long, as much may wait as the log took in such a time
//! and the others are refused at once; where it is short, more may wait step by step, up to all.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use runtime::telemetry::IntGauge;

/// A queue stands if every request takes longer than this and twice the shortest time there was:
/// some logs are far away.
const STANDING: Duration = Duration::from_millis(50);
/// Requests of so long a time are looked at together.
const INTERVAL: Duration = Duration::from_millis(200);
/// The shortest time of all is one of the last one or two of these.
const REMEMBERED: Duration = Duration::from_secs(30);
/// What may wait in any case.
const LIMIT_MIN: usize = 2 << 20;
/// What a request counts for beside its bytes: even an empty one takes its time.
const REQUEST_BYTES: usize = 2_048;

/// What may wait, and how long it takes.
#[derive(Debug)]
pub struct Overload {
    /// Bytes of requests that wait.
    waiting: AtomicUsize,
    /// Bytes that may.
    limit: AtomicUsize,
    /// The most that ever may.
    most: usize,
    pace: Mutex<Pace>,
    shown: IntGauge,
}

/// What is known of the requests that the log took.
#[derive(Debug)]
struct Pace {
    began: Instant,
    bytes: usize,
    shortest: Option<Duration>,
    /// The shortest times of this stretch of [`REMEMBERED`] and of the one before.
    remembered: [Option<Duration>; 2],
    stretch_began: Instant,
}

/// A request that waits for the log, until dropped.
#[derive(Debug)]
pub struct Waiting {
    overload: Arc<Overload>,
    bytes: usize,
    since: Instant,
}

impl Overload {
    /// Nothing waits, and `most` bytes may; what may is `shown`.
    #[must_use]
    pub fn new(most: usize, shown: IntGauge, now: Instant) -> Arc<Overload> {
        show(&shown, most);
        let pace = Pace {
            began: now,
            bytes: 0,
            shortest: None,
            remembered: [None; 2],
            stretch_began: now,
        };
        Arc::new(Overload {
            waiting: AtomicUsize::new(0),
            limit: AtomicUsize::new(most),
            most,
            pace: Mutex::new(pace),
            shown,
        })
    }

    /// Lets a request of `bytes` wait; `None` where too much does already. One may in any case, however
    /// long it is.
    #[must_use]
    pub fn admit(self: &Arc<Self>, bytes: usize, now: Instant) -> Option<Waiting> {
        let bytes = bytes.saturating_add(REQUEST_BYTES);
        let limit = self.limit.load(Ordering::Relaxed);
        let add = |waiting: usize| {
            let sum = waiting.checked_add(bytes)?;
            (waiting == 0 || sum <= limit).then_some(sum)
        };
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Waiting { overload: Arc::clone(self), bytes, since: now })
    }

    /// Bytes that may wait now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn took(&self, bytes: usize, time: Duration, now: Instant) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.bytes = pace.bytes.saturating_add(bytes);
        pace.shortest = Some(pace.shortest.map_or(time, |shortest| shortest.min(time)));
        let length = now.saturating_duration_since(pace.began);
        if length >= INTERVAL {
            let limit = pace.limit(length, self.limit()).max(LIMIT_MIN).min(self.most);
            self.limit.store(limit, Ordering::Relaxed);
            show(&self.shown, limit);
            pace.next(now);
        }
    }
}

fn show(shown: &IntGauge, limit: usize) {
    shown.set(i64::try_from(limit).unwrap_or(i64::MAX));
}

impl Pace {
    /// What may wait after an interval of this length, in which `limit` might.
    fn limit(&mut self, length: Duration, limit: usize) -> usize {
        let Some(shortest) = self.shortest else { return limit };
        let [newest, _] = &mut self.remembered;
        *newest = Some(newest.map_or(shortest, |known| known.min(shortest)));
        let ever = self.remembered.iter().flatten().min().copied().unwrap_or_default();
        let enough = STANDING + ever * 2;
        if shortest <= enough {
            return limit.saturating_add(limit / 10);
        }
        let bytes = u128::try_from(self.bytes).unwrap_or(u128::MAX);
        let taken = bytes * enough.as_nanos() / length.as_nanos().max(1);
        limit.min(usize::try_from(taken).unwrap_or(usize::MAX))
    }

    fn next(&mut self, now: Instant) {
        (self.began, self.bytes, self.shortest) = (now, 0, None);
        if now.saturating_duration_since(self.stretch_began) >= REMEMBERED {
            let [newest, _] = self.remembered;
            (self.remembered, self.stretch_began) = ([None, newest], now);
        }
    }
}

impl Waiting {
    /// The log has its events.
    pub fn logged(self, now: Instant) {
        self.overload.took(self.bytes, now.saturating_duration_since(self.since), now);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.overload.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MOST: usize = 64 << 20;
    const BYTES: usize = 30_000;
    const STEP: Duration = Duration::from_millis(1);

    fn shown() -> IntGauge {
        IntGauge::new("limit", "What may wait.").unwrap()
    }

    /// A log, and the time.
    struct Log {
        overload: Arc<Overload>,
        now: Instant,
    }

    impl Log {
        fn new() -> Log {
            let now = Instant::now();
            Log { overload: Overload::new(MOST, shown(), now), now }
        }

        /// It takes `capacity` requests a step, each `latency` after it came at the soonest, while
        /// `offered` of them come: how many were refused, and the longest time of those that were
        /// accepted in the second half of `steps`.
        fn run(
            &mut self,
            (capacity, latency): (usize, Duration),
            offered: impl Fn(usize) -> usize,
            steps: usize,
        ) -> (usize, Duration) {
            let (mut queue, mut refused, mut longest) = (VecDeque::new(), 0, Duration::ZERO);
            for step in 0..steps {
                for _ in 0..offered(step) {
                    match self.overload.admit(BYTES, self.now) {
                        Some(waiting) => queue.push_back(waiting),
                        None => refused += 1,
                    }
                }
                self.now += STEP;
                for _ in 0..capacity {
                    let due = self.now - latency;
                    let Some(waiting) = queue.pop_front_if(|waiting| waiting.since <= due) else {
                        break;
                    };
                    if step >= steps / 2 {
                        longest = longest.max(self.now - waiting.since);
                    }
                    waiting.logged(self.now);
                }
            }
            (refused, longest)
        }
    }

    #[test]
    fn a_burst_is_taken_up() {
        let burst = |step| if step == 0 { 1_500 } else { 0 };
        let (refused, _) = Log::new().run((1, STEP), burst, 2_000);
        assert_eq!(refused, 0);
    }

    #[test]
    fn ten_times_too_much_waits_no_longer_than_it_must() {
        let mut log = Log::new();
        assert_eq!(log.run((2, STEP), |_| 2, 1_000), (0, STEP));
        let (refused, longest) = log.run((2, STEP), |_| 20, 20_000);
        let taken = 20 * 20_000 - refused;
        assert!(taken > 39_000, "only {taken} were taken");
        assert!(longest <= Duration::from_millis(100), "{longest:?}");
        // Afterwards as much may wait as before.
        let (refused, _) = log.run((2, STEP), |_| 1, 20_000);
        assert_eq!((refused, log.overload.limit()), (0, MOST));
        assert_eq!(log.overload.shown.get(), MOST as i64);
    }

    #[test]
    fn a_log_that_is_far_away_is_not_an_overload() {
        let far = Duration::from_millis(400);
        assert_eq!(Log::new().run((10, far), |_| 2, 20_000), (0, far));
    }

    #[test]
    fn one_may_wait_whatever_it_is() {
        let now = Instant::now();
        let overload = Overload::new(10, shown(), now);
        let first = overload.admit(100, now);
        assert!(first.is_some() && overload.admit(1, now).is_none());
        drop(first);
        assert!(overload.admit(1, now).is_some());
    }
}
