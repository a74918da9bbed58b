//! Credentials: API keys, signed tokens, and the key under which secrets are stored.
//!
//! API keys are made, read and compared without anybody seeing them twice.
//! `weir_live_<id>_<secret>_<checksum>`: the id (12 characters of base 62) is public and names the
//! row; the secret (32 characters, 190 bits) is stored only as its SHA-256; the checksum (6
//! characters) lets a mistyped or guessed key be refused without any look-up.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

mod master;
mod token;

pub use master::{MasterKeyError, MasterKeys, SealError};
pub use token::{TOKEN_BYTES_MAX, Token, TokenError, is_token};

/// What every key begins with.
pub const PREFIX: &str = "weir_live_";

/// Characters of the public id.
pub const ID_LENGTH: usize = 12;

const SECRET_LENGTH: usize = 32;
const CHECKSUM_LENGTH: usize = 6;
const KEY_LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + 1 + CHECKSUM_LENGTH;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text is not a key. None says anything about whether a key exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin like a key, or has another length or other characters.
    #[error("not an API key: it must look like weir_live_<id>_<secret>_<checksum>")]
    Malformed,
    /// It looks like a key, but was mistyped or cut off.
    #[error("the API key is mistyped: its checksum does not match")]
    Checksum,
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    Randomness,
}

/// A new key. The text is shown once; the id and the hash are stored.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The whole key.
    pub text: String,
    /// Its public id.
    pub id: String,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
}

impl fmt::Debug for NewKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A well-formed key as it was presented.
#[derive(Clone, PartialEq, Eq)]
pub struct ParsedKey {
    /// Its public id: look this up.
    pub id: String,
    /// SHA-256 of its secret: [`verify`] it against the one stored.
    pub secret_hash: [u8; 32],
}

impl fmt::Debug for ParsedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ParsedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes a key from the randomness of the operating system.
pub fn generate() -> Result<NewKey, KeyError> {
    Ok(compose(&random_text(ID_LENGTH)?, &random_text(SECRET_LENGTH)?))
}

/// Reads a key; refuses what cannot be one.
pub fn parse(text: &str) -> Result<ParsedKey, KeyError> {
    if text.len() != KEY_LENGTH {
        return Err(KeyError::Malformed);
    }
    let rest = text.strip_prefix(PREFIX).ok_or(KeyError::Malformed)?;
    let mut parts = rest.split('_');
    let (Some(id), Some(secret), Some(given), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(KeyError::Malformed);
    };
    let well_formed = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if !well_formed(id, ID_LENGTH)
        || !well_formed(secret, SECRET_LENGTH)
        || !well_formed(given, CHECKSUM_LENGTH)
    {
        return Err(KeyError::Malformed);
    }
    if !bool::from(checksum(id, secret).as_bytes().ct_eq(given.as_bytes())) {
        return Err(KeyError::Checksum);
    }
    Ok(ParsedKey { id: id.to_owned(), secret_hash: hash(secret) })
}

/// The public id that a credential names, if it is well-formed: that of an API key, or of the secret
/// that signed a token. It says nothing about whether either exists.
pub fn public_id(text: &str) -> Option<String> {
    if is_token(text) {
        return Some(Token::read(text).ok()?.key_id()?.to_owned());
    }
    parse(text).ok().map(|key| key.id)
}

/// SHA-256 of a secret. A secret of 190 random bits needs no slow hash.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Compares two hashes in constant time. The stored one is bytes from a database, so any length.
pub fn verify(presented: &[u8; 32], stored: &[u8]) -> bool {
    presented.as_slice().ct_eq(stored).into()
}

/// `length` random characters of base 62, each equally likely.
pub fn random_text(length: usize) -> Result<String, KeyError> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0_u8; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(|_| KeyError::Randomness)?;
        // 248 = 4 * 62: larger bytes would make some characters more likely than others.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let missing = length - text.len();
        text.extend(fair.map(|byte| character(u32::from(*byte))).take(missing));
    }
    Ok(text)
}

fn compose(id: &str, secret: &str) -> NewKey {
    let text = format!("{PREFIX}{id}_{secret}_{}", checksum(id, secret));
    NewKey { text, id: id.to_owned(), secret_hash: hash(secret) }
}

/// Six characters (35 bits) of SHA-256 over everything before the checksum.
fn checksum(id: &str, secret: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(format!("{PREFIX}{id}_{secret}").as_bytes()).into();
    let mut number = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let mut text = String::with_capacity(CHECKSUM_LENGTH);
    for _ in 0..CHECKSUM_LENGTH {
        text.push(character(u32::try_from(number % 62).unwrap_or_default()));
        number /= 62;
    }
    text
}

fn character(number: u32) -> char {
    let index = usize::try_from(number % 62).unwrap_or_default();
    ALPHABET.get(index).map_or('0', |byte| char::from(*byte))
}

#[cfg(test)]
mod tests;
