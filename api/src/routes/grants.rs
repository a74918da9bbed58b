//! Grants: the lots that a wallet's balance consists of.

use axum::{Json, extract::State, http::StatusCode};
use domain::{time, wallet::GrantKind};
use ledger::wallet::{Ending, NewGrant as Given};
use runtime::{
    http::{Path, Problem},
    postgres::{PostgresError, scoped},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    api_keys::Nothing,
    check_key, check_name, format_optional,
    wallets::{found as found_wallet, no_wallet, plain, positive, within},
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Asked, Page, PageQuery, cursor_invalid, page},
    state::Api,
    store::{
        grants::{self, AllocationRow, GrantRow},
        wallets,
    },
};

/// Where grants come from that are given here.
const SOURCE: &str = "api";
/// The priority of a grant that names none.
pub(super) const PRIORITY_DEFAULT: i16 = 50;
/// Meters that a grant or hold may be restricted to.
const METERS_MAX: usize = 100;

/// What a grant is given for. Of one priority and expiry, what cost nothing is used first.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantKind)]
pub(crate) enum KindForm {
    /// Bought.
    Paid,
    /// Given away.
    Promotional,
    /// Comes with a plan, period by period.
    Recurring,
    /// Puts something right.
    Adjustment,
}

impl From<KindForm> for GrantKind {
    fn from(kind: KindForm) -> Self {
        match kind {
            KindForm::Paid => GrantKind::Paid,
            KindForm::Promotional => GrantKind::Promotional,
            KindForm::Recurring => GrantKind::Recurring,
            KindForm::Adjustment => GrantKind::Adjustment,
        }
    }
}

/// A grant to give.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGrant {
    /// How much, as text; above 0.
    #[schema(example = "100")]
    amount: String,
    /// What for.
    kind: KindForm,
    /// 1 to 100; lower is used first. 50 if absent.
    #[schema(minimum = 1, maximum = 100)]
    priority: Option<i16>,
    /// Its name for people.
    #[serde(default)]
    name: String,
    /// Keys of the meters whose usage it pays, at most 100; all when empty.
    #[serde(default)]
    meters: Vec<String>,
    /// From when on it pays, RFC 3339; now if absent.
    #[schema(format = DateTime)]
    starts_at: Option<String>,
    /// Until when, exclusive, RFC 3339; for ever if absent.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Your own id of it, which is given once; made if absent.
    source_id: Option<String>,
}

/// A grant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Grant {
    /// Its id.
    id: Uuid,
    /// Its wallet.
    wallet: Uuid,
    /// What it was given for.
    kind: String,
    /// 1 to 100; lower is used first.
    priority: i16,
    /// Its name for people.
    name: String,
    /// How much it was.
    amount: String,
    /// What is left.
    remaining: String,
    /// What of that is held.
    held: String,
    /// The meters whose usage it pays; all when empty.
    meters: Vec<String>,
    /// From when on it pays.
    starts_at: String,
    /// Until when, exclusive.
    expires_at: Option<String>,
    /// `scheduled`, `running`, `ending` or `ended`.
    state: String,
    /// What ends it: `expiry`, `void` or `refund`.
    ending: Option<String>,
    /// Where it comes from: `api`, `purchase`.
    source: String,
    /// What it is there.
    source_id: String,
    /// When it was given.
    created_at: String,
    /// When it ended.
    ended_at: Option<String>,
}

impl From<GrantRow> for Grant {
    fn from(row: GrantRow) -> Self {
        Self {
            id: row.grant_id,
            wallet: row.wallet_id,
            kind: row.kind,
            priority: row.priority,
            name: row.name,
            amount: plain(row.amount),
            remaining: plain(row.remaining),
            held: plain(row.held),
            meters: row.meters,
            starts_at: time::format(row.starts_at_us),
            expires_at: format_optional(row.expires_at_us),
            state: row.state,
            ending: row.ending,
            source: row.source,
            source_id: row.source_id,
            created_at: time::format(row.created_at_us),
            ended_at: format_optional(row.ended_at_us),
        }
    }
}

/// Usage that a grant paid.
#[derive(Serialize, ToSchema)]
pub(crate) struct Allocation {
    /// The team.
    team: String,
    /// The meter; null for what the team owed before it had the wallet.
    meter: Option<String>,
    /// Begin of the 15 minutes of the usage.
    bucket: String,
    /// How much of it.
    amount: String,
    /// The partition.
    partition: i32,
    /// Last position of `[usage]` of the window that posted it.
    batch_to: i64,
    /// Its number in the window.
    ordinal: i32,
    /// Number of the settlement that paid it.
    settlement: i64,
}

impl From<AllocationRow> for Allocation {
    fn from(row: AllocationRow) -> Self {
        Self {
            team: row.team,
            meter: Some(row.meter).filter(|meter| !meter.is_empty()),
            bucket: time::format(row.bucket_us),
            amount: plain(row.amount),
            partition: row.partition,
            batch_to: row.batch_to,
            ordinal: row.ordinal,
            settlement: row.settle_seq,
        }
    }
}

