//! One frame of a spool, and the reader that finds every whole frame among damaged bytes (docs/format/spool.md §2).
//!
//! A frame is checked by itself. Its first byte occurs in no UTF-8 text, so inside an event no frame begins: after
//! damage the reader looks for the next one that holds, and what a crash tore or a disk changed takes no whole frame
//! with it.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::event::limits::MAX_EVENT_BYTES;

/// Bytes before the payload: magic 3, kind 1, length 4, check 16.
pub(super) const HEAD_BYTES: usize = 3 + 1 + 4 + CHECK_BYTES;

/// Bytes of a payload: an event as it is sent. A tenant's name is shorter.
pub(super) const MAX_PAYLOAD_BYTES: usize = MAX_EVENT_BYTES;

/// 0xFD is no byte of UTF-8.
const MAGIC: [u8; 3] = [0xFD, b'v', b's'];

/// The first half of a BLAKE3: it tells damage, it keeps nobody out.
const CHECK_BYTES: usize = 16;

static CONTEXT: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("varve v1 spool frame"));

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The tenant to whose log the events of this segment go; the first frame of each segment.
    Tenant,
    /// An event, as it is sent.
    Event,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Tenant => b'T',
            Kind::Event => b'E',
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        [Kind::Tenant, Kind::Event].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// A whole frame, where it stands in the bytes read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a str,
    /// Where the byte after it stands.
    pub(super) end: usize,
}

/// Bytes that a payload takes in the file.
pub(super) fn framed_bytes(payload: &str) -> usize {
    HEAD_BYTES + payload.len()
}

/// Appends a frame to `out`.
pub(super) fn encode(kind: Kind, payload: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&MAGIC);
    out.push(kind.byte());
    out.extend_from_slice(&length);
    out.extend_from_slice(&check(kind.byte(), length, payload.as_bytes()));
    out.extend_from_slice(payload.as_bytes());
}

/// The whole frames of some bytes, in order.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes passed over because no whole frame holds them.
    pub(super) damaged_bytes: usize,
    /// Runs of such bytes.
    pub(super) damaged_places: usize,
}

impl<'a> Frames<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Frames<'a> {
        Frames { bytes, at: 0, damaged_bytes: 0, damaged_places: 0 }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let start = self.at;
        let found = loop {
            if self.at >= self.bytes.len() {
                break None;
            }
            if let Some(frame) = whole_frame(self.bytes, self.at) {
                break Some(frame);
            }
            let rest = &self.bytes[self.at + 1..];
            self.at += 1 + rest.iter().position(|byte| *byte == MAGIC[0]).unwrap_or(rest.len());
        };
        self.damaged_bytes += self.at - start;
        self.damaged_places += usize::from(self.at > start);
        if let Some(frame) = &found {
            self.at = frame.end;
        }
        found
    }
}

/// The frame that begins at `at`, if it is whole.
fn whole_frame(bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let (head, rest) = bytes[at..].split_first_chunk::<HEAD_BYTES>()?;
    if head[..3] != MAGIC {
        return None;
    }
    let kind = Kind::of(head[3])?;
    let length = head[4..8].try_into().ok()?;
    let payload_bytes = usize::try_from(u32::from_be_bytes(length)).ok()?;
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = rest.get(..payload_bytes)?;
    if check(head[3], length, payload) != head[8..] {
        return None;
    }
    Some(Frame { kind, payload: std::str::from_utf8(payload).ok()?, end: at + HEAD_BYTES + payload_bytes })
}

fn check(kind: u8, length: [u8; 4], payload: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
    hasher.update(&[kind]).update(&length).update(payload);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[String]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for payload in payloads {
            encode(Kind::Event, payload, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn read(bytes: &[u8]) -> Vec<String> {
        Frames::of(bytes).map(|frame| frame.payload.to_owned()).collect()
    }

    #[test]
    fn a_frame_is_what_the_format_says() {
        let mut bytes = Vec::new();
        encode(Kind::Tenant, "acme", &mut bytes);
        let mut hashed = vec![b'T', 0, 0, 0, 4];
        hashed.extend_from_slice(b"acme");
        let check = blake3::derive_key("varve v1 spool frame", &hashed);
        assert_eq!(bytes, [&[0xFD, b'v', b's', b'T', 0, 0, 0, 4], &check[..16], b"acme"].concat());
        let frame = Frames::of(&bytes).next().unwrap();
        assert_eq!((frame.kind, frame.payload, frame.end), (Kind::Tenant, "acme", bytes.len()));
        assert_eq!(framed_bytes("acme"), bytes.len());
    }

    #[test]
    fn zeros_and_lengths_beyond_the_limit_are_no_frames() {
        assert_eq!(read(&[0; 4096]), Vec::<String>::new());
        let mut bytes = Vec::new();
        encode(Kind::Event, &"x".repeat(MAX_PAYLOAD_BYTES + 1), &mut bytes);
        assert!(read(&bytes).is_empty());
        let mut frames = Frames::of(&[0; 7]);
        assert_eq!((frames.next(), frames.damaged_bytes, frames.damaged_places), (None, 7, 1));
    }

    proptest! {
        #[test]
        fn whole_files_read_back(payloads in prop::collection::vec(".{0,200}", 0..20)) {
            let (bytes, _) = file(&payloads);
            let mut frames = Frames::of(&bytes);
            let read: Vec<String> = frames.by_ref().map(|frame| frame.payload.to_owned()).collect();
            prop_assert_eq!(read, payloads);
            prop_assert_eq!((frames.damaged_bytes, frames.damaged_places), (0, 0));
        }

        #[test]
        fn every_frame_that_damage_does_not_touch_is_found(
            payloads in prop::collection::vec(".{0,60}", 1..12),
            hurt in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
            cut in any::<prop::sample::Index>(),
            is_cut: bool,
        ) {
            let (mut bytes, ends) = file(&payloads);
            let mut touched = Vec::new();
            for (place, flip) in hurt {
                let at = place.index(bytes.len());
                bytes[at] ^= flip;
                touched.push(at);
            }
            if is_cut {
                let length = cut.index(bytes.len());
                touched.extend(length..bytes.len());
                bytes.truncate(length);
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let untouched: Vec<&String> = payloads
                .iter()
                .zip(starts.zip(&ends))
                .filter(|(_, (start, end))| !touched.iter().any(|at| (start..end).contains(&at)))
                .map(|(payload, _)| payload)
                .collect();
            let found = read(&bytes);
            // Two flips of one byte can undo each other, so more may be found, all of it in order and as written.
            let mut rest = payloads.iter();
            prop_assert!(found.iter().all(|payload| rest.any(|written| written == payload)));
            let mut rest = found.iter();
            prop_assert!(untouched.into_iter().all(|payload| rest.any(|read| read == payload)));
        }

        #[test]
        fn any_bytes_at_all_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut frames = Frames::of(&bytes);
            let framed: usize = frames.by_ref().map(|frame| framed_bytes(frame.payload)).sum();
            prop_assert_eq!(framed + frames.damaged_bytes, bytes.len());
        }
    }
}
