//! Credits as OM0 has them: what a customer has, adding to it, and spending it without an event.

use axum::{Json, extract::State, http::StatusCode};
use domain::{partition::partition_of, wallet::GrantKind};
use ledger::wallet::{NewGrant, NewWallet, Wallet};
use runtime::{
    http::{Path, Problem},
    postgres::{PostgresError, scoped},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    check_key, check_name,
    grants::{PRIORITY_DEFAULT, given},
    holds::WITHOUT_CREDIT,
    no_team,
    wallets::{self as wallet_routes, no_wallet, not_covered, plain, positive, text, within},
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotCovered, NotFound, Refusals, Unprocessable},
    state::Api,
    store::{
        grants, team_aliases, teams,
        wallets::{self, WalletRow},
    },
};

/// Where grants come from that are purchased here.
const SOURCE: &str = "purchase";
/// It is decided about an alias in about a minute.
const ALIAS_WAIT_S: u64 = 10;

/// Whose customer it is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustomerQuery {
    /// The customer, where the path names the seller.
    user_id: Option<String>,
}

/// What a customer has.
#[derive(Serialize, ToSchema)]
pub(crate) struct Credits {
    /// The customer, as asked for.
    customer_id: String,
    /// One per currency.
    wallets: Vec<CustomerWallet>,
}

/// A wallet of a customer.
#[derive(Serialize, ToSchema)]
pub(crate) struct CustomerWallet {
    /// Its id.
    wallet: Uuid,
    /// Its one currency or credit unit.
    currency: String,
    /// What its running grants have left.
    balance: String,
    /// What may still be held: balance − held − debt + credit limit.
    available: String,
    /// What is reserved by holds.
    held: String,
    /// What usage owes that nothing paid, as of the newest settlement.
    debt: String,
    /// How far holds may go beyond what is there.
    credit_limit: String,
}

impl From<WalletRow> for CustomerWallet {
    fn from(row: WalletRow) -> Self {
        Self {
            wallet: row.wallet_id,
            currency: row.currency,
            balance: plain(row.balance),
            available: plain(row.available),
            held: plain(row.held),
            debt: plain(row.debt),
            credit_limit: plain(row.credit_limit),
        }
    }
}

/// Credits that are bought or spent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreditChange {
    /// The customer; where it is the seller itself, `user_id` is.
    customer_id: String,
    /// The customer of the seller, or a person, who changes nothing here.
    user_id: Option<String>,
    /// How much, as text; above 0.
    #[schema(example = "100")]
    amount: String,
    /// A currency or credit unit; that of the customer's only wallet if absent.
    currency: Option<String>,
    /// For people.
    #[serde(default)]
    description: String,
    /// Your own id of it, which counts once; the `Idempotency-Key` if absent.
    reference: Option<String>,
}

/// What was bought.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreditPurchase {
    /// The customer, as sent.
    customer_id: String,
    /// The wallet.
    wallet: Uuid,
    /// The grant.
    grant: Uuid,
    /// How much.
    amount: String,
    /// The balance after it.
    balance: String,
}

/// What was spent.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreditConsumption {
    /// The customer, as sent.
    customer_id: String,
    /// The wallet.
    wallet: Uuid,
    /// How much.
    amount: String,
    /// The balance after it.
    balance: String,
    /// The journal that moved it: `GET /v1/journals/{journal_id}` takes it.
    journal: Uuid,
}

/// The team that a body means, by the rule that ingest has for OM0's: where `customer` is the tenant
/// itself, `user` is its customer. An alias is its team.
pub(super) async fn team_of(
    api: &Api,
    caller: &Caller,
    scope: Scope,
    customer: &str,
    user: Option<&str>,
) -> Result<(TenantScope, String), ApiError> {
    let (tenant, _) = within(caller, scope)?;
    check_key("customer_id", customer)?;
    let team = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let name = if wallets::is_seller(&mut transaction, tenant, customer).await? {
            user.filter(|user| !user.is_empty()).ok_or_else(no_user)?
        } else {
            customer
        };
        check_key("user_id", name)?;
        let Some(alias) = team_aliases::find(&mut transaction, tenant, name).await? else {
            return Ok(name.to_owned());
        };
        let decided = alias.effective_at_us.map(|_| alias.team);
        decided.ok_or_else(|| ApiError::from(alias_waiting()))
    })
    .await?;
    caller.may_of(scope, &team)?;
    Ok((tenant, team))
}

