//! What an event would cost that has not happened: read, and rated by the very function that rates
//! events of the log.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{from_str, value::RawValue};
use uuid::Uuid;

use crate::{
    catalog::{CardVersionName, Catalog},
    event::{
        ATTRIBUTES_MAX, ContentHasher, NESTING_MAX,
        member::{Member, member},
    },
    llm_usage::{self, Member as UsageMember},
    meter::push_segment,
    money::Amount,
    quantity::Quantity,
    rating::{
        Binding, Charge, Lines, Outcome, Rating, Rejection, Scratch, TotalName, Totals, rate,
    },
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        record::{Attribute, AttributeKind, Entry, EventRecord, Origin, Verdict},
    },
};

/// An event that has not happened.
#[derive(Clone, Copy, Debug)]
pub struct Hypothetical<'a> {
    /// The event type.
    pub event_type: &'a str,
    /// The source.
    pub source: &'a str,
    /// The team.
    pub team: &'a str,
    /// The user.
    pub user: Option<&'a str>,
    /// The app.
    pub app: Option<&'a str>,
    /// The feature.
    pub feature: Option<&'a str>,
    /// When it would happen, microseconds since 1970 UTC.
    pub time_us: i64,
    /// Its `data`.
    pub data: &'a Data<'a>,
}

/// A line as rating has it, with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewLine {
    /// The meter.
    pub meter: Arc<str>,
    /// Its unit.
    pub unit: Arc<str>,
    /// How much.
    pub quantity: Quantity,
    /// The charge and the card version that it is by; no card where no price is known.
    pub charge: Charge,
    /// The card version.
    pub card: Option<CardVersionName>,
    /// What the provider charges, and by which card version; `None` unknown.
    pub cost: Option<(Amount, CardVersionName)>,
    /// Values of the meter's dimensions.
    pub dimensions: BTreeMap<String, String>,
    /// The running total that the charge depends on, before and after, in priced units (raw).
    pub total: Option<(TotalName, i128, i128)>,
}

/// Why there is no preview.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// The data are no object, or more than an event may have.
    #[error("{0}")]
    Data(String),
    /// It would be rejected.
    #[error("{}", .0.detail)]
    Rejected(Rejection),
}

/// Rates an event that has not happened; `totals` are its team's.
pub fn preview(
    catalog: &Catalog,
    totals: &dyn Totals,
    asked: &Hypothetical<'_>,
) -> Result<(Outcome, Vec<PreviewLine>), PreviewError> {
    preview_with(catalog, totals, asked, &mut Scratch::default())
}

/// The same with a scratch of its own, as [`Scratch::holding`] makes one.
pub fn preview_with(
    catalog: &Catalog,
    totals: &dyn Totals,
    asked: &Hypothetical<'_>,
    scratch: &mut Scratch,
) -> Result<(Outcome, Vec<PreviewLine>), PreviewError> {
    let message = block(asked);
    let read = |error| PreviewError::Data(format!("the event cannot be read: {error}"));
    let header = BlockHeader::decode(&message).map_err(read)?;
    let body = header.body(&message).map_err(read)?;
    let block = Block::decode(&header, &body).map_err(read)?;
    let Some(Entry::Event(event)) = block.entries.first() else {
        return Err(PreviewError::Data("the event cannot be read".into()));
    };
    let rating = Rating {
        catalog,
        binding: &Binding::new(catalog, &block.dictionary),
        dictionary: &block.dictionary,
        time_us: asked.time_us,
        append_time_us: asked.time_us,
    };
    let mut lines = Lines::new();
    let outcome =
        rate(&rating, event, totals, scratch, &mut lines).map_err(PreviewError::Rejected)?;
    let card = |number: u32| {
        let number = usize::try_from(number).ok()?;
        catalog.card_versions.get(number).cloned()
    };
    let lines = lines.into_iter().filter_map(|line| {
        let meter = catalog.meters.get(line.meter)?;
        let named = meter.dimensions.iter().zip(&line.dimensions);
        let dimensions = named.filter_map(|(name, value)| {
            value.as_deref().map(|value| (name.to_string(), value.to_owned()))
        });
        Some(PreviewLine {
            meter: Arc::clone(&meter.key),
            unit: Arc::clone(&meter.unit),
            quantity: line.quantity,
            charge: line.charge,
            card: line.charge.card_version().and_then(card),
            cost: line.cost.and_then(|(amount, number)| Some((amount, card(number)?))),
            dimensions: dimensions.collect(),
            total: line.total.map(|total| (total.name, total.before, total.after)),
        })
    });
    Ok((outcome, lines.collect()))
}

