//! What a group has not committed of topics that others write, asked without joining it.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    topic_partition_list::Offset,
};

use super::{context::unmade, options::KafkaOptions};
use crate::log::LogError;

/// Of one question to the cluster.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Messages of a partition of a topic that its group has not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncommitted {
    /// Those that the partition holds.
    pub messages: i64,
    /// The offset to read next, which rises when it is read on.
    pub next: i64,
    /// Those that have left the partition before they were committed.
    pub lost: i64,
}

/// By topic without the prefix and by partition, what [`super::Inbox`]es of `group` have not committed
/// of the topics that they read under `name`. Blocks.
pub fn uncommitted(
    options: &KafkaOptions,
    name: &str,
    group: &str,
) -> Result<BTreeMap<String, BTreeMap<i32, Uncommitted>>, LogError> {
    options.check()?;
    let consumer: BaseConsumer = options
        .inbox(group)
        .create()
        .map_err(|error| LogError::Broken(format!("the group {group}: {}", unmade(&error))))?;
    let prefix = format!("{}.{name}.", options.prefix);
    let metadata =
        consumer.fetch_metadata(None, ANSWER_TIME_MAX).map_err(unavailable("the topics"))?;
    let mut asked = TopicPartitionList::new();
    let mut topics: BTreeMap<String, BTreeMap<i32, Uncommitted>> = BTreeMap::new();
    for topic in metadata.topics() {
        let Some(own) = topic.name().strip_prefix(&prefix) else { continue };
        topics.insert(own.to_owned(), BTreeMap::new());
        for partition in topic.partitions() {
            asked.add_partition(topic.name(), partition.id());
        }
    }
    let committed = consumer
        .committed_offsets(asked, ANSWER_TIME_MAX)
        .map_err(unavailable("what is committed"))?;
    for place in committed.elements() {
        let bounds = consumer
            .fetch_watermarks(place.topic(), place.partition(), ANSWER_TIME_MAX)
            .map_err(unavailable("the ends of a topic"))?;
        let own = place.topic().strip_prefix(&prefix).and_then(|own| topics.get_mut(own));
        if let Some(topic) = own {
            topic.insert(place.partition(), Uncommitted::of(place.offset(), bounds));
        }
    }
    Ok(topics)
}

impl Uncommitted {
    /// Of a partition that holds the offsets from `first` to before `end`.
    fn of(committed: Offset, (first, end): (i64, i64)) -> Uncommitted {
        // Without a commit it is read from its beginning, wherever that is.
        let next = match committed {
            Offset::Offset(next) => next,
            _ => first,
        };
        Uncommitted {
            messages: end.saturating_sub(next.max(first)).max(0),
            next,
            lost: first.saturating_sub(next).max(0),
        }
    }
}

fn unavailable(what: &'static str) -> impl Fn(KafkaError) -> LogError {
    move |error| LogError::Unavailable(format!("asking for {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_lies_between_the_commit_and_the_end() {
        let of = |committed, bounds| {
            let one = Uncommitted::of(committed, bounds);
            (one.messages, one.lost)
        };
        assert_eq!(of(Offset::Offset(7), (3, 10)), (3, 0));
        assert_eq!(of(Offset::Offset(10), (3, 10)), (0, 0));
        assert_eq!(of(Offset::Invalid, (3, 10)), (7, 0), "nothing was committed");
        assert_eq!(of(Offset::Offset(1), (3, 10)), (7, 2), "two have left it");
        assert_eq!(of(Offset::Offset(12), (3, 10)), (0, 0), "the topic was made anew");
    }
}
