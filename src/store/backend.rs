//! The seam to the embedded store: ordered keys, small values, one tree a directory.
//!
//! Invariants that every implementation keeps:
//! - A write is visible to reads when the call returns, and durable only after [`Kv::sync`] returned.
//!   Before that, a power cut may take any of the unsynced writes and leave others.
//! - After the first error that is not a refusal ([`KvError::is_fatal`]) the store is poisoned: every
//!   later call answers [`KvError::Poisoned`]. Recovery opens it anew and decides.
//! - Dropping the last `Arc` closes the store; when the drop returns, the directory can be opened again.
//!
//! The store cannot notice what it silently lost: the layer above compares counts and digests.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest key in bytes. See [`MAX_VALUE_BYTES`] for the arithmetic.
pub const MAX_KEY_BYTES: usize = 256;

/// Longest value in bytes: 6 KiB.
///
/// A sled leaf splits above 16 entries, holds 17 when it is written before the split and 20 after a merge
/// with a neighbour of 3. 20 × (6,144 + 256 + 12 of framing) = 128,240 bytes, under the 131,052 bytes at
/// which sled moves a page into a file of its own that it never syncs.
pub const MAX_VALUE_BYTES: usize = 6 * 1024;

/// Most bytes of keys and values in one [`Batch`]: 1 MiB, two of sled's segments.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Most writes in one [`Batch`]; a longer batch keeps sled's per-page history in memory.
pub const MAX_BATCH_WRITES: usize = 4096;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Is shown key and value of each pair of a scan; breaks to end it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// One open store.
pub trait Kv: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// Fatal ones only: the store failed or is poisoned.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// The greatest key that is at most `key` and starts with `prefix`, with its value.
    ///
    /// # Errors
    /// As [`Kv::get`].
    fn last_at_or_before(&self, key: &[u8], prefix: &[u8]) -> Result<Option<Pair>, KvError>;

    /// Visits the pairs of `[from, to)` in ascending order until `visit` breaks. The visitor may call the
    /// store. Pairs written while the scan runs may or may not be seen.
    ///
    /// # Errors
    /// As [`Kv::get`]; pairs visited before the error were read whole.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError>;

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// [`KvError::KeyLength`], [`KvError::ValueLength`]: refused, nothing changed. Else fatal.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError>;

    /// Removes `key`; absent is fine.
    ///
    /// # Errors
    /// As [`Kv::put`].
    fn remove(&self, key: &[u8]) -> Result<(), KvError>;

    /// Applies a batch atomically: after any crash either all of its writes are there or none.
    ///
    /// In sled this takes a lock that stops every reader of every open store in the process, for as long
    /// as the batch and any running flush take. Idempotent writers use [`Kv::put_all`].
    ///
    /// # Errors
    /// As [`Kv::put`], for the first write at fault.
    fn apply(&self, batch: &Batch) -> Result<(), KvError>;

    /// Applies the writes of a batch one after the other, in order. Not atomic; holds up nobody. After a
    /// crash any of them may be missing, so the caller must be able to repeat them.
    ///
    /// # Errors
    /// As [`Kv::put`], for the first write at fault; a limit at fault is found before the first write.
    fn put_all(&self, batch: &Batch) -> Result<(), KvError>;

    /// Makes every write that returned before this call durable. True when it returns.
    ///
    /// # Errors
    /// Fatal ones only; which writes are durable is then unknown, and the sync is never repeated.
    fn sync(&self) -> Result<(), KvError>;

    /// Bytes the store takes on disk.
    ///
    /// # Errors
    /// [`KvError::Io`]: the directory could not be read.
    fn disk_bytes(&self) -> Result<u64, KvError>;
}

