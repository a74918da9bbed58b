//! Open items: what the usage of a window owes, for teams that have a wallet. A team without one has
//! none: when it gets a wallet, all that it owes becomes one item.

use std::{collections::BTreeMap, sync::Arc};

use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Posting;
use crate::{
    account::{AccountName, Book},
    convert::{integer, numeral},
    settle::{Itemised, WalletId},
};

/// Wallets as this transaction knows them: what the writer knew, and what it has just itemised.
pub(super) struct Wallets<'a> {
    pub book: &'a Book,
    pub fresh: &'a [Itemised],
}

impl Wallets<'_> {
    /// Whether there are any: most partitions of most systems have none.
    fn any(&self) -> bool {
        self.book.has_wallets() || !self.fresh.is_empty()
    }

    /// The wallet that pays a receivable.
    pub(super) fn of(&self, receivable: &AccountName) -> Option<Uuid> {
        if !self.any() {
            return None;
        }
        let (tenant, team, currency) = (receivable.tenant, &receivable.team, &receivable.currency);
        let name = (tenant, Arc::clone(team), Arc::clone(currency));
        self.book.wallet(&name).or_else(|| self.fresh_one(tenant, team, currency))
    }

    fn fresh_one(&self, tenant: Uuid, team: &str, currency: &str) -> Option<Uuid> {
        let same = |((of, _), its_team, its_currency): &&Itemised| {
            *of == tenant && **its_team == *team && **its_currency == *currency
        };
        self.fresh.iter().find(same).map(|((_, wallet), ..)| *wallet)
    }
}

/// What an item is about, in the order of settlement within a window.
type Key<'a> = (Uuid, &'a str, &'a str, i64, &'a str, Option<Uuid>);

/// Inserts the items of a window, and as reversals what is negative. Answers the wallets to settle.
pub(super) async fn insert(
    connection: &mut PgConnection,
    posting: &Posting,
    wallets: &Wallets<'_>,
) -> Result<Vec<WalletId>, PostgresError> {
    if !wallets.any() {
        return Ok(Vec::new());
    }
    let mut ours: BTreeMap<(Uuid, &str, &str), Uuid> = BTreeMap::new();
    for charge in &posting.charges {
        let name = super::receivable(charge);
        if let Some(wallet) = wallets.of(&name) {
            ours.insert((charge.tenant, &charge.team, &charge.currency), wallet);
        }
    }
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let items = items(posting, &ours);
    let (owed, back): (Vec<_>, Vec<_>) =
        items.into_iter().filter(|(_, amount)| *amount != 0).partition(|(_, amount)| *amount > 0);
    insert_items(connection, posting, &owed).await?;
    insert_reversals(connection, posting, &back).await?;
    let mut settle: Vec<WalletId> =
        ours.iter().map(|((tenant, ..), wallet)| (*tenant, *wallet)).collect();
    settle.sort_unstable();
    Ok(settle)
}

/// What each item owes: all of the usage, less what names a hold, and that apart.
fn items<'a>(
    posting: &'a Posting,
    ours: &BTreeMap<(Uuid, &str, &str), Uuid>,
) -> BTreeMap<Key<'a>, i128> {
    let mut items: BTreeMap<Key<'a>, i128> = BTreeMap::new();
    let mut add = |key: Key<'a>, amount: i128| {
        let item = items.entry(key).or_default();
        let sum = item.checked_add(amount);
        assert!(sum.is_some(), "a sum fits 128 bits");
        *item = sum.unwrap_or_default();
    };
    for usage in &posting.usage {
        if ours.contains_key(&(usage.tenant, &*usage.team, &*usage.currency)) {
            let key =
                (usage.tenant, &*usage.team, &*usage.currency, usage.bucket, &*usage.meter, None);
            add(key, usage.sum.charge);
        }
    }
    for held in &posting.held {
        if ours.contains_key(&(held.tenant, &*held.team, &*held.currency)) {
            let key =
                |hold| (held.tenant, &*held.team, &*held.currency, held.bucket, &*held.meter, hold);
            add(key(None), held.amount.saturating_neg());
            add(key(Some(held.hold)), held.amount);
        }
    }
    items
}

async fn insert_items(
    connection: &mut PgConnection,
    posting: &Posting,
    rows: &[(Key<'_>, i128)],
) -> Result<(), PostgresError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO open_items (tenant_id, partition, batch_to, ordinal, team, currency, meter, bucket, hold_id, amount)
         SELECT tenant_id, $8, $9, number - 1, team, currency, meter, 'epoch'::timestamptz + bucket * interval '15 minutes', hold_id,
             amount::numeric
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::uuid[], $7::text[]) WITH ORDINALITY
             AS new (tenant_id, team, currency, bucket, meter, hold_id, amount, number)",
    )
    .bind(rows.iter().map(|(key, _)| key.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.2).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.3).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.4).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.5).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, amount)| numeral(*amount)).collect::<Vec<_>>())
    .bind(integer(posting.partition))
    .bind(posting.to.x)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_reversals(
    connection: &mut PgConnection,
    posting: &Posting,
    rows: &[(Key<'_>, i128)],
) -> Result<(), PostgresError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO reversals (tenant_id, partition, batch_to, ordinal, team, currency, meter, bucket, amount)
         SELECT tenant_id, $7, $8, number - 1, team, currency, meter, 'epoch'::timestamptz + bucket * interval '15 minutes',
             amount::numeric
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[]) WITH ORDINALITY
             AS new (tenant_id, team, currency, bucket, meter, amount, number)",
    )
    .bind(rows.iter().map(|(key, _)| key.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.2).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.3).collect::<Vec<_>>())
    .bind(rows.iter().map(|(key, _)| key.4).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, amount)| numeral(amount.saturating_neg())).collect::<Vec<_>>())
    .bind(integer(posting.partition))
    .bind(posting.to.x)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes on holds that usage of theirs waits in the slow lane: they are not freed before its answer,
/// and the end of `[usage]` is to be read again after that. A hold of another partition's team is not
/// this usage's, whatever the event says.
pub(super) async fn note_forwards(
    connection: &mut PgConnection,
    posting: &Posting,
) -> Result<(), PostgresError> {
    if posting.forwarded_holds.is_empty() {
        return Ok(());
    }
    let (tenants, holds): (Vec<Uuid>, Vec<Uuid>) = posting.forwarded_holds.iter().copied().unzip();
    sqlx::query(
        "UPDATE holds h SET forwarded_to = $3, ending_position = NULL FROM UNNEST($1::uuid[], $2::uuid[]) AS named (tenant_id, hold_id)
         WHERE (h.tenant_id, h.hold_id) = (named.tenant_id, named.hold_id) AND h.state IN ('open', 'closing') AND h.partition = $4",
    )
    .bind(tenants)
    .bind(holds)
    .bind(posting.to.x)
    .bind(integer(posting.partition))
    .execute(connection)
    .await?;
    Ok(())
}
