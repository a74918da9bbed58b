//! What only Kafka can be asked: a broker that is killed or frozen, members that die, settings.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use runtime::log::{
    AppendError, LogError, SharedLog,
    kafka::{Inbox, KafkaLog, KafkaOptions, check_settings, create_topics},
};
use tests::broker::Broker;

use super::{
    child::{Worker, author, payload},
    place::{Fixture, ONE, PARTITIONS, PATIENCE, TWO, read_all, until},
    suite::{all_partitions, append, assert_holds, until_owned},
};

/// One broker for the whole binary. It dies with this process.
static BROKER: LazyLock<RwLock<Broker>> = LazyLock::new(|| RwLock::new(Broker::start().unwrap()));

/// The broker, for cases that leave it alone.
pub fn calm() -> RwLockReadGuard<'static, Broker> {
    BROKER.read().unwrap_or_else(PoisonError::into_inner)
}

/// The broker, for one case that does it harm.
fn alone() -> RwLockWriteGuard<'static, Broker> {
    BROKER.write().unwrap_or_else(PoisonError::into_inner)
}

fn outcome(log: &SharedLog, number: u64) -> Result<i64, AppendError> {
    let pending = log.append(ONE, 0, payload(1, number));
    pending.0.blocking_recv().unwrap().map(|appended| appended.position)
}

/// Appends until one is acknowledged, and returns its number and position.
fn append_again(log: &SharedLog, mut number: u64) -> (u64, i64) {
    until(|| {
        number += 1;
        Some((number, outcome(log, number).ok()?))
    })
}

#[test]
fn a_frozen_broker_makes_the_outcome_unknown_and_the_log_recovers() {
    let broker = alone();
    let fixture = Fixture::kafka(&broker);
    let log = fixture.open();
    let mut reader = log.reader(ONE, 0, 0).unwrap();
    assert_eq!(outcome(&log, 0), Ok(0));
    broker.pause().unwrap();
    let begun = Instant::now();
    let unknown = outcome(&log, 1);
    broker.resume().unwrap();
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (number, position) = append_again(&log, 1);
    let messages = read_all(&log, ONE, 0, 0);
    assert_eq!(author(&messages[position as usize].payload), (1, number));
    let authors: BTreeSet<_> = messages.iter().map(|message| author(&message.payload)).collect();
    assert_eq!(authors.len(), messages.len(), "nothing is there twice");
    let seen = until(|| reader.next(Duration::from_secs(1)).unwrap_or(None));
    assert_eq!(seen.position, 0);
}

#[test]
fn a_killed_broker_loses_nothing_acknowledged_and_clients_recover() {
    let mut broker = alone();
    let fixture = Fixture::kafka(&broker);
    let log = fixture.open();
    let mut reader = log.reader(ONE, 0, 0).unwrap();
    let mut writer = Worker::start(&fixture, "append 6 1000000");
    for _ in 0..3 {
        let before = writer.acknowledged().len();
        until(|| (writer.acknowledged().len() > before + 500).then_some(()));
        broker.kill();
        // While it is down, a read says so or says nothing; it does not fail for good.
        let down = reader_state(&mut *reader, Duration::from_millis(500));
        assert!(down.is_ok(), "{down:?}");
        broker.restart().unwrap();
    }
    let before = writer.acknowledged().len();
    until(|| (writer.acknowledged().len() > before + 500).then_some(()));
    writer.kill();
    assert_holds(&log, &writer.acknowledged());
    let (_, next) = log.bounds(ONE, 0, PATIENCE).unwrap();
    let mut last = -1;
    until(|| {
        last = reader_state(&mut *reader, Duration::from_secs(1)).unwrap().unwrap_or(last);
        (last == next - 1).then_some(())
    });
}

/// Reads what is there; the last position, if any.
fn reader_state(
    reader: &mut dyn runtime::log::Reader,
    wait: Duration,
) -> Result<Option<i64>, LogError> {
    let mut last = None;
    loop {
        match reader.next(wait) {
            Ok(Some(message)) => last = Some(message.position),
            Ok(None) | Err(LogError::Unavailable(_)) => return Ok(last),
            Err(error) => return Err(error),
        }
    }
}

fn owned_line(line: &str) -> Option<usize> {
    let list = line.strip_prefix("O ")?;
    Some(list.split(',').filter(|partition| !partition.is_empty()).count())
}