/// A kind of store: opens and destroys directories.
pub trait Backend: Send + Sync {
    /// Opens the store in `dir`, or creates it there. Opening writes to the directory: never open what is
    /// only to be inspected.
    ///
    /// `cache_bytes` is what the store may hold of its pages beyond what it cannot do without.
    ///
    /// # Errors
    /// [`KvError::InUse`], [`KvError::Damaged`], [`KvError::Io`]; nothing is then open.
    fn open(&self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError>;

    /// Whether there is a store in `dir`.
    fn exists(&self, dir: &Path) -> bool;

    /// Before the next open of a store that may have been written when its process ended: what the system
    /// holds of its file in memory is dropped where it can be, so that the open reads the disk. After a failed
    /// sync Linux keeps the pages that never reached the disk, and calls them clean.
    ///
    /// # Errors
    /// [`KvError::Io`]: what can be written could not be.
    fn distrust(&self, dir: &Path) -> Result<(), KvError>;

    /// Deletes the store in `dir` with its directory, durably. Absent is fine.
    ///
    /// # Errors
    /// [`KvError::InUse`] while it is open; [`KvError::Io`] when some of it may be left.
    fn destroy(&self, dir: &Path) -> Result<(), KvError>;
}

/// A list of writes, in order; of two to the same key the later one counts. `Debug` shows its size.
#[derive(Clone, Default)]
pub struct Batch {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} writes, {} bytes)", self.writes.len(), self.bytes)
    }
}

impl Batch {
    /// Adds a write of `value` under `key`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.push(key.into(), Some(value.into()));
    }

    /// Adds the removal of `key`.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.push(key.into(), None);
    }

    /// Bytes of keys and values so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of writes so far.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it holds no write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether a write of `key_bytes` and `value_bytes` still fits under the limits of a batch.
    pub fn has_room(&self, key_bytes: usize, value_bytes: usize) -> bool {
        self.bytes + key_bytes + value_bytes <= MAX_BATCH_BYTES && self.writes.len() < MAX_BATCH_WRITES
    }

    /// Forgets the writes and keeps the memory.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.bytes = 0;
    }

    /// The writes in order; `None` removes.
    pub fn writes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Checks every limit of the batch and of its writes.
    ///
    /// # Errors
    /// The refusal of the first write at fault.
    pub fn check(&self) -> Result<(), KvError> {
        if self.bytes > MAX_BATCH_BYTES || self.writes.len() > MAX_BATCH_WRITES {
            return Err(KvError::BatchSize { bytes: self.bytes, writes: self.writes.len() });
        }
        self.writes().try_for_each(|(key, value)| check_write(key, value.map_or(0, <[u8]>::len)))
    }

    fn push(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.writes.push((key, value));
    }
}

/// Checks the limits of one write.
///
/// # Errors
/// [`KvError::KeyLength`], [`KvError::ValueLength`].
pub fn check_write(key: &[u8], value_bytes: usize) -> Result<(), KvError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(KvError::KeyLength { bytes: key.len() });
    }
    if value_bytes > MAX_VALUE_BYTES {
        return Err(KvError::ValueLength { bytes: value_bytes });
    }
    Ok(())
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    /// A key outside 1 to [`MAX_KEY_BYTES`].
    #[error("a key of {bytes} bytes was refused (1 to {MAX_KEY_BYTES}); the store is unchanged and usable")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// A value over [`MAX_VALUE_BYTES`].
    #[error(
        "a value of {bytes} bytes was refused (at most {MAX_VALUE_BYTES}); the store is unchanged and usable: cut it into pieces"
    )]
    ValueLength {
        /// Its length.
        bytes: usize,
    },
    /// A batch over [`MAX_BATCH_BYTES`] or [`MAX_BATCH_WRITES`].
    #[error(
        "a batch of {bytes} bytes in {writes} writes was refused (at most {MAX_BATCH_BYTES} in {MAX_BATCH_WRITES}); the store is unchanged and usable: split it"
    )]
    BatchSize {
        /// Bytes of its keys and values.
        bytes: usize,
        /// Number of its writes.
        writes: usize,
    },
    /// The directory is open elsewhere.
    #[error("{} is open elsewhere; nothing was changed: close the other process or handle, then try again", dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The operating system refused a read, a write or a sync.
    #[error("{doing} failed in {}: {source}; what was synced before is unaffected, what was written since is unknown: stop, then restart and let recovery decide", dir.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The store's directory.
        dir: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// The store met bytes it cannot have written, or gave up on its own invariants.
    #[error("{doing} found the store in {} damaged: {reason}; the journal and the other layers are unaffected: keep the directory, rebuild the layer from the journal or a backup", dir.display())]
    Damaged {
        /// What was being done.
        doing: &'static str,
        /// The store's directory.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The store failed earlier; it does nothing any more.
    #[error("the store stopped after an earlier failure ({first}); restart and let recovery decide")]
    Poisoned {
        /// The failure that stopped it.
        first: Arc<str>,
    },
}

