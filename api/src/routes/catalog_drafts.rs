//! Drafts: changes of the catalog that are stored, looked at, tried on the past, and then published or not.
//!
//! A draft is a whole catalog and the version that it was made from. What counts of it is what it changes of
//! that version, object by object ([`merge`]): whatever else was published since stays.

use axum::{Extension, Json, extract::State, http::StatusCode};
use domain::{
    catalog::{CatalogDocument, Fault, is_key},
    time,
};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{
    api_keys::Nothing,
    catalog::{FAULTS_MAX, Published, newest, of_version, put, with_markers},
    catalog_preview::{CatalogFault, CatalogPreview, previewed},
};
use crate::{
    auth::{Actor, Caller, Scope, TenantScope},
    catalog::{
        CardVersionForm, CatalogForm, RateForm, RateSchema, broken_promises,
        merge::{Merged, merge},
    },
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, page},
    state::Api,
    store::{
        catalog::lock as lock_publishing,
        catalog_drafts::{self, DraftRow, NewDraft},
    },
};

/// Drafts of a tenant at once.
const DRAFTS_MAX: i64 = 100;
/// Characters of a note.
const NOTE_LENGTH_MAX: usize = 1_000;

/// What is saved as a draft: a whole catalog, or a version to add to a card.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DraftForm {
    /// The whole catalog, as `PUT /v1/catalog` takes it; it may have faults. Absent where there is a `version`.
    #[serde(default)]
    catalog: Option<CatalogForm>,
    /// A version of a card to add to the catalog; in place of `catalog`.
    #[serde(default)]
    version: Option<DraftedVersion>,
    /// The version of the catalog that it was made from: what the draft has otherwise is what it changes. Absent
    /// for that of the draft as it was saved before; of a new draft, and beside `version`, for the newest one.
    #[serde(default)]
    base_version: Option<u64>,
    /// The revision of the draft that it takes the place of, 0 for none: refused where it is another one.
    #[serde(default)]
    revision: Option<u64>,
    /// What it is for, for people.
    #[serde(default)]
    note: String,
}

/// A version to add to a card.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DraftedVersion {
    /// The card.
    card: String,
    /// From which event time it holds, RFC 3339; absent for ever.
    #[serde(default)]
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// Its rows: all of them, not only what is new.
    #[schema(value_type = Vec<RateSchema>)]
    rates: Vec<RateForm>,
}

/// Which revision of a draft is published.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DraftPublishing {
    /// The one that was looked at: refused where it was saved again since. Absent for whichever there is.
    #[serde(default)]
    revision: Option<u64>,
}

/// A draft of the catalog.
#[derive(Serialize, ToSchema)]
pub(crate) struct CatalogDraft {
    /// Its name.
    draft: String,
    /// How often it was saved.
    revision: u64,
    /// The version of the catalog that it was made from; 0 where there was none.
    base_version: u64,
    /// What it is for.
    note: String,
    /// Who made it.
    created_by: String,
    /// When.
    created_at: String,
    /// Who saved it last.
    updated_by: String,
    /// When.
    updated_at: String,
}

/// A draft beside the catalog of now.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckedDraft {
    /// What it is.
    #[serde(flatten)]
    draft: CatalogDraft,
    /// The newest version of the catalog, which the rest of this is about.
    catalog_version: u64,
    /// Objects that the draft changes.
    #[schema(example = json!(["cards[standard]", "default_rate_card"]))]
    changed: Vec<String>,
    /// Those of them that were changed to something else in the catalog since `base_version`: with any, publishing is
    /// refused.
    outdated: Vec<String>,
    /// How many faults it has: with any, publishing is refused.
    fault_count: usize,
    /// The first 1000 of them.
    faults: Vec<CatalogFault>,
    /// The catalog as it was saved; absent in the answer to saving.
    #[serde(skip_serializing_if = "Option::is_none")]
    catalog: Option<CatalogForm>,
}

/// What publishing a draft answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct DraftPublished {
    /// The draft, which is gone.
    draft: String,
    /// What was published.
    #[serde(flatten)]
    published: Published,
}

/// A draft with what it comes to on top of the catalog of now.
pub(super) struct Opened {
    row: DraftRow,
    form: CatalogForm,
    published: CatalogDocument,
    version: u64,
    merged: Merged,
    /// Texts of it that could not be read.
    unread: Vec<Fault>,
}

