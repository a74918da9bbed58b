//! Which price applies, and why no other one does.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use domain::{
    catalog::{CatalogDocument, is_key},
    offer::OfferSource,
    resolve::{self, Candidate, Chosen},
    time,
};
use runtime::http::Problem;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::super::{credits::team_of, meters::no_meter, usage::invalid};
use crate::{
    auth::{Caller, Scope},
    catalog::{RateForm, RateSchema},
    compiled,
    error::ApiError,
    extract::{Query, time_us},
    openapi::{NotFound, Refusals, Unprocessable},
    state::Api,
};

/// Usage whose price is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; filters have names that clients choose"
)]
pub(crate) struct ResolveQuery {
    /// The meter.
    meter: String,
    /// The team, or an alias of it; absent for one that has no offers.
    team: Option<String>,
    /// The time of the event, RFC 3339; now if absent.
    #[param(format = DateTime)]
    at: Option<String>,
    /// `filter[model]=gpt-4`: the usage has this value of the dimension. May be repeated.
    #[param(rename = "filter[dimension]")]
    filter: Option<String>,
}

/// The price that applies, and all that were looked at.
#[derive(Serialize, ToSchema)]
pub(crate) struct ResolvedPrice {
    /// The catalog version that says so.
    catalog_version: u64,
    /// The meter.
    meter: String,
    /// The team; null for one without offers.
    team: Option<String>,
    /// The time of the event.
    at: String,
    /// The row that prices it; null where no price is known.
    #[schema(value_type = Option<RateSchema>)]
    rate: Option<RateForm>,
    /// The card of the row.
    card: Option<String>,
    /// Its version.
    card_version: Option<u32>,
    /// The currency or credit unit of the charge.
    currency: Option<String>,
    /// The offer that survived; null for the default card.
    offer: Option<String>,
    /// What the charge by the row is multiplied with; null for nothing.
    multiplier: Option<String>,
    /// Why, in words.
    reason: String,
    /// What could price it, in the order in which it would, then what could not.
    candidates: Vec<PriceCandidate>,
}

/// An offer that the team has at some time, or the default card.
#[derive(Serialize, ToSchema)]
pub(crate) struct PriceCandidate {
    /// `contract`, `subscription`, `team` or `default`.
    #[schema(example = "subscription")]
    source: &'static str,
    /// The offer; null for the default card.
    offer: Option<String>,
    /// Its rate card.
    card: Option<String>,
    /// The version of that card with a row for the usage.
    card_version: Option<u32>,
    /// Its multiplier.
    multiplier: Option<String>,
    /// Its weight.
    weight: i32,
    /// The key under which offers override each other.
    overriding_key: Option<String>,
    /// Whether it is the one that survived.
    chosen: bool,
    /// Why, in words.
    reason: String,
}

/// The question as it was read.
#[derive(Default)]
struct Question {
    meter: Option<String>,
    team: Option<String>,
    at_us: Option<i64>,
    dimensions: BTreeMap<String, String>,
}

impl Question {
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut question = Self::default();
        for (name, value) in pairs {
            let twice = match name.as_str() {
                "meter" => question.meter.replace(value).is_some(),
                "team" => question.team.replace(value).is_some(),
                "at" => question.at_us.replace(time_us("at", &value)?).is_some(),
                _ => question.dimensions.insert(dimension(&name)?, value).is_some(),
            };
            if twice {
                let detail = format!("`{name}` is given twice");
                return Err(invalid(detail, "give each parameter once"));
            }
        }
        Ok(question)
    }

    /// The meter of the document; all dimensions must be its own.
    fn meter(&self, document: &CatalogDocument) -> Result<String, Problem> {
        let key = self.meter.as_ref().ok_or_else(|| {
            invalid("there is no `meter`".to_owned(), "name the meter whose price is asked for")
        })?;
        let meter = document.meter(key);
        let meter = meter.ok_or_else(|| no_meter(key))?;
        match self.dimensions.keys().find(|name| !meter.dimensions.contains_key(*name)) {
            None => Ok(meter.key.clone()),
            Some(name) => Err(invalid(
                format!("the meter `{key}` has no dimension `{name}`"),
                "filter by dimensions of the meter",
            )),
        }
    }
}

fn dimension(name: &str) -> Result<String, Problem> {
    let dimension = name.strip_prefix("filter[").and_then(|rest| rest.strip_suffix(']'));
    dimension.filter(|dimension| is_key(dimension)).map(str::to_owned).ok_or_else(|| {
        invalid(
            format!("there is no parameter `{name}`"),
            "see /openapi.json for the parameters of this path",
        )
    })
}

