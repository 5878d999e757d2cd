//! A page: consecutive records of one log, packed and compressed.
//!
//! Signatures, commitments and salts are random bytes that no compressor shrinks, so they go into
//! columns of their own, raw, and the compressor sees only text. A sealed member's 43 base64url
//! characters become 32 raw bytes, or nothing at all where the disclosure that they commit to stands
//! in the same record: the reader computes them again, and the entry's `event` digest says whether
//! they came out right. Decoding gives back the very bytes that were encoded.
//!
//! FORMAT, "Pages", has the layout byte by byte.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use memchr::memmem;

use super::record::Record;
use super::wire::{Reader, Short, put_bytes32};
use crate::event::Commitment;
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature};

/// Layout version, the first byte of a page.
const PAGE_VERSION: u8 = 1;

/// Most records of one page. 64 records of 100 bytes fill a value; more would only slow random reads.
pub const MAX_PAGE_RECORDS: usize = 64;

/// Most bytes of text that a page may claim to decompress to: `MAX_PAGE_RECORDS` small records or one
/// record of the largest body (64 KiB event, its values sealed, twice over for commitments and paths).
const MAX_TEXT_BYTES: usize = 512 * 1024;

/// zstd level: 1 costs a third of 3 and gives 4 % away.
const ZSTD_LEVEL: i32 = 1;

/// What opens a sealed member in canonical JSON. It cannot occur inside a string, where quotes are escaped.
const SEAL_OPEN: &[u8] = b"{\"$sealed\":\"";

static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(SEAL_OPEN));

/// base64url characters of a 32-byte commitment.
const SEAL_CHARS: usize = 43;

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
);

/// A page that cannot be read: damage, never a short write (pages are written whole).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The checksum over the page's bytes does not match.
    #[error("the page's checksum does not match its bytes")]
    Checksum,
    /// A length or count inside contradicts another.
    #[error("the page's {0} contradicts its bytes")]
    Malformed(&'static str),
    /// A version this build does not know.
    #[error("the page has layout version {0}, which this build does not know; a newer build wrote it")]
    Version(u8),
}

impl From<Short> for PageError {
    fn from(_: Short) -> PageError {
        PageError::Malformed("length")
    }
}

/// A decoded page.
#[derive(Clone, PartialEq)]
pub struct Page {
    /// Link of the entry before the first record.
    pub previous: Hash,
    /// The records, in order of index.
    pub records: Vec<Record>,
}

/// What a page says of itself before it is decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// Number of records, at least one.
    pub count: u16,
    /// `recorded_at` of the first record.
    pub first_recorded_at: u64,
    /// `recorded_at` of the last record.
    pub last_recorded_at: u64,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Packs `records`, whose first comes after the entry with link `previous`.
///
/// Panics when there are no records or more than `MAX_PAGE_RECORDS`.
pub fn encode<R: Borrow<Record>>(previous: &Hash, records: &[R]) -> Vec<u8> {
    assert!(!records.is_empty() && records.len() <= MAX_PAGE_RECORDS, "a page holds 1 to 64 records");
    let mut random = Vec::with_capacity(records.len() * 96);
    let mut text = Vec::with_capacity(records.iter().map(|record| record.borrow().encoded_len()).sum());
    let mut earlier = 0;
    for record in records.iter().map(Borrow::borrow) {
        text.extend_from_slice(&(record.recorded_at.wrapping_sub(earlier)).to_be_bytes());
        earlier = record.recorded_at;
        text.extend_from_slice(&record.key_id.0);
        text.extend_from_slice(&record.class.to_be_bytes());
        text.extend_from_slice(&record.flags.to_be_bytes());
        encode_body(&record.body, &mut text, &mut random);
    }
    let packed = compress(&text);
    let stored = packed.as_deref().unwrap_or(&text);

    let mut out = Vec::with_capacity(64 + records.len() * 96 + random.len() + stored.len());
    out.push(PAGE_VERSION);
    out.push(u8::from(packed.is_some()));
    let count = u16::try_from(records.len()).expect("bounded above");
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&records[0].borrow().recorded_at.to_be_bytes());
    out.extend_from_slice(&records[records.len() - 1].borrow().recorded_at.to_be_bytes());
    out.extend_from_slice(previous.as_bytes());
    for record in records.iter().map(Borrow::borrow) {
        out.extend_from_slice(record.event.as_bytes());
        out.extend_from_slice(&record.signature.0);
    }
    put_bytes32(&mut out, &random);
    out.extend_from_slice(&u32::try_from(text.len()).expect("bounded by the record limit").to_be_bytes());
    put_bytes32(&mut out, stored);
    let check = crc32c::crc32c(&out);
    out.extend_from_slice(&check.to_be_bytes());
    out
}

