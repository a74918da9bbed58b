//! Rows become columns: RowBinary, as the rater writes it, is turned into blocks of ClickHouse's
//! format Native. ClickHouse puts the blocks of an insert together again: one token is one part.
//!
//! ClickHouse takes a wide row of RowBinary value by value, and looks each word of a
//! `LowCardinality` column up in a dictionary; columns it takes as they are. An insert of
//! `usage_events` costs it less than half.
//!
//! A block is: count of columns, count of rows, and of each column its name, its type, and its
//! values one after the other. An array is the places where each list ends, then all values; a
//! nullable value is a byte that says whether it is NULL, of all rows, then the values; a word is
//! a number in a list of the different ones.

use bytes::Bytes;
use domain::wire::{
    codec::{DecodeError, Input, Output as _},
    columns::{Column, Kind, Table, Value},
};
use hashbrown::HashMap;

/// Words are numbers in a list that comes with the block.
const OWN_WORDS: u64 = 1 << 9;
/// The list is this block's alone.
const NEW_WORDS: u64 = 1 << 10;
/// How words are written: the only version there is.
const WORDS_VERSION: u64 = 1;

/// A block ends when it has so many bytes of rows: what was used for it is used for the next.
const BLOCK_BYTES: usize = 4 << 20;

/// Rows of `table`, RowBinary in pieces of whole rows, as blocks one after the other, in pieces.
pub fn blocks(
    table: &'static Table,
    rows: Vec<Bytes>,
) -> impl Iterator<Item = Result<Bytes, DecodeError>> {
    let mut rows = rows.into_iter();
    let next = move || {
        let (mut part, mut size) = (Vec::new(), 0_usize);
        while size < BLOCK_BYTES
            && let Some(piece) = rows.next()
        {
            size = size.saturating_add(piece.len());
            part.push(piece);
        }
        (!part.is_empty()).then(|| block(table, &part))
    };
    let pieces = |block: Result<Vec<Bytes>, DecodeError>| match block {
        Ok(pieces) => pieces.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    std::iter::from_fn(next).flat_map(pieces)
}

/// Rows of `table`, RowBinary in pieces of whole rows, as one block. Answers it in pieces.
pub fn block(table: &Table, rows: &[Bytes]) -> Result<Vec<Bytes>, DecodeError> {
    let mut columns: Vec<Values<'_>> =
        table.columns.iter().map(|column| Values::new(column.kind)).collect();
    let mut count = 0_usize;
    for piece in rows {
        let mut input = Input::new(piece);
        while !input.is_empty() {
            for values in &mut columns {
                values.take(&mut input)?;
            }
            count = count.saturating_add(1);
        }
    }
    let mut head = Vec::new();
    head.length(columns.len());
    head.length(count);
    let columns = table.columns.iter().zip(columns).map(|(column, values)| values.finish(column));
    Ok([Bytes::from(head)].into_iter().chain(columns).collect())
}

/// The values of one column.
struct Values<'a> {
    kind: Kind,
    /// Where the list of each row ends.
    ends: Ends,
    /// Where each map ends.
    map_ends: Ends,
    /// A byte per value that may be NULL.
    nulls: Vec<u8>,
    /// The values; of maps the keys.
    bytes: Vec<u8>,
    /// The values of maps.
    map_values: Vec<u8>,
    words: Words<'a>,
}