impl From<DraftRow> for CatalogDraft {
    fn from(row: DraftRow) -> Self {
        Self {
            draft: row.draft,
            revision: row.revision.unsigned_abs(),
            base_version: row.base_version.unsigned_abs(),
            note: row.note,
            created_by: row.created_by,
            created_at: time::format(row.created_at_us),
            updated_by: row.updated_by,
            updated_at: time::format(row.updated_at_us),
        }
    }
}

impl Opened {
    fn checked(self) -> CheckedDraft {
        let Self { row, form, published, version, merged, unread } = self;
        let mut faults = unread;
        faults.extend(broken_promises(&published, &merged.document));
        faults.extend(merged.document.faults());
        CheckedDraft {
            draft: row.into(),
            catalog_version: version,
            changed: merged.changed,
            outdated: merged.outdated,
            fault_count: faults.len(),
            faults: faults.into_iter().take(FAULTS_MAX).map(CatalogFault::from).collect(),
            catalog: Some(form),
        }
    }

    /// The catalog that publishing it would make, and texts of it that could not be read.
    pub(super) fn document(self) -> Result<(CatalogDocument, Vec<Fault>), Problem> {
        if self.merged.outdated.is_empty() {
            return Ok((self.merged.document, self.unread));
        }
        let base = self.row.base_version;
        let detail = format!(
            "since version {base}, which the draft was made from, these were changed otherwise: {}",
            self.merged.outdated.join(", ")
        );
        let action = format!(
            "bring the draft up to date with version {} and save it with that as `base_version`",
            self.version
        );
        Err(Problem::conflict("draft_outdated", detail, action)
            .with("base_version", base)
            .with("catalog_version", self.version)
            .with("outdated", json!(self.merged.outdated)))
    }
}

fn unknown(draft: &str) -> Problem {
    Problem::not_found(
        "draft_unknown",
        format!("there is no draft `{draft}`; one that was published is gone"),
        "list them: GET /v1/catalog/drafts",
    )
}

fn internal(error: &serde_json::Error) -> ApiError {
    ApiError::Internal(error.to_string())
}

/// A draft on top of the newest catalog.
pub(super) async fn open(
    connection: &mut PgConnection,
    tenant: TenantScope,
    draft: &str,
) -> Result<Opened, ApiError> {
    let row = catalog_drafts::rows(connection, tenant, Some(draft), None).await?.pop();
    let row = row.ok_or_else(|| unknown(draft))?;
    let text = catalog_drafts::document(connection, tenant, draft).await?;
    let text = text.ok_or_else(|| unknown(draft))?;
    let form: CatalogForm = serde_json::from_str(&text).map_err(|error| internal(&error))?;
    let base = base(connection, tenant, row.base_version.unsigned_abs()).await?;
    let (published, version, _) = newest(connection, tenant).await?;
    let (document, unread) = form.clone().inside();
    let merged = merge(&base, &document, &published);
    Ok(Opened { row, form, published, version, merged, unread })
}

async fn base(
    connection: &mut PgConnection,
    tenant: TenantScope,
    version: u64,
) -> Result<CatalogDocument, ApiError> {
    let document = of_version(connection, tenant, version).await?;
    let document = document.ok_or_else(|| {
        Problem::unprocessable(
            "catalog_version_unknown",
            format!("there is no version {version} of the catalog"),
            "give the `catalog_version` that GET /v1/catalog answered with what was changed, or leave it out",
        )
    })?;
    Ok(document)
}

fn check_revision(wanted: Option<u64>, found: Option<&DraftRow>) -> Result<(), Problem> {
    let found = found.map_or(0, |row| row.revision.unsigned_abs());
    if wanted.is_none_or(|wanted| wanted == found) {
        return Ok(());
    }
    Err(Problem::conflict(
        "draft_changed",
        format!("the draft is at revision {found}"),
        "look at it again, then send its revision",
    )
    .with("revision", found))
}

