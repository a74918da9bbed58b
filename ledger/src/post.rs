//! Posting: one transaction moves a partition from one place of `[rated]` to the next and writes
//! what the batches in between cost. It inserts, and updates only rows that belong to the
//! partition; it never fails for lack of funds.
//!
//! The compare-and-set comes first and locks the partition's row: a stale writer's transaction
//! ends there, and whatever a crash leaves is all of a window or nothing of it.

mod check;
mod items;
mod rows;

use std::{collections::HashMap, sync::Arc};

use domain::{
    chain::{Hash, Place},
    period::PeriodKind,
    planted::{self, Bug},
    wire::{rated::Counts, sums::Sum},
};
use runtime::postgres::{Pool, PostgresError, Retryable, transaction};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account::{self, AccountName, Book, Kind, Learned},
    convert::{count, hash, integer, partition as read_partition, place, uncount},
    seal::{self, AuditKey, Entry, TransfersHash},
    settle::{self, WalletId},
    transfer::{self, REASON_COST, REASON_USAGE, Side, Transfer, stored},
};

/// What one window posts. Lists are sorted by their keys and hold each key once.
#[derive(Clone, Debug)]
pub struct Posting {
    /// The partition.
    pub partition: u32,
    /// Where the ledger stands before.
    pub from: Place,
    /// Where it stands after.
    pub to: Place,
    /// The catalog version after the last batch.
    pub catalog_version: u64,
    /// Highest append time of its blocks, microseconds since 1970.
    pub append_time_us: i64,
    /// Batches between that did not continue the chain.
    pub ignored: u64,
    /// Outcomes per tenant.
    pub counts: Vec<(Uuid, Counts)>,
    /// Running totals by bucket; everything that was metered, priced or not.
    pub usage: Vec<Usage>,
    /// Totals of periods, as the last batch that changed them leaves them.
    pub running_totals: Vec<RunningTotal>,
    /// What teams owe for it.
    pub charges: Vec<Charge>,
    /// What the tenants owe their providers for it.
    pub costs: Vec<Cost>,
    /// The part of the charges that names a hold.
    pub held: Vec<HeldCharge>,
    /// Holds, by tenant and id, whose usage was forwarded to the slow lane.
    pub forwarded_holds: Vec<(Uuid, Uuid)>,
}

/// What became of a posting whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It happened.
    Posted,
    /// Not so far; the compare-and-set of the next attempt decides.
    NotPosted,
    /// Another writer was there.
    Overtaken,
}

impl Posting {
    /// Panics where money would not add up: before anything of it is begun.
    pub fn check(&self) {
        check::posting(self);
    }

    /// What became of it, by where the ledger stands now.
    #[must_use]
    pub fn seen(&self, now: &Place) -> Seen {
        if *now == self.to {
            Seen::Posted
        } else if *now == self.from {
            Seen::NotPosted
        } else {
            Seen::Overtaken
        }
    }
}

/// A row of running totals. The key is everything but the sum.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The tenant.
    pub tenant: Uuid,
    /// The team.
    pub team: Arc<str>,
    /// The meter.
    pub meter: Arc<str>,
    /// Number of the 15-minute bucket of event time.
    pub bucket: i64,
    /// Currency of the charge; empty for unpriced usage.
    pub currency: Arc<str>,
    /// Currency of the cost; empty where no cost is known.
    pub cost_currency: Arc<str>,
    /// What was added up.
    pub sum: Sum,
}

/// A team's usage in a period so far, for prices that depend on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunningTotal {
    /// The tenant.
    pub tenant: Uuid,
    /// The team.
    pub team: Arc<str>,
    /// The meter.
    pub meter: Arc<str>,
    /// The dimensions of a row that has a total of its own; empty for the meter's.
    pub scope: Arc<str>,
    /// How long it goes on.
    pub period: PeriodKind,
    /// When its period began, microseconds since 1970 UTC; `i64::MIN` for ever.
    pub start_us: i64,
    /// Priced units, raw (10⁻¹²).
    pub quantity: i128,
}

