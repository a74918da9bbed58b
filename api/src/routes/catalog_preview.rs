//! What a catalog would change, before it is published.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{
    catalog::{CatalogDocument, Fault},
    time,
};
use runtime::{postgres::scoped, task};
use serde::Serialize;
use utoipa::ToSchema;

use super::catalog::{FAULTS_MAX, load};
use crate::{
    auth::{Caller, Scope, TenantScope},
    catalog::{
        CatalogForm, KindForm, RateForm, RateSchema, broken_promises,
        changes::{CardRow, RowChange, meters_affected, row_changes},
    },
    error::ApiError,
    extract::Body,
    openapi::Refusals,
    state::Api,
    store::catalog_preview::{UsedRow, used},
};

/// Rows that one answer lists.
const CHANGES_MAX: usize = 1_000;
/// Teams that one answer lists.
const TEAMS_MAX: i64 = 100;
/// How far back usage is looked at: 30 days.
const LOOK_BACK_US: i64 = 30 * 24 * 3_600 * 1_000_000;

/// What publishing a catalog would change.
#[derive(Serialize, ToSchema)]
pub(crate) struct CatalogPreview {
    /// The number of the catalog that it was compared with; 0 before anything was published.
    catalog_version: u64,
    /// How many faults the catalog has: with any, it would be refused.
    fault_count: usize,
    /// The first 1000 of them.
    faults: Vec<CatalogFault>,
    /// How many rows of cards change.
    change_count: usize,
    /// The first 1000 of them, by meter.
    changes: Vec<PreviewedChange>,
    /// Meters whose usage may be charged otherwise.
    meters: Vec<String>,
    /// Who used these meters; null for a credential without the scope `usage:read`.
    affected: Option<AffectedTeams>,
}

/// What is wrong with a catalog.
#[derive(Serialize, ToSchema)]
pub(crate) struct CatalogFault {
    /// Path of the faulty part.
    #[schema(example = "cards[standard].versions[2].rates[7]")]
    place: String,
    /// What is wrong, and what to do.
    reason: String,
}

/// A row of a card that changes. Each new version is compared with the one before it.
#[derive(Serialize, ToSchema)]
pub(crate) struct PreviewedChange {
    /// Of a rate card or of a cost card.
    kind: KindForm,
    /// The meter.
    meter: String,
    /// Values of the dimensions of the row.
    dimensions: BTreeMap<String, String>,
    /// The row as it is; null where it is new.
    before: Option<PreviewedRow>,
    /// The row as it would be; null where it goes.
    after: Option<PreviewedRow>,
    /// Whether it prices usage: it is of a default card, or of one that an offer names.
    in_use: bool,
    /// From which event time it would hold.
    effective_from: String,
}

/// A row with its card.
#[derive(Serialize, ToSchema)]
pub(crate) struct PreviewedRow {
    /// The card.
    card: String,
    /// Its version.
    version: u32,
    /// Its currency or credit unit.
    currency: String,
    /// The row.
    #[schema(value_type = RateSchema)]
    rate: RateForm,
}

/// Teams with usage of meters whose prices change.
#[derive(Serialize, ToSchema)]
pub(crate) struct AffectedTeams {
    /// Usage from this time on is looked at: 30 days.
    from: String,
    /// How many teams.
    team_count: i64,
    /// The 100 with the most events of them, these first.
    teams: Vec<AffectedTeam>,
}

/// A team with such usage.
#[derive(Serialize, ToSchema)]
pub(crate) struct AffectedTeam {
    /// The team.
    team: String,
    /// What it used in that time, as posted.
    usage: Vec<AffectedUsage>,
}

/// What a team used of a meter, and was charged.
#[derive(Serialize, ToSchema)]
pub(crate) struct AffectedUsage {
    /// The meter.
    meter: String,
    /// In its unit.
    quantity: String,
    /// What was charged; null for usage without a known price.
    charge: Option<String>,
    /// In this currency or credit unit.
    currency: Option<String>,
    /// In how many events.
    events: i64,
}