/// The text that is stored of a draft, and the version that it is made from.
async fn written(
    connection: &mut PgConnection,
    tenant: TenantScope,
    form: &DraftForm,
    before: Option<&DraftRow>,
) -> Result<(String, u64), ApiError> {
    let (form, base_version) = match (&form.catalog, &form.version) {
        (Some(catalog), None) => {
            let known = before.map(|row| row.base_version.unsigned_abs());
            let version = match form.base_version.or(known) {
                Some(version) => version,
                None => newest(connection, tenant).await?.1,
            };
            base(connection, tenant, version).await?;
            (catalog.clone(), version)
        }
        (None, Some(drafted)) => {
            let (document, version) = match form.base_version {
                Some(version) => (base(connection, tenant, version).await?, version),
                None => {
                    let (document, version, _) = newest(connection, tenant).await?;
                    (document, version)
                }
            };
            (with_version(CatalogForm::outside(&document), drafted)?, version)
        }
        _ => return Err(one_of_two().into()),
    };
    let text = serde_json::to_string(&form).map_err(|error| internal(&error))?;
    Ok((text, base_version))
}

fn one_of_two() -> Problem {
    let detail = "a draft has either `catalog` or `version`";
    Problem::unprocessable("field_invalid", detail, "send one of them").with("field", "catalog")
}

fn with_version(
    mut catalog: CatalogForm,
    drafted: &DraftedVersion,
) -> Result<CatalogForm, Problem> {
    let card = catalog.cards.iter_mut().find(|card| card.key == drafted.card);
    let card = card.ok_or_else(|| super::cards::no_card(&drafted.card))?;
    let newest = card.versions.last().and_then(|version| version.version);
    card.versions.push(CardVersionForm {
        version: Some(newest.unwrap_or(0).saturating_add(1)),
        effective_from: drafted.effective_from.clone(),
        rates: drafted.rates.clone(),
    });
    Ok(catalog)
}

/// Save a draft of the catalog
///
/// A whole catalog, or a version to add to a card. It may have faults, which the answer lists; nothing is published.
/// Saving takes the place of what the draft was.
#[utoipa::path(put, path = "/v1/catalog/drafts/{draft}", tag = "catalog", params(IdempotencyKey, ("draft" = String, Path, description = "Its name: 1 to 64 of a-z, 0-9, `_`, `-`, `.`")),
    request_body = DraftForm, responses((status = 200, body = CheckedDraft), (status = 201, description = "It is new", body = CheckedDraft), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn save(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    Path(draft): Path<String>,
    call: Call<DraftForm>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    if !is_key(&draft) {
        let detail = "the name of a draft is 1 to 64 of a-z, 0-9, `_`, `-`, `.`";
        return Err(Problem::unprocessable("key_invalid", detail, "choose another")
            .with("field", "draft")
            .into());
    }
    let note = &call.value.note;
    if note.chars().count() > NOTE_LENGTH_MAX || note.contains('\0') {
        let detail = format!("`note` has more than {NOTE_LENGTH_MAX} characters, or U+0000");
        return Err(Problem::unprocessable("field_invalid", detail, "shorten it")
            .with("field", "note")
            .into());
    }
    idempotency::once(&api, tenant, call, move |connection, form: &DraftForm| {
        let (draft, actor) = (draft.clone(), actor.id.clone());
        Box::pin(async move {
            catalog_drafts::lock(connection, tenant).await?;
            let before = catalog_drafts::rows(connection, tenant, Some(&draft), None).await?.pop();
            check_revision(form.revision, before.as_ref())?;
            if before.is_none() && catalog_drafts::count(connection, tenant).await? >= DRAFTS_MAX {
                return Err(Problem::conflict(
                    "drafts_limit",
                    format!("there are {DRAFTS_MAX} drafts already"),
                    "publish or delete one first",
                )
                .into());
            }
            let (document, base_version) =
                written(connection, tenant, form, before.as_ref()).await?;
            let (document, note) = (document.as_str(), form.note.as_str());
            let new = NewDraft { draft: &draft, base_version, note, document, saved_by: &actor };
            catalog_drafts::save(connection, tenant, &new).await?;
            let saved = open(connection, tenant, &draft).await?.checked();
            let saved = CheckedDraft { catalog: None, ..saved };
            match before {
                None => Made::new(StatusCode::CREATED, &saved),
                Some(row) => {
                    Made::new(StatusCode::OK, &saved)?.instead_of(&CatalogDraft::from(row))
                }
            }
        })
    })
    .await
}

/// List drafts of the catalog
///
/// Without what is written in them.
#[utoipa::path(get, path = "/v1/catalog/drafts", tag = "catalog", params(PageQuery), responses((status = 200, body = Page<CatalogDraft>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<CatalogDraft>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        catalog_drafts::rows(&mut transaction, tenant, None, Some(asked)).await
    })
    .await?;
    let items = rows.into_iter().map(CatalogDraft::from).collect();
    Ok(Json(page(asked, items, |draft: &CatalogDraft| vec![draft.draft.clone()])))
}

