//! What a settlement reads, after its locks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use domain::{
    planted::{self, Bug},
    wallet::{Item, Lot, Paid, Reserve, Settlement},
};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::WalletId;
use crate::{
    convert::{integer, partition as read_partition, raw},
    wallet::{LotRow, Wallet},
};

/// Old items of a wallet that are looked at in one settlement.
const OLD_ITEMS_MAX: i64 = 5000;
/// Holds that end in one settlement.
const ENDING_MAX: i64 = 10_000;
/// Payments of a wallet that a reversal looks at in one settlement.
const PAID_MAX: i64 = 1000;

/// The key of an item within its tenant and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ItemKey {
    pub batch_to: i64,
    pub ordinal: i32,
}

/// Where what was paid comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct PaidKey {
    pub item: ItemKey,
    pub settle_seq: i64,
    pub grant: Uuid,
    pub paid_for: bool,
}

/// A grant as it is stored.
#[derive(Clone, Debug)]
pub(super) struct GrantState {
    pub scheduled: bool,
    /// How it ends, if posting has passed all that may need it.
    pub ending: Option<String>,
}

/// A hold as it is stored.
#[derive(Clone, Debug)]
pub(super) struct HoldState {
    /// Numbers of its lots, as in the domain's list.
    pub ordinals: Vec<i32>,
}

/// One wallet with everything that its settlement is decided by.
pub(super) struct Case {
    pub wallet: Wallet,
    /// What the new items add up to, raw.
    pub added: i128,
    pub settlement: Settlement,
    pub items: Vec<ItemKey>,
    /// Whether the item has a hold and was never settled.
    pub fresh: Vec<bool>,
    pub holds: Vec<HoldState>,
    pub grants: Vec<GrantState>,
    pub reversals: Vec<ItemKey>,
    pub paid: Vec<PaidKey>,
    /// Version of its row of `settle_due`.
    pub due: Option<Uuid>,
    /// Whether old items, or payments that may be taken back, were left out.
    pub more: bool,
}

/// A wallet under its lock, and up to where it was settled.
pub(super) struct Locked {
    wallet: Wallet,
    settled_to: i64,
}

#[derive(sqlx::FromRow)]
struct WalletRow {
    tenant_id: Uuid,
    wallet_id: Uuid,
    team: String,
    currency: String,
    partition: i32,
    balance: String,
    held: String,
    held_on_credit: String,
    debt: String,
    credit_limit: String,
    sequence: i64,
    settled_to: i64,
}

/// Locks wallets in order of their ids.
pub(super) async fn lock(
    connection: &mut PgConnection,
    wallets: &[WalletId],
) -> Result<Vec<Locked>, PostgresError> {
    if wallets.is_empty() {
        return Ok(Vec::new());
    }
    let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) = wallets.iter().copied().unzip();
    let rows: Vec<WalletRow> = sqlx::query_as(
        "SELECT w.tenant_id, w.wallet_id, w.team, w.currency, w.partition, (w.balance * 1000000000000)::numeric(60, 0)::text AS balance,
             (w.held * 1000000000000)::numeric(60, 0)::text AS held,
             (w.held_on_credit * 1000000000000)::numeric(60, 0)::text AS held_on_credit,
             (w.debt * 1000000000000)::numeric(60, 0)::text AS debt,
             (w.credit_limit * 1000000000000)::numeric(60, 0)::text AS credit_limit, w.sequence, w.settled_to
         FROM wallets w JOIN (SELECT DISTINCT * FROM UNNEST($1::uuid[], $2::uuid[]) AS asked (tenant_id, wallet_id)) asked
             USING (tenant_id, wallet_id)
         ORDER BY w.tenant_id, w.wallet_id FOR UPDATE OF w",
    )
    .bind(tenants)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(locked).collect()
}

