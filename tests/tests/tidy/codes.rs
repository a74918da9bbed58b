//! Stable codes: read out of the sources, and out of `docs/ERRORS.md`.
//!
//! A code stands in the sources as a text in one of few places: the argument of a parameter that is
//! called `code` (a closure's may be called `reason`), a field `code` or `reason`, a variable
//! `code` (alone or in a tuple), and the body of a function `code`. In place of a text there may be
//! a constant of the same crate. Whatever else is given to a parameter `code` is a fault, because
//! nobody would notice the code behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::tokens::{Token, tokens, without_tests};

/// Crates that answer requests or reject events. What the ledger calls a code is the kind of a
/// transfer.
const CRATES: [&str; 6] = ["domain", "runtime", "ingest", "rater", "api", "cli"];
/// Statuses of the constructors of a problem, and of the names that one takes.
const STATUSES: [(&str, &str); 21] = [
    ("bad_request", "400"),
    ("unauthorized", "401"),
    ("forbidden", "403"),
    ("not_found", "404"),
    ("conflict", "409"),
    ("payload_too_large", "413"),
    ("unprocessable", "422"),
    ("too_many", "429"),
    ("unavailable", "503"),
    ("BAD_REQUEST", "400"),
    ("UNAUTHORIZED", "401"),
    ("PAYMENT_REQUIRED", "402"),
    ("FORBIDDEN", "403"),
    ("NOT_FOUND", "404"),
    ("METHOD_NOT_ALLOWED", "405"),
    ("CONFLICT", "409"),
    ("PAYLOAD_TOO_LARGE", "413"),
    ("UNSUPPORTED_MEDIA_TYPE", "415"),
    ("INTERNAL_SERVER_ERROR", "500"),
    ("NOT_IMPLEMENTED", "501"),
    ("SERVICE_UNAVAILABLE", "503"),
];

/// The codes of the sources.
#[derive(Debug, Default)]
pub struct Codes {
    /// Where each stands.
    pub places: BTreeMap<String, BTreeSet<String>>,
    /// The statuses with which each is answered, as far as they stand beside it.
    pub statuses: BTreeSet<(String, String)>,
    /// Arguments of which it cannot be said what code they are.
    pub faults: Vec<String>,
}

/// A file as tokens, each with its line.
struct Source {
    name: String,
    tokens: Vec<(Token, usize)>,
}

/// Who takes a code: a function of a type or one of its own file, the number of the argument, and
/// whether it takes nothing but codes.
type Takers = BTreeMap<(String, String), BTreeSet<(usize, bool)>>;

/// Reads the codes of files, given by path and text.
pub fn codes(files: impl IntoIterator<Item = (String, String)>) -> Codes {
    let ours = |file: &str| {
        let (krate, rest) = file.split_once('/').unwrap_or_default();
        CRATES.contains(&krate)
            && rest.starts_with("src/")
            && rest.ends_with(".rs")
            && !rest.ends_with("tests.rs")
            && !rest.contains("/tests/")
    };
    let sources: Vec<Source> = files
        .into_iter()
        .filter(|(file, _)| ours(file))
        .map(|(name, text)| Source { tokens: without_tests(tokens(&text)), name })
        .collect();
    let (mut takers, mut constants) = (Takers::new(), BTreeMap::new());
    for source in &sources {
        source.find_takers(&mut takers);
        source.find_constants(&mut constants);
    }
    let mut codes = Codes::default();
    for source in &sources {
        source.find_codes(&takers, &constants, &mut codes);
    }
    codes
}

/// Codes that a document describes, with the statuses beside them: those in the first cell of the
/// rows of its tables.
pub fn described(document: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for line in document.lines() {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let (Some(first), Some(status)) = (cells.next(), cells.next()) else { continue };
        for code in first.split('`').skip(1).step_by(2) {
            let statuses = found.entry(code.to_owned()).or_default();
            statuses.push_str(status);
            statuses.push(' ');
        }
    }
    found
}

/// Whether a text has the form of a code.
fn is_code(text: &str) -> bool {
    text.len() > 3
        && text.starts_with(|char: char| char.is_ascii_lowercase())
        && text.chars().all(|char| char.is_ascii_lowercase() || "_0123456789".contains(char))
}

fn is_constant(word: &str) -> bool {
    word.len() > 1
        && word.chars().all(|char| char.is_ascii_uppercase() || "_0123456789".contains(char))
}

impl Source {
    fn at(&self, number: usize) -> &Token {
        self.tokens.get(number).map_or(&Token::Other, |(token, _)| token)
    }

    fn before(&self, number: usize, back: usize) -> &Token {
        number.checked_sub(back).map_or(&Token::Other, |number| self.at(number))
    }

