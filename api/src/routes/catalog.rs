//! The catalog as a whole, and publishing: every change makes a new numbered version.

use axum::{Json, extract::State, http::StatusCode};
use domain::{
    catalog::{CatalogDocument, Fault},
    time,
};
use runtime::{http::Problem, postgres::scoped};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::cards::archive::check_in_use;
use crate::{
    auth::{Caller, Scope, TenantScope},
    catalog::{CatalogForm, broken_promises},
    error::ApiError,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    jobs::append_markers,
    openapi::{ChangeRefusals, Refusals},
    state::Api,
    store::catalog,
};

/// Faults that one answer lists.
pub(crate) const FAULTS_MAX: usize = 1_000;

/// The current catalog.
#[derive(Serialize, ToSchema)]
pub(crate) struct CurrentCatalog {
    /// Its number, counted over all tenants; 0 before anything was published.
    catalog_version: u64,
    /// When it was published.
    published_at: Option<String>,
    /// The catalog.
    catalog: CatalogForm,
}

/// What publishing answers, beside what was published.
#[derive(Serialize, ToSchema)]
pub(crate) struct Published {
    /// The number of the new version.
    catalog_version: u64,
    /// Where its markers stand in `[usage]`, as partition:position:index: events before them are
    /// rated by the version before. Empty if another process appended them.
    markers: Vec<String>,
}

/// The cards of teams that have no other.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Defaults {
    /// The rate card; null for none.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    default_rate_card: Option<String>,
    /// The cost card; null for none.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    default_cost_card: Option<String>,
}

/// The newest published document of a tenant and its number.
pub(crate) async fn load(
    api: &Api,
    tenant: TenantScope,
) -> Result<(CatalogDocument, u64, Option<i64>), ApiError> {
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        newest(&mut transaction, tenant).await
    })
    .await
}

/// [`load`] within a transaction.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(CatalogDocument, u64, Option<i64>), ApiError> {
    let Some(row) = catalog::newest(connection, tenant).await? else {
        return Ok((CatalogDocument::default(), 0, None));
    };
    let number = row.catalog_version.unsigned_abs();
    Ok((stored(number, &row.document)?, number, Some(row.created_at_us)))
}

/// The document of a version of the tenant; an empty one of version 0, and none where there is no such version.
pub(super) async fn of_version(
    connection: &mut PgConnection,
    tenant: TenantScope,
    number: u64,
) -> Result<Option<CatalogDocument>, ApiError> {
    if number == 0 {
        return Ok(Some(CatalogDocument::default()));
    }
    let text = catalog::of_version(connection, tenant, number).await?;
    text.map(|text| stored(number, &text)).transpose()
}

fn stored(number: u64, text: &str) -> Result<CatalogDocument, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        ApiError::Internal(format!("catalog version {number} cannot be read: {error}"))
    })
}

/// A change of the document: answers what the caller is told of it, or what is wrong.
pub(crate) type Change<T> = fn(&mut CatalogDocument, &T) -> Result<Value, ApiError>;

/// Makes the next version of the catalog by `change` and answers when its markers are in the log.
pub(crate) async fn publish<T>(
    api: &Api,
    tenant: TenantScope,
    call: Call<T>,
    status: StatusCode,
    change: Change<T>,
) -> Result<Answer, ApiError>
where
    T: Send + Sync + 'static,
{
    let answer = idempotency::once(api, tenant, call, move |connection, value: &T| {
        Box::pin(async move {
            catalog::lock(connection).await?;
            let (published, version, _) = newest(connection, tenant).await?;
            let mut document = published.clone();
            let told = change(&mut document, value)?;
            put(connection, tenant, (&published, version), (&document, told), status).await
        })
    })
    .await?;
    with_markers(api, tenant, answer).await
}

