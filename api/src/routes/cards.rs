//! Rate cards and cost cards. A published version never changes; a change is a new version.

use axum::{Json, extract::State, http::StatusCode};
use domain::{
    catalog::CatalogDocument,
    rate_card::{Card, CardKind},
};
use runtime::http::{Path, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use self::archive::archived;
use super::catalog::{Published, check, load, publish};
use crate::{
    auth::{Caller, Scope},
    catalog::{CardForm, CardVersionForm, RateForm, RateSchema},
    error::ApiError,
    extract::Query,
    idempotency::{Answer, Call, IdempotencyKey},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, asked, page},
    state::Api,
};

pub(crate) mod archive;

/// A card to add, with its first version.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCard {
    /// Its name, unique among rate cards and cost cards.
    key: String,
    /// Three capital letters, or the key of a credit unit.
    #[schema(example = "USD")]
    currency: String,
    /// From which event time it holds, RFC 3339; absent for ever.
    #[serde(default)]
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// Rows of its first version.
    #[schema(value_type = Vec<RateSchema>)]
    rates: Vec<RateForm>,
}

/// A version to add to a card.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCardVersion {
    /// From which event time it holds, RFC 3339; absent for ever.
    #[serde(default)]
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// Its rows: all of them, not only what is new.
    #[schema(value_type = Vec<RateSchema>)]
    rates: Vec<RateForm>,
}

/// Which cards.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardQuery {
    /// Those that are archived, instead of those that are not.
    #[serde(default)]
    archived: bool,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A version with the card that it is for.
pub(crate) struct ForCard {
    pub kind: CardKind,
    pub key: String,
    pub version: NewCardVersion,
}

/// Adds a card to a document.
pub(crate) fn add_card(
    document: &mut CatalogDocument,
    kind: CardKind,
    new: &NewCard,
) -> Result<Value, ApiError> {
    if document.cards.iter().any(|card| card.key == new.key) {
        return Err(Problem::conflict(
            "card_exists",
            format!("there is a card `{}`", new.key),
            "choose another key, or add a version",
        )
        .into());
    }
    let first = CardVersionForm {
        version: Some(1),
        effective_from: new.effective_from.clone(),
        rates: new.rates.clone(),
    };
    let mut faults = Vec::new();
    let versions = vec![first.inside(&new.key, &[], 1, &mut faults)];
    check(faults)?;
    document.cards.push(Card {
        key: new.key.clone(),
        kind,
        currency: new.currency.clone(),
        versions,
        archived: false,
    });
    Ok(json!({ "card": new.key, "version": 1 }))
}

/// Adds a version of one of its cards to a document.
pub(crate) fn add_version(
    document: &mut CatalogDocument,
    new: &ForCard,
) -> Result<Value, ApiError> {
    let card = document.cards.iter_mut().find(|card| card.key == new.key && card.kind == new.kind);
    let card = card.ok_or_else(|| no_card(&new.key))?;
    if card.archived {
        return Err(archived(&card.key).into());
    }
    let number = card.versions.last().map_or(0, |last| last.version).saturating_add(1);
    let version = new.version.clone();
    let version = CardVersionForm {
        version: Some(number),
        effective_from: version.effective_from,
        rates: version.rates,
    };
    let mut faults = Vec::new();
    let version = version.inside(&new.key, &card.versions, number, &mut faults);
    card.versions.push(version);
    check(faults)?;
    Ok(json!({ "card": new.key, "version": number }))
}

pub(super) fn no_card(key: &str) -> Problem {
    Problem::not_found("card_unknown", format!("there is no such card `{key}`"), "list the cards")
}

async fn create(
    api: Api,
    caller: Caller,
    kind: CardKind,
    call: Call<NewCard>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let call = call.map(|new| (kind, new));
    publish(&api, tenant, call, StatusCode::CREATED, |document, (kind, new)| {
        add_card(document, *kind, new)
    })
    .await
}

async fn create_version(
    api: Api,
    caller: Caller,
    kind: CardKind,
    key: String,
    call: Call<NewCardVersion>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let call = call.map(|version| ForCard { kind, key, version });
    publish(&api, tenant, call, StatusCode::CREATED, add_version).await
}

