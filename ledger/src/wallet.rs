//! Wallets and their grants, as the api changes them: each function runs inside of the transaction of
//! its request, and takes the wallet's lock before it reads anything that it decides by.
//!
//! Lock order everywhere: partition, wallets by id, grants by id, holds by id, receivables. What the
//! api writes never touches a receivable.

use std::sync::Arc;

use domain::wallet::{GrantKind, Lot, take};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account::{self, Book, Kind},
    convert::{integer, numeral, partition as read_partition, raw},
    journal::{
        self, Journal, Move, REASON_CONSUMPTION, REASON_GRANT, WalletEntry, of_team, of_tenant,
    },
};

/// A wallet under its lock. Amounts are raw (10⁻¹²).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Whose book it is in.
    pub tenant: Uuid,
    /// Its id.
    pub wallet: Uuid,
    /// The team whose usage it pays.
    pub team: Arc<str>,
    /// Its one currency or credit unit.
    pub currency: Arc<str>,
    /// The team's partition.
    pub partition: u32,
    /// What its running grants hold.
    pub balance: i128,
    /// What of that, and of the credit limit, is held.
    pub held: i128,
    /// What of the held rests on the credit limit.
    pub held_on_credit: i128,
    /// What usage owes that nothing paid, as of the newest settlement.
    pub debt: i128,
    /// How far it may go below nothing.
    pub credit_limit: i128,
    /// Entries so far.
    pub sequence: i64,
}

impl Wallet {
    /// What may still be spent or held: balance − held − debt + credit limit. Negative where usage
    /// went beyond.
    #[must_use]
    pub fn available(&self) -> i128 {
        let spoken_for = self.held.saturating_add(self.debt);
        self.balance.saturating_add(self.credit_limit).saturating_sub(spoken_for)
    }

    /// Changes the balance by `delta` and answers the entry of that.
    ///
    /// Panics where the balance would be negative: nothing is committed then.
    pub(crate) fn enter(&mut self, delta: i128, grant: Option<Uuid>) -> WalletEntry {
        let after = self.balance.checked_add(delta).filter(|after| *after >= 0);
        assert!(after.is_some(), "a wallet's balance is never negative");
        let before = std::mem::replace(&mut self.balance, after.unwrap_or_default());
        self.sequence += 1;
        WalletEntry {
            wallet: self.wallet,
            sequence: self.sequence,
            grant,
            before,
            after: self.balance,
        }
    }
}

/// A wallet to make.
#[derive(Clone, Debug)]
pub struct NewWallet<'a> {
    /// Whose book it is in.
    pub tenant: Uuid,
    /// The team whose usage it pays; it must be registered.
    pub team: &'a str,
    /// Its one currency or credit unit.
    pub currency: &'a str,
    /// The team's partition.
    pub partition: u32,
    /// `credits_then_invoice` or `credits_only`.
    pub mode: &'a str,
    /// How far it may go below nothing, raw.
    pub credit_limit: i128,
}

/// Makes a wallet and answers its id. What the team owes already is itemised, and paid out of it, by
/// the partition's ledger-writer.
///
/// [`PostgresError::Conflict`] where the team has one in that currency.
pub async fn create(
    connection: &mut PgConnection,
    new: &NewWallet<'_>,
) -> Result<Uuid, PostgresError> {
    let (team, currency) = (Arc::from(new.team), Arc::from(new.currency));
    let account = of_team(new.tenant, Kind::Wallet, &team, &currency);
    let opened = account::open(connection, std::slice::from_ref(&account)).await?;
    let account_id = opened.get(&account).copied().unwrap_or_default();
    let wallet = Uuid::now_v7();
    sqlx::query(
        "WITH made AS (
             INSERT INTO wallets (tenant_id, wallet_id, team, currency, account_id, partition, mode, credit_limit)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::numeric) RETURNING tenant_id, wallet_id, partition)
         INSERT INTO new_wallets (tenant_id, wallet_id, partition) SELECT tenant_id, wallet_id, partition FROM made",
    )
    .bind(new.tenant)
    .bind(wallet)
    .bind(new.team)
    .bind(new.currency)
    .bind(account_id)
    .bind(integer(new.partition))
    .bind(new.mode)
    .bind(numeral(new.credit_limit))
    .execute(connection)
    .await?;
    Ok(wallet)
}

