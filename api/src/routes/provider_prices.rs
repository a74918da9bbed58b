//! Prices of LLM providers: the table, imports into it, and cost cards from it.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use domain::{money::Amount, time};
use runtime::{http::Problem, postgres::scoped, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    cards::archive::check_in_use,
    catalog::{check, load, publish},
};
use crate::{
    auth::{Caller, Scope, TenantScope},
    catalog::shortest,
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{self, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, Refusals},
    page::{Page, asked, page},
    provider_prices::{
        BUILTIN, Changes, CheckedList, Known, Price, PriceKey, PriceList,
        cost_card::{self, CostCardMade, NewCostCard, Order},
    },
    state::Api,
    store::provider_prices::{self, PriceRow, Wanted},
};

/// Prices that one answer to an import lists of each kind.
const LISTED_MAX: usize = 1_000;

/// Which prices.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PricesQuery {
    /// Of this provider, such as openai.
    provider: Option<String>,
    /// Of this model.
    model: Option<String>,
    /// That hold for usage at this time, RFC 3339; now by default.
    #[param(format = DateTime)]
    at: Option<String>,
    /// All versions instead, the oldest of each price first, with those that are withdrawn.
    #[serde(default)]
    history: bool,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What a provider charges.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderPrice {
    /// The provider.
    provider: String,
    /// The model.
    model: String,
    /// The class of usage, such as input or cache_read.
    class: String,
    /// For prompts of more tokens than this; 0 for all.
    above: i64,
    /// The price for `per` units; null from when it is withdrawn.
    price: Option<String>,
    /// How many units the price is for.
    per: i64,
    /// The currency.
    currency: String,
    /// From when it holds.
    effective_from: String,
    /// Its number among the versions of this price.
    version: i32,
    /// The list that said so.
    source: String,
    /// The day of that list.
    source_date: String,
    /// When that list was imported.
    imported_at: String,
}

impl From<PriceRow> for ProviderPrice {
    fn from(row: PriceRow) -> Self {
        Self {
            price: row.price.as_deref().map(shortest),
            provider: row.provider,
            model: row.model,
            class: row.class,
            above: row.above,
            per: row.per,
            currency: row.currency,
            effective_from: time::format(row.effective_from_us),
            version: row.version,
            source: row.source,
            source_date: row.source_date,
            imported_at: time::format(row.imported_at_us),
        }
    }
}

/// A price list to import.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPriceImport {
    /// The list; absent for the one that comes with Weir.
    #[serde(default)]
    list: Option<PriceList>,
    /// The list that comes with Weir.
    #[serde(default)]
    builtin: bool,
    /// The list says nothing of what it does not have: no price is withdrawn.
    #[serde(default)]
    partial: bool,
    /// Only tells what would change.
    #[serde(default)]
    dry_run: bool,
}

/// What an import changes.
#[derive(Serialize, ToSchema)]
pub(crate) struct PriceImport {
    /// Its id; null where nothing was written.
    import_id: Option<Uuid>,
    /// Whether nothing was to be written.
    dry_run: bool,
    /// Where the list is from.
    source: String,
    /// The day of the list.
    date: String,
    /// How many prices of each kind there are.
    counts: PriceImportCounts,
    /// Prices that there were not, the first 1000.
    added: Vec<PriceChange>,
    /// Prices that are other ones, the first 1000.
    changed: Vec<PriceChange>,
    /// Prices that are withdrawn, the first 1000.
    removed: Vec<PriceChange>,
}

/// How many prices an import concerns.
#[derive(Serialize, ToSchema)]
pub(crate) struct PriceImportCounts {
    /// Prices that there were not.
    added: usize,
    /// Prices that are other ones.
    changed: usize,
    /// Prices that are withdrawn.
    removed: usize,
    /// Prices that stay as they are.
    unchanged: usize,
}

/// A price of an import.
#[derive(Serialize, ToSchema)]
pub(crate) struct PriceChange {
    /// The provider.
    provider: String,
    /// The model.
    model: String,
    /// The class of usage.
    class: String,
    /// For prompts of more tokens than this; 0 for all.
    above: i64,
    /// The price before.
    before: Option<String>,
    /// The price after.
    after: Option<String>,
    /// How many units the price is for.
    per: i64,
    /// The currency.
    currency: String,
    /// From when the price after holds; of a withdrawn price, from when the price before held.
    effective_from: String,
}

