//! F18: what cannot be read becomes a rejected row with its place, and an unknown version of our own
//! format stops its partition and no other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    config::ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tests::{
    broker::Broker,
    harness::{
        poison,
        tenants::Tenant,
        traffic::{Sending, Traffic},
        world::{Rest, World, bases},
    },
    system::{System, integer},
};

/// Messages of poison: each kind several times.
const POISON: u64 = 60;
const FLUSH_TIME_MAX: Duration = Duration::from_secs(60);
/// The partition that is stopped at last.
const STOPPED: i32 = 0;

/// Doors of some tenants, and a producer that knows nothing of Weir.
pub struct Doors {
    producer: ThreadedProducer<DefaultProducerContext>,
    topics: Vec<String>,
}

impl Doors {
    /// Makes the doors.
    pub async fn make(system: &System, broker: &Broker, tenants: &[Tenant]) -> Result<Doors> {
        let mut topics = Vec::new();
        for tenant in tenants {
            system.run("doors", &["migrate", "--replication", "1", "--door", &tenant.name]).await?;
            topics.push(format!("{}.in.{}", system.prefix()?, tenant.name));
        }
        Ok(Doors { producer: producer(broker)?, topics })
    }

    /// Writes a message to a tenant's door.
    pub fn send(&self, tenant: usize, value: &[u8]) -> Result<()> {
        send(&self.producer, BaseRecord::to(&self.topics[tenant]).payload(value))
    }

    /// Writes poison, and waits until all of it is in the archive with its place, once.
    pub async fn poison(&self, rest: &Rest) -> Result<()> {
        for roll in 0..POISON {
            self.send(roll as usize % self.topics.len(), &poison::body(roll * 7))?;
        }
        self.producer.flush(FLUSH_TIME_MAX)?;
        let sql = "SELECT toString(count()) AS places, toString(countIf(reason = '')) AS without_reason FROM (\
            SELECT DISTINCT door, door_partition, door_offset, door_index, reason FROM rejected_events WHERE door != '')";
        let refused = async |world: &World| {
            let rows = world.system.clickhouse().query_json_rows(sql, &[]).await?;
            ensure!(integer(&rows[0]["without_reason"])? == 0, "poison without a reason");
            Ok((integer(&rows[0]["places"])? >= i128::from(POISON))
                .then_some(integer(&rows[0]["places"])?))
        };
        let places = rest.world.until("all poison is in the archive", refused).await?;
        ensure!(places == i128::from(POISON), "{places} places of {POISON} messages");
        let over_http = rest.sent.tally.poison;
        ensure!(over_http > 0, "no poison came over HTTP");
        rest.world.story.count("F18", POISON + over_http);
        rest.world
            .story
            .tell(format!("F18: {POISON} through doors, {over_http} over HTTP, all refused"));
        Ok(())
    }
}

fn producer(broker: &Broker) -> Result<ThreadedProducer<DefaultProducerContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("linger.ms", "5")
        .set("message.max.bytes", "8000000")
        .create()?)
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    mut record: BaseRecord<'_, (), [u8]>,
) -> Result<()> {
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, again)) => {
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                ensure!(full, "{error}");
                std::thread::sleep(Duration::from_millis(5));
                again
            }
        };
    }
}

/// A block of a version to come in one partition: its rater says that it is not ready, and the others
/// go on.
pub async fn unknown_formats_stop_a_partition(rest: &mut Rest) -> Result<()> {
    let world = &rest.world;
    let producer = producer(world.broker.as_ref().context("no broker")?)?;
    let topic = format!("{}.usage", world.system.prefix()?);
    let mut block = b"WRUB\xff\x00\x00\x00".to_vec();
    block.extend([0; 40]);
    send(&producer, BaseRecord::to(&topic).partition(STOPPED).payload(&block))?;
    producer.flush(FLUSH_TIME_MAX)?;
    let red = async |world: &World| {
        for name in world.of_role("rater") {
            let answer = reqwest::get(format!("{}/ready", world.system.base(&name)?)).await?;
            if answer.status() == 503 {
                return Ok(Some(answer.text().await?));
            }
        }
        Ok(None)
    };
    let said = world.until("a rater is not ready", red).await?;
    let before = world.statement().await?;
    let sending = Sending { rate: world.tier.rate, end: Some(4), split: false };
    let more = tests::harness::plan::Plan::new(
        world.plan.seed ^ 1,
        world.tenants.len(),
        world.plan.window,
        0,
    );
    Traffic::start(&more, &world.tenants, &bases(&world.system)?, &world.story, sending)?
        .finish()
        .await?;
    let others = async |world: &World| {
        let now = world.statement().await?;
        let place = |statement: &serde_json::Value, at: usize| {
            statement["partitions"][at]["posted_position"].as_i64()
        };
        let count = now["partitions"].as_array().context("no partitions")?.len();
        ensure!(place(&now, STOPPED as usize) == place(&before, STOPPED as usize), "it went on");
        let moved = (0..count).filter(|at| place(&now, *at) > place(&before, *at)).count();
        Ok((moved == count - 1).then_some(()))
    };
    world.until("the other partitions go on", others).await?;
    world.story.tell(format!("F18: an unknown version stopped partition {STOPPED}: {said}"));
    Ok(())
}
