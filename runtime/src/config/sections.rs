//! Sections that several processes share.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::Secret;

/// Where Postgres is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`
    pub url: Secret,
    /// Connections of the pool of one process, at most.
    pub connections: u32,
}

/// Where traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// A collector that takes OTLP over HTTP; empty for none.
    pub endpoint: String,
    /// Of requests that bring no decision of their own, one in so many is followed; 0 for none.
    pub one_in: u64,
}

/// Where ClickHouse is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// `http://host:8123` or `https://host:8443`.
    pub url: String,
    /// Database that holds our tables.
    pub database: String,
    /// Name to sign in with.
    pub user: String,
    /// Its password; may be empty.
    pub password: Secret,
}

/// Where the log is: Kafka when brokers are named, else a folder on this machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Folder of the local log.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Partitions of every topic, fixed when the topics are created; 0 where Weir chooses.
    pub partitions: u32,
    /// The local log.
    pub local: LocalLogConfig,
    /// The Kafka cluster.
    pub kafka: KafkaConfig,
}

impl LogConfig {
    /// Partitions of every topic, of which there are `open` where the configuration does not say.
    #[must_use]
    pub fn partitions_or(&self, open: u32) -> u32 {
        if self.partitions == 0 { open } else { self.partitions }
    }
}

/// What the local log keeps. See the default configuration for the units and limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalLogConfig {
    /// A new segment file is begun when the newest has this many bytes.
    pub segment_bytes: u64,
    /// Whether segments that nobody needs are removed.
    pub trim: bool,
    /// How long a segment is kept after its last append, whoever has read it.
    pub retention_hours: u64,
}

/// A Kafka cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port,host:port`; empty means that there is no Kafka.
    pub brokers: String,
    /// Prefix of our topics and groups.
    pub prefix: String,
    /// Any property of librdkafka, passed on as it is (`security.protocol`, `sasl.username`).
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}