/// A block with the event alone, as ingest would write it.
fn block(asked: &Hypothetical<'_>) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    let event = EventText {
        tenant: Uuid::nil(),
        team: asked.team,
        subject: asked.team,
        source: asked.source,
        event_type: asked.event_type,
        user: asked.user,
        app: asked.app,
        key: None,
        feature: asked.feature,
        id: "preview",
        identity: 0,
        content: 0,
        time_us: Some(asked.time_us),
        data: asked.data,
    };
    event.push(&mut writer);
    writer.finish()
}

/// An event and its text, to be written into a block.
#[derive(Clone, Copy, Debug)]
pub struct EventText<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// The billing account.
    pub team: &'a str,
    /// The subject as sent.
    pub subject: &'a str,
    /// The source as sent.
    pub source: &'a str,
    /// The type.
    pub event_type: &'a str,
    /// The user.
    pub user: Option<&'a str>,
    /// The app that reported it.
    pub app: Option<&'a str>,
    /// The API key that reported it.
    pub key: Option<&'a str>,
    /// The feature.
    pub feature: Option<&'a str>,
    /// The client's id.
    pub id: &'a str,
    /// Its identity; 0 where it has taken its id already, or never does.
    pub identity: u128,
    /// Its content hash.
    pub content: u64,
    /// The client's time, microseconds.
    pub time_us: Option<i64>,
    /// Its text, and what was read out of it.
    pub data: &'a Data<'a>,
}

impl EventText<'_> {
    /// Appends the event.
    pub fn push(&self, writer: &mut BlockWriter) {
        let event = self.record(writer);
        writer.push(&Entry::Event(event));
    }

    /// Appends the event as a copy of one that stands elsewhere, with nothing known of twins: whether it takes its id
    /// is found out as for any late event.
    pub fn push_copy(&self, origin: Origin, writer: &mut BlockWriter) {
        let event = self.record(writer);
        writer.push(&Entry::Copy(Verdict::New { checked_to: -1 }, origin, event));
    }

    fn record(&self, writer: &mut BlockWriter) -> EventRecord<'_> {
        let Data { raw, scalars } = self.data;
        let tenant = writer.tenant(self.tenant);
        let mut attributes = Vec::with_capacity(scalars.len());
        for scalar in scalars {
            let pointer = writer.dictionary.intern(&scalar.pointer);
            let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
            let (offset, length) = (place(scalar.offset), place(scalar.length));
            attributes.push(Attribute { pointer, kind: scalar.kind, offset, length });
        }
        let dictionary = &mut writer.dictionary;
        let mut optional = |text: Option<&str>| text.map(|text| dictionary.intern(text));
        let (user, app) = (optional(self.user), optional(self.app));
        let (key, feature) = (optional(self.key), optional(self.feature));
        EventRecord {
            tenant,
            team: dictionary.intern(self.team),
            subject: dictionary.intern(self.subject),
            source: dictionary.intern(self.source),
            event_type: dictionary.intern(self.event_type),
            user,
            app,
            key,
            feature,
            id: self.id,
            identity: self.identity,
            content: self.content,
            time_us: self.time_us,
            hold: None,
            hold_end: false,
            quote: None,
            attributes,
            raw: raw.as_bytes(),
        }
    }
}

/// The data of an event, read.
#[derive(Clone, Debug)]
pub struct Data<'a> {
    raw: &'a str,
    scalars: Vec<Scalar>,
}

#[derive(Clone, Debug)]
struct Scalar {
    pointer: String,
    kind: AttributeKind,
    offset: usize,
    length: usize,
}

