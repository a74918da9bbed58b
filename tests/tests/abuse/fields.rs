//! A text in every part of a path, parameter of a query and member of a body that takes text, of every
//! operation of the OpenAPI document. Headers are those of `raw_headers`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use tests::process::Http;

use super::percent;

/// Names of things that exist, by the path up to them: `/v1/apps/{app}`.
pub type Existing = BTreeMap<&'static str, String>;

/// One of each kind that a path can name, with an event that was rated and one that was rejected.
pub async fn existing(api: &Http) -> Result<Existing> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    api.send("POST", "/v1/apps", &json!({"app": "tool"})).await?;
    let secret =
        api.send("POST", "/v1/apps/tool/secrets", &json!({"scopes": ["events:write"]})).await?;
    let key = api.send("POST", "/v1/api-keys", &json!({"scopes": ["teams:read"]})).await?;
    let rejected = api.get("/v1/rejected-events").await?;
    let rated = api.get("/v1/events?outcome=rated").await?;
    let journals = api.get("/v1/teams/team-1/journals").await?;
    let cost_cards = api.get("/v1/cost-cards").await?;
    let credits = json!({"customer_id": "team-1", "amount": "1000", "currency": "USD"});
    let bought = api.send("POST", "/v1/credits/purchase", &credits).await?;
    let hold = json!({"wallet": bought["wallet"], "amount": "1", "settle_by": "call"});
    let hold = api.send("POST", "/v1/holds", &hold).await?;
    api.send("PUT", "/v1/catalog/drafts/spring", &json!({"catalog": {}})).await?;
    api.send("POST", "/v1/backfills", &json!({"backfill": "history", "reason": "a test"})).await?;
    let invoice =
        json!({"invoice": "march", "provider": "openai", "csv": "date,cost_usd\n2026-03-01,1\n"});
    api.send("POST", "/v1/provider-invoices", &invoice).await?;
    let correction = json!({"kind": "rate", "filter": {"team": "team-1"}, "reason": "a test"});
    let correction = api.send("POST", "/v1/corrections", &correction).await?;
    let rejected = text(&rejected["items"][0]["receipt"])?;
    let journal = text(&journals["items"][0]["journal_id"])?;
    Ok([
        ("/v1/api-keys/{key_id}", text(&key["key_id"])?),
        ("/v1/apps/{app}", "tool".to_owned()),
        ("/v1/apps/{app}/secrets/{secret_id}", text(&secret["secret_id"])?),
        ("/v1/backfills/{backfill}", "history".to_owned()),
        ("/v1/catalog/drafts/{draft}", "spring".to_owned()),
        ("/v1/corrections/{correction}", text(&correction["id"])?),
        ("/v1/cost-cards/{key}", text(&cost_cards["items"][0]["key"])?),
        ("/v1/customers/{customer}", "team-1".to_owned()),
        ("/v1/events/{receipt}", text(&rated["items"][0]["receipt"])?),
        ("/v1/explain/{id}", journal.clone()),
        ("/v1/grants/{grant}", text(&bought["grant"])?),
        ("/v1/holds/{hold}", text(&hold["id"])?),
        ("/v1/journals/{journal_id}", journal),
        ("/v1/meters/{key}", "llm_input_tokens".to_owned()),
        ("/v1/provider-invoices/{invoice}", "march".to_owned()),
        ("/v1/rate-cards/{key}", "standard".to_owned()),
        ("/v1/rejected-events/{receipt}", rejected),
        ("/v1/teams/{team}", "team-1".to_owned()),
        ("/v1/teams/{team}/meters/{key}", "llm_input_tokens".to_owned()),
        ("/v1/users/{user}", "ada".to_owned()),
        ("/v1/wallets/{wallet}", text(&bought["wallet"])?),
    ]
    .into())
}

/// Where in a request a text can stand.
#[derive(Clone, Debug)]
enum Place {
    /// In the path, under this name.
    Path(String),
    Query(String),
    /// At this path of members and indexes in the body.
    Body(Vec<String>),
}

/// One of them, with what is needed to make the request.
pub struct Field {
    method: String,
    path: String,
    /// A body with what the operation requires.
    body: Option<Value>,
    place: Place,
}

/// Stands for a member of any name; the text is its name then.
const ANY_NAME: &str = "*";
/// Schemas nest less deep.
const DEPTH_MAX: usize = 8;