/// Reads the header alone; the checksum is not looked at.
pub fn header(bytes: &[u8]) -> Result<PageHeader, PageError> {
    let mut from = Reader::new(bytes);
    match from.u8()? {
        PAGE_VERSION => {}
        other => return Err(PageError::Version(other)),
    }
    from.u8()?;
    let count = from.u16()?;
    if count == 0 || usize::from(count) > MAX_PAGE_RECORDS {
        return Err(PageError::Malformed("count"));
    }
    Ok(PageHeader { count, first_recorded_at: from.u64()?, last_recorded_at: from.u64()? })
}

/// Reads the header of a page whose checksum holds.
pub fn checked_header(bytes: &[u8]) -> Result<PageHeader, PageError> {
    header(checked(bytes)?)
}

/// Unpacks a page. Errors when a bit of it has changed since `encode`.
pub fn decode(bytes: &[u8]) -> Result<Page, PageError> {
    decode_with(bytes, &mut Commitments::default())
}

/// What unpacking computed, record by record, from the record's disclosures, in their order; none where the page
/// keeps the commitments. Who verifies need not compute them again.
#[derive(Default)]
pub struct Commitments {
    all: Vec<Commitment>,
    /// Where each record's end in `all`.
    ends: Vec<usize>,
    /// Memory of the part of a body that stands behind its event.
    tail: Vec<u8>,
    /// Memory of the text of a page.
    text: Vec<u8>,
}

impl Commitments {
    /// Those of the record at a position; none where there is no such record.
    pub fn of(&self, position: usize) -> &[Commitment] {
        let start = position.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(position).and_then(|end| self.all.get(start..*end)).unwrap_or_default()
    }
}

/// Unpacks a page and keeps what it computed on the way, in place of what was computed before.
pub fn decode_with(bytes: &[u8], computed: &mut Commitments) -> Result<Page, PageError> {
    computed.all.clear();
    computed.ends.clear();
    let packed = Packed::open(checked(bytes)?)?;
    let mut room = std::mem::take(&mut computed.text);
    let (mut fixed, mut random, mut text) =
        (Reader::new(packed.fixed), Reader::new(packed.random), Reader::new(packed.text(&mut room)?));
    let mut records = Vec::with_capacity(usize::from(packed.header.count));
    let mut recorded_at = 0;
    for _ in 0..packed.header.count {
        let mut record = decode_fixed(&mut text, &mut fixed, &mut recorded_at)?;
        record.body = decode_body(&mut text, &mut random, computed)?;
        records.push(record);
    }
    if text.rest() != 0 || random.rest() != 0 {
        return Err(PageError::Malformed("trailing bytes"));
    }
    if records[0].recorded_at != packed.header.first_recorded_at
        || recorded_at != packed.header.last_recorded_at
    {
        return Err(PageError::Malformed("time range"));
    }
    computed.text = room;
    Ok(Page { previous: packed.previous, records })
}