/// Locks a wallet and reads it; `None` where the tenant has none with this id.
pub async fn lock(
    connection: &mut PgConnection,
    tenant: Uuid,
    wallet: Uuid,
) -> Result<Option<Wallet>, PostgresError> {
    type Row = (String, String, i32, String, String, String, String, String, i64);
    let row: Option<Row> = sqlx::query_as(
        "SELECT team, currency, partition, (balance * 1000000000000)::numeric(60, 0)::text,
             (held * 1000000000000)::numeric(60, 0)::text, (held_on_credit * 1000000000000)::numeric(60, 0)::text,
             (debt * 1000000000000)::numeric(60, 0)::text, (credit_limit * 1000000000000)::numeric(60, 0)::text, sequence
         FROM wallets WHERE tenant_id = $1 AND wallet_id = $2 FOR UPDATE",
    )
    .bind(tenant)
    .bind(wallet)
    .fetch_optional(connection)
    .await?;
    let Some((team, currency, partition, balance, held, held_on_credit, debt, limit, sequence)) =
        row
    else {
        return Ok(None);
    };
    Ok(Some(Wallet {
        tenant,
        wallet,
        team: Arc::from(team),
        currency: Arc::from(currency),
        partition: read_partition(partition)?,
        balance: raw(&balance)?,
        held: raw(&held)?,
        held_on_credit: raw(&held_on_credit)?,
        debt: raw(&debt)?,
        credit_limit: raw(&limit)?,
        sequence,
    }))
}

/// The database's clock, in a statement of its own: what is decided by time under a lock is decided
/// by this. Microseconds since 1970.
pub async fn now_us(connection: &mut PgConnection) -> Result<i64, PostgresError> {
    let now =
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            .fetch_one(connection)
            .await?;
    Ok(now)
}

/// A grant to make.
#[derive(Clone, Debug)]
pub struct NewGrant<'a> {
    /// What for.
    pub kind: GrantKind,
    /// 1 to 100; lower is used first.
    pub priority: i16,
    /// For people.
    pub name: &'a str,
    /// How much, raw; positive.
    pub amount: i128,
    /// The meters whose usage it pays; all when empty.
    pub meters: &'a [String],
    /// From when on; `None` is now.
    pub starts_us: Option<i64>,
    /// Until when, exclusive.
    pub expires_us: Option<i64>,
    /// Where it comes from, such as `api` or `purchase`.
    pub source: &'a str,
    /// What it is there: one grant for each.
    pub source_id: &'a str,
}

/// Gives a grant to a wallet that is locked, and answers its id. One that starts later is scheduled:
/// the ledger-writer starts it.
///
/// [`PostgresError::Conflict`] where the source gave this one before.
pub async fn grant(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    new: &NewGrant<'_>,
    now_us: i64,
) -> Result<Uuid, PostgresError> {
    let id = Uuid::now_v7();
    let starts_us = new.starts_us.unwrap_or(now_us);
    let scheduled = starts_us > now_us;
    sqlx::query(
        "INSERT INTO grants (tenant_id, grant_id, wallet_id, partition, kind, priority, name, amount, remaining, meters, starts_at,
             expires_at, source, source_id, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::numeric, $8::text::numeric, $9,
             'epoch'::timestamptz + $10 * interval '1 microsecond', 'epoch'::timestamptz + $11 * interval '1 microsecond',
             $12, $13, $14)",
    )
    .bind(wallet.tenant)
    .bind(id)
    .bind(wallet.wallet)
    .bind(integer(wallet.partition))
    .bind(new.kind.name())
    .bind(new.priority)
    .bind(new.name)
    .bind(numeral(new.amount))
    .bind(new.meters)
    .bind(starts_us)
    .bind(new.expires_us)
    .bind(new.source)
    .bind(new.source_id)
    .bind(if scheduled { "scheduled" } else { "running" })
    .execute(&mut *connection)
    .await?;
    if scheduled {
        return Ok(id);
    }
    let moved = granted(wallet, id, new.kind, new.amount);
    let journal = journal(wallet, REASON_GRANT, format!("grant:{id}"), vec![moved]);
    journal::write(connection, &Book::default(), &[journal]).await?;
    store(connection, wallet).await?;
    raise(connection, wallet).await?;
    Ok(id)
}

