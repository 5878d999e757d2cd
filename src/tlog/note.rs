//! Signed notes (C2SP signed-note): a text, a blank line, signature lines.
//!
//! A parsed [`Note`] keeps the exact bytes it came from. Its text means nothing until
//! [`Note::verify`] has passed for a key that was known beforehand.
//!
//! Limits: [`MAX_NOTE_BYTES`], [`MAX_NOTE_SIGNATURES`]. The specification asks verifiers to take at
//! least 16 signatures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key::{KeyId, Signature, Signer, VerifyingKey, is_name};

/// Largest note: 16 post-quantum signatures (5 KiB each, ×4/3 in base64, with a name of 255 bytes and
/// 8 of framing: 113,440) leave 17,632 bytes for the text.
pub const MAX_NOTE_BYTES: usize = 128 * 1024;

/// Most signature lines in a note: twice what the specification asks for.
pub const MAX_NOTE_SIGNATURES: usize = 32;

/// Em dash and space, which start a signature line.
const SIGNATURE_MARK: &str = "\u{2014} ";

/// A note with its signatures, unverified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// The whole note, byte for byte.
    raw: String,
    /// Length of the text at the front of `raw`, its final newline included.
    text_bytes: usize,
    signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    /// Key name.
    pub name: String,
    /// Key id.
    pub key_id: KeyId,
    /// What follows the key id: 64 bytes for Ed25519, 8 of time and 64 for a cosignature.
    pub signature: Vec<u8>,
}

impl Note {
    /// Reads a note. Signatures are taken apart, not verified.
    ///
    /// # Errors
    /// Anything the specification refuses, and the limits of this module.
    pub fn parse(bytes: &[u8]) -> Result<Note, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge { found: bytes.len() });
        }
        let raw = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        if raw.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Text);
        }
        let blank = raw.rfind("\n\n").ok_or(NoteError::NoSignature)?;
        let lines = raw[blank + 2..].strip_suffix('\n').ok_or(NoteError::NoSignature)?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == MAX_NOTE_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(NoteSignature::parse(line)?);
        }
        Ok(Note { raw: raw.to_owned(), text_bytes: blank + 1, signatures })
    }

    /// Makes a note of `text` with one Ed25519 signature under the name `name`.
    ///
    /// # Errors
    /// A text that does not end in a newline, holds control characters or is too long; a name that is
    /// none.
    pub fn sign(text: &str, name: &str, signer: &dyn Signer) -> Result<Note, NoteError> {
        if !text.ends_with('\n') || text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Text);
        }
        let mut note =
            Note { raw: format!("{text}\n"), text_bytes: text.len(), signatures: Vec::with_capacity(1) };
        note.add(NoteSignature {
            name: name.to_owned(),
            key_id: signer.verifying_key().key_id(name),
            signature: signer.sign(text.as_bytes()).0.to_vec(),
        })?;
        Ok(note)
    }

    /// Adds a signature line at the end: a further signer's, or a witness's cosignature.
    ///
    /// # Errors
    /// A name that is none, an empty signature, or a limit; the note is then unchanged.
    pub fn add(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        if !is_name(&signature.name) || signature.signature.is_empty() {
            return Err(NoteError::SignatureLine);
        }
        if self.signatures.len() == MAX_NOTE_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let line = format!("{signature}\n");
        if self.raw.len() + line.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge { found: self.raw.len() + line.len() });
        }
        self.raw.push_str(&line);
        self.signatures.push(signature);
        Ok(())
    }

    /// Checks the Ed25519 signature of the key known as `name`. Lines of other names or key ids are
    /// ignored, as the specification demands; *every* line of this one must hold.
    ///
    /// # Errors
    /// No line of that key, or one that does not verify.
    pub fn verify(&self, name: &str, key: &VerifyingKey) -> Result<(), NoteError> {
        let mut lines = self.signatures_by(name, key.key_id(name)).peekable();
        if lines.peek().is_none() {
            return Err(NoteError::UnknownSigner);
        }
        for line in lines {
            let signature = <[u8; 64]>::try_from(&line.signature[..]).map_err(|_| NoteError::Signature)?;
            if !key.verify(self.text().as_bytes(), &Signature(signature)) {
                return Err(NoteError::Signature);
            }
        }
        Ok(())
    }

    /// The signature lines of one key.
    pub fn signatures_by(&self, name: &str, key_id: KeyId) -> impl Iterator<Item = &NoteSignature> {
        self.signatures.iter().filter(move |line| line.name == name && line.key_id == key_id)
    }

    /// The text that is signed, with its final newline.
    pub fn text(&self) -> &str {
        &self.raw[..self.text_bytes]
    }

    /// All signature lines, in order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The whole note, byte for byte as it was parsed or built.
    pub fn as_str(&self) -> &str {
        &self.raw
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Result<NoteSignature, NoteError> {
        let rest = line.strip_prefix(SIGNATURE_MARK).ok_or(NoteError::SignatureLine)?;
        let (name, encoded) = rest.split_once(' ').ok_or(NoteError::SignatureLine)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::SignatureLine)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::SignatureLine)?;
        if !is_name(name) || signature.is_empty() {
            return Err(NoteError::SignatureLine);
        }
        Ok(NoteSignature { name: name.to_owned(), key_id: KeyId(*id), signature: signature.to_vec() })
    }
}

