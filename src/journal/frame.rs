//! The bytes of one frame. Pure: knows no file.
//!
//! A frame is a run of 512-byte sectors. Each sector is 508 bytes of data and a check of 4; the data of
//! all sectors, joined, is header, payload, zeros. Byte-exact: `docs/format/journal.md` §2 and §3.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::tlog::hash::Hash;

/// Unit of writing: what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Data in a sector: the rest is its check.
pub const SECTOR_DATA_BYTES: usize = SECTOR_BYTES - 4;
/// Header before the payload: 4 + 2 + 2 + 8 + 4 + 4 + 32 + 32.
pub const HEADER_BYTES: usize = 88;
/// Largest frame of format version 1: 16,384 sectors. A reader looks no further for sectors of a torn frame.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// First bytes of a frame.
pub const MAGIC: [u8; 4] = *b"VRVJ";
/// Version of this format.
pub const VERSION: u16 = 1;

const HASH_AT: usize = 56;

static FRAME_CONTEXT: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("varve v1 journal frame"));

/// The header of a frame, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the frame, from 1, growing by one for ever.
    pub number: u64,
    /// Layer the frame belongs to.
    pub layer: u32,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// Hash of the frame before; zero for frame 1.
    pub previous: Hash,
    /// Hash of this frame.
    pub hash: Hash,
}

impl Header {
    /// Sectors the frame takes on disk.
    pub fn sectors(&self) -> usize {
        sectors_for(self.payload_bytes as usize)
    }

    /// Bytes the frame takes on disk.
    pub fn bytes(&self) -> usize {
        self.sectors() * SECTOR_BYTES
    }
}

/// Sectors of a frame with a payload of that many bytes.
pub fn sectors_for(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).div_ceil(SECTOR_DATA_BYTES)
}

/// The largest payload of a frame that takes at most `frame_bytes` on disk.
pub fn max_payload_bytes(frame_bytes: usize) -> usize {
    (frame_bytes / SECTOR_BYTES * SECTOR_DATA_BYTES).saturating_sub(HEADER_BYTES)
}

/// Writes a frame into `buffer`, which then holds exactly the frame's sectors, and returns its hash.
///
/// The payload is the concatenation of `payload`; it is copied once, into place.
///
/// # Panics
/// If the payload is longer than a frame can hold; the writer refuses it before.
pub fn encode(buffer: &mut Vec<u8>, number: u64, layer: u32, previous: &Hash, payload: &[&[u8]]) -> Hash {
    let payload_bytes: usize = payload.iter().map(|slice| slice.len()).sum();
    assert!(payload_bytes <= max_payload_bytes(MAX_FRAME_BYTES), "the writer refuses larger payloads");
    let length = u32::try_from(payload_bytes).expect("8 MiB fits 32 bits");

    // The buffer is reused and not cleared: every byte below is written anew.
    buffer.resize(sectors_for(payload_bytes) * SECTOR_BYTES, 0);
    buffer[0..4].copy_from_slice(&MAGIC);
    buffer[4..6].copy_from_slice(&VERSION.to_be_bytes());
    buffer[6..8].fill(0);
    buffer[8..16].copy_from_slice(&number.to_be_bytes());
    buffer[16..20].copy_from_slice(&layer.to_be_bytes());
    buffer[20..24].copy_from_slice(&length.to_be_bytes());
    buffer[24..56].copy_from_slice(previous.as_bytes());
    buffer[HASH_AT..HEADER_BYTES].fill(0);

    let end = scatter(buffer, payload);
    let data_end = buffer.len() - (SECTOR_BYTES - SECTOR_DATA_BYTES);
    buffer[end..data_end].fill(0);

    // The hash covers the checks of all sectors but the first, whose check covers the hash.
    buffer[SECTOR_DATA_BYTES..SECTOR_BYTES].fill(0);
    for (index, sector) in (0..).zip(buffer.chunks_exact_mut(SECTOR_BYTES)).skip(1) {
        let check = sector_check(&sector[..SECTOR_DATA_BYTES], number, index);
        sector[SECTOR_DATA_BYTES..].copy_from_slice(&check.to_be_bytes());
    }
    let hash = hash_blanked(buffer);
    buffer[HASH_AT..HEADER_BYTES].copy_from_slice(hash.as_bytes());
    let check = sector_check(&buffer[..SECTOR_DATA_BYTES], number, 0);
    buffer[SECTOR_DATA_BYTES..SECTOR_BYTES].copy_from_slice(&check.to_be_bytes());
    hash
}

