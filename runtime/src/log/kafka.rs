//! The log on an Apache Kafka cluster.
//!
//! Reading order: [`options`] (clients and their properties), [`settings`] (topics and the checks
//! at start), [`producer`], [`reader`], [`group`], [`inbox`], [`uncommitted`].
//!
//! Two things differ from the local log. Append times are the broker's clock in milliseconds, and
//! that clock can step back, also when leadership moves; who needs them to rise keeps the highest
//! it has seen. And the report of an append has the time 0 if the broker's answer had none.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::producer::Producer as _;
use tokio::sync::oneshot;

use self::{
    group::KafkaMembership,
    producer::Producer,
    reader::{Clients, KafkaReader},
};
pub use self::{
    inbox::{Inbox, Letter, Place},
    options::{BATCH_BYTES_MAX, KafkaOptions},
    settings::{check_settings, cluster_id, create_inbox, create_topics},
    uncommitted::{Uncommitted, uncommitted},
};
use super::{AppendError, Log, LogError, Membership, Pending, Reader, Topic};

mod context;
mod group;
mod inbox;
mod options;
mod producer;
mod reader;
mod settings;
mod uncommitted;

/// The log on a cluster. Dropping the last handle waits for what is on its way.
pub struct KafkaLog {
    cluster: Arc<Cluster>,
}

/// What the log and its readers share.
pub(crate) struct Cluster {
    options: KafkaOptions,
    partitions: u32,
    /// The cluster's names of the topics.
    names: Vec<(Topic, String)>,
    producer: Producer,
    clients: Clients,
}

impl KafkaLog {
    /// Connects, waiting for a cluster that starts, and checks its settings. Blocks.
    pub fn connect(options: KafkaOptions) -> Result<Arc<Self>, LogError> {
        let partitions = check_settings(&options)?;
        let producer = Producer::create(&options)?;
        let names =
            options.topics.iter().map(|topic| (*topic, options.topic_name(*topic))).collect();
        let cluster =
            Arc::new(Cluster { options, partitions, names, producer, clients: Clients::default() });
        Ok(Arc::new(Self { cluster }))
    }
}

impl Cluster {
    fn name(&self, topic: Topic, partition: u32) -> Result<&str, LogError> {
        let named = self.names.iter().find(|(known, _)| *known == topic);
        match named {
            Some((_, name)) if partition < self.partitions => Ok(name),
            _ => Err(LogError::Broken(format!("there is no {topic}/{partition}"))),
        }
    }

    fn bounds(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        let name = self.name(topic, partition)?;
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let client = self.producer.client();
        client.client().fetch_watermarks(name, number, wait).map_err(|error| {
            LogError::Unavailable(format!("the bounds of {topic}/{partition}: {error}"))
        })
    }
}

impl Log for KafkaLog {
    fn partitions(&self) -> u32 {
        self.cluster.partitions
    }

    fn append(&self, topic: Topic, partition: u32, payload: Bytes) -> Pending {
        let (answer, pending) = oneshot::channel();
        match self.cluster.name(topic, partition) {
            Ok(name) => self.cluster.producer.send(name, partition, &payload, answer),
            Err(error) => {
                let _ = answer.send(Err(AppendError::Refused(error.to_string())));
            }
        }
        Pending(pending)
    }

    fn reader(&self, topic: Topic, partition: u32, from: i64) -> Result<Box<dyn Reader>, LogError> {
        self.cluster.name(topic, partition)?;
        let cluster = Arc::clone(&self.cluster);
        Ok(Box::new(KafkaReader::open(cluster, topic, partition, from)?))
    }

    fn bounds(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        self.cluster.bounds(topic, partition, wait)
    }

    fn join(&self, topic: Topic, group: &str) -> Result<Box<dyn Membership>, LogError> {
        self.cluster.name(topic, 0)?;
        Ok(Box::new(KafkaMembership::join(&self.cluster.options, topic, group)?))
    }
}
