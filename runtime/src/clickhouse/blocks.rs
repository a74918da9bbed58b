//! ClickHouse's compressed blocks, as clients send them with `decompress=1`.
//!
//! A block is a checksum (16 bytes, CityHash128), a method, the compressed size with the 9 bytes of
//! this header, the size of the plain data, and the data. The checksum is not looked at: the
//! engine listens on loopback, and LZ4 and the format notice a cut.

use bytes::Bytes;

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const NONE: u8 = 0x02;
/// Of the whole body once it is plain; as large as an uncompressed one may be.
const PLAIN_BYTES_MAX: usize = super::engine::BODY_BYTES_MAX;

/// The plain data of all blocks, or what is wrong with them.
pub(super) fn decompress(mut body: &[u8]) -> Result<Bytes, String> {
    let mut plain = Vec::new();
    while !body.is_empty() {
        let (block, rest) = split(body).ok_or("a compressed block is cut short")?;
        let size = block.plain_size.min(PLAIN_BYTES_MAX + 1);
        if plain.len() + size > PLAIN_BYTES_MAX {
            return Err(format!("the body is larger than {PLAIN_BYTES_MAX} bytes"));
        }
        match block.method {
            NONE => plain.extend_from_slice(block.data),
            LZ4 => plain.extend(
                lz4_flex::block::decompress(block.data, size)
                    .map_err(|fault| format!("a compressed block is broken: {fault}"))?,
            ),
            other => {
                return Err(format!("compression method {other:#x} is not supported: use LZ4"));
            }
        }
        body = rest;
    }
    Ok(plain.into())
}

struct Block<'a> {
    method: u8,
    plain_size: usize,
    data: &'a [u8],
}

fn split(body: &[u8]) -> Option<(Block<'_>, &[u8])> {
    let (_, rest) = body.split_at_checked(CHECKSUM)?;
    let (header, rest) = rest.split_at_checked(HEADER)?;
    let (method, sizes) = header.split_first()?;
    let (compressed, plain) = sizes.split_first_chunk::<4>()?;
    let compressed = usize::try_from(u32::from_le_bytes(*compressed)).ok()?.checked_sub(HEADER)?;
    let plain_size = usize::try_from(u32::from_le_bytes(*plain.first_chunk::<4>()?)).ok()?;
    let (data, rest) = rest.split_at_checked(compressed)?;
    Some((Block { method: *method, plain_size, data }, rest))
}
