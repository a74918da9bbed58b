//! Twins: events that were taken back because an earlier one with their identity counts.

use axum::{Json, extract::State};
use domain::time;
use runtime::postgres::scoped;
use serde::Serialize;
use utoipa::ToSchema;

use super::events::receipt;
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        events::EventPlace,
        twins::{self, TwinRow},
    },
};

/// An event that was taken back because an earlier one with its identity counts.
#[derive(Serialize, ToSchema)]
pub(crate) struct Twin {
    /// Its receipt.
    receipt: String,
    /// The receipt of the event that counts.
    first: String,
    /// When it was found.
    found_at: String,
    #[serde(skip)]
    place: [String; 3],
}

impl Twin {
    fn of(row: &TwinRow) -> Self {
        let receipt_of = |position, index: i32| {
            receipt(EventPlace {
                partition: row.partition.unsigned_abs(),
                position,
                index: index.unsigned_abs(),
            })
        };
        Self {
            receipt: receipt_of(row.position, row.index),
            first: receipt_of(row.first_position, row.first_index),
            found_at: time::format(row.found_at_us),
            place: [row.partition.to_string(), row.position.to_string(), row.index.to_string()],
        }
    }
}

/// List twins
///
/// Events that took effect although an earlier one had their id, because they came again with another time, long after:
/// a sweep finds them and takes them back by a correction.
#[utoipa::path(get, path = "/v1/twins", tag = "corrections", params(PageQuery), responses((status = 200, body = Page<Twin>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Twin>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let asked = &query.asked(3)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        twins::rows(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.iter().map(Twin::of).collect();
    Ok(Json(page(asked, items, |one: &Twin| one.place.to_vec())))
}