/// Unpacks the records at the positions `wanted`, which ascend. The page that comes back ends with the last
/// of them; the bodies of the others before it are left empty, as links do not need them.
///
/// Panics when a position is beyond the page.
pub fn decode_some(bytes: &[u8], wanted: &[u16]) -> Result<Page, PageError> {
    let packed = Packed::open(checked(bytes)?)?;
    let mut records = Vec::new();
    if let Some(last) = wanted.last() {
        assert!(*last < packed.header.count, "the caller has read the header");
        let mut room = Vec::new();
        let (mut fixed, mut random, mut text) =
            (Reader::new(packed.fixed), Reader::new(packed.random), Reader::new(packed.text(&mut room)?));
        let mut wanted = wanted.iter().peekable();
        let mut recorded_at = 0;
        let mut computed = Commitments::default();
        for position in 0..=*last {
            let mut record = decode_fixed(&mut text, &mut fixed, &mut recorded_at)?;
            if wanted.next_if_eq(&&position).is_some() {
                record.body = decode_body(&mut text, &mut random, &mut computed)?;
            } else {
                skip_body(&mut text, &mut random)?;
            }
            records.push(record);
        }
    }
    Ok(Page { previous: packed.previous, records })
}

/// The records of a page with the bytes of each body. The bodies themselves are rebuilt where `wanted` says so of the
/// record without one, and are empty otherwise: no commitment is computed for those.
pub fn outline(bytes: &[u8], wanted: &dyn Fn(&Record) -> bool) -> Result<Vec<(Record, usize)>, PageError> {
    let packed = Packed::open(checked(bytes)?)?;
    let mut room = Vec::new();
    let (mut fixed, mut random, mut text) =
        (Reader::new(packed.fixed), Reader::new(packed.random), Reader::new(packed.text(&mut room)?));
    let mut records = Vec::with_capacity(usize::from(packed.header.count));
    let mut recorded_at = 0;
    let mut computed = Commitments::default();
    for _ in 0..packed.header.count {
        let mut record = decode_fixed(&mut text, &mut fixed, &mut recorded_at)?;
        let body_bytes = if wanted(&record) {
            record.body = decode_body(&mut text, &mut random, &mut computed)?;
            record.body.len()
        } else {
            skip_body(&mut text, &mut random)?
        };
        records.push((record, body_bytes));
    }
    Ok(records)
}

/// What the checksum covers, when it holds.
fn checked(bytes: &[u8]) -> Result<&[u8], PageError> {
    let (covered, check) = bytes.split_last_chunk::<4>().ok_or(PageError::Malformed("length"))?;
    if crc32c::crc32c(covered).to_be_bytes() != *check {
        return Err(PageError::Checksum);
    }
    Ok(covered)
}

/// The columns of a page, the text still compressed.
struct Packed<'a> {
    header: PageHeader,
    previous: Hash,
    fixed: &'a [u8],
    random: &'a [u8],
    compressed: bool,
    text_len: usize,
    stored: &'a [u8],
}

impl<'a> Packed<'a> {
    fn open(covered: &'a [u8]) -> Result<Packed<'a>, PageError> {
        let header = header(covered)?;
        let mut from = Reader::new(covered);
        from.take(1)?;
        let compressed = match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(PageError::Malformed("codec")),
        };
        from.take(2 + 8 + 8)?;
        let previous = Hash(from.array()?);
        let fixed = from.take(usize::from(header.count) * 96)?;
        let random = from.bytes32()?;
        let text_len = from.u32()? as usize;
        let stored = from.bytes32()?;
        if from.rest() != 0 || text_len > MAX_TEXT_BYTES {
            return Err(PageError::Malformed("length"));
        }
        Ok(Packed { header, previous, fixed, random, compressed, text_len, stored })
    }

    /// The text, which lies in `room` where it was compressed.
    fn text<'b>(&self, room: &'b mut Vec<u8>) -> Result<&'b [u8], PageError>
    where
        'a: 'b,
    {
        let text = if self.compressed {
            decompress(self.stored, self.text_len, room)?;
            room
        } else {
            self.stored
        };
        if text.len() == self.text_len { Ok(text) } else { Err(PageError::Malformed("text length")) }
    }
}

