//! The duplicates table: which identities took effect, and where.
//!
//! It holds what accepted batches say from `S` on plus what the batches in flight add; each of those
//! remembers what it added, so that a batch that was not accepted can be taken back, and an accepted
//! one can leave for a range.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::{
    HashMap,
    hash_map::{Entry, VacantEntry},
};

/// The event that took an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Position of its block.
    pub position: i64,
    /// Index in the block.
    pub index: u32,
    /// Its content hash.
    pub content: u64,
}

/// An identity as two halves: an entry of the table then takes 40 bytes, where a `u128` as the key
/// would align it to 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64, u64);

impl From<u128> for Key {
    fn from(identity: u128) -> Key {
        let [low, high] = [identity, identity >> 64]
            .map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
        Key(low, high)
    }
}

/// Identities are keyed hashes already: their halves together are the table's hash.
#[derive(Debug, Default)]
pub struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = self.0.rotate_left(32) ^ half;
    }
}

type BuildHasher = BuildHasherDefault<IdentityHasher>;

/// The table of one partition.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    taken: HashMap<Key, Taken, BuildHasher>,
}

/// The place of an identity that nobody has taken.
pub struct Free<'a>(VacantEntry<'a, Key, Taken, BuildHasher>);

impl Free<'_> {
    /// Records an effect.
    pub fn take(self, taken: Taken) {
        self.0.insert(taken);
    }
}

const _: () = assert!(size_of::<(Key, Taken)>() == 40);

impl Seen {
    /// Who took this identity, or else its place: it is looked up once, and nobody can take it twice.
    pub fn look_up(&mut self, identity: u128) -> Result<Taken, Free<'_>> {
        match self.taken.entry(Key::from(identity)) {
            Entry::Occupied(place) => Ok(*place.get()),
            Entry::Vacant(place) => Err(Free(place)),
        }
    }

    /// Records an effect; false, and nothing changes, where the identity has taken effect before.
    #[must_use]
    pub fn take(&mut self, identity: u128, taken: Taken) -> bool {
        self.look_up(identity).map_err(|free| free.take(taken)).is_err()
    }

    /// Takes out what a batch that was not accepted had added, or what has left for a range.
    pub fn remove(&mut self, identities: &[u128]) {
        for identity in identities {
            let removed = self.taken.remove(&Key::from(*identity));
            assert!(removed.is_some(), "only what was added is taken out");
        }
    }

    /// Identities held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}
