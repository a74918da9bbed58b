//! The pace of inserts: groups of all partitions of a process take turns.
//!
//! An insert costs ClickHouse some 70 ms of processor time whatever is in it, so what must not grow
//! with the number of partitions is the number of inserts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Turns at least `spacing` apart, shared by all partitions.
#[derive(Clone)]
pub(crate) struct Pace {
    spacing: Duration,
    next: Arc<Mutex<Option<Instant>>>,
}

impl Pace {
    pub fn new(per_second: u32) -> Pace {
        Pace { spacing: Duration::from_secs(1) / per_second.max(1), next: Arc::default() }
    }

    /// The next free turn that is not before `earliest`; it is taken.
    pub fn turn(&self, earliest: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(earliest, |next| next.max(earliest));
        *next = Some(turn + self.spacing);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_apart_and_never_early() {
        let pace = Pace::new(4);
        let now = Instant::now();
        let quarter = Duration::from_millis(250);
        assert_eq!(pace.turn(now), now);
        assert_eq!(pace.turn(now), now + quarter);
        assert_eq!(pace.clone().turn(now), now + 2 * quarter);
        assert_eq!(pace.turn(now + 9 * quarter), now + 9 * quarter);
    }
}
