//! Invoices and usage exports of LLM providers: import, and what was imported. What they come to beside our
//! own costs is a [`reconciliation`].

use std::collections::BTreeMap;

use axum::{Extension, Json, extract::State, http::StatusCode};
use domain::{
    money::{Amount, is_currency_code},
    time,
};
use jiff::{Span, civil::Date, tz::TimeZone};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
    task,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::check_key;
use crate::{
    auth::{Actor, Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    page::{Page, PageQuery, asked, page},
    provider_invoices::{
        Columns, Invoice, Line,
        rows::{self, Reading, civil_day},
    },
    state::Api,
    store::provider_invoices::{self, InvoiceRow, LineRow, NewInvoice},
};

pub(crate) mod reconciliation;

/// Longest period: a year, with the weeks around it.
const PERIOD_DAYS_MAX: i64 = 400;
/// Most names of models, and of classes, that one import explains.
const NAMES_MAX: usize = 1_000;

/// An invoice of a provider, or an export of its usage.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProviderInvoice {
    /// Its key: 1 to 256 bytes without control characters.
    #[schema(min_length = 1, max_length = 256, example = "openai-2026-03")]
    invoice: String,
    /// The provider, as the dimension `provider` of usage has it.
    #[schema(min_length = 1, max_length = 256, example = "openai")]
    provider: String,
    /// The file: CSV with the names of its columns in the first line.
    #[schema(example = "day,model,class,tokens,cost\n2026-03-01,gpt-4.1,input,1000,0.002\n")]
    csv: String,
    /// Between the fields: a comma, a semicolon, a tab or `|`; a comma if absent.
    #[serde(default)]
    delimiter: Option<String>,
    /// Which columns say what.
    #[serde(default)]
    columns: Columns,
    /// Of rows that do not say it: three capital letters.
    #[serde(default)]
    #[schema(example = "USD")]
    currency: Option<String>,
    /// IANA name of the zone in which its days begin; UTC if absent.
    #[serde(default)]
    time_zone: Option<String>,
    /// The first day, such as 2026-03-01; the first of the rows if absent.
    #[serde(default)]
    from: Option<String>,
    /// The day after the last, such as 2026-04-01; that of the rows if absent.
    #[serde(default)]
    to: Option<String>,
    /// What models of the file are in usage, by the name in the file, where they are not the same.
    #[serde(default)]
    #[schema(example = json!({"gpt-4o-finance": "gpt-4o"}))]
    models: BTreeMap<String, String>,
    /// Which class of usage or meter the classes of the file are, where Weir does not know them.
    #[serde(default)]
    #[schema(example = json!({"Text in": "input"}))]
    classes: BTreeMap<String, String>,
    /// Makes it a new revision where an invoice of this key has other content.
    #[serde(default)]
    replace: bool,
}

/// An invoice of a provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderInvoice {
    /// Its key.
    invoice: String,
    /// The number of the revision: 1, and one more each time that it was replaced.
    revision: i32,
    /// The provider.
    provider: String,
    /// The zone in which its days begin.
    time_zone: String,
    /// The first day.
    from: String,
    /// The day after the last.
    to: String,
    /// Lines of it.
    lines: i32,
    /// Their sums by currency.
    #[schema(value_type = BTreeMap<String, String>)]
    totals: BTreeMap<String, Amount>,
    /// What models of it are in usage, as the importer said.
    models: BTreeMap<String, String>,
    /// What its classes are, as the importer said.
    classes: BTreeMap<String, String>,
    /// Who imported it.
    imported_by: String,
    /// When.
    imported_at: String,
}

/// An invoice that was imported, and how it was read.
#[derive(Serialize, ToSchema)]
pub(crate) struct ImportedInvoice {
    /// The invoice.
    #[serde(flatten)]
    invoice: ProviderInvoice,
    /// The columns that were read.
    columns: Columns,
    /// Rows that say nothing but their day; they are no lines.
    empty_rows: usize,
    /// Numbers that have more than twelve decimals and were rounded half to even.
    rounded_numbers: usize,
}

/// Which revision of an invoice.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevisionQuery {
    /// The number of a revision; the newest if absent.
    revision: Option<i32>,
}

/// Which lines of an invoice.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinesQuery {
    /// The number of a revision; the newest if absent.
    revision: Option<i32>,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// An invoice that was read, and how.
struct Checked {
    invoice: Invoice,
    columns: Columns,
    empty_rows: usize,
    rounded: usize,
    replace: bool,
    by: String,
}

impl ProviderInvoice {
    fn of(row: InvoiceRow) -> Result<Self, ApiError> {
        Ok(Self {
            models: read_json(&row.models)?,
            classes: read_json(&row.classes)?,
            totals: read_json(&row.totals)?,
            invoice: row.invoice,
            revision: row.revision,
            provider: row.provider,
            time_zone: row.time_zone,
            from: row.period_from,
            to: row.period_to,
            lines: row.lines,
            imported_by: row.imported_by,
            imported_at: time::format(row.imported_at_us),
        })
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| ApiError::Internal(error.to_string()))
}

