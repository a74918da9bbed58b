//! Where a place of a catalog, as faults name it, stands in the file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// What a file has at a line. JSON is read as the YAML that it is too.
struct Node {
    line: u64,
    part: Part,
}

enum Part {
    /// Names, each with the line that it stands in.
    Object(Vec<(String, u64, Node)>),
    List(Vec<Node>),
    Text(String),
}

/// The line of a fault's place, such as `cards[standard].rates[2].tiers`, counted from one: of what is there of
/// it, where the file does not have all. A card that gives its prices without a version has the `newest` in the
/// file, and no other. `None` where the text cannot be read.
pub fn line_of(text: &str, place: &str, newest: &str) -> Option<u64> {
    let root: Node = serde_saphyr::from_str(text).ok()?;
    let (mut at, mut line, mut skipped) = (&root, root.line, false);
    for step in steps(place) {
        let found = match (&at.part, step) {
            (Part::Object(members), Step::Name(name)) => {
                let found = members.iter().find(|(known, ..)| known == name);
                found.map(|(_, line, node)| (*line, node))
            }
            (Part::List(items), Step::Which(which)) => {
                let named = items.iter().find(|item| item.is(which));
                let number = || which.parse().ok().and_then(|number: usize| items.get(number));
                named.or_else(number).map(|item| (item.line, item))
            }
            (Part::Object(_), Step::Which(which)) if skipped && which == newest => {
                skipped = false;
                continue;
            }
            _ => None,
        };
        match found {
            Some((found, node)) => (line, at) = (found, node),
            None if step == Step::Name("versions") => skipped = true,
            None => break,
        }
    }
    Some(line)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'p> {
    /// A field.
    Name(&'p str),
    /// What stands in brackets: the key of an item, the number of a version, or the place in a list from zero on.
    Which(&'p str),
}

/// The steps of a place. Keys may have points.
fn steps(place: &str) -> Vec<Step<'_>> {
    let (mut steps, mut rest) = (Vec::new(), place);
    while !rest.is_empty() {
        if let Some((which, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        {
            steps.push(Step::Which(which));
            rest = behind.strip_prefix('.').unwrap_or(behind);
            continue;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        steps.push(Step::Name(name));
        rest = behind.strip_prefix('.').unwrap_or(behind);
        if name.is_empty() && behind.starts_with('[') && !behind.contains(']') {
            break;
        }
    }
    steps
}

impl Node {
    /// Whether it is the item that brackets name.
    fn is(&self, which: &str) -> bool {
        let Part::Object(members) = &self.part else { return false };
        members.iter().any(|(name, _, node)| {
            ["key", "version"].contains(&name.as_str())
                && matches!(&node.part, Part::Text(text) if text == which)
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Spanned::<Part>::deserialize(deserializer)?;
        Ok(Node { line: read.referenced.line(), part: read.value })
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyPart)
    }
}

struct AnyPart;

impl<'de> Visitor<'de> for AnyPart {
    type Value = Part;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Part, E> {
        Ok(Part::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Part, E> {
        Ok(Part::Text(truth.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Part, E> {
        Ok(Part::Text(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Part, E> {
        Ok(Part::Text(number.to_string()))
    }

    /// No place is named by a number with a point.
    fn visit_f64<E>(self, _: f64) -> Result<Part, E> {
        Ok(Part::Text(String::new()))
    }

    fn visit_unit<E>(self) -> Result<Part, E> {
        Ok(Part::Text(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Part, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Part::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Part, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            let line = name.referenced.line();
            members.push((name.value, line, fields.next_value()?));
        }
        Ok(Part::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# Prices.
meters:
- key: llm.calls
  event_types: [a]
  filters:
  - field: $.a
    one_of: [b]
cards:
- {key: other, kind: rate}
- key: standard
  kind: rate
  currency: USD
  rates:
  - meter: llm.calls
    price: 0.10
  - meter: llm.calls
    tiers:
    - up_to: 5
      price: -1
- key: dated
  versions:
  - version: 7
    rates:
    - meter: a
";

    #[test]
    fn a_place_has_its_line() {
        for (place, line) in [
            ("meters[llm.calls]", 3),
            ("meters[llm.calls].event_types", 4),
            ("meters[llm.calls].filters[0].one_of", 7),
            ("cards[other]", 9),
            ("cards[standard].currency", 12),
            ("cards[standard].rates[0].price", 15),
            ("cards[standard].rates[1]", 16),
            ("cards[standard].versions[1].rates[1].tiers", 17),
            ("cards[standard].versions[3].rates[1].tiers", 10),
            ("cards[dated].versions[7].rates[0]", 24),
            ("cards[dated].versions[8].rates[0]", 21),
            ("cards[none].rates[0]", 8),
            ("cards[standard].nothing", 10),
            ("", 2),
        ] {
            assert_eq!(line_of(FILE, place, "1"), Some(line), "{place}");
        }
        let json = "{\"cards\": [\n  {\"key\": \"a\"},\n  {\"key\": \"b\"}]}";
        assert_eq!(line_of(json, "cards[b]", ""), Some(3));
        assert_eq!(line_of("cards: [", "cards", ""), None);
        for odd in ["[", "[[", "a[", "]", ".", "..a", "a[b]c", "a.b."] {
            assert!(line_of(FILE, odd, "").is_some(), "{odd}");
        }
    }
}
