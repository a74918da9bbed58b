//! A system under load: what a scenario does its faults to, and how it ends.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use runtime::postgres::server::Server;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    clocks::Clocks,
    disk::SmallDisk,
    links::Links,
    oracle::{Oracle, Snapshot, Usage, Verdict},
    plan::Plan,
    prober::Prober,
    report::Run,
    story::Story,
    tenants::{self, Tenant},
    tier::Tier,
    traffic::{Sending, Sent, Traffic},
};
use crate::{
    broker::Broker, canaries::secrets_are_nowhere, process::Http, proxy::Proxy, seed::Moments,
    system::System,
};

/// Events of a window.
const WINDOW: u64 = 250;
/// Rated batches after which the raters are said to go on.
const BATCHES: u64 = 10;
/// How old the events are: older than the hour that a table of duplicates covers, and than any clock
/// that is set wrong.
const AGE_US: i64 = 3 * 86_400 * 1_000_000;
/// Lag must be back to normal in 30 s, 60 s after a crash of Postgres; a busy machine has five times as long.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(300);
/// An append without an answer is unknown after 2.5 s, which is shorter than most silences. A member
/// without a word is out after 6 s, so that an owner lives to learn that its append is unknown.
const PROPERTIES: &str = r#"{"session.timeout.ms" = "6000", "message.timeout.ms" = "2500"}"#;
/// Stored events that `weir verify` rates again.
const VERIFIED: &str = "20000";
/// Tables that a partition's events leave after some seconds.
const SMALL_TABLES: [(&str, &str); 2] =
    [("WEIR_RATER__TABLE_IDENTITIES_MAX", "4000"), ("WEIR_RATER__RANGE_IDENTITIES", "1000")];
/// Two of each but the api.
const ON_KAFKA: [&str; 9] = [
    "ingest",
    "ingest.2",
    "rater",
    "rater.2",
    "ledger-writer",
    "ledger-writer.2",
    "archiver",
    "archiver.2",
    "api",
];

/// A system under load.
pub struct World {
    /// Disks under parts of its folders, which can only be removed without them.
    disks: Vec<SmallDisk>,
    /// The system. Early, so that its processes end before what they need.
    pub system: System,
    /// Clients.
    pub traffic: Traffic,
    /// Somebody who asks the api.
    pub prober: Prober,
    /// Proxies between all of it.
    pub links: Links,
    /// Kafka, unless the log is local.
    pub broker: Option<Broker>,
    /// The other nodes of its cluster.
    pub other_brokers: Vec<Broker>,
    /// What is sent.
    pub plan: Plan,
    /// Whose it is.
    pub tenants: Vec<Tenant>,
    /// The wall clock of each process.
    pub clocks: Clocks,
    /// Random moments.
    pub moments: Moments,
    /// What was done.
    pub story: Story,
    /// How often it is done.
    pub tier: Tier,
    /// Versions of the prices that were published.
    prices: u32,
    /// Servers that are run for the system.
    kept: Vec<Server>,
}

/// The load of a system.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many tenants.
    pub tenants: usize,
    /// Events of a window.
    pub window: u64,
    /// How they are sent.
    pub sending: Sending,
}

impl Shape {
    fn of(tier: &Tier) -> Shape {
        let sending = Sending { rate: tier.rate, end: None, split: false };
        Shape { tenants: tier.tenants, window: WINDOW, sending }
    }
}

/// A system at rest, with what was sent to it.
pub struct Rest {
    /// The system.
    pub world: World,
    /// What was sent.
    pub sent: Sent,
}

impl World {
    /// A process per role, two of most, on Kafka, with a proxy on every link.
    pub async fn on_kafka(run: &Run, partitions: u32) -> Result<World> {
        Self::on_kafka_with(run, partitions, &[], &[]).await
    }

    /// [`World::on_kafka`], with tables of duplicates for so few events that many come late.
    pub async fn on_kafka_late(run: &Run, partitions: u32) -> Result<World> {
        Self::on_kafka_with(run, partitions, &[], &SMALL_TABLES).await
    }

    /// [`World::on_kafka`], where each process has a way to Kafka of its own.
    pub async fn on_kafka_apart(run: &Run, partitions: u32) -> Result<World> {
        Self::on_kafka_with(run, partitions, &ON_KAFKA, &[]).await
    }

