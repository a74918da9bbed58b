//! Teams: billing accounts. One that nobody registered is made by its first usage.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{check_key, check_name, no_team};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        team_aliases,
        teams::{self, TeamRow},
    },
};

/// A team to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTeam {
    /// Its key, 1 to 256 bytes without control characters: the subject of its events.
    #[schema(min_length = 1, max_length = 256)]
    team: String,
    /// Its name for people.
    #[serde(default)]
    name: String,
}

/// A team.
#[derive(Serialize, ToSchema)]
pub(crate) struct Team {
    /// Its key.
    team: String,
    /// Its name for people.
    name: String,
    /// `registered`, or `usage` when its first usage made it.
    origin: String,
    /// Since when it exists.
    created_at: String,
}

impl From<TeamRow> for Team {
    fn from(row: TeamRow) -> Self {
        Self {
            team: row.team,
            name: row.name,
            origin: row.origin,
            created_at: time::format(row.created_at_us),
        }
    }
}

/// Register a team
#[utoipa::path(post, path = "/v1/teams", tag = "teams", params(IdempotencyKey), request_body = NewTeam,
    responses((status = 201, body = Team), ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewTeam>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::TeamsWrite)?;
    check_key("team", &call.value.team)?;
    check_name(&call.value.name)?;
    idempotency::once(&api, tenant, call, move |connection, new: &NewTeam| {
        Box::pin(async move {
            teams::lock_names(connection, tenant).await?;
            if let Some(alias) = team_aliases::find(connection, tenant, &new.team).await? {
                let detail = format!("`{}` is an alias of the team `{}`", new.team, alias.team);
                return Err(Problem::conflict("team_is_alias", detail, "choose another key").into());
            }
            let Some(row) = teams::insert(connection, tenant, &new.team, &new.name).await? else {
                return Err(Problem::conflict(
                    "team_exists",
                    format!("there is a team `{}`", new.team),
                    "use it, or choose another key",
                )
                .into());
            };
            Made::new(StatusCode::CREATED, &Team::from(row))
        })
    })
    .await
}

/// List teams
#[utoipa::path(get, path = "/v1/teams", tag = "teams", params(PageQuery), responses((status = 200, body = Page<Team>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Team>>, ApiError> {
    let tenant = caller.may(Scope::TeamsRead)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.into_iter().map(Team::from).collect();
    Ok(Json(page(asked, items, |team: &Team| vec![team.team.clone()])))
}

/// Read a team
#[utoipa::path(get, path = "/v1/teams/{team}", tag = "teams", params(("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = Team), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
) -> Result<Json<Team>, ApiError> {
    let tenant = caller.may_of(Scope::TeamsRead, &team)?;
    let team = &team;
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await
    })
    .await?;
    Ok(Json(row.ok_or_else(|| no_team(team))?.into()))
}
