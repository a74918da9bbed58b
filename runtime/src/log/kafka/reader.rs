//! Reading a partition: its own queue of a consumer that many readers share, because each request
//! for messages costs the broker, and one can ask for many partitions.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Message as _, Timestamp},
    topic_partition_list::Offset,
};

use super::{
    Cluster,
    context::{Logging, unmade},
    options::KafkaOptions,
};
use crate::log::{LogError, Message, Reader, Topic, deadline};

/// How long to ask the broker where a partition begins and ends.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader waits for a message before it looks for errors of the whole client.
const GLANCE: Duration = Duration::from_millis(250);

/// The clients that readers share. One is gone when its last reader is.
#[derive(Default)]
pub(crate) struct Clients(Mutex<Vec<Weak<Client>>>);

/// A consumer, and the partitions it has been given to.
struct Client {
    consumer: Arc<BaseConsumer<Logging>>,
    /// Each partition once in the client's life: the queue of a partition that had another reader
    /// may still hold what was fetched for that one, from another position.
    given: Mutex<BTreeSet<(Topic, u32)>>,
}

impl Clients {
    /// A client that has never read the partition.
    fn give(
        &self,
        options: &KafkaOptions,
        partition: (Topic, u32),
    ) -> Result<Arc<Client>, KafkaError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        for client in clients.iter().filter_map(Weak::upgrade) {
            if client.given.lock().unwrap_or_else(PoisonError::into_inner).insert(partition) {
                return Ok(client);
            }
        }
        let consumer = BaseConsumer::from_config_and_context(&options.reader(), Logging)?;
        let client = Arc::new(Client {
            consumer: Arc::new(consumer),
            given: Mutex::new(BTreeSet::from([partition])),
        });
        clients.push(Arc::downgrade(&client));
        Ok(client)
    }
}

pub(crate) struct KafkaReader {
    cluster: Arc<Cluster>,
    topic: Topic,
    partition: u32,
    /// The first position the caller has not got.
    position: i64,
    source: Option<Source>,
}

/// Where a reader's messages come from. Dropping it ends their fetching.
struct Source {
    queue: PartitionQueue<Logging>,
    assigned: TopicPartitionList,
    client: Arc<Client>,
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(error) = self.client.consumer.incremental_unassign(&self.assigned) {
            tracing::warn!(%error, "a partition stays with a Kafka client that nobody reads from");
        }
    }
}

impl KafkaReader {
    pub(crate) fn open(
        cluster: Arc<Cluster>,
        topic: Topic,
        partition: u32,
        from: i64,
    ) -> Result<Self, LogError> {
        let mut reader = Self { cluster, topic, partition, position: from, source: None };
        reader.source = Some(reader.begin()?);
        Ok(reader)
    }

    /// A queue that begins at the position.
    fn begin(&self) -> Result<Source, LogError> {
        let options = &self.cluster.options;
        let broken =
            |error: KafkaError| LogError::Broken(format!("a Kafka reader: {}", unmade(&error)));
        let client =
            self.cluster.clients.give(options, (self.topic, self.partition)).map_err(broken)?;
        let name = options.topic_name(self.topic);
        let number = i32::try_from(self.partition).unwrap_or(i32::MAX);
        let mut assigned = TopicPartitionList::new();
        assigned
            .add_partition_offset(&name, number, Offset::Offset(self.position))
            .map_err(broken)?;
        // Before it is assigned, so that no message of it ever comes to the client's own queue.
        let queue = client.consumer.split_partition_queue(&name, number).ok_or_else(|| {
            LogError::Broken(format!("{}/{} has no queue", self.topic, self.partition))
        })?;
        client.consumer.incremental_assign(&assigned).map_err(broken)?;
        Ok(Source { queue, assigned, client })
    }

    /// What an error of the client means to the caller; `None` if it heals by waiting.
    fn judge(&mut self, error: &KafkaError) -> Option<LogError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                // Where it stands now is undefined; the next call begins anew at the position.
                self.source = None;
                Some(self.out_of_range())
            }
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::Inconsistent,
            ) => {
                self.source = None;
                let Self { topic, partition, position, .. } = self;
                Some(LogError::Broken(format!(
                    "{topic}/{partition} is damaged at or after position {position}: {error}"
                )))
            }
            Some(RDKafkaErrorCode::Fatal) => {
                self.source = None;
                Some(LogError::Unavailable(error.to_string()))
            }
            _ => None,
        }
    }

    /// The position is not in the partition: trimmed, or never written.
    fn out_of_range(&self) -> LogError {
        let Self { topic, partition, position, .. } = *self;
        match self.cluster.bounds(topic, partition, BOUNDS_TIMEOUT) {
            Ok((begin, _)) if position < begin => {
                LogError::Trimmed { topic, partition, begin, asked: position }
            }
            Ok((_, next)) if position > next => LogError::Broken(format!(
                "{topic}/{partition} ends at {next}, before the position {position} asked for: \
                 the topic was created anew, or the cluster lost acknowledged messages"
            )),
            // By now it is there: leadership moved.
            Ok(_) => LogError::Unavailable(format!("{topic}/{partition} is being recovered")),
            Err(error) => error,
        }
    }
}

/// What a look at a queue found.
enum Found {
    Message(Message),
    Error(KafkaError),
    /// A message of a partition whose queue was split off came to the client's own.
    Astray(String),
    Nothing,
}

impl Source {
    /// The next message at or after `position`, or the next error, of the partition or the client.
    fn look(&self, position: i64, wait: Duration) -> Found {
        match self.queue.poll(wait) {
            Some(Ok(message)) if message.offset() >= position => Found::Message(taken(&message)),
            Some(Ok(_)) => Found::Nothing,
            Some(Err(error)) => Found::Error(error),
            None => match self.client.consumer.poll(Duration::ZERO) {
                Some(Err(error)) => Found::Error(error),
                Some(Ok(message)) => Found::Astray(format!(
                    "message {} of {}/{} came to no reader",
                    message.offset(),
                    message.topic(),
                    message.partition()
                )),
                None => Found::Nothing,
            },
        }
    }
}

/// The wait, rounded up: the client spins through what is left of a millisecond.
fn whole_milliseconds(wait: Duration) -> Duration {
    let milliseconds = wait.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

fn taken(message: &BorrowedMessage<'_>) -> Message {
    Message {
        position: message.offset(),
        append_time_us: append_time_us(message.timestamp()),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}

impl Reader for KafkaReader {
    fn next(&mut self, wait: Duration) -> Result<Option<Message>, LogError> {
        let deadline = deadline(wait);
        let mut trouble = None;
        loop {
            let source = match mem::take(&mut self.source) {
                Some(source) => source,
                None => self.begin()?,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let found = source.look(self.position, whole_milliseconds(left.min(GLANCE)));
            self.source = Some(source);
            match found {
                Found::Message(message) => {
                    self.position = message.position.saturating_add(1);
                    return Ok(Some(message));
                }
                Found::Error(error) => {
                    if let Some(fault) = self.judge(&error) {
                        return Err(fault);
                    }
                    trouble = Some(error.to_string());
                }
                Found::Astray(what) => return Err(LogError::Broken(what)),
                Found::Nothing => {}
            }
            if Instant::now() >= deadline {
                return trouble.map_or(Ok(None), |reason| Err(LogError::Unavailable(reason)));
            }
        }
    }
}

/// The broker's append time; 0 where it gave none.
pub(crate) fn append_time_us(timestamp: Timestamp) -> i64 {
    match timestamp {
        Timestamp::LogAppendTime(milliseconds) => milliseconds.max(0).saturating_mul(1000),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => 0,
    }
}
