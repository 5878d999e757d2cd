//! A store in memory that fails on command: for tests of everything above.
//!
//! It outlives its handles: opening the same directory of the same [`MemoryBackend`] again finds what was
//! written, less what a [`crash`](MemoryBackend::crash) took. It keeps a store's limits, poisons itself as
//! sled's does, and refuses to be opened twice.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;

use parking_lot::{Condvar, Mutex};

use super::backend::{Backend, Batch, Kv, KvError, Pair, Visit, check_write, prefix_end};
use crate::process::watchdog::{SYNC_LIMIT, Watchdog};

/// Pairs handed to a visitor between two looks at the store.
const SCAN_PAIRS: usize = 64;

/// The kinds of operation a fault can be set on. One batch is one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Whatever comes.
    Any,
    /// `Backend::open`.
    Open,
    /// `get`, `last_at_or_before`, `scan`.
    Read,
    /// `put`, `remove`, `apply`, and each write of `put_all`.
    Write,
    /// `sync`.
    Sync,
}

/// What an operation does instead of succeeding.
#[derive(Clone)]
pub enum Fault {
    /// Fails with this errno and has no effect.
    Error(i32),
    /// Fails with this errno although it took effect.
    ErrorAfter(i32),
    /// A sync that says yes and makes nothing durable: sled's own flush. Other operations just succeed.
    Lie,
    /// Waits until the gate opens, then goes on.
    Hang(Gate),
}

impl Fault {
    /// EIO, no effect.
    pub const EIO: Fault = Fault::Error(5);
    /// ENOSPC, no effect.
    pub const ENOSPC: Fault = Fault::Error(28);
}

/// Holds up operations until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everyone through, now and later.
    pub fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock();
        while !*open {
            self.0.1.wait(&mut open);
        }
    }
}

/// A set of in-memory stores by directory; clones share it. No directory is ever made on disk.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    world: Arc<World>,
}

#[derive(Default)]
struct World {
    disks: Mutex<HashMap<PathBuf, Arc<Mutex<Disk>>>>,
    script: Mutex<Script>,
    watchdog: OnceLock<Watchdog>,
}

/// What remains when no handle is open.
#[derive(Default)]
struct Disk {
    /// What reads see.
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Writes since the last sync, oldest first; each is lost or kept whole.
    unsynced: Vec<Unsynced>,
    /// Writes of a sync that failed: still read, never on the disk.
    doubtful: Vec<Unsynced>,
    open: bool,
}

/// One write or batch: keys with the value before and after.
type Unsynced = Vec<(Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>)>;

#[derive(Default)]
struct Script {
    /// Faults to come: kind, operations of that kind still to pass, what then happens.
    faults: Vec<(Op, u64, Fault)>,
    ops: u64,
}

impl MemoryBackend {
    /// Stores whose syncs are watched by `watchdog` instead of one that aborts.
    pub fn with_watchdog(watchdog: Watchdog) -> MemoryBackend {
        let backend = MemoryBackend::default();
        let _ = backend.world.watchdog.set(watchdog);
        backend
    }

    /// Sets a fault on the `nth` operation of kind `op` from now, counted from 1 over all stores.
    pub fn fail(&self, op: Op, nth: u64, fault: Fault) {
        self.world.script.lock().faults.push((op, nth, fault));
    }

    /// Forgets the faults that were not met.
    pub fn forget_faults(&self) {
        self.world.script.lock().faults.clear();
    }

    /// Operations so far, over all stores: for a test that fails each of them in turn.
    pub fn ops(&self) -> u64 {
        self.world.script.lock().ops
    }

    /// Takes away, from every store, the unsynced writes for which `lost` says so: `lost` is asked with
    /// the store's directory and the write's number since the last sync, from 0. What is kept counts as
    /// synced. Handles should be dropped before.
    pub fn crash(&self, mut lost: impl FnMut(&Path, usize) -> bool) {
        for (dir, disk) in &*self.world.disks.lock() {
            let mut disk = disk.lock();
            let unsynced = std::mem::take(&mut disk.unsynced);
            let doubtful = std::mem::take(&mut disk.doubtful);
            for (key, before, _) in
                unsynced.iter().rev().chain(doubtful.iter().rev()).flat_map(|write| write.iter().rev())
            {
                set(&mut disk.live, key, before.clone());
            }
            for (number, write) in unsynced.into_iter().enumerate() {
                if !lost(dir, number) {
                    write.into_iter().for_each(|(key, _, after)| set(&mut disk.live, &key, after));
                }
            }
        }
    }

