//! Primitives of the formats: little-endian integers, varints, length-prefixed bytes.

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use uuid::Uuid;

use super::interner::Interner;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the format says.
    #[error("the message is cut short")]
    Truncated,
    /// Not the magic of this format.
    #[error("not a message of this format")]
    NotOurs,
    /// A version that this program does not know.
    #[error("format version {0} needs a newer weir")]
    Version(u16),
    /// The checksum does not fit the bytes.
    #[error("the checksum does not fit")]
    Checksum,
    /// A field holds what it cannot hold.
    #[error("the field {0} holds what it cannot hold")]
    Field(&'static str),
}

/// Reads a slice forwards; every read is checked.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, little endian, signed.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Sixteen bytes, little endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    /// Thirty-two bytes.
    pub fn hash(&mut self) -> Result<[u8; 32], DecodeError> {
        self.array()
    }

    /// A UUID, big endian as written.
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array().map(Uuid::from_bytes)
    }

    /// An unsigned varint (LEB128) of at most ten bytes.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(DecodeError::Field("varint"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Field("varint"))
    }

    /// All varints up to the end, or to what is none.
    pub fn varints(mut self) -> impl Iterator<Item = u64> + use<'a> {
        std::iter::from_fn(move || self.varint().ok())
    }

    /// A varint that must fit 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Field("varint"))
    }

    /// A signed 128-bit number: length byte, then its little-endian bytes without sign extension.
    pub fn signed(&mut self) -> Result<i128, DecodeError> {
        let length = usize::from(self.u8()?);
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide.get_mut(..length).ok_or(DecodeError::Field("signed"))?.copy_from_slice(bytes);
        Ok(i128::from_le_bytes(wide))
    }

    /// How many items follow: a varint that the rest can hold at `least` bytes an item.
    pub fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Field("count"))?;
        if count > self.rest.len() / least.max(1) {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        self.take(length)
    }

    /// Length-prefixed UTF-8.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Field("text"))
    }
}

/// Appends to a buffer in the same primitives that [`Input`] reads.
pub trait Output {
    /// Raw bytes.
    fn raw(&mut self, bytes: &[u8]);

    /// An unsigned varint (LEB128).
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.raw(&[value.to_le_bytes()[0] | 0x80]);
            value >>= 7;
        }
        self.raw(&[value.to_le_bytes()[0]]);
    }

    /// A length as a varint.
    #[inline]
    fn length(&mut self, length: usize) {
        self.varint(length as u64);
    }

    /// A signed 128-bit number in as few bytes as it needs, behind their count.
    fn signed(&mut self, value: i128) {
        let bytes = value.to_le_bytes();
        let filler = if value < 0 { 0xff } else { 0 };
        let mut length = bytes.iter().rposition(|byte| *byte != filler).map_or(0, |last| last + 1);
        let sign_fits = |length: usize| {
            let top = length.checked_sub(1).and_then(|last| bytes.get(last)).copied().unwrap_or(0);
            (top & 0x80 != 0) == (value < 0)
        };
        if !sign_fits(length) {
            length += 1;
        }
        self.raw(&[u8::try_from(length).unwrap_or(16)]);
        self.raw(bytes.get(..length).unwrap_or(&bytes));
    }

    /// Length-prefixed bytes.
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    /// Length-prefixed UTF-8.
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
}

impl Output for Vec<u8> {
    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

thread_local! {
    /// What compressing takes, kept: its table, and the longest that a result may be.
    static COMPRESSING: RefCell<(CompressTable, Vec<u8>)> = RefCell::default();
}

/// Appends the bytes as one LZ4 block.
pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) {
    COMPRESSING.with_borrow_mut(|(table, scratch)| {
        let longest = get_maximum_output_size(plain.len());
        if scratch.len() < longest {
            scratch.resize(longest, 0);
        }
        match compress_into_with_table(plain, scratch, table) {
            Ok(length) => out.raw(scratch.get(..length).unwrap_or_default()),
            // Only where there is too little room.
            Err(_) => out.raw(&lz4_flex::block::compress(plain)),
        }
        if scratch.len() > SCRATCH_MAX {
            *scratch = Vec::new();
        }
    });
}

/// More than this is not kept.
const SCRATCH_MAX: usize = 8 << 20;

/// Collects the different strings of a message, so that each is written once.
#[derive(Clone, Debug, Default)]
pub struct DictionaryWriter(Interner);

impl DictionaryWriter {
    /// The number of a string, written now if it is new.
    pub fn intern(&mut self, text: &str) -> u32 {
        self.0.intern(text.as_bytes())
    }

    /// Bytes that the strings take so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.encoded().len()
    }

    /// Writes count and strings.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.length(self.0.len());
        out.raw(self.0.encoded());
    }

    /// Forgets all strings and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The strings of a message, by number.
#[derive(Clone, Debug, Default)]
pub struct Dictionary<'a> {
    texts: Vec<&'a str>,
}

impl<'a> Dictionary<'a> {
    /// Reads what [`DictionaryWriter::write`] wrote.
    pub fn read(input: &mut Input<'a>) -> Result<Dictionary<'a>, DecodeError> {
        let count = input.count(1)?;
        let texts = (0..count).map(|_| input.text()).collect::<Result<_, _>>()?;
        Ok(Dictionary { texts })
    }

    /// All strings, by number.
    #[must_use]
    pub fn texts(&self) -> &[&'a str] {
        &self.texts
    }

    /// The string of a number.
    pub fn get(&self, place: u32) -> Result<&'a str, DecodeError> {
        let index = usize::try_from(place).map_err(|_| DecodeError::Field("dictionary"))?;
        self.texts.get(index).copied().ok_or(DecodeError::Field("dictionary"))
    }

    /// The string of a number written plus one, where zero is "none".
    pub fn get_optional(&self, place: u32) -> Result<Option<&'a str>, DecodeError> {
        place.checked_sub(1).map(|place| self.get(place)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signed_numbers_survive(value: i128) {
            let mut out = Vec::new();
            out.signed(value);
            prop_assert_eq!(Input::new(&out).signed().unwrap(), value);
        }

        #[test]
        fn small_signed_numbers_survive(value in -70_000i128..70_000) {
            let mut out = Vec::new();
            out.signed(value);
            prop_assert_eq!(Input::new(&out).signed().unwrap(), value);
            prop_assert!(out.len() <= 4);
        }

        #[test]
        fn varints_survive(value: u64) {
            let mut out = Vec::new();
            out.varint(value);
            prop_assert_eq!(Input::new(&out).varint().unwrap(), value);
        }
    }
}
