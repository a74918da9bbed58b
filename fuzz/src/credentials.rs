//! API keys, tokens, and cursors of lists.

use domain::token::{Claims, Unverified};
use ring::hmac;
use runtime::keys::{self, Token};

use crate::world::NOW_US;

const SECRET: &[u8] = b"a secret of thirty-two characters";

/// A key that is read names its id and nothing of its secret.
pub fn api_key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = keys::is_token(text);
    let Ok(key) = keys::parse(text) else { return };
    assert_eq!(text[keys::PREFIX.len()..].split('_').next(), Some(key.id.as_str()));
    let secret = text.split('_').nth(3).expect("a key has a secret");
    assert_eq!(keys::hash(secret), key.secret_hash);
    assert!(!format!("{key:?}").contains(secret));
}

/// A token as it comes: read, and believed only if it was signed.
pub fn token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(token) = Token::read(text) else { return };
    let _ = token.unverified::<Unverified>();
    let verified = token.verify::<Claims>(SECRET).ok();
    if let Some(claims) = &verified {
        check(claims);
    }
    if verified.is_some() || token.verify::<serde_json::Value>(SECRET).is_ok() {
        assert_eq!(text, signed(&parts(text)), "only our secret signs");
    }
}

fn parts(text: &str) -> String {
    text.rsplit_once('.').map_or(String::new(), |(signed, _)| signed.to_owned())
}

/// Header and claims, each a line, signed as an app does.
pub fn signed_token(input: &[u8]) {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(claims)) = (lines.next(), lines.next()) else { return };
    let text = signed(&format!("{}.{}", encoded(header), encoded(claims)));
    token(text.as_bytes());
    if let Ok(token) = Token::read(&text) {
        assert!(token.verify::<Claims>(b"another secret").is_err());
        let _ = token.key_id();
    }
}

fn check(claims: &Claims) {
    let _ = claims.check(NOW_US);
    let granted = claims.granted(&["events:write".to_owned()]);
    assert!(granted.iter().all(|scope| scope == "events:write"), "{granted:?}");
    let _ = claims.granted(&["*".to_owned()]);
}

fn signed(parts: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    format!("{parts}.{}", encoded(hmac::sign(&key, parts.as_bytes()).as_ref()))
}

/// Base 64 for addresses, without padding.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=group.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(char::from(DIGITS[usize::try_from(digit).unwrap_or(0)]));
        }
    }
    text
}

/// A cursor that is read is written as one that says the same.
pub fn cursor(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for parts in 0..4 {
        let Some(read) = api::outside::cursor(text, parts) else { continue };
        assert_eq!(read.len(), parts);
        assert_eq!(api::outside::cursor(&api::outside::cursor_of(&read), parts), Some(read));
    }
}
