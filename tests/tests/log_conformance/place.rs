//! Where a log under test is, in a form that a child process understands.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use runtime::log::{
    LogError, Message, SharedLog, Topic,
    kafka::{KafkaLog, KafkaOptions, create_topics},
    local::{LocalLog, LocalOptions},
};
use tests::{broker::Broker, postgres::TestFolder};

pub const PARTITIONS: u32 = 3;
pub const TOPICS: &[Topic] = &[Topic("one"), Topic("two")];
pub const ONE: Topic = TOPICS[0];
pub const TWO: Topic = TOPICS[1];
/// Longer than any answer takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub enum Place {
    Local { dir: PathBuf },
    Kafka { brokers: String, prefix: String },
}

impl Place {
    pub fn to_text(&self) -> String {
        match self {
            Self::Local { dir } => format!("local {}", dir.display()),
            Self::Kafka { brokers, prefix } => format!("kafka {brokers} {prefix}"),
        }
    }

    pub fn from_text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["local", dir] => Self::Local { dir: PathBuf::from(dir) },
            ["kafka", brokers, prefix] => {
                Self::Kafka { brokers: (*brokers).to_owned(), prefix: (*prefix).to_owned() }
            }
            _ => panic!("not a place: {text}"),
        }
    }

    pub fn open(&self) -> SharedLog {
        match self {
            Self::Local { dir } => self.open_local(dir.clone()),
            Self::Kafka { .. } => KafkaLog::connect(self.kafka_options()).unwrap(),
        }
    }

    fn open_local(&self, dir: PathBuf) -> Arc<LocalLog> {
        // Small segments and a small tail, so that all paths of the code are walked.
        let options = LocalOptions {
            segment_bytes: 100_000,
            tail_bytes: 100_000,
            ..LocalOptions::new(PARTITIONS, TOPICS)
        };
        LocalLog::open(&dir, options).unwrap()
    }

    pub fn kafka_options(&self) -> KafkaOptions {
        let Self::Kafka { brokers, prefix } = self else { panic!("not on Kafka: {self:?}") };
        let mut options = KafkaOptions::new(brokers.clone(), TOPICS);
        options.prefix = prefix.clone();
        for (name, value) in [
            ("message.timeout.ms", "6000"),
            ("session.timeout.ms", "3000"),
            ("heartbeat.interval.ms", "500"),
        ] {
            options.properties.insert(name.to_owned(), value.to_owned());
        }
        options
    }

    /// Removes everything below a position of topic one, partition 0.
    fn trim(&self, up_to: i64) {
        match self {
            Self::Local { dir } => {
                let keep = (0..PARTITIONS).flat_map(|partition| {
                    TOPICS.iter().map(move |topic| {
                        let wanted = *topic == ONE && partition == 0;
                        (*topic, partition, if wanted { up_to } else { i64::MAX })
                    })
                });
                self.open_local(dir.clone()).trim(&keep.collect::<Vec<_>>(), i64::MAX).unwrap();
            }
            Self::Kafka { brokers, .. } => {
                let admin: AdminClient<DefaultClientContext> =
                    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
                let name = self.kafka_options().topic_name(ONE);
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(&name, 0, Offset::Offset(up_to)).unwrap();
                let request = AdminOptions::new();
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(admin.delete_records(&list, &request)).unwrap();
            }
        }
    }
}

/// A new, empty log.
pub struct Fixture {
    pub place: Place,
    pub folder: TestFolder,
}

impl Fixture {
    pub fn local() -> Self {
        let folder = TestFolder::new("log").unwrap();
        Self { place: Place::Local { dir: folder.path().join("log") }, folder }
    }

    pub fn kafka(broker: &Broker) -> Self {
        let place = Place::Kafka {
            brokers: broker.bootstrap(),
            prefix: format!("t{}", uuid::Uuid::now_v7().simple()),
        };
        create_topics(&place.kafka_options(), PARTITIONS, 1).unwrap();
        Self { place, folder: TestFolder::new("log").unwrap() }
    }

    pub fn open(&self) -> SharedLog {
        self.place.open()
    }

    /// Another handle beside an open one: on disk there is one per process, so it is the same.
    pub fn open_beside(&self, open: &SharedLog) -> SharedLog {
        match self.place {
            Place::Local { .. } => Arc::clone(open),
            Place::Kafka { .. } => self.open(),
        }
    }

    /// Removes everything below a position of topic one, partition 0, and opens the log again.
    pub fn trim(&self, open: SharedLog, up_to: i64) -> SharedLog {
        drop(open);
        self.place.trim(up_to);
        self.open()
    }
}

/// Reads a partition from a position to what is its end now.
pub fn read_all(log: &SharedLog, topic: Topic, partition: u32, from: i64) -> Vec<Message> {
    let (_, next) = until(|| log.bounds(topic, partition, PATIENCE).ok());
    read(log, topic, partition, from, usize::try_from(next - from).unwrap())
}

/// Reads `count` messages, however long that takes.
pub fn read(
    log: &SharedLog,
    topic: Topic,
    partition: u32,
    from: i64,
    count: usize,
) -> Vec<Message> {
    let mut reader = log.reader(topic, partition, from).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} messages in time", all.len());
        match reader.next(Duration::from_secs(1)) {
            Ok(message) => all.extend(message),
            Err(LogError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    all
}

/// Asks until there is an answer.
pub fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not come about in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