    async fn on_kafka_with(
        run: &Run,
        partitions: u32,
        apart: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<World> {
        let mut links = Links::default();
        for name in apart {
            links.kafka_apart.insert((*name).to_owned(), Proxy::listen()?);
        }
        let proxy = Proxy::listen()?;
        let ways: Vec<&Proxy> = links.kafka_apart.values().collect();
        let broker = Broker::start_behind_each(&proxy, &ways)?;
        links.kafka = Some(proxy);
        Self::on_brokers(run, partitions, (broker, Vec::new()), links, settings).await
    }

    /// [`World::on_kafka`], on a cluster of three nodes, with no proxy before them.
    pub async fn on_three_brokers(run: &Run, partitions: u32) -> Result<World> {
        let [broker, second, third] = Broker::start_three()?;
        let brokers = (broker, vec![second, third]);
        Self::on_brokers(run, partitions, brokers, Links::default(), &[]).await
    }

    async fn on_brokers(
        run: &Run,
        partitions: u32,
        (broker, other_brokers): (Broker, Vec<Broker>),
        mut links: Links,
        settings: &[(&str, &str)],
    ) -> Result<World> {
        let further = [&[("WEIR_LOG__KAFKA__PROPERTIES", PROPERTIES)], settings].concat();
        let mut system = System::kafka_without_roles(&broker, partitions, &further).await?;
        links.place(&mut system, &ON_KAFKA)?;
        for (name, proxy) in &links.kafka_apart {
            system.set(name, "WEIR_KAFKA_BROKERS", &format!("127.0.0.1:{}", proxy.port()));
        }
        let clocks = Clocks::new()?;
        for name in ON_KAFKA {
            for (setting, value) in clocks.settings(name)? {
                system.set(name, setting, &value);
            }
        }
        start_all(&mut system).await?;
        let shape = Shape::of(&Tier::of_environment());
        let mut world = World::begin(run, system, clocks, shape).await?;
        (world.links, world.broker, world.other_brokers) = (links, Some(broker), other_brokers);
        Ok(world)
    }

    /// `weir up`, as it comes.
    pub async fn embedded(run: &Run, partitions: u32) -> Result<World> {
        World::embedded_with(run, partitions, Shape::of(&Tier::of_environment())).await
    }

    /// `weir up`, under another load.
    pub async fn embedded_with(run: &Run, partitions: u32, shape: Shape) -> Result<World> {
        let (partitions, clocks) = (partitions.to_string(), Clocks::new()?);
        let [library, offset] = clocks.settings("up")?;
        let settings = [
            ("WEIR_LOG__PARTITIONS", partitions.as_str()),
            (library.0, &library.1),
            (offset.0, &offset.1),
        ];
        let system = System::embedded_with(&settings, &[], &[]).await?;
        World::begin(run, system, clocks, shape).await
    }

    async fn begin(
        run: &Run,
        system: System,
        clocks: Clocks,
        Shape { tenants, window, sending }: Shape,
    ) -> Result<World> {
        let tier = Tier::of_environment();
        let (moments, story) = (run.moments.clone(), run.story.clone());
        let tenants = tenants::make(&system, tenants).await?;
        tenants::are_known(&bases(&system)?, &tenants).await?;
        let start_us = runtime::task::now_us() - AGE_US;
        let plan = Plan::new(moments.seed(), tenants.len(), window, start_us);
        let traffic = Traffic::start(&plan, &tenants, &bases(&system)?, &story, sending)?;
        let prober = Prober::start(&system.api()?.base, &tenants[0].key)?;
        story.tell(format!("{} tenants send {} events a second", tenants.len(), sending.rate));
        let (links, broker, other_brokers) = (Links::default(), None, Vec::new());
        Ok(World {
            disks: Vec::new(),
            system,
            traffic,
            prober,
            links,
            broker,
            other_brokers,
            plan,
            tenants,
            clocks,
            moments,
            story,
            tier,
            prices: 1,
            kept: Vec::new(),
        })
    }

    /// Runs a server as long as the system.
    pub fn keep(&mut self, server: Server) {
        self.kept.push(server);
    }

    /// Leaves a disk where it is for as long as the system.
    pub fn keep_disk(&mut self, disk: SmallDisk) {
        self.disks.push(disk);
    }

    /// Lets events flow again, then waits for a random moment.
    pub async fn moment(&mut self) -> Result<()> {
        self.traffic.flow(self.plan.window).await?;
        self.moments.pause(1, 500).await;
        Ok(())
    }

    /// Publishes another price of everything: what comes from then on is charged by it (INV-18).
    pub async fn change_prices(&mut self) -> Result<()> {
        self.traffic.flow(self.plan.window).await?;
        self.prices += 1;
        tenants::publish_prices(&self.system, &self.tenants, self.prices).await?;
        self.story.tell(format!("version {} of all prices", self.prices));
        self.traffic.flow(self.plan.window).await
    }

    /// Waits until the raters go on, so that a fault meets batches on their way.
    pub async fn rated_again(&self) -> Result<()> {
        let batches = async |world: &World| {
            world.metric_of_role("rater", "weir_rater_batches_total", "").await
        };
        let before = batches(self).await?;
        self.until("the raters go on", async |world| {
            Ok((batches(world).await? >= before + BATCHES).then_some(()))
        })
        .await
    }

    /// What the ledger has now.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&mut self.system.postgres().await?).await
    }

