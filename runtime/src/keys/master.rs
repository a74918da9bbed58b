//! The master key: secrets that have to be known in clear are stored in envelopes under it.
//!
//! A secret is encrypted under a data key of its own, and the data key under the master key; both by
//! AES-256-GCM with a random nonce, bound to a context (whose secret it is), so that a stored secret
//! cannot be moved to another row. Several master keys may be given while one is replaced: the
//! first encrypts, all decrypt, and each stored secret says which one it needs.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use crate::config::Secret;

/// Bytes of a master key, written as twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;
/// Bytes of a data key with its nonce, encrypted.
const WRAPPED_BYTES: usize = NONCE_LEN + KEY_BYTES + MAX_TAG_LEN;

/// What the settings say of the master key is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a master key; give 64 hexadecimal digits, or several such keys with commas, the newest first"
)]
pub struct MasterKeyError;

/// Why a secret cannot be stored or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It needs a master key that was not given.
    #[error("the secret is encrypted under a master key that this process has not")]
    KeyMissing,
    /// It was changed, cut off, or belongs elsewhere.
    #[error("the stored secret is damaged or belongs elsewhere")]
    Damaged,
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    Randomness,
}

/// The master keys of a process, at least one.
pub struct MasterKeys {
    newest: MasterKey,
    older: Vec<MasterKey>,
}

struct MasterKey {
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MasterKeys")
            .field("newest", &self.newest.id)
            .finish_non_exhaustive()
    }
}

impl MasterKeys {
    /// Reads them; `None` where none is set.
    pub fn parse(text: &Secret) -> Result<Option<Self>, MasterKeyError> {
        if text.is_empty() {
            return Ok(None);
        }
        let mut keys = text.expose().split(',').map(|one| MasterKey::parse(one.trim()));
        let newest = keys.next().ok_or(MasterKeyError)??;
        let older = keys.collect::<Result<_, _>>()?;
        Ok(Some(Self { newest, older }))
    }

    /// The id of the key that encrypts: derived from it, and says nothing about it.
    pub fn newest_id(&self) -> &str {
        &self.newest.id
    }

    /// Encrypts `plain` under a new data key, and that under the newest key; only the same `context`
    /// decrypts them.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut data_key = [0_u8; KEY_BYTES];
        getrandom::fill(&mut data_key).map_err(|_| SealError::Randomness)?;
        let wrapped = encrypt(&self.newest.key, &for_data_key(context), &data_key)?;
        Ok([wrapped, encrypt(&key_of(&data_key)?, context, plain)?].concat())
    }

    /// Decrypts what [`MasterKeys::seal`] gave with the key `id` as the newest.
    pub fn open(&self, id: &str, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = std::iter::once(&self.newest).chain(&self.older).find(|key| key.id == id);
        let key = key.ok_or(SealError::KeyMissing)?;
        // Those from before there were data keys are encrypted under the master key itself.
        unwrap(&key.key, context, sealed).or_else(|_| decrypt(&key.key, context, sealed))
    }
}

/// Another context than that of a secret: a data key can not be taken for one.
fn for_data_key(context: &[u8]) -> Vec<u8> {
    [b"data key of ", context].concat()
}

/// Decrypts the data key, and by it the secret.
fn unwrap(key: &LessSafeKey, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (wrapped, text) = sealed.split_at_checked(WRAPPED_BYTES).ok_or(SealError::Damaged)?;
    let data_key = decrypt(key, &for_data_key(context), wrapped)?;
    decrypt(&key_of(&data_key)?, context, text)
}

fn key_of(bytes: &[u8]) -> Result<LessSafeKey, SealError> {
    let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::Damaged)?;
    Ok(LessSafeKey::new(key))
}

/// A random nonce, and what it encrypts.
fn encrypt(key: &LessSafeKey, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0_u8; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|_| SealError::Randomness)?;
    let mut text = plain.to_vec();
    let sealing = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(sealing, Aad::from(context), &mut text)
        .map_err(|_| SealError::Damaged)?;
    Ok([nonce.as_slice(), text.as_slice()].concat())
}

fn decrypt(key: &LessSafeKey, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key.open_in_place(nonce, Aad::from(context), &mut text);
    opened.map(|plain| plain.to_vec()).map_err(|_| SealError::Damaged)
}

impl MasterKey {
    fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(MasterKeyError);
        }
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let bytes = bytes.ok_or(MasterKeyError)?;
        let id = Sha256::new().chain_update(b"weir master key id").chain_update(&bytes).finalize();
        let id = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| MasterKeyError)?;
        Ok(Self { id, key: LessSafeKey::new(key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Option<MasterKeys>, MasterKeyError> {
        MasterKeys::parse(&Secret::new(text))
    }

    #[test]
    fn a_secret_comes_back_in_its_place_alone() {
        let (one, two) = ("1a".repeat(32), "2B".repeat(32));
        let old = keys(&one).unwrap().unwrap();
        let sealed = old.seal(b"here", b"secret").unwrap();
        assert_ne!(sealed, old.seal(b"here", b"secret").unwrap(), "nonces are random");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        let both = keys(&format!("{two}, {one}")).unwrap().unwrap();
        assert_ne!(both.newest_id(), old.newest_id());
        assert_eq!(both.open(old.newest_id(), b"here", &sealed).unwrap(), b"secret");
        let new = keys(&two).unwrap().unwrap();
        assert_eq!(new.open(old.newest_id(), b"here", &sealed), Err(SealError::KeyMissing));
        assert_eq!(new.open(new.newest_id(), b"here", &sealed), Err(SealError::Damaged));
        assert_eq!(old.open(old.newest_id(), b"there", &sealed), Err(SealError::Damaged));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(old.open(old.newest_id(), b"here", &changed), Err(SealError::Damaged));
            assert_eq!(old.open(old.newest_id(), b"here", &sealed[..at]), Err(SealError::Damaged));
        }
    }

    #[test]
    fn a_secret_from_before_there_were_data_keys_opens() {
        let keys = keys(&"1a".repeat(32)).unwrap().unwrap();
        for secret in [b"secret".as_slice(), &[7; 200]] {
            let sealed = encrypt(&keys.newest.key, b"here", secret).unwrap();
            assert_eq!(keys.open(keys.newest_id(), b"here", &sealed).unwrap(), secret);
            let elsewhere = keys.open(keys.newest_id(), b"there", &sealed);
            assert_eq!(elsewhere, Err(SealError::Damaged));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_no_key_is_printed() {
        assert!(keys("").unwrap().is_none());
        let good = "1a".repeat(32);
        for bad in ["x", &good[1..], &format!("{good},"), &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(keys(bad).unwrap_err(), MasterKeyError, "{bad}");
        }
        assert!(!format!("{:?}", keys(&good).unwrap()).contains("1a1a"));
    }
}
