//! What burn tables call the classes of usage.

use domain::llm_usage::UsageClass;

/// Names of a class in rules, and of the field of an event that counts it; the first is the one shown.
/// The same in camel case, and the class' own name, are read as well.
fn fields(class: UsageClass) -> &'static [&'static str] {
    match class {
        UsageClass::Input => &["input_tokens", "prompt_tokens"],
        UsageClass::Output => &["output_tokens", "completion_tokens"],
        UsageClass::CacheRead => &["cached_input_tokens", "cache_read_tokens", "cached_tokens"],
        UsageClass::CacheWrite => &["cache_write_tokens", "cache_creation_tokens"],
        UsageClass::CacheWriteHour => &["cache_write_1h_tokens"],
        UsageClass::Reasoning => &["reasoning_tokens"],
        UsageClass::AudioInput => &["audio_input_tokens"],
        UsageClass::AudioOutput => &["audio_output_tokens"],
        UsageClass::ImageInput => &["image_input_tokens"],
        UsageClass::ImageOutput => &["image_output_tokens"],
        UsageClass::Embedding => &["embedding_tokens"],
        UsageClass::ToolCalls => &["tool_calls"],
        UsageClass::Images => &["image_count"],
        UsageClass::SearchUnits => &["search_units"],
    }
}

/// Names of the fields that count a class, the one that is shown first.
pub(crate) fn rule_names(class: UsageClass) -> Vec<String> {
    let all = fields(class).iter().flat_map(|name| [(*name).to_owned(), camel(name)]);
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The class that a rule calls so.
pub(crate) fn class_of_rule(name: &str) -> Option<UsageClass> {
    let named = |class: &UsageClass| rule_names(*class).iter().any(|known| known == name);
    UsageClass::ALL.into_iter().find(named).or_else(|| UsageClass::from_name(name))
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let mut chars = part.chars();
        let head = chars.next().map(|char| char.to_ascii_uppercase());
        text + &head.into_iter().chain(chars).collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_has_names_of_its_own() {
        let all = UsageClass::ALL.into_iter().flat_map(rule_names);
        assert_eq!(all.clone().collect::<BTreeSet<_>>().len(), all.count());
        for class in UsageClass::ALL {
            let names = rule_names(class).into_iter().chain([class.name().to_owned()]);
            names.for_each(|name| assert_eq!(class_of_rule(&name), Some(class), "{name}"));
        }
        assert_eq!(
            rule_names(UsageClass::CacheWriteHour),
            ["cache_write_1h_tokens", "cacheWrite1hTokens"]
        );
        assert_eq!(rule_names(UsageClass::Images), ["image_count", "imageCount"]);
        assert_eq!(class_of_rule("inputs"), None);
    }
}
