//! What was done to a system, and when: printed beside a difference, and counted in the report.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// The faults of a run. Cheap to clone; clones are the same story.
#[derive(Clone, Debug)]
pub struct Story {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<(u64, String)>,
    counts: BTreeMap<String, u64>,
}

impl Default for Story {
    fn default() -> Self {
        Story { began: Instant::now(), inner: Arc::default() }
    }
}

impl Story {
    /// Milliseconds since it began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells something that happened.
    pub fn tell(&self, what: impl Into<String>) {
        let (now_ms, what) = (self.now_ms(), what.into());
        println!("{:8.3} s  {what}", now_ms as f64 / 1_000.0);
        self.inner().lines.push((now_ms, what));
    }

    /// Counts faults of a kind that have bitten, such as `F01`.
    pub fn count(&self, kind: &str, times: u64) {
        *self.inner().counts.entry(kind.to_owned()).or_default() += times;
    }

    /// How many faults of each kind have bitten.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.inner().counts.clone()
    }

    /// What happened in a time, in milliseconds since the beginning.
    pub fn between(&self, from_ms: u64, to_ms: u64) -> Vec<String> {
        let inner = self.inner();
        let within = inner.lines.iter().filter(|(at, _)| (from_ms..=to_ms).contains(at));
        within.map(|(at, what)| format!("{at} ms: {what}")).collect()
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> u64 {
        self.began.elapsed().as_secs()
    }
}
