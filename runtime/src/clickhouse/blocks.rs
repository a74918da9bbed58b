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
/// LZ4 gains at most a factor of about 255: a byte adds at most 255 to the length of a match. A block
/// that claims more is refused before there is memory for it.
const GAIN_MAX: usize = 256;

/// The plain data of all blocks, at most `bytes_max`, or what is wrong with them. Takes memory for a
/// block when it is reached, so that the bytes that were sent bound it.
pub(super) fn decompress(mut body: &[u8], bytes_max: usize) -> Result<Bytes, String> {
    let mut plain = Vec::new();
    while !body.is_empty() {
        let (block, rest) = split(body).ok_or("a compressed block is cut short")?;
        let gain_max = match block.method {
            NONE => 1,
            LZ4 => GAIN_MAX,
            other => {
                return Err(format!("compression method {other:#x} is not supported: use LZ4"));
            }
        };
        let (sent, size) = (block.data.len(), block.plain_size);
        if size > sent.saturating_mul(gain_max) {
            return Err(format!("a compressed block of {sent} bytes claims {size} plain ones"));
        }
        let start = plain.len();
        if size > bytes_max - start {
            return Err(format!("the body is larger than {bytes_max} bytes"));
        }
        let written = if block.method == NONE {
            plain.extend_from_slice(block.data);
            sent
        } else {
            plain.resize(start + size, 0);
            let place = plain.get_mut(start..).unwrap_or_default();
            lz4_flex::block::decompress_into(block.data, place)
                .map_err(|fault| format!("a compressed block is broken: {fault}"))?
        };
        if written != size {
            return Err(format!("a compressed block claims {size} plain bytes and has {written}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 2 << 20;

    fn block(method: u8, plain_size: usize, data: &[u8]) -> Vec<u8> {
        let mut block = vec![0; CHECKSUM];
        block.push(method);
        for size in [HEADER + data.len(), plain_size] {
            block.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        }
        block.extend_from_slice(data);
        block
    }

    fn refusal(body: &[u8]) -> String {
        decompress(body, BYTES_MAX).unwrap_err()
    }

    #[test]
    fn blocks_of_both_methods_follow_one_another() {
        let zeros = vec![0; 1 << 20];
        let packed = lz4_flex::block::compress(&zeros);
        assert!(zeros.len() < packed.len() * GAIN_MAX, "the best that LZ4 does is allowed");
        let body = [block(LZ4, zeros.len(), &packed), block(NONE, 3, b"end")].concat();
        assert_eq!(decompress(&body, BYTES_MAX).unwrap(), [zeros.as_slice(), b"end"].concat());
        assert!(decompress(&[], BYTES_MAX).unwrap().is_empty());
    }

    #[test]
    fn a_block_that_claims_more_than_it_can_hold_is_refused() {
        let body = block(LZ4, BYTES_MAX, &[0]);
        assert_eq!(body.len(), 26);
        assert_eq!(refusal(&body), "a compressed block of 1 bytes claims 2097152 plain ones");
        assert_eq!(
            refusal(&block(NONE, 4, b"end")),
            "a compressed block of 3 bytes claims 4 plain ones"
        );
    }

    #[test]
    fn a_block_has_as_many_bytes_as_it_says() {
        let packed = lz4_flex::block::compress(b"plain");
        assert_eq!(
            refusal(&block(LZ4, 6, &packed)),
            "a compressed block claims 6 plain bytes and has 5"
        );
        assert!(refusal(&block(LZ4, 4, &packed)).starts_with("a compressed block is broken"));
        assert_eq!(
            refusal(&block(NONE, 2, b"end")),
            "a compressed block claims 2 plain bytes and has 3"
        );
        assert_eq!(refusal(&block(LZ4, 5, &packed)[..30]), "a compressed block is cut short");
        let other = refusal(&block(0x90, 5, &packed));
        assert_eq!(other, "compression method 0x90 is not supported: use LZ4");
    }

    #[test]
    fn all_blocks_together_are_no_larger_than_a_body() {
        let half = vec![0; BYTES_MAX / 2];
        let packed = lz4_flex::block::compress(&half);
        let one = block(LZ4, half.len(), &packed);
        let full = [one.as_slice(), &one].concat();
        assert_eq!(decompress(&full, BYTES_MAX).unwrap().len(), BYTES_MAX);
        let body = [full.as_slice(), &block(NONE, 1, b"e")].concat();
        assert_eq!(refusal(&body), "the body is larger than 2097152 bytes");
    }
}