/// Read a draft of the catalog
///
/// With its faults, and what of it was changed in the catalog since.
#[utoipa::path(get, path = "/v1/catalog/drafts/{draft}", tag = "catalog", params(("draft" = String, Path, description = "Its name")),
    responses((status = 200, body = CheckedDraft), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(draft): Path<String>,
) -> Result<Json<CheckedDraft>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let name = &draft;
    let opened = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        open(&mut transaction, tenant, name).await
    })
    .await?;
    Ok(Json(opened.checked()))
}

/// Preview a draft of the catalog
///
/// What publishing it would change, as `POST /v1/catalog/preview` says of a catalog that is sent. Refused while the draft is
/// outdated.
#[utoipa::path(get, path = "/v1/catalog/drafts/{draft}/preview", tag = "catalog", params(("draft" = String, Path, description = "Its name")),
    responses((status = 200, body = CatalogPreview), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn preview(
    State(api): State<Api>,
    caller: Caller,
    Path(draft): Path<String>,
) -> Result<Json<CatalogPreview>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let name = &draft;
    let opened = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        open(&mut transaction, tenant, name).await
    })
    .await?;
    let (published, version) = (opened.published.clone(), opened.version);
    previewed(&api, &caller, (&published, version), opened.document()?).await.map(Json)
}

/// Delete a draft of the catalog
#[utoipa::path(delete, path = "/v1/catalog/drafts/{draft}", tag = "catalog", params(IdempotencyKey, ("draft" = String, Path, description = "Its name")),
    responses((status = 200, body = CatalogDraft), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(draft): Path<String>,
    call: Call<Nothing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    idempotency::once(&api, tenant, call, move |connection, _: &Nothing| {
        let draft = draft.clone();
        Box::pin(async move {
            catalog_drafts::lock(connection, tenant).await?;
            let row = catalog_drafts::rows(connection, tenant, Some(&draft), None).await?.pop();
            let deleted = CatalogDraft::from(row.ok_or_else(|| unknown(&draft))?);
            catalog_drafts::delete(connection, tenant, &draft).await?;
            Made::new(StatusCode::OK, &deleted)?.instead_of(&deleted)
        })
    })
    .await
}

/// Publish a draft of the catalog
///
/// What the draft changes is put on top of the newest catalog, which is published as `PUT /v1/catalog` does; then the
/// draft is gone. Refused where something that it changes was changed otherwise since it was made, and where it has
/// faults.
#[utoipa::path(post, path = "/v1/catalog/drafts/{draft}/publish", tag = "catalog", params(IdempotencyKey, ("draft" = String, Path, description = "Its name")),
    request_body = DraftPublishing, responses((status = 200, body = DraftPublished), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    Path(draft): Path<String>,
    call: Call<DraftPublishing>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let answer = idempotency::once(&api, tenant, call, move |connection, wanted| {
        let (draft, wanted): (String, &DraftPublishing) = (draft.clone(), wanted);
        Box::pin(async move {
            lock_publishing(connection).await?;
            catalog_drafts::lock(connection, tenant).await?;
            let opened = open(connection, tenant, &draft).await?;
            check_revision(wanted.revision, Some(&opened.row))?;
            let (published, version) = (opened.published.clone(), opened.version);
            let (document, unread) = opened.document()?;
            super::catalog::check(unread)?;
            let told = json!({ "draft": draft });
            let ok = StatusCode::OK;
            let made =
                put(connection, tenant, (&published, version), (&document, told), ok).await?;
            catalog_drafts::delete(connection, tenant, &draft).await?;
            Ok(made)
        })
    })
    .await?;
    with_markers(&api, tenant, answer).await
}
