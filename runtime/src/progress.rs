//! Whether the reader of a partition goes on: its position moves, or the log says that there is
//! nothing to read. Everything else, whatever the reason, shows on `/ready` after a while.

use std::time::{Duration, Instant};

use crate::{
    http::{Heartbeat, Readiness},
    log::{SharedLog, Topic},
};

/// How often a reader that finds nothing looks where the log ends.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long the log may take for that.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// The progress of one reader of a partition.
pub struct Progress {
    log: SharedLog,
    topic: Topic,
    partition: u32,
    heartbeat: Heartbeat,
    /// The position that is read next.
    next: i64,
    looked_at: Option<Instant>,
    /// Whether the log ended there when it was last looked.
    at_end: bool,
}

impl Progress {
    /// Begins to watch under the name `check`; `allowed` is how much longer than other readers it may
    /// take for a step.
    pub fn new(
        readiness: &Readiness,
        check: impl Into<String>,
        allowed: Duration,
        log: &SharedLog,
        (topic, partition): (Topic, u32),
    ) -> Self {
        let heartbeat = Heartbeat::new(readiness, check, allowed);
        let log = log.clone();
        Self { log, topic, partition, heartbeat, next: 0, looked_at: None, at_end: false }
    }

    /// The position that is read next is this one.
    pub fn next_is(&mut self, position: i64) {
        if position != self.next {
            self.next = position;
            self.at_end = false;
        }
    }

    /// What was read has had its effect.
    pub fn advanced(&self) {
        self.heartbeat.beat();
    }

    /// Nothing came, and nothing that came waits for its effect. Counts if the log agrees.
    pub fn idle(&mut self) {
        if self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= LOOK_EVERY) {
            self.looked_at = Some(Instant::now());
            let bounds = self.log.bounds(self.topic, self.partition, ANSWER_TIME_MAX);
            self.at_end = bounds.is_ok_and(|(_, end)| end <= self.next);
        }
        if self.at_end {
            self.heartbeat.beat();
        }
    }
}
