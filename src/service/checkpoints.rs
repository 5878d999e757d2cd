//! The last checkpoint signed of each log, durable before it is given out: `signed-checkpoints`, one slot of
//! 64 bytes a log number.
//!
//! ```text
//! size 8 | root 32 | first 8 bytes of BLAKE3 over "varve signed checkpoint" || number 4 || size || root | 16 zero
//! ```
//!
//! No two checkpoints are ever signed for one size with different roots. A backup must not restore this file:
//! a log that is shorter than its slot, or gone, has been rolled back, and the store is not served.
//!
//! A note may have been given out over a slot that only the system's memory holds: killed between the write and
//! the sync, or the sync failed. So opening writes all slots into a new file and syncs it before the first is
//! believed, and after a failure no slot is believed until then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::store::bounded;
use crate::store::state::MAX_LOGS;
use crate::tlog::hash::Hash;

const FILE: &str = "signed-checkpoints";

const SLOT_BYTES: usize = 64;

/// A slot for each log that an instance can have: 4 MiB.
const MAX_FILE_BYTES: u64 = (MAX_LOGS * SLOT_BYTES) as u64;

/// The file, open.
pub struct SignedCheckpoints {
    path: PathBuf,
    /// `None` after a failure.
    file: Mutex<Option<File>>,
}

/// Size and root of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signed {
    /// Tree size.
    pub size: u64,
    /// Root at that size.
    pub root: Hash,
}

/// A slot that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed before: which slots are durable is unknown until the file is opened anew.
    #[error("{path}: a write failed; no checkpoint is signed until the server is started again")]
    Failed {
        /// The file.
        path: PathBuf,
    },
    /// A slot's digest does not match.
    #[error("{path}: the slot of log {log} is not what was written; the store is not served")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Log number.
        log: u32,
    },
    /// Another root was signed for that size, or a larger size.
    #[error("log {log}: a checkpoint of size {} was signed before; the log now says otherwise: it was rolled back or forked", signed.size)]
    Conflict {
        /// Log number.
        log: u32,
        /// What was signed.
        signed: Signed,
    },
}

impl SignedCheckpoints {
    /// Whether the file is there. A store makes it when it is first opened.
    pub fn is_there(data: &Path) -> bool {
        data.join(FILE).exists()
    }

    /// Opens the file, or makes it. What it holds is durable when this returns: temporary file, fsync, rename,
    /// directory fsync. A kill before the rename leaves the old file, after it the same slots in the new one.
    pub fn open(data: &Path) -> Result<SignedCheckpoints, SignedError> {
        let path = data.join(FILE);
        let temporary = data.join("signed-checkpoints.tmp");
        let renewed = || -> io::Result<File> {
            let slots = match bounded::read(&path, MAX_FILE_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                slots => slots?.ok_or_else(|| {
                    io::Error::other(format!(
                        "over {MAX_FILE_BYTES} bytes, more than was ever written; it is unchanged"
                    ))
                })?,
            };
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&slots)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(data)?.sync_all()?;
            Ok(file)
        };
        let file = renewed().map_err(|source| SignedError::Io { path: path.clone(), source })?;
        Ok(SignedCheckpoints { path, file: Mutex::new(Some(file)) })
    }

    /// The last checkpoint signed of each log that one was signed of.
    pub fn all(&self) -> Result<Vec<(u32, Signed)>, SignedError> {
        let file = self.file.lock();
        let file = self.sound(file.as_ref())?;
        let io = |source| SignedError::Io { path: self.path.clone(), source };
        let slots = file.metadata().map_err(io)?.len().div_ceil(SLOT_BYTES as u64);
        let mut all = Vec::new();
        for log in 0..u32::try_from(slots).unwrap_or(u32::MAX) {
            all.extend(self.read(file, log)?.map(|signed| (log, signed)));
        }
        Ok(all)
    }

    /// Allows a checkpoint to be signed: it is durable here when this returns.
    ///
    /// Errors when another root was signed for the size, or a larger size: the log has been rolled back.
    pub fn advance(&self, log: u32, next: Signed) -> Result<(), SignedError> {
        let mut held = self.file.lock();
        let file = self.sound(held.as_ref())?;
        match self.read(file, log)? {
            Some(last) if last == next => return Ok(()),
            // An older size than the last is proved by consistency, not signed anew.
            Some(last) if last.size >= next.size => return Err(SignedError::Conflict { log, signed: last }),
            _ => {}
        }
        let mut slot = [0u8; SLOT_BYTES];
        slot[..8].copy_from_slice(&next.size.to_be_bytes());
        slot[8..40].copy_from_slice(next.root.as_bytes());
        let check = check_of(log, &slot[..40]);
        slot[40..48].copy_from_slice(&check);
        let written =
            file.write_all_at(&slot, u64::from(log) * SLOT_BYTES as u64).and_then(|()| file.sync_data());
        written.map_err(|source| {
            *held = None;
            SignedError::Io { path: self.path.clone(), source }
        })
    }

    fn sound<'a>(&self, file: Option<&'a File>) -> Result<&'a File, SignedError> {
        file.ok_or_else(|| SignedError::Failed { path: self.path.clone() })
    }

    /// The last checkpoint signed of a log.
    pub fn last(&self, log: u32) -> Result<Option<Signed>, SignedError> {
        let file = self.file.lock();
        self.read(self.sound(file.as_ref())?, log)
    }

    fn read(&self, file: &File, log: u32) -> Result<Option<Signed>, SignedError> {
        let mut slot = [0u8; SLOT_BYTES];
        match file.read_exact_at(&mut slot, u64::from(log) * SLOT_BYTES as u64) {
            Ok(()) => {}
            // A slot that a crash cut off was never synced, so nothing was given out over it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(source) => return Err(SignedError::Io { path: self.path.clone(), source }),
        }
        if slot == [0; SLOT_BYTES] {
            return Ok(None);
        }
        if slot[40..48] != check_of(log, &slot[..40]) || slot[48..] != [0; 16] {
            return Err(SignedError::Damaged { path: self.path.clone(), log });
        }
        let size = u64::from_be_bytes(*slot.first_chunk().expect("64 bytes"));
        let root = Hash(slot[8..40].try_into().expect("32 bytes"));
        Ok(Some(Signed { size, root }))
    }
}

