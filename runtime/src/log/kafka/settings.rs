//! Creating the topics, and refusing a cluster whose settings would break a promise of the log.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    config::FromClientConfigAndContext as _,
    error::{KafkaError, RDKafkaErrorCode},
    metadata::{Metadata, MetadataTopic},
};

use super::{
    context::{Logging, block_on, unmade},
    options::{BATCH_BYTES_MAX, KafkaOptions},
};
use crate::log::{LogError, Topic};

/// A request to the cluster; several are made until the connect timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// 7 days. A duplicates table covers half of it at most, and a start reads what it covers again.
const RETENTION_MS: &str = "604800000";
/// Of what others write: 4 MiB, and room for headers.
const INBOX_BATCH_BYTES_MAX: &str = "4259840";
/// The longest name of a topic that Kafka takes.
const TOPIC_BYTES_MAX: usize = 249;

type Admin = AdminClient<Logging>;

fn admin(options: &KafkaOptions) -> Result<Admin, LogError> {
    AdminClient::from_config_and_context(&options.admin(), Logging)
        .map_err(|error| LogError::Broken(format!("the Kafka settings: {}", unmade(&error))))
}

fn unavailable(doing: &str) -> impl Fn(KafkaError) -> LogError {
    move |error| LogError::Unavailable(format!("{doing}: {error}"))
}

/// Tries again while the cluster is unavailable, until the connect timeout.
fn retry<T>(
    options: &KafkaOptions,
    attempt: impl Fn() -> Result<T, LogError>,
) -> Result<T, LogError> {
    let deadline = Instant::now() + options.connect_timeout;
    loop {
        match attempt() {
            Err(LogError::Unavailable(_)) if Instant::now() < deadline => {
                thread::sleep(RETRY_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

/// The cluster's own id, which tells it from another one at the same address. Blocks; waits for a
/// cluster that starts.
pub fn cluster_id(options: &KafkaOptions) -> Result<String, LogError> {
    let admin = admin(options)?;
    retry(options, || {
        let id = admin.inner().fetch_cluster_id(REQUEST_TIMEOUT);
        id.ok_or_else(|| LogError::Unavailable("the cluster did not say its id".to_owned()))
    })
}

/// Creates the topics that do not exist, all with the same number of partitions. A topic that
/// exists is left as it is; [`check_settings`] judges it. Blocks.
pub fn create_topics(
    options: &KafkaOptions,
    partitions: u32,
    replication: u32,
) -> Result<(), LogError> {
    options.check()?;
    let admin = admin(options)?;
    let batch_bytes = BATCH_BYTES_MAX.to_string();
    let in_sync = if replication >= 3 { "2" } else { "1" };
    let names: Vec<String> =
        options.topics.iter().map(|topic| options.topic_name(*topic)).collect();
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| {
            NewTopic::new(name, count(partitions), TopicReplication::Fixed(count(replication)))
                .set("message.timestamp.type", "LogAppendTime")
                .set("cleanup.policy", "delete")
                .set("retention.ms", RETENTION_MS)
                .set("max.message.bytes", &batch_bytes)
                .set("compression.type", "producer")
                .set("min.insync.replicas", in_sync)
                .set("unclean.leader.election.enable", "false")
        })
        .collect();
    retry(options, || create(&admin, &topics))?;
    retry(options, || see(options, &admin))
}

/// Creates the topic that [`super::Inbox`] reads under `name` and `topic`, for others to write. One
/// that exists is left as it is. Blocks.
pub fn create_inbox(
    options: &KafkaOptions,
    (name, topic): (&str, &str),
    partitions: u32,
    replication: u32,
) -> Result<String, LogError> {
    options.check()?;
    let admin = admin(options)?;
    let full = format!("{}.{name}.{topic}", options.prefix);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if full.len() > TOPIC_BYTES_MAX || !full.bytes().all(legal) {
        return Err(LogError::Broken(format!("{full} is no name that Kafka takes for a topic")));
    }
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let in_sync = if replication >= 3 { "2" } else { "1" };
    // By append time, so that a message is kept as long whatever time its writer gives it.
    let new = NewTopic::new(&full, count(partitions), TopicReplication::Fixed(count(replication)))
        .set("message.timestamp.type", "LogAppendTime")
        .set("cleanup.policy", "delete")
        .set("retention.ms", RETENTION_MS)
        .set("max.message.bytes", INBOX_BATCH_BYTES_MAX)
        .set("min.insync.replicas", in_sync)
        .set("unclean.leader.election.enable", "false");
    retry(options, || create(&admin, std::slice::from_ref(&new)))?;
    Ok(full)
}

fn create(admin: &Admin, topics: &[NewTopic<'_>]) -> Result<(), LogError> {
    let request = AdminOptions::new()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT));
    let results =
        block_on(admin.create_topics(topics, &request)).map_err(unavailable("creating topics"))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            // Who may not make topics is told so of those that exist, too.
            Err((name, RDKafkaErrorCode::TopicAuthorizationFailed)) if exists(admin, &name)? => {}
            Err((name, code)) if heals(code) => {
                return Err(LogError::Unavailable(format!("creating the topic {name}: {code}")));
            }
            Err((name, code)) => {
                return Err(LogError::Broken(format!("creating the topic {name}: {code}")));
            }
        }
    }
    Ok(())
}

fn exists(admin: &Admin, name: &str) -> Result<bool, LogError> {
    let metadata = describe(admin, name)?;
    let there = |topic: &MetadataTopic| {
        topic.name() == name && topic.error().is_none() && !topic.partitions().is_empty()
    };
    Ok(metadata.topics().iter().any(there))
}

fn heals(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::NotController
            | RDKafkaErrorCode::BrokerNotAvailable
            // While the brokers of a cluster come up, there are fewer of them than replicas.
            | RDKafkaErrorCode::InvalidReplicationFactor
    )
}

