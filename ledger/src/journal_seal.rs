//! The audit chain over journals that no window of usage seals: settlements, grants, what calls
//! consume. One chain per partition; the ledger-writer seals what waits, in the order of the journals'
//! ids, in the transaction of its next settlement. The api has no key.

use std::collections::HashMap;

use domain::{chain::Hash, wire::codec::Output};
use runtime::postgres::PostgresError;
use sqlx::{FromRow as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    convert::{hash, integer},
    seal::{AuditKey, BookTransfer, GENESIS, SealError, TransfersHash},
};

/// Journals that are sealed, or verified, in one go.
const PAGE_ROWS: i64 = 1000;

/// A journal with its transfers, as Postgres has it.
struct Book {
    tenant: Uuid,
    journal: Uuid,
    reason: String,
    reference: String,
    posted_at_us: i64,
    transfers: Vec<BookTransfer>,
}

impl Book {
    /// How many transfers, and their hash.
    fn transfers_hash(&self) -> (i32, Hash) {
        let mut hash = TransfersHash::default();
        hash.journal(self.tenant, self.journal, &self.reason, &self.reference);
        for transfer in &self.transfers {
            transfer.put(self.tenant, self.journal, &mut hash);
        }
        hash.finish()
    }

    /// The seal over it, and over what was sealed before.
    fn seal(&self, key: &AuditKey, place: (u32, i64), previous: &Hash) -> (i32, Hash, Hash) {
        let (transfers, transfers_hash) = self.transfers_hash();
        let mut bytes = Vec::with_capacity(160);
        bytes.raw(b"journal");
        bytes.raw(previous);
        bytes.raw(&place.0.to_le_bytes());
        bytes.raw(&place.1.to_le_bytes());
        bytes.raw(&self.posted_at_us.to_le_bytes());
        bytes.raw(&transfers.to_le_bytes());
        bytes.raw(&transfers_hash);
        (transfers, transfers_hash, key.hash(&bytes))
    }
}

/// Seals some journals of a partition that wait for it, and answers whether there may be more.
/// Only under the partition's lock.
pub async fn seal_waiting(
    connection: &mut PgConnection,
    key: &AuditKey,
    partition: u32,
) -> Result<bool, PostgresError> {
    let waiting: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "DELETE FROM unsealed_journals WHERE (partition, tenant_id, journal_id) IN (
             SELECT partition, tenant_id, journal_id FROM unsealed_journals WHERE partition = $1 LIMIT $2)
         RETURNING tenant_id, journal_id",
    )
    .bind(integer(partition))
    .bind(PAGE_ROWS)
    .fetch_all(&mut *connection)
    .await?;
    if waiting.is_empty() {
        return Ok(false);
    }
    let (mut number, mut head) = head(connection, partition).await?;
    let books = books(connection, &waiting).await?;
    if books.len() != waiting.len() {
        return Err(PostgresError::Broken(
            "a journal that waits for its seal is missing".to_owned(),
        ));
    }
    let mut rows = Vec::with_capacity(books.len());
    for book in &books {
        number += 1;
        let (transfers, transfers_hash, own) = book.seal(key, (partition, number), &head);
        rows.push((book, number, transfers, transfers_hash, head, own));
        head = own;
    }
    sqlx::query(
        "INSERT INTO journal_seals (tenant_id, journal_id, partition, number, transfers, transfers_hash, previous_hash, hash)
         SELECT tenant_id, journal_id, $8, number, transfers, transfers_hash, previous_hash, hash
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::integer[], $5::bytea[], $6::bytea[], $7::bytea[])
             AS new (tenant_id, journal_id, number, transfers, transfers_hash, previous_hash, hash)",
    )
    .bind(rows.iter().map(|row| row.0.tenant).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.0.journal).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.3.as_slice()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.4.as_slice()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.5.as_slice()).collect::<Vec<_>>())
    .bind(integer(partition))
    .execute(connection)
    .await?;
    Ok(i64::try_from(waiting.len()).is_ok_and(|sealed| sealed >= PAGE_ROWS))
}

/// Number and hash of the newest seal of a partition.
async fn head(connection: &mut PgConnection, partition: u32) -> Result<(i64, Hash), PostgresError> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT number, hash FROM journal_seals WHERE partition = $1 ORDER BY number DESC LIMIT 1",
    )
    .bind(integer(partition))
    .fetch_optional(connection)
    .await?;
    row.map_or(Ok((0, GENESIS)), |(number, bytes)| Ok((number, hash(&bytes)?)))
}

