//! The ledger: sums per team and meter, transfers, balances, the audit chain, positions.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use benches::account::{Sums, parse};
use ledger::{
    journal_seal,
    seal::{AuditKey, verify_chain},
    statement::receivable_drift,
    verify,
};
use runtime::config::Secret;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Differences, Oracle};
use crate::{
    harness::expected::{Books, Expected, add},
    process::Http,
    system::{amount, integer},
};

/// Tenants whose usage is asked of the api; all of them are in the totals.
const TENANTS_ASKED: usize = 3;
/// The outcomes that have a row in the archive, as both name them.
const COUNTS: &str = "SELECT tenant_id::text AS tenant, partition, rated, unmetered, unpriced, duplicates, conflicts, rejected
        FROM partition_counts";
/// What the accounts of each kind received, or gave.
const SIDES: &str = "SELECT t.tenant_id::text, a.kind, sum(t.amount)::text FROM transfers t
        JOIN accounts a ON (a.tenant_id, a.account_id, a.currency) = (t.tenant_id, t.{side}, t.currency)
        WHERE t.reason IN ('usage', 'cost') GROUP BY 1, 2";
/// What teams owe, and what left their wallets for it: all that was given less what is there.
const OWED: &str = "SELECT tenant_id::text, team, sum(amount)::text FROM (
        SELECT tenant_id, team, balance AS amount FROM receivables
        UNION ALL SELECT tenant_id, team, -balance FROM wallets
        UNION ALL SELECT w.tenant_id, w.team, g.amount FROM grants g JOIN wallets w USING (tenant_id, wallet_id)) all_of_it
        GROUP BY 1, 2";
/// Entries, and those that are not the next step of the sum of what journals moved.
const ENTRIES: &str = "WITH moved AS (
        SELECT tenant_id, journal_id, team, currency, sum(amount) AS moved
        FROM (SELECT tenant_id, journal_id, currency, debit_account AS account_id, amount FROM transfers
              UNION ALL SELECT tenant_id, journal_id, currency, credit_account, -amount FROM transfers) sides
        JOIN (SELECT tenant_id, account_id, currency, team FROM accounts WHERE kind = 'receivable') own
            USING (tenant_id, account_id, currency)
        GROUP BY tenant_id, journal_id, team, currency),
    steps AS (
        SELECT amount, balance_after, sequence, moved, sum(moved) OVER postings AS folded, row_number() OVER postings AS place
        FROM receivable_entries FULL JOIN moved USING (tenant_id, journal_id, team, currency)
        WINDOW postings AS (PARTITION BY tenant_id, team, currency ORDER BY sequence))
    SELECT count(*), count(*) FILTER (WHERE (amount, balance_after, sequence) IS DISTINCT FROM (moved, folded, place)) FROM steps";
const ARCHIVED: &str = "SELECT toString(tenant_id) AS tenant, partition, outcome, toString(count()) AS events FROM (\
    SELECT DISTINCT tenant_id, partition, position, `index`, toString(outcome) AS outcome FROM usage_events UNION ALL \
    SELECT DISTINCT tenant_id, partition, position, `index`, toString(outcome) AS outcome FROM rejected_events) \
    GROUP BY tenant, partition, outcome";
const OUTCOMES: [(&str, &str); 6] = [
    ("rated", "rated"),
    ("unmetered", "unmetered"),
    ("unpriced", "unpriced"),
    ("duplicates", "duplicate"),
    ("conflicts", "conflict"),
    ("rejected", "rejected"),
];

/// What tells larger sums from smaller ones, the events first.
fn size(sums: Sums) -> (i64, i128, i128, i128) {
    (sums.events, sums.quantity, sums.charge, sums.cost)
}

/// An amount that Postgres wrote.
fn number(text: &str) -> Result<i128> {
    parse(text).with_context(|| format!("{text:?} is no amount"))
}

