//! The overview: a period beside the one of the same length before it.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use futures_util::future::try_join4;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    MarginSums, SelectionQuery,
    ask::{Ask, Takes},
    known, may_see_money, some, text,
};
use crate::{
    auth::Caller,
    display::{Display, DisplayQuery, Rates},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    state::Api,
    store::analytics::{self, CountRow, Selection, Top, TopRow, TotalRow},
};

/// A period beside the one before it.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsOverview)]
pub(crate) struct Overview {
    /// Where the period before begins; it ends where this one begins.
    previous_from: String,
    /// Where the period begins.
    from: String,
    /// Where it ends, exclusive.
    to: String,
    /// Teams with usage.
    active_teams: CountChange,
    /// Events with a line of usage.
    events: CountChange,
    /// Sums of charges by currency.
    revenue: Vec<AmountChange>,
    /// Sums of costs by currency.
    cost: Vec<AmountChange>,
    /// Margins by pair of currencies; a pair with a null currency is what has no price or no cost.
    margin: Vec<MarginChange>,
    /// Lines of usage without a known price.
    unpriced_lines: CountChange,
    /// Lines of usage without a known cost.
    uncosted_lines: CountChange,
    /// The ten teams of the largest revenue, of each currency.
    top_teams_by_revenue: Vec<TopTeam>,
    /// The ten models of the largest cost, of each currency.
    top_models_by_cost: Vec<TopModel>,
}

/// A number now and before.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = AnalyticsCountChange)]
pub(crate) struct CountChange {
    /// In the period.
    current: i64,
    /// In the one before.
    previous: i64,
    /// The change in percent of the one before, to two decimals; null where that is zero.
    change_percent: Option<String>,
}

/// An amount now and before.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsAmountChange)]
pub(crate) struct AmountChange {
    /// The currency.
    currency: String,
    /// In the period; null where nothing is known.
    current: Option<String>,
    /// `current` in the currency that `display_currency` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_display: Option<Display>,
    /// In the one before; null where nothing is known.
    previous: Option<String>,
    /// `previous` in the currency that `display_currency` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_display: Option<Display>,
    /// The change in percent of the one before, to two decimals; null where that is zero or null.
    change_percent: Option<String>,
}

/// A margin now and before.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsMarginChange)]
pub(crate) struct MarginChange {
    /// In the period.
    #[serde(flatten)]
    current: MarginSums,
    /// The margin in the one before; null where it is not known.
    previous_margin: Option<String>,
    /// `previous_margin` in the currency that `display_currency` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_margin_display: Option<Display>,
    /// The change in percent of the one before, to two decimals; null where that is zero or null.
    change_percent: Option<String>,
}

/// A team and its revenue.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsTopTeam)]
pub(crate) struct TopTeam {
    /// The team.
    team: String,
    /// The currency.
    currency: String,
    /// Sum of its charges.
    revenue: String,
    /// `revenue` in the currency that `display_currency` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    revenue_display: Option<Display>,
}

/// A model and its cost.
#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsTopModel)]
pub(crate) struct TopModel {
    /// The provider.
    provider: Option<String>,
    /// The model.
    model: String,
    /// The currency.
    currency: String,
    /// Sum of its costs.
    cost: String,
    /// `cost` in the currency that `display_currency` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_display: Option<Display>,
}

/// Read an overview of a period
///
/// Totals of the period and of the one of the same length before it, with the change; the teams of
/// the largest revenue and the models of the largest cost. Currencies are never added together. What `display_currency`
/// shows of either period is by the same rates, those of the last day of the period.
#[utoipa::path(get, path = "/v1/analytics/overview", tag = "analytics", params(SelectionQuery, DisplayQuery), responses((status = 200, body = Overview), Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Overview>, ApiError> {
    let mut ask = Ask::read(pairs, Takes::Filters)?;
    let tenant = may_see_money(&caller, &mut ask.selection)?;
    let display = ask.display();
    let now = ask.selection;
    let middle_us = now.from_us;
    let previous_us = middle_us.saturating_sub(now.to_us.saturating_sub(middle_us));
    let both = Selection { from_us: previous_us, ..now.clone() };
    let archive = &api.clickhouse;
    let (totals, counts, teams, models) = try_join4(
        analytics::totals(archive, tenant, &both, middle_us),
        analytics::counts(archive, tenant, &both, middle_us),
        analytics::top(archive, tenant, &now, Top::TeamsByRevenue),
        analytics::top(archive, tenant, &now, Top::ModelsByCost),
    )
    .await?;
    let lines = |of: fn(&TotalRow) -> i64| {
        let sum = |later: u8| totals.iter().filter(|row| row.later == later).map(of).sum();
        count_change(sum(1), sum(0))
    };
    let count = |of: fn(&CountRow) -> i64| {
        let sum = |later: u8| counts.iter().filter(|row| row.later == later).map(of).sum();
        count_change(sum(1), sum(0))
    };
    let mut found = Overview {
        previous_from: time::format(previous_us),
        from: time::format(now.from_us),
        to: time::format(now.to_us),
        active_teams: count(|row| row.teams),
        events: count(|row| row.events),
        revenue: amounts(&totals, |row| (&row.currency, row.charge.as_deref()))?,
        cost: amounts(&totals, |row| (&row.cost_currency, row.cost.as_deref()))?,
        margin: margins(&totals)?,
        unpriced_lines: lines(|row| row.unpriced_lines),
        uncosted_lines: lines(|row| row.uncosted_lines),
        top_teams_by_revenue: teams.into_iter().map(top_team).collect::<Result<_, _>>()?,
        top_models_by_cost: models.into_iter().map(top_model).collect::<Result<_, _>>()?,
    };
    if let Some((wanted, at_us)) = display {
        let rates = wanted.rates(&api, tenant, found.currencies(), at_us).await?;
        found.show(&rates);
    }
    Ok(Json(found))
}

