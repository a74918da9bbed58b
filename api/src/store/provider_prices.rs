//! Prices of providers: versions that are added to and never changed.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A version of a price, with where it came from.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct PriceRow {
    pub provider: String,
    pub model: String,
    pub class: String,
    pub above: i64,
    pub version: i32,
    pub price: Option<String>,
    pub per: i64,
    pub currency: String,
    pub effective_from_us: i64,
    pub source: String,
    pub source_date: String,
    pub imported_at_us: i64,
}

/// A version to insert; `price` is decimal text, none where it is withdrawn.
#[derive(Clone, Debug)]
pub(crate) struct NewVersion {
    pub provider: String,
    pub model: String,
    pub class: String,
    pub above: i64,
    pub version: i32,
    pub price: Option<String>,
    pub per: i64,
    pub currency: String,
    pub effective_from_us: i64,
}

/// Which prices to list.
pub(crate) struct Wanted<'a> {
    pub provider: Option<&'a str>,
    pub model: Option<&'a str>,
    pub at_us: i64,
}

/// Lets imports of a tenant go one by one from here to the commit.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantScope,
) -> Result<(), ApiError> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' provider_prices', 2))",
    )
    .bind(tenant.id())
    .execute(connection)
    .await?;
    Ok(())
}

/// All versions of all prices of some providers, or of any.
pub(crate) async fn versions(
    connection: &mut PgConnection,
    tenant: TenantScope,
    providers: Option<&[String]>,
) -> Result<Vec<PriceRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT provider, model, class, above, version, price::text, per, currency,
             (extract(epoch FROM effective_from) * 1000000)::bigint AS effective_from_us,
             source, source_date::text, (extract(epoch FROM imported_at) * 1000000)::bigint AS imported_at_us
         FROM provider_prices JOIN provider_price_imports USING (tenant_id, import_id)
         WHERE tenant_id = $1 AND ($2::text[] IS NULL OR provider = ANY($2)) ORDER BY provider, model, class, above, version",
    )
    .bind(tenant.id())
    .bind(providers)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A page of the prices that hold for usage at a time.
pub(crate) async fn in_force(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wanted: &Wanted<'_>,
    asked: &Asked,
) -> Result<Vec<PriceRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT * FROM (
             SELECT DISTINCT ON (provider, model, class, above) provider, model, class, above, version, price::text, per, currency,
                 (extract(epoch FROM effective_from) * 1000000)::bigint AS effective_from_us,
                 source, source_date::text, (extract(epoch FROM imported_at) * 1000000)::bigint AS imported_at_us
             FROM provider_prices JOIN provider_price_imports USING (tenant_id, import_id)
             WHERE tenant_id = $1 AND ($2::text IS NULL OR provider = $2) AND ($3::text IS NULL OR model = $3)
                 AND effective_from <= timestamptz 'epoch' + $4 * interval '1 microsecond'
                 AND ($5::text IS NULL OR (provider, model, class, above) > ($5, $6, $7, $8))
             ORDER BY provider, model, class, above, provider_prices.effective_from DESC, version DESC) AS newest
         WHERE price IS NOT NULL ORDER BY provider, model, class, above LIMIT $9",
    )
    .bind(tenant.id())
    .bind(wanted.provider)
    .bind(wanted.model)
    .bind(wanted.at_us)
    .bind(asked.after(0))
    .bind(asked.after(1))
    .bind(asked.after(2))
    .bind(asked.after_number(3)?)
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A page of all versions, the oldest of each price first.
pub(crate) async fn history(
    connection: &mut PgConnection,
    tenant: TenantScope,
    wanted: &Wanted<'_>,
    asked: &Asked,
) -> Result<Vec<PriceRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT provider, model, class, above, version, price::text, per, currency,
             (extract(epoch FROM effective_from) * 1000000)::bigint AS effective_from_us,
             source, source_date::text, (extract(epoch FROM imported_at) * 1000000)::bigint AS imported_at_us
         FROM provider_prices JOIN provider_price_imports USING (tenant_id, import_id)
         WHERE tenant_id = $1 AND ($2::text IS NULL OR provider = $2) AND ($3::text IS NULL OR model = $3)
             AND ($4::text IS NULL OR (provider, model, class, above, version) > ($4, $5, $6, $7, $8))
         ORDER BY provider, model, class, above, version LIMIT $9",
    )
    .bind(tenant.id())
    .bind(wanted.provider)
    .bind(wanted.model)
    .bind(asked.after(0))
    .bind(asked.after(1))
    .bind(asked.after(2))
    .bind(asked.after_number(3)?)
    .bind(asked.after_number(4)?)
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Remembers an import.
pub(crate) async fn insert_import(
    connection: &mut PgConnection,
    tenant: TenantScope,
    import: Uuid,
    source: &str,
    source_date: &str,
) -> Result<(), ApiError> {
    sqlx::query("INSERT INTO provider_price_imports (tenant_id, import_id, source, source_date) VALUES ($1, $2, $3, $4::text::date)")
        .bind(tenant.id())
        .bind(import)
        .bind(source)
        .bind(source_date)
        .execute(connection)
        .await?;
    Ok(())
}

/// Inserts versions.
pub(crate) async fn insert_versions(
    connection: &mut PgConnection,
    tenant: TenantScope,
    import: Uuid,
    versions: &[NewVersion],
) -> Result<(), ApiError> {
    fn column<'a, T>(versions: &'a [NewVersion], value: fn(&'a NewVersion) -> T) -> Vec<T> {
        versions.iter().map(value).collect()
    }
    sqlx::query(
        "INSERT INTO provider_prices (tenant_id, import_id, provider, model, class, above, version, price, per, currency, effective_from)
         SELECT $1, $2, provider, model, class, above, version, price::numeric, per, currency,
             timestamptz 'epoch' + effective_from_us * interval '1 microsecond'
         FROM UNNEST($3::text[], $4::text[], $5::text[], $6::bigint[], $7::integer[], $8::text[], $9::bigint[], $10::text[], $11::bigint[])
             AS new (provider, model, class, above, version, price, per, currency, effective_from_us)",
    )
    .bind(tenant.id())
    .bind(import)
    .bind(column(versions, |version| version.provider.as_str()))
    .bind(column(versions, |version| version.model.as_str()))
    .bind(column(versions, |version| version.class.as_str()))
    .bind(column(versions, |version| version.above))
    .bind(column(versions, |version| version.version))
    .bind(column(versions, |version| version.price.as_deref()))
    .bind(column(versions, |version| version.per))
    .bind(column(versions, |version| version.currency.as_str()))
    .bind(column(versions, |version| version.effective_from_us))
    .execute(connection)
    .await?;
    Ok(())
}
