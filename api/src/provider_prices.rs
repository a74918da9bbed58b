//! Price lists of LLM providers: the document that is imported, and how it changes what is known.
//!
//! A price is of a provider's model, a class of usage and, where long prompts cost more, of prompts
//! above a size. It holds from a time on; the newest version that holds at a time counts. An import
//! adds versions and never changes one. [`cost_card`] makes a card of prices.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::Fault,
    llm_usage::UsageClass,
    money::{Amount, is_currency_code},
    time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::provider_prices::NewVersion;

pub(crate) mod cost_card;

/// Most prices of one list.
const PRICES_MAX: usize = 20_000;
/// Bytes of the name of a provider or model; they become values of dimensions.
const NAME_BYTES_MAX: usize = 256;
/// Largest number of units that a price is for.
const PER_MAX: u64 = domain::rate_card::PER_MAX;

/// The price list that comes with Weir; `api/data/README.md` has its source.
pub const BUILTIN: &str = include_str!("../data/provider-prices.json");

/// A price list.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceList {
    /// Where it is from.
    #[schema(example = "models.dev")]
    pub source: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// Under which licence it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The day of which the prices are, such as 2026-07-02.
    pub date: String,
    /// Three capital letters.
    #[schema(example = "USD")]
    pub currency: String,
    /// How many units (tokens, images, calls) each price is for.
    #[schema(example = 1000000)]
    pub per: u64,
    /// From when prices hold that do not say it themselves, RFC 3339. Absent: for ever where no price
    /// is known, and from `date` on where another one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<String>,
    /// The models.
    pub models: Vec<ModelPrices>,
}

/// The prices of a model.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelPrices {
    /// Who runs it.
    #[schema(example = "openai")]
    pub provider: String,
    /// Its name, as the provider writes it.
    pub model: String,
    /// Prices as text, by class of usage.
    #[schema(example = json!({"input": "2.5", "output": "10", "cache_read": "1.25"}))]
    pub prices: BTreeMap<String, String>,
    /// Prices of long prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<PriceTier>,
    /// How many units these prices are for, where it is not as in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<u64>,
    /// From when these prices hold, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<String>,
}

/// Prices of prompts that are longer than a size.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceTier {
    /// The size, in tokens of the whole prompt.
    pub above: u32,
    /// Prices as text, by class of usage.
    pub prices: BTreeMap<String, String>,
}

/// What a price is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PriceKey {
    pub provider: String,
    pub model: String,
    pub class: String,
    /// In tokens of the prompt; 0 for the price of all prompts.
    pub above: i64,
}

/// A price from a time on. `price` is none from when it is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    pub price: Option<Amount>,
    pub per: i64,
    pub currency: String,
    pub effective_from_us: i64,
}

impl Price {
    fn costs_the_same(&self, other: &Price) -> bool {
        (self.price, self.per, &self.currency) == (other.price, other.per, &other.currency)
    }
}

/// All versions of prices, the oldest first.
pub(crate) type Known = BTreeMap<PriceKey, Vec<Price>>;

/// The version that holds at a time: the one that took effect last, of equals the newer.
pub(crate) fn at(versions: &[Price], time_us: i64) -> Option<&Price> {
    let held = versions.iter().filter(|price| price.effective_from_us <= time_us);
    held.max_by_key(|price| price.effective_from_us).filter(|price| price.price.is_some())
}

/// What an import does.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub added: Vec<(PriceKey, Price)>,
    /// With the price before.
    pub changed: Vec<(PriceKey, Price, Price)>,
    /// With the price that is no more.
    pub removed: Vec<(PriceKey, Price)>,
    pub unchanged: usize,
    from_us: i64,
}

/// A list that was checked.
#[derive(Clone, Debug)]
pub(crate) struct CheckedList {
    pub source: String,
    pub date: String,
    /// By what they are of and from when they hold; the time is none where the list does not say it.
    pub prices: BTreeMap<(PriceKey, Option<i64>), Price>,
    from_us: Option<i64>,
    date_us: i64,
}