    /// Takes away every write since the last sync of its store.
    pub fn lose_unsynced(&self) {
        self.crash(|_, _| true);
    }

    /// Number of writes that a crash could take from the store in `dir`.
    pub fn unsynced(&self, dir: &Path) -> usize {
        self.world.disks.lock().get(dir).map_or(0, |disk| disk.lock().unsynced.len())
    }

    /// Changes a stored value behind the store's back: damage. `None` removes it.
    pub fn tamper(&self, dir: &Path, key: &[u8], value: Option<&[u8]>) {
        if let Some(disk) = self.world.disks.lock().get(dir) {
            set(&mut disk.lock().live, key, value.map(<[u8]>::to_vec));
        }
    }
}

impl Backend for MemoryBackend {
    fn open(&self, dir: &Path, _cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
        self.world.step(Op::Open, dir, "opening", |_| ())?;
        let disk = Arc::clone(self.world.disks.lock().entry(dir.to_owned()).or_default());
        if std::mem::replace(&mut disk.lock().open, true) {
            return Err(KvError::InUse { dir: dir.to_owned() });
        }
        Ok(Arc::new(MemoryKv {
            world: Arc::clone(&self.world),
            disk,
            dir: dir.to_owned(),
            first_failure: OnceLock::new(),
        }))
    }

    fn exists(&self, dir: &Path) -> bool {
        self.world.disks.lock().contains_key(dir)
    }

    fn distrust(&self, dir: &Path) -> Result<(), KvError> {
        let Some(disk) = self.world.disks.lock().get(dir).cloned() else { return Ok(()) };
        let mut disk = disk.lock();
        for (key, before, _) in std::mem::take(&mut disk.doubtful).into_iter().rev().flatten() {
            set(&mut disk.live, &key, before);
        }
        Ok(())
    }

    fn destroy(&self, dir: &Path) -> Result<(), KvError> {
        let mut disks = self.world.disks.lock();
        if disks.get(dir).is_some_and(|disk| disk.lock().open) {
            return Err(KvError::InUse { dir: dir.to_owned() });
        }
        disks.remove(dir);
        Ok(())
    }
}

impl World {
    /// Runs one operation through the script; `act` learns whether it is to lie.
    fn step<T>(
        &self,
        op: Op,
        dir: &Path,
        doing: &'static str,
        act: impl FnOnce(bool) -> T,
    ) -> Result<T, KvError> {
        let failed = |errno| KvError::Io {
            doing,
            dir: dir.to_owned(),
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        };
        match self.script.lock().next(op) {
            None => Ok(act(false)),
            Some(Fault::Lie) => Ok(act(true)),
            Some(Fault::Error(errno)) => Err(failed(errno)),
            Some(Fault::ErrorAfter(errno)) => {
                act(false);
                Err(failed(errno))
            }
            Some(Fault::Hang(gate)) => {
                gate.pass();
                Ok(act(false))
            }
        }
    }
}

impl Script {
    fn next(&mut self, op: Op) -> Option<Fault> {
        self.ops += 1;
        for (kind, left, _) in &mut self.faults {
            if *kind == op || *kind == Op::Any {
                *left = left.saturating_sub(1);
            }
        }
        let due = self.faults.iter().position(|(_, left, _)| *left == 0)?;
        Some(self.faults.remove(due).2)
    }
}

struct MemoryKv {
    world: Arc<World>,
    disk: Arc<Mutex<Disk>>,
    dir: PathBuf,
    first_failure: OnceLock<Arc<str>>,
}

impl MemoryKv {
    fn step<T>(&self, op: Op, doing: &'static str, act: impl FnOnce(bool) -> T) -> Result<T, KvError> {
        if let Some(first) = self.first_failure.get() {
            return Err(KvError::Poisoned { first: Arc::clone(first) });
        }
        self.world.step(op, &self.dir, doing, act).inspect_err(|error| {
            let _ = self.first_failure.set(error.to_string().into());
        })
    }

