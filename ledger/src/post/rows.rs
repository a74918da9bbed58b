//! The statements of a posting, one function each; every one takes all rows of its table at once.

use std::collections::BTreeMap;

use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Ids, Posting, RunningTotal, Usage, items::Wallets, receivable, reference};
use crate::{
    account::AccountName,
    convert::{count, integer, numeral},
    transfer::REASON_USAGE,
};

pub(super) async fn insert_journals(
    connection: &mut PgConnection,
    posting: &Posting,
    journals: &[(Uuid, Uuid)],
    posted_at_us: i64,
) -> Result<(), PostgresError> {
    if journals.is_empty() {
        return Ok(());
    }
    let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) = journals.iter().copied().unzip();
    sqlx::query(
        "INSERT INTO journals (tenant_id, journal_id, reason, reference, partition, position_from, position_to, posted_at)
         SELECT tenant_id, journal_id, $3, $4, $5, $6, $7, 'epoch'::timestamptz + $8 * interval '1 microsecond'
         FROM UNNEST($1::uuid[], $2::uuid[]) AS new (tenant_id, journal_id)",
    )
    .bind(tenants)
    .bind(ids)
    .bind(REASON_USAGE)
    .bind(reference(posting))
    .bind(integer(posting.partition))
    .bind(posting.from.x.saturating_add(1))
    .bind(posting.to.x)
    .bind(posted_at_us)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds to what each team owes, and writes what that made of it beside the journal. A team without
