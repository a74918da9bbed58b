//! Periods of meters that do not add up: which are closed, and what one comes to so far.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{meter::MeterDefinition, money::Amount, period::Period, rating::Charge, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
    task,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{format_optional, meters::no_meter};
use crate::{
    auth::{Caller, Scope, TenantScope},
    closing::{Closing, Counted, Measure},
    compiled::{self, Compiled},
    error::ApiError,
    extract::{Query, time_us},
    openapi::{NotFound, Refusals, Unprocessable},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        meter_periods::{self, MeterPeriodRow},
        observations::{self, Whose},
        running_totals,
    },
};

/// A period of a meter that does not add up.
#[derive(Serialize, ToSchema)]
pub(crate) struct MeterPeriod {
    /// Its beginning, inclusive.
    #[schema(format = DateTime)]
    from: String,
    /// Its end, exclusive.
    #[schema(format = DateTime)]
    to: String,
    /// Of teams that have this zone of their own; absent for all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// `open` until everything that was observed of it is priced, then `closed`; `open` again once something is
    /// observed of it later.
    state: String,
    /// How often it was closed.
    closings: u32,
    /// How many quantities it was closed with: one for each team and combination of dimensions.
    quantities: u64,
    /// Why it cannot be closed; null where nothing is wrong.
    error: Option<String>,
    /// When it was closed last.
    #[schema(format = DateTime)]
    closed_at: Option<String>,
}

impl From<MeterPeriodRow> for MeterPeriod {
    fn from(row: MeterPeriodRow) -> Self {
        Self {
            from: time::format(row.from_us),
            to: time::format(row.to_us),
            zone: Some(row.zone).filter(|zone| !zone.is_empty()),
            state: row.state,
            closings: row.closings.unsigned_abs(),
            quantities: row.quantities.unsigned_abs(),
            error: row.error,
            closed_at: format_optional(row.closed_at_us),
        }
    }
}

/// List the periods of a meter
///
/// Of meters whose numbers do not add up (maximum, unique count and others), newest first. A period is there once
/// something was observed in it, and is closed a while after its end: events of the type `weir.closed.{meter}` say what
/// it came to.
#[utoipa::path(get, path = "/v1/meters/{key}/periods", tag = "usage", params(PageQuery, ("key" = String, Path, description = "Key of the meter")),
    responses((status = 200, body = Page<MeterPeriod>), NotFound, Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<MeterPeriod>>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let asked = query.asked(2)?;
    asked.after_number(0)?;
    let compiled = compiled::newest(&api, tenant).await?;
    meter_of(&compiled, &key)?;
    let (key, asking) = (key.as_str(), &asked);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        meter_periods::list(&mut transaction, tenant, key, asking).await
    })
    .await?;
    let Page { items, next_cursor } =
        page(&asked, rows, |row| vec![row.from_us.to_string(), row.zone.clone()]);
    Ok(Json(Page { items: items.into_iter().map(MeterPeriod::from).collect(), next_cursor }))
}

/// When.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EstimateQuery {
    /// Any time of the period, RFC 3339; now where it is left out.
    #[serde(default)]
    #[param(format = DateTime)]
    at: Option<String>,
}

/// What a period comes to so far.
#[derive(Serialize, ToSchema)]
pub(crate) struct Estimate {
    /// The meter.
    meter: String,
    /// The team.
    team: String,
    /// The period's beginning, inclusive.
    #[schema(format = DateTime)]
    from: String,
    /// Its end, exclusive.
    #[schema(format = DateTime)]
    to: String,
    /// Up to when it was counted: now, or the period's end.
    #[schema(format = DateTime)]
    counted_to: String,
    /// One for each combination of dimensions.
    quantities: Vec<EstimatedQuantity>,
}

/// What a combination of dimensions comes to so far.
#[derive(Serialize, ToSchema)]
pub(crate) struct EstimatedQuantity {
    /// Its dimensions.
    dimensions: BTreeMap<String, String>,
    /// How much, as decimal text.
    quantity: String,
    /// `priced`, `unlimited` or `unpriced`.
    status: &'static str,
    /// What it would be charged if the period ended now; null where nobody knows a price.
    charge: Option<String>,
    /// The currency of the charge.
    currency: Option<String>,
}

