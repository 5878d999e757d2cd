//! The offline proof of one entry: C2SP tlog-proof with the entry and its signature as `extra`.
//!
//! The text is `c2sp.org/tlog-proof@v1`, then `extra`, `index`, the inclusion proof, a blank line and
//! the signed checkpoint verbatim. `extra` is not authenticated by the format; here it is, because
//! the leaf hash is computed from it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::chain::{ENTRY_BYTES, Entry, EntryError, leaf_hash, link, signed_message};
use super::checkpoint::{Checkpoint, CheckpointError, parse_decimal, parse_hash};
use super::hash::Hash;
use super::key::{KeyId, Signature, VerifyingKey};
use super::merkle::{MAX_PROOF_HASHES, ProofError, verify_inclusion};
use super::note::{MAX_NOTE_BYTES, Note, NoteError};

/// First line of a tlog-proof of version 1.
pub const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Bytes in `extra`: the entry and its signature.
pub const EXTRA_BYTES: usize = ENTRY_BYTES + 64;

/// Largest proof text: header 23, `extra` line 259, `index` line 27, 64 hashes of 45, a blank line,
/// and the checkpoint.
pub const MAX_PROOF_BYTES: usize = 23 + 259 + 27 + MAX_PROOF_HASHES * 45 + 1 + MAX_NOTE_BYTES;

/// A proof as it stands in a `.tlog-proof` file, unverified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryProof {
    /// The entry's bytes.
    pub entry: [u8; ENTRY_BYTES],
    /// The entry's signature.
    pub signature: Signature,
    /// The leaf index that the proof is for.
    pub index: u64,
    /// Inclusion proof, from the leaf's sibling upwards.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

/// What a proof was found to prove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvenEntry {
    /// The entry, which stands in the log at its index.
    pub entry: Entry,
    /// The tree head it was proven against.
    pub checkpoint: Checkpoint,
    /// What was found out about the entry's own signature.
    pub entry_signature: EntrySignature,
}

/// State of an entry's own signature after [`EntryProof::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntrySignature {
    /// It is strict and valid under a key that was given.
    Valid,
    /// The entry was signed by another key than any given: the log's key was rotated since. The entry
    /// stands in the tree that the given key signed; its own signature was not checked.
    KeyNotGiven(KeyId),
}

impl EntryProof {
    /// The proof's text.
    pub fn to_text(&self) -> String {
        let mut extra = [0; EXTRA_BYTES];
        extra[..ENTRY_BYTES].copy_from_slice(&self.entry);
        extra[ENTRY_BYTES..].copy_from_slice(&self.signature.0);
        let mut text = format!("{PROOF_HEADER}\nextra {}\nindex {}\n", STANDARD.encode(extra), self.index);
        for hash in &self.path {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", STANDARD.encode(hash.0));
        }
        text.push('\n');
        text.push_str(self.checkpoint.as_str());
        text
    }

    /// Reads a proof. Nothing is verified.
    ///
    /// # Errors
    /// Anything that [`EntryProof::to_text`] would not write, and the limits of this module.
    pub fn parse(bytes: &[u8]) -> Result<EntryProof, EntryProofError> {
        if bytes.len() > MAX_PROOF_BYTES {
            return Err(EntryProofError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| EntryProofError::Form)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(EntryProofError::Form)?;
        let mut lines = head.split('\n');
        if lines.next() != Some(PROOF_HEADER) {
            return Err(EntryProofError::Header);
        }
        let extra =
            lines.next().and_then(|line| line.strip_prefix("extra ")).ok_or(EntryProofError::Extra)?;
        let extra = STANDARD.decode(extra).map_err(|_| EntryProofError::Extra)?;
        let (entry, signature) = extra.split_first_chunk().ok_or(EntryProofError::Extra)?;
        let signature = signature.try_into().map_err(|_| EntryProofError::Extra)?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(parse_decimal);
        let index = index.ok_or(EntryProofError::Form)?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() == MAX_PROOF_HASHES {
                return Err(EntryProofError::Form);
            }
            path.push(parse_hash(line).ok_or(EntryProofError::Form)?);
        }
        let checkpoint = Note::parse(checkpoint.as_bytes())?;
        Ok(EntryProof { entry: *entry, signature: Signature(signature), index, path, checkpoint })
    }

