//! Rows of the archive, of which the archiver makes columns and the rater its table; files of filters.

use archiver::native;
use bytes::Bytes;
use domain::wire::{
    columns::{ARCHIVED, REJECTED_EVENTS, USAGE_EVENTS},
    row::RowHead,
};
use rater::filter::Filter;
use xxhash_rust::xxh3::xxh3_64;

/// Rows of one of the tables, which the first byte chooses. What is read once is read twice.
pub fn block(input: &[u8]) {
    let Some((table, rows)) = input.split_first() else { return };
    let table = [&USAGE_EVENTS, &REJECTED_EVENTS, &ARCHIVED][usize::from(table % 3)];
    let rows = Bytes::copy_from_slice(rows);
    let once = native::block(table, std::slice::from_ref(&rows));
    assert_eq!(once.is_ok(), native::block(table, &[rows.clone(), rows]).is_ok());
}

/// The head of a row.
pub fn row(input: &[u8]) {
    if let Ok(head) = RowHead::decode(input) {
        assert!(input.starts_with(&head.position.to_le_bytes()));
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
    let (again, _) = Filter::decode(&filter.encode(&name)).expect("our file is read");
    assert_eq!(again, name);
}