#[test]
fn what_a_killed_member_owned_moves_to_the_others() {
    let broker = calm();
    let fixture = Fixture::kafka(&broker);
    let mut member = Worker::start(&fixture, "own");
    until(|| member.lines().iter().any(|line| owned_line(line) == Some(3)).then_some(()));
    let log = fixture.open();
    let survivor = log.join(ONE, "owners").unwrap();
    let owned = survivor.owned();
    until_owned(&owned, |list| !list.is_empty());
    assert!(owned.borrow().len() < PARTITIONS as usize, "the other still owns some");
    member.kill();
    let begun = Instant::now();
    until_owned(&owned, |list| list == all_partitions());
    println!("after {:?}: the session's 3 s, and a rebalance", begun.elapsed());
    assert_holds(&log, &member.acknowledged());
}

/// Rounds of freezing after which the thawed owner must have appended; the first often does.
const FREEZES_MAX: u64 = 10;

#[test]
fn a_frozen_owner_and_its_successor_both_append_in_one_order() {
    let broker = calm();
    let fixture = Fixture::kafka(&broker);
    let mut zombie = Worker::start(&fixture, "own");
    let log = fixture.open();
    let mut mine: Vec<i64> = Vec::new();
    for round in 0..FREEZES_MAX {
        let begun = zombie.acknowledged().len();
        let owned = || zombie.lines().iter().rev().find_map(|line| owned_line(line));
        until(|| owned().filter(|owned| *owned == PARTITIONS as usize));
        until(|| (zombie.acknowledged().len() > begun + 30).then_some(()));
        zombie.signal(Signal::SIGSTOP);
        let successor = log.join(ONE, "owners").unwrap();
        until_owned(&successor.owned(), |list| list == all_partitions());
        let first = round * 50;
        let numbers = first..first + 50;
        mine.extend(numbers.map(|number| append(&log, ONE, 0, payload(1, number)).position));
        let before = zombie.acknowledged().len();
        zombie.signal(Signal::SIGCONT);
        // It believes to own what it owned, and appends, until it hears otherwise: at times at once.
        until(|| owned().filter(|owned| *owned < PARTITIONS as usize));
        let appended_as_zombie = zombie.acknowledged().len() > before;
        drop(successor);
        if appended_as_zombie {
            break;
        }
        assert!(round + 1 < FREEZES_MAX, "the fault did not bite: no zombie appended anything");
    }
    let messages = read_all(&log, ONE, 0, 0);
    for (number, position) in mine.iter().enumerate() {
        let found = author(&messages[*position as usize].payload);
        assert_eq!(found, (1, number as u64));
    }
    zombie.kill();
    assert_holds(&log, &zombie.acknowledged());
}

/// Name, partitions, settings.
type WrongTopic<'a> = (&'a str, i32, &'a [(&'a str, &'a str)]);

