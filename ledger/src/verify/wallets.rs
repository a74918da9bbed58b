//! Wallets: what Postgres keeps of them must be what their transfers, items and holds add up to.

use sqlx::PgConnection;

use super::{
    Check, VerifyError,
    books::{Statement, run},
};

/// Runs all checkers of this file.
pub async fn checks(connection: &mut PgConnection) -> Result<Vec<Check>, VerifyError> {
    run(connection, &[WALLETS, WALLET_ENTRIES, GRANTS, ITEMS, ITEMISED, HOLDS]).await
}

/// What a wallet has is the sum of its account's transfers, of its newest entry and of its grants; what
/// is held of it, the sum of its holds; its debt, what is unpaid of the items that were settled.
const WALLETS: Statement = (
    "wallets",
    "WITH folded AS (
         SELECT tenant_id, account_id, sum(amount) AS amount
         FROM (SELECT tenant_id, credit_account AS account_id, amount FROM transfers
               UNION ALL SELECT tenant_id, debit_account, -amount FROM transfers) sides
         JOIN accounts a USING (tenant_id, account_id) WHERE a.kind = 'wallet' GROUP BY tenant_id, account_id),
     newest AS (
         SELECT DISTINCT ON (tenant_id, wallet_id) tenant_id, wallet_id, sequence, balance_after FROM wallet_entries
         ORDER BY tenant_id, wallet_id, sequence DESC),
     lots AS (
         SELECT tenant_id, wallet_id, sum(remaining) AS remaining, sum(held) AS held FROM grants WHERE state IN ('running', 'ending')
         GROUP BY tenant_id, wallet_id),
     held AS (
         SELECT tenant_id, wallet_id, sum(on_credit) AS on_credit FROM holds WHERE state IN ('open', 'closing') GROUP BY tenant_id, wallet_id),
     owed AS (
         SELECT w.tenant_id, w.wallet_id, sum(i.amount - i.paid) AS unpaid
         FROM wallets w JOIN open_items i USING (tenant_id, team, currency) WHERE i.batch_to <= w.settled_to GROUP BY w.tenant_id, w.wallet_id),
     bad AS (
         SELECT f.tenant_id, w.wallet_id, f.account_id, CASE
             WHEN w.wallet_id IS NULL THEN 'its account has no wallet'
             WHEN NOT EXISTS (SELECT FROM accounts a WHERE (a.tenant_id, a.account_id, a.kind, a.team, a.currency)
                 = (w.tenant_id, w.account_id, 'wallet', w.team, w.currency)) THEN 'its account is another one''s'
             WHEN w.balance <> coalesce(f.amount, 0) THEN format('its balance is %s, its transfers add up to %s',
                 trim_scale(w.balance), trim_scale(coalesce(f.amount, 0)))
             WHEN w.sequence <> coalesce(n.sequence, 0) THEN format('it has %s entries, the newest is number %s', w.sequence, n.sequence)
             WHEN w.balance <> coalesce(n.balance_after, 0) THEN 'its balance is not that of its newest entry'
             WHEN w.balance <> coalesce(l.remaining, 0) THEN format('its balance is %s, its grants have %s',
                 trim_scale(w.balance), trim_scale(coalesce(l.remaining, 0)))
             WHEN w.held - w.held_on_credit <> coalesce(l.held, 0) THEN 'what is held of it is not what is held of its grants'
             WHEN w.held_on_credit <> coalesce(h.on_credit, 0) THEN 'what is held on credit is not that of its holds'
             WHEN w.debt <> coalesce(o.unpaid, 0) THEN format('its debt is %s, its items owe %s', trim_scale(w.debt),
                 trim_scale(coalesce(o.unpaid, 0))) END AS what
         FROM wallets w FULL JOIN folded f USING (tenant_id, account_id) LEFT JOIN newest n USING (tenant_id, wallet_id)
         LEFT JOIN lots l USING (tenant_id, wallet_id) LEFT JOIN held h USING (tenant_id, wallet_id) LEFT JOIN owed o USING (tenant_id, wallet_id))
     SELECT (SELECT count(*) FROM wallets), count(*),
         (array_agg(format('wallet %s (account %s) of tenant %s: %s', wallet_id, account_id, tenant_id, what) ORDER BY tenant_id, wallet_id))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// The entries of a wallet are numbered from 1 without a gap, each goes on from the balance of the one
