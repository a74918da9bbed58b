//! What postings leave to be settled, and what else is: holds and grants that end, wallets that were
//! raised, journals that wait for their seals. It never keeps posting waiting for long.

use std::time::{Duration, Instant};

use ledger::{
    post::PostError,
    settle::{self, Chunk, Duties, WalletId},
};
use runtime::postgres::PostgresError;

use super::{BOUNDS_WAIT, CHUNK_WALLETS, Fate, POST_TIMEOUT, PartitionError, Worker};
use crate::USAGE;

/// How often it is looked for what is to be settled apart from what was posted: holds and grants that
/// end, wallets that were raised.
const DUTIES_EVERY: Duration = Duration::from_millis(250);
/// After a settlement that waited for a lock too long, the next one waits so long.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// How far settling came.
pub(super) enum Settling {
    /// As far as there is something to settle, or Postgres is there.
    Done,
    /// Only what Postgres has says where to go on.
    Anew,
}

impl Worker<'_> {
    /// Settles what postings left, and from time to time what else is to be settled. Postgres being
    /// away delays it and nothing else: what is owed and what is raised is in Postgres.
    pub(super) fn settle(&mut self) -> Result<Settling, PartitionError> {
        let due = Instant::now() >= self.duties_at;
        if Instant::now() < self.settle_at || (!due && self.unsettled.is_empty()) {
            return Ok(Settling::Done);
        }
        let mut unsealed = false;
        if due {
            self.duties_at = Instant::now() + DUTIES_EVERY;
            match self.duties() {
                Ok(duties) => {
                    self.unsettled.extend(duties.wallets);
                    unsealed = duties.unsealed;
                }
                Err(PostError::Postgres(error)) if error.is_passing() => {
                    return Ok(self.later(&error));
                }
                Err(error) => return Err(self.post_error(error)),
            }
        }
        while unsealed || !self.unsettled.is_empty() {
            let count = self.unsettled.len().min(self.chunk);
            let mut wallets: Vec<WalletId> = self.unsettled.iter().take(count).copied().collect();
            wallets.sort_unstable();
            wallets.dedup();
            match self.settle_chunk(wallets) {
                Ok(more) => {
                    unsealed = more;
                    self.unsettled.drain(..count);
                    self.chunk = (self.chunk * 2).min(CHUNK_WALLETS);
                }
                // A hot wallet keeps others waiting: it is tried apart from them, and posting goes on.
                Err(error @ PostError::Hot(_)) => {
                    self.unsettled.rotate_left(count);
                    self.chunk = (self.chunk / 2).max(1);
                    self.settle_at = Instant::now() + SETTLE_PAUSE;
                    return Ok(self.later(&error));
                }
                Err(PostError::Stale) => {
                    let _: Fate = self.fenced();
                    return Ok(Settling::Anew);
                }
                // It is not known whether it happened: only what Postgres has now says so.
                Err(PostError::Postgres(error)) if error.is_passing() => {
                    let _: Settling = self.later(&error);
                    return Ok(Settling::Anew);
                }
                Err(error) => return Err(self.post_error(error)),
            }
        }
        Ok(Settling::Done)
    }

    fn later(&self, error: &dyn std::error::Error) -> Settling {
        tracing::warn!(partition = self.partition, %error, "what is to be settled waits");
        self.shared.metrics.retries.with_label_values(&[&self.label]).inc();
        Settling::Done
    }

    /// What is to be settled although nothing was posted for it. Ends of holds and grants that have
    /// begun get the end of `[usage]` first, which is read after they have.
    fn duties(&self) -> Result<Duties, PostError> {
        let shared = self.shared;
        let found = self.block_on(POST_TIMEOUT, async {
            let mut connection = shared.pool.acquire().await.map_err(PostgresError::from)?;
            if !settle::is_anything_due(&mut connection, self.partition).await? {
                return Ok(None);
            }
            Ok(Some(settle::unpositioned(&mut connection, self.partition).await?))
        })?;
        let Some(found) = found else { return Ok(Duties::default()) };
        let end = if found.is_empty() {
            None
        } else {
            let bounds = shared.log.bounds(USAGE, self.partition, BOUNDS_WAIT);
            bounds.inspect_err(|error| tracing::warn!(%error, "the log's end is not known")).ok()
        };
        self.block_on(POST_TIMEOUT, async {
            let mut connection = shared.pool.acquire().await.map_err(PostgresError::from)?;
            if let Some((_, end)) = end {
                settle::note_position(&mut connection, &found, end).await?;
            }
            Ok(settle::duties(&mut connection, self.partition).await?)
        })
    }

    /// Settles some wallets, in order of their ids; answers whether journals still wait for seals.
    fn settle_chunk(&mut self, wallets: Vec<WalletId>) -> Result<bool, PostError> {
        let started = Instant::now();
        let shared = self.shared;
        let chunk = Chunk { partition: self.partition, settle_seq: self.settle_seq, wallets };
        let settling = settle::settle(&shared.pool, &shared.key, &self.book, &chunk);
        let settled = self.block_on(POST_TIMEOUT, settling)?;
        self.settle_seq = settled.settle_seq;
        for (wallet, team, currency) in settled.itemised {
            self.book.know_wallet((wallet.0, team, currency), wallet.1);
            if chunk.wallets.binary_search(&wallet).is_err() {
                self.unsettled.push_back(wallet);
            }
        }
        let metrics = &shared.metrics;
        metrics.settle_seconds.observe(started.elapsed().as_secs_f64());
        metrics.settled_wallets.inc_by(u64::try_from(settled.wallets).unwrap_or(0));
        metrics.transfers.inc_by(u64::try_from(settled.transfers).unwrap_or(0));
        Ok(settled.unsealed)
    }
}
