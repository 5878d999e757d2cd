//! `HEAD`: what the journal must at least hold. Two slots of 512 bytes, written in turn.
//!
//! A slot is one sector, so a kill or a power cut leaves it old or new. A slot that is neither is rot. Each
//! state goes to one slot and then to the other, so a rotten slot hides nothing, unless the machine stopped
//! between the two. Byte-exact: `docs/format/journal.md` §5.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use super::JournalError;
use super::disk::{Disk, DiskFile};
use super::frame::SECTOR_BYTES;
use super::segment::{read_exact, write_all};
use crate::tlog::hash::Hash;

/// Name of the file.
pub const FILE_NAME: &str = "HEAD";
/// Two slots.
pub const FILE_BYTES: usize = 2 * SECTOR_BYTES;

/// Name of the file while it is made.
pub(super) const TEMPORARY_NAME: &str = "HEAD.tmp";
const MAGIC: [u8; 4] = *b"VRVH";
const VERSION: u16 = 1;
const FLAG_CLEAN: u16 = 1;
const HASH_AT: usize = SECTOR_BYTES - 32;
const FIELDS_END: usize = 104;
/// Numbers beyond this are refused, so that adding one is always sound: 146,000 years at 1,000,000 a second.
const MAX_NUMBER: u64 = 1 << 62;

static HEAD_CONTEXT: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("varve v1 journal head"));

/// What `HEAD` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of this state, from 1; slot `sequence % 2` holds it.
    pub sequence: u64,
    /// Newest frame that was durable when this was written; 0 is none.
    pub newest: u64,
    /// Hash of that frame; zero for none.
    pub newest_hash: Hash,
    /// Frame up to which the store was truly synced; 0 is none.
    pub applied: u64,
    /// First frame that must still be there. Frames before it may be gone.
    pub kept_from: u64,
    /// Digest of the state snapshot of `applied`, as the caller gave it.
    pub state_digest: Hash,
    /// Written by a clean stop: `newest` is exact, and nothing is torn.
    pub clean: bool,
}

impl Head {
    fn initial() -> Head {
        Head {
            sequence: 1,
            newest: 0,
            newest_hash: Hash::ZERO,
            applied: 0,
            kept_from: 1,
            state_digest: Hash::ZERO,
            clean: false,
        }
    }

    fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut slot = [0; SECTOR_BYTES];
        slot[0..4].copy_from_slice(&MAGIC);
        slot[4..6].copy_from_slice(&VERSION.to_be_bytes());
        slot[6..8].copy_from_slice(&if self.clean { FLAG_CLEAN } else { 0 }.to_be_bytes());
        slot[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        slot[16..24].copy_from_slice(&self.newest.to_be_bytes());
        slot[24..56].copy_from_slice(self.newest_hash.as_bytes());
        slot[56..64].copy_from_slice(&self.applied.to_be_bytes());
        slot[64..72].copy_from_slice(&self.kept_from.to_be_bytes());
        slot[72..FIELDS_END].copy_from_slice(self.state_digest.as_bytes());
        let hash = hash(&slot[..HASH_AT]);
        slot[HASH_AT..].copy_from_slice(&hash);
        slot
    }

    /// Parses slot `position`; the error says in words why it cannot be used.
    fn decode(slot: &[u8], position: u64) -> Result<Head, &'static str> {
        let u64_at = |at: usize| u64::from_be_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
        let hash_at = |at: usize| Hash(slot[at..at + 32].try_into().expect("32 bytes"));
        let u16_at = |at: usize| u16::from_be_bytes(slot[at..at + 2].try_into().expect("2 bytes"));
        if slot[HASH_AT..] != hash(&slot[..HASH_AT]) {
            return Err("its hash does not fit its bytes");
        }
        if slot[..4] != MAGIC || u16_at(4) != VERSION || u16_at(6) & !FLAG_CLEAN != 0 {
            return Err("it is of another format version");
        }
        let head = Head {
            sequence: u64_at(8),
            newest: u64_at(16),
            newest_hash: hash_at(24),
            applied: u64_at(56),
            kept_from: u64_at(64),
            state_digest: hash_at(72),
            clean: u16_at(6) & FLAG_CLEAN != 0,
        };
        if head.sequence > MAX_NUMBER || head.newest > MAX_NUMBER {
            return Err("its numbers are out of range");
        }
        let zero_rest = slot[FIELDS_END..HASH_AT].iter().all(|byte| *byte == 0);
        if head.sequence == 0 || head.sequence % 2 != position || !zero_rest {
            return Err("it is in the wrong place");
        }
        // Frames kept_from..=newest are in segments, frames up to applied are in the store: no gap between.
        let no_frame_is_zero = (head.newest == 0) == (head.newest_hash == Hash::ZERO);
        let first_is_kept = (1..=head.newest.max(1)).contains(&head.kept_from);
        if !no_frame_is_zero
            || !first_is_kept
            || head.applied > head.newest
            || head.kept_from - 1 > head.applied
        {
            return Err("its numbers contradict each other");
        }
        Ok(head)
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_from_context_key(&HEAD_CONTEXT);
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// Makes the `HEAD` of an empty journal.
pub(super) fn create(disk: &dyn Disk, dir: &Path) -> Result<(), JournalError> {
    make(disk, dir, Head::initial()).map(drop)
}

/// Makes a file with `head` and its successor, the same but for the sequence, and gives it the name.
fn make(disk: &dyn Disk, dir: &Path, head: Head) -> Result<HeadFile, JournalError> {
    let temporary = dir.join(TEMPORARY_NAME);
    let path = dir.join(FILE_NAME);
    let second = Head { sequence: head.sequence + 1, ..head };
    let mut bytes = [0; FILE_BYTES];
    for head in [head, second] {
        bytes[slot_at(&head)..][..SECTOR_BYTES].copy_from_slice(&head.encode());
    }
    // Kill, failed sync or full disk up to the rename: a temporary file, and the HEAD of before, or none.
    let file = disk.create(&temporary).map_err(JournalError::io("create", &temporary))?;
    write_all(&*file, &bytes, 0).map_err(JournalError::io("write", &temporary))?;
    file.fdatasync().map_err(JournalError::io("sync", &temporary))?;
    // Kill between rename and directory sync: the HEAD of before, or this one. Both are true.
    disk.rename(&temporary, &path).map_err(JournalError::io("rename", &temporary))?;
    disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))?;
    Ok(HeadFile { file, path, current: second })
}

