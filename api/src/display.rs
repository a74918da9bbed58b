//! Amounts beside which the same is shown in another currency, by stored rates of exchange.
//!
//! Nothing but answers is made of these: what is stored, rated, posted or held never is. An amount without a known rate
//! is null, with the reason. A rate of the other direction will do, and says so; two rates are never put together.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    exchange::{ExchangeRate, minor_digits, shown},
    money::{Amount, is_currency_code},
};
use jiff::{Timestamp, tz::TimeZone};
use runtime::{http::Problem, postgres::scoped, task};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::TenantScope,
    error::ApiError,
    state::Api,
    store::exchange_rates::{self, NewestRate},
};

/// In which currency amounts are shown besides.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DisplayQuery {
    /// A currency, three capitals: beside each amount there is what it comes to in it, by the stored rates of
    /// exchange. For display alone.
    #[param(example = "EUR")]
    pub display_currency: Option<String>,
}

/// An amount in the currency that was asked for, for display.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DisplayAmount)]
pub(crate) struct Display {
    /// The currency.
    currency: String,
    /// The amount in it; null where it is not known.
    amount: Option<String>,
    /// Why it is not: `amount_unknown`, `rate_unknown` (none that holds on that day is stored), `too_large`.
    reason: Option<&'static str>,
    /// The rate, as it is stored; null without one.
    rate: Option<String>,
    /// Whether the rate says what one of the displayed currency is in the other one: the amount was divided by it.
    inverse: bool,
    /// From which day the rate holds; null within one currency.
    effective_on: Option<String>,
    /// Where the rate comes from.
    source: Option<String>,
    /// How the amount was rounded, once: `half_even`.
    rounding: &'static str,
    /// To how many decimals: the minor digits of the currency.
    decimals: u32,
}

/// A currency to show amounts in.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(String);

/// Rates into the currency that is shown, of one day.
pub(crate) struct Rates {
    currency: String,
    by_currency: BTreeMap<String, NewestRate>,
}

impl Wanted {
    /// Reads the parameter.
    pub fn read(text: String) -> Result<Self, Problem> {
        if is_currency_code(&text) {
            return Ok(Self(text));
        }
        Err(Problem::bad_request(
            "display_currency_unknown",
            format!("display_currency is `{text}`, no code of three capitals"),
            "give a currency such as EUR",
        ))
    }

    /// The rates of these currencies that hold on the day of an instant, UTC; of one to come, today.
    pub async fn rates<'c>(
        self,
        api: &Api,
        tenant: TenantScope,
        currencies: impl Iterator<Item = &'c str>,
        at_us: i64,
    ) -> Result<Rates, ApiError> {
        let currencies: BTreeSet<&str> = currencies.filter(|one| *one != self.0).collect();
        let currencies: Vec<String> = currencies.into_iter().map(str::to_owned).collect();
        let (currencies, currency) = (&currencies, &self.0);
        let day = &day_of(at_us.min(task::now_us()))?;
        let found = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            exchange_rates::newest(&mut transaction, tenant, currencies, (currency, day)).await
        })
        .await?;
        let by_currency = found.into_iter().map(|rate| (rate.currency.clone(), rate)).collect();
        Ok(Rates { currency: self.0, by_currency })
    }
}

fn day_of(at_us: i64) -> Result<String, Problem> {
    let at = Timestamp::from_microsecond(at_us).map_err(|_| Problem::internal())?;
    Ok(at.to_zoned(TimeZone::UTC).date().to_string())
}

impl Rates {
    /// What an amount, as an answer has it, comes to.
    pub fn show(&self, currency: Option<&str>, amount: Option<&str>) -> Display {
        let stored = currency.and_then(|currency| self.by_currency.get(currency));
        let same = currency == Some(self.currency.as_str());
        let rate = match stored {
            _ if same => Some(ExchangeRate::ONE),
            Some(stored) => Amount::parse_exact(&stored.rate)
                .ok()
                .map(|rate| ExchangeRate { rate, inverse: stored.inverse }),
            None => None,
        };
        let decimals = minor_digits(&self.currency);
        let amount = amount.and_then(|text| Amount::parse_sum(text).ok());
        let converted = match (amount, rate) {
            (None, _) => Err("amount_unknown"),
            (Some(_), None) => Err("rate_unknown"),
            (Some(amount), Some(rate)) => shown(amount, rate, decimals).ok_or("too_large"),
        };
        Display {
            currency: self.currency.clone(),
            amount: converted.as_ref().ok().map(ToString::to_string),
            reason: converted.err(),
            rate: rate.map(|rate| rate.rate.to_string()),
            inverse: rate.is_some_and(|rate| rate.inverse),
            effective_on: stored.map(|stored| stored.effective_on.clone()),
            source: stored.map(|stored| stored.source.clone()),
            rounding: "half_even",
            decimals,
        }
    }
}