async fn list(
    api: Api,
    caller: Caller,
    kind: CardKind,
    query: CardQuery,
) -> Result<Json<Page<CardForm>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let asked = asked(query.limit, query.cursor.as_deref(), 1)?;
    let (document, ..) = load(&api, tenant).await?;
    let after = |card: &&Card| asked.after(0).is_none_or(|after| card.key.as_str() > after);
    let cards = document.cards.iter().filter(|card| card.kind == kind);
    let mut cards: Vec<&Card> =
        cards.filter(|card| card.archived == query.archived).filter(after).collect();
    cards.sort_by(|left, right| left.key.cmp(&right.key));
    let cards = cards.into_iter().map(CardForm::outside).collect();
    Ok(Json(page(&asked, cards, |card: &CardForm| vec![card.key.clone()])))
}

async fn read(
    api: Api,
    caller: Caller,
    kind: CardKind,
    key: String,
) -> Result<Json<CardForm>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let (document, ..) = load(&api, tenant).await?;
    let card = document.cards.iter().find(|card| card.kind == kind && card.key == key);
    Ok(Json(CardForm::outside(card.ok_or_else(|| no_card(&key))?)))
}

/// Add a rate card
///
/// Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/rate-cards", tag = "catalog", params(IdempotencyKey), request_body = NewCard,
    responses((status = 201, body = Published), ChangeRefusals, Refusals))]
pub(crate) async fn create_rate_card(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewCard>,
) -> Result<Answer, ApiError> {
    create(api, caller, CardKind::Rate, call).await
}

/// Add a cost card
///
/// Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/cost-cards", tag = "catalog", params(IdempotencyKey), request_body = NewCard,
    responses((status = 201, body = Published), ChangeRefusals, Refusals))]
pub(crate) async fn create_cost_card(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewCard>,
) -> Result<Answer, ApiError> {
    create(api, caller, CardKind::Cost, call).await
}

/// Add a version of a rate card
#[utoipa::path(post, path = "/v1/rate-cards/{key}/versions", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    request_body = NewCardVersion, responses((status = 201, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create_rate_card_version(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<NewCardVersion>,
) -> Result<Answer, ApiError> {
    create_version(api, caller, CardKind::Rate, key, call).await
}

/// Add a version of a cost card
#[utoipa::path(post, path = "/v1/cost-cards/{key}/versions", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    request_body = NewCardVersion, responses((status = 201, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn create_cost_card_version(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<NewCardVersion>,
) -> Result<Answer, ApiError> {
    create_version(api, caller, CardKind::Cost, key, call).await
}

/// List rate cards
///
/// Those in use, or with `archived` the archived ones.
#[utoipa::path(get, path = "/v1/rate-cards", tag = "catalog", params(CardQuery), responses((status = 200, body = Page<CardForm>), Refusals))]
pub(crate) async fn list_rate_cards(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<CardQuery>,
) -> Result<Json<Page<CardForm>>, ApiError> {
    list(api, caller, CardKind::Rate, query).await
}

/// List cost cards
///
/// Those in use, or with `archived` the archived ones.
#[utoipa::path(get, path = "/v1/cost-cards", tag = "catalog", params(CardQuery), responses((status = 200, body = Page<CardForm>), Refusals))]
pub(crate) async fn list_cost_cards(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<CardQuery>,
) -> Result<Json<Page<CardForm>>, ApiError> {
    list(api, caller, CardKind::Cost, query).await
}

/// Read a rate card
#[utoipa::path(get, path = "/v1/rate-cards/{key}", tag = "catalog", params(("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = CardForm), NotFound, Refusals))]
pub(crate) async fn read_rate_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<CardForm>, ApiError> {
    read(api, caller, CardKind::Rate, key).await
}

/// Read a cost card
#[utoipa::path(get, path = "/v1/cost-cards/{key}", tag = "catalog", params(("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = CardForm), NotFound, Refusals))]
pub(crate) async fn read_cost_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<CardForm>, ApiError> {
    read(api, caller, CardKind::Cost, key).await
}