/// any charge yet gets its row too: it says in which partition the team is. That of a team with a wallet
/// consists of open items from its first row on. INV-06.
pub(super) async fn upsert_receivables(
    connection: &mut PgConnection,
    posting: &Posting,
    journals: &[(Uuid, Uuid)],
    ids: &Ids<'_>,
    wallets: &Wallets<'_>,
) -> Result<(), PostgresError> {
    let mut owed: BTreeMap<AccountName, i128> = BTreeMap::new();
    for charge in &posting.charges {
        let balance = owed.entry(receivable(charge)).or_default();
        let sum = balance.checked_add(charge.figures.amount);
        assert!(sum.is_some(), "a sum fits 128 bits");
        *balance = sum.unwrap_or_default();
    }
    if owed.is_empty() {
        return Ok(());
    }
    let accounts = owed.keys().map(|name| ids.get(name)).collect::<Result<Vec<_>, _>>()?;
    let (tenants, journals): (Vec<Uuid>, Vec<Uuid>) = journals.iter().copied().unzip();
    let changed = sqlx::query(
        "WITH new AS (
             SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[]::numeric[], $9::boolean[])
                 AS new (tenant_id, account_id, team, currency, amount, itemised)),
         changed AS (
             INSERT INTO receivables AS old (tenant_id, account_id, team, currency, partition, balance, sequence, itemised)
             SELECT tenant_id, account_id, team, currency, $6, amount, 1, itemised FROM new
             ON CONFLICT (tenant_id, team, currency) DO UPDATE
             SET balance = old.balance + excluded.balance, sequence = old.sequence + 1
             WHERE old.partition = excluded.partition AND old.account_id = excluded.account_id AND old.itemised = excluded.itemised
             RETURNING old.tenant_id, old.team, old.currency, old.balance, old.sequence)
         INSERT INTO receivable_entries (tenant_id, journal_id, team, currency, amount, balance_after, sequence)
         SELECT tenant_id, journal_id, team, currency, new.amount, changed.balance, changed.sequence
         FROM changed JOIN new USING (tenant_id, team, currency)
         JOIN UNNEST($7::uuid[], $8::uuid[]) AS posted (tenant_id, journal_id) USING (tenant_id)",
    )
    .bind(owed.keys().map(|name| name.tenant).collect::<Vec<_>>())
    .bind(accounts)
    .bind(owed.keys().map(|name| &*name.team).collect::<Vec<_>>())
    .bind(owed.keys().map(|name| &*name.currency).collect::<Vec<_>>())
    .bind(owed.values().map(|amount| numeral(*amount)).collect::<Vec<_>>())
    .bind(integer(posting.partition))
    .bind(tenants)
    .bind(journals)
    .bind(owed.keys().map(|name| wallets.of(name).is_some()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    let all = usize::try_from(changed.rows_affected()).ok() == Some(owed.len());
    assert!(all, "receivables stay in one partition, and consist of items where there is a wallet");
    Ok(())
}

pub(super) async fn upsert_totals(
    connection: &mut PgConnection,
    usage: &[Usage],
) -> Result<(), PostgresError> {
    if usage.is_empty() {
        return Ok(());
    }
    let all = || usage.iter();
    sqlx::query(
        "INSERT INTO usage_totals AS old (tenant_id, team, meter, bucket, currency, cost_currency, quantity, charge, cost, events)
         SELECT tenant_id, team, meter, 'epoch'::timestamptz + bucket * interval '15 minutes', currency, cost_currency,
             quantity::numeric, charge::numeric, cost::numeric, events
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::bigint[])
             AS new (tenant_id, team, meter, bucket, currency, cost_currency, quantity, charge, cost, events)
         ON CONFLICT (tenant_id, team, meter, bucket, currency, cost_currency) DO UPDATE
         SET quantity = old.quantity + excluded.quantity, charge = old.charge + excluded.charge,
             cost = old.cost + excluded.cost, events = old.events + excluded.events",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.team).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.meter).collect::<Vec<_>>())
    .bind(all().map(|one| one.bucket).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.currency).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.cost_currency).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.sum.quantity)).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.sum.charge)).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.sum.cost)).collect::<Vec<_>>())
    .bind(all().map(|one| one.sum.events).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Totals are written as they are: whoever posts the batch that changed one last has its newest value.
pub(super) async fn upsert_running_totals(
    connection: &mut PgConnection,
    totals: &[RunningTotal],
) -> Result<(), PostgresError> {
    if totals.is_empty() {
        return Ok(());
    }
    let all = || totals.iter();
    let start = |one: &RunningTotal| (one.start_us != i64::MIN).then_some(one.start_us);
    sqlx::query(
        "INSERT INTO running_totals (tenant_id, team, meter, scope, period, starts_at, quantity)
         SELECT tenant_id, team, meter, scope, period,
             coalesce('epoch'::timestamptz + start_us * interval '1 microsecond', '-infinity'), quantity::numeric
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[])
             AS new (tenant_id, team, meter, scope, period, start_us, quantity)
         ON CONFLICT (tenant_id, team, meter, scope, period, starts_at) DO UPDATE SET quantity = excluded.quantity",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.team).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.meter).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.scope).collect::<Vec<_>>())
    .bind(all().map(|one| one.period.name()).collect::<Vec<_>>())
    .bind(all().map(start).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.quantity)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn upsert_counts(
    connection: &mut PgConnection,
    posting: &Posting,
) -> Result<(), PostgresError> {
    if posting.counts.is_empty() {
        return Ok(());
    }
    let field = |index: usize| -> Vec<i64> {
        let of = |(_, counts): &(Uuid, _)| fields(counts, index);
        posting.counts.iter().map(of).collect()
    };
    sqlx::query(
        "INSERT INTO partition_counts AS old (tenant_id, partition, accepted, copies, rated, unmetered, unpriced,
             duplicates, conflicts, rejected, forwarded, lost)
         SELECT tenant_id, $2, accepted, copies, rated, unmetered, unpriced, duplicates, conflicts, rejected, forwarded, lost
         FROM UNNEST($1::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
             $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
             AS new (tenant_id, accepted, copies, rated, unmetered, unpriced, duplicates, conflicts, rejected, forwarded, lost)
         ON CONFLICT (tenant_id, partition) DO UPDATE
         SET accepted = old.accepted + excluded.accepted, copies = old.copies + excluded.copies,
             rated = old.rated + excluded.rated, unmetered = old.unmetered + excluded.unmetered,
             unpriced = old.unpriced + excluded.unpriced, duplicates = old.duplicates + excluded.duplicates,
             conflicts = old.conflicts + excluded.conflicts, rejected = old.rejected + excluded.rejected,
             forwarded = old.forwarded + excluded.forwarded, lost = old.lost + excluded.lost",
    )
    .bind(posting.counts.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(integer(posting.partition))
    .bind(field(0))
    .bind(field(1))
    .bind(field(2))
    .bind(field(3))
    .bind(field(4))
    .bind(field(5))
    .bind(field(6))
    .bind(field(7))
    .bind(field(8))
    .bind(field(9))
    .execute(connection)
    .await?;
    Ok(())
}

fn fields(counts: &domain::wire::rated::Counts, index: usize) -> i64 {
    counts.fields().get(index).copied().map_or(0, count)
}