/// What was read of a grant to give.
#[derive(Clone, Copy)]
struct Checked {
    amount: i128,
    priority: i16,
    starts_us: Option<i64>,
    expires_us: Option<i64>,
}

impl Checked {
    fn of(new: &NewGrant) -> Result<Self, Problem> {
        check_name(&new.name)?;
        check_meters(&new.meters)?;
        if let Some(source_id) = &new.source_id {
            check_key("source_id", source_id)?;
        }
        let priority = new.priority.unwrap_or(PRIORITY_DEFAULT);
        if !(1..=100).contains(&priority) {
            return Err(Problem::unprocessable(
                "priority_invalid",
                format!("priority is {priority}"),
                "give one between 1 and 100; lower is used first",
            ));
        }
        let time =
            |name: &str, text: Option<&String>| text.map(|text| time_us(name, text)).transpose();
        Ok(Self {
            amount: positive("amount", &new.amount)?,
            priority,
            starts_us: time("starts_at", new.starts_at.as_ref())?,
            expires_us: time("expires_at", new.expires_at.as_ref())?,
        })
    }
}

/// Checks meters that something is restricted to. They need not be published yet.
pub(super) fn check_meters(meters: &[String]) -> Result<(), Problem> {
    if meters.len() > METERS_MAX {
        return Err(Problem::unprocessable(
            "meters_invalid",
            format!("there are {} meters", meters.len()),
            format!("name at most {METERS_MAX}, or none for all"),
        ));
    }
    meters.iter().try_for_each(|meter| check_key("meters", meter))
}

fn no_grant() -> Problem {
    Problem::not_found("grant_unknown", "there is no such grant", "list the grants of the wallet")
}

/// The answer where a source gave this grant before.
pub(super) fn given(error: PostgresError) -> ApiError {
    match error {
        PostgresError::Conflict(_) => Problem::conflict(
            "grant_exists",
            "a grant with this id of yours was given before",
            "list the grants of the wallet; give every grant an id of its own",
        )
        .into(),
        error => error.into(),
    }
}

/// A grant that the caller may see.
async fn found(
    api: &Api,
    caller: &Caller,
    scope: Scope,
    grant: &str,
) -> Result<(TenantScope, GrantRow), ApiError> {
    let (tenant, team) = within(caller, scope)?;
    let grant: Uuid = grant.parse().map_err(|_| no_grant())?;
    let team = team.as_deref();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        grants::find(&mut transaction, tenant, grant, team).await
    })
    .await?;
    Ok((tenant, row.ok_or_else(no_grant)?))
}

/// Reads a grant that was there a moment ago.
async fn again(
    connection: &mut PgConnection,
    tenant: TenantScope,
    grant: Uuid,
) -> Result<Grant, ApiError> {
    let row = grants::find(connection, tenant, grant, None).await?;
    Ok(row.ok_or_else(no_grant)?.into())
}

/// Give a grant
///
/// It is part of the balance at once, or from `starts_at` on, and pays what its meters' usage owes.
#[utoipa::path(post, path = "/v1/wallets/{wallet}/grants", tag = "wallets", params(IdempotencyKey, ("wallet" = Uuid, Path, description = "Id of the wallet")),
    request_body = NewGrant, responses((status = 201, body = Grant), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
    call: Call<NewGrant>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found_wallet(&api, &caller, Scope::WalletsWrite, &wallet).await?;
    let checked = Checked::of(&call.value)?;
    let wallet = row.wallet_id;
    idempotency::once(&api, tenant, call, move |connection, new: &NewGrant| {
        Box::pin(async move {
            let locked = wallets::lock(connection, tenant, wallet).await?;
            let mut locked = locked.ok_or_else(no_wallet)?;
            let now_us = grants::now_us(connection).await?;
            check_times(checked, now_us)?;
            let source_id = match &new.source_id {
                Some(source_id) => source_id.clone(),
                None => Uuid::now_v7().to_string(),
            };
            let given_grant = Given {
                kind: new.kind.into(),
                priority: checked.priority,
                name: &new.name,
                amount: checked.amount,
                meters: &new.meters,
                starts_us: checked.starts_us,
                expires_us: checked.expires_us,
                source: SOURCE,
                source_id: &source_id,
            };
            let grant = grants::give(connection, &mut locked, &given_grant, now_us).await;
            let grant = grant.map_err(given)?;
            Made::new(StatusCode::CREATED, &again(connection, tenant, grant).await?)
        })
    })
    .await
}

/// A grant ends after it starts, and later than now.
fn check_times(checked: Checked, now_us: i64) -> Result<(), Problem> {
    let starts_us = checked.starts_us.unwrap_or(now_us);
    if checked.expires_us.is_some_and(|end| end <= starts_us || end <= now_us) {
        return Err(Problem::unprocessable(
            "grant_times_invalid",
            "expires_at is not after starts_at, or is in the past",
            "give a later expires_at, or leave it out",
        ));
    }
    Ok(())
}