/// Find which price applies
///
/// To usage of a meter with these dimensions at a time, by the newest catalog: the row that prices
/// it, and every offer of the team that does not, with the reason. Naming a team needs the scope
/// usage:read besides.
#[utoipa::path(get, path = "/v1/rating/resolve", tag = "catalog", params(ResolveQuery),
    responses((status = 200, body = ResolvedPrice), NotFound, Unprocessable, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<ResolvedPrice>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let question = Question::read(pairs)?;
    let team = match &question.team {
        Some(name) => Some(team_of(&api, &caller, Scope::UsageRead, name, None).await?.1),
        None => None,
    };
    let compiled = compiled::newest(&api, tenant).await?;
    let meter = question.meter(&compiled.document)?;
    let at_us = question.at_us.unwrap_or_else(runtime::task::now_us);
    let dimensions = &question.dimensions;
    let found = resolve::resolve(&compiled.catalog, team.as_deref(), &meter, dimensions, at_us);
    let found = found.ok_or_else(|| no_meter(&meter))?;
    let first = found.candidates.iter().find(|candidate| candidate.chosen);
    let reason = first.map_or("no price is known for this usage", |first| &first.reason).to_owned();
    let row = found.chosen.as_ref().and_then(|chosen| {
        let version = version(&compiled.document, chosen)?;
        version.row(&meter, dimensions).map(RateForm::outside)
    });
    let (offer, card, multiplier) = match found.chosen {
        None => (None, None, None),
        Some(chosen) => (chosen.offer, Some(chosen.card), chosen.multiplier),
    };
    Ok(Json(ResolvedPrice {
        catalog_version: compiled.version,
        meter,
        team,
        at: time::format(at_us),
        rate: row,
        card: card.as_ref().map(|card| card.card.to_string()),
        card_version: card.as_ref().map(|card| card.version),
        currency: card.map(|card| card.currency.to_string()),
        offer: offer.map(|key| key.to_string()),
        multiplier: multiplier.map(|multiplier| multiplier.to_string()),
        reason,
        candidates: found.candidates.into_iter().map(PriceCandidate::from).collect(),
    }))
}

/// The published version whose row prices the usage.
fn version<'d>(
    document: &'d CatalogDocument,
    chosen: &Chosen,
) -> Option<&'d domain::rate_card::CardVersion> {
    let card = document.cards.iter().find(|card| *card.key == *chosen.card.card)?;
    card.versions.iter().find(|version| version.version == chosen.card.version)
}

impl From<Candidate> for PriceCandidate {
    fn from(candidate: Candidate) -> Self {
        Self {
            source: candidate.source.map_or("default", OfferSource::name),
            offer: candidate.offer.map(|key| key.to_string()),
            card: candidate.card.map(|key| key.to_string()),
            card_version: candidate.version,
            multiplier: candidate.multiplier.map(|multiplier| multiplier.to_string()),
            weight: candidate.weight,
            overriding_key: candidate.overriding_key.map(|key| key.to_string()),
            chosen: candidate.chosen,
            reason: candidate.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Question, &'static str> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Question::read(pairs.collect()).map_err(|problem| problem.code())
    }

    #[test]
    fn a_question_names_each_thing_once() {
        let all = [
            ("meter", "tokens"),
            ("at", "1970-01-01T00:00:01Z"),
            ("filter[model]", "a"),
            ("filter[type]", "b"),
        ];
        let question = read(&all).unwrap();
        assert_eq!((question.at_us, question.dimensions.len()), (Some(1_000_000), 2));
        for (name, value) in all {
            assert_eq!(
                read(&[(name, value), (name, value)]).err(),
                Some("query_invalid"),
                "{name}"
            );
        }
        for name in ["metre", "filter[Model]", "filter[", "filter[a]b", ""] {
            assert_eq!(read(&[(name, "x")]).err(), Some("query_invalid"), "{name}");
        }
        assert_eq!(read(&[("at", "now")]).err(), Some("time_invalid"));
    }

    #[test]
    fn a_meter_has_the_dimensions_that_are_filtered_by() {
        let document: CatalogDocument = serde_json::from_str(
            r#"{"meters": [{"key": "tokens", "event_types": ["e"], "aggregation": "count",
                "dimensions": {"model": "$.model"}}]}"#,
        )
        .unwrap();
        let meter = |pairs: &[(&str, &str)]| {
            read(pairs).unwrap().meter(&document).map_err(|problem| problem.code())
        };
        assert_eq!(meter(&[("meter", "tokens"), ("filter[model]", "a")]).as_deref(), Ok("tokens"));
        assert_eq!(meter(&[("meter", "tokens"), ("filter[kind]", "a")]), Err("query_invalid"));
        assert_eq!(meter(&[("meter", "words")]), Err("meter_unknown"));
        assert_eq!(meter(&[]), Err("query_invalid"));
    }
}
