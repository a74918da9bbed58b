//! Bodies of requests, compressed or not, in pieces.

use std::io::{Cursor, Write as _};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING},
};
use bytes::Bytes;
use domain::event::BODY_BYTES_MAX;
use flate2::{Compression, write::GzEncoder};
use tokio_util::io::ReaderStream;

use crate::{memory, world::WORLD};

/// The first byte says how the rest is compressed and in which pieces it comes.
pub fn compressed(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let encoding = ["identity", "gzip", "zstd", "br"][usize::from(choice & 3)];
    let piece = 1 + usize::from(choice >> 3) * 40;
    let read = read(encoding, rest, piece);
    memory::plain(read.as_ref().map_or(0, Bytes::len));
    assert!(read.as_ref().is_none_or(|body| body.len() <= BODY_BYTES_MAX));
    if encoding == "identity" {
        assert_eq!(read.as_deref(), Some(rest));
    }
    if choice & 4 != 0 {
        let back = match encoding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(rest).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            "zstd" => zstd::encode_all(rest, 1).expect("memory takes it"),
            _ => return,
        };
        assert_eq!(self::read(encoding, &back, piece).as_deref(), Some(rest));
    }
}

fn read(encoding: &'static str, body: &[u8], piece: usize) -> Option<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    let reader = Cursor::new(Bytes::copy_from_slice(body));
    let body = Body::from_stream(ReaderStream::with_capacity(reader, piece));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime of this thread");
    let read = runtime.block_on(ingest::body::read(&headers, body, &WORLD.budget));
    read.ok().map(|(body, _)| body)
}
