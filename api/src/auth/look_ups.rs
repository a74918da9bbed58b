//! What Postgres said a moment ago about a credential.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a look-up is believed: a revoked credential works this much longer at most.
const CACHE_TIME: Duration = Duration::from_millis(900);
/// Entries of the cache; it is emptied beyond.
const CACHE_ENTRIES_MAX: usize = 10_000;

/// What was looked up within the last second, by name; what does not exist included.
#[derive(Debug)]
pub(crate) struct LookUps<T>(Mutex<HashMap<String, (Instant, T)>>);

impl<T> Default for LookUps<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> LookUps<T> {
    /// What is known under `name`.
    pub fn get(&self, name: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, found) = known.get(name)?;
        (asked.elapsed() < CACHE_TIME).then(|| found.clone())
    }

    /// Keeps what was found; `asked` is the time before the question.
    pub fn put(&self, name: String, asked: Instant, found: T) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_ENTRIES_MAX {
            known.clear();
        }
        known.insert(name, (asked, found));
    }
}