fn locked(row: WalletRow) -> Result<Locked, PostgresError> {
    let wallet = Wallet {
        tenant: row.tenant_id,
        wallet: row.wallet_id,
        team: Arc::from(row.team),
        currency: Arc::from(row.currency),
        partition: read_partition(row.partition)?,
        balance: raw(&row.balance)?,
        held: raw(&row.held)?,
        held_on_credit: raw(&row.held_on_credit)?,
        debt: raw(&row.debt)?,
        credit_limit: raw(&row.credit_limit)?,
        sequence: row.sequence,
    };
    Ok(Locked { wallet, settled_to: row.settled_to })
}

/// Keys of the wallets, as the statements take them.
struct Keys {
    tenants: Vec<Uuid>,
    wallets: Vec<Uuid>,
    teams: Vec<String>,
    currencies: Vec<String>,
}

impl Keys {
    fn of(locked: &[Locked]) -> Keys {
        let all = || locked.iter().map(|one| &one.wallet);
        Keys {
            tenants: all().map(|one| one.tenant).collect(),
            wallets: all().map(|one| one.wallet).collect(),
            teams: all().map(|one| one.team.to_string()).collect(),
            currencies: all().map(|one| one.currency.to_string()).collect(),
        }
    }
}

/// Reads everything of wallets that are locked. `x` is the position up to which the partition is
/// posted.
pub(super) async fn all(
    connection: &mut PgConnection,
    locked: Vec<Locked>,
    partition: u32,
    x: i64,
    now_us: i64,
) -> Result<Vec<Case>, PostgresError> {
    if locked.is_empty() {
        return Ok(Vec::new());
    }
    let keys = Keys::of(&locked);
    let mut due = due(connection, &keys, partition).await?;
    let mut reversals = reversals(connection, &keys).await?;
    let taking_back: Vec<i64> = (0_i64..)
        .zip(&locked)
        .filter(|(number, one)| {
            // An older one that waits has found nothing to take back, and nothing is paid while it waits.
            let all = reversals.get(number);
            let new = |key: &ItemKey| key.batch_to > one.settled_to || due.contains_key(number);
            all.is_some_and(|all| all.iter().any(|(key, _)| new(key)))
        })
        .map(|(number, _)| number)
        .collect();
    let mut paid = paid(connection, &keys, &taking_back).await?;
    let mut grants = grants(connection, &keys, &paid, now_us).await?;
    let ending = ending_holds(connection, &keys, partition, x).await?;
    let freeing: HashSet<WalletId> =
        ending.iter().map(|(_, tenant, wallet)| (*tenant, *wallet)).collect();
    let raised: Vec<bool> = (0_i64..)
        .zip(&locked)
        .map(|(number, one)| {
            let starts = grants
                .get(&number)
                .is_some_and(|all| all.iter().any(|row| row.state == "scheduled"));
            let frees = freeing.contains(&(one.wallet.tenant, one.wallet.wallet));
            let raised = starts || frees || due.contains_key(&number);
            let has = grants.get(&number).is_some_and(|all| all.iter().any(LotRow::may_pay));
            raised && (has || frees) || reversals.contains_key(&number)
        })
        .collect();
    let settled_to: Vec<i64> = locked.iter().map(|one| one.settled_to).collect();
    let mut items = items(connection, &keys, &settled_to, &raised).await?;
    let mut holds = holds(connection, &keys, &items, &ending).await?;
    let mut cases = Vec::with_capacity(locked.len());
    for (number, one) in (0_i64..).zip(locked) {
        let read = Read {
            due: due.remove(&number),
            reversals: reversals.remove(&number).unwrap_or_default(),
            paid: paid.remove(&number).unwrap_or_default(),
            grants: grants.remove(&number).unwrap_or_default(),
            items: items.remove(&number).unwrap_or_default(),
            holds: holds.remove(&number).unwrap_or_default(),
        };
        cases.push(case(one, read, x)?);
    }
    Ok(cases)
}

/// The rows of one wallet.
struct Read {
    due: Option<Uuid>,
    reversals: Vec<(ItemKey, i128)>,
    paid: Vec<(PaidKey, i128)>,
    grants: Vec<LotRow>,
    items: Vec<ItemRow>,
    holds: Vec<HoldRow>,
}

