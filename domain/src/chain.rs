//! The acceptance rule: which messages of `[rated]` count.
//!
//! Every reader of `[rated]` (rater, ledger-writer, archiver, api) keeps a [`Place`] per partition
//! and asks [`Place::offer`] about each message in log order. There is no second copy of the rule.

use crate::{
    planted::{self, Bug},
    wire::rated::{Outer, OuterError},
};

/// Length of a batch's hash (BLAKE3).
pub const HASH_LENGTH: usize = 32;
/// A batch's hash.
pub type Hash = [u8; HASH_LENGTH];

/// Reads a hash from its 64 hexadecimal digits.
#[must_use]
pub fn hash_of_hex(hex: &str) -> Option<Hash> {
    let mut hash = [0; HASH_LENGTH];
    if hex.len() != HASH_LENGTH * 2 {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The `C` of a partition that has no batch yet.
pub const GENESIS: Hash = *b"weir: no rated batch before this";

/// `(X, R, C)`: how far a reader of one partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// `X`: the last position of `[usage]` accounted for; −1 for none.
    pub x: i64,
    /// `R`: the position in `[rated]` of the batch that ended at `X`; −1 for none.
    pub r: i64,
    /// `C`: that batch's hash.
    pub c: Hash,
}

impl Place {
    /// The place of a partition without any batch.
    pub const EMPTY: Place = Place { x: -1, r: -1, c: GENESIS };

    /// Whether a batch continues this place: `from == X + 1` and `prev == C` (INV-14). A position
    /// follows its last one.
    #[must_use]
    pub fn continues(&self, outer: &Outer) -> bool {
        let adjacent = self.x.checked_add(1) == Some(outer.from)
            || planted::is(Bug::EarlierFrom) && outer.from <= self.x && outer.to > self.x;
        let linked =
            outer.prev == self.c || planted::is(Bug::PrevIgnored) || planted::is(Bug::EarlierFrom);
        adjacent && linked && (outer.from..i64::MAX).contains(&outer.to)
    }

    /// The place after an accepted batch that stands at `position` of `[rated]`.
    #[must_use]
    pub fn after(&self, outer: &Outer, position: i64) -> Place {
        assert!(self.continues(outer), "only a batch that continues moves a place");
        Place { x: outer.to, r: position, c: outer.hash }
    }

    /// Judges the message at `position` of partition `partition` of `[rated]`.
    ///
    /// A message that does not continue is [`Offer::Ignored`], whatever is in it. One that might
    /// continue but that this program cannot read is an error: the reader must stop there.
    pub fn offer(
        &self,
        partition: u32,
        position: i64,
        message: &[u8],
    ) -> Result<Offer, OuterError> {
        let outer = Outer::decode(message)?;
        if outer.partition != partition || !self.continues(&outer) {
            return Ok(Offer::Ignored(outer));
        }
        outer.verify(message)?;
        Ok(Offer::Accepted(outer, self.after(&outer, position)))
    }
}

/// The verdict on one message of `[rated]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It continues the chain; the place after it.
    Accepted(Outer, Place),
    /// It does not continue the chain and has no effect; count it.
    Ignored(Outer),
}
