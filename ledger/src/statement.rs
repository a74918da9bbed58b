//! Reads over the books. Every function takes a connection: the api calls them inside of
//! `runtime::postgres::scoped`, so that row-level security sees one tenant; `weir verify` and the
//! balances in memory read all.

use domain::{chain::Place, money::Amount, wire::rated::Counts};
use runtime::postgres::PostgresError;
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use crate::{
    convert::{amount, integer, partition as read_partition, place, uncount},
    post::places,
};

/// What a team owes in one currency, and up to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The currency.
    pub currency: String,
    /// What is owed; positive is debt.
    pub owed: Amount,
    /// Windows posted to it.
    pub sequence: u64,
    /// The team's partition.
    pub partition: u32,
    /// Where the ledger of that partition stands: the balance is as of there.
    pub place: Place,
}

/// What a team owes per currency. One statement, so balances and places are one snapshot.
pub async fn balances(
    connection: &mut PgConnection,
    tenant: Uuid,
    team: &str,
) -> Result<Vec<Balance>, PostgresError> {
    type Row = (String, String, i64, i32, i64, i64, Vec<u8>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT r.currency, r.balance::text, r.sequence, p.partition, p.x, p.r, p.c
         FROM receivables r JOIN partitions p USING (partition)
         WHERE r.tenant_id = $1 AND r.team = $2 ORDER BY r.currency",
    )
    .bind(tenant)
    .bind(team)
    .fetch_all(connection)
    .await?;
    let read = |(currency, owed, sequence, partition, x, r, c): Row| {
        Ok(Balance {
            currency,
            owed: amount(&owed)?,
            sequence: uncount(sequence),
            partition: read_partition(partition)?,
            place: place(x, r, &c)?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// What one team owes in one currency, in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamBalance {
    /// The tenant.
    pub tenant: Uuid,
    /// The team.
    pub team: String,
    /// The currency.
    pub currency: String,
    /// The team's partition.
    pub partition: u32,
    /// What is owed; positive is debt.
    pub owed: Amount,
}

/// All balances and where each partition's ledger stands, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Partition, `(X, R, C)`, catalog version.
    pub places: Vec<(u32, Place, u64)>,
    /// Every receivable.
    pub balances: Vec<TeamBalance>,
}

/// Reads all balances and places in one snapshot. `connection` must not be in a transaction, and
/// its role must see all tenants (`weir_reader`).
pub async fn load_balances(connection: &mut PgConnection) -> Result<Snapshot, PostgresError> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut transaction = connection.begin_with(begin).await?;
    let places = places(&mut transaction).await?;
    let balances = receivables(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Snapshot { places, balances })
}

async fn receivables(connection: &mut PgConnection) -> Result<Vec<TeamBalance>, PostgresError> {
    type Row = (Uuid, String, String, i32, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT tenant_id, team, currency, partition, balance::text FROM receivables",
    )
    .fetch_all(connection)
    .await?;
    let read = |(tenant, team, currency, partition, owed): Row| {
        let (partition, owed) = (read_partition(partition)?, amount(&owed)?);
        Ok(TeamBalance { tenant, team, currency, partition, owed })
    };
    rows.into_iter().map(read).collect()
}

/// A row of `transfers`, for people. Numbers are exact decimal text.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct TransferRow {
    /// Its journal; with `ordinal` it is the cursor.
    pub journal_id: Uuid,
    /// Its number in the journal.
    pub ordinal: i32,
    /// Kind of the account that receives.
    pub debit: String,
    /// Kind of the account that gives.
    pub credit: String,
    /// How much, positive.
    pub amount: String,
    /// Its currency.
    pub currency: String,
    /// Why.
    pub reason: String,
    /// The team; empty where it is the tenant's own.
    pub team: String,
    /// The meter.
    pub meter: String,
    /// The rate card.
    pub card: String,
    /// Its version.
    pub card_version: i32,
    /// The quantity it is for.
    pub quantity: String,
    /// The lines it is for.
    pub events: i64,
    /// When it was posted, microseconds since 1970.
    pub posted_at_us: i64,
    /// Number of its journal among the team's postings in this currency, from 1; `None` for the
    /// tenant's own, and for postings older than these numbers.
    pub sequence: Option<i64>,
    /// What the team owed before the journal.
    pub balance_before: Option<String>,
    /// What it owed after.
    pub balance_after: Option<String>,
}

