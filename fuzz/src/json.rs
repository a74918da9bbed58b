//! The scanner of JSON, against the grammar as `serde_json` has it.

use ingest::scan::{Scanner, Token};
use serde_json::value::RawValue;

/// Places are in the text and rise; what is accepted is JSON, and all JSON is.
pub fn scan(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut scanner = Scanner::new(text, 0);
    let (mut open, mut last) = (0_usize, 0_usize);
    let read = scanner.value(|token| {
        let (from, to) = match token {
            Token::Begin { offset, .. } => {
                open += 1;
                (offset, offset + 1)
            }
            Token::End(at) => {
                open = open.checked_sub(1).expect("what ends has begun");
                (at - 1, at)
            }
            Token::Key(leaf) | Token::Leaf(leaf) => (leaf.offset, leaf.offset + leaf.length),
        };
        assert!(last <= from && text.get(from..to).is_some(), "{from}..{to} after {last}");
        last = to;
    });
    let accepted = read.is_ok() && scanner.peek().is_none();
    assert!(!accepted || open == 0, "{open} are open at the end");
    // `serde_json` skips what stands behind `\u`; halves of a surrogate pair are no text for us.
    let other = serde_json::from_str::<&RawValue>(text).is_ok();
    if !text.contains("\\u") || accepted {
        assert_eq!(accepted, other, "{text}");
    }
}
