//! Dated rates of exchange, which amounts are shown by in another currency. Nothing is charged or posted by them.

use std::collections::BTreeSet;

use axum::{Extension, Json, extract::State, http::StatusCode};
use domain::{
    money::{Amount, is_currency_code},
    time,
};
use jiff::civil::Date;
use runtime::{http::Problem, postgres::scoped};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::wallets::check_currency;
use crate::{
    auth::{Actor, Caller, Scope, TenantScope},
    error::ApiError,
    extract::Query,
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, Refusals},
    page::{Page, asked, cursor_invalid, page},
    state::Api,
    store::exchange_rates::{self, RateName, RateRow},
};

/// Rates of one request.
const RATES_MAX: usize = 1_000;
/// Characters of a source.
const SOURCE_LENGTH_MAX: usize = 256;
/// The first year that a rate can be of.
const YEAR_MIN: i16 = 1970;

/// Rates to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewExchangeRates {
    /// 1 to 1000 of them; all are stored, or none.
    rates: Vec<NewExchangeRate>,
    /// Whether another rate may take the place of one that is stored for the same currencies and day. Without it such
    /// a rate is refused.
    #[serde(default)]
    replace: bool,
}

/// A rate to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewExchangeRate {
    /// The currency that is converted: three capitals, or a credit unit of the catalog.
    #[schema(example = "USD")]
    from_currency: String,
    /// The currency that it is converted into: three capitals.
    #[schema(example = "EUR")]
    to_currency: String,
    /// From which day, UTC, it holds, until there is a later one.
    #[schema(format = Date, example = "2026-03-31")]
    effective_on: String,
    /// What one of `from_currency` is in `to_currency`: above 0, below 10²⁰, at most 12 decimals. Null takes a
    /// stored rate out, with `replace`.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, example = "0.9213")]
    rate: Option<String>,
    /// Where it comes from.
    #[schema(example = "ECB")]
    source: String,
}

/// A stored rate of exchange.
#[derive(Serialize, ToSchema)]
#[schema(as = ExchangeRate)]
pub(crate) struct StoredRate {
    /// The currency that is converted.
    from_currency: String,
    /// The currency that it is converted into.
    to_currency: String,
    /// From which day, UTC, it holds.
    effective_on: String,
    /// What one of `from_currency` is in `to_currency`.
    rate: String,
    /// Where it comes from.
    source: String,
    /// Who stored it.
    stored_by: String,
    /// When.
    stored_at: String,
}

/// What became of rates to store.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ExchangeRatesStored {
    /// Rates of currencies and days that had none.
    added: usize,
    /// Rates that took the place of another one.
    replaced: usize,
    /// Rates that were taken out.
    removed: usize,
    /// Rates that were stored so already.
    unchanged: usize,
    /// What is stored now of what was sent, in its order.
    rates: Vec<StoredRate>,
}

/// Which rates.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExchangeRateQuery {
    /// From one currency; all if absent.
    from_currency: Option<String>,
    /// Into one currency; all if absent.
    to_currency: Option<String>,
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl From<RateRow> for StoredRate {
    fn from(row: RateRow) -> Self {
        Self {
            from_currency: row.from_currency,
            to_currency: row.to_currency,
            effective_on: row.effective_on,
            rate: row.rate,
            source: row.source,
            stored_by: row.stored_by,
            stored_at: time::format(row.stored_at_us),
        }
    }
}

impl NewExchangeRate {
    fn name(&self) -> RateName<'_> {
        (&self.from_currency, &self.to_currency, &self.effective_on)
    }

    /// What is wrong with it by itself.
    fn check(&self) -> Result<(), Problem> {
        let (from, to, on) = self.name();
        if !is_currency_code(to) {
            return Err(Problem::unprocessable(
                "currency_unknown",
                format!("`to_currency` is `{to}`, no code of three capitals"),
                "give a currency such as EUR",
            ));
        }
        let field = |field: &'static str, detail: String| {
            Err(Problem::unprocessable("field_invalid", detail, "correct it").with("field", field))
        };
        if from == to {
            return field("from_currency", format!("the rate is from {to} to {to}"));
        }
        if !is_day(on) {
            return Err(Problem::unprocessable(
                "date_invalid",
                format!("`effective_on` is `{on}`, no day from {YEAR_MIN} on"),
                "write it like 2026-03-31",
            ));
        }
        let rate = self.rate.as_deref().map(Amount::parse_exact).transpose();
        if !rate.is_ok_and(|rate| rate.is_none_or(|rate| rate > Amount::ZERO)) {
            let rate = self.rate.as_deref().unwrap_or_default();
            return Err(Problem::unprocessable(
                "rate_invalid",
                format!("the rate from {from} to {to} of {on} is `{rate}`"),
                "give a decimal number above 0 and below 10^20 with at most 12 decimals, or null to take it out",
            ));
        }
        let source = &self.source;
        if source.trim().is_empty()
            || source.chars().count() > SOURCE_LENGTH_MAX
            || source.contains('\0')
        {
            let detail =
                format!("`source` is empty or has more than {SOURCE_LENGTH_MAX} characters");
            return field("source", detail);
        }
        Ok(())
    }
}

