//! Members of bodies that name something, read from the OpenAPI document: each must stand in a body
//! of the matrix, so that a new one is asked about too.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The last words of members that name a thing of somebody.
const NAMING: [&str; 20] = [
    "alias",
    "app",
    "card",
    "credential",
    "feature",
    "id",
    "journal",
    "key",
    "meter",
    "model",
    "provider",
    "receipt",
    "secret",
    "source",
    "subject",
    "team",
    "tenant",
    "transfer",
    "type",
    "user",
];

/// Members with such a word that say a kind of thing and name none.
const KINDS: [&str; 3] = ["rates.model", "offers.source", "columns.model"];

/// Members of an operation's bodies that name something: names from the outermost in, with a dot
/// between them.
pub fn naming(document: &Value, operation: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let contents = operation["requestBody"]["content"].as_object().into_iter().flatten();
    for (_, content) in contents {
        collect(document, &content["schema"], "", &mut Vec::new(), &mut found);
    }
    found.retain(|path| is_naming(path));
    found
}

fn is_naming(path: &str) -> bool {
    if KINDS.iter().any(|kind| format!(".{path}").ends_with(&format!(".{kind}"))) {
        return false;
    }
    let word = path.rsplit(['.', '_']).next().unwrap_or_default();
    NAMING.contains(&word) || word.strip_suffix('s').is_some_and(|one| NAMING.contains(&one))
}

/// Adds all members of a schema. `within` are the schemas by name that it is part of.
fn collect<'a>(
    document: &'a Value,
    schema: &'a Value,
    path: &str,
    within: &mut Vec<&'a str>,
    found: &mut BTreeSet<String>,
) {
    if let Some(pointer) = schema["$ref"].as_str() {
        if !within.contains(&pointer) {
            within.push(pointer);
            let named = document.pointer(pointer.trim_start_matches('#'));
            collect(document, named.expect("a schema of the document"), path, within, found);
            within.pop();
        }
        return;
    }
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|part| schema[part].as_array());
    let same = parts.flatten().chain([&schema["items"], &schema["additionalProperties"]]);
    for part in same.filter(|part| part.is_object()) {
        collect(document, part, path, within, found);
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(document, member, &path, within, found);
        found.insert(path);
    }
}

/// Members that name something and stand in none of the bodies with a kind in `<>`.
pub fn uncovered<'a>(members: &'a BTreeSet<String>, bodies: &[String]) -> Vec<&'a str> {
    let mut named = Vec::new();
    for body in bodies {
        let body = serde_json::from_str(body).expect("a body is JSON");
        name(&body, "", &mut named);
    }
    let covers =
        |named: &String, member: &str| format!(".{named}").ends_with(&format!(".{member}"));
    let members = members.iter().map(String::as_str);
    members.filter(|member| !named.iter().any(|named| covers(named, member))).collect()
}

/// Adds the members whose values name something, and answers whether there is one.
fn name(value: &Value, path: &str, named: &mut Vec<String>) -> bool {
    match value {
        Value::String(text) => text.contains('<'),
        Value::Array(items) => items.iter().filter(|item| name(item, path, named)).count() > 0,
        Value::Object(members) => {
            let naming = members.iter().filter(|(member, value)| {
                let path =
                    if path.is_empty() { (*member).clone() } else { format!("{path}.{member}") };
                let names = name(value, &path, named);
                named.extend(names.then_some(path));
                names
            });
            naming.count() > 0
        }
        _ => false,
    }
}

#[test]
fn a_member_that_no_body_names_is_seen() {
    let document = json!({"components": {"schemas": {"Card": {"properties": {
        "key": {}, "price": {}, "parent_card": {}, "inner": {"items": {"$ref": "#/components/schemas/Card"}}}}}}});
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Card"}, {"properties": {
        "teams": {"type": "array", "items": {"type": "string"}}, "models": {"additionalProperties": {"type": "string"}}}}]});
    let operation = json!({"requestBody": {"content": {"application/json": {"schema": schema}}}});
    let members = naming(&document, &operation);
    let all = ["key", "models", "parent_card", "teams"];
    assert_eq!(members, all.map(str::to_owned).into());
    let body = r#"[{"key": "k", "parent_card": "<card>", "teams": ["own", "<team>"]}]"#.to_owned();
    assert_eq!(uncovered(&members, std::slice::from_ref(&body)), ["key", "models"]);
    let rest = r#"{"event": {"key": "<key>", "models": {"any": "<model>"}}}"#.to_owned();
    assert!(uncovered(&members, &[body, rest]).is_empty());
}