impl KvError {
    /// Whether the store is of no use any more: anything but a refused argument.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::KeyLength { .. } | Self::ValueLength { .. } | Self::BatchSize { .. })
    }

    /// Whether the cause is a full disk.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// The upper end of the keys that start with `prefix`: the least key above all of them; `None` if there is
/// no such key (the prefix is empty or all 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_leaf_stays_under_the_blob_limit() {
        // sled 0.34.7: segment 512 KiB / 4 items − 20 bytes of segment header.
        let blob_limit = 512 * 1024 / 4 - 20;
        assert!(20 * (MAX_VALUE_BYTES + MAX_KEY_BYTES + 12) + 2 * MAX_KEY_BYTES + 64 < blob_limit);
    }

    #[test]
    fn limits_are_inclusive_and_named_in_the_refusal() {
        assert!(check_write(&[1; MAX_KEY_BYTES], MAX_VALUE_BYTES).is_ok());
        for refused in [
            check_write(b"", 0),
            check_write(&[1; MAX_KEY_BYTES + 1], 0),
            check_write(b"k", MAX_VALUE_BYTES + 1),
        ] {
            let refused = refused.unwrap_err();
            assert!(!refused.is_fatal());
            assert!(refused.to_string().contains("unchanged and usable"), "{refused}");
        }
    }

    #[test]
    fn a_batch_over_its_bytes_or_its_writes_is_refused() {
        let mut batch = Batch::default();
        while batch.has_room(4, MAX_VALUE_BYTES) {
            batch.put(u32::try_from(batch.len()).unwrap().to_be_bytes(), vec![0; MAX_VALUE_BYTES]);
        }
        assert!(batch.check().is_ok());
        batch.put(*b"more", vec![0; MAX_VALUE_BYTES]);
        assert!(matches!(batch.check(), Err(KvError::BatchSize { .. })));
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0);
        (0..=MAX_BATCH_WRITES).for_each(|_| batch.remove(*b"k"));
        assert!(matches!(batch.check(), Err(KvError::BatchSize { writes: 4097, .. })));
    }

    #[test]
    fn prefix_end_is_the_least_key_above() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[7, 255, 255]), Some(vec![8]));
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(&[]), None);
    }
}

/// What every backend must do, run by the tests of each.
#[cfg(test)]
pub(crate) mod contract {
    use super::*;

    /// Runs the checks in `dir`, which must not exist, and leaves it destroyed.
    pub(crate) fn check(backend: &dyn Backend, dir: &Path) {
        let kv = backend.open(dir, 1 << 20).unwrap();
        assert!(matches!(backend.open(dir, 1 << 20), Err(KvError::InUse { .. })));
        assert!(matches!(backend.destroy(dir), Err(KvError::InUse { .. })));
        reads_and_writes(&*kv);
        refusals(&*kv);
        kv.sync().unwrap();
        assert!(kv.disk_bytes().unwrap() > 0);
        drop(kv);
        // Closed means closed: at once, many times.
        for _ in 0..20 {
            assert_eq!(backend.open(dir, 1 << 20).unwrap().get(b"p\x01").unwrap(), Some(b"one".to_vec()));
        }
        backend.destroy(dir).unwrap();
        backend.destroy(dir).unwrap();
        assert_eq!(backend.open(dir, 1 << 20).unwrap().get(b"p\x01").unwrap(), None);
        backend.destroy(dir).unwrap();
    }

