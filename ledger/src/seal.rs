//! The audit chain: one row per partition and posting window, each sealed with a key that Postgres
//! does not have and chained to the one before. Whoever changes a transfer, a journal, a count or
//! a row of the chain breaks it at that place; [`verify_chain`] finds where (INV-05).

use std::fmt;

use domain::{
    chain::{HASH_LENGTH, Hash, Place},
    wire::{codec::Output, rated::Counts},
};
use runtime::{config::Secret, postgres::PostgresError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    convert::{count, hash, integer, place, raw, uncount},
    transfer::{REASON_USAGE, Side, Transfer},
};

/// What the first row of every partition is chained to.
pub const GENESIS: Hash = *b"weir: no audit row before this  ";
/// Audit rows that [`verify_chain`] reads at a time.
const PAGE_ROWS: i64 = 500;

/// The key of the chain. Kept outside of Postgres.
#[derive(Clone)]
pub struct AuditKey([u8; HASH_LENGTH]);

impl fmt::Debug for AuditKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AuditKey({})", self.id())
    }
}

impl AuditKey {
    /// The keyed hash of some bytes.
    pub(crate) fn hash(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.0, bytes).into()
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn parse(secret: &Secret) -> Option<AuditKey> {
        let parsed = blake3::Hash::from_hex(secret.expose().as_bytes()).ok()?;
        Some(AuditKey(*parsed.as_bytes()))
    }

    /// A name of the key that tells nothing about it.
    #[must_use]
    pub fn id(&self) -> String {
        let name = blake3::keyed_hash(&self.0, b"weir: name of this audit key");
        name.to_hex().as_str().chars().take(16).collect()
    }
}

/// What one row of `audit` says, its own hash apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The partition.
    pub partition: u32,
    /// First position of the window.
    pub from: i64,
    /// `(X, R, C)` after the window.
    pub to: Place,
    /// The catalog version after it.
    pub catalog_version: u64,
    /// The counts per tenant, as [`counts_text`] writes them.
    pub counts: String,
    /// How many transfers it has.
    pub transfers: i32,
    /// Hash over its journals and transfers ([`TransfersHash`]).
    pub transfers_hash: Hash,
    /// The hash of the row before.
    pub previous: Hash,
    /// When it was posted, microseconds since 1970.
    pub posted_at_us: i64,
}

impl Entry {
    /// The seal.
    #[must_use]
    pub fn hash(&self, key: &AuditKey) -> Hash {
        let mut bytes = Vec::with_capacity(256 + self.counts.len());
        bytes.raw(&self.previous);
        bytes.raw(&self.partition.to_le_bytes());
        for number in [self.from, self.to.x, self.to.r] {
            bytes.raw(&number.to_le_bytes());
        }
        bytes.raw(&self.to.c);
        bytes.raw(&self.catalog_version.to_le_bytes());
        bytes.text(&self.counts);
        bytes.raw(&self.transfers.to_le_bytes());
        bytes.raw(&self.transfers_hash);
        bytes.raw(&self.posted_at_us.to_le_bytes());
        key.hash(&bytes)
    }
}

/// The counts as the audit row keeps them: `tenant=n,n,…` in the order of the wire, `;` between.
#[must_use]
pub fn counts_text(counts: &[(Uuid, Counts)]) -> String {
    let one = |(tenant, counts): &(Uuid, Counts)| {
        let fields = counts.fields().map(|field| field.to_string()).join(",");
        format!("{tenant}={fields}")
    };
    counts.iter().map(one).collect::<Vec<_>>().join(";")
}

/// Reads what [`counts_text`] wrote; `None` for anything else.
#[must_use]
pub fn counts_of(text: &str) -> Option<Vec<(Uuid, Counts)>> {
    let one = |one: &str| {
        let (tenant, fields) = one.split_once('=')?;
        let fields: Vec<u64> = fields.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        Some((tenant.parse().ok()?, Counts::from_fields(fields.try_into().ok()?)))
    };
    if text.is_empty() { Some(Vec::new()) } else { text.split(';').map(one).collect() }
}

/// Hashes the journals of a window, in order of tenant, and each one's transfers in their order.
#[derive(Default)]
pub struct TransfersHash {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    transfers: i32,
}

