//! Holds: money that is reserved before work runs. Postgres is the one judge, and decides all holds of
//! a wallet that come together in one round trip: the function `place_holds` of the migrations.

use domain::wallet::take;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    convert::{numeral, raw},
    journal::REASON_CONSUMPTION,
    wallet::{self, Wallet},
};

/// Between the meters of one hold, where they travel as one text.
const SEPARATOR: &str = "\u{1f}";

/// What captures a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleBy {
    /// Usage that names it, and posting.
    Usage,
    /// Calls to the api.
    Call,
}

impl SettleBy {
    /// Its name in `holds.settle_by`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SettleBy::Usage => "usage",
            SettleBy::Call => "call",
        }
    }
}

/// A hold that is asked for.
#[derive(Clone, Debug)]
pub struct NewHold {
    /// Its id, made before the first try: a repeat has the same.
    pub hold: Uuid,
    /// The client's key; what was decided under it stays.
    pub key: Option<String>,
    /// Hash of the request.
    pub request_hash: [u8; 32],
    /// How much, raw (10⁻¹²); positive.
    pub amount: i128,
    /// How long it is open, milliseconds.
    pub life_ms: i64,
    /// What captures it.
    pub settle_by: SettleBy,
    /// The meters whose usage it captures; all when empty.
    pub meters: Vec<String>,
}

/// What was decided about a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its id: of the first request with its key.
    pub hold: Uuid,
    /// `open`, `refused`; of a repeat also `closing` or `ended`.
    pub state: String,
    /// Why it was refused.
    pub reason: String,
    /// False where its key was used for another request.
    pub same: bool,
    /// How much, raw.
    pub amount: i128,
    /// When it was decided, microseconds since 1970.
    pub created_us: i64,
    /// Until when it is open.
    pub expires_us: i64,
    /// What the wallet has available after all of the batch, raw.
    pub available: i128,
}

/// Decides holds on one wallet, in the order given: one statement, which is a transaction of its own.
/// Keys differ within `asked`. Nothing is answered where the tenant has no such wallet.
///
/// After [`PostgresError::OutcomeUnknown`], ask again with the same ids and keys: only those prove
/// what happened.
pub async fn place(
    connection: &mut PgConnection,
    tenant: Uuid,
    wallet: Uuid,
    asked: &[NewHold],
) -> Result<Vec<Decided>, PostgresError> {
    type Row = (i32, Uuid, String, String, bool, String, i64, i64, String);
    let all = || asked.iter();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT number, hold_id, state, reason, same, (amount::numeric * 1000000000000)::numeric(60, 0)::text, created_us, expires_us,
             (available::numeric * 1000000000000)::numeric(60, 0)::text
         FROM place_holds($1, $2, $3, $4, $5, $6::text[]::numeric[], $7, $8, $9)",
    )
    .bind(tenant)
    .bind(wallet)
    .bind(all().map(|one| one.hold).collect::<Vec<_>>())
    .bind(all().map(|one| one.key.as_deref()).collect::<Vec<_>>())
    .bind(all().map(|one| one.request_hash.as_slice()).collect::<Vec<_>>())
    .bind(all().map(|one| numeral(one.amount)).collect::<Vec<_>>())
    .bind(all().map(|one| one.life_ms).collect::<Vec<_>>())
    .bind(all().map(|one| one.settle_by.name()).collect::<Vec<_>>())
    .bind(all().map(|one| one.meters.join(SEPARATOR)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(_, hold, state, reason, same, amount, created_us, expires_us, available)| {
            let (amount, available) = (raw(&amount)?, raw(&available)?);
            Ok(Decided { hold, state, reason, same, amount, created_us, expires_us, available })
        })
        .collect()
}