    fn write(&self, writes: &[(&[u8], Option<&[u8]>)]) -> Result<(), KvError> {
        self.step(Op::Write, "writing", |_| {
            let mut disk = self.disk.lock();
            let mut undo = Unsynced::with_capacity(writes.len());
            for &(key, value) in writes {
                let value = value.map(<[u8]>::to_vec);
                undo.push((key.to_vec(), disk.live.get(key).cloned(), value.clone()));
                set(&mut disk.live, key, value);
            }
            disk.unsynced.push(undo);
        })
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.step(Op::Read, "reading", |_| self.disk.lock().live.get(key).cloned())
    }

    fn last_at_or_before(&self, key: &[u8], prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        self.step(Op::Read, "reading", |_| {
            let end = if key.starts_with(prefix) { None } else { prefix_end(prefix) };
            let end = end.as_deref().filter(|end| *end <= key);
            let bound = end.map_or(Bound::Included(key), Bound::Excluded);
            let disk = self.disk.lock();
            let last = disk.live.range::<[u8], _>((Bound::Unbounded, bound)).next_back();
            last.filter(|(found, _)| found.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError> {
        self.step(Op::Read, "reading", |_| ())?;
        let mut from = from.to_vec();
        while from.as_slice() < to {
            let range = (Bound::Included(from.as_slice()), Bound::Excluded(to));
            let pairs: Vec<_> = (self.disk.lock().live.range::<[u8], _>(range))
                .take(SCAN_PAIRS)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let Some((last, _)) = pairs.last() else { break };
            from.clone_from(last);
            from.push(0);
            if pairs.iter().any(|(key, value)| visit(key, value).is_break()) {
                break;
            }
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        check_write(key, value.len())?;
        self.write(&[(key, Some(value))])
    }

    fn remove(&self, key: &[u8]) -> Result<(), KvError> {
        check_write(key, 0)?;
        self.write(&[(key, None)])
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        batch.check()?;
        self.write(&batch.writes().collect::<Vec<_>>())
    }

    fn put_all(&self, batch: &Batch) -> Result<(), KvError> {
        batch.check()?;
        batch.writes().try_for_each(|write| self.write(&[write]))
    }

    fn sync(&self) -> Result<(), KvError> {
        let watchdog = self.world.watchdog.get_or_init(Watchdog::aborting);
        let _armed = watchdog.arm(SYNC_LIMIT, format!("the sync of {}", self.dir.display()));
        let synced = self.step(Op::Sync, "syncing", |lie| {
            if !lie {
                let mut disk = self.disk.lock();
                let written: Vec<Vec<u8>> =
                    disk.unsynced.drain(..).flatten().map(|(key, _, _)| key).collect();
                disk.doubtful.iter_mut().for_each(|write| write.retain(|(key, _, _)| !written.contains(key)));
            }
        });
        // As Linux has it: what did not reach the disk is readable, and no later sync writes it.
        if synced.is_err() {
            let mut disk = self.disk.lock();
            let lost = std::mem::take(&mut disk.unsynced);
            disk.doubtful.extend(lost);
        }
        synced
    }

    fn disk_bytes(&self) -> Result<u64, KvError> {
        let bytes = |(key, value): (&Vec<u8>, &Vec<u8>)| key.len() + value.len();
        Ok(self.disk.lock().live.iter().map(bytes).sum::<usize>() as u64)
    }
}

impl Drop for MemoryKv {
    fn drop(&mut self) {
        self.disk.lock().open = false;
    }
}

fn set(live: &mut BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8], value: Option<Vec<u8>>) {
    match value {
        Some(value) => live.insert(key.to_vec(), value),
        None => live.remove(key),
    };
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a call that hangs needs a thread of its own")]
mod tests {
    use super::*;
    use std::time::Duration;

    fn dir() -> &'static Path {
        Path::new("layers/2026-11.g1")
    }

    #[test]
    fn keeps_the_contract_of_a_store() {
        crate::store::backend::contract::check(&MemoryBackend::default(), dir());
    }

    #[test]
    fn a_crash_takes_what_was_not_synced_and_nothing_else() {
        let backend = MemoryBackend::default();
        let kv = backend.open(dir(), 0).unwrap();
        kv.put(b"a", b"1").unwrap();
        kv.sync().unwrap();
        kv.put(b"a", b"2").unwrap();
        kv.put(b"b", b"2").unwrap();
        kv.remove(b"a").unwrap();
        drop(kv);
        backend.lose_unsynced();
        let kv = backend.open(dir(), 0).unwrap();
        assert_eq!(kv.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(kv.get(b"b").unwrap(), None);
    }

    #[test]
    fn a_crash_can_take_the_middle_and_keep_the_marker_but_never_half_a_batch() {
        let backend = MemoryBackend::default();
        let kv = backend.open(dir(), 0).unwrap();
        let mut batch = Batch::default();
        batch.put(*b"a", *b"1");
        batch.put(*b"b", *b"1");
        kv.apply(&batch).unwrap();
        kv.put_all(&batch).unwrap();
        kv.put(b"marker", b"3").unwrap();
        assert_eq!(backend.unsynced(dir()), 4);
        drop(kv);
        backend.crash(|_, number| number < 2);
        let kv = backend.open(dir(), 0).unwrap();
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(kv.get(b"b").unwrap(), Some(b"1".to_vec()));
        assert_eq!(kv.get(b"marker").unwrap(), Some(b"3".to_vec()));
    }

    #[test]
    fn the_first_failure_poisons_and_a_new_open_heals() {
        for (op, fault) in [(Op::Write, Fault::EIO), (Op::Any, Fault::ENOSPC)] {
            let backend = MemoryBackend::default();
            let kv = backend.open(dir(), 0).unwrap();
            kv.put(b"a", b"1").unwrap();
            let ops = backend.ops();
            backend.fail(op, 2, fault.clone());
            kv.put(b"b", b"1").unwrap();
            assert_eq!(backend.ops(), ops + 1);
            let failed = kv.put(b"c", b"1").unwrap_err();
            assert!(failed.is_fatal());
            assert_eq!(failed.is_storage_full(), matches!(fault, Fault::Error(28)));
            assert!(matches!(kv.get(b"a"), Err(KvError::Poisoned { .. })));
            assert!(matches!(kv.sync(), Err(KvError::Poisoned { .. })));
            drop(kv);
            let kv = backend.open(dir(), 0).unwrap();
            assert_eq!(kv.get(b"b").unwrap(), Some(b"1".to_vec()));
            assert_eq!(kv.get(b"c").unwrap(), None);
        }
    }

    #[test]
    fn an_error_may_come_after_the_effect_and_an_open_may_fail() {
        let backend = MemoryBackend::default();
        backend.fail(Op::Open, 1, Fault::EIO);
        assert!(backend.open(dir(), 0).is_err());
        let kv = backend.open(dir(), 0).unwrap();
        backend.fail(Op::Write, 1, Fault::ErrorAfter(5));
        kv.put(b"a", b"1").unwrap_err();
        drop(kv);
        assert!(backend.open(dir(), 0).unwrap().get(b"a").unwrap().is_some());
    }

    #[test]
    fn a_sync_that_lies_is_found_out_by_a_crash() {
        let backend = MemoryBackend::default();
        let kv = backend.open(dir(), 0).unwrap();
        backend.fail(Op::Sync, 2, Fault::Lie);
        kv.put(b"a", b"1").unwrap();
        kv.sync().unwrap();
        kv.put(b"b", b"1").unwrap();
        kv.sync().unwrap();
        drop(kv);
        backend.lose_unsynced();
        let kv = backend.open(dir(), 0).unwrap();
        assert!(kv.get(b"a").unwrap().is_some() && kv.get(b"b").unwrap().is_none());
    }

    #[test]
    fn a_sync_that_hangs_can_be_let_go() {
        let backend = MemoryBackend::default();
        let kv = backend.open(dir(), 0).unwrap();
        let gate = Gate::default();
        backend.fail(Op::Sync, 1, Fault::Hang(gate.clone()));
        let syncing = std::thread::spawn(move || kv.sync());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!syncing.is_finished());
        gate.open();
        syncing.join().unwrap().unwrap();
    }

    #[test]
    fn tampering_is_not_noticed_here() {
        let backend = MemoryBackend::default();
        let kv = backend.open(dir(), 0).unwrap();
        kv.put(b"a", b"1").unwrap();
        backend.tamper(dir(), b"a", None);
        assert_eq!(kv.get(b"a").unwrap(), None);
    }
}