fn no_user() -> Problem {
    Problem::unprocessable(
        "user_id_missing",
        "`customer_id` is the seller, and there is no `user_id`",
        "send the customer as `user_id`",
    )
}

fn alias_waiting() -> Problem {
    Problem::unavailable(
        ALIAS_WAIT_S,
        "alias_waiting",
        "the customer is about to become another name of a team",
        "send the same again after the time in Retry-After: it is decided in about a minute",
    )
}

fn currency_needed() -> Problem {
    Problem::unprocessable(
        "currency_needed",
        "the customer has no wallet, or several",
        "give the currency",
    )
}

/// What was read of credits that are bought or spent.
struct Checked {
    tenant: TenantScope,
    team: String,
    partition: u32,
    amount: i128,
    reference: String,
}

impl Checked {
    async fn of(
        api: &Api,
        caller: &Caller,
        scope: Scope,
        call: &Call<CreditChange>,
    ) -> Result<Self, ApiError> {
        let new = &call.value;
        let user = new.user_id.as_deref();
        let (tenant, team) = team_of(api, caller, scope, &new.customer_id, user).await?;
        let amount = positive("amount", &new.amount)?;
        check_name(&new.description)?;
        if let Some(reference) = &new.reference {
            check_key("reference", reference)?;
        }
        let reference = new.reference.as_deref().or(call.key()).map(str::to_owned);
        let reference = reference.unwrap_or_else(|| Uuid::now_v7().to_string());
        let partition = partition_of(tenant.id(), &team, api.log.partitions());
        Ok(Self { tenant, team, partition, amount, reference })
    }

    /// The wallet that is there: of the currency, or the only one.
    async fn wallet(
        &self,
        connection: &mut PgConnection,
        currency: Option<&str>,
    ) -> Result<Option<Uuid>, ApiError> {
        if let Some(currency) = currency {
            return wallets::named(connection, self.tenant, &self.team, currency).await;
        }
        let all = wallets::of_team(connection, self.tenant, &self.team).await?;
        match all.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only.wallet_id)),
            _ => Err(currency_needed().into()),
        }
    }

    /// Makes the wallet, and registers the team, where they are missing.
    async fn make(
        &self,
        connection: &mut PgConnection,
        currency: Option<&str>,
    ) -> Result<Uuid, ApiError> {
        let tenant = self.tenant;
        let currency = currency.ok_or_else(currency_needed)?;
        teams::lock_names(connection, tenant).await?;
        // Somebody else may have made it, or an alias of the name, in between.
        if let Some(wallet) = self.wallet(connection, Some(currency)).await? {
            return Ok(wallet);
        }
        if team_aliases::find(connection, tenant, &self.team).await?.is_some() {
            return Err(alias_waiting().into());
        }
        if teams::find(connection, tenant, &self.team).await?.is_none() {
            teams::insert(connection, tenant, &self.team, "").await?;
        }
        let new = NewWallet {
            tenant: tenant.id(),
            team: &self.team,
            currency,
            partition: self.partition,
            mode: wallet_routes::Mode::default().name(),
            credit_limit: 0,
        };
        wallet_routes::make(connection, tenant, &new).await
    }
}

async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
) -> Result<Wallet, ApiError> {
    Ok(wallets::lock(connection, tenant, wallet).await?.ok_or_else(no_wallet)?)
}

/// Read a customer's credits
#[utoipa::path(get, path = "/v1/customers/{customer}/credits", tag = "wallets", params(CustomerQuery, ("customer" = String, Path, description = "The customer: a team")),
    responses((status = 200, body = Credits), NotFound, Unprocessable, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(customer): Path<String>,
    Query(query): Query<CustomerQuery>,
) -> Result<Json<Credits>, ApiError> {
    let user = query.user_id.as_deref();
    let (tenant, team) = team_of(&api, &caller, Scope::WalletsRead, &customer, user).await?;
    let team = &team;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await?.ok_or_else(|| no_team(team))?;
        wallets::of_team(&mut transaction, tenant, team).await
    })
    .await?;
    let wallets = rows.into_iter().map(CustomerWallet::from).collect();
    Ok(Json(Credits { customer_id: customer, wallets }))
}

