//! Who changed what, and when.

use axum::{Json, extract::State};
use domain::time;
use runtime::postgres::scoped;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::{Query, time_us},
    openapi::Refusals,
    page::{Page, asked, cursor_invalid, page},
    state::Api,
    store::audit::{self, ChangeQuestion, ChangeRow},
};

/// Which changes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// Public id of an API key or an app's secret, or an operator's name.
    actor: Option<String>,
    /// Such as `POST /v1/apps`, or `keys create` of the command line.
    action: Option<String>,
    /// The path of the request, such as `/v1/teams/acme/aliases`.
    target: Option<String>,
    /// First time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A change.
#[derive(Serialize, ToSchema)]
pub(crate) struct Change {
    /// Its id.
    change_id: Uuid,
    /// When it was made.
    changed_at: String,
    /// `api_key`, `app_token` or `operator`.
    actor_kind: String,
    /// Public id of the key or secret; the login name of an operator.
    actor: String,
    /// The app of the key or secret.
    actor_app: Option<String>,
    /// What was called.
    action: String,
    /// What it was called on.
    target: String,
    /// What was there, where something was.
    before: Option<Value>,
    /// What the caller was answered, without secrets.
    after: Value,
    /// The request's id.
    request_id: Option<String>,
}

impl From<ChangeRow> for Change {
    fn from(row: ChangeRow) -> Self {
        let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self {
            change_id: row.change_id,
            changed_at: time::format(row.changed_at_us),
            actor_kind: row.actor_kind,
            actor: row.actor,
            actor_app: row.actor_app,
            action: row.action,
            target: row.target,
            before: row.before.map(json),
            after: json(row.after),
            request_id: row.request_id,
        }
    }
}

/// List changes
///
/// Every change of apps, keys, secrets, catalog, teams, aliases and limits, newest first: who, what,
/// before and after. A change and its row are one transaction, and nobody can alter a row.
#[utoipa::path(get, path = "/v1/audit", tag = "keys", params(AuditQuery), responses((status = 200, body = Page<Change>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<Change>>, ApiError> {
    let tenant = caller.may(Scope::AuditRead)?;
    let asked = asked(query.limit, query.cursor.as_deref(), 1)?;
    let time = |name, text: Option<&String>| text.map(|text| time_us(name, text)).transpose();
    let after = asked.after(0).map(str::parse).transpose().map_err(|_| cursor_invalid())?;
    let question = &ChangeQuestion {
        from_us: time("from", query.from.as_ref())?,
        to_us: time("to", query.to.as_ref())?,
        actor: query.actor,
        action: query.action,
        target: query.target,
        after,
        limit: asked.rows(),
    };
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        audit::list(&mut transaction, tenant, question).await
    })
    .await?;
    let items = rows.into_iter().map(Change::from).collect();
    Ok(Json(page(&asked, items, |change: &Change| vec![change.change_id.to_string()])))
}