    /// Heals everything, lets the clients finish, and waits until all of it is posted and archived.
    pub async fn rest(mut self) -> Result<Rest> {
        self.heal().await?;
        let sent = self.traffic.stop().await?;
        self.settled(sent).await
    }

    /// Waits until the clients have sent all that they had, and it is posted and archived.
    pub async fn sent(mut self) -> Result<Rest> {
        let sent = self.traffic.finish().await?;
        self.settled(sent).await
    }

    async fn settled(self, sent: Sent) -> Result<Rest> {
        self.story.tell(format!("{} events sent: {:?}", sent.numbers, sent.tally));
        let rest = Rest { world: self, sent };
        rest.settle().await?;
        Ok(rest)
    }

    /// Lets everything through, and starts what does not run.
    pub async fn heal(&mut self) -> Result<()> {
        self.links.heal();
        if self.broker.is_some() {
            let running = self.system.names();
            for name in ON_KAFKA.iter().filter(|name| !running.contains(&(**name).to_owned())) {
                self.system.start(name).await?;
            }
        }
        Ok(())
    }

    /// The names of a role's processes that run.
    pub fn of_role(&self, role: &str) -> Vec<String> {
        let is = |name: &String| name.split('.').next() == Some(role);
        self.system.names().into_iter().filter(is).collect()
    }

