//! Columns of many batches become blocks of ClickHouse's format Native. ClickHouse puts the blocks of
//! an insert together again: one token is one part.
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
    codec::{Input, Output as _},
    columns::{Column, Kind, Table, Value},
    rows::{ColumnData, Columns, numbers, put_numbers, word_width},
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

/// Rows of `table` as blocks one after the other, in pieces.
pub fn blocks(table: &'static Table, rows: Vec<Columns>) -> impl Iterator<Item = Bytes> {
    let mut rows = rows.into_iter();
    let next = move || {
        let (mut part, mut size) = (Vec::new(), 0_usize);
        while size < BLOCK_BYTES
            && let Some(piece) = rows.next()
        {
            size = size.saturating_add(piece.size());
            part.push(piece);
        }
        (!part.is_empty()).then(|| block(table, &part))
    };
    std::iter::from_fn(next).flatten()
}

/// Rows of `table` as one block. Answers it in pieces.
#[must_use]
pub fn block(table: &Table, rows: &[Columns]) -> Vec<Bytes> {
    let mut head = Vec::new();
    head.length(table.columns.len());
    head.length(rows.iter().map(Columns::count).sum());
    let lists =
        if table.has_lists() { ends(rows.iter().flat_map(Columns::lists)) } else { Vec::new() };
    let columns = table.columns.iter().enumerate().map(|(place, column)| {
        column_of(column, &lists, rows.iter().map(|rows| rows.column(place)))
    });
    [Bytes::from(head)].into_iter().chain(columns).collect()
}

/// Where lists of these lengths end, counted from the first value of the block.
fn ends(lengths: impl Iterator<Item = u64>) -> Vec<u8> {
    let (mut last, mut bytes) = (0_u64, Vec::new());
    for length in lengths {
        last = last.saturating_add(length);
        bytes.raw(&last.to_le_bytes());
    }
    bytes
}

/// A column as it is written: what each piece has of it, part by part.
fn column_of<'a>(
    column: &Column,
    lists: &[u8],
    pieces: impl Iterator<Item = ColumnData<'a>> + Clone,
) -> Bytes {
    let is_list = !matches!(column.kind, Kind::One(_));
    let has_words = matches!(column.kind, Kind::One(Value::Word) | Kind::Many(Value::Word));
    let size: usize = pieces.clone().map(|piece| size_of(&piece)).sum();
    let mut out = Vec::with_capacity(size.saturating_add(lists.len()).saturating_add(256));
    out.text(column.name);
    out.text(column.data_type);
    if has_words {
        out.raw(&WORDS_VERSION.to_le_bytes());
    }
    if is_list {
        out.raw(lists);
    }
    if has_words {
        put_words(&mut out, pieces);
        return out.into();
    }
    if column.kind == Kind::Maps {
        out.raw(&ends(pieces.clone().flat_map(|piece| match piece {
            ColumnData::Maps(pairs, ..) => Input::new(pairs).varints(),
            _ => Input::new(&[]).varints(),
        })));
    }
    for piece in pieces.clone() {
        match piece {
            ColumnData::Nullable(nulls, _) => out.raw(nulls),
            ColumnData::Plain(values) => out.raw(values),
            ColumnData::Maps(_, keys, _) => out.raw(keys),
            ColumnData::Words(..) => {}
        }
    }
    for piece in pieces {
        match piece {
            ColumnData::Nullable(_, values) | ColumnData::Maps(_, _, values) => out.raw(values),
            ColumnData::Plain(_) | ColumnData::Words(..) => {}
        }
    }
    out.into()
}

/// Bytes that a piece takes at least; of words and maps those of numbers as they may become.
fn size_of(piece: &ColumnData<'_>) -> usize {
    match piece {
        ColumnData::Plain(values) => values.len(),
        ColumnData::Nullable(nulls, values) => nulls.len().saturating_add(values.len()),
        ColumnData::Words(texts, _, values) => texts.len().saturating_add(values.len()),
        ColumnData::Maps(pairs, keys, values) => {
            pairs.len().saturating_mul(8).saturating_add(keys.len()).saturating_add(values.len())
        }
    }
}

