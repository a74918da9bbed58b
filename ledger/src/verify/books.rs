//! What Postgres keeps beside the sealed transfers and counts: each must be the fold of them.
//!
//! Every statement answers one row: rows looked at, rows that are bad, and the first bad one.

use sqlx::PgConnection;

use super::{Check, VerifyError};

/// A name, and a statement that checks.
pub(super) type Statement = (&'static str, &'static str);

/// Runs all checkers of this file.
pub async fn checks(connection: &mut PgConnection) -> Result<Vec<Check>, VerifyError> {
    let all =
        [PARTITIONS, JOURNALS, TRANSFERS, TRIAL_BALANCE, COUNTS, RECEIVABLES, ENTRIES, TOTALS];
    run(connection, &all).await
}

/// Runs statements that check.
pub(super) async fn run(
    connection: &mut PgConnection,
    all: &[Statement],
) -> Result<Vec<Check>, VerifyError> {
    let mut checks = Vec::with_capacity(all.len());
    for (name, statement) in all {
        let (rows, bad, first_bad): (i64, i64, Option<String>) =
            sqlx::query_as(*statement).fetch_one(&mut *connection).await?;
        let (rows, bad) = (rows.unsigned_abs(), bad.unsigned_abs());
        checks.push(Check { name, rows, bad, first_bad, left_out: None });
    }
    Ok(checks)
}

/// There are as many partitions as were set up; no window of the chain is of another one. Where
/// nothing is posted, nothing was appended.
const PARTITIONS: Statement = (
    "partitions",
    "WITH bad AS (
         SELECT coalesce(p.partition, wanted.partition) AS partition, CASE
             WHEN p.partition IS NULL THEN 'it is missing'
             WHEN wanted.partition IS NULL THEN 'it was never set up'
             WHEN p.x < 0 AND p.append_time <> 'epoch' THEN 'it has an append time and nothing posted' END AS what
         FROM partitions p
         FULL JOIN (SELECT generate_series(0, (SELECT partitions FROM installation) - 1) AS partition) wanted USING (partition)
         UNION ALL
         SELECT a.partition, 'its audit chain has no partition' FROM (SELECT DISTINCT partition FROM audit) a
         WHERE NOT EXISTS (SELECT FROM partitions p WHERE p.partition = a.partition))
     SELECT (SELECT count(*) FROM partitions), count(*),
         (array_agg(format('partition %s: %s', partition, what) ORDER BY partition))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// Every journal of usage belongs to the window that seals it; another one has a seal of its own, or
/// waits for it. What no chain seals must not be there.
const JOURNALS: Statement = (
    "journals",
    "WITH bad AS (
         SELECT j.tenant_id, j.journal_id, CASE
             WHEN j.reason IN ('settlement', 'grant', 'consumption') THEN
                 CASE WHEN s.journal_id IS NULL AND u.journal_id IS NULL THEN 'no seal covers it, and it does not wait for one' END
             WHEN j.reason <> 'usage' THEN format('nothing seals journals with the reason %s', j.reason)
             WHEN a.partition IS NULL THEN 'no window of the audit chain ends at its last position'
             WHEN j.position_from IS DISTINCT FROM a.position_from THEN 'its first position is not that of its window'
             WHEN j.posted_at <> a.posted_at THEN 'its time is not that of its window'
             WHEN j.reference <> format('usage:%s:%s', j.partition, j.position_to) THEN 'its reference is not its place'
             END AS what
         FROM journals j LEFT JOIN audit a ON (a.partition, a.position_to) = (j.partition, j.position_to)
         LEFT JOIN journal_seals s ON (s.tenant_id, s.journal_id) = (j.tenant_id, j.journal_id)
         LEFT JOIN unsealed_journals u ON (u.partition, u.tenant_id, u.journal_id) = (j.partition, j.tenant_id, j.journal_id))
     SELECT (SELECT count(*) FROM journals), count(*),
         (array_agg(format('journal %s of tenant %s: %s', journal_id, tenant_id, what) ORDER BY journal_id))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// Every transfer has a journal, and both sides are accounts of its tenant and currency.
const TRANSFERS: Statement = (
    "transfers",
    "WITH bad AS (
         SELECT t.tenant_id, t.journal_id, t.ordinal, CASE
             WHEN j.journal_id IS NULL THEN 'its journal is missing'
             WHEN d.account_id IS NULL THEN 'the account that receives is not of its tenant and currency'
             WHEN c.account_id IS NULL THEN 'the account that gives is not of its tenant and currency'
             WHEN t.debit_account = t.credit_account THEN 'both sides are one account'
             WHEN t.amount <= 0 THEN 'its amount is not positive' END AS what
         FROM transfers t
         LEFT JOIN journals j USING (tenant_id, journal_id)
         LEFT JOIN accounts d ON (d.tenant_id, d.account_id, d.currency) = (t.tenant_id, t.debit_account, t.currency)
         LEFT JOIN accounts c ON (c.tenant_id, c.account_id, c.currency) = (t.tenant_id, t.credit_account, t.currency))
     SELECT (SELECT count(*) FROM transfers), count(*),
         (array_agg(format('transfer %s:%s of tenant %s: %s', journal_id, ordinal, tenant_id, what)
             ORDER BY journal_id, ordinal))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What all accounts of a currency received is what they gave.