    async fn metrics(&self, process: &str) -> Result<String> {
        let answer = reqwest::get(format!("{}/metrics", self.system.base(process)?)).await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// A counter of a process, over all labels that contain `label`.
    pub async fn metric(&self, process: &str, name: &str, label: &str) -> Result<u64> {
        let text = self.metrics(process).await?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// A gauge of a process, by partition.
    pub async fn by_partition(&self, process: &str, name: &str) -> Result<BTreeMap<i64, i64>> {
        let text = self.metrics(process).await?;
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix("{partition=\"")?;
            let (partition, value) = rest.split_once("\"} ")?;
            Some((partition.parse().ok()?, value.parse().ok()?))
        };
        Ok(text.lines().filter_map(value).collect())
    }

    /// A counter over all processes of a role that run.
    pub async fn metric_of_role(&self, role: &str, name: &str, label: &str) -> Result<u64> {
        let mut sum = 0;
        for process in self.of_role(role) {
            sum += self.metric(&process, name, label).await?;
        }
        Ok(sum)
    }

    /// Asks until `found` finds something, after a fault that must have bitten by then.
    pub async fn until<T>(
        &self,
        what: &str,
        mut found: impl AsyncFnMut(&World) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            let answer = found(self).await;
            if let Ok(Some(found)) = answer {
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "not in time: {what}; the last answer: {:?}",
                answer.err()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The conservation statement's places and counts.
    pub async fn statement(&self) -> Result<Value> {
        self.system.api()?.get("/v1/conservation").await
    }
}

/// Starts all processes at once, then waits for each.
async fn start_all(system: &mut System) -> Result<()> {
    for name in ON_KAFKA {
        system.begin(name)?;
    }
    for name in ON_KAFKA {
        system.wait(name).await?;
    }
    Ok(())
}

/// `weir verify` by itself finds nothing either.
async fn is_verified(world: &World) -> Result<()> {
    let began = Instant::now();
    let data = world.system.data();
    let mut arguments = vec!["verify", "--sample", VERIFIED];
    if world.broker.is_none() {
        arguments.extend(["--data", data.to_str().context("a path that is text")?]);
    }
    world.system.run("verify", &arguments).await?;
    world.story.tell(format!("weir verify: it holds, after {:?}", began.elapsed()));
    Ok(())
}

/// Addresses of all that take events.
pub fn bases(system: &System) -> Result<Vec<String>> {
    let names = system.names();
    let takes = |name: &&String| name.starts_with("ingest") || *name == "up";
    names.iter().filter(takes).map(|name| system.base(name)).collect()
}

impl Rest {
    /// Waits until every block is posted and archived, and every late event answered.
    pub async fn settle(&self) -> Result<()> {
        let (began, deadline) = (Instant::now(), Instant::now() + SETTLE_TIME_MAX);
        loop {
            let waits = self.waits().await.unwrap_or_else(|error| Some(format!("{error:#}")));
            let Some(waits) = waits else { break };
            ensure!(
                Instant::now() < deadline,
                "INV-19: not settled after {SETTLE_TIME_MAX:?}: {waits}"
            );
            sleep(Duration::from_millis(100)).await;
        }
        self.world.story.tell(format!("settled after {:?}", began.elapsed()));
        Ok(())
    }

    /// What is still waited for. Late events are told to their tenants alone.
    async fn waits(&self) -> Result<Option<String>> {
        let api = self.world.system.api()?;
        let keys = self.world.tenants.iter().map(|tenant| tenant.key.as_str());
        for key in keys.chain([api.key()]) {
            let statement = Http::new(&api.base, key)?.get("/v1/conservation").await?;
            if let Some(waits) = waits_for(&statement) {
                return Ok(Some(waits));
            }
        }
        Ok(None)
    }

    /// Fails unless events have left the tables of duplicates and met repeats of theirs.
    pub async fn had_late_events(&self) -> Result<()> {
        let sql = "SELECT coalesce(sum(forwarded), 0)::bigint FROM partition_counts";
        let mut connection = self.world.system.postgres().await?;
        let forwarded: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        self.world.story.tell(format!("{forwarded} events came late"));
        ensure!(forwarded > 0, "no event came late");
        Ok(())
    }

    /// What compares everything with the seed.
    pub fn oracle(&self) -> Result<Oracle<'_>> {
        let world = &self.world;
        Ok(Oracle {
            system: &world.system,
            plan: &world.plan,
            sent: &self.sent,
            tenants: &world.tenants,
            prices: world.prices,
            story: &world.story,
            audit_key: world.system.audit_key()?,
        })
    }

    /// Compares everything with the seed; `before` is what the ledger had in mid-run.
    pub async fn check(&mut self, before: Option<&Snapshot>) -> Result<Verdict> {
        let world = &mut self.world;
        for name in world.system.names() {
            let process = world.system.process(&name)?;
            ensure!(process.is_running()?, "{name} ended:\n{}", process.log_tail());
            Usage::of(process.id())?.check(&name)?;
        }
        let began = Instant::now();
        let verdict = self.oracle()?.check(before).await?;
        let world = &self.world;
        world.story.tell(format!("compared with the seed in {:?}", began.elapsed()));
        world.prober.check()?;
        is_verified(world).await?;
        let keys = world.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.key.as_str()));
        let secrets = secrets_are_nowhere(&world.system, keys).await?;
        world.story.tell(format!("S17: {secrets} secrets are nowhere"));
        let Verdict { events, lost, doubled, others, .. } = &verdict;
        world
            .story
            .tell(format!("{events} events: {lost} lost, {doubled} doubled, {others} others"));
        verdict.check()
    }
}

/// What a statement is still waiting for.
fn waits_for(statement: &Value) -> Option<String> {
    let partitions = statement["partitions"].as_array()?;
    let behind = |partition: &&Value| {
        let place = |name: &str| partition[name].as_i64();
        let Some(end) = place("end_position") else { return true };
        place("posted_position") != Some(end - 1)
            || place("archived_position") != Some(end - 1)
            || partition["pending_forwards"] != 0
    };
    partitions.iter().find(behind).map(ToString::to_string)
}

impl System {
    /// The key of its audit chain.
    pub fn audit_key(&self) -> Result<String> {
        let set = self.settings().iter().rfind(|(name, _)| name == "WEIR_LEDGER_WRITER__AUDIT_KEY");
        match set {
            Some((_, key)) => Ok(key.clone()),
            None => {
                let path = self.data().join("keys/audit");
                let text = std::fs::read_to_string(&path);
                Ok(text.with_context(|| format!("read {}", path.display()))?.trim().to_owned())
            }
        }
    }
}