impl CheckedList {
    /// The providers of which the list has prices.
    pub fn providers(&self) -> Vec<String> {
        let names: BTreeSet<&str> =
            self.prices.keys().map(|(key, _)| key.provider.as_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Compares the list with what is known. It is taken for all that its providers list, so what
    /// it does not have is withdrawn, unless it is `partial`.
    pub fn compare(&self, known: &Known, partial: bool) -> Changes {
        let from_us = self.from_us.unwrap_or(self.date_us);
        let mut changes = Changes { from_us, ..Changes::default() };
        for ((key, from_us), price) in &self.prices {
            let from_us = from_us.unwrap_or_else(|| self.since(key, known));
            let price = &Price { effective_from_us: from_us, ..price.clone() };
            let before = known.get(key).and_then(|versions| at(versions, from_us));
            match before {
                None => changes.added.push((key.clone(), price.clone())),
                Some(before) if before.costs_the_same(price) => changes.unchanged += 1,
                Some(before) => changes.changed.push((key.clone(), before.clone(), price.clone())),
            }
        }
        let listed: BTreeSet<&PriceKey> = self.prices.keys().map(|(key, _)| key).collect();
        let providers = self.providers();
        let missing = |key: &&PriceKey| providers.contains(&key.provider) && !listed.contains(key);
        for (key, versions) in known.iter().filter(|(key, _)| !partial && missing(key)) {
            // In force then, or later: what holds at the end of time.
            if let Some(price) = at(versions, from_us).or_else(|| at(versions, i64::MAX)) {
                changes.removed.push((key.clone(), price.clone()));
            }
        }
        changes
    }

    /// From when a price holds of which the list does not say it. The first prices of a model hold for
    /// ever, and so do those that the list itself has replaced by its day; others do not change what
    /// was before that day.
    fn since(&self, key: &PriceKey, known: &Known) -> i64 {
        let dated = (key.clone(), Some(i64::MIN))..=(key.clone(), Some(self.date_us));
        let first = PriceKey { class: String::new(), above: 0, ..key.clone() };
        let of_model =
            |other: &PriceKey| (&other.provider, &other.model) == (&key.provider, &key.model);
        let is_known = known.range(first..).next().is_some_and(|(other, _)| of_model(other));
        let replaced = self.prices.range(dated).next().is_some();
        if !is_known || replaced { 0 } else { self.date_us }
    }
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// The versions to insert, numbered behind those that are known.
    pub fn versions(&self, known: &Known) -> Vec<NewVersion> {
        // From then on, and whatever would follow.
        let withdrawn = |(key, before): &(PriceKey, Price)| {
            let versions = known.get(key).map(Vec::as_slice).unwrap_or_default();
            let later = versions.iter().map(|price| price.effective_from_us);
            let times: BTreeSet<i64> =
                later.filter(|time| *time > self.from_us).chain([self.from_us]).collect();
            let held = times.into_iter().filter(|time| at(versions, *time).is_some());
            let none = |effective_from_us| {
                (key.clone(), Price { price: None, effective_from_us, ..before.clone() })
            };
            held.map(none).collect::<Vec<_>>()
        };
        let changed = self.changed.iter().map(|(key, _, after)| (key.clone(), after.clone()));
        let removed = self.removed.iter().flat_map(withdrawn);
        let mut numbers: BTreeMap<PriceKey, usize> = BTreeMap::new();
        let mut versions = Vec::new();
        for (key, price) in self.added.iter().cloned().chain(changed).chain(removed) {
            let known = || known.get(&key).map_or(0, Vec::len);
            let number = numbers.entry(key.clone()).or_insert_with(known);
            *number += 1;
            versions.push(NewVersion {
                version: i32::try_from(*number).unwrap_or(i32::MAX),
                provider: key.provider,
                model: key.model,
                class: key.class,
                above: key.above,
                price: price.price.map(|price| price.to_string()),
                per: price.per,
                currency: price.currency,
                effective_from_us: price.effective_from_us,
            });
        }
        versions
    }
}

impl PriceList {
    /// Checks the list; all faults are named.
    pub fn check(&self) -> Result<CheckedList, Vec<Fault>> {
        let mut faults = Faults::default();
        let from_us = faults.time("effective_from", self.effective_from.as_deref());
        if self.source.is_empty() || self.source.len() > NAME_BYTES_MAX {
            faults.add("source", "say in 1 to 256 bytes where the list is from");
        }
        let date_us = day_us(&self.date).unwrap_or_else(|| {
            faults.add("date", "write the day like 2026-07-02");
            0
        });
        if !is_currency_code(&self.currency) {
            faults.add("currency", "a currency is three capital letters");
        }
        let mut prices = BTreeMap::new();
        for model in &self.models {
            self.model(model, from_us, &mut prices, &mut faults);
        }
        if prices.len() > PRICES_MAX {
            let reason = format!("they have {} prices; at most {PRICES_MAX}", prices.len());
            faults.add("models", reason);
        }
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let (source, date) = (self.source.clone(), self.date.clone());
        Ok(CheckedList { source, date, prices, from_us, date_us })
    }

    /// Adds the prices of a model.
    fn model(
        &self,
        model: &ModelPrices,
        from_us: Option<i64>,
        prices: &mut BTreeMap<(PriceKey, Option<i64>), Price>,
        faults: &mut Faults,
    ) {
        let place = format!("models[{}/{}]", model.provider, model.model);
        for (field, name) in [("provider", &model.provider), ("model", &model.model)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
                let reason = "1 to 256 bytes without control characters";
                faults.add(&format!("{place}.{field}"), reason);
            }
        }
        let per = model.per.unwrap_or(self.per);
        if per == 0 || per > PER_MAX {
            faults.add(&format!("{place}.per"), format!("it must be between 1 and {PER_MAX}"));
        }
        let from_place = format!("{place}.effective_from");
        let from_us = faults.time(&from_place, model.effective_from.as_deref()).or(from_us);
        let tiers = model.tiers.iter().map(|tier| (tier.above, &tier.prices));
        for (above, list) in std::iter::once((0, &model.prices)).chain(tiers) {
            for (class, text) in list {
                let place = format!("{place}.{class}");
                let Some(price) = faults.price(&place, class, text) else { continue };
                let price = Price {
                    price: Some(price),
                    per: i64::try_from(per).unwrap_or(i64::MAX),
                    currency: self.currency.clone(),
                    effective_from_us: from_us.unwrap_or(0),
                };
                let key = PriceKey {
                    provider: model.provider.clone(),
                    model: model.model.clone(),
                    class: class.clone(),
                    above: i64::from(above),
                };
                // For ever and from 1970 on are the same.
                let same = match from_us {
                    None => Some(0),
                    Some(0) => None,
                    dated => dated,
                };
                let twin = prices.contains_key(&(key.clone(), same));
                if prices.insert((key, from_us), price).is_some() || twin {
                    faults.add(&place, "there are two prices of it from one time on");
                }
            }
        }
    }
}

/// When a day begins, in microseconds since 1970, UTC.
fn day_us(text: &str) -> Option<i64> {
    let day: jiff::civil::Date = text.parse().ok()?;
    Some(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// What is wrong with a list.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: &str, reason: impl Into<String>) {
        self.0.push(Fault { place: place.to_owned(), reason: reason.into() });
    }

    fn time(&mut self, place: &str, text: Option<&str>) -> Option<i64> {
        let time = time::parse(text?);
        time.inspect_err(|error| {
            self.add(place, format!("{error}; write it like 2026-01-31T00:00:00Z"));
        })
        .ok()
    }

    fn price(&mut self, place: &str, class: &str, text: &str) -> Option<Amount> {
        if UsageClass::from_name(class).is_none() {
            let names: Vec<&str> = UsageClass::ALL.iter().map(|class| class.name()).collect();
            self.add(place, format!("it is no class of usage; there are: {}", names.join(", ")));
            return None;
        }
        let price = Amount::parse_exact(text).ok().filter(|price| *price >= Amount::ZERO);
        if price.is_none() {
            self.add(place, format!("`{text}` is not a price of at most 12 decimals"));
        }
        price
    }
}

#[cfg(test)]
mod tests;