impl<'a> Values<'a> {
    fn new(kind: Kind) -> Values<'a> {
        Values {
            kind,
            ends: Ends::default(),
            map_ends: Ends::default(),
            nulls: Vec::new(),
            bytes: Vec::new(),
            map_values: Vec::new(),
            words: Words::default(),
        }
    }

    /// Takes what the next row has of this column.
    fn take(&mut self, input: &mut Input<'a>) -> Result<(), DecodeError> {
        match self.kind {
            Kind::One(value) => self.one(value, input),
            Kind::Many(value) => {
                let count = input.count(1)?;
                self.ends.push(count);
                (0..count).try_for_each(|_| self.one(value, input))
            }
            Kind::Maps => {
                let maps = input.count(1)?;
                self.ends.push(maps);
                for _ in 0..maps {
                    let count = input.count(2)?;
                    self.map_ends.push(count);
                    for _ in 0..count {
                        self.bytes.bytes(input.bytes()?);
                        self.map_values.bytes(input.bytes()?);
                    }
                }
                Ok(())
            }
        }
    }

    fn one(&mut self, value: Value, input: &mut Input<'a>) -> Result<(), DecodeError> {
        match value {
            Value::Fixed(length) => self.bytes.raw(input.take(length)?),
            Value::Text => self.bytes.bytes(input.bytes()?),
            Value::Word => self.words.push(input.bytes()?),
            Value::Nullable(length) => {
                let null = input.u8()?;
                self.nulls.push(u8::from(null != 0));
                match null {
                    0 => self.bytes.raw(input.take(length)?),
                    _ => self.bytes.resize(self.bytes.len().saturating_add(length), 0),
                }
            }
        }
        Ok(())
    }

    /// The column as it is written.
    fn finish(self, column: &Column) -> Bytes {
        let Values { kind, ends, map_ends, nulls, bytes, map_values, words } = self;
        let size = [&ends.bytes, &map_ends.bytes, &nulls, &bytes, &map_values]
            .map(Vec::len)
            .iter()
            .sum::<usize>();
        let mut out = Vec::with_capacity(size.saturating_add(words.size()).saturating_add(128));
        out.text(column.name);
        out.text(column.data_type);
        let has_words = matches!(kind, Kind::One(Value::Word) | Kind::Many(Value::Word));
        if has_words {
            out.raw(&WORDS_VERSION.to_le_bytes());
        }
        out.raw(&ends.bytes);
        out.raw(&map_ends.bytes);
        out.raw(&nulls);
        out.raw(&bytes);
        out.raw(&map_values);
        words.write(&mut out);
        out.into()
    }
}

/// Where lists end, counted from the first value of the block.
#[derive(Default)]
struct Ends {
    last: u64,
    bytes: Vec<u8>,
}

impl Ends {
    fn push(&mut self, count: usize) {
        self.last = self.last.saturating_add(count as u64);
        self.bytes.raw(&self.last.to_le_bytes());
    }
}

/// The different words of a column, and the number of each value's.
#[derive(Default)]
struct Words<'a> {
    numbers: HashMap<&'a [u8], u32>,
    texts: Vec<u8>,
    values: Vec<u32>,
}

