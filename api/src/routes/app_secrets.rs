//! Secrets of apps: an app signs tokens with one, and two may live at once, so that one can be
//! replaced without a pause. A secret is shown once.

use axum::{Json, extract::State, http::StatusCode};
use domain::{time, token::secret_context};
use runtime::{
    http::{Path, Problem},
    keys,
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    api_keys::{ApiKeyChange, Nothing, check_scopes, future},
    check_name, format_optional,
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::{Api, Shared},
    store::app_secrets::{self, NewSecretRow, SecretRow},
};

/// What every secret begins with, so that one that got lost is found.
const PREFIX: &str = "weir_app_";
/// Characters of base 62 after it: 256 bits.
const SECRET_LENGTH: usize = 43;
/// Secrets of an app that live at once.
const LIVE_MAX: i64 = 2;

/// A secret to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAppSecret {
    /// Its name for people.
    #[serde(default)]
    name: String,
    /// What tokens signed with it may do at most; you must have it yourself.
    #[serde(default = "scopes_default")]
    scopes: Vec<String>,
    /// When it ends, RFC 3339; never if absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

fn scopes_default() -> Vec<String> {
    vec!["events:write".to_owned()]
}

/// A secret, without what is secret of it.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct AppSecret {
    /// Its public id; a token may name it as `kid`.
    secret_id: String,
    /// The app that signs with it.
    app: String,
    /// Its name for people.
    name: String,
    /// What tokens signed with it may do at most.
    scopes: Vec<String>,
    /// When it was made.
    created_at: String,
    /// When it ends.
    expires_at: Option<String>,
    /// When it was revoked.
    revoked_at: Option<String>,
}

/// A secret as it is shown once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeAppSecret {
    /// The secret: its bytes, as they stand here, are the key of HS256. Null in a repeated answer.
    secret: Option<String>,
    /// The rest of it.
    #[serde(flatten)]
    public: AppSecret,
}

impl From<SecretRow> for AppSecret {
    fn from(row: SecretRow) -> Self {
        Self {
            secret_id: row.secret_id,
            app: row.app,
            name: row.name,
            scopes: row.scopes,
            created_at: time::format(row.created_at_us),
            expires_at: format_optional(row.expires_at_us),
            revoked_at: format_optional(row.revoked_at_us),
        }
    }
}

/// Make a secret of an app
///
/// The app signs tokens with it: JWT, HS256, with the claims `app` (or `appId`), `scopes`, `iat`,
/// `exp` (60 to 300 seconds after `iat`), and `team` (or `teamId`) where the token is for one team
/// alone. The secret is in the answer and nowhere else. At most two live at once.
#[utoipa::path(post, path = "/v1/apps/{app}/secrets", tag = "keys", params(IdempotencyKey, ("app" = String, Path, description = "Key of the app")),
    request_body = NewAppSecret, responses((status = 201, body = MadeAppSecret), NotFound,
        ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(app): Path<String>,
    call: Call<NewAppSecret>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    check_name(&call.value.name)?;
    check_scopes(&caller, &call.value.scopes)?;
    let expires_at = future(call.value.expires_at.as_deref())?;
    let shared = Api::clone(&api);
    idempotency::once(&api, tenant, call, move |connection, new: &NewAppSecret| {
        let (api, app, expires_at) = (Api::clone(&shared), app.clone(), expires_at.clone());
        Box::pin(async move {
            if !app_secrets::lock_app(connection, tenant, &app).await? {
                return Err(no_app().into());
            }
            if app_secrets::live(connection, tenant, &app).await? >= LIVE_MAX {
                return Err(Problem::conflict(
                    "secrets_live",
                    format!("the app has {LIVE_MAX} secrets that have not ended"),
                    "revoke the one that is not used any more, then make another",
                )
                .into());
            }
            let made = Sealed::make(&api, tenant)?;
            let row = NewSecretRow {
                secret_id: &made.id,
                app: &app,
                name: &new.name,
                scopes: &new.scopes,
                sealed: &made.sealed,
                master_key_id: &made.master_key_id,
                expires_at: expires_at.as_deref(),
            };
            let public = AppSecret::from(app_secrets::insert(connection, tenant, &row).await?);
            let kept = MadeAppSecret { secret: None, public: public.clone() };
            Made::new(StatusCode::CREATED, &MadeAppSecret { secret: Some(made.text), public })?
                .but_repeat(&kept)
        })
    })
    .await
}