impl Oracle<'_> {
    /// The number of a tenant of the load.
    fn tenant_number(&self, id: &str) -> Option<usize> {
        self.tenants.iter().position(|tenant| tenant.id.to_string() == id)
    }

    /// INV-02 and INV-12: running totals, transfers and balances are the sums of the seed.
    pub(super) async fn totals(
        &self,
        expected: &Books,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        let rows = sqlx::query(
            "SELECT tenant_id::text, team, meter, sum(events)::bigint, sum(quantity)::text, sum(charge)::text, sum(cost)::text
             FROM usage_totals GROUP BY tenant_id, team, meter",
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut found = Books::new();
        for row in rows {
            let text = |place| row.get::<String, usize>(place);
            let Some(tenant) = self.tenant_number(&text(0)) else { continue };
            let sums = Sums {
                events: row.get(3),
                quantity: number(&text(4))?,
                charge: number(&text(5))?,
                cost: number(&text(6))?,
            };
            found.insert((tenant, text(1), text(2)), sums);
        }
        differences.compare_effects("usage_totals", &found, expected, size);
        let (mut charges, mut costs) = (BTreeMap::new(), BTreeMap::new());
        for ((tenant, team, _), sums) in expected {
            *charges.entry((*tenant, team.clone())).or_insert(0) += sums.charge;
            *costs.entry((*tenant, String::new())).or_insert(0) += sums.cost;
        }
        let transferred = "SELECT t.tenant_id::text, a.team, sum(t.amount)::text FROM transfers t
             JOIN accounts a ON a.account_id = t.debit_account WHERE t.reason IN ('usage', 'cost') AND a.kind = ";
        for (what, sql, expected) in [
            ("charges in transfers", format!("{transferred}'receivable' GROUP BY 1, 2"), &charges),
            ("costs in transfers", format!("{transferred}'cost_of_sales' GROUP BY 1, 2"), &costs),
            ("receivables and what wallets paid", OWED.to_owned(), &charges),
        ] {
            let found = self.amounts(connection, sql).await?;
            differences.compare_effects(what, &found, expected, |amount| amount);
        }
        Ok(())
    }

    /// INV-04: what the accounts of each kind received and gave, of both sides of a transfer, is what the
    /// seed says.
    pub(super) async fn sides(
        &self,
        expected: &Books,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        for (side, of_charges, of_costs) in [
            ("debit_account", "receivable", "cost_of_sales"),
            ("credit_account", "revenue", "provider_payable"),
        ] {
            let mut sums = BTreeMap::new();
            for ((tenant, ..), of) in expected {
                *sums.entry((*tenant, of_charges.to_owned())).or_insert(0) += of.charge;
                *sums.entry((*tenant, of_costs.to_owned())).or_insert(0) += of.cost;
            }
            let found = self.amounts(connection, SIDES.replace("{side}", side)).await?;
            differences.compare("INV-04", side, &found, &sums);
        }
        Ok(())
    }

    async fn amounts(
        &self,
        connection: &mut PgConnection,
        sql: String,
    ) -> Result<BTreeMap<(usize, String), i128>> {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?;
        let mut amounts = BTreeMap::new();
        for (tenant, team, amount) in rows {
            if let Some(tenant) = self.tenant_number(&tenant) {
                amounts.insert((tenant, team), number(&amount)?);
            }
        }
        Ok(amounts)
    }

    /// INV-05 and INV-06: sealed from the first row on, and balances are folds of transfers.
    pub(super) async fn ledger(
        &self,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        for drift in receivable_drift(connection).await? {
            differences.other("INV-06", || format!("{drift:?}"));
        }
        let (entries, unsteady): (i64, i64) =
            sqlx::query_as(ENTRIES).fetch_one(&mut *connection).await?;
        if unsteady > 0 || entries == 0 {
            differences.other("INV-06", || {
                format!("{unsteady} of {entries} entries are no fold of the transfers before")
            });
        }
        let key = AuditKey::parse(&Secret::new(self.audit_key.clone())).context("the audit key")?;
        let partitions: Vec<i32> =
            sqlx::query_scalar("SELECT partition FROM partitions ORDER BY 1")
                .fetch_all(&mut *connection)
                .await?;
        for partition in partitions {
            let partition = u32::try_from(partition)?;
            if let Err(error) = verify_chain(connection, &key, partition).await {
                differences.other("INV-05", || format!("{error}"));
            }
            if let Err(error) = journal_seal::verify(connection, &key, partition).await {
                differences.other("INV-05", || format!("{error}"));
            }
        }
        for check in verify::wallets::checks(connection).await? {
            if let Some(first) = check.first_bad {
                differences.other("INV-06", || format!("{}: {first}", check.name));
            }
        }
        Ok(())
    }

    /// INV-13, INV-14 and INV-15: windows and groups follow each other without a gap up to the same
    /// place.
    pub(super) async fn positions(
        &self,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        let gaps: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT position_from, lag(position_to, 1, -1::bigint) OVER (PARTITION BY partition ORDER BY position_to) AS before
                 FROM audit) windows WHERE position_from <> before + 1",
        )
        .fetch_one(&mut *connection)
        .await?;
        if gaps > 0 {
            differences
                .other("INV-15", || format!("{gaps} windows do not continue the one before"));
        }
        let posted: Vec<(i32, i64, i64)> = sqlx::query_as(
            "SELECT partition, x, (SELECT coalesce(max(position_to), -1) FROM audit a WHERE a.partition = p.partition) FROM partitions p",
        )
        .fetch_all(connection)
        .await?;
        let sql =
            "SELECT DISTINCT partition, from_x, to_x FROM archived ORDER BY partition, from_x";
        let mut archived = BTreeMap::<i32, i64>::new();
        for row in self.system.clickhouse().query_json_rows(sql, &[]).await? {
            let partition = i32::try_from(integer(&row["partition"])?)?;
            let (from, to) = (integer(&row["from_x"])?, i64::try_from(integer(&row["to_x"])?)?);
            let before = archived.insert(partition, to).unwrap_or(-1);
            if from != i128::from(before) + 1 {
                differences
                    .other("INV-13", || format!("the archive's group {row} follows {before}"));
            }
        }
        for (partition, x, audited) in posted {
            let archived = archived.get(&partition).copied().unwrap_or(-1);
            if (x, x) != (audited, archived) {
                differences.other("INV-13", || {
                    format!(
                        "partition {partition}: posted {x}, audited {audited}, archived {archived}"
                    )
                });
            }
        }
        Ok(())
    }

    /// INV-09: what clients have sent was accepted, and what they have sent again was a repeat. Both may
    /// be more, where a request had no answer.
    pub(super) async fn accepted(
        &self,
        expected: &Expected,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT tenant_id::text, sum(accepted)::bigint, sum(duplicates)::bigint FROM partition_counts GROUP BY 1",
        )
        .fetch_all(connection)
        .await?;
        let counts = rows.into_iter().map(|(tenant, accepted, duplicates)| {
            Some((
                self.tenant_number(&tenant)?,
                (accepted.unsigned_abs(), duplicates.unsigned_abs()),
            ))
        });
        let counts: BTreeMap<_, _> = counts.flatten().collect();
        for (tenant, sent) in &expected.sent {
            let (accepted, duplicates) = counts.get(tenant).copied().unwrap_or_default();
            if accepted < sent.events || duplicates < sent.duplicates {
                differences.other("INV-09", || {
                    format!(
                        "tenant {tenant}: {accepted} accepted, {duplicates} duplicates of {sent:?}"
                    )
                });
            }
        }
        Ok(())
    }

    /// INV-09: per partition and tenant, ledger and archive have the same outcomes.
    pub(super) async fn conservation(
        &self,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        let mut posted = BTreeMap::new();
        for row in sqlx::query(COUNTS).fetch_all(&mut *connection).await? {
            let (tenant, partition): (String, i32) = (row.get("tenant"), row.get("partition"));
            for (column, outcome) in OUTCOMES {
                let events: i64 = row.get(column);
                if events > 0 {
                    posted.insert((tenant.clone(), partition, outcome.to_owned()), events);
                }
            }
        }
        let mut archived = BTreeMap::new();
        for row in self.system.clickhouse().query_json_rows(ARCHIVED, &[]).await? {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let key =
                (text("tenant"), i32::try_from(integer(&row["partition"])?)?, text("outcome"));
            archived.insert(key, i64::try_from(integer(&row["events"])?)?);
        }
        differences.compare("INV-09", "events in the archive", &archived, &posted);
        Ok(())
    }

    /// The api answers the same sums.
    pub(super) async fn answered_usage(
        &self,
        expected: &Books,
        differences: &mut Differences,
    ) -> Result<()> {
        let base = self.system.api()?.base;
        for (number, tenant) in self.tenants.iter().enumerate().take(TENANTS_ASKED) {
            let api = Http::new(&base, &tenant.key)?;
            let mut found = Books::new();
            let question = "/v1/usage?group_by=team&limit=1000";
            let mut path = Some(question.to_owned());
            while let Some(asked) = path {
                let page = api.get(&asked).await?;
                for row in page["items"].as_array().context("usage has no items")? {
                    let text =
                        |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                    let sums = Sums {
                        events: i64::try_from(integer(&row["events"])?)?,
                        quantity: amount(&row["quantity"])?,
                        charge: amount(&row["charge"])?,
                        cost: amount(&row["cost"])?,
                    };
                    let key = (number, text(&row["group"]["team"]), text(&row["meter"]));
                    add(found.entry(key).or_default(), sums);
                }
                let cursor = page["next_cursor"].as_str();
                path = cursor.map(|cursor| format!("{question}&cursor={cursor}"));
            }
            let own = expected.iter().filter(|((of, ..), _)| *of == number);
            let own = own.map(|(key, sums)| (key.clone(), *sums)).collect();
            differences.compare_effects("GET /v1/usage", &found, &own, size);
        }
        Ok(())
    }
}

