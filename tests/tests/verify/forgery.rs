//! The best forgery without the key: all books agree, and every hash is made anew.

use anyhow::{Context as _, Result, anyhow};
use domain::chain::Place;
use ledger::{
    seal::{AuditKey, Entry, TransfersHash},
    transfer::{Side, Transfer},
};
use runtime::config::Secret;
use sqlx::{AssertSqlSafe, PgConnection};
use tests::seed::Moments;
use uuid::Uuid;

/// Makes a team owe one more, in all books, and computes every hash anew that needs no key: the hash of
/// the window's transfers as the ledger makes it, and the rest of the chain with a key of its own.
pub async fn forge(connection: &mut PgConnection, moments: &mut Moments) -> Result<String> {
    let chosen = "WITH chosen AS (SELECT * FROM transfers WHERE team <> '' ORDER BY md5(ctid::text || '{seed}') LIMIT 1)";
    let chosen = chosen.replace("{seed}", &moments.bits().to_string());
    let statement = format!(
        "{chosen}, more AS (UPDATE transfers x SET amount = x.amount + 1 FROM chosen c WHERE (x.tenant_id, x.journal_id, x.ordinal)
             = (c.tenant_id, c.journal_id, c.ordinal)),
         owed AS (UPDATE receivables r SET balance = r.balance + 1 FROM chosen c WHERE (r.tenant_id, r.team, r.currency) = (c.tenant_id, c.team, c.currency)),
         total AS (UPDATE usage_totals u SET charge = u.charge + 1 FROM chosen c WHERE u.ctid = (SELECT v.ctid FROM usage_totals v
             WHERE (v.tenant_id, v.team, v.meter, v.currency) = (c.tenant_id, c.team, c.meter, c.currency) LIMIT 1)),
         entries AS (UPDATE receivable_entries e SET balance_after = e.balance_after + 1,
                 amount = e.amount + CASE WHEN e.journal_id = c.journal_id THEN 1 ELSE 0 END
             FROM chosen c, receivable_entries own WHERE (own.tenant_id, own.journal_id, own.team, own.currency) = (c.tenant_id, c.journal_id, c.team, c.currency)
             AND (e.tenant_id, e.team, e.currency) = (c.tenant_id, c.team, c.currency) AND e.sequence >= own.sequence)
         SELECT j.partition, j.position_to FROM journals j JOIN chosen c USING (tenant_id, journal_id)"
    );
    let (partition, position): (i32, i64) =
        sqlx::query_as(AssertSqlSafe(statement)).fetch_one(&mut *connection).await?;
    let (transfers, hash) = transfers_hash(connection, partition, position).await?;
    sqlx::query("UPDATE audit SET transfers = $3, transfers_hash = $4 WHERE partition = $1 AND position_to = $2")
        .bind(partition)
        .bind(position)
        .bind(transfers)
        .bind(hash.as_slice())
        .execute(&mut *connection)
        .await?;
    chain_anew(connection, partition, position).await?;
    Ok(format!("partition {partition} is broken at position {position}"))
}

/// Seals the windows from a position on with a key of the forger's own, each chained to the one before.
async fn chain_anew(connection: &mut PgConnection, partition: i32, position: i64) -> Result<()> {
    type Row = (i64, i64, i64, Vec<u8>, i64, String, i32, Vec<u8>, Vec<u8>, i64);
    let key = AuditKey::parse(&Secret::new("0f".repeat(32))).context("a key")?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT position_from, position_to, r, c, catalog_version, counts, transfers, transfers_hash, previous_hash,
             (extract(epoch FROM posted_at) * 1000000)::bigint
         FROM audit WHERE partition = $1 AND position_to >= $2 ORDER BY position_to",
    )
    .bind(partition)
    .bind(position)
    .fetch_all(&mut *connection)
    .await?;
    let mut before: Option<[u8; 32]> = None;
    for (from, x, r, c, version, counts, transfers, transfers_hash, previous, posted_at_us) in rows
    {
        let hash = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| anyhow!("no hash"));
        let entry = Entry {
            partition: u32::try_from(partition)?,
            from,
            to: Place { x, r, c: hash(c)? },
            catalog_version: version.unsigned_abs(),
            counts,
            transfers,
            transfers_hash: hash(transfers_hash)?,
            previous: match before {
                Some(before) => before,
                None => hash(previous)?,
            },
            posted_at_us,
        };
        let own = entry.hash(&key);
        sqlx::query("UPDATE audit SET previous_hash = $3, hash = $4 WHERE partition = $1 AND position_to = $2")
            .bind(partition)
            .bind(x)
            .bind(entry.previous.as_slice())
            .bind(own.as_slice())
            .execute(&mut *connection)
            .await?;
        before = Some(own);
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Book {
    tenant_id: Uuid,
    journal_id: Uuid,
    reference: String,
    ordinal: i32,
    debit_account: i64,
    debit_kind: String,
    debit_team: String,
    credit_account: i64,
    credit_kind: String,
    credit_team: String,
    amount: String,
    currency: String,
    reason: String,
    team: String,
    meter: String,
    card: String,
    card_version: i32,
    quantity: String,
    events: i64,
}

/// The hash of a window's transfers, for which no key is needed.
async fn transfers_hash(
    connection: &mut PgConnection,
    partition: i32,
    position: i64,
) -> Result<(i32, [u8; 32])> {
    let rows: Vec<Book> = sqlx::query_as(
        "SELECT j.tenant_id, j.journal_id, j.reference, t.ordinal, t.debit_account, t.credit_account, t.currency, t.reason, t.team, t.meter, t.card,
             t.card_version, t.events, d.kind AS debit_kind, d.team AS debit_team, k.kind AS credit_kind, k.team AS credit_team,
             (t.amount * 1000000000000)::numeric(60, 0)::text AS amount, (t.quantity * 1000000000000)::numeric(60, 0)::text AS quantity
         FROM journals j JOIN transfers t USING (tenant_id, journal_id)
         JOIN accounts d ON d.account_id = t.debit_account JOIN accounts k ON k.account_id = t.credit_account
         WHERE j.partition = $1 AND j.position_to = $2 ORDER BY j.tenant_id, j.journal_id, t.ordinal",
    )
    .bind(partition)
    .bind(position)
    .fetch_all(connection)
    .await?;
    let mut hash = TransfersHash::default();
    for row in &rows {
        if row.ordinal == 0 {
            hash.journal(row.tenant_id, row.journal_id, "usage", &row.reference);
        }
        hash.transfer(&Transfer {
            tenant: row.tenant_id,
            journal: row.journal_id,
            ordinal: row.ordinal,
            debit: Side {
                account: row.debit_account,
                kind: &row.debit_kind,
                team: &row.debit_team,
            },
            credit: Side {
                account: row.credit_account,
                kind: &row.credit_kind,
                team: &row.credit_team,
            },
            amount: row.amount.parse()?,
            currency: &row.currency,
            reason: &row.reason,
            team: &row.team,
            meter: &row.meter,
            card: &row.card,
            card_version: row.card_version,
            quantity: row.quantity.parse()?,
            events: row.events,
        });
    }
    Ok(hash.finish())
}
