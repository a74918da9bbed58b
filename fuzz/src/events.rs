//! What clients send: bodies of events in every form, and messages of doors.

use bytes::Bytes;
use domain::wire::{
    block::{Block, BlockHeader},
    record::Entry,
};
use ingest::{
    batch::{Batch, Encoder},
    binary,
    doors::message,
    forms::{self, Form, Parsed},
    lago::{LagoEvents, looks_like_lago},
    scan::Scanner,
};
use runtime::log::kafka::{Letter, Place};

use crate::{
    memory,
    world::{NOW_US, WORLD, rate_block},
};

/// A body as JSON, and as lines.
pub fn body(input: &[u8]) {
    for form in [Form::Json, Form::Lines] {
        if let Some(parsed) = parse(form, Bytes::copy_from_slice(input)) {
            check(&parsed);
        }
    }
}

/// Events as ingest reads them.
pub fn parse(form: Form, body: Bytes) -> Option<Parsed> {
    let held = WORLD.budget.hold();
    let parsed = forms::parse(form, body, WORLD.caller.clone(), held, NOW_US).ok()?;
    // The path of each value repeats names that stand in the body once; the budget counts them.
    memory::plain(parsed.batch.strings.bytes());
    Some(parsed)
}

/// What was accepted goes into a block and comes out as it was sent; sent alone, it is the same
/// event.
fn check(parsed: &Parsed) {
    let batch = &parsed.batch;
    let numbers: Vec<u32> =
        parsed.items.iter().filter_map(|item| item.event.clone().ok()).collect();
    assert_eq!(numbers.len(), batch.events.len());
    for (number, item) in parsed.items.iter().enumerate() {
        let (at, length) = item.raw;
        assert!(batch.body.get(at..at + length).is_some(), "item {number} at {at}, {length} bytes");
    }
    let message = encoded(batch, &numbers);
    let header = BlockHeader::decode(&message).expect("our block is read");
    let body = header.body(&message).expect("our block is read");
    let block = Block::decode(&header, &body).expect("our block is read");
    assert_eq!(block.entries.len(), numbers.len());
    for (entry, prepared) in block.entries.iter().zip(&batch.events) {
        let Entry::Event(event) = entry else { panic!("{entry:?} is no event") };
        let sent = &batch.body[prepared.raw_at..prepared.raw_at + prepared.raw_length];
        assert_eq!(event.raw, sent, "raw is what was sent");
        let alone = parse(Form::Json, Bytes::copy_from_slice(sent)).expect("it was accepted");
        let again = alone.batch.events.first().expect("it was accepted");
        assert_eq!((again.identity, again.content), (event.identity, event.content));
        assert_eq!(again.time_us, event.time_us);
    }
    rate_block(&message);
}

/// The block of some events of a batch.
pub fn encoded(batch: &Batch, numbers: &[u32]) -> Bytes {
    let mut encoder = Encoder::default();
    assert_eq!(encoder.push(batch, numbers), 0);
    encoder.finish()
}

/// A body in Lago's form becomes CloudEvents that are JSON, and an answer that is.
pub fn lago(input: &[u8]) {
    let _ = looks_like_lago(input);
    for events in [LagoEvents::one(input), LagoEvents::several(input)].into_iter().flatten() {
        let Ok(structured) = events.structured() else { continue };
        check_json(&structured);
        let Some(parsed) = parse(Form::Json, structured.into()) else { continue };
        check(&parsed);
        let identities: Vec<u128> =
            parsed.batch.events.iter().map(|event| event.identity).collect();
        check_json(&events.answer(&identities, NOW_US).expect("an answer can be written"));
    }
}

/// Bytes are one JSON value.
pub fn check_json(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let mut scanner = Scanner::new(text, 0);
    scanner.value(|_| {}).expect("JSON");
    assert_eq!(scanner.peek(), None, "one value");
}

/// Lines `name: value`, an empty line, and the data.
pub fn message_parts(input: &[u8]) -> (Vec<(&str, &[u8])>, &[u8]) {
    let (mut headers, mut rest) = (Vec::new(), input);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { continue };
        headers.push((name, &line[colon + 1..]));
    }
    (headers, rest)
}

/// CloudEvents in binary mode: what becomes of headers and data is JSON, and read as an event.
pub fn binary(input: &[u8]) {
    let (headers, data) = message_parts(input);
    let mut attributes = Vec::new();
    for (name, value) in &headers {
        let Ok(value) = binary::unescape_header(name, value) else { return };
        attributes.push((*name, value));
    }
    let content_type = attributes.iter().find(|(name, _)| *name == "content-type");
    let content_type = content_type.map(|(_, value)| value.clone().into_owned());
    let Ok(event) = binary::structured(attributes, content_type.as_deref(), data) else { return };
    check_json(&event);
    if let Some(parsed) = parse(Form::Json, event.into()) {
        check(&parsed);
    }
}

/// A message of a door: accepted or kept with its reason, and the same when it is read again.
pub fn door(input: &[u8]) {
    let (headers, value) = message_parts(input);
    let owned = |(name, value): &(&str, &[u8])| ((*name).to_owned(), Bytes::copy_from_slice(value));
    let letter = Letter {
        place: Place { topic: "default".into(), partition: 3 },
        offset: 17,
        headers: headers.iter().map(owned).collect(),
        value: (input.first() != Some(&0)).then(|| Bytes::copy_from_slice(value)),
    };
    let read = || {
        let caller = WORLD.caller.clone();
        message::read(&letter, "weir.in.default", caller, &WORLD.budget, NOW_US).ok()
    };
    let (Some(first), Some(again)) = (read(), read()) else { return };
    memory::plain(first.batch.strings.bytes());
    let numbers: Vec<u32> = first.numbers().collect();
    let items: Vec<usize> = numbers.iter().map(|number| first.item(*number)).collect();
    assert!(!items.is_empty(), "nothing of a message vanishes");
    assert_eq!(items, again.numbers().map(|number| again.item(number)).collect::<Vec<_>>());
    let block = encoded(&first.batch, &numbers);
    assert_eq!(block, encoded(&again.batch, &numbers), "read again, it is the same");
    let header = BlockHeader::decode(&block).expect("our block is read");
    let body = header.body(&block).expect("our block is read");
    let decoded = Block::decode(&header, &body).expect("our block is read");
    assert_eq!(decoded.entries.len(), numbers.len());
    rate_block(&block);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers are not limited as over HTTP, and a control character takes six bytes in JSON.
    #[test]
    fn a_message_whose_headers_are_more_than_a_body_is_refused_for_good() {
        let header = |name: &str, value: &[u8]| (name.to_owned(), Bytes::copy_from_slice(value));
        let letter = Letter {
            place: Place { topic: "default".into(), partition: 3 },
            offset: 17,
            headers: vec![header("ce_specversion", b"1.0"), header("ce_x", &vec![1; 1 << 20])],
            value: Some(Bytes::from_static(b"{}")),
        };
        let caller = WORLD.caller.clone();
        let read = message::read(&letter, "weir.in.default", caller, &WORLD.budget, NOW_US)
            .expect("it is not tried again");
        let refusal = read.batch.refusal(0).expect("it is kept");
        assert_eq!((read.items, refusal.reason), (1, "body_too_large"));
    }
}