    /// Verifies the whole proof for the log `origin`: the checkpoint under `key`, the entry's place in
    /// its tree, and the entry's own signature under `key` or, where the log's key was rotated after
    /// it, under one of `earlier`. Which key was current at the index is a matter of the log's
    /// rotations and is not decided here.
    ///
    /// # Errors
    /// The first part that does not hold.
    pub fn verify(
        &self,
        origin: &str,
        key: &VerifyingKey,
        earlier: &[VerifyingKey],
    ) -> Result<ProvenEntry, EntryProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, origin, key)?;
        let entry = Entry::decode(&self.entry)?;
        if entry.index != self.index {
            return Err(EntryProofError::EntryIndex { proof: self.index, entry: entry.index });
        }
        verify_inclusion(&leaf_hash(&self.entry), self.index, checkpoint.size, &self.path, &checkpoint.root)?;
        let message = signed_message(&link(&self.entry));
        // Two keys can share an id, so each one with the entry's id is tried.
        let mut entry_signature = EntrySignature::KeyNotGiven(entry.key_id);
        for key in std::iter::once(key).chain(earlier).filter(|key| key.key_id(origin) == entry.key_id) {
            if key.verify(&message, &self.signature) {
                return Ok(ProvenEntry { entry, checkpoint, entry_signature: EntrySignature::Valid });
            }
            entry_signature = EntrySignature::Valid;
        }
        match entry_signature {
            EntrySignature::Valid => Err(EntryProofError::EntrySignature),
            EntrySignature::KeyNotGiven(_) => Ok(ProvenEntry { entry, checkpoint, entry_signature }),
        }
    }
}

/// Why a proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryProofError {
    /// Over [`MAX_PROOF_BYTES`].
    #[error("a proof is at most {MAX_PROOF_BYTES} bytes, this one has {found}")]
    TooLarge {
        /// Bytes of the text.
        found: usize,
    },
    /// Not a tlog-proof of version 1.
    #[error("the first line is not {PROOF_HEADER}: not a proof, or one of a later format")]
    Header,
    /// No `extra` line of 188 bytes.
    #[error("the proof's extra line is not the base64 of an entry and its signature: not a proof of Varve's")]
    Extra,
    /// Another fault in the lines before the checkpoint.
    #[error("the proof is malformed: want extra, index, hashes of 32 bytes, a blank line, a checkpoint")]
    Form,
    /// The entry in `extra` is none.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry says another index than the proof.
    #[error("the proof is for index {proof}, its entry says {entry}")]
    EntryIndex {
        /// Index in the proof.
        proof: u64,
        /// Index in the entry.
        entry: u64,
    },
    /// The entry is not in the checkpoint's tree.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
    /// The checkpoint was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The entry's signature does not hold.
    #[error("the entry is in the log, but its signature does not verify under the key it names")]
    EntrySignature,
}

impl From<NoteError> for EntryProofError {
    fn from(error: NoteError) -> EntryProofError {
        EntryProofError::Checkpoint(CheckpointError::Note(error))
    }
}

