//! The store on disk: sled 0.34.7, and the only file that names it.
//!
//! What sled does not do and this file does:
//! - sled's flush is `pwrite` and `sync_file_range`: neither file sizes nor the device's cache. [`Kv::sync`]
//!   flushes, then calls `fdatasync` on a descriptor of its own, then syncs the directory. That descriptor
//!   is open since before sled's, so it also reports write errors that sled's background thread only logs.
//! - A kill during open leaves `snap.*.generating`, after which sled never opens again: removed first.
//! - Pages over 131,052 bytes become files in `blobs/` that are never synced: keys and values are limited,
//!   and every sync and open checks that `blobs/` is empty.
//! - A failed write can hang a flush, and a panic in one of sled's threads hangs flush and close: both run
//!   under the watchdog, and [`install_panic_hook`] aborts at once.
//! - sled unwinds through its own bookkeeping: a panic, like an error, poisons the store.
//! - A closed database keeps its lock while sled's threads wind down: open and close wait for it.
//! - sled's cache limit does not limit: a page is only evicted once its shard (of 256) has seen 64 more
//!   accesses, so a scan keeps up to 16,384 leaves of up to 100 KiB. Reads that pulled a page from the file
//!   make the shard look (`TOUCHES`), which leaves one leaf a shard and the cache: 15 MiB.
//!
//! What it cannot do: sled drops everything behind a bad checksum in silence and overwrites it. The layer
//! above compares what it finds with the journal and the layer's SEAL.

#![expect(
    clippy::disallowed_methods,
    reason = "waits with an end, slow reads; nothing stored depends on them"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use rustix::io::Errno;

use super::backend::{Backend, Batch, Kv, KvError, Pair, Visit, check_write, prefix_end};
use crate::process::watchdog::{SYNC_LIMIT, Watchdog};

/// sled's file of segments.
const DATA_FILE: &str = "db";

/// sled's directory of oversized pages; must stay empty.
const BLOB_DIR: &str = "blobs";

/// sled's file of parameters, which it never syncs.
const CONF_FILE: &str = "conf";

/// How long a lock may linger after a close.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long an open may take: recovery after a kill reads 2,000,000 packed records in 0.9 s, so a layer of
/// 100 times that takes 90 s; a write that fails meanwhile can hang it for ever.
const OPEN_LIMIT: Duration = Duration::from_secs(600);

/// How long to sleep between two looks at a lingering lock.
const LOCK_POLL: Duration = Duration::from_millis(2);

/// How often sled's background thread writes its buffer, collects garbage for up to half the time, and
/// calls fsync, written to or not: a device flush each time, so not too often with a dozen layers open.
/// Never `None`: that would stop the collection.
const BACKGROUND_MS: u64 = 5000;

/// Smallest cache: sled keeps at least one page in each of its 256 shards anyhow.
const MIN_CACHE_BYTES: u64 = 64 * 1024;

/// A read that took longer pulled a page from the file. A read from memory takes 1 to 3 µs, a pull of a
/// leaf of 50 KiB 20 µs and more; smaller leaves need no eviction.
const PULL_TIME: Duration = Duration::from_micros(10);

/// Accesses after which a shard of sled's cache looks at its size: its queue of 64 and one. 26 µs.
const TOUCHES: usize = 65;

/// Opens sled databases.
#[derive(Clone)]
pub struct SledBackend {
    watchdog: Watchdog,
    sync_limit: Duration,
}

impl SledBackend {
    /// Databases whose syncs and closes are watched by `watchdog`, [`SYNC_LIMIT`] each.
    pub fn new(watchdog: Watchdog) -> SledBackend {
        SledBackend { watchdog, sync_limit: SYNC_LIMIT }
    }
}

impl Backend for SledBackend {
    fn open(&self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
        let mut kv = SledKv::prepare(self, dir).map_err(|error| io_error("opening", dir, error))?;
        wait_for_lock(&kv.data, dir)?;
        // sled syncs the snapshot it writes on open, and not always the data that it describes, which a
        // killed process may have left in the page cache: data first.
        remove_left_overs(dir)
            .and_then(|()| kv.data.sync_all())
            .map_err(|error| io_error("opening", dir, error))?;
        let armed = self.watchdog.arm(OPEN_LIMIT, format!("the opening of {}", dir.display()));
        let config = ::sled::Config::new()
            .path(dir)
            .mode(::sled::Mode::LowSpace)
            .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
            .flush_every_ms(Some(BACKGROUND_MS))
            .use_compression(false);
        kv.db = Some(kv.guarded("opening", || config.open())?);
        drop((config, armed));
        kv.settle().map_err(|error| io_error("opening", dir, error))?;
        kv.check_blobs("opening")?;
        Ok(Arc::new(kv))
    }

