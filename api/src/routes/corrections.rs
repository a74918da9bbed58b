//! Corrections of many events: a preview of what they change, and a job that posts them.

use axum::{Extension, Json, extract::State, http::StatusCode};
use domain::{
    catalog::{CatalogDocument, Fault},
    time,
};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::filter::Filter;
use super::{catalog::check, catalog_drafts::open, events::some, format_optional};
use crate::{
    auth::{Actor, Caller, Scope, TenantScope},
    catalog::CatalogForm,
    compiled,
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, asked, page},
    progress::archived,
    state::Api,
    store::corrections::{self, BlockRow, CorrectionRow, DeltaRow, NewCorrection, TotalRow},
};

pub(crate) mod filter;

/// Corrections of a tenant that are worked on at once.
const AT_WORK_MAX: i64 = 100;
/// Characters of a reason.
const REASON_LENGTH_MAX: usize = 1_000;

/// What is to be done with the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CorrectionKind {
    /// Rate them by the newest catalog.
    Rate,
    /// Take them back: they count for nothing.
    Void,
}

/// A correction of many events.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCorrectionForm {
    /// `rate` or `void`.
    kind: CorrectionKind,
    /// Which events.
    #[serde(default)]
    filter: Filter,
    /// Why, for people.
    reason: String,
}

/// A catalog that events of the past are rated by, to see what it would have come to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Simulation {
    /// The whole catalog, as `PUT /v1/catalog` takes it; absent where there is a `draft`.
    #[serde(default)]
    catalog: Option<CatalogForm>,
    /// The name of a draft, in place of `catalog`: what publishing it would make is tried.
    #[serde(default)]
    draft: Option<String>,
    /// Which events.
    #[serde(default)]
    filter: Filter,
    /// Why, for people.
    #[serde(default)]
    reason: String,
}

/// A correction and how far it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct CorrectionStatus {
    /// Its id.
    id: String,
    /// `rate`, `void` or `simulate`.
    kind: String,
    /// Which events.
    filter: Filter,
    /// Why.
    reason: String,
    /// `previewing`, `previewed` (look at `preview`, then post it or cancel it), `posting`, `confirming`
    /// (all commands are in the log), `posted`, `failed` or `cancelled`.
    state: String,
    /// Why it failed.
    error: Option<String>,
    /// The catalog version that events are rated by.
    catalog_version: i64,
    /// Events that the pass of this state has looked at so far, or of the last pass all.
    events: i64,
    /// Events that each pass goes through; null until they are counted, at the beginning of the preview.
    events_total: Option<i64>,
    /// Those that change.
    changes: i64,
    /// Those that stay, because they would be rejected.
    rejected: i64,
    /// Those whose change is in ledger and archive.
    applied: i64,
    /// What it would change.
    preview: Vec<CorrectionTotal>,
    /// What it has changed, as the archive says.
    posted: Vec<CorrectionTotal>,
    /// Who asked for it.
    created_by: String,
    /// When.
    created_at: String,
    /// When the preview was there.
    previewed_at: Option<String>,
    /// When posting began.
    posting_at: Option<String>,
    /// When it ended.
    ended_at: Option<String>,
}

/// A difference in one pair of currencies.
#[derive(Serialize, ToSchema)]
pub(crate) struct CorrectionTotal {
    /// Currency of the charge; null for lines without a price.
    currency: Option<String>,
    /// The difference that customers see.
    charge: String,
    /// Currency of the cost; null where it is unknown.
    cost_currency: Option<String>,
    /// The difference of cost.
    cost: String,
    /// Teams that it is of.
    teams: i64,
}

/// A difference of a team.
#[derive(Serialize, ToSchema)]
pub(crate) struct CorrectionDelta {
    /// The team.
    team: String,
    /// The meter.
    meter: String,
    /// Currency of the charge; null for lines without a price.
    currency: Option<String>,
    /// Currency of the cost; null where it is unknown.
    cost_currency: Option<String>,
    /// The difference of the quantity.
    quantity: String,
    /// The difference of the charge.
    charge: String,
    /// The difference of the cost.
    cost: String,
}

/// A block of commands in the log.
#[derive(Serialize, ToSchema)]
pub(crate) struct CorrectionBlock {
    /// Its place: partition:position.
    place: String,
    /// Commands in it.
    commands: i32,
    /// When it was acknowledged.
    appended_at: String,
}