/// Transfers of a team, newest first, after the one at `cursor`.
pub async fn transfers_of_team(
    connection: &mut PgConnection,
    tenant: Uuid,
    team: &str,
    cursor: Option<(Uuid, i32)>,
    limit: u32,
) -> Result<Vec<TransferRow>, PostgresError> {
    let (journal, ordinal) = cursor.unwrap_or((Uuid::max(), i32::MAX));
    let rows = sqlx::query_as(
        "SELECT t.journal_id, t.ordinal, d.kind AS debit, k.kind AS credit, trim_scale(t.amount)::text AS amount,
             t.currency, t.reason, t.team, t.meter, t.card, t.card_version, trim_scale(t.quantity)::text AS quantity,
             t.events, (extract(epoch FROM j.posted_at) * 1000000)::bigint AS posted_at_us, e.sequence,
             trim_scale(e.balance_after - e.amount)::text AS balance_before, trim_scale(e.balance_after)::text AS balance_after
         FROM (SELECT * FROM transfers WHERE tenant_id = $1 AND team = $2 AND team <> ''
                 AND (journal_id, ordinal) < ($3, $4) ORDER BY journal_id DESC, ordinal DESC LIMIT $5) t
         JOIN journals j USING (tenant_id, journal_id)
         JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         JOIN accounts k ON (k.tenant_id, k.account_id) = (t.tenant_id, t.credit_account)
         LEFT JOIN receivable_entries e ON (e.tenant_id, e.journal_id, e.team, e.currency) = (t.tenant_id, t.journal_id, t.team, t.currency)
         ORDER BY t.journal_id DESC, t.ordinal DESC",
    )
    .bind(tenant)
    .bind(team)
    .bind(journal)
    .bind(ordinal)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Transfers of a journal in their order, after the one numbered `after` (−1 for the first).
pub async fn transfers_of_journal(
    connection: &mut PgConnection,
    tenant: Uuid,
    journal: Uuid,
    after: i32,
    limit: u32,
) -> Result<Vec<TransferRow>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT t.journal_id, t.ordinal, d.kind AS debit, k.kind AS credit, trim_scale(t.amount)::text AS amount,
             t.currency, t.reason, t.team, t.meter, t.card, t.card_version, trim_scale(t.quantity)::text AS quantity,
             t.events, (extract(epoch FROM j.posted_at) * 1000000)::bigint AS posted_at_us, e.sequence,
             trim_scale(e.balance_after - e.amount)::text AS balance_before, trim_scale(e.balance_after)::text AS balance_after
         FROM transfers t
         JOIN journals j USING (tenant_id, journal_id)
         JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         JOIN accounts k ON (k.tenant_id, k.account_id) = (t.tenant_id, t.credit_account)
         LEFT JOIN receivable_entries e ON (e.tenant_id, e.journal_id, e.team, e.currency) = (t.tenant_id, t.journal_id, t.team, t.currency)
         WHERE t.tenant_id = $1 AND t.journal_id = $2 AND t.ordinal > $3
         ORDER BY t.ordinal LIMIT $4",
    )
    .bind(tenant)
    .bind(journal)
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A row of `journals`.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct JournalRow {
    /// Its id; time-ordered, and the cursor.
    pub journal_id: Uuid,
    /// Why.
    pub reason: String,
    /// What it is about; unique with the reason.
    pub reference: String,
    /// Of usage: the partition.
    pub partition: Option<i32>,
    /// Of usage: the first position covered.
    pub position_from: Option<i64>,
    /// Of usage: the last position covered.
    pub position_to: Option<i64>,
    /// When it was posted, microseconds since 1970.
    pub posted_at_us: i64,
}