    fn exists(&self, dir: &Path) -> bool {
        dir.join(DATA_FILE).is_file()
    }

    fn distrust(&self, dir: &Path) -> Result<(), KvError> {
        let dropped = File::open(dir.join(DATA_FILE)).and_then(|data| {
            data.sync_all()?;
            Ok(fadvise(&data, 0, None, Advice::DontNeed)?)
        });
        dropped.map_err(|error| io_error("opening", dir, error))
    }

    fn destroy(&self, dir: &Path) -> Result<(), KvError> {
        let failed = |error| io_error("deleting", dir, error);
        match OpenOptions::new().read(true).open(dir.join(DATA_FILE)) {
            Ok(data) => wait_for_lock(&data, dir)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        match fs::remove_dir_all(dir) {
            // Removed before, perhaps without a sync.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => sync_parent(dir).map_err(failed),
        }
    }
}

/// Makes a panic inside sled's own threads abort the process: their work is lost, and what waits for it
/// would wait for ever. For a panic in sled's code on any thread, prints the place and not the message,
/// which may hold stored data.
pub fn install_panic_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().filter(|place| place.file().contains("/sled-0.34.7/"));
        match place {
            Some(place) => eprintln!("varve: the embedded store panicked at {place}"),
            None => before(panic),
        }
        let thread = thread::current();
        let is_storage = |name: &str| name.starts_with("sled-io-") || name == "log flusher";
        if thread.name().is_some_and(is_storage) {
            eprintln!("varve: a storage thread is lost; aborting. Recovery decides at restart.");
            std::process::abort();
        }
    }));
}

/// One open database. sled's own default tree holds everything.
struct SledKv {
    /// `None` only before it is opened and while it is closed.
    db: Option<::sled::Db>,
    /// Our own descriptor on sled's file, opened before sled's.
    data: File,
    dir_file: File,
    dir: PathBuf,
    first_failure: OnceLock<Arc<str>>,
    watchdog: Watchdog,
    sync_limit: Duration,
}

