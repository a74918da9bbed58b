//! Invoices of providers: what was imported, and what the archive has of the same usage.

use runtime::clickhouse::ClickHouse;
use serde::Deserialize;
use sqlx::PgConnection;

use super::{
    analytics::{Selection, line_filter},
    events::number,
    usage::{Statement, read_rows},
};
use crate::{auth::TenantScope, error::ApiError, page::Asked, provider_invoices::Invoice};

/// A row of `provider_invoices`; days and what is JSON are text.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct InvoiceRow {
    pub invoice: String,
    pub revision: i32,
    pub provider: String,
    pub time_zone: String,
    pub period_from: String,
    pub period_to: String,
    pub models: String,
    pub classes: String,
    pub lines: i32,
    pub totals: String,
    pub content_hash: Vec<u8>,
    pub imported_by: String,
    pub imported_at_us: i64,
}

/// An invoice to insert; what is JSON is text.
pub(crate) struct NewInvoice<'a> {
    pub invoice: &'a Invoice,
    pub revision: i32,
    pub models: String,
    pub classes: String,
    pub totals: String,
    pub content_hash: [u8; 32],
    pub imported_by: &'a str,
}

/// A row of `provider_invoice_lines`; days and decimals are text.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct LineRow {
    pub line: i64,
    pub day: Option<String>,
    pub model: Option<String>,
    pub class: Option<String>,
    pub quantity: Option<String>,
    pub amount: String,
    pub currency: String,
}

/// Lines of an invoice that say the same, added up.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct BilledRow {
    pub day: Option<String>,
    pub model: Option<String>,
    pub class: Option<String>,
    pub currency: String,
    pub lines: i64,
    pub amount: String,
    /// None where a line does not say it.
    pub quantity: Option<String>,
}

/// Lets imports of a tenant go one by one from here to the commit.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' provider_invoices', 2))",
    )
    .bind(tenant.id())
    .execute(connection)
    .await?;
    Ok(())
}

/// An invoice: a revision of it, or the newest.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    invoice: &str,
    revision: Option<i32>,
) -> Result<Option<InvoiceRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT invoice, revision, provider, time_zone, period_from::text, period_to::text, models::text, classes::text, lines,
             totals::text, content_hash, imported_by, (extract(epoch FROM imported_at) * 1000000)::bigint AS imported_at_us
         FROM provider_invoices WHERE tenant_id = $1 AND invoice = $2 AND ($3::integer IS NULL OR revision = $3)
         ORDER BY revision DESC LIMIT 1",
    )
    .bind(tenant.id())
    .bind(invoice)
    .bind(revision)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// A page of invoices, the newest revision of each.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<InvoiceRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT DISTINCT ON (invoice) invoice, revision, provider, time_zone, period_from::text, period_to::text, models::text,
             classes::text, lines, totals::text, content_hash, imported_by,
             (extract(epoch FROM imported_at) * 1000000)::bigint AS imported_at_us
         FROM provider_invoices WHERE tenant_id = $1 AND ($2::text IS NULL OR invoice > $2)
         ORDER BY invoice, revision DESC LIMIT $3",
    )
    .bind(tenant.id())
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Inserts an invoice without its lines.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewInvoice<'_>,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO provider_invoices (tenant_id, invoice, revision, provider, time_zone, period_from, period_to, models, classes,
             lines, totals, content_hash, imported_by)
         VALUES ($1, $2, $3, $4, $5, $6::text::date, $7::text::date, $8::text::jsonb, $9::text::jsonb, $10, $11::text::jsonb, $12, $13)",
    )
    .bind(tenant.id())
    .bind(&new.invoice.invoice)
    .bind(new.revision)
    .bind(&new.invoice.provider)
    .bind(&new.invoice.time_zone)
    .bind(new.invoice.from.to_string())
    .bind(new.invoice.to.to_string())
    .bind(&new.models)
    .bind(&new.classes)
    .bind(i32::try_from(new.invoice.lines.len()).unwrap_or(i32::MAX))
    .bind(&new.totals)
    .bind(&new.content_hash[..])
    .bind(new.imported_by)
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts the lines of an invoice.
pub(crate) async fn insert_lines(
    connection: &mut PgConnection,
    tenant: TenantScope,
    invoice: &Invoice,
    revision: i32,
) -> Result<(), ApiError> {
    let lines = &invoice.lines;
    sqlx::query(
        "INSERT INTO provider_invoice_lines (tenant_id, invoice, revision, line, day, model, class, quantity, amount, currency)
         SELECT $1, $2, $3, line, day::date, model, class, quantity::numeric, amount::numeric, currency
         FROM UNNEST($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
             AS new (line, day, model, class, quantity, amount, currency)",
    )
    .bind(tenant.id())
    .bind(&invoice.invoice)
    .bind(revision)
    .bind(lines.iter().map(|line| line.line).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.day.as_deref()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.model.as_deref()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.class.as_deref()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.quantity.map(|one| one.to_string())).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.amount.to_string()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.currency.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of the lines of an invoice.
pub(crate) async fn lines(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (invoice, revision): (&str, i32),
    asked: &Asked,
) -> Result<Vec<LineRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT line, day::text, model, class, quantity::text, amount::text, currency FROM provider_invoice_lines
         WHERE tenant_id = $1 AND invoice = $2 AND revision = $3 AND ($4::bigint IS NULL OR line > $4)
         ORDER BY line LIMIT $5",
    )
    .bind(tenant.id())
    .bind(invoice)
    .bind(revision)
    .bind(asked.after_number(0)?)
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// What an invoice bills, by all that its lines tell apart.
pub(crate) async fn billed(
    connection: &mut PgConnection,
    tenant: TenantScope,
    invoice: &str,
    revision: i32,
) -> Result<Vec<BilledRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT day::text, model, class, currency, count(*) AS lines, sum(amount)::text AS amount,
             CASE WHEN count(quantity) = count(*) THEN sum(quantity)::text END AS quantity
         FROM provider_invoice_lines WHERE tenant_id = $1 AND invoice = $2 AND revision = $3
         GROUP BY day, model, class, currency ORDER BY day, model, class, currency",
    )
    .bind(tenant.id())
    .bind(invoice)
    .bind(revision)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Which usage an invoice is about.
