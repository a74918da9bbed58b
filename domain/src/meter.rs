//! Meters: which events count, and what number each contributes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    formula::Sample,
    llm_usage::{PREFIX, UsageField},
    period::PeriodKind,
};

/// How the numbers of events become the meter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Each matching event counts one.
    Count,
    /// The number found at `value` is added.
    Sum,
    /// The largest number of a period.
    Max,
    /// The smallest number of a period.
    Min,
    /// What the numbers of a period add up to, divided by how many there are.
    #[serde(alias = "avg")]
    Average,
    /// The number of the latest event of a period; of several of one time the last in the log.
    Latest,
    /// How many different texts stand at `value` in a period.
    #[serde(alias = "unique_count")]
    Unique,
    /// What is held, by how long it is held: each number holds until the next one, also over the end of a
    /// period.
    TimeWeighted,
}

impl Aggregation {
    /// Whether what events come to adds up, so that each is priced by itself. Of other meters the period is
    /// priced, once, at its close.
    #[must_use]
    pub fn adds_up(self) -> bool {
        matches!(self, Aggregation::Count | Aggregation::Sum)
    }

    /// Whether what holds at the end of a period holds at the beginning of the next one.
    #[must_use]
    pub fn carries_over(self) -> bool {
        self == Aggregation::TimeWeighted
    }

    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::Count => "count",
            Aggregation::Sum => "sum",
            Aggregation::Max => "max",
            Aggregation::Min => "min",
            Aggregation::Average => "average",
            Aggregation::Latest => "latest",
            Aggregation::Unique => "unique",
            Aggregation::TimeWeighted => "time_weighted",
        }
    }
}

/// How long one unit is held to be one of a time-weighted quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldFor {
    /// An hour: GB-hours.
    Hour,
    /// 24 hours: seat-days.
    Day,
    /// The whole period, however long it is: GB-months of a meter whose period is the month.
    Period,
}

/// The dimension of an observed line that holds what a unique count counts.
pub const UNIQUE_DIMENSION: &str = "value";
/// What the types of events begin with that close a period; the meter's key follows.
pub const CLOSING_TYPE: &str = "weir.closed.";
/// The source of such events.
pub const CLOSING_SOURCE: &str = "weir.closings";

/// One path or several, of which the first that is present counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// One path.
    One(String),
    /// Several; the first that is present.
    FirstOf(Vec<String>),
}

impl Paths {
    /// All paths in order.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::FirstOf(paths) => paths,
        }
    }
}

/// A condition on a field; all conditions of a meter must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Where to look, see [`Field::parse`].
    pub field: Paths,
    /// The value is one of these.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<String>>,
    /// The value is present and none of these.
    #[serde(default, rename = "not_in", skip_serializing_if = "Option::is_none")]
    pub none_of: Option<Vec<String>>,
    /// The value is present (true) or absent (false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

/// A meter as a catalog holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterDefinition {
    /// Its name, unique in the catalog.
    pub key: String,
    /// The event types that it looks at.
    pub event_types: Vec<String>,
    /// How numbers add up.
    pub aggregation: Aggregation,
    /// Where the number stands (of a unique count: the text); absent for a count and where there is a formula, required
    /// for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Paths>,
    /// What the number is worked out from, in place of `value`; see docs/METERS.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formula: Option<String>,
    /// What the formula is tried on before it is published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What one of its quantity is, such as `token`.
    #[serde(default)]
    pub unit: String,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Named values that prices depend on and queries group by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, Paths>,
    /// Whether a negative quantity is usage (a correction by the client) rather than a mistake.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_negative: bool,
    /// The period that is priced at its close; for aggregations that do not add up, and only for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodKind>,
    /// For how long one is held to count one; for a time-weighted meter, and only for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<HeldFor>,
    /// Whether numbers say what is held more or less from then on, not what is held; for a time-weighted meter, and only
    /// for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// A JSON pointer (RFC 6901) below `data`.
    Data(String),
    /// An attribute of the envelope.
    Envelope(EnvelopeField),
    /// What ingest derived from the usage object of an LLM provider.
    Usage(UsageField),
}

/// Attributes of the envelope that meters may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EnvelopeField {
    /// The event type.
    Type,
    /// The source as sent.
    Source,
    /// The user named on the event.
    User,
    /// The app that reported it.
    App,
    /// The feature named on the event.
    Feature,
}

impl Field {
    /// Reads `$.a.b`, `$.list[0]`, `$['a.b']` (below `data`); `type`, `source`, `user`, `app`,
    /// `feature` (of the envelope); or `usage.input` and the other classes of LLM usage.
    pub fn parse(path: &str) -> Result<Field, String> {
        let envelope = match path {
            "type" => Some(EnvelopeField::Type),
            "source" => Some(EnvelopeField::Source),
            "user" => Some(EnvelopeField::User),
            "app" => Some(EnvelopeField::App),
            "feature" => Some(EnvelopeField::Feature),
            _ => None,
        };
        if let Some(field) = envelope {
            return Ok(Field::Envelope(field));
        }
        if path.starts_with(PREFIX) {
            return UsageField::parse(path).map(Field::Usage);
        }
        let rest = path.strip_prefix('$').ok_or_else(|| wrong_path(path))?;
        pointer_of(rest)
            .filter(|pointer| !pointer.is_empty())
            .map(Field::Data)
            .ok_or_else(|| wrong_path(path))
    }
}

fn wrong_path(path: &str) -> String {
    format!(
        "`{path}` is no path; write `$.name`, `$.a.b`, `$.list[0]`, `$['a.b']`, one of type, source, user, app, feature, or a class of LLM usage such as `usage.input`"
    )
}

fn pointer_of(mut rest: &str) -> Option<String> {
    let mut pointer = String::new();
    while !rest.is_empty() {
        let segment;
        if let Some(after) = rest.strip_prefix("['") {
            (segment, rest) = after.split_once("']")?;
        } else if let Some(after) = rest.strip_prefix('[') {
            (segment, rest) = after.split_once(']')?;
            if segment.is_empty() || !segment.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (segment, rest) = after.split_at_checked(end)?;
            if segment.is_empty() {
                return None;
            }
        }
        push_segment(&mut pointer, segment);
    }
    Some(pointer)
}

/// Appends a segment to a JSON pointer, escaped as RFC 6901 says.
pub fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for char in segment.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm_usage::UsageClass;

    #[test]
    fn paths_become_pointers() {
        for (path, want) in [
            ("$.tokens", "/tokens"),
            ("$.usage.input", "/usage/input"),
            ("$.list[0].n", "/list/0/n"),
            ("$['a.b'].c", "/a.b/c"),
            ("$['a/b']", "/a~1b"),
        ] {
            assert_eq!(Field::parse(path), Ok(Field::Data(want.into())), "{path}");
        }
        for path in ["", "$", "tokens", "$.", "$..a", "$[x]", "$['a", "$.a[", "$a"] {
            assert!(Field::parse(path).is_err(), "{path}");
        }
        assert_eq!(Field::parse("user"), Ok(Field::Envelope(EnvelopeField::User)));
        let cached = Field::Usage(UsageField::Class(UsageClass::CacheRead));
        assert_eq!(Field::parse("usage.cache_read"), Ok(cached));
        assert_eq!(Field::parse("$.usage.cache_read"), Ok(Field::Data("/usage/cache_read".into())));
        assert!(Field::parse("usage.cached").unwrap_err().contains("cache_read"));
    }
}
