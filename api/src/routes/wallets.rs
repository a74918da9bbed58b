//! Wallets: a team's stored value in one currency or credit unit, and every change of it.

use axum::{Json, extract::State, http::StatusCode};
use domain::{
    money::{Amount, is_currency_code},
    partition::partition_of,
    time,
};
use ledger::wallet::NewWallet as Made;
use runtime::{
    http::{Path, Problem},
    postgres::{PostgresError, scoped},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{catalog, no_team};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{self, Answer, Call, IdempotencyKey},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        teams,
        wallets::{self, EntryRow, WalletRow},
    },
};

/// How usage is paid that the wallet does not cover.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WalletMode)]
pub(crate) enum Mode {
    /// It is owed, and invoiced.
    #[default]
    CreditsThenInvoice,
    /// It is a debt that the next grant pays, and never invoiced.
    CreditsOnly,
}

impl Mode {
    /// Its name in `wallets.mode`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::CreditsThenInvoice => "credits_then_invoice",
            Mode::CreditsOnly => "credits_only",
        }
    }
}

/// A wallet to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWallet {
    /// A currency code of three capitals, or a credit unit of the catalog.
    #[schema(example = "USD")]
    currency: String,
    /// How usage is paid that it does not cover.
    #[serde(default)]
    mode: Mode,
    /// How far holds may go beyond what is there, as text; "0" if absent.
    #[schema(example = "0")]
    credit_limit: Option<String>,
}

/// What is to be changed of a wallet.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalletChange {
    /// How usage is paid that it does not cover; as it is if absent.
    mode: Option<Mode>,
    /// How far holds may go beyond what is there, as text; as it is if absent. It may be less than
    /// what is held: holds that are open stay.
    #[schema(example = "100")]
    credit_limit: Option<String>,
}

/// A wallet.
#[derive(Serialize, ToSchema)]
pub(crate) struct Wallet {
    /// Its id.
    id: Uuid,
    /// The team whose usage it pays.
    team: String,
    /// Its one currency or credit unit.
    currency: String,
    /// How usage is paid that it does not cover: `credits_then_invoice` or `credits_only`.
    mode: String,
    /// What its running grants have left.
    balance: String,
    /// What is reserved by holds.
    held: String,
    /// What usage owes that nothing paid, as of the newest settlement.
    debt: String,
    /// How far holds may go beyond what is there.
    credit_limit: String,
    /// What may still be held: balance − held − debt + credit limit. Negative where usage went
    /// beyond.
    available: String,
    /// Number of its newest entry.
    sequence: i64,
    /// When it was made.
    created_at: String,
    /// How far the usage of its team is posted.
    as_of: WalletReach,
}

/// How far the usage of a wallet's team is posted.
#[derive(Serialize, ToSchema)]
pub(crate) struct WalletReach {
    /// The partition.
    partition: i32,
    /// Last position of `[usage]` that is posted; −1 for none.
    position: i64,
}

impl From<WalletRow> for Wallet {
    fn from(row: WalletRow) -> Self {
        Self {
            id: row.wallet_id,
            team: row.team,
            currency: row.currency,
            mode: row.mode,
            balance: plain(row.balance),
            held: plain(row.held),
            debt: plain(row.debt),
            credit_limit: plain(row.credit_limit),
            available: plain(row.available),
            sequence: row.sequence,
            created_at: time::format(row.created_at_us),
            as_of: WalletReach { partition: row.partition, position: row.x },
        }
    }
}

/// The wallets of a team.
#[derive(Serialize, ToSchema)]
pub(crate) struct Wallets {
    /// One per currency.
    items: Vec<Wallet>,
}

/// A change of a wallet's balance.
#[derive(Serialize, ToSchema)]
pub(crate) struct WalletEntry {
    /// Its number among the wallet's, from 1 and without a gap.
    sequence: i64,
    /// Why: `grant`, `settlement`, `reversal`, `consumption`, `breakage`, `refund`.
    reason: String,
    /// How much; negative is spent.
    amount: String,
    /// What the balance was.
    balance_before: String,
    /// What it was then.
    balance_after: String,
    /// The grant that it is of.
    grant: Option<Uuid>,
    /// The journal that moved it: `GET /v1/journals/{journal_id}` takes it.
    journal: Uuid,
    /// When.
    at: String,
}

impl From<EntryRow> for WalletEntry {
    fn from(row: EntryRow) -> Self {
        Self {
            sequence: row.sequence,
            reason: row.reason,
            amount: plain(row.amount),
            balance_before: plain(row.balance_before),
            balance_after: plain(row.balance_after),
            grant: row.grant_id,
            journal: row.journal_id,
            at: time::format(row.entered_at_us),
        }
    }
}

/// Which instant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstantQuery {
    /// The instant, RFC 3339; now if absent.
    #[param(format = DateTime)]
    at: Option<String>,
}

