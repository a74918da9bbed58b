//! What a provider bills beside what Weir counted of the same usage.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use domain::{
    money::{Amount, ONE},
    time,
};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{find, known, may_read, read_json, zone};
use crate::{
    auth::TenantScope,
    error::ApiError,
    extract::Query,
    openapi::{NotFound, Refusals},
    page::{Page, asked, page},
    provider_invoices::{
        compare::{self, Billed, Grouping, Row, Status, Sums, Tolerance, Used},
        names::{Classes, shared_model},
        starts_us,
    },
    routes::{catalog, usage::invalid, usage_report},
    state::Api,
    store::provider_invoices::{self, BilledRow, InvoiceRow, UsedQuestion, UsedRow},
};

/// Sums of usage that one reconciliation looks at.
const SUMS_MAX: u32 = 100_000;
/// Kinds of usage without a cost that one answer lists.
const UNCOSTED_MAX: usize = 100;
/// A tolerance, in percent.
const PERCENT_MAX: i128 = 100;

/// How names of models are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReconciliationSnapshots)]
pub(crate) enum Snapshots {
    /// Snapshots of a model are one: `gpt-4o-2024-08-06` and `gpt-4o`.
    #[default]
    Together,
    /// Names are compared as they are written.
    Apart,
}

/// How an invoice is reconciled.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReconciliationQuery {
    /// Any of day, model and class, separated by commas; model and class, as far as the invoice has them, if
    /// absent.
    #[param(example = "day,model")]
    group_by: Option<String>,
    /// Differences up to this percentage of what is billed do not matter; 0.5 if absent.
    #[param(example = "0.5")]
    tolerance_percent: Option<String>,
    /// Nor do those up to this amount, in each currency; 0.01 if absent.
    #[param(example = "0.01")]
    tolerance_amount: Option<String>,
    /// Whether snapshots of a model are told apart; `together` if absent.
    #[param(inline)]
    snapshots: Option<Snapshots>,
    /// The number of a revision; the newest if absent.
    revision: Option<i32>,
    /// `json` if absent, or `csv`; the header `Accept: text/csv` says the same as `csv`.
    format: Option<String>,
    /// Of JSON: rows of the page, at most 1000. CSV has all rows.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Of JSON: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A reconciliation.
#[derive(Serialize, ToSchema)]
#[schema(as = Reconciliation)]
pub(crate) struct Reconciliation {
    /// The invoice.
    invoice: String,
    /// Its revision.
    revision: i32,
    /// The provider.
    provider: String,
    /// When its first day begins.
    from: String,
    /// When its last day ends.
    to: String,
    /// The zone in which days begin.
    time_zone: String,
    /// What a row is about.
    group_by: Vec<&'static str>,
    /// What is billed and what was computed, over all rows, by currency.
    totals: Vec<Sums>,
    /// How many rows there are of each status.
    #[schema(value_type = BTreeMap<String, usize>)]
    statuses: BTreeMap<Status, usize>,
    /// Lines of usage without a known cost, over all rows.
    uncosted_lines: i64,
    /// What these are, the most lines first; at most 100 kinds.
    uncosted: Vec<Uncosted>,
    /// The rows, by day, model, class and currency.
    items: Vec<Row>,
    /// Where the next page begins; null on the last one.
    next_cursor: Option<String>,
}

/// Usage without a known cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReconciliationUncosted)]
pub(crate) struct Uncosted {
    /// The model as the events write it.
    model: Option<String>,
    /// The meter.
    meter: String,
    /// What one of its quantity is.
    unit: String,
    /// Lines of usage.
    lines: i64,
    /// How much.
    #[schema(value_type = String)]
    quantity: Amount,
}

/// Both sides, read.
struct Sides {
    row: InvoiceRow,
    from_us: i64,
    to_us: i64,
    grouping: Grouping,
    billed: Vec<Billed>,
    used: Vec<Used>,
    uncosted: Vec<Uncosted>,
}