/// Makes a document the next version after the one that is `published`, unless it is the same; publishing
/// is [locked](catalog::lock).
pub(super) async fn put(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (published, version): (&CatalogDocument, u64),
    (document, mut told): (&CatalogDocument, Value),
    status: StatusCode,
) -> Result<Made, ApiError> {
    let mut faults = broken_promises(published, document);
    faults.extend(document.faults());
    check(faults)?;
    if document == published && version > 0 {
        told_version(&mut told, version);
        return Made::new(StatusCode::OK, &told);
    }
    let text =
        serde_json::to_string(document).map_err(|error| ApiError::Internal(error.to_string()))?;
    let hash = blake3::hash(text.as_bytes());
    let number = catalog::next_version(connection).await?;
    catalog::insert(connection, tenant, number, &text, hash.as_bytes()).await?;
    catalog::insert_outbox(connection, tenant, number, hash.as_bytes()).await?;
    told_version(&mut told, number.unsigned_abs());
    // Versions are kept whole and never change: their numbers say what changed.
    Made::new(status, &told)?.instead_of(&json!({"catalog_version": version}))
}

/// The answer once the markers of the version that it names are in the log.
pub(super) async fn with_markers(
    api: &Api,
    tenant: TenantScope,
    mut answer: Answer,
) -> Result<Answer, ApiError> {
    let mut told: Value = serde_json::from_str(&answer.body)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let number = told.get("catalog_version").and_then(Value::as_i64).unwrap_or_default();
    let markers = append_markers::wait(api, tenant, number).await?;
    if let Some(told) = told.as_object_mut() {
        told.insert("markers".to_owned(), json!(markers));
    }
    answer.body = told.to_string();
    Ok(answer)
}

fn told_version(told: &mut Value, number: u64) {
    if let Some(told) = told.as_object_mut() {
        told.insert("catalog_version".to_owned(), json!(number));
    }
}

/// A document with faults is not published: all of them are named.
pub(crate) fn check(mut faults: Vec<Fault>) -> Result<(), Problem> {
    let Some(first) = faults.first() else { return Ok(()) };
    let detail = format!("{} fault(s); the first: {}: {}", faults.len(), first.place, first.reason);
    let count = faults.len();
    faults.truncate(FAULTS_MAX);
    Err(Problem::unprocessable(
        "catalog_invalid",
        detail,
        "mend what `faults` lists and publish again; nothing was changed",
    )
    .with("fault_count", count)
    .with("faults", json!(faults)))
}

/// Read the catalog
#[utoipa::path(get, path = "/v1/catalog", tag = "catalog", responses((status = 200, body = CurrentCatalog), Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<CurrentCatalog>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let (document, catalog_version, published_at_us) = load(&api, tenant).await?;
    Ok(Json(CurrentCatalog {
        catalog_version,
        published_at: published_at_us.map(time::format),
        catalog: CatalogForm::outside(&document),
    }))
}

/// Publish a whole catalog
///
/// Versions of cards that are published must be in it, unchanged. The answer comes when the
/// version's markers are in the log: events accepted after it are rated by the new version.
/// The same catalog again makes no new version.
#[utoipa::path(put, path = "/v1/catalog", tag = "catalog", params(IdempotencyKey), request_body = CatalogForm,
    responses((status = 200, body = Published), ChangeRefusals, Refusals))]
pub(crate) async fn replace(
    State(api): State<Api>,
    caller: Caller,
    call: Call<CatalogForm>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    publish(&api, tenant, call, StatusCode::OK, |document, form: &CatalogForm| {
        let (new, faults) = form.clone().inside();
        check(faults)?;
        *document = new;
        Ok(json!({}))
    })
    .await
}

/// Choose the default cards
#[utoipa::path(put, path = "/v1/catalog/defaults", tag = "catalog", params(IdempotencyKey), request_body = Defaults,
    responses((status = 200, body = Published), ChangeRefusals, Refusals))]
pub(crate) async fn set_defaults(
    State(api): State<Api>,
    caller: Caller,
    call: Call<Defaults>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    publish(&api, tenant, call, StatusCode::OK, choose).await
}

/// Sets the default cards of a document.
pub(crate) fn choose(
    document: &mut CatalogDocument,
    defaults: &Defaults,
) -> Result<Value, ApiError> {
    for key in [&defaults.default_rate_card, &defaults.default_cost_card].into_iter().flatten() {
        check_in_use(document, key)?;
    }
    document.default_rate_card = defaults.default_rate_card.clone();
    document.default_cost_card = defaults.default_cost_card.clone();
    Ok(json!({}))
}
