//! Analytics over a period: usage, revenue, cost and margin by team, model, day and what else is asked.
//!
//! The numbers are those of the archive's views. What is not known is null, never zero: a row without a
//! price has no revenue, and a margin needs a price and a cost of every line in one currency.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::money::Amount;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::{Caller, Scope, TenantScope},
    display::{Display, DisplayQuery, Rates},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    page::{Page, page},
    state::Api,
    store::analytics::{self, Measure, Selection, SumRow},
};

pub(crate) mod ask;
pub(crate) mod overview;
pub(crate) mod unpriced;
mod window;

use ask::{Ask, Takes};

/// Which usage is meant.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; filters have names that clients choose"
)]
pub(crate) struct SelectionQuery {
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime, example = "2026-03-01T00:00:00Z")]
    from: String,
    /// Last event time, RFC 3339, exclusive; at most 400 days after `from`.
    #[param(format = DateTime, example = "2026-04-01T00:00:00Z")]
    to: String,
    /// One team; all if absent.
    team: Option<String>,
    /// One meter; all if absent.
    meter: Option<String>,
    /// What one app reported; all if absent.
    app: Option<String>,
    /// One feature; all if absent.
    feature: Option<String>,
    /// `filter[model]=gpt-4`: only usage with this value of the dimension. May be repeated.
    #[param(rename = "filter[dimension]")]
    filter: Option<String>,
}

/// What a row is about, and which rows.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct GroupQuery {
    /// Any of team, meter, feature, app, model and provider, and one of hour, day, week and month,
    /// separated by commas. Rows are ordered by the window, then by the groups as they stand here.
    #[param(example = "month,team")]
    group_by: Option<String>,
    /// IANA name of the zone in which hours, days, weeks (on Monday) and months begin; UTC if absent.
    time_zone: Option<String>,
    /// Rows of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What a row is about.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsPlace)]
pub(crate) struct Place {
    /// When the window begins, with the offset of the zone there; null without windows.
    window_start: Option<String>,
    /// When it ends, exclusive.
    window_end: Option<String>,
    /// Values of what was asked to group by; null where the usage has none.
    group: BTreeMap<String, Option<String>>,
}

/// Usage of one meter.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsUsage)]
pub(crate) struct Used {
    /// What it is about.
    #[serde(flatten)]
    place: Place,
    /// The meter.
    meter: String,
    /// What one of its quantity is.
    unit: String,
    /// How much.
    quantity: String,
    /// Lines of usage: an event has one for each meter that counts it.
    lines: i64,
}

/// Charges in one currency.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsRevenue)]
pub(crate) struct Revenue {
    /// What it is about.
    #[serde(flatten)]
    place: Place,
    /// The currency; null in the row of what has no price.
    currency: Option<String>,
    /// Sum of the charges; null where no price is known.
    revenue: Option<String>,
    /// `revenue` in the currency that `display_currency` asks for, by the rate of the last day of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    revenue_display: Option<Display>,
    /// Lines of usage.
    lines: i64,
    /// Of these: without a known price.
    unpriced_lines: i64,
}

/// Costs in one currency.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsCost)]
pub(crate) struct Cost {
    /// What it is about.
    #[serde(flatten)]
    place: Place,
    /// The currency; null in the row of what has no cost.
    currency: Option<String>,
    /// Sum of the costs; null where no cost is known.
    cost: Option<String>,
    /// `cost` in the currency that `display_currency` asks for, by the rate of the last day of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_display: Option<Display>,
    /// Lines of usage.
    lines: i64,
    /// Of these: without a known cost.
    uncosted_lines: i64,
}

/// Charges, costs and their difference, in one pair of currencies.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsMargin)]
pub(crate) struct Margin {
    /// What it is about.
    #[serde(flatten)]
    place: Place,
    /// Sums and margin.
    #[serde(flatten)]
    sums: MarginSums,
    /// Lines of usage.
    lines: i64,
    /// Of these: without a known price.
    unpriced_lines: i64,
    /// Of these: without a known cost.
    uncosted_lines: i64,
}

