//! Just enough of ClickHouse's lexer to tell strings and comments from what is said around them.
//!
//! Works on bytes, because the data of an INSERT may follow its statement in one body.

use std::ops::Range;

/// What a piece of a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Spaces, line ends and comments.
    Blank,
    /// A string, a quoted name or a heredoc.
    Quoted,
    /// A keyword, a name or a number.
    Word,
    /// Any other single byte.
    Sign(u8),
}

/// A piece of a statement and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) place: Range<usize>,
}

impl Token {
    /// The bytes of this token in the text it came from.
    pub(super) fn bytes<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.place.clone()).unwrap_or_default()
    }

    /// Whether this is the keyword, in any case.
    pub(super) fn is_word(&self, text: &[u8], keyword: &str) -> bool {
        self.kind == Kind::Word && self.bytes(text).eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// The tokens of a statement; together they are the whole text.
pub(super) fn tokens(text: &[u8]) -> impl Iterator<Item = Token> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let (kind, length) = first(rest)?;
        let place = at..at + length;
        at += length;
        Some(Token { kind, place })
    })
}

/// The first token of `rest` and its length, which is at least 1.
fn first(rest: &[u8]) -> Option<(Kind, usize)> {
    let byte = *rest.first()?;
    let second = rest.get(1).copied();
    Some(match byte {
        b'\'' | b'"' | b'`' => (Kind::Quoted, quoted(rest, byte)),
        b'-' if second == Some(b'-') => (Kind::Blank, until_line_end(rest)),
        b'#' if matches!(second, Some(b' ' | b'!')) => (Kind::Blank, until_line_end(rest)),
        b'/' if second == Some(b'*') => (Kind::Blank, until(rest, 2, b"*/")),
        b'$' => match heredoc(rest) {
            Some(length) => (Kind::Quoted, length),
            None => (Kind::Sign(byte), 1),
        },
        _ if is_blank(byte) => (Kind::Blank, run(rest, is_blank)),
        _ if is_word(byte) => (Kind::Word, run(rest, is_word)),
        _ => (Kind::Sign(byte), 1),
    })
}

/// The engine takes a vertical tab as a blank, too.
pub(super) fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn run(rest: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    rest.iter().position(|byte| !belongs(*byte)).unwrap_or(rest.len())
}

fn until_line_end(rest: &[u8]) -> usize {
    run(rest, |byte| byte != b'\n')
}

/// Length up to and including the first `end` at or after `from`, or the whole rest.
fn until(rest: &[u8], from: usize, end: &[u8]) -> usize {
    rest.get(from..)
        .and_then(|tail| tail.windows(end.len()).position(|window| window == end))
        .map_or(rest.len(), |position| from + position + end.len())
}

/// Length of a quoted piece: a backslash escapes, and a doubled quote stands for itself.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        if *byte == b'\\' {
            at += 2;
        } else if *byte != quote {
            at += 1;
        } else if rest.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    rest.len()
}

/// Length of `$tag$...$tag$`, or `None` when this dollar begins none.
fn heredoc(rest: &[u8]) -> Option<usize> {
    let tag = 1 + run(rest.get(1..)?, is_word);
    if rest.get(tag) != Some(&b'$') {
        return None;
    }
    let mark = rest.get(..=tag)?;
    let body = rest.get(mark.len()..)?;
    let end = body.windows(mark.len()).position(|window| window == mark)?;
    Some(mark.len() + end + mark.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_whole() {
        let text = br#"a 'it''s \' ;' -- {x}
        /* ; */ `q``;` $t$ ; '$t$ $1;"#;
        let kinds: Vec<(Kind, &str)> = tokens(text)
            .map(|token| (token.kind, std::str::from_utf8(token.bytes(text)).unwrap()))
            .filter(|(kind, _)| *kind != Kind::Blank)
            .collect();
        assert_eq!(
            kinds,
            [
                (Kind::Word, "a"),
                (Kind::Quoted, r"'it''s \' ;'"),
                (Kind::Quoted, "`q``;`"),
                (Kind::Quoted, "$t$ ; '$t$"),
                (Kind::Sign(b'$'), "$"),
                (Kind::Word, "1"),
                (Kind::Sign(b';'), ";"),
            ]
        );
    }

    #[test]
    fn every_byte_belongs_to_one_token() {
        for text in ["'open", "a\\", "'\\", "/* open", "$$", "$a", "", "--", "{a:String}"] {
            let total: usize = tokens(text.as_bytes()).map(|token| token.place.len()).sum();
            assert_eq!(total, text.len(), "{text}");
        }
    }
}
