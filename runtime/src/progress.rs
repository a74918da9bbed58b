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

    /// From now on a step may take this much longer than those of others.
    pub fn allow(&self, allowed: Duration) {
        self.heartbeat.allow(allowed);
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

    /// Nothing came, and nothing that came waits for its effect. Counts if the log agrees, which is
    /// the answer.
    pub fn idle(&mut self) -> bool {
        if self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= LOOK_EVERY) {
            self.looked_at = Some(Instant::now());
            let bounds = self.log.bounds(self.topic, self.partition, ANSWER_TIME_MAX);
            self.at_end = bounds.is_ok_and(|(_, end)| end <= self.next);
        }
        if self.at_end {
            self.heartbeat.beat();
        }
        self.at_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{
        Log as _,
        local::{LocalLog, LocalOptions},
    };

    const TOPIC: Topic = Topic("things");

    #[tokio::test]
    async fn a_reader_that_finds_nothing_is_believed_only_at_the_end_of_the_log() {
        let folder = std::env::temp_dir().join(format!("weir-progress-{}", uuid::Uuid::now_v7()));
        let log = LocalLog::open(&folder, LocalOptions::new(1, &[TOPIC])).unwrap();
        log.append(TOPIC, 0, b"one".as_slice().into()).outcome().await.unwrap();
        let shared: SharedLog = log;
        let readiness = Readiness::with_patience(Duration::from_millis(50));
        readiness.set("role.0", crate::http::State::Ready);
        let place = (TOPIC, 0);
        let mut progress = Progress::new(&readiness, "role.0", Duration::ZERO, &shared, place);
        let turn = |progress: &mut Progress| {
            std::thread::sleep(Duration::from_millis(60));
            progress.looked_at = None;
            let at_end = progress.idle();
            assert_eq!(at_end, readiness.is_ready());
            at_end
        };
        assert!(!turn(&mut progress), "there is a message that it does not see");
        progress.next_is(1);
        assert!(turn(&mut progress), "there is none");
        shared.append(TOPIC, 0, b"two".as_slice().into()).outcome().await.unwrap();
        assert!(!turn(&mut progress), "there is another one");
        progress.advanced();
        assert!(readiness.is_ready(), "it goes on");
        progress.next_is(2);
        assert!(turn(&mut progress));
        drop((progress, shared));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