/// List a wallet's grants
///
/// Newest first, those that have ended too.
#[utoipa::path(get, path = "/v1/wallets/{wallet}/grants", tag = "wallets", params(PageQuery, ("wallet" = Uuid, Path, description = "Id of the wallet")),
    responses((status = 200, body = Page<Grant>), NotFound, Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(wallet): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Grant>>, ApiError> {
    let (tenant, row) = found_wallet(&api, &caller, Scope::WalletsRead, &wallet).await?;
    let asked = &query.asked(1)?;
    let before = asked.after(0).map(str::parse::<Uuid>).transpose();
    let before = before.map_err(|_| cursor_invalid())?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        grants::list(&mut transaction, tenant, row.wallet_id, before, asked.rows()).await
    })
    .await?;
    let items = rows.into_iter().map(Grant::from).collect();
    Ok(Json(page(asked, items, |grant: &Grant| vec![grant.id.to_string()])))
}

/// Read a grant
#[utoipa::path(get, path = "/v1/grants/{grant}", tag = "wallets", params(("grant" = Uuid, Path, description = "Id of the grant")),
    responses((status = 200, body = Grant), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(grant): Path<String>,
) -> Result<Json<Grant>, ApiError> {
    let (_, row) = found(&api, &caller, Scope::WalletsRead, &grant).await?;
    Ok(Json(row.into()))
}

/// Void a grant
///
/// It is `ending` then: usage that was accepted before is paid by it still and what is held stays
/// held, then what is left is gone.
#[utoipa::path(post, path = "/v1/grants/{grant}/void", tag = "wallets", params(IdempotencyKey, ("grant" = Uuid, Path, description = "Id of the grant")),
    responses((status = 200, body = Grant), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn void(
    State(api): State<Api>,
    caller: Caller,
    Path(grant): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsWrite, &grant).await?;
    end(&api, tenant, call, row, Ending::Void).await
}

/// Refund a grant
///
/// As voiding it, and what is left is paid back. Only what was paid for.
#[utoipa::path(post, path = "/v1/grants/{grant}/refund", tag = "wallets", params(IdempotencyKey, ("grant" = Uuid, Path, description = "Id of the grant")),
    responses((status = 200, body = Grant), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn refund(
    State(api): State<Api>,
    caller: Caller,
    Path(grant): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsWrite, &grant).await?;
    if !GrantKind::read(&row.kind).is_some_and(GrantKind::is_paid) {
        return Err(Problem::unprocessable(
            "grant_not_refundable",
            "nothing was paid for the grant",
            "void it instead",
        )
        .into());
    }
    end(&api, tenant, call, row, Ending::Refund).await
}

async fn end(
    api: &Api,
    tenant: TenantScope,
    call: Call<Nothing>,
    row: GrantRow,
    ending: Ending,
) -> Result<Answer, ApiError> {
    let (grant, wallet) = (row.grant_id, row.wallet_id);
    idempotency::once(api, tenant, call, move |connection, _| {
        Box::pin(async move {
            let locked = wallets::lock(connection, tenant, wallet).await?;
            let locked = locked.ok_or_else(no_wallet)?;
            let before = again(connection, tenant, grant).await?;
            if !grants::end(connection, &locked, grant, ending).await? {
                return Err(Problem::conflict(
                    "grant_not_running",
                    format!("the grant is {}", before.state),
                    "read it; only one that runs can be ended",
                )
                .into());
            }
            let after = again(connection, tenant, grant).await?;
            Made::new(StatusCode::OK, &after)?.instead_of(&before)
        })
    })
    .await
}

/// List what a grant paid
///
/// Newest first: amounts of 15 minutes' usage of one meter each, as they were paid. What was taken
/// back later is among the wallet's entries.
#[utoipa::path(get, path = "/v1/grants/{grant}/allocations", tag = "wallets", params(PageQuery, ("grant" = Uuid, Path, description = "Id of the grant")),
    responses((status = 200, body = Page<Allocation>), NotFound, Refusals))]
pub(crate) async fn list_allocations(
    State(api): State<Api>,
    caller: Caller,
    Path(grant): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Allocation>>, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::WalletsRead, &grant).await?;
    let asked = &query.asked(3)?;
    let before = allocation_cursor(asked)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        grants::allocations(&mut transaction, tenant, row.grant_id, before, asked.rows()).await
    })
    .await?;
    let items = rows.into_iter().map(Allocation::from).collect();
    Ok(Json(page(asked, items, |one: &Allocation| {
        vec![one.settlement.to_string(), one.batch_to.to_string(), one.ordinal.to_string()]
    })))
}

fn allocation_cursor(asked: &Asked) -> Result<Option<(i64, i64, i32)>, Problem> {
    let settlement = asked.after_number(0)?;
    let batch_to = asked.after_number(1)?;
    let ordinal = asked.after_number(2)?.map(i32::try_from).transpose();
    let ordinal = ordinal.map_err(|_| cursor_invalid())?;
    Ok(settlement.zip(batch_to).zip(ordinal).map(|((one, two), three)| (one, two, three)))
}
