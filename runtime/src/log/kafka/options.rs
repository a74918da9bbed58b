//! How to reach a cluster, and the librdkafka properties of each kind of client.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::config::ClientConfig;

use super::inbox::{LAG_INTERVAL, METADATA_INTERVAL};
use crate::log::{LogError, MESSAGE_BYTES_MAX, Topic};

/// Length that a record batch may have: the longest payload and room for its headers.
pub const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (64 << 10);

/// Properties that a user may not set, each with what decides it instead. Names that librdkafka
/// treats as the same stand beside each other.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the broker list of this configuration"),
    ("metadata.broker.list", "the broker list of this configuration"),
    ("acks", "an append is answered only when all in-sync replicas have it"),
    ("request.required.acks", "an append is answered only when all in-sync replicas have it"),
    ("enable.idempotence", "a retry inside the client must not write a message twice"),
    ("transactional.id", "one message is the unit of output, there are no transactions"),
    ("message.max.bytes", "every topic takes messages of 16 MiB"),
    ("enable.auto.commit", "positions live in the output, never in the broker"),
    ("enable.auto.offset.store", "positions live in the output, never in the broker"),
    ("auto.offset.reset", "a position that is gone is reported, never skipped"),
    ("enable.partition.eof", "readers wait for new messages"),
    ("check.crcs", "damaged messages are refused"),
    ("group.id", "the name of the group that is joined"),
    ("group.instance.id", "members come and go with their processes"),
    ("group.protocol", "ownership uses the classic protocol"),
    ("group.remote.assignor", "ownership uses the classic protocol"),
    ("partition.assignment.strategy", "all members of a group must use the same one"),
];

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// The topic `usage` is `{prefix}.usage` in the cluster.
    pub prefix: String,
    /// Any librdkafka property but the ones that would break a promise of the log.
    pub properties: BTreeMap<String, String>,
    /// The topics.
    pub topics: &'static [Topic],
    /// The partition count the topics were created with, where it is known: another is refused,
    /// because it would send a key's messages elsewhere.
    pub partitions: Option<u32>,
    /// Appends beyond this much that is not yet answered are refused.
    pub queue_bytes: usize,
    /// How long to wait for the cluster to answer when connecting.
    pub connect_timeout: Duration,
}

impl KafkaOptions {
    /// Options with the usual values: prefix `weir`, a queue of 64 MiB, 30 s to connect.
    pub fn new(brokers: impl Into<String>, topics: &'static [Topic]) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: "weir".to_owned(),
            properties: BTreeMap::new(),
            topics,
            partitions: None,
            queue_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(30),
        }
    }

    /// The cluster's name of a topic.
    pub fn topic_name(&self, topic: Topic) -> String {
        format!("{}.{topic}", self.prefix)
    }

    /// The cluster's name of a group.
    pub fn group_name(&self, group: &str) -> String {
        format!("{}.{group}", self.prefix)
    }

    /// Refuses properties that would break a promise, all of them at once.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let faults: Vec<String> = RESERVED
            .iter()
            .filter(|(name, _)| self.properties.contains_key(*name))
            .map(|(name, instead)| format!("remove the Kafka property {name}: {instead}"))
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(LogError::Broken(faults.join("; "))) }
    }

    fn client(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        // librdkafka's default is to log at once each broken connection; errors are reported anyway.
        config.set("log.connection.close", "false");
        config.set("client.id", "weir");
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// Properties of an administration client.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.client(&[])
    }

    /// Properties of the producer.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.client(&[
            ("linger.ms", "0"),
            ("compression.type", "none"),
            // After this long an append without an answer is unknown.
            ("message.timeout.ms", "5000"),
            ("socket.nagle.disable", "true"),
        ]);
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        config.set("message.max.bytes", BATCH_BYTES_MAX.to_string());
        config.set("queue.buffering.max.kbytes", (self.queue_bytes >> 10).max(1).to_string());
        config
    }

    /// Properties of a reader. It needs a group's name to be assigned partitions, but never joins.
    pub(crate) fn reader(&self) -> ClientConfig {
        let mut config = self.client(&[
            // The broker holds a request until it finds so much, or for so long; a partition that is
            // added waits as long. An answer per message is a quarter more work for broker and client.
            ("fetch.min.bytes", "65536"),
            ("fetch.wait.max.ms", "50"),
            ("fetch.error.backoff.ms", "100"),
            // How soon to fetch again when the prefetch queue was full; the default is a second.
            ("fetch.queue.backoff.ms", "10"),
            // Of one partition.
            ("queued.max.messages.kbytes", "8192"),
        ]);
        config.set("group.id", self.group_name("reader"));
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("check.crcs", "true");
        config.set("message.max.bytes", BATCH_BYTES_MAX.to_string());
        config.set("fetch.message.max.bytes", BATCH_BYTES_MAX.to_string());
        config.set("fetch.max.bytes", (2 * BATCH_BYTES_MAX).to_string());
        config.set("receive.message.max.bytes", (3 * BATCH_BYTES_MAX).to_string());
        config
    }

    /// Properties of a member of a group. It never fetches.
    pub(crate) fn member(&self, group: &str) -> ClientConfig {
        let mut config = self.client(&[
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", "60000"),
        ]);
        config.set("group.id", self.group_name(group));
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "latest");
        config
    }

    /// Properties of a member of a group that reads topics of others and commits how far it is.
    pub(crate) fn inbox(&self, group: &str) -> ClientConfig {
        let milliseconds = |interval: Duration| interval.as_millis().to_string();
        let mut config = self.client(&[
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", "60000"),
            ("topic.metadata.refresh.interval.ms", &milliseconds(METADATA_INTERVAL)),
            ("fetch.wait.max.ms", "100"),
            ("fetch.error.backoff.ms", "100"),
            // Of the whole client.
            ("queued.max.messages.kbytes", "16384"),
            ("statistics.interval.ms", &milliseconds(LAG_INTERVAL)),
        ]);
        config.set("group.id", self.group_name(group));
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "earliest");
        config.set("allow.auto.create.topics", "false");
        config.set("check.crcs", "true");
        config.set("message.max.bytes", BATCH_BYTES_MAX.to_string());
        config.set("receive.message.max.bytes", (8 * BATCH_BYTES_MAX).to_string());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_would_break_a_promise_are_named_all_at_once() {
        let mut options = KafkaOptions::new("localhost:9", &[Topic("one")]);
        for (name, value) in [("acks", "1"), ("auto.offset.reset", "latest"), ("linger.ms", "5")] {
            options.properties.insert(name.to_owned(), value.to_owned());
        }
        let message = options.check().unwrap_err().to_string();
        assert!(message.contains("acks") && message.contains("auto.offset.reset"), "{message}");
        assert!(!message.contains("linger.ms"), "{message}");
    }

    #[test]
    fn other_properties_reach_every_client_and_ours_stand() {
        let mut options = KafkaOptions::new("localhost:9", &[Topic("one")]);
        options.properties.insert("linger.ms".to_owned(), "5".to_owned());
        options.properties.insert("sasl.username".to_owned(), "weir".to_owned());
        for config in [options.producer(), options.reader(), options.member("g"), options.admin()] {
            assert_eq!(config.get("sasl.username"), Some("weir"));
            assert_eq!(config.get("bootstrap.servers"), Some("localhost:9"));
        }
        assert_eq!(options.producer().get("linger.ms"), Some("5"));
        assert_eq!(options.producer().get("acks"), Some("all"));
    }
}