/// Journals of a tenant, newest first, after the one at `cursor`.
pub async fn journals(
    connection: &mut PgConnection,
    tenant: Uuid,
    cursor: Option<Uuid>,
    limit: u32,
) -> Result<Vec<JournalRow>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT journal_id, reason, reference, partition, position_from, position_to,
             (extract(epoch FROM posted_at) * 1000000)::bigint AS posted_at_us
         FROM journals WHERE tenant_id = $1 AND journal_id < $2 ORDER BY journal_id DESC LIMIT $3",
    )
    .bind(tenant)
    .bind(cursor.unwrap_or(Uuid::max()))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// One journal.
pub async fn journal(
    connection: &mut PgConnection,
    tenant: Uuid,
    journal: Uuid,
) -> Result<Option<JournalRow>, PostgresError> {
    let row = sqlx::query_as(
        "SELECT journal_id, reason, reference, partition, position_from, position_to,
             (extract(epoch FROM posted_at) * 1000000)::bigint AS posted_at_us
         FROM journals WHERE tenant_id = $1 AND journal_id = $2",
    )
    .bind(tenant)
    .bind(journal)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The journal that a position of `[usage]` was posted by; `None` if it is not posted yet or the
/// tenant had no usage in that window.
pub async fn journal_covering(
    connection: &mut PgConnection,
    tenant: Uuid,
    partition: u32,
    position: i64,
) -> Result<Option<JournalRow>, PostgresError> {
    let row: Option<JournalRow> = sqlx::query_as(
        "SELECT journal_id, reason, reference, partition, position_from, position_to,
             (extract(epoch FROM posted_at) * 1000000)::bigint AS posted_at_us
         FROM journals WHERE tenant_id = $1 AND partition = $2 AND position_to >= $3
         ORDER BY position_to LIMIT 1",
    )
    .bind(tenant)
    .bind(integer(partition))
    .bind(position)
    .fetch_optional(connection)
    .await?;
    Ok(row.filter(|row| row.position_from.is_some_and(|from| from <= position)))
}

/// A line of the trial balance. Amounts are exact decimal text.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct TrialBalanceRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The currency.
    pub currency: String,
    /// Kind of the accounts.
    pub kind: String,
    /// What they received.
    pub debit: String,
    /// What they gave.
    pub credit: String,
}

/// What the accounts of each kind received and gave. Sides without an account of their currency
/// are not in it, so the difference per currency is zero only if every transfer has both.
pub async fn trial_balance(
    connection: &mut PgConnection,
) -> Result<Vec<TrialBalanceRow>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, currency, kind, trim_scale(sum(debit))::text AS debit, trim_scale(sum(credit))::text AS credit
         FROM (SELECT tenant_id, currency, debit_account AS account_id, amount AS debit, 0 AS credit FROM transfers
               UNION ALL
               SELECT tenant_id, currency, credit_account, 0, amount FROM transfers) sides
         JOIN accounts USING (tenant_id, account_id, currency)
         GROUP BY tenant_id, currency, kind ORDER BY tenant_id, currency, kind",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A currency whose books do not balance, with what is too much on the debit side.
pub async fn imbalances(
    connection: &mut PgConnection,
) -> Result<Vec<(Uuid, String, String)>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, currency, trim_scale(sum(amount))::text
         FROM (SELECT tenant_id, currency, debit_account AS account_id, amount FROM transfers
               UNION ALL
               SELECT tenant_id, currency, credit_account, -amount FROM transfers) sides
         JOIN accounts USING (tenant_id, account_id, currency)
         GROUP BY tenant_id, currency HAVING sum(amount) <> 0 ORDER BY tenant_id, currency",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A receivable whose kept balance is not what its transfers say: tenant, team, currency, kept,
/// booked.
pub type Drift = (Uuid, String, String, String, String);