/// What a team owes for one meter by one card.
#[derive(Clone, Debug)]
pub struct Charge {
    /// The tenant.
    pub tenant: Uuid,
    /// The team.
    pub team: Arc<str>,
    /// The meter.
    pub meter: Arc<str>,
    /// The rate card.
    pub card: Arc<str>,
    /// Its version.
    pub card_version: u32,
    /// The currency.
    pub currency: Arc<str>,
    /// How much of what.
    pub figures: Figures,
}

/// What a team owes for one meter in one bucket, out of a hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldCharge {
    /// The tenant.
    pub tenant: Uuid,
    /// The team.
    pub team: Arc<str>,
    /// The currency.
    pub currency: Arc<str>,
    /// The meter.
    pub meter: Arc<str>,
    /// Number of the 15-minute bucket of event time.
    pub bucket: i64,
    /// The hold.
    pub hold: Uuid,
    /// Money, raw; negative where usage was taken back.
    pub amount: i128,
}

/// What the tenant owes its providers for one meter.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The tenant.
    pub tenant: Uuid,
    /// The meter.
    pub meter: Arc<str>,
    /// The currency.
    pub currency: Arc<str>,
    /// How much of what.
    pub figures: Figures,
}

/// An amount and what it is for; raw values (10⁻¹²).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Money; negative where usage was taken back.
    pub amount: i128,
    /// Quantity in the meter's unit.
    pub quantity: i128,
    /// Lines; those that are taken back count against the others.
    pub events: i64,
}

/// Where the ledger of a partition stands, and the end of its audit chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `(X, R, C)`.
    pub place: Place,
    /// The catalog version there.
    pub catalog_version: u64,
    /// Hash of the newest audit row.
    pub head: Hash,
    /// Number of the newest transaction that posted or settled.
    pub settle_seq: i64,
}

/// What a posting did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Where the ledger stands now.
    pub standing: Standing,
    /// Transfers written.
    pub transfers: usize,
    /// Wallets with open items of this window and those that it itemised, in order: they are to be
    /// settled.
    pub wallets: Vec<WalletId>,
}

/// Why a window is not posted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The ledger does not stand where this writer thought: another one posted. Nothing was done.
    #[error("another writer posted to this partition")]
    Stale,
    /// A settlement came upon something that passes, such as a wallet that was locked for too long.
    /// Nothing was done.
    #[error("a settlement could not be made: {0}")]
    Hot(String),
    /// There is no row of this partition.
    #[error("partition {0} is not set up; run `weir migrate`")]
    NoPartition(u32),
    /// The audit chain does not end where the ledger stands.
    #[error(
        "the audit chain of partition {0} does not end where its ledger stands; run `weir verify`"
    )]
    Chain(u32),
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl Retryable for PostError {
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.is_retryable())
    }
}

