//! Blocks of `[usage]` as ingest makes them of a generator's events, in one process and one thread.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use benches::{
    generator::{Generator, TimeText},
    measure::thread_time,
};
use bytes::Bytes;
use domain::event::IdentityKey;
use ingest::{
    admit::{Caller, Door},
    batch::Encoder,
    budget::Budget,
    forms::{self, Form},
    metrics::Metrics,
    quotas::Quotas,
    store::{Snapshot, Tenant},
};
use runtime::{http::Attempts, telemetry};
use uuid::Uuid;

/// The tenant of all events.
pub const TENANT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
/// Memory for one request is never short.
const BUDGET: usize = 1 << 30;

/// What ingest needs to take a request: a caller, and memory.
pub struct Desk {
    caller: Caller,
    budget: Budget,
    encoder: Encoder,
}

/// Messages of `[usage]`, and the processor time that they took from the bytes of the requests.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The messages.
    pub messages: Vec<Bytes>,
    /// Reading and checking the requests.
    pub parsing: Duration,
    /// Encoding and compressing the blocks.
    pub packing: Duration,
}

impl Desk {
    /// One tenant, which is its own app.
    pub fn new(now_us: i64) -> Result<Desk> {
        let metrics = Metrics::new(&telemetry::Metrics::new())?;
        let tenant = Tenant {
            id: TENANT,
            key: "default".into(),
            external_key: None,
            aliases: HashMap::new(),
            apps: HashSet::new(),
            backfills: HashSet::new(),
            disabled: false,
        };
        let mut known = Snapshot::empty(IdentityKey([7; 16]), 1, now_us);
        known.tenants = HashMap::from([("default".into(), Arc::new(tenant))]);
        let attempts = Attempts::new(10, Duration::from_secs(1));
        let door = Door::new(known, Duration::MAX, attempts, Quotas::default(), &metrics);
        let caller = door.writer_of("default").ok().flatten().context("the tenant is known")?;
        Ok(Desk { caller, budget: Budget::new(BUDGET, &metrics), encoder: Encoder::default() })
    }

    /// The events of some numbers in requests of `batch`, `of_block` requests to a block.
    pub fn blocks(
        &mut self,
        generator: &Generator,
        numbers: Range<u64>,
        (batch, of_block): (u64, u64),
        now_us: i64,
    ) -> Result<Blocks> {
        let (mut blocks, mut clock) = (Blocks::default(), TimeText::default());
        let mut from = numbers.start;
        while from < numbers.end {
            let mut bodies = Vec::new();
            for _ in 0..of_block {
                let to = from.saturating_add(batch).min(numbers.end);
                let mut body = Vec::new();
                generator.write_array(from..to, &mut clock, &mut body);
                bodies.push(Bytes::from(body));
                from = to;
                if from == numbers.end {
                    break;
                }
            }
            let message = self.block(&mut blocks, bodies, now_us)?;
            blocks.messages.push(message);
        }
        Ok(blocks)
    }

    fn block(&mut self, blocks: &mut Blocks, bodies: Vec<Bytes>, now_us: i64) -> Result<Bytes> {
        let began = thread_time();
        let mut parsed = Vec::with_capacity(bodies.len());
        for body in bodies {
            let held = self.budget.hold();
            let one = forms::parse(Form::Json, body, self.caller.clone(), held, now_us)
                .map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
            parsed.push(one);
        }
        let read = thread_time();
        for one in &parsed {
            let numbers: Vec<u32> =
                one.items.iter().filter_map(|item| item.event.clone().ok()).collect();
            ensure!(numbers.len() == one.items.len(), "ingest refuses what the bench sends");
            self.encoder.push(&one.batch, &numbers);
        }
        let message = self.encoder.finish();
        drop(parsed);
        blocks.parsing += read.saturating_sub(began);
        blocks.packing += thread_time().saturating_sub(read);
        Ok(message)
    }
}
