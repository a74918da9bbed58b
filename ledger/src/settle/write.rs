//! What a settlement writes: one statement for each table, over all of its wallets.

use std::collections::BTreeMap;

use domain::wallet::Step;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    load::{Case, ItemKey},
    outcome::Outcome,
};
use crate::{
    convert::{integer, numeral},
    journal::Journal,
};

/// Partition, number of the settlement, and the position up to which the partition is posted.
type Place = (u32, i64, i64);

pub(super) async fn all(
    connection: &mut PgConnection,
    place: Place,
    outcomes: &[Outcome],
    journals: &[Journal],
) -> Result<(), PostgresError> {
    if outcomes.is_empty() {
        return Ok(());
    }
    update_wallets(connection, place, outcomes).await?;
    update_grants(connection, outcomes).await?;
    update_holds(connection, outcomes).await?;
    update_hold_lots(connection, outcomes).await?;
    update_receivables(connection, place, outcomes, journals).await?;
    update_items(connection, place, outcomes).await?;
    insert_allocations(connection, place, outcomes).await?;
    apply_reversals(connection, place, outcomes).await?;
    leave_due(connection, place, outcomes).await
}

/// Whatever the statement was to change it has changed.
fn all_changed(rows: u64, meant: usize, what: &str) {
    assert!(usize::try_from(rows).ok() == Some(meant), "every {what} was changed");
}

async fn update_wallets(
    connection: &mut PgConnection,
    (_, _, x): Place,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let all = || outcomes.iter().map(|outcome| &outcome.case.wallet);
    let changed = sqlx::query(
        "UPDATE wallets w SET balance = new.balance::numeric, held = new.held::numeric, held_on_credit = new.on_credit::numeric,
             debt = new.debt::numeric, sequence = new.sequence, settled_to = $8
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
             AS new (tenant_id, wallet_id, balance, held, on_credit, debt, sequence)
         WHERE (w.tenant_id, w.wallet_id) = (new.tenant_id, new.wallet_id)",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| one.wallet).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.balance)).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.held)).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.held_on_credit)).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.debt)).collect::<Vec<_>>())
    .bind(all().map(|one| one.sequence).collect::<Vec<_>>())
    .bind(x)
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), outcomes.len(), "wallet");
    Ok(())
}