/// A decimal of ours.
fn known(decimal: &str) -> Result<Amount, ApiError> {
    Amount::parse_sum(decimal)
        .map_err(|_| ApiError::Internal("a stored amount cannot be read".to_owned()))
}

/// Import a provider's invoice
///
/// Reads a CSV that a provider bills or exports usage with, whole or not at all: each row is a line of
/// the invoice. The same content again changes nothing; other content is refused unless `replace` says that
/// it is a new revision. Earlier revisions stay.
#[utoipa::path(post, path = "/v1/provider-invoices", tag = "analytics", params(IdempotencyKey), request_body = NewProviderInvoice,
    responses((status = 200, description = "It is there already, with this content", body = ImportedInvoice), (status = 201, body = ImportedInvoice),
        ChangeRefusals, Refusals))]
pub(crate) async fn import(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    call: Call<NewProviderInvoice>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let new = call.value.clone();
    let checked = task::blocking(move || check(new, actor.id)).await??;
    idempotency::once(&api, tenant, call.map(|_| checked), move |connection, checked| {
        Box::pin(add(connection, tenant, checked))
    })
    .await
}

async fn add(
    connection: &mut PgConnection,
    tenant: TenantScope,
    checked: &Checked,
) -> Result<Made, ApiError> {
    let invoice = &checked.invoice;
    let internal = |error: serde_json::Error| ApiError::Internal(error.to_string());
    let hash = invoice.hash().map_err(internal)?;
    provider_invoices::lock(connection, tenant).await?;
    let before = provider_invoices::find(connection, tenant, &invoice.invoice, None).await?;
    let answer = |row: InvoiceRow| {
        Ok::<_, ApiError>(ImportedInvoice {
            invoice: ProviderInvoice::of(row)?,
            columns: checked.columns.clone(),
            empty_rows: checked.empty_rows,
            rounded_numbers: checked.rounded,
        })
    };
    let revision = match before.clone() {
        Some(row) if row.content_hash == hash => {
            return Ok(Made::new(StatusCode::OK, &answer(row)?)?.without_change());
        }
        Some(row) if !checked.replace => {
            let problem = Problem::conflict(
                "provider_invoice_differs",
                format!("the invoice `{}` is there with other content", invoice.invoice),
                "give `replace` as true to make this its new revision, or choose another key",
            );
            return Err(problem.with("revision", row.revision).into());
        }
        before => before.map_or(0, |row| row.revision) + 1,
    };
    let Some(totals) = invoice.totals() else {
        return Err(field("csv", "its amounts add up to 10^26 or more").into());
    };
    let new = NewInvoice {
        invoice,
        revision,
        models: serde_json::to_string(&invoice.models).map_err(internal)?,
        classes: serde_json::to_string(&invoice.classes).map_err(internal)?,
        totals: serde_json::to_string(&totals).map_err(internal)?,
        content_hash: hash,
        imported_by: &checked.by,
    };
    provider_invoices::insert(connection, tenant, &new).await?;
    provider_invoices::insert_lines(connection, tenant, invoice, revision).await?;
    let row = find(connection, tenant, &invoice.invoice, Some(revision)).await?;
    let made = Made::new(StatusCode::CREATED, &answer(row)?)?;
    match before {
        Some(before) => made.instead_of(&ProviderInvoice::of(before)?),
        None => Ok(made),
    }
}

fn field(name: &'static str, detail: &str) -> Problem {
    let problem = Problem::unprocessable(
        "provider_invoice_field_invalid",
        format!("{name}: {detail}"),
        "correct it and import again; nothing was stored",
    );
    problem.with("field", name)
}

/// Reads a file, or says what is wrong with it.
fn check(new: NewProviderInvoice, by: String) -> Result<Checked, Problem> {
    check_key("invoice", &new.invoice)?;
    check_key("provider", &new.provider)?;
    check_names("models", &new.models)?;
    check_names("classes", &new.classes)?;
    if new.currency.as_deref().is_some_and(|currency| !is_currency_code(currency)) {
        return Err(field("currency", "it is three capital letters"));
    }
    let zone = zone(new.time_zone.as_deref().unwrap_or("UTC"))?;
    // As it is written everywhere: the archive knows no other capitals.
    let time_zone = zone.iana_name().unwrap_or("UTC").to_owned();
    let day = |name, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => civil_day(&text)
            .map(Some)
            .ok_or_else(|| field(name, "write the day like 2026-03-01, of 2000 to 2100")),
    };
    let (from, to) = (day("from", new.from)?, day("to", new.to)?);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(field("to", "it is not after `from`; the day `to` itself is not part of it"));
    }
    let delimiter = match new.delimiter.as_deref() {
        None => b',',
        Some(text) => match text.as_bytes() {
            &[byte @ (b',' | b';' | b'\t' | b'|')] => byte,
            _ => return Err(field("delimiter", "it is a comma, a semicolon, a tab or `|`")),
        },
    };
    let reading = Reading {
        csv: &new.csv,
        delimiter,
        columns: &new.columns,
        currency: new.currency.as_deref(),
        zone: &zone,
        from,
        to,
    };
    let read = rows::read(&reading).map_err(|faults| unreadable(&faults))?;
    if days(read.from, read.to) > PERIOD_DAYS_MAX {
        let detail = format!("the invoice is of more than {PERIOD_DAYS_MAX} days");
        return Err(field("to", &detail));
    }
    Ok(Checked {
        invoice: Invoice {
            invoice: new.invoice,
            provider: new.provider,
            time_zone,
            from: read.from,
            to: read.to,
            models: new.models,
            classes: new.classes,
            lines: read.lines,
        },
        columns: read.columns,
        empty_rows: read.empty_rows,
        rounded: read.rounded,
        replace: new.replace,
        by,
    })
}