impl TransfersHash {
    /// A journal; its transfers follow.
    pub fn journal(&mut self, tenant: Uuid, journal: Uuid, reason: &str, reference: &str) {
        self.buffer.clear();
        self.buffer.raw(b"J");
        self.buffer.raw(tenant.as_bytes());
        self.buffer.raw(journal.as_bytes());
        self.buffer.text(reason);
        self.buffer.text(reference);
        self.hasher.update(&self.buffer);
    }

    /// The next transfer of that journal.
    pub fn transfer(&mut self, transfer: &Transfer<'_>) {
        self.buffer.clear();
        self.buffer.raw(b"T");
        transfer.put_canonical(&mut self.buffer);
        self.hasher.update(&self.buffer);
        self.transfers = self.transfers.saturating_add(1);
    }

    /// How many transfers, and the hash.
    #[must_use]
    pub fn finish(&self) -> (i32, Hash) {
        (self.transfers, self.hasher.finalize().into())
    }
}

/// Appends a row to the chain.
pub async fn insert(
    connection: &mut PgConnection,
    entry: &Entry,
    hash: &Hash,
) -> Result<(), PostgresError> {
    sqlx::query(
        "INSERT INTO audit (partition, position_from, position_to, r, c, catalog_version, counts, transfers,
             transfers_hash, previous_hash, hash, posted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'epoch'::timestamptz + $12 * interval '1 microsecond')",
    )
    .bind(integer(entry.partition))
    .bind(entry.from)
    .bind(entry.to.x)
    .bind(entry.to.r)
    .bind(entry.to.c.as_slice())
    .bind(count(entry.catalog_version))
    .bind(&entry.counts)
    .bind(entry.transfers)
    .bind(entry.transfers_hash.as_slice())
    .bind(entry.previous.as_slice())
    .bind(hash.as_slice())
    .bind(entry.posted_at_us)
    .execute(connection)
    .await?;
    Ok(())
}

/// What was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Rows of the chain.
    pub rows: u64,
    /// Transfers that they cover.
    pub transfers: u64,
    /// The newest row's hash: compare it with a copy kept elsewhere.
    pub head: Hash,
    /// Where the chain ends.
    pub place: Place,
}

/// Why a chain is not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The books were changed behind the ledger's back, or sealed with another key.
    #[error("the audit chain of partition {partition} is broken at position {position}: {what}")]
    Broken {
        /// The partition.
        partition: u32,
        /// Last position of the window where it breaks.
        position: i64,
        /// What does not fit.
        what: &'static str,
    },
}

/// Recomputes the chain of a partition from its transfers, first row to last. Takes memory for one
/// page only. Give it a connection in a REPEATABLE READ transaction while postings go on.
pub async fn verify_chain(
    connection: &mut PgConnection,
    key: &AuditKey,
    partition: u32,
) -> Result<Verified, SealError> {
    let broken = |position, what| SealError::Broken { partition, position, what };
    let mut verified = Verified { rows: 0, transfers: 0, head: GENESIS, place: Place::EMPTY };
    let mut catalog_version = 0;
    loop {
        let page = audit_rows(connection, partition, verified.place.x).await?;
        let Some((last, _)) = page.last() else { break };
        let mut books =
            books(connection, partition, verified.place.x, last.to.x).await?.into_iter().peekable();
        for (entry, stored) in &page {
            if entry.from != verified.place.x.saturating_add(1) {
                return Err(broken(entry.to.x, "a window is missing before this one"));
            }
            if entry.previous != verified.head {
                return Err(broken(entry.to.x, "it does not continue the row before"));
            }
            let mut hash = TransfersHash::default();
            while let Some(book) = books.next_if(|book| book.position_to <= entry.to.x) {
                if book.position_to != entry.to.x {
                    return Err(broken(book.position_to, "a journal belongs to no window"));
                }
                book.put(&mut hash);
            }
            if hash.finish() != (entry.transfers, entry.transfers_hash) {
                return Err(broken(entry.to.x, "the transfers were changed"));
            }
            if entry.hash(key) != *stored {
                return Err(broken(entry.to.x, "the row was changed, or sealed with another key"));
            }
            verified.rows += 1;
            verified.transfers += u64::try_from(entry.transfers).unwrap_or(0);
            (verified.head, verified.place) = (*stored, entry.to);
            catalog_version = entry.catalog_version;
        }
    }
    let standing = standing(connection, partition).await?;
    if standing.map(|(place, _)| place) != Some(verified.place) {
        return Err(broken(verified.place.x, "the chain does not end where the ledger stands"));
    }
    if standing.map(|(_, version)| version) != Some(catalog_version) {
        return Err(broken(
            verified.place.x,
            "the ledger's catalog version is not that of the chain's end",
        ));
    }
    if !books(connection, partition, verified.place.x, i64::MAX).await?.is_empty() {
        return Err(broken(verified.place.x, "a journal lies after the end of the chain"));
    }
    Ok(verified)
}