    fn reads_and_writes(kv: &dyn Kv) {
        let mut batch = Batch::default();
        for (key, value) in [(b"p\x01", "one"), (b"p\x05", "five"), (b"q\x01", "q"), (b"\xff\xff", "last")] {
            batch.put(*key, value);
        }
        batch.put(*b"p\x05", *b"5");
        batch.put(*b"gone", *b"x");
        batch.remove(*b"gone");
        kv.apply(&batch).unwrap();
        kv.put_all(&batch).unwrap();
        assert_eq!(kv.get(b"p\x05").unwrap(), Some(b"5".to_vec()));
        assert_eq!(kv.get(b"gone").unwrap(), None);
        kv.put(b"gone", b"").unwrap();
        assert_eq!(kv.get(b"gone").unwrap(), Some(vec![]));
        kv.remove(b"gone").unwrap();
        kv.remove(b"gone").unwrap();

        let last = |key: &[u8], prefix: &[u8]| kv.last_at_or_before(key, prefix).unwrap().map(|pair| pair.0);
        for (key, prefix, expected) in [
            (&b"p\x05"[..], &b"p"[..], Some(&b"p\x05"[..])),
            (b"p\x04", b"p", Some(b"p\x01")),
            (b"p\x00", b"p", None),
            (b"q\x00", b"q", None),
            (b"z", b"p", Some(b"p\x05")),
            (b"a", b"p", None),
            (b"p\xff\xff", b"p", Some(b"p\x05")),
            (b"q\x00", b"", Some(b"p\x05")),
            (b"\xff\xff\xff", b"\xff", Some(b"\xff\xff")),
            (b"\xff\xff\xff", b"\xff\xff", Some(b"\xff\xff")),
        ] {
            assert_eq!(last(key, prefix).as_deref(), expected, "{key:x?} under {prefix:x?}");
        }

        let keys = |from: &[u8], to: &[u8], most: usize| {
            let mut keys = vec![];
            kv.scan(from, to, &mut |key, value| {
                assert_eq!(kv.get(key).unwrap().as_deref(), Some(value));
                keys.push(key.to_vec());
                if keys.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            keys
        };
        assert_eq!(keys(b"p\x01", b"q\x01", 9), [b"p\x01", b"p\x05"]);
        assert_eq!(keys(b"", b"\xff\xff\xff", 9).len(), 4);
        assert_eq!(keys(b"", b"\xff\xff\xff", 1), [b"p\x01"]);
        assert!(keys(b"q", b"p", 9).is_empty() && keys(b"p\x01", b"p\x01", 9).is_empty());
        many(kv);
    }

    /// Enough pairs for several leaves and scan steps.
    fn many(kv: &dyn Kv) {
        let key = |n: u32| [&b"m"[..], &n.to_be_bytes()].concat();
        (0..500).for_each(|n| kv.put(&key(n * 2), &n.to_be_bytes()).unwrap());
        let mut next = 100;
        kv.scan(&key(199), &key(801), &mut |found, value| {
            assert_eq!((found, value), (key(next * 2).as_slice(), &next.to_be_bytes()[..]));
            next += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(next, 401);
        for n in 0..999 {
            assert_eq!(kv.last_at_or_before(&key(n), b"m").unwrap().unwrap().0, key(n / 2 * 2));
        }
    }

    fn refusals(kv: &dyn Kv) {
        assert!(matches!(kv.put(b"", b"v"), Err(KvError::KeyLength { bytes: 0 })));
        assert!(matches!(kv.remove(&[1; MAX_KEY_BYTES + 1]), Err(KvError::KeyLength { .. })));
        assert!(matches!(kv.put(b"k", &[0; MAX_VALUE_BYTES + 1]), Err(KvError::ValueLength { .. })));
        let mut batch = Batch::default();
        batch.put(*b"first", *b"v");
        batch.put(*b"second", vec![0; MAX_VALUE_BYTES + 1]);
        assert!(kv.apply(&batch).is_err() && kv.put_all(&batch).is_err());
        assert_eq!(kv.get(b"first").unwrap(), None, "a refused batch changes nothing");
    }
}
