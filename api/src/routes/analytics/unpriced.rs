//! What has no price or no cost: new models, and types of events that no meter counts.

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    SelectionQuery,
    ask::{Ask, Takes},
    known, some,
};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    page::{Page, PageQuery, page},
    state::Api,
    store::analytics::{self, UNPRICED_PLACE_PARTS, UnpricedRow},
};

/// Something that lacks a price, a cost or a meter.
#[derive(Serialize, ToSchema)]
pub(crate) struct Unpriced {
    /// Type of the events.
    event_type: String,
    /// The meter; null where none counts events of this type.
    meter: Option<String>,
    /// What one of its quantity is.
    unit: Option<String>,
    /// The provider, by the meter's dimensions.
    provider: Option<String>,
    /// The model, by the meter's dimensions.
    model: Option<String>,
    /// First event time in the period.
    first_seen: String,
    /// Last event time in the period.
    last_seen: String,
    /// Events.
    events: i64,
    /// Of these: without a known price.
    unpriced_events: i64,
    /// Of these: without a known cost.
    uncosted_events: i64,
    /// How much; null without a meter.
    quantity: Option<String>,
}

/// List what has no price or no cost
///
/// By type of event, meter, provider and model, what was seen last first; also types of events that
/// no meter counts, whose meter is null. Publish the price, the cost or the meter: it holds for
/// events that come after it.
#[utoipa::path(get, path = "/v1/analytics/unpriced", tag = "analytics", params(SelectionQuery, PageQuery), responses((status = 200, body = Page<Unpriced>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Unpriced>>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Pages)?;
    let tenant = caller.may_filter(Scope::UsageRead, &mut ask.selection.team)?;
    let asked = ask.page(UNPRICED_PLACE_PARTS)?;
    let last_us = asked.after_number(0)?;
    let keys = asked.after.as_deref().and_then(|place| place.get(1..));
    let (archive, rows) = (&api.clickhouse, asked.rows());
    let rows =
        analytics::unpriced(archive, tenant, &ask.selection, rows, last_us.zip(keys)).await?;
    let Page { items, next_cursor } = page(&asked, rows, UnpricedRow::place);
    let items = items.into_iter().map(answer).collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next_cursor }))
}

fn answer(row: UnpricedRow) -> Result<Unpriced, ApiError> {
    let mut keys = row.keys.into_iter();
    let event_type = keys.next().unwrap_or_default();
    let [meter, unit, provider, model] = std::array::from_fn(|_| keys.next().and_then(some));
    let quantity = known(Some(&row.quantity))?.unwrap_or(Amount::ZERO);
    Ok(Unpriced {
        event_type,
        quantity: meter.as_ref().map(|_| quantity.to_string()),
        meter,
        unit,
        provider,
        model,
        first_seen: time::format(row.first_us),
        last_seen: time::format(row.last_us),
        events: row.events,
        unpriced_events: row.unpriced,
        uncosted_events: row.uncosted,
    })
}