impl<'a> Data<'a> {
    /// Reads an object as ingest does: its scalars, and the classes of a provider's usage object.
    pub fn read(data: &'a RawValue) -> Result<Data<'a>, PreviewError> {
        let mut read = Data { raw: data.get(), scalars: Vec::new() };
        if !read.raw.trim_start().starts_with('{') {
            return Err(PreviewError::Data("`data` is no object".into()));
        }
        read.value(data, &mut String::new(), 0)?;
        read.derive()?;
        Ok(read)
    }

    /// Reads the data of an event's whole text: its `data`, or else what stands beside its envelope.
    pub fn of_event(text: &'a str) -> Result<Data<'a>, PreviewError> {
        let wrong = |error: serde_json::Error| PreviewError::Data(format!("the event: {error}"));
        let members: BTreeMap<String, &RawValue> = from_str(text).map_err(wrong)?;
        let mut read = Data { raw: text, scalars: Vec::new() };
        let kind = |name: &str| member(name.as_bytes());
        let mut pointer = String::new();
        if let Some((_, data)) = members.iter().find(|(name, _)| kind(name) == Member::Data) {
            read.value(data, &mut pointer, 0)?;
        } else {
            for (name, value) in members.iter().filter(|(name, _)| kind(name) == Member::Rest) {
                push_segment(&mut pointer, name);
                read.value(value, &mut pointer, 1)?;
                pointer.clear();
            }
        }
        read.derive()?;
        Ok(read)
    }

    /// Adds what stands in a value, whose pointer is `pointer`.
    fn value(
        &mut self,
        value: &RawValue,
        pointer: &mut String,
        depth: usize,
    ) -> Result<(), PreviewError> {
        if depth > NESTING_MAX {
            return Err(PreviewError::Data(format!("`data` is nested deeper than {NESTING_MAX}")));
        }
        let wrong = |error: serde_json::Error| PreviewError::Data(format!("`data`: {error}"));
        let (text, length) = (value.get(), pointer.len());
        match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<String, &RawValue> = from_str(text).map_err(wrong)?;
                if members.is_empty() {
                    return self.scalar(pointer, AttributeKind::EmptyObject, text);
                }
                for (name, value) in members {
                    push_segment(pointer, &name);
                    self.value(value, pointer, depth.saturating_add(1))?;
                    pointer.truncate(length);
                }
                Ok(())
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = from_str(text).map_err(wrong)?;
                if items.is_empty() {
                    return self.scalar(pointer, AttributeKind::EmptyArray, text);
                }
                for (place, value) in items.into_iter().enumerate() {
                    push_segment(pointer, &place.to_string());
                    self.value(value, pointer, depth.saturating_add(1))?;
                    pointer.truncate(length);
                }
                Ok(())
            }
            Some(b'"') => {
                let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                let inside = inside.unwrap_or_default();
                let escaped = inside.contains('\\');
                let kind = if escaped { AttributeKind::EscapedText } else { AttributeKind::Text };
                self.scalar(pointer, kind, inside)
            }
            Some(b't') => self.scalar(pointer, AttributeKind::True, text),
            Some(b'f') => self.scalar(pointer, AttributeKind::False, text),
            Some(b'n') => self.scalar(pointer, AttributeKind::Null, text),
            _ => self.scalar(pointer, AttributeKind::Number, text),
        }
    }

    /// `text` is a part of the whole.
    fn scalar(
        &mut self,
        pointer: &str,
        kind: AttributeKind,
        text: &str,
    ) -> Result<(), PreviewError> {
        if self.scalars.len() >= ATTRIBUTES_MAX {
            return Err(PreviewError::Data(format!(
                "`data` has more than {ATTRIBUTES_MAX} values"
            )));
        }
        let offset = text.as_ptr().addr().saturating_sub(self.raw.as_ptr().addr());
        let length = text.len();
        self.scalars.push(Scalar { pointer: pointer.to_owned(), kind, offset, length });
        Ok(())
    }

    /// The content hash of an event with these data.
    #[must_use]
    pub fn content(&self, event_type: &str, subject: &str) -> u64 {
        let mut hasher = ContentHasher::new(event_type, subject);
        let sent = self.scalars.iter().filter(|scalar| scalar.pointer.starts_with('/'));
        for scalar in sent {
            let text = match scalar.kind {
                // `{ }` says what `{}` says.
                AttributeKind::EmptyObject | AttributeKind::EmptyArray => &[],
                _ => self.text(scalar),
            };
            hasher.scalar(&scalar.pointer, scalar.kind, text);
        }
        hasher.finish()
    }

    fn text(&self, scalar: &Scalar) -> &[u8] {
        let end = scalar.offset.saturating_add(scalar.length);
        self.raw.as_bytes().get(scalar.offset..end).unwrap_or_default()
    }