/// Waits until every topic is known and led.
fn see(options: &KafkaOptions, admin: &Admin) -> Result<(), LogError> {
    for topic in options.topics {
        let name = options.topic_name(*topic);
        let metadata = describe(admin, &name)?;
        let led = metadata.topics().iter().any(|found| {
            found.name() == name
                && found.error().is_none()
                && !found.partitions().is_empty()
                && found.partitions().iter().all(|partition| partition.leader() >= 0)
        });
        if !led {
            return Err(LogError::Unavailable(format!("the topic {name} has no leaders yet")));
        }
    }
    Ok(())
}

fn describe(admin: &Admin, name: &str) -> Result<Metadata, LogError> {
    admin
        .inner()
        .fetch_metadata(Some(name), REQUEST_TIMEOUT)
        .map_err(unavailable("asking for the topics"))
}

/// Checks everything in the cluster that the log's promises stand on, and returns the number of
/// partitions. Every fault is named, with what to change. Blocks; waits for a cluster that starts.
pub fn check_settings(options: &KafkaOptions) -> Result<u32, LogError> {
    options.check()?;
    let admin = admin(options)?;
    let found = retry(options, || {
        options
            .topics
            .iter()
            .map(|topic| look(options, &admin, *topic))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut faults: Vec<String> = found.iter().flat_map(Found::faults).collect();
    let mut counts: Vec<usize> = found.iter().filter_map(|found| found.partitions).collect();
    counts.dedup();
    if counts.len() > 1 {
        let each = found.iter().filter_map(|found| Some((found.name.as_str(), found.partitions?)));
        let each: Vec<String> =
            each.map(|(name, partitions)| format!("{name} has {partitions}")).collect();
        faults.push(format!(
            "all topics must have the same number of partitions, but {}: create them anew",
            each.join(", ")
        ));
    }
    if let (Some(wanted), [count]) = (options.partitions, counts.as_slice())
        && u32::try_from(*count) != Ok(wanted)
    {
        faults.push(format!(
            "the topics have {count} partitions, but the installation has {wanted}: the count is \
             fixed at creation, set it back or create the topics anew"
        ));
    }
    match counts.first().and_then(|count| u32::try_from(*count).ok()) {
        Some(partitions) if faults.is_empty() => Ok(partitions),
        _ => Err(LogError::Broken(faults.join("; "))),
    }
}

/// What the cluster says about a topic.
struct Found {
    name: String,
    /// `None` if the topic does not exist.
    partitions: Option<usize>,
    replicas_min: usize,
    brokers: usize,
    settings: Vec<(String, String)>,
}

fn look(options: &KafkaOptions, admin: &Admin, topic: Topic) -> Result<Found, LogError> {
    let name = options.topic_name(topic);
    let metadata = describe(admin, &name)?;
    let brokers = metadata.brokers().len();
    let known = metadata.topics().iter().find(|found| found.name() == name);
    let missing =
        |name| Found { name, partitions: None, replicas_min: 0, brokers, settings: Vec::new() };
    let Some(known) = known else {
        return Ok(missing(name));
    };
    match known.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Ok(missing(name));
        }
        Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
            return Err(LogError::Broken(format!(
                "the topic {name}: {code}: grant this principal DESCRIBE"
            )));
        }
        Some(code) => return Err(LogError::Unavailable(format!("the topic {name}: {code}"))),
    }
    let replicas = known.partitions().iter().map(|partition| partition.replicas().len());
    Ok(Found {
        partitions: Some(known.partitions().len()),
        replicas_min: replicas.min().unwrap_or(0),
        brokers,
        settings: settings(admin, &name)?,
        name,
    })
}