/// What a wallet's balance was.
#[derive(Serialize, ToSchema)]
pub(crate) struct WalletBalance {
    /// The wallet.
    wallet: Uuid,
    /// The instant that was asked for.
    at: Option<String>,
    /// What its running grants had left: that of the last entry by then.
    balance: String,
}

/// A sum of Postgres in the form that is used everywhere.
pub(super) fn plain(text: String) -> String {
    Amount::parse_sum(&text).map_or(text, |amount| amount.to_string())
}

/// A sum of the ledger, which counts in 10⁻¹², as text.
pub(super) fn text(raw: i128) -> String {
    Amount::of_sum(raw).to_string()
}

/// Reads an amount above 0.
pub(super) fn positive(field: &str, text: &str) -> Result<i128, Problem> {
    at_least(1, field, text)
}

/// Reads an amount of 0 or more.
pub(super) fn not_negative(field: &str, text: &str) -> Result<i128, Problem> {
    at_least(0, field, text)
}

fn at_least(least: i128, field: &str, text: &str) -> Result<i128, Problem> {
    let amount = Amount::parse_exact(text).map(Amount::raw);
    amount.ok().filter(|amount| *amount >= least).ok_or_else(|| {
        let than = if least > 0 { "above 0" } else { "of 0 or more" };
        Problem::unprocessable(
            "amount_invalid",
            format!("{field} is no number {than}"),
            "give a decimal number below 10^20 with at most 12 decimals, as text",
        )
        .with("field", field)
    })
}

/// The answer for a wallet that the caller has not.
pub(super) fn no_wallet() -> Problem {
    Problem::not_found(
        "wallet_unknown",
        "there is no such wallet",
        "list the wallets of the team, or make one",
    )
}

/// The answer where a wallet has not got enough; `available` is what it has.
pub(super) fn not_covered(available: i128, actions: &[&str]) -> Problem {
    Problem::new(
        StatusCode::PAYMENT_REQUIRED,
        "insufficient_funds",
        "the wallet does not cover that amount; nothing was changed",
        "do one of `actions`, then send it again, or ask for `available` at most",
    )
    .with("available", text(available))
    .with("actions", actions.to_vec())
}

/// The tenant with the one team whose things the caller may see, if it is limited to one: what is
/// another team's is answered as if it were not there.
pub(super) fn within(
    caller: &Caller,
    scope: Scope,
) -> Result<(TenantScope, Option<String>), Problem> {
    let mut team = None;
    let tenant = caller.may_filter(scope, &mut team)?;
    Ok((tenant, team))
}

/// A wallet that the caller may see.
pub(super) async fn found(
    api: &Api,
    caller: &Caller,
    scope: Scope,
    wallet: &str,
) -> Result<(TenantScope, WalletRow), ApiError> {
    let (tenant, team) = within(caller, scope)?;
    let wallet: Uuid = wallet.parse().map_err(|_| no_wallet())?;
    let team = team.as_deref();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        wallets::find(&mut transaction, tenant, wallet, team).await
    })
    .await?;
    Ok((tenant, row.ok_or_else(no_wallet)?))
}

/// Checks a currency as those of cards are checked.
pub(super) async fn check_currency(
    connection: &mut PgConnection,
    tenant: TenantScope,
    currency: &str,
) -> Result<(), ApiError> {
    if is_currency_code(currency) {
        return Ok(());
    }
    let (document, ..) = catalog::newest(connection, tenant).await?;
    if document.credit_units.iter().any(|unit| unit.key == currency) {
        return Ok(());
    }
    Err(Problem::unprocessable(
        "currency_unknown",
        "the currency is neither a code of three capitals nor a credit unit of the catalog",
        "give one of those, or publish the unit first",
    )
    .into())
}

/// Makes a wallet of a team that is registered. Names of teams are locked, so that nobody makes the
/// same one.
pub(super) async fn make(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &Made<'_>,
) -> Result<Uuid, ApiError> {
    check_currency(connection, tenant, new.currency).await?;
    teams::lock_names(connection, tenant).await?;
    if wallets::named(connection, tenant, new.team, new.currency).await?.is_some() {
        return Err(exists().into());
    }
    wallets::create(connection, tenant, new).await.map_err(|error| match error {
        ApiError::Postgres(PostgresError::Conflict(_)) => exists().into(),
        error => error,
    })
}

fn exists() -> Problem {
    Problem::conflict(
        "wallet_exists",
        "the team has a wallet in this currency",
        "use it; list the wallets of the team",
    )
}

/// Reads a wallet that was there a moment ago.
pub(super) async fn again(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wallet: Uuid,
) -> Result<Wallet, ApiError> {
    let row = wallets::find(connection, tenant, wallet, None).await?;
    Ok(row.ok_or_else(no_wallet)?.into())
}