/// All of the document.
pub fn of(document: &Value) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    for (path, operations) in document["paths"].as_object().context("paths")? {
        for (method, operation) in operations.as_object().context("operations")? {
            let content = operation["requestBody"]["content"].as_object();
            let schema = content.and_then(|content| {
                let json = content.get("application/json");
                json.or_else(|| content.values().next()).map(|content| &content["schema"])
            });
            let mut places = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().context("a name")?.to_owned();
                match parameter["in"].as_str() {
                    Some("path") => places.push(Place::Path(name)),
                    Some("query") => places.push(Place::Query(name)),
                    _ => {}
                }
            }
            if let Some(schema) = schema {
                let mut found = Vec::new();
                texts(document, schema, &mut Vec::new(), &mut found);
                places.extend(found.into_iter().map(Place::Body));
            }
            let body = schema.map(|schema| sample(document, schema, 0));
            fields.extend(places.into_iter().map(|place| Field {
                method: method.to_uppercase(),
                path: path.clone(),
                body: body.clone(),
                place,
            }));
        }
    }
    Ok(fields)
}

impl Field {
    /// The request with the text in this place, something harmless in the others, and in its path what
    /// exists.
    pub fn request(&self, text: &str, existing: &Existing) -> Result<(&str, String, Vec<u8>)> {
        let mut body = self.body.clone();
        let mut path = String::new();
        let mut template = String::new();
        for part in self.path.split_inclusive('/') {
            template.push_str(part);
            let so_far = template.trim_end_matches('/');
            let Some(name) = part.trim_end_matches('/').strip_prefix('{') else {
                path.push_str(part);
                continue;
            };
            let name = name.trim_end_matches('}');
            let known = existing.get(so_far).map(String::as_str);
            match (&self.place, known) {
                (Place::Path(place), _) if place == name => path.push_str(&percent(text)),
                (_, known) => {
                    path.push_str(known.with_context(|| format!("say what exists of {so_far}"))?)
                }
            }
            path.push_str(if part.ends_with('/') { "/" } else { "" });
        }
        match &self.place {
            Place::Path(_) => {}
            Place::Query(name) => path = format!("{path}?{}={}", percent(name), percent(text)),
            Place::Body(place) => put(body.get_or_insert_default(), place, text),
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        Ok((&self.method, path, body))
    }

    /// Whether it is in a body.
    pub fn is_of_body(&self) -> bool {
        matches!(self.place, Place::Body(_))
    }
}

fn put(value: &mut Value, place: &[String], text: &str) {
    let Some((first, rest)) = place.split_first() else { return *value = json!(text) };
    if let Ok(index) = first.parse::<usize>() {
        if !value.is_array() {
            *value = json!([null]);
        }
        return put(&mut value[index], rest, text);
    }
    if !value.is_object() {
        *value = json!({});
    }
    let name = if first == ANY_NAME { text } else { first };
    put(&mut value[name], rest, text);
}

fn follow<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|pointer| pointer.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten()
}

fn is(schema: &Value, name: &str) -> bool {
    let types = &schema["type"];
    types == name || types.as_array().is_some_and(|types| types.iter().any(|one| one == name))
}

/// The places below a schema that take any text.
fn texts(document: &Value, schema: &Value, place: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if place.len() > DEPTH_MAX {
        return;
    }
    let schema = follow(document, schema);
    for part in parts(schema) {
        texts(document, part, place, found);
    }
    if is(schema, "string") && !found.contains(place) {
        found.push(place.clone());
    }
    let mut below = |name: &str, schema: &Value| {
        place.push(name.to_owned());
        texts(document, schema, place, found);
        place.pop();
    };
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        below(name, member);
    }
    if schema["additionalProperties"].is_object() {
        below(ANY_NAME, &schema["additionalProperties"]);
    }
    if schema["items"].is_object() {
        below("0", &schema["items"]);
    }
}

/// A value of a schema, with what it requires.
fn sample(document: &Value, schema: &Value, depth: usize) -> Value {
    let schema = follow(document, schema);
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    if let Some(example) = schema.get("example").or_else(|| schema["enum"].get(0)) {
        return example.clone();
    }
    let mut members = Map::new();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if let Value::Object(more) = sample(document, part, depth + 1) {
            members.extend(more);
        }
    }
    for name in ["oneOf", "anyOf"] {
        let variants = schema[name].as_array().into_iter().flatten();
        if let Some(variant) = variants.into_iter().find(|variant| variant["type"] != "null") {
            return sample(document, variant, depth + 1);
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        members.insert(name.into(), sample(document, &schema["properties"][name], depth + 1));
    }
    if !members.is_empty() || is(schema, "object") {
        return Value::Object(members);
    }
    match schema {
        _ if is(schema, "array") => json!([sample(document, &schema["items"], depth + 1)]),
        _ if is(schema, "integer") || is(schema, "number") => json!(1),
        _ if is(schema, "boolean") => json!(false),
        _ if schema["format"] == "date-time" => json!("2026-01-01T00:00:00Z"),
        _ => json!("a"),
    }
}
