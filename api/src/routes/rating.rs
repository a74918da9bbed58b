//! What usage would cost, before it happens.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{
    catalog::{Catalog, CatalogDocument},
    money::Amount,
    preview::{Data, Hypothetical, PreviewError, PreviewLine, preview_with},
    rating::{Charge, Outcome, Scratch, TotalName, Totals},
    time,
};
use runtime::{http::Problem, postgres::scoped};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::credits::team_of;
use crate::{
    auth::{Caller, Scope},
    compiled,
    error::ApiError,
    extract::{Body, time_us},
    openapi::{Refusals, Unprocessable},
    state::Api,
    store::running_totals,
};

pub(crate) mod resolve;

/// What OpenMeter-like clients of AI billing call usage that has no type.
const TOKEN_USAGE: &str = "TOKEN_USAGE";
/// Event types that are tried where none is named.
const TYPES_TRIED: usize = 64;

/// Usage that has not happened. Whatever else stands in it is its data where there is no `data`, such as
/// `provider`, `model`, `input_tokens`, `output_tokens`.
#[derive(Serialize, ToSchema)]
#[schema(as = Calculation)]
pub(crate) struct CalculationForm {
    /// The event type (or `event_type`); absent for the one whose meters see most in the data.
    r#type: Option<String>,
    /// The team whose running totals decide (or `subject`, `teamId`, `customer_id` with `user_id`); absent
    /// for a team that has used nothing yet.
    team: Option<String>,
    /// Keys of offers that the team is taken to hold besides those that it holds, 100 at most.
    offers: Option<Vec<String>>,
    /// The source, for meters that look at it.
    source: Option<String>,
    /// The user.
    user: Option<String>,
    /// The feature (or `feature_id`).
    feature: Option<String>,
    /// When it would happen (or `timestamp`), RFC 3339; now if absent.
    time: Option<String>,
    /// The data of the event (or `payload`).
    data: Option<BTreeMap<String, String>>,
}

/// What usage would cost. Nothing is recorded.
#[derive(Serialize, ToSchema)]
#[schema(as = CalculatedPrice)]
pub(crate) struct Calculated {
    /// `rated`, `unpriced` where a line has no known price, or `unmetered` where no meter sees it.
    status: &'static str,
    /// The catalog version that said so.
    catalog_version: u64,
    /// The event type.
    r#type: String,
    /// The team; null for one that has used nothing yet.
    team: Option<String>,
    /// What the customer would owe, in the currency or credit unit of its card; null where it is not known
    /// or in several.
    credits: Option<String>,
    /// That currency or credit unit.
    currency: Option<String>,
    /// The rate card and its version, if it is one.
    card: Option<String>,
    card_version: Option<u32>,
    /// What providers would charge, where that is in US dollars; null where it is not known.
    usd_cost: Option<String>,
    /// What providers would charge; null where it is not known or in several currencies.
    cost: Option<String>,
    /// Its currency.
    cost_currency: Option<String>,
    /// (charge − cost) / charge in percent, two decimals; null where one is not known, the charge is zero, or a
    /// credit has no value in the currency of the cost.
    margin_percent: Option<String>,
    /// Meters without a known price.
    unpriced: Vec<String>,
    /// Meters without a known cost.
    uncosted: Vec<String>,
    /// What each meter makes of it.
    lines: Vec<CalculatedLine>,
}

/// What a meter makes of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct CalculatedLine {
    /// The meter.
    meter: String,
    /// Its unit.
    unit: String,
    /// How much.
    quantity: String,
    /// `priced`, `unlimited`, `unpriced`; or `observed`: its period is priced, at its close.
    status: &'static str,
    /// Values of the meter's dimensions.
    dimensions: BTreeMap<String, String>,
    /// The card.
    card: Option<String>,
    card_version: Option<u32>,
    currency: Option<String>,
    /// The charge.
    charge: Option<String>,
    cost_card: Option<String>,
    cost_card_version: Option<u32>,
    cost_currency: Option<String>,
    /// The provider's.
    cost: Option<String>,
    /// The running total that the charge depends on: before it, as posted; in priced units.
    total_before: Option<String>,
    /// When the period of that total began; null for one that goes on for ever.
    period_start: Option<String>,
}

/// The members of a body.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    fn read(body: &'a RawValue) -> Result<Self, Problem> {
        serde_json::from_str(body.get()).map(Members).map_err(|error| {
            Problem::bad_request(
                "body_invalid",
                format!("the body cannot be read: {error}"),
                "send an object",
            )
        })
    }

    /// The first of these names that is there and not null.
    fn get(&self, names: &[&str]) -> Option<&'a RawValue> {
        let all = names.iter().filter_map(|name| self.0.get(*name).copied());
        all.into_iter().find(|value| value.get() != "null")
    }

    fn text(&self, names: &[&'static str]) -> Result<Option<String>, Problem> {
        let Some(value) = self.get(names) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| {
            let name = names.first().copied().unwrap_or_default();
            Problem::unprocessable(
                "field_invalid",
                format!("`{name}` is no text"),
                "send it as a string",
            )
            .with("field", name)
        })
    }

    fn texts(&self, name: &'static str) -> Result<Vec<String>, Problem> {
        let Some(value) = self.get(&[name]) else { return Ok(Vec::new()) };
        let texts: Option<Vec<String>> = serde_json::from_str(value.get()).ok();
        texts.filter(|texts| texts.len() <= OFFERS_MAX).ok_or_else(|| {
            Problem::unprocessable(
                "field_invalid",
                format!("`{name}` is no list of at most {OFFERS_MAX} texts"),
                "send it as a list of strings",
            )
            .with("field", name)
        })
    }
}

