//! The JSON schema of a catalog's file, for editors and for reading one.
//!
//! It is made of the very components of the OpenAPI document, so it cannot drift from what the api takes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{RefOr, Schema},
};

use crate::catalog::CatalogForm;

/// The schema, of the draft 2020-12. Objects are closed: a field that is not in it is refused, as the api
/// refuses it.
#[must_use]
pub fn schema() -> Value {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    CatalogForm::schemas(&mut parts);
    let parts: BTreeMap<String, Value> =
        parts.into_iter().map(|(name, part)| (name, adapted(json!(part)))).collect();
    let mut schema = adapted(json!(CatalogForm::schema()));
    if let Some(members) = schema.as_object_mut() {
        members.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        members.insert("title".into(), json!("Catalog of Weir"));
        members.insert("$defs".into(), json!(parts));
    }
    if let Some(card) = schema.pointer_mut("/$defs/Card").and_then(Value::as_object_mut) {
        let version = parts.get("CardVersion").unwrap_or(&Value::Null);
        with_plain_rates(card, version);
    }
    schema
}

/// A card of a file may have the `rates` that it should have, in place of all its `versions`.
fn with_plain_rates(card: &mut Map<String, Value>, version: &Value) {
    if let Some(properties) = card.get_mut("properties").and_then(Value::as_object_mut) {
        for name in ["rates", "effective_from"] {
            let field = version.pointer(&format!("/properties/{name}"));
            properties.insert(name.to_owned(), field.cloned().unwrap_or_default());
        }
    }
    if let Some(required) = card.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name != "versions");
    }
    let either = json!([
        {"required": ["versions"], "properties": {"rates": false, "effective_from": false}},
        {"required": ["rates"], "properties": {"versions": false}},
    ]);
    card.insert("oneOf".to_owned(), either);
}

/// A part of an OpenAPI document as a part of this schema.
fn adapted(part: Value) -> Value {
    match part {
        Value::Array(items) => items.into_iter().map(adapted).collect(),
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| match (name.as_str(), value) {
                ("$ref", Value::String(place)) => {
                    (name, json!(place.replace("#/components/schemas/", "#/$defs/")))
                }
                // Names of fields are no keywords.
                ("properties", Value::Object(fields)) => {
                    let fields: Map<String, Value> =
                        fields.into_iter().map(|(name, field)| (name, adapted(field))).collect();
                    (name, Value::Object(fields))
                }
                ("example", example) => ("examples".to_owned(), json!([example])),
                (_, value) => (name, adapted(value)),
            });
            let mut members: Map<String, Value> = members.collect();
            if members.contains_key("properties") {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
            Value::Object(members)
        }
        other => other,
    }
}
