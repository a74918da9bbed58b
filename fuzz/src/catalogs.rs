//! Documents that people publish: catalogs, price lists, paths of meters; and usage of providers.

use api::outside::{self, Change};
use domain::{
    catalog::CatalogDocument,
    formula::Sample,
    llm_usage::{LlmUsage, Member, UsageClass, UsageField, derive},
    meter::{Field, push_segment},
    wire::record::AttributeKind,
};
use serde_json::{Value, json};

use crate::world::DOCUMENT;

/// A catalog from outside and as it is stored: it compiles or has faults, and comes back the same.
pub fn catalog(input: &[u8]) {
    if let Some((document, again)) = outside::catalog(input) {
        assert_eq!(document, again, "what goes out comes in again");
        check(&document);
    }
    if let Ok(document) = serde_json::from_slice::<CatalogDocument>(input) {
        check(&document);
        let stored = serde_json::to_vec(&document).expect("a document is JSON");
        assert_eq!(serde_json::from_slice::<CatalogDocument>(&stored).ok(), Some(document));
    }
}

fn check(document: &CatalogDocument) {
    match document.compile() {
        Ok(catalog) => {
            assert!(document.faults().is_empty());
            let observing = catalog.meters.iter().filter(|meter| meter.observes).count();
            assert_eq!(catalog.meters.len(), document.meters.len() + observing);
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert_eq!(faults, document.faults());
        }
    }
}

/// A body that changes a catalog, after a byte that says how: what was published stays as it was.
pub fn change(input: &[u8]) {
    let Some((choice, json)) = input.split_first() else { return };
    let change =
        [Change::Meter, Change::Card, Change::Version, Change::Defaults][usize::from(choice & 3)];
    let Some((document, faults)) = outside::changed(&DOCUMENT, change, json) else { return };
    check(&document);
    let promised = DOCUMENT.meters.iter().all(|meter| document.meters.contains(meter));
    assert!(promised, "meters are as they were");
    for (before, after) in DOCUMENT.cards.iter().zip(&document.cards) {
        assert!(after.versions.starts_with(&before.versions), "versions are as they were");
    }
    assert_eq!(document.compile().is_ok(), faults.is_empty(), "{faults:?}");
}

/// A price list: checked, or with faults that are named.
pub fn price_list(input: &[u8]) {
    if let Some(Err(faults)) = outside::price_list(input) {
        assert!(!faults.is_empty());
    }
}

/// A path of a meter's field, and what a segment of a pointer becomes.
pub fn field(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Field::Data(pointer)) = Field::parse(text) {
        assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
    }
    let _ = UsageField::parse(text);
    let mut pointer = String::new();
    push_segment(&mut pointer, text);
    assert_eq!(pointer.matches('/').count(), 1, "a segment stays one");
}

/// A formula, and behind its first line what it is tried on: read and worked out, or refused with a reason.
pub fn formula(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (text, given) = text.split_once('\n').unwrap_or((text, "{}"));
    let given = serde_json::from_str(given).unwrap_or_default();
    let samples = vec![Sample { given, comes_to: Some("1".to_owned()) }];
    let meter = json!({"key": "m", "event_types": ["e"], "aggregation": "sum", "formula": text, "samples": samples});
    let meters = vec![serde_json::from_value(meter).expect("a meter")];
    let faults = CatalogDocument { meters, ..CatalogDocument::default() }.faults();
    assert!(faults.len() <= 1 && faults.iter().all(|fault| !fault.reason.is_empty()), "{faults:?}");
}

/// A usage object of a provider: the first line is its name. No class is ever negative.
pub fn llm_usage(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(provider) = std::str::from_utf8(&input[..end]) else { return };
    let Ok(Value::Object(data)) = serde_json::from_slice(&input[end..]) else { return };
    let mut flat = Vec::new();
    for (name, value) in &data {
        let mut pointer = String::new();
        push_segment(&mut pointer, name);
        flatten(pointer, value, &mut flat);
    }
    let members: Vec<Member<'_>> = flat
        .iter()
        .map(|(pointer, kind, text)| Member { pointer, kind: *kind, text: text.as_bytes() })
        .collect();
    let Ok(terms) = derive(provider, &members) else { return };
    assert!(terms.iter().all(|term| term.member < members.len()));
    let usage = LlmUsage::of(&members, &terms);
    for class in UsageClass::ALL {
        assert!(usage.get(class) >= 0, "{class:?} is {}", usage.get(class));
    }
}

fn flatten(pointer: String, value: &Value, flat: &mut Vec<(String, AttributeKind, String)>) {
    let leaf = |kind, text: String| (pointer.clone(), kind, text);
    match value {
        Value::Null => flat.push(leaf(AttributeKind::Null, "null".into())),
        Value::Bool(true) => flat.push(leaf(AttributeKind::True, "true".into())),
        Value::Bool(false) => flat.push(leaf(AttributeKind::False, "false".into())),
        Value::Number(number) => flat.push(leaf(AttributeKind::Number, number.to_string())),
        Value::String(text) => flat.push(leaf(AttributeKind::Text, text.clone())),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                flatten(format!("{pointer}/{number}"), item, flat);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let mut pointer = pointer.clone();
                push_segment(&mut pointer, name);
                flatten(pointer, member, flat);
            }
        }
    }
}
