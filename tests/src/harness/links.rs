//! The links between processes and what they depend on: a proxy on each.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    proxy::{Fault, Proxy},
    seed::Moments,
    system::System,
};

/// The proxies of a system, by whose link it is.
#[derive(Default)]
pub struct Links {
    /// To Kafka, of all processes together: a broker has one address.
    pub kafka: Option<Proxy>,
    /// To Kafka, of each process, where each has a way of its own.
    pub kafka_apart: BTreeMap<String, Proxy>,
    /// To Postgres, of each process.
    pub postgres: BTreeMap<String, Proxy>,
    /// To ClickHouse, of each process.
    pub clickhouse: BTreeMap<String, Proxy>,
}

impl Links {
    /// Puts a proxy between each of `names` and its databases, from its next start.
    pub fn place(&mut self, system: &mut System, names: &[&str]) -> Result<()> {
        let postgres_url = system.postgres_url().to_owned();
        let clickhouse_url = system.servers()?.engine.url();
        for name in names {
            let proxy = Proxy::before(system.servers()?.postgres.server()?.port())?;
            system.set(name, "DATABASE_URL", &proxy.through(&postgres_url)?);
            self.postgres.insert((*name).to_owned(), proxy);
            let port = clickhouse_url.rsplit(':').next().context("a port")?.parse()?;
            let proxy = Proxy::before(port)?;
            system.set(name, "CLICKHOUSE_URL", &proxy.through(&clickhouse_url)?);
            self.clickhouse.insert((*name).to_owned(), proxy);
        }
        Ok(())
    }

    /// All of them, with what they lead to.
    pub fn all(&self) -> Vec<(String, &Proxy)> {
        let named = |to: &str, of: &str| format!("{of} to {to}");
        let kafka = self.kafka.iter().map(|proxy| (named("kafka", "all"), proxy));
        let apart = self.kafka_apart.iter().map(|(of, proxy)| (named("kafka", of), proxy));
        let postgres = self.postgres.iter().map(|(of, proxy)| (named("postgres", of), proxy));
        let clickhouse = self.clickhouse.iter().map(|(of, proxy)| (named("clickhouse", of), proxy));
        kafka.chain(apart).chain(postgres).chain(clickhouse).collect()
    }

    /// Lets everything through.
    pub fn heal(&self) {
        self.all().iter().for_each(|(_, proxy)| proxy.set(Fault::None));
    }

    /// Cuts a random part of the links one by one, each in one of many ways, and heals them in another
    /// order. Answers what was done, and how many bit.
    pub async fn swizzle(&self, moments: &mut Moments) -> (Vec<String>, u64) {
        let mut links = self.all();
        moments.shuffle(&mut links);
        links.truncate(1 + links.len() / 3 + moments.below(links.len() / 3));
        let mut cut = Vec::new();
        for (name, proxy) in &links {
            let before = proxy.counts();
            let fault = match moments.below(6) {
                0 => Fault::HalfOpen,
                1 => Fault::DropRequests,
                2 => Fault::DropAnswers,
                3 => Fault::Trickle,
                4 => Fault::Truncate(moments.below(2_000)),
                _ => Fault::Refuse,
            };
            proxy.set(fault);
            // What exists is cut where the fault leaves it alone.
            if matches!(fault, Fault::HalfOpen | Fault::Refuse) {
                proxy.cut();
            }
            cut.push((name, proxy, fault, before));
            moments.pause(50, 500).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        moments.shuffle(&mut cut);
        let (mut told, mut bitten) = (Vec::new(), 0);
        for (name, proxy, fault, before) in cut {
            let did = proxy.counts().since(before);
            let bit = did.half_open + did.vanished_bytes + did.dropped_bytes + did.trickled;
            bitten += u64::from(bit + did.truncated + did.refused + did.cut > 0);
            told.push(format!("{name}: {fault:?}"));
            proxy.set(Fault::None);
            moments.pause(50, 500).await;
        }
        (told, bitten)
    }
}