/// What a grant moves when it starts.
pub(crate) fn granted(wallet: &mut Wallet, grant: Uuid, kind: GrantKind, amount: i128) -> Move {
    let from = if kind.is_paid() { Kind::PaymentsInTransit } else { Kind::Promotions };
    Move {
        debit: of_tenant(wallet.tenant, from, &wallet.currency),
        credit: of_team(wallet.tenant, Kind::Wallet, &wallet.team, &wallet.currency),
        amount,
        reason: REASON_GRANT,
        team: Arc::clone(&wallet.team),
        entry: Some(wallet.enter(amount, Some(grant))),
    }
}

fn journal(wallet: &Wallet, reason: &'static str, reference: String, moves: Vec<Move>) -> Journal {
    let (tenant, partition) = (wallet.tenant, wallet.partition);
    Journal { tenant, journal: Uuid::now_v7(), reason, reference, partition, moves }
}

/// Stores what changed of a locked wallet.
pub(crate) async fn store(
    connection: &mut PgConnection,
    wallet: &Wallet,
) -> Result<(), PostgresError> {
    sqlx::query(
        "UPDATE wallets SET balance = $3::text::numeric, held = $4::text::numeric, held_on_credit = $5::text::numeric, sequence = $6
         WHERE tenant_id = $1 AND wallet_id = $2",
    )
    .bind(wallet.tenant)
    .bind(wallet.wallet)
    .bind(numeral(wallet.balance))
    .bind(numeral(wallet.held))
    .bind(numeral(wallet.held_on_credit))
    .bind(wallet.sequence)
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that a wallet was raised: what its team owes may be paid now.
pub async fn raise(connection: &mut PgConnection, wallet: &Wallet) -> Result<(), PostgresError> {
    sqlx::query(
        "INSERT INTO settle_due (tenant_id, wallet_id, partition, version) VALUES ($1, $2, $3, $4)
         ON CONFLICT (partition, tenant_id, wallet_id) DO UPDATE SET version = excluded.version",
    )
    .bind(wallet.tenant)
    .bind(wallet.wallet)
    .bind(integer(wallet.partition))
    .bind(Uuid::now_v7())
    .execute(connection)
    .await?;
    Ok(())
}

/// How the end of a grant begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What is left is not to be used any more.
    Void,
    /// What is left is paid back; only what was paid for.
    Refund,
}

impl Ending {
    /// Its name in `grants.ending`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ending::Void => "void",
            Ending::Refund => "refund",
        }
    }
}

/// Begins the end of a running grant of a wallet that is locked: what usage in the log by now needs
/// of it is paid first, then the rest is voided or refunded by the ledger-writer; what is held follows
/// when its holds have ended. False where it is not running.
pub async fn end_grant(
    connection: &mut PgConnection,
    wallet: &Wallet,
    grant: Uuid,
    ending: Ending,
) -> Result<bool, PostgresError> {
    let changed = sqlx::query(
        "UPDATE grants SET state = 'ending', ending = $4
         WHERE tenant_id = $1 AND wallet_id = $2 AND grant_id = $3 AND state = 'running'",
    )
    .bind(wallet.tenant)
    .bind(wallet.wallet)
    .bind(grant)
    .bind(ending.name())
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// The lots of a wallet that is locked, in burn order: those that run.
pub async fn lots(
    connection: &mut PgConnection,
    wallet: &Wallet,
) -> Result<Vec<Lot>, PostgresError> {
    let rows: Vec<LotRow> = sqlx::query_as(
        "SELECT grant_id, wallet_id, kind, priority,
             (remaining * 1000000000000)::numeric(60, 0)::text AS remaining, (held * 1000000000000)::numeric(60, 0)::text AS held,
             meters, (extract(epoch FROM starts_at) * 1000000)::bigint AS starts_us,
             (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_us,
             (extract(epoch FROM created_at) * 1000000)::bigint AS created_us, state, ending, final_position
         FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND state = 'running' FOR UPDATE",
    )
    .bind(wallet.tenant)
    .bind(wallet.wallet)
    .fetch_all(connection)
    .await?;
    let mut lots = rows.iter().map(LotRow::lot).collect::<Result<Vec<_>, _>>()?;
    lots.sort_by_key(Lot::burn_order);
    Ok(lots)
}

/// A row of `grants`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct LotRow {
    pub grant_id: Uuid,
    pub wallet_id: Uuid,
    pub kind: String,
    pub priority: i16,
    pub remaining: String,
    pub held: String,
    pub meters: Vec<String>,
    pub starts_us: i64,
    pub expires_us: Option<i64>,
    pub created_us: i64,
    pub state: String,
    pub ending: Option<String>,
    pub final_position: Option<i64>,
}

impl LotRow {
    /// Whether something of it is neither used nor held.
    pub(crate) fn may_pay(&self) -> bool {
        self.remaining != self.held
    }

    pub(crate) fn lot(&self) -> Result<Lot, PostgresError> {
        let kind = GrantKind::read(&self.kind)
            .ok_or_else(|| PostgresError::Broken(format!("a grant of the kind {}", self.kind)))?;
        Ok(Lot {
            grant: self.grant_id,
            priority: self.priority,
            kind,
            starts_us: self.starts_us,
            expires_us: self.expires_us,
            created_us: self.created_us,
            meters: self.meters.clone(),
            remaining: raw(&self.remaining)?,
            held: raw(&self.held)?,
        })
    }
}

/// What a call took out of a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// The journal.
    pub journal: Uuid,
    /// Which lot gave how much, raw.
    pub lots: Vec<(Uuid, i128)>,
}

