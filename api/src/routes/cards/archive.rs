//! Cards that are no longer to be used: what they priced stays explained, and nothing new is priced by them.

use axum::{extract::State, http::StatusCode};
use domain::{catalog::CatalogDocument, rate_card::CardKind};
use runtime::http::{Path, Problem};
use serde_json::{Value, json};

use super::{
    super::{
        api_keys::Nothing,
        catalog::{Published, publish},
    },
    no_card,
};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    idempotency::{Answer, Call, IdempotencyKey},
    openapi::{ChangeRefusals, NotFound, Refusals},
    state::Api,
};

/// Places of the catalog that one answer names.
const PLACES_MAX: usize = 100;

/// A card that is to be archived, or taken into use again.
struct Archiving {
    kind: CardKind,
    key: String,
    archived: bool,
}

/// Refuses a name of a card that is archived.
pub(crate) fn check_in_use(document: &CatalogDocument, key: &str) -> Result<(), Problem> {
    let found = document.cards.iter().find(|card| card.key == key && card.archived);
    found.map_or(Ok(()), |card| Err(archived(&card.key)))
}

/// The answer to whoever would use an archived card.
pub(super) fn archived(key: &str) -> Problem {
    Problem::conflict(
        "card_archived",
        format!("the card `{key}` is archived"),
        "use another card, or unarchive this one: POST …/unarchive",
    )
}

/// Sets whether a card of a document is archived.
fn set(document: &mut CatalogDocument, wanted: &Archiving) -> Result<Value, ApiError> {
    let places = uses(document, &wanted.key);
    let card =
        document.cards.iter_mut().find(|card| card.key == wanted.key && card.kind == wanted.kind);
    let card = card.ok_or_else(|| no_card(&wanted.key))?;
    if wanted.archived && !places.is_empty() {
        let first: Vec<&str> = places.iter().take(PLACES_MAX).map(String::as_str).collect();
        return Err(Problem::conflict(
            "card_in_use",
            format!("the card `{}` is named by {}", wanted.key, first.join(", ")),
            "name another card there, then archive it",
        )
        .with("places", json!(first))
        .into());
    }
    card.archived = wanted.archived;
    Ok(json!({ "card": wanted.key, "archived": wanted.archived }))
}

/// Where a document names a card.
fn uses(document: &CatalogDocument, key: &str) -> Vec<String> {
    let names = |name: &Option<String>| name.as_deref() == Some(key);
    let defaults = [
        ("default_rate_card", &document.default_rate_card),
        ("default_cost_card", &document.default_cost_card),
    ];
    let defaults = defaults.into_iter().filter(|(_, name)| names(name));
    let offers = document.offers.iter().filter(|offer| names(&offer.card));
    defaults
        .map(|(place, _)| place.to_owned())
        .chain(offers.map(|offer| format!("offers[{}].card", offer.key)))
        .collect()
}

async fn change(
    api: Api,
    caller: Caller,
    call: Call<Nothing>,
    wanted: Archiving,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    publish(&api, tenant, call.map(|_| wanted), StatusCode::OK, set).await
}

/// Archive a rate card
///
/// It stays, with all its versions, and explains what it priced; it gets no new ones, cannot be the default card, and
/// no offer can name it. One that is named so is refused. Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/rate-cards/{key}/archive", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn archive_rate_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let wanted = Archiving { kind: CardKind::Rate, key, archived: true };
    change(api, caller, call, wanted).await
}

/// Take a rate card into use again
///
/// Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/rate-cards/{key}/unarchive", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn unarchive_rate_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let wanted = Archiving { kind: CardKind::Rate, key, archived: false };
    change(api, caller, call, wanted).await
}

/// Archive a cost card
///
/// It stays, with all its versions, and explains what it priced; it gets no new ones and cannot be the default card.
/// The default one is refused. Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/cost-cards/{key}/archive", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn archive_cost_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let wanted = Archiving { kind: CardKind::Cost, key, archived: true };
    change(api, caller, call, wanted).await
}

/// Take a cost card into use again
///
/// Publishes a new version of the catalog.
#[utoipa::path(post, path = "/v1/cost-cards/{key}/unarchive", tag = "catalog", params(IdempotencyKey, ("key" = String, Path, description = "Key of the card")),
    responses((status = 200, body = Published), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn unarchive_cost_card(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let wanted = Archiving { kind: CardKind::Cost, key, archived: false };
    change(api, caller, call, wanted).await
}
