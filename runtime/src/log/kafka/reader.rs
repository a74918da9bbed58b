//! Reads one partition from an explicit position.
//!
//! Every reader has a client of its own: about four threads, up to three connections (bootstrap,
//! the partition's leader, the group coordinator that librdkafka always looks up), and up to
//! 32 MiB of fetched messages. That is what makes readers of one partition at different
//! positions, and their errors, independent of each other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Message as _, Timestamp},
    topic_partition_list::Offset,
};

use super::{Cluster, context::Logging};
use crate::log::{LogError, Message, Reader, Topic, deadline};

/// How long to ask the broker where a partition begins and ends.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct KafkaReader {
    cluster: Arc<Cluster>,
    topic: Topic,
    partition: u32,
    /// The first position the caller has not got.
    position: i64,
    consumer: Option<BaseConsumer<Logging>>,
}

impl KafkaReader {
    pub(crate) fn open(
        cluster: Arc<Cluster>,
        topic: Topic,
        partition: u32,
        from: i64,
    ) -> Result<Self, LogError> {
        let mut reader = Self { cluster, topic, partition, position: from, consumer: None };
        reader.consumer = Some(reader.assign()?);
        Ok(reader)
    }

    /// A new client that stands at the position.
    fn assign(&self) -> Result<BaseConsumer<Logging>, LogError> {
        let options = &self.cluster.options;
        let broken = |error: KafkaError| LogError::Broken(format!("a Kafka reader: {error}"));
        let consumer =
            BaseConsumer::from_config_and_context(&options.reader(), Logging).map_err(broken)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(
            &options.topic_name(self.topic),
            i32::try_from(self.partition).unwrap_or(i32::MAX),
            Offset::Offset(self.position),
        )
        .map_err(broken)?;
        consumer.assign(&list).map_err(broken)?;
        Ok(consumer)
    }

    /// What an error of the client means to the caller; `None` if it heals by waiting.
    fn judge(&mut self, error: &KafkaError) -> Option<LogError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                // Where it stands now is undefined; the next call begins anew at the position.
                self.consumer = None;
                Some(self.out_of_range())
            }
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::Inconsistent,
            ) => {
                self.consumer = None;
                let Self { topic, partition, position, .. } = self;
                Some(LogError::Broken(format!(
                    "{topic}/{partition} is damaged at or after position {position}: {error}"
                )))
            }
            Some(RDKafkaErrorCode::Fatal) => {
                self.consumer = None;
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

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Message {
        self.position = message.offset().saturating_add(1);
        Message {
            position: message.offset(),
            append_time_us: append_time_us(message.timestamp()),
            payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        }
    }
}

impl Reader for KafkaReader {
    fn next(&mut self, wait: Duration) -> Result<Option<Message>, LogError> {
        let deadline = deadline(wait);
        let mut trouble = None;
        loop {
            let consumer = match self.consumer.take() {
                Some(consumer) => consumer,
                None => self.assign()?,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match consumer.poll(left) {
                Some(Ok(message)) if message.offset() >= self.position => {
                    let message = self.take(&message);
                    self.consumer = Some(consumer);
                    return Ok(Some(message));
                }
                Some(Ok(_)) => self.consumer = Some(consumer),
                Some(Err(error)) => {
                    self.consumer = Some(consumer);
                    if let Some(fault) = self.judge(&error) {
                        return Err(fault);
                    }
                    trouble = Some(error.to_string());
                }
                None => self.consumer = Some(consumer),
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