/// A record without its body. `recorded_at` is that of the record before, and becomes this one's.
fn decode_fixed(
    text: &mut Reader<'_>,
    fixed: &mut Reader<'_>,
    recorded_at: &mut u64,
) -> Result<Record, PageError> {
    *recorded_at = recorded_at.wrapping_add(text.u64()?);
    Ok(Record {
        recorded_at: *recorded_at,
        key_id: KeyId(text.array()?),
        class: text.u16()?,
        flags: text.u16()?,
        event: Hash(fixed.array()?),
        signature: Signature(fixed.array()?),
        body: Vec::new(),
    })
}

const BODY_ABSENT: u8 = 0;
/// The encoded body, whole: what no other way represents.
const BODY_VERBATIM: u8 = 1;
/// Commitments cut out of the text and kept as raw bytes.
const BODY_CUT: u8 = 2;
/// Commitments cut out and left out: each has its disclosure beside it, in the same order.
const BODY_DERIVED: u8 = 3;

fn encode_body(body: &[u8], text: &mut Vec<u8>, random: &mut Vec<u8>) {
    if body.is_empty() {
        text.push(BODY_ABSENT);
        return;
    }
    let (text_mark, random_mark) = (text.len(), random.len());
    if encode_parts(body, text, random).is_none() {
        text.truncate(text_mark);
        random.truncate(random_mark);
        text.push(BODY_VERBATIM);
        put_bytes32(text, body);
    }
}

/// Takes an encoded body apart. `None` when it is not of the shape that `decode_body` rebuilds exactly.
fn encode_parts(body: &[u8], text: &mut Vec<u8>, random: &mut Vec<u8>) -> Option<()> {
    let mut from = Reader::new(body);
    let salt = from.take(16).ok()?;
    let canonical = from.bytes32().ok()?;
    let disclosure_count = from.u8().ok()?;
    let disclosures = from;

    let kind_at = text.len();
    text.push(BODY_CUT);
    random.extend_from_slice(salt);
    let length_at = text.len();
    text.extend_from_slice(&[0; 4]);
    let mut rest = canonical;
    let mut commitments: Vec<[u8; 32]> = Vec::with_capacity(8);
    while let Some(found) = find(rest) {
        let (before, after) = rest.split_at(found + SEAL_OPEN.len());
        let chars = after.get(..SEAL_CHARS)?;
        let mut commitment = [0; 32];
        if BASE64URL.decode_slice(chars, &mut commitment).ok()? != 32 {
            return None;
        }
        commitments.push(commitment);
        text.extend_from_slice(before);
        rest = &after[SEAL_CHARS..];
    }
    text.extend_from_slice(rest);
    let cut_len = u32::try_from(text.len() - length_at - 4).ok()?;
    text[length_at..length_at + 4].copy_from_slice(&cut_len.to_be_bytes());
    text.push(disclosure_count);

    let mut derived = commitments.len() == usize::from(disclosure_count);
    let mut from = disclosures;
    let mut salts = Vec::with_capacity(usize::from(disclosure_count) * 16);
    for i in 0..usize::from(disclosure_count) {
        let path_len = from.u8().ok()?;
        let path = from.take(usize::from(path_len)).ok()?;
        let salt = from.array().ok()?;
        let value = from.bytes32().ok()?;
        let is_known = |known: &[u8; 32]| Commitment::to(path, &salt, value).hash().0 == *known;
        derived = derived && commitments.get(i).is_some_and(is_known);
        salts.extend_from_slice(&salt);
        text.push(path_len);
        text.extend_from_slice(path);
        put_bytes32(text, value);
    }
    if from.rest() != 0 {
        return None;
    }
    if derived {
        text[kind_at] = BODY_DERIVED;
    } else {
        random.push(u8::try_from(commitments.len()).ok()?);
        random.extend(commitments.iter().flatten());
    }
    random.extend_from_slice(&salts);
    Some(())
}