async fn update_grants(
    connection: &mut PgConnection,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let mut rows: Vec<(Uuid, Uuid, String, String, &str)> = Vec::new();
    for outcome in outcomes {
        let case = &outcome.case;
        for (number, lot) in case.settlement.lots.iter().enumerate() {
            let ended = outcome.ended.contains(&number);
            let starts = case.grants.get(number).is_some_and(|state| state.scheduled);
            let state = if ended {
                "ended"
            } else if starts {
                "running"
            } else {
                ""
            };
            let (remaining, held) = (numeral(lot.remaining), numeral(lot.held));
            rows.push((case.wallet.tenant, lot.grant, remaining, held, state));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let changed = sqlx::query(
        "UPDATE grants g SET remaining = new.remaining::numeric, held = new.held::numeric,
             state = CASE WHEN new.state = '' THEN g.state ELSE new.state END,
             ended_at = CASE WHEN new.state = 'ended' THEN clock_timestamp() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) AS new (tenant_id, grant_id, remaining, held, state)
         WHERE (g.tenant_id, g.grant_id) = (new.tenant_id, new.grant_id)",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.3.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.4).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), rows.len(), "grant");
    Ok(())
}

/// What each hold captured, and that it ended.
async fn update_holds(
    connection: &mut PgConnection,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let mut rows: Vec<(Uuid, Uuid, String, String, bool)> = Vec::new();
    for outcome in outcomes {
        let mut captured: BTreeMap<usize, (i128, i128)> = BTreeMap::new();
        for step in &outcome.steps {
            if let Step::Capture { hold, amount, on_credit, .. } = *step {
                let sums = captured.entry(hold).or_default();
                *sums = (sums.0 + amount, sums.1 + on_credit);
            }
        }
        for (number, hold) in outcome.holds_before.iter().enumerate() {
            let (amount, on_credit) = captured.get(&number).copied().unwrap_or_default();
            if amount > 0 || hold.ends {
                let tenant = outcome.case.wallet.tenant;
                rows.push((tenant, hold.hold, numeral(amount), numeral(on_credit), hold.ends));
            }
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let changed = sqlx::query(
        "UPDATE holds h SET captured = h.captured + new.captured::numeric,
             on_credit = CASE WHEN new.ends THEN 0 ELSE h.on_credit - new.on_credit::numeric END,
             state = CASE WHEN new.ends THEN 'ended' ELSE h.state END, ended_at = CASE WHEN new.ends THEN clock_timestamp() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::boolean[]) AS new (tenant_id, hold_id, captured, on_credit, ends)
         WHERE (h.tenant_id, h.hold_id) = (new.tenant_id, new.hold_id) AND h.state IN ('open', 'closing')",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.3.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.4).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), rows.len(), "hold");
    Ok(())
}

/// What lots of holds paid, and what of them is free again.
async fn update_hold_lots(
    connection: &mut PgConnection,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let mut sums: BTreeMap<(Uuid, Uuid, i32), (i128, i128)> = BTreeMap::new();
    for outcome in outcomes {
        for step in &outcome.steps {
            let (hold, lot, captured, released) = match *step {
                Step::Pay { hold: Some(hold), lot, amount, .. } => (hold, lot, amount, 0),
                Step::Free { hold, lot, amount } => (hold, lot, 0, amount),
                _ => continue,
            };
            if let Some((id, ordinal)) = lot_of_hold(outcome, hold, lot) {
                let sum = sums.entry((outcome.case.wallet.tenant, id, ordinal)).or_default();
                *sum = (sum.0 + captured, sum.1 + released);
            }
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    let changed = sqlx::query(
        "UPDATE hold_lots l SET captured = l.captured + new.captured::numeric, released = l.released + new.released::numeric
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::text[]) AS new (tenant_id, hold_id, ordinal, captured, released)
         WHERE (l.tenant_id, l.hold_id, l.ordinal) = (new.tenant_id, new.hold_id, new.ordinal)",
    )
    .bind(sums.keys().map(|key| key.0).collect::<Vec<_>>())
    .bind(sums.keys().map(|key| key.1).collect::<Vec<_>>())
    .bind(sums.keys().map(|key| key.2).collect::<Vec<_>>())
    .bind(sums.values().map(|sum| numeral(sum.0)).collect::<Vec<_>>())
    .bind(sums.values().map(|sum| numeral(sum.1)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), sums.len(), "lot of a hold");
    Ok(())
}

/// The hold and the number of its lot.
fn lot_of_hold(outcome: &Outcome, hold: usize, lot: usize) -> Option<(Uuid, i32)> {
    let before = outcome.holds_before.get(hold)?;
    let place = before.lots.iter().position(|(of, _)| *of == lot)?;
    Some((before.hold, *outcome.case.holds.get(hold)?.ordinals.get(place)?))
}

/// What was paid to what the teams owe. The partition's row is locked: nobody else changes them.
async fn update_receivables(
    connection: &mut PgConnection,
    (partition, ..): Place,
    outcomes: &[Outcome],
    journals: &[Journal],
) -> Result<(), PostgresError> {
    let moved = |outcome: &&Outcome| outcome.moves.iter().any(|one| touches_receivable(one.reason));
    let rows: Vec<&Outcome> = outcomes.iter().filter(moved).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let journal_of = |tenant: Uuid| {
        journals.iter().find(|journal| journal.tenant == tenant).map(|journal| journal.journal)
    };
    let all = || rows.iter().map(|outcome| &outcome.case.wallet);
    let changed = sqlx::query(
        "WITH new AS (
             SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[]::numeric[], $5::uuid[])
                 AS new (tenant_id, team, currency, amount, journal_id)),
         changed AS (
             UPDATE receivables r SET balance = r.balance + new.amount, sequence = r.sequence + 1 FROM new
             WHERE (r.tenant_id, r.team, r.currency) = (new.tenant_id, new.team, new.currency) AND r.partition = $6 AND r.itemised
             RETURNING r.tenant_id, r.team, r.currency, r.balance, r.sequence, new.amount, new.journal_id)
         INSERT INTO receivable_entries (tenant_id, journal_id, team, currency, amount, balance_after, sequence)
         SELECT tenant_id, journal_id, team, currency, amount, balance, sequence FROM changed",
    )
    .bind(all().map(|one| one.tenant).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.team).collect::<Vec<_>>())
    .bind(all().map(|one| &*one.currency).collect::<Vec<_>>())
    .bind(rows.iter().map(|outcome| numeral(-outcome.received)).collect::<Vec<_>>())
    .bind(all().map(|one| journal_of(one.tenant)).collect::<Vec<_>>())
    .bind(integer(partition))
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), rows.len(), "receivable");
    Ok(())
}