    /// Adds the classes of a provider's usage object, as ingest does.
    fn derive(&mut self) -> Result<(), PreviewError> {
        let named = self.scalars.iter().find(|scalar| scalar.pointer == "/provider");
        let provider = named.and_then(|scalar| llm_usage::provider(scalar.kind, self.text(scalar)));
        let Some(provider) = provider else { return Ok(()) };
        let of_usage: Vec<&Scalar> =
            self.scalars.iter().filter(|scalar| llm_usage::concerns(&scalar.pointer)).collect();
        let mut members = Vec::with_capacity(of_usage.len());
        for scalar in &of_usage {
            let (pointer, text) = (scalar.pointer.as_str(), self.text(scalar));
            members.push(UsageMember { pointer, kind: scalar.kind, text });
        }
        let terms = llm_usage::derive(&provider, &members).map_err(|fault| {
            PreviewError::Data(format!("`usage` of {provider} cannot be read: {fault}"))
        })?;
        let derived: Vec<Scalar> = terms
            .iter()
            .filter_map(|term| {
                let of = of_usage.get(term.member)?;
                let pointer = term.field.pointer(term.less).to_owned();
                Some(Scalar { pointer, kind: of.kind, offset: of.offset, length: of.length })
            })
            .collect();
        self.scalars.extend(derived);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::CatalogDocument, rating::NoTotals};

    fn shown(document: &str, event_type: &str, data: &str) -> Result<Vec<String>, PreviewError> {
        let document: CatalogDocument = serde_json::from_str(document).unwrap();
        let catalog = document.compile().unwrap();
        let data: Box<RawValue> = from_str(data).unwrap();
        let asked = Hypothetical {
            event_type,
            source: "tool",
            team: "acme",
            user: Some("u"),
            app: None,
            feature: None,
            time_us: 1_700_000_000_000_000,
            data: &Data::read(&data)?,
        };
        let (_, lines) = preview(&catalog, &NoTotals, &asked)?;
        let amount = |line: &PreviewLine| {
            line.charge.amount().map_or("unpriced".to_owned(), |amount| amount.to_string())
        };
        let line = |line: &PreviewLine| {
            format!("{} {} {} {:?}", line.meter, line.quantity, amount(line), line.dimensions)
        };
        Ok(lines.iter().map(line).collect())
    }

    const CATALOG: &str = r#"{
        "meters": [
            {"key": "input", "event_types": ["llm"], "aggregation": "sum", "value": ["usage.input", "$.in"], "dimensions": {"model": "$.model"}},
            {"key": "cached", "event_types": ["llm"], "aggregation": "sum", "value": "usage.cache_read"},
            {"key": "first", "event_types": ["list"], "aggregation": "sum", "value": "$.items[1].n"},
            {"key": "by-user", "event_types": ["list"], "aggregation": "count", "filters": [{"field": "user", "in": ["u"]}]}],
        "cards": [{"key": "standard", "kind": "rate", "currency": "EUR", "versions": [{"version": 1, "effective_from_us": 0, "rates": [
            {"meter": "input", "price": "0.5", "dimensions": {"model": "m\"1"}}, {"meter": "input", "price": "1"}, {"meter": "first", "price": "0.1", "per": 3}]}]}],
        "default_rate_card": "standard"}"#;

    #[test]
    fn a_preview_reads_data_as_an_event() {
        let lines = shown(CATALOG, "llm", r#"{"in": 1e1, "model": "m\"1"}"#).unwrap();
        assert_eq!(lines, [r#"input 10 5 {"model": "m\"1"}"#]);
        let usage = r#"{"provider": "openai", "usage": {"prompt_tokens": 100, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 40}}}"#;
        assert_eq!(
            shown(CATALOG, "llm", usage).unwrap(),
            ["input 60 60 {}", "cached 40 unpriced {}"]
        );
        let list = r#"{"items": [{"n": 1}, {"n": "0.00022500000000000002"}, {}, []]}"#;
        assert_eq!(
            shown(CATALOG, "list", list).unwrap(),
            ["first 0.000225 0.0000075 {}", "by-user 1 unpriced {}"]
        );
        assert_eq!(shown(CATALOG, "other", "{}").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_event_has_no_preview() {
        let data = |result: Result<Vec<String>, PreviewError>| result.unwrap_err().to_string();
        assert!(data(shown(CATALOG, "llm", "[1]")).contains("no object"));
        assert!(data(shown(CATALOG, "llm", r#"{"in": "many"}"#)).contains("not a decimal"));
        assert!(data(shown(CATALOG, "llm", r#"{"in": -1}"#)).contains("negative"));
        let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        assert!(data(shown(CATALOG, "llm", &deep)).contains("nested"));
    }
}
