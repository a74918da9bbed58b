//! A catalog from a file of YAML or JSON.
//!
//! The schema of catalogs says what each place holds, and a place of text gets the text that was written:
//! of YAML, `price: 0.10` is the text `0.10`, and no number ever passes through a float. In JSON such a
//! number is refused, as it is in a request. What the schema does not know is refused where it stands.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a catalog: JSON from a file whose name ends so, and YAML from any other.
pub fn read(file: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let is_json = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let catalog = if is_json { json(&text) } else { yaml(&text) };
    catalog.with_context(|| format!("{} is no catalog", file.display()))
}

fn json(text: &str) -> Result<Value> {
    let schema = api::catalog_file::schema();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Place::root(&schema).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn yaml(text: &str) -> Result<Value> {
    let schema = api::catalog_file::schema();
    let options = serde_saphyr::options! { strict_booleans: true };
    let read = |deserializer: serde_saphyr::Deserializer<'_, '_>| {
        Place::root(&schema).deserialize(deserializer)
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read)
        .map_err(|error| anyhow!("{error}"))
}

/// A place of the file, with the part of the schema that says what stands there.
#[derive(Clone, Copy)]
struct Place<'s> {
    root: &'s Value,
    schema: &'s Value,
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    List,
    Text,
    Integer,
    Truth,
    /// Text, or a list of texts.
    TextOrList,
}

impl<'s> Place<'s> {
    fn root(schema: &'s Value) -> Self {
        Self { root: schema, schema }
    }

    fn at(self, schema: &'s Value) -> Self {
        Self { schema, ..self }
    }

    /// What may stand here: references followed, alternatives taken apart, and null left out.
    fn alternatives(self) -> Vec<Place<'s>> {
        if let Some(reference) = self.schema.get("$ref").and_then(Value::as_str) {
            let found = reference.strip_prefix('#').and_then(|path| self.root.pointer(path));
            return found.map(|schema| self.at(schema).alternatives()).unwrap_or_default();
        }
        let several = ["oneOf", "anyOf"].iter().find_map(|name| self.schema.get(name)?.as_array());
        match several {
            Some(several) if self.schema.get("properties").is_none() => {
                several.iter().flat_map(|schema| self.at(schema).alternatives()).collect()
            }
            _ if self.kind().is_none() => Vec::new(),
            _ => vec![self],
        }
    }

    /// What stands here, where it is one thing.
    fn kind(self) -> Option<Kind> {
        let all = self.schema.get("type").map(|of| match of {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        });
        all?.into_iter().find_map(|name| match name {
            "object" => Some(Kind::Object),
            "array" => Some(Kind::List),
            "string" => Some(Kind::Text),
            "integer" => Some(Kind::Integer),
            "boolean" => Some(Kind::Truth),
            _ => None,
        })
    }

    /// The schema of a field of the object that stands here.
    fn field(self, name: &str) -> Option<Place<'s>> {
        match self.schema.get("properties").and_then(Value::as_object) {
            Some(fields) => fields.get(name).map(|schema| self.at(schema)),
            None => self.schema.get("additionalProperties").map(|schema| self.at(schema)),
        }
    }

    fn names(self) -> String {
        let fields = self.schema.get("properties").and_then(Value::as_object);
        let names: Vec<&str> =
            fields.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let all = self.alternatives();
        let reading = match all.as_slice() {
            [one] => one.kind().map(|kind| Reading { place: *one, kind }),
            several => several
                .iter()
                .find(|place| place.kind() == Some(Kind::List))
                .map(|list| Reading { place: *list, kind: Kind::TextOrList }),
        };
        let unknown = || de::Error::custom("the schema does not say what stands here");
        deserializer.deserialize_option(reading.ok_or_else(unknown)?)
    }
}