/// Begins the end of an open hold. What usage in the log by now needs of it is captured first; the
/// rest is freed by the ledger-writer. False where it is not open.
pub async fn release(
    connection: &mut PgConnection,
    tenant: Uuid,
    hold: Uuid,
    reason: &str,
) -> Result<bool, PostgresError> {
    let changed = sqlx::query(
        "UPDATE holds SET state = 'closing', reason = $3 WHERE tenant_id = $1 AND hold_id = $2 AND state = 'open'",
    )
    .bind(tenant)
    .bind(hold)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Why a capture by call is refused; nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such hold.
    Unknown,
    /// Usage captures it, not calls.
    ByUsage,
    /// It is not open any more.
    NotOpen,
    /// More than is held and the tolerance allows; what may be captured, raw.
    Beyond(i128),
    /// More than is held, and the wallet has not got the rest; what may be captured, raw.
    NotCovered(i128),
}

/// A capture by call.
#[derive(Clone, Copy, Debug)]
pub struct NewCapture<'a> {
    /// The hold.
    pub hold: Uuid,
    /// The client's key.
    pub key: &'a str,
    /// How much, raw; positive.
    pub amount: i128,
    /// How far beyond the hold it may go, raw.
    pub tolerance: i128,
    /// Whether the rest of the hold is freed.
    pub last: bool,
}

/// Captures a hold by call: posts from the wallet to revenue. The wallet is locked by the caller, and
/// is that of the hold.
///
/// [`PostgresError::Conflict`] where the key captured before.
pub async fn capture(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    new: &NewCapture<'_>,
) -> Result<Result<Uuid, Refused>, PostgresError> {
    let row: Option<(String, String, String, String, bool)> = sqlx::query_as(
        "SELECT settle_by, state, (amount * 1000000000000)::numeric(60, 0)::text, (captured * 1000000000000)::numeric(60, 0)::text,
             expires_at <= clock_timestamp()
         FROM holds WHERE tenant_id = $1 AND hold_id = $2 AND wallet_id = $3 FOR UPDATE",
    )
    .bind(wallet.tenant)
    .bind(new.hold)
    .bind(wallet.wallet)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((settle_by, state, amount, captured, expired)) = row else {
        return Ok(Err(Refused::Unknown));
    };
    if settle_by != SettleBy::Call.name() {
        return Ok(Err(Refused::ByUsage));
    }
    if state != "open" || expired {
        return Ok(Err(Refused::NotOpen));
    }
    let left = raw(&amount)?.saturating_sub(raw(&captured)?);
    let beyond = new.amount.saturating_sub(left).max(0);
    if beyond > new.tolerance {
        return Ok(Err(Refused::Beyond(left.saturating_add(new.tolerance))));
    }
    let held = hold_lots(connection, wallet.tenant, new.hold).await?;
    let mut rest = new.amount.saturating_sub(beyond);
    let mut parts: Vec<Part> = Vec::new();
    for lot in &held {
        let captured = rest.min(lot.left);
        rest -= captured;
        let released = if new.last { lot.left - captured } else { 0 };
        parts.push(Part { ordinal: lot.ordinal, grant: lot.grant, captured, released });
    }
    let lots = wallet::lots(connection, wallet).await?;
    let now_us = wallet::now_us(connection).await?;
    let available = wallet.available().saturating_sub(wallet.credit_limit).max(0);
    let more = take(&lots, &[], beyond, now_us);
    let covered: i128 = more.iter().map(|(_, amount)| *amount).sum();
    if covered < beyond || available < beyond {
        return Ok(Err(Refused::NotCovered(left.saturating_add(covered.min(available)))));
    }
    let mut spent: Vec<(Uuid, i128)> = parts
        .iter()
        .filter(|part| part.captured > 0)
        .map(|part| (part.grant, part.captured))
        .collect();
    let mut free: Vec<(Uuid, i128)> = Vec::new();
    for (lot, amount) in more {
        free.extend(lots.get(lot).map(|lot| (lot.grant, amount)));
    }
    spent.extend(&free);
    let reference = format!("capture:{}:{}", new.hold, new.key);
    let journal = wallet::spend(connection, wallet, REASON_CONSUMPTION, reference, &spent).await?;
    let held_less: i128 = parts.iter().map(|part| part.captured + part.released).sum();
    wallet.held = wallet.held.saturating_sub(held_less);
    store(connection, wallet, new, &parts, &free, journal).await?;
    if new.last && held_less > new.amount {
        wallet::raise(connection, wallet).await?;
    }
    Ok(Ok(journal))
}

