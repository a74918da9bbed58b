//! Tokens that apps sign: from the secret that a token names, or those of the app that it claims.

use std::sync::Arc;

use domain::token::{Claims, Unverified};
use runtime::{
    http::Problem,
    keys::{Token, TokenError},
};

use super::Credential;
use crate::store::{AppSecret, Snapshot};

/// Secrets of one app's name that are tried for a token without `kid`. Tenants may use one name;
/// the signature decides which it is.
const SECRETS_TRIED_MAX: usize = 64;

/// The credential that a token is, or why it is none.
pub(super) fn find(snapshot: &Snapshot, text: &str) -> Result<Credential, Problem> {
    let token = Token::read(text)?;
    let claimed: Unverified = token.unverified()?;
    if !snapshot.reads_secrets {
        return Err(unreadable());
    }
    let named = |ids: Option<&Vec<Arc<AppSecret>>>| ids.cloned().unwrap_or_default();
    let candidates = match token.key_id() {
        Some(id) => named(snapshot.secrets.get(id)),
        None => named(snapshot.secrets_of_app.get(claimed.app.as_str())),
    };
    let now_us = snapshot.database_now_us();
    let mut unread = false;
    for secret in candidates.iter().take(SECRETS_TRIED_MAX) {
        let Some(bytes) = &secret.secret else {
            unread = true;
            continue;
        };
        match token.verify::<Claims>(bytes) {
            Ok(claims) => return credential(secret, claims, now_us),
            Err(TokenError::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(if unread { unreadable() } else { TokenError::Unknown.into() })
}

/// What signed claims are good for.
fn credential(secret: &AppSecret, claims: Claims, now_us: i64) -> Result<Credential, Problem> {
    let ended = |end: Option<i64>| end.is_some_and(|end| end <= now_us);
    // An app signs for itself alone; and a secret that has ended is none.
    if claims.app != *secret.app || ended(secret.revoked_us) || ended(secret.expires_us) {
        return Err(TokenError::Unknown.into());
    }
    claims
        .check(now_us)
        .map_err(|fault| Problem::unauthorized(fault.code(), fault.to_string(), fault.action()))?;
    Ok(Credential {
        tenant: Arc::clone(&secret.tenant),
        id: Arc::clone(&secret.id),
        app: Some(Arc::clone(&secret.app)),
        scopes: claims.granted(&secret.scopes),
        team: claims.team.map(Arc::from),
        limit: secret.limit,
    })
}

/// Nothing can be said about a token: it is not the sender's fault, and nothing of it is lost.
fn unreadable() -> Problem {
    Problem::unavailable(
        30,
        "tokens_unavailable",
        "this installation cannot check tokens now: it lacks the master key of their secrets",
        "send the same events again later, or with an API key; the operator sets WEIR_MASTER_KEY",
    )
}