fn touches_receivable(reason: &str) -> bool {
    reason == crate::journal::REASON_SETTLEMENT || reason == crate::journal::REASON_REVERSAL
}

/// What items were paid, and that their holds have taken what they take.
async fn update_items(
    connection: &mut PgConnection,
    (partition, ..): Place,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let mut rows: Vec<(Uuid, ItemKey, i128, Option<i128>)> = Vec::new();
    for outcome in outcomes {
        let mut changes: BTreeMap<usize, (i128, Option<i128>)> = BTreeMap::new();
        for (number, _) in outcome.case.fresh.iter().enumerate().filter(|(_, fresh)| **fresh) {
            changes.insert(number, (0, Some(0)));
        }
        for step in &outcome.steps {
            match *step {
                Step::Pay { item, amount, .. } | Step::Reduce { item, amount, .. } => {
                    changes.entry(item).or_default().0 += amount;
                }
                Step::Capture { item, amount, .. } => {
                    changes.entry(item).or_default().1 = Some(amount);
                }
                Step::Return { .. } | Step::Free { .. } => {}
            }
        }
        for (number, (paid, captured)) in changes {
            let key = outcome.case.items.get(number);
            rows.extend(key.map(|key| (outcome.case.wallet.tenant, *key, paid, captured)));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let changed = sqlx::query(
        "UPDATE open_items i SET paid = i.paid + new.paid::numeric, captured = coalesce(new.captured::numeric, i.captured)
         FROM UNNEST($1::uuid[], $2::bigint[], $3::integer[], $4::text[], $5::text[]) AS new (tenant_id, batch_to, ordinal, paid, captured)
         WHERE (i.tenant_id, i.partition, i.batch_to, i.ordinal) = (new.tenant_id, $6, new.batch_to, new.ordinal)",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.batch_to).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.ordinal).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| numeral(row.2)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.3.map(numeral)).collect::<Vec<_>>())
    .bind(integer(partition))
    .execute(connection)
    .await?;
    all_changed(changed.rows_affected(), rows.len(), "item");
    Ok(())
}

async fn insert_allocations(
    connection: &mut PgConnection,
    (partition, settle_seq, _): Place,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let mut sums: BTreeMap<(Uuid, ItemKey, Uuid), i128> = BTreeMap::new();
    for outcome in outcomes {
        let case = &outcome.case;
        for step in &outcome.steps {
            let Step::Pay { item, lot, amount, .. } = *step else { continue };
            if let (Some(key), Some(lot)) = (case.items.get(item), case.settlement.lots.get(lot)) {
                *sums.entry((case.wallet.tenant, *key, lot.grant)).or_default() += amount;
            }
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO allocations (tenant_id, partition, batch_to, ordinal, settle_seq, grant_id, amount)
         SELECT tenant_id, $6, batch_to, ordinal, $7, grant_id, amount::numeric
         FROM UNNEST($1::uuid[], $2::bigint[], $3::integer[], $4::uuid[], $5::text[]) AS new (tenant_id, batch_to, ordinal, grant_id, amount)",
    )
    .bind(sums.keys().map(|key| key.0).collect::<Vec<_>>())
    .bind(sums.keys().map(|key| key.1.batch_to).collect::<Vec<_>>())
    .bind(sums.keys().map(|key| key.1.ordinal).collect::<Vec<_>>())
    .bind(sums.keys().map(|key| key.2).collect::<Vec<_>>())
    .bind(sums.values().map(|amount| numeral(*amount)).collect::<Vec<_>>())
    .bind(integer(partition))
    .bind(settle_seq)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a reversal was applied to.
struct Applied {
    tenant: Uuid,
    reversal: ItemKey,
    item: ItemKey,
    grant: Uuid,
    paid_in: i64,
    amount: i128,
}

fn applied(case: &Case, steps: &[Step]) -> Vec<Applied> {
    let tenant = case.wallet.tenant;
    let of = |step: &Step| match *step {
        Step::Reduce { reversal, item, amount } => Some(Applied {
            tenant,
            reversal: *case.reversals.get(reversal)?,
            item: *case.items.get(item)?,
            grant: Uuid::nil(),
            paid_in: 0,
            amount,
        }),
        Step::Return { reversal, paid, amount } => {
            let key = case.paid.get(paid)?;
            let (item, grant, paid_in) = (key.item, key.grant, key.settle_seq);
            let reversal = *case.reversals.get(reversal)?;
            Some(Applied { tenant, reversal, item, grant, paid_in, amount })
        }
        _ => None,
    };
    steps.iter().filter_map(of).collect()
}

async fn apply_reversals(
    connection: &mut PgConnection,
    (partition, settle_seq, _): Place,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let rows: Vec<Applied> =
        outcomes.iter().flat_map(|outcome| applied(&outcome.case, &outcome.steps)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH added AS (
             INSERT INTO reversal_allocations (tenant_id, partition, batch_to, ordinal, settle_seq, item_batch_to, item_ordinal, grant_id,
                 paid_in, amount)
             SELECT tenant_id, $9, batch_to, ordinal, $10, item_batch_to, item_ordinal, grant_id, paid_in, amount::numeric
             FROM UNNEST($1::uuid[], $2::bigint[], $3::integer[], $4::bigint[], $5::integer[], $6::uuid[], $7::bigint[], $8::text[])
                 AS new (tenant_id, batch_to, ordinal, item_batch_to, item_ordinal, grant_id, paid_in, amount)
             RETURNING tenant_id, partition, batch_to, ordinal, amount)
         UPDATE reversals r SET applied = r.applied + a.amount
         FROM (SELECT tenant_id, partition, batch_to, ordinal, sum(amount) AS amount FROM added
               GROUP BY tenant_id, partition, batch_to, ordinal) a
         WHERE (r.tenant_id, r.partition, r.batch_to, r.ordinal) = (a.tenant_id, a.partition, a.batch_to, a.ordinal)",
    )
    .bind(rows.iter().map(|row| row.tenant).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.reversal.batch_to).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.reversal.ordinal).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.item.batch_to).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.item.ordinal).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.grant).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.paid_in).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| numeral(row.amount)).collect::<Vec<_>>())
    .bind(integer(partition))
    .bind(settle_seq)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the wallets off the queue, unless they were raised again; and puts on it those of which