/// Reconcile an invoice of a provider
///
/// What the provider bills beside the costs that Weir computed when the usage came, for the days of the
/// invoice and the provider's usage of all teams. Differences are shown and never booked; a row whose usage has
/// lines without a known cost says how many. As CSV all rows come at once.
#[utoipa::path(get, path = "/v1/provider-invoices/{invoice}/reconciliation", tag = "analytics",
    params(ReconciliationQuery, ("invoice" = String, Path, description = "Its key")),
    responses((status = 200, content((Reconciliation = "application/json"), (String = "text/csv", example = "day,model,class,status,currency,billed,cost,difference,difference_percent,billed_quantity,quantity,quantity_difference,unit,invoice_lines,lines,uncosted_lines\n,gpt-4.1,input,matches,USD,0.002,0.002,0,0,1000,1000,0,token,1,2,0\n"))), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: crate::auth::Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
    Query(query): Query<ReconciliationQuery>,
) -> Result<Response, ApiError> {
    let tenant = may_read(&caller)?;
    let as_csv = usage_report::as_csv(&headers, query.format.as_deref())?;
    let asked = asked(query.limit, query.cursor.as_deref(), 4)?;
    if as_csv && (query.limit.is_some() || query.cursor.is_some()) {
        let action = "leave limit and cursor out: CSV has all rows";
        return Err(invalid("CSV has no pages".to_owned(), action).into());
    }
    let tolerance = Tolerance {
        percent: tolerance("tolerance_percent", query.tolerance_percent.as_deref(), ONE / 2)?,
        amount: tolerance("tolerance_amount", query.tolerance_amount.as_deref(), ONE / 100)?,
    };
    if tolerance.percent > Amount::of_sum(PERCENT_MAX * ONE) {
        let detail = "tolerance_percent is above 100".to_owned();
        return Err(invalid(detail, "give a percentage from 0 to 100").into());
    }
    let sides = sides(&api, tenant, &key, &query).await?;
    let too_large = || ApiError::Internal("a sum is beyond the limit of sums".to_owned());
    let compare = |grouping| {
        compare::rows(&sides.billed, &sides.used, grouping, tolerance).ok_or_else(too_large)
    };
    let rows = compare(sides.grouping)?;
    if as_csv {
        return csv(&rows);
    }
    let totals = compare(Grouping::default())?.into_iter().map(|row| row.sums).collect();
    let mut statuses = BTreeMap::new();
    for row in &rows {
        *statuses.entry(row.sums.status).or_default() += 1;
    }
    let after = |row: &Row| asked.after.as_ref().is_none_or(|after| row.place() > *after);
    let limit = usize::try_from(asked.rows()).unwrap_or(usize::MAX);
    let rows = rows.into_iter().filter(after).take(limit).collect();
    let Page { items, next_cursor } = page(&asked, rows, Row::place);
    Ok(Json(Reconciliation {
        invoice: sides.row.invoice,
        revision: sides.row.revision,
        provider: sides.row.provider,
        from: time::format(sides.from_us),
        to: time::format(sides.to_us),
        time_zone: sides.row.time_zone,
        group_by: names(sides.grouping),
        totals,
        statuses,
        uncosted_lines: sides.used.iter().map(|one| one.uncosted_lines).sum(),
        uncosted: sides.uncosted,
        items,
        next_cursor,
    })
    .into_response())
}

fn tolerance(name: &str, text: Option<&str>, otherwise: i128) -> Result<Amount, Problem> {
    let Some(text) = text else { return Ok(Amount::of_sum(otherwise)) };
    let amount = Amount::parse_exact(text).ok().filter(|amount| *amount >= Amount::ZERO);
    amount.ok_or_else(|| {
        invalid(format!("{name} is `{text}`"), "give a decimal number that is not negative")
    })
}

fn names(grouping: Grouping) -> Vec<&'static str> {
    let names = [("day", grouping.day), ("model", grouping.model), ("class", grouping.class)];
    names.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
}