fn case(locked: Locked, read: Read, x: i64) -> Result<Case, PostgresError> {
    let Locked { wallet, settled_to } = locked;
    let mut lots: Vec<(Lot, GrantState)> = Vec::with_capacity(read.grants.len());
    for row in &read.grants {
        let over = row.final_position.is_some_and(|end| end <= x.saturating_add(1));
        let scheduled = row.state == "scheduled";
        let ending = row.ending.clone().filter(|_| over && row.state == "ending");
        lots.push((row.lot()?, GrantState { scheduled, ending }));
    }
    lots.sort_by_key(|(lot, _)| lot.burn_order());
    let (lots, grants): (Vec<Lot>, Vec<GrantState>) = lots.into_iter().unzip();
    let lot_of = |grant: Uuid| lots.iter().position(|lot| lot.grant == grant);
    let mut reserves = Vec::with_capacity(read.holds.len());
    let mut holds = Vec::with_capacity(read.holds.len());
    for row in &read.holds {
        reserves.push(reserve(row, lot_of)?);
        holds.push(HoldState { ordinals: row.ordinals.clone() });
    }
    // A hold that calls capture ends here, too, and captures nothing.
    let by_usage = read.holds.iter().enumerate().filter(|(_, row)| row.by_usage);
    let numbers: HashMap<Uuid, usize> =
        by_usage.map(|(number, row)| (row.hold_id, number)).collect();
    let hold_of = |hold: Option<Uuid>| numbers.get(&hold?).copied();
    let mut settlement =
        Settlement { lots: lots.clone(), holds: reserves, ..Settlement::default() };
    let (mut keys, mut fresh, mut added, mut old) = (Vec::new(), Vec::new(), 0_i128, 0_i64);
    for row in &read.items {
        let unpaid = raw(&row.unpaid)?;
        if row.batch_to > settled_to {
            added += unpaid;
        } else {
            old += 1;
        }
        let never = row.fresh || planted::is(Bug::CapturedAgain);
        let hold = hold_of(row.hold_id).filter(|_| never);
        let meter = row.meter.clone();
        settlement.items.push(Item { meter, bucket_us: row.bucket_us, unpaid, hold });
        keys.push(ItemKey { batch_to: row.batch_to, ordinal: row.ordinal });
        fresh.push(never);
    }
    settlement.reversals = read.reversals.iter().map(|(_, left)| *left).collect();
    settlement.paid =
        read.paid.iter().map(|(key, left)| Paid { lot: lot_of(key.grant), left: *left }).collect();
    Ok(Case {
        wallet,
        added,
        settlement,
        items: keys,
        fresh,
        holds,
        grants,
        reversals: read.reversals.iter().map(|(key, _)| *key).collect(),
        more: old >= OLD_ITEMS_MAX
            || i64::try_from(read.paid.len()).is_ok_and(|paid| paid >= PAID_MAX),
        paid: read.paid.iter().map(|(key, _)| *key).collect(),
        due: read.due,
    })
}

fn reserve(
    row: &HoldRow,
    lot_of: impl Fn(Uuid) -> Option<usize>,
) -> Result<Reserve, PostgresError> {
    let mut lots = Vec::with_capacity(row.grants.len());
    for (grant, left) in row.grants.iter().zip(&row.lefts) {
        let lot = lot_of(*grant);
        let lot = lot.ok_or_else(|| {
            PostgresError::Broken(format!("hold {} reserves of a grant that ended", row.hold_id))
        })?;
        lots.push((lot, raw(left)?));
    }
    Ok(Reserve {
        hold: row.hold_id,
        meters: row.meters.clone(),
        lots,
        on_credit: raw(&row.on_credit)?,
        ends: row.ends,
    })
}

