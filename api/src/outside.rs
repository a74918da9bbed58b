//! The readers of queries, bodies and the log without a request around them: fuzz targets call these.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::Query, http::Uri};
use domain::{
    catalog::{CatalogDocument, Fault},
    chain::Place,
    rate_card::CardKind,
    wire::{rated::Header, sums::Sums},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use crate::{
    auth::TenantScope,
    catalog::{CatalogForm, broken_promises},
    live::Live,
    page,
    provider_prices::PriceList,
    routes::{cards, catalog as catalogs, events, meters, rejected_events, usage::Question},
    store::usage::{self, UsageQuestion},
};

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

/// What a body of `/v1/meters`, `/v1/catalog` or a list of cards changes.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Adds a meter.
    Meter,
    /// Adds a cost card.
    Card,
    /// Adds a version of the first card.
    Version,
    /// Chooses the default cards.
    Defaults,
}

/// A published catalog after a change by a body, with the faults that it then has; `None` where the
/// body is none or is refused by itself.
#[must_use]
pub fn changed(
    published: &CatalogDocument,
    change: Change,
    json: &[u8],
) -> Option<(CatalogDocument, Vec<Fault>)> {
    let mut document = published.clone();
    let told = match change {
        Change::Meter => meters::add(&mut document, &body(json)?),
        Change::Card => cards::add_card(&mut document, CardKind::Cost, &body(json)?),
        Change::Defaults => catalogs::choose(&mut document, &body(json)?),
        Change::Version => {
            let card = published.cards.first()?;
            let (kind, key, version) = (card.kind, card.key.clone(), body(json)?);
            cards::add_version(&mut document, &cards::ForCard { kind, key, version })
        }
    };
    told.ok()?;
    let mut faults = broken_promises(published, &document);
    faults.extend(document.faults());
    Some((document, faults))
}

fn body<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// A receipt as we write it.
#[must_use]
pub fn receipt(text: &str) -> Option<String> {
    events::read_receipt(text).map(events::receipt)
}

/// The statement that the archive is asked for a query of `/v1/usage`, and its parameters.
#[must_use]
pub fn usage_statement(query: &str) -> Option<(String, Vec<(String, String)>)> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build().ok()?;
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).ok()?;
    let question = Question::read(pairs).ok()?;
    let asked = question.asked().ok()?;
    let question = UsageQuestion { limit: asked.rows(), after: asked.after, ..question.usage };
    let statement = usage::statement(TenantScope::of_task(Uuid::nil()), &question);
    Some((statement.sql, statement.parameters))
}

/// A rejected event of this id, source, type and subject as it is sent again: `raw` as it was, or
/// corrected.
#[must_use]
pub fn sent_again(kept: [&str; 4], raw: &str, corrected: Option<&str>) -> Option<String> {
    let [event_id, source, event_type, subject] = kept;
    let row = json!({"partition": 0, "position": "0", "index": 0, "order_us": "0", "append_us": "0",
        "event_id": event_id, "source": source, "event_type": event_type, "subject": subject,
        "team": "", "user": "", "app": "", "feature": "", "outcome": "", "catalog_version": "0", "raw": raw});
    rejected_events::compose(&serde_json::from_value(row).ok()?, corrected).ok()
}

/// What is rated and not posted, in raw units per currency, when a batch was accepted so many times;
/// and what is left of it when all of that is posted.
#[must_use]
pub fn unposted(
    place: Place,
    header: &Header,
    sums: &Sums<'_>,
    times: usize,
) -> (BTreeMap<Arc<str>, i128>, BTreeMap<Arc<str>, i128>) {
    let live = Live::after(place, header, sums, times);
    let rated = || live.unposted(None, |_| None).into_iter().map(|(key, sum)| (key, sum.rated));
    let before = rated().collect();
    live.post(place);
    (before, rated().collect())
}
