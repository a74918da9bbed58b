//! The bound on memory: bytes of bodies and events that wait in this process (INV-20).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::metrics::Metrics;

/// Bytes that all requests together may hold.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    /// Of one body: others must get through beside it.
    of_one: usize,
    used: AtomicUsize,
    metrics: Metrics,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Others have it now; there will be room when the log has taken their events.
    #[error("the process holds as many bytes as it may")]
    Now,
    /// One body does not get so much, whatever the others have.
    #[error("one body would hold more bytes than one may")]
    Always,
}

/// What one body and its events may hold in any case: half of the budget, or this.
const OF_ONE_MIN: usize = 16 << 20;

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize, metrics: &Metrics) -> Budget {
        let of_one = (limit / 2).max(OF_ONE_MIN).min(limit);
        let shared = Shared { limit, of_one, used: AtomicUsize::new(0), metrics: metrics.clone() };
        Budget { shared: Arc::new(shared) }
    }

    /// Holds nothing yet.
    #[must_use]
    pub fn hold(&self) -> Held {
        Held { shared: Arc::clone(&self.shared), bytes: 0 }
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Holds `bytes` more, or as much as before if there is no room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let shared = &self.shared;
        if self.bytes.saturating_add(bytes) > shared.of_one {
            return Err(Full::Always);
        }
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= shared.limit);
        shared
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| Full::Now)?;
        shared.metrics.held_bytes.inc_by(bytes as u64);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.metrics.released_bytes.inc_by(self.bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_no_more_than_it_has() {
        let metrics = Metrics::new(&runtime::telemetry::Metrics::new()).unwrap();
        let budget = Budget::new(10, &metrics);
        let mut first = budget.hold();
        let mut second = budget.hold();
        assert_eq!(first.grow(9), Ok(()));
        assert_eq!(second.grow(2), Err(Full::Now));
        assert_eq!(second.grow(1), Ok(()));
        assert_eq!(second.grow(usize::MAX), Err(Full::Always));
        drop(first);
        assert_eq!(budget.used(), 1);
        assert_eq!(second.grow(9), Ok(()));
        drop(second);
        assert_eq!(budget.used(), 0);
        // One may have half of it, but enough for any body of usual events.
        for (limit, of_one) in [(64 << 20, 32 << 20), (24 << 20, 16 << 20), (8 << 20, 8 << 20)] {
            let budget = Budget::new(limit, &metrics);
            let mut one = budget.hold();
            assert_eq!(one.grow(of_one), Ok(()));
            assert_eq!(one.grow(1), Err(Full::Always), "{limit}");
        }
    }
}