impl SledKv {
    /// Makes the directory and opens our own descriptors.
    fn prepare(backend: &SledBackend, dir: &Path) -> io::Result<SledKv> {
        fs::create_dir_all(dir)?;
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(DATA_FILE))?;
        Ok(SledKv {
            db: None,
            data,
            dir_file: File::open(dir)?,
            dir: dir.to_owned(),
            first_failure: OnceLock::new(),
            watchdog: backend.watchdog.clone(),
            sync_limit: backend.sync_limit,
        })
    }

    /// Makes what sled created on open durable: it syncs neither its parameters nor any directory.
    fn settle(&self) -> io::Result<()> {
        File::open(self.dir.join(CONF_FILE))?.sync_all()?;
        self.data.sync_all()?;
        self.dir_file.sync_all()?;
        sync_parent(&self.dir)
    }

    fn check_blobs(&self, doing: &'static str) -> Result<(), KvError> {
        let mut blobs =
            fs::read_dir(self.dir.join(BLOB_DIR)).map_err(|error| io_error(doing, &self.dir, error))?;
        match blobs.next() {
            None => Ok(()),
            Some(_) => Err(KvError::Damaged {
                doing,
                dir: self.dir.clone(),
                reason: format!("{BLOB_DIR}/ is not empty: a page outgrew the limit and is not synced"),
            }),
        }
    }

    /// Runs a call into sled; an error or a panic is remembered.
    fn guarded<T>(
        &self,
        doing: &'static str,
        call: impl FnOnce() -> Result<T, ::sled::Error>,
    ) -> Result<T, KvError> {
        if let Some(first) = self.first_failure.get() {
            return Err(KvError::Poisoned { first: Arc::clone(first) });
        }
        let damaged = |reason: String| KvError::Damaged { doing, dir: self.dir.clone(), reason };
        let error = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(::sled::Error::Io(error))) => io_error(doing, &self.dir, error),
            Ok(Err(::sled::Error::Corruption { at, .. })) => match at {
                Some(at) => damaged(format!("bad checksum at {at}")),
                None => damaged("bad checksum or snapshot".to_owned()),
            },
            Ok(Err(::sled::Error::Unsupported(reason))) => damaged(reason),
            // The other messages may hold stored data.
            Ok(Err(_)) => damaged("sled reports a bug of its own".to_owned()),
            Err(_) => damaged("sled panicked".to_owned()),
        };
        Err(self.poison(error))
    }

    fn poison(&self, error: KvError) -> KvError {
        let _ = self.first_failure.set(error.to_string().into());
        error
    }

    /// Runs a call on the tree.
    fn tree<T>(
        &self,
        doing: &'static str,
        call: impl FnOnce(&::sled::Tree) -> Result<T, ::sled::Error>,
    ) -> Result<T, KvError> {
        match &self.db {
            Some(db) => self.guarded(doing, || call(db)),
            None => Err(KvError::Poisoned { first: "closed".into() }),
        }
    }

    /// A read of one key.
    fn read<T>(
        &self,
        key: &[u8],
        call: impl FnOnce(&::sled::Tree) -> Result<T, ::sled::Error>,
    ) -> Result<T, KvError> {
        let start = Instant::now();
        let read = self.tree("reading", call)?;
        if start.elapsed() > PULL_TIME {
            self.evict_beside(key)?;
        }
        Ok(read)
    }

    /// Makes the shard that holds the leaf of `key` evict what is over its part of the cache.
    fn evict_beside(&self, key: &[u8]) -> Result<(), KvError> {
        self.tree("reading", |tree| (0..TOUCHES).try_for_each(|_| tree.get(key).map(drop)))
    }

    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), KvError> {
        self.tree("writing", |tree| match value {
            Some(value) => tree.insert(key, value).map(drop),
            None => tree.remove(key).map(drop),
        })
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.read(key, |tree| tree.get(key))?.map(|value| value.to_vec()))
    }

    fn last_at_or_before(&self, key: &[u8], prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        if key < prefix {
            return Ok(None);
        }
        let above = if key.starts_with(prefix) { None } else { prefix_end(prefix) };
        let last = self.read(key, |tree| {
            let mut range = match &above {
                Some(above) => tree.range(prefix..above.as_slice()),
                None => tree.range(prefix..=key),
            };
            range.next_back().transpose()
        })?;
        Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        let mut range = self.tree("scanning", |tree| Ok(tree.range(from..to)))?;
        loop {
            let start = Instant::now();
            let Some((key, value)) = self.guarded("scanning", || range.next().transpose())? else { break };
            if start.elapsed() > PULL_TIME {
                self.evict_beside(&key)?;
            }
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        check_write(key, value.len())?;
        self.write(key, Some(value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), KvError> {
        check_write(key, 0)?;
        self.write(key, None)
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        batch.check()?;
        let mut writes = ::sled::Batch::default();
        for (key, value) in batch.writes() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.tree("writing", |tree| tree.apply_batch(writes))
    }

    fn put_all(&self, batch: &Batch) -> Result<(), KvError> {
        batch.check()?;
        batch.writes().try_for_each(|(key, value)| self.write(key, value))
    }

    fn sync(&self) -> Result<(), KvError> {
        let _armed = self.watchdog.arm(self.sync_limit, format!("the sync of {}", self.dir.display()));
        self.tree("flushing", |tree| tree.flush())?;
        let synced = rustix::fs::fdatasync(&self.data).map_err(io::Error::from);
        synced
            .and_then(|()| self.dir_file.sync_all())
            .map_err(|error| self.poison(io_error("syncing", &self.dir, error)))?;
        self.check_blobs("syncing").map_err(|error| self.poison(error))
    }

    fn disk_bytes(&self) -> Result<u64, KvError> {
        let sizes = || -> io::Result<u64> {
            fs::read_dir(&self.dir)?.try_fold(0, |sum, file| {
                let meta = file?.metadata()?;
                Ok(sum + if meta.is_file() { meta.len() } else { 0 })
            })
        };
        sizes().map_err(|error| io_error("measuring", &self.dir, error))
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        let _armed = self.watchdog.arm(self.sync_limit, format!("the close of {}", self.dir.display()));
        let closed = catch_unwind(AssertUnwindSafe(move || drop(db)));
        if closed.is_err() || wait_for_lock(&self.data, &self.dir).is_err() {
            tracing::warn!(dir = %self.dir.display(), "the store did not close cleanly; what was synced is unaffected");
        }
    }
}

/// Waits until no open database holds the lock on `data`, sled's file.
fn wait_for_lock(data: &File, dir: &Path) -> Result<(), KvError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(data, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_POLL),
            Err(Errno::WOULDBLOCK) => return Err(KvError::InUse { dir: dir.to_owned() }),
            Err(errno) => return Err(io_error("locking", dir, errno.into())),
        }
    }
    flock(data, FlockOperation::Unlock).map_err(|errno| io_error("unlocking", dir, errno.into()))
}

/// Removes snapshots that a kill left half written. sled would take the newest of them for a good one and
/// refuse to open.
fn remove_left_overs(dir: &Path) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn io_error(doing: &'static str, dir: &Path, source: io::Error) -> KvError {
    KvError::Io { doing, dir: dir.to_owned(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests;
