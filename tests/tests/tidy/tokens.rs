//! Rust as tokens: enough to tell a text from a comment, and a name from both.

/// A piece of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name, or a word of the language.
    Word(String),
    /// What stands between quotes.
    Text(String),
    /// A lifetime, a number or a character: nothing that matters here.
    Other,
    /// Any other character.
    Sign(char),
}

impl Token {
    /// The word that it is.
    pub fn word(&self) -> Option<&str> {
        if let Token::Word(word) = self { Some(word) } else { None }
    }

    /// Whether it is this sign.
    pub fn is(&self, sign: char) -> bool {
        *self == Token::Sign(sign)
    }
}

/// Leaves out what is compiled for tests only.
pub fn without_tests(tokens: Vec<(Token, usize)>) -> Vec<(Token, usize)> {
    let begins = |at: usize| {
        let words = ["cfg", "(", "test", ")", "]"];
        tokens.get(at).is_some_and(|(token, _)| token.is('['))
            && words.iter().enumerate().all(|(number, word)| {
                tokens.get(at + 1 + number).is_some_and(|(token, _)| match token {
                    Token::Word(found) => found == word,
                    Token::Sign(sign) => word.starts_with(*sign),
                    _ => false,
                })
            })
    };
    let (mut kept, mut number) = (Vec::new(), 0);
    while let Some(token) = tokens.get(number) {
        if !begins(number) {
            kept.push(token.clone());
            number += 1;
            continue;
        }
        // The item goes to a semicolon or to the end of its body.
        number += 6;
        let mut depth = 0_usize;
        while let Some((token, _)) = tokens.get(number) {
            number += 1;
            match token {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') if depth == 1 => break,
                Token::Sign('}') => depth -= 1,
                Token::Sign(';') if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Rust as tokens, each with its line, without comments.
pub fn tokens(text: &str) -> Vec<(Token, usize)> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, text);
    let inside = |char: char| char.is_alphanumeric() || char == '_';
    while let Some(first) = rest.chars().next() {
        let (length, token) = if first.is_whitespace() {
            (first.len_utf8(), None)
        } else if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), None)
        } else if let Some((length, text)) = string(rest) {
            (length, Some(Token::Text(text)))
        } else if first == '\'' {
            (character(rest), Some(Token::Other))
        } else if first.is_ascii_digit() {
            (rest.find(|char| !inside(char)).unwrap_or(rest.len()), Some(Token::Other))
        } else if inside(first) {
            let length = rest.find(|char| !inside(char)).unwrap_or(rest.len());
            (length, Some(Token::Word(rest[..length].to_owned())))
        } else {
            (first.len_utf8(), Some(Token::Sign(first)))
        };
        tokens.extend(token.map(|token| (token, line)));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// A string at the beginning of `rest`: its length with all that belongs to it, and what is in it.
fn string(rest: &str) -> Option<(usize, String)> {
    let plain = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inside = raw[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = inside.find(&close)?;
        let before = rest.len() - inside.len();
        return Some((before + end + close.len(), inside[..end].to_owned()));
    }
    let inside = plain.strip_prefix('"')?;
    let mut escaped = false;
    let end = inside.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    })?;
    Some((rest.len() - inside.len() + end + 1, inside[..end].to_owned()))
}

/// The length of a character or of a lifetime.
fn character(rest: &str) -> usize {
    let inside = &rest[1..];
    if let Some(escape) = inside.strip_prefix('\\') {
        let skipped = escape.chars().next().map_or(0, char::len_utf8);
        return escape[skipped..].find('\'').map_or(rest.len(), |end| 2 + skipped + end + 1);
    }
    let mut chars = inside.char_indices();
    let first = chars.next().map_or(0, |(_, char)| char.len_utf8());
    match chars.next() {
        Some((_, '\'')) => 1 + first + 1,
        _ => {
            let word = |char: char| char.is_alphanumeric() || char == '_';
            1 + inside.find(|char| !word(char)).unwrap_or(inside.len())
        }
    }
}