    fn krate(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    fn place(&self, number: usize) -> String {
        format!("{}:{}", self.name, self.tokens.get(number).map_or(0, |(_, line)| *line))
    }

    /// The number of the bracket that closes the one at `open`.
    fn close(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for number in open..self.tokens.len() {
            match self.at(number) {
                Token::Sign('(' | '[' | '{') => depth += 1,
                Token::Sign(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return number;
            }
        }
        self.tokens.len()
    }

    /// What stands between commas of `range`, but not in brackets.
    fn parts(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let (mut parts, mut begin, mut number) = (Vec::new(), range.start, range.start);
        while number < range.end {
            match self.at(number) {
                Token::Sign('(' | '[' | '{') => number = self.close(number),
                Token::Sign(',') => {
                    parts.push(begin..number);
                    begin = number + 1;
                }
                _ => {}
            }
            number += 1;
        }
        if begin < range.end {
            parts.push(begin..range.end);
        }
        parts
    }

    /// Parameters: of [`Source::parts`] those together that a comma of a type has cut.
    fn parameters(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut parameters: Vec<Range<usize>> = Vec::new();
        let mut depth = 0_usize;
        for part in self.parts(range) {
            match parameters.last_mut().filter(|_| depth > 0) {
                Some(last) => last.end = part.end,
                None => parameters.push(part.clone()),
            }
            for at in part {
                match self.at(at) {
                    Token::Sign('<') => depth += 1,
                    Token::Sign('>') if !self.before(at, 1).is('-') => {
                        depth = depth.saturating_sub(1);
                    }
                    _ => {}
                }
            }
        }
        parameters
    }

    /// The type whose `impl` a function stands in.
    fn owner(&self, number: usize) -> Option<String> {
        let mut begin = 0;
        while begin < number {
            if self.at(begin).word() == Some("impl") {
                let open = (begin..self.tokens.len()).find(|at| self.at(*at).is('{'))?;
                let close = self.close(open);
                if (open..close).contains(&number) {
                    let is_for = |at: &usize| self.at(*at).word() == Some("for");
                    let from = (begin..open).find(is_for).unwrap_or(begin) + 1;
                    let mut words = (from..open).filter_map(|at| self.at(at).word());
                    return words.next().map(str::to_owned);
                }
                begin = open;
            }
            begin += 1;
        }
        None
    }

    /// Functions with a parameter `code` that is a text, and closures with one that is called
    /// `code` or `reason`.
    fn find_takers(&self, takers: &mut Takers) {
        for number in 0..self.tokens.len() {
            let named = |range: &Range<usize>, names: &[&str]| {
                self.at(range.start).word().is_some_and(|word| names.contains(&word))
            };
            let word = self.at(number).word();
            if let (Some("fn"), Some(name)) = (word, self.at(number + 1).word()) {
                let Some(open) = (number..self.tokens.len()).find(|at| self.at(*at).is('(')) else {
                    continue;
                };
                let parts = self.parameters(open + 1..self.close(open));
                let has_self = parts
                    .first()
                    .is_some_and(|part| part.clone().any(|at| self.at(at).word() == Some("self")));
                for (index, part) in parts.iter().enumerate() {
                    let text = part.clone().any(|at| self.at(at).word() == Some("str"));
                    if named(part, &["code"]) && text {
                        let of = self.owner(number).unwrap_or_else(|| self.name.clone());
                        let index = index - usize::from(has_self);
                        takers.entry((of, name.to_owned())).or_default().insert((index, true));
                    }
                }
            }
            if let (Some("let"), Some(name)) = (word, self.at(number + 1).word())
                && self.at(number + 2).is('=')
                && self.at(number + 3).is('|')
            {
                let end = (number + 4..self.tokens.len()).find(|at| self.at(*at).is('|'));
                let parts = self.parameters(number + 4..end.unwrap_or(number + 4));
                for (index, part) in parts.iter().enumerate() {
                    if named(part, &["code", "reason"]) {
                        let of = (self.name.clone(), name.to_owned());
                        takers.entry(of).or_default().insert((index, named(part, &["code"])));
                    }
                }
            }
        }
    }

    fn find_constants(&self, constants: &mut BTreeMap<(String, String), String>) {
        for number in 0..self.tokens.len() {
            let name = self.at(number + 1).word();
            if let (Some("const" | "static"), Some(name)) = (self.at(number).word(), name) {
                let end = (number..self.tokens.len()).find(|at| self.at(*at).is(';'));
                let value = (number..end.unwrap_or(number)).find_map(|at| match self.at(at) {
                    Token::Text(text) => Some(text.clone()),
                    _ => None,
                });
                if let Some(value) = value {
                    constants.insert((self.krate().to_owned(), name.to_owned()), value);
                }
            }
        }
    }

    fn find_codes(
        &self,
        takers: &Takers,
        constants: &BTreeMap<(String, String), String>,
        codes: &mut Codes,
    ) {
        let text_at = |number: usize| match self.at(number) {
            Token::Text(text) => Some(text.clone()),
            Token::Word(word) if is_constant(word) => {
                constants.get(&(self.krate().to_owned(), word.clone())).cloned()
            }
            _ => None,
        };
        let mut add = |number: usize, text: String| {
            codes.places.entry(text).or_default().insert(self.place(number));
        };
        for number in 0..self.tokens.len() {
            let Some(word) = self.at(number).word() else { continue };
            // A field of a value, which may be optional.
            let field = matches!(word, "code" | "reason")
                && self.at(number + 1).is(':')
                && !self.at(number + 2).is(':');
            if field {
                let optional = self.at(number + 2).word() == Some("Some");
                let value = number + if optional { 4 } else { 2 };
                if let Some(text) = text_at(value).filter(|text| is_code(text)) {
                    add(number, text);
                }
            }
            // The body of a function `code`.
            if word == "code" && self.before(number, 1).word() == Some("fn") {
                let open = (number..self.tokens.len()).find(|at| self.at(*at).is('{'));
                let open = open.unwrap_or(number);
                for at in open..self.close(open) {
                    if let Some(text) = text_at(at) {
                        add(at, text);
                    }
                }
            }
            // A variable `code`, alone or in a tuple.
            if word == "let" {
                for (at, text) in self.variable(number, &text_at) {
                    add(at, text);
                }
            }
        }
        for number in 0..self.tokens.len() {
            let Some(word) = self.at(number).word() else { continue };
            if !self.at(number + 1).is('(') || self.before(number, 1).word() == Some("fn") {
                continue;
            }
            let qualified = self.before(number, 1).is(':') && self.before(number, 2).is(':');
            let of = match self.before(number, 3).word() {
                Some("Self") if qualified => self.owner(number).unwrap_or_default(),
                Some(of) if qualified => of.to_owned(),
                _ => self.name.clone(),
            };
            let Some(indices) = takers.get(&(of, word.to_owned())) else { continue };
            let arguments = self.parts(number + 2..self.close(number + 1));
            for (index, strict) in indices {
                let Some(argument) = arguments.get(*index) else { continue };
                let words = |range: &Range<usize>| -> Vec<String> {
                    let words = range.clone().filter_map(|at| self.at(at).word());
                    words.map(str::to_owned).collect()
                };
                let alone = argument.len() == 1;
                let text = text_at(argument.start).filter(|_| alone);
                if let Some(text) = text.filter(|text| is_code(text)) {
                    let status = arguments.first().and_then(|first| words(first).pop());
                    let status = STATUSES.iter().find(|(name, _)| {
                        *name == word || word == "new" && status.as_deref() == Some(*name)
                    });
                    if let Some((_, status)) = status {
                        codes.statuses.insert((text.clone(), (*status).to_owned()));
                    }
                    codes.places.entry(text).or_default().insert(self.place(number));
                } else if *strict && words(argument).last().is_none_or(|last| last != "code") {
                    // What is called so was found where it was made.
                    codes.faults.push(format!("{}: {word}", self.place(number)));
                }
            }
        }
    }

    /// Codes among the values of a `let` that names a variable `code`.
    fn variable(
        &self,
        number: usize,
        text_at: &dyn Fn(usize) -> Option<String>,
    ) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let (index, begin) = if self.at(number + 1).is('(') {
            let close = self.close(number + 1);
            let parts = self.parts(number + 2..close);
            let is_code =
                |part: &Range<usize>| part.len() == 1 && self.at(part.start).word() == Some("code");
            let Some(index) = parts.iter().position(is_code) else { return found };
            (Some(index), close + 1)
        } else if self.at(number + 1).word() == Some("code") {
            (None, number + 2)
        } else {
            return found;
        };
        let mut end = begin;
        while end < self.tokens.len() && !self.at(end).is(';') {
            end = if matches!(self.at(end), Token::Sign('(' | '[' | '{')) {
                self.close(end) + 1
            } else {
                end + 1
            };
        }
        for at in begin..end {
            let value = self.before(at, 1);
            let arrow = value.is('>') && self.before(at, 2).is('=');
            let is_value = arrow || value.is('{') || value.is('=');
            match index {
                None if is_value => found.extend(text_at(at).map(|text| (at, text))),
                Some(index) if is_value && self.at(at).is('(') => {
                    let parts = self.parts(at + 1..self.close(at));
                    let part = parts.get(index).filter(|part| part.len() == 1);
                    let text = part.and_then(|part| text_at(part.start));
                    found.extend(text.map(|text| (at, text)));
                }
                _ => {}
            }
        }
        found
    }
}