pub(crate) struct UsedQuestion<'a> {
    /// The value of the dimension `provider`, in small or capital letters.
    pub provider: &'a str,
    /// When the first day begins and the last one ends.
    pub from_us: i64,
    pub to_us: i64,
    /// In which days begin.
    pub time_zone: &'a str,
    /// Whether days are told apart.
    pub by_day: bool,
    pub limit: u32,
}

/// A sum of lines of usage; decimals are text.
#[derive(Debug, Deserialize)]
pub(crate) struct UsedRow {
    /// Empty unless days are told apart.
    pub day: String,
    pub model: String,
    pub meter: String,
    pub unit: String,
    /// Empty where no cost is known.
    pub cost_currency: String,
    pub quantity: String,
    pub cost: Option<String>,
    #[serde(deserialize_with = "number")]
    pub lines: i64,
    #[serde(deserialize_with = "number")]
    pub uncosted_lines: i64,
}

/// Adds up the usage that an invoice is about.
pub(crate) async fn used(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    question: &UsedQuestion<'_>,
) -> Result<Vec<UsedRow>, ApiError> {
    let mut statement = Statement::default();
    let selection =
        Selection { from_us: question.from_us, to_us: question.to_us, ..Selection::default() };
    let filter = line_filter(&mut statement, tenant, &selection);
    let provider = statement.bind("String", question.provider);
    let zone = statement.bind("String", question.time_zone);
    let day =
        if question.by_day { format!("toString(toDate(u.time, {zone}))") } else { "''".to_owned() };
    let limit = statement.bind("UInt64", question.limit.to_string());
    statement.sql = format!(
        "SELECT {day} AS day, toValidUTF8(u.dimensions['model']) AS model, toString(u.meter) AS meter, toString(u.unit) AS unit,
            toString(u.cost_currency) AS cost_currency, sum(u.quantity * u.sign) AS quantity, sum(u.cost * u.sign) AS cost,
            sum(toInt64(u.sign)) AS lines, sum(if(u.cost IS NULL, toInt64(u.sign), 0)) AS uncosted_lines
         FROM (SELECT time, meter, unit, quantity, cost_currency, cost, dimensions, sign FROM usage_lines
             WHERE {filter} AND lowerUTF8(dimensions['provider']) = lowerUTF8({provider})) AS u
         GROUP BY day, model, meter, unit, cost_currency HAVING lines != 0 OR quantity != 0 OR ifNull(cost, 0) != 0
         ORDER BY day, model, meter, unit, cost_currency LIMIT {limit} SETTINGS max_execution_time = 20"
    );
    read_rows(statement.rows(clickhouse).await?)
}
