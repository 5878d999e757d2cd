//! Checkpoints (C2SP tlog-checkpoint) and witness cosignatures on them (C2SP tlog-cosignature, v1).
//!
//! A checkpoint is a note whose text is three lines: origin, tree size, root. Varve signs no
//! extension lines and refuses them: monitors cannot audit them, and ML-DSA cosignatures do not cover
//! them. In scope: Ed25519 (0x01) log signatures, Ed25519 (0x04) cosignatures. Out of scope: 0x06.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::hash::Hash;
use super::key::{KeyError, KeyId, Signature, Signer, TYPE_COSIGNATURE, VerifyingKey, is_name};
use super::merkle::{EMPTY_ROOT, MAX_TREE_SIZE};
use super::note::{Note, NoteError, NoteSignature};

/// First line of what a v1 cosignature signs.
const COSIGNATURE_HEADER: &str = "cosignature/v1";

/// A tree head: which log, how many leaves, which root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Names the log; also the key name under which the log signs.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree of `size` leaves.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    pub fn to_note_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Reads the text of a checkpoint.
    ///
    /// # Errors
    /// Not exactly three lines, an origin that is no key name, a size or root in another spelling than
    /// [`Checkpoint::to_note_text`] gives, an empty tree with another root than the empty one.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Form)?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Form);
        };
        if lines.next().is_some() {
            return Err(CheckpointError::ExtensionLines);
        }
        if !is_name(origin) {
            return Err(CheckpointError::Origin);
        }
        let size = parse_decimal(size).filter(|&size| size <= MAX_TREE_SIZE).ok_or(CheckpointError::Size)?;
        let root = parse_hash(root).ok_or(CheckpointError::Root)?;
        if size == 0 && root != EMPTY_ROOT {
            return Err(CheckpointError::Root);
        }
        Ok(Checkpoint { origin: origin.to_owned(), size, root })
    }

    /// Signs the checkpoint as the log `origin`.
    ///
    /// That no two checkpoints are signed for one size is the caller's to guard: this function has no
    /// memory.
    ///
    /// # Errors
    /// The checkpoint names another origin, or is one that [`Checkpoint::parse`] would refuse.
    pub fn sign(&self, signer: &dyn Signer, origin: &str) -> Result<Note, CheckpointError> {
        if self.origin != origin {
            return Err(CheckpointError::OtherLog);
        }
        let text = self.to_note_text();
        Checkpoint::parse(&text)?;
        Ok(Note::sign(&text, origin, signer)?)
    }

    /// Opens a signed checkpoint of the log `origin`, whose key was known beforehand.
    ///
    /// # Errors
    /// Not signed by `key` under the name `origin`, malformed, or of another log.
    pub fn open(note: &Note, origin: &str, key: &VerifyingKey) -> Result<Checkpoint, CheckpointError> {
        note.verify(origin, key)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin == origin { Ok(checkpoint) } else { Err(CheckpointError::OtherLog) }
    }
}

/// A witness that cosigns checkpoints with Ed25519.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    name: String,
    key: VerifyingKey,
}

/// What a valid cosignature states: this head was the largest consistent one the witness had seen of
/// the log at that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cosignature {
    /// Seconds since 1970-01-01T00:00:00Z, on the witness's clock; 0 makes no statement.
    pub timestamp: u64,
}

impl Witness {
    /// A witness by its name and key.
    ///
    /// # Errors
    /// A name that is none.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Witness, KeyError> {
        if is_name(name) { Ok(Witness { name: name.to_owned(), key }) } else { Err(KeyError::Name) }
    }

    /// Reads a verifier key of type 0x04.
    ///
    /// # Errors
    /// As [`VerifyingKey::parse_vkey_of_type`].
    pub fn parse_vkey(text: &str) -> Result<Witness, KeyError> {
        let (name, key) = VerifyingKey::parse_vkey_of_type(text, TYPE_COSIGNATURE)?;
        Ok(Witness { name, key })
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Key id of its cosignatures.
    pub fn key_id(&self) -> KeyId {
        self.key.key_id_of_type(&self.name, TYPE_COSIGNATURE)
    }

    /// Checks this witness's cosignature on a checkpoint. `Ok(None)`: the note has none of this
    /// witness. With several valid ones, the newest counts.
    ///
    /// # Errors
    /// A line of this witness that does not hold: [`NoteError::Signature`]. The whole note is then to
    /// be refused.
    pub fn verify(&self, note: &Note) -> Result<Option<Cosignature>, NoteError> {
        let mut newest = None;
        for line in note.signatures_by(&self.name, self.key_id()) {
            let (timestamp, signature) =
                line.signature.split_first_chunk::<8>().ok_or(NoteError::Signature)?;
            let timestamp = u64::from_be_bytes(*timestamp);
            let signature = <[u8; 64]>::try_from(signature).map_err(|_| NoteError::Signature)?;
            let message = cosigned_message(timestamp, note.text());
            // The specification caps timestamps at 2^63 - 1.
            if timestamp >> 63 != 0 || !self.key.verify(message.as_bytes(), &Signature(signature)) {
                return Err(NoteError::Signature);
            }
            newest = newest.max(Some(timestamp));
        }
        Ok(newest.map(|timestamp| Cosignature { timestamp }))
    }
}

