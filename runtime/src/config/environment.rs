//! The environment as the last layer of the configuration.

use std::collections::BTreeMap;

use figment::{
    Figment,
    error::Kind,
    providers::Serialized,
    value::{Dict, Tag, Value},
};

use super::Faults;

/// Names without `WEIR_SECTION__KEY` that set a key, when they are set and not empty.
pub const WELL_KNOWN: &[(&str, &str)] = &[
    ("DATABASE_URL", "postgres.url"),
    ("CLICKHOUSE_URL", "clickhouse.url"),
    ("WEIR_KAFKA_BROKERS", "log.kafka.brokers"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.traces.endpoint"),
    ("WEIR_MASTER_KEY", "api.master_key"),
    ("WEIR_MASTER_KEY", "ingest.master_key"),
];

/// Names that begin with `WEIR_` and are not keys: whoever needs one asks [`variable`].
pub const RESERVED: &[&str] = &[
    "WEIR_API_KEY",
    "WEIR_CONFIG",
    "WEIR_KAFKA_BROKERS",
    "WEIR_LIBCHDB",
    "WEIR_MASTER_KEY",
    #[cfg(feature = "planted")]
    "WEIR_PLANT",
    "WEIR_TOOLS",
    "WEIR_URL",
];

const PREFIX: &str = "WEIR_";
const SEPARATOR: &str = "__";

/// One variable of the environment, if it is set, not empty, and text.
#[expect(clippy::disallowed_methods, reason = "the one module that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// All variables of the process that are text and that could concern us.
#[expect(clippy::disallowed_methods, reason = "the one module that reads the environment")]
pub(super) fn process() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            name.starts_with(PREFIX) || WELL_KNOWN.iter().any(|(known, _)| known == name)
        })
        .collect()
}

/// Lays `variables` over `figment`; names that mean nothing become faults.
pub(super) fn merge(
    mut figment: Figment,
    variables: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> Figment {
    let sections = sections(&figment);
    // One that belongs to a section this program does not have is left alone.
    let known = |key: &str| sections.iter().any(|section| key.split('.').next() == Some(section));
    for (name, key) in WELL_KNOWN.iter().filter(|(_, key)| known(key)) {
        if let Some(value) = variables.get(*name).filter(|value| !value.is_empty()) {
            figment = set(figment, key, Value::from(value.as_str()));
        }
    }
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if RESERVED.contains(&name.as_str()) {
            continue;
        }
        let key = rest.to_lowercase().replace(SEPARATOR, ".");
        let section = key.split('.').next().unwrap_or_default();
        if !key.contains('.') || !sections.contains(&section.to_owned()) {
            faults.add(
                name,
                format!(
                    "is not a setting; write WEIR_SECTION__KEY with one of the sections {}, or unset it",
                    sections.join(", ")
                ),
            );
            continue;
        }
        let value = value_like(figment.find_value(&key).ok().as_ref(), text);
        figment = set(figment, &key, value);
    }
    figment
}

/// Top-level tables of what has been merged so far.
fn sections(figment: &Figment) -> Vec<String> {
    let Ok(data) = figment.clone().extract::<Dict>() else {
        return Vec::new();
    };
    data.into_iter().filter(|(_, value)| value.as_dict().is_some()).map(|(key, _)| key).collect()
}

fn set(figment: Figment, key: &str, value: Value) -> Figment {
    figment.merge(Serialized::default(key, value))
}

/// Reads `text` as what the default is: a password of digits stays text where the default is
/// text. Without a default, a number is one only if it prints as it was written.
fn value_like(default: Option<&Value>, text: &str) -> Value {
    if matches!(default, Some(Value::String(..))) {
        return Value::from(text);
    }
    if let Ok(number) = text.parse::<i64>()
        && number.to_string() == text
    {
        return Value::from(number);
    }
    match text {
        "true" => Value::Bool(Tag::Default, true),
        "false" => Value::Bool(Tag::Default, false),
        // Lists and tables in TOML's inline form.
        _ if text.starts_with(['[', '{']) => text.parse().unwrap_or_else(|_| Value::from(text)),
        _ => Value::from(text),
    }
}

/// What to do about an error of figment, without quoting a value (it may be a secret).
pub(super) fn explain(error: &figment::Error) -> String {
    match &error.kind {
        Kind::MissingField(field) => format!("`{field}` is missing; set it"),
        Kind::UnknownField(field, known) => {
            format!("`{field}` is not a setting; known here: {}", known.join(", "))
        }
        Kind::InvalidType(_, expected) => format!("has the wrong type; give {expected}"),
        Kind::InvalidValue(_, expected) => format!("has a wrong value; give {expected}"),
        Kind::UnknownVariant(_, known) => format!("must be one of {}", known.join(", ")),
        kind => format!("{kind}; correct it"),
    }
}