impl From<TotalRow> for CorrectionTotal {
    fn from(row: TotalRow) -> Self {
        Self {
            currency: some(row.currency),
            charge: row.charge,
            cost_currency: some(row.cost_currency),
            cost: row.cost,
            teams: row.teams,
        }
    }
}

impl From<DeltaRow> for CorrectionDelta {
    fn from(row: DeltaRow) -> Self {
        Self {
            team: row.team,
            meter: row.meter,
            currency: some(row.currency),
            cost_currency: some(row.cost_currency),
            quantity: row.quantity,
            charge: row.charge,
            cost: row.cost,
        }
    }
}

impl From<BlockRow> for CorrectionBlock {
    fn from(row: BlockRow) -> Self {
        Self {
            place: format!("{}:{}", row.partition, row.position),
            commands: row.commands,
            appended_at: time::format(row.appended_at_us),
        }
    }
}

fn status(
    row: CorrectionRow,
    preview: Vec<TotalRow>,
    posted: Vec<TotalRow>,
) -> Result<CorrectionStatus, ApiError> {
    let filter = serde_json::from_str(&row.filter);
    Ok(CorrectionStatus {
        events_total: row.events_total(),
        id: row.correction_id.to_string(),
        kind: row.kind,
        filter: filter.map_err(|error| ApiError::Internal(error.to_string()))?,
        reason: row.reason,
        state: row.state,
        error: row.error,
        catalog_version: row.catalog_version,
        events: row.events,
        changes: row.changes,
        rejected: row.rejected,
        applied: row.applied,
        preview: preview.into_iter().map(CorrectionTotal::from).collect(),
        posted: posted.into_iter().map(CorrectionTotal::from).collect(),
        created_by: row.created_by,
        created_at: time::format(row.created_at_us),
        previewed_at: format_optional(row.previewed_at_us),
        posting_at: format_optional(row.posting_at_us),
        ended_at: format_optional(row.ended_at_us),
    })
}

async fn load(
    connection: &mut PgConnection,
    tenant: TenantScope,
    id: Uuid,
) -> Result<CorrectionStatus, ApiError> {
    let row = corrections::find(connection, tenant, id).await?.ok_or_else(unknown)?;
    let preview = corrections::totals(connection, tenant, (id, false)).await?;
    let posted = corrections::totals(connection, tenant, (id, true)).await?;
    status(row, preview, posted)
}

fn unknown() -> Problem {
    Problem::not_found(
        "correction_unknown",
        "there is no correction of this id",
        "check the id: GET /v1/corrections lists them",
    )
}

fn id_of(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| unknown())
}

pub(super) fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.trim().is_empty()
        || reason.chars().count() > REASON_LENGTH_MAX
        || reason.contains('\0')
    {
        return Err(Problem::unprocessable(
            "field_invalid",
            format!("`reason` is empty or has more than {REASON_LENGTH_MAX} characters"),
            "say why, for whoever reads it later",
        )
        .with("field", "reason"));
    }
    Ok(())
}

/// What is inserted, with the archive's positions and the catalog of now.
pub(crate) async fn begin(
    api: &Api,
    tenant: TenantScope,
    kind: &'static str,
    (filter, reason): (&Filter, &str),
    (document, actor): (Option<String>, &Actor),
) -> Result<NewCorrection, ApiError> {
    filter.selection()?;
    let newest = compiled::newest(api, tenant).await?;
    let positions = archived(api).await?;
    let of = |partition| positions.get(&partition).copied().unwrap_or(-1);
    Ok(NewCorrection {
        id: Uuid::now_v7(),
        kind,
        filter: serde_json::to_string(filter)
            .map_err(|error| ApiError::Internal(error.to_string()))?,
        reason: reason.to_owned(),
        document,
        catalog_version: i64::try_from(newest.version).unwrap_or(i64::MAX),
        archived_to: (0..api.log.partitions()).map(of).collect(),
        created_by: actor.id.clone(),
    })
}

/// Adds a correction, unless there are too many.
pub(crate) async fn add(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewCorrection,
) -> Result<(), ApiError> {
    if corrections::at_work(connection, tenant).await? >= AT_WORK_MAX {
        return Err(Problem::conflict(
            "corrections_at_work",
            format!("{AT_WORK_MAX} corrections are being previewed or posted already"),
            "wait until one of them has come further: GET /v1/corrections",
        )
        .into());
    }
    corrections::insert(connection, tenant, new).await
}