/// Makes a v1 cosignature line over a checkpoint's text, as a witness does. That the witness has
/// checked consistency first is the caller's part.
pub fn cosign(text: &str, timestamp: u64, name: &str, signer: &dyn Signer) -> NoteSignature {
    let signature = signer.sign(cosigned_message(timestamp, text).as_bytes());
    NoteSignature {
        name: name.to_owned(),
        key_id: signer.verifying_key().key_id_of_type(name, TYPE_COSIGNATURE),
        signature: [&timestamp.to_be_bytes()[..], &signature.0].concat(),
    }
}

/// Reads a decimal number as the C2SP texts spell it: ASCII digits, no leading zero, no sign.
pub(super) fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero { text.parse().ok() } else { None }
}

/// Reads a hash in padded base64, in its only spelling.
pub(super) fn parse_hash(text: &str) -> Option<Hash> {
    let bytes = STANDARD.decode(text).ok()?;
    bytes.try_into().ok().map(Hash)
}

fn cosigned_message(timestamp: u64, text: &str) -> String {
    format!("{COSIGNATURE_HEADER}\ntime {timestamp}\n{text}")
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer than three lines, or no final newline.
    #[error("a checkpoint is three lines: origin, tree size, root")]
    Form,
    /// More than three lines.
    #[error("the checkpoint has extension lines, which Varve never signs")]
    ExtensionLines,
    /// The first line names no log.
    #[error("the checkpoint's origin is no name: 1 to 255 bytes without white space or '+'")]
    Origin,
    /// The second line is no size.
    #[error("the checkpoint's tree size is no plain decimal number up to 2^63 - 1")]
    Size,
    /// The third line is no root, or not the empty root for size 0.
    #[error("the checkpoint's root is not the base64 of 32 bytes, or not the empty tree's at size 0")]
    Root,
    /// A checkpoint of another log.
    #[error("the checkpoint is of another log than the one asked for; nothing was learnt about this one")]
    OtherLog,
    /// The note around it was refused.
    #[error(transparent)]
    Note(#[from] NoteError),
}

impl CheckpointError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            CheckpointError::Form => "checkpoint_form",
            CheckpointError::ExtensionLines => "checkpoint_extension_lines",
            CheckpointError::Origin => "checkpoint_origin",
            CheckpointError::Size => "checkpoint_size",
            CheckpointError::Root => "checkpoint_root",
            CheckpointError::OtherLog => "checkpoint_other_log",
            CheckpointError::Note(note) => note.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::key::SeedSigner;

    fn head() -> Checkpoint {
        Checkpoint { origin: "log.example/acme".into(), size: 20_852_163, root: Hash([0x0a; 32]) }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let note = head().sign(&signer, "log.example/acme").unwrap();
        let read = Note::parse(note.as_str().as_bytes()).unwrap();
        assert_eq!(Checkpoint::open(&read, "log.example/acme", &signer.verifying_key()), Ok(head()));
        let empty = Checkpoint { size: 0, root: EMPTY_ROOT, ..head() };
        assert_eq!(Checkpoint::parse(&empty.to_note_text()), Ok(empty));
    }

    #[test]
    fn the_specifications_example_parses() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let checkpoint = Checkpoint::parse(text).unwrap();
        assert_eq!(checkpoint.size, 20_852_163);
        assert_eq!(checkpoint.to_note_text(), text);
    }

    #[test]
    fn only_the_right_key_and_origin_open_it() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let other = SeedSigner::from_seed(&[2; 32]);
        let note = head().sign(&signer, "log.example/acme").unwrap();
        let unknown = Err(CheckpointError::Note(NoteError::UnknownSigner));
        assert_eq!(Checkpoint::open(&note, "log.example/acme", &other.verifying_key()), unknown);
        assert_eq!(Checkpoint::open(&note, "log.example/other", &signer.verifying_key()), unknown);
        assert_eq!(head().sign(&signer, "log.example/other"), Err(CheckpointError::OtherLog));
        // A key trusted for one log cannot speak for another.
        let foreign = Note::sign(&head().to_note_text(), "log.example/other", &signer).unwrap();
        let opened = Checkpoint::open(&foreign, "log.example/other", &signer.verifying_key());
        assert_eq!(opened, Err(CheckpointError::OtherLog));
    }

    #[test]
    fn other_spellings_are_refused() {
        let root = STANDARD.encode([0x0a; 32]);
        let empty = STANDARD.encode(EMPTY_ROOT.0);
        for (text, kind) in [
            (format!("o\n1\n{root}"), "checkpoint_form"),
            ("o\n1\n".to_owned(), "checkpoint_form"),
            (format!("o\n1\n{root}\nextension\n"), "checkpoint_extension_lines"),
            (format!("o\n1\n{root}\n\n"), "checkpoint_extension_lines"),
            (format!("\n1\n{root}\n"), "checkpoint_origin"),
            (format!("a b\n1\n{root}\n"), "checkpoint_origin"),
            (format!("a+b\n1\n{root}\n"), "checkpoint_origin"),
            (format!("o\n01\n{root}\n"), "checkpoint_size"),
            (format!("o\n+1\n{root}\n"), "checkpoint_size"),
            (format!("o\n\n{root}\n"), "checkpoint_size"),
            (format!("o\n-1\n{root}\n"), "checkpoint_size"),
            (format!("o\n{}\n{root}\n", 1_u64 << 63), "checkpoint_size"),
            (format!("o\n18446744073709551616\n{root}\n"), "checkpoint_size"),
            (format!("o\n1\n{}\n", root.trim_end_matches('=')), "checkpoint_root"),
            (format!("o\n1\n{}\n", root.replace("go=", "gp=")), "checkpoint_root"),
            ("o\n1\nCgo=\n".to_owned(), "checkpoint_root"),
            (format!("o\n0\n{root}\n"), "checkpoint_root"),
        ] {
            assert_eq!(Checkpoint::parse(&text).map_err(|error| error.kind()), Err(kind), "{text}");
        }
        assert!(Checkpoint::parse(&format!("o\n0\n{empty}\n")).is_ok());
    }

    #[test]
    fn a_witness_counts_only_when_its_line_holds() {
        let log = SeedSigner::from_seed(&[1; 32]);
        let signer = SeedSigner::from_seed(&[3; 32]);
        let witness = Witness::new("witness.example/w1", signer.verifying_key()).unwrap();
        let vkey = signer.verifying_key().vkey_of_type("witness.example/w1", TYPE_COSIGNATURE);
        assert_eq!(Witness::parse_vkey(&vkey), Ok(witness.clone()));
        assert!(VerifyingKey::parse_vkey(&vkey).is_err());

        let plain = head().sign(&log, "log.example/acme").unwrap();
        assert_eq!(witness.verify(&plain), Ok(None));
        let line = cosign(plain.text(), 1_679_315_147, witness.name(), &signer);
        assert_eq!(line.key_id, witness.key_id());
        let mut note = plain.clone();
        note.add(line.clone()).unwrap();
        let read = Note::parse(note.as_str().as_bytes()).unwrap();
        assert_eq!(witness.verify(&read), Ok(Some(Cosignature { timestamp: 1_679_315_147 })));
        assert!(Checkpoint::open(&read, "log.example/acme", &log.verifying_key()).is_ok());

        let mut newer = read.clone();
        newer.add(cosign(plain.text(), 1_679_315_148, witness.name(), &signer)).unwrap();
        assert_eq!(witness.verify(&newer), Ok(Some(Cosignature { timestamp: 1_679_315_148 })));

        // A changed time, a time out of bounds, a cut line, a line of the same key over the bare text.
        let mut moved = line.clone();
        moved.signature[7] ^= 1;
        let late = cosign(plain.text(), 1 << 63, witness.name(), &signer);
        let mut cut = line.clone();
        cut.signature.truncate(71);
        let mut bare = line.clone();
        bare.signature[8..].copy_from_slice(&signer.sign(plain.text().as_bytes()).0);
        for bad in [moved, late, cut, bare] {
            let mut note = plain.clone();
            note.add(bad).unwrap();
            assert_eq!(witness.verify(&note), Err(NoteError::Signature));
        }
    }
}