/// Offers that may be assumed at once.
const OFFERS_MAX: usize = 100;

/// What a team has used, as posted.
pub(crate) struct PostedTotals(pub BTreeMap<TotalName, i128>);

impl Totals for PostedTotals {
    fn before(&self, name: &TotalName) -> i128 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Calculate a price
///
/// Rates usage that has not happened, by the newest catalog and with the very rules that rate events. With a
/// team, tiers and allowances go on from what it has used, as posted; without one they begin at zero.
#[utoipa::path(post, path = "/v1/rating/calculate", tag = "catalog", request_body = CalculationForm,
    responses((status = 200, body = Calculated), Unprocessable, Refusals))]
pub(crate) async fn calculate(
    State(api): State<Api>,
    caller: Caller,
    body: Body<Box<RawValue>>,
) -> Result<Json<Calculated>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let members = Members::read(&body.value)?;
    let user = members.text(&["user", "user_id", "userId"])?;
    let named = members.text(&["team", "subject", "teamId", "customer_id"])?;
    let team = match named {
        Some(name) => {
            let user = user.as_deref();
            Some(team_of(&api, &caller, Scope::UsageRead, &name, user).await?.1)
        }
        None => None,
    };
    let time = members.text(&["time", "timestamp"])?;
    let time_us = match time {
        Some(text) => time_us("time", &text)?,
        None => runtime::task::now_us(),
    };
    let compiled = compiled::newest(&api, tenant).await?;
    let posted = match &team {
        Some(team) if compiled.catalog.counts => {
            scoped(&api.pool, tenant.id(), |mut transaction| async move {
                running_totals::of_team(&mut transaction, tenant, team).await
            })
            .await?
        }
        _ => BTreeMap::new(),
    };
    let (source, feature) = (members.text(&["source"])?, members.text(&["feature", "feature_id"])?);
    let offers = members.texts("offers")?;
    let keys: Vec<&str> = offers.iter().map(String::as_str).collect();
    let mut scratch = Scratch::holding(&compiled.catalog, &keys).map_err(no_offer)?;
    let data = members.get(&["data", "payload"]).unwrap_or(&body.value);
    let data = Data::read(data).map_err(refused)?;
    let asked = Hypothetical {
        event_type: "",
        source: source.as_deref().unwrap_or_default(),
        team: team.as_deref().unwrap_or_default(),
        user: user.as_deref(),
        app: None,
        feature: feature.as_deref(),
        time_us,
        data: &data,
    };
    let event_type = members.text(&["type", "event_type", "eventType"])?;
    let (event_type, outcome, lines) =
        rate(&compiled.catalog, &PostedTotals(posted), (asked, &mut scratch), event_type)?;
    let calculated = calculated(&compiled.document, outcome, lines);
    let version = compiled.version;
    Ok(Json(Calculated { catalog_version: version, r#type: event_type, team, ..calculated }))
}

/// Rates by the type that is named, or else by the one that sees most.
fn rate(
    catalog: &Catalog,
    totals: &dyn Totals,
    (asked, scratch): (Hypothetical<'_>, &mut Scratch),
    event_type: Option<String>,
) -> Result<(String, Outcome, Vec<PreviewLine>), ApiError> {
    let of_type = |event_type: &str, scratch: &mut Scratch| {
        preview_with(catalog, totals, &Hypothetical { event_type, ..asked }, scratch)
    };
    if let Some(event_type) = event_type {
        let (outcome, lines) = of_type(&event_type, scratch).map_err(refused)?;
        return Ok((event_type, outcome, lines));
    }
    let mut types: Vec<&str> = catalog.event_types().collect();
    types.sort_unstable_by_key(|name| (*name != TOKEN_USAGE, *name));
    let mut best: Option<(String, Outcome, Vec<PreviewLine>)> = None;
    for name in types.into_iter().take(TYPES_TRIED) {
        let (outcome, lines) = of_type(name, scratch).map_err(refused)?;
        if best.as_ref().is_none_or(|(.., most)| lines.len() > most.len()) {
            best = Some((name.to_owned(), outcome, lines));
        }
    }
    Ok(best.unwrap_or_else(|| (TOKEN_USAGE.to_owned(), Outcome::Unmetered, Vec::new())))
}

fn no_offer(key: &str) -> Problem {
    let detail = format!("the catalog has no offer `{key}`");
    Problem::unprocessable("offer_unknown", detail, "see `offers` of `GET /v1/catalog`")
}

fn refused(error: PreviewError) -> ApiError {
    let code = match &error {
        PreviewError::Data(_) => "data_invalid",
        PreviewError::Rejected(rejection) => rejection.reason,
    };
    let action = "send what the event would have; it would be rejected like this";
    Problem::unprocessable(code, error.to_string(), action).into()
}

/// A sum in one currency; none of nothing or in several.
#[derive(Default)]
struct OneSum {
    sum: Option<(String, Amount)>,
    broken: bool,
}

impl OneSum {
    fn add(&mut self, currency: &str, amount: Amount) {
        match &mut self.sum {
            None => self.sum = Some((currency.to_owned(), amount)),
            Some((known, sum)) if known == currency => match sum.checked_add(amount) {
                Some(more) => *sum = more,
                None => self.broken = true,
            },
            Some(_) => self.broken = true,
        }
    }

    fn get(self) -> Option<(String, Amount)> {
        self.sum.filter(|_| !self.broken)
    }
}

fn calculated(document: &CatalogDocument, outcome: Outcome, lines: Vec<PreviewLine>) -> Calculated {
    let (mut charges, mut costs) = (OneSum::default(), OneSum::default());
    let (mut unpriced, mut uncosted) = (Vec::new(), Vec::new());
    let mut cards: Vec<(String, u32)> = Vec::new();
    // What is observed is priced with its period.
    for line in lines.iter().filter(|line| line.charge != Charge::Observed) {
        match (&line.card, line.charge.amount()) {
            (Some(card), Some(amount)) => {
                charges.add(&card.currency, amount);
                cards.push((card.card.to_string(), card.version));
            }
            _ => unpriced.push(line.meter.to_string()),
        }
        match &line.cost {
            Some((amount, card)) => costs.add(&card.currency, *amount),
            None => uncosted.push(line.meter.to_string()),
        }
    }
    cards.dedup();
    let charge = charges.get().filter(|_| unpriced.is_empty());
    let cost = costs.get();
    let margin = match (&charge, &cost) {
        (Some(charge), Some(cost)) if uncosted.is_empty() => margin(document, charge, cost),
        _ => None,
    };
    let card = <[_; 1]>::try_from(cards).ok().map(|[card]| card);
    let (card, card_version) = card.unzip();
    let text = |amount: &(String, Amount)| amount.1.to_string();
    Calculated {
        status: match outcome {
            Outcome::Rated => "rated",
            Outcome::Unmetered => "unmetered",
            Outcome::Unpriced => "unpriced",
        },
        catalog_version: 0,
        r#type: String::new(),
        team: None,
        credits: charge.as_ref().map(text),
        currency: charge.map(|(currency, _)| currency),
        card,
        card_version,
        usd_cost: cost.as_ref().filter(|(currency, _)| currency == "USD").map(text),
        cost: cost.as_ref().map(text),
        cost_currency: cost.map(|(currency, _)| currency),
        margin_percent: margin.map(|percent| percent.to_string()),
        unpriced,
        uncosted,
        lines: lines.into_iter().map(CalculatedLine::from).collect(),
    }
}

/// (charge − cost) / charge, where the charge has a value in the currency of the cost.
fn margin(
    document: &CatalogDocument,
    (currency, charge): &(String, Amount),
    (cost_currency, cost): &(String, Amount),
) -> Option<Amount> {
    let value = if currency == cost_currency {
        *charge
    } else {
        let unit = document.credit_units.iter().find(|unit| unit.key == *currency)?;
        let worth = unit.value.as_ref().filter(|value| value.currency == *cost_currency)?;
        charge.checked_mul(Amount::parse_exact(&worth.amount).ok()?)?
    };
    value.checked_sub(*cost)?.percent_of(value)
}

impl From<PreviewLine> for CalculatedLine {
    fn from(line: PreviewLine) -> Self {
        let (total, start_us) = match line.total {
            Some((name, before, _)) => (Some(before), Some(name.start_us)),
            None => (None, None),
        };
        Self {
            meter: line.meter.to_string(),
            unit: line.unit.to_string(),
            quantity: line.quantity.to_string(),
            status: match line.charge {
                Charge::Priced { .. } => "priced",
                Charge::Unlimited { .. } => "unlimited",
                Charge::Unpriced => "unpriced",
                Charge::Observed => "observed",
            },
            dimensions: line.dimensions,
            charge: line.charge.amount().map(|amount| amount.to_string()),
            card: line.card.as_ref().map(|card| card.card.to_string()),
            card_version: line.card.as_ref().map(|card| card.version),
            currency: line.card.map(|card| card.currency.to_string()),
            cost: line.cost.as_ref().map(|(amount, _)| amount.to_string()),
            cost_card: line.cost.as_ref().map(|(_, card)| card.card.to_string()),
            cost_card_version: line.cost.as_ref().map(|(_, card)| card.version),
            cost_currency: line.cost.map(|(_, card)| card.currency.to_string()),
            total_before: total.map(|raw| Amount::of_sum(raw).to_string()),
            period_start: start_us.filter(|us| *us != i64::MIN).map(time::format),
        }
    }
}