/// Estimate a period
///
/// What a period of a meter that does not add up comes to so far, counted in the archive, and what that would cost. What
/// is charged is decided at the close of the period.
#[utoipa::path(get, path = "/v1/teams/{team}/meters/{key}/estimate", tag = "usage",
    params(EstimateQuery, ("team" = String, Path, description = "Key of the team"), ("key" = String, Path, description = "Key of the meter")),
    responses((status = 200, body = Estimate), NotFound, Unprocessable, Refusals))]
pub(crate) async fn estimate(
    State(api): State<Api>,
    caller: Caller,
    Path((team, key)): Path<(String, String)>,
    Query(query): Query<EstimateQuery>,
) -> Result<Json<Estimate>, ApiError> {
    let tenant = caller.may_of(Scope::UsageRead, &team)?;
    let at_us = query.at.as_deref().map(|text| time_us("at", text)).transpose()?;
    let now_us = task::now_us();
    let at_us = at_us.unwrap_or(now_us);
    let compiled = compiled::newest(&api, tenant).await?;
    let meter = meter_of(&compiled, &key)?;
    let Some(kind) = meter.period else { return Err(adds_up(&key).into()) };
    let zones = &compiled.catalog.zones;
    let name = zones.name_of(&team, at_us);
    let period = Period::of(kind, &zones.of(&team, at_us).time_zone, at_us);
    let Some(measure) = Measure::of(meter, &period) else { return Err(adds_up(&key).into()) };
    // What the team observed while it had another zone is in a period of that one.
    let part = zones.part(&team, name, period).unwrap_or(period);
    let until_us = now_us.clamp(part.start_us, part.end_us);
    let counted = observations::counted(
        &api.clickhouse,
        tenant,
        (&key, measure),
        Whose::Team(&team),
        (&part, until_us),
    )
    .await?;
    let quantities = priced(&api, tenant, &compiled, (meter, period, name), &counted).await?;
    Ok(Json(Estimate {
        meter: key,
        team,
        from: time::format(period.start_us),
        to: time::format(period.end_us),
        counted_to: time::format(until_us),
        quantities,
    }))
}

fn meter_of<'c>(compiled: &'c Compiled, key: &str) -> Result<&'c MeterDefinition, Problem> {
    compiled.document.meter(key).ok_or_else(|| no_meter(key))
}

fn adds_up(key: &str) -> Problem {
    Problem::unprocessable(
        "meter_adds_up",
        format!("events of the meter `{key}` are priced one by one: it has no periods"),
        "ask for its usage, or for a balance",
    )
}

/// What closing the period now would cost.
async fn priced(
    api: &Api,
    tenant: TenantScope,
    compiled: &Compiled,
    (meter, period, zone): (&MeterDefinition, Period, &str),
    counted: &[Counted],
) -> Result<Vec<EstimatedQuantity>, ApiError> {
    let Some(first) = counted.first() else { return Ok(Vec::new()) };
    let team = first.team.as_str();
    let posted = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        running_totals::of_team(&mut transaction, tenant, team).await
    })
    .await?;
    let totals = super::rating::PostedTotals(posted);
    let mut quantities = Vec::with_capacity(counted.len());
    for one in counted {
        let quantity = one.quantity().ok_or_else(|| {
            let what = format!("the quantity of the meter `{}` is not below 10^15", meter.key);
            Problem::unprocessable("estimate_out_of_range", what, "correct what was reported")
        })?;
        let closing = Closing { meter, period, zone, team, dimensions: &one.dimensions, quantity };
        let lines = closing.priced(&compiled.catalog, &totals).map_err(|error| {
            Problem::unprocessable(
                "estimate_out_of_range",
                error.to_string(),
                "correct the price or what was reported",
            )
        })?;
        let charge = lines.first().map_or(Charge::Unpriced, |line| line.charge);
        let card = lines.first().and_then(|line| line.card.as_ref());
        quantities.push(EstimatedQuantity {
            dimensions: one.dimensions.clone(),
            quantity: quantity.to_string(),
            status: match charge {
                Charge::Priced { .. } => "priced",
                Charge::Unlimited { .. } => "unlimited",
                Charge::Unpriced | Charge::Observed => "unpriced",
            },
            charge: charge.amount().map(|amount: Amount| amount.to_string()),
            currency: card.map(|card| card.currency.to_string()),
        });
    }
    Ok(quantities)
}
