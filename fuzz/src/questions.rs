//! What the api is asked: receipts, questions about usage, rejected events that are sent again.

use api::outside;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use domain::wire::{
    block::{Block, BlockHeader},
    record::Entry,
};
use ingest::forms::Form;
use runtime::clickhouse::outside as clickhouse;

use crate::{
    clickhouse::escaped,
    events::{check_json, encoded, parse},
};

/// A receipt that is read is written as one that says the same.
pub fn receipt(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(receipt) = outside::receipt(text) {
        assert_eq!(outside::receipt(&receipt).as_ref(), Some(&receipt));
    }
}

/// A query of `/v1/usage` is refused or becomes one statement, in which nothing that was asked
/// stands itself.
pub fn usage(input: &[u8]) {
    let Ok(query) = std::str::from_utf8(input) else { return };
    let Some((sql, parameters)) = outside::usage_statement(query) else { return };
    assert!(sql.is_ascii(), "{sql}");
    let values = parameters.iter();
    let url_query: String =
        values.map(|(name, value)| format!("&param_{name}={}", escaped(value))).collect();
    let asked = clickhouse::request(&Method::POST, &url_query, &HeaderMap::new(), sql.into());
    assert!(asked.is_ok(), "{asked:?}");
}

/// Id, source, type and subject of a rejected event, each a line, then what was sent; behind an
/// empty byte, what is sent instead. What is sent again is JSON and has the id that it had.
pub fn sent_again(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let kept = [line(), line(), line(), line()];
    let rest = line();
    let (raw, corrected) =
        rest.split_once('\0').map_or((rest, None), |(raw, corrected)| (raw, Some(corrected)));
    let Some(event) = outside::sent_again(kept, raw, corrected) else { return };
    check_json(event.as_bytes());
    let Some(parsed) = parse(Form::Json, Bytes::from(event)) else { return };
    let numbers: Vec<u32> =
        parsed.items.iter().filter_map(|item| item.event.clone().ok()).collect();
    let message = encoded(&parsed.batch, &numbers);
    let header = BlockHeader::decode(&message).expect("our block is read");
    let body = header.body(&message).expect("our block is read");
    for entry in Block::decode(&header, &body).expect("our block is read").entries {
        let Entry::Event(event) = entry else { panic!("{entry:?} is no event") };
        assert!(kept[0].is_empty() || event.id == kept[0], "{} is not {}", event.id, kept[0]);
    }
}