type AuditRow = (i64, i64, i64, Vec<u8>, i64, String, i32, Vec<u8>, Vec<u8>, Vec<u8>, i64);

async fn audit_rows(
    connection: &mut PgConnection,
    partition: u32,
    after: i64,
) -> Result<Vec<(Entry, Hash)>, PostgresError> {
    let rows: Vec<AuditRow> = sqlx::query_as(
        "SELECT position_from, position_to, r, c, catalog_version, counts, transfers, transfers_hash,
             previous_hash, hash, (extract(epoch FROM posted_at) * 1000000)::bigint
         FROM audit WHERE partition = $1 AND position_to > $2 ORDER BY position_to LIMIT $3",
    )
    .bind(integer(partition))
    .bind(after)
    .bind(PAGE_ROWS)
    .fetch_all(connection)
    .await?;
    let entry = |(
        from,
        x,
        r,
        c,
        version,
        counts,
        transfers,
        transfers_hash,
        previous,
        own,
        posted_at_us,
    ): AuditRow| {
        let entry = Entry {
            partition,
            from,
            to: place(x, r, &c)?,
            catalog_version: uncount(version),
            counts,
            transfers,
            transfers_hash: hash(&transfers_hash)?,
            previous: hash(&previous)?,
            posted_at_us,
        };
        Ok((entry, hash(&own)?))
    };
    rows.into_iter().map(entry).collect()
}

/// A journal with one of its transfers, or none.
struct BookRow {
    position_to: i64,
    tenant: Uuid,
    journal: Uuid,
    reference: String,
    transfer: Option<BookTransfer>,
}

