//! What a row becomes: columns and constants, each to a field of the event.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::value::RawValue;

/// Fields of the envelope; every other name is a field of `data`.
const ENVELOPE: [&str; 8] =
    ["id", "type", "source", "subject", "time", "user", "feature", "holdid"];

/// Where the value of a field comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Column(usize),
    Constant(String),
}

/// Fields of the envelope and of `data`, each with its origin.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    envelope: Vec<(&'static str, Origin)>,
    data: Vec<(String, Origin)>,
}

impl Mapping {
    /// Reads `column=field` and `field=value` pairs against the columns that there are.
    pub fn new(columns: &[String], maps: &[String], sets: &[String]) -> Result<Self> {
        let mut mapping = Self::default();
        for map in maps {
            let (column, field) =
                map.split_once('=').with_context(|| format!("--map {map}: write column=field"))?;
            let place = columns.iter().position(|known| known == column);
            let place = place.with_context(|| {
                format!("there is no column {column:?}; there are: {}", columns.join(", "))
            })?;
            mapping.add(field, Origin::Column(place))?;
        }
        for set in sets {
            let (field, value) =
                set.split_once('=').with_context(|| format!("--set {set}: write field=value"))?;
            mapping.add(field, Origin::Constant(value.to_owned()))?;
        }
        ensure!(
            mapping.has("type"),
            "no event type; give it with --set type=... or --map COLUMN=type"
        );
        Ok(mapping)
    }

    fn add(&mut self, field: &str, origin: Origin) -> Result<()> {
        ensure!(!self.has(field), "{field} is given twice; keep one");
        if let Some(name) = ENVELOPE.into_iter().find(|name| *name == field) {
            self.envelope.push((name, origin));
            return Ok(());
        }
        let name = field.strip_prefix("data.").unwrap_or(field);
        ensure!(!name.is_empty(), "a field without a name; write column=field");
        self.data.push((name.to_owned(), origin));
        Ok(())
    }

    /// Whether a field is given.
    pub fn has(&self, field: &str) -> bool {
        let data = field.strip_prefix("data.").unwrap_or(field);
        self.envelope.iter().any(|(name, _)| *name == field)
            || self.data.iter().any(|(name, _)| name == data)
    }

    /// Appends the event of `row` as JSON; `defaults` are fields of the envelope for when they are
    /// not mapped.
    pub fn event(
        &self,
        row: &csv::StringRecord,
        defaults: &[(&str, &str)],
        json: &mut String,
    ) -> Result<()> {
        json.push('{');
        for (name, value) in defaults.iter().filter(|(name, _)| !self.has(name)) {
            member(json, name, &text(value)?);
        }
        for (name, origin) in &self.envelope {
            let value = value_of(origin, row);
            match (*name, value) {
                (_, "") => {}
                ("time", value) => member(json, name, &text(&utc(value)?)?),
                (_, value) => member(json, name, &text(value)?),
            }
        }
        json.push_str(r#""data":{"#);
        for (name, origin) in &self.data {
            match value_of(origin, row) {
                "" => {}
                value if is_number(value) => member(json, name, value),
                value => member(json, name, &text(unquoted(value))?),
            }
        }
        if json.ends_with(',') {
            json.pop();
        }
        json.push_str("}}");
        Ok(())
    }
}

fn value_of<'a>(origin: &'a Origin, row: &'a csv::StringRecord) -> &'a str {
    match origin {
        Origin::Column(place) => row.get(*place).unwrap_or_default().trim(),
        Origin::Constant(value) => value,
    }
}

fn member(json: &mut String, name: &str, value: &str) {
    json.push_str(&serde_json::Value::from(name).to_string());
    json.push(':');
    json.push_str(value);
    json.push(',');
}

fn text(value: &str) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

/// Whether a text is a number of JSON. It goes into the event as it is written, so that no digit is
/// lost.
fn is_number(value: &str) -> bool {
    value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<&RawValue>(value).is_ok()
}

/// `"4"` is the text 4, not the number.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// A time with an offset as it is, and one without as UTC.
fn utc(value: &str) -> Result<String> {
    if value.parse::<Timestamp>().is_ok() {
        return Ok(value.to_owned());
    }
    let Ok(naive) = value.parse::<DateTime>() else {
        bail!("{value:?} is not a time; write 2023-11-16 18:17:03.97 or RFC 3339");
    };
    Ok(naive.to_zoned(TimeZone::UTC)?.timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(maps: &[&str], sets: &[&str], row: &[&str], expected: &str) {
        let owned =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let columns = owned(&["when", "tokens", "name"]);
        let mapping = Mapping::new(&columns, &owned(maps), &owned(sets)).unwrap();
        let mut json = String::new();
        let defaults = [("id", "f:1"), ("subject", "team-01")];
        mapping.event(&csv::StringRecord::from(row.to_vec()), &defaults, &mut json).unwrap();
        assert_eq!(json, expected);
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
    }

    #[test]
    fn numbers_keep_their_text_and_naive_times_are_utc() {
        check(
            &["when=time", "tokens=inputTokens"],
            &["type=llm.tokens.v1", "provider=openai"],
            &["2023-11-16 18:17:03.9799600", "1.500", "x"],
            r#"{"id":"f:1","subject":"team-01","time":"2023-11-16T18:17:03.97996Z","type":"llm.tokens.v1","data":{"inputTokens":1.500,"provider":"openai"}}"#,
        );
    }

    #[test]
    fn what_is_mapped_replaces_a_default_and_nothing_is_left_out_silently() {
        check(
            &["name=subject", "tokens=data.n", "when=time"],
            &["type=t", "n2=\"4\"", "id=one"],
            &["2023-11-16T18:17:03+01:00", "007", "acme"],
            r#"{"subject":"acme","time":"2023-11-16T18:17:03+01:00","type":"t","id":"one","data":{"n":"007","n2":"4"}}"#,
        );
        check(
            &[],
            &["type=t"],
            &["", "", ""],
            r#"{"id":"f:1","subject":"team-01","type":"t","data":{}}"#,
        );
    }

    #[test]
    fn a_wrong_mapping_says_what_there_is() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let refused = |maps: &[&str], sets: &[&str]| {
            let owned =
                |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            Mapping::new(&columns, &owned(maps), &owned(sets)).unwrap_err().to_string()
        };
        assert!(refused(&["c=time"], &["type=t"]).contains("there are: a, b"));
        assert!(refused(&["a=time", "b=time"], &["type=t"]).contains("twice"));
        assert!(refused(&["a=time"], &[]).contains("no event type"));
    }
}
