//! Every provider's usage objects, from their documentation: the classes that they come to.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;

use domain::{
    llm_usage::{Fault, LlmUsage, Member, Term, UsageClass, UsageField, count, derive},
    meter::push_segment,
    wire::record::AttributeKind,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const FIXTURES: [&str; 6] = [
    include_str!("llm_usage/openai.json"),
    include_str!("llm_usage/mistral.json"),
    include_str!("llm_usage/anthropic.json"),
    include_str!("llm_usage/google.json"),
    include_str!("llm_usage/cohere.json"),
    include_str!("llm_usage/neutral.json"),
];

/// A scalar with its pointer, as ingest finds them.
type Scalar = (String, AttributeKind, String);

fn scalars(pointer: &str, value: &Value, found: &mut Vec<Scalar>) {
    let below = |segment: &str| {
        let mut below = pointer.to_owned();
        push_segment(&mut below, segment);
        below
    };
    let kind = match value {
        Value::Object(members) if !members.is_empty() => {
            return members.iter().for_each(|(name, value)| scalars(&below(name), value, found));
        }
        Value::Array(items) if !items.is_empty() => {
            let numbered = items.iter().enumerate();
            return numbered.for_each(|(at, item)| scalars(&below(&at.to_string()), item, found));
        }
        Value::Null => AttributeKind::Null,
        Value::Bool(false) => AttributeKind::False,
        Value::Bool(true) => AttributeKind::True,
        Value::Number(_) => AttributeKind::Number,
        Value::String(_) => AttributeKind::Text,
        Value::Array(_) => AttributeKind::EmptyArray,
        Value::Object(_) => AttributeKind::EmptyObject,
    };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    found.push((pointer.to_owned(), kind, text));
}

/// What an event's data comes to: the classes and the terms, or the fault.
fn derived(provider: &str, data: &Value) -> Result<(LlmUsage, Vec<Term>, Vec<Scalar>), Fault> {
    let mut found = Vec::new();
    scalars("", data, &mut found);
    let members: Vec<Member<'_>> = found
        .iter()
        .map(|(pointer, kind, text)| Member { pointer, kind: *kind, text: text.as_bytes() })
        .collect();
    let terms = derive(provider, &members)?;
    Ok((LlmUsage::of(&members, &terms), terms, found))
}

/// Text of a field, as rating reads it.
fn text(field: UsageField, terms: &[Term], found: &[Scalar]) -> Option<String> {
    let of_field = terms.iter().filter(|term| term.field == field);
    let number = |term: &Term| count(found[term.member].2.as_bytes()).unwrap();
    let numbers: Vec<i64> =
        of_field.map(|term| if term.less { -number(term) } else { number(term) }).collect();
    if numbers.is_empty() { None } else { field.text(numbers.iter().sum()) }
}

#[test]
fn usage_objects_of_every_provider_come_to_their_classes() {
    let mut checked = 0;
    for fixture in FIXTURES {
        let cases: Vec<Value> = serde_json::from_str(fixture).unwrap();
        for case in cases {
            check(&case);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

fn check(case: &Value) {
    let mut data = json!({ "usage": case["usage"] });
    if let Some(images) = case.get("images") {
        data["images"] = json!({ "count": images, "size": "1024x1024" });
    }
    let source = &case["source"];
    let outcome = derived(case["provider"].as_str().unwrap(), &data);
    if let Some(fault) = case.get("fault") {
        let found = outcome.unwrap_err().to_string();
        return assert!(found.starts_with(fault.as_str().unwrap()), "{source}: {found}");
    }
    let (usage, terms, found) = outcome.unwrap_or_else(|fault| panic!("{source}: {fault}"));
    let classes: BTreeMap<&str, i64> = UsageClass::ALL
        .into_iter()
        .filter(|class| terms.iter().any(|term| term.field == UsageField::Class(*class)))
        .map(|class| (class.name(), usage.get(class)))
        .collect();
    let want: BTreeMap<String, i64> = serde_json::from_value(case["classes"].clone()).unwrap();
    let want: BTreeMap<&str, i64> = want.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(classes, want, "{source}");
    let context = text(UsageField::Context, &terms, &found);
    assert_eq!(context.as_deref(), case.get("context").and_then(Value::as_str), "{source}");
}

#[test]
fn an_unknown_provider_has_no_classes_and_names_are_read_in_any_case() {
    let data = json!({ "usage": { "prompt_tokens": 5, "completion_tokens": 1 } });
    assert!(derived("a-provider-of-2031", &data).unwrap().1.is_empty());
    assert_eq!(derived("OPENAI", &data).unwrap().0.get(UsageClass::Input), 5);
    let images = json!({ "images": { "count": 3, "size": "1024x1792", "quality": "hd" } });
    assert_eq!(derived("openai", &images).unwrap().0.get(UsageClass::Images), 3);
}

#[test]
fn names_of_classes_are_paths_and_no_client_can_send_their_attributes() {
    for class in UsageClass::ALL {
        let field = UsageField::Class(class);
        assert_eq!(UsageField::parse(&format!("usage.{}", class.name())), Ok(field));
        for less in [false, true] {
            assert!(!field.pointer(less).starts_with('/') && !field.pointer(less).is_empty());
        }
    }
    let fault = UsageField::parse("usage.inputs").unwrap_err();
    assert!(fault.contains("input, output, cache_read"), "{fault}");
}

/// Token classes of the prompt side and of the written side.
const PROMPT: [UsageClass; 7] = [
    UsageClass::Input,
    UsageClass::CacheRead,
    UsageClass::CacheWrite,
    UsageClass::CacheWriteHour,
    UsageClass::AudioInput,
    UsageClass::ImageInput,
    UsageClass::Embedding,
];
const WRITTEN: [UsageClass; 4] =
    [UsageClass::Output, UsageClass::Reasoning, UsageClass::AudioOutput, UsageClass::ImageOutput];

fn total(usage: &LlmUsage, classes: &[UsageClass]) -> i64 {
    classes.iter().map(|class| usage.get(*class)).sum()
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..50_i64).prop_map(Value::from),
        (-5..2_000_000_000_000_i64).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-zA-Z]{0,8}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!({})),
        Just(json!([{ "modality": "AUDIO", "tokenCount": 3 }, { "modality": "AUDIO" }])),
        Just(json!({ "cached_tokens": 7, "audio_tokens": 4, "reasoning_tokens": 2 })),
    ]
}