/// Reads what a place holds.
#[derive(Clone, Copy)]
struct Reading<'s> {
    place: Place<'s>,
    kind: Kind,
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.kind {
            Kind::Object => "an object",
            Kind::List => "a list",
            Kind::Text => "text: in JSON, put a number in quotes",
            Kind::Integer => "a whole number",
            Kind::Truth => "true or false",
            Kind::TextOrList => "text or a list of texts",
        })
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.kind {
            Kind::Object => deserializer.deserialize_map(self),
            Kind::List => deserializer.deserialize_seq(self),
            Kind::Text => deserializer.deserialize_str(self),
            Kind::Integer => deserializer.deserialize_i64(self),
            Kind::Truth => deserializer.deserialize_bool(self),
            Kind::TextOrList => deserializer.deserialize_any(self),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Value, E> {
        match self.kind {
            Kind::Truth => Ok(truth.into()),
            _ => Err(E::invalid_type(de::Unexpected::Bool(truth), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        match self.kind {
            Kind::Integer => Ok(number.into()),
            _ => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        match self.kind {
            Kind::Integer => Ok(number.into()),
            _ => Err(E::invalid_type(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let nothing = Value::Null;
        let place = self.place.at(self.place.schema.get("items").unwrap_or(&nothing));
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(place)? {
            list.push(item);
        }
        Ok(list.into())
    }

    /// A field that is null says nothing, and is left out.
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let place = self.place.field(&name).ok_or_else(|| {
                let known = self.place.names();
                de::Error::custom(format!("there is no field `{name}`; there are: {known}"))
            })?;
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("the field `{name}` is there twice")));
            }
            let value = fields.next_value_seed(place)?;
            if !value.is_null() {
                members.insert(name, value);
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rate(fields: &str) -> Result<Value> {
        let text = format!(
            "cards:\n- key: standard\n  kind: rate\n  currency: USD\n  rates:\n  - meter: calls\n    {fields}\n"
        );
        Ok(yaml(&text)?["cards"][0]["rates"][0].take())
    }

    #[test]
    fn a_number_is_the_text_that_was_written() {
        for text in [
            "0.1",
            "0.10",
            "0.30",
            "1e-7",
            "0.000000000001",
            "10",
            "-0",
            "12345678901234567890.123456789012",
            "0x10",
            "1_000",
            ".5",
        ] {
            for written in [text.to_owned(), format!("\"{text}\""), format!("'{text}'")] {
                let read = rate(&format!("price: {written}")).unwrap();
                assert_eq!(read, json!({"meter": "calls", "price": text}), "{written}");
            }
        }
        let read =
            rate("tiers: [{up_to: 1000, price: 0.30}, {price: 1E-7}]\n    per: 1000").unwrap();
        let tiers = json!([{"up_to": "1000", "price": "0.30"}, {"price": "1E-7"}]);
        assert_eq!(read, json!({"meter": "calls", "tiers": tiers, "per": 1000}));
        let offers = yaml("offers: [{key: a, weight: -3}, {key: b, weight: 3}]").unwrap();
        assert_eq!(
            offers["offers"],
            json!([{"key": "a", "weight": -3}, {"key": "b", "weight": 3}])
        );
        let dimensions = rate("dimensions: {model: 4.10, stream: true, region: no}").unwrap();
        let texts = json!({"model": "4.10", "stream": "true", "region": "no"});
        assert_eq!(dimensions["dimensions"], texts);
    }

    #[test]
    fn yaml_has_anchors_comments_and_nothing() {
        let text = "# yaml-language-server: $schema=catalog.schema.json\nmeters:\n- &calls\n  key: calls\n  event_types: [a]\n  \
            aggregation: sum\n  value: $.n\n- {<<: *calls, key: more, value: [$.a, usage.input]}\ncards: []\nzone: ~\n";
        let first =
            json!({"key": "calls", "event_types": ["a"], "aggregation": "sum", "value": "$.n"});
        let mut second = first.clone();
        second["key"] = json!("more");
        second["value"] = json!(["$.a", "usage.input"]);
        assert_eq!(yaml(text).unwrap(), json!({"meters": [first, second], "cards": []}));
    }

    #[test]
    fn what_is_no_catalog_is_refused_where_it_stands() {
        for (text, says) in [
            ("cards:\n- kye: a", "there is no field `kye`; there are: archived, currency"),
            ("cards:\n- key: a\n  key: b", "key"),
            ("cards:\n- rates:\n  - per: 0.5", "line 3"),
            ("cards:\n- rates:\n  - unlimited: yes", "line 3"),
            ("cards: 7", "line 1"),
            ("meters:\n- value: 0.5", "text or a list of texts"),
            ("cards: []\n---\ncards: []", ""),
            ("- cards", ""),
            ("cards: [", ""),
        ] {
            let error = format!("{:#}", yaml(text).unwrap_err());
            assert!(error.contains(says), "{text:?}: {error}");
        }
        for (text, says) in [
            (r#"{"cards": [{"rates": [{"price": 0.1}]}]}"#, "in JSON, put a number in quotes"),
            (r#"{"cards": [{"rates": [{"price": 1}]}]}"#, "in JSON, put a number in quotes"),
            (r#"{"cards": [], "cards": []}"#, "is there twice"),
            (r#"{"cards": []} {}"#, "trailing"),
            (r#"{"card": []}"#, "there is no field `card`"),
        ] {
            let error = format!("{:#}", json(text).unwrap_err());
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let expanding = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
            let item = format!("*a{}", n - 1);
            text + &format!("a{n}: &a{n} [{}]\n", [item.as_str(); 8].join(", "))
        });
        assert!(yaml(&expanding).is_err());
    }

    #[test]
    fn the_demo_catalog_is_read_as_it_is() {
        let text = include_str!("../demo/catalog.json");
        let whole: Value = serde_json::from_str(text).unwrap();
        assert_eq!((json(text).unwrap(), yaml(text).unwrap()), (whole.clone(), whole));
    }
}
