//! Sealed values: which parts of an event are sealed, what stands in their place, what opens them.
//!
//! A sealed part leaves a marker `{"$sealed":"<43 characters>"}` in the event and is kept beside it as
//! a [`Disclosure`]. Without the disclosure the event still verifies; with it, anyone can check that
//! this value, at this place, is what was committed to. The salt keeps a short value from being
//! guessed after its disclosure is gone.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::limits::MAX_TARGETS;
use crate::tlog::hash::{Hash, SEALED};

/// Characters of a commitment: 32 bytes, base64url without padding.
const COMMITMENT_CHARS: usize = 43;
/// What opens a marker; the commitment and `"` follow.
pub(crate) const MARKER_OPENING: &[u8] = b"{\"$sealed\":\"";
/// Bytes of a path: `/targets/31` is 11, the longest.
const MAX_PATH_BYTES: usize = 16;

/// A value that was sealed, with what is needed to check it.
#[derive(Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// RFC 6901 pointer to the marker's place: `/actor`, `/changes`, `/context`, `/metadata`, `/reason` or
    /// `/targets/<n>`.
    pub path: String,
    /// The fresh random bytes of the commitment.
    pub salt: [u8; 16],
    /// Canonical JSON: the sealed value without the part that stays clear.
    pub value: Vec<u8>,
}

impl Disclosure {
    /// What the marker at [`path`](Disclosure::path) commits to: B3("varve v1 sealed", salt || len16(path) || path || value).
    pub fn commitment(&self) -> Hash {
        commitment(&self.path, &self.salt, &self.value)
    }
}

impl fmt::Debug for Disclosure {
    /// The path and size only: the value is personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disclosure({}, {} bytes)", self.path, self.value.len())
    }
}

/// A part of an event that is sealed. The order is that of canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SealedPath {
    Actor,
    Changes,
    Context,
    Metadata,
    Reason,
    Target(usize),
}

impl SealedPath {
    /// The pointer.
    pub(crate) fn text(self) -> String {
        match self {
            SealedPath::Actor => "/actor".to_owned(),
            SealedPath::Changes => "/changes".to_owned(),
            SealedPath::Context => "/context".to_owned(),
            SealedPath::Metadata => "/metadata".to_owned(),
            SealedPath::Reason => "/reason".to_owned(),
            SealedPath::Target(index) => format!("/targets/{index}"),
        }
    }

    /// Reads the pointer of a part that can be sealed.
    pub(crate) fn parse(path: &str) -> Option<SealedPath> {
        Some(match path {
            "/actor" => SealedPath::Actor,
            "/changes" => SealedPath::Changes,
            "/context" => SealedPath::Context,
            "/metadata" => SealedPath::Metadata,
            "/reason" => SealedPath::Reason,
            _ => {
                let index = match path.strip_prefix("/targets/")?.as_bytes() {
                    [digit @ b'0'..=b'9'] => usize::from(digit - b'0'),
                    [ten @ b'1'..=b'9', one @ b'0'..=b'9'] => {
                        usize::from(ten - b'0') * 10 + usize::from(one - b'0')
                    }
                    _ => return None,
                };
                (index < MAX_TARGETS).then_some(SealedPath::Target(index))?
            }
        })
    }
}

/// The commitment to `value` at `path`.
pub(crate) fn commitment(path: &str, salt: &[u8; 16], value: &[u8]) -> Hash {
    let mut head = [0; 18 + MAX_PATH_BYTES];
    head[..16].copy_from_slice(salt);
    match (u16::try_from(path.len()), head.get_mut(18..18 + path.len())) {
        (Ok(length), Some(place)) => {
            place.copy_from_slice(path.as_bytes());
            head[16..18].copy_from_slice(&length.to_be_bytes());
            SEALED.hash(&[&head[..18 + path.len()], value])
        }
        // Only a path that names no sealed part is so long.
        (length, _) => {
            SEALED.hash(&[salt, &length.unwrap_or(u16::MAX).to_be_bytes(), path.as_bytes(), value])
        }
    }
}

/// Writes a marker up to, and without, its closing brace.
pub(crate) fn write_marker(out: &mut Vec<u8>, commitment: &Hash) {
    out.extend_from_slice(MARKER_OPENING);
    out.extend_from_slice(&commitment_text(commitment));
    out.push(b'"');
}

/// The commitment as it stands in a marker.
fn commitment_text(commitment: &Hash) -> [u8; COMMITMENT_CHARS] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = [0; COMMITMENT_CHARS];
    let mut sextets = text.iter_mut();
    for triple in commitment.0.chunks(3) {
        let word = triple
            .iter()
            .enumerate()
            .fold(0, |word, (place, &byte)| word | u32::from(byte) << (16 - 8 * place));
        for shift in [18, 12, 6, 0] {
            if let Some(sextet) = sextets.next() {
                *sextet = ALPHABET[(word >> shift & 63) as usize];
            }
        }
    }
    text
}

/// Reads the commitment of a marker: 43 characters, spare bits zero.
pub(crate) fn read_commitment(text: &[u8]) -> Option<Hash> {
    let mut bytes = [0; 33];
    if text.len() != COMMITMENT_CHARS {
        return None;
    }
    // The engine refuses padding and spare bits that are not zero.
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    let (hash, _) = bytes[..length].split_first_chunk::<32>()?;
    Some(Hash(*hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_read_back_and_others_are_refused() {
        use SealedPath::{Actor, Changes, Context, Metadata, Reason, Target};
        for path in [Actor, Changes, Context, Metadata, Reason].into_iter().chain((0..32).map(Target)) {
            assert_eq!(SealedPath::parse(&path.text()), Some(path));
        }
        for text in [
            "",
            "/",
            "actor",
            "/actor/",
            "/targets",
            "/targets/",
            "/targets/00",
            "/targets/01",
            "/targets/32",
            "/id",
        ] {
            assert_eq!(SealedPath::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_commitment_covers_salt_path_and_value() {
        let disclosure = Disclosure { path: "/reason".into(), salt: [7; 16], value: b"\"x\"".to_vec() };
        let mut input = [7; 16].to_vec();
        input.extend_from_slice(b"\0\x07/reason\"x\"");
        assert_eq!(disclosure.commitment().0, blake3::derive_key("varve v1 sealed", &input));
        let long = "/".repeat(300);
        input.splice(16.., [1, 44].into_iter().chain(long.bytes()));
        assert_eq!(commitment(&long, &[7; 16], b"").0, blake3::derive_key("varve v1 sealed", &input));
    }

    #[test]
    fn spare_bits_and_padding_are_refused() {
        let text = commitment_text(&Hash::ZERO);
        assert_eq!(read_commitment(&text), Some(Hash::ZERO));
        for last in [&b"B"[..], b"=", b"+", b"", b"A="] {
            let changed = [&text[..42], last].concat();
            assert_eq!(read_commitment(&changed), None);
        }
    }

    proptest! {
        #[test]
        fn commitments_read_back(bytes: [u8; 32]) {
            let text = commitment_text(&Hash(bytes));
            prop_assert_eq!(text.to_vec(), URL_SAFE_NO_PAD.encode(bytes).into_bytes());
            prop_assert_eq!(read_commitment(&text), Some(Hash(bytes)));
        }
    }
}