/// Words of all pieces: each once, then the number of each value's. Nothing where there is no value.
fn put_words<'a>(out: &mut Vec<u8>, pieces: impl Iterator<Item = ColumnData<'a>>) {
    let (mut texts, mut known) = (Vec::new(), HashMap::<&[u8], u32>::new());
    let (mut count, mut of_pieces) = (0_usize, Vec::new());
    for piece in pieces {
        let ColumnData::Words(words, different, values) = piece else { continue };
        let mut input = Input::new(words);
        let mut new_numbers = Vec::with_capacity(different);
        while let Ok(word) = input.bytes() {
            let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
            new_numbers.push(*known.entry(word).or_insert_with(|| {
                texts.bytes(word);
                next
            }));
        }
        let width = word_width(different);
        count = count.saturating_add(values.len() / width);
        of_pieces.push((new_numbers, values, width));
    }
    if count == 0 {
        return;
    }
    let (width, code) = match word_width(known.len()) {
        1 => (1, 0),
        2 => (2, 1),
        _ => (4, 2),
    };
    out.raw(&(OWN_WORDS | NEW_WORDS | code).to_le_bytes());
    out.raw(&(known.len() as u64).to_le_bytes());
    out.raw(&texts);
    out.raw(&(count as u64).to_le_bytes());
    for (new_numbers, values, of_piece) in &of_pieces {
        let number = |old: usize| new_numbers.get(old).copied().unwrap_or_default();
        match (*of_piece, new_numbers.as_slice()) {
            // The one word of this piece.
            (1, [only]) if width == 1 => {
                out.resize(out.len().saturating_add(values.len()), only.to_le_bytes()[0]);
            }
            (1, _) => put_numbers(out, values.iter().map(|old| number(usize::from(*old))), width),
            (wide, _) => put_numbers(out, numbers(values, wide).map(number), width),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::wire::columns::{ARCHIVED, REJECTED_EVENTS, USAGE_EVENTS};

    use super::*;

    static TABLE: Table = Table {
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
        let first = Columns::of_rows(&TABLE, &[7, 2, 1, b'a', 1, b'b', 1]).unwrap();
        let second = Columns::of_rows(&TABLE, &[8, 1, 1, b'b', 0, 5]).unwrap();
        let pieces = block(&TABLE, &[first, second]);
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
        let piece = Columns::of_rows(&ARCHIVED, &vec![0; 76 << 10]).unwrap();
        let pieces: Vec<Bytes> = blocks(&ARCHIVED, vec![piece; 70]).collect();
        let columns = ARCHIVED.columns.len();
        assert_eq!(pieces.len(), 2 * (1 + columns));
        let rows = |head: &Bytes| Input::new(&head[1..]).varint().unwrap();
        assert_eq!(rows(&pieces[0]) + rows(&pieces[1 + columns]), 70 << 10);
    }

    #[test]
    fn more_words_take_wider_numbers() {
        let rows: Vec<u8> = (0..300_u16)
            .flat_map(|word| [1, 1, 2, word.to_be_bytes()[0], word.to_be_bytes()[1], 1])
            .collect();
        let pieces = block(&TABLE, &[Columns::of_rows(&TABLE, &rows).unwrap()]);
        let (_, numbers) = pieces[2].split_at(pieces[2].len() - 600);
        assert_eq!(numbers[598..], 299_u16.to_le_bytes());
    }

    /// A row as short as it can be with lists of so many elements: empty texts, NULLs.
    fn shortest(table: &'static Table, elements: u8) -> Vec<u8> {
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
    fn blocks_are_at_most_twice_as_long_as_their_rows() {
        for table in [&USAGE_EVENTS, &REJECTED_EVENTS, &ARCHIVED] {
            for elements in [0, 1, 2, 100] {
                let rows = shortest(table, elements).repeat(300);
                let columns = Columns::of_rows(table, &rows).unwrap();
                let pieces = block(table, std::slice::from_ref(&columns));
                let length: usize = pieces.iter().map(Bytes::len).sum();
                let times = (length as f64) / (columns.size() as f64);
                assert!(times < 2.0, "{} with lists of {elements}: {times}", table.name);
            }
        }
    }

    #[test]
    fn a_row_that_is_cut_is_refused() {
        assert!(Columns::of_rows(&USAGE_EVENTS, &[0; 100]).is_err());
        assert!(Columns::of_rows(&ARCHIVED, &[0; 77]).is_err());
        assert_eq!(block(&ARCHIVED, &[]).len(), 1 + ARCHIVED.columns.len());
    }
}
