//! What the rater rebuilds its table from: rows of the archive, and files of filters.

use domain::wire::row::RowHead;
use rater::filter::Filter;
use xxhash_rust::xxh3::xxh3_64;

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