/// A margin with what it comes from.
#[derive(Clone, Default, Serialize, ToSchema)]
#[schema(as = AnalyticsMarginSums)]
pub(crate) struct MarginSums {
    /// Currency of the charges; null in the rows of what has no price.
    currency: Option<String>,
    /// Currency of the costs; null in the rows of what has no cost.
    cost_currency: Option<String>,
    /// Sum of the charges; null where no price is known.
    charge: Option<String>,
    /// Sum of the costs; null where no cost is known.
    cost: Option<String>,
    /// Charge minus cost; null where their currencies differ, or a line has no price or no cost.
    margin: Option<String>,
    /// The margin in percent of the charge, to two decimals half to even; null without a margin, and
    /// where the charge is zero.
    margin_percent: Option<String>,
    /// `charge` in the currency that `display_currency` asks for, by the rate of the last day of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    charge_display: Option<Display>,
    /// `cost` in the currency that `display_currency` asks for, by the rate of the last day of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_display: Option<Display>,
    /// `margin` in the currency that `display_currency` asks for, by the rate of the last day of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    margin_display: Option<Display>,
}

/// Read usage by group and window
///
/// Quantities by meter and unit, without money. Answered by the archive, in which events appear a
/// moment after they are accepted.
#[utoipa::path(get, path = "/v1/analytics/usage", tag = "analytics", params(SelectionQuery, GroupQuery), responses((status = 200, body = Page<Used>), Refusals))]
pub(crate) async fn usage(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Used>>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Groups)?;
    let tenant = caller.may_filter(Scope::UsageRead, &mut ask.selection.team)?;
    let rows = sums(&api, tenant, ask, Measure::Usage, |row, place| {
        let [meter, unit] = own(row);
        let quantity = known(Some(&row.quantity))?.unwrap_or(Amount::ZERO).to_string();
        Ok(Used { place, meter, unit, quantity, lines: row.lines })
    });
    Ok(Json(rows.await?))
}

/// Read revenue by group and window
///
/// Sums of charges by currency. `group_by=month,team` is what a computation of recurring revenue
/// starts from: what each team was charged in each month of the zone, to the last decimal; a row
/// with a null currency says how much of a month has no price yet.
#[utoipa::path(get, path = "/v1/analytics/revenue", tag = "analytics", params(SelectionQuery, GroupQuery, DisplayQuery), responses((status = 200, body = Page<Revenue>), Refusals))]
pub(crate) async fn revenue(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Revenue>>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Sums)?;
    let tenant = may_see_money(&caller, &mut ask.selection)?;
    let display = ask.display();
    let rows = sums(&api, tenant, ask, Measure::Revenue, |row, place| {
        let [currency] = own(row).map(some);
        let revenue = text(known(row.charge.as_deref())?);
        let (lines, unpriced_lines) = (row.lines, row.unpriced_lines);
        let revenue_display = None;
        Ok(Revenue { place, currency, revenue, revenue_display, lines, unpriced_lines })
    });
    let mut found = rows.await?;
    if let Some((wanted, at_us)) = display {
        let currencies = found.items.iter().filter_map(|row| row.currency.as_deref());
        let rates = wanted.rates(&api, tenant, currencies, at_us).await?;
        for row in &mut found.items {
            let shown = rates.show(row.currency.as_deref(), row.revenue.as_deref());
            row.revenue_display = Some(shown);
        }
    }
    Ok(Json(found))
}

/// Read cost by group and window
///
/// Sums of costs by their currency.
#[utoipa::path(get, path = "/v1/analytics/cost", tag = "analytics", params(SelectionQuery, GroupQuery, DisplayQuery), responses((status = 200, body = Page<Cost>), Refusals))]
pub(crate) async fn cost(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Cost>>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Sums)?;
    let tenant = may_see_money(&caller, &mut ask.selection)?;
    let display = ask.display();
    let rows = sums(&api, tenant, ask, Measure::Cost, |row, place| {
        let [currency] = own(row).map(some);
        let cost = text(known(row.cost.as_deref())?);
        let (lines, uncosted_lines) = (row.lines, row.uncosted_lines);
        Ok(Cost { place, currency, cost, cost_display: None, lines, uncosted_lines })
    });
    let mut found = rows.await?;
    if let Some((wanted, at_us)) = display {
        let currencies = found.items.iter().filter_map(|row| row.currency.as_deref());
        let rates = wanted.rates(&api, tenant, currencies, at_us).await?;
        for row in &mut found.items {
            row.cost_display = Some(rates.show(row.currency.as_deref(), row.cost.as_deref()));
        }
    }
    Ok(Json(found))
}