/// A slot that could not be used, and why.
pub(super) type RottenSlot = (u64, &'static str);

/// Reads `HEAD`, from one slot if the other is rotten.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<(Head, Option<RottenSlot>), JournalError> {
    let path = dir.join(FILE_NAME);
    let file = disk.open(&path, false).map_err(JournalError::io("open", &path))?;
    let length = file.len().map_err(JournalError::io("read the length of", &path))?;
    if length != FILE_BYTES as u64 {
        return Err(JournalError::Head(format!("it has {length} bytes, not {FILE_BYTES}")));
    }
    let mut bytes = [0; FILE_BYTES];
    read_exact(&*file, &mut bytes, 0).map_err(JournalError::io("read", &path))?;
    let (zero, one) = bytes.split_at(SECTOR_BYTES);
    match (Head::decode(zero, 0), Head::decode(one, 1)) {
        (Ok(a), Ok(b)) if a.sequence.abs_diff(b.sequence) == 1 => {
            Ok((if a.sequence > b.sequence { a } else { b }, None))
        }
        (Ok(a), Ok(b)) => Err(JournalError::Head(format!(
            "its slots are states {} and {}, which do not follow each other",
            a.sequence, b.sequence
        ))),
        (Ok(a), Err(why)) => Ok((a, Some((1, why)))),
        (Err(why), Ok(b)) => Ok((b, Some((0, why)))),
        (Err(a), Err(b)) => Err(JournalError::Head(format!("slot 0: {a}; slot 1: {b}"))),
    }
}

/// The open `HEAD` of a writer.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    current: Head,
}

impl HeadFile {
    /// Makes `head` the state, in a new file. What [`read`] returned may so far be in the page cache alone,
    /// behind a sync that failed; written into the old file, the next state could become durable without it.
    pub(super) fn replace(disk: &dyn Disk, dir: &Path, head: Head) -> Result<HeadFile, JournalError> {
        make(disk, dir, Head { sequence: head.sequence + 1, ..head })
    }

    /// The state last written.
    pub(super) fn current(&self) -> &Head {
        &self.current
    }

    /// Makes `head` (its sequence is set here) the state, durably: in one slot, then in the other.
    pub(super) fn write(&mut self, head: Head) -> Result<(), JournalError> {
        for _slot in 0..2 {
            let head = Head { sequence: self.current.sequence + 1, ..head };
            // Kill or power cut here: this slot is old or new; the other one holds the state before, or this
            // one already. Each is true of the journal: the caller writes only what is durable.
            write_all(&*self.file, &head.encode(), slot_at(&head) as u64)
                .map_err(JournalError::io("write", &self.path))?;
            // Failed sync: unknown which of the two survives. The writer is poisoned; open decides.
            self.file.fdatasync().map_err(JournalError::io("sync", &self.path))?;
            self.current = head;
        }
        Ok(())
    }
}

fn slot_at(head: &Head) -> usize {
    if head.sequence.is_multiple_of(2) { 0 } else { SECTOR_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Head {
        Head {
            sequence: 8,
            newest: 40,
            newest_hash: Hash([3; 32]),
            applied: 30,
            kept_from: 12,
            state_digest: Hash([4; 32]),
            clean: true,
        }
    }

    #[test]
    fn a_slot_comes_back() {
        assert_eq!(Head::decode(&some().encode(), 0), Ok(some()));
        let first = Head::initial();
        assert_eq!(Head::decode(&first.encode(), 1), Ok(first));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_seen() {
        let slot = some().encode();
        for bit in 0..SECTOR_BYTES * 8 {
            let mut other = slot;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&other, 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn contradictions_are_refused_even_with_a_right_hash() {
        for (name, head) in [
            ("wrong slot", Head { sequence: 9, ..some() }),
            ("sequence 0", Head { sequence: 0, ..some() }),
            ("applied beyond newest", Head { applied: 41, ..some() }),
            ("a gap", Head { applied: 10, ..some() }),
            ("kept from 0", Head { kept_from: 0, ..some() }),
            ("kept from beyond newest", Head { kept_from: 41, applied: 40, ..some() }),
            ("a number without successor", Head { newest: u64::MAX, ..some() }),
            ("a sequence without successor", Head { sequence: u64::MAX - 1, ..some() }),
            ("no hash", Head { newest_hash: Hash::ZERO, ..some() }),
        ] {
            assert!(Head::decode(&head.encode(), 0).is_err(), "{name}");
        }
    }
}
