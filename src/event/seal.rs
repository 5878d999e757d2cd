//! Sealed values: which parts of an event are sealed, what stands in their place, what opens them.
//!
//! A sealed part leaves a marker `{"$sealed":"<43 characters>"}` in the event and is kept beside it as
//! a [`Disclosure`]. Without the disclosure the event still verifies; with it, anyone can check that
//! this value, at this place, is what was committed to. The salt keeps a short value from being
//! guessed after its disclosure is gone.

use std::fmt;

use super::limits::MAX_TARGETS;
use crate::tlog::hash::{Hash, SEALED};

/// Characters of a commitment: 32 bytes, base64url without padding.
const COMMITMENT_CHARS: usize = 43;
/// RFC 4648 section 5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// What opens a marker; the commitment and `"` follow.
pub(crate) const MARKER_OPENING: &[u8] = b"{\"$sealed\":\"";
/// What is put together before it is hashed: salt 16, length 2, path 11 at most, and values up to 227 bytes.
const SHORT_BYTES: usize = 256;

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
        commitment(self.path.as_bytes(), &self.salt, &self.value)
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

/// Whether `path` is the pointer of a part that can be sealed.
pub fn is_sealed_path(path: &str) -> bool {
    SealedPath::parse(path).is_some()
}

/// A commitment, and its text: whoever has both need not decode what a marker says, only compare.
#[derive(Clone, Copy)]
pub struct Commitment {
    hash: Hash,
    text: [u8; COMMITMENT_CHARS],
}

impl Commitment {
    /// The commitment to `value` at `path`, as [`Disclosure::commitment`] has it.
    pub fn to(path: &[u8], salt: &[u8; 16], value: &[u8]) -> Commitment {
        Commitment::new(commitment(path, salt, value))
    }

    /// Writes the text of a commitment.
    pub fn new(hash: Hash) -> Commitment {
        Commitment { hash, text: commitment_text(&hash) }
    }

    /// The digest.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The digest as it stands in a marker.
    pub fn text(&self) -> &[u8; COMMITMENT_CHARS] {
        &self.text
    }
}

/// The commitment to `value` at `path`.
pub(crate) fn commitment(path: &[u8], salt: &[u8; 16], value: &[u8]) -> Hash {
    let length = u16::try_from(path.len()).unwrap_or(u16::MAX).to_be_bytes();
    let parts = [&salt[..], &length, path, value];
    // The hasher takes one piece faster than four, most by a quarter of the time.
    let mut whole = [0; SHORT_BYTES];
    let mut used = 0;
    for part in parts {
        let Some(place) = whole.get_mut(used..used + part.len()) else { return SEALED.hash(&parts) };
        place.copy_from_slice(part);
        used += part.len();
    }
    SEALED.hash(&[&whole[..used]])
}

/// Writes a marker up to, and without, its closing brace.
pub(crate) fn write_marker(out: &mut Vec<u8>, commitment: &Hash) {
    out.extend_from_slice(MARKER_OPENING);
    out.extend_from_slice(&commitment_text(commitment));
    out.push(b'"');
}

/// The commitment as it stands in a marker.
fn commitment_text(commitment: &Hash) -> [u8; COMMITMENT_CHARS] {
    let char = |bits: u64| ALPHABET[usize::try_from(bits & 63).unwrap_or(0)];
    let mut text = [0; COMMITMENT_CHARS];
    let (groups, last) = text.as_chunks_mut::<8>();
    // Six bytes are eight characters, the last two bytes are three.
    let (sixes, rest) = commitment.0.as_chunks::<6>();
    for (group, [a, b, c, d, e, f]) in groups.iter_mut().zip(sixes) {
        let bits = u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
        for (place, out) in group.iter_mut().enumerate() {
            *out = char(bits >> (42 - 6 * place));
        }
    }
    let bits = rest.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)) << 2;
    for (place, out) in last.iter_mut().enumerate() {
        *out = char(bits >> (12 - 6 * place));
    }
    text
}

/// Reads the commitment of a marker: 43 characters, spare bits zero.
pub(crate) fn read_commitment(text: &[u8]) -> Option<Hash> {
    const BAD: u8 = 64;
    static SEXTETS: [u8; 256] = {
        let mut sextets = [BAD; 256];
        let mut sextet = 0;
        while sextet < 64 {
            sextets[ALPHABET[sextet as usize] as usize] = sextet;
            sextet += 1;
        }
        sextets
    };
    let text: &[u8; COMMITMENT_CHARS] = text.try_into().ok()?;
    // Another byte shows in `all`; the last six bits are the spare two and four that stand for no character.
    let (mut all, mut bytes) = (0, [0; 33]);
    let mut sextets = [0; COMMITMENT_CHARS + 1];
    for (sextet, char) in sextets.iter_mut().zip(text) {
        *sextet = SEXTETS[usize::from(*char)];
        all |= *sextet;
    }
    let (groups, _) = sextets.as_chunks::<4>();
    let (triples, _) = bytes.as_chunks_mut::<3>();
    for (triple, [a, b, c, d]) in triples.iter_mut().zip(groups) {
        *triple = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
    }
    let (hash, spare) = bytes.split_first_chunk::<32>()?;
    (all & BAD == 0 && spare == [0]).then_some(Hash(*hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
        assert_eq!(
            commitment(long.as_bytes(), &[7; 16], b"").0,
            blake3::derive_key("varve v1 sealed", &input)
        );
        for length in 0..400 {
            let value = vec![b'v'; length];
            let input = [&[7; 16][..], b"\0\x07/reason", &value].concat();
            let expected = blake3::derive_key("varve v1 sealed", &input);
            assert_eq!(commitment(b"/reason", &[7; 16], &value).0, expected, "{length}");
        }
    }

    #[test]
    fn spare_bits_and_padding_are_refused() {
        let text = commitment_text(&Hash::ZERO);
        assert_eq!(read_commitment(&text), Some(Hash::ZERO));
        for last in [&b"B"[..], b"=", b"+", b"", b"A="] {
            let changed = [&text[..42], last].concat();
            assert_eq!(read_commitment(&changed), None);
        }
        // Every byte at every place, as the engine of the crate has it.
        for (place, byte) in (0..43).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
            let mut changed = text;
            changed[place] = byte;
            let engine = URL_SAFE_NO_PAD.decode(changed).ok().and_then(|bytes| bytes.try_into().ok());
            assert_eq!(read_commitment(&changed), engine.map(Hash), "{byte} at {place}");
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