/// Reads where the ledger of a partition stands: one statement, so one snapshot.
pub async fn standing(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Standing, PostError> {
    type Row = (i64, i64, Vec<u8>, i64, i64, Option<i64>, Option<Vec<u8>>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT p.x, p.r, p.c, p.catalog_version, p.settle_seq, a.position_to, a.hash
         FROM partitions p
         LEFT JOIN LATERAL (SELECT position_to, hash FROM audit WHERE audit.partition = p.partition
             ORDER BY position_to DESC LIMIT 1) a ON true
         WHERE p.partition = $1",
    )
    .bind(integer(partition))
    .fetch_optional(connection)
    .await
    .map_err(PostgresError::from)?;
    let (x, r, c, version, settle_seq, audited, head) =
        row.ok_or(PostError::NoPartition(partition))?;
    if audited.unwrap_or(Place::EMPTY.x) != x {
        return Err(PostError::Chain(partition));
    }
    let head = head.map_or(Ok(seal::GENESIS), |head| hash(&head))?;
    Ok(Standing { place: place(x, r, &c)?, catalog_version: uncount(version), head, settle_seq })
}

/// Posts a window after the audit row with the hash `head` and the transaction with the number
/// `settle_seq`. `book` is the writer's own; it learns from what was committed.
///
/// [`PostgresError::OutcomeUnknown`] leaves open whether it happened: read [`standing`] again.
/// Panics where money would not add up, before anything is committed.
pub async fn post(
    pool: &Pool,
    key: &AuditKey,
    book: &mut Book,
    (head, settle_seq): (Hash, i64),
    posting: &Posting,
) -> Result<Posted, PostError> {
    posting.check();
    let known = &*book;
    let outcome = transaction(pool, |mut connection| async move {
        write(&mut connection, key, known, (head, settle_seq), posting).await
    })
    .await;
    match outcome {
        Ok((posted, learned)) => {
            if planted::is(Bug::PlaceMovesApart) {
                transaction(pool, |mut connection| async move {
                    advance(&mut connection, posting, settle_seq).await
                })
                .await?;
            }
            book.learn(learned);
            Ok(posted)
        }
        Err(error) => Err(error),
    }
}

async fn write(
    connection: &mut PgConnection,
    key: &AuditKey,
    book: &Book,
    (previous, settle_seq): (Hash, i64),
    posting: &Posting,
) -> Result<(Posted, Learned), PostError> {
    let (posted_at_us, settle_seq) = if planted::is(Bug::PlaceMovesApart) {
        (runtime::task::now_us(), 0)
    } else {
        advance(connection, posting, settle_seq).await?
    };
    let fresh = settle::itemise(connection, posting.partition, settle_seq).await?;
    let teams = new_teams(posting, book);
    account::insert_teams(connection, &teams).await?;
    let accounts = account::open(connection, &new_accounts(posting, book)).await?;
    let ids = Ids { book, opened: &accounts };
    let draft = draft(posting, &ids)?;
    rows::insert_journals(connection, posting, &draft.journals, posted_at_us).await?;
    let inserted = transfer::insert(connection, &draft.transfers).await?;
    check::inserted(&draft.transfers, inserted);

    let wallets = items::Wallets { book, fresh: &fresh };
    rows::upsert_receivables(connection, posting, &draft.journals, &ids, &wallets).await?;
    let settle = items::insert(connection, posting, &wallets).await?;
    items::note_forwards(connection, posting).await?;
    rows::upsert_totals(connection, &posting.usage).await?;
    rows::upsert_running_totals(connection, &posting.running_totals).await?;
    rows::upsert_counts(connection, posting).await?;

    let entry = draft.entry(posting, previous, posted_at_us);
    let head = entry.hash(key);
    seal::insert(connection, &entry, &head).await?;
    let (place, catalog_version) = (posting.to, posting.catalog_version);
    let standing = Standing { place, catalog_version, head, settle_seq };
    let mut settle = settle;
    settle.extend(fresh.iter().map(|(wallet, ..)| *wallet));
    settle.sort_unstable();
    settle.dedup();
    let posted = Posted { standing, transfers: draft.transfers.len(), wallets: settle };
    let wallets = fresh
        .into_iter()
        .map(|((tenant, wallet), team, currency)| ((tenant, team, currency), wallet));
    Ok((posted, Learned { accounts, teams, wallets: wallets.collect() }))
}

/// The fence: moves `(X, R, C)` if nobody else did, nor settled (which itemises), in the transaction of its effects (INV-13).
/// Answers the time of that transaction by the database's clock, microseconds since 1970: when it is
/// posted (INV-18); and its number among those that post or settle.
async fn advance(
    connection: &mut PgConnection,
    posting: &Posting,
    settle_seq: i64,
) -> Result<(i64, i64), PostError> {
    let moved: Option<(i64, i64)> = sqlx::query_as(
        "UPDATE partitions SET x = $5, r = $6, c = $7, catalog_version = $8, ignored_batches = ignored_batches + $9,
             settle_seq = settle_seq + 1, append_time = greatest(append_time, 'epoch'::timestamptz + $10 * interval '1 microsecond')
         WHERE partition = $1 AND x = $2 AND r = $3 AND c = $4 AND settle_seq = $11
         RETURNING (extract(epoch FROM now()) * 1000000)::bigint, settle_seq",
    )
    .bind(integer(posting.partition))
    .bind(posting.from.x)
    .bind(posting.from.r)
    .bind(posting.from.c.as_slice())
    .bind(posting.to.x)
    .bind(posting.to.r)
    .bind(posting.to.c.as_slice())
    .bind(count(posting.catalog_version))
    .bind(count(posting.ignored))
    .bind(posting.append_time_us)
    .bind(settle_seq)
    .fetch_optional(connection)
    .await
    .map_err(PostgresError::from)?;
    moved.ok_or(PostError::Stale)
}

fn new_teams(posting: &Posting, book: &Book) -> Vec<(Uuid, Arc<str>)> {
    let mut teams: Vec<_> =
        posting.usage.iter().map(|usage| (usage.tenant, Arc::clone(&usage.team))).collect();
    teams.dedup();
    teams.retain(|(tenant, team)| !book.knows_team(*tenant, team));
    teams
}

/// The accounts that a posting needs and `book` does not know: they are opened first.
#[must_use]
pub fn new_accounts(posting: &Posting, book: &Book) -> Vec<AccountName> {
    let charged = posting.charges.iter().flat_map(|charge| [receivable(charge), revenue(charge)]);
    let cost = posting.costs.iter().flat_map(|cost| [cost_of_sales(cost), provider_payable(cost)]);
    let mut names: Vec<_> = charged.chain(cost).filter(|name| book.id(name).is_none()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn receivable(charge: &Charge) -> AccountName {
    let (team, currency) = (Arc::clone(&charge.team), Arc::clone(&charge.currency));
    AccountName { tenant: charge.tenant, kind: Kind::Receivable, team, currency }
}

fn of_tenant(tenant: Uuid, kind: Kind, currency: &Arc<str>) -> AccountName {
    AccountName { tenant, kind, team: Arc::from(""), currency: Arc::clone(currency) }
}

fn revenue(charge: &Charge) -> AccountName {
    of_tenant(charge.tenant, Kind::Revenue, &charge.currency)
}

fn cost_of_sales(cost: &Cost) -> AccountName {
    of_tenant(cost.tenant, Kind::CostOfSales, &cost.currency)
}

fn provider_payable(cost: &Cost) -> AccountName {
    of_tenant(cost.tenant, Kind::ProviderPayable, &cost.currency)
}

/// Ids of accounts, known before or opened by this transaction.
#[derive(Clone, Copy)]
pub struct Ids<'a> {
    /// What was known before.
    pub book: &'a Book,
    /// What this transaction opened.
    pub opened: &'a HashMap<AccountName, i64>,
}

/// The rows that cannot be taken back: what a posting moves, and the audit row over it.
pub struct Draft<'a> {
    /// One journal for each tenant: the tenant and its id.
    pub journals: Vec<(Uuid, Uuid)>,
    /// The transfers of all journals, in their order.
    pub transfers: Vec<Transfer<'a>>,
}

/// What a checked posting moves. Panics where the transfers would not be what it says.
pub fn draft<'a>(posting: &'a Posting, ids: &Ids<'_>) -> Result<Draft<'a>, PostgresError> {
    let journals = journals(posting);
    let transfers = transfers(posting, &journals, ids)?;
    check::transfers(posting, &transfers);
    Ok(Draft { journals, transfers })
}

impl Ids<'_> {
    /// The id of an account.
    pub fn get(&self, name: &AccountName) -> Result<i64, PostgresError> {
        let id = self.book.id(name).or_else(|| self.opened.get(name).copied());
        id.ok_or_else(|| PostgresError::Broken(format!("the account {name:?} was not opened")))
    }
}