/// An encoded body; the commitments that had to be computed for it go to `computed`.
fn decode_body(
    text: &mut Reader<'_>,
    random: &mut Reader<'_>,
    computed: &mut Commitments,
) -> Result<Vec<u8>, PageError> {
    let kind = text.u8()?;
    let start = computed.all.len();
    computed.ends.push(start);
    match kind {
        BODY_ABSENT => return Ok(Vec::new()),
        BODY_VERBATIM => return Ok(text.bytes32()?.to_vec()),
        BODY_CUT | BODY_DERIVED => {}
        _ => return Err(PageError::Malformed("body kind")),
    }
    let salt = random.take(16)?;
    let cut = text.bytes32()?;
    let disclosure_count = text.u8()?;
    let kept = if kind == BODY_CUT {
        let count = random.u8()?;
        random.take(usize::from(count) * 32)?
    } else {
        &[]
    };
    let salts = random.take(usize::from(disclosure_count) * 16)?;
    let tail = &mut computed.tail;
    tail.clear();
    tail.push(disclosure_count);
    for salt in salts.as_chunks::<16>().0 {
        let path_len = text.u8()?;
        let path = text.take(usize::from(path_len))?;
        let value = text.bytes32()?;
        tail.push(path_len);
        tail.extend_from_slice(path);
        tail.extend_from_slice(salt);
        put_bytes32(tail, value);
        if kind == BODY_DERIVED {
            computed.all.push(Commitment::to(path, salt, value));
        }
    }
    let (kept, _) = kept.as_chunks::<32>();
    let count = if kind == BODY_DERIVED { computed.all.len() - start } else { kept.len() };
    let mut body = Vec::with_capacity(20 + cut.len() + count * SEAL_CHARS + tail.len());
    body.extend_from_slice(salt);
    body.extend_from_slice(&[0; 4]);
    if kind == BODY_DERIVED {
        join(cut, computed.all[start..].iter().copied(), &mut body)?;
    } else {
        join(cut, kept.iter().map(|kept| Commitment::new(Hash(*kept))), &mut body)?;
    }
    let canonical_len = u32::try_from(body.len() - 20).map_err(|_| PageError::Malformed("length"))?;
    body[16..20].copy_from_slice(&canonical_len.to_be_bytes());
    body.extend_from_slice(tail);
    if let Some(end) = computed.ends.last_mut() {
        *end = computed.all.len();
    }
    Ok(body)
}

/// Goes past a body without building it. Answers how many bytes it would have.
fn skip_body(text: &mut Reader<'_>, random: &mut Reader<'_>) -> Result<usize, PageError> {
    let kind = text.u8()?;
    match kind {
        BODY_ABSENT => return Ok(0),
        BODY_VERBATIM => return Ok(text.bytes32()?.len()),
        BODY_CUT | BODY_DERIVED => {}
        _ => return Err(PageError::Malformed("body kind")),
    }
    random.take(16)?;
    let cut = text.bytes32()?;
    let disclosure_count = usize::from(text.u8()?);
    let mut commitments = disclosure_count;
    if kind == BODY_CUT {
        commitments = usize::from(random.u8()?);
        random.take(commitments * 32)?;
    }
    random.take(disclosure_count * 16)?;
    // Salt and two counts, then of each disclosure its two lengths and its salt.
    let mut bytes = 16 + 4 + 1 + cut.len() + commitments * SEAL_CHARS + disclosure_count * (1 + 4 + 16);
    for _ in 0..disclosure_count {
        let path_len = text.u8()?;
        bytes += text.take(usize::from(path_len))?.len() + text.bytes32()?.len();
    }
    Ok(bytes)
}

