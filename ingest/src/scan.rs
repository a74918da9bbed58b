//! One pass over JSON text that checks its whole grammar and says where everything stands.
//!
//! Not `sonic-rs`: its lazy iterators check a skipped value by recursion without a bound, so 4 MiB
//! of `[` end the process, and they accept anything after the value. This scanner keeps its open
//! containers on the heap and reads every byte once, whatever the nesting.

use domain::wire::record::AttributeKind;

/// Something found, in the order of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// An object or array that is not empty begins.
    Begin {
        /// Whether it is an object.
        object: bool,
        /// Place of its bracket.
        offset: usize,
    },
    /// The innermost object or array ends; the place after its bracket.
    End(usize),
    /// The name of a member; its value follows.
    Key(Leaf),
    /// A scalar, or an empty object or array.
    Leaf(Leaf),
}

/// A scalar's kind and place. A string's place excludes its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What it is.
    pub kind: AttributeKind,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub length: usize,
}

impl Leaf {
    /// Its bytes in the text that was scanned.
    #[must_use]
    pub fn bytes<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.offset..self.offset.saturating_add(self.length)).unwrap_or_default()
    }
}

/// Where the text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON at byte {at}: expected {expected}")]
pub struct SyntaxError {
    /// Place of the first byte that cannot stand there.
    pub at: usize,
    /// What could.
    pub expected: &'static str,
}

/// A place in a text that is known to be UTF-8.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    open: Vec<u8>,
}

impl<'a> Scanner<'a> {
    /// Begins at byte `at` of `text`.
    #[must_use]
    pub fn new(text: &'a str, at: usize) -> Scanner<'a> {
        Scanner { text: text.as_bytes(), at, open: Vec::new() }
    }

    /// The next byte to be read.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Skips white space and shows the byte after it.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Skips white space and takes the byte after it if it is `wanted`.
    pub fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// An error at this place.
    #[must_use]
    pub fn error(&self, expected: &'static str) -> SyntaxError {
        SyntaxError { at: self.at, expected }
    }

    /// Reads one value and hands its parts to `on`.
    pub fn value(&mut self, mut on: impl FnMut(Token)) -> Result<(), SyntaxError> {
        self.open.clear();
        loop {
            self.begin(&mut on)?;
            if self.open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads one scalar or the bracket that opens a container, and all brackets that close after.
    fn begin(&mut self, on: &mut impl FnMut(Token)) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'{') if !self.empty(b'}', AttributeKind::EmptyObject, on) => {
                on(Token::Begin { object: true, offset: self.at });
                self.at += 1;
                self.open.push(b'{');
                return self.key(on);
            }
            Some(b'[') if !self.empty(b']', AttributeKind::EmptyArray, on) => {
                on(Token::Begin { object: false, offset: self.at });
                self.at += 1;
                self.open.push(b'[');
                return Ok(());
            }
            Some(b'{' | b'[') => {}
            Some(b'"') => on(Token::Leaf(self.string()?)),
            Some(b'-' | b'0'..=b'9') => on(Token::Leaf(self.number()?)),
            Some(b't') => on(Token::Leaf(self.literal(b"true", AttributeKind::True)?)),
            Some(b'f') => on(Token::Leaf(self.literal(b"false", AttributeKind::False)?)),
            Some(b'n') => on(Token::Leaf(self.literal(b"null", AttributeKind::Null)?)),
            _ => return Err(self.error("a value")),
        }
        self.after_value(on)
    }

    fn after_value(&mut self, on: &mut impl FnMut(Token)) -> Result<(), SyntaxError> {
        while let Some(container) = self.open.last().copied() {
            match (container, self.peek()) {
                (b'{', Some(b',')) => {
                    self.at += 1;
                    return self.key(on);
                }
                (b'[', Some(b',')) => {
                    self.at += 1;
                    return Ok(());
                }
                (b'{', Some(b'}')) | (b'[', Some(b']')) => {
                    self.at += 1;
                    self.open.pop();
                    on(Token::End(self.at));
                }
                (b'{', _) => return Err(self.error("`,` or `}`")),
                _ => return Err(self.error("`,` or `]`")),
            }
        }
        Ok(())
    }

    /// Takes a container without anything in it.
    fn empty(&mut self, close: u8, kind: AttributeKind, on: &mut impl FnMut(Token)) -> bool {
        let offset = self.at;
        self.at += 1;
        if !self.take(close) {
            self.at = offset;
            return false;
        }
        on(Token::Leaf(Leaf { kind, offset, length: self.at - offset }));
        true
    }

    fn key(&mut self, on: &mut impl FnMut(Token)) -> Result<(), SyntaxError> {
        if self.peek() != Some(b'"') {
            return Err(self.error("the name of a member in quotes"));
        }
        on(Token::Key(self.string()?));
        if self.take(b':') { Ok(()) } else { Err(self.error("`:`")) }
    }

