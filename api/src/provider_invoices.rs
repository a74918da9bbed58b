//! Invoices and usage exports of providers: what they bill, read from CSV, beside what Weir counted.
//!
//! [`rows`] reads a file whole or lists all that is wrong with it; [`names`] brings the provider's names of
//! models and classes together with ours; [`compare`] holds both sides against each other.

use std::collections::BTreeMap;

use domain::money::Amount;
use jiff::{civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) mod compare;
pub(crate) mod names;
pub(crate) mod rows;

/// Which columns of a file say what. Absent: found by the usual names; an empty text: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProviderInvoiceColumns)]
pub(crate) struct Columns {
    /// A day (`2026-03-01`), a time (RFC 3339, or without an offset in the time zone of the invoice), or
    /// seconds since 1970.
    #[serde(default)]
    pub date: Option<String>,
    /// The model.
    #[serde(default)]
    pub model: Option<String>,
    /// The class of usage, such as input. The same column as that of the model: what stands after its last
    /// comma is the class (`gpt-4o-2024-08-06, input`).
    #[serde(default)]
    pub class: Option<String>,
    /// How much was used.
    #[serde(default)]
    pub quantity: Option<String>,
    /// What it costs.
    #[serde(default)]
    pub amount: Option<String>,
    /// The currency of the row.
    #[serde(default)]
    pub currency: Option<String>,
}

/// A row of a provider's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ProviderInvoiceLine)]
pub(crate) struct Line {
    /// Where it stands in the file; the names of the columns are line 1.
    pub line: i64,
    /// The day, in the time zone of the invoice; null where the file has no days.
    pub day: Option<String>,
    /// The model as the provider writes it; null where the row has none.
    pub model: Option<String>,
    /// The class of usage as the provider writes it; null where the row has none.
    pub class: Option<String>,
    /// How much was used; null where the row does not say it.
    #[schema(value_type = Option<String>)]
    pub quantity: Option<Amount>,
    /// What it costs; negative where it is taken off.
    #[schema(value_type = String)]
    pub amount: Amount,
    /// Three capital letters.
    pub currency: String,
}

/// An invoice as it is stored: the same content again is the same invoice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Invoice {
    pub invoice: String,
    pub provider: String,
    pub time_zone: String,
    /// The first day.
    pub from: Date,
    /// The day after the last.
    pub to: Date,
    pub models: BTreeMap<String, String>,
    pub classes: BTreeMap<String, String>,
    pub lines: Vec<Line>,
}

impl Invoice {
    /// Hash of all that is stored of it.
    pub fn hash(&self) -> Result<[u8; 32], serde_json::Error> {
        let mut hasher = blake3::Hasher::new();
        serde_json::to_writer(&mut hasher, self)?;
        Ok(hasher.finalize().into())
    }

    /// Sums by currency; `None` beyond the limit of sums.
    pub fn totals(&self) -> Option<BTreeMap<String, Amount>> {
        let mut totals: BTreeMap<String, Amount> = BTreeMap::new();
        for line in &self.lines {
            let total = totals.entry(line.currency.clone()).or_default();
            *total = total.checked_add(line.amount)?;
        }
        Some(totals)
    }
}

/// When a day begins in a zone, in microseconds since 1970.
pub(crate) fn starts_us(day: Date, zone: &TimeZone) -> Option<i64> {
    Some(day.to_zoned(zone.clone()).ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests;