/// Journals with their transfers, in order of their ids.
async fn books(
    connection: &mut PgConnection,
    journals: &[(Uuid, Uuid)],
) -> Result<Vec<Book>, PostgresError> {
    let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) = journals.iter().copied().unzip();
    let rows = sqlx::query(
        "SELECT j.tenant_id, j.journal_id, j.reason AS journal_reason, j.reference,
             (extract(epoch FROM j.posted_at) * 1000000)::bigint AS posted_at_us, t.ordinal,
             t.debit_account, coalesce(d.kind, '') AS debit_kind, coalesce(d.team, '') AS debit_team,
             t.credit_account, coalesce(k.kind, '') AS credit_kind, coalesce(k.team, '') AS credit_team,
             (t.amount * 1000000000000)::numeric(60, 0)::text AS amount, t.currency, t.reason, t.team, t.meter,
             t.card, t.card_version, (t.quantity * 1000000000000)::numeric(60, 0)::text AS quantity, t.events
         FROM UNNEST($1::uuid[], $2::uuid[]) AS wanted (tenant_id, journal_id)
         JOIN journals j USING (tenant_id, journal_id)
         LEFT JOIN transfers t USING (tenant_id, journal_id)
         LEFT JOIN accounts d ON (d.tenant_id, d.account_id, d.currency) = (t.tenant_id, t.debit_account, t.currency)
         LEFT JOIN accounts k ON (k.tenant_id, k.account_id, k.currency) = (t.tenant_id, t.credit_account, t.currency)
         ORDER BY j.journal_id, j.tenant_id, t.ordinal",
    )
    .bind(tenants)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let mut books: Vec<Book> = Vec::new();
    for row in &rows {
        let (tenant, journal): (Uuid, Uuid) =
            (row.try_get("tenant_id")?, row.try_get("journal_id")?);
        if books.last().is_none_or(|book| (book.tenant, book.journal) != (tenant, journal)) {
            books.push(Book {
                tenant,
                journal,
                reason: row.try_get("journal_reason")?,
                reference: row.try_get("reference")?,
                posted_at_us: row.try_get("posted_at_us")?,
                transfers: Vec::new(),
            });
        }
        let ordinal: Option<i32> = row.try_get("ordinal")?;
        if let (Some(_), Some(book)) = (ordinal, books.last_mut()) {
            book.transfers.push(BookTransfer::from_row(row)?);
        }
    }
    Ok(books)
}

/// Recomputes the chain of a partition, first seal to last; answers how many seals it has. Give it a
/// connection in a REPEATABLE READ transaction while settlements go on.
pub async fn verify(
    connection: &mut PgConnection,
    key: &AuditKey,
    partition: u32,
) -> Result<u64, SealError> {
    type Row = (Uuid, Uuid, i64, i32, Vec<u8>, Vec<u8>, Vec<u8>);
    let broken = |position, what| SealError::Broken { partition, position, what };
    let (mut number, mut head) = (0_i64, GENESIS);
    loop {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT tenant_id, journal_id, number, transfers, transfers_hash, previous_hash, hash FROM journal_seals
             WHERE partition = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(integer(partition))
        .bind(number)
        .bind(PAGE_ROWS)
        .fetch_all(&mut *connection)
        .await
        .map_err(PostgresError::from)?;
        if rows.is_empty() {
            return Ok(number.unsigned_abs());
        }
        let wanted: Vec<(Uuid, Uuid)> = rows.iter().map(|row| (row.0, row.1)).collect();
        let books = books(connection, &wanted).await?;
        let books: HashMap<(Uuid, Uuid), Book> =
            books.into_iter().map(|book| ((book.tenant, book.journal), book)).collect();
        for (tenant, journal, own, transfers, transfers_hash, previous, sealed) in rows {
            if own != number + 1 {
                return Err(broken(own, "a seal of a journal is missing before this one"));
            }
            if previous != head {
                return Err(broken(own, "the seal of a journal does not continue the one before"));
            }
            let Some(book) = books.get(&(tenant, journal)) else {
                return Err(broken(own, "a sealed journal is missing"));
            };
            let (found, found_hash, seal) = book.seal(key, (partition, own), &head);
            if (found, found_hash.as_slice()) != (transfers, transfers_hash.as_slice()) {
                return Err(broken(own, "the transfers of a sealed journal were changed"));
            }
            if seal.as_slice() != sealed {
                return Err(broken(
                    own,
                    "the seal of a journal was changed, or made with another key",
                ));
            }
            (number, head) = (own, seal);
        }
    }
}