/// Make a wallet
///
/// One per team and currency. From then on usage of the team in this currency is paid out of it, and
/// what the team owes already as well.
#[utoipa::path(post, path = "/v1/teams/{team}/wallets", tag = "wallets", params(IdempotencyKey, ("team" = String, Path, description = "Key of the team")),
    request_body = NewWallet, responses((status = 201, body = Wallet), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    call: Call<NewWallet>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may_of(Scope::WalletsWrite, &team)?;
    let limit = call.value.credit_limit.as_deref().unwrap_or("0");
    let credit_limit = not_negative("credit_limit", limit)?;
    let partition = partition_of(tenant.id(), &team, api.log.partitions());
    idempotency::once(&api, tenant, call, move |connection, new: &NewWallet| {
        let team = team.clone();
        Box::pin(async move {
            teams::find(connection, tenant, &team).await?.ok_or_else(|| no_team(&team))?;
            let new = Made {
                tenant: tenant.id(),
                team: &team,
                currency: &new.currency,
                partition,
                mode: new.mode.name(),
                credit_limit,
            };
            let wallet = make(connection, tenant, &new).await?;
            let made = again(connection, tenant, wallet).await?;
            idempotency::Made::new(StatusCode::CREATED, &made)
        })
    })
    .await
}

/// List a team's wallets
#[utoipa::path(get, path = "/v1/teams/{team}/wallets", tag = "wallets", params(("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = Wallets), NotFound, Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
) -> Result<Json<Wallets>, ApiError> {
    let tenant = caller.may_of(Scope::WalletsRead, &team)?;
    let team = &team;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await?.ok_or_else(|| no_team(team))?;
        wallets::of_team(&mut transaction, tenant, team).await
    })
    .await?;
    Ok(Json(Wallets { items: rows.into_iter().map(Wallet::from).collect() }))
}

/// Read a wallet
#[utoipa::path(get, path = "/v1/wallets/{wallet}", tag = "wallets", params(("wallet" = Uuid, Path, description = "Id of the wallet")),
    responses((status = 200, body = Wallet), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
) -> Result<Json<Wallet>, ApiError> {
    let (_, row) = found(&api, &caller, Scope::WalletsRead, &wallet).await?;
    Ok(Json(row.into()))
}

/// Change a wallet
#[utoipa::path(patch, path = "/v1/wallets/{wallet}", tag = "wallets", params(IdempotencyKey, ("wallet" = Uuid, Path, description = "Id of the wallet")),
    request_body = WalletChange, responses((status = 200, body = Wallet), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn change(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
    call: Call<WalletChange>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsWrite, &wallet).await?;
    let wallet = row.wallet_id;
    let limit = call.value.credit_limit.as_deref();
    let credit_limit = limit.map(|limit| not_negative("credit_limit", limit)).transpose()?;
    idempotency::once(&api, tenant, call, move |connection, new: &WalletChange| {
        Box::pin(async move {
            wallets::lock(connection, tenant, wallet).await?.ok_or_else(no_wallet)?;
            let before = again(connection, tenant, wallet).await?;
            let mode = new.mode.map(Mode::name);
            wallets::set(connection, tenant, wallet, mode, credit_limit).await?;
            let after = again(connection, tenant, wallet).await?;
            idempotency::Made::new(StatusCode::OK, &after)?.instead_of(&before)
        })
    })
    .await
}

/// List a wallet's entries
///
/// Every change of its balance, newest first.
#[utoipa::path(get, path = "/v1/wallets/{wallet}/entries", tag = "wallets", params(PageQuery, ("wallet" = Uuid, Path, description = "Id of the wallet")),
    responses((status = 200, body = Page<WalletEntry>), NotFound, Refusals))]
pub(crate) async fn list_entries(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<WalletEntry>>, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsRead, &wallet).await?;
    let asked = &query.asked(1)?;
    let before = asked.after_number(0)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        wallets::entries(&mut transaction, tenant, row.wallet_id, before, asked.rows()).await
    })
    .await?;
    let items = rows.into_iter().map(WalletEntry::from).collect();
    Ok(Json(page(asked, items, |entry: &WalletEntry| vec![entry.sequence.to_string()])))
}

/// Read what a wallet's balance was
#[utoipa::path(get, path = "/v1/wallets/{wallet}/balance", tag = "wallets", params(InstantQuery, ("wallet" = Uuid, Path, description = "Id of the wallet")),
    responses((status = 200, body = WalletBalance), NotFound, Refusals))]
pub(crate) async fn read_balance(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
    Query(query): Query<InstantQuery>,
) -> Result<Json<WalletBalance>, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsRead, &wallet).await?;
    let wallet = row.wallet_id;
    let at_us = query.at.as_deref().map(|at| time_us("at", at)).transpose()?;
    let balance = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        wallets::balance_at(&mut transaction, tenant, wallet, at_us).await
    })
    .await?;
    let balance = balance.map_or_else(|| "0".to_owned(), plain);
    Ok(Json(WalletBalance { wallet, at: at_us.map(time::format), balance }))
}
