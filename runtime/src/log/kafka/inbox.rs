//! Topics that others write: a member of a group reads those whose names begin alike, and commits
//! how far it has come when it is told to.
//!
//! The caller's thread polls: at least once a minute, or the group takes its partitions away. A
//! topic without a committed offset is read from its beginning, and topics that appear later are
//! found within [`METADATA_INTERVAL`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    TopicPartitionList,
    client::ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _, Message as _},
    statistics::Statistics,
    topic_partition_list::Offset,
};

use super::{
    context::{log_error, log_line, unmade},
    options::KafkaOptions,
};
use crate::log::LogError;

/// How often the cluster is asked for topics.
pub(crate) const METADATA_INTERVAL: Duration = Duration::from_secs(3);
/// How often the lag is computed.
pub(crate) const LAG_INTERVAL: Duration = Duration::from_secs(2);

/// A partition of a topic, by the topic's name without the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What follows the prefix.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

/// A message of somebody else.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where it stands.
    pub place: Place,
    /// Its offset there.
    pub offset: i64,
    /// Its headers that have a value, in order.
    pub headers: Vec<(String, Bytes)>,
    /// Its value; none for a tombstone.
    pub value: Option<Bytes>,
}

/// A member of a group that reads and commits. Dropping it leaves the group.
pub struct Inbox {
    consumer: BaseConsumer<Watch>,
    prefix: String,
}

/// What the consumer's callbacks tell.
#[derive(Debug, Default)]
struct Watch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revoked: BTreeSet<(String, i32)>,
    /// Messages that are not committed, by topic and partition; of partitions that are assigned.
    lag: BTreeMap<(String, i32), i64>,
}

impl Watch {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut lag = BTreeMap::new();
        for (name, topic) in statistics.topics {
            for (number, partition) in topic.partitions {
                if number >= 0 && partition.desired && partition.consumer_lag >= 0 {
                    lag.insert((name.clone(), number), partition.consumer_lag);
                }
            }
        }
        self.with(|state| state.lag = lag);
    }
}

impl ConsumerContext for Watch {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let revoked = list.elements();
            let revoked = revoked.iter().map(|one| (one.topic().to_owned(), one.partition()));
            self.with(|state| state.revoked.extend(revoked));
        }
    }

    /// The client remembers that a partition was paused while others have it.
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance
            && let Err(error) = consumer.resume(list)
        {
            log_error(&error, "resuming what was paused before it was taken away");
        }
    }
}

impl Inbox {
    /// Joins `group` to read every topic whose name begins with the installation's prefix and
    /// `.{name}.`.
    pub fn join(options: &KafkaOptions, name: &str, group: &str) -> Result<Inbox, LogError> {
        options.check()?;
        let broken =
            |error: KafkaError| LogError::Broken(format!("the group {group}: {}", unmade(&error)));
        let consumer =
            BaseConsumer::from_config_and_context(&options.inbox(group), Watch::default())
                .map_err(broken)?;
        let prefix = format!("{}.{name}.", options.prefix);
        // A regular expression; a name of a topic has no other character of theirs than the dot.
        let pattern = format!("^{}", prefix.replace('.', "\\."));
        consumer.subscribe(&[&pattern]).map_err(broken)?;
        Ok(Inbox { consumer, prefix })
    }

    /// The next message, or `None` when none came within `wait`.
    pub fn next(&self, wait: Duration) -> Result<Option<Letter>, LogError> {
        match self.consumer.poll(wait) {
            Some(Ok(message)) => Ok(Some(self.letter(&message))),
            Some(Err(error)) => judge(&error),
            None => Ok(None),
        }
    }