/// Puts the commitments back where they were cut out.
fn join(
    cut: &[u8],
    commitments: impl Iterator<Item = Commitment>,
    out: &mut Vec<u8>,
) -> Result<(), PageError> {
    let mut rest = cut;
    for commitment in commitments {
        let found = find(rest).ok_or(PageError::Malformed("commitment count"))?;
        let (before, after) = rest.split_at(found + SEAL_OPEN.len());
        out.extend_from_slice(before);
        out.extend_from_slice(commitment.text());
        rest = after;
    }
    if find(rest).is_some() {
        return Err(PageError::Malformed("commitment count"));
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn find(haystack: &[u8]) -> Option<usize> {
    FINDER.find(haystack)
}

fn compress(text: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
        };
        compressor.compress(text).ok().filter(|packed| packed.len() < text.len())
    })
}

/// Puts the text in place of what is in `room`.
fn decompress(stored: &[u8], text_len: usize, room: &mut Vec<u8>) -> Result<(), PageError> {
    room.clear();
    room.reserve(text_len);
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot
                .insert(zstd::bulk::Decompressor::new().map_err(|_| PageError::Malformed("decompressor"))?),
        };
        decompressor
            .decompress_to_buffer(stored, room)
            .map(drop)
            .map_err(|_| PageError::Malformed("compressed text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn records() -> Vec<Record> {
        let bodies = (0..12u8).map(|place| {
            let json = format!(
                r#"{{"id":"e-{place}","action":"a.b","outcome":"success","class":"security",
                    "actor":{{"type":"user","id":"u-{place}"}},"reason":"because {place}"}}"#
            );
            let mut body = Event::parse(json.as_bytes()).unwrap().seal(&mut |salts| salts.fill(place));
            if place % 4 == 1 {
                // Erased: its commitment cannot be derived any more.
                body.disclosures.pop();
            }
            let mut encoded = Vec::new();
            body.encode(&mut encoded);
            match place % 4 {
                2 => Vec::new(),
                3 => b"no body".to_vec(),
                _ => encoded,
            }
        });
        let record = |(place, body): (u64, Vec<u8>)| Record {
            recorded_at: 1_000 + place * place,
            key_id: KeyId([1; 4]),
            class: 1,
            flags: 0,
            event: Hash([u8::try_from(place).unwrap(); 32]),
            signature: Signature([u8::try_from(place).unwrap() + 100; 64]),
            body,
        };
        (0..).zip(bodies).map(record).collect()
    }

    #[test]
    fn some_records_of_a_page_are_what_all_of_it_says() {
        let records = records();
        let bytes = encode(&Hash([9; 32]), &records);
        assert!(decode(&bytes).unwrap().records == records);
        for mask in 0..1u16 << records.len() {
            let wanted: Vec<u16> = (0..12).filter(|position| mask >> position & 1 == 1).collect();
            let page = decode_some(&bytes, &wanted).unwrap();
            assert_eq!(page.previous, Hash([9; 32]));
            assert_eq!(page.records.len(), wanted.last().map_or(0, |last| usize::from(*last) + 1));
            for (position, (found, whole)) in (0u16..).zip(page.records.iter().zip(&records)) {
                if wanted.contains(&position) {
                    assert!(found == whole);
                } else {
                    assert!(*found == Record { body: Vec::new(), ..whole.clone() });
                }
            }
        }
    }

    #[test]
    fn an_outline_has_the_length_of_each_body_and_those_that_are_wanted() {
        let records = records();
        let outline =
            outline(&encode(&Hash([9; 32]), &records), &|record| record.event.0[0] % 2 == 0).unwrap();
        for (place, ((found, bytes), whole)) in outline.iter().zip(&records).enumerate() {
            assert_eq!(*bytes, whole.body.len());
            let body = if place % 2 == 0 { whole.body.clone() } else { Vec::new() };
            assert!(*found == Record { body, ..whole.clone() });
        }
        assert_eq!(outline.len(), records.len());
    }

    #[test]
    fn a_changed_bit_is_noticed_by_every_way_to_read() {
        let mut bytes = encode(&Hash([9; 32]), &records());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode(&bytes).is_err()
                    && decode_some(&bytes, &[0]).is_err()
                    && checked_header(&bytes).is_err()
                    && outline(&bytes, &|_| false).is_err()
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
