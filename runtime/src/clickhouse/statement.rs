//! From what a client sent to what the engine runs: the statement, its parameters, its data.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::lexer::{Kind, Token, is_blank, tokens};

/// Why a request is answered without asking the engine; the code is ClickHouse's for that fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// ClickHouse's SYNTAX_ERROR.
pub(super) const SYNTAX_ERROR: u32 = 62;
/// ClickHouse's UNKNOWN_QUERY_PARAMETER.
const UNKNOWN_QUERY_PARAMETER: u32 = 456;

/// Values of `{name:Type}`, by name, in the text form of ClickHouse's HTTP interface.
pub(super) type Parameters = BTreeMap<String, String>;

/// What the engine is to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// Anything but the next.
    Plain(Vec<u8>),
    /// An INSERT whose data came with it, passed on byte for byte.
    Insert {
        /// `INSERT INTO ...` without its FORMAT clause.
        sql: Vec<u8>,
        /// The format's name.
        format: String,
        /// The data.
        data: Bytes,
    },
}

/// Puts together the `query` of the URL and the body, as ClickHouse does: the one follows the other.
pub(super) fn prepare(
    query: &str,
    body: Bytes,
    parameters: &Parameters,
) -> Result<Statement, Refusal> {
    if query.is_empty() {
        let Some(insert) = find_data(&body) else {
            return plain(&body, parameters);
        };
        let data = body.slice(insert.data..);
        return insert.with(&body, data, parameters);
    }
    match find_data(query.as_bytes()) {
        Some(insert) => {
            let inline = query.as_bytes().get(insert.data..).unwrap_or_default();
            let data = match inline.trim_ascii() {
                b"" => body,
                trailing if starts_with_any(trailing, &["SETTINGS"]) => {
                    let message = "SETTINGS of an INSERT go before FORMAT";
                    return Err(Refusal::new(SYNTAX_ERROR, message));
                }
                _ if body.is_empty() => Bytes::copy_from_slice(inline),
                _ => {
                    return Err(Refusal::new(SYNTAX_ERROR, "data both in the URL and in the body"));
                }
            };
            insert.with(query.as_bytes(), data, parameters)
        }
        None if body.is_empty() => plain(query.as_bytes(), parameters),
        None => plain(&[query.as_bytes(), b"\n", &body].concat(), parameters),
    }
}

/// Whether a statement only reads, so that a GET may carry it.
pub(super) fn only_reads(text: &[u8]) -> bool {
    const READING: [&str; 7] = ["SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"];
    starts_with_any(text, &READING)
}

/// Whether a statement changes the connection it runs on, which is then not used again.
pub(super) fn changes_session(text: &[u8]) -> bool {
    starts_with_any(text, &["SET", "USE"])
        || tokens(text).take(16).any(|token| token.is_word(text, "TEMPORARY"))
}

fn starts_with_any(text: &[u8], keywords: &[&str]) -> bool {
    tokens(text)
        .find(|token| !matches!(token.kind, Kind::Blank | Kind::Sign(b'(')))
        .is_some_and(|token| keywords.iter().any(|keyword| token.is_word(text, keyword)))
}

/// Splits a script at its semicolons. Pieces without a statement are left out.
pub(super) fn split(script: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut said_something) = (0, false);
    for token in tokens(script.as_bytes()) {
        match token.kind {
            Kind::Sign(b';') => {
                if said_something {
                    statements.extend(script.get(start..token.place.start));
                }
                (start, said_something) = (token.place.end, false);
            }
            Kind::Blank => {}
            _ => said_something = true,
        }
    }
    if said_something {
        statements.extend(script.get(start..));
    }
    let blank = |character: char| u8::try_from(character).is_ok_and(is_blank);
    statements.into_iter().map(|statement: &str| statement.trim_matches(blank)).collect()
}

/// A string literal.
pub(super) fn literal(value: &str) -> String {
    format!("'{}'", escape(value, '\''))
}

/// A quoted name.
pub(super) fn quoted_name(name: &str) -> String {
    format!("`{}`", escape(name, '`'))
}