/// Read margin by group and window
///
/// Charge minus cost, a row for each pair of currencies: what has no price or no cost is in rows of
/// its own, whose margin is null. The same rule as that of the views `margin_by_team`,
/// `margin_by_model` and `margin_by_day`.
#[utoipa::path(get, path = "/v1/analytics/margin", tag = "analytics", params(SelectionQuery, GroupQuery, DisplayQuery), responses((status = 200, body = Page<Margin>), Refusals))]
pub(crate) async fn margin(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Margin>>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Sums)?;
    let tenant = may_see_money(&caller, &mut ask.selection)?;
    let display = ask.display();
    let rows = sums(&api, tenant, ask, Measure::Margin, |row, place| {
        let (charge, cost) = (known(row.charge.as_deref())?, known(row.cost.as_deref())?);
        let complete = row.unpriced_lines == 0 && row.uncosted_lines == 0;
        Ok(Margin {
            place,
            sums: MarginSums::of(own(row), charge, cost, complete).0,
            lines: row.lines,
            unpriced_lines: row.unpriced_lines,
            uncosted_lines: row.uncosted_lines,
        })
    });
    let mut found = rows.await?;
    if let Some((wanted, at_us)) = display {
        let currencies = found.items.iter().flat_map(|row| row.sums.currencies());
        let rates = wanted.rates(&api, tenant, currencies, at_us).await?;
        found.items.iter_mut().for_each(|row| row.sums.show(&rates));
    }
    Ok(Json(found))
}

/// One page of sums.
async fn sums<T>(
    api: &Api,
    tenant: TenantScope,
    ask: Ask,
    measure: Measure,
    answer: impl Fn(&SumRow, Place) -> Result<T, ApiError>,
) -> Result<Page<T>, ApiError> {
    let (question, asked) = ask.question(measure)?;
    let rows = analytics::sums(&api.clickhouse, tenant, &question).await?;
    let Page { items, next_cursor } = page(&asked, rows, SumRow::place);
    let items = items.iter().map(|row| answer(row, ask.place(row)));
    Ok(Page { items: items.collect::<Result<_, _>>()?, next_cursor })
}

impl MarginSums {
    /// Sums in a pair of currencies, and the margin where every line has a price and a cost.
    fn of(
        currencies: [String; 2],
        charge: Option<Amount>,
        cost: Option<Amount>,
        complete: bool,
    ) -> (Self, Option<Amount>) {
        let agree = currencies[0] == currencies[1];
        let both = charge.zip(cost).filter(|_| agree && complete);
        let margin = both.and_then(|(charge, cost)| charge.checked_sub(cost));
        let percent = margin.zip(charge).and_then(|(margin, charge)| margin.percent_of(charge));
        let [currency, cost_currency] = currencies.map(some);
        let sums = Self {
            currency,
            cost_currency,
            charge: text(charge),
            cost: text(cost),
            margin: text(margin),
            margin_percent: text(percent),
            ..Self::default()
        };
        (sums, margin)
    }
}

impl MarginSums {
    /// Its currencies.
    fn currencies(&self) -> impl Iterator<Item = &str> {
        [&self.currency, &self.cost_currency].into_iter().filter_map(Option::as_deref)
    }

    /// Shows its amounts in another currency too.
    fn show(&mut self, rates: &Rates) {
        let (currency, cost_currency) = (self.currency.as_deref(), self.cost_currency.as_deref());
        self.charge_display = Some(rates.show(currency, self.charge.as_deref()));
        self.cost_display = Some(rates.show(cost_currency, self.cost.as_deref()));
        self.margin_display = Some(rates.show(currency, self.margin.as_deref()));
    }
}

/// The tenant, if the caller may see both its usage and what it owes.
pub(super) fn may_see_money(
    caller: &Caller,
    selection: &mut Selection,
) -> Result<TenantScope, ApiError> {
    caller.may_filter(Scope::BalancesRead, &mut selection.team)?;
    Ok(caller.may_filter(Scope::UsageRead, &mut selection.team)?)
}

/// The last keys of a row: those of its measure.
fn own<const N: usize>(row: &SumRow) -> [String; N] {
    let own = row.keys.last_chunk::<N>();
    own.cloned().unwrap_or_else(|| std::array::from_fn(|_| String::new()))
}

/// A decimal of the archive.
fn known(decimal: Option<&str>) -> Result<Option<Amount>, ApiError> {
    let amount = decimal.map(Amount::parse_sum).transpose();
    amount.map_err(|_| ApiError::Internal("the archive's amount cannot be read".to_owned()))
}

fn text(amount: Option<Amount>) -> Option<String> {
    amount.map(|amount| amount.to_string())
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
