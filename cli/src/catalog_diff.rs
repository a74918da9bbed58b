//! What is different between two catalogs, as lines for people.
//!
//! It knows little of what a catalog holds: members of a list that have a `key` or a `version` are
//! compared with the ones of the same, so what catalogs learn to hold is shown as well.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Characters of a value that a line shows.
const SHOWN_MAX: usize = 120;

/// What is another one at a place; `before` is absent where it is new, `after` where it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, such as `cards[standard].currency`.
    pub place: String,
    /// What is there.
    pub before: Option<Value>,
    /// What would be.
    pub after: Option<Value>,
}

/// A line that begins with `+`, `-` or `~` and the place.
impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match (&self.before, &self.after) {
            (Some(old), Some(new)) => {
                write!(formatter, "~ {place}: {} -> {}", shown(old), shown(new))
            }
            (None, Some(new)) => write!(formatter, "+ {place}: {}", shown(new)),
            (Some(old), None) => write!(formatter, "- {place}: {}", shown(old)),
            (None, None) => Ok(()),
        }
    }
}

/// All differences; none for equal catalogs.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    members("", (before, after), &mut differences);
    differences
}

/// [`differences`] as lines.
pub fn diff(before: &Value, after: &Value) -> Vec<String> {
    differences(before, after).iter().map(Difference::to_string).collect()
}

fn members(place: &str, (old, new): (&Value, &Value), found: &mut Vec<Difference>) {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let added = names(new).into_iter().filter(|name| old.get(name).is_none());
    for name in names(old).into_iter().chain(added) {
        let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        compare(&place, old.get(&name), new.get(&name), found);
    }
}

fn compare(
    place: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    let (before, after) = (present(before), present(after));
    match (before, after) {
        _ if before == after => {}
        (Some(old @ Value::Object(_)), Some(new @ Value::Object(_))) => {
            members(place, (old, new), found);
        }
        (old @ (Some(Value::Array(_)) | None), new @ (Some(Value::Array(_)) | None))
            if named(old) && named(new) =>
        {
            let (old, new) = (items(old), items(new));
            for item in old {
                compare(&of(place, item), Some(item), same(new, item), found);
            }
            for item in new.iter().filter(|item| same(old, item).is_none()) {
                compare(&of(place, item), None, Some(item), found);
            }
        }
        (before, after) => found.push(Difference {
            place: place.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

/// What says nothing (`null`, an empty list or object) is not there.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    })
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn name(item: &Value) -> Option<&Value> {
    item.get("key").or_else(|| item.get("version")).filter(|name| !name.is_null())
}

/// Whether all items have names.
fn named(value: Option<&Value>) -> bool {
    items(value).iter().all(|item| name(item).is_some())
}

fn same<'a>(list: &'a [Value], item: &Value) -> Option<&'a Value> {
    list.iter().find(|other| name(other) == name(item))
}

fn of(place: &str, item: &Value) -> String {
    match name(item) {
        Some(Value::String(name)) => format!("{place}[{name}]"),
        Some(name) => format!("{place}[{name}]"),
        None => place.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_told_by_key_and_version() {
        let before = json!({
            "meters": [{"key": "calls", "aggregation": "count"}, {"key": "gone", "aggregation": "count"}],
            "cards": [{"key": "standard", "currency": "USD", "versions": [
                {"version": 1, "rates": [{"meter": "calls", "price": "1"}]}]}],
            "default_rate_card": "standard", "credit_units": [], "default_cost_card": null
        });
        let after = json!({
            "default_rate_card": "other",
            "cards": [{"key": "standard", "currency": "USD", "versions": [
                {"version": 1, "rates": [{"meter": "calls", "price": "1"}]},
                {"version": 2, "rates": []}]}],
            "meters": [{"key": "calls", "aggregation": "sum"}, {"key": "new", "aggregation": "count"}]
        });
        let lines = diff(&before, &after);
        assert_eq!(
            lines,
            [
                r#"+ cards[standard].versions[2]: {"rates":[],"version":2}"#,
                r#"~ default_rate_card: "standard" -> "other""#,
                r#"~ meters[calls].aggregation: "count" -> "sum""#,
                r#"- meters[gone]: {"aggregation":"count","key":"gone"}"#,
                r#"+ meters[new]: {"aggregation":"count","key":"new"}"#,
            ]
        );
        assert_eq!(diff(&after, &after), Vec::<String>::new());
        assert_eq!(diff(&json!({}), &json!({"meters": [], "default_rate_card": null})).len(), 0);
    }
}