/// Purchase credits
///
/// Tops a customer's wallet up by hand: a grant that was paid for. A team or wallet that is missing
/// is made.
#[utoipa::path(post, path = "/v1/credits/purchase", tag = "wallets", params(IdempotencyKey), request_body = CreditChange,
    responses((status = 201, body = CreditPurchase), ChangeRefusals, Refusals))]
pub(crate) async fn purchase(
    State(api): State<Api>,
    caller: Caller,
    call: Call<CreditChange>,
) -> Result<Answer, ApiError> {
    let checked = Checked::of(&api, &caller, Scope::WalletsWrite, &call).await?;
    let (tenant, checked) = (checked.tenant, std::sync::Arc::new(checked));
    idempotency::once(&api, tenant, call, move |connection, new: &CreditChange| {
        let checked = std::sync::Arc::clone(&checked);
        Box::pin(async move {
            let currency = new.currency.as_deref();
            let wallet = match checked.wallet(connection, currency).await? {
                Some(wallet) => wallet,
                None => checked.make(connection, currency).await?,
            };
            let mut locked = lock(connection, tenant, wallet).await?;
            let now_us = grants::now_us(connection).await?;
            let bought = NewGrant {
                kind: GrantKind::Paid,
                priority: PRIORITY_DEFAULT,
                name: &new.description,
                amount: checked.amount,
                meters: &[],
                starts_us: None,
                expires_us: None,
                source: SOURCE,
                source_id: &checked.reference,
            };
            let grant = grants::give(connection, &mut locked, &bought, now_us).await;
            let purchase = CreditPurchase {
                customer_id: new.customer_id.clone(),
                wallet,
                grant: grant.map_err(given)?,
                amount: text(checked.amount),
                balance: text(locked.balance),
            };
            Made::new(StatusCode::CREATED, &purchase)
        })
    })
    .await
}

/// Consume credits
///
/// Spends what a customer has, for what is used without an event; nothing is taken on credit. As
/// with holds, the journal is the record: it leaves no row in `GET /v1/audit`.
#[utoipa::path(post, path = "/v1/credits/consume", tag = "wallets", params(IdempotencyKey), request_body = CreditChange,
    responses((status = 200, body = CreditConsumption), NotCovered, NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn consume(
    State(api): State<Api>,
    caller: Caller,
    call: Call<CreditChange>,
) -> Result<Answer, ApiError> {
    let checked = Checked::of(&api, &caller, Scope::HoldsWrite, &call).await?;
    let (tenant, checked) = (checked.tenant, std::sync::Arc::new(checked));
    idempotency::once(&api, tenant, call, move |connection, new: &CreditChange| {
        let checked = std::sync::Arc::clone(&checked);
        Box::pin(async move {
            let team = &checked.team;
            let Some(wallet) = checked.wallet(connection, new.currency.as_deref()).await? else {
                teams::find(connection, tenant, team).await?.ok_or_else(|| no_team(team))?;
                return Err(no_wallet().into());
            };
            let mut locked = lock(connection, tenant, wallet).await?;
            let (amount, reference) = (checked.amount, &checked.reference);
            let consumed = wallets::consume(connection, &mut locked, amount, reference).await;
            let consumed = consumed.map_err(consumed_before)?;
            let consumed = consumed.map_err(|there| not_covered(there, &WITHOUT_CREDIT))?;
            let consumption = CreditConsumption {
                customer_id: new.customer_id.clone(),
                wallet,
                amount: text(amount),
                balance: text(locked.balance),
                journal: consumed.journal,
            };
            Ok(Made::new(StatusCode::OK, &consumption)?.without_change())
        })
    })
    .await
}

fn consumed_before(error: PostgresError) -> ApiError {
    match error {
        PostgresError::Conflict(_) => Problem::conflict(
            "consumption_exists",
            "a consumption with this reference was made before",
            "give each a reference of its own; repeat one with its Idempotency-Key",
        )
        .into(),
        error => error.into(),
    }
}
