//! Carries an event from one block into another, whose dictionary has other numbers.

use uuid::Uuid;

use super::{
    block::BlockWriter,
    codec::{DecodeError, Dictionary},
    record::{Attribute, EventRecord, Quote},
};

/// The record with the numbers of `writer`; `from` is the dictionary that its own numbers are of.
/// Nothing else of it changes: identity, content, time and raw bytes stay what they were.
pub fn carry<'a>(
    event: &EventRecord<'a>,
    from: &Dictionary<'a>,
    tenant: Uuid,
    writer: &mut BlockWriter,
) -> Result<EventRecord<'a>, DecodeError> {
    let tenant = writer.tenant(tenant);
    let mut number = |number: u32| Ok(writer.dictionary.intern(from.get(number)?));
    let mut optional = |place: Option<u32>| place.map(&mut number).transpose();
    let (user, app, key, feature) = (
        optional(event.user)?,
        optional(event.app)?,
        optional(event.key)?,
        optional(event.feature)?,
    );
    let quote = match event.quote {
        Some(quote) => Some(Quote { currency: number(quote.currency)?, ..quote }),
        None => None,
    };
    let mut attributes = Vec::with_capacity(event.attributes.len());
    for attribute in &event.attributes {
        attributes.push(Attribute { pointer: number(attribute.pointer)?, ..*attribute });
    }
    Ok(EventRecord {
        tenant,
        team: number(event.team)?,
        subject: number(event.subject)?,
        source: number(event.source)?,
        event_type: number(event.event_type)?,
        user,
        app,
        key,
        feature,
        quote,
        attributes,
        ..event.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        block::{Block, BlockHeader},
        record::{AttributeKind, Entry},
    };

    #[test]
    fn a_carried_event_says_the_same_in_other_numbers() {
        let tenant = Uuid::from_u128(7);
        let mut first = BlockWriter::default();
        for text in ["other", "strings", "before"] {
            first.dictionary.intern(text);
        }
        first.tenant(Uuid::from_u128(1));
        let event = EventRecord {
            tenant: first.tenant(tenant),
            team: first.dictionary.intern("team"),
            subject: first.dictionary.intern("subject"),
            source: first.dictionary.intern("source"),
            event_type: first.dictionary.intern("type"),
            user: Some(first.dictionary.intern("user")),
            app: None,
            key: Some(first.dictionary.intern("key")),
            feature: None,
            id: "id",
            identity: 17,
            content: 18,
            time_us: Some(19),
            hold: Some(Uuid::from_u128(20)),
            hold_end: true,
            quote: Some(Quote {
                charge: crate::money::Amount::from_raw(0).unwrap(),
                currency: first.dictionary.intern("EUR"),
                catalog_version: 3,
                not_after_us: 4,
            }),
            attributes: vec![Attribute {
                pointer: first.dictionary.intern("/tokens"),
                kind: AttributeKind::Number,
                offset: 0,
                length: 2,
            }],
            raw: b"12",
        };
        first.push(&Entry::Event(event));
        let message = first.finish();
        let header = BlockHeader::decode(&message).unwrap();
        let body = header.body(&message).unwrap();
        let block = Block::decode(&header, &body).unwrap();
        let Some(Entry::Event(event)) = block.entries.first() else { panic!("no event") };

        let mut second = BlockWriter::default();
        let carried = carry(event, &block.dictionary, tenant, &mut second).unwrap();
        assert_ne!(carried.team, event.team);
        second.push(&Entry::Event(carried));
        let message = second.finish();
        let header = BlockHeader::decode(&message).unwrap();
        assert_eq!(header.tenant(0), Some(tenant));
        let body = header.body(&message).unwrap();
        let other = Block::decode(&header, &body).unwrap();
        let Some(Entry::Event(carried)) = other.entries.first() else { panic!("no event") };
        let text = |number| other.dictionary.get(number).unwrap();
        assert_eq!(
            [carried.team, carried.subject, carried.source, carried.event_type].map(text),
            ["team", "subject", "source", "type"]
        );
        assert_eq!((carried.user.map(text), carried.app), (Some("user"), None));
        assert_eq!((carried.key.map(text), carried.feature), (Some("key"), None));
        assert_eq!(carried.quote.map(|quote| text(quote.currency)), Some("EUR"));
        assert_eq!(text(carried.attributes[0].pointer), "/tokens");
        assert_eq!(carried.attribute_bytes(&carried.attributes[0]), b"12");
        assert_eq!(
            (carried.id, carried.identity, carried.content, carried.time_us, carried.hold_end),
            ("id", 17, 18, Some(19), true)
        );
    }
}
