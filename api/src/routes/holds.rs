//! Holds: money that is reserved before work runs, captured by its usage or by calls, then freed.
//!
//! They come as often as usage does: unlike other changes, none of these leaves a row in
//! `privileged_changes`. The hold and the journals of what it captured are the record.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use ledger::hold::{Decided, NewCapture, NewHold as Asked, Refused, SettleBy};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    api_keys::Nothing,
    format_optional,
    grants::check_meters,
    wallets::{
        found as found_wallet, no_wallet, not_covered, not_negative, plain, positive, text, within,
    },
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    hold_queue,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotCovered, NotFound, Refusals},
    state::Api,
    store::{
        holds::{self, HoldRow},
        wallets,
    },
};

/// How long a hold is open that names no time, in seconds.
const LIFE_DEFAULT_S: i64 = 900;
/// How long a hold may be open, in seconds.
const LIFE_MAX_S: i64 = 86_400;
/// What helps where a wallet has not got enough.
const TOP_UP: &str = "top_up";
const RAISE_CREDIT_LIMIT: &str = "raise_credit_limit";
/// What helps where nothing is taken on credit.
pub(super) const WITHOUT_CREDIT: [&str; 1] = [TOP_UP];

/// What captures a hold.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SettleBy)]
pub(crate) enum SettleByForm {
    /// Usage that names it as its `holdid`.
    #[default]
    Usage,
    /// Calls of `POST /v1/holds/{hold}/capture`.
    Call,
}

impl From<SettleByForm> for SettleBy {
    fn from(form: SettleByForm) -> Self {
        match form {
            SettleByForm::Usage => SettleBy::Usage,
            SettleByForm::Call => SettleBy::Call,
        }
    }
}

/// A hold to place: on a wallet, or on that of a team in a currency.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewHold {
    /// The wallet.
    wallet: Option<String>,
    /// The team whose wallet it is; with `currency`, instead of `wallet`.
    team: Option<String>,
    /// The currency of the team's wallet.
    currency: Option<String>,
    /// How much, as text; above 0.
    #[schema(example = "1.50")]
    amount: String,
    /// How long it is open; 900 if absent.
    #[schema(minimum = 1, maximum = 86_400)]
    expires_in_seconds: Option<i64>,
    /// What captures it.
    #[serde(default)]
    settle_by: SettleByForm,
    /// Keys of the meters whose usage it captures, at most 100; all when empty. Grants that are
    /// restricted are held only where it names nothing but their meters.
    #[serde(default)]
    meters: Vec<String>,
}

/// A hold.
#[derive(Serialize, ToSchema)]
pub(crate) struct Hold {
    /// Its id: the `holdid` of its usage.
    id: Uuid,
    /// Its wallet.
    wallet: Uuid,
    /// How much it was.
    amount: String,
    /// What was captured of it.
    captured: String,
    /// What it still reserves.
    remaining: String,
    /// The meters whose usage it captures; all when empty.
    meters: Vec<String>,
    /// What captures it: `usage` or `call`.
    settle_by: String,
    /// `open`, `closing` (what is accepted by now is captured, then the rest is freed), `ended` or
    /// `refused`.
    state: String,
    /// Why it was refused, or what ended it; empty while it is open.
    reason: String,
    /// When it was decided.
    created_at: String,
    /// Until when it is open.
    expires_at: String,
    /// When it ended.
    ended_at: Option<String>,
}

impl From<HoldRow> for Hold {
    fn from(row: HoldRow) -> Self {
        Self {
            id: row.hold_id,
            wallet: row.wallet_id,
            amount: plain(row.amount),
            captured: plain(row.captured),
            remaining: plain(row.remaining),
            meters: row.meters,
            settle_by: row.settle_by,
            state: row.state,
            reason: row.reason,
            created_at: time::format(row.created_at_us),
            expires_at: time::format(row.expires_at_us),
            ended_at: format_optional(row.ended_at_us),
        }
    }
}

/// A capture by call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewHoldCapture {
    /// How much, as text; above 0.
    #[schema(example = "1.20")]
    amount: String,
    /// How far it may go beyond the hold, as text; "0" if absent. The wallet must have that besides.
    #[schema(example = "0")]
    tolerance: Option<String>,
    /// Whether the rest of the hold is freed.
    #[serde(rename = "final", default)]
    last: bool,
}

/// What was captured.
#[derive(Serialize, ToSchema)]
pub(crate) struct HoldCapture {
    /// How much.
    amount: String,
    /// The journal that moved it: `GET /v1/journals/{journal_id}` takes it.
    journal: Uuid,
    /// The hold after it.
    hold: Hold,
}

fn no_hold() -> Problem {
    Problem::not_found(
        "hold_unknown",
        "there is no such hold",
        "check the id that placing it answered",
    )
}