fn escape(value: &str, quote: char) -> String {
    let mut escaped = String::with_capacity(value.len() + 2);
    for character in value.chars() {
        match character {
            '\0' => escaped.push_str("\\0"),
            '\\' => escaped.push_str("\\\\"),
            _ if character == quote => escaped.extend(['\\', quote]),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn plain(text: &[u8], parameters: &Parameters) -> Result<Statement, Refusal> {
    let mut ended = false;
    for token in tokens(text) {
        match token.kind {
            Kind::Sign(b';') => ended = true,
            Kind::Blank => {}
            _ if ended => {
                return Err(Refusal::new(SYNTAX_ERROR, "several statements in one request"));
            }
            // What follows is data, and may look like anything.
            _ if token.is_word(text, "VALUES") => break,
            _ => {}
        }
    }
    Ok(Statement::Plain(substitute(text, parameters)?))
}

/// Where the data of an INSERT begins.
struct DataPlace {
    /// Where its FORMAT clause begins.
    format_clause: usize,
    format: String,
    /// Where its data begins.
    data: usize,
}

impl DataPlace {
    fn with(self, text: &[u8], data: Bytes, parameters: &Parameters) -> Result<Statement, Refusal> {
        let head = text.get(..self.format_clause).unwrap_or_default();
        Ok(Statement::Insert { sql: substitute(head, parameters)?, format: self.format, data })
    }
}

/// Finds `FORMAT name` of an INSERT that takes data; the data begins after it and one line end.
fn find_data(text: &[u8]) -> Option<DataPlace> {
    let mut said = tokens(text).filter(|token| token.kind != Kind::Blank);
    if !said.next()?.is_word(text, "INSERT") {
        return None;
    }
    let mut depth = 0_usize;
    while let Some(token) = said.next() {
        match token.kind {
            Kind::Sign(b'(') => depth += 1,
            Kind::Sign(b')') => depth = depth.saturating_sub(1),
            Kind::Word if depth > 0 => {}
            Kind::Word if ends_search(text, &token) => return None,
            Kind::Word if token.is_word(text, "FORMAT") => {
                let name = said.next().filter(|name| name.kind == Kind::Word)?;
                let format = String::from_utf8_lossy(name.bytes(text)).into_owned();
                let data = name.place.end + separator(text.get(name.place.end..)?);
                let takes_data = !format.eq_ignore_ascii_case("Values");
                return takes_data.then_some(DataPlace {
                    format_clause: token.place.start,
                    format,
                    data,
                });
            }
            _ => {}
        }
    }
    None
}

/// Words after which an INSERT's data is not ours to split off.
fn ends_search(text: &[u8], token: &Token) -> bool {
    ["SELECT", "WITH", "VALUES", "INFILE"].iter().any(|word| token.is_word(text, word))
}

/// Length of what separates a format's name from the data: blanks, then at most one line end.
fn separator(rest: &[u8]) -> usize {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(blanks..) {
        Some([b'\r', b'\n', ..]) => blanks + 2,
        Some([b'\n', ..]) => blanks + 1,
        _ => blanks,
    }
}

/// Writes the values of `{name:Type}` into the statement, as literals cast to their type.
/// The engine's own parameters would do, but not in every version: they were global to the process.
fn substitute(text: &[u8], parameters: &Parameters) -> Result<Vec<u8>, Refusal> {
    if parameters.is_empty() {
        return Ok(text.to_vec());
    }
    let mut written = Vec::with_capacity(text.len() + 64);
    let mut skip_until = 0;
    for token in tokens(text) {
        if token.place.start < skip_until {
            continue;
        }
        if token.kind == Kind::Sign(b'{')
            && let Some(place) = placeholder(text, token.place.start)
        {
            let value = parameters.get(&place.name).ok_or_else(|| {
                let message = format!("Substitution {} is not set", quoted_name(&place.name));
                Refusal::new(UNKNOWN_QUERY_PARAMETER, message)
            })?;
            written.extend_from_slice(expression(&place.kind, value).as_bytes());
            skip_until = place.end;
        } else {
            written.extend_from_slice(token.bytes(text));
        }
    }
    Ok(written)
}

struct Placeholder {
    name: String,
    kind: String,
    end: usize,
}

/// Reads `{name:Type}` at `start`; other braces (of maps) are none.
fn placeholder(text: &[u8], start: usize) -> Option<Placeholder> {
    let inside = text.get(start + 1..)?;
    let mut said = tokens(inside).filter(|token| token.kind != Kind::Blank);
    let name = said.next().filter(|token| token.kind == Kind::Word)?;
    let colon = said.next().filter(|token| token.kind == Kind::Sign(b':'))?;
    let close = said.find(|token| token.kind == Kind::Sign(b'}'))?;
    let kind = inside.get(colon.place.end..close.place.start)?;
    Some(Placeholder {
        name: String::from_utf8_lossy(name.bytes(inside)).into_owned(),
        kind: std::str::from_utf8(kind).ok()?.trim().to_owned(),
        end: start + 1 + close.place.end,
    })
}

/// A value as an expression. Text types arrive escaped as in a TSV field, the others as they are.
fn expression(kind: &str, value: &str) -> String {
    if kind == "Identifier" {
        return quoted_name(value);
    }
    let (base, nullable) = base_type(kind);
    if nullable && value == "\\N" {
        return format!("_CAST(NULL, {})", literal(kind));
    }
    let is_text = ["String", "FixedString", "Enum"].iter().any(|text| base.starts_with(text));
    let value = if is_text { literal(&unescape(value)) } else { literal(value) };
    format!("_CAST({value}, {})", literal(kind))
}

/// The type without `Nullable` and `LowCardinality`, and whether it takes NULL.
fn base_type(kind: &str) -> (&str, bool) {
    let (mut base, mut nullable) = (kind.trim(), false);
    loop {
        let inner = |wrapper: &str| {
            base.strip_prefix(wrapper)
                .and_then(|rest| rest.trim_start().strip_prefix('('))
                .and_then(|rest| rest.trim_end().strip_suffix(')'))
                .map(str::trim)
        };
        if let Some(rest) = inner("Nullable") {
            (base, nullable) = (rest, true);
        } else if let Some(rest) = inner("LowCardinality") {
            base = rest;
        } else {
            return (base, nullable);
        }
    }
}

/// Undoes the escapes of a TSV field.
fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('0') => plain.push('\0'),
            Some('b') => plain.push('\u{8}'),
            Some('f') => plain.push('\u{c}'),
            Some('a') => plain.push('\u{7}'),
            Some('v') => plain.push('\u{b}'),
            Some('e') => plain.push('\u{1b}'),
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

#[cfg(test)]
mod tests;