fn settings(admin: &Admin, name: &str) -> Result<Vec<(String, String)>, LogError> {
    let request = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let asked = [ResourceSpecifier::Topic(name)];
    let answers = block_on(admin.describe_configs(&asked, &request))
        .map_err(unavailable("asking for the settings of the topics"))?;
    let answer: Option<Result<ConfigResource, RDKafkaErrorCode>> = answers.into_iter().next();
    match answer {
        Some(Ok(resource)) => Ok(resource
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect()),
        Some(Err(code)) if !heals(code) => Err(LogError::Broken(format!(
            "the settings of the topic {name}: {code}: grant this principal DESCRIBE_CONFIGS"
        ))),
        Some(Err(code)) => {
            Err(LogError::Unavailable(format!("the settings of the topic {name}: {code}")))
        }
        None => Err(LogError::Unavailable(format!("no settings of the topic {name}"))),
    }
}

impl Found {
    fn number(&self, setting: &str) -> Option<u64> {
        self.text(setting)?.parse().ok()
    }

    fn text(&self, setting: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(name, _)| name == setting);
        found.map(|(_, value)| value.as_str())
    }

    fn faults(&self) -> Vec<String> {
        let name = &self.name;
        if self.partitions.is_none() {
            return vec![format!("the topic {name} does not exist: run `weir migrate`")];
        }
        let mut faults = Vec::new();
        let mut wants = |setting: &str, right: bool, change: &str| {
            if !right {
                let is = self.text(setting).unwrap_or("not set");
                faults.push(format!("the topic {name} has {setting}={is}: {change}"));
            }
        };
        wants(
            "message.timestamp.type",
            self.text("message.timestamp.type") == Some("LogAppendTime"),
            "set it to LogAppendTime",
        );
        wants("cleanup.policy", self.text("cleanup.policy") == Some("delete"), "set it to delete");
        wants(
            "unclean.leader.election.enable",
            self.text("unclean.leader.election.enable") == Some("false"),
            "set it to false",
        );
        wants(
            "max.message.bytes",
            self.number("max.message.bytes").is_some_and(|it| it >= BATCH_BYTES_MAX as u64),
            &format!("set it to {BATCH_BYTES_MAX} or more"),
        );
        let needed = RETENTION_MS.parse().unwrap_or(u64::MAX);
        wants(
            "retention.ms",
            self.text("retention.ms") == Some("-1")
                || self.number("retention.ms").is_some_and(|it| it >= needed),
            &format!("set it to {RETENTION_MS} or more, or to -1"),
        );
        let in_sync = self.number("min.insync.replicas").unwrap_or(0);
        wants(
            "min.insync.replicas",
            self.brokers < 3 || in_sync >= 2,
            "set it to 2, since there are three brokers or more",
        );
        if (self.replicas_min as u64) < in_sync {
            let replicas = self.replicas_min;
            faults.push(format!(
                "the topic {name} has {replicas} replicas and min.insync.replicas={in_sync}, so \
                 no append is ever acknowledged: add replicas"
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topic with the settings that [`create_topics`] gives it.
    fn found(brokers: usize, replicas_min: usize, in_sync: Option<&str>) -> Found {
        let batch_bytes = BATCH_BYTES_MAX.to_string();
        let settings = [
            ("message.timestamp.type", Some("LogAppendTime")),
            ("cleanup.policy", Some("delete")),
            ("unclean.leader.election.enable", Some("false")),
            ("max.message.bytes", Some(batch_bytes.as_str())),
            ("retention.ms", Some(RETENTION_MS)),
            ("min.insync.replicas", in_sync),
        ];
        let settings = settings
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())))
            .collect();
        Found {
            name: "weir.usage".to_owned(),
            partitions: Some(3),
            replicas_min,
            brokers,
            settings,
        }
    }

    #[test]
    fn three_brokers_or_more_want_two_replicas_in_sync() {
        let wants = "min.insync.replicas";
        for (brokers, replicas, in_sync, fault) in [
            (1, 1, Some("1"), None),
            (2, 2, Some("1"), None),
            (2, 2, Some("2"), None),
            (3, 3, Some("1"), Some("weir.usage has min.insync.replicas=1: set it to 2")),
            (3, 1, Some("1"), Some("weir.usage has min.insync.replicas=1: set it to 2")),
            (4, 3, Some("1"), Some("weir.usage has min.insync.replicas=1: set it to 2")),
            (3, 3, Some("2"), None),
            (3, 3, Some("3"), None),
            (4, 3, Some("2"), None),
            (3, 3, None, Some("weir.usage has min.insync.replicas=not set: set it to 2")),
            (3, 3, Some("two"), Some("weir.usage has min.insync.replicas=two: set it to 2")),
            // More in sync than there are: nothing would ever be acknowledged.
            (1, 1, Some("2"), Some("weir.usage has 1 replicas and min.insync.replicas=2")),
            (3, 1, Some("2"), Some("weir.usage has 1 replicas and min.insync.replicas=2")),
        ] {
            let faults = found(brokers, replicas, in_sync).faults();
            let case = format!("{brokers} brokers, {replicas} replicas, {in_sync:?}: {faults:?}");
            assert_eq!(faults.len(), usize::from(fault.is_some()), "{case}");
            assert!(fault.is_none_or(|fault| faults[0].contains(fault)), "{case}");
            assert!(faults.iter().all(|fault| fault.contains(wants)), "{case}");
        }
    }

    #[test]
    fn every_setting_that_is_wrong_is_named() {
        let mut topic = found(3, 3, Some("2"));
        for (_, value) in &mut topic.settings {
            *value = "1".to_owned();
        }
        let faults = topic.faults();
        for (name, _) in &topic.settings {
            let named = faults.iter().filter(|fault| fault.contains(name)).count();
            assert_eq!(named, 1, "{name}: {faults:?}");
        }
        topic.settings.clear();
        assert_eq!(topic.faults().len(), 6);
        topic.partitions = None;
        assert_eq!(topic.faults(), ["the topic weir.usage does not exist: run `weir migrate`"]);
    }

    #[test]
    fn what_a_table_may_cover_is_kept_twice_as_long() {
        for (kept, faults) in [("604799999", 1), ("604800000", 0), ("604800001", 0), ("-1", 0)] {
            let mut topic = found(1, 1, Some("1"));
            for (name, value) in &mut topic.settings {
                if name == "retention.ms" {
                    *value = kept.to_owned();
                }
            }
            assert_eq!(topic.faults().len(), faults, "{kept}");
        }
    }

    #[test]
    fn a_batch_must_fit_into_a_message() {
        for (size, faults) in
            [(BATCH_BYTES_MAX - 1, 1), (BATCH_BYTES_MAX, 0), (BATCH_BYTES_MAX + 1, 0)]
        {
            let mut topic = found(1, 1, Some("1"));
            for (name, value) in &mut topic.settings {
                if name == "max.message.bytes" {
                    *value = size.to_string();
                }
            }
            assert_eq!(topic.faults().len(), faults, "{size}");
        }
    }
}
