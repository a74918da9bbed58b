//! A catalog as a file that people keep: its JSON schema, and what it means beside what is published.
//!
//! A file has the shape of the `catalog` of `GET /v1/catalog`. In place of `versions` a card may have
//! `rates`, and perhaps `effective_from`: the prices as they should be. [`settle`] makes a version of
//! them where they are not what the newest published version says, and nothing otherwise, so that a file
//! which was published once changes nothing when it is published again.

use domain::{catalog::Fault, rate_card::RateRow};
use serde_json::{Map, Value};

use crate::catalog::{CardForm, CardVersionForm, CatalogForm, RateForm};

mod schema;

pub use self::schema::schema;

/// What a file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The whole catalog, written as `GET /v1/catalog` writes it.
    pub catalog: Value,
    /// What its author may not expect, for people.
    pub notes: Vec<String>,
}

/// The catalog that `file` means where `published` is the one in force. Numbers are compared in their
/// shortest form: `0.10` and `0.1` are one price.
pub fn settle(mut file: Value, published: &Value) -> Result<Settled, Vec<Fault>> {
    let published: CatalogForm = form("published", published.clone())?;
    let mut notes = Vec::new();
    let cards = file.get_mut("cards").and_then(Value::as_array_mut);
    for card in cards.into_iter().flatten().filter_map(Value::as_object_mut) {
        settle_card(card, &published.cards, &mut notes)?;
    }
    let (document, faults) = form::<CatalogForm>("catalog", file)?.inside();
    if !faults.is_empty() {
        return Err(faults);
    }
    let catalog = value("catalog", &CatalogForm::outside(&document))?;
    Ok(Settled { catalog, notes })
}

/// Gives a card with `rates` its versions: the published ones, and perhaps one more.
fn settle_card(
    card: &mut Map<String, Value>,
    published: &[CardForm],
    notes: &mut Vec<String>,
) -> Result<(), Vec<Fault>> {
    let Some(rates) = card.remove("rates") else { return Ok(()) };
    let key = card.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    let place = format!("cards[{key}]");
    if card.contains_key("versions") {
        let reason = "it has `rates` and `versions`: keep one of them".to_owned();
        return Err(vec![Fault { place, reason }]);
    }
    let effective_from = card.remove("effective_from").filter(|time| !time.is_null());
    let wanted: Vec<RateForm> = form(&format!("{place}.rates"), rates)?;
    let same = published.iter().find(|other| other.key == key);
    let mut versions = same.map(|card| card.versions.clone()).unwrap_or_default();
    match versions.last() {
        Some(newest) if rows(newest.rates.clone()) == rows(wanted.clone()) => {
            notes.extend(unused_time(&key, newest, effective_from.as_ref()));
        }
        _ => versions.push(CardVersionForm {
            version: None,
            effective_from: form(&format!("{place}.effective_from"), effective_from.into())?,
            rates: wanted,
        }),
    }
    card.insert("versions".to_owned(), value(&place, &versions)?);
    Ok(())
}

/// Rows with their numbers in the shortest form.
fn rows(rates: Vec<RateForm>) -> Vec<RateRow> {
    rates.into_iter().map(RateForm::inside).collect()
}

/// Where the file has another time than the version with its very rates.
fn unused_time(key: &str, newest: &CardVersionForm, wanted: Option<&Value>) -> Option<String> {
    let us = |text: &str| domain::time::parse(text).ok();
    let held = newest.effective_from.as_deref();
    let wanted = wanted?.as_str()?;
    (us(wanted) != held.and_then(us)).then(|| {
        format!(
            "cards[{key}]: its rates are those of the newest version, which holds from {}; `effective_from` {wanted} is not used",
            held.unwrap_or("ever")
        )
    })
}

fn form<T: serde::de::DeserializeOwned>(place: &str, value: Value) -> Result<T, Vec<Fault>> {
    serde_json::from_value(value).map_err(|error| unreadable(place, &error))
}

fn value(place: &str, form: &impl serde::Serialize) -> Result<Value, Vec<Fault>> {
    serde_json::to_value(form).map_err(|error| unreadable(place, &error))
}

fn unreadable(place: &str, error: &serde_json::Error) -> Vec<Fault> {
    vec![Fault { place: place.to_owned(), reason: format!("it cannot be read: {error}") }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published() -> Value {
        json!({
            "meters": [{"key": "calls", "event_types": ["call"], "aggregation": "count"}],
            "cards": [{"key": "standard", "kind": "rate", "currency": "USD", "versions": [
                {"rates": [{"meter": "calls", "price": "0.10", "tiers": []}]}]}],
            "default_rate_card": "standard"
        })
    }

    fn file(rates: Value, effective_from: Value) -> Value {
        let mut file = published();
        file["cards"] = json!([{"key": "standard", "kind": "rate", "currency": "USD", "rates": rates,
            "effective_from": effective_from}]);
        file
    }

    #[test]
    fn rates_make_a_version_only_where_they_are_others() {
        let before = settle(published(), &json!({})).unwrap().catalog;
        assert_eq!(before["cards"][0]["versions"][0]["rates"][0]["price"], "0.1");
        let same = json!([{"meter": "calls", "price": "0.100", "per": 1}]);
        let settled = settle(file(same.clone(), Value::Null), &before).unwrap();
        assert_eq!(settled, Settled { catalog: before.clone(), notes: Vec::new() });
        let noted = settle(file(same, json!("2026-01-01T00:00:00Z")), &before).unwrap();
        assert_eq!(noted.catalog, before);
        assert!(noted.notes[0].contains("is not used"), "{:?}", noted.notes);

        let other =
            file(json!([{"meter": "calls", "price": "0.2"}]), json!("2026-01-01T00:00:00Z"));
        let grown = settle(other.clone(), &before).unwrap().catalog;
        let versions = grown["cards"][0]["versions"].as_array().unwrap();
        assert_eq!((versions.len(), &versions[1]["version"]), (2, &json!(2)));
        assert_eq!(settle(other, &grown).unwrap().catalog, grown, "twice is once");
    }

    #[test]
    fn a_file_that_means_nothing_is_refused() {
        let mut both = published();
        both["cards"][0]["rates"] = json!([]);
        let undated = json!([{"meter": "calls", "price": "0.2"}]);
        let dated = file(undated.clone(), json!("2026-01-01T00:00:00Z"));
        let dated = settle(dated, &json!({})).unwrap().catalog;
        for (file, published, place) in [
            (both, json!({}), "cards[standard]"),
            (file(json!([{"metre": "calls"}]), Value::Null), json!({}), "cards[standard].rates"),
            (file(json!([]), json!(7)), json!({}), "cards[standard].effective_from"),
            (json!({"card": []}), json!({}), "catalog"),
            // Nobody means for ever who changes a price that holds from a time.
            (file(json!([]), Value::Null), dated, "cards[standard].versions[2].effective_from"),
        ] {
            let faults = settle(file, &published).unwrap_err();
            assert_eq!(faults[0].place, place, "{faults:?}");
        }
    }
}
