//! Ingest alone: requests over HTTP until a local log has their events on disk, and nobody who reads
//! them. Beside it the same with a message of the log for each request and partition.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use benches::measure::Threads;
use domain::wire::block::BlockHeader;
use ingest::{Service, block::USAGE};
use runtime::{
    http::{Readiness, ServeOptions, bind, serve},
    keys,
    log::SharedLog,
    shutdown::Shutdown,
    task::Tasks,
    telemetry::Metrics,
};

use super::{
    blocks::TENANT,
    connection::{self, Connection},
    load::{self, Plan, Sent},
    watch::time_of,
};
use crate::{config::Config, process, store};

/// So small a block has the events of one request.
const SMALL_BLOCK: usize = 1;
/// How long what was sent may take to be in the log, and the tasks to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What taking the events took.
#[derive(Debug)]
pub struct Taken {
    /// What was sent.
    pub sent: Sent,
    /// Processor time of this process without that of the generator.
    pub time: Duration,
    /// Messages of the log.
    pub messages: u64,
}

/// How requests become messages of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As configured: those that wait share one.
    Shared,
    /// One for each request and partition, all on their way at once.
    Single,
}

/// Takes a load into a log in `folder`, by a fresh ingest.
pub async fn take(
    config: &Config,
    folder: &Path,
    packing: Packing,
    plan: Plan,
    parent: &Shutdown,
) -> Result<Taken> {
    let key = keys::generate()?;
    let mut connection = process::sign_in(&config.postgres.url).await?;
    let all = ["*".to_owned()];
    let grant = store::keys::Grant {
        tenant: TENANT,
        name: "bench",
        app: None,
        scopes: &all,
        expires_at: None,
    };
    store::keys::insert(&mut connection, &key, &grant).await?;
    let mut settings = config.ingest.clone();
    if packing == Packing::Single {
        (settings.block_bytes, settings.in_flight) = (SMALL_BLOCK, usize::MAX);
    }
    let shutdown = parent.child();
    let named = process::local_log(&config.log, folder).await?;
    let log = named.log.clone();
    let mut context = process::context(config, named.log, Readiness::default(), shutdown.clone());
    context.metrics = Metrics::new();
    let service = Service::open(settings, &context).await.context("ingest")?;
    let listener = bind(([127, 0, 0, 1], 0).into()).await?;
    let address = listener.local_addr()?;
    let mut tasks = Tasks::new(&shutdown);
    let (router, stop) = (service.router().into(), shutdown.clone());
    tasks.spawn("http", async move {
        Ok(serve(listener, router, stop, ServeOptions::default()).await?)
    });
    tasks.spawn("ingest", async move { Ok(service.run().await?) });
    let own_pid = std::process::id();
    let (own, mut threads) = (time_of(own_pid), Threads::of(own_pid));
    let heads = connection::heads(address, "/v1/events", &[key.text]);
    let sent = load::send(plan, || Connection::new(address, &heads), parent).await?;
    threads.sample();
    let generator: Duration = threads
        .times()
        .filter(|(name, _)| name.starts_with(load::THREAD_NAME))
        .map(|(_, time)| time)
        .sum();
    let time = time_of(own_pid).saturating_sub(own).saturating_sub(generator);
    shutdown.trigger();
    tasks.drain(PATIENCE).await?;
    let (messages, events) = tokio::task::block_in_place(|| count(&log))?;
    ensure!(
        events == sent.events || (sent.repeated > 0 && events > sent.events),
        "the log has {events} events of {}",
        sent.events
    );
    Ok(Taken { sent, time, messages })
}

/// Messages and events of a log.
fn count(log: &SharedLog) -> Result<(u64, u64)> {
    let (mut messages, mut events) = (0, 0);
    for partition in 0..log.partitions() {
        let (first, next) = log.bounds(USAGE, partition, PATIENCE)?;
        if first == next {
            continue;
        }
        let mut reader = log.reader(USAGE, partition, first)?;
        for _ in first..next {
            let message = reader.next(PATIENCE)?.context("a message that is there")?;
            let header = BlockHeader::decode(&message.payload)?;
            messages += 1;
            events += header.tenants.iter().map(|tenant| tenant.events).sum::<u64>();
        }
    }
    Ok((messages, events))
}