const TRIAL_BALANCE: Statement = (
    "trial balance",
    "WITH sums AS (
         SELECT tenant_id, currency, sum(amount) AS amount
         FROM (SELECT tenant_id, currency, debit_account AS account_id, amount FROM transfers
               UNION ALL SELECT tenant_id, currency, credit_account, -amount FROM transfers) sides
         JOIN accounts USING (tenant_id, account_id, currency) GROUP BY tenant_id, currency)
     SELECT count(*), count(*) FILTER (WHERE amount <> 0),
         (array_agg(format('tenant %s, %s: the sides differ by %s', tenant_id, currency, trim_scale(amount))
             ORDER BY tenant_id, currency) FILTER (WHERE amount <> 0))[1]
     FROM sums",
);

/// Counts per partition and tenant are the sums of the sealed ones, and balance.
const COUNTS: Statement = (
    "conservation",
    "WITH sealed AS (
         SELECT a.partition, split_part(one, '=', 1)::uuid AS tenant_id, string_to_array(split_part(one, '=', 2), ',')::numeric[] AS n
         FROM audit a, regexp_split_to_table(a.counts, ';') AS one WHERE one ~ '^[0-9a-f-]{36}=([0-9]+,){9}[0-9]+$'),
     folded AS (
         SELECT partition, tenant_id, ARRAY[sum(n[1]), sum(n[2]), sum(n[3]), sum(n[4]), sum(n[5]), sum(n[6]), sum(n[7]),
             sum(n[8]), sum(n[9]), sum(n[10])] AS n FROM sealed GROUP BY partition, tenant_id),
     kept AS (
         SELECT partition, tenant_id, ARRAY[accepted, copies, rated, unmetered, unpriced, duplicates, conflicts, rejected,
             forwarded, lost]::numeric[] AS n FROM partition_counts),
     bad AS (
         SELECT partition, tenant_id, CASE
             WHEN kept.n IS DISTINCT FROM folded.n THEN format('the counts are %s, those of the audit chain %s', kept.n, folded.n)
             WHEN kept.n[1] + kept.n[2] <> kept.n[3] + kept.n[4] + kept.n[5] + kept.n[6] + kept.n[7] + kept.n[8] + kept.n[9]
                 THEN format('the counts %s do not balance', kept.n) END AS what
         FROM kept FULL JOIN folded USING (partition, tenant_id))
     SELECT (SELECT count(*) FROM kept), count(*),
         (array_agg(format('partition %s, tenant %s: %s', partition, tenant_id, what) ORDER BY partition, tenant_id))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// What a team owes is the sum of its transfers, and what its newest entry says.
const RECEIVABLES: Statement = (
    "receivables",
    "WITH folded AS (
         SELECT tenant_id, team, currency, sum(amount) AS amount
         FROM (SELECT tenant_id, currency, debit_account AS account_id, amount FROM transfers
               UNION ALL SELECT tenant_id, currency, credit_account, -amount FROM transfers) sides
         JOIN (SELECT tenant_id, account_id, currency, team FROM accounts WHERE kind = 'receivable') own
             USING (tenant_id, account_id, currency)
         GROUP BY tenant_id, team, currency),
     newest AS (
         SELECT DISTINCT ON (e.tenant_id, e.team, e.currency) e.tenant_id, e.team, e.currency, e.sequence, e.balance_after, j.partition
         FROM receivable_entries e LEFT JOIN journals j USING (tenant_id, journal_id)
         ORDER BY e.tenant_id, e.team, e.currency, e.sequence DESC),
     bad AS (
         SELECT tenant_id, team, currency, CASE
             WHEN r.account_id IS NULL THEN 'it has postings and no balance'
             WHEN NOT EXISTS (SELECT FROM accounts a WHERE (a.tenant_id, a.account_id, a.kind, a.team, a.currency)
                 = (r.tenant_id, r.account_id, 'receivable', r.team, r.currency)) THEN 'its account is another one''s'
             WHEN r.balance <> coalesce(f.amount, 0) THEN format('its balance is %s, its transfers add up to %s',
                 trim_scale(r.balance), trim_scale(coalesce(f.amount, 0)))
             WHEN n.sequence IS DISTINCT FROM r.sequence THEN format('it has %s postings, its newest entry is number %s', r.sequence, n.sequence)
             WHEN n.balance_after <> r.balance THEN 'its balance is not that of its newest entry'
             WHEN n.partition IS DISTINCT FROM r.partition THEN 'its partition is not that of its newest journal' END AS what
         FROM receivables r FULL JOIN folded f USING (tenant_id, team, currency) FULL JOIN newest n USING (tenant_id, team, currency))
     SELECT (SELECT count(*) FROM receivables), count(*),
         (array_agg(format('team %s of tenant %s, %s: %s', team, tenant_id, currency, what) ORDER BY tenant_id, team, currency))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// The entries of a team are numbered from 1 without a gap, each goes on from the balance of the one
