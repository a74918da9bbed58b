//! Tokens as apps sign them, without any of our own code.

use ring::hmac;
use runtime::task::now_us;

/// Base64 for URLs, without padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = (0..3)
            .fold(0_u32, |sum, at| (sum << 8) | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for place in 0..=chunk.len() {
            let digit = (number >> (18 - 6 * place)) & 63;
            text.push(char::from(DIGITS[usize::try_from(digit).unwrap_or(0)]));
        }
    }
    text
}

/// A token of these texts, whatever they are.
pub fn sign(header: &str, claims: &str, key: &[u8]) -> String {
    let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
    format!("{message}.{}", base64(tag.as_ref()))
}

/// Seconds since 1970 UTC.
pub fn now_s() -> i64 {
    now_us() / 1_000_000
}