/// The zone of a name.
fn zone(name: &str) -> Result<TimeZone, Problem> {
    TimeZone::get(name).map_err(|_| {
        Problem::unprocessable(
            "time_zone_unknown",
            format!("there is no time zone `{name}`"),
            "give an IANA name like Europe/Berlin",
        )
    })
}

fn days(from: Date, to: Date) -> i64 {
    from.until(to).map_or(i64::MAX, |span: Span| i64::from(span.get_days()))
}

fn check_names(name: &'static str, names: &BTreeMap<String, String>) -> Result<(), Problem> {
    if names.len() > NAMES_MAX {
        return Err(field(name, &format!("at most {NAMES_MAX} names")));
    }
    names.iter().flat_map(|(own, ours)| [own, ours]).try_for_each(|text| check_key(name, text))
}

fn unreadable(faults: &[rows::Fault]) -> Problem {
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    let detail = format!("{} fault(s); the first: {first}", faults.len());
    let action = "mend what `faults` lists and import again; nothing was stored";
    let problem = Problem::unprocessable("provider_invoice_invalid", detail, action);
    problem.with("faults", json!(faults))
}

/// The tenant, if the caller may see costs of all its teams.
fn may_read(caller: &Caller) -> Result<TenantScope, ApiError> {
    caller.may(Scope::BalancesRead)?;
    Ok(caller.may(Scope::UsageRead)?)
}

async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    invoice: &str,
    revision: Option<i32>,
) -> Result<InvoiceRow, ApiError> {
    let row = provider_invoices::find(connection, tenant, invoice, revision).await?;
    Ok(row.ok_or_else(|| {
        Problem::not_found(
            "provider_invoice_unknown",
            format!("there is no invoice `{invoice}`, or no such revision of it"),
            "list them: GET /v1/provider-invoices",
        )
    })?)
}

/// List invoices of providers
///
/// The newest revision of each.
#[utoipa::path(get, path = "/v1/provider-invoices", tag = "analytics", params(PageQuery), responses((status = 200, body = Page<ProviderInvoice>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ProviderInvoice>>, ApiError> {
    let tenant = may_read(&caller)?;
    let asked = &query.asked(1)?;
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        provider_invoices::list(&mut transaction, tenant, asked).await
    })
    .await?;
    let items = rows.into_iter().map(ProviderInvoice::of).collect::<Result<_, _>>()?;
    Ok(Json(page(asked, items, |one: &ProviderInvoice| vec![one.invoice.clone()])))
}

/// Read an invoice of a provider
#[utoipa::path(get, path = "/v1/provider-invoices/{invoice}", tag = "analytics",
    params(RevisionQuery, ("invoice" = String, Path, description = "Its key")), responses((status = 200, body = ProviderInvoice), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Query(query): Query<RevisionQuery>,
) -> Result<Json<ProviderInvoice>, ApiError> {
    let tenant = may_read(&caller)?;
    let key = key.as_str();
    let row = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        find(&mut transaction, tenant, key, query.revision).await
    })
    .await?;
    Ok(Json(ProviderInvoice::of(row)?))
}

/// List the lines of a provider's invoice
///
/// As the provider wrote them.
#[utoipa::path(get, path = "/v1/provider-invoices/{invoice}/lines", tag = "analytics",
    params(LinesQuery, ("invoice" = String, Path, description = "Its key")), responses((status = 200, body = Page<Line>), NotFound, Refusals))]
pub(crate) async fn list_lines(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Query(query): Query<LinesQuery>,
) -> Result<Json<Page<Line>>, ApiError> {
    let tenant = may_read(&caller)?;
    let asked = &asked(query.limit, query.cursor.as_deref(), 1)?;
    let key = key.as_str();
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let row = find(&mut transaction, tenant, key, query.revision).await?;
        provider_invoices::lines(&mut transaction, tenant, (key, row.revision), asked).await
    })
    .await?;
    let line = |row: LineRow| {
        Ok::<_, ApiError>(Line {
            line: row.line,
            day: row.day,
            model: row.model,
            class: row.class,
            quantity: row.quantity.as_deref().map(known).transpose()?,
            amount: known(&row.amount)?,
            currency: row.currency,
        })
    };
    let items = rows.into_iter().map(line).collect::<Result<_, _>>()?;
    Ok(Json(page(asked, items, |line: &Line| vec![line.line.to_string()])))
}
