//! Burn tables: rate cards in credits, made and read by model.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use domain::{
    catalog::{CatalogDocument, CreditValue, Fault},
    llm_usage::UsageClass,
    money::Amount,
    rate_card::{CardKind, PER_MAX},
};
use runtime::{http::Problem, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    cards::archive::check_in_use,
    catalog::{check, load, publish},
};
use crate::{
    auth::{Caller, Scope},
    burn_tables::{BurnTable, BurnTableMade, Order, Rule, class_of_rule, listed, make, rule_names},
    catalog::{CreditValueForm, changes::default_card},
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{Answer, Call, IdempotencyKey},
    openapi::{ChangeRefusals, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
};

/// The unit of burn tables that name none.
const CREDITS: &str = "credits";

/// A burn table: what models burn.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBurnTable {
    /// Its name: 1 to 64 of a-z, 0-9, `_`, `-`, `.`.
    #[schema(example = "standard-burn")]
    name: String,
    /// The credit unit, made where it is missing.
    #[serde(default = "credits")]
    #[schema(example = "credits")]
    currency: String,
    /// What one credit is worth, for margins; absent for what is said of the unit already.
    #[serde(default)]
    #[schema(value_type = Option<CreditValueForm>)]
    credit_value: Option<CreditValue>,
    /// From which event time it holds, RFC 3339. Absent for ever for a first version, and for now for another.
    #[serde(default)]
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// What each model burns.
    #[schema(value_type = BTreeMap<String, BurnRule>)]
    rules: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

/// Credits for `per_unit` of each class of usage; a class that is left out has no price. Numbers are JSON
/// numbers or text; every digit of them counts.
#[derive(Serialize, ToSchema)]
pub(crate) struct BurnRule {
    /// For tokens of the prompt.
    #[schema(example = "1.5")]
    input_tokens: Option<String>,
    /// For tokens written.
    #[schema(example = "10.0")]
    output_tokens: Option<String>,
    /// For tokens of the prompt that a cache gave (or `cache_read_tokens`).
    cached_input_tokens: Option<String>,
    /// For tokens of the prompt that went into a cache.
    cache_write_tokens: Option<String>,
    /// The same for an hour.
    cache_write_1h_tokens: Option<String>,
    /// For tokens of thinking.
    reasoning_tokens: Option<String>,
    /// For tokens of the prompt that are audio.
    audio_input_tokens: Option<String>,
    /// For tokens written as audio.
    audio_output_tokens: Option<String>,
    /// For tokens of the prompt that are images.
    image_input_tokens: Option<String>,
    /// For tokens written as images.
    image_output_tokens: Option<String>,
    /// For tokens that were embedded.
    embedding_tokens: Option<String>,
    /// For calls of tools that the provider ran.
    tool_calls: Option<String>,
    /// For images.
    image_count: Option<String>,
    /// For searches of a reranker.
    search_units: Option<String>,
    /// How many units the credits are for; 1 if absent.
    #[schema(example = "1000")]
    per_unit: Option<String>,
}

/// What publishing a burn table answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct BurnTablePublished {
    #[serde(flatten)]
    made: BurnTableMade,
    #[serde(flatten)]
    published: super::catalog::Published,
}

fn credits() -> String {
    CREDITS.to_owned()
}

impl NewBurnTable {
    /// The order with its numbers read.
    fn order(&self) -> Result<Order, ApiError> {
        let mut faults = Vec::new();
        let mut rules = BTreeMap::new();
        for (model, fields) in &self.rules {
            rules.insert(model.clone(), rule(model, fields, &mut faults));
        }
        if rules.is_empty() {
            faults.push(fault("rules", "it has no rule: give one for each model"));
        }
        check(faults)?;
        let effective = self.effective_from.as_deref();
        Ok(Order {
            name: self.name.clone(),
            unit: self.currency.clone(),
            value: self.credit_value.clone(),
            effective_from_us: effective.map(|text| time_us("effective_from", text)).transpose()?,
            now_us: task::now_us(),
            rules,
        })
    }
}

fn fault(place: &str, reason: impl Into<String>) -> Fault {
    Fault { place: place.to_owned(), reason: reason.into() }
}