/// before, and says what its journal moved. No journal moves a receivable without one.
const ENTRIES: Statement = (
    "entries",
    "WITH moved AS (
         SELECT tenant_id, journal_id, team, currency, sum(amount) AS amount
         FROM (SELECT tenant_id, journal_id, currency, debit_account AS account_id, amount FROM transfers
               UNION ALL SELECT tenant_id, journal_id, currency, credit_account, -amount FROM transfers) sides
         JOIN (SELECT tenant_id, account_id, currency, team FROM accounts WHERE kind = 'receivable') own
             USING (tenant_id, account_id, currency)
         GROUP BY tenant_id, journal_id, team, currency),
     steps AS (
         SELECT e.*, j.reason, j.position_to, lag(e.balance_after, 1, 0::numeric) OVER earlier AS balance_before,
             lag(e.sequence, 1, 0::bigint) OVER earlier AS number_before, max(j.position_to) OVER (earlier ROWS BETWEEN UNBOUNDED
                 PRECEDING AND 1 PRECEDING) AS position_before
         FROM receivable_entries e LEFT JOIN journals j USING (tenant_id, journal_id)
         WINDOW earlier AS (PARTITION BY e.tenant_id, e.team, e.currency ORDER BY e.sequence, e.journal_id)),
     bad AS (
         SELECT tenant_id, journal_id, team, currency, s.sequence, CASE
             WHEN s.sequence IS NULL THEN 'a journal moved the receivable and left no entry'
             WHEN s.reason IS NULL OR s.reason = 'usage' AND s.position_to IS NULL THEN 'its journal is missing'
             WHEN s.sequence <> s.number_before + 1 THEN format('the number before it is %s', s.number_before)
             WHEN s.balance_after <> s.balance_before + s.amount THEN 'its balance is not the one before plus its amount'
             WHEN s.amount <> coalesce(m.amount, 0) THEN format('its amount is %s, its journal moved %s', trim_scale(s.amount),
                 trim_scale(coalesce(m.amount, 0)))
             WHEN s.position_to <= s.position_before THEN 'its journal lies before that of the number before' END AS what
         FROM steps s FULL JOIN moved m USING (tenant_id, journal_id, team, currency))
     SELECT (SELECT count(*) FROM receivable_entries), count(*),
         (array_agg(format('entry %s of team %s of tenant %s, %s, journal %s: %s', sequence, team, tenant_id, currency, journal_id, what)
             ORDER BY tenant_id, team, currency, sequence))[1]
     FROM bad WHERE what IS NOT NULL",
);

/// Running totals add up to the transfers: charges by team and meter, costs by meter.
const TOTALS: Statement = (
    "running totals",
    "WITH posted AS (
         SELECT t.tenant_id, t.reason, CASE WHEN t.reason = 'cost' THEN '' ELSE t.team END AS team, t.meter, t.currency,
             sum(CASE WHEN d.kind IN ('receivable', 'cost_of_sales') THEN t.amount ELSE -t.amount END) AS amount
         FROM transfers t JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         WHERE t.reason IN ('usage', 'cost') GROUP BY 1, 2, 3, 4, 5),
     kept AS (
         SELECT tenant_id, 'usage' AS reason, team, meter, currency, sum(charge) AS amount FROM usage_totals GROUP BY tenant_id, team, meter, currency
         UNION ALL
         SELECT tenant_id, 'cost', '', meter, cost_currency, sum(cost) FROM usage_totals GROUP BY tenant_id, meter, cost_currency),
     bad AS (
         SELECT tenant_id, reason, team, meter, currency, coalesce(k.amount, 0) AS kept, coalesce(p.amount, 0) AS posted
         FROM kept k FULL JOIN posted p USING (tenant_id, reason, team, meter, currency)
         WHERE coalesce(k.amount, 0) <> coalesce(p.amount, 0))
     SELECT (SELECT count(*) FROM usage_totals), count(*),
         (array_agg(format('%s of team %s of tenant %s, meter %s, %s: the totals add up to %s, the transfers to %s',
             reason, team, tenant_id, meter, currency, trim_scale(kept), trim_scale(posted)) ORDER BY tenant_id, reason, team, meter, currency))[1]
     FROM bad",
);