fn not_open(state: &str) -> Problem {
    Problem::conflict(
        "hold_not_open",
        format!("the hold is {state}"),
        "read it, and place another one if more is to run",
    )
}

/// A hold that the caller may see.
async fn found(
    api: &Api,
    caller: &Caller,
    scope: Scope,
    hold: &str,
) -> Result<(TenantScope, HoldRow), ApiError> {
    let (tenant, team) = within(caller, scope)?;
    let hold: Uuid = hold.parse().map_err(|_| no_hold())?;
    let team = team.as_deref();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        holds::find(&mut transaction, tenant, hold, team).await
    })
    .await?;
    Ok((tenant, row.ok_or_else(no_hold)?))
}

/// Reads a hold that was there a moment ago.
async fn again(
    connection: &mut PgConnection,
    tenant: TenantScope,
    hold: Uuid,
) -> Result<HoldRow, ApiError> {
    Ok(holds::find(connection, tenant, hold, None).await?.ok_or_else(no_hold)?)
}

/// The wallet that a hold is asked for on. One that is named by its id is not looked up, unless the
/// caller is limited to a team: placing the hold says whether the tenant has it.
async fn target(
    api: &Api,
    caller: &Caller,
    new: &NewHold,
) -> Result<(TenantScope, Uuid), ApiError> {
    match (&new.wallet, &new.team, &new.currency) {
        (Some(wallet), None, None) => {
            let (tenant, team) = within(caller, Scope::HoldsWrite)?;
            let id = wallet.parse().map_err(|_| no_wallet())?;
            if team.is_some() {
                found_wallet(api, caller, Scope::HoldsWrite, wallet).await?;
            }
            Ok((tenant, id))
        }
        (None, Some(team), Some(currency)) => {
            let tenant = caller.may_of(Scope::HoldsWrite, team)?;
            Ok((tenant, named(api, tenant, team, currency).await?))
        }
        _ => {
            within(caller, Scope::HoldsWrite)?;
            Err(Problem::unprocessable(
                "wallet_unnamed",
                "the body names neither a wallet nor a team and a currency, or all of them",
                "give `wallet`, or `team` and `currency`",
            )
            .into())
        }
    }
}

/// The wallet of a team in a currency: once it is there, it stays what it is.
async fn named(
    api: &Api,
    tenant: TenantScope,
    team: &str,
    currency: &str,
) -> Result<Uuid, ApiError> {
    // The length tells where the one ends and the other begins.
    let name = format!("{} {} {currency} {team}", tenant.id(), currency.len());
    if let Some(wallet) = api.wallets.get(&name) {
        return Ok(wallet);
    }
    let asked = std::time::Instant::now();
    let wallet = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        wallets::named(&mut transaction, tenant, team, currency).await
    })
    .await?;
    let wallet = wallet.ok_or_else(no_wallet)?;
    api.wallets.put(name, asked, wallet);
    Ok(wallet)
}

/// What the ledger is asked for.
fn asked(call: &Call<NewHold>) -> Result<Asked, Problem> {
    let new = &call.value;
    check_meters(&new.meters)?;
    let life_s = new.expires_in_seconds.unwrap_or(LIFE_DEFAULT_S);
    if !(1..=LIFE_MAX_S).contains(&life_s) {
        return Err(Problem::unprocessable(
            "hold_life_invalid",
            format!("expires_in_seconds is {life_s}"),
            format!("give 1 to {LIFE_MAX_S}, or leave it out for {LIFE_DEFAULT_S}"),
        ));
    }
    Ok(Asked {
        hold: Uuid::now_v7(),
        // Keys of other kinds have other beginnings.
        key: call.key().map(|key| format!("key:{key}")),
        request_hash: call.hash(),
        amount: positive("amount", &new.amount)?,
        life_ms: life_s.saturating_mul(1_000),
        settle_by: new.settle_by.into(),
        meters: new.meters.clone(),
    })
}

/// The hold as it was when it was placed: what a repeat is answered too.
fn placed(wallet: Uuid, new: NewHold, decided: &Decided) -> Hold {
    Hold {
        id: decided.hold,
        wallet,
        amount: text(decided.amount),
        captured: text(0),
        remaining: text(decided.amount),
        meters: new.meters,
        settle_by: SettleBy::from(new.settle_by).name().to_owned(),
        state: "open".to_owned(),
        reason: String::new(),
        created_at: time::format(decided.created_us),
        expires_at: time::format(decided.expires_us),
        ended_at: None,
    }
}