/// Takes an amount out of a wallet that is locked: for what is used without an event. `Err` inside is
/// what there was to take, raw: less than asked for, and nothing is changed. Nothing is taken on credit.
///
/// [`PostgresError::Conflict`] where the reference was consumed before.
pub async fn consume(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    amount: i128,
    reference: &str,
) -> Result<Result<Consumed, i128>, PostgresError> {
    let lots = lots(connection, wallet).await?;
    let now_us = now_us(connection).await?;
    let available = wallet.available().saturating_sub(wallet.credit_limit).max(0);
    let taken = take(&lots, &[], amount, now_us);
    let sum: i128 = taken.iter().map(|(_, amount)| *amount).sum();
    if sum < amount || available < amount {
        return Ok(Err(sum.min(available)));
    }
    let mut consumed = Vec::new();
    for (lot, amount) in taken {
        consumed.extend(lots.get(lot).map(|lot| (lot.grant, amount)));
    }
    let reference = format!("consumption:{}:{reference}", wallet.wallet);
    let journal = spend(connection, wallet, REASON_CONSUMPTION, reference, &consumed).await?;
    let (ids, amounts): (Vec<Uuid>, Vec<String>) =
        consumed.iter().map(|(grant, amount)| (*grant, numeral(*amount))).unzip();
    sqlx::query(
        "UPDATE grants g SET remaining = g.remaining - spent.amount::numeric
         FROM UNNEST($2::uuid[], $3::text[]) AS spent (grant_id, amount)
         WHERE g.tenant_id = $1 AND g.grant_id = spent.grant_id",
    )
    .bind(wallet.tenant)
    .bind(ids)
    .bind(amounts)
    .execute(&mut *connection)
    .await?;
    store(connection, wallet).await?;
    Ok(Ok(Consumed { journal, lots: consumed }))
}

/// Moves what lots give from the wallet to revenue.
pub(crate) async fn spend(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    reason: &'static str,
    reference: String,
    lots: &[(Uuid, i128)],
) -> Result<Uuid, PostgresError> {
    let mut moves = Vec::with_capacity(lots.len());
    for (grant, amount) in lots {
        moves.push(Move {
            debit: of_team(wallet.tenant, Kind::Wallet, &wallet.team, &wallet.currency),
            credit: of_tenant(wallet.tenant, Kind::Revenue, &wallet.currency),
            amount: *amount,
            reason,
            team: Arc::clone(&wallet.team),
            entry: Some(wallet.enter(-*amount, Some(*grant))),
        });
    }
    let journal = journal(wallet, reason, reference, moves);
    journal::write(connection, &Book::default(), std::slice::from_ref(&journal)).await?;
    Ok(journal.journal)
}