/// What the ledger had at some moment.
#[derive(Debug)]
pub struct Snapshot {
    journals: Vec<Uuid>,
    hash: String,
}

impl Snapshot {
    /// What it has now.
    pub async fn take(connection: &mut PgConnection) -> Result<Snapshot> {
        let journals: Vec<Uuid> = sqlx::query_scalar("SELECT journal_id FROM journals")
            .fetch_all(&mut *connection)
            .await?;
        let hash = hash_of(connection, &journals).await?;
        Ok(Snapshot { journals, hash })
    }

    /// INV-05: nothing of it was changed or removed.
    pub(super) async fn still_there(
        &self,
        connection: &mut PgConnection,
        differences: &mut Differences,
    ) -> Result<()> {
        let now = hash_of(connection, &self.journals).await?;
        if now != self.hash {
            differences.other("INV-05", || "rows of the ledger have changed".to_owned());
        }
        Ok(())
    }
}

async fn hash_of(connection: &mut PgConnection, journals: &[Uuid]) -> Result<String> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(md5(string_agg(t::text, ',' ORDER BY t.journal_id, t.ordinal)), '') ||
             (SELECT coalesce(md5(string_agg(j::text, ',' ORDER BY j.journal_id)), '') FROM journals j WHERE j.journal_id = ANY($1))
         FROM transfers t WHERE t.journal_id = ANY($1)",
    )
    .bind(journals)
    .fetch_one(connection)
    .await?)
}

/// A hash over everything that says what somebody owes: transfers, balances and running totals.
pub async fn ledger_hash(connection: &mut PgConnection) -> Result<String> {
    Ok(sqlx::query_scalar(
        "SELECT (SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t.journal_id, t.ordinal), '')) FROM transfers t) ||
             (SELECT md5(coalesce(string_agg(r::text, ',' ORDER BY r.tenant_id, r.team, r.currency), '')) FROM receivables r) ||
             (SELECT md5(coalesce(string_agg(u::text, ',' ORDER BY u.tenant_id, u.team, u.meter, u.bucket), '')) FROM usage_totals u)",
    )
    .fetch_one(connection)
    .await?)
}