/// Copies the payload into the data parts of the sectors; returns the buffer offset just after it.
fn scatter(buffer: &mut [u8], payload: &[&[u8]]) -> usize {
    let mut sector = 0;
    let mut at = HEADER_BYTES;
    for &slice in payload {
        let mut rest = slice;
        while !rest.is_empty() {
            if at == SECTOR_DATA_BYTES {
                sector += SECTOR_BYTES;
                at = 0;
            }
            let (now, later) = rest.split_at(rest.len().min(SECTOR_DATA_BYTES - at));
            buffer[sector + at..sector + at + now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
    }
    sector + at
}

/// What a sector is, seen as sector `index` of frame `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// Its check is right.
    Sound,
    /// All zero: never written. A written sector has a check that is not zero.
    Blank,
    /// Neither.
    Bad,
}

/// Classifies one sector.
pub fn classify(sector: &[u8], number: u64, index: u32) -> Sector {
    let (data, check) = sector.split_at(SECTOR_DATA_BYTES);
    if check == sector_check(data, number, index).to_be_bytes() {
        Sector::Sound
    } else if is_blank(sector) {
        Sector::Blank
    } else {
        Sector::Bad
    }
}

/// Whether every byte is zero. `bytes` is whole sectors.
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().fold(0, |all, byte| all | byte) == 0)
}

/// CRC-32C over number, index and data; 0 becomes 1, so that a written sector is never all zero.
pub(super) fn sector_check(data: &[u8], number: u64, index: u32) -> u32 {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&number.to_be_bytes());
    place[8..].copy_from_slice(&index.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), data).max(1)
}

/// The number a first sector claims, not checked: for the oldest frame kept, whose number nothing foretells.
pub fn claimed_number(sector: &[u8]) -> u64 {
    u64::from_be_bytes(array(&sector[8..16]))
}

/// Parses the header in a first sector that is [`Sector::Sound`].
///
/// # Errors
/// Expected and found, in words, when a field is not one that this version writes.
pub fn parse_header(sector: &[u8]) -> Result<Header, (String, String)> {
    let version = u16::from_be_bytes(array(&sector[4..6]));
    let reserved = u16::from_be_bytes(array(&sector[6..8]));
    let payload_bytes = u32::from_be_bytes(array(&sector[20..24]));
    if sector[..4] != MAGIC {
        return Err(("the magic VRVJ".into(), format!("{:02x?}", &sector[..4])));
    }
    if version != VERSION || reserved != 0 {
        return Err((format!("format version {VERSION}.0"), format!("{version}.{reserved}")));
    }
    if payload_bytes as usize > max_payload_bytes(MAX_FRAME_BYTES) {
        return Err(("a payload within the limit".into(), format!("{payload_bytes} bytes")));
    }
    Ok(Header {
        number: claimed_number(sector),
        layer: u32::from_be_bytes(array(&sector[16..20])),
        payload_bytes,
        previous: Hash(array(&sector[24..56])),
        hash: Hash(array(&sector[HASH_AT..HEADER_BYTES])),
    })
}

/// The hash that the sectors of a frame have, whatever their header says. `frame` is as before on return;
/// it is mutable because the fields that are not covered are blanked while it is hashed in one piece.
pub fn hash(frame: &mut [u8]) -> Hash {
    let first: [u8; SECTOR_BYTES] = array(&frame[..SECTOR_BYTES]);
    frame[HASH_AT..HEADER_BYTES].fill(0);
    frame[SECTOR_DATA_BYTES..SECTOR_BYTES].fill(0);
    let hash = hash_blanked(frame);
    frame[..SECTOR_BYTES].copy_from_slice(&first);
    hash
}

fn hash_blanked(frame: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new_from_context_key(&FRAME_CONTEXT);
    hasher.update(frame);
    Hash(*hasher.finalize().as_bytes())
}

