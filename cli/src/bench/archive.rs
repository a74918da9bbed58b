//! The archiver's work without the log: rated batches in memory become rows in ClickHouse, whose sums
//! are compared with the account. Beside it the same usage as one inserts it first: a few hundred
//! rows at a time, as text.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use archiver::{
    group::{End, Gathered, Gathering},
    insert::{Token, inserts},
    native,
};
use benches::{account::Account, generator::Generator};
use bytes::Bytes;
use domain::chain::Place;
use runtime::{
    clickhouse::{ClickHouse, ClickHouseError},
    config::ClickHouseConfig,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{post::plain_lines, used::Used};
use crate::{
    config::Config,
    process::{self, ArchiveArguments},
    store,
};

/// Rows of a text insert.
const ROWS_TOGETHER: u64 = 500;
/// How long nothing may be merged before the merges are said to have ended, and how often that is
/// looked for.
const QUIET: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(100);
/// How long merges may go on.
const PATIENCE: Duration = Duration::from_secs(120);

/// What archiving took, merges included.
#[derive(Clone, Copy, Debug)]
pub struct Archived {
    /// Rows of all tables but `archived`.
    pub rows: u64,
    /// Inserts of `usage_events`.
    pub inserts: u64,
    /// Processor time.
    pub used: Used,
}

/// A database of its own in an engine.
pub struct Archive {
    clickhouse: ClickHouse,
    config: archiver::config::Config,
    server: u32,
}

impl Archive {
    /// Makes it in the engine of `config`, whose process is `server`.
    pub async fn make(config: &ClickHouseConfig, server: u32) -> Result<Archive> {
        let mut own = Config::read(None)?;
        own.clickhouse =
            ClickHouseConfig { database: "bench_archive".to_owned(), ..config.clone() };
        process::prepare_clickhouse(&own, &ArchiveArguments::default()).await?;
        let clickhouse = ClickHouse::new(&own.clickhouse);
        Ok(Archive { clickhouse, config: own.archiver, server })
    }

    /// Archives rated batches in inserts of about `rows` rows, and compares the sums.
    pub async fn archive(
        &self,
        messages: &[Bytes],
        rows: usize,
        account: &Account,
    ) -> Result<Archived> {
        let before = Used::now(self.server);
        let config = archiver::config::Config { group_rows: rows, ..self.config.clone() };
        let (mut gathering, mut inserts, mut count) = (Gathering::new(0, Place::EMPTY), 0, 0);
        for (position, message) in (0_i64..).zip(messages) {
            let gathered = gathering.offer(position, message, End::Full)?;
            ensure!(matches!(gathered, Gathered::Added), "batch {position} continues the chain");
            let last = usize::try_from(position + 1)? == messages.len();
            if (last || gathering.is_full(End::Full, &config))
                && let Some(group) = gathering.take()
            {
                count += u64::try_from(group.row_count + group.other_count)?;
                inserts += 1;
                self.insert(group).await?;
            }
        }
        self.merged().await?;
        let used = before.until_now(self.server);
        let difference = account.first_difference(&store::books::lines(&self.clickhouse).await?);
        ensure!(difference.is_none(), "the archive's sums are wrong: {difference:?}");
        Ok(Archived { rows: count, inserts, used })
    }

    async fn insert(&self, group: archiver::group::Group) -> Result<()> {
        for insert in inserts(&Token::Flush(Uuid::now_v7()), vec![group])? {
            let blocks = native::blocks(insert.table, insert.rows).map(Ok::<_, ClickHouseError>);
            let (table, names) = (insert.table.name, insert.table.names());
            self.clickhouse.insert(table, &names, "Native", &insert.token, blocks).await?;
        }
        Ok(())
    }

    /// Inserts the first `events` of a generator as text, line by line.
    pub async fn one_by_one(&self, generator: &Generator, events: u64) -> Result<Archived> {
        store::plain::make_archive(&self.clickhouse).await?;
        let before = Used::now(self.server);
        let (mut rows, mut inserts) = (0, 0);
        for from in (0..events).step_by(usize::try_from(ROWS_TOGETHER / 2)?) {
            let lines = plain_lines(generator, from..(from + ROWS_TOGETHER / 2).min(events))?;
            store::plain::archive(&self.clickhouse, &lines).await?;
            rows += u64::try_from(lines.len())?;
            inserts += 1;
        }
        self.merged().await?;
        Ok(Archived { rows, inserts, used: before.until_now(self.server) })
    }

    /// Waits until nothing is merged any more.
    async fn merged(&self) -> Result<()> {
        let (deadline, mut quiet) = (Instant::now() + PATIENCE, Instant::now());
        while quiet.elapsed() < QUIET {
            ensure!(Instant::now() < deadline, "merges do not end");
            if store::books::merges(&self.clickhouse).await.context("merges")? > 0 {
                quiet = Instant::now();
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}
