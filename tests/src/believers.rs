//! Two owners of one partition, as far as each of them knows.

use std::time::Duration;

use runtime::log::{Log, LogError, Membership, Pending, Reader, SharedLog, Topic};
use tokio::sync::watch;

/// A log whose every member believes to own certain partitions, as a paused owner and its successor do.
pub struct Believers {
    /// The log itself.
    pub log: SharedLog,
    /// What each member believes to own.
    pub owned: Vec<u32>,
}

struct Believer(watch::Sender<Vec<u32>>);

impl Membership for Believer {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.0.subscribe()
    }
}

impl Log for Believers {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn append(&self, topic: Topic, partition: u32, payload: bytes::Bytes) -> Pending {
        self.log.append(topic, partition, payload)
    }

    fn reader(&self, topic: Topic, partition: u32, from: i64) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader(topic, partition, from)
    }

    fn bounds(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition, wait)
    }

    fn join(&self, _: Topic, _: &str) -> Result<Box<dyn Membership>, LogError> {
        Ok(Box::new(Believer(watch::Sender::new(self.owned.clone()))))
    }
}