/// Receivables that do not agree with the book. There must be none.
pub async fn receivable_drift(connection: &mut PgConnection) -> Result<Vec<Drift>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, team, currency, trim_scale(coalesce(kept, 0))::text, trim_scale(coalesce(booked, 0))::text
         FROM (SELECT tenant_id, account_id, balance AS kept FROM receivables) kept
         FULL JOIN (
             SELECT tenant_id, account_id, sum(amount) AS booked
             FROM (SELECT tenant_id, debit_account AS account_id, amount FROM transfers
                   UNION ALL
                   SELECT tenant_id, credit_account, -amount FROM transfers) sides
             JOIN accounts USING (tenant_id, account_id)
             WHERE kind = 'receivable' GROUP BY tenant_id, account_id) booked USING (tenant_id, account_id)
         JOIN accounts USING (tenant_id, account_id)
         WHERE coalesce(kept, 0) <> coalesce(booked, 0) ORDER BY tenant_id, team, currency",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The conservation statement: what became of everything up to X.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conservation {
    /// The tenant.
    pub tenant: Uuid,
    /// The partition.
    pub partition: u32,
    /// Where its ledger stands.
    pub place: Place,
    /// Its outcomes.
    pub counts: Counts,
}

/// Outcomes per tenant and partition, of one tenant or (with `None`) of all the role sees, with
/// the places they are as of: one snapshot.
pub async fn conservation(
    connection: &mut PgConnection,
    tenant: Option<Uuid>,
) -> Result<Vec<Conservation>, PostgresError> {
    type Row = (Uuid, i32, i64, i64, Vec<u8>, Vec<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT n.tenant_id, n.partition, p.x, p.r, p.c, ARRAY[n.accepted, n.copies, n.rated, n.unmetered, n.unpriced,
             n.duplicates, n.conflicts, n.rejected, n.forwarded, n.lost]
         FROM partition_counts n JOIN partitions p USING (partition)
         WHERE $1::uuid IS NULL OR n.tenant_id = $1
         ORDER BY n.tenant_id, n.partition",
    )
    .bind(tenant)
    .fetch_all(connection)
    .await?;
    let read = |(tenant, partition, x, r, c, fields): Row| {
        let mut counts = [0_u64; 10];
        for (count, field) in counts.iter_mut().zip(fields) {
            *count = uncount(field);
        }
        Ok(Conservation {
            tenant,
            partition: read_partition(partition)?,
            place: place(x, r, &c)?,
            counts: Counts::from_fields(counts),
        })
    };
    rows.into_iter().map(read).collect()
}

/// Which running totals to add up. `None` takes all.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// One team.
    pub team: Option<String>,
    /// One meter.
    pub meter: Option<String>,
    /// First bucket (its number), inclusive.
    pub from_bucket: Option<i64>,
    /// Last bucket, exclusive.
    pub to_bucket: Option<i64>,
}

/// Running totals added up. Numbers are exact decimal text.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct UsageRow {
    /// The meter.
    pub meter: String,
    /// Currency of the charge; empty for unpriced usage.
    pub currency: String,
    /// Currency of the cost; empty where none is known.
    pub cost_currency: String,
    /// Quantity in the meter's unit.
    pub quantity: String,
    /// What it was charged.
    pub charge: String,
    /// What it cost.
    pub cost: String,
    /// Lines.
    pub events: i64,
}

/// Posted usage of a tenant per meter and currencies.
pub async fn usage(
    connection: &mut PgConnection,
    tenant: Uuid,
    filter: &UsageFilter,
) -> Result<Vec<UsageRow>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT meter, currency, cost_currency, trim_scale(sum(quantity))::text AS quantity,
             trim_scale(sum(charge))::text AS charge, trim_scale(sum(cost))::text AS cost, sum(events)::bigint AS events
         FROM usage_totals
         WHERE tenant_id = $1 AND ($2::text IS NULL OR team = $2) AND ($3::text IS NULL OR meter = $3)
             AND ($4::bigint IS NULL OR bucket >= 'epoch'::timestamptz + $4 * interval '15 minutes')
             AND ($5::bigint IS NULL OR bucket < 'epoch'::timestamptz + $5 * interval '15 minutes')
         GROUP BY meter, currency, cost_currency ORDER BY meter, currency, cost_currency",
    )
    .bind(tenant)
    .bind(&filter.team)
    .bind(&filter.meter)
    .bind(filter.from_bucket)
    .bind(filter.to_bucket)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