/// What to group by: what was asked, as far as the invoice has it.
fn grouping(group_by: Option<&str>, has: Grouping) -> Result<Grouping, Problem> {
    let Some(list) = group_by else { return Ok(Grouping { day: false, ..has }) };
    let mut grouping = Grouping::default();
    for name in list.split(',').filter(|name| !name.is_empty()) {
        let (wanted, has) = match name {
            "day" => (&mut grouping.day, has.day),
            "model" => (&mut grouping.model, has.model),
            "class" => (&mut grouping.class, has.class),
            _ => return Err(refused(name, "is no group")),
        };
        if !has {
            return Err(refused(name, "is nowhere in the invoice"));
        }
        if std::mem::replace(wanted, true) {
            return Err(refused(name, "is there twice"));
        }
    }
    Ok(grouping)
}

fn refused(name: &str, what: &str) -> Problem {
    Problem::bad_request(
        "group_unknown",
        format!("group_by: `{name}` {what}"),
        "use day, model and class, each once and as far as the invoice has them",
    )
}

/// Reads both sides.
async fn sides(
    api: &Api,
    tenant: TenantScope,
    key: &str,
    query: &ReconciliationQuery,
) -> Result<Sides, ApiError> {
    let (row, billed, document) = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let row = find(&mut transaction, tenant, key, query.revision).await?;
        let billed = provider_invoices::billed(&mut transaction, tenant, key, row.revision).await?;
        let (document, ..) = catalog::newest(&mut transaction, tenant).await?;
        Ok::<_, ApiError>((row, billed, document))
    })
    .await?;
    let has = Grouping {
        day: billed.iter().any(|one| one.day.is_some()),
        model: billed.iter().any(|one| one.model.is_some()),
        class: billed.iter().any(|one| one.class.is_some()),
    };
    let grouping = grouping(query.group_by.as_deref(), has)?;
    let zone = zone(&row.time_zone)?;
    let starts = |day: &str| starts_us(day.parse().ok()?, &zone);
    let (from_us, to_us) = starts(&row.period_from)
        .zip(starts(&row.period_to))
        .ok_or_else(|| ApiError::Internal("the days of an invoice cannot be read".to_owned()))?;
    let question = UsedQuestion {
        provider: &row.provider,
        from_us,
        to_us,
        time_zone: &row.time_zone,
        by_day: grouping.day,
        limit: SUMS_MAX + 1,
    };
    let used = provider_invoices::used(&api.clickhouse, tenant, &question).await?;
    if used.len() > usize::try_from(SUMS_MAX).unwrap_or(usize::MAX) {
        return Err(Problem::unprocessable(
            "reconciliation_too_large",
            format!("the usage of the invoice has more than {SUMS_MAX} sums"),
            "leave day out of group_by, or import shorter invoices",
        )
        .into());
    }
    let shared = query.snapshots.unwrap_or_default() == Snapshots::Together;
    let classes = Classes::new(&document, read_json(&row.classes)?);
    let models: BTreeMap<String, String> = read_json(&row.models)?;
    let billed: Vec<Billed> = billed
        .into_iter()
        .map(|one| of_invoice(one, &models, &classes, shared))
        .collect::<Result<_, _>>()?;
    let own: BTreeSet<&str> = billed.iter().filter_map(|one| one.class.as_deref()).collect();
    let uncosted = uncosted(&used)?;
    let used = used.into_iter().map(|one| {
        let class = classes.of_meter(&one.meter, |class| own.contains(class));
        of_usage(one, class, shared)
    });
    let used = used.collect::<Result<_, _>>()?;
    Ok(Sides { from_us, to_us, grouping, used, uncosted, billed, row })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn of_invoice(
    row: BilledRow,
    models: &BTreeMap<String, String>,
    classes: &Classes,
    shared: bool,
) -> Result<Billed, ApiError> {
    let model = row.model.as_ref().map(|model| models.get(model).unwrap_or(model));
    Ok(Billed {
        day: row.day,
        model: model.map(|model| if shared { shared_model(model) } else { model.clone() }),
        class: row.class.as_deref().map(|class| classes.of_invoice(class)),
        written: row.model,
        currency: row.currency,
        lines: row.lines,
        amount: known(&row.amount)?,
        quantity: row.quantity.as_deref().map(known).transpose()?,
    })
}