impl Overview {
    /// The currencies of its amounts.
    fn currencies(&self) -> impl Iterator<Item = &str> {
        let sums = self.revenue.iter().chain(&self.cost).map(|one| one.currency.as_str());
        sums.chain(self.margin.iter().flat_map(|one| one.current.currencies()))
    }

    /// Shows its amounts in another currency too.
    fn show(&mut self, rates: &Rates) {
        for one in self.revenue.iter_mut().chain(&mut self.cost) {
            let shown =
                |amount: &Option<String>| rates.show(Some(&one.currency), amount.as_deref());
            let (current, previous) = (shown(&one.current), shown(&one.previous));
            (one.current_display, one.previous_display) = (Some(current), Some(previous));
        }
        for one in &mut self.margin {
            one.current.show(rates);
            let currency = one.current.currency.as_deref();
            one.previous_margin_display =
                Some(rates.show(currency, one.previous_margin.as_deref()));
        }
        for top in &mut self.top_teams_by_revenue {
            top.revenue_display = Some(rates.show(Some(&top.currency), Some(&top.revenue)));
        }
        for top in &mut self.top_models_by_cost {
            top.cost_display = Some(rates.show(Some(&top.currency), Some(&top.cost)));
        }
    }
}

fn count_change(current: i64, previous: i64) -> CountChange {
    let whole = |count: i64| Amount::from_raw(i128::from(count));
    let change_percent = text(change(whole(current), whole(previous)));
    CountChange { current, previous, change_percent }
}

/// The change in percent of what was before.
fn change(current: Option<Amount>, previous: Option<Amount>) -> Option<Amount> {
    let (current, previous) = current.zip(previous)?;
    current.checked_sub(previous)?.percent_of(previous)
}

/// Sums by currency, of both periods.
fn amounts(
    totals: &[TotalRow],
    of: impl Fn(&TotalRow) -> (&String, Option<&str>),
) -> Result<Vec<AmountChange>, ApiError> {
    // Both sums of a currency: before, and now.
    let mut sums: BTreeMap<&String, [Option<Amount>; 2]> = BTreeMap::new();
    for row in totals {
        let (currency, amount) = of(row);
        let Some(amount) = known(amount)?.filter(|_| !currency.is_empty()) else { continue };
        let both = sums.entry(currency).or_default();
        let sum = if row.later == 1 { &mut both[1] } else { &mut both[0] };
        *sum = sum.unwrap_or(Amount::ZERO).checked_add(amount);
    }
    let changes = sums.into_iter().map(|(currency, [previous, current])| AmountChange {
        currency: currency.clone(),
        current: text(current),
        previous: text(previous),
        current_display: None,
        previous_display: None,
        change_percent: text(change(current, previous)),
    });
    Ok(changes.collect())
}

/// Margins by pair of currencies, of both periods.
fn margins(totals: &[TotalRow]) -> Result<Vec<MarginChange>, ApiError> {
    type Known = (MarginSums, Option<Amount>);
    let mut pairs: BTreeMap<[&String; 2], [Known; 2]> = BTreeMap::new();
    for row in totals {
        let currencies = [&row.currency, &row.cost_currency];
        let complete = row.unpriced_lines == 0 && row.uncosted_lines == 0;
        let (charge, cost) = (known(row.charge.as_deref())?, known(row.cost.as_deref())?);
        let sums =
            |charge, cost| MarginSums::of(currencies.map(String::clone), charge, cost, complete);
        let [previous, current] =
            pairs.entry(currencies).or_insert_with(|| [sums(None, None), sums(None, None)]);
        *(if row.later == 1 { current } else { previous }) = sums(charge, cost);
    }
    let changes = pairs.into_values().map(|[(_, previous), (sums, current)]| MarginChange {
        current: sums,
        previous_margin: text(previous),
        previous_margin_display: None,
        change_percent: text(change(current, previous)),
    });
    Ok(changes.collect())
}

fn top_team(row: TopRow) -> Result<TopTeam, ApiError> {
    let revenue = known(Some(&row.amount))?.unwrap_or(Amount::ZERO).to_string();
    let team = row.keys.into_iter().next().unwrap_or_default();
    Ok(TopTeam { team, currency: row.currency, revenue, revenue_display: None })
}

fn top_model(row: TopRow) -> Result<TopModel, ApiError> {
    let cost = known(Some(&row.amount))?.unwrap_or(Amount::ZERO).to_string();
    let mut keys = row.keys.into_iter();
    let (provider, model) = (keys.next().and_then(some), keys.next().unwrap_or_default());
    Ok(TopModel { provider, model, currency: row.currency, cost, cost_display: None })
}