impl<'a> Words<'a> {
    fn push(&mut self, word: &'a [u8]) {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(word).or_insert_with(|| {
            self.texts.bytes(word);
            next
        });
        self.values.push(number);
    }

    fn size(&self) -> usize {
        self.texts.len().saturating_add(self.values.len().saturating_mul(4))
    }

    /// Nothing where there is no value.
    fn write(&self, out: &mut Vec<u8>) {
        if self.values.is_empty() {
            return;
        }
        let width: u64 = match self.numbers.len() {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        out.raw(&(OWN_WORDS | NEW_WORDS | width).to_le_bytes());
        out.raw(&(self.numbers.len() as u64).to_le_bytes());
        out.raw(&self.texts);
        out.raw(&(self.values.len() as u64).to_le_bytes());
        let bytes = 1_usize << width;
        for value in &self.values {
            out.raw(value.to_le_bytes().get(..bytes).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::wire::columns::{ARCHIVED, REJECTED_EVENTS, USAGE_EVENTS};

    use super::*;

    const TABLE: Table = Table {
        name: "t",
        columns: &[
            Column { name: "n", data_type: "UInt8", kind: Kind::One(Value::Fixed(1)) },
            Column {
                name: "w",
                data_type: "Array(LowCardinality(String))",
                kind: Kind::Many(Value::Word),
            },
            Column { name: "o", data_type: "Nullable(UInt8)", kind: Kind::One(Value::Nullable(1)) },
        ],
    };

    #[test]
    fn rows_become_columns() {
        let first = Bytes::from_static(&[7, 2, 1, b'a', 1, b'b', 1]);
        let second = Bytes::from_static(&[8, 1, 1, b'b', 0, 5]);
        let pieces = block(&TABLE, &[first, second]).unwrap();
        let long = |number: u64| number.to_le_bytes().to_vec();
        let words = [
            b"\x01w\x1dArray(LowCardinality(String))".to_vec(),
            long(1),
            [long(2), long(3)].concat(),
            long(0x600),
            long(2),
            b"\x01a\x01b".to_vec(),
            long(3),
            vec![0, 1, 1],
        ];
        let want = [
            vec![3, 2],
            b"\x01n\x05UInt8\x07\x08".to_vec(),
            words.concat(),
            b"\x01o\x0fNullable(UInt8)\x01\x00\x00\x05".to_vec(),
        ];
        assert_eq!(pieces, want);
    }

    #[test]
    fn many_rows_are_several_blocks() {
        let piece = Bytes::from(vec![0; 76 << 10]);
        let pieces: Vec<Bytes> =
            blocks(&ARCHIVED, vec![piece; 70]).collect::<Result<_, _>>().unwrap();
        let columns = ARCHIVED.columns.len();
        assert_eq!(pieces.len(), 2 * (1 + columns));
        let rows = |head: &Bytes| Input::new(&head[1..]).varint().unwrap();
        assert_eq!(rows(&pieces[0]) + rows(&pieces[1 + columns]), 70 << 10);
        let cut = blocks(&ARCHIVED, vec![Bytes::from_static(&[0; 77])]).collect::<Vec<_>>();
        assert!(matches!(cut.as_slice(), [Err(_)]));
    }

    #[test]
    fn more_words_take_wider_numbers() {
        let rows: Vec<u8> = (0..300_u16)
            .flat_map(|word| [1, 1, 2, word.to_be_bytes()[0], word.to_be_bytes()[1], 1])
            .collect();
        let pieces = block(&TABLE, &[rows.into()]).unwrap();
        let (_, numbers) = pieces[2].split_at(pieces[2].len() - 600);
        assert_eq!(numbers[598..], 299_u16.to_le_bytes());
    }

    /// A row as short as it can be with lists of so many elements: empty texts, NULLs.
    fn shortest(table: &Table, elements: u8) -> Vec<u8> {
        let mut row = Vec::new();
        let one = |row: &mut Vec<u8>, value| match value {
            Value::Fixed(length) => row.resize(row.len() + length, 0),
            Value::Text | Value::Word => row.push(0),
            Value::Nullable(_) => row.push(1),
        };
        for column in table.columns {
            match column.kind {
                Kind::One(value) => one(&mut row, value),
                Kind::Many(value) => {
                    row.push(elements);
                    (0..elements).for_each(|_| one(&mut row, value));
                }
                Kind::Maps => row.extend(std::iter::once(elements).chain((0..elements).map(|_| 0))),
            }
        }
        row
    }

    /// What lets a flush be bounded by its rows.
    #[test]
    fn columns_are_at_most_three_times_as_long_as_their_rows() {
        for table in [&USAGE_EVENTS, &REJECTED_EVENTS, &ARCHIVED] {
            for elements in [0, 1, 2, 100] {
                let rows = Bytes::from(shortest(table, elements).repeat(300));
                let pieces = block(table, std::slice::from_ref(&rows)).unwrap();
                let length: usize = pieces.iter().map(Bytes::len).sum();
                let times = (length as f64) / (rows.len() as f64);
                assert!(times < 3.0, "{} with lists of {elements}: {times}", table.name);
            }
        }
    }

    #[test]
    fn a_row_that_is_cut_is_refused() {
        assert!(block(&USAGE_EVENTS, &[Bytes::from_static(&[0; 100])]).is_err());
        assert!(block(&ARCHIVED, &[Bytes::from_static(&[0; 77])]).is_err());
        assert_eq!(block(&ARCHIVED, &[]).unwrap().len(), 1 + ARCHIVED.columns.len());
    }
}