/// Versions of the rows of `settle_due`, by number of the wallet.
async fn due(
    connection: &mut PgConnection,
    keys: &Keys,
    partition: u32,
) -> Result<HashMap<i64, Uuid>, PostgresError> {
    let rows: Vec<(i64, Uuid)> = sqlx::query_as(
        "SELECT w.number - 1, d.version FROM UNNEST($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w (tenant_id, wallet_id, number)
         JOIN settle_due d ON d.partition = $3 AND (d.tenant_id, d.wallet_id) = (w.tenant_id, w.wallet_id)",
    )
    .bind(&keys.tenants)
    .bind(&keys.wallets)
    .bind(integer(partition))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Reversals that are not applied, oldest first.
async fn reversals(
    connection: &mut PgConnection,
    keys: &Keys,
) -> Result<HashMap<i64, Vec<(ItemKey, i128)>>, PostgresError> {
    let rows: Vec<(i64, i64, i32, String)> = sqlx::query_as(
        "SELECT w.number - 1, r.batch_to, r.ordinal, ((r.amount - r.applied) * 1000000000000)::numeric(60, 0)::text
         FROM UNNEST($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS w (tenant_id, team, currency, number)
         JOIN reversals r ON (r.tenant_id, r.team, r.currency) = (w.tenant_id, w.team, w.currency) AND r.applied < r.amount
         ORDER BY w.number, r.batch_to, r.ordinal",
    )
    .bind(&keys.tenants)
    .bind(&keys.teams)
    .bind(&keys.currencies)
    .fetch_all(connection)
    .await?;
    let mut all: HashMap<i64, Vec<(ItemKey, i128)>> = HashMap::new();
    for (number, batch_to, ordinal, left) in rows {
        all.entry(number).or_default().push((ItemKey { batch_to, ordinal }, raw(&left)?));
    }
    Ok(all)
}

/// What reversals may return, newest first; only of wallets with these numbers.
async fn paid(
    connection: &mut PgConnection,
    keys: &Keys,
    numbers: &[i64],
) -> Result<HashMap<i64, Vec<(PaidKey, i128)>>, PostgresError> {
    let mut all: HashMap<i64, Vec<(PaidKey, i128)>> = HashMap::new();
    if numbers.is_empty() {
        return Ok(all);
    }
    let rows: Vec<(i64, i64, i32, i64, Uuid, bool, String)> = sqlx::query_as(
        "SELECT w.number - 1, p.batch_to, p.ordinal, p.settle_seq, p.grant_id, p.kind = 'paid',
             (p.left_over * 1000000000000)::numeric(60, 0)::text
         FROM UNNEST($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w (tenant_id, wallet_id, number)
         CROSS JOIN LATERAL (
             SELECT a.batch_to, a.ordinal, a.settle_seq, a.grant_id, g.kind, a.amount - back.amount AS left_over
             FROM grants g JOIN allocations a USING (tenant_id, grant_id)
             CROSS JOIN LATERAL (
                 SELECT coalesce(sum(b.amount), 0) AS amount FROM reversal_allocations b WHERE (b.tenant_id, b.partition, b.item_batch_to,
                     b.item_ordinal, b.grant_id, b.paid_in) = (a.tenant_id, a.partition, a.batch_to, a.ordinal, a.grant_id, a.settle_seq)) back
             WHERE (g.tenant_id, g.wallet_id) = (w.tenant_id, w.wallet_id) AND a.amount > back.amount
             ORDER BY a.settle_seq DESC, a.batch_to DESC, a.ordinal DESC, a.grant_id LIMIT $4) p
         WHERE w.number - 1 = ANY($3)
         ORDER BY w.number, p.settle_seq DESC, p.batch_to DESC, p.ordinal DESC, p.grant_id",
    )
    .bind(&keys.tenants)
    .bind(&keys.wallets)
    .bind(numbers)
    .bind(PAID_MAX)
    .fetch_all(connection)
    .await?;
    for (number, batch_to, ordinal, settle_seq, grant, paid_for, left) in rows {
        let key = PaidKey { item: ItemKey { batch_to, ordinal }, settle_seq, grant, paid_for };
        all.entry(number).or_default().push((key, raw(&left)?));
    }
    Ok(all)
}

/// Grants that run or end, that are to start, or that paid what may be returned.
async fn grants(
    connection: &mut PgConnection,
    keys: &Keys,
    paid: &HashMap<i64, Vec<(PaidKey, i128)>>,
    now_us: i64,
) -> Result<HashMap<i64, Vec<LotRow>>, PostgresError> {
    let returned: Vec<Uuid> = paid.values().flatten().map(|(key, _)| key.grant).collect();
    let rows: Vec<LotRow> = sqlx::query_as(
        "SELECT g.grant_id, g.wallet_id, g.kind, g.priority,
             (g.remaining * 1000000000000)::numeric(60, 0)::text AS remaining, (g.held * 1000000000000)::numeric(60, 0)::text AS held,
             g.meters, (extract(epoch FROM g.starts_at) * 1000000)::bigint AS starts_us,
             (extract(epoch FROM g.expires_at) * 1000000)::bigint AS expires_us,
             (extract(epoch FROM g.created_at) * 1000000)::bigint AS created_us, g.state, g.ending, g.final_position
         FROM UNNEST($1::uuid[], $2::uuid[]) AS w (tenant_id, wallet_id) JOIN grants g USING (tenant_id, wallet_id)
         WHERE g.state IN ('running', 'ending') AND (g.remaining > 0 OR g.state = 'ending' OR g.grant_id = ANY($3))
             OR g.state = 'scheduled' AND g.starts_at <= 'epoch'::timestamptz + $4 * interval '1 microsecond'
         ORDER BY g.tenant_id, g.grant_id FOR UPDATE OF g",
    )
    .bind(&keys.tenants)
    .bind(&keys.wallets)
    .bind(returned)
    .bind(now_us)
    .fetch_all(connection)
    .await?;
    let numbers: HashMap<Uuid, i64> = keys.wallets.iter().copied().zip(0..).collect();
    let mut all: HashMap<i64, Vec<LotRow>> = HashMap::new();
    for row in rows {
        let number = numbers.get(&row.wallet_id).copied().unwrap_or(-1);
        all.entry(number).or_default().push(row);
    }
    Ok(all)
}

/// Holds that end in this settlement: posting has passed all that may name them. Hold, tenant, wallet.
async fn ending_holds(
    connection: &mut PgConnection,
    keys: &Keys,
    partition: u32,
    x: i64,
) -> Result<Vec<(Uuid, Uuid, Uuid)>, PostgresError> {
    let rows = sqlx::query_as(
        "SELECT h.hold_id, h.tenant_id, h.wallet_id FROM holds h JOIN UNNEST($1::uuid[], $2::uuid[]) AS w (tenant_id, wallet_id)
             USING (tenant_id, wallet_id)
         WHERE h.partition = $3 AND h.state = 'closing' AND h.ending_position <= $4 LIMIT $5",
    )
    .bind(&keys.tenants)
    .bind(&keys.wallets)
    .bind(integer(partition))
    .bind(x.saturating_add(1))
    .bind(ENDING_MAX)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

#[derive(sqlx::FromRow)]
struct ItemRow {
    number: i64,
    batch_to: i64,
    ordinal: i32,
    meter: String,
    bucket_us: i64,
    hold_id: Option<Uuid>,
    fresh: bool,
    unpaid: String,
}

/// What is unpaid, in the order of settlement: what no settlement has looked at, and of wallets that
/// were raised also what is older.
async fn items(
    connection: &mut PgConnection,
    keys: &Keys,
    settled_to: &[i64],
    raised: &[bool],
) -> Result<HashMap<i64, Vec<ItemRow>>, PostgresError> {
    let rows: Vec<ItemRow> = sqlx::query_as(
        "SELECT w.number - 1 AS number, i.batch_to, i.ordinal, i.meter, (extract(epoch FROM i.bucket) * 1000000)::bigint AS bucket_us,
             i.hold_id, i.hold_id IS NOT NULL AND i.captured IS NULL AS fresh,
             ((i.amount - i.paid) * 1000000000000)::numeric(60, 0)::text AS unpaid
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::boolean[]) WITH ORDINALITY
             AS w (tenant_id, team, currency, settled_to, raised, number)
         CROSS JOIN LATERAL (
             (SELECT * FROM open_items o WHERE (o.tenant_id, o.team, o.currency) = (w.tenant_id, w.team, w.currency)
                 AND o.paid < o.amount AND o.batch_to > w.settled_to)
             UNION ALL
             (SELECT * FROM open_items o WHERE (o.tenant_id, o.team, o.currency) = (w.tenant_id, w.team, w.currency)
                 AND o.paid < o.amount AND o.batch_to <= w.settled_to AND w.raised
              ORDER BY o.batch_to, o.ordinal LIMIT $6)) i
         ORDER BY w.number, i.bucket, i.meter, i.batch_to, i.ordinal",
    )
    .bind(&keys.tenants)
    .bind(&keys.teams)
    .bind(&keys.currencies)
    .bind(settled_to)
    .bind(raised)
    .bind(OLD_ITEMS_MAX)
    .fetch_all(connection)
    .await?;
    let mut all: HashMap<i64, Vec<ItemRow>> = HashMap::new();
    for row in rows {
        all.entry(row.number).or_default().push(row);
    }
    Ok(all)
}

#[derive(sqlx::FromRow)]
struct HoldRow {
    number: i64,
    hold_id: Uuid,
    meters: Vec<String>,
    on_credit: String,
    by_usage: bool,
    ends: bool,
    ordinals: Vec<i32>,
    grants: Vec<Uuid>,
    lefts: Vec<String>,
}

/// Holds that the items name, while they may capture, and those that end.
async fn holds(
    connection: &mut PgConnection,
    keys: &Keys,
    items: &HashMap<i64, Vec<ItemRow>>,
    ending: &[(Uuid, Uuid, Uuid)],
) -> Result<HashMap<i64, Vec<HoldRow>>, PostgresError> {
    let named = items
        .values()
        .flatten()
        .filter(|item| item.fresh || planted::is(Bug::CapturedAgain))
        .filter_map(|item| item.hold_id);
    let wanted: Vec<(Uuid, bool)> = named
        .map(|hold| (hold, false))
        .chain(ending.iter().map(|(hold, ..)| (*hold, true)))
        .collect();
    let mut all: HashMap<i64, Vec<HoldRow>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(all);
    }
    let rows: Vec<HoldRow> = sqlx::query_as(
        "WITH locked AS (
             SELECT h.*, wanted.ends FROM (SELECT hold_id, bool_or(ends) AS ends FROM UNNEST($3::uuid[], $4::boolean[]) AS wanted (hold_id, ends)
                 GROUP BY hold_id) wanted
             CROSS JOIN (SELECT DISTINCT tenant_id FROM UNNEST($1::uuid[]) AS own (tenant_id)) own
             JOIN holds h ON (h.tenant_id, h.hold_id) = (own.tenant_id, wanted.hold_id)
             WHERE h.state IN ('open', 'closing') AND (h.settle_by = 'usage' OR wanted.ends)
             ORDER BY h.tenant_id, h.hold_id FOR UPDATE OF h)
         SELECT w.number - 1 AS number, h.hold_id, h.meters, (h.on_credit * 1000000000000)::numeric(60, 0)::text AS on_credit,
             h.settle_by = 'usage' AS by_usage, h.ends, l.ordinals, l.grants, l.lefts
         FROM locked h
         JOIN UNNEST($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w (tenant_id, wallet_id, number) USING (tenant_id, wallet_id)
         CROSS JOIN LATERAL (SELECT coalesce(array_agg(ordinal ORDER BY ordinal), '{}') AS ordinals,
                 coalesce(array_agg(grant_id ORDER BY ordinal), '{}') AS grants,
                 coalesce(array_agg(((amount - captured - released) * 1000000000000)::numeric(60, 0)::text ORDER BY ordinal), '{}') AS lefts
             FROM hold_lots l WHERE (l.tenant_id, l.hold_id) = (h.tenant_id, h.hold_id) AND l.amount > l.captured + l.released) l
         ORDER BY w.number, h.created_at, h.hold_id",
    )
    .bind(&keys.tenants)
    .bind(&keys.wallets)
    .bind(wanted.iter().map(|(hold, _)| *hold).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(_, ends)| *ends).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    for row in rows {
        all.entry(row.number).or_default().push(row);
    }
    Ok(all)
}