async fn insert(
    api: &Api,
    tenant: TenantScope,
    call: Call<NewCorrection>,
) -> Result<Answer, ApiError> {
    idempotency::once(api, tenant, call, move |connection, new: &NewCorrection| {
        Box::pin(async move {
            add(connection, tenant, new).await?;
            Made::new(StatusCode::ACCEPTED, &load(connection, tenant, new.id).await?)
        })
    })
    .await
}

/// Correct many events
///
/// Begins with a preview: which events would change, and what that comes to, by team and meter. Nothing is
/// changed before `POST /v1/corrections/{id}/post`. The events are those that the archive has now. Rating
/// them again is by the newest catalog and by the prices that hold at their times; where prices depend on
/// a period's usage so far, each is charged where it stands in its period.
#[utoipa::path(post, path = "/v1/corrections", tag = "corrections", params(IdempotencyKey), request_body = NewCorrectionForm,
    responses((status = 202, body = CorrectionStatus), ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    call: Call<NewCorrectionForm>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    check_reason(&call.value.reason)?;
    let kind = match call.value.kind {
        CorrectionKind::Rate => "rate",
        CorrectionKind::Void => "void",
    };
    if kind == "void" && call.value.filter.is_empty() {
        return Err(Problem::unprocessable(
            "filter_missing",
            "without a filter every event would be taken back",
            "say which events, by team, source or time",
        )
        .into());
    }
    let asked = (&call.value.filter, call.value.reason.as_str());
    let new = begin(&api, tenant, kind, asked, (None, &actor)).await?;
    insert(&api, tenant, call.map(|_| new)).await
}

/// See what another catalog would have come to
///
/// Rates events of the past by a catalog that is not published, with the function that rates all events, and
/// adds up the differences by team and meter. Read it with `GET /v1/corrections/{id}`; it is never posted.
#[utoipa::path(post, path = "/v1/rating/simulate", tag = "corrections", params(IdempotencyKey), request_body = Simulation,
    responses((status = 202, body = CorrectionStatus), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn simulate(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    call: Call<Simulation>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    let (filter, reason) = (&call.value.filter, call.value.reason.as_str());
    let new = begin(&api, tenant, "simulate", (filter, reason), (None, &actor)).await?;
    idempotency::once(&api, tenant, call, move |connection, asked: &Simulation| {
        let new = new.clone();
        Box::pin(async move {
            let (document, unread) = simulated(connection, tenant, asked).await?;
            let mut faults = unread;
            faults.extend(document.faults());
            check(faults)?;
            let text = serde_json::to_string(&document)
                .map_err(|error| ApiError::Internal(error.to_string()))?;
            let new = NewCorrection { document: Some(text), ..new };
            add(connection, tenant, &new).await?;
            Made::new(StatusCode::ACCEPTED, &load(connection, tenant, new.id).await?)
        })
    })
    .await
}

/// The catalog that is tried, and texts of it that could not be read.
async fn simulated(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Simulation,
) -> Result<(CatalogDocument, Vec<Fault>), ApiError> {
    match (&asked.catalog, &asked.draft) {
        (Some(catalog), None) => Ok(catalog.clone().inside()),
        (None, Some(draft)) => Ok(open(connection, tenant, draft).await?.document()?),
        _ => {
            let detail = "a simulation has either `catalog` or `draft`";
            Err(Problem::unprocessable("field_invalid", detail, "send one of them")
                .with("field", "catalog")
                .into())
        }
    }
}

/// List corrections
///
/// Newest first, without their totals.
#[utoipa::path(get, path = "/v1/corrections", tag = "corrections", params(PageQuery), responses((status = 200, body = Page<CorrectionStatus>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<CorrectionStatus>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        corrections::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let found = page(asked, rows, |row: &CorrectionRow| vec![row.correction_id.to_string()]);
    let items = found.items.into_iter().map(|row| status(row, Vec::new(), Vec::new()));
    Ok(Json(Page { items: items.collect::<Result<_, _>>()?, next_cursor: found.next_cursor }))
}

/// Read a correction
///
/// How far it is and what it changes. By team and meter: `/deltas`.
#[utoipa::path(get, path = "/v1/corrections/{correction}", tag = "corrections", params(("correction" = Uuid, Path, description = "Its id")),
    responses((status = 200, body = CorrectionStatus), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<CorrectionStatus>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let id = id_of(&text)?;
    let status = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        load(&mut transaction, tenant, id).await
    });
    Ok(Json(status.await?))
}

