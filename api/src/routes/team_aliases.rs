//! Aliases: other subjects whose events belong to a team.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{check_key, no_team};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        team_aliases::{self, AliasRow},
        teams,
    },
};

/// By then every ingest process that runs has loaded the alias, or lets nobody in; and what was on
/// its way into the log before is there.
const KNOWN_AFTER_S: i32 = 60;

/// An alias to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAlias {
    /// The other subject. It must not be a team, which it is once it has usage.
    #[schema(min_length = 1, max_length = 256)]
    alias: String,
}

/// An alias.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alias {
    /// The other subject.
    alias: String,
    /// The team that its events belong to.
    team: String,
    /// Whether it waits: events of the other subject are answered 503 until it is seen that it has
    /// no events of its own. If it has, the alias is removed.
    waiting: bool,
    /// Since when it holds; null while it waits.
    effective_at: Option<String>,
}

impl From<AliasRow> for Alias {
    fn from(row: AliasRow) -> Self {
        Self {
            alias: row.alias,
            team: row.team,
            waiting: row.effective_at_us.is_none(),
            effective_at: row.effective_at_us.map(time::format),
        }
    }
}

/// Make an alias of a team
///
/// It waits for at least 60 seconds, and until everything that was accepted before is posted. Meanwhile
/// events of the other subject are answered 503. Then it takes effect; or, if the subject has come to
/// have events of its own, or that could not be seen within 15 minutes, it is removed, which
/// `GET /v1/audit` shows.
#[utoipa::path(post, path = "/v1/teams/{team}/aliases", tag = "teams", params(IdempotencyKey, ("team" = String, Path, description = "Key of the team")),
    request_body = NewAlias, responses((status = 201, body = Alias), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    call: Call<NewAlias>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::TeamsWrite)?;
    check_key("alias", &call.value.alias)?;
    // Usage that is rated but not posted makes a team as well.
    let has_usage = api.live.knows(tenant, &call.value.alias);
    idempotency::once(&api, tenant, call, move |connection, new: &NewAlias| {
        let team = team.clone();
        Box::pin(async move {
            teams::lock_names(connection, tenant).await?;
            teams::find(connection, tenant, &team).await?.ok_or_else(|| no_team(&team))?;
            if has_usage || teams::find(connection, tenant, &new.alias).await?.is_some() {
                let detail = format!("`{}` is a team itself", new.alias);
                return Err(Problem::conflict(
                    "alias_is_team",
                    detail,
                    "choose another alias; teams cannot be merged",
                )
                .into());
            }
            let Some(row) =
                team_aliases::insert(connection, tenant, &new.alias, &team, KNOWN_AFTER_S).await?
            else {
                return Err(Problem::conflict(
                    "alias_exists",
                    format!("`{}` is an alias already", new.alias),
                    "choose another alias",
                )
                .into());
            };
            Made::new(StatusCode::CREATED, &Alias::from(row))
        })
    })
    .await
}

/// List a team's aliases
#[utoipa::path(get, path = "/v1/teams/{team}/aliases", tag = "teams", params(PageQuery, ("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = Page<Alias>), NotFound, Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Alias>>, ApiError> {
    let tenant = caller.may_of(Scope::TeamsRead, &team)?;
    let (team, asked) = (&team, &query.asked(1)?);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await?.ok_or_else(|| no_team(team))?;
        team_aliases::list(&mut transaction, tenant, team, asked).await
    })
    .await?;
    let items = rows.into_iter().map(Alias::from).collect();
    Ok(Json(page(asked, items, |alias: &Alias| vec![alias.alias.clone()])))
}
