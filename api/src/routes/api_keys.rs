//! API keys. The text of a key is shown once; several may live at once, so that one can be
//! replaced without a pause.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{
    http::{Path, Problem},
    keys,
    postgres::{PostgresError, scoped},
    task::now_us,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{check_name, format_optional};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::api_keys::{self, KeyRow, NewKeyRow},
};

/// Scopes of one key.
const SCOPES_MAX: usize = 32;

/// An API key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// Its name for people.
    #[serde(default)]
    name: String,
    /// The app whose key it is.
    #[serde(default)]
    app: Option<String>,
    /// What it may do: catalog:write, catalog:read, keys:write, teams:write, teams:read,
    /// usage:read, balances:read, status:read, limits:write, audit:read, wallets:write, wallets:read,
    /// holds:write, events:write, or `*` for all.
    scopes: Vec<String>,
    /// When it ends, RFC 3339; never if absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A change of an API key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyChange {
    /// When it ends, RFC 3339; null for never. It must be there: nothing is lifted by leaving it out.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, format = DateTime)]
    pub(super) expires_at: Option<String>,
}

/// An API key, without its secret.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct ApiKey {
    /// Its public id, which is also in its text.
    key_id: String,
    /// Its name for people.
    name: String,
    /// The app whose key it is.
    app: Option<String>,
    /// What it may do.
    scopes: Vec<String>,
    /// When it was made.
    created_at: String,
    /// When it ends.
    expires_at: Option<String>,
    /// When it was revoked.
    revoked_at: Option<String>,
}

/// An API key as it is shown once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeApiKey {
    /// The whole key: keep it. Null in a repeated answer, because it is stored nowhere.
    key: Option<String>,
    /// The key without its secret.
    #[serde(flatten)]
    public: ApiKey,
}

impl From<KeyRow> for ApiKey {
    fn from(row: KeyRow) -> Self {
        Self {
            key_id: row.key_id,
            name: row.name,
            app: row.app,
            scopes: row.scopes,
            created_at: time::format(row.created_at_us),
            expires_at: format_optional(row.expires_at_us),
            revoked_at: format_optional(row.revoked_at_us),
        }
    }
}

/// Make an API key
///
/// The key is in the answer and nowhere else. A repeat with the same Idempotency-Key makes no
/// second key and answers the same, but with `key` null.
#[utoipa::path(post, path = "/v1/api-keys", tag = "keys", params(IdempotencyKey), request_body = NewApiKey,
    responses((status = 201, body = MadeApiKey), ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewApiKey>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    check_name(&call.value.name)?;
    check_scopes(&caller, &call.value.scopes)?;
    let expires_at = future(call.value.expires_at.as_deref())?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewApiKey| {
        let expires_at = expires_at.clone();
        Box::pin(async move {
            let key = keys::generate().map_err(|error| ApiError::Internal(error.to_string()))?;
            let row = NewKeyRow {
                key_id: &key.id,
                secret_hash: &key.secret_hash,
                app: new.app.as_deref(),
                name: &new.name,
                scopes: &new.scopes,
                expires_at: expires_at.as_deref(),
            };
            let row = api_keys::insert(connection, tenant, &row).await.map_err(unknown_app)?;
            let public = ApiKey::from(row);
            let kept = MadeApiKey { key: None, public: public.clone() };
            Made::new(StatusCode::CREATED, &MadeApiKey { key: Some(key.text), public })?
                .but_repeat(&kept)
        })
    })
    .await
}

fn unknown_app(error: ApiError) -> ApiError {
    match error {
        ApiError::Postgres(PostgresError::Violation(_)) => Problem::unprocessable(
            "app_unknown",
            "there is no such app",
            "register the app first, or leave it out",
        )
        .into(),
        error => error,
    }
}

/// A key gives no more than its maker has.
pub(super) fn check_scopes(caller: &Caller, scopes: &[String]) -> Result<(), Problem> {
    if scopes.is_empty() || scopes.len() > SCOPES_MAX {
        return Err(Problem::unprocessable(
            "scopes_invalid",
            format!("name between 1 and {SCOPES_MAX} scopes"),
            "see the documentation of scopes",
        ));
    }
    for scope in scopes {
        if !Scope::known().any(|known| known == scope) {
            let known: Vec<&str> = Scope::known().collect();
            return Err(Problem::unprocessable(
                "scope_unknown",
                format!("there is no scope `{scope}`"),
                format!("use some of {}", known.join(", ")),
            ));
        }
        if !caller.has(scope) {
            return Err(Problem::forbidden(
                "scope_not_yours",
                format!("your key has not the scope {scope} and cannot give it"),
                "use a key that has it",
            ));
        }
    }
    Ok(())
}

/// The canonical text of a time that must be in the future.
pub(super) fn future(text: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let end = time_us("expires_at", text)?;
    if end <= now_us() {
        return Err(Problem::unprocessable(
            "expiry_past",
            "expires_at is in the past",
            "give a later time, or revoke the key",
        ));
    }
    Ok(Some(time::format(end)))
}

/// List API keys
#[utoipa::path(get, path = "/v1/api-keys", tag = "keys", params(PageQuery), responses((status = 200, body = Page<ApiKey>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ApiKey>>, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        api_keys::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.into_iter().map(ApiKey::from).collect();
    Ok(Json(page(asked, items, |key: &ApiKey| vec![key.key_id.clone()])))
}

/// Revoke an API key
///
/// It stops working within a second.
#[utoipa::path(delete, path = "/v1/api-keys/{key_id}", tag = "keys", params(IdempotencyKey, ("key_id" = String, Path, description = "Public id of the key")),
    responses((status = 200, body = ApiKey), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path(key_id): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    idempotency::once(&api, tenant, call, move |connection, _: &Nothing| {
        let key_id = key_id.clone();
        Box::pin(async move {
            let before = api_keys::lock(connection, tenant, &key_id).await?;
            let before = ApiKey::from(before.ok_or_else(no_key)?);
            let row = api_keys::revoke(connection, tenant, &key_id).await?.ok_or_else(no_key)?;
            Made::new(StatusCode::OK, &ApiKey::from(row))?.instead_of(&before)
        })
    })
    .await
}

/// Let an API key end
#[utoipa::path(patch, path = "/v1/api-keys/{key_id}", tag = "keys", params(IdempotencyKey, ("key_id" = String, Path, description = "Public id of the key")),
    request_body = ApiKeyChange, responses((status = 200, body = ApiKey), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn change(
    State(api): State<Api>,
    caller: Caller,
    Path(key_id): Path<String>,
    call: Call<ApiKeyChange>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    let expires_at = future(call.value.expires_at.as_deref())?;
    idempotency::once(&api, tenant, call, move |connection, _: &ApiKeyChange| {
        let (key_id, expires_at) = (key_id.clone(), expires_at.clone());
        Box::pin(async move {
            let before = api_keys::lock(connection, tenant, &key_id).await?;
            let before = ApiKey::from(before.ok_or_else(no_key)?);
            let row = api_keys::set_expiry(connection, tenant, &key_id, expires_at.as_deref())
                .await?
                .ok_or_else(no_key)?;
            Made::new(StatusCode::OK, &ApiKey::from(row))?.instead_of(&before)
        })
    })
    .await
}

/// A body without anything in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

fn no_key() -> Problem {
    Problem::not_found("api_key_unknown", "there is no such API key", "list the keys")
}