fn rule(model: &str, fields: &BTreeMap<String, Box<RawValue>>, faults: &mut Vec<Fault>) -> Rule {
    let mut rule = Rule { per: 1, credits: BTreeMap::new() };
    for (name, value) in fields.iter().filter(|(_, value)| value.get() != "null") {
        let place = format!("rules[{model}].{name}");
        if matches!(name.as_str(), "per_unit" | "perUnit") {
            match per(value) {
                Some(per) => rule.per = per,
                None => {
                    let reason = format!("it is no whole number between 1 and {PER_MAX}");
                    faults.push(fault(&place, reason));
                }
            }
            continue;
        }
        let Some(class) = class_of_rule(name) else {
            faults.push(fault(&place, unknown_class()));
            continue;
        };
        match number(value).filter(|amount| *amount >= Amount::ZERO) {
            None => faults.push(fault(
                &place,
                "it is no number of credits: 0 or more, below 10^20, with at most 12 decimals",
            )),
            Some(amount) => {
                if rule.credits.insert(class, amount.to_string()).is_some() {
                    faults.push(fault(&place, "another field says how much this class burns"));
                }
            }
        }
    }
    if rule.credits.is_empty() {
        faults.push(fault(&format!("rules[{model}]"), unknown_class()));
    }
    rule
}

fn unknown_class() -> String {
    let names: Vec<String> =
        UsageClass::ALL.into_iter().map(|class| rule_names(class).remove(0)).collect();
    format!("name classes of usage: {}; and per_unit", names.join(", "))
}

/// The number of a JSON number's text, or of a text.
fn number(value: &RawValue) -> Option<Amount> {
    let text = value.get();
    let unquoted: Option<String> = serde_json::from_str(text).ok();
    Amount::parse_exact(unquoted.as_deref().unwrap_or(text)).ok()
}

fn per(value: &RawValue) -> Option<u64> {
    let number: u64 = number(value)?.to_string().parse().ok()?;
    (1..=PER_MAX).contains(&number).then_some(number)
}

/// Publishes a burn table in a document.
fn add(document: &mut CatalogDocument, order: &Order) -> Result<Value, ApiError> {
    let default = default_card(document, CardKind::Rate);
    if let Some(card) = default.filter(|card| card.currency != order.unit) {
        let detail =
            format!("usage is priced by the card `{}`, which is in {}", card.key, card.currency);
        let action = format!(
            "take `{}` out of the defaults (PUT /v1/catalog/defaults) and publish the burn table again, or give `currency` as its unit",
            card.key
        );
        return Err(Problem::conflict("default_card_in_other_currency", detail, action).into());
    }
    check_in_use(document, &order.name)?;
    match make(document, order) {
        Ok(made) => {
            serde_json::to_value(made).map_err(|error| ApiError::Internal(error.to_string()))
        }
        Err(faults) => {
            check(faults)?;
            Err(ApiError::Internal("no burn table was made".into()))
        }
    }
}

/// Publish a burn table
///
/// It is a rate card of its name in a credit unit, and becomes the default card where there is none. Where
/// there is one in the same unit, the rows go into a new version of that one as well: one card prices a line
/// (of an offer, else the default one), so a burn table and a card in a currency never charge both. A table is whole: a model
/// that it no longer names has no price any more. The same table again publishes nothing. Meters that its
/// classes need are made where the catalog has none of them with a dimension for `$.model`.
#[utoipa::path(post, path = "/v1/burn-tables", tag = "catalog", params(IdempotencyKey), request_body = NewBurnTable,
    responses((status = 200, description = "It is published already", body = BurnTablePublished), (status = 201, body = BurnTablePublished),
        ChangeRefusals, Refusals))]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewBurnTable>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let order = call.value.order()?;
    publish(&api, tenant, call.map(|_| order), StatusCode::CREATED, add).await
}

/// List burn tables
///
/// The rate cards in credit units, by model, as their newest versions say. Archived ones are not among them.
#[utoipa::path(get, path = "/v1/burn-tables", tag = "catalog", params(PageQuery), responses((status = 200, body = Page<BurnTable>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<BurnTable>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let asked = query.asked(1)?;
    let (document, ..) = load(&api, tenant).await?;
    let mut tables = listed(&document);
    tables.retain(|table| asked.after(0).is_none_or(|after| table.name.as_str() > after));
    Ok(Json(page(&asked, tables, |table: &BurnTable| vec![table.name.clone()])))
}