/// Post a correction
///
/// After its preview: commands for each event that changes go into the log, and the rater takes back what the
/// event came to and books what it comes to instead. A catalog that was published since the preview stops
/// it. Events that were corrected otherwise since the preview are left out, which `applied` shows.
#[utoipa::path(post, path = "/v1/corrections/{correction}/post", tag = "corrections", params(IdempotencyKey, ("correction" = Uuid, Path, description = "Its id")),
    responses((status = 202, body = CorrectionStatus), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn post(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call<super::api_keys::Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    change_state(&api, tenant, id_of(&text)?, call, "posting").await
}

/// Cancel a correction
///
/// That was previewed and not posted.
#[utoipa::path(post, path = "/v1/corrections/{correction}/cancel", tag = "corrections", params(IdempotencyKey, ("correction" = Uuid, Path, description = "Its id")),
    responses((status = 202, body = CorrectionStatus), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call<super::api_keys::Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    change_state(&api, tenant, id_of(&text)?, call, "cancelled").await
}

async fn change_state(
    api: &Api,
    tenant: TenantScope,
    id: Uuid,
    call: Call<super::api_keys::Nothing>,
    to: &'static str,
) -> Result<Answer, ApiError> {
    idempotency::once(api, tenant, call, move |connection, _| {
        Box::pin(async move {
            let row = corrections::find(connection, tenant, id).await?.ok_or_else(unknown)?;
            if row.kind == "simulate" && to == "posting" {
                return Err(Problem::conflict(
                    "correction_simulated",
                    "a simulation is never posted",
                    "publish the catalog, then ask for a correction of the kind `rate`",
                )
                .into());
            }
            if !corrections::advance(connection, tenant, id, ("previewed", to)).await? {
                return Err(Problem::conflict(
                    "correction_not_previewed",
                    format!("the correction is {}", row.state),
                    "wait until it is previewed; one that ended stays as it is",
                )
                .with("state", row.state.as_str())
                .into());
            }
            Made::new(StatusCode::ACCEPTED, &load(connection, tenant, id).await?)
        })
    })
    .await
}

/// Which differences.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeltaQuery {
    /// What it has changed, instead of what it would change.
    #[serde(default)]
    posted: bool,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List what a correction changes
///
/// By team and meter.
#[utoipa::path(get, path = "/v1/corrections/{correction}/deltas", tag = "corrections", params(DeltaQuery, ("correction" = Uuid, Path, description = "Its id")),
    responses((status = 200, body = Page<CorrectionDelta>), NotFound, Refusals))]
pub(crate) async fn list_deltas(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<DeltaQuery>,
) -> Result<Json<Page<CorrectionDelta>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let (id, asked) = (id_of(&text)?, &asked(query.limit, query.cursor.as_deref(), 4)?);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        corrections::find(&mut transaction, tenant, id).await?.ok_or_else(unknown)?;
        corrections::deltas(&mut transaction, tenant, (id, query.posted), asked).await
    })
    .await?;
    let place = |row: &DeltaRow| {
        vec![row.team.clone(), row.meter.clone(), row.currency.clone(), row.cost_currency.clone()]
    };
    let found = page(asked, rows, place);
    let items = found.items.into_iter().map(CorrectionDelta::from).collect();
    Ok(Json(Page { items, next_cursor: found.next_cursor }))
}

/// List the blocks of a correction
///
/// Its run log: where its commands are in the log.
#[utoipa::path(get, path = "/v1/corrections/{correction}/blocks", tag = "corrections", params(PageQuery, ("correction" = Uuid, Path, description = "Its id")),
    responses((status = 200, body = Page<CorrectionBlock>), NotFound, Refusals))]
pub(crate) async fn list_blocks(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<CorrectionBlock>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let (id, asked) = (id_of(&text)?, &query.asked(2)?);
    asked.after_number(0)?;
    asked.after_number(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        corrections::find(&mut transaction, tenant, id).await?.ok_or_else(unknown)?;
        corrections::blocks(&mut transaction, tenant, id, Some(asked)).await
    })
    .await?;
    let found = page(asked, rows, |row: &BlockRow| {
        vec![row.partition.to_string(), row.position.to_string()]
    });
    let items = found.items.into_iter().map(CorrectionBlock::from).collect();
    Ok(Json(Page { items, next_cursor: found.next_cursor }))
}
