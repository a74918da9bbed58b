//! Dated rates of exchange, for display.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `exchange_rates`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct RateRow {
    pub from_currency: String,
    pub to_currency: String,
    pub effective_on: String,
    pub rate: String,
    pub source: String,
    pub stored_by: String,
    pub stored_at_us: i64,
}

/// The newest rate between a currency and the one that is shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct NewestRate {
    pub currency: String,
    pub rate: String,
    pub effective_on: String,
    pub source: String,
    /// It is that of the one that is shown in the other one.
    pub inverse: bool,
}

/// A rate's key: from, to, and from which day.
pub(crate) type RateName<'a> = (&'a str, &'a str, &'a str);

/// Lets changes of a tenant's rates go one by one from here to the commit.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' exchange_rates', 2))")
        .bind(tenant.id())
        .execute(connection)
        .await?;
    Ok(())
}

/// A page of the rates by from, to and day; perhaps of one or both currencies.
pub(crate) async fn rows(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (from, to): (Option<&str>, Option<&str>),
    asked: &Asked,
) -> Result<Vec<RateRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT from_currency, to_currency, effective_on::text, trim_scale(rate)::text AS rate, source, stored_by,
             (extract(epoch FROM stored_at) * 1000000)::bigint AS stored_at_us
         FROM exchange_rates
         WHERE tenant_id = $1 AND ($2::text IS NULL OR from_currency = $2) AND ($3::text IS NULL OR to_currency = $3)
             AND ($4::text IS NULL OR (from_currency, to_currency, effective_on) > ($4, $5, $6::date))
         ORDER BY from_currency, to_currency, effective_on LIMIT $7",
    )
    .bind(tenant.id())
    .bind(from)
    .bind(to)
    .bind(asked.after(0))
    .bind(asked.after(1))
    .bind(asked.after(2))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A rate by its key.
pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (from, to, on): RateName<'_>,
) -> Result<Option<RateRow>, ApiError> {
    let row = sqlx::query_as(
        "SELECT from_currency, to_currency, effective_on::text, trim_scale(rate)::text AS rate, source, stored_by,
             (extract(epoch FROM stored_at) * 1000000)::bigint AS stored_at_us
         FROM exchange_rates WHERE tenant_id = $1 AND from_currency = $2 AND to_currency = $3 AND effective_on = $4::date",
    )
    .bind(tenant.id())
    .bind(from)
    .bind(to)
    .bind(on)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Stores a rate, in place of one of the same key; answers it.
pub(crate) async fn store(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (from, to, on): RateName<'_>,
    (rate, source): (&str, &str),
    stored_by: &str,
) -> Result<RateRow, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO exchange_rates (tenant_id, from_currency, to_currency, effective_on, rate, source, stored_by)
         VALUES ($1, $2, $3, $4::date, $5::numeric, $6, $7)
         ON CONFLICT (tenant_id, from_currency, to_currency, effective_on) DO UPDATE
             SET rate = excluded.rate, source = excluded.source, stored_by = excluded.stored_by, stored_at = clock_timestamp()
         RETURNING from_currency, to_currency, effective_on::text, trim_scale(rate)::text AS rate, source, stored_by,
             (extract(epoch FROM stored_at) * 1000000)::bigint AS stored_at_us",
    )
    .bind(tenant.id())
    .bind(from)
    .bind(to)
    .bind(on)
    .bind(rate)
    .bind(source)
    .bind(stored_by)
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// Takes a rate out.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    tenant: TenantScope,
    (from, to, on): RateName<'_>,
) -> Result<(), ApiError> {
    sqlx::query(
        "DELETE FROM exchange_rates WHERE tenant_id = $1 AND from_currency = $2 AND to_currency = $3 AND effective_on = $4::date",
    )
    .bind(tenant.id())
    .bind(from)
    .bind(to)
    .bind(on)
    .execute(connection)
    .await?;
    Ok(())
}

/// The newest rate of each currency to the one that is shown, or from it, that holds on a day; of one day, that to it.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    tenant: TenantScope,
    currencies: &[String],
    (display, day): (&str, &str),
) -> Result<Vec<NewestRate>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT currency, trim_scale(rate)::text AS rate, effective_on::text, source, inverse
         FROM unnest($2::text[]) AS asked (currency) CROSS JOIN LATERAL (
             SELECT rate, effective_on, source, from_currency = $3 AS inverse FROM exchange_rates
             WHERE tenant_id = $1 AND effective_on <= $4::date
                 AND ((from_currency = currency AND to_currency = $3) OR (from_currency = $3 AND to_currency = currency))
             ORDER BY effective_on DESC, inverse LIMIT 1
         ) AS newest",
    )
    .bind(tenant.id())
    .bind(currencies)
    .bind(display)
    .bind(day)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
