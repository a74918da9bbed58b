//! Heartbeats: `/ready` does not ask a part of the process whether it works, it asks when that part
//! last went on. A part that hangs cannot say so.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Readiness;

/// When a part of a process last went on; `None` while nothing can be expected of it.
#[derive(Debug)]
pub(super) struct Pulse {
    pub(super) check: String,
    since: Mutex<Option<Instant>>,
    /// How much longer than the others it may take, now; milliseconds.
    allowed_ms: AtomicU64,
}

impl Pulse {
    /// Why it is not ready, if it has not gone on for longer than `patience` and what it is allowed.
    pub(super) fn fault(&self, patience: Duration) -> Option<String> {
        let since = (*self.lock())?.elapsed();
        let stalled = since > patience.saturating_add(self.allowed());
        stalled.then(|| {
            format!(
                "it has not gone on for {} s, although there is something to do",
                since.as_secs()
            )
        })
    }

    fn allowed(&self) -> Duration {
        Duration::from_millis(self.allowed_ms.load(Ordering::Relaxed))
    }

    fn allow(&self, allowed: Duration) {
        let milliseconds = u64::try_from(allowed.as_millis()).unwrap_or(u64::MAX);
        self.allowed_ms.store(milliseconds, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The heartbeat of a part of a process, under the name of its check. The check is not ready while
/// the last beat is too long ago, whatever else was set; dropping the heartbeat ends that.
#[derive(Debug)]
pub struct Heartbeat {
    readiness: Readiness,
    pulse: Arc<Pulse>,
}

impl Heartbeat {
    /// Begins to beat for `check`; `allowed` is how much longer than others it may take for a step.
    pub fn new(readiness: &Readiness, check: impl Into<String>, allowed: Duration) -> Self {
        let since = Mutex::new(Some(Instant::now()));
        let pulse = Pulse { check: check.into(), since, allowed_ms: AtomicU64::new(0) };
        pulse.allow(allowed);
        let pulse = Arc::new(pulse);
        readiness.pulses().push(Arc::clone(&pulse));
        Self { readiness: readiness.clone(), pulse }
    }

    /// From now on a step may take this much longer than those of others.
    pub fn allow(&self, allowed: Duration) {
        self.pulse.allow(allowed);
    }

    /// It went on, or has looked and there was nothing to do.
    pub fn beat(&self) {
        *self.pulse.lock() = Some(Instant::now());
    }

    /// It has nothing to do, and will not look before it is woken.
    pub fn rest(&self) {
        *self.pulse.lock() = None;
    }

    /// There is something to do: time counts from now on if it rested.
    pub fn wake(&self) {
        self.pulse.lock().get_or_insert_with(Instant::now);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.readiness.pulses().retain(|pulse| !Arc::ptr_eq(pulse, &self.pulse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::State;

    #[test]
    fn a_part_that_does_not_go_on_is_not_ready_whatever_it_said() {
        let readiness = Readiness::with_patience(Duration::ZERO);
        readiness.set("role.1", State::Ready);
        let slow = Heartbeat::new(&readiness, "role.1", Duration::from_secs(3600));
        assert!(readiness.is_ready(), "it is allowed an hour");
        let other = Heartbeat::new(&readiness, "role.1", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let reasons = readiness.not_ready();
        assert!(reasons["role.1"].contains("has not gone on"), "{reasons:?}");
        assert!(!readiness.is_ready());
        other.rest();
        assert!(readiness.is_ready(), "nothing is expected of it");
        other.wake();
        other.allow(Duration::from_secs(3600));
        std::thread::sleep(Duration::from_millis(2));
        assert!(readiness.is_ready(), "it is allowed an hour now");
        other.allow(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!readiness.is_ready());
        drop(other);
        assert!(readiness.is_ready(), "it has ended, and its check says what it said");
        readiness.set("role.1", State::NotReady("its own reason".to_owned()));
        slow.beat();
        assert_eq!(readiness.not_ready()["role.1"], "its own reason");
    }
}
