//! One message on disk: a fixed header, then the payload.
//!
//! ```text
//! magic u32 · topic u16 · zero u16 · partition u32 · payload length u32 · position i64
//! · append time i64 · durable up to u64 · checksum u64 · payload
//! ```
//! Little endian. The checksum is xxh3-64 over everything before it and the payload, seeded by the
//! log's own seed, the segment's number and the frame's place in it. A frame is therefore valid
//! only where it was written: a payload that holds the bytes of another frame never passes for one.

use xxhash_rust::xxh3::Xxh3;

use crate::log::MESSAGE_BYTES_MAX;

/// Length of the header in bytes.
pub(crate) const HEADER_BYTES: usize = 48;
/// `FF` never occurs in UTF-8, so text is never even a candidate.
pub(crate) const MAGIC: [u8; 4] = [0xff, b'W', b'r', 0xf1];
/// Positions are smaller, so that counting on from one that was read never overflows.
pub(crate) const POSITION_END: i64 = 1 << 62;
/// The header without its checksum.
const CHECKED_BYTES: usize = HEADER_BYTES - 8;

/// Everything of a frame but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Index of the topic in the log's list of topics.
    pub topic: u16,
    /// Partition.
    pub partition: u32,
    /// Position in the partition.
    pub position: i64,
    /// Append time, microseconds since 1970 UTC.
    pub append_time_us: i64,
    /// How much of this segment was known to be durable when the frame was written.
    pub durable_up_to: u64,
    /// Length of the payload.
    pub payload_bytes: u32,
}

/// What makes a frame valid only at its own place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The log's own random seed.
    pub seed: u64,
    /// Number of the segment.
    pub segment: u64,
    /// Offset of the frame in the segment.
    pub offset: u64,
}

impl Place {
    fn checksum(self, header: &[u8], payload: &[u8]) -> u64 {
        // Offsets stay below 2^32 and segment numbers below 2^32, so the two never overlap.
        let mut hash = Xxh3::with_seed(self.seed ^ (self.segment << 32) ^ self.offset);
        hash.update(header);
        hash.update(payload);
        hash.digest()
    }
}

impl Header {
    /// Length of the whole frame.
    pub(crate) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    /// Appends the frame to `out`.
    pub(crate) fn encode(&self, payload: &[u8], place: Place, out: &mut Vec<u8>) {
        let header = self.checked_bytes();
        let checksum = place.checksum(&header, payload);
        out.reserve(HEADER_BYTES + payload.len());
        out.extend_from_slice(&header);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(payload);
    }

    fn checked_bytes(&self) -> [u8; CHECKED_BYTES] {
        let mut bytes = [0; CHECKED_BYTES];
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &self.topic.to_le_bytes(),
            &[0, 0],
            &self.partition.to_le_bytes(),
            &self.payload_bytes.to_le_bytes(),
            &self.position.to_le_bytes(),
            &self.append_time_us.to_le_bytes(),
            &self.durable_up_to.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Reads a header, without the checksum; `None` if these bytes are none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take::<4>()? != MAGIC {
            return None;
        }
        let topic = u16::from_le_bytes(fields.take()?);
        if fields.take::<2>()? != [0, 0] {
            return None;
        }
        let header = Self {
            topic,
            partition: u32::from_le_bytes(fields.take()?),
            payload_bytes: u32::from_le_bytes(fields.take()?),
            position: i64::from_le_bytes(fields.take()?),
            append_time_us: i64::from_le_bytes(fields.take()?),
            durable_up_to: u64::from_le_bytes(fields.take()?),
        };
        fields.take::<8>()?;
        let known = header.payload_bytes as usize <= MESSAGE_BYTES_MAX
            && (0..POSITION_END).contains(&header.position);
        known.then_some(header)
    }
}

/// Decodes the frame that begins `bytes`: its header and payload, or `None` if it is not intact.
pub(crate) fn decode(bytes: &[u8], place: Place) -> Option<(Header, &[u8])> {
    let header = Header::parse(bytes)?;
    let payload = bytes.get(HEADER_BYTES..)?.get(..header.payload_bytes as usize)?;
    let stored = bytes.get(CHECKED_BYTES..)?.first_chunk::<8>()?;
    let checksum = place.checksum(bytes.get(..CHECKED_BYTES)?, payload);
    (checksum == u64::from_le_bytes(*stored)).then_some((header, payload))
}

/// Takes fixed-size fields off the front of a slice.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes, or `None` at the end.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(position: i64, payload: &[u8]) -> Header {
        Header {
            topic: 1,
            partition: 7,
            position,
            append_time_us: 1_700_000_000_000_000,
            durable_up_to: 4096,
            payload_bytes: payload.len() as u32,
        }
    }

    const PLACE: Place = Place { seed: 42, segment: 3, offset: 9000 };

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, PLACE).is_none());
        }

        #[test]
        fn bytes_behind_a_magic_never_panic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [MAGIC.as_slice(), &rest].concat();
            prop_assert!(decode(&bytes, PLACE).is_none());
        }

        #[test]
        fn a_frame_is_read_back_and_only_whole_unchanged_and_in_its_place(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            position in 0..POSITION_END,
            cut in any::<prop::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let header = header(position, &payload);
            let mut bytes = Vec::new();
            header.encode(&payload, PLACE, &mut bytes);
            prop_assert_eq!(bytes.len() as u64, header.frame_bytes());
            prop_assert_eq!(decode(&bytes, PLACE), Some((header, payload.as_slice())));
            let cut = cut.index(bytes.len());
            prop_assert!(decode(&bytes[..cut], PLACE).is_none());
            for moved in [Place { offset: 9001, ..PLACE }, Place { segment: 4, ..PLACE }] {
                prop_assert!(decode(&bytes, moved).is_none());
            }
            bytes[cut] ^= flip;
            prop_assert!(decode(&bytes, PLACE).is_none());
        }
    }
}
