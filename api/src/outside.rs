//! The readers of cursors and documents without a request around them: fuzz targets call these.

use domain::catalog::{CatalogDocument, Fault};

use crate::{catalog::CatalogForm, page, provider_prices::PriceList};

/// The parts of a list's cursor, of which there must be so many.
#[must_use]
pub fn cursor(text: &str, parts: usize) -> Option<Vec<String>> {
    page::asked(None, Some(text), parts).ok()?.after
}

/// The cursor of these parts.
#[must_use]
pub fn cursor_of(parts: &[String]) -> String {
    page::encode(parts)
}

/// The document of a published catalog whose texts can all be read, and what becomes of it when it
/// goes out and comes in again.
#[must_use]
pub fn catalog(json: &[u8]) -> Option<(CatalogDocument, CatalogDocument)> {
    let (document, faults) = serde_json::from_slice::<CatalogForm>(json).ok()?.inside();
    if !faults.is_empty() {
        return None;
    }
    let text = serde_json::to_vec(&CatalogForm::outside(&document)).ok()?;
    let (again, _) = serde_json::from_slice::<CatalogForm>(&text).ok()?.inside();
    Some((document, again))
}

/// How many prices a list of providers' prices has, or its faults; `None` for what is no list.
#[must_use]
pub fn price_list(json: &[u8]) -> Option<Result<usize, Vec<Fault>>> {
    let list: PriceList = serde_json::from_slice(json).ok()?;
    Some(list.check().map(|checked| checked.prices.len()))
}