/// Creates topics with other settings than ours.
fn create_wrong(options: &KafkaOptions, topics: &[WrongTopic<'_>]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &options.brokers).create().unwrap();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|(name, partitions, settings)| {
            let new = NewTopic::new(name, *partitions, TopicReplication::Fixed(1));
            settings.iter().fold(new, |new, (setting, value)| new.set(setting, value))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for result in runtime.block_on(admin.create_topics(&new, &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    // The broker knows of them a moment later.
    for (name, partitions, _) in topics {
        until(|| {
            let metadata = admin.inner().fetch_metadata(Some(name), PATIENCE).unwrap();
            let known = metadata.topics().first()?.partitions();
            let led = known.iter().all(|partition| partition.leader() >= 0);
            (led && i32::try_from(known.len()) == Ok(*partitions)).then_some(())
        });
    }
}

fn new_options(broker: &Broker) -> KafkaOptions {
    let mut options = KafkaOptions::new(broker.bootstrap(), super::place::TOPICS);
    options.prefix = format!("t{}", uuid::Uuid::now_v7().simple());
    options
}

/// A topic of others, and one who writes it.
struct Others {
    options: KafkaOptions,
    topic: String,
    producer: BaseProducer,
}

impl Others {
    fn new(broker: &Broker) -> Self {
        let options = new_options(broker);
        let topic = format!("{}.in.somebody", options.prefix);
        create_wrong(&options, &[(&topic, i32::try_from(PARTITIONS).unwrap(), &[])]);
        let producer =
            ClientConfig::new().set("bootstrap.servers", &options.brokers).create().unwrap();
        Self { options, topic, producer }
    }

    fn join(&self) -> Inbox {
        Inbox::join(&self.options, "in", "readers").unwrap()
    }

    /// A message into each partition.
    fn send_each(&self, text: &str) {
        for partition in 0..i32::try_from(PARTITIONS).unwrap() {
            let record = BaseRecord::<str, str>::to(&self.topic).partition(partition).payload(text);
            self.producer.send(record).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }
}

/// Takes what comes, and adds the partitions that a text came from.
fn take(inbox: &Inbox, text: &str, partitions: &mut BTreeSet<u32>) {
    let letter = inbox.next(Duration::from_millis(50)).unwrap();
    if let Some(letter) = letter.filter(|letter| letter.value.as_deref() == Some(text.as_bytes())) {
        partitions.insert(letter.place.partition);
    }
}

#[test]
fn a_place_that_was_paused_when_it_was_taken_away_is_read_when_it_comes_back() {
    let broker = calm();
    let others = Others::new(&broker);
    let (first, mut read) = (others.join(), BTreeSet::new());
    others.send_each("before");
    until(|| {
        take(&first, "before", &mut read);
        (read.len() == PARTITIONS as usize).then_some(())
    });

    first.pause_all().unwrap();
    let second = others.join();
    others.send_each("meanwhile");
    let (mut nothing, mut read) = (BTreeSet::new(), BTreeSet::new());
    until(|| {
        take(&first, "meanwhile", &mut nothing);
        take(&second, "meanwhile", &mut read);
        (!read.is_empty()).then_some(())
    });
    assert!(!first.revoked().is_empty() && nothing.is_empty(), "{nothing:?}");
    first.resume_all_but(&BTreeSet::new()).unwrap();
    let leaves = std::thread::spawn(move || drop(second));

    others.send_each("after");
    let mut read = BTreeSet::new();
    until(|| {
        take(&first, "after", &mut read);
        (read.len() == PARTITIONS as usize).then_some(())
    });
    leaves.join().unwrap();
}

fn refusal(options: KafkaOptions) -> String {
    match KafkaLog::connect(options).err().unwrap() {
        LogError::Broken(reason) => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn wrong_settings_are_refused_all_at_once_with_what_to_change() {
    let broker = calm();
    let options = new_options(&broker);
    let (one, two) = (options.topic_name(ONE), options.topic_name(TWO));
    create_wrong(
        &options,
        &[
            (
                &one,
                2,
                &[("message.timestamp.type", "CreateTime"), ("max.message.bytes", "1000000")],
            ),
            (
                &two,
                3,
                &[
                    ("unclean.leader.election.enable", "true"),
                    ("cleanup.policy", "compact"),
                    ("min.insync.replicas", "2"),
                ],
            ),
        ],
    );
    let reason = refusal(options);
    for part in [
        format!("{one} has message.timestamp.type=CreateTime: set it to LogAppendTime"),
        format!("{one} has max.message.bytes=1000000: set it to 16842752 or more"),
        format!("{two} has unclean.leader.election.enable=true: set it to false"),
        format!("{two} has cleanup.policy=compact: set it to delete"),
        format!("{two} has 1 replicas and min.insync.replicas=2"),
        format!("{one} has 2, {two} has 3"),
    ] {
        assert!(reason.contains(&part), "{part}\nis not in\n{reason}");
    }
}

#[test]
fn missing_topics_another_partition_count_and_forbidden_properties_are_refused() {
    let broker = calm();
    let mut options = new_options(&broker);
    let reason = refusal(options.clone());
    assert!(reason.contains(&options.topic_name(TWO)), "{reason}");
    assert!(reason.contains("does not exist: run `weir migrate`"), "{reason}");
    create_topics(&options, 2, 1).unwrap();
    create_topics(&options, 5, 1).unwrap();
    assert_eq!(check_settings(&options).unwrap(), 2, "what exists is left as it is");
    options.partitions = Some(5);
    assert!(refusal(options.clone()).contains("2 partitions, but the installation has 5"));
    options.partitions = Some(2);
    options.properties.insert("acks".to_owned(), "1".to_owned());
    assert!(refusal(options).contains("remove the Kafka property acks"));
}

#[test]
fn a_cluster_that_does_not_answer_is_unavailable_in_bounded_time() {
    let mut options = KafkaOptions::new("127.0.0.1:1", super::place::TOPICS);
    options.connect_timeout = Duration::from_secs(1);
    let begun = Instant::now();
    let error = KafkaLog::connect(options).err().unwrap();
    assert!(matches!(error, LogError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15));
}