/// before, and is a transfer of its account. No transfer of it is without one.
const WALLET_ENTRIES: Statement = (
    "wallet entries",
    "WITH moved AS (
         SELECT t.tenant_id, t.journal_id, t.ordinal, w.wallet_id,
             CASE WHEN t.credit_account = w.account_id THEN t.amount ELSE -t.amount END AS amount, t.reason
         FROM wallets w JOIN transfers t ON t.tenant_id = w.tenant_id AND w.account_id IN (t.debit_account, t.credit_account)),
     steps AS (
         SELECT e.*, lag(balance_after, 1, 0::numeric) OVER earlier AS before, lag(sequence, 1, 0::bigint) OVER earlier AS number_before
         FROM wallet_entries e WINDOW earlier AS (PARTITION BY tenant_id, wallet_id ORDER BY sequence)),
     bad AS (
         SELECT tenant_id, wallet_id, s.sequence, journal_id, CASE
             WHEN s.sequence IS NULL THEN 'a journal moved the wallet and left no entry'
             WHEN m.amount IS NULL THEN 'its transfer is missing'
             WHEN s.sequence <> s.number_before + 1 THEN format('the number before it is %s', s.number_before)
             WHEN s.balance_before <> s.before THEN 'it does not go on from the balance of the one before'
             WHEN s.amount <> m.amount THEN format('its amount is %s, its transfer moved %s', trim_scale(s.amount), trim_scale(m.amount))
             WHEN s.reason <> m.reason THEN 'its reason is not that of its transfer' END AS what
         FROM steps s FULL JOIN moved m USING (tenant_id, journal_id, ordinal, wallet_id))
     SELECT (SELECT count(*) FROM wallet_entries), count(*),
         (array_agg(format('entry %s of wallet %s of tenant %s, journal %s: %s', sequence, wallet_id, tenant_id, journal_id, what)
             ORDER BY tenant_id, wallet_id, sequence))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What is left of a grant is what its entries add up to; what is held of it, the open part of the
