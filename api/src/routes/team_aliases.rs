//! Aliases: other subjects whose events belong to a team.

use axum::{Json, extract::State, http::StatusCode};
use domain::time;
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{check_key, no_team};
use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        holds,
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
    /// The other subject. It must not be a team, which it is once it has usage, unless it is merged.
    #[schema(min_length = 1, max_length = 256)]
    alias: String,
    /// Whether usage that the subject has becomes the team's: it is taken back and rated again by the team's prices.
    #[serde(default)]
    merge: bool,
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
    /// Null where no usage becomes the team's, or how far that is: `asked`, `taking_back`, `moving` or `merged`.
    merge: Option<String>,
    /// Events that have become the team's.
    moved: i64,
    /// The corrections that took back what they came to: `GET /v1/corrections/{correction}`.
    corrections: Vec<String>,
}

impl From<AliasRow> for Alias {
    fn from(row: AliasRow) -> Self {
        Self {
            alias: row.alias,
            team: row.team,
            waiting: row.effective_at_us.is_none(),
            effective_at: row.effective_at_us.map(time::format),
            merge: row.merge,
            moved: row.moved,
            corrections: row.corrections.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Make an alias of a team
///
/// It waits for at least 60 seconds, and until everything that was accepted before is posted. Meanwhile
/// events of the other subject are answered 503. Then it takes effect; or, if the subject has come to
/// have events of its own, or that could not be seen within 15 minutes, it is removed, which
/// `GET /v1/audit` shows. With `merge` the subject may have usage: then a correction takes back what it came to, its
/// events are rated again for the team, and the alias takes effect. Its credits stay where they are.
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
            check(connection, tenant, (&team, has_usage), new).await?;
            let Some(row) = team_aliases::insert(
                connection,
                tenant,
                &new.alias,
                &team,
                (KNOWN_AFTER_S, new.merge),
            )
            .await?
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

/// Whether a subject may become an alias of a team.
async fn check(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (team, has_usage): (&str, bool),
    new: &NewAlias,
) -> Result<(), ApiError> {
    teams::find(connection, tenant, team).await?.ok_or_else(|| no_team(team))?;
    if let Some(alias) = team_aliases::find(connection, tenant, team).await? {
        let detail = format!("`{team}` is an alias of `{}`", alias.team);
        return Err(Problem::conflict(
            "team_is_alias",
            detail,
            "make the alias one of the team that this name belongs to",
        )
        .into());
    }
    let is_team = has_usage || teams::find(connection, tenant, &new.alias).await?.is_some();
    if is_team && (!new.merge || new.alias == team) {
        return Err(Problem::conflict(
            "alias_is_team",
            format!("`{}` is a team itself", new.alias),
            "choose another alias; or ask with `merge`, and its usage becomes the team's",
        )
        .into());
    }
    if team_aliases::any_of(connection, tenant, &new.alias).await? {
        return Err(Problem::conflict(
            "alias_has_aliases",
            format!("there are aliases of `{}`", new.alias),
            "only a name without aliases of its own becomes one: GET /v1/teams/{team}/aliases",
        )
        .into());
    }
    if holds::any_open(connection, tenant, &new.alias).await? {
        return Err(Problem::conflict(
            "alias_has_holds",
            format!("work of `{}` is under way: it has holds that are open", new.alias),
            "capture or release them first",
        )
        .into());
    }
    Ok(())
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
