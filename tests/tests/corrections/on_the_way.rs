//! Kills the process while it is at work on a correction.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sqlx::{Executor as _, PgConnection};
use tests::{
    system::{System, integer},
    wait::eventually,
};
use uuid::Uuid;

/// A correction, in the order of its states.
const STATES: [&str; 5] = ["previewing", "previewed", "posting", "confirming", "posted"];

/// State, events of the pass, and the process at work.
type Row = (String, i64, Option<Uuid>);

/// A correction that processes are killed over.
pub(super) struct OnTheWay {
    pub id: String,
    /// Events that it is about.
    pub events: i64,
    pub kills: u32,
    dead: Option<Uuid>,
}

impl OnTheWay {
    pub fn new(id: &str, events: i64) -> OnTheWay {
        OnTheWay { id: id.to_owned(), events, kills: 0, dead: None }
    }

    async fn row(&self, system: &System) -> Result<Row> {
        let sql = "SELECT state, events, lease FROM corrections WHERE correction_id = $1::uuid";
        let mut postgres = system.postgres().await?;
        Ok(sqlx::query_as(sql).bind(&self.id).fetch_one(&mut postgres).await?)
    }

    /// Kills once another process than the one that was killed last is at work in this state, and has looked at more
    /// than `after` events, and not at all of them.
    pub async fn kill_in(&mut self, system: &mut System, wanted: &str, after: i64) -> Result<()> {
        let rank = |state: &str| STATES.iter().position(|known| *known == state);
        eventually(&format!("it is {wanted} behind {after} events"), async || {
            let (state, events, lease) = self.row(system).await?;
            let found = rank(&state).context(state.clone())?;
            ensure!(Some(found) <= rank(wanted), "it was {state} before it could be killed");
            let is_other = lease.is_some() && lease != self.dead;
            Ok(state == wanted && is_other && events > after && events < self.events)
        })
        .await?;
        self.kill(system, wanted, None).await
    }

    /// Posts it, and kills when commands took effect whose block is not in the run log: its row cannot be written.
    pub async fn post_and_kill(&mut self, system: &mut System) -> Result<()> {
        let mut held = system.postgres().await?;
        held.execute("BEGIN; LOCK TABLE correction_blocks IN SHARE MODE").await?;
        let path = format!("/v1/corrections/{}/post", self.id);
        system.api()?.send("POST", &path, &serde_json::json!({})).await?;
        eventually("the archive has what the first block did", async || {
            Ok(!applied(system).await?.is_empty())
        })
        .await?;
        let log = system.api()?.get(&format!("/v1/corrections/{}/blocks", self.id)).await?;
        ensure!(log["items"] == serde_json::json!([]), "{log}");
        self.kill(system, "posting", Some(held)).await
    }

    /// Kills the process, if it is still at work. What it had to itself is free at once, as it is when its time is over.
    /// `held` is let go when nobody can use it any more.
    async fn kill(
        &mut self,
        system: &mut System,
        wanted: &str,
        held: Option<PgConnection>,
    ) -> Result<()> {
        let answer = system.api()?.get(&format!("/v1/corrections/{}", self.id)).await?;
        ensure!(answer["state"] == wanted, "it has gone on: {answer}");
        ensure!(answer["events_total"] == self.events, "{answer}");
        self.dead = self.row(system).await?.2;
        system.kill("up")?;
        drop(held);
        self.kills += 1;
        system.start("up").await?;
        let sql = "UPDATE corrections SET leased_until = clock_timestamp()
            WHERE correction_id = $1::uuid AND lease = $2";
        let mut postgres = system.postgres().await?;
        sqlx::query(sql).bind(&self.id).bind(self.dead).execute(&mut postgres).await?;
        Ok(())
    }

    /// Fails unless the run log has the place of every command that took effect.
    pub async fn is_logged(&self, system: &System) -> Result<()> {
        let mut log = BTreeMap::new();
        let mut path = format!("/v1/corrections/{}/blocks?limit=50", self.id);
        loop {
            let page = system.api()?.get(&path).await?;
            for block in page["items"].as_array().context("items")? {
                let place = block["place"].as_str().context("a place")?.to_owned();
                log.insert(place, integer(&block["commands"])?);
            }
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("/v1/corrections/{}/blocks?limit=50&cursor={cursor}", self.id);
        }
        let applied = applied(system).await?;
        let count: i128 = applied.values().sum();
        ensure!(count == i128::from(self.events), "{count} commands took effect");
        for (place, commands) in &applied {
            let logged = log.get(place).copied().unwrap_or(0);
            ensure!(logged >= *commands, "{place}: {commands} commands, {logged} in the run log");
        }
        Ok(())
    }
}

/// Places of blocks whose commands took effect, and how many did.
async fn applied(system: &System) -> Result<BTreeMap<String, i128>> {
    let sql = "SELECT concat(toString(partition), ':', toString(position)) AS place, uniqExact(`index`) AS commands
        FROM usage_events WHERE rating_run = 1 AND sign = 1 GROUP BY place";
    let rows = system.clickhouse().query_json_rows(sql, &[]).await?;
    let row = |row: &Value| {
        Ok((row["place"].as_str().context("a place")?.to_owned(), integer(&row["commands"])?))
    };
    rows.iter().map(row).collect()
}