/// A new secret, in clear and encrypted.
struct Sealed {
    id: String,
    text: String,
    sealed: Vec<u8>,
    master_key_id: String,
}

impl Sealed {
    fn make(api: &Shared, tenant: TenantScope) -> Result<Self, ApiError> {
        let Some(master_keys) = &api.master_keys else {
            return Err(Problem::unavailable(
                60,
                "master_key_missing",
                "this installation has no master key under which it could store a secret",
                "the operator sets WEIR_MASTER_KEY for ingest and api; use an API key meanwhile",
            )
            .into());
        };
        let internal = |error: &dyn std::fmt::Display| ApiError::Internal(error.to_string());
        let random = |length| keys::random_text(length).map_err(|error| internal(&error));
        let (id, text) = (random(keys::ID_LENGTH)?, format!("{PREFIX}{}", random(SECRET_LENGTH)?));
        let context = secret_context(tenant.id(), &id);
        let sealed =
            master_keys.seal(&context, text.as_bytes()).map_err(|error| internal(&error))?;
        Ok(Self { id, text, sealed, master_key_id: master_keys.newest_id().to_owned() })
    }
}

/// List an app's secrets
#[utoipa::path(get, path = "/v1/apps/{app}/secrets", tag = "keys", params(PageQuery, ("app" = String, Path, description = "Key of the app")),
    responses((status = 200, body = Page<AppSecret>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(app): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<AppSecret>>, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    let (app, asked) = (&app, &query.asked(1)?);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        app_secrets::list(&mut transaction, tenant, app, asked).await
    })
    .await?;
    let items = rows.into_iter().map(AppSecret::from).collect();
    Ok(Json(page(asked, items, |secret: &AppSecret| vec![secret.secret_id.clone()])))
}

/// Revoke a secret of an app
///
/// Tokens signed with it stop working within two seconds.
#[utoipa::path(delete, path = "/v1/apps/{app}/secrets/{secret_id}", tag = "keys",
    params(IdempotencyKey, ("app" = String, Path, description = "Key of the app"), ("secret_id" = String, Path, description = "Public id of the secret")),
    responses((status = 200, body = AppSecret), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path((app, secret_id)): Path<(String, String)>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    idempotency::once(&api, tenant, call, move |connection, _: &Nothing| {
        let (app, secret_id) = (app.clone(), secret_id.clone());
        Box::pin(async move {
            let before = app_secrets::lock(connection, tenant, &app, &secret_id).await?;
            let before = AppSecret::from(before.ok_or_else(no_secret)?);
            let row = app_secrets::revoke(connection, tenant, &secret_id).await?;
            Made::new(StatusCode::OK, &AppSecret::from(row))?.instead_of(&before)
        })
    })
    .await
}

/// Let a secret of an app end
#[utoipa::path(patch, path = "/v1/apps/{app}/secrets/{secret_id}", tag = "keys",
    params(IdempotencyKey, ("app" = String, Path, description = "Key of the app"), ("secret_id" = String, Path, description = "Public id of the secret")),
    request_body = ApiKeyChange, responses((status = 200, body = AppSecret), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn change(
    State(api): State<Api>,
    caller: Caller,
    Path((app, secret_id)): Path<(String, String)>,
    call: Call<ApiKeyChange>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    let expires_at = future(call.value.expires_at.as_deref())?;
    idempotency::once(&api, tenant, call, move |connection, _: &ApiKeyChange| {
        let (app, secret_id) = (app.clone(), secret_id.clone());
        let expires_at = expires_at.clone();
        Box::pin(async move {
            let before = app_secrets::lock(connection, tenant, &app, &secret_id).await?;
            let before = AppSecret::from(before.ok_or_else(no_secret)?);
            let end = expires_at.as_deref();
            let row = app_secrets::set_expiry(connection, tenant, &secret_id, end).await?;
            Made::new(StatusCode::OK, &AppSecret::from(row))?.instead_of(&before)
        })
    })
    .await
}

fn no_app() -> Problem {
    Problem::not_found("app_unknown", "there is no such app", "register it first, or list the apps")
}

fn no_secret() -> Problem {
    Problem::not_found("secret_unknown", "the app has no such secret", "list the app's secrets")
}