/// The payload out of the sectors of a frame.
pub fn gather(frame: &[u8], payload_bytes: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(payload_bytes);
    let mut from = HEADER_BYTES;
    for sector in frame.chunks_exact(SECTOR_BYTES) {
        let take = (payload_bytes - payload.len()).min(SECTOR_DATA_BYTES - from);
        payload.extend_from_slice(&sector[from..from + take]);
        from = 0;
    }
    payload
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the callers slice exactly N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_at_every_length_around_sector_bounds() {
        let bytes: Vec<u8> = (0..3000u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut buffer = vec![0xff; 9000];
        for length in
            (0..=3000).filter(|l| [0, 1, 419, 420, 421, 507, 508, 509].contains(&(l % 508)) || l % 97 == 0)
        {
            let (a, b) = bytes[..length].split_at(length / 3);
            let hash_written = encode(&mut buffer, 7, 202611, &Hash([9; 32]), &[a, &[], b]);
            assert_eq!(buffer.len(), sectors_for(length) * SECTOR_BYTES);
            for (index, sector) in (0..).zip(buffer.chunks(SECTOR_BYTES)) {
                assert_eq!(classify(sector, 7, index), Sector::Sound);
                assert_eq!(classify(sector, 8, index), Sector::Bad);
                assert_eq!(classify(sector, 7, index + 1), Sector::Bad);
            }
            let header = parse_header(&buffer).unwrap();
            assert_eq!(
                (header.number, header.layer, header.sectors()),
                (7, 202611, buffer.len() / SECTOR_BYTES)
            );
            assert_eq!((header.previous, header.hash), (Hash([9; 32]), hash_written));
            assert_eq!(hash(&mut buffer), hash_written);
            assert_eq!(gather(&buffer, length), bytes[..length]);
        }
    }

    #[test]
    fn how_the_payload_is_cut_into_slices_does_not_show() {
        let bytes = vec![5; 2000];
        let (mut one, mut many) = (Vec::new(), Vec::new());
        encode(&mut one, 1, 1, &Hash::ZERO, &[&bytes]);
        encode(&mut many, 1, 1, &Hash::ZERO, &bytes.chunks(7).collect::<Vec<_>>());
        assert_eq!(one, many);
    }

    #[test]
    fn a_written_sector_is_never_blank_and_a_blank_one_never_sound() {
        for number in 0..5000 {
            assert_ne!(sector_check(&[0; SECTOR_DATA_BYTES], number, 3), 0);
            assert_eq!(classify(&[0; SECTOR_BYTES], number, 3), Sector::Blank);
        }
    }

    #[test]
    fn the_check_is_crc32c() {
        // RFC 3720 B.4: 32 bytes of zeros. Here the first 12 are number and index.
        assert_eq!(sector_check(&[0; 20], 0, 0), 0x8a91_36aa);
    }

    #[test]
    fn the_vectors_of_the_format_document() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut buffer = Vec::new();
        let first = encode(&mut buffer, 1, 202_611, &Hash::ZERO, &[b"varve"]);
        assert_eq!(first.to_string(), "f76f7528c1455045843cf49c5114f9e2ce0128127bd20d7d2f261864f491c49c");
        assert_eq!(hex(&buffer[508..]), "eb4d04d8");
        let payload: Vec<u8> = (0..2000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let second = encode(&mut buffer, 2, 202_611, &first, &[&payload]);
        assert_eq!(second.to_string(), "237781841c09106b0b1720545d0a419eefcc65b0a51ecb1d2fc61de4547b4594");
        assert_eq!(hex(&buffer[508..512]), "92cb07ae");
        assert_eq!(hex(&buffer[buffer.len() - 4..]), "a1af6f29");
    }

    #[test]
    fn headers_of_another_kind_are_refused() {
        let mut buffer = Vec::new();
        encode(&mut buffer, 1, 1, &Hash::ZERO, &[b"x"]);
        for (at, byte) in [(0, b'X'), (5, 2), (7, 1), (20, 0xff)] {
            let mut other = buffer.clone();
            other[at] = byte;
            assert!(parse_header(&other).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_largest_payload_fills_the_largest_frame() {
        assert_eq!(sectors_for(max_payload_bytes(MAX_FRAME_BYTES)) * SECTOR_BYTES, MAX_FRAME_BYTES);
        assert_eq!(
            sectors_for(max_payload_bytes(MAX_FRAME_BYTES) + 1) * SECTOR_BYTES,
            MAX_FRAME_BYTES + SECTOR_BYTES
        );
    }
}