/// A transfer as it is read to be sealed.
#[derive(sqlx::FromRow)]
pub(crate) struct BookTransfer {
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

impl BookRow {
    fn put(&self, hash: &mut TransfersHash) {
        let Some(row) = &self.transfer else {
            return hash.journal(self.tenant, self.journal, REASON_USAGE, &self.reference);
        };
        if row.ordinal == 0 {
            hash.journal(self.tenant, self.journal, REASON_USAGE, &self.reference);
        }
        row.put(self.tenant, self.journal, hash);
    }
}

impl BookTransfer {
    /// Adds it to the hash of its journal.
    pub(crate) fn put(&self, tenant: Uuid, journal: Uuid, hash: &mut TransfersHash) {
        // A number that cannot be read cannot be what was sealed either.
        let number = |text: &str| raw(text).unwrap_or(i128::MIN);
        hash.transfer(&Transfer {
            tenant,
            journal,
            ordinal: self.ordinal,
            debit: Side {
                account: self.debit_account,
                kind: &self.debit_kind,
                team: &self.debit_team,
            },
            credit: Side {
                account: self.credit_account,
                kind: &self.credit_kind,
                team: &self.credit_team,
            },
            amount: number(&self.amount),
            currency: &self.currency,
            reason: &self.reason,
            team: &self.team,
            meter: &self.meter,
            card: &self.card,
            card_version: self.card_version,
            quantity: number(&self.quantity),
            events: self.events,
        });
    }
}

/// Journals of usage in (after, to] with their transfers, in the order of the chain.
async fn books(
    connection: &mut PgConnection,
    partition: u32,
    after: i64,
    to: i64,
) -> Result<Vec<BookRow>, PostgresError> {
    use sqlx::{FromRow as _, Row as _};
    let rows = sqlx::query(
        "SELECT j.position_to, j.tenant_id, j.journal_id, j.reference, t.ordinal,
             t.debit_account, coalesce(d.kind, '') AS debit_kind, coalesce(d.team, '') AS debit_team,
             t.credit_account, coalesce(k.kind, '') AS credit_kind, coalesce(k.team, '') AS credit_team,
             (t.amount * 1000000000000)::numeric(60, 0)::text AS amount, t.currency, t.reason, t.team, t.meter,
             t.card, t.card_version, (t.quantity * 1000000000000)::numeric(60, 0)::text AS quantity, t.events
         FROM journals j
         LEFT JOIN transfers t USING (tenant_id, journal_id)
         LEFT JOIN accounts d ON (d.tenant_id, d.account_id, d.currency) = (t.tenant_id, t.debit_account, t.currency)
         LEFT JOIN accounts k ON (k.tenant_id, k.account_id, k.currency) = (t.tenant_id, t.credit_account, t.currency)
         WHERE j.reason = 'usage' AND j.partition = $1 AND j.position_to > $2 AND j.position_to <= $3
         ORDER BY j.position_to, j.tenant_id, j.journal_id, t.ordinal",
    )
    .bind(integer(partition))
    .bind(after)
    .bind(to)
    .fetch_all(connection)
    .await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<BookRow, sqlx::Error> {
        let ordinal: Option<i32> = row.try_get("ordinal")?;
        let transfer = ordinal.map(|_| BookTransfer::from_row(row)).transpose()?;
        Ok(BookRow {
            position_to: row.try_get("position_to")?,
            tenant: row.try_get("tenant_id")?,
            journal: row.try_get("journal_id")?,
            reference: row.try_get("reference")?,
            transfer,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// Where the ledger of a partition stands, and its catalog version.
async fn standing(
    connection: &mut PgConnection,
    partition: u32,
) -> Result<Option<(Place, u64)>, PostgresError> {
    let row: Option<(i64, i64, Vec<u8>, i64)> =
        sqlx::query_as("SELECT x, r, c, catalog_version FROM partitions WHERE partition = $1")
            .bind(integer(partition))
            .fetch_optional(connection)
            .await?;
    row.map(|(x, r, c, version)| Ok((place(x, r, &c)?, uncount(version)))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_its_name_does_not_show_it() {
        let text = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let key = AuditKey::parse(&Secret::new(text)).unwrap();
        assert_eq!(key.id().len(), 16);
        assert!(!text.contains(&key.id()));
        assert!(AuditKey::parse(&Secret::new("00")).is_none());
        assert!(AuditKey::parse(&Secret::new("x".repeat(64))).is_none());
    }

    #[test]
    fn every_field_of_an_entry_is_sealed() {
        let key = AuditKey([7; HASH_LENGTH]);
        let entry = Entry {
            partition: 1,
            from: 2,
            to: Place { x: 3, r: 4, c: [5; HASH_LENGTH] },
            catalog_version: 6,
            counts: "a".to_owned(),
            transfers: 7,
            transfers_hash: [8; HASH_LENGTH],
            previous: [9; HASH_LENGTH],
            posted_at_us: 10,
        };
        let others = [
            Entry { partition: 2, ..entry.clone() },
            Entry { from: 1, ..entry.clone() },
            Entry { to: Place { x: 4, ..entry.to }, ..entry.clone() },
            Entry { to: Place { r: 3, ..entry.to }, ..entry.clone() },
            Entry { to: Place { c: [6; HASH_LENGTH], ..entry.to }, ..entry.clone() },
            Entry { catalog_version: 7, ..entry.clone() },
            Entry { counts: "b".to_owned(), ..entry.clone() },
            Entry { transfers: 8, ..entry.clone() },
            Entry { transfers_hash: [9; HASH_LENGTH], ..entry.clone() },
            Entry { previous: [8; HASH_LENGTH], ..entry.clone() },
            Entry { posted_at_us: 11, ..entry.clone() },
        ];
        for other in others {
            assert_ne!(other.hash(&key), entry.hash(&key), "{other:?}");
        }
        assert_ne!(entry.hash(&AuditKey([8; HASH_LENGTH])), entry.hash(&key));
    }
}
