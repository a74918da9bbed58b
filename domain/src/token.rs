//! What an app may say in a token that it signs, and for how long it holds.
//!
//! The signature is checked before anything here is believed; only [`Unverified`] is read earlier,
//! to find the secret. A token has a short life and may be used again within it.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::event::FIELD_BYTES_MAX;

/// Seconds between `iat` and `exp` (INV-24).
pub const LIFETIME_S: RangeInclusive<i64> = 60..=300;
/// Seconds by which the clock of the signer may differ from ours.
pub const LEEWAY_S: i64 = 10;
/// What `aud` holds, where it is there.
pub const AUDIENCE: &str = "weir";
/// Scopes of one token.
pub const SCOPES_MAX: usize = 32;
/// The scope that stands for all that the secret may give.
const SCOPE_ALL: &str = "*";

/// What an app's secret is bound to where it is stored encrypted: it cannot stand in another row.
#[must_use]
pub fn secret_context(tenant: Uuid, secret_id: &str) -> Vec<u8> {
    [tenant.as_bytes().as_slice(), secret_id.as_bytes()].concat()
}

/// The one claim that is read before the signature: whose secret to try.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Unverified {
    /// The app that claims to have signed.
    #[serde(alias = "appId")]
    pub app: String,
}

/// The claims of a token whose signature is good. A claim of another type is refused, and so is
/// one that is there under both its names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The app that signed.
    #[serde(alias = "appId")]
    pub app: String,
    /// The only team that the token is for; absent for all.
    #[serde(alias = "teamId", default, deserialize_with = "present")]
    pub team: Option<String>,
    /// What it asks for: a list, or words in one text.
    #[serde(alias = "scope", deserialize_with = "scopes")]
    pub scopes: Vec<String>,
    /// When it was signed, in seconds since 1970 UTC.
    pub iat: i64,
    /// When it ends, in seconds since 1970 UTC.
    pub exp: i64,
    /// From when on it holds, in seconds since 1970 UTC.
    #[serde(default, deserialize_with = "present")]
    nbf: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Audience>,
    // Read for their types alone.
    #[serde(default, deserialize_with = "present", rename = "sub")]
    _sub: Option<String>,
    #[serde(default, deserialize_with = "present", rename = "jti")]
    _jti: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// A member that is there is never null: `"team": null` would otherwise lift a limit.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

fn scopes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Audience::deserialize(from)? {
        Audience::One(words) => words.split_ascii_whitespace().map(str::to_owned).collect(),
        Audience::Several(list) => list,
    })
}

/// Why signed claims are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It ended.
    #[error("the token has expired")]
    Expired,
    /// `iat` or `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// It lives too long or too short.
    #[error("the token's lifetime, exp minus iat, is not between 60 and 300 seconds")]
    Lifetime,
    /// `iss` or `aud` names somebody else.
    #[error("the token's `iss` is not its app, or its `aud` is not `weir`")]
    Audience,
    /// A text is empty, too long or has control characters, or there are too many scopes.
    #[error("a claim of the token is empty, too long, or has control characters")]
    Claim,
}

impl TokenFault {
    /// Its stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            TokenFault::Expired => "token_expired",
            TokenFault::NotYet => "token_not_yet",
            TokenFault::Lifetime => "token_lifetime",
            TokenFault::Audience => "token_audience",
            TokenFault::Claim => "token_claims",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            TokenFault::Expired => "sign a new token",
            TokenFault::NotYet => {
                "correct the clock of the signer: 10 s of difference are forgiven"
            }
            TokenFault::Lifetime => "set `iat` to now and `exp` to at most 300 s later",
            TokenFault::Audience => "leave `iss` and `aud` out, or set them to the app and to weir",
            TokenFault::Claim => "send app, team and scopes as they are registered",
        }
    }
}

impl Claims {
    /// Whether they hold at `now_us`, microseconds since 1970 UTC.
    pub fn check(&self, now_us: i64) -> Result<(), TokenFault> {
        if !LIFETIME_S.contains(&self.exp.saturating_sub(self.iat)) {
            return Err(TokenFault::Lifetime);
        }
        let now_s = now_us.div_euclid(1_000_000);
        let begin = self.nbf.unwrap_or(self.iat).max(self.iat);
        if begin > now_s.saturating_add(LEEWAY_S) {
            return Err(TokenFault::NotYet);
        }
        if self.exp.saturating_add(LEEWAY_S) <= now_s {
            return Err(TokenFault::Expired);
        }
        let ours = match &self.aud {
            None => true,
            Some(Audience::One(name)) => name == AUDIENCE,
            Some(Audience::Several(names)) => names.iter().any(|name| name == AUDIENCE),
        };
        if !ours || self.iss.as_ref().is_some_and(|issuer| *issuer != self.app) {
            return Err(TokenFault::Audience);
        }
        let usable = |text: &String| {
            !text.is_empty() && text.len() <= FIELD_BYTES_MAX && !text.chars().any(char::is_control)
        };
        let texts = self.scopes.iter().chain(&self.team).chain([&self.app]);
        if self.scopes.is_empty()
            || self.scopes.len() > SCOPES_MAX
            || !texts.into_iter().all(usable)
        {
            return Err(TokenFault::Claim);
        }
        Ok(())
    }

