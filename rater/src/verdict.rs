//! What the slow lane says of a late event, from what the archive holds. Pure, as [`crate::state`].

use domain::{
    chain::{Offer, Place},
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        carry::carry,
        codec::DecodeError,
        rated::{Forward, OuterError, Sections},
        record::{Entry, Origin, Verdict},
    },
};
use uuid::Uuid;

/// How far a lane is: `(X, R, C)`, and how many late events of the next accepted batch it has
/// answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// `(X, R, C)`.
    pub place: Place,
    /// Late events answered after it.
    pub index: u32,
}

impl Cursor {
    /// Nothing read.
    pub const EMPTY: Cursor = Cursor { place: Place::EMPTY, index: 0 };
}

/// A late event that waits, and how far the lane is when it is answered.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// It.
    pub forward: Forward,
    /// The lane's place after its answer.
    pub after: Cursor,
}

/// An event that took an identity, as the archive has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Whose identity it has.
    pub identity: u128,
    /// Position of its block.
    pub position: i64,
    /// Its index.
    pub index: u32,
    /// Its content hash.
    pub content: u64,
}

/// Reads a message of `[rated]` at `position`: what it moves the lane to, and its late events after
/// the first `answered`; `None` if the message is ignored.
pub fn read(
    partition: u32,
    cursor: Cursor,
    position: i64,
    message: &[u8],
) -> Result<Option<(Cursor, Vec<Waiting>)>, OuterError> {
    let Offer::Accepted(_, place) = cursor.place.offer(partition, position, message)? else {
        return Ok(None);
    };
    let after = Cursor { place, index: 0 };
    let mut waiting: Vec<Waiting> = (1u32..)
        .zip(Sections::split(message)?.forwards()?)
        .filter(|(number, _)| *number > cursor.index)
        .map(|(number, forward)| Waiting {
            forward,
            after: Cursor { place: cursor.place, index: number },
        })
        .collect();
    if let Some(last) = waiting.last_mut() {
        last.after = after;
    }
    Ok(Some((after, waiting)))
}

/// A late event, opened.
#[derive(Debug)]
pub struct Late<'a> {
    forward: &'a Forward,
    header: BlockHeader,
    body: Vec<u8>,
}

/// What a search needs of a late event.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its identity.
    pub identity: u128,
    /// Its content hash.
    pub content: u64,
    /// Whose it is.
    pub tenant: Uuid,
}

impl<'a> Late<'a> {
    /// Opens the block that the late event travels in.
    pub fn open(forward: &'a Forward) -> Result<Late<'a>, DecodeError> {
        let header = BlockHeader::decode(&forward.block)?;
        let body = header.body(&forward.block)?;
        Ok(Late { forward, header, body })
    }

    /// Its bytes, decompressed.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// What to search for.
    pub fn wanted(&self) -> Result<Wanted, DecodeError> {
        let block = Block::decode(&self.header, &self.body)?;
        let Some(Entry::Event(event) | Entry::Copy(_, _, event)) = block.entries.first() else {
            return Err(DecodeError::Field("late event"));
        };
        let tenant = self.header.tenant(event.tenant).ok_or(DecodeError::Field("tenant"))?;
        Ok(Wanted { identity: event.identity, content: event.content, tenant })
    }

    /// The ranges to search: those reported, and everything from the late event itself to `A`.
    pub fn ranges(&self, archived: i64) -> impl Iterator<Item = (i64, i64)> {
        self.forward.ranges.iter().copied().chain([(self.forward.position, archived)])
    }

    /// The verdict of a search up to `A` that found `hits`, of any identity: the first one that has
    /// this identity and lies where this event's search looks.
    #[must_use]
    pub fn judge(&self, wanted: &Wanted, hits: &[Hit], archived: i64) -> Verdict {
        let looked_at =
            |position: i64| self.ranges(archived).any(|(from, to)| (from..=to).contains(&position));
        let first = hits
            .iter()
            .filter(|hit| hit.identity == wanted.identity && looked_at(hit.position))
            .min_by_key(|hit| (hit.position, hit.index));
        match first {
            None => Verdict::New { checked_to: archived },
            Some(Hit { position, index, content, .. }) => {
                let (position, index) = (*position, *index);
                if *content == wanted.content {
                    Verdict::DuplicateOf { position, index }
                } else {
                    Verdict::ConflictWith { position, index }
                }
            }
        }
    }

    /// Appends the copy with its verdict. The origin is where the event stood first, whatever
    /// rounds it has made since.
    pub fn answer(
        &self,
        partition: u32,
        verdict: Verdict,
        writer: &mut BlockWriter,
    ) -> Result<(), DecodeError> {
        let block = Block::decode(&self.header, &self.body)?;
        let (origin, event) = match block.entries.first() {
            Some(Entry::Event(event)) => {
                let origin = Origin {
                    partition,
                    position: self.forward.position,
                    index: self.forward.index,
                    append_time_us: self.forward.append_time_us,
                    has_client_time: event.time_us.is_some(),
                };
                (origin, event)
            }
            Some(Entry::Copy(_, origin, event)) => (*origin, event),
            _ => return Err(DecodeError::Field("late event")),
        };
        let tenant = self.header.tenant(event.tenant).ok_or(DecodeError::Field("tenant"))?;
        let carried = carry(event, &block.dictionary, tenant, writer)?;
        writer.push(&Entry::Copy(verdict, origin, carried));
        Ok(())
    }
}
