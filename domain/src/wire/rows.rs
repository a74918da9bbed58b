//! Rows of the archive's tables, kept as columns from the rater to ClickHouse.
//!
//! A row is written value by value into a [`RowOutput`]: into a [`ColumnsWriter`] by the rater, or
//! as RowBinary into a `Vec<u8>` where one row is compared with what ClickHouse has. [`Columns`] are
//! what was written, read from a message; `docs/FORMATS.md`, "Rows".

mod columns;
mod writer;

pub use columns::{ColumnData, Columns};
pub use writer::ColumnsWriter;

use super::{
    codec::{DecodeError, Input, Output},
    columns::{Kind, Value},
};

/// Takes the values of a row in the order of its table's columns.
pub trait RowOutput {
    /// A value of fixed length.
    fn fixed(&mut self, bytes: &[u8]);

    /// A text or a word.
    fn text(&mut self, text: impl AsRef<[u8]>);

    /// A word, of which it is known that it is the same one wherever it has this name in this column; 0
    /// is no name.
    fn word(&mut self, _name: u64, word: impl AsRef<[u8]>) {
        self.text(word);
    }

    /// A value of fixed length, or NULL.
    fn nullable(&mut self, bytes: Option<&[u8]>);

    /// So many values, or maps, of one column follow.
    fn list(&mut self, count: usize);

    /// So many pairs of one map follow.
    fn map(&mut self, count: usize);

    /// A key and its value.
    fn pair(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>);
}

/// RowBinary.
impl RowOutput for Vec<u8> {
    fn fixed(&mut self, bytes: &[u8]) {
        self.raw(bytes);
    }

    fn text(&mut self, text: impl AsRef<[u8]>) {
        self.bytes(text.as_ref());
    }

    fn nullable(&mut self, bytes: Option<&[u8]>) {
        self.push(u8::from(bytes.is_none()));
        self.raw(bytes.unwrap_or_default());
    }

    fn list(&mut self, count: usize) {
        self.length(count);
    }

    fn map(&mut self, count: usize) {
        self.length(count);
    }

    fn pair(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.bytes(key.as_ref());
        self.bytes(value.as_ref());
    }
}

/// Bytes of a number of one among so many words.
#[must_use]
pub fn word_width(words: usize) -> usize {
    match words {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

/// Appends the numbers of words, each in so many bytes.
pub fn put_numbers(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>, width: usize) {
    match width {
        1 => out.extend(numbers.map(|number| number.to_le_bytes()[0])),
        2 => numbers.for_each(|number| {
            let [low, high, ..] = number.to_le_bytes();
            out.extend_from_slice(&[low, high]);
        }),
        _ => numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes())),
    }
}

/// The numbers of words.
pub fn numbers(values: &[u8], width: usize) -> impl Iterator<Item = usize> {
    values
        .chunks_exact(width.max(1))
        .map(|bytes| bytes.iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
}

/// How many parts a column has: the values alone; with them whether each is NULL, or the words whose
/// numbers they are; of maps the pairs of each, the keys, and the values.
fn parts_of(kind: Kind) -> usize {
    match kind {
        Kind::Maps => 3,
        Kind::One(value) | Kind::Many(value) => match value {
            Value::Fixed(_) | Value::Text => 1,
            Value::Word | Value::Nullable(_) => 2,
        },
    }
}

/// Rows of one table as RowBinary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Length of each row in bytes.
    pub lengths: Vec<usize>,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
}

impl Rows {
    /// Reads a section of the versions in which rows stood one after the other.
    pub(super) fn decode(section: &[u8]) -> Result<Rows, DecodeError> {
        let mut input = Input::new(section);
        let count = input.count(1)?;
        let size = usize::try_from(input.varint()?).map_err(|_| DecodeError::Truncated)?;
        // LZ4 gains at most a factor of about 255.
        if size > section.len().saturating_mul(256) {
            return Err(DecodeError::Field("rows"));
        }
        let mut lengths_input = Input::new(input.bytes()?);
        let mut lengths = Vec::with_capacity(count);
        let mut total = 0usize;
        for _ in 0..count {
            let length =
                usize::try_from(lengths_input.varint()?).map_err(|_| DecodeError::Truncated)?;
            total = total.saturating_add(length);
            lengths.push(length);
        }
        if total != size || !lengths_input.is_empty() {
            return Err(DecodeError::Field("rows"));
        }
        if count == 0 {
            return if input.is_empty() {
                Ok(Rows::default())
            } else {
                Err(DecodeError::Field("rows"))
            };
        }
        let bytes = lz4_flex::block::decompress(input.rest(), size)
            .map_err(|_| DecodeError::Field("rows"))?;
        if bytes.len() == size {
            Ok(Rows { lengths, bytes })
        } else {
            Err(DecodeError::Field("rows"))
        }
    }

    /// Each row's bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map_while(move |length| {
            let (row, after) = rest.split_at_checked(*length)?;
            rest = after;
            Some(row)
        })
    }
}