/// One journal for each tenant whose usage is in the window, in order of tenants.
fn journals(posting: &Posting) -> Vec<(Uuid, Uuid)> {
    let mut tenants: Vec<Uuid> = posting.usage.iter().map(|usage| usage.tenant).collect();
    tenants.dedup();
    tenants.into_iter().map(|tenant| (tenant, Uuid::now_v7())).collect()
}

/// `journals.reference` of a window.
fn reference(posting: &Posting) -> String {
    format!("usage:{}:{}", posting.partition, posting.to.x)
}

/// The transfers of all journals, in their order, numbered.
fn transfers<'a>(
    posting: &'a Posting,
    journals: &[(Uuid, Uuid)],
    ids: &Ids<'_>,
) -> Result<Vec<Transfer<'a>>, PostgresError> {
    let mut transfers = Vec::with_capacity(posting.charges.len() + posting.costs.len());
    for charge in posting.charges.iter().filter(|charge| charge.figures.amount != 0) {
        let debit = Side::new(ids.get(&receivable(charge))?, Kind::Receivable, &charge.team);
        let credit = Side::new(ids.get(&revenue(charge))?, Kind::Revenue, "");
        let transfer = Transfer {
            reason: REASON_USAGE,
            team: &charge.team,
            card: &charge.card,
            ..plain(charge.tenant, &charge.meter, &charge.currency, debit, credit, &charge.figures)
        };
        transfers.push(Transfer { card_version: stored(charge.card_version, 0).0, ..transfer });
    }
    for cost in posting.costs.iter().filter(|cost| cost.figures.amount != 0) {
        let debit = Side::new(ids.get(&cost_of_sales(cost))?, Kind::CostOfSales, "");
        let credit = Side::new(ids.get(&provider_payable(cost))?, Kind::ProviderPayable, "");
        transfers.push(plain(
            cost.tenant,
            &cost.meter,
            &cost.currency,
            debit,
            credit,
            &cost.figures,
        ));
    }
    // Stable: charges before cost within a tenant.
    transfers.sort_by_key(|transfer| transfer.tenant);
    number(&mut transfers, journals);
    Ok(transfers)
}

