//! The front of the ClickHouse engine: requests, statements, compressed bodies.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use runtime::clickhouse::outside::{decompress, request, statements, tokens};

use crate::{events::message_parts, memory};

/// The first byte chooses the method; then a line with the URL's query, headers, and the body.
pub fn front(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(url_query) = std::str::from_utf8(&rest[..end]) else { return };
    let (lines, body) = message_parts(&rest[end + 1..]);
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let pair = HeaderName::try_from(name).ok().zip(HeaderValue::from_bytes(value).ok());
        headers.extend(pair);
    }
    let ask = |method: &Method| request(method, url_query, &headers, Bytes::copy_from_slice(body));
    let method = if choice & 1 == 0 { Method::POST } else { Method::GET };
    let Ok(asked) = ask(&method) else { return };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    assert!(asked.settings.keys().all(|name| name.bytes().all(plain)), "{:?}", asked.settings);
    if method == Method::GET {
        assert!(asked.data.is_none(), "a GET brings no data");
        assert_eq!(ask(&Method::POST), Ok(asked), "a GET is what a POST is");
    }
}

/// A text as a statement, as a script, and as values of a statement.
pub fn statement(input: &[u8]) {
    let mut end = 0;
    for token in tokens(input) {
        assert_eq!(token.start, end, "tokens have no gap");
        assert!(token.end > end, "a token has a byte");
        end = token.end;
    }
    assert_eq!(end, input.len(), "tokens are the whole text");
    let Ok(text) = std::str::from_utf8(input) else { return };
    for statement in statements(text) {
        assert_eq!(statements(statement), [statement], "a statement of a script is one");
    }
    let value = &escaped(text);
    for kind in ["String", "UInt64", "Nullable(String)", "Identifier"] {
        let url_query = |value: &str| format!("query=%7Ba:{kind}%7D+FROM+t&param_a={value}");
        let counted = |value| {
            let asked = request(&Method::POST, &url_query(value), &HeaderMap::new(), Bytes::new());
            tokens(&asked.expect("a value is taken as it is").sql).count()
        };
        assert_eq!(counted(value), counted("x"), "a value stays one: {kind}");
    }
}

/// A text as a value of a URL's query.
pub fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Bytes as compressed blocks, as the data of one that claims a size, and compressed by us.
pub fn blocks(input: &[u8]) {
    memory::plain(decompress(input).map_or(0, |plain| plain.len()));
    let Some((choice, rest)) = input.split_first() else { return };
    if let Some((size, data)) = rest.split_first_chunk() {
        let size = usize::try_from(u32::from_le_bytes(*size)).expect("64 bits");
        let claimed = block(if choice & 1 == 0 { LZ4 } else { NONE }, size, data);
        let plain = decompress(&claimed);
        if let Ok(plain) = plain {
            assert_eq!(plain.len(), size);
            memory::plain(size);
        }
    }
    let packed = block(LZ4, rest.len(), &lz4_flex::block::compress(rest));
    let both = [packed, block(NONE, rest.len(), rest)].concat();
    assert_eq!(decompress(&both).expect("our blocks are read"), [rest, rest].concat());
}

const LZ4: u8 = 0x82;
const NONE: u8 = 0x02;

fn block(method: u8, plain_size: usize, data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 16];
    block.push(method);
    for size in [9 + data.len(), plain_size] {
        block.extend_from_slice(&u32::try_from(size).expect("short").to_le_bytes());
    }
    block.extend_from_slice(data);
    block
}