/// lots of holds.
const GRANTS: Statement = (
    "grants",
    "WITH entered AS (SELECT tenant_id, grant_id, sum(amount) AS amount FROM wallet_entries WHERE grant_id IS NOT NULL GROUP BY tenant_id, grant_id),
     reserved AS (
         SELECT l.tenant_id, l.grant_id, sum(l.amount - l.captured - l.released) AS amount
         FROM hold_lots l JOIN holds h USING (tenant_id, hold_id) WHERE h.state IN ('open', 'closing') GROUP BY l.tenant_id, l.grant_id),
     paid AS (
         SELECT tenant_id, grant_id, sum(amount) AS amount FROM (
             SELECT tenant_id, grant_id, amount FROM allocations
             UNION ALL SELECT r.tenant_id, r.grant_id, -r.amount FROM reversal_allocations r
                 WHERE r.paid_in > 0 AND EXISTS (SELECT FROM wallet_entries e WHERE (e.tenant_id, e.grant_id, e.reason)
                     = (r.tenant_id, r.grant_id, 'reversal'))) both_ways GROUP BY tenant_id, grant_id),
     settled AS (
         SELECT tenant_id, grant_id, -sum(amount) AS amount FROM wallet_entries WHERE reason IN ('settlement', 'reversal') GROUP BY tenant_id, grant_id),
     bad AS (
         SELECT tenant_id, grant_id, CASE
             WHEN g.grant_id IS NULL THEN 'an entry or an allocation names it, and it does not exist'
             WHEN g.state <> 'scheduled' AND g.remaining <> coalesce(e.amount, 0) THEN format('%s is left of it, its entries add up to %s',
                 trim_scale(g.remaining), trim_scale(coalesce(e.amount, 0)))
             WHEN g.state = 'scheduled' AND e.amount IS NOT NULL THEN 'it has entries and has not started'
             WHEN g.held <> coalesce(r.amount, 0) THEN format('%s of it is held, its holds have %s', trim_scale(g.held),
                 trim_scale(coalesce(r.amount, 0)))
             WHEN g.state <> 'ended' AND coalesce(p.amount, 0) <> coalesce(s.amount, 0) THEN format('it paid %s, its allocations add up to %s',
                 trim_scale(coalesce(s.amount, 0)), trim_scale(coalesce(p.amount, 0))) END AS what
         FROM grants g FULL JOIN entered e USING (tenant_id, grant_id) FULL JOIN reserved r USING (tenant_id, grant_id)
         FULL JOIN paid p USING (tenant_id, grant_id) FULL JOIN settled s USING (tenant_id, grant_id))
     SELECT (SELECT count(*) FROM grants), count(*),
         (array_agg(format('grant %s of tenant %s: %s', grant_id, tenant_id, what) ORDER BY tenant_id, grant_id))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What is paid of an item, and applied of a reversal, is the sum of their allocations.
const ITEMS: Statement = (
    "open items",
    "WITH parts AS (
         SELECT tenant_id, partition, batch_to, ordinal, amount FROM allocations
         UNION ALL SELECT tenant_id, partition, item_batch_to, item_ordinal, amount FROM reversal_allocations WHERE paid_in = 0),
     sums AS (SELECT tenant_id, partition, batch_to, ordinal, sum(amount) AS amount FROM parts GROUP BY tenant_id, partition, batch_to, ordinal),
     applied AS (
         SELECT tenant_id, partition, batch_to, ordinal, sum(amount) AS amount FROM reversal_allocations
         GROUP BY tenant_id, partition, batch_to, ordinal),
     bad AS (
         SELECT tenant_id, partition, batch_to, ordinal, CASE
             WHEN i.amount IS NULL THEN 'it was paid and does not exist'
             WHEN i.paid <> coalesce(s.amount, 0) THEN format('%s of it is paid, its allocations add up to %s', trim_scale(i.paid),
                 trim_scale(coalesce(s.amount, 0))) END AS what
         FROM open_items i FULL JOIN sums s USING (tenant_id, partition, batch_to, ordinal)
         UNION ALL
         SELECT tenant_id, partition, batch_to, ordinal, CASE
             WHEN r.amount IS NULL THEN 'a reversal was applied and does not exist'
             WHEN r.applied <> coalesce(a.amount, 0) THEN 'what is applied of the reversal is not the sum of its parts' END
         FROM reversals r FULL JOIN applied a USING (tenant_id, partition, batch_to, ordinal))
     SELECT (SELECT count(*) FROM open_items), count(*),
         (array_agg(format('item %s:%s of partition %s of tenant %s: %s', batch_to, ordinal, partition, tenant_id, what)
             ORDER BY tenant_id, partition, batch_to, ordinal))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What a team with a wallet owes is what is unpaid of its items, less what is not applied of its
/// reversals.
const ITEMISED: Statement = (
    "itemised receivables",
    "WITH parts AS (
         SELECT tenant_id, team, currency, amount - paid AS amount FROM open_items
         UNION ALL SELECT tenant_id, team, currency, applied - amount FROM reversals),
     sums AS (SELECT tenant_id, team, currency, sum(amount) AS amount FROM parts GROUP BY tenant_id, team, currency),
     bad AS (
         SELECT tenant_id, team, currency, CASE
             WHEN NOT coalesce(r.itemised, false) THEN 'it has items, and is not itemised'
             WHEN r.balance <> coalesce(s.amount, 0) THEN format('its balance is %s, its items add up to %s', trim_scale(r.balance),
                 trim_scale(coalesce(s.amount, 0))) END AS what
         FROM (SELECT * FROM receivables WHERE itemised) r FULL JOIN sums s USING (tenant_id, team, currency))
     SELECT (SELECT count(*) FROM receivables WHERE itemised), count(*),
         (array_agg(format('team %s of tenant %s, %s: %s', team, tenant_id, currency, what) ORDER BY tenant_id, team, currency))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What is captured of a hold is what its items and calls took; one that has ended reserves nothing.
const HOLDS: Statement = (
    "holds",
    "WITH lots AS (
         SELECT tenant_id, hold_id, sum(amount) AS amount, sum(captured) AS captured, sum(amount - captured - released) AS open
         FROM hold_lots GROUP BY tenant_id, hold_id),
     items AS (SELECT tenant_id, hold_id, sum(captured) AS captured FROM open_items WHERE captured > 0 GROUP BY tenant_id, hold_id),
     bad AS (
         SELECT tenant_id, hold_id, CASE
             WHEN h.hold_id IS NULL THEN 'something was captured by it, and it does not exist'
             WHEN h.state IN ('ended', 'refused') AND coalesce(l.open, 0) + h.on_credit <> 0 THEN 'it has ended and reserves something'
             WHEN h.state = 'refused' AND h.captured <> 0 THEN 'it was refused and captured something'
             WHEN h.state IN ('open', 'closing') AND coalesce(l.open, 0) + h.on_credit <> h.amount - h.captured
                 THEN 'what it reserves is not its amount less what is captured'
             WHEN h.settle_by = 'usage' AND h.captured <> coalesce(i.captured, 0) THEN format('%s of it is captured, its items say %s',
                 trim_scale(h.captured), trim_scale(coalesce(i.captured, 0)))
             WHEN h.settle_by = 'call' AND h.captured <> coalesce(l.captured, 0) THEN 'what is captured of it is not what its lots paid' END AS what
         FROM holds h FULL JOIN lots l USING (tenant_id, hold_id) FULL JOIN items i USING (tenant_id, hold_id))
     SELECT (SELECT count(*) FROM holds), count(*),
         (array_agg(format('hold %s of tenant %s: %s', hold_id, tenant_id, what) ORDER BY tenant_id, hold_id))[1]
     FROM bad WHERE what IS NOT NULL",
);
