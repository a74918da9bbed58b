//! Settlement: what usage owes is paid out of wallets, holds capture and end, grants start and end.
//!
//! A transaction locks the partition's row and compares its number of settlements, then its wallets in
//! order of their ids, and only then reads what it decides by. It reads nothing but Postgres: what
//! posting left is there, whoever posted it. `domain::wallet` decides; this reads and writes.

mod duties;
mod load;
mod outcome;
mod write;

use std::sync::Arc;

use domain::planted::{self, Bug};
use runtime::postgres::{Pool, PostgresError, transaction};
use sqlx::PgConnection;
use uuid::Uuid;

pub use duties::{
    Duties, Unpositioned, duties, indebted, is_anything_due, note_position, unpositioned, wallets,
};

use crate::{
    account::Book, convert::integer, journal, journal_seal, post::PostError, seal::AuditKey, wallet,
};
use outcome::Outcome;

/// A wallet: tenant and id.
pub type WalletId = (Uuid, Uuid);

/// What a settlement is to do.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// The partition.
    pub partition: u32,
    /// Number of the settlement before.
    pub settle_seq: i64,
    /// Wallets, at most a thousand; none to seal journals alone.
    pub wallets: Vec<WalletId>,
}

/// What a settlement did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Its number: that of the next begins here.
    pub settle_seq: i64,
    /// Wallets that it looked at.
    pub wallets: usize,
    /// Transfers that it wrote.
    pub transfers: usize,
    /// Whether journals still wait for their seals.
    pub unsealed: bool,
    /// Wallets whose teams' receivables consist of items from now on.
    pub itemised: Vec<Itemised>,
}

/// A wallet with its team and currency.
pub type Itemised = (WalletId, Arc<str>, Arc<str>);

/// Settles some wallets of one partition in one transaction. [`PostError::Stale`] where another
/// ledger-writer settled in between, [`PostError::Hot`] where something passing was in the way,
/// such as a wallet that was locked for half a second: nothing was done.
///
/// [`PostgresError::OutcomeUnknown`] leaves open whether it happened; it may be tried again from
/// where the ledger stands either way, for what was done is not done twice.
pub async fn settle(
    pool: &Pool,
    key: &AuditKey,
    book: &Book,
    chunk: &Chunk,
) -> Result<Settled, PostError> {
    transaction(pool, |mut connection| async move {
        // Not tried again here: posting would wait as long. Before COMMIT, nothing has happened.
        run(&mut connection, key, book, chunk).await.map_err(|error| match error {
            PostError::Postgres(error) if error.is_passing() => PostError::Hot(error.to_string()),
            error => error,
        })
    })
    .await
}

async fn run(
    connection: &mut PgConnection,
    key: &AuditKey,
    book: &Book,
    chunk: &Chunk,
) -> Result<Settled, PostError> {
    let (settle_seq, x) = fence(connection, chunk).await?;
    let itemised = itemise(connection, chunk.partition, settle_seq).await?;
    let wallets = load::lock(connection, &chunk.wallets).await?;
    let now_us = wallet::now_us(connection).await?;
    let cases = load::all(connection, wallets, chunk.partition, x, now_us).await?;
    let outcomes: Vec<Outcome> = cases.into_iter().map(|case| Outcome::of(case, now_us)).collect();
    let journals = outcome::journals(&outcomes, chunk.partition, settle_seq);
    let transfers = journals.iter().map(|journal| journal.moves.len()).sum();
    journal::write(connection, book, &journals).await?;
    write::all(connection, (chunk.partition, settle_seq, x), &outcomes, &journals).await?;
    let unsealed = journal_seal::seal_waiting(connection, key, chunk.partition).await?;
    Ok(Settled { settle_seq, wallets: outcomes.len(), transfers, itemised, unsealed })
}

/// Locks the partition and counts the settlement, if no other was in between: its number, and the
/// position up to which the partition is posted. From here on no lock is waited for long.
async fn fence(connection: &mut PgConnection, chunk: &Chunk) -> Result<(i64, i64), PostError> {
    if planted::is(Bug::SettledWithoutFence) {
        let row = sqlx::query_as("SELECT settle_seq + 1, x FROM partitions WHERE partition = $1");
        let row = row.bind(integer(chunk.partition)).fetch_one(connection).await;
        return Ok(row.map_err(PostgresError::from)?);
    }
    let row: Option<(i64, i64, String)> = sqlx::query_as(
        "UPDATE partitions SET settle_seq = settle_seq + 1 WHERE partition = $1 AND settle_seq = $2
         RETURNING settle_seq, x, set_config('lock_timeout', '500ms', true)",
    )
    .bind(integer(chunk.partition))
    .bind(chunk.settle_seq)
    .fetch_optional(connection)
    .await
    .map_err(PostgresError::from)?;
    row.map(|(settle_seq, x, _)| (settle_seq, x)).ok_or(PostError::Stale)
}

/// Turns what teams with a new wallet owe into open items, and notes that from now on their
/// receivables consist of items. Only under the partition's lock.
pub(crate) async fn itemise(
    connection: &mut PgConnection,
    partition: u32,
    settle_seq: i64,
) -> Result<Vec<Itemised>, PostgresError> {
    let rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(
        "WITH fresh AS (DELETE FROM new_wallets WHERE partition = $1 RETURNING tenant_id, wallet_id),
         named AS (SELECT tenant_id, wallet_id, team, currency FROM fresh JOIN wallets USING (tenant_id, wallet_id)),
         owing AS (
             UPDATE receivables r SET itemised = true FROM named n
             WHERE (r.tenant_id, r.team, r.currency) = (n.tenant_id, n.team, n.currency) AND NOT r.itemised
             RETURNING r.tenant_id, r.team, r.currency, r.balance),
         numbered AS (SELECT *, row_number() OVER (ORDER BY tenant_id, team, currency) - 1 AS ordinal FROM owing),
         items AS (
             INSERT INTO open_items (tenant_id, partition, batch_to, ordinal, team, currency, meter, bucket, amount)
             SELECT tenant_id, $1, -$2, ordinal, team, currency, '', date_bin('15 minutes', now(), 'epoch'), balance
             FROM numbered WHERE balance > 0),
         back AS (
             INSERT INTO reversals (tenant_id, partition, batch_to, ordinal, team, currency, meter, bucket, amount)
             SELECT tenant_id, $1, -$2, ordinal, team, currency, '', date_bin('15 minutes', now(), 'epoch'), -balance
             FROM numbered WHERE balance < 0)
         SELECT tenant_id, wallet_id, team, currency FROM named",
    )
    .bind(integer(partition))
    .bind(settle_seq)
    .fetch_all(connection)
    .await?;
    let named = |(tenant, wallet, team, currency): (Uuid, Uuid, String, String)| {
        ((tenant, wallet), Arc::from(team), Arc::from(currency))
    };
    Ok(rows.into_iter().map(named).collect())
}