fn of_usage(row: UsedRow, class: String, shared: bool) -> Result<Used, ApiError> {
    let written = some(row.model);
    let model = written.clone();
    Ok(Used {
        day: some(row.day),
        model: model.map(|model| if shared { shared_model(&model) } else { model }),
        written,
        class: Some(class),
        unit: row.unit,
        currency: some(row.cost_currency),
        lines: row.lines,
        uncosted_lines: row.uncosted_lines,
        quantity: known(&row.quantity)?,
        cost: row.cost.as_deref().map(known).transpose()?,
    })
}

/// What has no known cost, whatever its day.
fn uncosted(used: &[UsedRow]) -> Result<Vec<Uncosted>, ApiError> {
    let mut sums: BTreeMap<(&str, &str, &str), (i64, Amount)> = BTreeMap::new();
    for row in used.iter().filter(|row| row.cost.is_none() && row.uncosted_lines != 0) {
        let (lines, quantity) =
            sums.entry((row.model.as_str(), row.meter.as_str(), row.unit.as_str())).or_default();
        *lines += row.uncosted_lines;
        let sum = quantity.checked_add(known(&row.quantity)?);
        *quantity = sum.ok_or_else(|| ApiError::Internal("a sum is too large".to_owned()))?;
    }
    let mut all: Vec<Uncosted> = sums
        .into_iter()
        .map(|((model, meter, unit), (lines, quantity))| Uncosted {
            model: some(model.to_owned()),
            meter: meter.to_owned(),
            unit: unit.to_owned(),
            lines,
            quantity,
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.lines));
    all.truncate(UNCOSTED_MAX);
    Ok(all)
}

/// The rows as CSV; what is not known is empty, and a text that a spreadsheet would run gets a `'` in front.
fn csv(rows: &[Row]) -> Result<Response, ApiError> {
    const NAMES: [&str; 16] = [
        "day",
        "model",
        "class",
        "status",
        "currency",
        "billed",
        "cost",
        "difference",
        "difference_percent",
        "billed_quantity",
        "quantity",
        "quantity_difference",
        "unit",
        "invoice_lines",
        "lines",
        "uncosted_lines",
    ];
    let internal = |error: csv::Error| ApiError::Internal(error.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(NAMES).map_err(internal)?;
    for row in rows {
        writer.write_record(fields(row)?).map_err(internal)?;
    }
    let bytes = writer.into_inner().map_err(|error| ApiError::Internal(error.to_string()))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"reconciliation.csv\""),
        ),
    ];
    Ok((headers, bytes).into_response())
}

fn fields(row: &Row) -> Result<[String; 16], ApiError> {
    let text = |text: &Option<String>| {
        let text = text.clone().unwrap_or_default();
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
    };
    let number = |amount: Option<Amount>| amount.map_or_else(String::new, |one| one.to_string());
    let status = serde_json::to_value(row.sums.status)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok([
        text(&row.day),
        text(&row.model),
        text(&row.class),
        status.as_str().unwrap_or_default().to_owned(),
        text(&row.sums.currency),
        number(row.sums.billed),
        number(row.sums.cost),
        number(row.sums.difference),
        number(row.sums.difference_percent),
        number(row.billed_quantity),
        number(row.quantity),
        number(row.quantity_difference),
        text(&row.unit),
        row.invoice_lines.to_string(),
        row.lines.to_string(),
        row.uncosted_lines.to_string(),
    ])
}
