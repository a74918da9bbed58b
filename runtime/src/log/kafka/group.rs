//! Membership of a consumer group, for ownership only: nothing is fetched, nothing committed.
//!
//! A thread polls for rebalances. What is revoked leaves the list before the rebalance goes on. A
//! member that lost touch with the group, by the broker's word or its own clock, owns nothing.
//! Dropping a membership waits up to 3 s for the broker to hear of it.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use rdkafka::{
    TopicPartitionList,
    client::ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::watch;

use super::{
    context::{log_error, log_line, unmade},
    options::KafkaOptions,
};
use crate::log::{LogError, Membership, Topic};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long leaving may take; without it the others wait for the session to time out.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps the list of owned partitions.
struct Ownership {
    owned: watch::Sender<Vec<u32>>,
}

impl Ownership {
    fn change(&self, change: impl FnOnce(&mut BTreeSet<u32>)) {
        self.owned.send_if_modified(|list| {
            let mut set = list.iter().copied().collect();
            change(&mut set);
            let changed = !list.iter().copied().eq(set.iter().copied());
            *list = set.into_iter().collect();
            changed
        });
    }
}

impl ClientContext for Ownership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for Ownership {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => {
                let revoked = partitions(list);
                self.change(|owned| owned.retain(|partition| !revoked.contains(partition)));
            }
            Rebalance::Assign(_) => {}
            Rebalance::Error(_) => self.change(BTreeSet::clear),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else {
            return;
        };
        if let Err(error) = consumer.pause(list) {
            log_error(&error, "pausing the partitions of a group member");
        }
        self.change(|owned| owned.extend(partitions(list)));
    }
}

fn partitions(list: &TopicPartitionList) -> BTreeSet<u32> {
    let elements = list.elements();
    elements.iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect()
}

pub(crate) struct KafkaMembership {
    owned: watch::Receiver<Vec<u32>>,
    stop: Arc<AtomicBool>,
    left: mpsc::Receiver<()>,
}

impl KafkaMembership {
    pub(crate) fn join(
        options: &KafkaOptions,
        topic: Topic,
        group: &str,
    ) -> Result<Self, LogError> {
        let broken =
            |error: KafkaError| LogError::Broken(format!("the group {group}: {}", unmade(&error)));
        let (sender, owned) = watch::channel(Vec::new());
        let consumer = BaseConsumer::from_config_and_context(
            &options.member(group),
            Ownership { owned: sender },
        )
        .map_err(broken)?;
        consumer.subscribe(&[&options.topic_name(topic)]).map_err(broken)?;
        let stop = Arc::new(AtomicBool::new(false));
        let left = spawn(consumer, Arc::clone(&stop))
            .map_err(|error| LogError::Broken(format!("starting a thread failed: {error}")))?;
        Ok(Self { owned, stop, left })
    }
}

/// Polls until told to stop, then leaves the group; the channel closes when it has.
fn spawn(
    consumer: BaseConsumer<Ownership>,
    stop: Arc<AtomicBool>,
) -> io::Result<mpsc::Receiver<()>> {
    let (done, left) = mpsc::sync_channel(0);
    let poll = move || {
        while !stop.load(Ordering::Acquire) {
            if let Some(Err(error)) = consumer.poll(POLL_INTERVAL) {
                judge(consumer.context(), &error);
            }
        }
        consumer.context().change(BTreeSet::clear);
        drop(consumer);
        drop(done);
    };
    std::thread::Builder::new().name("log-group".into()).spawn(poll)?;
    Ok(left)
}

fn judge(ownership: &Ownership, error: &KafkaError) {
    log_error(error, "group membership");
    let out = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::PollExceeded
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
        )
    );
    if out {
        ownership.change(BTreeSet::clear);
    }
}

impl Membership for KafkaMembership {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.owned.clone()
    }
}

impl Drop for KafkaMembership {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.left.recv_timeout(LEAVE_TIMEOUT);
    }
}