    /// The scopes that it asks for and that its secret may give.
    #[must_use]
    pub fn granted(&self, secret: &[String]) -> Vec<String> {
        let has = |scopes: &[String], one: &str| scopes.iter().any(|scope| scope == one);
        if has(&self.scopes, SCOPE_ALL) {
            return secret.to_vec();
        }
        let all = has(secret, SCOPE_ALL);
        self.scopes.iter().filter(|scope| all || has(secret, scope)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    fn read(text: &str) -> Result<Claims, serde_json::Error> {
        let (now, end) = (NOW_S.to_string(), (NOW_S + 300).to_string());
        serde_json::from_str(&text.replace("NOW", &now).replace("END", &end))
    }

    fn checked(text: &str) -> Result<(), Option<TokenFault>> {
        read(text).map_err(|_| None)?.check(NOW_S * 1_000_000).map_err(Some)
    }

    #[test]
    fn both_names_of_a_claim_are_read_and_not_together() {
        for good in [
            r#"{"app":"a","scopes":["x"],"iat":NOW,"exp":END}"#,
            r#"{"appId":"a","teamId":"t","scope":"x y","iat":NOW,"exp":END,"jti":"1","other":[1]}"#,
            r#"{"app":"a","scopes":["x"],"iat":NOW,"exp":END,"iss":"a","aud":["b","weir"],"nbf":NOW}"#,
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in [
            r#"{"app":"a","appId":"a","scopes":["x"],"iat":NOW,"exp":END}"#,
            r#"{"app":"a","app":"a","scopes":["x"],"iat":NOW,"exp":END}"#,
            r#"{"app":"a","team":null,"scopes":["x"],"iat":NOW,"exp":END}"#,
            r#"{"app":"a","team":["t"],"scopes":["x"],"iat":NOW,"exp":END}"#,
            r#"{"app":"a","scopes":["x"],"exp":END}"#,
            r#"{"app":"a","scopes":["x"],"iat":NOW}"#,
            r#"{"app":"a","scopes":["x"],"iat":"NOW","exp":END}"#,
            r#"{"app":"a","scopes":["x"],"iat":NOW,"exp":END.5}"#,
            r#"{"app":"a","scopes":["x"],"iat":NOW,"exp":9223372036854775808}"#,
            r#"{"app":"a","iat":NOW,"exp":END}"#,
        ] {
            assert_eq!(checked(bad), Err(None), "{bad}");
        }
    }

    #[test]
    fn life_begins_and_ends_to_the_second() {
        let claims = |iat: i64, exp: i64, nbf: Option<i64>| {
            let mut claims = read(r#"{"app":"a","scopes":["x"],"iat":0,"exp":0}"#).unwrap();
            (claims.iat, claims.exp, claims.nbf) = (iat, exp, nbf);
            claims.check(NOW_S * 1_000_000)
        };
        assert_eq!(claims(NOW_S, NOW_S + 60, None), Ok(()));
        assert_eq!(claims(NOW_S, NOW_S + 300, None), Ok(()));
        assert_eq!(claims(NOW_S, NOW_S + 59, None), Err(TokenFault::Lifetime));
        assert_eq!(claims(NOW_S, NOW_S + 301, None), Err(TokenFault::Lifetime));
        assert_eq!(claims(0, i64::MAX, None), Err(TokenFault::Lifetime));
        assert_eq!(claims(i64::MIN, i64::MAX, None), Err(TokenFault::Lifetime));
        assert_eq!(claims(NOW_S + 10, NOW_S + 100, None), Ok(()));
        assert_eq!(claims(NOW_S + 11, NOW_S + 100, None), Err(TokenFault::NotYet));
        assert_eq!(claims(NOW_S, NOW_S + 100, Some(NOW_S + 11)), Err(TokenFault::NotYet));
        assert_eq!(claims(NOW_S - 109, NOW_S - 9, None), Ok(()));
        assert_eq!(claims(NOW_S - 110, NOW_S - 10, None), Err(TokenFault::Expired));
    }

    #[test]
    fn a_token_has_no_more_than_its_secret() {
        let claims = |scopes: &str| {
            read(&r#"{"app":"a","scope":"S","iat":0,"exp":60}"#.replace('S', scopes))
        };
        let own = ["events:write".to_owned(), "teams:read".to_owned()];
        assert_eq!(claims("events:write keys:write").unwrap().granted(&own), own[..1]);
        assert_eq!(claims("*").unwrap().granted(&own), own);
        assert_eq!(claims("teams:read").unwrap().granted(&["*".to_owned()]), own[1..]);
        assert!(claims("x").unwrap().granted(&[]).is_empty());
    }
}