fn check_of(log: u32, fields: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"varve signed checkpoint").update(&log.to_be_bytes()).update(fields);
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(slots: &SignedCheckpoints, log: u32) -> Result<Option<Signed>, SignedError> {
        Ok(slots.all()?.into_iter().find(|(number, _)| *number == log).map(|(_, signed)| signed))
    }

    #[test]
    fn after_a_failed_write_nothing_is_signed_until_the_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let slots = SignedCheckpoints::open(dir.path()).unwrap();
        let mark = Signed { size: 10, root: Hash([1; 32]) };
        slots.advance(5, mark).unwrap();
        // A descriptor that cannot be written stands for a disk that fails.
        *slots.file.lock() = Some(File::open(dir.path().join("signed-checkpoints")).unwrap());
        let next = Signed { size: 11, root: Hash([2; 32]) };
        assert!(matches!(slots.advance(5, next), Err(SignedError::Io { .. })));
        assert!(matches!(slots.advance(5, mark), Err(SignedError::Failed { .. })), "not even the one before");
        assert!(matches!(slots.all(), Err(SignedError::Failed { .. })));
        let slots = SignedCheckpoints::open(dir.path()).unwrap();
        slots.advance(5, next).unwrap();
        assert_eq!(slots.all().unwrap(), [(5, next)]);
    }

    #[test]
    fn a_file_that_was_never_written_so_long_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(SignedCheckpoints::open(dir.path()), Err(SignedError::Io { .. })));
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_FILE_BYTES + 1);
    }

    #[test]
    fn one_size_is_signed_with_one_root() {
        let dir = tempfile::tempdir().unwrap();
        let slots = SignedCheckpoints::open(dir.path()).unwrap();
        let (one, two) = (Hash([1; 32]), Hash([2; 32]));
        assert_eq!(last(&slots, 5).unwrap(), None);
        slots.advance(5, Signed { size: 10, root: one }).unwrap();
        slots.advance(5, Signed { size: 10, root: one }).unwrap();
        assert!(matches!(
            slots.advance(5, Signed { size: 10, root: two }),
            Err(SignedError::Conflict { .. })
        ));
        assert!(matches!(slots.advance(5, Signed { size: 9, root: two }), Err(SignedError::Conflict { .. })));
        slots.advance(5, Signed { size: 11, root: two }).unwrap();
        let slots = SignedCheckpoints::open(dir.path()).unwrap();
        assert_eq!(last(&slots, 5).unwrap(), Some(Signed { size: 11, root: two }));
        assert_eq!(last(&slots, 4).unwrap(), None);
        let path = dir.path().join("signed-checkpoints");
        let sound = std::fs::read(&path).unwrap();
        for bit in 0..512 {
            let mut bytes = sound.clone();
            bytes[5 * 64 + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            let slots = SignedCheckpoints::open(dir.path()).unwrap();
            assert!(matches!(last(&slots, 5), Err(SignedError::Damaged { .. })), "bit {bit}");
        }
    }
}