/// something was left out, as long as settling them gets on.
async fn leave_due(
    connection: &mut PgConnection,
    (partition, ..): Place,
    outcomes: &[Outcome],
) -> Result<(), PostgresError> {
    let goes_on = |outcome: &&Outcome| outcome.case.more && !outcome.moves.is_empty();
    let again: Vec<&Outcome> = outcomes.iter().filter(goes_on).collect();
    let done: Vec<(&Outcome, Uuid)> = outcomes
        .iter()
        .filter(|outcome| !goes_on(outcome))
        .filter_map(|outcome| Some((outcome, outcome.case.due?)))
        .collect();
    if !again.is_empty() {
        sqlx::query(
            "INSERT INTO settle_due (tenant_id, wallet_id, partition, version)
             SELECT tenant_id, wallet_id, $3, $4 FROM UNNEST($1::uuid[], $2::uuid[]) AS again (tenant_id, wallet_id)
             ON CONFLICT (partition, tenant_id, wallet_id) DO UPDATE SET version = excluded.version",
        )
        .bind(again.iter().map(|outcome| outcome.case.wallet.tenant).collect::<Vec<_>>())
        .bind(again.iter().map(|outcome| outcome.case.wallet.wallet).collect::<Vec<_>>())
        .bind(integer(partition))
        .bind(Uuid::now_v7())
        .execute(&mut *connection)
        .await?;
    }
    if done.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM settle_due d USING UNNEST($1::uuid[], $2::uuid[], $3::uuid[]) AS done (tenant_id, wallet_id, version)
         WHERE d.partition = $4 AND (d.tenant_id, d.wallet_id, d.version) = (done.tenant_id, done.wallet_id, done.version)",
    )
    .bind(done.iter().map(|(outcome, _)| outcome.case.wallet.tenant).collect::<Vec<_>>())
    .bind(done.iter().map(|(outcome, _)| outcome.case.wallet.wallet).collect::<Vec<_>>())
    .bind(done.iter().map(|(_, version)| *version).collect::<Vec<_>>())
    .bind(integer(partition))
    .execute(connection)
    .await?;
    Ok(())
}