impl PriceChange {
    fn new(key: &PriceKey, before: Option<&Price>, after: Option<&Price>, of: &Price) -> Self {
        let text = |price: Option<&Price>| price?.price.map(|price| price.to_string());
        Self {
            provider: key.provider.clone(),
            model: key.model.clone(),
            class: key.class.clone(),
            above: key.above,
            before: text(before),
            after: text(after),
            per: of.per,
            currency: of.currency.clone(),
            effective_from: time::format(of.effective_from_us),
        }
    }
}

impl PriceImport {
    fn new(list: &CheckedList, changes: &Changes, import_id: Option<Uuid>, dry_run: bool) -> Self {
        let added = changes.added.iter();
        let changed = changes.changed.iter();
        let removed = changes.removed.iter();
        Self {
            import_id,
            dry_run,
            source: list.source.clone(),
            date: list.date.clone(),
            counts: PriceImportCounts {
                added: changes.added.len(),
                changed: changes.changed.len(),
                removed: changes.removed.len(),
                unchanged: changes.unchanged,
            },
            added: added
                .map(|(key, after)| PriceChange::new(key, None, Some(after), after))
                .take(LISTED_MAX)
                .collect(),
            changed: changed
                .map(|(key, before, after)| PriceChange::new(key, Some(before), Some(after), after))
                .take(LISTED_MAX)
                .collect(),
            removed: removed
                .map(|(key, before)| PriceChange::new(key, Some(before), None, before))
                .take(LISTED_MAX)
                .collect(),
        }
    }
}

/// Versions by price.
fn known(rows: Vec<PriceRow>) -> Known {
    let mut known = BTreeMap::new();
    for row in rows {
        let price = row.price.as_deref().and_then(|text| Amount::parse_exact(text).ok());
        let key = PriceKey {
            provider: row.provider,
            model: row.model,
            class: row.class,
            above: row.above,
        };
        let versions: &mut Vec<Price> = known.entry(key).or_default();
        versions.push(Price {
            price,
            per: row.per,
            currency: row.currency,
            effective_from_us: row.effective_from_us,
        });
    }
    known
}

/// List what providers charge
///
/// The prices that hold at a time, of the tenant's own table. It is empty until a price list is
/// imported.
#[utoipa::path(get, path = "/v1/providers/pricing", tag = "catalog", params(PricesQuery), responses((status = 200, body = Page<ProviderPrice>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PricesQuery>,
) -> Result<Json<Page<ProviderPrice>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let parts = if query.history { 5 } else { 4 };
    let asked = &asked(query.limit, query.cursor.as_deref(), parts)?;
    let at_us = query.at.as_deref().map_or_else(|| Ok(task::now_us()), |at| time_us("at", at))?;
    let wanted =
        &Wanted { provider: query.provider.as_deref(), model: query.model.as_deref(), at_us };
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        if query.history {
            provider_prices::history(&mut transaction, tenant, wanted, asked).await
        } else {
            provider_prices::in_force(&mut transaction, tenant, wanted, asked).await
        }
    })
    .await?;
    let prices = rows.into_iter().map(ProviderPrice::from).collect();
    Ok(Json(page(asked, prices, |price: &ProviderPrice| {
        let names = [&price.provider, &price.model, &price.class].map(String::clone);
        let mut place = names.to_vec();
        place.push(price.above.to_string());
        if query.history {
            place.push(price.version.to_string());
        }
        place
    })))
}

/// Import a price list
///
/// Adds versions, and never changes one: the list is taken for all that its providers charge, so a
/// price that it does not have is withdrawn, unless it is `partial`. With `dry_run` nothing is written.
#[utoipa::path(post, path = "/v1/providers/pricing/imports", tag = "catalog", params(IdempotencyKey), request_body = NewPriceImport,
    responses((status = 200, description = "What would change, or nothing to change", body = PriceImport), (status = 201, body = PriceImport), ChangeRefusals, Refusals))]
pub(crate) async fn import(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewPriceImport>,
) -> Result<Response, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let (list, partial) = (checked(&call.value)?, call.value.partial);
    if call.value.dry_run {
        let list = &list;
        let import = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            let (_, changes) = compare(&mut transaction, tenant, list, partial).await?;
            Ok::<_, ApiError>(PriceImport::new(list, &changes, None, true))
        })
        .await?;
        return Ok(Json(import).into_response());
    }
    let answer = idempotency::once(&api, tenant, call.map(|_| list), move |connection, list| {
        Box::pin(async move {
            provider_prices::lock(connection, tenant).await?;
            let (known, changes) = compare(connection, tenant, list, partial).await?;
            if changes.is_empty() {
                let import = PriceImport::new(list, &changes, None, false);
                return Ok(Made::new(StatusCode::OK, &import)?.without_change());
            }
            let id = Uuid::now_v7();
            provider_prices::insert_import(connection, tenant, id, &list.source, &list.date)
                .await?;
            provider_prices::insert_versions(connection, tenant, id, &changes.versions(&known))
                .await?;
            Made::new(StatusCode::CREATED, &PriceImport::new(list, &changes, Some(id), false))
        })
    })
    .await?;
    Ok(answer.into_response())
}

