//! The event that is sent again: as it was or corrected, under the id that it had.

use std::collections::BTreeMap;

use domain::time;
use runtime::http::Problem;
use serde_json::value::RawValue;

use crate::store::events::EventRow;

/// Members that say when an event happened.
const TIMES: [&str; 2] = ["time", "timestamp"];

/// The text of the event, with what it leaves out: its id and source, which stay, and its time,
/// which would otherwise be that of the second acceptance. An event that is sent unchanged gets its
/// type and subject as well, by their own names.
pub(crate) fn compose(row: &EventRow, corrected: Option<&str>) -> Result<String, Problem> {
    let text = corrected.unwrap_or(&row.raw).trim();
    if text.is_empty() {
        return Err(Problem::unprocessable(
            "raw_not_kept",
            "what was sent is not kept, so it cannot be sent again",
            "send the event as the body",
        ));
    }
    let not_an_object = |why: String| {
        Problem::unprocessable(
            "event_not_object",
            format!("the event is not a JSON object: {why}"),
            "send the corrected event as the body",
        )
    };
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| not_an_object(error.to_string()))?;
    if !surrogates_are_pairs(text) {
        return Err(not_an_object("a string has half of a surrogate pair".to_owned()));
    }
    let mut added: Vec<(&str, String)> = Vec::new();
    // What could not be read had no identity to keep.
    let identity = [("id", &row.event_id), ("source", &row.source)];
    for (name, kept) in identity.into_iter().filter(|(_, kept)| !kept.is_empty()) {
        match members.get(name) {
            None => added.push((name, kept.clone())),
            Some(given) if text_of(given).as_deref() == Some(kept) => {}
            Some(_) => {
                return Err(Problem::unprocessable(
                    "identity_changed",
                    format!("`{name}` is not that of the rejected event, `{kept}`"),
                    "leave it as it was, or send a new event to POST /v1/events",
                )
                .with("field", name));
            }
        }
    }
    if !TIMES.iter().any(|name| members.contains_key(*name)) {
        added.push(("time", time::format(row.order_us)));
    }
    if corrected.is_none() {
        for (name, kept) in [("type", &row.event_type), ("subject", &row.subject)] {
            if !members.contains_key(name) {
                added.push((name, kept.clone()));
            }
        }
    }
    Ok(with(text, &added, members.is_empty()))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string's value; `None` for anything else.
fn text_of(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Whether each escaped half of a surrogate pair in the strings of this JSON stands beside its other
/// half. Who reads members as they stand does not look into them, and ingest, which does, would
/// refuse all events that are sent again together.
fn surrogates_are_pairs(json: &str) -> bool {
    let (mut rest, mut first_half) = (json, false);
    while let Some((before, escape)) = rest.split_once('\\') {
        let digits = escape.strip_prefix('u').and_then(|digits| digits.get(..4));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let second_half = unit.is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
        if second_half != first_half || (first_half && !before.is_empty()) {
            return false;
        }
        first_half = unit.is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
        rest = escape.get(if unit.is_some() { 5 } else { 1 }..).unwrap_or_default();
    }
    !first_half
}

/// The object with members put before its own: its own bytes stay as they are.
fn with(object: &str, added: &[(&str, String)], empty: bool) -> String {
    let members: Vec<String> =
        added.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    let rest = object.strip_prefix('{').unwrap_or(object);
    let comma = if members.is_empty() || empty { "" } else { "," };
    format!("{{{}{comma}{rest}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(raw: &str) -> EventRow {
        let row = serde_json::json!({
            "partition": 0, "position": "7", "index": 0, "order_us": "1750000000000000", "append_us": "1750000000000000",
            "event_id": "e\"1", "source": "tool", "event_type": "call", "subject": "acme", "team": "acme", "user": "",
            "app": "", "feature": "", "outcome": "rejected", "catalog_version": "1", "raw": raw});
        serde_json::from_value(row).unwrap()
    }

    fn read(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_missing_is_added_and_numbers_keep_their_digits() {
        let text = compose(&row(r#" {"data":{"tokens":1.00000000000000000001}} "#), None).unwrap();
        assert!(text.ends_with(r#""data":{"tokens":1.00000000000000000001}}"#), "{text}");
        let event = read(&text);
        assert_eq!(
            ["id", "source", "type", "subject", "time"].map(|name| event[name].as_str().unwrap()),
            ["e\"1", "tool", "call", "acme", "2025-06-15T15:06:40.000000Z"]
        );
        let whole = r#"{"id":"e\u00221","source":"tool","timestamp":"2026-01-01T00:00:00Z","type":"call","subject":"x"}"#;
        assert_eq!(compose(&row(whole), None).unwrap(), whole);
        let corrected = compose(&row(whole), Some(r#"{"subject":"bolt","data":{}}"#)).unwrap();
        assert_eq!(read(&corrected)["subject"], "bolt");
        assert!(read(&compose(&row("{}"), None).unwrap()).is_object());
        let pair = r#"{"note":"\ud83d\ude00 \\ud83d \\\\ \u00e9"}"#;
        assert!(compose(&row(pair), None).unwrap().ends_with(&pair[1..]));
    }

    #[test]
    fn identity_stays_and_what_is_no_object_is_refused() {
        for (raw, corrected, code) in [
            ("{}", Some(r#"{"id":"other"}"#), "identity_changed"),
            ("{}", Some(r#"{"source":7}"#), "identity_changed"),
            ("", None, "raw_not_kept"),
            ("\u{fffd}", None, "event_not_object"),
            ("[1]", None, "event_not_object"),
            ("{}", Some("7"), "event_not_object"),
            (r#"{"note":"e\udda0"}"#, None, "event_not_object"),
            (r#"{"data":{"\ud83d \ude00":1}}"#, None, "event_not_object"),
            (r#"{"note":"\ud83d","more":"\ude00"}"#, None, "event_not_object"),
            (r#"{"note":1,"note":"\ud83d\n"}"#, None, "event_not_object"),
            ("{}", Some(r#"{"note":"\\\ud83d"}"#), "event_not_object"),
        ] {
            assert_eq!(
                compose(&row(raw), corrected).unwrap_err().code(),
                code,
                "{raw} {corrected:?}"
            );
        }
    }
}
