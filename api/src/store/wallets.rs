//! Wallets and their entries. What changes a balance is the ledger's.

use domain::money::Amount;
use ledger::wallet::{self, Consumed, NewWallet, Wallet};
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError};

/// A wallet with how far its partition is posted, in one statement.
#[derive(sqlx::FromRow)]
pub(crate) struct WalletRow {
    pub wallet_id: Uuid,
    pub team: String,
    pub currency: String,
    pub mode: String,
    pub balance: String,
    pub held: String,
    pub debt: String,
    pub credit_limit: String,
    pub available: String,
    pub sequence: i64,
    pub created_at_us: i64,
    pub partition: i32,
    pub x: i64,
}

/// A row of `wallet_entries`.
#[derive(sqlx::FromRow)]
pub(crate) struct EntryRow {
    pub sequence: i64,
    pub reason: String,
    pub amount: String,
    pub balance_before: String,
    pub balance_after: String,
    pub grant_id: Option<Uuid>,
    pub journal_id: Uuid,
    pub entered_at_us: i64,
}

/// One wallet; only of `team`, where that is given.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    team: Option<&str>,
) -> Result<Option<WalletRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT wallet_id, team, currency, mode, balance::text, held::text, debt::text, credit_limit::text,
             (balance - held - debt + credit_limit)::text AS available, sequence,
             (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us, partition, x
         FROM wallets JOIN partitions USING (partition)
         WHERE tenant_id = $1 AND wallet_id = $2 AND ($3::text IS NULL OR team = $3)",
    )
    .bind(tenant.id())
    .bind(wallet)
    .bind(team)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The wallets of a team, by currency.
pub(crate) async fn of_team(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
) -> Result<Vec<WalletRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT wallet_id, team, currency, mode, balance::text, held::text, debt::text, credit_limit::text,
             (balance - held - debt + credit_limit)::text AS available, sequence,
             (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us, partition, x
         FROM wallets JOIN partitions USING (partition)
         WHERE tenant_id = $1 AND team = $2 ORDER BY currency",
    )
    .bind(tenant.id())
    .bind(team)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The wallet of a team in a currency.
pub(crate) async fn named(
    connection: &mut PgConnection,
    tenant: TenantScope,
    team: &str,
    currency: &str,
) -> Result<Option<Uuid>, ApiError> {
    let wallet = sqlx::query_scalar(
        "SELECT wallet_id FROM wallets WHERE tenant_id = $1 AND team = $2 AND currency = $3",
    )
    .bind(tenant.id())
    .bind(team)
    .bind(currency)
    .fetch_optional(connection)
    .await?;
    Ok(wallet)
}

/// Makes a wallet; the tenant in `new` is that of the scope.
pub(crate) async fn create(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewWallet<'_>,
) -> Result<Uuid, ApiError> {
    let new = NewWallet { tenant: tenant.id(), ..new.clone() };
    Ok(wallet::create(connection, &new).await?)
}

/// Locks a wallet and reads it.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
) -> Result<Option<Wallet>, ApiError> {
    Ok(wallet::lock(connection, tenant.id(), wallet).await?)
}

/// Sets what is given of a wallet.
pub(crate) async fn set(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    mode: Option<&str>,
    credit_limit: Option<i128>,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE wallets SET mode = coalesce($3, mode), credit_limit = coalesce($4::text::numeric, credit_limit)
         WHERE tenant_id = $1 AND wallet_id = $2",
    )
    .bind(tenant.id())
    .bind(wallet)
    .bind(mode)
    .bind(credit_limit.map(|limit| Amount::of_sum(limit).to_string()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Entries of a wallet, newest first, before the one at the cursor.
pub(crate) async fn entries(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<EntryRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT sequence, reason, amount::text, balance_before::text, balance_after::text, grant_id, journal_id,
             (extract(epoch FROM entered_at) * 1000000)::bigint AS entered_at_us
         FROM wallet_entries
         WHERE tenant_id = $1 AND wallet_id = $2 AND ($3::bigint IS NULL OR sequence < $3)
         ORDER BY sequence DESC LIMIT $4",
    )
    .bind(tenant.id())
    .bind(wallet)
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// What a wallet's balance was; `None` before its first entry.
pub(crate) async fn balance_at(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
    at_us: Option<i64>,
) -> Result<Option<String>, ApiError> {
    let balance = sqlx::query_scalar(
        "SELECT balance_after::text FROM wallet_entries
         WHERE tenant_id = $1 AND wallet_id = $2
             AND ($3::bigint IS NULL OR entered_at <= to_timestamp(0) + $3 * interval '1 microsecond')
         ORDER BY entered_at DESC, sequence DESC LIMIT 1",
    )
    .bind(tenant.id())
    .bind(wallet)
    .bind(at_us)
    .fetch_optional(connection)
    .await?;
    Ok(balance)
}

/// Takes an amount out of a locked wallet; inside, `Err` is what there was to take.
pub(crate) async fn consume(
    connection: &mut PgConnection,
    wallet: &mut Wallet,
    amount: i128,
    reference: &str,
) -> Result<Result<Consumed, i128>, PostgresError> {
    wallet::consume(connection, wallet, amount, reference).await
}

/// Whether a name is the tenant's own key, or what its own systems call it.
pub(crate) async fn is_seller(
    connection: &mut PgConnection,
    tenant: TenantScope,
    name: &str,
) -> Result<bool, ApiError> {
    let found: Option<bool> = sqlx::query_scalar(
        "SELECT true FROM tenants WHERE tenant_id = $1 AND (key = $2 OR external_key = $2)",
    )
    .bind(tenant.id())
    .bind(name)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some() || Uuid::try_parse(name).is_ok_and(|id| id == tenant.id()))
}
