//! What a client reports: limits, identity and content of an event.
//!
//! The identity says which events are the same one (design section 5); the content hash says
//! whether they say the same thing. Neither contains the time.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{money::split_number, wire::record::AttributeKind};

pub mod member;

/// Bytes of one event as sent.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of id, source, type, subject, user and feature each.
pub const FIELD_BYTES_MAX: usize = 256;
/// Levels of nesting of `data`.
pub const NESTING_MAX: usize = 32;
/// Scalars in `data`: what one meter could ever look at, and a bound on a record's size.
pub const ATTRIBUTES_MAX: usize = 1_024;
/// Bytes of all JSON pointers of one event together.
pub const POINTER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request body after decompression.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events of one request.
pub const EVENTS_MAX: usize = 10_000;

/// What the sources of a backfill's events begin with; the backfill's key follows.
pub const BACKFILL_SOURCE: &str = "backfill:";

/// The installation's key of identities; made once and kept with it.
#[derive(Clone, Copy)]
pub struct IdentityKey(pub [u8; 16]);

/// What identifies an event.
#[derive(Clone, Copy, Debug)]
pub struct IdentityParts<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// The subject as the client sent it, before aliases.
    pub subject: &'a str,
    /// The source as the client sent it.
    pub source: &'a str,
    /// The client's id.
    pub id: &'a str,
}

impl IdentityKey {
    /// The identity: SipHash-2-4 of 128 bits over tenant, subject, source without version, and id,
    /// each behind its length.
    #[must_use]
    pub fn identity(&self, parts: &IdentityParts<'_>) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(parts.tenant.as_bytes());
        for text in [parts.subject, without_version(parts.source), parts.id] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        hasher.finish128().as_u128()
    }

    /// The identity of an event that was moved to another team of its own partition, where its first identity stays
    /// taken: that of a subject which no client can send.
    #[must_use]
    pub fn moved(&self, parts: &IdentityParts<'_>) -> u128 {
        let subject = format!("{}\0moved", parts.subject);
        self.identity(&IdentityParts { subject: &subject, ..*parts })
    }
}

/// A source without a trailing `/version`: `my-tool/1.2.0` is `my-tool`. A version is an optional
/// `v`, then a digit, then digits, letters, dots, plus, minus or underscore.
#[must_use]
pub fn without_version(source: &str) -> &str {
    let Some((name, version)) = source.rsplit_once('/') else { return source };
    let digits = version.strip_prefix('v').unwrap_or(version);
    let is_version = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|char| char.is_ascii_alphanumeric() || ".+-_".contains(char));
    if is_version && !name.is_empty() { name } else { source }
}

/// The content hash: type, subject, and every scalar of `data` under its JSON pointer. The order of
/// members does not matter, nor how a number or an escape is written.
#[derive(Clone)]
pub struct ContentHasher {
    sum: u64,
    /// What is hashed of one scalar.
    scalar: Scalar,
}

/// Pointer and value of a scalar; most are shorter than this and need no memory of their own.
type Scalar = SmallVec<[u8; 128]>;

impl ContentHasher {
    /// Begins with what is not in `data`.
    #[must_use]
    pub fn new(event_type: &str, subject: &str) -> ContentHasher {
        let (first, second) = (xxh3_64(event_type.as_bytes()), xxh3_64(subject.as_bytes()));
        ContentHasher {
            sum: first.rotate_left(1).wrapping_add(second.rotate_left(2)),
            scalar: Scalar::new(),
        }
    }

    /// Adds a scalar; `bytes` is its text, a string's without quotes.
    pub fn scalar(&mut self, pointer: &str, kind: AttributeKind, bytes: &[u8]) {
        self.scalar.clear();
        self.scalar.extend_from_slice(pointer.as_bytes());
        put_value(kind, bytes, &mut self.scalar);
        self.sum = self.sum.wrapping_add(xxh3_64(&self.scalar));
    }

    /// The hash.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.sum
    }
}

/// Appends one scalar, so that equal values are equal bytes: `1.0` as `1`, `"\u0061"` as `"a"`.
fn put_value(kind: AttributeKind, bytes: &[u8], out: &mut Scalar) {
    let tag = if kind == AttributeKind::EscapedText { AttributeKind::Text } else { kind };
    out.extend_from_slice(&[0xff, tag as u8]);
    match kind {
        AttributeKind::Number => put_number(bytes, out),
        AttributeKind::EscapedText => out.extend_from_slice(unescape(bytes).as_bytes()),
        _ => out.extend_from_slice(bytes),
    }
}