fn is_day(text: &str) -> bool {
    let day: Option<Date> = text.parse().ok();
    day.is_some_and(|day| day.year() >= YEAR_MIN && day.to_string() == text)
}

/// Store rates of exchange
///
/// By currencies and day. A rate is never changed silently: another one for the same currencies and day is refused, or,
/// with `replace`, takes its place, and who changed what is in `GET /v1/audit`. Nothing is charged or posted by them.
#[utoipa::path(put, path = "/v1/exchange-rates", tag = "balances", params(IdempotencyKey), request_body = NewExchangeRates,
    responses((status = 200, body = ExchangeRatesStored), ChangeRefusals, Refusals))]
pub(crate) async fn store(
    State(api): State<Api>,
    caller: Caller,
    Extension(actor): Extension<Actor>,
    call: Call<NewExchangeRates>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CatalogWrite)?;
    let rates = &call.value.rates;
    if rates.is_empty() || rates.len() > RATES_MAX {
        let detail = format!("`rates` has {}; 1 to {RATES_MAX}", rates.len());
        return Err(Problem::unprocessable("field_invalid", detail, "send several requests")
            .with("field", "rates")
            .into());
    }
    rates.iter().try_for_each(NewExchangeRate::check)?;
    let names: BTreeSet<RateName<'_>> = rates.iter().map(NewExchangeRate::name).collect();
    if names.len() < rates.len() {
        let detail = "there are two rates of the same currencies and day";
        return Err(Problem::unprocessable("field_invalid", detail, "send one of them")
            .with("field", "rates")
            .into());
    }
    idempotency::once(&api, tenant, call, move |connection, new: &NewExchangeRates| {
        let actor = actor.id.clone();
        Box::pin(async move { store_all(connection, tenant, new, &actor).await })
    })
    .await
}

async fn store_all(
    connection: &mut PgConnection,
    tenant: TenantScope,
    new: &NewExchangeRates,
    actor: &str,
) -> Result<Made, ApiError> {
    exchange_rates::lock(connection, tenant).await?;
    let to_store = new.rates.iter().filter(|one| one.rate.is_some());
    let froms: BTreeSet<&str> = to_store.map(|one| one.from_currency.as_str()).collect();
    for from in froms {
        check_currency(connection, tenant, from).await?;
    }
    let mut stored = ExchangeRatesStored::default();
    let mut before = Vec::new();
    for wanted in &new.rates {
        let found = exchange_rates::find(connection, tenant, wanted.name()).await?;
        let value = |text: &str| Amount::parse_exact(text).ok();
        let rate = wanted.rate.as_deref().and_then(value);
        let is_same = match &found {
            None => rate.is_none(),
            Some(row) => rate.is_some() && value(&row.rate) == rate && row.source == wanted.source,
        };
        if is_same {
            stored.unchanged += 1;
            stored.rates.extend(found.map(StoredRate::from));
            continue;
        }
        if let Some(row) = found.as_ref().filter(|_| !new.replace) {
            return Err(exists(row));
        }
        match (rate.map(|rate| rate.to_string()), &found) {
            (Some(rate), found) => {
                let values = (rate.as_str(), wanted.source.as_str());
                let name = wanted.name();
                let row = exchange_rates::store(connection, tenant, name, values, actor).await?;
                stored.rates.push(row.into());
                let count = if found.is_none() { &mut stored.added } else { &mut stored.replaced };
                *count += 1;
            }
            (None, _) => {
                exchange_rates::remove(connection, tenant, wanted.name()).await?;
                stored.removed += 1;
            }
        }
        before.extend(found.map(StoredRate::from));
    }
    let made = Made::new(StatusCode::OK, &stored)?;
    match (stored.unchanged == new.rates.len(), before.is_empty()) {
        (true, _) => Ok(made.without_change()),
        (false, true) => Ok(made),
        (false, false) => made.instead_of(&json!({ "rates": before })),
    }
}

fn exists(row: &RateRow) -> ApiError {
    Problem::conflict(
        "exchange_rate_exists",
        format!(
            "from {} to {} of {} the rate {} of `{}` is stored",
            row.from_currency, row.to_currency, row.effective_on, row.rate, row.source
        ),
        "give another day, or `replace` as true to put right what is stored",
    )
    .with("rate", row.rate.as_str())
    .into()
}

/// List rates of exchange
///
/// By currencies and day.
#[utoipa::path(get, path = "/v1/exchange-rates", tag = "balances", params(ExchangeRateQuery), responses((status = 200, body = Page<StoredRate>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ExchangeRateQuery>,
) -> Result<Json<Page<StoredRate>>, ApiError> {
    let tenant = caller.may(Scope::CatalogRead)?;
    let asked = &asked(query.limit, query.cursor.as_deref(), 3)?;
    if asked.after(2).is_some_and(|day| !is_day(day)) {
        return Err(cursor_invalid().into());
    }
    let pair = (query.from_currency.as_deref(), query.to_currency.as_deref());
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        exchange_rates::rows(&mut transaction, tenant, pair, asked).await
    })
    .await?;
    let items = rows.into_iter().map(StoredRate::from).collect();
    let place = |rate: &StoredRate| {
        vec![rate.from_currency.clone(), rate.to_currency.clone(), rate.effective_on.clone()]
    };
    Ok(Json(page(asked, items, place)))
}