struct HeldLot {
    ordinal: i32,
    grant: Uuid,
    left: i128,
}

/// What a capture does to a lot of its hold.
struct Part {
    ordinal: i32,
    grant: Uuid,
    captured: i128,
    released: i128,
}

async fn hold_lots(
    connection: &mut PgConnection,
    tenant: Uuid,
    hold: Uuid,
) -> Result<Vec<HeldLot>, PostgresError> {
    let rows: Vec<(i32, Uuid, String)> = sqlx::query_as(
        "SELECT ordinal, grant_id, ((amount - captured - released) * 1000000000000)::numeric(60, 0)::text
         FROM hold_lots WHERE tenant_id = $1 AND hold_id = $2 ORDER BY ordinal",
    )
    .bind(tenant)
    .bind(hold)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(ordinal, grant, left)| Ok(HeldLot { ordinal, grant, left: raw(&left)? }))
        .collect()
}

async fn store(
    connection: &mut PgConnection,
    wallet: &Wallet,
    new: &NewCapture<'_>,
    parts: &[Part],
    free: &[(Uuid, i128)],
    journal: Uuid,
) -> Result<(), PostgresError> {
    sqlx::query(
        "UPDATE hold_lots l SET captured = l.captured + part.captured::numeric, released = l.released + part.released::numeric
         FROM UNNEST($3::integer[], $4::text[], $5::text[]) AS part (ordinal, captured, released)
         WHERE l.tenant_id = $1 AND l.hold_id = $2 AND l.ordinal = part.ordinal",
    )
    .bind(wallet.tenant)
    .bind(new.hold)
    .bind(parts.iter().map(|part| part.ordinal).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| numeral(part.captured)).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| numeral(part.released)).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    // A lot may be in the hold and pay what is beyond it too.
    let of_hold =
        parts.iter().map(|part| (part.grant, part.captured, part.captured + part.released));
    let changes: Vec<(Uuid, i128, i128)> =
        of_hold.chain(free.iter().map(|(grant, amount)| (*grant, *amount, 0))).collect();
    sqlx::query(
        "UPDATE grants g SET remaining = g.remaining - change.spent, held = g.held - change.held
         FROM (SELECT grant_id, sum(spent::numeric) AS spent, sum(held::numeric) AS held
               FROM UNNEST($2::uuid[], $3::text[], $4::text[]) AS change (grant_id, spent, held) GROUP BY grant_id) change
         WHERE g.tenant_id = $1 AND g.grant_id = change.grant_id",
    )
    .bind(wallet.tenant)
    .bind(changes.iter().map(|(grant, ..)| *grant).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, spent, _)| numeral(*spent)).collect::<Vec<_>>())
    .bind(changes.iter().map(|(.., held)| numeral(*held)).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    let captured: i128 = parts.iter().map(|part| part.captured).sum();
    sqlx::query(
        "UPDATE holds SET captured = captured + $3::text::numeric, state = CASE WHEN $4 THEN 'ended' ELSE state END,
             reason = CASE WHEN $4 THEN 'captured' ELSE reason END, ended_at = CASE WHEN $4 THEN clock_timestamp() END
         WHERE tenant_id = $1 AND hold_id = $2",
    )
    .bind(wallet.tenant)
    .bind(new.hold)
    .bind(numeral(captured))
    .bind(new.last)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO captures (tenant_id, hold_id, key, amount, journal_id) VALUES ($1, $2, $3, $4::text::numeric, $5)",
    )
    .bind(wallet.tenant)
    .bind(new.hold)
    .bind(new.key)
    .bind(numeral(new.amount))
    .bind(journal)
    .execute(&mut *connection)
    .await?;
    wallet::store(connection, wallet).await
}
