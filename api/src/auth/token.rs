//! Tokens that apps sign: from the secret that a token names, or those of the app that it claims.

use std::{sync::Arc, time::Instant};

use domain::token::{Claims, Unverified, secret_context};
use runtime::{
    http::Problem,
    keys::{MasterKeys, Token, TokenError},
    task::now_us,
};
use uuid::Uuid;

use super::{Actor, Credential, disabled};
use crate::{error::ApiError, state::Shared, store};

/// Secrets of one app's name that are tried for a token without `kid`. Tenants may use one name;
/// the signature decides which it is.
const SECRETS_TRIED_MAX: usize = 64;

/// A secret as the database has it.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct FoundSecret {
    pub tenant: Uuid,
    pub id: String,
    pub app: String,
    pub scopes: Vec<String>,
    pub sealed: Vec<u8>,
    pub master_key_id: String,
    pub expires_at_us: Option<i64>,
    pub revoked: bool,
    pub disabled: bool,
}

/// The credential that `text` is, or why it is none.
pub(super) async fn authenticate(
    api: &Shared,
    text: &str,
) -> Result<Result<Credential, Problem>, ApiError> {
    let (token, claimed) = match read(text) {
        Ok(read) => read,
        Err(error) => return Ok(Err(error.into())),
    };
    let Some(master_keys) = &api.master_keys else {
        return Ok(Err(unreadable()));
    };
    let (id, app) = (token.key_id(), claimed.app.as_str());
    // No id and no app holds a NUL; a database could not even be asked.
    if id.unwrap_or(app).contains('\0') {
        return Ok(Err(TokenError::Unknown.into()));
    }
    let name = id.map_or_else(|| format!("app {app}"), |id| format!("id {id}"));
    let found = match api.secrets.get(&name) {
        Some(found) => found,
        None => {
            let asked = Instant::now();
            let found = Arc::new(store::app_secrets::find(&api.pool, id, app).await?);
            api.secrets.put(name, asked, Arc::clone(&found));
            found
        }
    };
    Ok(by_signature(&token, &found, master_keys))
}

fn read(text: &str) -> Result<(Token<'_>, Unverified), TokenError> {
    let token = Token::read(text)?;
    let claimed = token.unverified()?;
    Ok((token, claimed))
}

fn by_signature(
    token: &Token<'_>,
    secrets: &[FoundSecret],
    master_keys: &MasterKeys,
) -> Result<Credential, Problem> {
    let mut unread = false;
    for secret in secrets.iter().take(SECRETS_TRIED_MAX) {
        let context = secret_context(secret.tenant, &secret.id);
        let Ok(bytes) = master_keys.open(&secret.master_key_id, &context, &secret.sealed) else {
            unread = true;
            continue;
        };
        match token.verify::<Claims>(&bytes) {
            Ok(claims) => return credential(secret, claims),
            Err(TokenError::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(if unread { unreadable() } else { TokenError::Unknown.into() })
}

/// What signed claims are good for.
fn credential(secret: &FoundSecret, claims: Claims) -> Result<Credential, Problem> {
    let now_us = now_us();
    // An app signs for itself alone; and a secret that has ended is none.
    if claims.app != secret.app
        || secret.revoked
        || secret.expires_at_us.is_some_and(|end| end <= now_us)
    {
        return Err(TokenError::Unknown.into());
    }
    claims
        .check(now_us)
        .map_err(|fault| Problem::unauthorized(fault.code(), fault.to_string(), fault.action()))?;
    if secret.disabled {
        return Err(disabled());
    }
    Ok(Credential {
        tenant: secret.tenant,
        scopes: claims.granted(&secret.scopes),
        team: claims.team,
        actor: Actor { kind: "app_token", id: secret.id.clone(), app: Some(secret.app.clone()) },
    })
}

/// Nothing can be said about a token: it is not the sender's fault.
fn unreadable() -> Problem {
    Problem::unavailable(
        30,
        "tokens_unavailable",
        "this installation cannot check tokens now: it lacks the master key of their secrets",
        "ask again later, or with an API key; the operator sets WEIR_MASTER_KEY",
    )
}