/// Preview a catalog
///
/// What publishing it would change: its faults, rows of cards before and after, and which teams used the
/// meters concerned in the last 30 days. Nothing is published. Teams and what they used are told to
/// credentials with the scope `usage:read` as well.
#[utoipa::path(post, path = "/v1/catalog/preview", tag = "catalog", request_body = CatalogForm,
    responses((status = 200, body = CatalogPreview), Refusals))]
pub(crate) async fn preview(
    State(api): State<Api>,
    caller: Caller,
    body: Body<CatalogForm>,
) -> Result<Json<CatalogPreview>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let (published, version, _) = load(&api, tenant).await?;
    let read = body.value.inside();
    previewed(&api, &caller, (&published, version), read).await.map(Json)
}

/// What publishing a document would change, that could be read with these faults.
pub(super) async fn previewed(
    api: &Api,
    caller: &Caller,
    (published, catalog_version): (&CatalogDocument, u64),
    (document, mut faults): (CatalogDocument, Vec<Fault>),
) -> Result<CatalogPreview, ApiError> {
    faults.extend(broken_promises(published, &document));
    faults.extend(document.faults());
    let changes = row_changes(published, &document);
    let meters: Vec<String> = meters_affected(published, &document, &changes).into_iter().collect();
    let affected = match caller.may(Scope::UsageRead) {
        Ok(tenant) => Some(affected(api, tenant, &meters).await?),
        Err(_) => None,
    };
    Ok(CatalogPreview {
        catalog_version,
        fault_count: faults.len(),
        faults: faults.into_iter().take(FAULTS_MAX).map(CatalogFault::from).collect(),
        change_count: changes.len(),
        changes: changes.iter().take(CHANGES_MAX).map(PreviewedChange::from).collect(),
        meters,
        affected,
    })
}

async fn affected(
    api: &Api,
    tenant: TenantScope,
    meters: &[String],
) -> Result<AffectedTeams, ApiError> {
    let from_us = task::now_us().saturating_sub(LOOK_BACK_US);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        used(&mut transaction, tenant, meters, from_us, TEAMS_MAX).await
    })
    .await?;
    let team_count = rows.first().map_or(0, |row| row.teams);
    let mut teams: Vec<AffectedTeam> = Vec::new();
    for mut row in rows {
        let team = std::mem::take(&mut row.team);
        match teams.last_mut() {
            Some(last) if last.team == team => last.usage.push(row.into()),
            _ => teams.push(AffectedTeam { team, usage: vec![row.into()] }),
        }
    }
    Ok(AffectedTeams { from: time::format(from_us), team_count, teams })
}

impl From<UsedRow> for AffectedUsage {
    fn from(row: UsedRow) -> Self {
        let priced = !row.currency.is_empty();
        Self {
            meter: row.meter,
            quantity: row.quantity,
            charge: priced.then_some(row.charge),
            currency: priced.then_some(row.currency),
            events: row.events,
        }
    }
}

impl From<Fault> for CatalogFault {
    fn from(Fault { place, reason }: Fault) -> Self {
        Self { place, reason }
    }
}

impl From<&RowChange<'_>> for PreviewedChange {
    fn from(change: &RowChange<'_>) -> Self {
        Self {
            kind: change.kind.into(),
            meter: change.meter.to_owned(),
            dimensions: change.dimensions.clone(),
            before: change.before.map(PreviewedRow::from),
            after: change.after.map(PreviewedRow::from),
            in_use: change.in_use,
            effective_from: time::format(change.effective_from_us),
        }
    }
}

impl From<CardRow<'_>> for PreviewedRow {
    fn from(held: CardRow<'_>) -> Self {
        Self {
            card: held.card.key.clone(),
            version: held.version,
            currency: held.card.currency.clone(),
            rate: RateForm::outside(held.row),
        }
    }
}