/// Place a hold
///
/// Refused with 402 where the wallet has not got that much available. The decision is kept under
/// the `Idempotency-Key`, a refusal too: a repeat gets the same, whatever has become of the hold.
#[utoipa::path(post, path = "/v1/holds", tag = "wallets", params(IdempotencyKey), request_body = NewHold,
    responses((status = 201, body = Hold), NotCovered, NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewHold>,
) -> Result<Answer, ApiError> {
    let (tenant, wallet) = target(&api, &caller, &call.value).await?;
    let hold = asked(&call)?;
    let id = hold.hold;
    let decided = hold_queue::place(&api, tenant, wallet, hold).await?.ok_or_else(no_wallet)?;
    if !decided.same {
        return Err(idempotency::key_reused().into());
    }
    let repeated = decided.hold != id;
    if repeated {
        api.metrics.repeated.inc();
    }
    if decided.state == "refused" {
        let actions: &[&str] = match call.value.settle_by {
            SettleByForm::Usage => &[TOP_UP, RAISE_CREDIT_LIMIT],
            SettleByForm::Call => &WITHOUT_CREDIT,
        };
        return Err(not_covered(decided.available, actions).into());
    }
    let hold = placed(wallet, call.value, &decided);
    let body =
        serde_json::to_string(&hold).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(Answer { status: StatusCode::CREATED, body, repeated })
}

/// Read a hold
#[utoipa::path(get, path = "/v1/holds/{hold}", tag = "wallets", params(("hold" = Uuid, Path, description = "Id of the hold")),
    responses((status = 200, body = Hold), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(hold): Path<String>,
) -> Result<Json<Hold>, ApiError> {
    let (_, row) = found(&api, &caller, Scope::WalletsRead, &hold).await?;
    Ok(Json(row.into()))
}

/// Release a hold
///
/// It is `closing` then: what usage that was accepted before needs of it is captured, then the rest
/// is freed.
#[utoipa::path(post, path = "/v1/holds/{hold}/release", tag = "wallets", params(IdempotencyKey, ("hold" = Uuid, Path, description = "Id of the hold")),
    responses((status = 200, body = Hold), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn release(
    State(api): State<Api>,
    caller: Caller,
    Path(hold): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::HoldsWrite, &hold).await?;
    let hold = row.hold_id;
    idempotency::once(&api, tenant, call, move |connection, _| {
        Box::pin(async move {
            holds::release(connection, tenant, hold).await?;
            let after = again(connection, tenant, hold).await?;
            if after.state != "closing" {
                return Err(not_open(&after.state).into());
            }
            Ok(Made::new(StatusCode::OK, &Hold::from(after))?.without_change())
        })
    })
    .await
}

/// Capture a hold
///
/// Of a hold that is settled by calls: spends it, or a part of it. Needs an `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/holds/{hold}/capture", tag = "wallets", params(IdempotencyKey, ("hold" = Uuid, Path, description = "Id of the hold")),
    request_body = NewHoldCapture, responses((status = 200, body = HoldCapture), NotCovered, NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn capture(
    State(api): State<Api>,
    caller: Caller,
    Path(hold): Path<String>,
    call: Call<NewHoldCapture>,
) -> Result<Answer, ApiError> {
    let (tenant, row) = found(&api, &caller, Scope::HoldsWrite, &hold).await?;
    let (hold, wallet) = (row.hold_id, row.wallet_id);
    let key = call.key().map(str::to_owned).ok_or_else(|| {
        Problem::bad_request(
            "idempotency_key_missing",
            "a capture needs an Idempotency-Key",
            "send one, and the same again with a repeat",
        )
    })?;
    let amount = positive("amount", &call.value.amount)?;
    let tolerance = call.value.tolerance.as_deref().unwrap_or("0");
    let tolerance = not_negative("tolerance", tolerance)?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewHoldCapture| {
        let (key, last) = (key.clone(), new.last);
        Box::pin(async move {
            let locked = wallets::lock(connection, tenant, wallet).await?;
            let mut locked = locked.ok_or_else(no_wallet)?;
            let new = NewCapture { hold, key: &key, amount, tolerance, last };
            let captured = holds::capture(connection, &mut locked, &new).await?;
            let after = again(connection, tenant, hold).await?;
            let journal = captured.map_err(|refused| why(refused, &after))?;
            let made = HoldCapture { amount: text(amount), journal, hold: after.into() };
            Ok(Made::new(StatusCode::OK, &made)?.without_change())
        })
    })
    .await
}

/// Why nothing was captured.
fn why(refused: Refused, hold: &HoldRow) -> Problem {
    match refused {
        Refused::Unknown => no_hold(),
        Refused::ByUsage => Problem::conflict(
            "hold_settles_by_usage",
            "usage captures the hold, not calls",
            "report the usage with its `holdid`, or place holds with `settle_by` as `call`",
        ),
        // One that is open has expired.
        Refused::NotOpen => not_open(if hold.state == "open" { "expired" } else { &hold.state }),
        Refused::Beyond(most) => Problem::unprocessable(
            "capture_beyond_hold",
            "the amount is beyond what is left of the hold and its tolerance",
            "capture `available` at most, or give a tolerance",
        )
        .with("available", text(most)),
        Refused::NotCovered(most) => not_covered(most, &WITHOUT_CREDIT),
    }
}