    fn letter(&self, message: &BorrowedMessage<'_>) -> Letter {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.filter_map(|header| {
            Some((header.key.to_owned(), Bytes::copy_from_slice(header.value?)))
        });
        Letter {
            place: self.place(message.topic(), message.partition()),
            offset: message.offset(),
            headers: headers.collect(),
            value: message.payload().map(Bytes::copy_from_slice),
        }
    }

    fn place(&self, topic: &str, partition: i32) -> Place {
        Place {
            topic: topic.strip_prefix(&self.prefix).unwrap_or(topic).to_owned(),
            partition: u32::try_from(partition).unwrap_or(u32::MAX),
        }
    }

    /// The full name of a place's topic.
    #[must_use]
    pub fn topic_name(&self, place: &Place) -> String {
        format!("{}{}", self.prefix, place.topic)
    }

    /// Stops reading a place, dropping what was fetched of it; it is fetched again on resuming.
    pub fn pause(&self, place: &Place) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic_name(place), number(place));
        self.consumer.pause(&list).map_err(unavailable("pausing"))
    }

    /// Stops reading every place that is assigned.
    pub fn pause_all(&self) -> Result<(), LogError> {
        let list = self.consumer.assignment().map_err(unavailable("asking for the assignment"))?;
        self.consumer.pause(&list).map_err(unavailable("pausing"))
    }

    /// Goes on reading every place that is assigned, but those of `but`.
    pub fn resume_all_but(&self, but: &BTreeSet<Place>) -> Result<(), LogError> {
        let assigned =
            self.consumer.assignment().map_err(unavailable("asking for the assignment"))?;
        let mut list = TopicPartitionList::new();
        for one in assigned.elements() {
            if !but.contains(&self.place(one.topic(), one.partition())) {
                list.add_partition(one.topic(), one.partition());
            }
        }
        self.consumer.resume(&list).map_err(unavailable("resuming"))
    }

    /// Commits that everything below an offset is done, for places that are still assigned. Without
    /// `wait` the answer is not waited for: what is not committed is read again.
    pub fn commit(&self, next: &BTreeMap<Place, i64>, wait: bool) -> Result<(), LogError> {
        let assigned =
            self.consumer.assignment().map_err(unavailable("asking for the assignment"))?;
        let mut list = TopicPartitionList::new();
        for (place, offset) in next {
            let name = self.topic_name(place);
            if assigned.find_partition(&name, number(place)).is_some() {
                list.add_partition_offset(&name, number(place), Offset::Offset(*offset))
                    .map_err(unavailable("committing"))?;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let mode = if wait { CommitMode::Sync } else { CommitMode::Async };
        self.consumer.commit(&list, mode).map_err(unavailable("committing"))
    }

    /// The places that were taken away since the last call.
    pub fn revoked(&self) -> BTreeSet<Place> {
        let revoked = self.consumer.context().with(|state| std::mem::take(&mut state.revoked));
        revoked.into_iter().map(|(topic, partition)| self.place(&topic, partition)).collect()
    }

    /// Messages that are not committed, by topic without the prefix; of what this member reads.
    pub fn lag(&self) -> BTreeMap<String, i64> {
        let mut by_topic = BTreeMap::new();
        self.consumer.context().with(|state| {
            for ((topic, _), lag) in &state.lag {
                let topic = topic.strip_prefix(&self.prefix).unwrap_or(topic);
                *by_topic.entry(topic.to_owned()).or_insert(0) += lag;
            }
        });
        by_topic
    }
}

fn number(place: &Place) -> i32 {
    i32::try_from(place.partition).unwrap_or(i32::MAX)
}

fn unavailable(doing: &'static str) -> impl Fn(KafkaError) -> LogError {
    move |error| LogError::Unavailable(format!("{doing}: {error}"))
}

/// What an error of the consumer means; what heals by itself is only logged.
fn judge(error: &KafkaError) -> Result<Option<Letter>, LogError> {
    match error.rdkafka_error_code() {
        Some(
            code @ (RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed),
        ) => Err(LogError::Broken(format!(
            "{code}: grant this principal READ and DESCRIBE on the topics and the group"
        ))),
        Some(RDKafkaErrorCode::Fatal) => Err(LogError::Broken(error.to_string())),
        _ => {
            log_error(error, "reading topics of others");
            Ok(None)
        }
    }
}
