//! Where a kill falls. The child notes its phase in a small file; what its threads do in the kernel at that
//! moment stands in `/proc`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use varve::store::backend::{Backend, Batch, Kv, KvError, Pair, Visit};

/// Phases of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Not there yet.
    Starting = 0,
    /// `Service::open` runs.
    Opening = 1,
    /// The same, and a layer is open: frames are replayed.
    Replaying = 2,
    /// It serves.
    Serving = 3,
}

const PHASE_AT: u64 = 0;
const LAYER_SYNC_AT: u64 = 1;
const LAYER_OPEN_AT: u64 = 2;

/// System calls of x86-64 that a kill may fall into.
const SYSCALLS: [(&str, &str); 5] =
    [("74", "sync"), ("75", "sync"), ("277", "sync"), ("18", "write"), ("1", "write")];

/// The file.
pub(crate) struct PhaseFile(File);

impl PhaseFile {
    pub(crate) fn create(dir: &Path) -> io::Result<PhaseFile> {
        fs::write(dir.join("phase"), [0; 8])?;
        PhaseFile::open(dir)
    }

    pub(crate) fn open(dir: &Path) -> io::Result<PhaseFile> {
        OpenOptions::new().read(true).write(true).open(dir.join("phase")).map(PhaseFile)
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.put(PHASE_AT, phase as u8);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.get(PHASE_AT) {
            1 => Phase::Opening,
            2 => Phase::Replaying,
            3 => Phase::Serving,
            _ => Phase::Starting,
        }
    }

    pub(crate) fn is_in_layer_sync(&self) -> bool {
        self.get(LAYER_SYNC_AT) != 0
    }

    pub(crate) fn is_in_layer_open(&self) -> bool {
        self.get(LAYER_OPEN_AT) != 0
    }

    /// What process `pid` is doing, in words.
    pub(crate) fn classify(&self, pid: u32) -> String {
        let phase = self.phase();
        let mut place = match phase {
            Phase::Starting => "starting",
            Phase::Opening => "opening",
            Phase::Replaying => "replaying",
            Phase::Serving => "serving",
        }
        .to_owned();
        if phase == Phase::Serving {
            if let Some(what) = in_kernel(pid, "varve-committer") {
                return what;
            }
            if self.is_in_layer_open() {
                return "rollover".to_owned();
            }
            if self.is_in_layer_sync() {
                return "checkpoint: layer sync".to_owned();
            }
            if let Some(what) = in_kernel(pid, "varve-applier") {
                place = format!("checkpoint: {what}");
            }
        }
        place
    }

    fn put(&self, at: u64, value: u8) {
        // A note that fails only spoils the histogram.
        let _ = self.0.write_all_at(&[value], at);
    }

    fn get(&self, at: u64) -> u8 {
        let mut byte = [0];
        let _ = self.0.read_exact_at(&mut byte, at);
        byte[0]
    }
}

/// What thread `name` does to which of the store's files, when it is in such a call.
fn in_kernel(pid: u32, name: &str) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let task = tasks
        .flatten()
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name))?;
    let call = fs::read_to_string(task.path().join("syscall")).ok()?;
    let mut words = call.split_whitespace();
    let number = words.next()?;
    let doing = SYSCALLS.iter().find(|(known, _)| *known == number)?.1;
    let descriptor = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    let target = target.to_string_lossy();
    let file = ["/journal/HEAD", "/journal/", "/state/", "/ids/", "/layers/", "/MANIFEST"]
        .iter()
        .find(|part| target.contains(**part))?;
    Some(format!("{doing} of {}", file.trim_matches('/')))
}

/// A backend that notes its syncs and opens.
pub(crate) struct Watched {
    below: Arc<dyn Backend>,
    phases: Arc<PhaseFile>,
}

impl Watched {
    pub(crate) fn new(below: Arc<dyn Backend>, phases: Arc<PhaseFile>) -> Watched {
        Watched { below, phases }
    }
}

impl Backend for Watched {
    fn open(&self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
        self.phases.put(LAYER_OPEN_AT, 1);
        let below = self.below.open(dir, cache_bytes);
        self.phases.put(LAYER_OPEN_AT, 0);
        if self.phases.phase() == Phase::Opening {
            self.phases.set(Phase::Replaying);
        }
        Ok(Arc::new(WatchedKv { below: below?, phases: self.phases.clone() }))
    }

    fn exists(&self, dir: &Path) -> bool {
        self.below.exists(dir)
    }

    fn distrust(&self, dir: &Path) -> Result<(), KvError> {
        self.below.distrust(dir)
    }

    fn destroy(&self, dir: &Path) -> Result<(), KvError> {
        self.below.destroy(dir)
    }
}

struct WatchedKv {
    below: Arc<dyn Kv>,
    phases: Arc<PhaseFile>,
}

impl Kv for WatchedKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.below.get(key)
    }
    fn last_at_or_before(&self, key: &[u8], prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        self.below.last_at_or_before(key, prefix)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError> {
        self.below.scan(from, to, visit)
    }
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.below.put(key, value)
    }
    fn remove(&self, key: &[u8]) -> Result<(), KvError> {
        self.below.remove(key)
    }
    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        self.below.apply(batch)
    }
    fn put_all(&self, batch: &Batch) -> Result<(), KvError> {
        self.below.put_all(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        self.phases.put(LAYER_SYNC_AT, 1);
        let synced = self.below.sync();
        self.phases.put(LAYER_SYNC_AT, 0);
        synced
    }
    fn disk_bytes(&self) -> Result<u64, KvError> {
        self.below.disk_bytes()
    }
}
