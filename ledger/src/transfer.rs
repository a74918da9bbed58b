//! One transfer: a positive amount from one account to another. Unbalanced cannot be said: INV-04.

use domain::wire::codec::Output;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account::Kind,
    convert::{count, integer, numeral, raw},
};

/// `journals.reason` and `transfers.reason` of what usage costs the customer.
pub const REASON_USAGE: &str = "usage";
/// `transfers.reason` of what usage costs the tenant.
pub const REASON_COST: &str = "cost";

/// One side of a transfer. The kind and the team are in the audit chain too, so that an account
/// cannot be turned into another one behind its transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// The account.
    pub account: i64,
    /// What it is for.
    pub kind: &'a str,
    /// Whose it is; empty for the tenant's own.
    pub team: &'a str,
}

impl<'a> Side<'a> {
    /// A side of an account that the ledger opened.
    #[must_use]
    pub fn new(account: i64, kind: Kind, team: &'a str) -> Side<'a> {
        Side { account, kind: kind.name(), team }
    }
}

/// A row of `transfers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Whose book it is in.
    pub tenant: Uuid,
    /// The journal it belongs to.
    pub journal: Uuid,
    /// Its number in the journal, from 0.
    pub ordinal: i32,
    /// The account that receives.
    pub debit: Side<'a>,
    /// The account that gives.
    pub credit: Side<'a>,
    /// How much, raw (10⁻¹²); positive.
    pub amount: i128,
    /// Currency of both accounts.
    pub currency: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The team whose usage it is; empty where it is the usage of all.
    pub team: &'a str,
    /// The meter.
    pub meter: &'a str,
    /// The rate card; empty for cost.
    pub card: &'a str,
    /// Its version.
    pub card_version: i32,
    /// The quantity it is for, raw.
    pub quantity: i128,
    /// The lines it is for.
    pub events: i64,
}

impl Transfer<'_> {
    /// Its canonical bytes, which the audit chain covers. Changing them breaks every chain.
    pub fn put_canonical(&self, out: &mut Vec<u8>) {
        out.raw(self.tenant.as_bytes());
        out.raw(self.journal.as_bytes());
        out.raw(&self.ordinal.to_le_bytes());
        for side in [self.debit, self.credit] {
            out.raw(&side.account.to_le_bytes());
            out.text(side.kind);
            out.text(side.team);
        }
        out.raw(&self.amount.to_le_bytes());
        for text in [self.currency, self.reason, self.team, self.meter, self.card] {
            out.text(text);
        }
        out.raw(&self.card_version.to_le_bytes());
        out.raw(&self.quantity.to_le_bytes());
        out.raw(&self.events.to_le_bytes());
    }
}

/// Inserts transfers and answers how many rows and which total Postgres says it took, for the
/// caller to compare with what it meant.
pub async fn insert(
    connection: &mut PgConnection,
    transfers: &[Transfer<'_>],
) -> Result<(usize, i128), PostgresError> {
    if transfers.is_empty() {
        return Ok((0, 0));
    }
    let all = || transfers.iter();
    let (rows, total): (i64, String) = sqlx::query_as(
        "WITH inserted AS (
             INSERT INTO transfers (tenant_id, journal_id, ordinal, debit_account, credit_account, amount, currency,
                 reason, team, meter, card, card_version, quantity, events)
             SELECT tenant_id, journal_id, ordinal, debit_account, credit_account, amount::numeric, currency,
                 reason, team, meter, card, card_version, quantity::numeric, events
             FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
                 $8::text[], $9::text[], $10::text[], $11::text[], $12::integer[], $13::text[], $14::bigint[])
                 AS new (tenant_id, journal_id, ordinal, debit_account, credit_account, amount, currency,
                     reason, team, meter, card, card_version, quantity, events)
             RETURNING amount)
         SELECT count(*), (sum(amount) * 1000000000000)::numeric(60, 0)::text FROM inserted",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| one.journal).collect::<Vec<_>>())
    .bind(all().map(|one| one.ordinal).collect::<Vec<_>>())
    .bind(all().map(|one| one.debit.account).collect::<Vec<_>>())
    .bind(all().map(|one| one.credit.account).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.amount)).collect::<Vec<_>>())
    .bind(all().map(|one| one.currency).collect::<Vec<_>>())
    .bind(all().map(|one| one.reason).collect::<Vec<_>>())
    .bind(all().map(|one| one.team).collect::<Vec<_>>())
    .bind(all().map(|one| one.meter).collect::<Vec<_>>())
    .bind(all().map(|one| one.card).collect::<Vec<_>>())
    .bind(all().map(|one| one.card_version).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.quantity)).collect::<Vec<_>>())
    .bind(all().map(|one| one.events).collect::<Vec<_>>())
    .fetch_one(connection)
    .await?;
    Ok((usize::try_from(rows).unwrap_or(0), raw(&total)?))
}

/// Numbers that a transfer carries as they come from the wire.
pub(crate) fn stored(card_version: u32, events: u64) -> (i32, i64) {
    (integer(card_version), count(events))
}