/// The line without its newline.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id.0[..], &self.signature].concat();
        write!(f, "{SIGNATURE_MARK}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// Why a note was refused. Its text must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Over [`MAX_NOTE_BYTES`].
    #[error("a note is at most {MAX_NOTE_BYTES} bytes, this one has {found}")]
    TooLarge {
        /// Bytes of the note.
        found: usize,
    },
    /// Not UTF-8, a control character, or a text without its final newline.
    #[error("a note is UTF-8 without control characters other than newline, and its text ends in one")]
    Text,
    /// No blank line with signature lines behind it.
    #[error("the note has no signature: a blank line and at least one signature line must follow the text")]
    NoSignature,
    /// A line behind the blank line that is no signature line.
    #[error("a signature line is \"\u{2014} <name> <base64 of key id and signature>\"")]
    SignatureLine,
    /// Over [`MAX_NOTE_SIGNATURES`].
    #[error("a note has at most {MAX_NOTE_SIGNATURES} signatures")]
    TooManySignatures,
    /// The known key signed nothing here.
    #[error("the note is not signed by the given key; check that the key is this log's and is current")]
    UnknownSigner,
    /// The known key's signature does not hold.
    #[error("the note's signature by the given key does not verify: text or signature was changed")]
    Signature,
}

impl NoteError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            NoteError::TooLarge { .. } => "note_too_large",
            NoteError::Text => "note_text",
            NoteError::NoSignature => "note_no_signature",
            NoteError::SignatureLine => "note_signature_line",
            NoteError::TooManySignatures => "note_too_many_signatures",
            NoteError::UnknownSigner => "note_unknown_signer",
            NoteError::Signature => "note_signature",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::key::SeedSigner;
    use proptest::prelude::*;

    /// The example of C2SP signed-note, and its verifier key.
    const EXAMPLE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    const EXAMPLE_VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn the_specifications_example_verifies() {
        let (name, key) = VerifyingKey::parse_vkey(EXAMPLE_VKEY).unwrap();
        assert_eq!(key.vkey(&name), EXAMPLE_VKEY);
        let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(note.text(), "This is an example message.\n");
        assert_eq!(note.as_str(), EXAMPLE);
        assert_eq!(note.verify(&name, &key), Ok(()));
        assert_eq!(note.verify("example.com/bar", &key), Err(NoteError::UnknownSigner));
        let changed = Note::parse(EXAMPLE.replace("example message", "example massage").as_bytes()).unwrap();
        assert_eq!(changed.verify(&name, &key), Err(NoteError::Signature));
    }

    #[test]
    fn a_signed_note_is_read_back_as_it_was_made() {
        let signer = SeedSigner::from_seed(&[7; 32]);
        let other = SeedSigner::from_seed(&[8; 32]);
        let text = "one\n\nthree\n";
        let mut note = Note::sign(text, "log.example/a", &signer).unwrap();
        let second = Note::sign(text, "log.example/b", &other).unwrap();
        note.add(second.signatures()[0].clone()).unwrap();
        let read = Note::parse(note.as_str().as_bytes()).unwrap();
        assert_eq!(read, note);
        assert_eq!(read.text(), text);
        assert_eq!(read.verify("log.example/a", &signer.verifying_key()), Ok(()));
        assert_eq!(read.verify("log.example/b", &other.verifying_key()), Ok(()));
        assert_eq!(read.verify("log.example/a", &other.verifying_key()), Err(NoteError::UnknownSigner));
    }

    #[test]
    fn every_line_of_the_known_key_must_hold() {
        let signer = SeedSigner::from_seed(&[7; 32]);
        let mut note = Note::sign("text\n", "log", &signer).unwrap();
        let mut bad = note.signatures()[0].clone();
        bad.signature[0] ^= 1;
        note.add(bad.clone()).unwrap();
        assert_eq!(note.verify("log", &signer.verifying_key()), Err(NoteError::Signature));
        bad.signature.truncate(63);
        let mut note = Note::sign("text\n", "log", &signer).unwrap();
        note.add(bad).unwrap();
        assert_eq!(note.verify("log", &signer.verifying_key()), Err(NoteError::Signature));
    }

    #[test]
    fn malformed_notes_are_refused() {
        let line = "\u{2014} name AAAAAAE=\n";
        let refused = |text: String| Note::parse(text.as_bytes()).map_err(|error| error.kind());
        assert!(refused(format!("text\n\n{line}")).is_ok());
        assert_eq!(refused("text\n".into()), Err("note_no_signature"));
        assert_eq!(refused(format!("text\n{line}")), Err("note_no_signature"));
        assert_eq!(refused("text\n\n".into()), Err("note_no_signature"));
        assert_eq!(refused(format!("text\n\n{}", line.trim_end())), Err("note_no_signature"));
        assert_eq!(refused(format!("text\n\n{line}more\n")), Err("note_signature_line"));
        assert_eq!(refused(format!("te\txt\n\n{line}")), Err("note_text"));
        assert_eq!(refused(format!("text\r\n\n{line}")), Err("note_text"));
        assert_eq!(Note::parse(b"\xff\n\n\xe2\x80\x94 name AAAAAAE=\n"), Err(NoteError::Text));
        for bad in [
            "- name AAAAAAE=",            // a hyphen is no em dash
            "\u{2014}  AAAAAAE=",         // no name
            "\u{2014} a+b AAAAAAE=",      // plus in the name
            "\u{2014} a\u{a0}b AAAAAAE=", // a Unicode space in the name
            "\u{2014} name AAAAAA==",     // a key id alone
            "\u{2014} name AAAAAAE",      // no padding
            "\u{2014} name AAAAAAF=",     // spare bits set
            "\u{2014} name AAAAAA_=",     // the other alphabet
            "\u{2014} name",
        ] {
            assert_eq!(refused(format!("text\n\n{bad}\n")), Err("note_signature_line"), "{bad}");
        }
        assert!(refused(format!("t\n\n{}", line.repeat(MAX_NOTE_SIGNATURES))).is_ok());
        let many = line.repeat(MAX_NOTE_SIGNATURES + 1);
        assert_eq!(refused(format!("t\n\n{many}")), Err("note_too_many_signatures"));
        assert_eq!(refused("x".repeat(MAX_NOTE_BYTES + 1)), Err("note_too_large"));
    }

    #[test]
    fn nothing_unreadable_can_be_signed() {
        let signer = SeedSigner::from_seed(&[7; 32]);
        assert_eq!(Note::sign("no newline", "log", &signer), Err(NoteError::Text));
        assert_eq!(Note::sign("a\tb\n", "log", &signer), Err(NoteError::Text));
        assert_eq!(Note::sign("text\n", "a b", &signer), Err(NoteError::SignatureLine));
        let long = format!("{}\n", "x".repeat(MAX_NOTE_BYTES));
        assert!(matches!(Note::sign(&long, "log", &signer), Err(NoteError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn a_note_is_its_text_and_its_lines(text in "[ -~\n\u{e9}\u{2014}]{0,40}", tail in "[ -~\n\u{2014}]{0,40}") {
            let raw = format!("{text}\n\n\u{2014} name AAAAAAE=\n{tail}");
            if let Ok(note) = Note::parse(raw.as_bytes()) {
                let lines: String = note.signatures().iter().map(|line| format!("{line}\n")).collect();
                prop_assert_eq!(format!("{}\n{lines}", note.text()), raw);
            }
        }
    }
}
