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
    used: AtomicUsize,
    metrics: Metrics,
}

/// There is no room for more; the request is answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process holds as many bytes as it may")]
pub struct Full;

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
        let shared = Shared { limit, used: AtomicUsize::new(0), metrics: metrics.clone() };
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
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= shared.limit);
        shared.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Full)?;
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
        assert_eq!(second.grow(2), Err(Full));
        assert_eq!(second.grow(1), Ok(()));
        assert_eq!(second.grow(usize::MAX), Err(Full));
        drop(first);
        assert_eq!(budget.used(), 1);
        assert_eq!(second.grow(9), Ok(()));
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
