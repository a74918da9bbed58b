//! Names that providers write on their invoices, and ours.

use std::collections::BTreeMap;

use domain::{catalog::CatalogDocument, llm_usage::UsageClass};

use crate::burn_tables::{class_of, class_of_rule};

/// What invoices call classes, beside their own names and those of burn tables. Written with `_` for
/// whatever is no letter or digit.
const CLASSES: [(&str, UsageClass); 15] = [
    ("prompt", UsageClass::Input),
    ("uncached_input", UsageClass::Input),
    ("input_no_cache", UsageClass::Input),
    ("completion", UsageClass::Output),
    ("cached", UsageClass::CacheRead),
    ("cached_input", UsageClass::CacheRead),
    ("cache_read_input", UsageClass::CacheRead),
    ("input_cache_read", UsageClass::CacheRead),
    ("cache_creation", UsageClass::CacheWrite),
    ("cache_creation_input", UsageClass::CacheWrite),
    ("input_cache_write_5m", UsageClass::CacheWrite),
    ("cache_creation_ephemeral_5m_input", UsageClass::CacheWrite),
    ("input_cache_write_1h", UsageClass::CacheWriteHour),
    ("cache_creation_ephemeral_1h_input", UsageClass::CacheWriteHour),
    ("embeddings", UsageClass::Embedding),
];

/// The class of usage that a text of an invoice means.
fn class_of_text(text: &str) -> Option<UsageClass> {
    let plain = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
    let name: String = text.trim().to_ascii_lowercase().chars().map(plain).collect();
    let short = name.strip_suffix("_tokens").or_else(|| name.strip_suffix("_token"));
    [Some(name.as_str()), short].into_iter().flatten().find_map(|name| {
        let known = CLASSES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class);
        known.or_else(|| class_of_rule(name))
    })
}

/// How both sides call a class: by its name where there is one, else as the meter is called.
pub(crate) struct Classes {
    /// The class of meters that add one up.
    meters: BTreeMap<String, UsageClass>,
    /// What the importer said that texts of the invoice mean: a class or a meter.
    given: BTreeMap<String, String>,
}

impl Classes {
    pub fn new(document: &CatalogDocument, given: BTreeMap<String, String>) -> Self {
        let classed = |meter| Some((meter, class_of(meter)?));
        let meters = document.meters.iter().filter_map(classed);
        Self { meters: meters.map(|(meter, class)| (meter.key.clone(), class)).collect(), given }
    }

    /// The class of a text of the invoice.
    pub fn of_invoice(&self, text: &str) -> String {
        let meter = |name: &str| self.meters.get(name).copied();
        let class = match self.given.get(text) {
            Some(given) => return class_or(given, UsageClass::from_name(given).or(meter(given))),
            None => class_of_text(text).or(meter(text)),
        };
        class_or(text, class)
    }

    /// The class of a meter, where the invoice has such classes. What it does not tell apart is in the class
    /// that price lists have it under.
    pub fn of_meter(&self, meter: &str, has: impl Fn(&str) -> bool) -> String {
        let class = self.meters.get(meter).copied();
        let listed = class.and_then(UsageClass::listed_as);
        let apart = class.is_none_or(|class| has(class.name()));
        class_or(meter, if apart { class } else { listed.or(class) })
    }
}

fn class_or(text: &str, class: Option<UsageClass>) -> String {
    class.map_or_else(|| text.to_owned(), |class| class.name().to_owned())
}

/// The name that snapshots of a model share: `gpt-4o` of `gpt-4o-2024-08-06`. In small letters; a name
/// of several words is written as providers write ids: `claude-haiku-4-5` of `Claude Haiku 4.5`.
pub(crate) fn shared_model(name: &str) -> String {
    let name = name.trim().to_lowercase();
    let words: Vec<&str> = name.split_whitespace().collect();
    let name = if words.len() > 1 { words.join("-").replace('.', "-") } else { name };
    match without_date(&name) {
        Some(base) if !base.is_empty() => base.to_owned(),
        _ => name,
    }
}

/// A name without the date at its end, or `-latest`.
fn without_date(name: &str) -> Option<&str> {
    // `d` is a digit; the year is of this century.
    const ENDS: [&str; 4] = ["-20dd-dd-dd", "-20dddddd", "@20dddddd", "-dd-20dd"];
    let dated = ENDS.into_iter().find_map(|end| {
        let at = name.len().checked_sub(end.len())?;
        let (base, rest) = (name.get(..at)?, name.get(at..)?);
        let fits =
            |(own, wanted): (u8, u8)| own == wanted || wanted == b'd' && own.is_ascii_digit();
        rest.bytes().zip(end.bytes()).all(fits).then_some(base)
    });
    dated.or_else(|| name.strip_suffix("-latest"))
}