    fn string(&mut self) -> Result<Leaf, SyntaxError> {
        self.at += 1;
        let offset = self.at;
        let mut kind = AttributeKind::Text;
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default());
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    kind = AttributeKind::EscapedText;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("no control character in a string")),
                None => return Err(self.error("the end of the string")),
            }
        }
        let length = self.at - offset;
        self.at += 1;
        Ok(Leaf { kind, offset, length })
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let unit = self.unit()?;
                if (0xdc00..0xe000).contains(&unit) {
                    return Err(self.error("no half of a surrogate pair"));
                }
                if (0xd800..0xdc00).contains(&unit) {
                    let next = self.text.get(self.at..self.at.saturating_add(2));
                    if next != Some(b"\\u") {
                        return Err(self.error("the other half of a surrogate pair"));
                    }
                    self.at += 1;
                    if !(0xdc00..0xe000).contains(&self.unit()?) {
                        return Err(self.error("the other half of a surrogate pair"));
                    }
                }
            }
            _ => return Err(self.error("an escape of JSON")),
        }
        Ok(())
    }

    /// The four digits behind `u`.
    fn unit(&mut self) -> Result<u32, SyntaxError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.error("four hexadecimal digits"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Leaf, SyntaxError> {
        let offset = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Leaf { kind: AttributeKind::Number, offset, length: self.at - offset })
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count > 0 { Ok(()) } else { Err(self.error("a digit")) }
    }

    fn literal(&mut self, literal: &[u8], kind: AttributeKind) -> Result<Leaf, SyntaxError> {
        let offset = self.at;
        if !self.text.get(offset..).unwrap_or_default().starts_with(literal) {
            return Err(self.error("a value"));
        }
        self.at += literal.len();
        Ok(Leaf { kind, offset, length: literal.len() })
    }

    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

/// How many bytes stand before the first that means something within a string: a quote, a backslash,
/// a control character. Looks at eight at a time: in a lane of a word that is none of the bytes that
/// are looked for, subtracting does not reach the highest bit. A lane above one that is found may be
/// wrong, the lowest is not.
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = text.as_chunks::<8>();
    let mut at = 0_usize;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let below = |limit: u64, lanes: u64| lanes.wrapping_sub(ONES * limit) & !lanes;
        let same = |byte: u8| below(1, word ^ (ONES * u64::from(byte)));
        let found = (below(0x20, word) | same(b'"') | same(b'\\')) & HIGHEST;
        if found != 0 {
            return at.saturating_add(found.trailing_zeros() as usize / 8);
        }
        at = at.saturating_add(8);
    }
    let special = rest.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
    at.saturating_add(special.unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &str) -> bool {
        let mut scanner = Scanner::new(text, 0);
        scanner.value(|_| {}).is_ok() && scanner.peek().is_none()
    }

    #[test]
    fn errors_say_where() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("{\"a\"", 4),
            ("{\"a\":", 5),
            ("{\"a\":1", 6),
            ("{\"a\":1,}", 7),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("nul", 0),
            ("\"\\ud800\"", 7),
            ("\"\\udc00\"", 7),
            ("\"\u{1}\"", 1),
            ("-", 1),
            ("1.", 2),
            ("1e", 2),
            ("NaN", 0),
            ("\"\\x\"", 2),
            ("[}", 1),
        ] {
            let error = Scanner::new(text, 0).value(|_| {}).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
        }
        assert!(!accepts("01") && !accepts("1 1") && !accepts("{} {}"));
    }

    #[test]
    fn any_nesting_is_read_without_recursion() {
        let deep = 4 << 20;
        assert!(Scanner::new(&"[".repeat(deep), 0).value(|_| {}).is_err());
        let text = "[".repeat(deep / 2) + &"]".repeat(deep / 2);
        assert!(accepts(&text));
    }

    #[test]
    fn tokens_have_their_places() {
        let text = r#" {"a": [1, {}, "x\n"], "b": null}"#;
        let mut found = Vec::new();
        Scanner::new(text, 0)
            .value(|token| {
                found.push(match token {
                    Token::Begin { object, offset } => format!("begin {object} {offset}"),
                    Token::End(at) => format!("end {at}"),
                    Token::Key(leaf) => {
                        format!("key {}", String::from_utf8_lossy(leaf.bytes(text.as_bytes())))
                    }
                    Token::Leaf(leaf) => format!(
                        "{:?} {}",
                        leaf.kind,
                        String::from_utf8_lossy(leaf.bytes(text.as_bytes()))
                    ),
                });
            })
            .unwrap();
        assert_eq!(
            found,
            [
                "begin true 1",
                "key a",
                "begin false 7",
                "Number 1",
                "EmptyObject {}",
                "EscapedText x\\n",
                "end 21",
                "key b",
                "Null null",
                "end 33"
            ]
        );
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes(text in r#"[\[\]{}":,0-9eE.+\-\\ntfu a]{0,24}"#) {
            // Numbers out of a float's range are JSON for us and not for serde_json's own values.
            let by_serde = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(accepts(&text), by_serde, "{}", text);
        }

        #[test]
        fn eight_bytes_at_once_are_looked_at_as_one_by_one_would(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
            prop_assert_eq!(plain(&text), text.iter().position(special).unwrap_or(text.len()));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = accepts(&text);
        }
    }
}