/// A transfer of cost, not yet numbered. What is negative goes the other way.
fn plain<'a>(
    tenant: Uuid,
    meter: &'a str,
    currency: &'a str,
    debit: Side<'a>,
    credit: Side<'a>,
    figures: &Figures,
) -> Transfer<'a> {
    let (debit, credit) = if figures.amount < 0 { (credit, debit) } else { (debit, credit) };
    Transfer {
        tenant,
        journal: Uuid::nil(),
        ordinal: 0,
        debit,
        credit,
        amount: figures.amount.saturating_abs(),
        currency,
        reason: REASON_COST,
        team: "",
        meter,
        card: "",
        card_version: 0,
        quantity: figures.quantity,
        events: figures.events,
    }
}

fn number(transfers: &mut [Transfer<'_>], journals: &[(Uuid, Uuid)]) {
    let mut journals = journals.iter().peekable();
    let mut ordinal = 0;
    let mut tenant = None;
    for transfer in transfers {
        if tenant != Some(transfer.tenant) {
            (tenant, ordinal) = (Some(transfer.tenant), 0);
            while journals.next_if(|(of, _)| *of != transfer.tenant).is_some() {}
        }
        let journal = journals.peek().map(|(_, journal)| *journal);
        assert!(journal.is_some(), "every tenant with a transfer has a journal");
        transfer.journal = journal.unwrap_or_default();
        transfer.ordinal = ordinal;
        ordinal += 1;
    }
}

impl Draft<'_> {
    /// The audit row, chained to `previous`.
    #[must_use]
    pub fn entry(&self, posting: &Posting, previous: Hash, posted_at_us: i64) -> Entry {
        let mut hash = TransfersHash::default();
        let reference = reference(posting);
        let mut rest = self.transfers.iter().peekable();
        for (tenant, journal) in &self.journals {
            hash.journal(*tenant, *journal, REASON_USAGE, &reference);
            while let Some(transfer) = rest.next_if(|transfer| transfer.journal == *journal) {
                hash.transfer(transfer);
            }
        }
        let (transfers, transfers_hash) = hash.finish();
        Entry {
            partition: posting.partition,
            from: posting.from.x.saturating_add(1),
            to: posting.to,
            catalog_version: posting.catalog_version,
            counts: seal::counts_text(&posting.counts),
            transfers,
            transfers_hash,
            previous,
            posted_at_us,
        }
    }
}

/// All partitions' places, for readers that begin where the ledger stands.
pub async fn places(
    connection: &mut PgConnection,
) -> Result<Vec<(u32, Place, u64)>, PostgresError> {
    let rows: Vec<(i32, i64, i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT partition, x, r, c, catalog_version FROM partitions ORDER BY partition",
    )
    .fetch_all(connection)
    .await?;
    let read = |(partition, x, r, c, version): (i32, i64, i64, Vec<u8>, i64)| {
        Ok((read_partition(partition)?, place(x, r, &c)?, uncount(version)))
    };
    rows.into_iter().map(read).collect()
}
