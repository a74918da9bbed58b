//! Journals that no window of usage writes: what moves into, out of and between wallets. Each waits
//! to be sealed ([`crate::journal_seal`]) from the transaction that writes it.

use std::{collections::HashMap, sync::Arc};

use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account::{self, AccountName, Book, Kind},
    convert::{integer, numeral},
    post::Ids,
    transfer::{self, Side, Transfer},
};

/// `transfers.reason` of value that a team receives.
pub const REASON_GRANT: &str = "grant";
/// `transfers.reason` of usage that is paid out of a wallet; `journals.reason` of all that a
/// settlement moves.
pub const REASON_SETTLEMENT: &str = "settlement";
/// `transfers.reason` of what is taken back of usage that was paid.
pub const REASON_REVERSAL: &str = "reversal";
/// `transfers.reason` of value that was never used.
pub const REASON_BREAKAGE: &str = "breakage";
/// `transfers.reason` of unused value that is paid back.
pub const REASON_REFUND: &str = "refund";
/// `transfers.reason` of what a call takes out of a wallet, without an event.
pub const REASON_CONSUMPTION: &str = "consumption";

/// Money that moves for a team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The account that receives.
    pub debit: AccountName,
    /// The account that gives.
    pub credit: AccountName,
    /// How much, raw (10⁻¹²); positive.
    pub amount: i128,
    /// Why.
    pub reason: &'static str,
    /// The team for which it moves.
    pub team: Arc<str>,
    /// What it does to a wallet's balance.
    pub entry: Option<WalletEntry>,
}

/// A change of a wallet's balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletEntry {
    /// The wallet.
    pub wallet: Uuid,
    /// Its number among the entries of the wallet.
    pub sequence: i64,
    /// The lot.
    pub grant: Option<Uuid>,
    /// What the balance was, raw.
    pub before: i128,
    /// What it is, raw.
    pub after: i128,
}

/// What belongs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Whose book it is in.
    pub tenant: Uuid,
    /// Its id.
    pub journal: Uuid,
    /// Why.
    pub reason: &'static str,
    /// What it is about: once for each reason.
    pub reference: String,
    /// The partition whose ledger-writer seals it.
    pub partition: u32,
    /// What moves.
    pub moves: Vec<Move>,
}

/// An account of a team.
#[must_use]
pub fn of_team(tenant: Uuid, kind: Kind, team: &Arc<str>, currency: &Arc<str>) -> AccountName {
    AccountName { tenant, kind, team: Arc::clone(team), currency: Arc::clone(currency) }
}

/// An account of the tenant itself.
#[must_use]
pub fn of_tenant(tenant: Uuid, kind: Kind, currency: &Arc<str>) -> AccountName {
    AccountName { tenant, kind, team: Arc::from(""), currency: Arc::clone(currency) }
}

/// Writes journals with their transfers and wallet entries. Balances are the caller's.
///
/// Panics where the transfers would not be what was meant: nothing is committed then.
pub async fn write(
    connection: &mut PgConnection,
    book: &Book,
    journals: &[Journal],
) -> Result<(), PostgresError> {
    if journals.is_empty() {
        return Ok(());
    }
    let opened = open(connection, book, journals).await?;
    let ids = Ids { book, opened: &opened };
    insert_journals(connection, journals).await?;
    let mut transfers = Vec::new();
    for journal in journals {
        for (ordinal, one) in (0_i32..).zip(&journal.moves) {
            assert!(one.amount > 0, "a transfer's amount is positive");
            transfers.push(transfer(journal, ordinal, one, &ids)?);
        }
    }
    let (rows, total) = transfer::insert(connection, &transfers).await?;
    let meant = transfers.iter().try_fold(0_i128, |sum, one| sum.checked_add(one.amount));
    assert!(rows == transfers.len(), "every transfer was inserted");
    assert!(Some(total) == meant, "the amounts were stored as they are");
    insert_entries(connection, journals).await
}

async fn open(
    connection: &mut PgConnection,
    book: &Book,
    journals: &[Journal],
) -> Result<HashMap<AccountName, i64>, PostgresError> {
    let moves = journals.iter().flat_map(|journal| &journal.moves);
    let sides = moves.flat_map(|one| [&one.debit, &one.credit]);
    let mut names: Vec<AccountName> =
        sides.filter(|name| book.id(name).is_none()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    account::open(connection, &names).await
}

fn transfer<'a>(
    journal: &Journal,
    ordinal: i32,
    one: &'a Move,
    ids: &Ids<'_>,
) -> Result<Transfer<'a>, PostgresError> {
    let side = |name: &'a AccountName| {
        Ok::<_, PostgresError>(Side::new(ids.get(name)?, name.kind, &name.team))
    };
    Ok(Transfer {
        tenant: journal.tenant,
        journal: journal.journal,
        ordinal,
        debit: side(&one.debit)?,
        credit: side(&one.credit)?,
        amount: one.amount,
        currency: &one.debit.currency,
        reason: one.reason,
        team: &one.team,
        meter: "",
        card: "",
        card_version: 0,
        quantity: 0,
        events: 0,
    })
}

async fn insert_journals(
    connection: &mut PgConnection,
    journals: &[Journal],
) -> Result<(), PostgresError> {
    let all = || journals.iter();
    sqlx::query(
        "WITH added AS (
             INSERT INTO journals (tenant_id, journal_id, reason, reference, partition)
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[])
             RETURNING tenant_id, journal_id, partition)
         INSERT INTO unsealed_journals (tenant_id, journal_id, partition) SELECT tenant_id, journal_id, partition FROM added",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| one.journal).collect::<Vec<_>>())
    .bind(all().map(|one| one.reason).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.reference).collect::<Vec<_>>())
    .bind(all().map(|one| integer(one.partition)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_entries(
    connection: &mut PgConnection,
    journals: &[Journal],
) -> Result<(), PostgresError> {
    let entries: Vec<(&Journal, i32, &Move, WalletEntry)> = journals
        .iter()
        .flat_map(|journal| (0_i32..).zip(&journal.moves).map(move |(n, one)| (journal, n, one)))
        .filter_map(|(journal, ordinal, one)| Some((journal, ordinal, one, one.entry?)))
        .collect();
    if entries.is_empty() {
        return Ok(());
    }
    let all = || entries.iter();
    let delta = |entry: &WalletEntry| {
        let delta = entry.after.checked_sub(entry.before);
        assert!(delta.is_some(), "a difference of balances fits 128 bits");
        numeral(delta.unwrap_or_default())
    };
    sqlx::query(
        "INSERT INTO wallet_entries (tenant_id, wallet_id, sequence, journal_id, ordinal, grant_id, reason, amount,
             balance_before, balance_after)
         SELECT tenant_id, wallet_id, sequence, journal_id, ordinal, grant_id, reason, amount::numeric, before::numeric,
             after::numeric
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[], $5::integer[], $6::uuid[], $7::text[], $8::text[],
             $9::text[], $10::text[])
             AS new (tenant_id, wallet_id, sequence, journal_id, ordinal, grant_id, reason, amount, before, after)",
    )
    .bind(all().map(|(journal, ..)| journal.tenant).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| entry.wallet).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| entry.sequence).collect::<Vec<_>>())
    .bind(all().map(|(journal, ..)| journal.journal).collect::<Vec<_>>())
    .bind(all().map(|(_, ordinal, ..)| *ordinal).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| entry.grant).collect::<Vec<_>>())
    .bind(all().map(|(_, _, one, _)| one.reason).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| delta(entry)).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| numeral(entry.before)).collect::<Vec<_>>())
    .bind(all().map(|(.., entry)| numeral(entry.after)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
