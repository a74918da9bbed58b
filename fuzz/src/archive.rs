//! Rows of the archive, of which the archiver makes columns and the rater its table; files of filters.

use archiver::native;
use domain::wire::{
    codec::{DecodeError, Input},
    columns::{ARCHIVED, Kind, REJECTED_EVENTS, USAGE_EVENTS, Value},
    row::RowHead,
    rows::Columns,
};
use rater::{filter::Filter, ranges::linked};
use xxhash_rust::xxh3::xxh3_64;

use crate::verify_row::Row;

/// Rows of one of the tables, which the first byte chooses. What is read once is read twice.
pub fn block(input: &[u8]) {
    let Some((table, rows)) = input.split_first() else { return };
    let table = [&USAGE_EVENTS, &REJECTED_EVENTS, &ARCHIVED][usize::from(table % 3)];
    let Ok(columns) = Columns::of_rows(table, rows) else { return };
    assert_eq!(columns.rows().iter().map(<[u8]>::len).sum::<usize>(), columns.rows().bytes.len());
    let again = Columns::of_rows(table, &columns.rows().bytes).expect("our rows are read");
    assert_eq!(again.rows(), columns.rows());
    let once = native::block(table, std::slice::from_ref(&columns));
    assert_eq!(once.len(), native::block(table, &[columns, again]).len());
}

/// The head of a row.
pub fn row(input: &[u8]) {
    if let Ok(head) = RowHead::decode(input) {
        assert!(input.starts_with(&head.position.to_le_bytes()));
    }
}

/// Rows as `weir verify` takes them apart: the same rows as the archiver takes, and each column that
/// has one value can be read.
pub fn verified_row(input: &[u8]) {
    let (mut rest, mut rows) = (Input::new(input), Vec::new());
    let taken = loop {
        if rest.is_empty() {
            break true;
        }
        let Ok(row) = Row::take(&mut rest) else { break false };
        rows.push(row);
    };
    let columns = Columns::of_rows(&USAGE_EVENTS, input);
    assert!(taken || columns.is_err(), "two readers of one format");
    for row in &rows {
        assert_eq!(row.difference(row), None);
        // Its texts may be no UTF-8, and then it is not read.
        let _ = row.totals_before();
        for column in USAGE_EVENTS.columns {
            let read = match column.kind {
                Kind::One(Value::Fixed(1)) => row.u8(column.name).map(drop),
                Kind::One(Value::Fixed(4)) => row.u32(column.name).map(drop),
                Kind::One(Value::Fixed(8)) => {
                    row.u64(column.name).and_then(|_| row.i64(column.name)).map(drop)
                }
                Kind::One(Value::Fixed(16)) => row.uuid(column.name).map(drop),
                Kind::One(Value::Text | Value::Word) => {
                    // Raw bytes may be no text.
                    let _ = row.text(column.name);
                    row.bytes(column.name).map(drop)
                }
                _ => Ok::<(), DecodeError>(()),
            };
            assert_eq!(read, Ok(()), "{}", column.name);
        }
    }
    if let [first, .., last] = rows.as_slice() {
        assert_eq!(first.difference(last), last.difference(first));
    }
}

/// A filter's file as it is, and with a checksum that fits. A filter that was read can be asked,
/// and is written as it was.
pub fn filter(input: &[u8]) {
    read(input);
    if input.len() > 16 {
        let mut sealed = input.to_vec();
        sealed[..8].copy_from_slice(b"WRFF\x01\0\0\0");
        let checksum = xxh3_64(&sealed[16..]);
        sealed[8..16].copy_from_slice(&checksum.to_le_bytes());
        read(&sealed);
    }
}

fn read(file: &[u8]) {
    let Ok((name, filter)) = Filter::decode(file) else { return };
    for number in 0..200_u128 {
        let identity = number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let _ = (filter.reports(identity), filter.reports(!identity));
    }
    let (again, copy) = Filter::decode(&filter.encode(&name)).expect("our file is read");
    assert_eq!(again, name);
    let files = vec![(0, name, filter), (1, name, copy)];
    let (ranges, useless) = linked(name.partition, files, name.to.saturating_add(1), name.c);
    assert!(!useless.is_empty(), "two files of one range are one too many: {ranges:?}");
}
