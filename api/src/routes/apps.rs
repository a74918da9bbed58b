//! Apps: tools that report usage or ask for decisions.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{http::Problem, postgres::scoped};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{check_key, check_name};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::apps::{self, AppRow},
};

/// An app to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApp {
    /// Its key: 1 to 256 bytes without control characters.
    #[schema(min_length = 1, max_length = 256)]
    app: String,
    /// Its name for people.
    #[serde(default)]
    name: String,
}

/// An app.
#[derive(Serialize, ToSchema)]
pub(crate) struct App {
    /// Its key.
    app: String,
    /// Its name for people.
    name: String,
    /// When it was registered.
    created_at: String,
}

impl From<AppRow> for App {
    fn from(row: AppRow) -> Self {
        Self { app: row.app, name: row.name, created_at: time::format(row.created_at_us) }
    }
}

/// Register an app
#[utoipa::path(post, path = "/v1/apps", tag = "keys", params(IdempotencyKey), request_body = NewApp,
    responses((status = 201, body = App), ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewApp>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    check_key("app", &call.value.app)?;
    check_name(&call.value.name)?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewApp| {
        Box::pin(async move {
            let Some(row) = apps::insert(connection, tenant, &new.app, &new.name).await? else {
                return Err(Problem::conflict(
                    "app_exists",
                    format!("there is an app `{}`", new.app),
                    "use it, or choose another key",
                )
                .into());
            };
            Made::new(StatusCode::CREATED, &App::from(row))
        })
    })
    .await
}

/// List apps
#[utoipa::path(get, path = "/v1/apps", tag = "keys", params(PageQuery), responses((status = 200, body = Page<App>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<App>>, ApiError> {
    let tenant = caller.may(Scope::KeysWrite)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        apps::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.into_iter().map(App::from).collect();
    Ok(Json(page(asked, items, |app: &App| vec![app.app.clone()])))
}
