//! Signed tokens (JWT) with one algorithm: HMAC-SHA256.
//!
//! [`Token::read`] refuses whatever is not of the one plain form before anybody looks anything up:
//! a header is `alg` HS256, perhaps `typ` JWT and perhaps `kid`, and nothing else. Keys, addresses
//! of keys, encryption, compression and `crit` in a header are refused, never followed. What the
//! claims mean is not known here.

use std::{collections::BTreeSet, fmt, sync::LazyLock};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    dangerous::insecure_decode_claims,
    decode, decode_header,
    errors::{Error as JwtError, ErrorKind},
    signature::{self, Verifier},
};
use ring::hmac;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::http::Problem;

/// Bytes of a token: a claim of 256 bytes in each of its texts fits many times.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts, too long, or a header or claims that cannot be read.
    #[error("the token is not a JWT of one header, claims and signature, or longer than 4 KiB")]
    Malformed,
    /// Another algorithm, or a header that asks for more.
    #[error("the token's header has more than `alg` HS256, `typ` JWT and `kid`")]
    Header,
    /// The claims have other types, or one of them is there twice.
    #[error("a claim of the token is missing, there twice, or of another type")]
    Claims,
    /// Nobody whom we know signed it.
    #[error("the token was signed by no secret that is known")]
    Unknown,
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let (code, action) = match error {
            TokenError::Malformed => ("token_malformed", "send the token whole, as it was signed"),
            TokenError::Header => {
                ("token_header", "sign with HS256 and leave other members of the header out")
            }
            TokenError::Claims => ("token_claims", "send the claims app, scopes, iat and exp once"),
            TokenError::Unknown => {
                ("token_unknown", "check the app and its secret, and that neither has ended")
            }
        };
        Problem::unauthorized(code, error.to_string(), action)
    }
}

/// A text of the right form, whose signature nobody has checked yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Token<'a> {
    text: &'a str,
    key_id: Option<String>,
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Token").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Whether a credential is meant as a token: API keys have no points.
pub fn is_token(credential: &str) -> bool {
    credential.contains('.')
}

impl<'a> Token<'a> {
    /// Reads the form of a token.
    pub fn read(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX || text.split('.').count() != 3 {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(text).map_err(|error| match error.kind() {
            // An algorithm that the library has never heard of, `none` among them.
            ErrorKind::Json(_) => TokenError::Header,
            _ => TokenError::Malformed,
        })?;
        let plain = Header { typ: header.typ.clone(), ..Header::new(Algorithm::HS256) };
        let plain = Header { kid: header.kid.clone(), ..plain };
        let typ = header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
        if header != plain || !typ {
            return Err(TokenError::Header);
        }
        let token = Self { text, key_id: header.kid };
        token.unverified::<IgnoredAny>()?;
        Ok(token)
    }

    /// The id of the secret that it names, if it names one.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Its claims, of which nothing is known to be true: good for finding the secret.
    pub fn unverified<T: DeserializeOwned>(&self) -> Result<T, TokenError> {
        match insecure_decode_claims::<Once<T>>(self.text) {
            Ok(Once(claims)) => Ok(claims),
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => Err(TokenError::Claims),
            Err(_) => Err(TokenError::Malformed),
        }
    }

    /// Its claims, if `secret` signed it; [`TokenError::Unknown`] if it did not. Times are not
    /// looked at.
    pub fn verify<T: DeserializeOwned>(&self, secret: &[u8]) -> Result<T, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        LazyLock::force(&INSTALLED);
        match decode::<Once<T>>(self.text, &DecodingKey::from_secret(secret), &validation) {
            Ok(data) => Ok(data.claims.0),
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => Err(TokenError::Claims),
            Err(_) => Err(TokenError::Unknown),
        }
    }
}

/// An object whose members are each there once.
struct Once<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Once<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, serde_json::Value)>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut members, mut names) = (Vec::new(), BTreeSet::new());
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom("a member is there twice"));
                    }
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        let members = from.deserialize_map(Members)?;
        let map = serde::de::value::MapDeserializer::new(members.into_iter());
        T::deserialize(MapAccessDeserializer::new(map))
            .map(Once)
            .map_err(|error: serde_json::Error| serde::de::Error::custom(error))
    }
}

/// The library's cryptography for the process: verifying HS256, and nothing else at all.
static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    // It fails only when somebody installed another one, which then decides; nobody does.
    let _ = PROVIDER.install_default();
});

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, JwtError> {
    if *algorithm != Algorithm::HS256 {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?);
    Ok(Box::new(Hs256(key)))
}

struct Hs256(hmac::Key);

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// RFC 7515, appendix A.1: another implementation's token.
    const KEY: &str = "0323354b2b0fa5bc837e0665777ba68f5ab328e6f054c928a90f84b2d2502ebfd3fb5a92d20647ef968ab4c377623d223d2e2172052e4f08c0cd9af567d080a3";
    const TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn key() -> Vec<u8> {
        (0..KEY.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&KEY[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn the_example_of_the_standard_verifies_and_nothing_near_it() {
        let token = Token::read(TOKEN).unwrap();
        let claims: Value = token.verify(&key()).unwrap();
        assert_eq!(claims["iss"], json!("joe"));
        assert_eq!(token.verify::<Value>(&key()[1..]), Err(TokenError::Unknown));
        assert_eq!(token.verify::<Value>(b""), Err(TokenError::Unknown));
        for at in 0..TOKEN.len() {
            for by in ["A", "B", "-", "=", "."] {
                let changed = format!("{}{by}{}", &TOKEN[..at], &TOKEN[at + 1..]);
                let verified =
                    Token::read(&changed).and_then(|token| token.verify::<Value>(&key()));
                assert_eq!(verified.is_ok(), changed == TOKEN, "{changed}");
            }
            assert!(
                Token::read(&TOKEN[..at]).and_then(|token| token.verify::<Value>(&key())).is_err()
            );
        }
    }

    #[test]
    fn texts_of_any_kind_are_refused() {
        for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30.e30.e30", "é.é.é"] {
            assert!(Token::read(text).is_err(), "{text}");
        }
        assert_eq!(Token::read(&"a.".repeat(40_000)), Err(TokenError::Malformed));
    }
}
