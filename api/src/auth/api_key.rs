//! API keys: looked up by their public id, compared by the hash of their secret.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use runtime::{http::Problem, keys, task::now_us};
use uuid::Uuid;

use crate::{error::ApiError, state::Shared, store};

/// How long a look-up is believed: a revoked key works this much longer at most.
const CACHE_TIME: Duration = Duration::from_millis(900);
/// Keys in the cache; it is emptied beyond.
const CACHE_KEYS_MAX: usize = 10_000;

/// A key as the database has it.
#[derive(Debug)]
pub(crate) struct FoundKey {
    pub tenant: Uuid,
    pub secret_hash: Vec<u8>,
    pub scopes: Vec<String>,
    pub expires_at_us: Option<i64>,
    pub revoked: bool,
}

type Looked = (Instant, Option<Arc<FoundKey>>);

/// What was looked up within the last second, ids that do not exist included.
#[derive(Debug, Default)]
pub struct KeyCache(Mutex<HashMap<String, Looked>>);

impl KeyCache {
    fn get(&self, id: &str) -> Option<Option<Arc<FoundKey>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (looked, found) = known.get(id)?;
        (looked.elapsed() < CACHE_TIME).then(|| found.clone())
    }

    fn put(&self, id: String, asked: Instant, found: Option<Arc<FoundKey>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_KEYS_MAX {
            known.clear();
        }
        known.insert(id, (asked, found));
    }
}

/// The key that `text` is, or why it is none. All reasons but a bad form look the same.
pub(crate) async fn authenticate(
    api: &Shared,
    text: &str,
) -> Result<Result<Arc<FoundKey>, Problem>, ApiError> {
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
    Ok(Ok(found))
}