/// The list of a call, checked.
fn checked(new: &NewPriceImport) -> Result<CheckedList, ApiError> {
    let invalid = |detail: &str, action: &str| {
        Problem::unprocessable("price_list_invalid", detail.to_owned(), action.to_owned())
    };
    let builtin;
    let list = match (&new.list, new.builtin) {
        (Some(list), false) => list,
        (None, true) => {
            builtin = serde_json::from_str(BUILTIN)
                .map_err(|error| ApiError::Internal(error.to_string()))?;
            &builtin
        }
        _ => {
            let action = "give `list`, or `builtin` as true for the one that comes with Weir";
            return Err(invalid("there is no price list, or there are two", action).into());
        }
    };
    list.check().map_err(|mut faults| {
        let first = faults.first().map(|fault| format!("{}: {}", fault.place, fault.reason));
        let detail = format!("{} fault(s); the first: {}", faults.len(), first.unwrap_or_default());
        faults.truncate(LISTED_MAX);
        let action = "mend what `faults` lists and import again; nothing was changed";
        invalid(&detail, action).with("faults", json!(faults)).into()
    })
}

async fn compare(
    connection: &mut PgConnection,
    tenant: TenantScope,
    list: &CheckedList,
    partial: bool,
) -> Result<(Known, Changes), ApiError> {
    let rows = provider_prices::versions(connection, tenant, Some(&list.providers())).await?;
    let known = known(rows);
    let changes = list.compare(&known, partial);
    Ok((known, changes))
}

/// Make a cost card of prices
///
/// Publishes a version of the card with a row for each model and class of usage that the catalog has
/// a meter of. Rows of other meters, and those for any provider, stay. With `dry_run` nothing is
/// published.
#[utoipa::path(post, path = "/v1/providers/pricing/cost-card", tag = "catalog", params(IdempotencyKey), request_body = NewCostCard,
    responses((status = 200, description = "Made, or what would be", body = CostCardMade), ChangeRefusals, Refusals))]
pub(crate) async fn make_cost_card(
    State(api): State<Api>,
    caller: Caller,
    call: Call<NewCostCard>,
) -> Result<Response, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let order = order(&api, tenant, &call.value).await?;
    if order.wanted.dry_run {
        let (mut document, ..) = load(&api, tenant).await?;
        let made = add_cost_card(&mut document, &order)?;
        check(document.faults())?;
        return Ok(Json(made).into_response());
    }
    let answer = publish(&api, tenant, call.map(|_| order), StatusCode::OK, add_cost_card).await?;
    Ok(answer.into_response())
}

/// The prices that a card is made of.
async fn order(api: &Api, tenant: TenantScope, wanted: &NewCostCard) -> Result<Order, ApiError> {
    let read = |name: &str, text: &Option<String>, otherwise_us: i64| {
        text.as_deref().map_or(Ok(otherwise_us), |text| time_us(name, text))
    };
    let at_us = read("at", &wanted.at, task::now_us())?;
    let effective_from_us = read("effective_from", &wanted.effective_from, 0)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        provider_prices::versions(&mut transaction, tenant, None).await
    })
    .await?;
    if rows.is_empty() {
        return Err(Problem::unprocessable(
            "prices_missing",
            "there are no prices of providers",
            "import a price list first",
        )
        .into());
    }
    Ok(Order { wanted: wanted.clone(), prices: known(rows), at_us, effective_from_us })
}

fn add_cost_card(
    document: &mut domain::catalog::CatalogDocument,
    order: &Order,
) -> Result<Value, ApiError> {
    check_in_use(document, &order.wanted.card)?;
    match cost_card::make(document, order) {
        Ok(made) => {
            serde_json::to_value(made).map_err(|error| ApiError::Internal(error.to_string()))
        }
        Err(faults) => {
            check(faults)?;
            Err(ApiError::Internal("no card was made".into()))
        }
    }
}
