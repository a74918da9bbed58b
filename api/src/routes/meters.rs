//! Meters.

use axum::{Json, extract::State, http::StatusCode};
use domain::{catalog::CatalogDocument, meter::MeterDefinition};
use runtime::http::{Path, Problem};
use serde_json::{Value, json};

use super::catalog::{Published, load, publish};
use crate::{
    auth::{Caller, Scope},
    catalog::MeterForm,
    error::ApiError,
    extract::Query,
    idempotency::{Answer, Call, IdempotencyKey},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
};

/// Add a meter
///
/// Publishes a new version of the catalog. To change a meter, publish the whole catalog.
#[utoipa::path(post, path = "/v1/meters", tag = "catalog", params(IdempotencyKey), request_body = MeterForm,
    responses((status = 201, body = Published), ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<MeterDefinition>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    publish(&api, tenant, call, StatusCode::CREATED, add).await
}

/// Adds a meter to a document.
pub(crate) fn add(
    document: &mut CatalogDocument,
    meter: &MeterDefinition,
) -> Result<Value, ApiError> {
    if document.meters.iter().any(|other| other.key == meter.key) {
        let detail = format!("there is a meter `{}`", meter.key);
        return Err(Problem::conflict(
            "meter_exists",
            detail,
            "choose another key, or publish the whole catalog to change it",
        )
        .into());
    }
    document.meters.push(meter.clone());
    Ok(json!({ "meter": meter.key }))
}

/// List meters
#[utoipa::path(get, path = "/v1/meters", tag = "catalog", params(PageQuery), responses((status = 200, body = Page<MeterForm>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<MeterDefinition>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let asked = query.asked(1)?;
    let (mut document, ..) = load(&api, tenant).await?;
    document.meters.sort_by(|left, right| left.key.cmp(&right.key));
    document.meters.retain(|meter| asked.after(0).is_none_or(|after| meter.key.as_str() > after));
    Ok(Json(page(&asked, document.meters, |meter: &MeterDefinition| vec![meter.key.clone()])))
}

/// Read a meter
#[utoipa::path(get, path = "/v1/meters/{key}", tag = "catalog", params(("key" = String, Path, description = "Key of the meter")),
    responses((status = 200, body = MeterForm), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<MeterDefinition>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let (document, ..) = load(&api, tenant).await?;
    let meter = document.meters.into_iter().find(|meter| meter.key == key);
    Ok(Json(meter.ok_or_else(|| no_meter(&key))?))
}

pub(super) fn no_meter(key: &str) -> Problem {
    Problem::not_found("meter_unknown", format!("there is no meter `{key}`"), "list the meters")
}