/// Sign, decimals and digits, without zeros that say nothing.
fn put_number(bytes: &[u8], out: &mut Scalar) {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let Ok(number) = split_number(text) else { return out.extend_from_slice(bytes) };
    let begin = out.len();
    out.push(u8::from(number.negative));
    out.extend_from_slice(&[0; 8]);
    let digits_at = out.len();
    out.extend(number.digits());
    let all = out.len();
    while out.len() > digits_at && out.last() == Some(&0) {
        out.pop();
    }
    if out.len() == digits_at {
        out.truncate(begin);
        return out.push(b'0');
    }
    let dropped = i64::try_from(all.saturating_sub(out.len())).unwrap_or(0);
    let decimals = number.decimals.saturating_sub(dropped).to_le_bytes();
    if let Some(place) = out.get_mut(digits_at.saturating_sub(8)..digits_at) {
        place.copy_from_slice(&decimals);
    }
}

/// The text of a JSON string's inside with its escapes resolved.
#[must_use]
pub fn unescape(inside: &[u8]) -> String {
    let mut quoted = Vec::with_capacity(inside.len().saturating_add(2));
    quoted.push(b'"');
    quoted.extend_from_slice(inside);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).unwrap_or_else(|_| String::from_utf8_lossy(inside).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_loses_only_a_version() {
        for (source, want) in [
            ("my-tool/1.0.0", "my-tool"),
            ("my-tool/v2", "my-tool"),
            ("my-tool/1.0.0-rc.1+b5", "my-tool"),
            ("my-tool", "my-tool"),
            ("/1.0", "/1.0"),
            ("urn:a/b", "urn:a/b"),
            ("a/b/3", "a/b"),
            ("a/", "a/"),
            ("a/2 b", "a/2 b"),
        ] {
            assert_eq!(without_version(source), want, "{source}");
        }
    }

    #[test]
    fn identities_differ_in_every_part_and_nothing_else() {
        let key = IdentityKey([7; 16]);
        let tenant = Uuid::from_u128(1);
        let parts = IdentityParts { tenant, subject: "team", source: "tool/1.0", id: "1" };
        let identity = key.identity(&parts);
        assert_eq!(key.identity(&IdentityParts { source: "tool/2.0", ..parts }), identity);
        for other in [
            IdentityParts { tenant: Uuid::from_u128(2), ..parts },
            IdentityParts { subject: "team2", ..parts },
            IdentityParts { source: "tool2", ..parts },
            IdentityParts { id: "2", ..parts },
            IdentityParts { subject: "teamt", source: "ool", ..parts },
        ] {
            assert_ne!(key.identity(&other), identity, "{other:?}");
        }
        assert_ne!(IdentityKey([8; 16]).identity(&parts), identity);
    }

    #[test]
    fn content_is_what_is_said_not_how_it_is_written() {
        let hash = |scalars: &[(&str, AttributeKind, &str)]| {
            let mut hasher = ContentHasher::new("type", "team");
            for (pointer, kind, text) in scalars {
                hasher.scalar(pointer, *kind, text.as_bytes());
            }
            hasher.finish()
        };
        use AttributeKind::{EscapedText, Number, Text};
        assert_eq!(
            hash(&[("/a", Number, "1"), ("/b", Text, "x")]),
            hash(&[("/b", Text, "x"), ("/a", Number, "1.00")])
        );
        assert_eq!(hash(&[("/a", Number, "1200")]), hash(&[("/a", Number, "1.2e3")]));
        assert_eq!(hash(&[("/a", Number, "0")]), hash(&[("/a", Number, "-0.0e5")]));
        assert_eq!(hash(&[("/a", Text, "a")]), hash(&[("/a", EscapedText, "\\u0061")]));
        assert_ne!(hash(&[("/a", Number, "1")]), hash(&[("/a", Text, "1")]));
        assert_ne!(hash(&[("/a", Number, "12")]), hash(&[("/a", Number, "120")]));
        assert_ne!(hash(&[("/a", Number, "1")]), hash(&[("/b", Number, "1")]));
        assert_ne!(hash(&[("/a", Number, "1")]), hash(&[("/a", Number, "-1")]));
    }
}