impl EntryProofError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            EntryProofError::TooLarge { .. } => "entry_proof_too_large",
            EntryProofError::Header => "entry_proof_header",
            EntryProofError::Extra => "entry_proof_extra",
            EntryProofError::Form => "entry_proof_form",
            EntryProofError::Entry(error) => error.kind(),
            EntryProofError::EntryIndex { .. } => "entry_index",
            EntryProofError::Inclusion(error) => error.kind(),
            EntryProofError::Checkpoint(error) => error.kind(),
            EntryProofError::EntrySignature => "entry_signature",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::key::{SeedSigner, Signer};
    use crate::tlog::merkle::{MemoryNodes, inclusion_proof};
    use proptest::prelude::*;

    const ORIGIN: &str = "log.example/acme";

    /// The proof of entry 3 in a log of 11 that `entries` signed, as of a checkpoint by `head`.
    fn proof(entries: &SeedSigner, head: &SeedSigner) -> EntryProof {
        let mut nodes = MemoryNodes::default();
        let mut previous = Hash::ZERO;
        let mut third = None;
        for index in 0..11 {
            let key_id = entries.verifying_key().key_id(ORIGIN);
            let entry = Entry {
                log_id: Hash([1; 32]),
                index,
                recorded_at: 1_000 + index,
                key_id,
                class: 1,
                flags: 0,
                event: Hash([2; 32]),
                previous,
            };
            let bytes = entry.encode();
            previous = link(&bytes);
            nodes.append(leaf_hash(&bytes));
            if index == 3 {
                third = Some((bytes, entries.sign(&signed_message(&previous))));
            }
        }
        let (entry, signature) = third.unwrap();
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 11, root: nodes.frontier().root() };
        EntryProof {
            entry,
            signature,
            index: 3,
            path: inclusion_proof(3, 11, &nodes).unwrap(),
            checkpoint: checkpoint.sign(head, ORIGIN).unwrap(),
        }
    }

    #[test]
    fn a_proof_reads_back_and_verifies() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let proof = proof(&signer, &signer);
        let text = proof.to_text();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra VlJWMQ"));
        assert!(text.contains("\nindex 3\n") && text.ends_with(proof.checkpoint.as_str()));
        let read = EntryProof::parse(text.as_bytes()).unwrap();
        assert_eq!(read, proof);
        let proven = read.verify(ORIGIN, &signer.verifying_key(), &[]).unwrap();
        assert_eq!((proven.entry.index, proven.checkpoint.size), (3, 11));
        assert_eq!(proven.entry_signature, EntrySignature::Valid);
    }

    #[test]
    fn after_a_rotation_the_earlier_key_is_asked_for() {
        let old = SeedSigner::from_seed(&[1; 32]);
        let new = SeedSigner::from_seed(&[2; 32]);
        let mut proof = proof(&old, &new);
        let (old, new) = (old.verifying_key(), new.verifying_key());
        let without = proof.verify(ORIGIN, &new, &[]).unwrap();
        assert_eq!(without.entry_signature, EntrySignature::KeyNotGiven(old.key_id(ORIGIN)));
        assert_eq!(proof.verify(ORIGIN, &new, &[old]).unwrap().entry_signature, EntrySignature::Valid);
        assert_eq!(proof.verify(ORIGIN, &old, &[]).map_err(|e| e.kind()), Err("note_unknown_signer"));
        proof.signature.0[0] ^= 1;
        assert_eq!(proof.verify(ORIGIN, &new, &[old]), Err(EntryProofError::EntrySignature));
    }

    #[test]
    fn each_changed_part_is_found() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let key = signer.verifying_key();
        let good = proof(&signer, &signer);
        let found = |change: &dyn Fn(&mut EntryProof)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.verify(ORIGIN, &key, &[]).map_err(|error| error.kind())
        };
        assert_eq!(found(&|bad| bad.entry[0] = 0), Err("entry_magic"));
        assert_eq!(found(&|bad| bad.entry[60] ^= 1), Err("proof_root"));
        assert_eq!(found(&|bad| bad.index = 4), Err("entry_index"));
        assert_eq!(found(&|bad| bad.path[0].0[0] ^= 1), Err("proof_root"));
        assert_eq!(found(&|bad| bad.path.truncate(3)), Err("proof_length"));
        assert_eq!(found(&|bad| bad.signature.0[40] ^= 1), Err("entry_signature"));
        let other = good.verify("log.example/other", &key, &[]).map_err(|error| error.kind());
        assert_eq!(other, Err("note_unknown_signer"));
        let short = Checkpoint { origin: ORIGIN.into(), size: 3, root: Hash([1; 32]) };
        let short = short.sign(&signer, ORIGIN).unwrap();
        assert_eq!(found(&|bad| bad.checkpoint = short.clone()), Err("proof_index"));
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let good = proof(&signer, &signer).to_text();
        let refused = |text: String| EntryProof::parse(text.as_bytes()).map_err(|error| error.kind());
        assert!(refused(good.clone()).is_ok());
        assert_eq!(refused(good.replace("proof@v1", "proof@v2")), Err("entry_proof_header"));
        assert_eq!(refused(good.replace("extra ", "other ")), Err("entry_proof_extra"));
        assert_eq!(refused(good.replace("extra VlJW", "extra ")), Err("entry_proof_extra"));
        assert_eq!(refused(good.replace("extra VlJW", "extra VlJWVlJW")), Err("entry_proof_extra"));
        assert_eq!(refused(good.replace("index 3", "index 03")), Err("entry_proof_form"));
        assert_eq!(refused(good.replace("index 3", "index 3\nAAAA")), Err("entry_proof_form"));
        assert_eq!(refused(good.replace("index 3\n", "index 3\r\n")), Err("entry_proof_form"));
        assert_eq!(refused(good.replace("\n\nlog", "\nlog")), Err("entry_proof_form"));
        assert_eq!(refused(good.trim_end().to_owned()), Err("note_no_signature"));
        let many = format!("index 3\n{}", format!("{}=\n", "A".repeat(43)).repeat(MAX_PROOF_HASHES));
        assert_eq!(refused(good.replace("index 3\n", &many)), Err("entry_proof_form"));
        assert_eq!(refused("x".repeat(MAX_PROOF_BYTES + 1)), Err("entry_proof_too_large"));
    }

    proptest! {
        #[test]
        fn a_proof_that_parses_is_its_own_spelling(at in 0..800_usize, byte in 0x0a..0x7f_u8) {
            let signer = SeedSigner::from_seed(&[1; 32]);
            let mut text = proof(&signer, &signer).to_text().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            if let Ok(read) = EntryProof::parse(&text) {
                prop_assert_eq!(read.to_text().into_bytes(), text);
            }
        }
    }
}
