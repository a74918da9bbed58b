//! API keys: looked up by their public id, compared by the hash of their secret.

use std::{sync::Arc, time::Instant};

use runtime::{http::Problem, keys, task::now_us};
use uuid::Uuid;

use super::{Actor, Credential, disabled};
use crate::{error::ApiError, state::Shared, store};

/// A key as the database has it.
#[derive(Debug)]
pub(crate) struct FoundKey {
    pub tenant: Uuid,
    pub secret_hash: Vec<u8>,
    pub app: Option<String>,
    pub scopes: Vec<String>,
    pub expires_at_us: Option<i64>,
    pub revoked: bool,
    pub disabled: bool,
}

/// The key that `text` is, or why it is none. All reasons but a bad form look the same.
pub(super) async fn authenticate(
    api: &Shared,
    text: &str,
) -> Result<Result<Credential, Problem>, ApiError> {
    let parsed = match keys::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            return Ok(Err(Problem::unauthorized(
                "key_malformed",
                error.to_string(),
                "copy the key again, whole",
            )));
        }
    };
    let found = match api.keys.get(&parsed.id) {
        Some(found) => found,
        None => {
            let asked = Instant::now();
            let found = store::api_keys::find(&api.pool, &parsed.id).await?.map(Arc::new);
            api.keys.put(parsed.id.clone(), asked, found.clone());
            found
        }
    };
    let Some(found) = found.filter(|found| keys::verify(&parsed.secret_hash, &found.secret_hash))
    else {
        return Ok(Err(Problem::unauthorized(
            "key_unknown",
            "the API key is not known",
            "check that it belongs to this installation",
        )));
    };
    if found.revoked {
        return Ok(Err(Problem::unauthorized(
            "key_revoked",
            "the API key was revoked",
            "use another one",
        )));
    }
    if found.expires_at_us.is_some_and(|end| end <= now_us()) {
        return Ok(Err(Problem::unauthorized(
            "key_expired",
            "the API key has expired",
            "use another one",
        )));
    }
    if found.disabled {
        return Ok(Err(disabled()));
    }
    Ok(Ok(Credential {
        tenant: found.tenant,
        scopes: found.scopes.clone(),
        team: None,
        actor: Actor { kind: "api_key", id: parsed.id, app: found.app.clone() },
    }))
}
