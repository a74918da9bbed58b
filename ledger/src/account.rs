//! The chart of accounts. Accounts are opened by their first transfer and never closed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

/// Accounts and teams that one [`Book`] remembers before it starts anew: about 100 MB at most.
const REMEMBERED_MAX: usize = 400_000;

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What a team owes.
    Receivable,
    /// What the tenant earned.
    Revenue,
    /// What the tenant's own providers charged.
    CostOfSales,
    /// What the tenant owes its providers.
    ProviderPayable,
    /// What a team has in store.
    Wallet,
    /// What was paid for and never used.
    Breakage,
    /// What was given away, less what of it was never used.
    Promotions,
    /// Payments that were told, whose money is on its way.
    PaymentsInTransit,
}

impl Kind {
    /// Its name in `accounts.kind`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Receivable => "receivable",
            Kind::Revenue => "revenue",
            Kind::CostOfSales => "cost_of_sales",
            Kind::ProviderPayable => "provider_payable",
            Kind::Wallet => "wallet",
            Kind::Breakage => "breakage",
            Kind::Promotions => "promotions",
            Kind::PaymentsInTransit => "payments_in_transit",
        }
    }
}

/// What makes an account unique. `team` is empty for accounts of the tenant itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName {
    /// Whose book it is in.
    pub tenant: Uuid,
    /// What it is for.
    pub kind: Kind,
    /// The team, or nothing.
    pub team: Arc<str>,
    /// Its one currency.
    pub currency: Arc<str>,
}

/// What is known of accounts and teams, so that a window asks only about new ones. It learns only
/// from transactions that were committed.
#[derive(Debug, Default)]
pub struct Book {
    accounts: HashMap<AccountName, i64>,
    teams: HashSet<(Uuid, Arc<str>)>,
    wallets: HashMap<WalletName, Uuid>,
}

/// Whose wallet it is: tenant, team and currency.
pub type WalletName = (Uuid, Arc<str>, Arc<str>);

impl Book {
    /// The id of an account, if it is known.
    #[must_use]
    pub fn id(&self, name: &AccountName) -> Option<i64> {
        self.accounts.get(name).copied()
    }

    /// Whether a team is known to be in `teams`.
    #[must_use]
    pub fn knows_team(&self, tenant: Uuid, team: &Arc<str>) -> bool {
        self.teams.contains(&(tenant, Arc::clone(team)))
    }

    /// Remembers what a committed transaction found or made.
    pub fn learn(&mut self, learned: Learned) {
        if self.accounts.len() + self.teams.len() > REMEMBERED_MAX {
            self.forget();
        }
        self.accounts.extend(learned.accounts);
        self.teams.extend(learned.teams);
        self.wallets.extend(learned.wallets);
    }

    /// Replaces what is known of wallets: all of the partition whose teams' receivables consist of
    /// items, as of one moment at which nobody else posts or settles.
    pub fn set_wallets(&mut self, wallets: impl Iterator<Item = (WalletName, Uuid)>) {
        self.wallets = wallets.collect();
    }

    /// Remembers a wallet that was itemised.
    pub fn know_wallet(&mut self, name: WalletName, wallet: Uuid) {
        self.wallets.insert(name, wallet);
    }

    /// Whether it knows of any wallet.
    #[must_use]
    pub fn has_wallets(&self) -> bool {
        !self.wallets.is_empty()
    }

    /// The wallet that pays what a team owes in a currency.
    #[must_use]
    pub fn wallet(&self, name: &WalletName) -> Option<Uuid> {
        self.wallets.get(name).copied()
    }

    /// Forgets accounts and teams.
    pub fn forget(&mut self) {
        self.accounts.clear();
        self.teams.clear();
    }
}

/// What a transaction found or made. True once it is committed.
#[derive(Debug, Default)]
pub struct Learned {
    /// Accounts with their ids.
    pub accounts: HashMap<AccountName, i64>,
    /// Teams.
    pub teams: Vec<(Uuid, Arc<str>)>,
    /// Wallets.
    pub wallets: Vec<(WalletName, Uuid)>,
}

/// Registers teams by their first usage; those that exist stay as they are.
pub async fn insert_teams(
    connection: &mut PgConnection,
    teams: &[(Uuid, Arc<str>)],
) -> Result<(), PostgresError> {
    if teams.is_empty() {
        return Ok(());
    }
    let (tenants, names): (Vec<Uuid>, Vec<&str>) =
        teams.iter().map(|(tenant, team)| (*tenant, &**team)).unzip();
    sqlx::query(
        "INSERT INTO teams (tenant_id, team, origin)
         SELECT tenant_id, team, 'usage' FROM UNNEST($1::uuid[], $2::text[]) AS new (tenant_id, team)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenants)
    .bind(names)
    .execute(connection)
    .await?;
    Ok(())
}

/// Opens the accounts that do not exist and answers the ids of all. `names` is sorted and holds
/// each once, so that two partitions that open the same accounts wait for each other in one order.
pub async fn open(
    connection: &mut PgConnection,
    names: &[AccountName],
) -> Result<HashMap<AccountName, i64>, PostgresError> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    insert_accounts(connection, names).await?;
    let ids = select_accounts(connection, names).await?;
    if ids.len() != names.len() {
        return Err(PostgresError::Broken(format!(
            "{} accounts were opened and {} found",
            names.len(),
            ids.len()
        )));
    }
    Ok(ids)
}

async fn insert_accounts(
    connection: &mut PgConnection,
    names: &[AccountName],
) -> Result<(), PostgresError> {
    sqlx::query(
        "INSERT INTO accounts (tenant_id, kind, team, currency)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(names.iter().map(|name| name.tenant).collect::<Vec<_>>())
    .bind(names.iter().map(|name| name.kind.name()).collect::<Vec<_>>())
    .bind(names.iter().map(|name| &*name.team).collect::<Vec<_>>())
    .bind(names.iter().map(|name| &*name.currency).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn select_accounts(
    connection: &mut PgConnection,
    names: &[AccountName],
) -> Result<HashMap<AccountName, i64>, PostgresError> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT wanted.number, accounts.account_id
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
             AS wanted (tenant_id, kind, team, currency, number)
         JOIN accounts USING (tenant_id, kind, team, currency)",
    )
    .bind(names.iter().map(|name| name.tenant).collect::<Vec<_>>())
    .bind(names.iter().map(|name| name.kind.name()).collect::<Vec<_>>())
    .bind(names.iter().map(|name| &*name.team).collect::<Vec<_>>())
    .bind(names.iter().map(|name| &*name.currency).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let named = rows.into_iter().filter_map(|(number, id)| {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Some((names.get(index)?.clone(), id))
    });
    Ok(named.collect())
}
