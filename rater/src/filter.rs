//! A filter over the identities of a range: whether one of them may have taken effect there.
//!
//! Binary fuse, 16 bit: 2.3 bytes an identity, no false negatives, one false positive in 65,000.

use xorf::{BinaryFuse16, Filter as _};
use xxhash_rust::xxh3::xxh3_64;

use domain::{
    chain::Hash,
    wire::codec::{DecodeError, Input, Output as _},
};

/// First bytes of a filter's file.
const MAGIC: [u8; 4] = *b"WRFF";
/// The format version written.
const VERSION: u16 = 1;
/// Where the bytes begin that the checksum covers.
const CHECKED_AT: usize = 16;

/// Why a filter could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter could not be built: {0}")]
pub struct FilterError(&'static str);

/// The filter of one range. A range without identities has an empty one.
#[derive(Clone, Debug)]
pub struct Filter(Option<BinaryFuse16>);

/// Which range a filter is of: positions, and the hashes of the accepted batches around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The partition.
    pub partition: u32,
    /// First position.
    pub from: i64,
    /// Last position.
    pub to: i64,
    /// Hash of the accepted batch before `from`.
    pub prev: Hash,
    /// `C`: hash of the accepted batch that ends at `to`.
    pub c: Hash,
}

/// Identities are keyed hashes already: their low half is the filter's key.
fn key(identity: u128) -> u64 {
    u64::try_from(identity & u128::from(u64::MAX)).unwrap_or(0)
}

impl Filter {
    /// Builds the filter of these identities.
    pub fn build(identities: impl IntoIterator<Item = u128>) -> Result<Filter, FilterError> {
        let mut keys: Vec<u64> = identities.into_iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(Filter(None));
        }
        BinaryFuse16::try_from(keys.as_slice()).map(|fuse| Filter(Some(fuse))).map_err(FilterError)
    }

    /// Whether the identity may have taken effect in the range; false is certain.
    #[must_use]
    pub fn reports(&self, identity: u128) -> bool {
        self.0.as_ref().is_some_and(|fuse| fuse.contains(&key(identity)))
    }

    /// The filter's file.
    #[must_use]
    pub fn encode(&self, name: &Name) -> Vec<u8> {
        let fingerprints = self.0.as_ref().map_or(&[][..], |fuse| &fuse.fingerprints);
        let mut file = Vec::with_capacity(160 + 2 * fingerprints.len());
        file.raw(&MAGIC);
        file.raw(&VERSION.to_le_bytes());
        file.raw(&0u16.to_le_bytes());
        file.raw(&[0; 8]);
        file.raw(&name.partition.to_le_bytes());
        file.raw(&name.from.to_le_bytes());
        file.raw(&name.to.to_le_bytes());
        file.raw(&name.prev);
        file.raw(&name.c);
        let descriptor = self.0.as_ref().map(|fuse| &fuse.descriptor);
        file.raw(&descriptor.map_or(0, |descriptor| descriptor.seed).to_le_bytes());
        file.raw(&descriptor.map_or(0, |descriptor| descriptor.segment_length).to_le_bytes());
        file.raw(&descriptor.map_or(0, |descriptor| descriptor.segment_count_length).to_le_bytes());
        for fingerprint in fingerprints {
            file.raw(&fingerprint.to_le_bytes());
        }
        let checksum = xxh3_64(file.get(CHECKED_AT..).unwrap_or_default());
        if let Some(place) = file.get_mut(8..CHECKED_AT) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        file
    }

    /// Reads a filter's file.
    pub fn decode(file: &[u8]) -> Result<(Name, Filter), DecodeError> {
        let mut input = Input::new(file);
        if input.take(4)? != MAGIC {
            return Err(DecodeError::NotOurs);
        }
        let version = input.u16()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if input.u16()? != 0 {
            return Err(DecodeError::Field("reserved"));
        }
        if input.u64()? != xxh3_64(input.rest()) {
            return Err(DecodeError::Checksum);
        }
        let name = Name {
            partition: input.u32()?,
            from: input.i64()?,
            to: input.i64()?,
            prev: input.hash()?,
            c: input.hash()?,
        };
        let (seed, segment_length, segment_count_length) =
            (input.u64()?, input.u32()?, input.u32()?);
        let fingerprints: Box<[u16]> = input
            .rest()
            .chunks(2)
            .map(|pair| <[u8; 2]>::try_from(pair).map(u16::from_le_bytes))
            .collect::<Result<_, _>>()
            .map_err(|_| DecodeError::Truncated)?;
        if fingerprints.is_empty() {
            return Ok((name, Filter(None)));
        }
        let length = u64::from(segment_count_length) + 2 * u64::from(segment_length);
        let sound = segment_length.is_power_of_two()
            && segment_count_length > 0
            && segment_count_length.is_multiple_of(segment_length)
            && u64::try_from(fingerprints.len()).is_ok_and(|found| found == length);
        if !sound {
            return Err(DecodeError::Field("filter"));
        }
        // The library does not export the type of its descriptor: any filter lends us one.
        let any = BinaryFuse16::try_from([0].as_slice());
        let mut fuse = any.map_err(|_| DecodeError::Field("filter"))?;
        fuse.descriptor.seed = seed;
        fuse.descriptor.segment_length = segment_length;
        fuse.descriptor.segment_length_mask = segment_length - 1;
        fuse.descriptor.segment_count_length = segment_count_length;
        fuse.fingerprints = fingerprints;
        Ok((name, Filter(Some(fuse))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name = Name { partition: 3, from: 5, to: 9, prev: [1; 32], c: [2; 32] };

    fn identities(count: u128) -> impl Iterator<Item = u128> {
        (1..=count).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    #[test]
    fn a_filter_forgets_nobody_and_survives_its_file() {
        for count in [0, 1, 2, 3, 7, 100, 5_000] {
            let filter = Filter::build(identities(count)).unwrap();
            let (name, read) = Filter::decode(&filter.encode(&NAME)).unwrap();
            assert_eq!(name, NAME);
            for identity in identities(count) {
                assert!(filter.reports(identity) && read.reports(identity), "{count}");
            }
            let wrong = identities(100_000).skip(5_000).filter(|other| read.reports(*other));
            assert!(wrong.count() < 30, "{count}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = Filter::build(identities(50)).unwrap().encode(&NAME);
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 1;
            assert!(Filter::decode(&damaged).is_err(), "{place}");
            assert!(Filter::decode(&file[..place]).is_err(), "{place}");
        }
    }
}