const NAMES: [&str; 22] = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "prompt_cache_hit_tokens",
    "prompt_audio_seconds",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "promptTokensDetails",
    "cacheTokensDetails",
    "billed_units",
    "type",
    "input",
    "cache_read",
];
const PROVIDERS: [&str; 9] =
    ["openai", "mistral", "xai", "deepseek", "groq", "anthropic", "google", "cohere", "other"];

proptest! {
    /// Whatever an object holds: a fault, or classes that are counts.
    #[test]
    fn no_object_makes_a_negative_class(
        provider in prop::sample::select(PROVIDERS.to_vec()),
        members in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), any_value(), 0..12),
    ) {
        if let Ok((usage, terms, found)) = derived(provider, &json!({ "usage": members })) {
            for class in UsageClass::ALL {
                prop_assert!(usage.get(class) >= 0, "{class:?} {usage:?}");
                let number = text(UsageField::Class(class), &terms, &found);
                prop_assert_eq!(number.map_or(0, |number| number.parse().unwrap()), usage.get(class));
            }
        }
    }

    /// OpenAI and those who follow it: the classes come to the prompt and to what was written.
    #[test]
    fn classes_of_openai_come_to_the_total(
        parts in prop::array::uniform4(0..100_000_i64),
        more in prop::array::uniform2(0..100_000_i64),
        provider in prop::sample::select(vec!["openai", "groq", "mistral", "xai"]),
    ) {
        let ([text, cached, audio, output], [reasoning, spoken]) = (parts, more);
        let (prompt, written) = (text + cached + audio, output + reasoning + spoken);
        let usage = json!({
            "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
            "prompt_tokens_details": { "cached_tokens": cached, "audio_tokens": audio },
            "completion_tokens_details": { "reasoning_tokens": reasoning, "audio_tokens": spoken },
        });
        let (usage, ..) = derived(provider, &json!({ "usage": usage })).unwrap();
        prop_assert_eq!((total(&usage, &PROMPT), total(&usage, &WRITTEN)), (prompt, written));
        prop_assert_eq!(usage.get(UsageClass::Input), text);
        prop_assert_eq!(usage.get(UsageClass::Reasoning), reasoning);
    }

    #[test]
    fn classes_of_google_come_to_the_total(parts in prop::array::uniform8(0..100_000_i64)) {
        let [text, cached_text, audio, cached_audio, tools, thoughts, output, spoken] = parts;
        let (prompt, cached) = (text + cached_text + audio + cached_audio, cached_text + cached_audio);
        let usage = json!({
            "promptTokenCount": prompt, "cachedContentTokenCount": cached,
            "toolUsePromptTokenCount": tools, "thoughtsTokenCount": thoughts,
            "candidatesTokenCount": output + spoken,
            "totalTokenCount": prompt + tools + thoughts + output + spoken,
            "promptTokensDetails": [{ "modality": "AUDIO", "tokenCount": audio + cached_audio }],
            "cacheTokensDetails": [{ "modality": "AUDIO", "tokenCount": cached_audio }],
            "candidatesTokensDetails": [{ "modality": "AUDIO", "tokenCount": spoken }],
        });
        let (usage, ..) = derived("google", &json!({ "usage": usage })).unwrap();
        prop_assert_eq!(usage.get(UsageClass::Input), text + tools);
        prop_assert_eq!(usage.get(UsageClass::AudioInput), audio);
        prop_assert_eq!(total(&usage, &PROMPT), prompt + tools);
        prop_assert_eq!(total(&usage, &WRITTEN), output + spoken + thoughts);
    }

    #[test]
    fn classes_of_anthropic_come_to_all_its_counts(parts in prop::array::uniform6(0..100_000_i64)) {
        let [input, read, usual, hour, output, thinking] = parts;
        let usage = json!({
            "input_tokens": input, "cache_read_input_tokens": read,
            "cache_creation_input_tokens": usual + hour,
            "cache_creation": { "ephemeral_5m_input_tokens": usual, "ephemeral_1h_input_tokens": hour },
            "output_tokens": output + thinking,
            "output_tokens_details": { "thinking_tokens": thinking },
        });
        let (usage, ..) = derived("anthropic", &json!({ "usage": usage })).unwrap();
        prop_assert_eq!(total(&usage, &PROMPT), input + read + usual + hour);
        prop_assert_eq!((usage.get(UsageClass::Output), usage.get(UsageClass::Reasoning)), (output, thinking));
    }
}
